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
        let mounts = Mounts::read(host, warnings);
        let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut found: Vec<(String, String, Option<String>)> = Vec::new();
        for name in names {
            let Some(path) = class.entry(&name) else { continue };
            let Some(target) = optional(host.link(&path)).unwrap_or(None) else { continue };
            let held = optional(host.list(&path.attr("holders"))).unwrap_or(None).unwrap_or_default();
            holders.insert(name.clone(), held);
            let number = optional(host.text(&path.attr("dev"))).unwrap_or(None);
            found.push((name, target, number));
        }
        let numbers: BTreeMap<&str, &str> =
            found.iter().filter_map(|(name, _, number)| Some((name.as_str(), number.as_deref()?))).collect();
        for (name, target, _) in &found {
            let stack = stacked(name, &holders);
            let block = Block {
                mounts: stack.iter().flat_map(|name| mounts.of(name, numbers.get(name.as_str()).copied())).collect(),
                swap: stack.iter().any(|name| mounts.swaps.contains(name)),
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
        for (name, bdf) in read_netdev_names(host, warnings) {
            let flags = HostPath::fixed(Root::Sys, "class/net").entry(&name).map(|path| path.attr("flags"));
            let flags = flags.and_then(|path| optional(host.text(&path)).unwrap_or(None)).unwrap_or_default();
            // IFF_UP is bit 0 (include/uapi/linux/if.h).
            let up = u32::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1);
            let default_route = routed.contains(&name);
            self.netdevs.entry(bdf).or_default().push(NetDev { name, up, default_route });
        }
    }
}

/// Network interfaces and the PCI function each belongs to.
pub fn read_netdev_names(host: &dyn Read, warnings: &mut Vec<Warning>) -> BTreeMap<String, Bdf> {
    let class = HostPath::fixed(Root::Sys, "class/net");
    let names = super::warned(optional(host.list(&class)), "network interfaces", warnings).unwrap_or_default();
    let mut found = BTreeMap::new();
    for name in names {
        let target = class.entry(&name).and_then(|path| optional(host.link(&path)).unwrap_or(None));
        if let Some(bdf) = target.and_then(|target| last_function(&target)) {
            found.insert(name, bdf);
        }
    }
    found
}

/// The innermost PCI function in the text of a link into `/sys/devices`.
fn last_function(target: &str) -> Option<Bdf> {
    target.split('/').rev().find_map(|part| part.parse().ok())
}

/// The PCI functions that a block device hangs below: one, or every controller of an NVMe subsystem.
fn functions_above(target: &str, host: &dyn Read) -> Vec<Bdf> {
    if let Some(bdf) = last_function(target) {
        return vec![bdf];
    }
    let Some(subsystem) = target.split('/').find(|part| part.starts_with("nvme-subsys")) else { return Vec::new() };
    let Some(path) = HostPath::fixed(Root::Sys, "class/nvme-subsystem").entry(subsystem) else { return Vec::new() };
    let entries = optional(host.list(&path)).unwrap_or(None).unwrap_or_default();
    let links = entries.iter().filter(|name| name.starts_with("nvme")).filter_map(|name| path.entry(name));
    links.filter_map(|link| last_function(&optional(host.link(&link)).unwrap_or(None)?)).collect()
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
}

impl Mounts {
    fn read(host: &dyn Read, warnings: &mut Vec<Warning>) -> Self {
        let mut text = |path: &'static str| {
            super::warned(optional(host.text(&HostPath::fixed(Root::Proc, path))), path, warnings).unwrap_or_default()
        };
        let mounts = text("self/mountinfo").lines().filter_map(mount).collect();
        let swaps =
            text("swaps").lines().skip(1).filter_map(|line| last_component(line.split_whitespace().next()?)).collect();
        Self { mounts, swaps }
    }

    fn of(&self, name: &str, number: Option<&str>) -> Vec<String> {
        let here = |(major_minor, source, _): &&(String, String, String)| {
            number.is_some_and(|number| number == major_minor) || source == name
        };
        self.mounts.iter().filter(here).map(|(_, _, point)| point.clone()).collect()
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
    fn the_innermost_function_of_a_link_is_the_owner() {
        let target = "../../devices/pci0000:00/0000:00:03.0/0000:01:00.0/nvme/nvme0/nvme0n1";
        assert_eq!(last_function(target), Some("0000:01:00.0".parse().unwrap()));
        assert_eq!(last_function("../../devices/virtual/net/lo"), None);
    }

    #[test]
    fn a_holder_of_a_holder_counts() {
        let holders = [("sda1".to_owned(), vec!["md0".to_owned()]), ("md0".to_owned(), vec!["dm-0".to_owned()])];
        let stack = stacked("sda1", &holders.into_iter().collect());
        assert!(stack.contains("dm-0"));
    }
}
