//! SIGINT, SIGTERM and SIGHUP, counted: the first asks the command to stop and to take back, the second to stop where it is.
//!
//! Each signal is one byte in a pipe that is never emptied: the count is what lies in it, and whoever waits for something
//! else can wait for it too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::pipe::PipeFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::path::Root;
use super::{HostPath, Read};
use crate::model::Errno;

/// The signals that came since they are listened for.
#[derive(Debug)]
pub(super) struct Signals {
    received: OwnedFd,
    /// Whether any came: spares asking the kernel for the count while none did.
    any: Arc<AtomicBool>,
    /// The count that was last told.
    told: AtomicUsize,
    /// Whether they end this process, as they did before they were listened for.
    deadly: Arc<AtomicBool>,
}

impl Signals {
    /// Listens for those that this process was not started to ignore: what runs under `nohup` outlives its terminal.
    ///
    /// # Errors
    /// The errno of `pipe2(2)`, `fcntl(2)` or `sigaction(2)`.
    pub(super) fn listen(host: &dyn Read) -> Result<Self, Errno> {
        let broken = |error: std::io::Error| Errno(error.raw_os_error().unwrap_or(Errno::EIO.0));
        let (signals, send) = Self::new()?;
        signals.any.store(false, Ordering::Release);
        let ignored = ignored(host);
        for signal in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0) {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&signals.deadly)).map_err(broken)?;
            signal_hook::flag::register(signal, Arc::clone(&signals.any)).map_err(broken)?;
            signal_hook::low_level::pipe::register(signal, send.try_clone().map_err(broken)?).map_err(broken)?;
        }
        Ok(signals)
    }

    /// No signals, and where a byte is one.
    pub(super) fn new() -> Result<(Self, OwnedFd), Errno> {
        let (received, send) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|error| Errno(error.raw_os_error()))?;
        Ok((
            Self { received, any: Arc::new(AtomicBool::new(true)), told: AtomicUsize::new(0), deadly: Arc::default() },
            send,
        ))
    }

    /// How many came.
    ///
    /// # Kernel
    /// `fs/pipe.c` `pipe_ioctl()` `FIONREAD` (7.2): how many bytes lie there.
    pub(super) fn count(&self) -> usize {
        if !self.any.load(Ordering::Acquire) {
            return 0;
        }
        // It does not fail on a pipe.
        let count = rustix::io::ioctl_fionread(&self.received).map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0));
        self.told.fetch_max(count, Ordering::AcqRel);
        count
    }

    /// How many of them this process has taken note of.
    pub(super) fn told(&self) -> usize {
        self.told.load(Ordering::Acquire)
    }

    /// From now on they are counted.
    pub(super) fn hold(&self) {
        self.deadly.store(false, Ordering::Release);
    }

    /// From now on they end the process: there is nothing to take back.
    pub(super) fn let_go(&self) {
        self.deadly.store(true, Ordering::Release);
    }
}

impl AsFd for Signals {
    /// Can be read once a signal has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.received.as_fd()
    }
}

/// The mask of the signals that this process ignores; none when that cannot be read.
///
/// # Kernel
/// `fs/proc/array.c` `task_sig()` (7.2): `SigIgn`, in hexadecimal, bit 0 is signal 1.
fn ignored(host: &dyn Read) -> u64 {
    let status = host.text(&HostPath::fixed(Root::Proc, "self/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::linux::Linux;

    #[test]
    fn each_signal_counts_and_none_is_forgotten() {
        let (signals, send) = Signals::new().unwrap();
        assert_eq!((signals.count(), signals.told()), (0, 0));
        for count in 1..4 {
            assert_eq!(rustix::io::write(&send, b"X"), Ok(1));
            assert_eq!(signals.told(), count - 1, "nobody has asked yet");
            assert_eq!((signals.count(), signals.count(), signals.told()), (count, count, count));
        }
    }

    #[test]
    fn a_signal_that_is_listened_for_is_counted_and_ends_nothing() {
        let host = Linux::new();
        let signals = Signals::listen(&host).unwrap();
        for count in 1..3 {
            signal_hook::low_level::raise(SIGTERM).unwrap();
            assert_eq!(signals.count(), if ignored(&host) & (1 << (SIGTERM - 1)) == 0 { count } else { 0 });
        }
    }

    #[test]
    fn what_is_ignored_is_told_by_the_kernel() {
        // The runtime ignores SIGPIPE, which is 13.
        assert_eq!(ignored(&Linux::new()) & (1 << 12), 1 << 12);
    }
}
