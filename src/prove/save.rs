//! The state of a device, read out of it.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use super::migrate::{Failure, Watch, Why, errno, failed, to_running};
use crate::host::device::{Data, MigrationFlags, Saving, State};
use crate::host::{Clock, Device};
use crate::model::Errno;
use crate::stream::{Header, StreamError, Writer};

/// Whether part of a state is read while the device works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precopying {
    /// All of it is read while the device stands still.
    No,
    /// What is there at the beginning is read before.
    Yes,
}

/// What was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Of the device, in bytes.
    pub bytes: u64,
    /// How much of that while it worked.
    pub precopy_bytes: u64,
    /// How long it stood still.
    pub stopped: Duration,
}

/// How long a device in pre-copy may have nothing to say while it says that it has.
const SILENCE: Duration = Duration::from_secs(10);

/// How soon it is asked again.
const PAUSE: Duration = Duration::from_millis(1);

/// Saves the state of a device that is open, and lets it go on running.
///
/// The device is brought to RUNNING first; one that somebody left elsewhere has no state worth more.
///
/// # Errors
/// [`Failure`]: why, and what became of the device.
///
/// # Kernel
/// Reads end at 0 in STOP_COPY alone. In pre-copy there may be nothing for now, ENOMSG of mlx5 and virtio, 0 of qat, hisi_acc
/// and mtty; it is left when what was there at the beginning has been read, `initial_bytes` 0
/// (`include/uapi/linux/vfio.h` `VFIO_MIG_GET_PRECOPY_INFO`, 7.2).
pub fn save<W: Write>(
    device: &dyn Device,
    clock: &dyn Clock,
    (header, precopying): (&Header, Precopying),
    out: W,
    watch: &dyn Watch,
) -> Result<(W, Saved), Box<Failure>> {
    let lost = |why| failed(device, why);
    let flags = device.migration().map_err(|error| match error.errno {
        Errno::ENOTTY => Failure::of_running(Why::NotMigratable),
        _ => Failure::of_running(Why::Host(error)),
    })?;
    if precopying == Precopying::Yes && !flags.contains(MigrationFlags::PRE_COPY) {
        return Err(Failure::of_running(Why::NoPrecopy));
    }
    to_running(device).map_err(|error| lost(Why::Host(error)))?;
    let about = device.data_size().ok();
    let writer = Writer::new(out, header).map_err(|error| lost(Why::File(error)))?;
    let mut saving = Save { device, clock, watch, about, writer };
    let saved = saving.all(precopying).map_err(lost)?;
    let out = saving.writer.end().map_err(|error| lost(Why::File(error)))?;
    Ok((out, saved))
}

/// A state on its way.
struct Save<'a, W> {
    device: &'a dyn Device,
    clock: &'a dyn Clock,
    watch: &'a dyn Watch,
    about: Option<u64>,
    writer: Writer<W>,
}

impl<W: Write> Save<'_, W> {
    fn all(&mut self, precopying: Precopying) -> Result<Saved, Why> {
        let mut early = None;
        if precopying == Precopying::Yes {
            let mut stream = self.go(State::PreCopy)?.ok_or(Why::NoStream(State::PreCopy))?;
            self.precopy(stream.as_mut())?;
            early = Some(stream);
        }
        let precopy_bytes = self.writer.written();
        let stopped = self.clock.now();
        let stream = self.go(State::StopCopy)?;
        // From pre-copy the stream goes on that there is.
        let mut stream = early.or(stream).ok_or(Why::NoStream(State::StopCopy))?;
        self.rest(stream.as_mut())?;
        drop(stream);
        self.device.set_state(State::Running).map_err(Why::Host)?;
        Ok(Saved { bytes: self.writer.written(), precopy_bytes, stopped: self.clock.now().saturating_sub(stopped) })
    }

    fn go(&self, to: State) -> Result<Option<Box<dyn Saving>>, Why> {
        match self.device.set_state(to).map_err(Why::Host)? {
            Some(Data::Saving(stream)) => Ok(Some(stream)),
            Some(Data::Resuming(_)) => Err(Why::NoStream(to)),
            None => Ok(None),
        }
    }

    /// What is there at the beginning.
    fn precopy(&mut self, stream: &mut dyn Saving) -> Result<(), Why> {
        let mut heard = self.clock.now();
        loop {
            let length = self.some(stream)?;
            if stream.precopy().map_err(Why::Host)?.initial_bytes == 0 {
                return Ok(());
            }
            let now = self.clock.now();
            if length > 0 {
                heard = now;
            } else if now > heard + SILENCE {
                return Err(Why::Silent(self.writer.written()));
            } else {
                self.clock.nap(PAUSE);
            }
        }
    }

    fn rest(&mut self, stream: &mut dyn Saving) -> Result<(), Why> {
        loop {
            match self.read(stream) {
                Ok(0) => return Ok(()),
                Ok(length) => self.put(length)?,
                Err(error) => return Err(Why::Stream(self.writer.written(), errno(&error))),
            }
        }
    }

    /// What there is now; 0 when there is nothing.
    fn some(&mut self, stream: &mut dyn Saving) -> Result<usize, Why> {
        match self.read(stream) {
            Ok(0) => Ok(0),
            Ok(length) => self.put(length).map(|()| length),
            Err(error) if errno(&error) == Errno::ENOMSG => Ok(0),
            Err(error) => Err(Why::Stream(self.writer.written(), errno(&error))),
        }
    }

    fn read(&mut self, stream: &mut dyn Saving) -> io::Result<usize> {
        loop {
            match stream.read(self.writer.room()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                answer => return answer,
            }
        }
    }

    fn put(&mut self, length: usize) -> Result<(), Why> {
        self.writer.piece(length).map_err(|error: StreamError| Why::File(error))?;
        self.watch.moved(self.writer.written(), self.about);
        Ok(())
    }
}
