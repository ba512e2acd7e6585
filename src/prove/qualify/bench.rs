//! The device that is held to the rules, and what cases do with it again and again.

use std::io::{self, ErrorKind};

use super::{Off, Rig};
use crate::host::device::{Data, MigrationFlags, Resuming, Saving, State};
use crate::host::opening::{Kind, OpenError};
use crate::host::{Clock, Device};
use crate::model::Errno;
use crate::prove::to_running;

/// Opens a device, by a kind of way where that is said.
pub type Open<'a> = &'a dyn Fn(Option<Kind>) -> Result<Box<dyn Device>, OpenError>;

/// What cases are run on.
pub struct Bench<'a> {
    /// The device.
    pub open: Open<'a>,
    /// Another one, for what one cannot show.
    pub peer: Option<Open<'a>>,
    /// Whether the other one is of the same kind.
    pub peer_is_same: bool,
    /// Whether both are VFs of one PF.
    pub peer_is_sibling: bool,
    /// The driver, as sysfs names it.
    pub driver: &'a str,
    /// What the driver's alias table says of its module; `None` of what has none, an mdev.
    pub table: Option<Table>,
    /// Whether that table has the other one too.
    pub table_has_peer: bool,
    /// The power to harm the device, and to rebind it; without it the cases ask.
    pub rig: Option<&'a dyn Rig>,
    /// Time.
    pub clock: &'a dyn Clock,
    /// How often the loops go round.
    pub loops: u32,
    /// How many descriptors this process has open; `None` where that means nothing.
    pub descriptors: &'a dyn Fn() -> Option<usize>,
}

/// What `modules.alias` has of the device's driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// A `vfio_pci:` line that matches the device.
    pub vfio: bool,
    /// A `pci:` line: it would be loaded, and bound, without being asked for.
    pub native: bool,
    /// Whether a module has the driver.
    pub linked: Linked,
}

/// What `/sys/module` says of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// A module has a driver of that name.
    Yes,
    /// The module that is called so has none of that name.
    No,
    /// There is no module that is called so: the driver is built in.
    BuiltIn,
}

/// States larger than this are not held in memory.
const LIMIT_BYTES: usize = 1 << 30;

/// How much is read and written at once.
const PIECE_BYTES: usize = 1 << 20;

impl Bench<'_> {
    /// Opened, and running; as it is where nothing is to be harmed.
    pub(super) fn fresh(&self) -> Result<Box<dyn Device>, Off> {
        let device = (self.open)(None)?;
        if self.rig.is_some() && device.migration().is_ok() {
            to_running(device.as_ref())?;
        }
        Ok(device)
    }

    /// The same of a device that migrates.
    pub(super) fn migrating(&self) -> Result<(Box<dyn Device>, MigrationFlags), Off> {
        let device = (self.open)(None)?;
        let flags = flags(device.as_ref())?;
        to_running(device.as_ref())?;
        Ok((device, flags))
    }

    /// The same of one with pre-copy.
    pub(super) fn precopying(&self) -> Result<Box<dyn Device>, Off> {
        let (device, flags) = self.migrating()?;
        if flags.contains(MigrationFlags::PRE_COPY) {
            return Ok(device);
        }
        Err(Off::NotApplicable("it has no pre-copy".to_owned()))
    }

    /// Whether the driver is one of these.
    pub(super) fn is(&self, drivers: &[&str]) -> bool {
        drivers.contains(&self.driver)
    }
}

/// What it can of migration; not applicable when that is nothing.
pub(super) fn flags(device: &dyn Device) -> Result<MigrationFlags, Off> {
    device.migration().map_err(|error| match error.errno {
        Errno::ENOTTY => Off::NotApplicable("it does not migrate".to_owned()),
        _ => error.into(),
    })
}

/// Sends it to a state that begins to save.
pub(super) fn saving(device: &dyn Device, to: State) -> Result<Box<dyn Saving>, Off> {
    match device.set_state(to)? {
        Some(Data::Saving(stream)) => Ok(stream),
        _ => Err(Off::Fail(format!("{to} came without a descriptor"))),
    }
}

