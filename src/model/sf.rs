//! Subfunctions, which devlink makes of a PCI function in switchdev mode. They are auxiliary devices and share the IOMMU
//! group of their function: vDPA, RDMA and Ethernet, never VFIO.

use super::Bdf;

/// A PCI function that devlink makes subfunctions on.
///
/// # Kernel
/// `net/devlink/port.c` `devlink_nl_port_new_doit()` (7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SfParent {
    /// The function, `pci/0000:3b:00.0` as devlink has it.
    pub function: Bdf,
    /// How many of its ports are of flavour `pcisf`.
    pub made: u32,
    /// How many there can be, where the device tells.
    pub total: Option<u32>,
    /// Its eswitch is in mode `switchdev`, without which none can be made.
    pub switchdev: bool,
}
