//! What the host itself does with its devices: file systems, swap, routes; and which device is whose.
//!
//! Block devices and network interfaces are found by the links of `/sys/class`, whose text names the PCI function they
//! hang below, at whatever depth: a listing of a function's own children would miss a namespace of a multipath NVMe
//! subsystem, which hangs below a virtual device.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};
use crate::model::pci::{Block, NetDev};
use crate::model::{Bdf, Warning};

/// What of the machine's storage and network hangs below which PCI function, and is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    blocks: BTreeMap<Bdf, Vec<Block>>,
    netdevs: BTreeMap<Bdf, Vec<NetDev>>,
}

impl Usage {
    /// Reads it.
    pub fn read(host: &dyn Read, warnings: &mut Vec<Warning>) -> Self {
        let mut usage = Self::default();
        usage.read_blocks(host, warnings);
        usage.read_netdevs(host, warnings);
        usage
    }

    /// The block devices below a function, in name order.
    #[must_use]
    pub fn blocks(&self, bdf: Bdf) -> Vec<Block> {
        self.blocks.get(&bdf).cloned().unwrap_or_default()
    }

    /// The network interfaces below a function, in name order.
    #[must_use]
    pub fn netdevs(&self, bdf: Bdf) -> Vec<NetDev> {
        self.netdevs.get(&bdf).cloned().unwrap_or_default()
    }

    fn read_blocks(&mut self, host: &dyn Read, warnings: &mut Vec<Warning>) {
        let class = HostPath::fixed(Root::Sys, "class/block");
        let mut names = super::warned(optional(host.list(&class)), "block devices", warnings).unwrap_or_default();
        names.sort();
        let mut mounts = Mounts::read(host, warnings);
        mounts.btrfs = btrfs_members(host);
        let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut found: Vec<(String, Names)> = Vec::new();
        for name in names {
            let Some(path) = class.entry(&name) else { continue };
            let Some(target) = optional(host.link(&path)).unwrap_or(None) else { continue };
            let held = optional(host.list(&path.attr("holders"))).unwrap_or(None).unwrap_or_default();
            holders.insert(name.clone(), held);
            let number = optional(host.text(&path.attr("dev"))).unwrap_or(None);
            // What a device-mapper device is called in /dev/mapper, and so in mountinfo.
            let mapped = name.starts_with("dm-").then(|| optional(host.text(&path.attr("dm/name"))).unwrap_or(None));
            found.push((target, Names { name, number, mapped: mapped.flatten() }));
        }
        let named: BTreeMap<&str, &Names> = found.iter().map(|(_, names)| (names.name.as_str(), names)).collect();
        for (target, Names { name, .. }) in &found {
            let stack = stacked(name, &holders);
            let layers = || stack.iter().filter_map(|layer| named.get(layer.as_str()).copied());
            let block = Block {
                mounts: layers().flat_map(|layer| mounts.of(layer)).collect(),
                swap: layers().any(|layer| layer.all().any(|name| mounts.swaps.contains(name))),
                holders: holders.get(name).cloned().unwrap_or_default(),
                name: name.clone(),
            };
            for bdf in functions_above(target, host) {
                self.blocks.entry(bdf).or_default().push(block.clone());
            }
        }
    }

    fn read_netdevs(&mut self, host: &dyn Read, warnings: &mut Vec<Warning>) {
        let routed = default_routes(host, warnings);
        for (name, target) in netdev_links(host, warnings) {
            let flags = HostPath::fixed(Root::Sys, "class/net").entry(&name).map(|path| path.attr("flags"));
            let flags = flags.and_then(|path| optional(host.text(&path)).unwrap_or(None)).unwrap_or_default();
            // IFF_UP is bit 0 (include/uapi/linux/if.h).
            let up = u32::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1);
            let default_route = uppers(host, &name).iter().any(|name| routed.contains(name));
            for bdf in functions_in(&target) {
                let netdev = NetDev { name: name.clone(), up, default_route };
                self.netdevs.entry(bdf).or_default().push(netdev);
            }
        }
    }
}

/// The interface itself and all that is stacked on it: bonds, bridges, VLANs.
///
/// # Kernel
/// `net/core/dev.c` `__netdev_adjacent_dev_insert()` makes the `upper_<name>` links (7.2).
fn uppers(host: &dyn Read, name: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![name.to_owned()];
    while let Some(name) = todo.pop() {
        let Some(path) = HostPath::fixed(Root::Sys, "class/net").entry(&name) else { continue };
        if seen.insert(name) {
            let entries = optional(host.list(&path)).unwrap_or(None).unwrap_or_default();
            todo.extend(entries.iter().filter_map(|entry| entry.strip_prefix("upper_")).map(ToOwned::to_owned));
        }
    }
    seen
}

/// Network interfaces and the PCI function each belongs to.
pub fn read_netdev_names(host: &dyn Read, warnings: &mut Vec<Warning>) -> BTreeMap<String, Bdf> {
    let links = netdev_links(host, warnings).into_iter();
    links.filter_map(|(name, target)| Some((name, functions_in(&target).last()?))).collect()
}

/// Network interfaces and where their links lead.
fn netdev_links(host: &dyn Read, warnings: &mut Vec<Warning>) -> Vec<(String, String)> {
    let class = HostPath::fixed(Root::Sys, "class/net");
    let names = super::warned(optional(host.list(&class)), "network interfaces", warnings).unwrap_or_default();
    let link = |name: String| {
        let target = optional(host.link(&class.entry(&name)?)).unwrap_or(None)?;
        Some((name, target))
    };
    names.into_iter().filter_map(link).collect()
}

/// Every PCI function in the text of a link into `/sys/devices`, outermost first. What hangs below a function hangs below
/// all that it passes: an NVMe behind Intel VMD goes when the VMD controller does.
fn functions_in(target: &str) -> impl Iterator<Item = Bdf> {
    target.split('/').filter_map(|part| part.parse().ok())
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
}

impl Names {
    fn all(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.name).chain(&self.mapped)
    }
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
            super::warned(optional(host.text(&HostPath::fixed(Root::Proc, path))), path, warnings).unwrap_or_default()
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

/// The interfaces that a default route of IPv4 or IPv6 goes through.
fn default_routes(host: &dyn Read, warnings: &mut Vec<Warning>) -> BTreeSet<String> {
    let mut text = |path: &'static str| {
        super::warned(optional(host.text(&HostPath::fixed(Root::Proc, path))), path, warnings).unwrap_or_default()
    };
    let mut found = BTreeSet::new();
    for line in text("net/route").lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [name, "00000000", _, _, _, _, _, "00000000", ..] = fields[..] {
            found.insert(name.to_owned());
        }
    }
    for line in text("net/ipv6_route").lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [destination, "00", .., name] = fields[..]
            && destination.bytes().all(|b| b == b'0')
            && name != "lo"
        {
            found.insert(name.to_owned());
        }
    }
    found
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
    fn a_disk_hangs_below_every_function_on_its_path() {
        let target = "../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme0/nvme0n1";
        let found: Vec<String> = functions_in(target).map(|bdf| bdf.to_string()).collect();
        assert_eq!(found, ["0000:00:0e.0", "10000:e0:06.0", "10000:e1:00.0"]);
        assert_eq!(functions_in("../../devices/virtual/net/lo").count(), 0);
    }

    #[test]
    fn a_holder_of_a_holder_counts() {
        let holders = [("sda1".to_owned(), vec!["md0".to_owned()]), ("md0".to_owned(), vec!["dm-0".to_owned()])];
        let stack = stacked("sda1", &holders.into_iter().collect());
        assert!(stack.contains("dm-0"));
    }
}
