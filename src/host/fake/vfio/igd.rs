//! The Intel graphics extension: an object linked into vfio-pci, not a driver.

use super::{Function, Vdev};

/// Adds the regions of an Intel display device. Only vfio-pci does: under a variant they are lost.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_igd.c` `vfio_pci_is_intel_display()`, `vfio_pci_igd_init()`, called by `vfio_pci.c`
/// `vfio_pci_open_device()` alone (7.2). A device without an OpRegion gets none: the model says that integrated
/// graphics (bus 0) have one, by the property `opregion`.
pub fn extend(function: &Function, vdev: &mut Vdev) {
    if function.alias.vendor() == 0x8086 && function.class().is_display() && function.has("opregion") {
        vdev.regions.extend(["intel-opregion", "intel-host-cfg", "intel-lpc-cfg"]);
    }
}
