//! A write that may wait for ever, made by a process of its own.
//!
//! Writing `unbind` while a program has the device open waits in the kernel until that program closes it, and after the first
//! signal the writer cannot be killed (`drivers/vfio/vfio_main.c` `vfio_unregister_group_dev()`, 7.2); all that time the lock
//! of the device is held, and who writes its `bind` or `reset` waits as well. So the tool does not write itself: a child
//! does, with null standard streams and without the descriptor of the lock, and is left behind when the deadline passes. A
//! thread would not do: its process could never exit.
//!
//! The child is this same executable, told by its `argv[0]`; `/proc/self/exe` leads to it even after the file was replaced. It
//! is the *crew*: one process for all hands, and in it a thread for each, a *worker*. Starting a process takes longer than
//! an unbind, and going from one to another costs the processor what it knew of both; threads of one process cost neither.
//! A hand keeps its worker and asks for another only when it had to leave one behind, which then keeps its process, and
//! nobody else.
//!
//! A hand and its worker talk through a pair of `SOCK_SEQPACKET` sockets of their own: one message asks for one value to be
//! written to one attribute below `/sys`, one message says what the kernel answered. The crew gets the worker's end over a
//! socket that it was started with, and the worker's first message is its thread id, which `/proc` knows like a process.
//! When the tool has gone, or has let go of a socket, the worker ends after the write that it is in, and the crew after its
//! last worker.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

use super::linux::Linux;
use super::path::Root;
use super::wait::Patience;
use super::{HostPath, Verb, child};
use crate::model::Errno;

/// What a worker is called: its `argv[0]`, and its name in the kernel's log.
pub const NAME: &str = "vfioadm-worker";
/// The longest message. An attribute takes a page at most, and its path is shorter.
const LIMIT_BYTES: usize = 8 << 10;
/// A worker holds one message and one path.
const STACK_BYTES: usize = 128 << 10;
/// How long a crew that has nothing to do may take to end.
const GOODBYE: Duration = Duration::from_millis(100);
/// How long a worker may take to say that it is there: a machine under load takes its time to start a program.
const HELLO: Duration = Duration::from_secs(30);

