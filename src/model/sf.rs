//! Subfunctions, which devlink makes of a PCI function in switchdev mode. They are auxiliary devices and share the IOMMU
//! group of their function: vDPA, RDMA and Ethernet, never VFIO.

use super::{Address, Bdf, BusName, DriverName};

/// What a subfunction is for.
pub const NO_VFIO_PROVIDER: &str = "for vDPA, RDMA and Ethernet by its auxiliary device; VFIO cannot assign it";

/// A subfunction that is active: an auxiliary device. Of one that is not, devlink alone knows.
///
/// # Kernel
/// mlx5 `sf/dev/dev.c` `mlx5_sf_dev_add()`, ice `ice_sf_eth.c` `ice_sf_eth_activate()`: `<module>.sf.<id>` below the PCI function,
/// with `sfnum` (7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subfunction {
    /// As the bus `auxiliary` names it, `mlx5_core.sf.4`.
    pub name: BusName,
    /// The PCI function that it is of.
    pub function: Bdf,
    /// `sfnum`.
    pub sfnum: u32,
    /// Its auxiliary driver.
    pub driver: Option<DriverName>,
}

impl Subfunction {
    /// `PF/sfN`.
    #[must_use]
    pub const fn address(&self) -> Address {
        Address::Sf { pf: self.function, sfnum: self.sfnum }
    }
}

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
