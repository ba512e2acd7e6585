//! What became of a `bind` or `unbind`, as a person and as a program read it.

use serde::Serialize;

use super::bind::{Order, Prepared};
use super::check::FindingRow;
use super::report::{Exit, Trouble};
use super::{Session, operation};
use crate::engine::{LaneResult, StepError, Tried, UnitResult};
use crate::host::Read;
use crate::matching::{DeviceFacts, Expect, predict};
use crate::model::{Bdf, DriverName, Errno, Inventory, Warning};
use crate::plan::Wanted;

/// The object of docs/json.md.
#[derive(Serialize)]
pub(super) struct Outcome {
    schema: String,
    operation: String,
    results: Vec<DeviceResult>,
    findings: Vec<FindingRow>,
    /// Each change as a line that root could paste; of a dry run, those that would be made.
    pub(super) changes: Vec<String>,
    host: State,
    /// Why it did not do what was asked.
    pub(super) error: Option<Trouble>,
    #[serde(skip)]
    more_errors: Vec<Trouble>,
    #[serde(skip)]
    warnings: Vec<Warning>,
    #[serde(skip)]
    kind: Kind,
}

/// What there is to print for people.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing was done: the changes are what would be.
    Plan,
    /// The results.
    Done,
}

/// What the host is like afterwards.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    AsItWas,
    Changed,
}

#[derive(Serialize)]
struct DeviceResult {
    address: String,
    driver: Option<String>,
    tried: Vec<TriedRow>,
    changed: bool,
    lost: Vec<String>,
    /// Why it does not have what was wanted.
    reason: Option<String>,
    /// Lines for people about what it has now.
    #[serde(skip)]
    words: Vec<String>,
}

#[derive(Serialize)]
struct TriedRow {
    driver: String,
    errno: Option<String>,
    message: Option<String>,
    #[serde(skip)]
    load: bool,
}

impl Outcome {
    /// The outcome of what was not done: refused, or a dry run.
    pub(super) fn untouched(order: &Order<'_>, prepared: &Prepared, error: Option<Trouble>) -> Self {
        let reason = |bdf: &Bdf| {
            error.as_ref()?;
            let mut refused = prepared.refused();
            let of_device =
                refused.find(|finding| finding.device.as_ref().is_none_or(|device| *device == (*bdf).into()));
            Some(of_device.map_or_else(|| String::from("not tried"), |finding| finding.message.clone()))
        };
        let results = prepared.devices.iter().map(|bdf| DeviceResult::untouched(*bdf, prepared, reason(bdf))).collect();
        Self::new(order, prepared, results, error)
    }

    /// The outcome of what was done.
    pub(super) fn of_lanes(order: &Order<'_>, prepared: &Prepared, lanes: &[LaneResult], host: &dyn Read) -> Self {
        let units: Vec<&UnitResult> = lanes.iter().flat_map(|lane| &lane.units).collect();
        let result = |bdf: &Bdf| match units.iter().find(|unit| unit.device == *bdf) {
            Some(unit) => DeviceResult::of_unit(unit, order, prepared, host),
            None => {
                let reason = String::from("not tried, because another device of its group failed");
                DeviceResult::untouched(*bdf, prepared, Some(reason))
            }
        };
        let results: Vec<DeviceResult> = prepared.devices.iter().map(result).collect();
        let failed = units.iter().any(|unit| unit.error.is_some());
        let changed = units.iter().any(|unit| unit.changed());
        let exit = match (failed, changed) {
            (false, _) => Exit::Done,
            (true, false) => Exit::Failed,
            (true, true) => Exit::Changed,
        };
        let mut troubles = lanes.iter().filter_map(|lane| trouble(order, lane, exit));
        let mut outcome = Self::new(order, prepared, results, troubles.next());
        outcome.kind = Kind::Done;
        outcome.host = if changed { State::Changed } else { State::AsItWas };
        outcome.more_errors = troubles.collect();
        if order.wanted == Wanted::Host && !failed {
            let left = units.iter().filter(|unit| unit.after.as_ref().is_some_and(|after| after.driver.is_none()));
            let why = "has no host driver on this kernel, or a blacklisted one; it is left without a driver";
            outcome.warnings = left.map(|unit| Warning::new(unit.device, why)).collect();
            for warning in &outcome.warnings {
                for result in outcome.results.iter_mut().filter(|result| result.address == warning.subject) {
                    result.reason = Some(warning.message.clone());
                }
            }
        }
        outcome
    }

