//! What a PF's driver does for VFs, and what it does not.

use super::{Finding, FindingId, Picture, Purpose};
use crate::matching::variants;
use crate::model::vf::Switch;
use crate::model::{PciFunction, Role, counted};

/// PF drivers that have no word about VFs when they go: `sriov_configure` is `pci_sriov_configure_simple()`.
///
/// # Kernel
/// `drivers/pci/iov.c` `pci_iov_remove()` says "driver left SR-IOV enabled after remove"; `drivers/nvme/host/pci.c`
/// `nvme_remove()`, `drivers/pci/pci-pf-stub.c` (7.2).
const LEAVE_VFS: [&str; 2] = ["nvme", "pci-pf-stub"];

/// A PF whose VFs would outlive its driver: then nobody can take them away, and VFIO does not take it.
pub(super) fn check_pf(device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    let Role::Pf { enabled: enabled @ 1.., .. } = device.role else { return };
    let driver = device.driver.as_ref().filter(|driver| LEAVE_VFS.contains(&driver.as_str()));
    if let Some(driver) = driver {
        let vfs = counted(enabled, "VF");
        let message = format!(
            "{bdf} is on {driver}, which leaves its {vfs} behind when it goes: the next driver finds them there, vfio-pci refuses it for them (EBUSY), and sriov_numvfs cannot be written (ENOENT)"
        );
        let remedy = format!("take the VFs away before: echo 0 > /sys/bus/pci/devices/{bdf}/sriov_numvfs");
        found.push(Finding::new(FindingId::VfsStay, bdf, message, remedy));
    }
}

/// The address of a VF: none, or one that its driver does not go by.
pub(super) fn check(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    let (Some(facts), Some(pf)) = (picture.vfs.get(&bdf), device.pf()) else { return };
    match (facts.kept.mac, facts.own) {
        (Some(kept), _) if kept.is_zero() => {
            let message = format!(
                "{bdf} has no MAC address from its PF {pf}: its user takes any, another one each time, and may take somebody else's"
            );
            let remedy = format!("give it one before its driver looks: vfioadm bind --set mac=auto {bdf}");
            found.push(Finding::new(FindingId::VfMacUnset, bdf, message, remedy));
        }
        (Some(kept), Some(own)) if kept != own => {
            let message = format!(
                "{bdf} goes by {own}, and its PF {pf} keeps {kept} for it, which was set after its driver had looked"
            );
            let remedy = format!("have a driver look again: vfioadm bind --set mac={kept} {bdf}");
            found.push(Finding::new(FindingId::MacAfterDriver, bdf, message, remedy));
        }
        _ => {}
    }
}

/// A VF that is to be on a variant, or is, and that the variant is not going to migrate.
pub(super) fn check_migratable(
    picture: Picture<'_>,
    device: &PciFunction,
    purpose: &Purpose,
    found: &mut Vec<Finding>,
) {
    let bdf = device.bdf;
    let is_off = picture.vfs.get(&bdf).is_some_and(|facts| facts.migratable == Some(Switch::Off));
    let variant = variants::wants_migratable(&device.alias).map(|variant| variant.driver);
    let wanted = variant.filter(|variant| match purpose {
        Purpose::Vfio => true,
        Purpose::Named(driver, _) => driver.as_str() == *variant,
        Purpose::Host | Purpose::None => false,
    });
    let Some(variant) = wanted.filter(|_| is_off) else { return };
    let message = format!(
        "{bdf} is not migratable at its devlink port: {variant} looks once, when it binds, and offers no migration then"
    );
    let remedy = format!("have it set before the driver looks: vfioadm bind --set migratable=on {bdf}");
    found.push(Finding::new(FindingId::NotMigratable, bdf, message, remedy));
}

/// A device that its variant has bound, and that does not migrate, as it said when it was opened.
#[must_use]
pub fn degraded(device: &PciFunction) -> Finding {
    let (bdf, driver) = (device.bdf, device.on_driver());
    let message = format!("{driver} does not migrate: the variant has bound it and offers no more than vfio-pci does");
    let remedy = format!(
        "see what it needs, its PF's driver and devlink's migratable above all: vfioadm match {bdf}; then bind it again"
    );
    Finding::new(FindingId::Degraded, bdf, message, remedy)
}
