//! xe-vfio-pci: Intel GPU VFs, migration through the PF. The driver's name has hyphens, its module's has not.

use crate::host::fake::vfio::{Function, Migration, PfChannel, Variant, Vdev};
use crate::model::Errno;

/// `xe-vfio-pci`.
#[derive(Debug)]
pub struct Xe;

/// Panther Lake, Wildcat Lake and Battlemage.
///
/// # Kernel
/// `include/drm/intel/pciids.h` `INTEL_PTL_IDS`, `INTEL_WCL_IDS`, `INTEL_BMG_IDS` (7.2).
const IDS: [(u16, u16); 27] = [
    (0x8086, 0xb080),
    (0x8086, 0xb081),
    (0x8086, 0xb082),
    (0x8086, 0xb083),
    (0x8086, 0xb084),
    (0x8086, 0xb085),
    (0x8086, 0xb086),
    (0x8086, 0xb087),
    (0x8086, 0xb08f),
    (0x8086, 0xb090),
    (0x8086, 0xb0a0),
    (0x8086, 0xb0b0),
    (0x8086, 0xfd80),
    (0x8086, 0xfd81),
    (0x8086, 0xe202),
    (0x8086, 0xe209),
    (0x8086, 0xe20b),
    (0x8086, 0xe20c),
    (0x8086, 0xe20d),
    (0x8086, 0xe210),
    (0x8086, 0xe211),
    (0x8086, 0xe212),
    (0x8086, 0xe216),
    (0x8086, 0xe220),
    (0x8086, 0xe221),
    (0x8086, 0xe222),
    (0x8086, 0xe223),
];

impl Variant for Xe {
    fn driver(&self) -> &'static str {
        "xe-vfio-pci"
    }

    fn module(&self) -> &'static str {
        "xe_vfio_pci"
    }

    fn ids(&self) -> &'static [(u16, u16)] {
        &IDS
    }

    fn needs(&self) -> &'static [&'static str] {
        &["xe"]
    }

    /// A PF is a plain device; a VF whose PF is not on xe is refused with `ENODEV`.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/xe/main.c` `xe_vfio_pci_vf_init()`, `drivers/gpu/drm/xe/xe_sriov_vfio.c`
    /// `xe_sriov_vfio_get_pf()` (7.2).
    fn init(&self, function: &Function, pf: &PfChannel) -> Result<Vdev, Errno> {
        let mut vdev = Vdev { features: true, ..Vdev::default() };
        if function.vf.is_some() {
            if !pf.is_on("xe") {
                return Err(Errno::ENODEV);
            }
            vdev.migration = Some(Migration::P2p);
        }
        Ok(vdev)
    }
}