/// How long a write to `path` may take that a worker has to make; `None` when it waits for nobody and needs none.
///
/// A worker makes every write that takes the lock of a device, for whoever waits for a holder has that lock.
///
/// # Kernel
/// `drivers/base/bus.c` `unbind_store()`, `bind_store()`, `drivers_probe_store()`, `drivers/pci/pci-sysfs.c`
/// `remove_store()`, `reset_store()`, `rescan_store()`, `drivers/pci/iov.c` `sriov_numvfs_store()`, which takes the one
/// `pci_lock_rescan_remove()` as well, `drivers/vfio/mdev/` `remove_store()`. `driver_override` takes a spinlock (7.2), but on
/// 6.1 the lock of the device.
pub(super) fn deadline(path: &HostPath) -> Option<Duration> {
    let (above, attribute) = path.rest().rsplit_once('/')?;
    let seconds = match attribute {
        // A holder is asked to let go at once, and again after 10 and 20 s.
        "unbind" | "remove" => 25,
        // A vendor's driver sets a device aside for the mdev.
        "create" => 60,
        // One PF after another, and of each PF one VF after another: each may be probed as it comes, and is taken from its
        // driver as it goes.
        "sriov_numvfs" => 120,
        // These wait for the memory of the GPU: 30 s, or 256 s by its CXL DVSEC.
        "bind" if above.contains("/nvgrace") => 300,
        // Firmware is loaded in the probe.
        "bind" | "drivers_probe" | "rescan" => 60,
        "reset" => 30,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// What the kernel refused of a write: to open the attribute, or the write itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) verb: Verb,
    pub(super) errno: Errno,
}

/// The process that the workers are threads of, and the way to have another: started with the first of them.
#[derive(Debug, Default)]
pub(super) struct Crew(Mutex<Called>);

/// Who was called.
#[derive(Debug, Default)]
struct Called {
    /// Workers that nobody has taken yet. Let go of before the process is.
    spare: Vec<OwnedFd>,
    started: Option<Started>,
    /// How many hands there are.
    hands: usize,
}

#[derive(Debug)]
struct Started {
    child: Child,
    /// Dropped before the child is waited for.
    control: Option<OwnedFd>,
    /// Whether a worker was left at a write: its process ends after that, and nobody waits for it.
    left_behind: bool,
}

/// A thread of the crew that has nothing to do.
#[derive(Debug)]
pub(super) struct Worker {
    socket: OwnedFd,
    thread: u32,
}

impl Crew {
    /// How many hands will want a worker, if one does.
    pub(super) fn expect(&self, hands: usize) {
        self.called().hands = hands;
    }

    /// A worker that is there and waits for work.
    ///
    /// # Errors
    /// The errno of starting the process, or of reaching it; `EAGAIN` when it may have no more threads.
    pub(super) fn worker(&self) -> Result<Worker, Errno> {
        loop {
            let spare = self.called().spare.pop();
            let Some(socket) = spare else { break };
            // Somebody may have ended it since it was called: nothing was asked of it yet.
            if let Some(worker) = Worker::met(socket).ok().and_then(Worker::if_there) {
                return Ok(worker);
            }
        }
        let socket = self.called().call()?;
        Worker::met(socket)
    }

    /// Lets go of a worker that does not answer. It is not killed, which would not help, and not waited for.
    pub(super) fn leave_behind(&self, worker: Worker) {
        drop(worker);
        if let Some(started) = self.called().started.as_mut() {
            started.left_behind = true;
        }
    }

    fn called(&self) -> MutexGuard<'_, Called> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Called {
    /// Calls a worker, and with the first those that will be wanted next: they come while this one works.
    fn call(&mut self) -> Result<OwnedFd, Errno> {
        if let Some(started) = &self.started {
            match started.call() {
                // Somebody has ended it.
                Err(Errno::EINTR) => self.started = None,
                other => return other,
            }
        }
        let started = self.started.insert(Started::start()?);
        let first = started.call()?;
        self.spare.extend((1..self.hands).map_while(|_| started.call().ok()));
        Ok(first)
    }
}

impl Started {
    #[expect(
        clippy::disallowed_methods,
        reason = "a write that cannot be interrupted needs a process that can be left behind"
    )]
    fn start() -> Result<Self, Errno> {
        let (control, theirs) = pair()?;
        // Its mask and its handlers of signals are the default ones: exec and std::process see to that. A signal that the
        // terminal sends to the tool does not reach it.
        let child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Errno(error.raw_os_error().unwrap_or(Errno::EIO.0)))?;
        Ok(Self { child, control: Some(control), left_behind: false })
    }

    /// Has another worker made. What it says first is that it is there.
    fn call(&self) -> Result<OwnedFd, Errno> {
        let (socket, theirs) = pair()?;
        let control = self.control.as_ref().ok_or(Errno::EBADF)?;
        hand_over(control, &theirs).map_err(gone)?;
        Ok(socket)
    }
}

impl Drop for Started {
    /// Lets it end, which it does at once when it has nothing to do, so that no crew outlives the tool.
    fn drop(&mut self) {
        self.control = None;
        if !self.left_behind {
            // Whether it did end changes nothing: there is nobody left to tell.
            child::ended_within(&mut self.child, &Patience::of(GOODBYE)).ok();
        }
    }
}

impl AsFd for Worker {
    /// Can be read when the answer is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Worker {
    /// The worker that was called, when it is there.
    fn met(socket: OwnedFd) -> Result<Self, Errno> {
        if !Patience::of(HELLO).readable(socket.as_fd())? {
            return Err(Errno::ETIMEDOUT);
        }
        let mut thread = [0; 4];
        match rustix::net::recv(&socket, &mut thread[..], RecvFlags::empty()).map_err(gone)? {
            (4, _) => Ok(Self { socket, thread: u32::from_le_bytes(thread) }),
            // The process is there, for it was told; it could not make a thread, or was ended since.
            _ => Err(Errno::EAGAIN),
        }
    }

