//! Programs that are run: with nothing of ours, under a deadline, without a signal and without asking again and again.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::wait::Patience;
use crate::model::Errno;

/// As much as is told of what a program says: the end of it, where the reason is.
const SAID_BYTES: usize = 800;
/// More than a program says that is in its right mind.
const MOST_BYTES: u64 = 1 << 20;
/// How long a program that was killed may take to end: one that waits in the kernel does not.
const DYING: Duration = Duration::from_secs(1);

/// A program with an empty environment, in `/`. A signal that the terminal sends to the tool does not reach it: half of what
/// it does helps nobody.
#[expect(clippy::disallowed_methods, reason = "what modprobe and vendors' tools know is theirs (deps: kmod)")]
pub(super) fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    command.env_clear().current_dir("/").process_group(0).stdin(Stdio::null());
    command
}

/// A program that was started. Dropped, it goes on running.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    /// Can be read when it has ended.
    pidfd: OwnedFd,
    said: File,
}

impl Running {
    /// Starts it.
    pub(super) fn start(command: &mut Command) -> Result<Self, Errno> {
        let said = File::from(rustix::fs::memfd_create("said", MemfdFlags::CLOEXEC).map_err(kernel)?);
        let (out, err) = (said.try_clone().map_err(broken)?, said.try_clone().map_err(broken)?);
        let child = command.stdout(out).stderr(err).spawn().map_err(broken)?;
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(kernel)?;
        Ok(Self { child, pidfd, said })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` when it still runs and patience is over.
    pub(super) fn end(&mut self, patience: &Patience<'_>) -> Result<Option<ExitStatus>, Errno> {
        if !patience.readable(self.pidfd.as_fd())? {
            return Ok(None);
        }
        self.child.wait().map(Some).map_err(broken)
    }

    /// How it ended, with all that it has started and not given a group of its own; `None` when it still runs.
    pub(super) fn end_with_all(&mut self) -> Result<Option<ExitStatus>, Errno> {
        if !Patience::of(Duration::ZERO).readable(self.pidfd.as_fd())? {
            return Ok(None);
        }
        // It is not waited for yet, so that its number is nobody else's.
        self.signal_all();
        self.child.wait().map(Some).map_err(broken)
    }

    /// Kills it, with all that it has started and not given a group of its own, and says whether it has ended.
    pub(super) fn kill_all(&mut self) -> bool {
        self.signal_all();
        matches!(self.end(&Patience::of(DYING)), Ok(Some(_)))
    }

    /// The group is its own, by [`program`].
    fn signal_all(&self) {
        rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL).ok();
    }

    /// The end of what it has said so far, in one line.
    pub(super) fn said(&self) -> String {
        let mut bytes = [0; SAID_BYTES];
        let start = self.said_bytes().saturating_sub(SAID_BYTES as u64);
        let length = rustix::io::pread(&self.said, &mut bytes, start).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..length]).trim().replace('\n', "; ");
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// Whether it says more than there is memory for.
    pub(super) fn says_too_much(&self) -> bool {
        self.said_bytes() > MOST_BYTES
    }

    fn said_bytes(&self) -> u64 {
        rustix::fs::fstat(&self.said).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0)
    }
}

impl AsFd for Running {
    /// Can be read when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// How the child ended; `None` when it still runs at the deadline, and goes on running.
pub(super) fn ended_within(child: &mut Child, patience: &Patience<'_>) -> Result<Option<ExitStatus>, Errno> {
    let ended = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(kernel)?;
    if !patience.readable(ended.as_fd())? {
        return Ok(None);
    }
    child.wait().map(Some).map_err(broken)
}

fn kernel(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

fn broken(error: std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(Errno::EIO.0))
}
