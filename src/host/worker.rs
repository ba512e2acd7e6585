//! A write that may wait for ever, made by a process of its own.
//!
//! Writing `unbind` while a program has the device open waits in the kernel until that program closes it, and after the first
//! signal the writer cannot be killed (`drivers/vfio/vfio_main.c` `vfio_unregister_group_dev()`, 7.2). So the tool does not
//! write itself: a child does, with null standard streams and without the lock's descriptor, and is left behind when the
//! deadline passes. A thread would not do: its process could never exit.
//!
//! The child is this same executable under another name, told by its `argv[0]`; it writes one value to one attribute below
//! `/sys` and ends with the kernel's errno.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::linux::Linux;
use super::path::Root;
use super::{HostPath, child};
use crate::model::Errno;

/// What a worker is called: the first word of its command line.
pub const NAME: &str = "vfioadm-worker";
/// The longest that a native driver is known to take to let go: firmware commands of seconds, an NVMe that drains its queue.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
/// An errno that is no exit status.
const BEYOND: u8 = 255;

/// Does the work when this process was started as a worker, and says how to end. `None` when it was not: go on.
///
/// The first thing in `main` of a program that uses [`Linux::with_workers`].
#[must_use]
pub fn asked() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    if args.next()? != NAME {
        return None;
    }
    let words: Vec<OsString> = args.collect();
    let done = match &words[..] {
        [path, value] => match (path.to_str().and_then(HostPath::parse), value.to_str()) {
            (Some(path), Some(value)) if path.root() == Root::Sys => Linux::new().write_directly(&path, value),
            _ => Err(Errno::EINVAL),
        },
        _ => Err(Errno::EINVAL),
    };
    Some(ExitCode::from(done.err().map_or(0, |errno| u8::try_from(errno.0).unwrap_or(BEYOND))))
}

/// Has a worker write `value` to `path`. `ETIMEDOUT`: it still waits, and goes on waiting.
#[expect(
    clippy::disallowed_methods,
    reason = "a write that cannot be interrupted needs a process that can be left behind"
)]
pub(super) fn write(path: &HostPath, value: &str) -> Result<(), Errno> {
    let broken = |error: std::io::Error| Errno(error.raw_os_error().unwrap_or(Errno::EIO.0));
    let mut child = Command::new("/proc/self/exe")
        .arg0(NAME)
        .args([path.to_string().as_str(), value])
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(broken)?;
    let Some(status) = child::ended_within(&mut child, DEADLINE)? else { return Err(Errno::ETIMEDOUT) };
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Errno(code)),
        // Killed before it could write, or after: what the kernel shows is read back.
        None => Err(Errno::EINTR),
    }
}
