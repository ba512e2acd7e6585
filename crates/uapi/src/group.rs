//! `/dev/vfio/12`: an IOMMU group.
//!
//! The kernel lets a group node be open once. The file is the group's tie to its container: closing it, and every device
//! opened from it, gives both back.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::path::Arg;

use crate::layout::layout;
use crate::{Result, call, opcode};

bitflags::bitflags! {
    /// What the kernel says of a group.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct GroupFlags: u32 {
        /// No member has a driver that does DMA for the kernel, and no other user owns the group; or it has a container.
        #[doc(alias = "VFIO_GROUP_FLAGS_VIABLE")]
        const VIABLE = 1 << 0;
        /// The group is set to a container, or to an iommufd.
        #[doc(alias = "VFIO_GROUP_FLAGS_CONTAINER_SET")]
        const CONTAINER_SET = 1 << 1;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

/// `struct vfio_group_status`.
#[repr(C)]
struct Status {
    argsz: u32,
    flags: u32,
}
layout!(Status is "vfio_group_status", 8 bytes { argsz at 0, flags at 4 });
#[cfg(test)]
pub(crate) const LAYOUT: crate::layout::Layout = Status::LAYOUT;

/// `VFIO_GROUP_GET_STATUS`: reads whether the group is viable, and whether it has a container.
///
/// With an iommufd as its container the group is owned only when a device is opened: it may say viable, and
/// [`device_fd`] still answer `EPERM`.
///
/// # Errors
/// `ENODEV` the last device of the group is gone · `ENOTTY` not a group.
///
/// # Kernel
/// `drivers/vfio/group.c` `vfio_group_ioctl_get_status()` (7.2).
#[doc(alias = "VFIO_GROUP_GET_STATUS")]
pub fn status(group: BorrowedFd<'_>) -> Result<GroupFlags> {
    let mut status = Status { argsz: Status::SIZE, flags: 0 };
    // SAFETY: the kernel reads and writes `struct vfio_group_status`, 8 bytes, before it returns; any number is a `u32`.
    unsafe { call::structure::<{ opcode::GROUP_GET_STATUS }, _>(group, &mut status) }?;
    Ok(GroupFlags::from_bits_retain(status.flags))
}

/// `VFIO_GROUP_SET_CONTAINER`: sets the group to a container, and with that claims the DMA of all its devices.
///
/// The group keeps the container alive; closing the container's descriptor afterwards takes nothing away. An iommufd may
/// stand in for the container; then nothing is claimed before [`device_fd`].
///
/// # Errors
/// `EPERM` the group is not viable, or unsafe no-IOMMU groups would mix with real ones, or lack `CAP_SYS_RAWIO` · `EINVAL`
/// it has a container, or firmware wants a 1:1 mapping for a member · `EBUSY` the kernel itself uses another IOMMU domain
/// for the group · `EBADFD` neither container nor iommufd · `ENODEV` the last device of the group is gone · `ENOTTY` not a
/// group.
///
/// # Kernel
/// `drivers/vfio/group.c` `vfio_group_ioctl_set_container()`; `drivers/vfio/container.c`
/// `vfio_container_attach_group()`; `drivers/iommu/iommu.c` `iommu_group_claim_dma_owner()` (7.2).
#[doc(alias = "VFIO_GROUP_SET_CONTAINER")]
pub fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<()> {
    let mut fd = container.as_raw_fd();
    // SAFETY: the kernel reads one `int` before it returns, and writes nothing; the descriptor is open for as long.
    unsafe { call::structure::<{ opcode::GROUP_SET_CONTAINER }, _>(group, &mut fd) }.map(drop)
}

/// `VFIO_GROUP_UNSET_CONTAINER`: takes the group out of its container and gives its DMA back. The last group to leave takes
/// the container's IOMMU and all mappings with it.
///
/// # Errors
/// `EBUSY` a device of the group is open · `EINVAL` it has no container · `ENOTTY` not a group.
///
/// # Kernel
/// `drivers/vfio/group.c` `vfio_group_ioctl_unset_container()` (7.2).
#[doc(alias = "VFIO_GROUP_UNSET_CONTAINER")]
pub fn unset_container(group: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the kernel takes no argument.
    unsafe { call::number::<{ opcode::GROUP_UNSET_CONTAINER }>(group, 0) }.map(drop)
}

/// `VFIO_GROUP_GET_DEVICE_FD`: opens a device of the group, by the name that its bus gives it: `0000:3b:00.2`.
///
/// The first open of a vfio-pci device resets it. The device keeps the group open and in its container. vfio-pci takes
/// ` vf_token=` and a UUID after the name, where a PF and its VF have different users. The descriptor is close-on-exec.
///
/// # Errors
/// `ENODEV` the group has no such VFIO device, or it is being unbound · `EINVAL` the group has no container, or that no
/// IOMMU; what follows the name is not understood, or is a VF token that the device has no use for; the name holds a NUL
/// or is longer than a page · `EACCES` a VF token is wanted, or this is not it · `EAGAIN` somebody resets the device or
/// holds its lock · `EPERM` not viable, with an iommufd as container; or no-IOMMU without `CAP_SYS_RAWIO` · the driver's
/// own · `ENOTTY` not a group.
///
/// # Kernel
/// `drivers/vfio/group.c` `vfio_group_ioctl_get_device_fd()`, `vfio_df_group_open()`; `drivers/vfio/pci/vfio_pci_core.c`
/// `vfio_pci_core_match()`, `vfio_pci_core_enable()` (7.2).
#[doc(alias = "VFIO_GROUP_GET_DEVICE_FD")]
pub fn device_fd(group: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    name.into_with_c_str(|name| {
        // SAFETY: the kernel copies the text up to its NUL before it returns (`strndup_user()`), and writes nothing.
        let fd = unsafe { call::text::<{ opcode::GROUP_GET_DEVICE_FD }>(group, name) }?;
        // SAFETY: what a group returns here is a descriptor that the kernel made for this call, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}
