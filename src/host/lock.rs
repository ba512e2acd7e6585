//! One writer at a time: the lock file in `/run/vfioadm`, from which alone the power to [write](super::Lock) comes.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::Clock;
use crate::model::Errno;

const DIRECTORY: &str = "/run/vfioadm";
const FILE: &str = "/run/vfioadm/lock";

/// What the lock is taken for, told to whoever finds it held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The command line, one word after the other.
    pub command: String,
    /// When: time since 1970-01-01 00:00 UTC.
    pub since: Duration,
}

impl Claim {
    /// A claim made now.
    #[must_use]
    pub fn new(command: impl Into<String>, clock: &dyn Clock) -> Self {
        Self { command: command.into(), since: clock.date() }
    }
}

/// Who has the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// Its process.
    pub pid: u32,
    /// What for.
    pub claim: Claim,
}

/// Why no writer was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Another vfioadm holds it; who, when that could be read.
    #[error("another vfioadm is changing this host")]
    Held(Option<LockHolder>),
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
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Held(None)),
            Err(errno) => Err(unavailable(FILE)(errno)),
        }
    }
}
