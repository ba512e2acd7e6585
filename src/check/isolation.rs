//! IOMMU, group, viability, chipset: whether the device can be isolated at all. What rules it out for good comes alone.

use super::{Finding, FindingId, Picture};
use crate::model::{PciFunction, Role};

pub(super) fn check(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    let kernel = &picture.inventory.kernel;
    if device.class().is_bridge() || matches!(device.role, Role::Bridge) {
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
    if !found.is_empty() {
        return;
    }
    let Some(group) = device.group else {
        if kernel.unsafe_noiommu {
            let message = format!("{bdf} is in no IOMMU group; the kernel would take it in unsafe no-IOMMU mode");
            let remedy = "its user can then write all of the host's memory; to accept that: --allow no-group";
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
    if !in_the_way.is_empty() {
        let list: Vec<String> = in_the_way
            .iter()
            .map(|member| format!("{} on {}", member.bdf, member.driver.as_ref().map_or("", |driver| driver.as_str())))
            .collect();
        let message = format!("IOMMU group {group} is not viable with {bdf} alone: it also holds {}", list.join(", "));
        found.push(Finding::new(FindingId::GroupNotViable, bdf, message, "bind the whole group with --with-group"));
    }
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
