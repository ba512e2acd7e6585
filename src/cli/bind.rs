//! `vfioadm bind` and `vfioadm unbind`

use std::collections::BTreeSet;

use serde::Serialize;

use super::args::{ActArgs, BindArgs, UnbindArgs};
use super::check::{FindingRow, findings, purposes, with_groups};
use super::report::{Exit, Trouble};
use super::{Session, ignore_closed, open, operation};
use crate::check::{Finding, Severity, refusals};
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::engine::{self, Act, LaneResult, Memory, UnitResult, Watch};
use crate::host::{Host, Read};
use crate::matching::{self, DeviceFacts, Tables};
use crate::model::{Bdf, DeviceRef, DriverName, Inventory, ModAlias, Warning};
use crate::plan::{BindWish, Fallback, Wanted, bind};
use crate::step::{Plan, Reversible, Step};

#[derive(Serialize)]
struct Report {
    schema: String,
    operation: String,
    results: Vec<DeviceResult>,
    findings: Vec<FindingRow>,
    host: State,
    error: Option<Trouble>,
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
    error: Option<String>,
}

#[derive(Serialize)]
struct TriedRow {
    driver: String,
    errno: Option<String>,
    message: Option<String>,
}

/// One `bind` or `unbind` as it was asked for.
struct Order<'a> {
    verb: &'static str,
    devices: &'a [DeviceRef],
    wanted: Wanted,
    fallback: Fallback,
    act: &'a ActArgs,
}

pub(super) fn run_bind(args: &BindArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let fallback = if args.no_fallback { Fallback::Never } else { Fallback::NextBest };
    let order = Order { verb: "bind", devices: &args.devices, wanted: args.driver.clone(), fallback, act: &args.act };
    run(&order, session)
}

pub(super) fn run_unbind(args: &UnbindArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let order = Order {
        verb: "unbind",
        devices: &args.devices,
        wanted: Wanted::Host,
        fallback: Fallback::NextBest,
        act: &args.act,
    };
    run(&order, session)
}

fn run(order: &Order<'_>, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    if order.act.dry_run {
        let prepared = Prepared::make(order, host, session)?;
        if let Some(refusal) = prepared.refusal(order, session) {
            return Ok(prepared.report_refusal(order, refusal, session));
        }
        prepared.print_plan(order, host, session);
        return Ok(Exit::Done);
    }
    // Looked at, planned and done under one lock: the host that was planned for is the host that is changed.
    let writer = host.lock()?;
    let prepared = Prepared::make(order, host, session)?;
    if let Some(refusal) = prepared.refusal(order, session) {
        return Ok(prepared.report_refusal(order, refusal, session));
    }
    let mut journal = Memory::default();
    let mut watch = Narrator { session };
    let lanes = engine::run(&prepared.plan, writer.as_ref(), host, &mut journal, &mut watch);
    drop(writer);
    let saved = session.save(&opened);
    let exit = prepared.report(order, &lanes, host, session);
    saved.map(|()| exit)
}

/// Everything that was read and decided before anything is done.
struct Prepared {
    inventory: Inventory,
    tables: Tables,
    plan: Plan,
    findings: Vec<Finding>,
    /// In the order of the command line, then the rest of their groups.
    devices: Vec<Bdf>,
}

impl Prepared {
    fn make(order: &Order<'_>, host: &dyn Host, session: &mut Session<'_, '_>) -> Result<Self, Trouble> {
        let (inventory, addresses) = session.resolve(host, order.devices)?;
        let mut devices = open::pci_only(&addresses, order.verb)?;
        let together: BTreeSet<Bdf> =
            if order.act.with_group { with_groups(&inventory, &devices) } else { devices.iter().copied().collect() };
        let siblings: Vec<Bdf> = together.iter().filter(|bdf| !devices.contains(bdf)).copied().collect();
        devices.extend(siblings);
        let aliases: Vec<ModAlias> =
            devices.iter().filter_map(|bdf| inventory.functions.get(bdf)).map(|function| function.alias).collect();
        let named: Vec<DriverName> = match &order.wanted {
            Wanted::Named(driver) => vec![driver.clone()],
            _ => Vec::new(),
        };
        let query = Query { devices: &aliases, drivers: &named, kernel: Kernel::Running };
        let (tables, mut warnings) = read_tables(host, &query);
        let wish = BindWish { devices: devices.clone(), wanted: order.wanted.clone(), fallback: order.fallback };
        let plan = bind(&wish, &inventory, &tables)?;
        // A device that has what is wanted is not taken from anybody.
        let acted_on: Vec<Bdf> = plan
            .lanes
            .iter()
            .flat_map(|lane| &lane.units)
            .filter(|unit| !unit.attempts.is_empty())
            .map(|unit| unit.device)
            .collect();
        let (purposes, _) = purposes(host, &inventory, &acted_on, &order.wanted);
        let findings = findings(host, &inventory, &purposes, &together, &mut warnings);
        session.warn(&open::reading(inventory.warnings.clone(), warnings));
        Ok(Self { inventory, tables, plan, findings, devices })
    }

