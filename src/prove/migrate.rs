//! What saving and loading have in common: the way to RUNNING and back, and what is said when it fails.

use std::fmt;

use crate::host::device::State;
use crate::host::{Device, HostError};
use crate::model::Errno;
use crate::stream::StreamError;

/// Hears how far it has come.
pub trait Watch {
    /// So many bytes have gone through, of about so many.
    fn moved(&self, bytes: u64, about: Option<u64>);
}

/// Why a state was not saved, or not loaded.
#[derive(Debug)]
pub enum Why {
    /// The device does not migrate.
    NotMigratable,
    /// It has no pre-copy.
    NoPrecopy,
    /// An ioctl was refused.
    Host(HostError),
    /// It went to a state that has a stream, and gave none.
    NoStream(State),
    /// Its stream was refused after so many bytes.
    Stream(u64, Errno),
    /// It gave no more, before its end, for too long.
    Silent(u64),
    /// The file.
    File(StreamError),
    /// The device took all of it, and found it wrong.
    Refused(HostError),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMigratable => {
                f.write_str("it does not migrate: its driver offers no VFIO_DEVICE_FEATURE_MIGRATION")
            }
            Self::NoPrecopy => f.write_str("it has no pre-copy"),
            Self::Host(error) | Self::Refused(error) => error.fmt(f),
            Self::NoStream(state) => write!(f, "it went to {state} and gave no descriptor"),
            Self::Stream(at, errno) => write!(f, "its stream ended after {at} bytes: {errno}"),
            Self::Silent(at) => write!(f, "its stream was silent after {at} bytes"),
            Self::File(error) => error.fmt(f),
        }
    }
}

/// What became of the device then.
#[derive(Debug)]
pub enum After {
    /// It runs, as before.
    Runs,
    /// It was reset, and runs: what was in it is gone.
    RunsAfterReset,
    /// It could not be brought back.
    Lost(HostError),
}

/// It did not work.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub why: Why,
    /// What became of the device.
    pub after: After,
}

impl Failure {
    /// Nothing was done to the device yet.
    pub(super) fn of_running(why: Why) -> Box<Self> {
        Box::new(Self { why, after: After::Runs })
    }
}

/// Brings a device to RUNNING from wherever it was left, by a reset if need be.
///
/// Out of RESUMING a reset is tried first: the other way would have the device take what was written so far.
///
/// # Errors
/// What the reset was refused with.
///
/// # Kernel
/// Out of ERROR leads `VFIO_DEVICE_RESET` alone; a device that reports no `VFIO_DEVICE_FLAGS_RESET` may take it all the same
/// (`samples/vfio-mdev/mtty.c` `mtty_ioctl()`, 7.2).
pub fn to_running(device: &dyn Device) -> Result<After, HostError> {
    let goes = |from: State| from != State::Error && device.set_state(State::Running).is_ok();
    match device.state()? {
        State::Running => return Ok(After::Runs),
        State::Error | State::Resuming => {}
        state => {
            if goes(state) && device.state()? == State::Running {
                return Ok(After::Runs);
            }
        }
    }
    let reset = device.reset();
    match (device.state()?, reset) {
        (State::Running, Ok(())) => Ok(After::RunsAfterReset),
        (state, Ok(())) if goes(state) => Ok(After::RunsAfterReset),
        (state, Err(_)) if goes(state) => Ok(After::Runs),
        (_, Err(error)) => Err(error),
        (_, Ok(())) => device.set_state(State::Running).map(|_| After::RunsAfterReset),
    }
}

/// What a failure comes to: the device is brought back first.
pub(super) fn failed(device: &dyn Device, why: Why) -> Box<Failure> {
    let after = to_running(device).unwrap_or_else(After::Lost);
    Box::new(Failure { why, after })
}

/// The errno of a stream's refusal.
pub(super) fn errno(error: &std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(Errno::EIO.0))
}
