//! Who would miss the device: the host's own storage and network, and VFIO users.

use super::{Finding, FindingId, Picture};
use crate::model::PciFunction;

pub(super) fn check(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    if picture.open.contains(&bdf) {
        let group = device.group.map_or_else(String::new, |group| format!(" (IOMMU group {group})"));
        let message = format!("{bdf} is in use: somebody has its VFIO group open{group}");
        let remedy = "end the VM or program that holds it: taking it away now would wait for that program, unkillably";
        found.push(Finding::new(FindingId::GroupOpen, bdf, message, remedy));
    }
    // All that is behind a bridge is below it, and nobody takes a bridge.
    let Some(close_up) = picture.close_ups.get(&bdf).filter(|_| !device.class().is_bridge()) else { return };
    for block in close_up.blocks.iter().filter(|block| block.in_use()) {
        let mut uses: Vec<String> = block.mounts.iter().map(|point| format!("mounted on {point}")).collect();
        if block.swap {
            uses.push(String::from("swap"));
        }
        uses.extend(block.holders.iter().map(|holder| format!("held by {holder}")));
        uses.extend(block.pool.iter().map(|pool| format!("in ZFS pool {pool}, which is imported")));
        let message = format!("{bdf} holds block device {}, {}", block.name, uses.join(" and "));
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
