//! The real machine: sysfs, procfs and the module directory below directory descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};

use super::path::Root;
use super::{
    Begun, Blacklist, Claim, Clock, Held, Host, HostError, HostPath, Links, Lock, LockError, Open, Probe, Read, Verb,
    Write, modprobe, netlink, vfio,
};
use crate::host::lock::{DIRECTORY, LockFile};
use crate::host::near::Near;
use crate::host::signals::Signals;
use crate::host::wait::{Answers, HASTE, Patience, timespec};
use crate::host::worker::{self, Crew, Refusal, Worker};
use crate::model::devlink::{DevlinkHandle, DevlinkPort, EswitchMode, PortIndex, PortNew, PortSetting};
use crate::model::vf::{NetdevName, VfList, VfSetting};
use crate::model::{Errno, ModuleName, VfIndex};

/// No attribute, index or table that is read here is larger.
const LIMIT_BYTES: usize = 64 << 20;

/// The running machine.
#[derive(Debug)]
pub struct Linux {
    roots: [OnceLock<Result<OwnedFd, Errno>>; Root::ALL.len()],
    started: Duration,
    /// Whether writes that may wait for ever are made by [workers](worker), and signals counted while the lock is held.
    workers: bool,
    /// Listened for since the lock was first taken.
    signals: OnceLock<Signals>,
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

    /// The same for a command: every write that may wait for the holder of a device is made by a [worker] process, and
    /// SIGINT, SIGTERM and SIGHUP are counted for as long as the lock is held.
    ///
    /// The worker is this program's own executable: its `main` calls [`worker::asked`] first of all.
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

    fn root(&self, root: Root) -> Result<BorrowedFd<'_>, Errno> {
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
        // An attribute that cannot even be opened says nothing of the device.
        let file = self.open_below(path, OFlags::WRONLY).map_err(refused(Verb::Open))?;
        write_once(&file, value).map_err(refused(Verb::Write))
    }
}

/// Reads all of a file below `root`.
fn read_all(file: &OwnedFd, root: Root) -> Result<Vec<u8>, Errno> {
    let mut page = [0u8; 4097];
    let mut bytes = Vec::new();
    loop {
        let count = retry(|| rustix::io::read(file, &mut page))?;
        bytes.extend_from_slice(&page[..count]);
        // A sysfs attribute is a page at most and comes in one read: a short one is the end.
        if count == 0 || (root == Root::Sys && count < page.len()) {
            return Ok(bytes);
        }
        if bytes.len() > LIMIT_BYTES {
            return Err(Errno::EFBIG);
        }
        if bytes.len() > page.len() * 4 {
            return read_rest(file, bytes);
        }
    }
}

