//! Chipset and bridges, IOMMU, group, viability: whose the device is, and whether it can be isolated.

use super::{Finding, FindingId, Picture};
use crate::model::PciFunction;

/// What is the host's own and nobody else's, whatever it is to be given to.
pub(super) fn check_belongs_to_host(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    if device.class().is_bridge() {
        let message = format!("{bdf} is a bridge (class {}): VFIO takes endpoints only", device.class());
        found.push(Finding::new(FindingId::NotEndpoint, bdf, message, "bind the endpoints behind it"));
    }
    if let Some(member) = chipset_in_group(picture, device) {
        let message = if member.bdf == bdf {
            format!("{bdf} is a function of the platform itself (class {})", device.class())
        } else {
            format!(
                "{bdf} is in IOMMU group {} with {}, a function of the platform itself (class {})",
                device.group.map_or(0, |group| group.0),
                member.bdf,
                member.class()
            )
        };
        found.push(Finding::new(FindingId::Chipset, bdf, message, "leave it to the host"));
    }
    if device.boot_vga {
        let message = format!("{bdf} is the display that the firmware booted with");
        let remedy = "make another display the boot display in the firmware, or give the console up";
        found.push(Finding::new(FindingId::BootVga, bdf, message, remedy));
    }
}

/// Whether the device can be isolated: IOMMU, group, viability.
pub(super) fn check(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    let kernel = &picture.inventory.kernel;
    let Some(group) = device.group else {
        if kernel.unsafe_noiommu {
            let message = format!("{bdf} is in no IOMMU group; the kernel would take it in unsafe no-IOMMU mode");
            let remedy = "leave it: its user could write all of the host's memory";
            found.push(Finding::new(FindingId::NoGroup, bdf, message, remedy));
        } else if kernel.iommu {
            let message = format!("{bdf} is in no IOMMU group: no IOMMU covers it");
            let remedy = "look for a device below another root port, or for the firmware's IOMMU settings of this one";
            found.push(Finding::new(FindingId::NoGroup, bdf, message, remedy));
        } else {
            let message = String::from("this host has no IOMMU group: its IOMMU is off or absent");
            let remedy = "turn VT-d or AMD-Vi on in the firmware, boot with intel_iommu=on (Intel), and look in: dmesg | grep -e DMAR -e AMD-Vi";
            found.push(Finding::of_host(FindingId::NoIommu, message, remedy));
        }
        return;
    };
    let in_the_way: Vec<&PciFunction> = picture
        .inventory
        .group_siblings(bdf)
        .filter(|member| !picture.together.contains(&member.bdf) && !may_stay(member))
        .collect();
    let strangers = picture.strangers.get(&bdf).map(Vec::as_slice).unwrap_or_default();
    if in_the_way.is_empty() && strangers.is_empty() {
        return;
    }
    let on = |member: &&PciFunction| {
        format!("{} on {}", member.bdf, member.driver.as_ref().map_or("", |driver| driver.as_str()))
    };
    let mut list: Vec<String> = in_the_way.iter().map(on).collect();
    list.extend(strangers.iter().map(|name| format!("{name}, of which nothing is known")));
    let message = format!("IOMMU group {group} is not viable with {bdf} alone: it also holds {}", list.join(", "));
    // A bridge is never bound with its group: it has to go by hand.
    let bridge = in_the_way.iter().find(|member| member.class().is_pci_bridge());
    let platform = in_the_way.iter().any(|member| member.class().is_chipset());
    let remedy = match (bridge.and_then(|member| Some((member.bdf, member.driver.as_ref()?))), in_the_way.is_empty()) {
        _ if platform => String::from("leave the whole group to the host: functions of the platform are in it"),
        (Some((member, driver)), _) => {
            format!("take the bridge from its driver: echo {member} > /sys/bus/pci/drivers/{driver}/unbind")
        }
        (None, false) => String::from("bind the whole group with --with-group"),
        (None, true) => format!("find out what they are: ls -l /sys/kernel/iommu_groups/{group}/devices"),
    };
    found.push(Finding::new(FindingId::GroupNotViable, bdf, message, remedy));
}

/// Whether a member of a group may keep its driver beside a VFIO user.
///
/// # Kernel
/// The drivers with `driver_managed_dma`: every VFIO driver, `pcieport`, `pci-stub`
/// (`drivers/pci/pci-driver.c` `pci_dma_configure()`, 7.2).
fn may_stay(member: &PciFunction) -> bool {
    member
        .driver
        .as_ref()
        .is_none_or(|driver| member.is_vfio() || matches!(driver.as_str(), "pcieport" | "pci-stub") || driver.is_vfio())
}

/// The function itself or the member of its group that belongs to the platform. A bridge that is no PCI-to-PCI bridge
/// counts, and so does an SMBus controller.
fn chipset_in_group<'a>(picture: Picture<'a>, device: &'a PciFunction) -> Option<&'a PciFunction> {
    std::iter::once(device)
        .chain(picture.inventory.group_siblings(device.bdf))
        .find(|member| member.class().is_chipset())
}