    /// Itself, if it can be asked: somebody may have ended it.
    pub(super) fn if_there(self) -> Option<Self> {
        let looked = rustix::net::recv(&self.socket, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(looked, Err(rustix::io::Errno::AGAIN)).then_some(self)
    }

    /// Its thread id: a process id to `/proc`.
    pub(super) const fn thread(&self) -> u32 {
        self.thread
    }

    /// Asks for `value` to be written to `path`.
    ///
    /// # Errors
    /// `E2BIG` it does not fit; `EINTR` the worker was killed.
    pub(super) fn ask(&self, path: &HostPath, value: &str) -> Result<(), Errno> {
        let mut buffer = [0; LIMIT_BYTES];
        let length = Request { path: &path.to_string(), value }.encode(&mut buffer)?;
        rustix::net::send(&self.socket, &buffer[..length], SendFlags::NOSIGNAL).map(|_| ()).map_err(gone)
    }

    /// The kernel's answer; `None` when it has not come.
    ///
    /// # Errors
    /// None will come: `EINTR` the worker was killed, before it wrote or after.
    pub(super) fn answer(&self) -> Result<Option<Result<(), Refusal>>, Errno> {
        receive(&self.socket, RecvFlags::DONTWAIT)
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The worker is of no use any more: `ETIMEDOUT` it still waits, and is left to it; else as [`answer`](Self::answer).
    pub(super) fn wait(&self, patience: &Patience<'_>) -> Result<Result<(), Refusal>, Errno> {
        if !patience.readable(self.socket.as_fd())? {
            return Err(Errno::ETIMEDOUT);
        }
        receive(&self.socket, RecvFlags::empty())?.ok_or(Errno::EIO)
    }
}

/// Both ends.
fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(errno)
}

/// Sends one end of a pair to the crew.
fn hand_over(control: &OwnedFd, end: &OwnedFd) -> rustix::io::Result<()> {
    let ends = [end.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&ends)) {
        return Err(rustix::io::Errno::NOBUFS);
    }
    rustix::net::sendmsg(control, &[IoSlice::new(b"w")], &mut ancillary, SendFlags::NOSIGNAL).map(|_| ())
}

/// What came of [`hand_over`]; `None` when the tool has gone.
fn handed_over(control: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let got = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(control, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut ends = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(ends) => Some(ends),
        _ => None,
    });
    ends.next().and_then(|mut ends| ends.next()).map(Some).ok_or(rustix::io::Errno::BADMSG)
}

/// The other end is closed: who had it was ended.
fn gone(error: rustix::io::Errno) -> Errno {
    match error {
        rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => Errno::EINTR,
        other => errno(other),
    }
}

/// One answer.
fn receive(socket: &OwnedFd, flags: RecvFlags) -> Result<Option<Result<(), Refusal>>, Errno> {
    let mut answer = [0; ANSWER_BYTES];
    match rustix::net::recv(socket, &mut answer[..], flags) {
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(gone(error)),
        Ok((0, _)) => Err(Errno::EINTR),
        Ok((ANSWER_BYTES, _)) => decode(answer).map(Some).ok_or(Errno::EIO),
        Ok(_) => Err(Errno::EIO),
    }
}

