//! The streams of a migration, as they are read.

use std::time::Duration;

use super::bench::{back, broken, errno, read, read_all, resuming, saving};
use super::states::bring;
use super::{Bench, Case, Off, Told};
use crate::host::device::{Data, Saving, State};
use crate::model::Errno;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "one-way",
        rule: "a descriptor that is read cannot be written, nor the other way: EBADF (vfio_main.c vfio_ioct_mig_return_fd(), \
               the driver's anon_inode_getfile() with O_RDONLY or O_WRONLY)",
        after: &["stream-given"],
        run: one_way,
    },
    Case {
        id: "no-seek",
        rule: "a stream has no places: ESPIPE (the driver's stream_open())",
        after: &["stream-given"],
        run: no_seek,
    },
    Case {
        id: "stop-copy-ends",
        rule: "in STOP_COPY a stream has an end, and it stays there (include/uapi/linux/vfio.h VFIO_DEVICE_STATE_STOP_COPY)",
        after: &["stream-given"],
        run: ends,
    },
    Case {
        id: "poll",
        rule: "in STOP_COPY poll finds a stream ready before each read, the one at its end too, and when it is over \
               (include/linux/poll.h vfs_poll(): a file without .poll is always ready; mlx5vf_save_poll())",
        after: &["stop-copy-ends"],
        run: poll,
    },
    Case {
        id: "data-size",
        rule: "MIG_DATA_SIZE is no less than what is read then (include/uapi/linux/vfio.h \
               VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: estimated, and what user space limits its downtime by)",
        after: &["stop-copy-ends"],
        run: data_size,
    },
    Case {
        id: "stream-dies",
        rule: "when the device leaves the state of a stream, by a state or by a reset, the stream ends with ENODEV (the driver's \
               disable_fd())",
        after: &["stop-copy-ends"],
        run: dies,
    },
    Case {
        id: "precopy-dry",
        rule: "in pre-copy a stream that has nothing for now says ENOMSG (include/uapi/linux/vfio.h VFIO_MIG_GET_PRECOPY_INFO)",
        after: &["stream-given"],
        run: precopy_dry,
    },
    Case {
        id: "precopy-info",
        rule: "initial_bytes never grows while it is read, is 0 when all is read, and is EINVAL in STOP_COPY \
               (include/uapi/linux/vfio.h struct vfio_precopy_info)",
        after: &["precopy-dry"],
        run: precopy_info,
    },
];

fn one_way(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let wrong = |what: &str, answer: std::io::Result<usize>| match answer {
        Err(error) if errno(&error) == Errno::EBADF => Ok(()),
        Err(error) => broken(format!("{what}: {}", errno(&error))),
        Ok(_) => broken(format!("{what} works")),
    };
    let mut stream = saving(device.as_ref(), State::StopCopy)?;
    wrong("write to what is saved", stream.wrong_way())?;
    drop(stream);
    back(device.as_ref())?;
    let mut stream = resuming(device.as_ref())?;
    wrong("read of what is loaded", stream.wrong_way())?;
    drop(stream);
    back(device.as_ref())?;
    Ok("EBADF both ways".to_owned())
}

fn no_seek(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let mut stream = saving(device.as_ref(), State::StopCopy)?;
    let said = match stream.read_at() {
        Err(error) if errno(&error) == Errno::ESPIPE => Ok("ESPIPE".to_owned()),
        Err(error) => broken(format!("pread: {}", errno(&error))),
        Ok(_) => broken("pread works"),
    };
    drop(stream);
    back(device.as_ref())?;
    said
}

fn ends(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let about = device.data_size().unwrap_or(0);
    let mut stream = saving(device.as_ref(), State::StopCopy)?;
    let mut all = 0u64;
    let mut piece = vec![0; 1 << 20];
    // A state that is many times what the device itself expects has no end.
    let limit = about.saturating_mul(16).max(1 << 30);
    loop {
        match read(stream.as_mut(), &mut piece) {
            Ok(0) => break,
            Ok(length) => all += length as u64,
            Err(error) => return broken(format!("read: {} after {all} bytes", errno(&error))),
        }
        if all > limit {
            return broken(format!("no end after {all} bytes, and it expects {about}"));
        }
    }
    for _ in 0..3 {
        match read(stream.as_mut(), &mut piece) {
            Ok(0) => {}
            Ok(length) => return broken(format!("after its end at {all} bytes come {length} more")),
            Err(error) => return broken(format!("after its end at {all} bytes: {}", errno(&error))),
        }
    }
    drop(stream);
    back(device.as_ref())?;
    if all == 0 { broken("it is empty") } else { Ok(format!("after {all} bytes")) }
}

/// A device that has not made its data by then makes none.
const READY_WITHIN: Duration = Duration::from_secs(30);

