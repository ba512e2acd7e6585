//! hisi_acc_vfio_pci: HiSilicon accelerator VFs, migration through the PF's queue manager.

use crate::host::fake::vfio::{Function, Migration, PfChannel, Variant, Vdev};
use crate::model::Errno;

/// `hisi_acc_vfio_pci`.
#[derive(Debug)]
pub struct HisiAcc;

/// The PF driver of each VF.
///
/// # Kernel
/// `drivers/vfio/pci/hisilicon/hisi_acc_vfio_pci.c` `hisi_acc_get_pf_qm()` (7.2).
const fn pf_driver(device: u16) -> Option<&'static str> {
    match device {
        0xa256 => Some("hisi_sec2"),
        0xa259 => Some("hisi_hpre"),
        0xa251 => Some("hisi_zip"),
        _ => None,
    }
}

impl Variant for HisiAcc {
    fn driver(&self) -> &'static str {
        "hisi_acc_vfio_pci"
    }

    fn module(&self) -> &'static str {
        "hisi_acc_vfio_pci"
    }

    fn ids(&self) -> &'static [(u16, u16)] {
        &[(0x19e5, 0xa256), (0x19e5, 0xa259), (0x19e5, 0xa251)]
    }

    fn needs(&self) -> &'static [&'static str] {
        &["hisi_qm", "hisi_sec2", "hisi_hpre", "hisi_zip"]
    }

    /// Never refuses: without the PF's driver the device is a plain one.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/hisilicon/hisi_acc_vfio_pci.c` `hisi_acc_vfio_pci_probe()` (7.2). The model takes every queue
    /// manager for `QM_HW_V3` or newer.
    fn init(&self, function: &Function, pf: &PfChannel) -> Result<Vdev, Errno> {
        let known = pf_driver(function.alias.device()).is_some_and(|driver| pf.is_on(driver));
        let migration = (function.vf.is_some() && known).then_some(Migration::PreCopy);
        Ok(Vdev { migration, features: true, ..Vdev::default() })
    }
}
