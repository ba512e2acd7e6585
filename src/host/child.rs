//! Waiting for a child process under a deadline, without a signal and without asking again and again.

use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, PidfdFlags};

use super::wait::Patience;
use crate::model::Errno;

/// How the child ended; `None` when it still runs at the deadline, and goes on running.
pub(super) fn ended_within(child: &mut Child, patience: &Patience<'_>) -> Result<Option<ExitStatus>, Errno> {
    let ended = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .map_err(|error| Errno(error.raw_os_error()))?;
    if !patience.readable(ended.as_fd())? {
        return Ok(None);
    }
    child.wait().map(Some).map_err(|error| Errno(error.raw_os_error().unwrap_or(Errno::EIO.0)))
}