/// The names in a directory.
fn names_in(directory: OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::new(directory).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

/// One `write(2)`. Not repeated on EINTR: the kernel may have acted, and a second `bind` would answer EBUSY.
fn write_once(file: &OwnedFd, value: &str) -> Result<(), Errno> {
    rustix::io::write(file, value.as_bytes()).map_err(errno).map(|_| ())
}

/// Makes a file have `content`, by a rename, or not be there. Its directory is made, for root alone.
fn keep_below(root: BorrowedFd<'_>, rest: &str, content: Option<&str>) -> Result<(), Errno> {
    let Some(content) = content else {
        return match rustix::fs::unlinkat(root, rest, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(errno(error)),
        };
    };
    let (directory, _) = rest.rsplit_once('/').ok_or(Errno::EINVAL)?;
    match rustix::fs::mkdirat(root, directory, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(errno(error)),
    }
    let fresh = format!("{rest}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, &fresh, flags, Mode::RUSR | Mode::WUSR).map_err(errno)?;
    let written = write_whole(&file, content.as_bytes()).and_then(|()| rustix::fs::fsync(&file).map_err(errno));
    let kept = written.and_then(|()| rustix::fs::renameat(root, &fresh, root, rest).map_err(errno));
    if kept.is_err() {
        // What is left of it is nobody's: it is written over the next time.
        rustix::fs::unlinkat(root, &fresh, AtFlags::empty()).ok();
    }
    kept
}

fn write_whole(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = retry(|| rustix::io::write(file, bytes))?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Reads what is left of a large file in large pieces.
fn read_rest(file: &OwnedFd, mut bytes: Vec<u8>) -> Result<Vec<u8>, Errno> {
    let mut piece = vec![0u8; 256 << 10];
    loop {
        let count = retry(|| rustix::io::read(file, &mut piece))?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&piece[..count]);
        if bytes.len() > LIMIT_BYTES {
            return Err(Errno::EFBIG);
        }
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

fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> Result<T, Errno> {
    rustix::io::retry_on_intr(call).map_err(errno)
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
        Ok(Box::new(Locked { host: self, crew: Crew::default(), answers: Answers::new(), _lock: lock }))
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
    /// Where their answers come.
    answers: Result<Answers, Errno>,
    _lock: LockFile,
}

impl Lock for Locked<'_> {
    fn hand(&self) -> Box<dyn Write + Send + '_> {
        Box::new(self.hand_at(usize::MAX))
    }

    fn hands(&self, count: usize) -> Vec<Box<dyn Write + Send + '_>> {
        (0..count).map(|place| Box::new(self.hand_at(place)) as Box<dyn Write + Send>).collect()
    }

    fn wait(&self, length: Duration) -> Vec<usize> {
        match &self.answers {
            Ok(answers) => answers.wait(length, self.host.signals.get()),
            Err(_) => {
                self.host.nap(length);
                Vec::new()
            }
        }
    }
}

impl Locked<'_> {
    fn hand_at(&self, place: usize) -> Hand<'_> {
        Hand {
            host: self.host,
            crew: &self.crew,
            answers: self.answers.as_ref().ok(),
            place,
            near: Near::default(),
            worker: Mutex::new(None),
            pending: Mutex::new(None),
        }
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

/// One hand.
struct Hand<'a> {
    host: &'a Linux,
    crew: &'a Crew,
    answers: Option<&'a Answers>,
    /// Its number among those that are waited for together.
    place: usize,
    /// Where it works.
    near: Near,
    /// Kept from one write to the next.
    worker: Mutex<Option<Worker>>,
    /// The write that a worker is at.
    pending: Mutex<Option<Pending>>,
}

impl Hand<'_> {
    fn write_directly(&self, path: &HostPath, value: &str) -> Result<(), Refusal> {
        let refused = |verb| move |errno| Refusal { verb, errno };
        let Some(opened) = self.near.open(self.host, path, OFlags::WRONLY) else {
            return self.host.write_directly(path, value);
        };
        let file = opened.map_err(refused(Verb::Open))?;
        write_once(&file, value).map_err(refused(Verb::Write))
    }

    /// This hand's worker, started when there is none.
    fn take_worker(&self, kept: &mut Option<Worker>) -> Result<Worker, HostError> {
        let refused = |errno| HostError::new(Verb::Start, HostPath::fixed(Root::Proc, "self/exe"), errno);
        match kept.take().and_then(Worker::if_there) {
            Some(worker) => Ok(worker),
            None => {
                let worker = self.crew.worker().map_err(refused)?;
                if let Some(answers) = self.answers {
                    answers.hear(&worker, self.place).map_err(refused)?;
                }
                Ok(worker)
            }
        }
    }

    /// Asks a worker to write. When even that fails nothing was written.
    fn ask_worker(&self, path: &HostPath, value: &str, deadline: Duration) -> Result<Pending, HostError> {
        let mut kept = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = self.take_worker(&mut kept)?;
        let gone = |errno| refused(path, value, Refusal { verb: Verb::Write, errno });
        worker.ask(path, value).map_err(gone)?;
        let known = self.host.signals.get().map_or(0, Signals::told);
        Ok(Pending { worker, path: path.clone(), value: value.to_owned(), due: self.host.now() + deadline, known })
    }

    /// What came of it; a worker that has answered is kept, and one that has not is left behind.
    fn settle(
        &self,
        Pending { worker, path, value, .. }: Pending,
        answer: Result<Result<(), Refusal>, Errno>,
    ) -> Result<(), HostError> {
        let unanswered =
            |errno| Refusal { verb: if errno == Errno::ETIMEDOUT { Verb::Wait } else { Verb::Write }, errno };
        match &answer {
            Ok(_) => *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker),
            Err(_) => self.crew.leave_behind(worker),
        }
        answer.map_err(unanswered).and_then(|answer| answer).map_err(|refusal| refused(&path, &value, refusal))
    }
}

/// A write that a worker is at.
#[derive(Debug)]
struct Pending {
    worker: Worker,
    path: HostPath,
    value: String,
    /// When it is left behind.
    due: Duration,
    /// How many signals were known when it began.
    known: usize,
}

