//! The lab root: a small Debian tree that brings QEMU, the compilers and the guest's tools, whatever the machine runs.
//!
//! QEMU must be 10.1 or newer to speak vfio-user, and a compiler that builds today's kernel is not in yesterday's
//! stable. Both are in backports, so the lab makes a tree of its own instead of asking for a distribution.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode};

use crate::cache::{Cache, Key};
use crate::{exec, say};

/// Raised when the steps below change, so that older trees are not taken for this one.
const RECIPE: &str = "1";
const SUITE: &str = "trixie";
const BACKPORTS: &str = "trixie-backports";
/// What builds a kernel, boots it, and what the guest's initramfs takes from here.
const PACKAGES: [&str; 21] = [
    "bc",
    "bison",
    "busybox-static",
    "cpio",
    "e2fsprogs",
    "flex",
    "gcc",
    "iproute2",
    "kmod",
    "libc6-dev",
    "libelf-dev",
    "libssl-dev",
    "make",
    "openssl",
    "pci.ids",
    "pciutils",
    "perl",
    "python3-minimal",
    "qemu-system-x86",
    "xz-utils",
    "zstd",
];
/// A system that boots by itself, and both programs that make an initramfs.
const SYSTEM_PACKAGES: [&str; 8] =
    ["dracut-core", "initramfs-tools", "iproute2", "kmod", "pci.ids", "systemd-sysv", "udev", "zstd"];
/// What the programs in the root see of this environment: how to reach the registries, and nothing else.
const PASSED_ON: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
const APT_DEADLINE: Duration = Duration::from_secs(900);

/// The tree, complete.
pub(crate) struct Root {
    dir: PathBuf,
    log: PathBuf,
}

impl Root {
    /// Opens the tree in the cache, making it first where it is missing.
    pub(crate) fn open(cache: &Cache) -> Result<Root> {
        Root::of(cache, "root", &PACKAGES)
    }

    /// Opens the tree of a system with systemd.
    pub(crate) fn system(cache: &Cache) -> Result<Root> {
        Root::of(cache, "system", &SYSTEM_PACKAGES)
    }

    /// A copy of a tree.
    pub(crate) fn at(&self, dir: &Path) -> Root {
        Root { dir: dir.to_owned(), log: self.log.clone() }
    }

    fn of(cache: &Cache, kind: &str, packages: &[&str]) -> Result<Root> {
        if !rustix::process::geteuid().is_root() {
            bail!("the lab needs root: it makes a Debian tree with debootstrap and runs QEMU inside it by chroot");
        }
        let log = cache.path(&format!("{kind}.log"));
        let key = Key::default()
            .with("recipe", RECIPE.as_bytes())
            .with("suite", SUITE.as_bytes())
            .with("packages", packages.join(" ").as_bytes());
        let dir = cache.entry(kind, key, |dir| {
            say(format_args!("making the lab's {kind} tree (about two minutes; log: {})", log.display()));
            drop(fs::remove_file(&log));
            make(&Root { dir: dir.to_owned(), log: log.clone() }, packages)
        })?;
        Ok(Root { dir, log })
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its programs' output goes.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// A path inside, as it is reached from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.dir.join(inside.trim_start_matches('/'))
    }

    /// A command that runs inside, with a `/proc` that goes when it ends.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("unshare");
        command.arg(format!("--mount-proc={}", self.path("proc").display())).arg("chroot").arg(&self.dir).arg(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("HOME", "/root");
        command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command
    }

    /// Installs packages, newest first; those that are there cost nothing.
    pub(crate) fn install(&self, packages: &[&str]) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["install", "--yes", "--no-install-recommends", "--target-release", BACKPORTS]).args(packages);
        exec::run("install packages in the lab root", &mut command, &self.log, APT_DEADLINE)
    }

    /// The version of an installed package; `None` when it is not installed.
    pub(crate) fn version(&self, package: &str) -> Option<String> {
        let mut command = self.command("dpkg-query");
        command.args(["--show", "--showformat=${db:Status-Status} ${Version}", package]);
        let answer = exec::output("ask for a package's version", &mut command).ok()?;
        answer.strip_prefix("installed ").map(str::to_owned)
    }

    /// Fetches the package lists, for packages beyond those of the tree itself.
    pub(crate) fn update(&self) -> Result<()> {
        exec::run("update package lists", self.command("apt-get").arg("update"), &self.log, APT_DEADLINE)
    }
}

fn make(root: &Root, packages: &[&str]) -> Result<()> {
    ensure_debootstrap(&root.log)?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", SUITE]).arg(root.dir());
    exec::run("debootstrap the lab root", &mut debootstrap, &root.log, APT_DEADLINE)?;
    let sources = root.path("etc/apt/sources.list");
    let written = fs::read_to_string(&sources).with_context(|| format!("read {}", sources.display()))?;
    let backports = backports_line(&written)
        .with_context(|| format!("no `deb … {SUITE} …` line in the {} that debootstrap wrote", sources.display()))?;
    fs::write(&sources, format!("{written}{backports}\n")).with_context(|| format!("write {}", sources.display()))?;
    root.update()?;
    root.install(packages)?;
    let kvm = root.path("dev/kvm");
    if !kvm.exists() {
        rustix::fs::mknodat(
            CWD,
            &kvm,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o600),
            rustix::fs::makedev(10, 232),
        )
        .with_context(|| format!("make the device node {}", kvm.display()))?;
    }
    Ok(())
}

/// Backports come from where the release comes from.
fn backports_line(sources: &str) -> Option<String> {
    sources
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&"deb") && words.contains(&SUITE))
        .map(|words| {
            words.iter().map(|word| if *word == SUITE { BACKPORTS } else { word }).collect::<Vec<_>>().join(" ")
        })
}

fn ensure_debootstrap(log: &Path) -> Result<()> {
    if Command::new("debootstrap").arg("--version").output().is_ok() {
        return Ok(());
    }
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        exec::run("install debootstrap", &mut command, log, APT_DEADLINE)
    };
    apt(&["update"])
        .and_then(|()| apt(&["install", "--yes", "--no-install-recommends", "debootstrap"]))
        .context("the lab root is made with debootstrap: install it and run this again")
}

#[cfg(test)]
mod tests {
    use super::backports_line;

    #[test]
    fn backports_come_from_the_mirror_that_debootstrap_used() {
        let line = backports_line("# written\ndeb [signed-by=/x] http://mirror.invalid/debian trixie main\n");
        assert_eq!(line.as_deref(), Some("deb [signed-by=/x] http://mirror.invalid/debian trixie-backports main"));
        assert_eq!(backports_line("deb http://mirror.invalid/debian sid main\n"), None);
    }
}