/// Does the work when this process was started as a crew, and says how to end. `None` when it was not: go on.
///
/// The first thing in `main` of a program that uses [`Linux::with_workers`].
#[must_use]
pub fn asked() -> Option<ExitCode> {
    if std::env::args_os().next()? != NAME {
        return None;
    }
    // It ends with the tool, which may have something to take back first: a signal to both is the tool's to answer.
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, std::sync::Arc::default()).ok();
    }
    let host = Linux::new();
    let served = take_socket().and_then(|control| employ(&control, || last::Last::new(&host).into_write()));
    Some(if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes a worker of every socket that comes, until the tool has gone, and waits for the last of them: who ended the process
/// would have those that are at a write wait unkillably.
fn employ<W: FnMut(&HostPath, &str) -> Result<(), Refusal>>(
    control: &OwnedFd,
    writer: impl Fn() -> W + Send + Sync,
) -> rustix::io::Result<()> {
    let writer = &writer;
    std::thread::scope(|scope| {
        while let Some(socket) = handed_over(control)? {
            let work = move || {
                let thread = rustix::thread::gettid().as_raw_nonzero().get().to_le_bytes();
                // A tool that has gone wants nothing written.
                if rustix::net::send(&socket, &thread, SendFlags::NOSIGNAL).is_ok() {
                    serve(&socket, writer()).ok();
                }
            };
            // Where no thread can be made its socket is closed, which is the answer.
            drop(std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work));
        }
        Ok(())
    })
}

/// Takes the socket off standard input, where it came, and leaves `/dev/null` there.
fn take_socket() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::thread::set_name(c"vfioadm-worker")?;
    Ok(socket)
}

/// Answers requests until the other end is closed.
fn serve(socket: &OwnedFd, mut write: impl FnMut(&HostPath, &str) -> Result<(), Refusal>) -> rustix::io::Result<()> {
    let mut buffer = [0; LIMIT_BYTES];
    loop {
        let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()))?;
        if length == 0 {
            return Ok(());
        }
        let refusal = Refusal { verb: Verb::Open, errno: Errno::EINVAL };
        let asked = Request::decode(&buffer[..length]).and_then(|Request { path, value }| {
            let path = HostPath::parse(path).filter(|path| path.root() == Root::Sys)?;
            Some((path, value))
        });
        let done = asked.map_or(Err(refusal), |(path, value)| write(&path, value));
        rustix::net::send(socket, &encode(done), SendFlags::NOSIGNAL)?;
    }
}

/// What a worker is asked: the length of the path in two bytes, the path, the value.
#[derive(Debug, PartialEq, Eq)]
struct Request<'a> {
    path: &'a str,
    value: &'a str,
}

impl<'a> Request<'a> {
    /// Its length in `buffer`; `E2BIG` when it does not fit.
    fn encode(&self, buffer: &mut [u8; LIMIT_BYTES]) -> Result<usize, Errno> {
        let (path, value) = (self.path.as_bytes(), self.value.as_bytes());
        let long = u16::try_from(path.len()).map_err(|_| Errno::E2BIG)?;
        let mut length = 0;
        for piece in [&long.to_le_bytes()[..], path, value] {
            buffer.get_mut(length..length + piece.len()).ok_or(Errno::E2BIG)?.copy_from_slice(piece);
            length += piece.len();
        }
        Ok(length)
    }

    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (long, rest) = bytes.split_first_chunk()?;
        let (path, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*long)))?;
        Some(Self { path: str::from_utf8(path).ok()?, value: str::from_utf8(value).ok()? })
    }
}

/// An answer: which call was refused, and its errno in four bytes.
const ANSWER_BYTES: usize = 5;

fn encode(done: Result<(), Refusal>) -> [u8; ANSWER_BYTES] {
    let (call, errno) = match done {
        Ok(()) => (0, 0),
        Err(Refusal { verb: Verb::Open, errno }) => (1, errno.0),
        Err(Refusal { errno, .. }) => (2, errno.0),
    };
    let [a, b, c, d] = errno.to_le_bytes();
    [call, a, b, c, d]
}

fn decode([call, a, b, c, d]: [u8; ANSWER_BYTES]) -> Option<Result<(), Refusal>> {
    let errno = Errno(i32::from_le_bytes([a, b, c, d]));
    match call {
        0 => Some(Ok(())),
        1 => Some(Err(Refusal { verb: Verb::Open, errno })),
        2 => Some(Err(Refusal { verb: Verb::Write, errno })),
        _ => None,
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

mod last;
#[cfg(test)]
mod tests;