    /// Nothing done, until more is said.
    fn new(order: &Order<'_>, prepared: &Prepared, results: Vec<DeviceResult>, error: Option<Trouble>) -> Self {
        Self {
            schema: format!("vfioadm.{}/1", order.verb),
            operation: operation(order.verb),
            results,
            findings: prepared.findings.iter().map(FindingRow::from).collect(),
            changes: Vec::new(),
            host: State::AsItWas,
            error,
            more_errors: Vec::new(),
            warnings: Vec::new(),
            kind: Kind::Plan,
        }
    }

    /// A recorded host that could not be written back is as it was, whatever was done to its copy in memory.
    pub(super) fn not_saved(&mut self, trouble: Trouble, prepared: &Prepared) {
        let reason = || Some(trouble.message.clone());
        self.results = prepared.devices.iter().map(|bdf| DeviceResult::untouched(*bdf, prepared, reason())).collect();
        self.host = State::AsItWas;
        self.error = Some(trouble);
    }

    /// Prints it, and says how the command ends.
    pub(super) fn print(&self, session: &mut Session<'_, '_>) -> Exit {
        session.warn(&self.warnings);
        if session.json() {
            session.print_json(self);
        } else {
            match self.kind {
                Kind::Plan => self.changes.iter().for_each(|line| session.print(format_args!("{line}\n"))),
                Kind::Done => self.results.iter().for_each(|result| result.print(session)),
            }
        }
        if self.kind == Kind::Done {
            self.error.iter().chain(&self.more_errors).for_each(|trouble| session.print_trouble(trouble));
        }
        self.error.as_ref().map_or(Exit::Done, |trouble| trouble.exit)
    }
}

impl DeviceResult {
    /// A device that nothing was done to.
    fn untouched(bdf: Bdf, prepared: &Prepared, reason: Option<String>) -> Self {
        let driver = prepared.inventory.functions.get(&bdf).and_then(|function| function.driver.as_ref());
        Self {
            address: bdf.to_string(),
            driver: driver.map(ToString::to_string),
            tried: Vec::new(),
            changed: false,
            lost: Vec::new(),
            reason,
            words: Vec::new(),
        }
    }

    fn of_unit(unit: &UnitResult, order: &Order<'_>, prepared: &Prepared, host: &dyn Read) -> Self {
        let driver = unit.after.as_ref().and_then(|after| after.driver.as_ref());
        let facts = DeviceFacts::of(&prepared.inventory, unit.device);
        let mut lost = unit.lost.clone();
        if let (Wanted::Best, Some(facts), Some(driver), None) = (&order.wanted, &facts, driver, &unit.error) {
            lost.extend(lost_by_fallback(unit, driver, facts));
        }
        let mut words = Vec::new();
        if unit.error.is_none() {
            let already = if unit.changed() { "" } else { ", as before" };
            words.push(match driver {
                Some(driver) => format!("bound to {driver}{}{already}", node_words(host, unit.device)),
                None => format!("no driver{already}"),
            });
            let prediction = driver.zip(facts.as_ref()).map(|(driver, facts)| predict(driver, facts));
            // What the driver does less than its name promises is worth a line; what it does is not.
            let degrades = prediction.filter(|prediction| prediction.expect == Expect::Degrades);
            words.extend(degrades.map(|prediction| prediction.text.replacen("will bind", "bound", 1)));
        }
        Self {
            address: unit.device.to_string(),
            driver: driver.map(ToString::to_string),
            tried: unit.tried.iter().map(TriedRow::from).collect(),
            changed: unit.changed(),
            lost,
            reason: unit.error.as_ref().map(ToString::to_string),
            words,
        }
    }

    fn print(&self, session: &mut Session<'_, '_>) {
        let address = &self.address;
        for tried in &self.tried {
            let (driver, Some(errno)) = (&tried.driver, &tried.errno) else { continue };
            match &tried.message {
                Some(message) if tried.load => {
                    session.print(format_args!("{address}: {driver} did not load: {message}\n"))
                }
                _ => session.print(format_args!("{address}: {driver} refused it ({errno})\n")),
            }
        }
        if self.tried.is_empty()
            && self.words.is_empty()
            && let Some(reason) = &self.reason
        {
            session.print(format_args!("{address}: {reason}\n"));
        }
        for line in &self.words {
            session.print(format_args!("{address}: {line}\n"));
        }
        for lost in &self.lost {
            session.print(format_args!("{address}: lost: {lost}\n"));
        }
    }
}

impl From<&Tried> for TriedRow {
    fn from(tried: &Tried) -> Self {
        Self {
            driver: tried.driver.clone(),
            errno: tried.error.as_ref().map(|error| errno_name(error.errno())),
            message: tried.error.as_ref().map(ToString::to_string),
            load: tried.error.as_ref().is_some_and(StepError::is_load),
        }
    }
}