    /// What stops the act: the refusals that are not allowed, all of them said. Warnings are said and passed over.
    fn refusal(&self, order: &Order<'_>, session: &mut Session<'_, '_>) -> Option<Trouble> {
        let warnings: Vec<Warning> = self
            .findings
            .iter()
            .filter(|finding| finding.severity() == Severity::Warn)
            // An override that is about to be rewritten is no news.
            .filter(|finding| finding.id != crate::check::FindingId::OverrideLeft)
            .map(|finding| Warning::new(finding.id, format!("{}; {}", finding.message, finding.remedy)))
            .collect();
        session.warn(&warnings);
        let refused: Vec<&Finding> = refusals(&self.findings, &order.act.allow).collect();
        for finding in &refused {
            session.print_trouble(&Trouble::from(*finding));
        }
        refused.first().map(|finding| Trouble::from(*finding))
    }

    /// Reports that nothing was tried.
    fn report_refusal(&self, order: &Order<'_>, refusal: Trouble, session: &mut Session<'_, '_>) -> Exit {
        let exit = refusal.exit;
        if session.json() {
            let why = |bdf: &Bdf| {
                let of_device =
                    |finding: &&Finding| finding.device.as_ref().is_none_or(|device| *device == (*bdf).into());
                let first = refusals(&self.findings, &order.act.allow).find(of_device);
                Some(first.map_or_else(
                    || String::from("not tried: another device was refused"),
                    |finding| finding.message.clone(),
                ))
            };
            let results = self.devices.iter().map(|bdf| self.untouched(*bdf, why(bdf))).collect();
            session.print_json(&self.report_of(order, results, State::AsItWas, Some(refusal)));
        }
        exit
    }

    fn report_of(&self, order: &Order<'_>, results: Vec<DeviceResult>, host: State, error: Option<Trouble>) -> Report {
        Report {
            schema: format!("vfioadm.{}/1", order.verb),
            operation: operation(order.verb),
            results,
            findings: self.findings.iter().map(FindingRow::from).collect(),
            host,
            error,
        }
    }

    /// The result of a device that nothing was done to.
    fn untouched(&self, bdf: Bdf, error: Option<String>) -> DeviceResult {
        let driver = self.inventory.functions.get(&bdf).and_then(|function| function.driver.as_ref());
        DeviceResult {
            address: bdf.to_string(),
            driver: driver.map(ToString::to_string),
            tried: Vec::new(),
            changed: false,
            lost: Vec::new(),
            error,
        }
    }

    fn print_plan(&self, order: &Order<'_>, host: &dyn Read, session: &mut Session<'_, '_>) {
        if session.json() {
            let results = self.devices.iter().map(|bdf| self.untouched(*bdf, None)).collect();
            session.print_json(&self.report_of(order, results, State::AsItWas, None));
            return;
        }
        for unit in self.plan.lanes.iter().flat_map(|lane| &lane.units) {
            if unit.attempts.is_empty() && unit.finish.is_empty() {
                session.print(format_args!("# {}: nothing to do\n", unit.device));
            }
            for (index, attempt) in unit.attempts.iter().enumerate() {
                if index > 0 {
                    let driver =
                        attempt.driver.as_ref().map_or_else(|| "the kernel's choice".to_owned(), ToString::to_string);
                    session.print(format_args!("# {}: if that is refused, {driver}:\n", unit.device));
                }
                // By then the device has been taken from its driver.
                let again = |step: &&Step| index == 0 || !matches!(step, Step::Unbind { .. });
                for step in attempt.steps.iter().filter(again) {
                    print_step(step, host, session);
                }
            }
            for step in &unit.finish {
                print_step(step, host, session);
            }
        }
        let mut kept: Vec<&'static str> = Vec::new();
        for step in self.plan.steps() {
            match step.reversible() {
                Reversible::Roughly(what) | Reversible::No(what) if !kept.contains(&what) => kept.push(what),
                _ => {}
            }
        }
        if !kept.is_empty() {
            session.print(format_args!("# what does not come back when it is undone: {}\n", kept.join("; ")));
        }
    }

