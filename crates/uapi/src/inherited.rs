//! Descriptors that whoever started this process left open in it, which it knows by their numbers alone.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

use crate::{Errno, Result};

/// Has the kernel close a descriptor when this process runs another program (`F_SETFD`, `FD_CLOEXEC`).
///
/// # Errors
/// `EBADF`: nothing has that number.
pub fn close_on_exec(number: RawFd) -> Result<()> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the number is not -1, and is borrowed for one fcntl that neither reads, writes nor closes what is behind it:
    // of a number that is free meanwhile the kernel says EBADF, and of one that was given anew since, the flag is what
    // every descriptor of ours has.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)
}

/// A copy of a descriptor (`F_DUPFD_CLOEXEC`), closed when another program is run. The one that was inherited stays open.
///
/// # Errors
/// `EBADF`: nothing has that number. `EMFILE`.
pub fn copy(number: RawFd) -> Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the number is not -1, and is borrowed for one fcntl that neither reads, writes nor closes what is behind it: of
    // a number that is free meanwhile the kernel says EBADF.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_dupfd_cloexec(descriptor, 3)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_open_is_marked_and_what_is_not_is_an_error() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&read), Ok(FdFlags::empty()));
        assert_eq!(close_on_exec(read.as_raw_fd()), Ok(()));
        assert_eq!(rustix::io::fcntl_getfd(&read), Ok(FdFlags::CLOEXEC));
        assert_eq!([-1, i32::MIN, i32::MAX].map(close_on_exec), [Err(Errno::BADF); 3]);
    }

    #[test]
    fn what_is_open_is_copied_and_what_is_not_is_an_error() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let copied = copy(read.as_raw_fd()).unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&copied), Ok(FdFlags::CLOEXEC));
        assert_eq!(rustix::fs::fstat(&copied).unwrap().st_ino, rustix::fs::fstat(&read).unwrap().st_ino);
        assert_eq!([-1, i32::MIN, i32::MAX].map(|number| copy(number).unwrap_err()), [Errno::BADF; 3]);
    }
}
