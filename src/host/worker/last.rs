//! The attribute that a worker wrote last, kept open: it is nearly always the next one too, a driver's `bind` or `unbind`, and
//! every name on the way to it takes the lock of all of sysfs.

use std::os::fd::OwnedFd;

use super::Refusal;
use crate::host::files::write_once;
use crate::host::linux::Linux;
use crate::host::{HostPath, Verb};
use crate::model::Errno;

/// What was written last.
pub(super) struct Last<'a> {
    host: &'a Linux,
    opened: Option<(HostPath, OwnedFd)>,
}

impl<'a> Last<'a> {
    pub(super) const fn new(host: &'a Linux) -> Self {
        Self { host, opened: None }
    }

    /// As what [`serve`](super::serve) writes with.
    pub(super) fn into_write(mut self) -> impl FnMut(&HostPath, &str) -> Result<(), Refusal> + 'a {
        move |path, value| self.write(path, value)
    }

    /// Writes, once.
    ///
    /// # Kernel
    /// `fs/kernfs/file.c` `kernfs_fop_write_iter()` answers ENODEV of an attribute that has gone since, and calls nobody; it
    /// comes again as another inode, whose number is not used twice (7.2).
    fn write(&mut self, path: &HostPath, value: &str) -> Result<(), Refusal> {
        let refused = |verb| move |errno| Refusal { verb, errno };
        let kept = self.opened.take().filter(|(of, _)| of == path);
        let (opened, done) = match kept {
            None => {
                let opened = self.host.open_to_write(path).map_err(refused(Verb::Open))?;
                let done = write_once(&opened, value);
                (opened, done)
            }
            Some((_, opened)) => match write_once(&opened, value) {
                Err(Errno::ENODEV) => {
                    let again = self.host.open_to_write(path).map_err(refused(Verb::Open))?;
                    let is_same = inode(&opened)? == inode(&again)?;
                    let done = if is_same { Err(Errno::ENODEV) } else { write_once(&again, value) };
                    (again, done)
                }
                done => (opened, done),
            },
        };
        self.opened = Some((path.clone(), opened));
        done.map_err(refused(Verb::Write))
    }
}

fn inode(opened: &OwnedFd) -> Result<u64, Refusal> {
    rustix::fs::fstat(opened)
        .map(|status| status.st_ino)
        .map_err(|error| Refusal { verb: Verb::Open, errno: Errno(error.raw_os_error()) })
}
