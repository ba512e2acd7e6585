//! The page tables of the hardware, which know what devices have written; and what the hardware can.

use std::os::fd::BorrowedFd;

use super::ObjectId;
use crate::dma_logging::{IovaRange, address, room};
use crate::layout::layout;
use crate::{Result, call, opcode};

/// `struct iommu_hwpt_alloc`.
#[repr(C)]
struct HwptAlloc {
    size: u32,
    flags: u32,
    dev_id: u32,
    pt_id: u32,
    out_hwpt_id: u32,
    __reserved: u32,
    data_type: u32,
    data_len: u32,
    data_uptr: u64,
    fault_id: u32,
    __reserved2: u32,
}
layout!(HwptAlloc is "iommu_hwpt_alloc", 48 bytes {
    size at 0, flags at 4, dev_id at 8, pt_id at 12, out_hwpt_id at 16, __reserved at 20, data_type at 24, data_len at 28,
    data_uptr at 32, fault_id at 40, __reserved2 at 44,
});

/// `struct iommu_hw_info`, its union by the name that is written.
#[repr(C)]
struct HwInfoCall {
    size: u32,
    flags: u32,
    dev_id: u32,
    data_len: u32,
    data_uptr: u64,
    out_data_type: u32,
    out_max_pasid_log2: u8,
    __reserved: [u8; 3],
    out_capabilities: u64,
}
layout!(HwInfoCall is "iommu_hw_info", 40 bytes {
    size at 0, flags at 4, dev_id at 8, data_len at 12, data_uptr at 16, out_data_type at 24, out_max_pasid_log2 at 28,
    __reserved at 29, out_capabilities at 32,
});

/// `struct iommu_hwpt_set_dirty_tracking`.
#[repr(C)]
struct SetDirtyTracking {
    size: u32,
    flags: u32,
    hwpt_id: u32,
    __reserved: u32,
}
layout!(SetDirtyTracking is "iommu_hwpt_set_dirty_tracking", 16 bytes {
    size at 0, flags at 4, hwpt_id at 8, __reserved at 12,
});

/// `struct iommu_hwpt_get_dirty_bitmap`.
#[repr(C)]
struct GetDirtyBitmap {
    size: u32,
    hwpt_id: u32,
    flags: u32,
    __reserved: u32,
    iova: u64,
    length: u64,
    page_size: u64,
    data: u64,
}
layout!(GetDirtyBitmap is "iommu_hwpt_get_dirty_bitmap", 48 bytes {
    size at 0, hwpt_id at 4, flags at 8, __reserved at 12, iova at 16, length at 24, page_size at 32, data at 40,
});

#[cfg(test)]
pub(super) const LAYOUTS: [crate::layout::Layout; 4] =
    [HwptAlloc::LAYOUT, HwInfoCall::LAYOUT, SetDirtyTracking::LAYOUT, GetDirtyBitmap::LAYOUT];

bitflags::bitflags! {
    /// What the page table is made for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct HwptFlags: u32 {
        /// Others are nested in it.
        #[doc(alias = "IOMMU_HWPT_ALLOC_NEST_PARENT")]
        const NEST_PARENT = 1 << 0;
        /// It knows what devices have written; only devices whose IOMMU can tell are attached to it.
        #[doc(alias = "IOMMU_HWPT_ALLOC_DIRTY_TRACKING")]
        const DIRTY_TRACKING = 1 << 1;
        /// It is used with PASIDs.
        #[doc(alias = "IOMMU_HWPT_ALLOC_PASID")]
        const PASID = 1 << 3;
    }

    /// What the IOMMU in front of a device can.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct HwCapabilities: u64 {
        /// It can tell what the device has written.
        #[doc(alias = "IOMMU_HW_CAP_DIRTY_TRACKING")]
        const DIRTY_TRACKING = 1 << 0;
        /// With PASIDs: the permission to execute.
        #[doc(alias = "IOMMU_HW_CAP_PCI_PASID_EXEC")]
        const PCI_PASID_EXEC = 1 << 1;
        /// With PASIDs: privileged mode.
        #[doc(alias = "IOMMU_HW_CAP_PCI_PASID_PRIV")]
        const PCI_PASID_PRIV = 1 << 2;
        /// ATS cannot be used.
        #[doc(alias = "IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED")]
        const PCI_ATS_NOT_SUPPORTED = 1 << 3;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

/// The IOMMU in front of a device.
#[doc(alias = "iommu_hw_info")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HwInfo {
    /// Which kind: `IOMMU_HW_INFO_TYPE_INTEL_VTD` 1, `ARM_SMMUV3` 2, `AMD` 4; 0 is one that does not say.
    pub kind: u32,
    /// The logarithm of how many PASIDs the device has; 0 without.
    pub max_pasid_log2: u8,
    /// What it can.
    pub capabilities: HwCapabilities,
}

/// `IOMMU_GET_HW_INFO`: reads what the IOMMU in front of a bound device can. Its registers are not asked for.
///
/// # Errors
/// `ENOENT` no such device · `EOPNOTSUPP` the IOMMU driver does not say, on older kernels · `ENOTTY` not an iommufd. Of an
/// emulated device (mdev) there is no id to ask by: `ENOENT`.
///
/// # Kernel
/// `drivers/iommu/iommufd/device.c` `iommufd_get_hw_info()` (7.2).
#[doc(alias = "IOMMU_GET_HW_INFO")]
pub fn hw_info(iommufd: BorrowedFd<'_>, device: ObjectId) -> Result<HwInfo> {
    let mut info = HwInfoCall {
        size: HwInfoCall::SIZE,
        flags: 0,
        dev_id: device.0,
        data_len: 0,
        data_uptr: 0,
        out_data_type: 0,
        out_max_pasid_log2: 0,
        __reserved: [0; 3],
        out_capabilities: 0,
    };
    // SAFETY: the kernel reads and writes the 40 bytes of the structure before it returns, and none at `data_uptr`, for
    // `data_len` is 0; any number is one.
    unsafe { call::structure::<{ opcode::IOMMU_GET_HW_INFO }, _>(iommufd, &mut info) }?;
    Ok(HwInfo {
        kind: info.out_data_type,
        max_pasid_log2: info.out_max_pasid_log2,
        capabilities: HwCapabilities::from_bits_retain(info.out_capabilities),
    })
}

