//! The real machine: sysfs, procfs and the module directory below directory descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use uuid::Uuid;

use super::files::{names_in, read_all, write_once};
use super::hand::Hand;
use super::path::Root;
use super::team;
use super::{
    Claim, Clock, Device, Held, Host, HostError, HostPath, Links, Lock, LockError, Open, Probe, Read, Team, Verb, Way,
    Write, netlink, vfio,
};
use crate::host::lock::{DIRECTORY, LockFile};
use crate::host::signals::Signals;
use crate::host::wait::timespec;
use crate::host::worker::{Crew, Refusal};
use crate::model::Errno;
use crate::model::devlink::{DevlinkHandle, DevlinkPort, EswitchMode};
use crate::model::vf::{NetdevName, VfList};

/// The running machine.
#[derive(Debug)]
pub struct Linux {
    roots: [OnceLock<Result<OwnedFd, Errno>>; Root::ALL.len()],
    started: Duration,
    /// Whether writes that may wait for ever are made by [workers](worker), and signals counted while the lock is held.
    pub(super) workers: bool,
    /// Listened for since the lock was first taken.
    pub(super) signals: OnceLock<Signals>,
}

impl Default for Linux {
    fn default() -> Self {
        Self::new()
    }
}

impl Linux {
    /// The running machine, its directories opened when first needed.
    #[must_use]
    pub fn new() -> Self {
        Self { roots: Default::default(), started: ticks(), workers: false, signals: OnceLock::new() }
    }

    /// The same for a command: every write that may wait for the holder of a device is made by a [worker](super::worker) process, and
    /// SIGINT, SIGTERM and SIGHUP are counted for as long as the lock is held.
    ///
    /// The worker is this program's own executable: its `main` calls [`asked`](super::worker::asked) first of all.
    #[must_use]
    pub fn with_workers(self) -> Self {
        Self { workers: true, ..self }
    }

    /// The running machine with the module directory of another kernel, `/lib/modules/<release>`.
    ///
    /// # Errors
    /// The errno of opening `modules` as a directory.
    pub fn with_modules(modules: &Path) -> Result<Self, Errno> {
        let host = Self::new();
        let opened = rustix::fs::open(modules, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        // A fresh lock takes the first value given.
        if host.roots[Root::Modules as usize].set(Ok(opened.map_err(errno)?)).is_err() {
            return Err(Errno::EBUSY);
        }
        Ok(host)
    }

    pub(super) fn root(&self, root: Root) -> Result<BorrowedFd<'_>, Errno> {
        let opened = self.roots[root as usize].get_or_init(|| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let at = |path: &str| rustix::fs::open(path, flags, Mode::empty()).map_err(errno);
            match root {
                Root::Modules => {
                    let release = rustix::system::uname();
                    at(&format!("/lib/modules/{}", release.release().to_string_lossy()))
                }
                fixed => at(fixed.spelled()),
            }
        });
        opened.as_ref().map(AsFd::as_fd).map_err(|errno| *errno)
    }

    /// Opens below a root. Distributions may link modules and shared data anywhere; nothing may lead out of the others.
    pub(super) fn open_below(&self, path: &HostPath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let root = self.root(path.root())?;
        // A place that is only named takes no other flag (fs/open.c build_open_flags(), 7.2).
        let more = if flags.contains(OFlags::PATH) { OFlags::CLOEXEC } else { OFlags::CLOEXEC | OFlags::NOCTTY };
        let flags = flags | more;
        if matches!(path.root(), Root::Modules | Root::Share) {
            return rustix::fs::openat(root, path.rest(), flags, Mode::empty()).map_err(errno);
        }
        // A link with `..` in it may answer EAGAIN while something is renamed or mounted anywhere (fs/namei.c
        // handle_dots(), 7.2): ask again, a bounded number of times, for there is nothing to wait for.
        for _ in 0..64 {
            match rustix::fs::openat2(root, path.rest(), flags, Mode::empty(), ResolveFlags::BENEATH) {
                Err(rustix::io::Errno::AGAIN) => {}
                other => return other.map_err(errno),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Writes to an attribute in this process, however long that takes.
    pub(super) fn write_directly(&self, path: &HostPath, value: &str) -> Result<(), Refusal> {
        let refused = |verb| move |errno| Refusal { verb, errno };
        let file = self.open_to_write(path).map_err(refused(Verb::Open))?;
        write_once(&file, value).map_err(refused(Verb::Write))
    }

    /// Opens an attribute to be written. One that cannot even be opened says nothing of the device.
    pub(super) fn open_to_write(&self, path: &HostPath) -> Result<OwnedFd, Errno> {
        self.open_below(path, OFlags::WRONLY)
    }
}

/// `CLOCK_MONOTONIC_COARSE`.
fn ticks() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

impl Read for Linux {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        let read = self.open_below(path, OFlags::RDONLY).and_then(|file| read_all(&file, path.root()));
        read.map_err(|errno| HostError::new(Verb::Read, path.clone(), errno))
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        let target = self.root(path.root()).and_then(|root| {
            let buffer = Vec::with_capacity(256);
            rustix::fs::readlinkat(root, path.rest(), buffer).map_err(errno)
        });
        target
            .map(|target| target.to_string_lossy().into_owned())
            .map_err(|errno| HostError::new(Verb::Read, path.clone(), errno))
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        let names = self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY).and_then(names_in);
        names.map_err(|errno| HostError::new(Verb::Read, path.clone(), errno))
    }
}

