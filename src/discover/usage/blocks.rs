//! Storage: file systems, swap, and what is stacked on a block device.

use std::collections::{BTreeMap, BTreeSet};

use super::functions_in;
use crate::discover::warned;
use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};
use crate::model::pci::Block;
use crate::model::stacked::{BlockHolder, BootUse, HolderKind};
use crate::model::{Bdf, Warning};

/// Reads the block devices, with what uses them, by the PCI functions that they hang below.
pub(super) fn read(host: &dyn Read, warnings: &mut Vec<Warning>) -> BTreeMap<Bdf, Vec<Block>> {
    let mut blocks: BTreeMap<Bdf, Vec<Block>> = BTreeMap::new();
    let class = HostPath::fixed(Root::Sys, "class/block");
    let mut names = warned(optional(host.list(&class)), "block devices", warnings).unwrap_or_default();
    names.sort();
    let mut mounts = Mounts::read(host, warnings);
    mounts.btrfs = btrfs_members(host);
    let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found: Vec<(String, Names)> = Vec::new();
    for name in names {
        let Some(path) = class.entry(&name) else { continue };
        let Some(target) = optional(host.link(&path)).unwrap_or(None) else { continue };
        let mut held = optional(host.list(&path.attr("holders"))).unwrap_or(None).unwrap_or_default();
        held.sort();
        holders.insert(name.clone(), held);
        let number = optional(host.text(&path.attr("dev"))).unwrap_or(None);
        // What a device-mapper device is called in /dev/mapper, and so in mountinfo.
        let mapped = name.starts_with("dm-").then(|| optional(host.text(&path.attr("dm/name"))).unwrap_or(None));
        let known = number.as_deref().map(|number| Known::read(host, number)).unwrap_or_default();
        found.push((
            target,
            Names { kind: holder_kind(host, &path, &name), name, number, mapped: mapped.flatten(), known },
        ));
    }
    let pools = imported_pools(host);
    let swaps = &mounts.swaps;
    let named: BTreeMap<&str, &Names> = found.iter().map(|(_, names)| (names.name.as_str(), names)).collect();
    for (target, Names { name, known, .. }) in &found {
        let stack = stacked(name, &holders);
        let layers = || stack.iter().filter_map(|layer| named.get(layer.as_str()).copied());
        let mounts: Vec<String> = layers().flat_map(|layer| mounts.of(layer)).collect();
        let held = holders.get(name).into_iter().flatten();
        let block = Block {
            swap: layers().any(|layer| layer.all().any(|name| swaps.contains(name))),
            holders: held.map(|holder| Names::as_holder(holder, named.get(holder.as_str()).copied())).collect(),
            pool: known.pool.as_ref().and_then(|pool| pools.iter().find(|imported| *imported == pool)).cloned(),
            boot: mounts
                .iter()
                .find_map(|point| BootUse::of_mount(point))
                .or_else(|| BootUse::of_partition_type(known.partition_type.as_deref()?)),
            name: name.clone(),
            mounts,
        };
        for bdf in functions_above(target, host) {
            blocks.entry(bdf).or_default().push(block.clone());
        }
    }
    blocks
}

/// The PCI functions that a block device hangs below; of an NVMe subsystem's head, those of every controller.
fn functions_above(target: &str, host: &dyn Read) -> Vec<Bdf> {
    let direct: Vec<Bdf> = functions_in(target).collect();
    if !direct.is_empty() {
        return direct;
    }
    let Some(subsystem) = target.split('/').find(|part| part.starts_with("nvme-subsys")) else { return Vec::new() };
    let Some(path) = HostPath::fixed(Root::Sys, "class/nvme-subsystem").entry(subsystem) else { return Vec::new() };
    let entries = optional(host.list(&path)).unwrap_or(None).unwrap_or_default();
    let links = entries.iter().filter(|name| name.starts_with("nvme")).filter_map(|name| path.entry(name));
    let targets = links.filter_map(|link| optional(host.link(&link)).unwrap_or(None));
    targets.flat_map(|target| functions_in(&target).collect::<Vec<_>>()).collect()
}

/// Block devices that are part of a mounted btrfs: mountinfo names one of them only.
///
/// # Kernel
/// `fs/btrfs/sysfs.c` `btrfs_sysfs_add_device()` (7.2).
fn btrfs_members(host: &dyn Read) -> BTreeSet<String> {
    let all = HostPath::fixed(Root::Sys, "fs/btrfs");
    let systems = optional(host.list(&all)).unwrap_or(None).unwrap_or_default();
    let devices = systems.iter().filter_map(|id| all.entry(id)).map(|path| path.attr("devices"));
    devices.flat_map(|path| optional(host.list(&path)).unwrap_or(None).unwrap_or_default()).collect()
}

/// What a block device goes by.
struct Names {
    /// `nvme0n1p2`, `dm-0`.
    name: String,
    /// `259:2`.
    number: Option<String>,
    /// `luks-home` of `/dev/mapper/luks-home`.
    mapped: Option<String>,
    /// What it is to a device that it holds.
    kind: Option<HolderKind>,
    known: Known,
}

impl Names {
    fn all(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.name).chain(&self.mapped)
    }

    fn as_holder(name: &str, known: Option<&Self>) -> BlockHolder {
        let called = known.and_then(|names| names.mapped.clone());
        BlockHolder { name: name.to_owned(), kind: known.and_then(|names| names.kind.clone()), called }
    }
}

