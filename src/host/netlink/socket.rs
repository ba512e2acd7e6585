//! A netlink socket that asks one thing and waits for the answer, for so long and no longer.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::message::{Answer, Progress, Refusal, Request};
use crate::host::wait::timespec;
use crate::model::Errno;

/// `MSG_PEEK | MSG_TRUNC`: how long the next datagram is, which stays where it is.
///
/// # Kernel
/// `include/linux/socket.h` (7.2).
const LENGTH_ONLY: i32 = 0x02 | 0x20;

/// How often something is asked again that only reads, and whose answer was lost or overtaken.
const ATTEMPTS: u32 = 8;

/// The number of a request on its own socket.
const SEQUENCE: u32 = 1;

/// Whether asking twice is the same as asking once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It only reads.
    None,
    /// It changes something.
    Change,
}

/// Asks, on a socket of its own so that no late answer is taken for another one, and gives the objects that were answered.
///
/// A dump that was interrupted (`NLM_F_DUMP_INTR`) and an answer that found no room (`ENOBUFS`) are asked for again, a bounded
/// number of times. A change is asked for once: after `ENOBUFS` or `ETIMEDOUT` nobody knows whether it was made, and it has to
/// be read.
///
/// # Errors
/// What the kernel refused; `ETIMEDOUT`; `ENOBUFS`; `EAGAIN` when what is listed changed each time.
pub(super) fn ask(protocol: isize, request: &Request, effect: Effect, by: Instant) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut last = Errno::EAGAIN;
    for _ in 0..ATTEMPTS {
        match ask_once(protocol, request, by) {
            Ok(answer) if !answer.interrupted => return Ok(answer.objects),
            Ok(_) => last = Errno::EAGAIN,
            Err(refusal) if refusal.errno == Errno::ENOBUFS && effect == Effect::None => last = refusal.errno,
            Err(refusal) => return Err(refusal),
        }
    }
    Err(last.into())
}

fn ask_once(protocol: isize, request: &Request, by: Instant) -> Result<Answer, Refusal> {
    let mut socket = Socket::new(protocol).map_err(errno)?;
    socket.bind_auto().map_err(errno)?;
    socket.set_non_blocking(true).map_err(errno)?;
    // Kernels before 4.12 and 4.3 know neither, and say less.
    socket.set_ext_ack(true).ok();
    socket.set_cap_ack(true).ok();
    let kernel = SocketAddr::new(0, 0);
    let message = request.encode(SEQUENCE);
    // Not repeated on EINTR: the kernel acts inside this call.
    socket.send_to(&message, &kernel, 0).map_err(errno)?;
    let mut answer = Answer::default();
    loop {
        let (datagram, sender) = receive(&socket, by)?;
        if sender.port_number() == 0 && answer.take(&datagram, SEQUENCE)? == Progress::End {
            return Ok(answer);
        }
    }
}

/// One datagram, however long.
fn receive(socket: &Socket, by: Instant) -> Result<(Vec<u8>, SocketAddr), Errno> {
    loop {
        let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&left(by)?)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Errno(error.raw_os_error())),
        }
        let whole = socket.recv_from(&mut Vec::new(), LENGTH_ONLY).and_then(|(length, _)| {
            let mut datagram = Vec::with_capacity(length.max(1));
            let (_, sender) = socket.recv_from(&mut datagram, 0)?;
            Ok((datagram, sender))
        });
        match whole.map_err(errno) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// What is left until a deadline.
#[expect(clippy::disallowed_methods, reason = "this is the clock of the real host")]
fn left(by: Instant) -> Result<Timespec, Errno> {
    let left = by.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Errno::ETIMEDOUT);
    }
    Ok(timespec(left))
}

/// The moment that is so far away.
#[expect(clippy::disallowed_methods, reason = "this is the clock of the real host")]
pub(super) fn after(length: Duration) -> Instant {
    Instant::now() + length
}

fn errno(error: std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(Errno::EIO.0))
}