impl Pending {
    /// Whether it is to be left behind. A first signal that came meanwhile leaves five seconds, one that was known before does
    /// not, for what is done now takes back; a second one ends the wait.
    fn is_over(&mut self, host: &Linux) -> bool {
        let now = host.now();
        let count = host.signals.get().map_or(0, Signals::count);
        if count > self.known {
            self.known = count;
            self.due = self.due.min(now + HASTE);
        }
        count > 1 || now >= self.due
    }
}

/// A write that the kernel refused.
fn refused(path: &HostPath, value: &str, refusal: Refusal) -> HostError {
    HostError::new(refusal.verb, path.clone(), refusal.errno).with_value(value)
}

impl Read for Hand<'_> {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        let Some(opened) = self.near.open(self.host, path, OFlags::RDONLY) else { return self.host.read(path) };
        let read = opened.and_then(|file| read_all(&file, path.root()));
        read.map_err(|errno| HostError::new(Verb::Read, path.clone(), errno))
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        match self.near.link(self.host, path) {
            Some(target) => target.map_err(|errno| HostError::new(Verb::Read, path.clone(), errno)),
            None => self.host.link(path),
        }
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Some(opened) = self.near.open(self.host, path, flags) else { return self.host.list(path) };
        opened.and_then(names_in).map_err(|errno| HostError::new(Verb::Read, path.clone(), errno))
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

impl Links for Hand<'_> {
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

impl Write for Hand<'_> {
    fn worker(&self, path: &HostPath, value: &str) -> Result<Option<u32>, HostError> {
        if !self.host.workers || worker::deadline(path, value).is_none() {
            return Ok(None);
        }
        let mut kept = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = self.take_worker(&mut kept)?;
        let thread = worker.thread();
        *kept = Some(worker);
        Ok(Some(thread))
    }

    fn write(&self, path: &HostPath, value: &str) -> Result<(), HostError> {
        match worker::deadline(path, value).filter(|_| self.host.workers) {
            Some(deadline) => {
                let pending = self.ask_worker(path, value, deadline)?;
                let answer = pending.worker.wait(&Patience::with(deadline, self.host.signals.get()));
                self.settle(pending, answer)
            }
            None => self.write_directly(path, value).map_err(|refusal| refused(path, value, refusal)),
        }
    }

    fn begin(&self, path: &HostPath, value: &str) -> Begun {
        let Some(deadline) = worker::deadline(path, value).filter(|_| self.host.workers && self.answers.is_some())
        else {
            return Begun::Done(self.write(path, value));
        };
        match self.ask_worker(path, value, deadline) {
            Ok(pending) => {
                *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(pending);
                Begun::Waits
            }
            Err(error) => Begun::Done(Err(error)),
        }
    }

    fn answer(&self) -> Option<Result<(), HostError>> {
        let mut kept = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match kept.as_mut()?.worker.answer() {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) if !kept.as_mut()?.is_over(self.host) => return None,
            Ok(None) => Err(Errno::ETIMEDOUT),
            Err(errno) => Err(errno),
        };
        kept.take().map(|pending| self.settle(pending, answer))
    }

    fn keep(&self, path: &HostPath, content: Option<&str>) -> Result<(), HostError> {
        let kept = self.host.root(path.root()).and_then(|root| keep_below(root, path.rest(), content));
        kept.map_err(|errno| HostError::new(Verb::Write, path.clone(), errno).with_value(content.unwrap_or_default()))
    }

    fn load_module(&self, module: &ModuleName, blacklist: Blacklist) -> Result<(), HostError> {
        modprobe::load(self.host, self.host.signals.get(), module, blacklist)
    }

    fn set_vf(&self, netdev: &NetdevName, index: VfIndex, setting: VfSetting) -> Result<(), HostError> {
        netlink::set_vf(netdev, index, setting)
    }

    fn set_eswitch_mode(&self, handle: &DevlinkHandle, mode: EswitchMode) -> Result<(), HostError> {
        netlink::set_eswitch_mode(handle, mode)
    }

    fn set_port(&self, handle: &DevlinkHandle, port: PortIndex, setting: PortSetting) -> Result<(), HostError> {
        netlink::set_port(handle, port, setting)
    }

    fn add_port(&self, handle: &DevlinkHandle, port: PortNew) -> Result<PortIndex, HostError> {
        netlink::add_port(handle, port)
    }

    fn del_port(&self, handle: &DevlinkHandle, port: PortIndex) -> Result<(), HostError> {
        netlink::del_port(handle, port)
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
