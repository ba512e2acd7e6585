//! One writer at a time: the lock file in `/run/vfioadm`, from which alone a [`Write`](super::Write) comes.

use crate::model::Errno;

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
