//! The guest's file system: its init, vfioadm, the kernel's modules, and a handful of tools from the lab root with the
//! libraries they need.
//!
//! Not compressed: under emulation, inflating it would take longer than copying it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::binaries::Binaries;
use crate::cpio::Archive;
use crate::exec;
use crate::kernel::Kernel;
use crate::root::Root;

/// Programs that the guest takes from the lab root, at the paths they have there.
const TOOLS: [&str; 4] = ["usr/bin/kmod", "usr/bin/lspci", "usr/bin/busybox", "usr/bin/ip"];
/// The names by which the guest knows them besides.
const LINKS: [(&str, &str); 11] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("usr/sbin/modprobe", "../bin/kmod"),
    ("usr/sbin/depmod", "../bin/kmod"),
    ("usr/sbin/rmmod", "../bin/kmod"),
    ("usr/sbin/lsmod", "../bin/kmod"),
    ("usr/sbin/ip", "../bin/ip"),
    ("usr/bin/sh", "busybox"),
    ("etc/mtab", "/proc/self/mounts"),
];
const PCI_IDS: &str = "usr/share/misc/pci.ids";
/// Where the variants of `lab/kmod` wait, out of depmod's sight, until a case installs them.
const VARIANTS: &str = "usr/lib/vfioadm-lab";
/// Where the program of `lab/reader` is.
const READER: &str = "usr/bin/vfio-reader";
const MOUNT_POINTS: [&str; 6] = ["proc", "sys", "dev", "run", "tmp", "mnt"];

/// Writes it to `path`.
pub(crate) fn write(path: &Path, root: &Root, kernel: &Kernel, binaries: &Binaries) -> Result<()> {
    let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, file));
    fill(&mut archive, root, kernel, binaries).with_context(|| format!("write the initramfs {}", path.display()))?;
    archive.finish().with_context(|| format!("write the initramfs {}", path.display()))?;
    Ok(())
}

fn fill<W: Write>(archive: &mut Archive<W>, root: &Root, kernel: &Kernel, binaries: &Binaries) -> Result<()> {
    for dir in MOUNT_POINTS {
        archive.directory(dir)?;
    }
    archive.device("dev/console", (5, 1))?;
    archive.device("dev/null", (1, 3))?;
    archive.directory("usr/lib64")?;
    archive.directory("usr/sbin")?;
    for (path, target) in LINKS {
        archive.symlink(path, target)?;
    }
    archive.file("init", &read(&binaries.guest)?)?;
    archive.file("usr/bin/vfioadm", &read(&binaries.vfioadm)?)?;
    archive.file(PCI_IDS, &read(&root.path(PCI_IDS))?)?;
    for path in tools(root)? {
        archive.file(&path, &read(&root.path(&path))?)?;
    }
    if let Some(dir) = &kernel.modules {
        tree(archive, &dir.join("lib/modules"), "usr/lib/modules")?;
    }
    if let Some(dir) = &kernel.variants {
        tree(archive, dir, VARIANTS)?;
    }
    if let Some(path) = &kernel.reader {
        archive.file(READER, &read(path)?)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// The tools and what `ldd` says they load, as paths below `usr/`.
fn tools(root: &Root) -> Result<BTreeSet<String>> {
    let mut paths: BTreeSet<String> = TOOLS.map(str::to_owned).into();
    for tool in TOOLS {
        if !root.path(tool).is_file() {
            bail!("the lab root has no {tool}: remove {} and run this again", root.dir().display());
        }
        // Not the usual way to ask, but a static program makes `ldd` fail, and that is an answer too.
        let answer = exec::output("ask what a tool loads", root.command("ldd").arg(format!("/{tool}")));
        paths.extend(answer.iter().flat_map(|text| libraries(text)));
    }
    Ok(paths)
}

/// The paths in `ldd`'s answer; `/lib` and `/lib64` are links to directories below `/usr`.
fn libraries(ldd: &str) -> impl Iterator<Item = String> {
    ldd.lines().filter_map(|line| {
        let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(if path.starts_with("/usr/") { path[1..].to_owned() } else { format!("usr{path}") })
    })
}

fn tree<W: Write>(archive: &mut Archive<W>, from: &Path, to: &str) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry.with_context(|| format!("list {}", from.display()))?;
        let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
        let path = format!("{to}/{}", entry.file_name().to_string_lossy());
        if kind.is_dir() {
            tree(archive, &entry.path(), &path)?;
        } else if kind.is_file() {
            archive.file(&path, &read(&entry.path())?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::libraries;

    #[test]
    fn ldd_names_libraries_in_two_ways() {
        let text = "\tlinux-vdso.so.1 (0x7fff)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t\
                    /lib64/ld-linux-x86-64.so.2 (0x7f)\n\tlibx.so => /usr/lib/libx.so (0x1)\n\tnot a dynamic executable\n";
        let paths: Vec<_> = libraries(text).collect();
        assert_eq!(paths, ["usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib64/ld-linux-x86-64.so.2", "usr/lib/libx.so"]);
    }
}
