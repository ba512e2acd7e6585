//! `vfioadm bind` and `vfioadm unbind`: what is asked, looked at, refused or done.

use std::collections::BTreeSet;

use super::args::{ActArgs, BindArgs, UnbindArgs};
use super::check::{self, Judged, with_groups};
use super::outcome::Outcome;
use super::report::{Exit, Trouble};
use super::{Session, dry_run, ignore_closed, open};
use crate::check::{Finding, FindingId, Severity, refusals};
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::engine::{self, Act, Watch};
use crate::host::{Claim, Host};
use crate::model::{Bdf, DeviceRef, DriverName, Errno, Inventory, ModAlias, PciFunction, Role, Warning};
use crate::plan::{BindWish, Fallback, Wanted, bind};
use crate::step::Plan;

/// One `bind` or `unbind` as it was asked for.
pub(super) struct Order<'a> {
    /// The verb.
    pub(super) verb: &'static str,
    /// The devices.
    devices: &'a [DeviceRef],
    /// The driver.
    pub(super) wanted: Wanted,
    fallback: Fallback,
    act: &'a ActArgs,
}

pub(super) fn run_bind(args: &BindArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let fallback = if args.no_fallback { Fallback::Never } else { Fallback::NextBest };
    let order = Order { verb: "bind", devices: &args.devices, wanted: args.driver.clone(), fallback, act: &args.act };
    run(&order, session)
}

pub(super) fn run_unbind(args: &UnbindArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let (wanted, fallback) = (Wanted::Host, Fallback::NextBest);
    let order = Order { verb: "unbind", devices: &args.devices, wanted, fallback, act: &args.act };
    run(&order, session)
}

fn run(order: &Order<'_>, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    if order.act.dry_run {
        let prepared = Prepared::make(order, host, session)?;
        let mut outcome = Outcome::untouched(order, &prepared, prepared.refusal(order, session));
        if outcome.error.is_none() {
            outcome.changes = dry_run::lines(&prepared.plan, host);
        }
        return Ok(outcome.print(session));
    }
    // Looked at, planned and done under one lock: the host that was planned for is the host that is changed.
    let lock = host.lock(&Claim::new(order.verb, host))?;
    let prepared = Prepared::make(order, host, session)?;
    if let Some(refusal) = prepared.refusal(order, session) {
        return Ok(Outcome::untouched(order, &prepared, Some(refusal)).print(session));
    }
    let mut narrator = Narrator { session, lines: Vec::new() };
    let lanes = engine::run(&prepared.plan, lock.hand().as_ref(), host, &mut narrator);
    let changes = narrator.lines;
    drop(lock);
    let mut outcome = Outcome::of_lanes(order, &prepared, &lanes, host);
    outcome.changes = changes;
    if let Err(trouble) = session.save(&opened) {
        outcome.not_saved(trouble, &prepared);
    }
    Ok(outcome.print(session))
}

/// Everything that was read and decided before anything is done.
pub(super) struct Prepared {
    /// The host.
    pub(super) inventory: Inventory,
    plan: Plan,
    /// What stands in the way, or is worth knowing.
    pub(super) findings: Vec<Finding>,
    allowed: Vec<FindingId>,
    /// In the order of the command line, then the rest of their groups.
    pub(super) devices: Vec<Bdf>,
}

impl Prepared {
    fn make(order: &Order<'_>, host: &dyn Host, session: &mut Session<'_, '_>) -> Result<Self, Trouble> {
        let (inventory, addresses) = session.resolve(host, order.devices)?;
        let mut devices = open::pci_only(&addresses, order.verb)?;
        let together: BTreeSet<Bdf> =
            if order.act.with_group { with_groups(&inventory, &devices) } else { devices.iter().copied().collect() };
        let siblings: Vec<Bdf> = together.iter().filter(|bdf| !devices.contains(bdf)).copied().collect();
        devices.extend(siblings);
        let functions = || devices.iter().filter_map(|bdf| inventory.functions.get(bdf));
        let aliases: Vec<ModAlias> = functions().map(|function| function.alias).collect();
        // To tell whether a driver is made for a device its own table is needed: the named one's, or the present one's.
        let drivers: Vec<DriverName> = match &order.wanted {
            Wanted::Named(driver) => vec![driver.clone()],
            Wanted::Host => functions().filter_map(|function| function.driver.clone()).collect(),
            Wanted::Best | Wanted::None => Vec::new(),
        };
        let query = Query { devices: &aliases, drivers: &drivers, kernel: Kernel::Running };
        let (tables, warnings) = read_tables(host, &query);
        session.warn(&warnings);
        let wish = BindWish { devices: devices.clone(), wanted: order.wanted.clone(), fallback: order.fallback };
        let plan = bind(&wish, &inventory, &tables)?;
        // A device that has what is wanted is not taken from anybody.
        let units = plan.lanes.iter().flat_map(|lane| &lane.units);
        let acted_on: Vec<Bdf> = units.filter(|unit| !unit.attempts.is_empty()).map(|unit| unit.device).collect();
        let purposes = check::purposes(&inventory, &acted_on, &order.wanted, &tables);
        let judged = Judged { inventory: &inventory, purposes: &purposes, together: &together, probe: true };
        let mut warnings = Vec::new();
        let findings = judged.findings(host, &mut warnings);
        session.warn(&warnings);
        Ok(Self { inventory, plan, findings, allowed: order.act.allow.clone(), devices })
    }

