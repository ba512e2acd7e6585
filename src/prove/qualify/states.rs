//! The states of migration, and the ways between them.

use super::bench::{back, broken, saving};
use super::{Bench, Case, Off, Told};
use crate::host::Device;
use crate::host::device::{Data, MigrationFlags, State};
use crate::model::Errno;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "migration-flags",
        rule: "a device that migrates has STOP_COPY, and no flag that the header has not (vfio_main.c \
               __vfio_register_dev(), include/uapi/linux/vfio.h VFIO_MIGRATION_*)",
        after: &["features"],
        run: migration_flags,
    },
    Case {
        id: "state-at-open",
        rule: "a device that is opened is in RUNNING (include/uapi/linux/vfio.h VFIO_DEVICE_STATE_RUNNING)",
        after: &["migration-flags"],
        run: at_open,
    },
    Case {
        id: "reset",
        rule: "a reset in any state leads to RUNNING (include/uapi/linux/vfio.h VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: \
               VFIO_DEVICE_RESET; the driver's reset_done())",
        after: &["migration-flags", "state-at-open"],
        run: super::sessions::reset,
    },
    Case {
        id: "state-pairs",
        rule: "from every state a device can be sent to every other, but from STOP_COPY to pre-copy, which is never asked \
               (vfio_main.c vfio_mig_get_next_state())",
        after: &["migration-flags", "state-at-open", "reset"],
        run: pairs,
    },
    Case {
        id: "same-state",
        rule: "the state that it is in can be set, and gives no descriptor (include/uapi/linux/vfio.h \
               VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE)",
        after: &["state-pairs"],
        run: same,
    },
    Case {
        id: "no-such-state",
        rule: "ERROR, a number that is no state and a state that the device has not are EINVAL, and change nothing \
               (vfio_main.c vfio_mig_get_next_state())",
        after: &["state-pairs"],
        run: no_such_state,
    },
    Case {
        id: "stream-given",
        rule: "a descriptor comes with the arcs that begin to save or to load, as the last step, and with no other \
               (include/uapi/linux/vfio.h, vfio_main.c vfio_ioct_mig_return_fd())",
        after: &["state-pairs", "same-state"],
        run: stream_given,
    },
];

fn migration_flags(bench: &Bench<'_>) -> Told {
    let device = (bench.open)(None)?;
    let flags = super::bench::flags(device.as_ref())?;
    let known = MigrationFlags::STOP_COPY | MigrationFlags::P2P | MigrationFlags::PRE_COPY;
    if !flags.contains(MigrationFlags::STOP_COPY) {
        return broken(format!("no STOP_COPY in {:#x}", flags.bits()));
    }
    match (flags - known).bits() {
        0 => Ok(format!("{:#x}", flags.bits())),
        more => broken(format!("flags that no header has: {more:#x}")),
    }
}

/// What is known to go on from where its last user left it.
const KEEPS_ITS_STATE: &[&str] = &["mtty"];

pub(super) fn keeps_its_state(bench: &Bench<'_>, said: String) -> Off {
    if bench.is(KEEPS_ITS_STATE) {
        Off::Quirk(format!("{said}: mtty keeps its state across a close"))
    } else {
        Off::Fail(said)
    }
}

fn at_open(bench: &Bench<'_>) -> Told {
    let device = (bench.open)(None)?;
    super::bench::flags(device.as_ref())?;
    match device.state()? {
        State::Running => Ok("RUNNING".to_owned()),
        state => {
            back(device.as_ref())?;
            Err(keeps_its_state(bench, format!("it was in {state}")))
        }
    }
}

/// The states that a device has.
fn states(flags: MigrationFlags) -> impl Iterator<Item = State> {
    State::ALL.into_iter().filter(move |state| state.is_of(flags))
}

/// Every pair that may be asked for.
pub(super) fn all_pairs(flags: MigrationFlags) -> impl Iterator<Item = (State, State)> {
    states(flags)
        .flat_map(move |from| states(flags).map(move |to| (from, to)))
        .filter(|(from, to)| from.may_ask(*to).is_ok())
}