/// `IOMMU_HWPT_ALLOC`: makes the page table of an IOAS for a device, and gives its id. The device is not attached.
///
/// # Errors
/// `ENOENT` no such device · `EINVAL` no such IOAS · `EOPNOTSUPP` the IOMMU cannot do what `flags` wants · the IOMMU driver's
/// own · `ENOTTY` not an iommufd.
///
/// # Kernel
/// `drivers/iommu/iommufd/hw_pagetable.c` `iommufd_hwpt_alloc()`, `iommufd_hwpt_paging_alloc()` (7.2).
#[doc(alias = "IOMMU_HWPT_ALLOC")]
pub fn alloc(iommufd: BorrowedFd<'_>, device: ObjectId, ioas: ObjectId, flags: HwptFlags) -> Result<ObjectId> {
    let mut alloc = HwptAlloc {
        size: HwptAlloc::SIZE,
        flags: flags.bits(),
        dev_id: device.0,
        pt_id: ioas.0,
        out_hwpt_id: 0,
        __reserved: 0,
        data_type: 0,
        data_len: 0,
        data_uptr: 0,
        fault_id: 0,
        __reserved2: 0,
    };
    // SAFETY: the kernel reads and writes the 48 bytes of the structure before it returns, and nothing at `data_uptr`, for
    // `data_len` is 0; any number is one.
    unsafe { call::structure::<{ opcode::IOMMU_HWPT_ALLOC }, _>(iommufd, &mut alloc) }?;
    Ok(ObjectId(alloc.out_hwpt_id))
}

pub(crate) const DIRTY_TRACKING_ENABLE: u32 = 1;
pub(crate) const DIRTY_BITMAP_NO_CLEAR: u32 = 1;

/// Whether a page table knows what devices have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// It does not.
    Off,
    /// It does, from now on.
    On,
}

/// `IOMMU_HWPT_SET_DIRTY_TRACKING`: has a page table know what devices have written, or not.
///
/// # Errors
/// `ENOENT` no such page table, or something else · `EOPNOTSUPP` it was not made with
/// [`HwptFlags::DIRTY_TRACKING`] · the IOMMU driver's own · `ENOTTY` not an iommufd.
///
/// # Kernel
/// `drivers/iommu/iommufd/hw_pagetable.c` `iommufd_hwpt_set_dirty_tracking()`; `io_pagetable.c`
/// `iopt_set_dirty_tracking()` (7.2).
#[doc(alias = "IOMMU_HWPT_SET_DIRTY_TRACKING")]
pub fn set_dirty_tracking(iommufd: BorrowedFd<'_>, hwpt: ObjectId, tracking: Tracking) -> Result<()> {
    let flags = if tracking == Tracking::On { DIRTY_TRACKING_ENABLE } else { 0 };
    let mut set = SetDirtyTracking { size: SetDirtyTracking::SIZE, flags, hwpt_id: hwpt.0, __reserved: 0 };
    // SAFETY: the kernel reads the 16 bytes of the structure before it returns, and writes nothing.
    unsafe { call::structure::<{ opcode::IOMMU_HWPT_SET_DIRTY_TRACKING }, _>(iommufd, &mut set) }.map(drop)
}

/// Whether what was read is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is.
    Forget,
    /// It is told again; for a range that is unmapped next, where clearing is in vain.
    Keep,
}

/// `IOMMU_HWPT_GET_DIRTY_BITMAP`: reads which pages of a mapped range were written: a bit for each page of `page_size` bytes,
/// the lowest bit of the first number first.
///
/// # Errors
/// `ENOENT` no such page table, or something else · `EINVAL` not of whole pages, no power of two, or a part is not mapped; it
/// knows nothing · `EOVERFLOW` the range ends beyond the last address · `EOPNOTSUPP` it was not made with
/// [`HwptFlags::DIRTY_TRACKING`] · `ENOTTY` not an iommufd.
///
/// # Kernel
/// `drivers/iommu/iommufd/hw_pagetable.c` `iommufd_hwpt_get_dirty_bitmap()`; `io_pagetable.c`
/// `iopt_read_and_clear_dirty_data()` (7.2).
#[doc(alias = "IOMMU_HWPT_GET_DIRTY_BITMAP")]
pub fn dirty_bitmap(
    iommufd: BorrowedFd<'_>,
    hwpt: ObjectId,
    range: IovaRange,
    page_size: u64,
    then: Then,
) -> Result<Vec<u64>> {
    let mut bitmap = room(range, page_size)?;
    let mut get = GetDirtyBitmap {
        size: GetDirtyBitmap::SIZE,
        hwpt_id: hwpt.0,
        flags: if then == Then::Keep { DIRTY_BITMAP_NO_CLEAR } else { 0 },
        __reserved: 0,
        iova: range.iova,
        length: range.length,
        page_size,
        data: address(bitmap.as_mut_ptr().cast_const()),
    };
    // SAFETY: the kernel reads the 48 bytes of the structure, and sets bits at `data`, one for each page of the range, which
    // are there for as long.
    unsafe { call::structure::<{ opcode::IOMMU_HWPT_GET_DIRTY_BITMAP }, _>(iommufd, &mut get) }?;
    Ok(bitmap)
}
