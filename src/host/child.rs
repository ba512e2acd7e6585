//! Waiting for a child process under a deadline, without a signal and without asking again and again.

use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use crate::model::Errno;

/// How the child ended; `None` when it still runs at the deadline, and goes on running.
pub(super) fn ended_within(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>, Errno> {
    let kernel = |error: rustix::io::Errno| Errno(error.raw_os_error());
    let ended = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(kernel)?;
    let timeout = Timespec { tv_sec: i64::try_from(deadline.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    let mut waits = [PollFd::new(&ended, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| rustix::event::poll(&mut waits, Some(&timeout))).map_err(kernel)? == 0 {
        return Ok(None);
    }
    child.wait().map(Some).map_err(|error| Errno(error.raw_os_error().unwrap_or(Errno::EIO.0)))
}
