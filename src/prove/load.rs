//! A state, written into a device.

use std::io::{ErrorKind, Read, Write};

use super::migrate::{Failure, Watch, Why, errno, failed, to_running};
use crate::host::Device;
use crate::host::device::{Data, State};
use crate::model::Errno;
use crate::stream::Reader;

/// What was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Of the device, in bytes.
    pub bytes: u64,
}

/// Loads a state into a device that is open, and lets it run with it.
///
/// A piece that is damaged is not given to the device, and what was given before is taken back by a reset.
///
/// # Errors
/// [`Failure`]: why, and what became of the device.
///
/// # Kernel
/// Drivers look at what they were given when RESUMING is left: `EINVAL`, and the device stays there
/// (`include/uapi/linux/vfio.h` `VFIO_DEVICE_STATE_RESUMING`; `drivers/vfio/pci/mlx5/main.c` `mlx5vf_pci_step_device_state_locked()`,
/// 7.2).
pub fn load<R: Read>(device: &dyn Device, from: &mut Reader<R>, watch: &dyn Watch) -> Result<Loaded, Box<Failure>> {
    match device.migration() {
        Ok(_) => {}
        Err(error) => {
            let why = if error.errno == Errno::ENOTTY { Why::NotMigratable } else { Why::Host(error) };
            return Err(Failure::of_running(why));
        }
    }
    to_running(device).map_err(|error| failed(device, Why::Host(error)))?;
    write_all(device, from, watch).map_err(|why| failed(device, why))
}

fn write_all<R: Read>(device: &dyn Device, from: &mut Reader<R>, watch: &dyn Watch) -> Result<Loaded, Why> {
    let stream = device.set_state(State::Resuming).map_err(Why::Host)?;
    let Some(Data::Resuming(mut stream)) = stream else { return Err(Why::NoStream(State::Resuming)) };
    let mut bytes = 0;
    while let Some(piece) = from.piece().map_err(Why::File)? {
        let mut rest = piece;
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(0) => return Err(Why::Stream(bytes, Errno::EIO)),
                Ok(length) => {
                    bytes += length as u64;
                    rest = &rest[length..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Why::Stream(bytes, errno(&error))),
            }
        }
        watch.moved(bytes, None);
    }
    device.set_state(State::Running).map_err(Why::Refused)?;
    drop(stream);
    Ok(Loaded { bytes })
}
