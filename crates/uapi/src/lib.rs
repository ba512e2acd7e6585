//! The VFIO and iommufd ioctls that vfioadm makes, as safe functions over borrowed descriptors: the only `unsafe` code of
//! the project.
//!
//! One module for each kind of file: [`container`] (`/dev/vfio/vfio`), [`group`] (`/dev/vfio/12`), [`cdev`]
//! (`/dev/vfio/devices/vfio3` before it is bound), [`iommufd`] (`/dev/iommu`) and [`device`] (an open VFIO device,
//! whichever way it was opened), with its [`irq`]s, [`region`]s and [`feature`]s, its [`hot_reset`], its [`migration`] and
//! its [`dma_logging`]; [`type1`] is a container's IOMMU. A function is one ioctl, or one call of another name, or the same
//! ioctl again with more room; the two that ask first say so. Its name is the kernel's without the prefix, and the C name
//! finds it in the search of these pages. [`inherited`] is a descriptor that this process did not open, [`memory`] what
//! devices may be given, [`orphan`] a program that is not to outlive this process.
//!
//! # What they do not do
//! - Open files. The caller knows where `/dev` is.
//! - Keep order, retry, or close anything. An `EAGAIN` is the caller's to wait out.
//! - Say what was asked of which file: an error is the kernel's errno and nothing more.
//! - Pass descriptors as numbers, but for those that were [inherited]: [`BorrowedFd`] goes in, [`OwnedFd`] comes out.
//!
//! # How a structure is passed
//! The structures are written here and not taken from a crate of bindings: they have to be asserted in either case, and each
//! is private behind a function that fills `argsz` (`size` in iommufd) with the size of *our* structure, so that a kernel that
//! knows a longer one answers in the part that we know. Size, offsets and request numbers are asserted when the crate is
//! compiled, and compared with the C headers in a test. A flag bit that is not known here is kept, and so are number and
//! version of a capability. What follows a structure is read with every length looked at: a chain that leaves the answer, or
//! goes back, is `EPROTO`.
//!
//! # What they trust
//! The numbers `';' 0x64` to `';' 0xff` belong to VFIO and iommufd alone
//! (`Documentation/userspace-api/ioctl/ioctl-number.rst`), so a descriptor of any other file answers `ENOTTY`, or
//! whatever errno its driver has for a number that it does not know (a container without an IOMMU says `EINVAL`; one opened
//! with `O_PATH` says `EBADF`), and nothing is written. VFIO uses some numbers twice, on sPAPR containers and on devices,
//! for structures of different sizes; there the kernel finds `argsz` too short for the other one and writes nothing
//! either. A file served by a program (FUSE, CUSE) answers what that program pleases: do not pass one.
//!
//! # Kernel
//! All of it read at 7.2: `include/uapi/linux/{vfio,iommufd}.h`, `drivers/vfio/`, `drivers/iommu/iommufd/`.
//!
//! [`BorrowedFd`]: std::os::fd::BorrowedFd
//! [`OwnedFd`]: std::os::fd::OwnedFd

mod call;
mod capability;
pub mod cdev;
pub mod container;
pub mod device;
pub mod dma_logging;
pub mod feature;
pub mod group;
#[cfg(test)]
mod headers;
pub mod hot_reset;
pub mod inherited;
pub mod iommufd;
pub mod irq;
mod layout;
pub mod memory;
pub mod migration;
mod opcode;
pub mod orphan;
pub mod region;
pub mod type1;
pub mod zpci;

/// The kernel's answer when it refuses.
pub use rustix::io::Errno;

/// What a call gives: its value, or the errno.
pub type Result<T> = std::result::Result<T, Errno>;
