//! Taking back an operation that is written down: one that was cut off, or one that has ended.

use std::time::Duration;

use super::history::Superseded;
use super::journal::{Ended, HeaderLane, Operation};
use super::lane::Walk;
use super::result::LaneResult;
use super::run::{Report, Running, Work};
use super::schedule::Schedule;
use super::{State, StepError, driver, place, setting, state};
use crate::host::{Host, HostError, HostPath, Links, Read, optional};
use crate::model::{Bdf, Target};
use crate::step::{Setting, Undo};

/// How long writes that the operation had under way get to end by themselves.
const GRACE: Duration = Duration::from_secs(5);

/// Takes back everything that `operation` did. A device whose state is none that the operation left is not touched, for
/// somebody else has had it since; nor is one that a later operation has had, nor a PF that either is a VF of; of one that a
/// worker of it is still at, only a later undo can.
pub fn undo(operation: &Operation, superseded: &Superseded, work: Work<'_>) -> Report {
    let busy = busy_after_grace(operation, work.host);
    let mut undos = operation.undos();
    let mut lanes: Vec<(LaneResult, Vec<Undo>)> = Vec::new();
    for lane in &operation.header.lanes {
        let mut result = LaneResult::new(lane.device, 0);
        let mut done = undos.remove(&lane.device).unwrap_or_default();
        if let Some(later) = superseded.by(lane.device) {
            result.error = Some(StepError::Superseded(later.to_string()));
            lanes.push((result, Vec::new()));
            continue;
        }
        match look(operation, lane.device, work.host, &busy) {
            Ok(before) => result.before = Some(before),
            Err(error) => refuse(&mut result, &mut done, error),
        }
        lanes.push((result, done));
    }
    keep_what_carries(operation, &mut lanes, work.host);
    let walks = lanes.into_iter().map(|(result, done)| Walk::back(result, done)).collect();
    let after = operation.header.lanes.iter().map(|lane| lane.after.clone()).collect();
    let running = Running::new(walks, Schedule::back(after), work);
    running.go();
    let report = running.finish();
    // Whatever it wanted, nothing of it is to be left.
    let fell = report.lanes.iter().map(|lane| lane.device).collect();
    match report.lanes.iter().all(|lane| lane.remains.is_empty()) {
        _ if report.stopped => report,
        true if superseded.is_all_of(operation) => report.ended(Ended::Closed, fell, work),
        true => report.ended(Ended::Undone, fell, work),
        false => report.ended(Ended::Remains, fell, work),
    }
}

/// Leaves a device as it is.
fn refuse(result: &mut LaneResult, done: &mut Vec<Undo>, error: StepError) {
    if !done.is_empty() {
        result.remains.push(error.to_string());
        result.error = Some(error);
    }
    done.clear();
}

/// A PF whose VFs would go keeps them when one of them is not to be taken back, or is somebody's that the operation has not
/// given.
fn keep_what_carries(operation: &Operation, lanes: &mut [(LaneResult, Vec<Undo>)], host: &dyn Links) {
    for at in 0..lanes.len() {
        let (result, done) = &lanes[at];
        let Target::Pci(pf) = result.device else { continue };
        let takes = |undo: &Undo| {
            let now = || setting::now(host, undo.device, &undo.was).unwrap_or(None);
            matches!(undo.was, Setting::Vfs(_)) && now().as_ref() != Some(&undo.was)
        };
        if !done.iter().any(takes) {
            continue;
        }
        let refused = operation.header.lanes.iter().zip(lanes.iter()).find_map(|(lane, (result, _))| {
            (lane.after.contains(&at) && result.error.is_some()).then_some(lane.device)
        });
        let kept_for = refused.map(Ok).or_else(|| stranger_on(pf, operation, host).transpose());
        let error = match kept_for {
            Some(Ok(vf)) => StepError::KeptFor(pf, vf),
            Some(Err(error)) => error.into(),
            None => continue,
        };
        let (result, done) = &mut lanes[at];
        refuse(result, done, error);
    }
}

/// A VF of a PF that has a driver, and no lane in the operation.
fn stranger_on(pf: Bdf, operation: &Operation, host: &dyn Read) -> Result<Option<Target>, HostError> {
    let names = optional(host.list(&HostPath::pci(pf)))?.unwrap_or_default();
    for index in names.iter().filter_map(|name| name.strip_prefix("virtfn")?.parse().ok()) {
        let vf = Target::Vf { pf, index };
        let Some(bdf) = place(host, vf)? else { continue };
        let is_mine = |lane: &HeaderLane| lane.device == vf || lane.device == Target::Pci(bdf);
        if !operation.header.lanes.iter().any(is_mine) && driver(host, bdf)?.is_some() {
            return Ok(Some(vf));
        }
    }
    Ok(None)
}

/// What a device is now, if it may be touched.
fn look(operation: &Operation, device: Target, host: &dyn Links, busy: &[Target]) -> Result<State, StepError> {
    if busy.contains(&device) {
        return Err(StepError::Stuck(device, super::Pending::Unbind));
    }
    let seen = state(host, device)?.1;
    if let State::There(now) = &seen {
        if !operation.may_have_left(device, now) {
            return Err(StepError::ChangedSince(device, Box::new(now.clone())));
        }
        for values in operation.set(device) {
            let now = values.first().map(|like| setting::now(host, device, like)).transpose()?.flatten();
            if let Some(now) = now.filter(|now| !values.iter().any(|value| now.is_as(value))) {
                return Err(StepError::SetSince(device, Box::new(now)));
            }
        }
    }
    Ok(seen)
}

/// The devices that a worker of the operation still writes about, after it has had time to end.
fn busy_after_grace(operation: &Operation, host: &dyn Host) -> Vec<Target> {
    let workers = operation.workers();
    let by = host.now() + GRACE;
    loop {
        let busy: Vec<Target> =
            workers.iter().filter(|(pid, _)| is_worker(host, **pid)).map(|(_, last)| last.device).collect();
        if busy.is_empty() || host.now() >= by || host.interrupts() > 0 {
            return busy;
        }
        host.nap(Duration::from_millis(20));
    }
}

/// Whether a process is a worker of some vfioadm: a number may have been given to another process since.
fn is_worker(host: &dyn Read, pid: u32) -> bool {
    let words = optional(host.read(&HostPath::process(pid).attr("cmdline"))).unwrap_or(None).unwrap_or_default();
    words.starts_with(crate::host::worker::NAME.as_bytes())
}
