//! An open VFIO device: what [`group::device_fd`](crate::group::device_fd) gave, or a cdev that is bound.

use std::os::fd::BorrowedFd;

use crate::layout::layout;
use crate::{Result, call, opcode};

bitflags::bitflags! {
    /// What a device is and can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct DeviceFlags: u32 {
        /// [`reset`] works.
        #[doc(alias = "VFIO_DEVICE_FLAGS_RESET")]
        const RESET = 1 << 0;
        /// A device of vfio-pci or one of its variants, or an mdev that looks like one.
        #[doc(alias = "VFIO_DEVICE_FLAGS_PCI")]
        const PCI = 1 << 1;
        /// A device of vfio-platform.
        #[doc(alias = "VFIO_DEVICE_FLAGS_PLATFORM")]
        const PLATFORM = 1 << 2;
        /// A device of vfio-amba.
        #[doc(alias = "VFIO_DEVICE_FLAGS_AMBA")]
        const AMBA = 1 << 3;
        /// A device of vfio-ccw.
        #[doc(alias = "VFIO_DEVICE_FLAGS_CCW")]
        const CCW = 1 << 4;
        /// A device of vfio-ap.
        #[doc(alias = "VFIO_DEVICE_FLAGS_AP")]
        const AP = 1 << 5;
        /// A device of vfio-fsl-mc.
        #[doc(alias = "VFIO_DEVICE_FLAGS_FSL_MC")]
        const FSL_MC = 1 << 6;
        /// There are capabilities, which [`info`] does not read.
        #[doc(alias = "VFIO_DEVICE_FLAGS_CAPS")]
        const CAPS = 1 << 7;
        /// A device of vfio-cdx.
        #[doc(alias = "VFIO_DEVICE_FLAGS_CDX")]
        const CDX = 1 << 8;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

/// What a device says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// What it is and can do.
    pub flags: DeviceFlags,
    /// The highest region index plus one; regions in between may be empty.
    pub num_regions: u32,
    /// The highest IRQ index plus one; an index in between may have no interrupt.
    pub num_irqs: u32,
}

/// `struct vfio_device_info`.
///
/// Kernels fill what they know of it: `cap_offset` is younger than the rest, and `pad` than that.
#[repr(C)]
struct DeviceInfo {
    argsz: u32,
    flags: u32,
    num_regions: u32,
    num_irqs: u32,
    cap_offset: u32,
    pad: u32,
}
layout!(DeviceInfo is "vfio_device_info", 24 bytes {
    argsz at 0, flags at 4, num_regions at 8, num_irqs at 12, cap_offset at 16, pad at 20,
});
#[cfg(test)]
pub(crate) const LAYOUT: crate::layout::Layout = DeviceInfo::LAYOUT;

/// `VFIO_DEVICE_GET_INFO`: reads what the device is, and how many regions and interrupts it has.
///
/// Wakes the device when it sleeps.
///
/// # Errors
/// `EINVAL` a cdev that is not bound · `EIO` the device does not wake up · the driver's own · `ENOTTY` not a VFIO device.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_device_fops_unl_ioctl()`; `drivers/vfio/pci/vfio_pci_core.c`
/// `vfio_pci_ioctl_get_info()` (7.2).
#[doc(alias = "VFIO_DEVICE_GET_INFO")]
pub fn info(device: BorrowedFd<'_>) -> Result<Info> {
    let mut info = DeviceInfo { argsz: DeviceInfo::SIZE, flags: 0, num_regions: 0, num_irqs: 0, cap_offset: 0, pad: 0 };
    // SAFETY: the kernel reads and writes at most `argsz` bytes, which is all of the structure, before it returns; any
    // number is a `u32`. Capabilities that do not fit are left out, and `argsz` then holds what they would need.
    unsafe { call::structure::<{ opcode::DEVICE_GET_INFO }, _>(device, &mut info) }?;
    Ok(Info {
        flags: DeviceFlags::from_bits_retain(info.flags),
        num_regions: info.num_regions,
        num_irqs: info.num_irqs,
    })
}

/// `VFIO_DEVICE_RESET`: resets the device, and loses all that was in it.
///
/// # Errors
/// `EINVAL` it cannot be reset alone ([`DeviceFlags::RESET`] is missing), or a cdev that is not bound · `EAGAIN` somebody
/// resets it or holds its lock · `EIO` it does not wake up · the driver's own · `ENOTTY` not a VFIO device.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_reset()` (7.2).
#[doc(alias = "VFIO_DEVICE_RESET")]
pub fn reset(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the kernel takes no argument.
    unsafe { call::number::<{ opcode::DEVICE_RESET }>(device, 0) }.map(drop)
}
