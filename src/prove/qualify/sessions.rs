//! What ends a session: a reset, a close; and what many of them leave behind.

use super::bench::{back, broken, load, state_of};
use super::loading::WHOLE;
use super::states::{bring, keeps_its_state};
use super::{Bench, Case, Off, Told};
use crate::host::device::State;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "close",
        rule: "a device that is closed in any state is in RUNNING when it is opened again (the driver's close_device())",
        after: &["state-pairs", "state-at-open"],
        run: close,
    },
    Case { id: "open-close-loop", rule: "opening and closing leaves nothing open", after: &["info"], run: open_close },
    Case {
        id: "save-load-loop",
        rule: "saving and loading leaves nothing open, and works the last time too",
        after: &["reload"],
        run: save_load,
    },
];

/// Comes before the pairs of states, which need it: a reset is the only way out of `ERROR`, and out of RESUMING for a driver
/// that wants a whole state there. So what a state cannot be reached by is not held against the device here.
pub(super) fn reset(bench: &Bench<'_>) -> Told {
    let (device, flags) = bench.migrating()?;
    if let Err(error) = device.reset() {
        return Err(Off::NotApplicable(format!("it cannot be reset alone: {}", error.errno)));
    }
    let mut told = Vec::new();
    for state in State::ALL.into_iter().filter(|state| state.is_of(flags)) {
        // Where it went instead is as good a state to be reset in, ERROR above all.
        let held = device.set_state(state);
        let within = device.state()?;
        device.reset()?;
        match device.state()? {
            State::Running => told.push(within.to_string()),
            now => return broken(format!("in {within}: it is in {now}")),
        }
        drop(held);
    }
    Ok(format!("in {}", told.join(", ")))
}

fn close(bench: &Bench<'_>) -> Told {
    let (device, flags) = bench.migrating()?;
    drop(device);
    let mut count = 0;
    for state in State::ALL.into_iter().filter(|state| state.is_of(flags)) {
        let (device, _) = bench.migrating()?;
        let stream = bring(device.as_ref(), state)?;
        drop((stream, device));
        let device = (bench.open)(None)?;
        match device.state()? {
            State::Running => count += 1,
            now => {
                back(device.as_ref())?;
                return Err(keeps_its_state(bench, format!("closed in {state}, it was in {now}")));
            }
        }
    }
    Ok(format!("in {count} states"))
}

fn open_close(bench: &Bench<'_>) -> Told {
    let before = (bench.descriptors)();
    for _ in 0..bench.loops {
        drop(bench.fresh()?);
    }
    match (before, (bench.descriptors)()) {
        (Some(before), Some(after)) if after > before => broken(format!("{} descriptors more", after - before)),
        _ => Ok(format!("{} times", bench.loops)),
    }
}

fn save_load(bench: &Bench<'_>) -> Told {
    let before = (bench.descriptors)();
    let (device, _) = bench.migrating()?;
    for _ in 0..bench.loops {
        let state = state_of(device.as_ref())?;
        load(device.as_ref(), &state, WHOLE)?;
        device.set_state(State::Running)?;
    }
    drop(device);
    match (before, (bench.descriptors)()) {
        (Some(before), Some(after)) if after > before => broken(format!("{} descriptors more", after - before)),
        _ => Ok(format!("{} times", bench.loops)),
    }
}
