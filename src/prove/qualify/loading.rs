//! What a device makes of a state that is written into it.

use super::bench::{
    back, broken, errno, load, read, read_all, read_by, refuses, resuming, saving, state_of, write_all,
};
use super::{Bench, Case, Off, Told};
use crate::host::Device;
use crate::host::device::State;
use crate::model::Errno;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "reload",
        rule: "a state that was saved can be loaded (include/uapi/linux/vfio.h VFIO_DEVICE_STATE_RESUMING)",
        after: &["stop-copy-ends"],
        run: reload,
    },
    Case {
        id: "precopy-whole",
        rule: "what is read in pre-copy and then in STOP_COPY is one state (include/uapi/linux/vfio.h VFIO_DEVICE_STATE_PRE_COPY)",
        after: &["reload", "precopy-dry"],
        run: precopy_whole,
    },
    Case {
        id: "resave",
        rule: "a state that is loaded and saved again, without running, is the same",
        after: &["reload"],
        run: resave,
    },
    Case {
        id: "segments",
        rule: "a state can be written in any segments (include/uapi/linux/vfio.h: a stream of bytes)",
        after: &["reload"],
        run: segments,
    },
    Case {
        id: "read-segments",
        rule: "a state can be read in any segments (include/uapi/linux/vfio.h: a stream of bytes)",
        after: &["reload", "segments"],
        run: read_segments,
    },
    Case {
        id: "reset-loading",
        rule: "a reset amid RESUMING ends the stream with ENODEV, and nothing of what was written is left for the next \
               (include/uapi/linux/vfio.h VFIO_DEVICE_RESET; the driver's reset_done())",
        after: &["reset", "reload", "segments"],
        run: reset_loading,
    },
    Case {
        id: "cut",
        rule: "a state that is cut off is refused, with EINVAL out of RESUMING, and the device does not run with it \
               (the driver's step from RESUMING to STOP)",
        after: &["reload", "reset"],
        run: cut,
    },
    Case {
        id: "damaged",
        rule: "a state that is damaged is refused, wherever: a device that runs with half a state corrupts its guest in silence",
        after: &["reload", "cut"],
        run: damaged,
    },
    Case {
        id: "trailing",
        rule: "what goes on after the end of a state is refused, by the write or out of RESUMING (the driver's write of what is \
               loaded)",
        after: &["reload", "damaged"],
        run: trailing,
    },
    Case { id: "foreign", rule: "the state of another kind of device is refused", after: &["reload"], run: foreign },
];

/// In one write.
pub(super) const WHOLE: usize = usize::MAX >> 1;

fn reload(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let state = state_of(device.as_ref())?;
    load(device.as_ref(), &state, WHOLE)?;
    device.set_state(State::Running)?;
    match device.state()? {
        State::Running => Ok(format!("{} bytes", state.len())),
        other => broken(format!("it is in {other}")),
    }
}

fn precopy_whole(bench: &Bench<'_>) -> Told {
    let device = bench.precopying()?;
    let mut stream = saving(device.as_ref(), State::PreCopy)?;
    let (mut state, mut piece) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match read(stream.as_mut(), &mut piece) {
            Ok(0) => break,
            Ok(length) => state.extend_from_slice(&piece[..length]),
            Err(error) if errno(&error) == Errno::ENOMSG => break,
            Err(error) => return broken(format!("read: {}", errno(&error))),
        }
    }
    let early = state.len();
    if device.set_state(State::StopCopy)?.is_some() {
        return broken("STOP_COPY gives another descriptor");
    }
    state.extend(read_all(stream.as_mut())?);
    drop(stream);
    back(device.as_ref())?;
    load(device.as_ref(), &state, WHOLE)?;
    back(device.as_ref())?;
    Ok(format!("{early} bytes in pre-copy, {} in STOP_COPY", state.len() - early))
}

/// A state that is not the device's own, where there is one.
fn another(bench: &Bench<'_>, device: &dyn Device) -> Result<(Vec<u8>, &'static str), Off> {
    match bench.peer.filter(|_| bench.peer_is_same) {
        Some(open) => {
            let peer = open(None)?;
            back(peer.as_ref())?;
            Ok((state_of(peer.as_ref())?, "the peer's"))
        }
        None => Ok((state_of(device)?, "its own")),
    }
}

fn resave(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let (state, whose) = another(bench, device.as_ref())?;
    load(device.as_ref(), &state, WHOLE)?;
    let mut stream = saving(device.as_ref(), State::StopCopy)?;
    let again = read_all(stream.as_mut())?;
    drop(stream);
    back(device.as_ref())?;
    if state == again {
        return Ok(format!("{} bytes, {whose}", state.len()));
    }
    let at =
        state.iter().zip(&again).position(|(before, after)| before != after).unwrap_or(state.len().min(again.len()));
    broken(format!("{whose} {} bytes come back as {}, and differ from byte {at} on", state.len(), again.len()))
}

/// Sizes that are of no use to anybody; one byte at a time of a large state would take long.
fn odd_sizes(bytes: usize) -> impl Iterator<Item = usize> {
    let small = bytes <= 1 << 16;
    [1, 3, 7, 4093, 65_537].into_iter().filter(move |size| small || *size > 1000)
}

