//! vfio-pci: the core under its own name, the catch-all table, a denylist, and Intel graphics.

use crate::host::fake::vfio::{Function, Variant, Vdev, igd};
use crate::model::Errno;

/// `vfio-pci`.
#[derive(Debug)]
pub struct VfioPci;

/// Devices with errata that a user could exploit: older QAT, DSA and IAX of Sapphire Rapids.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci.c` `vfio_pci_dev_in_denylist()` (7.2).
const DENYLIST: [u16; 8] = [0x19e2, 0x19e3, 0x37c8, 0x37c9, 0x0435, 0x0443, 0x0b25, 0x0cfe];

impl Variant for VfioPci {
    fn driver(&self) -> &'static str {
        "vfio-pci"
    }

    fn module(&self) -> &'static str {
        "vfio_pci"
    }

    fn ids(&self) -> &'static [(u16, u16)] {
        &[]
    }

    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci.c`, `module_param*()`; `ids` has mode 0 and is not shown (7.2).
    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("disable_denylist", "N"),
            ("disable_idle_d3", "N"),
            ("disable_vga", "N"),
            ("enable_sriov", "N"),
            ("nointxmask", "N"),
        ]
    }

    /// `EINVAL` for a denylisted device, unless `disable_denylist` was given at load.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci.c` `vfio_pci_probe()`, `vfio_pci_is_denylisted()` (7.2).
    fn ready(&self, function: &Function) -> Result<(), Errno> {
        let listed = function.alias.vendor() == 0x8086 && DENYLIST.contains(&function.alias.device());
        if listed && !function.has("denylist-disabled") { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn extend(&self, function: &Function, vdev: &mut Vdev) {
        igd::extend(function, vdev);
        vdev.caps.push("dma-buf");
    }

    fn makes_vfs(&self) -> bool {
        true
    }
}
