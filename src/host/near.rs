//! The directory of the function that a hand works on, kept open from one look to the next.
//!
//! A name below `/sys/bus/pci/devices` is ten names long once its link is followed, and the kernel takes the lock of all of
//! sysfs for each, which whoever binds a device at that moment holds too. Below the directory it is one.
//!
//! # Kernel
//! `fs/kernfs/dir.c` `kernfs_dop_revalidate()` takes `kernfs_rwsem` for every component, and leaves the walk without locks
//! (7.2).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::HostPath;
use super::linux::Linux;
use super::path::Root;
use crate::model::{Bdf, Errno};

/// What is kept open.
#[derive(Debug, Default)]
pub(super) struct Near(Mutex<Option<(Bdf, OwnedFd)>>);

impl Near {
    /// Opens an attribute, or a directory, of a function; `None` for any other path. A link is not followed.
    pub(super) fn open(&self, host: &Linux, path: &HostPath, flags: OFlags) -> Option<Result<OwnedFd, Errno>> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NOFOLLOW;
        self.at(host, path, |directory, name| rustix::fs::openat(directory, name, flags, Mode::empty()))
    }

    /// Reads a link of a function; `None` for any other path.
    pub(super) fn link(&self, host: &Linux, path: &HostPath) -> Option<Result<String, Errno>> {
        let read = |directory: BorrowedFd<'_>, name: &str| {
            let target = rustix::fs::readlinkat(directory, name, Vec::with_capacity(256))?;
            Ok(target.to_string_lossy().into_owned())
        };
        self.at(host, path, read)
    }

    fn at<T>(
        &self,
        host: &Linux,
        path: &HostPath,
        act: impl Fn(BorrowedFd<'_>, &str) -> rustix::io::Result<T>,
    ) -> Option<Result<T, Errno>> {
        let (function, name) = attribute(path)?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, directory)) = kept.as_ref().filter(|(of, _)| *of == function) {
            let answer = act(directory.as_fd(), name);
            // A function that went and came again has another directory, and the old one has nothing in it.
            let absent = matches!(answer, Err(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV));
            if !absent || rustix::fs::readlinkat(directory, "subsystem", Vec::with_capacity(256)).is_ok() {
                return Some(answer.map_err(|errno| Errno(errno.raw_os_error())));
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = match host.open_below(&HostPath::pci(function), flags) {
            Ok(directory) => directory,
            Err(errno) => return Some(Err(errno)),
        };
        let answer = act(directory.as_fd(), name);
        *kept = Some((function, directory));
        Some(answer.map_err(|errno| Errno(errno.raw_os_error())))
    }
}

/// The function, and the name below its directory, when the path is that deep and no deeper.
fn attribute(path: &HostPath) -> Option<(Bdf, &str)> {
    let rest = path.rest().strip_prefix("bus/pci/devices/").filter(|_| path.root() == Root::Sys)?;
    let (function, name) = rest.split_once('/')?;
    Some((function.parse().ok()?, name)).filter(|(_, name)| !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_one_name_below_a_function_is_near() {
        let bdf: Bdf = "0000:3b:00.2".parse().unwrap();
        let near = HostPath::pci(bdf).attr("driver_override");
        assert_eq!(attribute(&near), Some((bdf, "driver_override")));
        for far in [HostPath::pci(bdf), HostPath::pci(bdf).attr("power/runtime_status"), HostPath::pci_devices()] {
            assert_eq!(attribute(&far), None, "{far}");
        }
        assert_eq!(attribute(&HostPath::parse("/proc/bus/pci/devices/0000:3b:00.2").unwrap()), None);
    }
}