/// Sends it to RESUMING.
pub(super) fn resuming(device: &dyn Device) -> Result<Box<dyn Resuming>, Off> {
    match device.set_state(State::Resuming)? {
        Some(Data::Resuming(stream)) => Ok(stream),
        _ => Err(Off::Fail("RESUMING came without a descriptor".to_owned())),
    }
}

/// Brings it back to RUNNING.
pub(super) fn back(device: &dyn Device) -> Result<(), Off> {
    to_running(device)?;
    Ok(())
}

/// The whole state of a device that runs, and that runs again then.
pub(super) fn state_of(device: &dyn Device) -> Result<Vec<u8>, Off> {
    let mut stream = saving(device, State::StopCopy)?;
    let state = read_all(stream.as_mut())?;
    drop(stream);
    device.set_state(State::Running)?;
    Ok(state)
}

/// Reads to the end.
pub(super) fn read_all(stream: &mut dyn Saving) -> Result<Vec<u8>, Off> {
    read_by(stream, PIECE_BYTES)
}

/// Reads to the end, so many bytes at once.
pub(super) fn read_by(stream: &mut dyn Saving, segment: usize) -> Result<Vec<u8>, Off> {
    let (mut all, mut piece) = (Vec::new(), vec![0; segment]);
    loop {
        match read(stream, &mut piece) {
            Ok(0) => return Ok(all),
            Ok(length) => all.extend_from_slice(&piece[..length]),
            Err(error) => {
                return Err(Off::Fail(format!("read: {} after {} bytes", errno(&error), all.len())));
            }
        }
        if all.len() > LIMIT_BYTES {
            return Err(Off::NotApplicable("it has more than 1 GiB of state".to_owned()));
        }
    }
}

/// Reads once, but for signals.
pub(super) fn read(stream: &mut dyn Saving, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(into) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// Writes all, so many bytes at once.
///
/// # Errors
/// How far it came, and why no further.
pub(super) fn write_all(stream: &mut dyn Resuming, data: &[u8], segment: usize) -> Result<(), (usize, Errno)> {
    let mut written = 0;
    while written < data.len() {
        let end = data.len().min(written + segment);
        match stream.write(&data[written..end]) {
            Ok(0) => return Err((written, Errno::EIO)),
            Ok(length) => written += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((written, errno(&error))),
        }
    }
    Ok(())
}

/// Loads a state; whether the device took it.
pub(super) fn load(device: &dyn Device, state: &[u8], segment: usize) -> Result<(), Off> {
    let mut stream = resuming(device)?;
    write_all(stream.as_mut(), state, segment)
        .map_err(|(at, errno)| Off::Fail(format!("write: {errno} after {at} of {} bytes", state.len())))?;
    device.set_state(State::Stop).map_err(|error| Off::Fail(format!("it did not take its state: {error}")))?;
    Ok(())
}

/// Whether a device refuses this state, by a write or at its end; and how.
pub(super) fn refuses(device: &dyn Device, state: &[u8]) -> Result<Option<String>, Off> {
    let mut stream = resuming(device)?;
    let written = write_all(stream.as_mut(), state, PIECE_BYTES);
    let said = match written {
        Err((at, errno)) => Some(format!("write: {errno} after {at} bytes")),
        Ok(()) => device.set_state(State::Stop).err().map(|error| format!("RESUMING to STOP: {}", error.errno)),
    };
    drop(stream);
    if said.is_some() && device.state()? == State::Running {
        return Err(Off::Fail("it runs with a state that it has refused".to_owned()));
    }
    back(device)?;
    Ok(said)
}

/// The errno of an I/O error.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(Errno::EIO.0))
}

/// The rule is broken.
pub(super) fn broken<T>(what: impl Into<String>) -> Result<T, Off> {
    Err(Off::Fail(what.into()))
}
