//! What the kernel's own settings mean for a VFIO user.

use super::{Finding, FindingId, Picture};
pub(super) fn check(picture: Picture<'_>, found: &mut Vec<Finding>) {
    if let Some(mode) = picture.inventory.kernel.lockdown.as_deref().filter(|mode| *mode != "none") {
        let message =
            format!("the kernel is locked down ({mode}): BARs cannot be mapped through sysfs; VFIO itself works");
        let remedy = "use VFIO, not /sys/…/resourceN, to reach the device";
        found.push(Finding::of_host(FindingId::Lockdown, message, remedy));
    }
}
