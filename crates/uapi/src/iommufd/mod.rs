//! `/dev/iommu`: an iommufd, a room for address spaces and the devices bound to it. Closing the last descriptor, those of
//! bound devices included, destroys all that is in it.

pub mod hwpt;
pub mod ioas;

use std::os::fd::BorrowedFd;

use crate::layout::layout;
use crate::{Result, call, opcode};

/// An object of an iommufd: an IOAS, an HWPT, a bound device. All are counted in one list, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u32);

/// `struct iommu_destroy`.
#[repr(C)]
struct Destroy {
    size: u32,
    id: u32,
}
layout!(Destroy is "iommu_destroy", 8 bytes { size at 0, id at 4 });

/// `struct iommu_ioas_alloc`.
#[repr(C)]
struct IoasAlloc {
    size: u32,
    flags: u32,
    out_ioas_id: u32,
}
layout!(IoasAlloc is "iommu_ioas_alloc", 12 bytes { size at 0, flags at 4, out_ioas_id at 8 });

#[cfg(test)]
pub(crate) fn layouts() -> Vec<crate::layout::Layout> {
    let mut all = vec![Destroy::LAYOUT, IoasAlloc::LAYOUT];
    all.extend(ioas::LAYOUTS);
    all.extend(hwpt::LAYOUTS);
    all
}

/// `IOMMU_IOAS_ALLOC`: makes an IOAS, an address space without a mapping, and gives its id.
///
/// # Errors
/// `ENOMEM` · `ENOTTY` not an iommufd.
///
/// # Kernel
/// `drivers/iommu/iommufd/ioas.c` `iommufd_ioas_alloc_ioctl()` (7.2).
#[doc(alias = "IOMMU_IOAS_ALLOC")]
pub fn ioas_alloc(iommufd: BorrowedFd<'_>) -> Result<ObjectId> {
    let mut alloc = IoasAlloc { size: IoasAlloc::SIZE, flags: 0, out_ioas_id: 0 };
    // SAFETY: the kernel reads `size` bytes, which is all of the structure, and writes no more of it before it returns; any
    // number is a `u32`.
    unsafe { call::structure::<{ opcode::IOMMU_IOAS_ALLOC }, _>(iommufd, &mut alloc) }?;
    Ok(ObjectId(alloc.out_ioas_id))
}

/// `IOMMU_DESTROY`: destroys an object that nothing uses.
///
/// # Errors
/// `ENOENT` no such object · `EBUSY` it is in use: a device is attached to it, or it is a bound device · `ENOTTY` not an
/// iommufd.
///
/// # Kernel
/// `drivers/iommu/iommufd/main.c` `iommufd_destroy()`, `iommufd_object_remove()` (7.2).
#[doc(alias = "IOMMU_DESTROY")]
pub fn destroy(iommufd: BorrowedFd<'_>, object: ObjectId) -> Result<()> {
    let mut destroy = Destroy { size: Destroy::SIZE, id: object.0 };
    // SAFETY: the kernel reads `size` bytes, which is all of the structure, before it returns, and writes nothing.
    unsafe { call::structure::<{ opcode::IOMMU_DESTROY }, _>(iommufd, &mut destroy) }.map(drop)
}
