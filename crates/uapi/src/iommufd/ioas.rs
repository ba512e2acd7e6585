//! Address spaces: which addresses there are, and what is mapped there.

use std::os::fd::BorrowedFd;

use super::ObjectId;
use crate::dma_logging::{IovaRange, address};
use crate::layout::layout;
use crate::memory::Memory;
use crate::{Errno, Result, call, opcode};

/// `struct iommu_iova_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FirstLast {
    start: u64,
    last: u64,
}
layout!(FirstLast reads "iommu_iova_range", 16 bytes { start at 0, last at 8 });

/// `struct iommu_ioas_iova_ranges`.
#[repr(C)]
struct IovaRanges {
    size: u32,
    ioas_id: u32,
    num_iovas: u32,
    __reserved: u32,
    allowed_iovas: u64,
    out_iova_alignment: u64,
}
layout!(IovaRanges is "iommu_ioas_iova_ranges", 32 bytes {
    size at 0, ioas_id at 4, num_iovas at 8, __reserved at 12, allowed_iovas at 16, out_iova_alignment at 24,
});

/// `struct iommu_ioas_map`.
#[repr(C)]
struct Map {
    size: u32,
    flags: u32,
    ioas_id: u32,
    __reserved: u32,
    user_va: u64,
    length: u64,
    iova: u64,
}
layout!(Map is "iommu_ioas_map", 40 bytes {
    size at 0, flags at 4, ioas_id at 8, __reserved at 12, user_va at 16, length at 24, iova at 32,
});

/// `struct iommu_ioas_unmap`.
#[repr(C)]
struct Unmap {
    size: u32,
    ioas_id: u32,
    iova: u64,
    length: u64,
}
layout!(Unmap is "iommu_ioas_unmap", 24 bytes { size at 0, ioas_id at 4, iova at 8, length at 16 });

/// `struct iommu_vfio_ioas`.
#[repr(C)]
struct VfioIoas {
    size: u32,
    ioas_id: u32,
    op: u16,
    __reserved: u16,
}
layout!(VfioIoas is "iommu_vfio_ioas", 12 bytes { size at 0, ioas_id at 4, op at 8, __reserved at 10 });

#[cfg(test)]
pub(super) const LAYOUTS: [crate::layout::Layout; 5] =
    [FirstLast::LAYOUT, IovaRanges::LAYOUT, Map::LAYOUT, Unmap::LAYOUT, VfioIoas::LAYOUT];

bitflags::bitflags! {
    /// How memory is mapped.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct MapFlags: u32 {
        /// At the address that is given; without this, where the kernel finds room.
        #[doc(alias = "IOMMU_IOAS_MAP_FIXED_IOVA")]
        const FIXED_IOVA = 1 << 0;
        /// Devices may write it.
        #[doc(alias = "IOMMU_IOAS_MAP_WRITEABLE")]
        const WRITEABLE = 1 << 1;
        /// Devices may read it.
        #[doc(alias = "IOMMU_IOAS_MAP_READABLE")]
        const READABLE = 1 << 2;
    }
}

/// The addresses of an IOAS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iovas {
    /// First and last of each range that can be mapped.
    pub ranges: Vec<(u64, u64)>,
    /// Begin and length of a mapping are multiples of this.
    pub alignment: u64,
}