fn poll(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let mut stream = saving(device.as_ref(), State::StopCopy)?;
    let ready = |stream: &mut dyn Saving, place: String| match stream.is_readable(READY_WITHIN) {
        Ok(true) => Ok(()),
        Ok(false) => broken(format!("poll finds nothing {place}, within {} s", READY_WITHIN.as_secs())),
        Err(error) => broken(format!("poll {place}: {}", errno(&error))),
    };
    let (mut all, mut reads, mut piece) = (0, 0, vec![0; 1 << 20]);
    loop {
        ready(stream.as_mut(), format!("after {all} bytes"))?;
        match read(stream.as_mut(), &mut piece) {
            Ok(0) => break,
            Ok(length) => (all, reads) = (all + length, reads + 1),
            Err(error) => return broken(format!("read: {} after {all} bytes", errno(&error))),
        }
    }
    ready(stream.as_mut(), "at the end".to_owned())?;
    back(device.as_ref())?;
    ready(stream.as_mut(), "when the device has left".to_owned())?;
    Ok(format!("before {reads} reads of {all} bytes, at the end and when it was over"))
}

fn data_size(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let before = match device.data_size() {
        Ok(size) => size,
        Err(error) if error.errno == Errno::ENOTTY => {
            return Err(Off::NotApplicable("this kernel has no MIG_DATA_SIZE".to_owned()));
        }
        Err(error) => return Err(error.into()),
    };
    let mut stream = saving(device.as_ref(), State::StopCopy)?;
    let within = device.data_size()?;
    let length = read_all(stream.as_mut())?.len() as u64;
    drop(stream);
    back(device.as_ref())?;
    if length <= before.max(within) && length <= within {
        return Ok(format!("{length} bytes; {before} expected in RUNNING, {within} in STOP_COPY"));
    }
    broken(format!("{length} bytes; {before} expected in RUNNING, {within} in STOP_COPY"))
}

fn dies(bench: &Bench<'_>) -> Told {
    let (device, flags) = bench.migrating()?;
    let mut saved = saving(device.as_ref(), State::StopCopy)?;
    back(device.as_ref())?;
    let mut loaded = resuming(device.as_ref())?;
    back(device.as_ref())?;
    let dead = |what: &str, answer: std::io::Result<usize>| match answer {
        Err(error) if errno(&error) == Errno::ENODEV => Ok(()),
        Err(error) => broken(format!("{what}: {}", errno(&error))),
        Ok(length) => broken(format!("{what} gives {length} bytes")),
    };
    dead("read of what was saved", read(saved.as_mut(), &mut [0; 64]))?;
    dead("write to what was loaded", loaded.write(&[0; 64]))?;
    if device.reset().is_err() {
        return Ok("ENODEV both ways; it cannot be reset alone".to_owned());
    }
    for state in State::ALL.into_iter().filter(|state| state.is_of(flags)) {
        if let Some(Data::Saving(mut saved)) = bring(device.as_ref(), state)? {
            device.reset()?;
            dead(&format!("after a reset in {state}, read"), read(saved.as_mut(), &mut [0; 64]))?;
        }
    }
    back(device.as_ref())?;
    Ok("ENODEV both ways, and after a reset".to_owned())
}

/// Drivers that say 0 where ENOMSG is meant.
const DRY_IS_ZERO: &[&str] = &["mtty", "qat_vfio_pci", "hisi_acc_vfio_pci"];

fn precopy_dry(bench: &Bench<'_>) -> Told {
    let device = bench.precopying()?;
    let mut stream = saving(device.as_ref(), State::PreCopy)?;
    let mut piece = vec![0; 1 << 20];
    let mut all = 0;
    // Far more than any device has at once that does nothing.
    for _ in 0..4096 {
        match read(stream.as_mut(), &mut piece) {
            Ok(0) => {
                let said = format!("0 after {all} bytes, where ENOMSG is meant");
                back(device.as_ref())?;
                return Err(if bench.is(DRY_IS_ZERO) { Off::Quirk(said) } else { Off::Fail(said) });
            }
            Ok(length) => all += length,
            Err(error) if errno(&error) == Errno::ENOMSG => {
                back(device.as_ref())?;
                return Ok(format!("ENOMSG after {all} bytes"));
            }
            Err(error) => return broken(format!("read: {} after {all} bytes", errno(&error))),
        }
    }
    broken(format!("it is never dry: {all} bytes"))
}

fn precopy_info(bench: &Bench<'_>) -> Told {
    let device = bench.precopying()?;
    let mut stream = saving(device.as_ref(), State::PreCopy)?;
    let first = stream.precopy()?.initial_bytes;
    let (mut before, mut piece) = (first, vec![0; 4096]);
    loop {
        let dry = match read(stream.as_mut(), &mut piece) {
            Ok(length) => length == 0,
            Err(error) if errno(&error) == Errno::ENOMSG => true,
            Err(error) => return broken(format!("read: {}", errno(&error))),
        };
        let now = stream.precopy()?.initial_bytes;
        if now > before {
            return broken(format!("initial_bytes grew from {before} to {now}"));
        }
        before = now;
        if dry {
            break;
        }
    }
    if before != 0 {
        return broken(format!("all is read, and initial_bytes is {before}"));
    }
    drop(device.set_state(State::StopCopy)?);
    let said = match stream.precopy() {
        Err(error) if error.errno == Errno::EINVAL => Ok(format!("from {first} to 0; EINVAL in STOP_COPY")),
        Err(error) => broken(format!("in STOP_COPY: {}", error.errno)),
        Ok(info) => broken(format!("in STOP_COPY it says {info:?}")),
    };
    drop(stream);
    back(device.as_ref())?;
    said
}
