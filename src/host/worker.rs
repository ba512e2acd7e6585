//! A write that may wait for ever, made by a process of its own.
//!
//! Writing `unbind` while a program has the device open waits in the kernel until that program closes it, and after the first
//! signal the writer cannot be killed (`drivers/vfio/vfio_main.c` `vfio_unregister_group_dev()`, 7.2); all that time the lock
//! of the device is held, and who writes its `bind` or `reset` waits as well. So the tool does not write itself: a child
//! does, with null standard streams and without the descriptor of the lock, and is left behind when the deadline passes. A
//! thread would not do: its process could never exit.
//!
//! The child is this same executable, told by its `argv[0]`; `/proc/self/exe` leads to it even after the file was replaced. A
//! hand keeps its worker and starts another only when it had to leave one behind. They talk through a pair of `SOCK_SEQPACKET`
//! sockets: one message asks for one value to be written to one attribute below `/sys`, one message says what the kernel
//! answered. When the tool has gone, or has let go of the socket, the worker ends after the write that it is in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::linux::Linux;
use super::path::Root;
use super::wait::Patience;
use super::{HostPath, Verb, child};
use crate::model::Errno;

/// What a worker is called: its `argv[0]`, and its name in the kernel's log.
pub const NAME: &str = "vfioadm-worker";
/// The longest message. An attribute takes a page at most, and its path is shorter.
const LIMIT_BYTES: usize = 8 << 10;
/// How long a worker that has nothing to do may take to end.
const GOODBYE: Duration = Duration::from_millis(100);

/// How long a write of `value` to `path` may take that a worker has to make; `None` when it waits for nobody and needs none.
///
/// A worker makes every write that takes the lock of a device, for whoever waits for a holder has that lock.
///
/// # Kernel
/// `drivers/base/bus.c` `unbind_store()`, `bind_store()`, `drivers_probe_store()`, `drivers/pci/pci-sysfs.c`
/// `remove_store()`, `reset_store()`, `rescan_store()`, `drivers/pci/iov.c` `sriov_numvfs_store()`, `drivers/vfio/mdev/`
/// `remove_store()`. `driver_override` takes a spinlock (7.2), but on 6.1 the lock of the device.
pub(super) fn deadline(path: &HostPath, value: &str) -> Option<Duration> {
    let (above, attribute) = path.rest().rsplit_once('/')?;
    let seconds = match attribute {
        // A holder is asked to let go at once, and again after 10 and 20 s.
        "unbind" | "remove" => 25,
        "sriov_numvfs" if value == "0" => 25,
        // The PF's driver brings up each VF in turn, and may probe it.
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

/// A worker that has nothing to do.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    /// Dropped before the child is waited for.
    socket: Option<OwnedFd>,
}

impl Worker {
    /// Starts one. It is there when this returns.
    #[expect(
        clippy::disallowed_methods,
        reason = "a write that cannot be interrupted needs a process that can be left behind"
    )]
    pub(super) fn start() -> Result<Self, Errno> {
        let (socket, theirs) = pair()?;
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
        Ok(Self { child, socket: Some(socket) })
    }

    /// Itself, if it can be asked: somebody may have ended it.
    pub(super) fn if_there(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has `value` written to `path`, and gives the kernel's answer.
    ///
    /// # Errors
    /// No answer came, and the worker is of no use any more: `ETIMEDOUT` it still waits, and is left to it; `EINTR` it was
    /// killed, before it wrote or after.
    pub(super) fn write(
        &self,
        path: &HostPath,
        value: &str,
        patience: &Patience<'_>,
    ) -> Result<Result<(), Refusal>, Errno> {
        let mut buffer = [0; LIMIT_BYTES];
        let length = Request { path: &path.to_string(), value }.encode(&mut buffer)?;
        let socket = self.socket.as_ref().ok_or(Errno::EBADF)?;
        ask(socket, &buffer[..length], patience)
    }

    /// Lets go of a worker that does not answer. It is not killed, which would not help, and not waited for.
    pub(super) fn leave_behind(mut self) {
        self.socket = None;
        // Drop does not wait for a worker without a socket.
    }
}

impl Drop for Worker {
    /// Lets it end, which it does at once when it has nothing to do, so that no worker outlives the tool.
    fn drop(&mut self) {
        if self.socket.take().is_some() {
            // Whether it did end changes nothing: there is nobody left to tell.
            child::ended_within(&mut self.child, &Patience::of(GOODBYE)).ok();
        }
    }
}

/// Both ends.
fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(errno)
}

/// Sends a request and waits for the answer.
fn ask(socket: &OwnedFd, request: &[u8], patience: &Patience<'_>) -> Result<Result<(), Refusal>, Errno> {
    let gone = |error| match error {
        rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => Errno::EINTR,
        other => errno(other),
    };
    rustix::net::send(socket, request, SendFlags::NOSIGNAL).map_err(gone)?;
    if !patience.readable(socket.as_fd())? {
        return Err(Errno::ETIMEDOUT);
    }
    let mut answer = [0; ANSWER_BYTES];
    let (length, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty()).map_err(gone)?;
    match length {
        0 => Err(Errno::EINTR),
        ANSWER_BYTES => decode(answer).ok_or(Errno::EIO),
        _ => Err(Errno::EIO),
    }
}

/// Does the work when this process was started as a worker, and says how to end. `None` when it was not: go on.
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
    let served = take_socket().and_then(|socket| serve(&socket, |path, value| host.write_directly(path, value)));
    Some(if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
fn serve(socket: &OwnedFd, write: impl Fn(&HostPath, &str) -> Result<(), Refusal>) -> rustix::io::Result<()> {
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

#[cfg(test)]
mod tests;
