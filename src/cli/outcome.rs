//! What became of a `bind` or `unbind`, as a person and as a program read it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bind::{Order, Prepared};
use super::check::FindingRow;
use super::made::Parameters;
use super::made::beside::Function;
use super::report::{Exit, Trouble};
use super::{Session, hooks, ignore_closed, not_made, view};
use crate::discover;
use crate::engine::{LaneResult, Report, StepError, Tried};
use crate::host::{Host, Read};
use crate::matching::{DeviceFacts, Expect, predict};
use crate::model::devlink::Behind;
use crate::model::{Bdf, DriverName, Errno, Role, Warning, counted};
use crate::plan::Wanted;

/// The object of docs/json.md.
#[derive(Serialize)]
pub(super) struct Outcome {
    schema: String,
    /// The operation's name in the journal; `None` when nothing was done.
    pub(super) operation: Option<String>,
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
    /// What it was not set to, with --best-effort.
    skipped: Vec<String>,
    /// What the PF's driver reports of a VF, once parameters were set.
    parameters: Option<Parameters>,
    /// What devlink reports of it at its port, then.
    function: Option<Function>,
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
    pub(super) fn of_report(order: &Order<'_>, prepared: &Prepared, report: &Report, host: &dyn Host) -> Self {
        let lanes = &report.lanes;
        let of_device: BTreeMap<Bdf, &LaneResult> =
            lanes.iter().filter_map(|lane| Some((lane.device.pci()?, lane))).collect();
        let result = |bdf: &Bdf| match of_device.get(bdf) {
            Some(lane) if lane.before.is_some() || lane.error.is_none() => {
                DeviceResult::of_lane(lane, order, prepared, host)
            }
            Some(lane) => DeviceResult::untouched(*bdf, prepared, lane.error.as_ref().map(ToString::to_string)),
            None => DeviceResult::untouched(*bdf, prepared, None),
        };
        let mut results: Vec<DeviceResult> = prepared.devices.iter().map(result).collect();
        if order.sets() {
            tell_parameters(&mut results, prepared, host);
        }
        let failed = report.interrupts > 0 || lanes.iter().any(|lane| lane.error.is_some());
        let changed = lanes.iter().any(LaneResult::changed);
        let exit = match (failed, changed) {
            (false, _) => Exit::Done,
            (true, false) => Exit::Failed,
            (true, true) => Exit::Changed,
        };
        let interrupted = (report.interrupts > 0).then(|| interrupted(report, exit));
        let mut troubles = interrupted.into_iter().chain(troubles(order, lanes, exit));
        let mut outcome = Self::new(order, prepared, results, troubles.next());
        outcome.kind = Kind::Done;
        outcome.host = if changed { State::Changed } else { State::AsItWas };
        outcome.more_errors = troubles.collect();
        if order.wanted == Wanted::Host && !failed {
            let left = lanes.iter().filter(|lane| lane.now().is_some_and(|now| now.driver.is_none()));
            let why = "has no host driver on this kernel, or a blacklisted one; it is left without a driver";
            outcome.warnings = left.map(|lane| Warning::new(lane.device, why)).collect();
            for warning in &outcome.warnings {
                for result in outcome.results.iter_mut().filter(|result| result.address == warning.subject) {
                    result.reason = Some(warning.message.clone());
                }
            }
        }
        // What left nothing changed leaves nothing to undo either.
        outcome.warnings.extend(report.unrecorded.as_ref().filter(|_| changed).map(|error| {
            let words = "that it ended was not written down, so that vfioadm undo would take it back";
            Warning::new("journal", format!("{words}: {}", error.errno()))
        }));
        outcome
    }

    /// Nothing done, until more is said.
    fn new(order: &Order<'_>, prepared: &Prepared, results: Vec<DeviceResult>, error: Option<Trouble>) -> Self {
        Self {
            schema: format!("vfioadm.{}/1", order.verb),
            operation: None,
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
            let all = self.error.iter().chain(&self.more_errors);
            all.clone().take(MOST_ERRORS).for_each(|trouble| session.print_trouble(trouble));
            let more = all.count().saturating_sub(MOST_ERRORS);
            if more > 0 {
                ignore_closed(writeln!(
                    session.env.err,
                    "error: {more} more failed in the same command; each is in results of -o json"
                ));
            }
            if let (Exit::Changed, Some(operation)) = (self.exit(), &self.operation) {
                ignore_closed(writeln!(session.env.err, "take it all back with: vfioadm undo {operation}"));
            }
        }
        self.exit()
    }