fn segments(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let state = state_of(device.as_ref())?;
    for segment in odd_sizes(state.len()) {
        load(device.as_ref(), &state, segment).map_err(|off| match off {
            Off::Fail(said) => Off::Fail(format!("{segment} bytes at once: {said}")),
            other => other,
        })?;
        back(device.as_ref())?;
    }
    Ok(format!("{} bytes in segments of odd sizes", state.len()))
}

fn read_segments(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let length = state_of(device.as_ref())?.len();
    for size in odd_sizes(length) {
        let mut stream = saving(device.as_ref(), State::StopCopy)?;
        let state = read_by(stream.as_mut(), size)?;
        drop(stream);
        back(device.as_ref())?;
        if state.len() != length {
            return broken(format!("{size} bytes at once: {} of {length} bytes come", state.len()));
        }
        if let Some(how) = refuses(device.as_ref(), &state)? {
            return broken(format!("{size} bytes at once: what was read is no state: {how}"));
        }
    }
    Ok(format!("{length} bytes in segments of odd sizes"))
}

fn reset_loading(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let state = state_of(device.as_ref())?;
    let half = &state[..state.len() / 2];
    let mut stream = resuming(device.as_ref())?;
    write_all(stream.as_mut(), half, WHOLE)
        .map_err(|(at, errno)| Off::Fail(format!("write: {errno} after {at} of {} bytes", half.len())))?;
    if let Err(error) = device.reset() {
        back(device.as_ref())?;
        return Err(Off::NotApplicable(format!("it cannot be reset alone: {}", error.errno)));
    }
    match stream.write(&state[half.len()..]) {
        Err(error) if errno(&error) == Errno::ENODEV => {}
        Err(error) => return broken(format!("write after the reset: {}", errno(&error))),
        Ok(length) => return broken(format!("after the reset it takes {length} bytes more")),
    }
    drop(stream);
    load(device.as_ref(), &state, WHOLE).map_err(|off| match off {
        Off::Fail(said) => Off::Fail(format!("the load after a reset at {} bytes: {said}", half.len())),
        other => other,
    })?;
    back(device.as_ref())?;
    Ok(format!("ENODEV after a reset at {} of {} bytes, and a whole state is taken then", half.len(), state.len()))
}

/// Drivers that leave RESUMING with whatever they have.
const TAKES_PART: &[&str] = &["mlx5_vfio_pci"];

fn cut(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let state = state_of(device.as_ref())?;
    let mut said = Vec::new();
    for length in [state.len() - 1, state.len() / 2, 1] {
        match refuses(device.as_ref(), &state[..length])? {
            Some(how) => said.push(format!("{length} bytes, {how}")),
            None => {
                let said = format!("it takes {length} of {} bytes", state.len());
                return Err(if bench.is(TAKES_PART) { Off::Quirk(said) } else { Off::Fail(said) });
            }
        }
    }
    Ok(said.join("; "))
}

fn damaged(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let state = state_of(device.as_ref())?;
    let with = |at: usize| {
        let mut damaged = state.clone();
        damaged[at] ^= 1;
        damaged
    };
    let how = match refuses(device.as_ref(), &with(0))? {
        Some(how) => how,
        None => return broken("it takes a state whose first byte is wrong"),
    };
    let places = [state.len() / 3, state.len() / 2, state.len() - 1];
    let mut taken = Vec::new();
    for at in places {
        if refuses(device.as_ref(), &with(at))?.is_none() {
            taken.push(at.to_string());
        }
    }
    if taken.is_empty() {
        return Ok(format!("first byte: {how}; and further on"));
    }
    let said = format!("first byte: {how}; a flipped bit is not seen at {}", taken.join(", "));
    Err(if bench.is(NO_SUM) { Off::Quirk(said) } else { Off::Fail(said) })
}

/// Drivers that take what follows for the beginning of another record, and never ask for the rest of it.
const TAKES_MORE: &[&str] = &["mlx5_vfio_pci"];

fn trailing(bench: &Bench<'_>) -> Told {
    let (device, _) = bench.migrating()?;
    let mut state = state_of(device.as_ref())?;
    state.push(0);
    match refuses(device.as_ref(), &state)? {
        Some(how) => Ok(format!("a byte more than {}: {how}", state.len() - 1)),
        None => {
            let said = format!("it takes a byte more than the {} of its state", state.len() - 1);
            Err(if bench.is(TAKES_MORE) { Off::Quirk(said) } else { Off::Fail(said) })
        }
    }
}

/// Drivers whose state has no sum of its own that the kernel looks at; what the device makes of it is its own.
const NO_SUM: &[&str] =
    &["mtty", "mlx5_vfio_pci", "hisi_acc_vfio_pci", "pds_vfio_pci", "qat_vfio_pci", "virtio_vfio_pci", "xe-vfio-pci"];

fn foreign(bench: &Bench<'_>) -> Told {
    let Some(open) = bench.peer.filter(|_| !bench.peer_is_same) else {
        return Err(Off::NotApplicable("it needs a peer of another kind that migrates: --peer".to_owned()));
    };
    let (device, _) = bench.migrating()?;
    let peer = open(None)?;
    super::bench::flags(peer.as_ref())?;
    back(peer.as_ref())?;
    let state = state_of(peer.as_ref())?;
    drop(peer);
    match refuses(device.as_ref(), &state)? {
        Some(how) => Ok(how),
        None => broken("it takes the state of another kind of device"),
    }
}
