//! Network: interfaces, what is stacked on them, routes.

use std::collections::{BTreeMap, BTreeSet};

use super::{functions_in, ssh};
use crate::discover::warned;
use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};
use crate::model::pci::NetDev;
use crate::model::route::Routes;
use crate::model::stacked::{Upper, UpperKind};
use crate::model::{Bdf, Warning};

/// Reads the network interfaces, with what goes through them, by the PCI functions that they hang below.
pub(super) fn read(host: &dyn Read, warnings: &mut Vec<Warning>) -> BTreeMap<Bdf, Vec<NetDev>> {
    let mut netdevs: BTreeMap<Bdf, Vec<NetDev>> = BTreeMap::new();
    let routes = routes(host, warnings);
    let routed = with_datapath(host, routes.default_interfaces());
    let peer = ssh::peer(host);
    let to_peer = with_datapath(host, peer.as_ref().map(|peer| peer.interfaces(&routes)).unwrap_or_default());
    for (name, target) in netdev_links(host, warnings) {
        let flags = HostPath::fixed(Root::Sys, "class/net").entry(&name).map(|path| path.attr("flags"));
        let flags = flags.and_then(|path| optional(host.text(&path)).unwrap_or(None)).unwrap_or_default();
        // IFF_UP is bit 0 (include/uapi/linux/if.h).
        let up = u32::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1);
        let all = uppers(host, &name);
        let netdev = NetDev {
            up,
            default_route: all.iter().any(|name| routed.contains(name)),
            uppers: directly_over(host, &name),
            ssh_peer: peer.clone().filter(|_| all.iter().any(|name| to_peer.contains(name))),
            name,
        };
        for bdf in functions_in(&target) {
            netdevs.entry(bdf).or_default().push(netdev.clone());
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

/// What is stacked on an interface directly.
///
/// # Kernel
/// `net/core/dev.c` `netdev_master_upper_dev_link()` makes the link `master`; `drivers/net/bonding/bond_sysfs.c` and
/// `net/bridge/br_sysfs_br.c` the directories that tell a bond and a bridge (7.2).
fn directly_over(host: &dyn Read, name: &str) -> Vec<Upper> {
    let class = HostPath::fixed(Root::Sys, "class/net");
    let Some(path) = class.entry(name) else { return Vec::new() };
    let master = optional(host.link_name(&path.attr("master"))).unwrap_or(None);
    let mut entries = optional(host.list(&path)).unwrap_or(None).unwrap_or_default();
    entries.sort();
    let over = entries.iter().filter_map(|entry| entry.strip_prefix("upper_"));
    // Told apart by the links, which are there for all kernels; `master` is one of them.
    let names: BTreeSet<&str> = over.chain(master.as_deref()).collect();
    let upper = |name: &str| {
        let path = class.entry(name)?;
        let has = |attribute| optional(host.list(&path.attr(attribute))).unwrap_or(None).is_some();
        let kind = if master.as_deref() != Some(name) {
            let uevent = optional(host.text(&path.attr("uevent"))).unwrap_or(None).unwrap_or_default();
            UpperKind::Over(uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).map(ToOwned::to_owned))
        } else if has("bonding") {
            UpperKind::Bond
        } else if has("bridge") {
            UpperKind::Bridge
        } else if name == OPEN_VSWITCH {
            UpperKind::OpenVswitch
        } else {
            UpperKind::Master
        };
        Some(Upper { name: name.to_owned(), kind })
    };
    names.into_iter().filter_map(upper).collect()
}

/// The master of every port of an Open vSwitch bridge of the kernel's datapath, the host's own internal ports included.
const OPEN_VSWITCH: &str = "ovs-system";

fn routes(host: &dyn Read, warnings: &mut Vec<Warning>) -> Routes {
    let mut text = |path: &'static str| {
        warned(optional(host.text(&HostPath::fixed(Root::Proc, path))), path, warnings).unwrap_or_default()
    };
    Routes::parse(&text("net/route"), &text("net/ipv6_route"))
}

/// The interfaces, and for an internal port of Open vSwitch the datapath, of which physical interfaces are ports too.
fn with_datapath(host: &dyn Read, mut interfaces: BTreeSet<String>) -> BTreeSet<String> {
    let class = HostPath::fixed(Root::Sys, "class/net");
    let master = |name: &String| optional(host.link_name(&class.entry(name)?.attr("master"))).unwrap_or(None);
    if interfaces.iter().any(|name| master(name).as_deref() == Some(OPEN_VSWITCH)) {
        interfaces.insert(OPEN_VSWITCH.to_owned());
    }
    interfaces
}
