//! A system that boots by itself: Debian with systemd and udev, the kernel's modules, vfioadm as it ships, and the host file
//! of `lab/system`, installed for every boot with `vfioadm boot install`.
//!
//! Made anew for every run from a tree in the cache. What is in it is the guest's disk, and the initramfs that initramfs-tools, or
//! dracut, makes of it is what the kernel starts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries::Binaries;
use crate::exec;
use crate::kernel::Kernel;
use crate::root::Root;

const DEADLINE: Duration = Duration::from_secs(300);
const INITRAMFS: &str = "boot/initrd";

/// Files of it, and what is in them.
const TEXTS: [(&str, &str); 8] = [
    ("etc/vfioadm/host.toml", include_str!("../system/host.toml")),
    ("etc/systemd/system/vfioadm-lab.service", include_str!("../system/vfioadm-lab.service")),
    ("etc/modules-load.d/mtty.conf", "mtty\n"),
    // The guest's own program asks for it before it touches anything.
    ("etc/tmpfiles.d/vfioadm-lab.conf", "f /run/vfioadm-lab-guest\n"),
    // Under emulation, the quickest.
    ("etc/initramfs-tools/conf.d/lab", "COMPRESS=zstd\nCOMPRESSLEVEL=1\n"),
    ("etc/hostname", "lab\n"),
    ("etc/machine-id", "83b8f4f2509f382f3c1ee6bfe0fa1000\n"),
    ("etc/fstab", ""),
];
/// Links of it, and where they lead.
const LINKS: [(&str, &str); 2] = [
    ("etc/systemd/system/multi-user.target.wants/vfioadm-lab.service", "/etc/systemd/system/vfioadm-lab.service"),
    // Nobody logs in, and the console is for what the kernel says.
    ("etc/systemd/system/serial-getty@.service", "/dev/null"),
];

/// Which program makes the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Initramfs {
    /// Debian's and Ubuntu's.
    Tools,
    /// Fedora's, RHEL's and SUSE's.
    Dracut,
}

/// The system, as files.
pub(crate) struct System {
    root: Root,
}

/// Makes it in `dir`.
pub(crate) fn make(
    dir: &Path,
    (tree, initramfs): (&Root, Initramfs),
    kernel: &Kernel,
    binaries: &Binaries,
) -> Result<System> {
    let modules = kernel.modules.as_ref().context("a system needs the modules of its kernel")?.join("lib/modules");
    let variants = kernel.variants.as_ref().context("the host file needs the lab's own variants")?;
    let mut releases = fs::read_dir(&modules).with_context(|| format!("list {}", modules.display()))?.flatten();
    let release = releases.next().context("no release in lib/modules")?.file_name().to_string_lossy().into_owned();
    copy(tree.dir(), dir, tree)?;
    let root = tree.at(dir);
    let to = format!("usr/lib/modules/{release}");
    fs::create_dir_all(root.path("usr/lib/modules")).context("make a directory for modules")?;
    copy(&modules.join(&release), &root.path(&to), tree)?;
    copy(variants, &root.path(&to).join("lab"), tree)?;
    for (from, to) in [(&binaries.vfioadm, "usr/bin/vfioadm"), (&binaries.guest, "usr/sbin/vfioadm-guest")] {
        fs::copy(from, root.path(to)).with_context(|| format!("copy {} to {to}", from.display()))?;
    }
    for (path, text) in TEXTS {
        fs::write(in_directory(&root, path)?, text).with_context(|| format!("write {path}"))?;
    }
    for (path, target) in LINKS {
        symlink(target, in_directory(&root, path)?).with_context(|| format!("link {path} to {target}"))?;
    }
    let run = |program: &str, words: &[&str]| {
        let what = format!("{program} {}", words.join(" "));
        exec::run(&what, root.command(program).args(words), root.log(), DEADLINE)
    };
    run("depmod", &["-a", &release])?;
    run("vfioadm", &["boot", "install"])?;
    let image = format!("/{INITRAMFS}");
    match initramfs {
        Initramfs::Tools => run("mkinitramfs", &["-o", &image, &release])?,
        // Nothing is to be told from the machine that it is made on.
        Initramfs::Dracut => {
            let words = ["--no-hostonly", "--no-early-microcode", "--compress", "zstd -1", &image, &release];
            run("dracut", &words)?;
        }
    }
    Ok(System { root })
}

impl System {
    /// Where its files are.
    pub(crate) fn dir(&self) -> &Path {
        self.root.dir()
    }

    /// Its initramfs, one of them.
    pub(crate) fn initramfs(&self) -> PathBuf {
        self.root.path(INITRAMFS)
    }
}

/// Where a file of it is, in a directory that is made for it.
fn in_directory(root: &Root, path: &str) -> Result<PathBuf> {
    let path = root.path(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    Ok(path)
}

/// Copies a directory with owners, modes and device nodes.
fn copy(from: &Path, to: &Path, tree: &Root) -> Result<()> {
    let what = format!("copy {} to {}", from.display(), to.display());
    exec::run(&what, Command::new("cp").arg("-a").arg(from).arg(to), tree.log(), DEADLINE)
}
