//! Running a plan: lanes, units, attempts.

use std::time::Duration;

use super::perform::{Watch, perform, settle_driver};
use super::reverse::reverse;
use super::{Act, Binding, StepError, act, binding, driver};
use crate::host::{Clock, HostError, HostPath, Read, Verb, Write, optional};
use crate::model::{Bdf, DriverName, Errno};
use crate::step::{Attempt, Lane, Otherwise, Plan, Step, Undo, Unit};

/// A driver that was tried for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Its name, or its module's when it did not get as far as having one.
    pub driver: String,
    /// Why it did not take the device; `None` for the one that did.
    pub error: Option<StepError>,
}

/// What became of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitResult {
    /// The device.
    pub device: Bdf,
    /// What it was before; `None` when it could not be read, and so nothing was tried.
    pub before: Option<Binding>,
    /// What it is now; `None` when it is gone or cannot be read.
    pub after: Option<Binding>,
    /// The drivers that were tried, in order.
    pub tried: Vec<Tried>,
    /// Why it does not have what was wanted.
    pub error: Option<StepError>,
    /// What does not come back although the step was taken back or has succeeded.
    pub lost: Vec<String>,
}

impl UnitResult {
    /// Whether it is not as it was before.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.before.is_some() && self.before != self.after
    }
}

/// What became of one lane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaneResult {
    /// One for each unit of the lane that was reached, in order.
    pub units: Vec<UnitResult>,
    /// What could not be taken back, one line each.
    pub remains: Vec<String>,
    /// How many steps were taken back.
    pub undone: usize,
}

/// Who is asked and told while a lane runs.
struct Hands<'a> {
    host: &'a dyn Write,
    clock: &'a dyn Clock,
    watch: &'a mut dyn Watch,
    /// How to take back what was done, oldest first.
    done: Vec<Undo>,
    /// A device whose unbinding still waits in the kernel. Whatever needs its lock would wait too, unkillably.
    stuck: Option<Bdf>,
}

/// Runs every lane, one after the other. One that fails is rolled back; the others are not touched by it.
pub fn run(plan: &Plan, host: &dyn Write, clock: &dyn Clock, watch: &mut dyn Watch) -> Vec<LaneResult> {
    let mut results = Vec::with_capacity(plan.lanes.len());
    for lane in &plan.lanes {
        let mut hands = Hands { host, clock, watch, done: Vec::new(), stuck: None };
        results.push(hands.lane(lane));
    }
    results
}