    /// The refusals that are not allowed.
    pub(super) fn refused(&self) -> impl Iterator<Item = &Finding> {
        refusals(&self.findings, &self.allowed)
    }

    /// What stops the act: the refusals that are not allowed, all of them said. Warnings are said and passed over.
    fn refusal(&self, order: &Order<'_>, session: &mut Session<'_, '_>) -> Option<Trouble> {
        let warnings: Vec<Warning> = self
            .findings
            .iter()
            .filter(|finding| finding.severity() == Severity::Warn)
            // An override that is about to be rewritten is no news.
            .filter(|finding| finding.id != FindingId::OverrideLeft)
            .map(|finding| Warning::new(finding.id, format!("{}; {}", finding.message, finding.remedy)))
            .collect();
        session.warn(&warnings);
        let troubles: Vec<Trouble> = self.refused().map(Trouble::from).collect();
        for trouble in &troubles {
            session.print_trouble(trouble);
        }
        if let Some(first) = troubles.into_iter().next() {
            return Some(first);
        }
        let lifted = self.findings.iter().filter(|finding| finding.severity() == Severity::Refuse);
        let lifted: Vec<Warning> =
            lifted.map(|finding| Warning::new(finding.id, format!("allowed, although {}", finding.message))).collect();
        session.warn(&lifted);
        let pf = self.pf_about_to_lose_vfs()?;
        let together = self.inventory.vfs_of(pf.bdf).find(|vf| self.devices.contains(&vf.bdf));
        let trouble = match together {
            Some(vf) => goes_with_its_pf(vf.bdf, pf.bdf),
            None if order.act.yes => return None,
            None => lost_vfs(&self.inventory, pf),
        };
        session.print_trouble(&trouble);
        Some(trouble)
    }

    /// A PF that is taken from its driver although it has VFs.
    fn pf_about_to_lose_vfs(&self) -> Option<&PciFunction> {
        let units = self.plan.lanes.iter().flat_map(|lane| &lane.units).filter(|unit| !unit.attempts.is_empty());
        let mut functions = units.filter_map(|unit| self.inventory.functions.get(&unit.device));
        functions.find(|function| function.driver.is_some() && matches!(function.role, Role::Pf { enabled: 1.., .. }))
    }
}

/// A VF cannot be given to anybody by a command that also takes its PF away.
fn goes_with_its_pf(vf: Bdf, pf: Bdf) -> Trouble {
    let message = format!("{vf} is a VF of {pf} and may go with its driver, and both were named");
    Trouble::new(Exit::Failed, "goes-with-pf", message)
        .state("as it was; nothing was tried")
        .remedy("name the PF, or its VFs, not both")
}

/// What cannot be undone is not done without `--yes`.
fn lost_vfs(inventory: &Inventory, pf: &PciFunction) -> Trouble {
    let on = |vf: &PciFunction| {
        format!("{} on {}", vf.bdf, vf.driver.as_ref().map_or("no driver", |driver| driver.as_str()))
    };
    let vfs: Vec<String> = inventory.vfs_of(pf.bdf).map(on).collect();
    let message = format!("{} may lose its VFs with its driver, and they do not come back: {}", pf.bdf, vfs.join(", "));
    Trouble::new(Exit::Failed, "needs-yes", message)
        .state("as it was; nothing was tried")
        .remedy("accept it with --yes")
}

/// Keeps every change, and prints it with `-v`.
struct Narrator<'s, 'a, 'e> {
    session: &'s mut Session<'a, 'e>,
    lines: Vec<String>,
}

impl Watch for Narrator<'_, '_, '_> {
    fn change(&mut self, act: &Act, refused: Option<Errno>) {
        let line = match refused {
            None => act.to_string(),
            Some(errno) => format!("{act}   # refused: {errno}"),
        };
        if self.session.global.verbose {
            ignore_closed(writeln!(self.session.env.err, "{line}"));
        }
        self.lines.push(line);
    }
}
