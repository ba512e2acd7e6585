//! Running a plan: lanes, units, attempts.

use std::time::Duration;

use super::reverse::{perform, reverse};
use super::{Binding, Intent, Journal, SETTLE, StepError, Watch, act, binding, driver};
use crate::host::{Clock, HostError, HostPath, Read, Verb, Write, optional};
use crate::model::{Bdf, DriverName, Errno};
use crate::step::{Attempt, Lane, Otherwise, Plan, Step, Unit};

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
    /// What it was before.
    pub before: Binding,
    /// What it is now; `None` when the function is gone.
    pub after: Option<Binding>,
    /// The drivers that were tried, in order.
    pub tried: Vec<Tried>,
    /// Why it does not have what was wanted.
    pub error: Option<StepError>,
    /// What does not come back although the step was taken back or has succeeded.
    pub lost: Vec<String>,
}

impl UnitResult {
    /// Whether driver or override differ from before.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.after.as_ref() != Some(&self.before)
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

/// Who is asked and told while a plan runs.
struct Hands<'a> {
    host: &'a dyn Write,
    clock: &'a dyn Clock,
    journal: &'a mut dyn Journal,
    watch: &'a mut dyn Watch,
    /// The intents of this lane, oldest first.
    done: Vec<Intent>,
}

/// Runs every lane. A lane that fails is rolled back; the others are not touched by it.
pub fn run(
    plan: &Plan,
    host: &dyn Write,
    clock: &dyn Clock,
    journal: &mut dyn Journal,
    watch: &mut dyn Watch,
) -> Vec<LaneResult> {
    let mut results = Vec::with_capacity(plan.lanes.len());
    for lane in &plan.lanes {
        let mut hands = Hands { host, clock, journal, watch, done: Vec::new() };
        results.push(hands.lane(lane));
    }
    results
}

