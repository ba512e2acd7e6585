//! The files of a migration's data. Each goes one way; none can be sought, mapped or spliced.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::layout::layout;
use crate::{Result, call, opcode};

bitflags::bitflags! {
    /// What is new in pre-copy.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct PrecopyFlags: u32 {
        /// There is new initial data: both counts begin anew.
        #[doc(alias = "VFIO_PRECOPY_INFO_REINIT")]
        const REINIT = 1 << 0;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

/// How much there is to be read in pre-copy, about.
#[doc(alias = "vfio_precopy_info")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precopy {
    /// What is new; it means nothing before
    /// [`precopy_info_v2`](super::precopy_info_v2).
    pub flags: PrecopyFlags,
    /// Bytes that are there from the start. `STOP_COPY` is best entered when none are left.
    pub initial_bytes: u64,
    /// Bytes of what has changed since it was read.
    pub dirty_bytes: u64,
}

/// `struct vfio_precopy_info`.
#[repr(C)]
struct PrecopyInfo {
    argsz: u32,
    flags: u32,
    initial_bytes: u64,
    dirty_bytes: u64,
}
layout!(PrecopyInfo is "vfio_precopy_info", 24 bytes { argsz at 0, flags at 4, initial_bytes at 8, dirty_bytes at 16 });
#[cfg(test)]
pub(super) const LAYOUT: crate::layout::Layout = PrecopyInfo::LAYOUT;

/// The file of a migration's data.
#[derive(Debug)]
pub enum Data {
    /// To be read.
    Saving(Saving),
    /// To be written.
    Resuming(Resuming),
}

/// The data of a device that is saved, to be read in order. Closing it changes no state.
///
/// In `STOP_COPY` it ends, with 0. In pre-copy there may be nothing for now: mlx5 and virtio then say `ENOMSG`, qat, hisi and
/// mtty 0, as if it had ended; and `poll` waits for none but mlx5. When the device leaves, every read is `ENODEV`.
#[derive(Debug)]
pub struct Saving(OwnedFd);

impl Saving {
    pub(super) const fn new(file: OwnedFd) -> Self {
        Self(file)
    }

    /// `pread(2)`: it has no places, and nothing is read.
    ///
    /// # Errors
    /// `ESPIPE`.
    pub fn read_at(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        rustix::io::pread(&self.0, into, at)
    }

    /// `write(2)`: it goes the other way.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn write(&self, data: &[u8]) -> Result<usize> {
        rustix::io::write(&self.0, data)
    }

    /// `poll(2)`: whether a read would answer at once, with data, an end or an error; waits so long for it.
    ///
    /// # Errors
    /// `EINTR` a signal came · `EINVAL` so long cannot be waited.
    ///
    /// # Kernel
    /// `include/linux/poll.h` `vfs_poll()`: a file without `.poll` is always ready; `drivers/vfio/pci/mlx5/main.c`
    /// `mlx5vf_save_poll()` (7.2).
    pub fn is_readable(&self, within: Duration) -> Result<bool> {
        let mut files = [PollFd::new(&self.0, PollFlags::IN)];
        let within = Timespec::try_from(within).map_err(|_| rustix::io::Errno::INVAL)?;
        Ok(rustix::event::poll(&mut files, Some(&within))? > 0)
    }

    /// `VFIO_MIG_GET_PRECOPY_INFO`: reads how much there is to be read, about.
    ///
    /// # Errors
    /// `EINVAL` the device is not in a state of pre-copy · `ENOTTY` it has none · `ENODEV` the device has left · the driver's
    /// own.
    ///
    /// # Kernel
    /// `include/uapi/linux/vfio.h`; `include/linux/vfio.h` `vfio_check_precopy_ioctl()`; the driver's own, such as
    /// `drivers/vfio/pci/mlx5/main.c` `mlx5vf_precopy_ioctl()` (7.2).
    #[doc(alias = "VFIO_MIG_GET_PRECOPY_INFO")]
    pub fn precopy(&self) -> Result<Precopy> {
        let mut info = PrecopyInfo { argsz: PrecopyInfo::SIZE, flags: 0, initial_bytes: 0, dirty_bytes: 0 };
        // SAFETY: the kernel reads and writes at most the 24 bytes of the structure before it returns; any number is one.
        unsafe { call::structure::<{ opcode::MIG_GET_PRECOPY_INFO }, _>(self.0.as_fd(), &mut info) }?;
        Ok(Precopy {
            flags: PrecopyFlags::from_bits_retain(info.flags),
            initial_bytes: info.initial_bytes,
            dirty_bytes: info.dirty_bytes,
        })
    }
}

impl io::Read for Saving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, into)?)
    }
}

impl AsFd for Saving {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The data of a device that is loaded, to be written in order. Closing it changes no state: whether the data is good the
/// device says when it leaves `RESUMING`.
#[derive(Debug)]
pub struct Resuming(OwnedFd);

impl Resuming {
    pub(super) const fn new(file: OwnedFd) -> Self {
        Self(file)
    }

    /// `pread(2)`: it has no places, and nothing is read.
    ///
    /// # Errors
    /// `ESPIPE`, or `EBADF`.
    pub fn read_at(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        rustix::io::pread(&self.0, into, at)
    }

    /// `read(2)`: it goes the other way.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn read(&self, into: &mut [u8]) -> Result<usize> {
        rustix::io::read(&self.0, into)
    }
}

impl io::Write for Resuming {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, data)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Resuming {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
