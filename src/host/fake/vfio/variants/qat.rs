//! qat_vfio_pci: Intel QuickAssist VFs; refuses what it cannot migrate, and offers none of the optional features.

use crate::host::fake::vfio::{Function, Migration, PfChannel, Variant, Vdev};
use crate::model::Errno;

/// `qat_vfio_pci`.
#[derive(Debug)]
pub struct Qat;

impl Variant for Qat {
    fn driver(&self) -> &'static str {
        "qat_vfio_pci"
    }

    fn module(&self) -> &'static str {
        "qat_vfio_pci"
    }

    fn ids(&self) -> &'static [(u16, u16)] {
        &[(0x8086, 0x4941), (0x8086, 0x4943), (0x8086, 0x4945), (0x8086, 0x4947), (0x8086, 0x4949)]
    }

    fn needs(&self) -> &'static [&'static str] {
        &["intel_qat"]
    }

    /// `ENODEV` for what is not a VF and when the PF has no QAT driver; `EINVAL` when that driver cannot migrate.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/qat/main.c` `qat_vf_pci_init_dev()`, `drivers/crypto/intel/qat/qat_common/qat_mig_dev.c`
    /// `qat_vfmig_create()` (7.2).
    fn init(&self, function: &Function, pf: &PfChannel) -> Result<Vdev, Errno> {
        if function.vf.is_none() {
            return Err(Errno::ENODEV);
        }
        match pf.driver.as_deref() {
            Some("4xxx" | "420xx" | "6xxx") => {}
            Some("c3xxx" | "c6xx" | "dh895xcc") => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENODEV),
        }
        Ok(Vdev { migration: Some(Migration::P2pPreCopy), features: false, ..Vdev::default() })
    }
}
