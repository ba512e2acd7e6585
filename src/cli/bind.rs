//! `vfioadm bind` and `vfioadm unbind`: what is asked, looked at, refused or done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::args::{ActArgs, BindArgs, UnbindArgs};
use super::carry::Carried;
use super::check::{self, Judged, with_groups};
use super::open::Opened;
use super::outcome::Outcome;
use super::past::Seen;
use super::report::{Exit, Trouble};
use super::{Session, carry, create, dry_run, hooks, open};
use crate::check::{Finding, FindingId, Severity, refusals};
use crate::discover;
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::engine::Pace;
use crate::host::Host;
use crate::matching::Tables;
use crate::model::{Bdf, DeviceRef, DriverName, Inventory, ModAlias, PciFunction, Role, Warning};
use crate::plan::parameters::{self, Parameters};
use crate::plan::set::{SetError, SetWish, bind_set};
use crate::plan::{BindWish, Fallback, Wanted, bind};
use crate::step::{Plan, Unsupported, WhenOpen};

/// One `bind` or `unbind` as it was asked for.
pub(super) struct Order<'a> {
    /// The verb.
    pub(super) verb: &'static str,
    /// The devices.
    devices: &'a [DeviceRef],
    /// The driver.
    pub(super) wanted: Wanted,
    fallback: Fallback,
    /// What VFs are to have before their driver looks.
    parameters: Parameters,
    unsupported: Unsupported,
    act: &'a ActArgs,
}

impl Order<'_> {
    /// Whether parameters of VFs are set.
    pub(super) fn sets(&self) -> bool {
        self.parameters.first_key().is_some()
    }

    /// What is done about a device that somebody has open: the kernel asks for it when the user says so, or insists.
    fn when_open(&self) -> WhenOpen {
        let insists = self.act.allow.iter().any(|id| HELD.contains(id));
        if self.act.request || insists { WhenOpen::Ask } else { WhenOpen::Refuse }
    }
}

pub(super) fn run_bind(args: &BindArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let fallback = if args.no_fallback { Fallback::Never } else { Fallback::NextBest };
    let order = Order {
        verb: "bind",
        devices: &args.devices,
        wanted: args.driver.clone(),
        fallback,
        parameters: parameters::parse(&args.set)?,
        unsupported: if args.best_effort { Unsupported::IsSkipped } else { Unsupported::Fails },
        act: &args.act,
    };
    run(&order, session)
}

pub(super) fn run_unbind(args: &UnbindArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let (wanted, fallback) = (Wanted::Host, Fallback::NextBest);
    let (parameters, unsupported) = (Parameters::default(), Unsupported::Fails);
    let order =
        Order { verb: "unbind", devices: &args.devices, wanted, fallback, parameters, unsupported, act: &args.act };
    run(&order, session)
}

fn run(order: &Order<'_>, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    if order.act.dry_run {
        let prepared = Prepared::make(order, &opened, Seen::InPassing, session)?;
        let mut outcome = Outcome::untouched(order, &prepared, prepared.refusal(order, session));
        if outcome.error.is_none() {
            outcome.changes = dry_run::lines(&prepared.plan, host);
        }
        return Ok(outcome.print(session));
    }
    let free_by = host.now() + Duration::from_secs(order.act.wait_holder.into());
    // Looked at, planned and done under one lock: the host that was planned for is the host that is changed.
    let (lock, prepared) = loop {
        let lock = session.lock(host)?;
        let prepared = Prepared::make(order, &opened, Seen::UnderLock, session)?;
        if !prepared.waits_for_a_holder() || host.now() >= free_by || host.interrupts() > 0 {
            break (lock, prepared);
        }
        // Nobody else is kept waiting meanwhile.
        drop(lock);
        host.nap(HOLDER_POLL);
    };
    if let Some(refusal) = prepared.refusal(order, session) {
        return Ok(Outcome::untouched(order, &prepared, Some(refusal)).print(session));
    }
    let pace = Pace::AtOnce(order.act.jobs.unwrap_or(opened.at_once()));
    let carried = carry::Order { verb: order.verb, plan: &prepared.plan, pace };
    let Carried { report, changes, operation } = session.carry_out(&carried, &opened, lock)?;
    let mut outcome = Outcome::of_report(order, &prepared, &report, host);
    outcome.changes = changes;
    outcome.operation = operation;
    if let Err(trouble) = session.save(&opened) {
        outcome.not_saved(trouble, &prepared);
    }
    Ok(outcome.print(session))
}

/// How often it is looked whether a holder has let go.
const HOLDER_POLL: Duration = Duration::from_millis(200);

