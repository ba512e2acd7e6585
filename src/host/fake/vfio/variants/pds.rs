//! pds_vfio_pci: AMD/Pensando VFs; refuses what it cannot migrate.

use crate::host::fake::vfio::{Function, Migration, PfChannel, Variant, Vdev};
use crate::model::Errno;

/// `pds_vfio_pci`.
#[derive(Debug)]
pub struct Pds;

impl Variant for Pds {
    fn driver(&self) -> &'static str {
        "pds_vfio_pci"
    }

    fn module(&self) -> &'static str {
        "pds_vfio_pci"
    }

    fn ids(&self) -> &'static [(u16, u16)] {
        &[(0x1dd8, 0x1003)]
    }

    fn needs(&self) -> &'static [&'static str] {
        &["pds_core"]
    }

    /// `EINVAL` for what is not a VF.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/pds/vfio_dev.c` `pds_vfio_init_device()`: the answer of `pci_iov_vf_id()` (7.2).
    fn init(&self, function: &Function, _pf: &PfChannel) -> Result<Vdev, Errno> {
        if function.vf.is_none() {
            return Err(Errno::EINVAL);
        }
        Ok(Vdev { migration: Some(Migration::P2p), dirty_log: true, features: true, ..Vdev::default() })
    }

    /// `EINVAL` when the PF is not on pds_core: no client can be registered, and the core lets go again.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/pds/pci_drv.c` `pds_vfio_pci_probe()`, `cmds.c` `pds_vfio_register_client_cmd()` (7.2).
    fn connect(&self, _function: &Function, pf: &PfChannel) -> Result<(), Errno> {
        if pf.is_on("pds_core") { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
