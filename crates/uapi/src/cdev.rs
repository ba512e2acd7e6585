//! `/dev/vfio/devices/vfio3`: a VFIO device by its own node, made usable by an iommufd.
//!
//! Opening the node claims nothing, and until the device is bound every other call on it answers `EINVAL`. Afterwards
//! the calls of [`device`](crate::device) hold. Closing the last descriptor detaches and unbinds.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::iommufd::ObjectId;
use crate::layout::layout;
use crate::{Result, call, opcode};

/// `struct vfio_device_bind_iommufd`.
///
/// Kernels before the VF token know the first 16 bytes, and take the longer one as it is while its tail is zero.
#[repr(C)]
struct BindIommufd {
    argsz: u32,
    flags: u32,
    iommufd: i32,
    out_devid: u32,
    token_uuid_ptr: u64,
}
layout!(BindIommufd is "vfio_device_bind_iommufd", 24 bytes {
    argsz at 0, flags at 4, iommufd at 8, out_devid at 12, token_uuid_ptr at 16,
});

/// `struct vfio_device_attach_iommufd_pt`.
#[repr(C)]
struct AttachIommufdPt {
    argsz: u32,
    flags: u32,
    pt_id: u32,
    pasid: u32,
}
layout!(AttachIommufdPt is "vfio_device_attach_iommufd_pt", 16 bytes {
    argsz at 0, flags at 4, pt_id at 8, pasid at 12,
});

/// `struct vfio_device_detach_iommufd_pt`.
#[repr(C)]
struct DetachIommufdPt {
    argsz: u32,
    flags: u32,
    pasid: u32,
}
layout!(DetachIommufdPt is "vfio_device_detach_iommufd_pt", 12 bytes { argsz at 0, flags at 4, pasid at 8 });

#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 3] =
    [BindIommufd::LAYOUT, AttachIommufdPt::LAYOUT, DetachIommufdPt::LAYOUT];

