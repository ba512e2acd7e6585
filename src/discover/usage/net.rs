//! Network: interfaces, what is stacked on them, routes.

use std::collections::{BTreeMap, BTreeSet};

use super::functions_in;
use crate::discover::warned;
use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};
use crate::model::pci::NetDev;
use crate::model::{Bdf, Warning};

/// Reads the network interfaces, with what goes through them, by the PCI functions that they hang below.
pub(super) fn read(host: &dyn Read, warnings: &mut Vec<Warning>) -> BTreeMap<Bdf, Vec<NetDev>> {
    let mut netdevs: BTreeMap<Bdf, Vec<NetDev>> = BTreeMap::new();
    let routed = default_routes(host, warnings);
    for (name, target) in netdev_links(host, warnings) {
        let flags = HostPath::fixed(Root::Sys, "class/net").entry(&name).map(|path| path.attr("flags"));
        let flags = flags.and_then(|path| optional(host.text(&path)).unwrap_or(None)).unwrap_or_default();
        // IFF_UP is bit 0 (include/uapi/linux/if.h).
        let up = u32::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1);
        let default_route = uppers(host, &name).iter().any(|name| routed.contains(name));
        for bdf in functions_in(&target) {
            let netdev = NetDev { name: name.clone(), up, default_route };
            netdevs.entry(bdf).or_default().push(netdev);
        }
    }
    netdevs
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
    let names = warned(optional(host.list(&class)), "network interfaces", warnings).unwrap_or_default();
    let link = |name: String| {
        let target = optional(host.link(&class.entry(&name)?)).unwrap_or(None)?;
        Some((name, target))
    };
    names.into_iter().filter_map(link).collect()
}

/// The interfaces that a default route of IPv4 or IPv6 goes through.
fn default_routes(host: &dyn Read, warnings: &mut Vec<Warning>) -> BTreeSet<String> {
    let mut text = |path: &'static str| {
        warned(optional(host.text(&HostPath::fixed(Root::Proc, path))), path, warnings).unwrap_or_default()
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