/// What made a stacked device.
///
/// # Kernel
/// `drivers/md/dm-sysfs.c` `dm_attr_uuid_show()`, whose prefix user space agrees on; `drivers/md/md.c` `level_show()` (7.2).
fn holder_kind(host: &dyn Read, path: &HostPath, name: &str) -> Option<HolderKind> {
    if name.starts_with("dm-") {
        return HolderKind::of_dm_uuid(&optional(host.text(&path.attr("dm/uuid"))).unwrap_or(None)?);
    }
    let numbered = name.strip_prefix("md").is_some_and(|rest| !rest.is_empty() && !rest.contains('p'));
    numbered.then(|| HolderKind::Md(optional(host.text(&path.attr("md/level"))).unwrap_or(None)))
}

/// What udev found on a block device, as far as it matters here.
#[derive(Default)]
struct Known {
    /// The ZFS pool that it is a member of.
    pool: Option<String>,
    partition_type: Option<String>,
}

impl Known {
    /// Reads udev's database, `/run/udev/data/b259:1`: lines `E:KEY=VALUE`. Without udev nothing is known.
    fn read(host: &dyn Read, number: &str) -> Self {
        let path = HostPath::fixed(Root::Run, "udev/data").entry(&format!("b{number}"));
        let text = path.and_then(|path| optional(host.text(&path)).unwrap_or(None)).unwrap_or_default();
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='));
            line.map(ToOwned::to_owned)
        };
        let zfs = value("ID_FS_TYPE").as_deref() == Some("zfs_member");
        Self { pool: value("ID_FS_LABEL").filter(|_| zfs), partition_type: value("ID_PART_ENTRY_TYPE") }
    }
}

/// The ZFS pools that are imported: a directory for each, beside files.
fn imported_pools(host: &dyn Read) -> Vec<String> {
    let all = HostPath::fixed(Root::Proc, "spl/kstat/zfs");
    let names = optional(host.list(&all)).unwrap_or(None).unwrap_or_default();
    let is_pool = |name: &String| all.entry(name).is_some_and(|path| host.list(&path).is_ok());
    names.into_iter().filter(is_pool).collect()
}

/// A block device, its partitions' holders included as far as they are stacked on it.
fn stacked(name: &str, holders: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![name.to_owned()];
    while let Some(name) = todo.pop() {
        if seen.insert(name.clone()) {
            todo.extend(holders.get(&name).into_iter().flatten().cloned());
        }
    }
    seen
}

/// What is mounted and what is swap.
#[derive(Default)]
struct Mounts {
    /// (`major:minor`, source's last component, mount point).
    mounts: Vec<(String, String, String)>,
    swaps: BTreeSet<String>,
    /// Members of mounted btrfs file systems.
    btrfs: BTreeSet<String>,
}

impl Mounts {
    fn read(host: &dyn Read, warnings: &mut Vec<Warning>) -> Self {
        let mut text = |path: &'static str| {
            warned(optional(host.text(&HostPath::fixed(Root::Proc, path))), path, warnings).unwrap_or_default()
        };
        let mounts = text("self/mountinfo").lines().filter_map(mount).collect();
        let swaps =
            text("swaps").lines().skip(1).filter_map(|line| last_component(line.split_whitespace().next()?)).collect();
        Self { mounts, swaps, btrfs: BTreeSet::new() }
    }

    fn of(&self, names: &Names) -> Vec<String> {
        let here = |(number, source, _): &&(String, String, String)| {
            names.number.as_ref() == Some(number) || names.all().any(|name| name == source)
        };
        let mut points: Vec<String> = self.mounts.iter().filter(here).map(|(_, _, point)| point.clone()).collect();
        if points.is_empty() && self.btrfs.contains(&names.name) {
            points.push(String::from("a btrfs of several devices"));
        }
        points
    }
}

/// One line of `/proc/self/mountinfo`: number, source, mount point. btrfs shows an anonymous number, so the source counts too.
fn mount(line: &str) -> Option<(String, String, String)> {
    let (before, after) = line.split_once(" - ")?;
    let fields: Vec<&str> = before.split(' ').collect();
    let source = after.split(' ').nth(1)?;
    let source = if source.starts_with("/dev/") { last_component(source)? } else { String::new() };
    Some(((*fields.get(2)?).to_owned(), source, (*fields.get(4)?).to_owned()))
}

fn last_component(path: &str) -> Option<String> {
    path.rsplit('/').next().filter(|name| !name.is_empty()).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_number_and_by_source() {
        let line = "29 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw";
        assert_eq!(mount(line), Some(("259:2".into(), "nvme0n1p2".into(), "/".into())));
        assert_eq!(mount("22 29 0:21 / /proc rw - proc proc rw").unwrap().1, "");
        assert_eq!(mount("garbage"), None);
    }

    #[test]
    fn a_holder_of_a_holder_counts() {
        let holders = [("sda1".to_owned(), vec!["md0".to_owned()]), ("md0".to_owned(), vec!["dm-0".to_owned()])];
        let stack = stacked("sda1", &holders.into_iter().collect());
        assert!(stack.contains("dm-0"));
    }
}