/// `VFIO_DEVICE_BIND_IOMMUFD`: binds the device to an iommufd, which claims the DMA of its IOMMU group, opens it, and
/// gives the id that the iommufd knows it by.
///
/// Opening resets a vfio-pci device. Several devices of one group may be bound to the same iommufd. The device keeps the
/// iommufd alive. No VF token is passed: [`bind_iommufd_with_token`] does.
///
/// # Errors
/// `EPERM` the group is not viable or has another owner, or its interrupts are not isolated and `allow_unsafe_interrupts`
/// of iommufd is off · `EBUSY` the group's node is open · `EINVAL` the device is bound, or open elsewhere; the IOMMU is not
/// cache-coherent; firmware wants a 1:1 mapping; the descriptor is a device opened by its group · `EACCES` a VF token is
/// wanted · `EAGAIN` somebody resets the device or holds its lock · `EBADFD` not an iommufd · `ENODEV` the device has no
/// IOMMU group · the driver's own · `ENOTTY` not a VFIO device, or a kernel without `CONFIG_VFIO_DEVICE_CDEV`.
///
/// # Kernel
/// `drivers/vfio/device_cdev.c` `vfio_df_ioctl_bind_iommufd()`; `drivers/vfio/vfio_main.c` `vfio_df_open()`;
/// `drivers/iommu/iommufd/device.c` `iommufd_device_bind()` (7.2).
#[doc(alias = "VFIO_DEVICE_BIND_IOMMUFD")]
pub fn bind_iommufd(cdev: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<ObjectId> {
    bind(cdev, iommufd, (0, 0))
}

pub(crate) const BIND_FLAG_TOKEN: u32 = 1 << 0;

/// `VFIO_DEVICE_BIND_IOMMUFD` with a VF token: a UUID in the order in which it is spelled, as
/// [`set_vf_token`](crate::feature::set_vf_token) gave it to the PF.
///
/// # Errors
/// As of [`bind_iommufd`]; `EACCES` it is another token · `EINVAL` also a device that has no use for one, and older kernels,
/// 6.12 among them, which know no token here.
///
/// # Kernel
/// As of [`bind_iommufd`]; `drivers/vfio/device_cdev.c` `vfio_df_check_token()` (7.2).
#[doc(alias = "VFIO_DEVICE_BIND_FLAG_TOKEN")]
pub fn bind_iommufd_with_token(cdev: BorrowedFd<'_>, iommufd: BorrowedFd<'_>, token: &[u8; 16]) -> Result<ObjectId> {
    bind(cdev, iommufd, (BIND_FLAG_TOKEN, crate::dma_logging::address(token.as_ptr())))
}

/// Binds; with the flag, the address is of 16 bytes.
fn bind(cdev: BorrowedFd<'_>, iommufd: BorrowedFd<'_>, (flags, token_uuid_ptr): (u32, u64)) -> Result<ObjectId> {
    let mut bind =
        BindIommufd { argsz: BindIommufd::SIZE, flags, iommufd: iommufd.as_raw_fd(), out_devid: 0, token_uuid_ptr };
    // SAFETY: the kernel reads `argsz` bytes, which is all of the structure, and writes `out_devid` before it returns; any
    // number is a `u32`. It follows `token_uuid_ptr` only when `flags` says so, and then reads 16 bytes that are there.
    unsafe { call::structure::<{ opcode::DEVICE_BIND_IOMMUFD }, _>(cdev, &mut bind) }?;
    Ok(ObjectId(bind.out_devid))
}

/// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`: attaches a bound device to an IOAS or an HWPT of its iommufd, and gives the id of the
/// HWPT, which is the one given or one that the kernel made for the IOAS.
///
/// A device that is attached changes over without a gap; when that fails it stays where it was.
///
/// # Errors
/// `ENOENT` the iommufd has no such object · `EINVAL` it is neither IOAS nor HWPT, or does not fit the device's IOMMU; the
/// device is not bound · `EADDRINUSE` something is mapped where the device can have nothing, such as its interrupts ·
/// `EBUSY` a device of the group is being reset · the IOMMU driver's own · `ENOTTY` not a cdev.
///
/// # Kernel
/// `drivers/vfio/device_cdev.c` `vfio_df_ioctl_attach_pt()`; `drivers/iommu/iommufd/device.c`
/// `iommufd_device_change_pt()` (7.2).
#[doc(alias = "VFIO_DEVICE_ATTACH_IOMMUFD_PT")]
pub fn attach(cdev: BorrowedFd<'_>, page_table: ObjectId) -> Result<ObjectId> {
    let mut attach = AttachIommufdPt { argsz: AttachIommufdPt::SIZE, flags: 0, pt_id: page_table.0, pasid: 0 };
    // SAFETY: the kernel reads at most the 16 bytes of the structure, and writes `pt_id` before it returns; any number is a
    // `u32`.
    unsafe { call::structure::<{ opcode::DEVICE_ATTACH_IOMMUFD_PT }, _>(cdev, &mut attach) }?;
    Ok(ObjectId(attach.pt_id))
}

/// `VFIO_DEVICE_DETACH_IOMMUFD_PT`: detaches a bound device from what it is attached to; its DMA is blocked from then on.
/// No error when it is not attached.
///
/// # Errors
/// `EINVAL` the device is not bound · `ENOTTY` not a cdev.
///
/// # Kernel
/// `drivers/vfio/device_cdev.c` `vfio_df_ioctl_detach_pt()`; `drivers/vfio/iommufd.c`
/// `vfio_iommufd_physical_detach_ioas()` (7.2).
#[doc(alias = "VFIO_DEVICE_DETACH_IOMMUFD_PT")]
pub fn detach(cdev: BorrowedFd<'_>) -> Result<()> {
    let mut detach = DetachIommufdPt { argsz: DetachIommufdPt::SIZE, flags: 0, pasid: 0 };
    // SAFETY: the kernel reads at most the 12 bytes of the structure before it returns, and writes nothing.
    unsafe { call::structure::<{ opcode::DEVICE_DETACH_IOMMUFD_PT }, _>(cdev, &mut detach) }.map(drop)
}