    fn report(&self, order: &Order<'_>, lanes: &[LaneResult], host: &dyn Host, session: &mut Session<'_, '_>) -> Exit {
        let units: Vec<&UnitResult> = lanes.iter().flat_map(|lane| &lane.units).collect();
        let failed = units.iter().any(|unit| unit.error.is_some());
        let changed = units.iter().any(|unit| unit.changed());
        let exit = match (failed, changed) {
            (false, _) => Exit::Done,
            (true, false) => Exit::Failed,
            (true, true) => Exit::Changed,
        };
        let results: Vec<DeviceResult> =
            self.devices.iter().map(|bdf| self.device_result(*bdf, lanes, order)).collect();
        let troubles: Vec<Trouble> = lanes.iter().filter_map(|lane| trouble(order, lane, exit)).collect();
        if session.json() {
            let state = if changed { State::Changed } else { State::AsItWas };
            session.print_json(&self.report_of(order, results, state, troubles.first().cloned()));
        } else {
            for result in &results {
                self.print_result(result, host, session);
            }
        }
        for trouble in &troubles {
            session.print_trouble(trouble);
        }
        exit
    }

    fn device_result(&self, bdf: Bdf, lanes: &[LaneResult], order: &Order<'_>) -> DeviceResult {
        let Some(unit) = lanes.iter().flat_map(|lane| &lane.units).find(|unit| unit.device == bdf) else {
            return self.untouched(bdf, Some(String::from("not tried: another device of its group failed")));
        };
        let driver = unit.after.as_ref().and_then(|after| after.driver.as_ref());
        let row = |tried: &engine::Tried| TriedRow {
            driver: tried.driver.clone(),
            errno: tried.error.as_ref().map(|error| errno_name(error.errno())),
            message: tried.error.as_ref().map(ToString::to_string),
        };
        let mut lost = unit.lost.clone();
        if order.wanted == Wanted::Best {
            lost.extend(self.lost_by_fallback(unit, driver));
        }
        DeviceResult {
            address: bdf.to_string(),
            driver: driver.map(ToString::to_string),
            tried: unit.tried.iter().map(row).collect(),
            changed: unit.changed(),
            lost,
            error: unit.error.as_ref().map(ToString::to_string),
        }
    }

    /// What the drivers that refused would have given and the one that took the device does not.
    fn lost_by_fallback(&self, unit: &UnitResult, driver: Option<&DriverName>) -> Vec<String> {
        let Some(facts) = DeviceFacts::of(&self.inventory, unit.device) else { return Vec::new() };
        let Some(driver) = driver else { return Vec::new() };
        let kept = matching::predict(driver, &facts).gains;
        let refused = unit.tried.iter().filter(|tried| tried.error.is_some());
        let gains = refused.filter_map(|tried| tried.driver.parse().ok()).flat_map(|name: DriverName| {
            let gains = matching::predict(&name, &facts).gains;
            gains.into_iter().map(move |gain| (name.clone(), gain))
        });
        gains
            .filter(|(_, gain)| !kept.contains(gain))
            .map(|(name, gain)| format!("{gain}, which {name} would have given"))
            .collect()
    }

