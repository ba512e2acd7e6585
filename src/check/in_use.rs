//! Who would miss the device: the host's own storage and network, and VFIO users.

use super::{Finding, FindingId, Picture};
use crate::model::{Bdf, Hold, Holder, How, InUse, PciFunction};

pub(super) fn check(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    for used in picture.in_use.get(&bdf).map(Vec::as_slice).unwrap_or_default() {
        found.push(open(picture, bdf, used));
    }
    // All that is behind a bridge is below it, and nobody takes a bridge.
    let Some(close_up) = picture.close_ups.get(&bdf).filter(|_| !device.class().is_bridge()) else { return };
    for block in close_up.blocks.iter().filter(|block| block.in_use()) {
        let message = format!("{bdf} holds block device {}, {}", block.name, block.uses().join(" and "));
        let remedy = match (block.swap, block.mounts.is_empty(), &block.pool) {
            (true, ..) => String::from("swapoff it first"),
            (false, _, Some(pool)) => format!("export the pool first: zpool export {pool}"),
            (false, false, None) => String::from("unmount it first"),
            (false, true, None) => {
                String::from("take down first what is stacked on it: dmsetup ls --tree, cat /proc/mdstat")
            }
        };
        found.push(Finding::new(FindingId::BlockInUse, bdf, message, remedy));
    }
    for netdev in &close_up.netdevs {
        let name = &netdev.name;
        if netdev.up {
            let message = format!("{bdf} has network interface {name}, which is up");
            let remedy = format!("take it down first: ip link set {name} down");
            found.push(Finding::new(FindingId::NetdevUp, bdf, message, remedy));
        }
        if netdev.default_route {
            let message = format!("{bdf} has network interface {name}, which carries a default route");
            let remedy = "move the default route first: this may be the link that you are logged in through";
            found.push(Finding::new(FindingId::DefaultRoute, bdf, message, remedy));
        }
    }
}

/// A device that somebody has open, or a VF of it that would go with it.
fn open(picture: Picture<'_>, bdf: Bdf, used: &InUse) -> Finding {
    let whose = if used.function == bdf { String::new() } else { format!(" through its VF {}", used.function) };
    let names: Vec<String> = used.holders.iter().map(Holder::to_string).collect();
    let have = if names.len() == 1 { "has" } else { "have" };
    let (id, what, remedy) = match used.hold {
        Hold::Device if names.is_empty() => (
            FindingId::DeviceOpen,
            String::from("somebody has it open whom /proc does not show, perhaps in another pid namespace"),
            String::from(
                "look for a VM or program in a container, and end it; if nobody has it, a driver before left it enabled, and --allow device-open goes on",
            ),
        ),
        Hold::Device => {
            let mapped = used.holders.iter().all(|holder| holder.how == How::Mapping);
            let what = if mapped { "a BAR of it mapped" } else { "it open" };
            (
                FindingId::DeviceOpen,
                format!("{} {have} {what}", names.join(", ")),
                String::from(
                    "end the VM or program, or wait for it with --wait-holder SECONDS, or let the kernel ask it with --request",
                ),
            )
        }
        Hold::Group => {
            let group = picture.inventory.functions.get(&used.function).and_then(|function| function.group);
            let group = group.map_or_else(String::new, |group| format!(" (IOMMU group {group})"));
            let who =
                if names.is_empty() { String::from("somebody has") } else { format!("{} {have}", names.join(", ")) };
            (
                FindingId::GroupOpen,
                format!("{who} its VFIO group open{group}"),
                String::from(
                    "end the VM or program that holds it: taking it away now would wait for that program, unkillably",
                ),
            )
        }
        Hold::Bar => {
            let uio = used.holders.iter().all(|holder| holder.how == How::Uio);
            let what = if uio { "its UIO node open" } else { "a BAR of it mapped through sysfs" };
            (
                FindingId::BarMapped,
                format!("{} {have} {what}", names.join(", ")),
                String::from(
                    "end the program: the kernel does not take the mapping back, and it would reach into the next user's device",
                ),
            )
        }
    };
    Finding::new(id, bdf, format!("{bdf} is in use{whose}: {what}"), remedy)
}
