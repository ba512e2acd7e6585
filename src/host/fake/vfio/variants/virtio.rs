//! virtio_vfio_pci: virtio-net and virtio-blk VFs, legacy I/O and migration through the PF's admin queue.

use crate::host::fake::vfio::{Function, Migration, PfChannel, Variant, Vdev};
use crate::model::Errno;

/// `virtio_vfio_pci`.
#[derive(Debug)]
pub struct Virtio;

impl Variant for Virtio {
    fn driver(&self) -> &'static str {
        "virtio_vfio_pci"
    }

    fn module(&self) -> &'static str {
        "virtio_vfio_pci"
    }

    fn ids(&self) -> &'static [(u16, u16)] {
        &[(0x1af4, 0x1041), (0x1af4, 0x1042)]
    }

    fn needs(&self) -> &'static [&'static str] {
        &["virtio_pci"]
    }

    /// Never refuses: what is not a VF, or has a PF without device-parts commands, is a plain device.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/virtio/main.c` `virtiovf_pci_probe()` (7.2). The model gives a VF whose PF is on virtio-pci
    /// the device-parts commands.
    fn init(&self, function: &Function, pf: &PfChannel) -> Result<Vdev, Errno> {
        let able = function.vf.is_some() && pf.is_on("virtio-pci");
        Ok(Vdev { migration: able.then_some(Migration::P2pPreCopy), features: true, ..Vdev::default() })
    }
}
