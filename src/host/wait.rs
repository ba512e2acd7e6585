//! Waiting for somebody else under a deadline, and no longer than the user wants to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll};

use super::signals::Signals;
use crate::model::Errno;

/// How much longer is waited after the user has asked once to stop.
pub(super) const HASTE: Duration = Duration::from_secs(5);
/// How soon it is seen that the user asks again.
const SLICE: Duration = Duration::from_millis(100);

/// How long to wait, and for whose signals to look meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience<'a> {
    length: Duration,
    signals: Option<&'a Signals>,
}

impl<'a> Patience<'a> {
    /// What is waited for, and what ends the wait.
    fn polled<'f>(&self, what: BorrowedFd<'f>) -> [PollFd<'f>; 2]
    where
        'a: 'f,
    {
        let signals = self.signals.map_or(what, AsFd::as_fd);
        [what, signals].map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN))
    }
}

impl Patience<'_> {
    /// So long, whatever comes.
    pub(super) fn of(length: Duration) -> Self {
        Self { length, signals: None }
    }

    /// Waits until `what` can be read or its other end is closed, and says whether that came in time.
    ///
    /// A first signal that comes meanwhile leaves five seconds at most; one that was known before does not, for what is done
    /// now takes back. A second one ends the wait.
    #[expect(clippy::disallowed_methods, reason = "the deadline of a wait in the kernel, on the real host alone")]
    pub(super) fn readable(&self, what: BorrowedFd<'_>) -> Result<bool, Errno> {
        // Nearly always the answer comes and nobody asks for the time, which an emulated machine takes long to tell.
        if self.signals.is_none_or(|signals| signals.told() == 0) {
            let mut polled = self.polled(what);
            match rustix::event::poll(&mut polled, Some(&timespec(self.length))) {
                Ok(0) => return Ok(false),
                Ok(_) if !polled[0].revents().is_empty() => return Ok(true),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Errno(error.raw_os_error())),
            }
        }
        let started = Instant::now();
        let mut end = self.length;
        let mut known = self.signals.map_or(0, Signals::told);
        loop {
            let left = end.saturating_sub(started.elapsed());
            // What has come once is there for good: it cannot be waited for, and is asked for instead.
            let (slice, waits) = if known == 0 { (left, 2) } else { (left.min(SLICE), 1) };
            let mut polled = self.polled(what);
            match rustix::event::poll(&mut polled[..waits], Some(&timespec(slice))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Errno(error.raw_os_error())),
            }
            if !polled[0].revents().is_empty() {
                return Ok(true);
            }
            let count = self.signals.map_or(0, Signals::count);
            if count > known {
                known = count;
                end = end.min(started.elapsed() + HASTE);
            }
            if count > 1 || started.elapsed() >= end {
                return Ok(false);
            }
        }
    }
}

impl<'a> Patience<'a> {
    /// So long, or until the user has asked twice to stop.
    pub(super) fn with(length: Duration, signals: Option<&'a Signals>) -> Self {
        Self { length, signals }
    }
}

/// Where the answers to many questions come.
#[derive(Debug)]
pub(super) struct Answers(OwnedFd);

impl Answers {
    /// Nothing is listened to.
    pub(super) fn new() -> Result<Self, Errno> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(Self).map_err(|error| Errno(error.raw_os_error()))
    }

    /// Listens to `who` as well, until it is closed.
    pub(super) fn hear(&self, who: impl AsFd, place: usize) -> Result<(), Errno> {
        let data = epoll::EventData::new_u64(place as u64);
        epoll::add(&self.0, who, data, epoll::EventFlags::IN).map_err(|error| Errno(error.raw_os_error()))
    }

    /// Waits so long, or until some have answered or a first signal comes, and tells whose answers are there.
    pub(super) fn wait(&self, length: Duration, signals: Option<&Signals>) -> Vec<usize> {
        // A signal that is known is there for good, and cannot be waited for.
        if let Some(signals) = signals.filter(|signals| signals.told() == 0) {
            let mut polled = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            // Woken or not, whoever waits looks again.
            rustix::event::poll(&mut polled, Some(&timespec(length))).ok();
            if polled[0].revents().is_empty() {
                return Vec::new();
            }
            return self.heard(Duration::ZERO);
        }
        self.heard(length)
    }

    fn heard(&self, length: Duration) -> Vec<usize> {
        let mut events = Vec::with_capacity(64);
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), Some(&timespec(length))) {
            Ok(_) => events.iter().filter_map(|event: &epoll::Event| usize::try_from(event.data.u64()).ok()).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// For `poll(2)`.
pub(super) fn timespec(length: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(length.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(length.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn what_is_there_is_seen_and_what_is_not_is_given_up() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert_eq!(Patience::of(Duration::ZERO).readable(read.as_fd()), Ok(false));
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(Patience::of(Duration::ZERO).readable(read.as_fd()), Ok(true));
        assert_eq!(Patience::of(LONG).readable(read.as_fd()), Ok(true));
    }

    #[test]
    fn a_closed_end_is_no_reason_to_wait() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        drop(write);
        assert_eq!(Patience::of(LONG).readable(read.as_fd()), Ok(true));
    }

    #[test]
    fn a_second_signal_ends_the_wait() {
        let (signals, send) = Signals::new().unwrap();
        let (read, _write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&send, b"XX").unwrap();
        assert_eq!(Patience::with(LONG, Some(&signals)).readable(read.as_fd()), Ok(false));
        // As it does when the first was known.
        let (signals, send) = Signals::new().unwrap();
        rustix::io::write(&send, b"X").unwrap();
        assert_eq!(signals.count(), 1);
        let waits = Patience::with(LONG, Some(&signals));
        let seen = std::thread::scope(|scope| {
            let seen = scope.spawn(|| waits.readable(read.as_fd()));
            rustix::io::write(&send, b"X").unwrap();
            seen.join().unwrap()
        });
        assert_eq!(seen, Ok(false));
    }

    #[test]
    fn a_first_signal_leaves_time_for_an_answer() {
        let (signals, send) = Signals::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&send, b"X").unwrap();
        let waits = Patience::with(LONG, Some(&signals));
        let seen = std::thread::scope(|scope| {
            let seen = scope.spawn(|| waits.readable(read.as_fd()));
            while signals.told() == 0 {
                std::thread::yield_now();
            }
            rustix::io::write(&write, b"x").unwrap();
            seen.join().unwrap()
        });
        assert_eq!(seen, Ok(true));
    }

    #[test]
    fn a_part_of_a_second_is_waited_too() {
        let short = timespec(Duration::from_millis(1500));
        assert_eq!((short.tv_sec, short.tv_nsec), (1, 500_000_000));
    }
}
