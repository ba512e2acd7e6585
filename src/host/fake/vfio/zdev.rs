//! The s390 extension: an object linked into vfio-pci-core, so that every driver has it.

use super::{Function, Vdev};

/// Adds the zPCI capabilities to `VFIO_DEVICE_GET_INFO`, whatever the driver.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_zdev.c` `vfio_pci_info_zdev_add_caps()`: `ENODEV` when the function is not a zPCI device,
/// and the core goes on without (7.2).
pub fn extend(function: &Function, vdev: &mut Vdev) {
    if function.has("zpci") {
        vdev.caps.extend(["zpci-base", "zpci-group", "zpci-pfip"]);
    }
}
