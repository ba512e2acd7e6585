//! A host file beside its host: what is read, decided, and found of it before anything is done.

use std::collections::{BTreeMap, BTreeSet};

use super::{asked, tell};
use crate::check::{Finding, FindingId, Purpose, Unfinished, left_halfway, refusals};
use crate::cli::check::{self, Judged};
use crate::cli::open::Opened;
use crate::cli::past::Seen;
use crate::cli::report::{Exit, Trouble};
use crate::cli::taken::{self, Before};
use crate::cli::{Session, create, hooks};
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::discover::{self, Slots};
use crate::host::{Host, pf_netdev};
use crate::matching::Tables;
use crate::model::identity::Identities;
use crate::model::{Address, Bdf, DriverName, Inventory, ModAlias, Target, Warning};
use crate::plan::Wanted;
use crate::plan::create::{CreateError, Known, Replace, aliases};
use crate::step::{Lane, Otherwise};
use crate::want::file::Match;
use crate::want::reconcile::{Outcome, Refused, subjects};
use crate::want::{EntryKind, Ground, Reconciled, Standing, Wish, reconcile};

/// A host file compared with a host.
pub(in crate::cli) struct Compared {
    pub(super) inventory: Inventory,
    identities: Identities,
    pub(in crate::cli) reconciled: Reconciled,
    /// What stands in the way of the plan, or is worth knowing.
    pub(super) findings: Vec<Finding>,
    allow: Vec<FindingId>,
}

impl Compared {
    /// Compares, and judges what would be done.
    pub(super) fn make(
        wish: &Wish,
        opened: &Opened,
        seen: Seen,
        session: &mut Session<'_, '_>,
    ) -> Result<Self, Trouble> {
        let (mut compared, tables) = Self::with_tables(wish, opened, session)?;
        let unfinished = session.left_halfway(opened, seen);
        let mut warnings = Vec::new();
        compared.findings = compared.judge(opened.host(), (&tables, &unfinished), session, &mut warnings);
        session.warn(&warnings);
        Ok(compared)
    }

    /// Compares alone.
    pub(in crate::cli) fn read(wish: &Wish, opened: &Opened, session: &mut Session<'_, '_>) -> Result<Self, Trouble> {
        Ok(Self::with_tables(wish, opened, session)?.0)
    }

    fn with_tables(wish: &Wish, opened: &Opened, session: &mut Session<'_, '_>) -> Result<(Self, Tables), Trouble> {
        let host = opened.host();
        let inventory = discover::inventory(host)?;
        session.warn(&inventory.warnings);
        let slots = if wish.asks_for_slots() { Slots::Wanted } else { Slots::Unwanted };
        let identities = discover::identities(host, &wish.asks(&inventory), slots)?;
        let (devices, pfs) = subjects(wish, &inventory, &identities);
        let mut known = Known::default();
        for pf in &pfs {
            create::read_pf(host, *pf, &inventory, &mut known, session)?;
        }
        known.machine = create::machine(host)?;
        let of_vfs = aliases(&pfs, &inventory, &known);
        known.hooks = hooks::there(host, &of_vfs)?;
        let functions = devices.iter().filter_map(|bdf| inventory.functions.get(bdf));
        let mut all: Vec<ModAlias> = functions.clone().map(|function| function.alias).collect();
        all.extend(of_vfs);
        // To tell whether a driver is made for a device its own table is needed: the named one's, or the present one's.
        let vfs = pfs.iter().flat_map(|pf| inventory.vfs_of(*pf));
        let mut drivers: BTreeSet<DriverName> = functions.chain(vfs).filter_map(|of| of.driver.clone()).collect();
        drivers.extend(wish.entries.iter().flat_map(|entry| named(&entry.kind)));
        let drivers: Vec<DriverName> = drivers.into_iter().collect();
        let (tables, warnings) =
            read_tables(host, &Query { devices: &all, drivers: &drivers, kernel: Kernel::Running });
        session.warn(&warnings);
        let mut without_netdev = BTreeSet::new();
        for pf in &pfs {
            if pf_netdev(host, *pf)?.is_none() {
                without_netdev.insert(*pf);
            }
        }
        asked::ask(host, wish, (&inventory, &identities), &mut known)?;
        let reconciled = reconcile(
            wish,
            Ground {
                inventory: &inventory,
                tables: &tables,
                known: &known,
                identities: &identities,
                without_netdev: &without_netdev,
            },
        );
        if !reconciled.mistakes.is_empty() {
            return Err(tell::mistaken(&reconciled.mistakes, session));
        }
        let allow = wish.policy.allow.iter().map(|id| id.0).collect();
        Ok((Self { inventory, identities, reconciled, findings: Vec::new(), allow }, tables))
    }