    fn print_result(&self, result: &DeviceResult, host: &dyn Read, session: &mut Session<'_, '_>) {
        let address = &result.address;
        for tried in result.tried.iter().filter(|tried| tried.errno.is_some()) {
            let (driver, errno) = (&tried.driver, tried.errno.as_deref().unwrap_or_default());
            session.print(format_args!("{address}: {driver} refused it ({errno})\n"));
        }
        if result.error.is_some() {
            return;
        }
        let bdf = address.parse::<Bdf>().ok();
        let already = if result.changed { "" } else { ", as before" };
        match &result.driver {
            Some(driver) => {
                let node = bdf.map_or_else(String::new, |bdf| node_words(host, bdf));
                session.print(format_args!("{address}: bound to {driver}{node}{already}\n"));
                self.print_expectation(bdf, driver, session);
            }
            None => session.print(format_args!("{address}: no driver{already}\n")),
        }
        for lost in &result.lost {
            session.print(format_args!("{address}: lost: {lost}\n"));
        }
    }

    /// What the driver that took the device will do for its user, in words.
    fn print_expectation(&self, bdf: Option<Bdf>, driver: &str, session: &mut Session<'_, '_>) {
        let (Some(bdf), Ok(driver)) = (bdf, driver.parse::<DriverName>()) else { return };
        let Some(facts) = DeviceFacts::of(&self.inventory, bdf).filter(|_| driver.is_vfio()) else { return };
        if self.tables.registered.is_empty() || driver.as_str() != "vfio-pci" {
            let prediction = matching::predict(&driver, &facts);
            if prediction.expect == matching::Expect::Degrades {
                session.print(format_args!("{bdf}: {}\n", prediction.text.replacen("will bind", "bound", 1)));
            }
        }
    }
}

/// `, /dev/vfio/12 and /dev/vfio/devices/vfio3` of a device that is a VFIO device now.
fn node_words(host: &dyn Read, bdf: Bdf) -> String {
    let mut inventory = Inventory::default();
    if crate::discover::one(host, bdf, &mut inventory).is_err() {
        return String::new();
    }
    let Some(function) = inventory.functions.get(&bdf).filter(|function| function.is_vfio()) else {
        return String::new();
    };
    let group = function.group.map(|group| format!("/dev/vfio/{group}"));
    let nodes: Vec<String> = group.into_iter().chain(super::view::cdev(function)).collect();
    if nodes.is_empty() { String::new() } else { format!(", {}", nodes.join(" and ")) }
}

fn print_step(step: &Step, host: &dyn Read, session: &mut Session<'_, '_>) {
    match engine::act(step, host) {
        Ok(Some((act, _))) => session.print(format_args!("{act}\n")),
        Ok(None) => {}
        // A module that is not loaded yet has no driver to name.
        Err(error) => session.print(format_args!("# {}: {error}\n", step.summary())),
    }
}

fn errno_name(errno: crate::model::Errno) -> String {
    errno.name().map_or_else(|| errno.to_string(), ToOwned::to_owned)
}

/// Why a lane did not do what was asked, with the state it left.
fn trouble(order: &Order<'_>, lane: &LaneResult, exit: Exit) -> Option<Trouble> {
    let unit = lane.units.iter().find(|unit| unit.error.is_some())?;
    let error = unit.error.as_ref()?;
    let bdf = unit.device;
    let refused = unit.tried.iter().rfind(|tried| tried.error.is_some());
    let (id, message) = match (refused, &order.wanted) {
        (Some(tried), _) => ("driver-refused", format!("{bdf} did not bind to {}", tried.driver)),
        (None, Wanted::Host) => ("not-given-back", format!("{bdf} was not given back to its host driver")),
        (None, _) => ("not-bound", format!("{bdf} was not bound")),
    };
    let state = match (lane.units.iter().any(UnitResult::changed), lane.remains.is_empty()) {
        (false, _) => format!("{bdf} is as it was; {} steps undone", lane.undone),
        (true, true) => format!("{bdf} is not as it was"),
        (true, false) => format!("{bdf} is not as it was; could not be undone: {}", lane.remains.join("; ")),
    };
    let remedy = format!("the driver's own reason is in the kernel log: dmesg | grep {bdf}");
    Some(Trouble::new(exit, id, message).step(error).state(state).remedy(remedy))
}

/// Prints every change with `-v`.
struct Narrator<'s, 'a, 'e> {
    session: &'s mut Session<'a, 'e>,
}

impl Watch for Narrator<'_, '_, '_> {
    fn change(&mut self, act: &Act) {
        if self.session.global.verbose {
            ignore_closed(writeln!(self.session.env.err, "{act}"));
        }
    }
}