/// Brings a running device to `from`; what it holds open is given back, for it belongs to the state.
pub(super) fn bring(device: &dyn Device, from: State) -> Result<Option<Data>, Off> {
    back(device)?;
    let stream = device.set_state(from).map_err(|error| Off::Fail(format!("RUNNING to {from}: {error}")))?;
    match device.state()? {
        state if state == from => Ok(stream),
        state => broken(format!("RUNNING to {from}: it is in {state}")),
    }
}

fn pairs(bench: &Bench<'_>) -> Told {
    let (device, flags) = bench.migrating()?;
    let device = device.as_ref();
    let (mut went, mut unloaded) = (0, 0);
    for (from, to) in all_pairs(flags) {
        let held = bring(device, from)?;
        let answer = device.set_state(to);
        let now = device.state()?;
        match answer {
            Ok(_) if now == to => went += 1,
            Ok(_) => return broken(format!("{from} to {to}: it is in {now}")),
            // Nothing was loaded: whether that is a state is the driver's to say.
            Err(error) if from == State::Resuming && error.errno == Errno::EINVAL && now == from => unloaded += 1,
            Err(error) => return broken(format!("{from} to {to}: {}, and it is in {now}", error.errno)),
        }
        drop(held);
    }
    back(device)?;
    Ok(format!("{went} pairs; {unloaded} out of RESUMING without a state are refused"))
}

fn same(bench: &Bench<'_>) -> Told {
    let (device, flags) = bench.migrating()?;
    let device = device.as_ref();
    for state in states(flags) {
        let held = bring(device, state)?;
        if device.set_state(state)?.is_some() {
            return broken(format!("{state} to {state} gives another descriptor"));
        }
        drop(held);
    }
    back(device)?;
    Ok("no descriptor".to_owned())
}

fn no_such_state(bench: &Bench<'_>) -> Told {
    let (device, flags) = bench.migrating()?;
    for number in [State::Error.number(), 8, u32::MAX] {
        match device.set_no_state(number) {
            Err(error) if error.errno == Errno::EINVAL => {}
            Err(error) => return broken(format!("state {number}: {}", error.errno)),
            Ok(()) => return broken(format!("it takes state {number}")),
        }
    }
    for state in State::ALL.into_iter().filter(|state| *state != State::Error && !state.is_of(flags)) {
        match device.set_state(state) {
            Err(error) if error.errno == Errno::EINVAL => {}
            Err(error) => return broken(format!("{state}, which it has not: {}", error.errno)),
            Ok(_) => return broken(format!("it takes {state}, which it has not")),
        }
    }
    match device.state()? {
        State::Running => Ok("EINVAL each time".to_owned()),
        state => broken(format!("it went to {state}")),
    }
}

/// Whether the last step of the way begins a stream.
fn begins(from: State, to: State, flags: MigrationFlags) -> bool {
    let Ok(way) = from.way(to, flags) else { return false };
    let before = match way.as_slice() {
        [] => return false,
        [_] => from,
        [.., before, _] => *before,
    };
    matches!(
        (before, to),
        (State::Running, State::PreCopy)
            | (State::RunningP2p, State::PreCopyP2p)
            | (State::Stop, State::StopCopy | State::Resuming)
    )
}

fn stream_given(bench: &Bench<'_>) -> Told {
    let (device, flags) = bench.migrating()?;
    let device = device.as_ref();
    let mut given = 0;
    for (from, to) in all_pairs(flags).filter(|(from, _)| *from != State::Resuming) {
        let held = bring(device, from)?;
        let stream = device.set_state(to)?;
        let way = match (&stream, begins(from, to, flags)) {
            (Some(Data::Saving(_)), true) if to != State::Resuming => "",
            (Some(Data::Resuming(_)), true) if to == State::Resuming => "",
            (None, false) => "",
            (None, true) => "comes without a descriptor",
            (Some(_), false) => "gives a descriptor that nobody asked for",
            (Some(_), true) => "gives a descriptor of the wrong way",
        };
        if !way.is_empty() {
            return broken(format!("{from} to {to} {way}"));
        }
        given += usize::from(stream.is_some());
        drop((held, stream));
    }
    back(device)?;
    drop(saving(device, State::StopCopy)?);
    back(device)?;
    Ok(format!("{given} descriptors, each where one begins"))
}