    fn judge(
        &self,
        host: &dyn Host,
        (tables, unfinished): (&Tables, &BTreeMap<Target, Unfinished>),
        session: &mut Session<'_, '_>,
        warnings: &mut Vec<Warning>,
    ) -> Vec<Finding> {
        let Self { inventory, reconciled: Reconciled { plan, .. }, .. } = self;
        // A device that has what is wanted is not taken from anybody.
        let lanes = plan.lanes.iter().filter(|lane| !lane.attempts.is_empty() || !lane.prepare.is_empty());
        let acted_on: BTreeSet<Bdf> = lanes.filter_map(|lane| lane.device.pci()).collect();
        let mut purposes: Vec<(Bdf, Purpose)> = Vec::new();
        for (target, wanted) in self.reconciled.outcomes.iter().flat_map(|outcome| &outcome.functions) {
            let place = inventory.place(*target).filter(|bdf| acted_on.contains(bdf));
            purposes.extend(place.into_iter().flat_map(|bdf| check::purposes(inventory, &[bdf], wanted, tables)));
        }
        let mut found = Vec::new();
        if !purposes.is_empty() {
            let judged = Judged { inventory, purposes: &purposes, together: &acted_on, unfinished, probe: true };
            found = judged.findings(host, warnings);
        }
        let before = Before { inventory, unfinished };
        found.extend(
            before
                .judge(plan, host, session)
                .into_iter()
                .filter(|finding| !found.contains(finding))
                .collect::<Vec<_>>(),
        );
        for finding in found.iter_mut().filter(|finding| finding.id == FindingId::GroupNotViable) {
            finding.remedy = String::from("give each of them an entry: a driver that is VFIO's, or \"none\"");
        }
        let targets: Vec<Target> = plan.lanes.iter().map(|lane| lane.device).collect();
        if let Some((target, of)) = taken::halfway(&targets, unfinished) {
            let finding = left_halfway(target, of);
            if !found.contains(&finding) {
                found.push(finding);
            }
        }
        found
    }

    /// The entries that are about nothing here.
    pub(super) fn not_applied(&self) -> Vec<Warning> {
        let outcomes = self.reconciled.outcomes.iter();
        let all = outcomes.filter_map(|outcome| match &outcome.standing {
            Standing::NotApplied(why) => {
                Some(Warning::new(&outcome.entry.place, format!("{} is not applied: {why}", outcome.entry)))
            }
            _ => None,
        });
        all.collect()
    }

    /// Whether the host is as the file says.
    pub(super) fn is_clean(&self) -> bool {
        self.reconciled.is_clean()
    }

    /// The findings that stop it.
    pub(super) fn refused(&self) -> impl Iterator<Item = &Finding> {
        refusals(&self.findings, &self.allow)
    }

    /// Why nothing is done.
    pub(super) fn refusal(&self, lost: Replace) -> Option<Vec<Trouble>> {
        let outcomes = self.reconciled.outcomes.iter();
        let mut all: Vec<Trouble> = outcomes.flat_map(|outcome| self.in_the_way(outcome, lost)).collect();
        // What is found of the host itself is of no entry.
        let outcomes = self.reconciled.outcomes.iter();
        let places: BTreeSet<Address> = outcomes.flat_map(|outcome| self.places(outcome)).collect();
        let of_none = |finding: &&Finding| !finding.device.as_ref().is_some_and(|device| places.contains(device));
        all.extend(self.refused().filter(of_none).map(taken::trouble));
        (!all.is_empty()).then_some(all)
    }

    /// What stops one entry.
    fn in_the_way(&self, outcome: &Outcome, lost: Replace) -> Vec<Trouble> {
        let mut all = Vec::new();
        match &outcome.standing {
            Standing::Refused(refused) => all.push(of_refused(refused)),
            Standing::Differs(changes) if lost == Replace::Never => {
                let irreversible = changes.iter().filter_map(|change| Some((change, change.lost.as_ref()?)));
                all.extend(irreversible.map(|(change, lost)| {
                    let message = format!("{}: {}, and {lost}", change.target, change.words);
                    let trouble = Trouble::new(Exit::Failed, "needs-yes", message);
                    trouble.state("as it was; nothing was tried").remedy("accept it with --yes")
                }));
            }
            _ => {}
        }
        let places = self.places(outcome);
        let is_of = |finding: &&Finding| finding.device.as_ref().is_some_and(|device| places.contains(device));
        let findings = self.refused().filter(is_of);
        all.extend(findings.map(in_policy));
        for trouble in &mut all {
            trouble.message = format!("{}: {}", outcome.entry.place, trouble.message);
        }
        all
    }

    /// Where the functions of an entry are, and the VFs of a PF that it is about: those that go are nobody's entry.
    fn places(&self, outcome: &Outcome) -> BTreeSet<Address> {
        let mut all = BTreeSet::new();
        for (target, _) in &outcome.functions {
            match *target {
                Target::Pci(bdf) => {
                    all.insert(Address::Pci(bdf));
                    all.extend(self.inventory.vfs_of(bdf).map(|vf| Address::Pci(vf.bdf)));
                }
                // Among those of its PF.
                Target::Vf { .. } => {}
                other => all.extend(other.address()),
            }
        }
        all
    }

