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
        let remedy = "the kernel's developers advise against it; to do it all the same: modprobe vfio-pci disable_denylist=1, then --allow denylisted";
        found.push(Finding::new(FindingId::Denylisted, bdf, message, remedy));
    }
    if device.boot_vga {
        let message = format!("{bdf} is the display that the firmware booted with");
        let remedy =
            "make another display the boot display in the firmware, or give the console up with --allow boot-vga";
        found.push(Finding::new(FindingId::BootVga, bdf, message, remedy));
    }
    let Some(close_up) = picture.close_ups.get(&bdf) else { return };
    match &close_up.reset_methods {
        None => {
            let message = format!("{bdf} has no reset method: what one user leaves in it the next one finds");
            found.push(Finding::new(
                FindingId::NoReset,
                bdf,
                message,
                "do not move it between users that do not trust each other",
            ));
        }
        Some(methods) if methods.iter().all(|method| matches!(method.as_str(), "pm" | "bus")) => {
            let message = format!("{bdf} can be reset by {} only", methods.join(" and "));
            let remedy = match methods.as_slice() {
                [only] if only == "pm" => "a change of power state may leave some of its state as it was",
                [only] if only == "bus" => "a bus reset hits everything behind the same port",
                _ => {
                    "a change of power state may leave some of its state, and a bus reset hits everything behind the same port"
                }
            };
            found.push(Finding::new(FindingId::WeakReset, bdf, message, remedy));
        }
        Some(_) => {}
    }
}

/// What matters whatever the device goes to.
pub(super) fn check(_picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    if let Role::Pf { enabled, total, .. } = device.role
        && enabled > 0
    {
        let message = format!("{bdf} is a PF with {enabled} of {total} VFs enabled");
        let remedy = format!("remove its VFs first: echo 0 > /sys/bus/pci/devices/{bdf}/sriov_numvfs");
        found.push(Finding::new(FindingId::VfsEnabled, bdf, message, remedy));
    }
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
        DriverTable::DoesNotMatch { entries, .. } => {
            let message = format!("none of the {entries} entries of the id table of {driver} matches {bdf} ({ids})");
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
