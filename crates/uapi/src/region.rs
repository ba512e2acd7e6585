//! The regions of an open VFIO device, by index: for vfio-pci 0 to 5 are the BARs.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags};

use crate::layout::layout;
use crate::{Errno, Result, call, opcode};

bitflags::bitflags! {
    /// What can be done with a region.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct RegionFlags: u32 {
        /// It can be read.
        #[doc(alias = "VFIO_REGION_INFO_FLAG_READ")]
        const READ = 1 << 0;
        /// It can be written.
        #[doc(alias = "VFIO_REGION_INFO_FLAG_WRITE")]
        const WRITE = 1 << 1;
        /// It can be mapped.
        #[doc(alias = "VFIO_REGION_INFO_FLAG_MMAP")]
        const MMAP = 1 << 2;
        /// There are capabilities, which [`info`] does not read.
        #[doc(alias = "VFIO_REGION_INFO_FLAG_CAPS")]
        const CAPS = 1 << 3;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

/// What a device says of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// What can be done with it.
    pub flags: RegionFlags,
    /// In bytes; zero when the device has no such region.
    pub size: u64,
    /// Where it begins in the device's file, in bytes.
    pub offset: u64,
}

/// `struct vfio_region_info`.
#[repr(C)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}
layout!(RegionInfo is "vfio_region_info", 32 bytes {
    argsz at 0, flags at 4, index at 8, cap_offset at 12, size at 16, offset at 24,
});
#[cfg(test)]
pub(crate) const LAYOUT: crate::layout::Layout = RegionInfo::LAYOUT;

/// `VFIO_DEVICE_GET_REGION_INFO`: reads how large a region is, where it lies in the file, and what can be done with it.
///
/// # Errors
/// `EINVAL` no such index, or a cdev that is not bound · `ENOTTY` not a VFIO device.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_get_region_info()` (7.2).
#[doc(alias = "VFIO_DEVICE_GET_REGION_INFO")]
pub fn info(device: BorrowedFd<'_>, index: u32) -> Result<Info> {
    let mut info = RegionInfo { argsz: RegionInfo::SIZE, flags: 0, index, cap_offset: 0, size: 0, offset: 0 };
    // SAFETY: the kernel reads and writes at most `argsz` bytes, which is all of the structure, before it returns; any
    // number is a `u32` or a `u64`. Capabilities that do not fit are left out.
    unsafe { call::structure::<{ opcode::DEVICE_GET_REGION_INFO }, _>(device, &mut info) }?;
    Ok(Info { flags: RegionFlags::from_bits_retain(info.flags), size: info.size, offset: info.offset })
}

/// A mapped region, unmapped when it is dropped. It keeps the device open by itself, with every descriptor closed.
///
/// Nothing reads or writes through it: to hold the device, and to be seen in `/proc/self/maps`, is what it is for.
#[derive(Debug)]
pub struct Mapping {
    at: NonNull<c_void>,
    length: NonZeroUsize,
}

/// `mmap` of a region: maps all of it for reading, shared.
///
/// # Errors
/// `EINVAL` the device has no such region, or it cannot be mapped · `EBUSY` somebody else claims the BAR · `ENODEV` not a
/// file that can be mapped.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_mmap()` (7.2).
pub fn map(device: BorrowedFd<'_>, region: &Info) -> Result<Mapping> {
    let length = usize::try_from(region.size).ok().and_then(NonZeroUsize::new).ok_or(Errno::INVAL)?;
    // SAFETY: the kernel chooses a place where nothing is mapped, and the address goes nowhere but to `munmap`: no
    // reference is made of it, so what the device does with the memory behind it concerns nobody here.
    let at = unsafe {
        rustix::mm::mmap(ptr::null_mut(), length.get(), ProtFlags::READ, MapFlags::SHARED, device, region.offset)
    }?;
    Ok(Mapping { at: NonNull::new(at).ok_or(Errno::FAULT)?, length })
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `map` mapped exactly this, nothing else knows the address, and it is dropped once.
        let unmapped = unsafe { rustix::mm::munmap(self.at.as_ptr(), self.length.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of what mmap gave");
    }
}
