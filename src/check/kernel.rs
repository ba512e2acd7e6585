//! What the kernel's own settings mean for a VFIO user.

use super::{Finding, FindingId, Picture};

pub(super) fn check(picture: Picture<'_>, found: &mut Vec<Finding>) {
    if let Some(mode) = picture.inventory.kernel.lockdown.as_deref().filter(|mode| *mode != "none") {
        let message =
            format!("the kernel is locked down ({mode}): BARs cannot be mapped through sysfs; VFIO itself works");
        let remedy = "use VFIO, not /sys/…/resourceN, to reach the device";
        found.push(Finding::of_host(FindingId::Lockdown, message, remedy));
    }
    for module in &picture.inventory.kernel.unsafe_interrupts {
        let message =
            format!("{module} allows VFIO without isolated interrupts: a user of a device could send any interrupt");
        let remedy = format!(
            "echo N > /sys/module/{module}/parameters/allow_unsafe_interrupts, and turn interrupt remapping on"
        );
        found.push(Finding::of_host(FindingId::UnsafeInterrupts, message, remedy));
    }
}
