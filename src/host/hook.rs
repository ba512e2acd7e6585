//! Hooks: a vendor's own tool, trusted only when nobody but root can change it, and run under a deadline.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use vfioadm_uapi::orphan::never_orphaned;

use super::child;
use super::path::Root;
use super::{HostError, HostPath, Verb};
use crate::model::{Bdf, Errno, Hook, HookId, HookWay};

/// Longer than a tool takes that asks firmware for something.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Both programs of a hook, open: what was checked is what is run.
#[derive(Debug)]
pub(super) struct Trusted {
    set: OwnedFd,
    undo: OwnedFd,
}

/// `/`, where trust begins.
pub(super) fn top() -> Result<OwnedFd, HostError> {
    let opened = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|errno| HostError::new(Verb::Open, HostPath::hooks(), Errno(errno.raw_os_error())))
}

/// The hook of VFs with these ids, below an open `/`; `None` when there is none. Every directory on the way is trusted too.
pub(super) fn trusted(top: BorrowedFd<'_>, id: HookId) -> Result<Option<Trusted>, HostError> {
    let directory = HostPath::hook(id);
    // A machine without hooks has nothing that needs to be trusted.
    let at = format!("etc/{}", directory.rest());
    if let Err(rustix::io::Errno::NOENT) = rustix::fs::statat(top, at.as_str(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        return Ok(None);
    }
    let hooks = HostPath::hooks();
    trust(top, (&hooks, "/"), FileType::Directory)?;
    let mut at = open(top, "etc", (&hooks, "/etc"), FileType::Directory)?;
    for place in [HostPath::fixed(Root::Etc, "vfioadm"), hooks.clone(), directory.clone()] {
        let Some(above) = at else { return Ok(None) };
        at = open(above.as_fd(), name_of(&place), (&place, "it"), FileType::Directory)?;
    }
    let Some(at) = at else { return Ok(None) };
    let program = |way: HookWay| {
        let path = directory.attr(way.as_str());
        let found = open(at.as_fd(), name_of(&path), (&path, "it"), FileType::RegularFile)?;
        found.ok_or_else(|| untrusted(&path, Errno::ENOENT, "it is not there, and a hook has both set and undo"))
    };
    Ok(Some(Trusted { set: program(HookWay::Set)?, undo: program(HookWay::Undo)? }))
}

/// A hook at work for a VF. Dropped before it has ended, it is killed.
#[derive(Debug)]
pub(super) struct Running {
    program: child::Running,
    path: HostPath,
    vf: Bdf,
    /// The interpreter of a script opens it once more.
    _file: OwnedFd,
    has_ended: bool,
}

impl Running {
    /// Starts what was found below an open `/`. It does not outlive this thread.
    pub(super) fn start(top: BorrowedFd<'_>, hook: &Hook, vf: Bdf) -> Result<Self, HostError> {
        let path = HostPath::hook(hook.id).attr(hook.way.as_str());
        let found = trusted(top, hook.id)?.ok_or_else(|| refused(&path, vf, Errno::ENOENT, "it was there before"))?;
        let file = match hook.way {
            HookWay::Set => found.set,
            HookWay::Undo => found.undo,
        };
        // By this process's name for it, which the interpreter of a script finds too: a descriptor of its own would be open in
        // all that the hook starts.
        let mut command = child::program(&format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        never_orphaned(command.arg(vf.to_string()).envs(hook.environment(vf)));
        match child::Running::start(&mut command) {
            Ok(program) => Ok(Self { program, path, vf, _file: file, has_ended: false }),
            Err(errno) => Err(refused(&path, vf, errno, "it did not start")),
        }
    }

    /// What it came to; `None` as long as it runs, and is not over its time.
    pub(super) fn answer(&mut self, is_over: impl FnOnce() -> bool) -> Option<Result<(), HostError>> {
        let (errno, how) = match self.program.end_with_all() {
            Err(errno) => (errno, String::from("how it ended is not known")),
            Ok(Some(status)) if status.success() => {
                self.has_ended = true;
                return Some(Ok(()));
            }
            Ok(Some(status)) => {
                self.has_ended = true;
                (Errno::EIO, status.to_string())
            }
            Ok(None) if self.program.says_too_much() => (Errno::EFBIG, self.kill("it said too much")),
            Ok(None) if is_over() => (Errno::ETIMEDOUT, self.kill("it still ran")),
            Ok(None) => return None,
        };
        let said = self.program.said();
        let words = if said.is_empty() { how } else { format!("{how}: {said}") };
        Some(Err(refused(&self.path, self.vf, errno, &words)))
    }

    fn kill(&mut self, why: &str) -> String {
        self.has_ended = self.program.kill_all();
        match self.has_ended {
            true => format!("{why} and was killed"),
            false => format!("{why}, was killed, and still waits in the kernel as pid {}", self.program.pid()),
        }
    }
}

impl AsFd for Running {
    /// Can be read when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            self.program.kill_all();
        }
    }
}

fn refused(path: &HostPath, vf: Bdf, errno: Errno, said: &str) -> HostError {
    HostError::new(Verb::Run, path.clone(), errno).with_value(&vf.to_string()).with_said(said)
}

fn name_of(path: &HostPath) -> &str {
    path.rest().rsplit('/').next().unwrap_or_default()
}

/// Opens one component without following a link, and makes sure that only root can change it. `None`: it is not there.
fn open(
    below: BorrowedFd<'_>,
    name: &str,
    (place, it): (&HostPath, &str),
    kind: FileType,
) -> Result<Option<OwnedFd>, HostError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(below, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        other => other.map_err(|errno| HostError::new(Verb::Open, place.clone(), Errno(errno.raw_os_error())))?,
    };
    trust(opened.as_fd(), (place, it), kind).map(|()| Some(opened))
}

/// Makes sure that only root can change what is open. An access list that lets others write shows in the rights of the group.
fn trust(opened: BorrowedFd<'_>, (place, it): (&HostPath, &str), kind: FileType) -> Result<(), HostError> {
    let status = rustix::fs::fstat(opened);
    let status = status.map_err(|errno| HostError::new(Verb::Open, place.clone(), Errno(errno.raw_os_error())))?;
    let mode = status.st_mode & 0o7777;
    let why = match FileType::from_raw_mode(status.st_mode) {
        FileType::Symlink => format!("{it} is a symbolic link"),
        other if other != kind && kind == FileType::Directory => format!("{it} is no directory"),
        other if other != kind => format!("{it} is no regular file"),
        _ if status.st_uid != 0 => format!("{it} belongs to user {}, and must belong to root", status.st_uid),
        _ if mode & 0o022 != 0 => format!("{it} can be written by others than root (mode {mode:04o})"),
        _ if mode & 0o100 == 0 => format!("{it} is not executable (mode {mode:04o})"),
        _ => return Ok(()),
    };
    Err(untrusted(place, Errno::EPERM, &why))
}

/// A hook that is not run, and why.
pub(super) fn untrusted(path: &HostPath, errno: Errno, why: &str) -> HostError {
    HostError::new(Verb::Trust, path.clone(), errno).with_said(why)
}

#[cfg(test)]
mod tests;
