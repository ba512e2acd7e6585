//! One writer at a time: the lock file in `/run/vfioadm`, from which alone a [`Write`](super::Write) comes.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::model::Errno;

const DIRECTORY: &str = "/run/vfioadm";
const FILE: &str = "/run/vfioadm/lock";

/// Why no writer was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Another vfioadm holds it.
    #[error("another vfioadm is changing this host")]
    Held,
    /// The lock file cannot be made or locked.
    #[error("{path}: {errno}")]
    Unavailable {
        /// The lock file or its directory.
        path: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct LockFile {
    _file: OwnedFd,
}

impl LockFile {
    /// Takes it, or says at once that it is held.
    pub(super) fn take() -> Result<Self, LockError> {
        let unavailable =
            |path| move |errno: rustix::io::Errno| LockError::Unavailable { path, errno: Errno(errno.raw_os_error()) };
        match rustix::fs::mkdir(DIRECTORY, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(unavailable(DIRECTORY)(errno)),
        }
        // Opened without following a link: whoever could plant one in /run could do worse, but not through us.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(FILE, flags, Mode::from_raw_mode(0o600)).map_err(unavailable(FILE))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Held),
            Err(errno) => Err(unavailable(FILE)(errno)),
        }
    }
}