    fn exit(&self) -> Exit {
        self.error.as_ref().map_or(Exit::Done, |trouble| trouble.exit)
    }
}

/// Adds what is kept for the VFs, read back: a request of each kind for each PF. What cannot be read is not shown.
fn tell_parameters(results: &mut [DeviceResult], prepared: &Prepared, host: &dyn Host) {
    let (mut attributes, mut devlink) = (BTreeMap::new(), BTreeMap::new());
    for (result, bdf) in results.iter_mut().zip(&prepared.devices) {
        let role = prepared.inventory.functions.get(bdf).map(|function| function.role);
        let Some(Role::Vf { pf, index: Some(index) }) = role else { continue };
        let kept = attributes.entry(pf).or_insert_with(|| discover::vf_attributes(host, pf).unwrap_or_default());
        result.parameters = kept.get(&(pf, index)).map(Parameters::from);
        let told = devlink.entry(pf).or_insert_with(|| discover::devlink(host, pf).unwrap_or_default());
        let port = told.as_ref().and_then(|devlink| Behind::Vf(index).port_in(&devlink.ports));
        result.function = port.and_then(|port| port.function.as_ref()).map(Function::from);
    }
}

/// How many errors are printed in full: of a thousand devices that all fail for one reason, one would do.
const MOST_ERRORS: usize = 4;

/// The user asked to stop.
fn interrupted(report: &Report, exit: Exit) -> Trouble {
    let undone = counted(report.lanes.iter().map(|lane| lane.undone).sum::<usize>(), "step");
    let changed = match report.lanes.iter().filter(|lane| lane.changed()).count() {
        1 => String::from("1 device not as it was"),
        many => format!("{many} devices not as they were"),
    };
    let (state, remedy) = match exit {
        Exit::Changed if report.interrupts > 1 => {
            (format!("{changed}; asked twice, it stopped where it was"), "vfioadm undo takes back what was done")
        }
        Exit::Changed => (format!("{changed}; {undone} undone"), "vfioadm undo takes back what remains"),
        _ => (format!("as it was; {undone} undone"), "ask for it again when it suits"),
    };
    Trouble::new(exit, "interrupted", "stopped because it was asked to").state(state).remedy(remedy)
}

