//! nvgrace_gpu_vfio_pci: the GPU of NVIDIA's Grace superchips, with its coherent memory as a BAR.

use crate::host::fake::vfio::{Function, PfChannel, Variant, Vdev};
use crate::model::Errno;

/// `nvgrace_gpu_vfio_pci`.
#[derive(Debug)]
pub struct NvGrace;

impl Variant for NvGrace {
    fn driver(&self) -> &'static str {
        "nvgrace_gpu_vfio_pci"
    }

    fn module(&self) -> &'static str {
        "nvgrace_gpu_vfio_pci"
    }

    fn ids(&self) -> &'static [(u16, u16)] {
        &[(0x10de, 0x2342), (0x10de, 0x2345), (0x10de, 0x2348), (0x10de, 0x2941), (0x10de, 0x31c2)]
    }

    /// `ETIME` when the device does not become ready. The kernel waits 30 s, or 256 s for a CXL device; the model takes
    /// the property `not-ready`.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/nvgrace-gpu/main.c` `nvgrace_gpu_probe_check_device_ready()` (7.2).
    fn ready(&self, function: &Function) -> Result<(), Errno> {
        if function.has("not-ready") { Err(Errno::ETIME) } else { Ok(()) }
    }

    /// Without the firmware's memory properties the device is a plain one.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/nvgrace-gpu/main.c` `nvgrace_gpu_probe()`, `nvgrace_gpu_fetch_memory_property()` (7.2).
    fn init(&self, function: &Function, _pf: &PfChannel) -> Result<Vdev, Errno> {
        let mut vdev = Vdev { features: true, caps: vec!["dma-buf"], ..Vdev::default() };
        if function.has("nvidia,gpu-mem-base-pa") && function.has("nvidia,gpu-mem-size") {
            vdev.regions.extend(["gpu-reserved-memory", "gpu-usable-memory"]);
        }
        Ok(vdev)
    }
}
