//! The serial port that carries records to the lab.

use std::fs::{File, OpenOptions};
use std::io::Write;

use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};
use vfioadm_wire::{PORT, Record};

/// Where records go; nowhere, when a suite is run by hand.
pub(crate) struct Channel(Option<File>);

impl Channel {
    /// The port, with the line discipline out of the way: it would turn newlines into two bytes and echo.
    pub(crate) fn open() -> Result<Channel, String> {
        let told = |what: &str| format!("{what} {PORT}");
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .open(PORT)
            .map_err(|error| format!("{}: {error}", told("open")))?;
        let mut mode = tcgetattr(&port).map_err(|error| format!("{}: {error}", told("read the mode of")))?;
        mode.make_raw();
        tcsetattr(&port, OptionalActions::Now, &mode)
            .map_err(|error| format!("{}: {error}", told("set the mode of")))?;
        Ok(Channel(Some(port)))
    }

    /// A channel to nobody.
    pub(crate) fn none() -> Channel {
        Channel(None)
    }

    /// Sends a record. There is nobody to tell when that fails: the lab notices the silence.
    pub(crate) fn send(&mut self, record: &Record) {
        let Some(port) = &mut self.0 else { return };
        if let Ok(mut line) = serde_json::to_vec(record) {
            line.push(b'\n');
            drop(port.write_all(&line));
            tcdrain(&*port).ok();
        }
    }
}