fn errno_name(errno: Errno) -> String {
    errno.name().map_or_else(|| errno.to_string(), ToOwned::to_owned)
}

/// What the drivers that refused would have given and the one that took the device does not.
fn lost_by_fallback(unit: &UnitResult, driver: &DriverName, facts: &DeviceFacts) -> Vec<String> {
    let kept = predict(driver, facts).gains;
    let refused = unit.tried.iter().filter(|tried| tried.error.is_some());
    let gains = refused.filter_map(|tried| tried.driver.parse().ok()).flat_map(|name: DriverName| {
        let gains = predict(&name, facts).gains;
        gains.into_iter().map(move |gain| (name.clone(), gain))
    });
    let lost = gains.filter(|(_, gain)| !kept.contains(gain));
    lost.map(|(name, gain)| format!("{gain}, which {name} would have given")).collect()
}

/// `, /dev/vfio/12 and /dev/vfio/devices/vfio3` of a device that is a VFIO device now.
fn node_words(host: &dyn Read, bdf: Bdf) -> String {
    let mut inventory = Inventory::default();
    if crate::discover::one(host, bdf, &mut inventory).is_err() {
        return String::new();
    }
    let function = inventory.functions.get(&bdf).filter(|function| function.is_vfio());
    let Some(function) = function else { return String::new() };
    let group = function.group.map(|group| format!("/dev/vfio/{group}"));
    let nodes: Vec<String> = group.into_iter().chain(super::view::cdev(function)).collect();
    if nodes.is_empty() { String::new() } else { format!(", {}", nodes.join(" and ")) }
}

/// Why a lane did not do what was asked, with the state it left.
fn trouble(order: &Order<'_>, lane: &LaneResult, exit: Exit) -> Option<Trouble> {
    let taken_back = |unit: &&UnitResult| matches!(unit.error, Some(StepError::TakenBack(_)));
    let unit = lane.units.iter().find(|unit| unit.error.is_some() && !taken_back(unit))?;
    let error = unit.error.as_ref()?;
    let bdf = unit.device;
    let refused = unit.tried.iter().rfind(|tried| tried.error.is_some());
    let (id, message) = match (refused, &order.wanted) {
        _ if matches!(error, StepError::Stuck(_)) => {
            ("half-unbound", format!("{bdf} was not taken from its driver in time"))
        }
        (Some(tried), _) if error.is_load() => ("module-not-loaded", format!("{bdf}: {} did not load", tried.driver)),
        (Some(tried), _) => ("driver-refused", format!("{bdf} did not bind to {}", tried.driver)),
        (None, Wanted::Host) => ("not-given-back", format!("{bdf} was not given back to its host driver")),
        (None, _) => ("not-bound", format!("{bdf} was not bound")),
    };
    let changed: Vec<String> =
        lane.units.iter().filter(|unit| unit.changed()).map(|unit| unit.device.to_string()).collect();
    let undone = match lane.undone {
        0 => String::from("nothing had to be undone"),
        1 => String::from("1 step undone"),
        many => format!("{many} steps undone"),
    };
    let devices: Vec<String> = lane.units.iter().map(|unit| unit.device.to_string()).collect();
    let state = match (changed.is_empty(), lane.remains.is_empty()) {
        (true, _) if exit == Exit::Failed => format!("as it was; {undone}"),
        (true, _) => format!("{} as it was, others changed; {undone}", devices.join(", ")),
        (false, true) => format!("{} not as it was; {undone}", changed.join(", ")),
        (false, false) => {
            format!("{} not as it was; could not be undone: {}", changed.join(", "), lane.remains.join("; "))
        }
    };
    let remedy = match error {
        _ if refused.is_some() && !error.is_load() => {
            Some(format!("the driver's own reason is in the kernel log: dmesg | grep {bdf}"))
        }
        _ if error.is_load() => Some(String::from("see whether the module is there and may be loaded: dmesg | tail")),
        StepError::Stuck(_) => Some(String::from(
            "end the VM or program that has it open; the driver then lets go by itself, and vfioadm can be asked again",
        )),
        StepError::Host(error) if matches!(error.errno, Errno::EACCES | Errno::EPERM) => {
            Some(String::from("run it as root, outside any container that mounts sysfs read-only"))
        }
        StepError::Host(error) if error.errno == Errno::ENODEV => {
            Some(format!("see whether {bdf} is still there: lspci -s {bdf}"))
        }
        _ => None,
    };
    let trouble = Trouble::new(exit, id, message).step(error).state(state);
    Some(match remedy {
        Some(remedy) => trouble.remedy(remedy),
        None => trouble,
    })
}