impl Probe for Linux {
    fn open(&self, what: &Open) -> Result<Box<dyn Held>, HostError> {
        let dev = self
            .root(Root::Dev)
            .map_err(|errno| HostError::new(Verb::Open, HostPath::fixed(Root::Dev, "vfio"), errno))?;
        vfio::open(dev, what)
    }

    fn open_device(&self, way: &Way, token: Option<Uuid>) -> Result<Box<dyn Device>, HostError> {
        let dev = self.root(Root::Dev).map_err(|errno| HostError::new(Verb::Open, way.node(), errno))?;
        vfio::open_device(dev, way, token)
    }
}

impl Clock for Linux {
    /// To a tick of the kernel, 1 to 10 ms: asked for twice for each act, and a machine whose clock is no register of its
    /// processor takes longer to tell it to the nanosecond than to read an attribute.
    fn now(&self) -> Duration {
        ticks().saturating_sub(self.started)
    }

    /// A first signal ends it.
    #[expect(clippy::disallowed_methods, reason = "this is the clock of the real host")]
    fn nap(&self, length: Duration) {
        match self.signals.get().filter(|signals| signals.count() == 0) {
            Some(signals) => {
                let mut polled = [PollFd::new(signals, PollFlags::IN)];
                // Woken or not, whoever naps looks again.
                rustix::event::poll(&mut polled, Some(&timespec(length))).ok();
            }
            None => std::thread::sleep(length),
        }
    }

    fn date(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }
}

impl Host for Linux {
    fn lock(&self, claim: &Claim) -> Result<Box<dyn Lock + '_>, LockError> {
        let lock = LockFile::take(DIRECTORY, claim)?;
        if self.workers {
            keep_from_children(self);
            self.listen()?.hold();
        }
        Ok(Box::new(Locked { host: self, crew: Crew::default(), _lock: lock }))
    }

    fn interrupts(&self) -> usize {
        self.signals.get().map_or(0, Signals::count)
    }
}

impl Linux {
    /// Listens for signals from now on: a command that changes nothing need not, and starts sooner.
    fn listen(&self) -> Result<&Signals, LockError> {
        if self.signals.get().is_none() {
            let listens = Signals::listen(self);
            let listens = listens
                .map_err(|errno| LockError::Unavailable { path: String::from("the handlers of signals"), errno })?;
            // Whoever was first listens.
            drop(self.signals.set(listens));
        }
        Ok(self.signals.wait())
    }
}

/// Has every descriptor but the standard streams closed in the programs that are started from now on. What the caller left
/// open here, a pipe perhaps, would stay open for as long as a worker that is left behind.
fn keep_from_children(host: &dyn Read) {
    for number in host.list(&HostPath::fixed(Root::Proc, "self/fd")).unwrap_or_default() {
        if let Some(number) = number.parse().ok().filter(|number| *number > 2) {
            // The descriptor of the list itself has been closed since.
            vfioadm_uapi::inherited::close_on_exec(number).ok();
        }
    }
}

/// The right to write, for as long as the lock is held.
struct Locked<'a> {
    host: &'a Linux,
    /// The workers of all hands.
    crew: Crew,
    _lock: LockFile,
}

impl Lock for Locked<'_> {
    fn hand(&self) -> Box<dyn Write + Send + '_> {
        Box::new(Hand::new(self.host, &self.crew, None))
    }

    fn teams(&self, count: usize) -> Vec<Box<dyn Team + '_>> {
        team::all(self.host, &self.crew, count)
    }
}

impl Drop for Locked<'_> {
    /// What was done is done: from here on a signal ends the process again.
    fn drop(&mut self) {
        if let Some(signals) = self.host.signals.get() {
            signals.let_go();
        }
    }
}

impl Links for Linux {
    fn vf_attributes(&self, netdev: &NetdevName) -> Result<VfList, HostError> {
        netlink::vf_attributes(netdev)
    }

    fn devlink_handles(&self) -> Result<Vec<DevlinkHandle>, HostError> {
        netlink::devlink_handles()
    }

    fn devlink_ports(&self, handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, HostError> {
        netlink::devlink_ports(handle)
    }

    fn eswitch_mode(&self, handle: &DevlinkHandle) -> Result<Option<EswitchMode>, HostError> {
        netlink::eswitch_mode(handle)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::FdFlags;

    use super::*;

    #[test]
    fn what_a_caller_left_open_goes_to_no_child() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&read), Ok(FdFlags::empty()));
        keep_from_children(&Linux::new());
        for end in [read, write] {
            assert_eq!(rustix::io::fcntl_getfd(&end), Ok(FdFlags::CLOEXEC));
        }
    }
}