impl Hands<'_> {
    fn lane(&mut self, lane: &Lane) -> LaneResult {
        let mut result = LaneResult::default();
        for unit in &lane.units {
            let unit = self.unit(unit);
            let failed = unit.error.is_some().then_some(unit.device);
            result.units.push(unit);
            if let Some(failed) = failed {
                self.roll_back(&mut result);
                for unit in result.units.iter_mut().filter(|unit| unit.device != failed) {
                    unit.error = Some(StepError::TakenBack(failed));
                }
                break;
            }
        }
        for unit in &mut result.units {
            unit.after = binding(self.host, unit.device).unwrap_or(None);
            note_lost_children(unit);
        }
        result
    }

    fn roll_back(&mut self, result: &mut LaneResult) {
        if let Some(device) = self.stuck {
            result.remains.push(StepError::Stuck(device).to_string());
        }
        while let Some(undo) = self.done.pop() {
            if undo.device().is_some_and(|device| Some(device) == self.stuck) {
                continue;
            }
            match reverse(&undo, self.host, self.clock, self.watch) {
                Ok(reversed) => result.undone += usize::from(reversed),
                Err(error) => result.remains.push(error.to_string()),
            }
        }
    }

    fn unit(&mut self, unit: &Unit) -> UnitResult {
        let device = unit.device;
        let (before, error) = match binding(self.host, device) {
            Ok(Some(before)) => (Some(before), None),
            Ok(None) => (None, Some(HostError::new(Verb::Read, HostPath::pci(device), Errno::ENODEV))),
            Err(error) => (None, Some(error)),
        };
        let error = error.map(StepError::from);
        let mut result = UnitResult { device, before, after: None, tried: Vec::new(), error, lost: Vec::new() };
        if result.error.is_none() {
            result.error = self.attempts(unit, &mut result).err();
        }
        result
    }

    /// Tries one attempt after the other. An attempt that the driver refuses leads to the next; a host that refuses to
    /// have an override written or a driver taken away ends it.
    fn attempts(&mut self, unit: &Unit, result: &mut UnitResult) -> Result<(), StepError> {
        let mut refusal: Option<StepError> = None;
        for attempt in &unit.attempts {
            match self.attempt(attempt, result) {
                Ok(()) => {
                    if let Some(driver) = driver(self.host, unit.device)? {
                        result.tried.push(Tried { driver: driver.to_string(), error: None });
                        refusal = None;
                        break;
                    }
                    if attempt.driver.is_some() {
                        // It was seen on the driver a moment ago.
                        return Err(HostError::new(
                            Verb::Read,
                            HostPath::pci(unit.device).attr("driver"),
                            Errno::ENODEV,
                        )
                        .into());
                    }
                }
                Err(Refused::ByDriver(error)) => {
                    let driver = attempt.driver.as_ref().map(ToString::to_string).unwrap_or_default();
                    result.tried.push(Tried { driver, error: Some(error.clone()) });
                    // A host driver that is not there, or that the administrator blacklisted, is none.
                    let absent = unit.otherwise == Otherwise::LeaveWithout
                        && error.is_load()
                        && matches!(error.errno(), Errno::ENOENT | Errno::ENODEV);
                    if !absent {
                        refusal = Some(error);
                    }
                }
                Err(Refused::ByHost(error)) => return Err(error),
            }
        }
        match refusal {
            Some(error) => Err(error),
            None => unit.finish.iter().try_for_each(|step| self.step(step, result)),
        }
    }

    fn attempt(&mut self, attempt: &Attempt, result: &mut UnitResult) -> Result<(), Refused> {
        for step in &attempt.steps {
            self.step(step, result).map_err(|error| match step {
                Step::Bind { .. } | Step::Reprobe { .. } if is_no_probes(&error) => Refused::ByHost(error),
                Step::LoadModule { .. } | Step::Bind { .. } | Step::Reprobe { .. } => Refused::ByDriver(error),
                // The override of a module that came up without a driver: its driver is at fault, not the host.
                Step::SetOverride { .. } if error.is_load() => Refused::ByDriver(error),
                Step::SetOverride { .. } | Step::Unbind { .. } => Refused::ByHost(error),
            })?;
        }
        Ok(())
    }

    /// Observe, record, perform, settle.
    fn step(&mut self, step: &Step, result: &mut UnitResult) -> Result<(), StepError> {
        let Some((act, undo)) = act(step, self.host)? else { return Ok(()) };
        self.done.push(undo);
        if let Step::Unbind { device } = step {
            note_lost_netdevs(*device, self.host, result);
        }
        match (perform(&act, self.host, self.clock, self.watch), step) {
            (Err(error), Step::Unbind { device }) if error.errno() == Errno::ETIMEDOUT => {
                self.stuck = Some(*device);
                Err(StepError::Stuck(*device))
            }
            (Err(error), _) => Err(error),
            (Ok(()), _) => self.settle(step, &act),
        }
    }

    /// Waits until the kernel shows what it said yes to.
    fn settle(&self, step: &Step, done: &Act) -> Result<(), StepError> {
        match step {
            // `drivers_probe` promises nothing, and a module that loaded has been looked for.
            Step::LoadModule { .. } | Step::Reprobe { .. } => Ok(()),
            // It shows at once or not at all.
            Step::SetOverride { .. } => match act(step, self.host)? {
                Some((Act::Write { path, value, was }, _)) => {
                    let (wanted, shown) = (value.trim_end().to_owned(), was.unwrap_or_default());
                    Err(StepError::NotSettled { path, wanted, shown, waited: Duration::ZERO })
                }
                _ => Ok(()),
            },
            Step::Unbind { device } => settle_driver(*device, None, self.host, self.clock),
            Step::Bind { device, .. } => settle_driver(*device, done.bound_driver().as_ref(), self.host, self.clock),
        }
    }
}

/// Whether an answer to `bind` comes from the way there and not from a probe: this process may not open the file, or was
/// interrupted.
fn is_no_probes(error: &StepError) -> bool {
    matches!(
        error,
        StepError::Host(HostError { verb: Verb::Open, errno: Errno::EACCES | Errno::EPERM | Errno::EROFS, .. })
    ) || error.errno() == Errno::EINTR
}

/// Who did not agree.
enum Refused {
    /// The driver or its module: the next candidate may.
    ByDriver(StepError),
    /// The host: no candidate will do better.
    ByHost(StepError),
}

/// Network interfaces go with their driver and come back without addresses and perhaps under another name.
fn note_lost_netdevs(device: Bdf, host: &dyn Read, result: &mut UnitResult) {
    let names = optional(host.list(&HostPath::pci(device).attr("net"))).unwrap_or(None).unwrap_or_default();
    for name in names {
        result.lost.push(format!("network interface {name}: its addresses, and its name if it was not the default"));
    }
}

/// VFs and mdevs that went with a driver do not come back with it.
fn note_lost_children(unit: &mut UnitResult) {
    let (Some(before), Some(after)) = (&unit.before, &unit.after) else { return };
    let gone = [("VF", before.vfs.saturating_sub(after.vfs)), ("mdev", before.mdevs.saturating_sub(after.mdevs))];
    for (what, count) in gone.into_iter().filter(|(_, count)| *count > 0) {
        unit.lost.push(format!("{count} {what}{}, with what they were bound to", if count == 1 { "" } else { "s" }));
    }
}

impl Act {
    /// The driver whose `bind` this writes to.
    fn bound_driver(&self) -> Option<DriverName> {
        match self {
            Self::Write { path, .. } => path.rest().rsplit('/').nth(1)?.parse().ok(),
            Self::Load { .. } => None,
        }
    }
}
