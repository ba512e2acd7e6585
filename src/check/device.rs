//! The device itself: its VFs, its reset, its override, and the id table of a driver that was named for it.

use super::{Finding, FindingId, Picture};
use crate::matching::DriverTable;
use crate::matching::variants::denylisted;
use crate::model::{DriverName, PciFunction, Role};

/// What matters only when the device goes to VFIO; of a bridge, which cannot, nothing does.
pub(super) fn check_for_vfio(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    if device.class().is_bridge() {
        return;
    }
    if denylisted(&device.alias) && !picture.inventory.kernel.denylist_disabled {
        let message = format!("{bdf} is in vfio-pci's denylist, for errata that let its user harm the host");
        let remedy = "vfio-pci takes it only when loaded with disable_denylist=1";
        found.push(Finding::new(FindingId::Denylisted, bdf, message, remedy));
    }
    let Some(close_up) = picture.close_ups.get(&bdf) else { return };
    match close_up.reset_methods.as_deref() {
        None => {
            let message = format!("{bdf} has no reset method: what one user leaves in it the next one finds");
            let remedy = "do not move it between users that do not trust each other";
            found.push(Finding::new(FindingId::NoReset, bdf, message, remedy));
        }
        Some([only]) if only == "pm" => {
            let message = format!("{bdf} can be reset by a change of its power state only");
            let remedy = "some devices keep state over it: do not move it between users that do not trust each other";
            found.push(Finding::new(FindingId::WeakReset, bdf, message, remedy));
        }
        Some(_) => {}
    }
}

/// VFs: vfio-pci refuses a PF that has some, and a native driver may take them along when it goes.
pub(super) fn check_vfs(device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    if let Role::Pf { enabled, total, .. } = device.role
        && enabled > 0
    {
        let message = format!("{bdf} is a PF with {enabled} of {total} VFs enabled");
        let remedy = format!("remove its VFs first: echo 0 > /sys/bus/pci/devices/{bdf}/sriov_numvfs");
        found.push(Finding::new(FindingId::VfsEnabled, bdf, message, remedy));
    }
}

/// A VF that its driver makes a VFIO device of by itself: NVIDIA's, which puts vGPUs on it.
pub(super) fn check_vendor_vgpu(device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    if device.vendor_vgpu {
        let message =
            format!("{bdf} is for vGPUs: the nvidia driver makes a VFIO device of it, and no other driver can");
        let remedy = format!("leave it on its driver; see what it can be made: vfioadm show {bdf}");
        found.push(Finding::new(FindingId::VendorVgpu, bdf, message, remedy));
    }
}

/// An override that somebody left.
pub(super) fn check_override(device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    if let Some(left) = &device.driver_override
        && device.driver.as_ref().is_none_or(|driver| driver.as_str() != left)
    {
        let on = device.driver.as_ref().map_or("no driver".to_owned(), |driver| format!("driver {driver}"));
        let message = format!("{bdf} has the override {left:?} and {on}");
        let remedy = format!("no other driver can take it until the override is cleared: vfioadm unbind {bdf}");
        found.push(Finding::new(FindingId::OverrideLeft, bdf, message, remedy));
    }
}

/// Whether the id table of a driver that the user named has the device.
pub(super) fn check_table(device: &PciFunction, driver: &DriverName, table: &DriverTable, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    let ids = format!("{:04x}:{:04x}", device.alias.vendor(), device.alias.device());
    match table {
        DriverTable::Matches(_) => {}
        DriverTable::DoesNotMatch { .. } => {
            let message = format!("the id table of {driver} does not have {bdf} ({ids})");
            let remedy = format!("see what has: vfioadm match {bdf}");
            found.push(Finding::new(FindingId::DriverMismatch, bdf, message, remedy));
        }
        DriverTable::Unknown | DriverTable::NoSuchDriver { .. } => {
            let message = format!("the id table of {driver} is not known, so it may not be made for {bdf} ({ids})");
            let remedy = "run depmod, or make sure that /lib/modules of the running kernel can be read";
            found.push(Finding::new(FindingId::TableUnknown, bdf, message, remedy));
        }
    }
}
