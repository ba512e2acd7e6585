//! `/dev/vfio/vfio`: the container, an address space for the groups that are set to it.
//!
//! Where the kernel is built with `CONFIG_IOMMUFD_VFIO_CONTAINER`, an iommufd stands behind this node and answers the
//! same calls (`drivers/iommu/iommufd/vfio_compat.c`).

use std::os::fd::BorrowedFd;

use crate::{Result, call, opcode};

/// The only version there has been.
#[doc(alias = "VFIO_API_VERSION")]
pub const API_VERSION: u32 = 0;

/// What a container can be asked for, and the kind of IOMMU that it can be given: the kernel counts both in one list.
///
/// A number and not an enum: the kernel answers for numbers that are not listed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extension(pub u32);

impl Extension {
    /// The first type 1 IOMMU, on which a mapping may be cut.
    #[doc(alias = "VFIO_TYPE1_IOMMU")]
    pub const TYPE1: Self = Self(1);
    /// The IOMMU of `sPAPR` machines.
    #[doc(alias = "VFIO_SPAPR_TCE_IOMMU")]
    pub const SPAPR_TCE: Self = Self(2);
    /// The type 1 IOMMU that everybody uses.
    #[doc(alias = "VFIO_TYPE1v2_IOMMU")]
    pub const TYPE1V2: Self = Self(3);
    /// The IOMMU enforces DMA cache coherence. May change as groups come and go.
    #[doc(alias = "VFIO_DMA_CC_IOMMU")]
    pub const DMA_CC: Self = Self(4);
    /// The second IOMMU of `sPAPR` machines.
    #[doc(alias = "VFIO_SPAPR_TCE_v2_IOMMU")]
    pub const SPAPR_TCE_V2: Self = Self(7);
    /// No translation and no isolation; taints the kernel.
    #[doc(alias = "VFIO_NOIOMMU_IOMMU")]
    pub const NOIOMMU: Self = Self(8);
    /// One call unmaps everything.
    #[doc(alias = "VFIO_UNMAP_ALL")]
    pub const UNMAP_ALL: Self = Self(9);
    /// Mappings can be moved to new addresses of the process.
    #[doc(alias = "VFIO_UPDATE_VADDR")]
    pub const UPDATE_VADDR: Self = Self(10);
}

/// `VFIO_GET_API_VERSION`: reads the version of the VFIO API, [`API_VERSION`].
///
/// # Errors
/// `ENOTTY` not a container.
///
/// # Kernel
/// `drivers/vfio/container.c` `vfio_fops_unl_ioctl()` (7.2).
#[doc(alias = "VFIO_GET_API_VERSION")]
pub fn api_version(container: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: the kernel takes no argument, and returns a constant.
    let version = unsafe { call::number::<{ opcode::GET_API_VERSION }>(container, 0) }?;
    Ok(version.cast_unsigned())
}

/// `VFIO_CHECK_EXTENSION`: asks whether the container, or any IOMMU driver when it has none yet, offers an extension.
///
/// An IOMMU driver that is not loaded is not asked: `false` may become `true` with `vfio_iommu_type1`.
///
/// # Errors
/// `ENOTTY` not a container.
///
/// # Kernel
/// `drivers/vfio/container.c` `vfio_container_ioctl_check_extension()` (7.2).
#[doc(alias = "VFIO_CHECK_EXTENSION")]
pub fn check_extension(container: BorrowedFd<'_>, extension: Extension) -> Result<bool> {
    // SAFETY: the kernel takes the extension as a number.
    let answer = unsafe { call::number::<{ opcode::CHECK_EXTENSION }>(container, extension.0) }?;
    Ok(answer > 0)
}

/// `VFIO_SET_IOMMU`: gives the container an IOMMU of this kind and attaches its groups to it; once, until the last group
/// has left.
///
/// # Errors
/// `EINVAL` no group is set to it, or it has an IOMMU · `ENODEV` no loaded IOMMU driver offers the kind, which is what a
/// missing `vfio_iommu_type1` looks like · `EPERM` interrupts of a group are not isolated and `allow_unsafe_interrupts` is
/// off · the IOMMU driver's own · `ENOTTY` not a container.
///
/// # Kernel
/// `drivers/vfio/container.c` `vfio_ioctl_set_iommu()`; `drivers/vfio/vfio_iommu_type1.c`
/// `vfio_iommu_type1_attach_group()` (7.2).
#[doc(alias = "VFIO_SET_IOMMU")]
pub fn set_iommu(container: BorrowedFd<'_>, kind: Extension) -> Result<()> {
    // SAFETY: the kernel takes the kind as a number.
    unsafe { call::number::<{ opcode::SET_IOMMU }>(container, kind.0) }.map(drop)
}