/// `IOMMU_IOAS_IOVA_RANGES`: reads which addresses can be mapped; fewer with every device that is attached.
///
/// # Errors
/// `ENOENT` no such IOAS · `EMSGSIZE` it changes faster than it is read · `ENOTTY` not an iommufd.
///
/// # Kernel
/// `drivers/iommu/iommufd/ioas.c` `iommufd_ioas_iova_ranges()` (7.2).
#[doc(alias = "IOMMU_IOAS_IOVA_RANGES")]
pub fn iova_ranges(iommufd: BorrowedFd<'_>, ioas: ObjectId) -> Result<Iovas> {
    let mut found: Vec<FirstLast> = Vec::new();
    for _ in 0..8 {
        let mut ranges = IovaRanges {
            size: IovaRanges::SIZE,
            ioas_id: ioas.0,
            num_iovas: u32::try_from(found.len()).map_err(|_| Errno::MSGSIZE)?,
            __reserved: 0,
            allowed_iovas: address(found.as_mut_ptr().cast_const()),
            out_iova_alignment: 0,
        };
        // SAFETY: the kernel reads and writes the 32 bytes of the structure, and at most as many ranges as `num_iovas` says,
        // which are there for as long; any numbers are one.
        let asked = unsafe { call::structure::<{ opcode::IOMMU_IOAS_IOVA_RANGES }, _>(iommufd, &mut ranges) };
        let count = usize::try_from(ranges.num_iovas).map_err(|_| Errno::MSGSIZE)?;
        match asked {
            Ok(_) => {
                let ranges_found = found.iter().take(count).map(|range| (range.start, range.last)).collect();
                return Ok(Iovas { ranges: ranges_found, alignment: ranges.out_iova_alignment });
            }
            Err(Errno::MSGSIZE) if count < 1 << 16 => found.resize(count, FirstLast { start: 0, last: 0 }),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::MSGSIZE)
}

/// `IOMMU_IOAS_MAP`: lets the devices that are attached reach memory, and gives the address by which they do. The kernel keeps
/// the pages, and counts them against `RLIMIT_MEMLOCK`, until they are unmapped or the IOAS goes.
///
/// # Errors
/// `ENOENT` no such IOAS · `EINVAL` neither read nor write, or not aligned, or an address that cannot be mapped · `EEXIST` it
/// is mapped · `ENOSPC` no room · `EOVERFLOW` it ends beyond the last address · `ENOMEM` more than `RLIMIT_MEMLOCK` ·
/// `EFAULT` the memory cannot be had · `ENOTTY` not an iommufd.
///
/// # Kernel
/// `drivers/iommu/iommufd/ioas.c` `iommufd_ioas_map()`; `io_pagetable.c` `iopt_map_user_pages()` (7.2).
#[doc(alias = "IOMMU_IOAS_MAP")]
pub fn map(iommufd: BorrowedFd<'_>, ioas: ObjectId, memory: &Memory, flags: MapFlags, iova: u64) -> Result<u64> {
    let (user_va, length) = (memory.address(), memory.length());
    let mut map = Map { size: Map::SIZE, flags: flags.bits(), ioas_id: ioas.0, __reserved: 0, user_va, length, iova };
    // SAFETY: the kernel reads and writes the 40 bytes of the structure before it returns. The memory is referred to by
    // nothing here, and its pages are kept by the kernel for as long as a device may reach them.
    unsafe { call::structure::<{ opcode::IOMMU_IOAS_MAP }, _>(iommufd, &mut map) }?;
    Ok(map.iova)
}

/// All addresses there are, for [`unmap`].
pub const EVERYTHING: IovaRange = IovaRange { iova: 0, length: u64::MAX };

/// `IOMMU_IOAS_UNMAP`: takes all mappings that lie in a range away, and gives how many bytes they were.
///
/// # Errors
/// `ENOENT` no such IOAS, or a mapping would be cut; of older kernels also where nothing is mapped and the range is not
/// [`EVERYTHING`] · `EINVAL` an empty range · `EOVERFLOW` it ends beyond the last address · `ENOTTY` not an iommufd.
///
/// # Kernel
/// `drivers/iommu/iommufd/ioas.c` `iommufd_ioas_unmap()`; `io_pagetable.c` `iopt_unmap_iova_range()` (7.2).
#[doc(alias = "IOMMU_IOAS_UNMAP")]
pub fn unmap(iommufd: BorrowedFd<'_>, ioas: ObjectId, range: IovaRange) -> Result<u64> {
    let mut unmap = Unmap { size: Unmap::SIZE, ioas_id: ioas.0, iova: range.iova, length: range.length };
    // SAFETY: the kernel reads and writes the 24 bytes of the structure before it returns; any number is one.
    unsafe { call::structure::<{ opcode::IOMMU_IOAS_UNMAP }, _>(iommufd, &mut unmap) }?;
    Ok(unmap.length)
}

pub(crate) const VFIO_IOAS_GET: u16 = 0;
pub(crate) const VFIO_IOAS_SET: u16 = 1;
pub(crate) const VFIO_IOAS_CLEAR: u16 = 2;

fn vfio_ioas(iommufd: BorrowedFd<'_>, op: u16, ioas: ObjectId) -> Result<ObjectId> {
    let mut compat = VfioIoas { size: VfioIoas::SIZE, ioas_id: ioas.0, op, __reserved: 0 };
    // SAFETY: the kernel reads and writes the 12 bytes of the structure before it returns; any number is one.
    unsafe { call::structure::<{ opcode::IOMMU_VFIO_IOAS }, _>(iommufd, &mut compat) }?;
    Ok(ObjectId(compat.ioas_id))
}

/// `IOMMU_VFIO_IOAS`, GET: the IOAS that the calls of a container mean, where this iommufd stands in for one.
///
/// # Errors
/// `ENODEV` there is none · `ENOTTY` not an iommufd.
///
/// # Kernel
/// `drivers/iommu/iommufd/vfio_compat.c` `iommufd_vfio_ioas()`, `get_compat_ioas()` (7.2).
#[doc(alias = "IOMMU_VFIO_IOAS_GET")]
pub fn compat(iommufd: BorrowedFd<'_>) -> Result<ObjectId> {
    vfio_ioas(iommufd, VFIO_IOAS_GET, ObjectId(0))
}

/// `IOMMU_VFIO_IOAS`, SET: makes an IOAS the one that the calls of a container mean.
///
/// # Errors
/// `ENOENT` no such IOAS · `ENOTTY` not an iommufd.
///
/// # Kernel
/// As of [`compat`].
#[doc(alias = "IOMMU_VFIO_IOAS_SET")]
pub fn set_compat(iommufd: BorrowedFd<'_>, ioas: ObjectId) -> Result<()> {
    vfio_ioas(iommufd, VFIO_IOAS_SET, ioas).map(drop)
}

/// `IOMMU_VFIO_IOAS`, CLEAR: it stands in for a container no more; no IOAS is destroyed.
///
/// # Errors
/// `ENOTTY` not an iommufd.
///
/// # Kernel
/// As of [`compat`].
#[doc(alias = "IOMMU_VFIO_IOAS_CLEAR")]
pub fn clear_compat(iommufd: BorrowedFd<'_>) -> Result<()> {
    vfio_ioas(iommufd, VFIO_IOAS_CLEAR, ObjectId(0)).map(drop)
}