/// The findings that end when whoever has the device open closes it.
const HELD: [FindingId; 2] = [FindingId::GroupOpen, FindingId::DeviceOpen];

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
    fn make(order: &Order<'_>, opened: &Opened, seen: Seen, session: &mut Session<'_, '_>) -> Result<Self, Trouble> {
        let host = opened.host();
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
        let wish = BindWish {
            devices: devices.clone(),
            wanted: order.wanted.clone(),
            fallback: order.fallback,
            prefer: Vec::new(),
            open: order.when_open(),
        };
        let mut plan = if order.sets() {
            set_and_bind(order, &wish, &inventory, (&tables, host))?
        } else {
            bind(&wish, &inventory, &tables)?
        };
        if order.act.all_or_nothing {
            plan.bond_all();
        }
        // A device that has what is wanted is not taken from anybody.
        let lanes = plan.lanes.iter().filter(|lane| !lane.attempts.is_empty() || !lane.prepare.is_empty());
        let acted_on: Vec<Bdf> = lanes.filter_map(|lane| lane.device.pci()).collect();
        let purposes = check::purposes(&inventory, &acted_on, &order.wanted, &tables);
        let unfinished = session.left_halfway(opened, seen);
        let judged = Judged {
            inventory: &inventory,
            purposes: &purposes,
            together: &together,
            unfinished: &unfinished,
            probe: true,
        };
        let mut warnings = Vec::new();
        let findings = judged.findings(host, &mut warnings);
        session.warn(&warnings);
        let mut allowed = order.act.allow.clone();
        if order.act.request {
            allowed.extend(HELD);
        }
        Ok(Self { inventory, plan, findings, allowed, devices })
    }

    /// Whether all that stands in the way is that somebody has a device open.
    fn waits_for_a_holder(&self) -> bool {
        let mut refused = self.refused().peekable();
        refused.peek().is_some() && refused.all(|finding| HELD.contains(&finding.id))
    }

    /// The refusals that are not allowed.
    pub(super) fn refused(&self) -> impl Iterator<Item = &Finding> {
        refusals(&self.findings, &self.allowed)
    }

    /// What stops the act: the refusals that are not allowed, all of them said. Warnings are said and passed over.
    fn refusal(&self, order: &Order<'_>, session: &mut Session<'_, '_>) -> Option<Trouble> {
        session.warn_of(&self.findings);
        let troubles: Vec<Trouble> = self.refused().map(Trouble::from).collect();
        for trouble in &troubles {
            session.print_trouble(trouble);
        }
        if let Some(first) = troubles.into_iter().next() {
            return Some(first);
        }
        let lifted = self.findings.iter().filter(|finding| finding.severity() == Severity::Refuse);
        let words = |finding: &Finding| match order.when_open() {
            WhenOpen::Ask if HELD.contains(&finding.id) => format!(
                "{}: the kernel is going to ask for it, and a holder that does not let go leaves the device half unbound",
                finding.message
            ),
            _ => format!("allowed, although {}", finding.message),
        };
        let lifted: Vec<Warning> = lifted.map(|finding| Warning::new(finding.id, words(finding))).collect();
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
        let lanes = self.plan.lanes.iter().filter(|lane| !lane.attempts.is_empty());
        let mut functions = lanes.filter_map(|lane| self.inventory.functions.get(&lane.device.pci()?));
        functions.find(|function| function.driver.is_some() && matches!(function.role, Role::Pf { enabled: 1.., .. }))
    }
}

/// The plan of a bind of VFs that are to have parameters.
fn set_and_bind(
    order: &Order<'_>,
    wish: &BindWish,
    inventory: &Inventory,
    (tables, host): (&Tables, &dyn Host),
) -> Result<Plan, Trouble> {
    order.parameters.fits(wish.devices.len())?;
    let pfs: BTreeSet<Bdf> = wish.devices.iter().filter_map(|bdf| inventory.functions.get(bdf)?.pf()).collect();
    let (mut attributes, mut devlink) = (BTreeMap::new(), BTreeMap::new());
    for pf in pfs {
        let key = order.parameters.first_netdev_key().filter(|_| order.unsupported == Unsupported::Fails);
        create::needs_netdev(host, pf, key)?;
        attributes.extend(discover::vf_attributes(host, pf)?);
        if order.parameters.needs_devlink() {
            devlink.extend(discover::devlink(host, pf)?.map(|devlink| (pf, devlink)));
        }
    }
    let machine = create::machine(host)?;
    let (parameters, unsupported) = (&order.parameters, order.unsupported);
    let vfs = wish.devices.iter().filter_map(|bdf| inventory.functions.get(bdf));
    let hooks = &hooks::there(host, vfs.map(|vf| &vf.alias))?;
    let (attributes, devlink, machine) = (&attributes, &devlink, &*machine);
    // A count that somebody else has set since is not told: it is set again.
    let pools = &BTreeMap::new();
    let set = SetWish { parameters, unsupported, attributes, devlink, pools, hooks, machine };
    Ok(bind_set(wish, set, inventory, tables)?)
}

impl From<SetError> for Trouble {
    fn from(error: SetError) -> Self {
        match error {
            SetError::Plan(error) => error.into(),
            SetError::Eswitch(error) => error.into(),
            SetError::NotAVf(_) => Self::new(Exit::Failed, "parameter-unsupported", error)
                .state("as it was; nothing was tried")
                .remedy("leave --set out"),
        }
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
    let vfs: Vec<String> = inventory.vfs_of(pf.bdf).map(PciFunction::on_driver).collect();
    let message = format!("{} may lose its VFs with its driver, and they do not come back: {}", pf.bdf, vfs.join(", "));
    Trouble::new(Exit::Failed, "needs-yes", message)
        .state("as it was; nothing was tried")
        .remedy("accept it with --yes")
}