/// Why each bond that failed did not do what was asked: the lane that failed first in it.
fn troubles(order: &Order<'_>, lanes: &[LaneResult], exit: Exit) -> Vec<Trouble> {
    let mut bonds: BTreeMap<usize, Vec<&LaneResult>> = BTreeMap::new();
    for lane in lanes {
        bonds.entry(lane.bond).or_default().push(lane);
    }
    let mut found: Vec<(usize, Trouble)> = Vec::new();
    for bond in bonds.values() {
        let of_its_own = |lane: &&&LaneResult| {
            let follows =
                matches!(lane.error, Some(StepError::TakenBack(_) | StepError::NotTried(_) | StepError::Interrupted));
            lane.error.is_some() && !follows
        };
        for lane in bond.iter().filter(of_its_own) {
            let place = lanes.iter().position(|other| other.device == lane.device).unwrap_or(0);
            found.extend(trouble(order, lane, bond, exit).map(|trouble| (place, trouble)));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, trouble)| trouble).collect()
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
            skipped: Vec::new(),
            parameters: None,
            function: None,
            reason,
            words: Vec::new(),
        }
    }

    fn of_lane(unit: &LaneResult, order: &Order<'_>, prepared: &Prepared, host: &dyn Read) -> Self {
        let driver = unit.now().and_then(|now| now.driver.as_ref());
        let facts = unit.device.pci().and_then(|bdf| DeviceFacts::of(&prepared.inventory, bdf));
        let mut lost = unit.lost.clone();
        if let (Wanted::Best, Some(facts), Some(driver), None) = (&order.wanted, &facts, driver, &unit.error) {
            lost.extend(lost_by_fallback(unit, driver, facts));
        }
        let mut words = Vec::new();
        if unit.error.is_none() {
            let already = if unit.changed() { "" } else { ", as before" };
            words.push(match driver {
                Some(driver) => format!(
                    "bound to {driver}{}{already}",
                    unit.device.pci().map(|bdf| node_words(host, bdf)).unwrap_or_default()
                ),
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
            skipped: unit.skipped.clone(),
            parameters: None,
            function: None,
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
        // Why a driver refused it was said.
        if self.tried.iter().all(|tried| tried.errno.is_none())
            && self.words.is_empty()
            && let Some(reason) = &self.reason
        {
            session.print(format_args!("{address}: {}\n", without(address, reason)));
        }
        for line in &self.words {
            session.print(format_args!("{address}: {line}\n"));
        }
        for skipped in &self.skipped {
            session.print(format_args!("{address}: skipped: {skipped}\n"));
        }
        for lost in &self.lost {
            session.print(format_args!("{address}: lost: {lost}\n"));
        }
    }
}

/// What is said of a device, without its address when that comes first.
pub(super) fn without<'a>(address: &str, reason: &'a str) -> &'a str {
    reason.strip_prefix(address).map_or(reason, str::trim_start)
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
fn lost_by_fallback(unit: &LaneResult, driver: &DriverName, facts: &DeviceFacts) -> Vec<String> {
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
    let (node, cdev) = view::nodes(host, bdf);
    view::node_words((node.as_deref(), cdev.as_deref()))
}

/// Why a lane did not do what was asked, with the state that it and those bonded to it are in.
fn trouble(order: &Order<'_>, unit: &LaneResult, bond: &[&LaneResult], exit: Exit) -> Option<Trouble> {
    let error = unit.error.as_ref()?;
    let bdf = unit.device;
    let refused = unit.tried.iter().rfind(|tried| tried.error.is_some());
    let of_a_hook = hooks::failed(bdf, error);
    let left = match error {
        StepError::Stuck(_, pending) => Some(not_made::left_behind(bdf, *pending)),
        _ => None,
    };
    let (id, message) = match (refused, &order.wanted) {
        _ if of_a_hook.is_some() => of_a_hook.as_ref().map(|(id, message, _)| (*id, message.clone()))?,
        _ if not_made::is_of_a_parameter(error) => ("parameter-refused", not_made::parameter_refused(bdf, error)),
        _ if left.is_some() => left.as_ref().map(|(id, message, _)| (*id, message.clone()))?,
        _ if matches!(error, StepError::Open(_)) => ("device-open", format!("{bdf} was opened by somebody meanwhile")),
        _ if matches!(error, StepError::NotRecorded(_)) => {
            ("no-journal", format!("{bdf} was not bound, for nothing is done that cannot be written down first"))
        }
        (Some(tried), _) if error.is_load() => ("module-not-loaded", format!("{bdf}: {} did not load", tried.driver)),
        (Some(tried), _) => ("driver-refused", format!("{bdf} did not bind to {}", tried.driver)),
        (None, Wanted::Host) => ("not-given-back", format!("{bdf} was not given back to its host driver")),
        (None, _) => ("not-bound", format!("{bdf} was not bound")),
    };
    let changed: Vec<String> = bond.iter().filter(|unit| unit.changed()).map(|unit| unit.device.to_string()).collect();
    let remains: Vec<&str> = bond.iter().flat_map(|unit| &unit.remains).map(String::as_str).collect();
    let undone = match bond.iter().map(|unit| unit.undone).sum::<usize>() {
        0 => String::from("nothing had to be undone"),
        many => format!("{} undone", counted(many, "step")),
    };
    let devices: Vec<String> = bond.iter().map(|unit| unit.device.to_string()).collect();
    let state = match (changed.is_empty(), remains.is_empty()) {
        (true, _) if exit == Exit::Failed => format!("as it was; {undone}"),
        (true, _) => format!("{} as it was, others changed; {undone}", devices.join(", ")),
        (false, true) => format!("{} not as it was; {undone}", changed.join(", ")),
        (false, false) => {
            format!("{} not as it was; could not be undone: {}", changed.join(", "), remains.join("; "))
        }
    };
    let remedy = match error {
        _ if of_a_hook.is_some() => of_a_hook.map(|(.., remedy)| remedy),
        _ if refused.is_some() && !error.is_load() => {
            Some(format!("the driver's own reason is in the kernel log: dmesg | grep {bdf}"))
        }
        _ if error.is_load() => Some(String::from("see whether the module is there and may be loaded: dmesg | tail")),
        StepError::Stuck(..) => left.map(|(.., remedy)| remedy),
        _ if not_made::is_of_a_parameter(error) => {
            Some(String::from("leave it out of --set, or have what cannot be set skipped: --best-effort"))
        }
        StepError::NotRecorded(_) => {
            Some(String::from("make room for the journal: nothing is done that cannot be written down first"))
        }
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