impl Hands<'_> {
    fn lane(&mut self, lane: &Lane) -> LaneResult {
        let mut result = LaneResult::default();
        for unit in &lane.units {
            let unit = self.unit(unit);
            let failed = unit.error.is_some();
            result.units.push(unit);
            if failed {
                self.roll_back(&mut result);
                break;
            }
        }
        for unit in &mut result.units {
            // What cannot be read now is as good as gone: `after` says what is known.
            unit.after = binding(self.host, unit.device).unwrap_or(None);
        }
        result
    }

    fn roll_back(&mut self, result: &mut LaneResult) {
        while let Some(intent) = self.done.pop() {
            match reverse(&intent.undo, self.host, self.clock, self.watch) {
                Ok(reversed) => result.undone += usize::from(reversed),
                Err(error) => result.remains.push(error.to_string()),
            }
        }
    }

    fn unit(&mut self, unit: &Unit) -> UnitResult {
        let path = HostPath::pci(unit.device);
        let before = match binding(self.host, unit.device) {
            Ok(Some(before)) => before,
            gone => {
                let error = gone.err().unwrap_or_else(|| HostError::new(Verb::Read, path, Errno::ENODEV));
                let nothing = Binding { driver: None, driver_override: None };
                return UnitResult {
                    device: unit.device,
                    before: nothing,
                    after: None,
                    tried: Vec::new(),
                    error: Some(error.into()),
                    lost: Vec::new(),
                };
            }
        };
        let mut result =
            UnitResult { device: unit.device, before, after: None, tried: Vec::new(), error: None, lost: Vec::new() };
        result.error = self.attempts(unit, &mut result).err();
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
                    if attempt.driver.is_none() && refusal.is_none() {
                        break;
                    }
                }
                Err(Refused::ByDriver(error)) => {
                    let driver = attempt.driver.as_ref().map(ToString::to_string).unwrap_or_default();
                    result.tried.push(Tried { driver, error: Some(error.clone()) });
                    let absent = unit.otherwise == Otherwise::LeaveWithout
                        && matches!(&error, StepError::Host(e) if e.verb == Verb::Load);
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
                // Not the probe's answer, and so nothing of the driver's: the next would get the same.
                Step::Bind { .. } | Step::Reprobe { .. } if is_no_probes(error.errno()) => Refused::ByHost(error),
                Step::LoadModule { .. } | Step::Bind { .. } | Step::Reprobe { .. } => Refused::ByDriver(error),
                // The override of a module that came up without a driver: its driver is at fault, not the host.
                Step::SetOverride { .. } if matches!(error, StepError::NoDriver(_)) => Refused::ByDriver(error),
                Step::SetOverride { .. } | Step::Unbind { .. } => Refused::ByHost(error),
            })?;
        }
        Ok(())
    }

    /// Observe, record, perform, settle.
    fn step(&mut self, step: &Step, result: &mut UnitResult) -> Result<(), StepError> {
        let Some((act, undo)) = act(step, self.host)? else { return Ok(()) };
        let intent = Intent { step: step.clone(), undo };
        self.journal.record(&intent)?;
        self.done.push(intent);
        if let Step::Unbind { device } = step {
            note_lost_netdevs(*device, self.host, result);
        }
        let by = self.clock.now() + SETTLE;
        loop {
            match perform(&act, self.host, self.watch) {
                // A deferred probe, or a device that is still being made: bind says EAGAIN (drivers/base/dd.c, 7.2).
                Err(error)
                    if matches!(step, Step::Bind { .. }) && error.errno() == Errno::EAGAIN && self.clock.now() < by =>
                {
                    self.clock.nap(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.settle(step, &act)
    }

    /// Waits until the kernel shows what it said yes to.
    fn settle(&self, step: &Step, done: &super::Act) -> Result<(), StepError> {
        match (step, done) {
            // `drivers_probe` promises nothing, and a module that loaded has been looked for.
            (Step::LoadModule { .. } | Step::Reprobe { .. }, _) | (_, super::Act::Load { .. }) => Ok(()),
            (Step::SetOverride { .. }, _) => match act(step, self.host)? {
                None => Ok(()),
                Some((super::Act::Write { path, value, was }, _)) => {
                    Err(StepError::NotSettled { path, wanted: value, shown: was.unwrap_or_default() })
                }
                Some(_) => Ok(()),
            },
            (Step::Unbind { device }, _) => settle_driver(*device, None, self.host, self.clock),
            (Step::Bind { device, .. }, super::Act::Write { path, .. }) => {
                let name = path.rest().rsplit('/').nth(1).and_then(|name| name.parse::<DriverName>().ok());
                settle_driver(*device, name.as_ref(), self.host, self.clock)
            }
        }
    }
}

/// Whether an answer to `bind` comes from the way there and not from a probe: this process may not write, or was stopped.
const fn is_no_probes(errno: Errno) -> bool {
    matches!(errno, Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::EINTR)
}

/// Who did not agree.
enum Refused {
    /// The driver or its module: the next candidate may.
    ByDriver(StepError),
    /// The host: no candidate will do better.
    ByHost(StepError),
}

/// Waits until `device` shows `wanted` as its driver.
pub(super) fn settle_driver(
    device: Bdf,
    wanted: Option<&DriverName>,
    host: &dyn Read,
    clock: &dyn Clock,
) -> Result<(), StepError> {
    let by = clock.now() + SETTLE;
    let mut pause = Duration::from_millis(1);
    loop {
        let shown = driver(host, device)?;
        if shown.as_ref() == wanted {
            return Ok(());
        }
        if clock.now() >= by {
            let name = |driver: Option<&DriverName>| driver.map_or_else(|| "no driver".to_owned(), ToString::to_string);
            let path = HostPath::pci(device).attr("driver");
            return Err(StepError::NotSettled { path, wanted: name(wanted), shown: name(shown.as_ref()) });
        }
        clock.nap(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Network interfaces go with their driver and come back without addresses and perhaps under another name.
fn note_lost_netdevs(device: Bdf, host: &dyn Read, result: &mut UnitResult) {
    let names = optional(host.list(&HostPath::pci(device).attr("net"))).unwrap_or(None).unwrap_or_default();
    for name in names {
        result.lost.push(format!("network interface {name}: its addresses, and its name if it was not the default"));
    }
}