    /// Takes out of the plan the entries that something stops, and says what. Those that are not `about` are taken out in silence.
    pub(super) fn one_by_one(&mut self, lost: Replace, about: About) -> Vec<Trouble> {
        let mut skipped = Vec::new();
        let outcomes = std::mem::take(&mut self.reconciled.outcomes);
        for outcome in &outcomes {
            let is_meant = about.holds(outcome);
            let found = if is_meant { self.in_the_way(outcome, lost) } else { Vec::new() };
            if !is_meant || !found.is_empty() {
                for lane in &mut self.reconciled.plan.lanes[outcome.lanes.clone()] {
                    *lane =
                        Lane { after: Vec::new(), bond: lane.bond, ..Lane::new(lane.device, Otherwise::LeaveWithout) };
                }
            }
            skipped.extend(found);
        }
        self.reconciled.outcomes = outcomes.into_iter().filter(|outcome| about.holds(outcome)).collect();
        skipped
    }

    /// Whether an entry waits for a host driver: for that of its PF, or for what one tells of a device.
    pub(super) fn waits_for_a_driver(&self, about: About) -> bool {
        let waits = |outcome: &Outcome| match &outcome.standing {
            Standing::Refused(Refused::Create(CreateError::NoDriver(_))) => true,
            Standing::NotApplied(_) => {
                let is_told_later = |which: &Match| which.is_told_later(&self.inventory, &self.identities);
                outcome.entry.kind.which().is_some_and(is_told_later)
            }
            _ => false,
        };
        self.reconciled.outcomes.iter().filter(|outcome| about.holds(outcome)).any(waits)
    }

    /// What was applied and is not there, by what is read now.
    pub(super) fn not_there(&self, after: &Self) -> Vec<Trouble> {
        let mut all = Vec::new();
        for outcome in &after.reconciled.outcomes {
            if let Standing::Differs(changes) = &outcome.standing {
                let words: Vec<String> =
                    changes.iter().map(|change| format!("{}: {}", change.target, change.words)).collect();
                let message = format!(
                    "{}: it was applied, and the host still differs: {}",
                    outcome.entry.place,
                    words.join("; ")
                );
                let trouble = Trouble::new(Exit::Changed, "not-as-wanted", message);
                all.push(trouble.state("not as it was").remedy("see what became of it: vfioadm verify, vfioadm log"));
            }
        }
        all
    }
}

/// Which entries are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// All.
    All,
    /// Those that need no PF's driver: `[[device]]`.
    Early,
    /// Those that are about a function or its VFs.
    Only(Bdf),
}

impl About {
    fn holds(self, outcome: &Outcome) -> bool {
        match self {
            Self::All => true,
            Self::Early => matches!(outcome.entry.kind, EntryKind::Device(_)),
            Self::Only(bdf) => {
                let is_of = |which: &Match| which.pf.is_some_and(|pf| pf.0 == bdf);
                outcome.functions.iter().any(|(target, _)| target.of_function() == Some(bdf))
                    || outcome.entry.kind.which().is_some_and(is_of)
            }
        }
    }
}

/// A refusal, and the place where a host file accepts it.
fn in_policy(finding: &Finding) -> Trouble {
    let trouble = taken::trouble(finding);
    match (finding.is_worth_lifting(), &trouble.remedy) {
        (true, Some(_)) => {
            let remedy = format!("{}; or accept it with allow = [\"{}\"] in [policy]", finding.remedy, finding.id);
            trouble.remedy(remedy)
        }
        _ => trouble,
    }
}

/// A host that cannot have what an entry says.
pub(super) fn of_refused(refused: &Refused) -> Trouble {
    match refused {
        Refused::Create(error) => error.clone().into(),
        Refused::Set(error) => error.clone().into(),
        Refused::Plan(error) => error.clone().into(),
        Refused::Queue(error) => error.clone().into(),
        Refused::Sf(error) => error.clone().into(),
        Refused::Vgpu(error) => error.clone().into(),
        Refused::NoNetdev { .. } => Trouble::new(Exit::Failed, "parameter-unsupported", refused)
            .state("as it was; nothing was tried")
            .remedy("leave it out of set"),
    }
}

/// The drivers that an entry names.
fn named(kind: &EntryKind) -> Vec<DriverName> {
    let of = |wanted: &Wanted| match wanted {
        Wanted::Named(driver) => Some(driver.clone()),
        _ => None,
    };
    match kind {
        EntryKind::Device(entry) => of(&entry.driver.0).into_iter().collect(),
        EntryKind::Pf(_, ranges) => ranges.iter().filter_map(|range| of(&range.range.driver.0)).collect(),
        EntryKind::Mdev(_) | EntryKind::Wq(..) | EntryKind::Sf(..) | EntryKind::Vgpu(_) => Vec::new(),
    }
}
