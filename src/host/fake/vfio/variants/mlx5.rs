//! mlx5_vfio_pci: ConnectX VFs, migration through the PF's command channel; plain behaviour when anything is missing.

use crate::host::fake::vfio::{Function, Migration, PfChannel, Variant, Vdev};
use crate::model::Errno;

/// `mlx5_vfio_pci`.
#[derive(Debug)]
pub struct Mlx5;

impl Variant for Mlx5 {
    fn driver(&self) -> &'static str {
        "mlx5_vfio_pci"
    }

    fn module(&self) -> &'static str {
        "mlx5_vfio_pci"
    }

    fn ids(&self) -> &'static [(u16, u16)] {
        &[(0x15b3, 0x101e)]
    }

    fn needs(&self) -> &'static [&'static str] {
        &["mlx5_core"]
    }

    /// Never refuses: without a PF on mlx5_core, or without the devlink `migratable` bit, the device is a plain one.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/mlx5/main.c` `mlx5vf_pci_init_dev()`, `cmd.c` `mlx5vf_cmd_set_migratable()` (7.2).
    fn init(&self, function: &Function, pf: &PfChannel) -> Result<Vdev, Errno> {
        let able = function.vf.is_some() && pf.is_on("mlx5_core") && pf.migratable;
        let migration = able.then_some(Migration::P2pPreCopy);
        Ok(Vdev { migration, dirty_log: able, features: true, ..Vdev::default() })
    }
}
