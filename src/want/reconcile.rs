//! Host file and host → what has to be done.
//!
//! Every entry is gone through by itself, and says how it stands. What an entry does not say is left as it is: an attribute that
//! no range names, a VF that is in no range, a device that no entry is about.

mod mdev;
mod sf;
mod tell;
mod vgpu;
mod wq;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::file::{DeviceEntry, Match, PfEntry, Several, Value};
use super::read::{Entry, EntryKind, Mistake, VfRangeWish, Wish};
use super::select::Selection;
use crate::matching::Tables;
use crate::model::identity::Identities;
use crate::model::{Bdf, Inventory, PciFunction, Role, Target, VfIndex, counted};
use crate::plan::create::{self, CreateError, Known, Last, VfEach};
use crate::plan::making::{Change as Vfs, Draft, Making, Pf};
use crate::plan::queues::{Numbered, QueueError};
use crate::plan::set::{SetError, SetWish, bind_set};
use crate::plan::subfunctions::SfError;
use crate::plan::vgpus::VgpuError;
use crate::plan::{BindWish, Fallback, PlanError, Wanted, bind, is_in_place, tie};
use crate::step::{Lane, MdevOf, Otherwise, Plan, Pool, Setting, Step, Unsupported, WhenOpen};
pub use tell::{Change, Sign};

/// The host that a file is compared with.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// What there is.
    pub inventory: &'a Inventory,
    /// The driver tables of the functions that entries select.
    pub tables: &'a Tables,
    /// What is known of what entries select.
    pub known: &'a Known,
    /// What functions tell of themselves.
    pub identities: &'a Identities,
    /// PFs that have no network interface, through which some parameters are set.
    pub without_netdev: &'a BTreeSet<Bdf>,
}

/// How an entry stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The host is as it says.
    InPlace,
    /// There is something to do.
    Differs(Vec<Change>),
    /// It is not about what is there, and is not applied.
    NotApplied(String),
    /// The host cannot have it.
    Refused(Refused),
}

/// Why a host cannot have what an entry says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such VFs, or mdevs.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Not to be set.
    #[error(transparent)]
    Set(#[from] SetError),
    /// No driver.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No such WQ.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No such subfunction.
    #[error(transparent)]
    Sf(#[from] SfError),
    /// No such vGPU.
    #[error(transparent)]
    Vgpu(#[from] VgpuError),
    /// Not to be set without a network interface.
    #[error("{pf} has no network interface, and {key} is set through it")]
    NoNetdev {
        /// The PF.
        pf: Bdf,
        /// What was to be set.
        key: &'static str,
    },
}

/// An entry, and how it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The entry.
    pub entry: Entry,
    /// How it stands.
    pub standing: Standing,
    /// Worth knowing all the same.
    pub notes: Vec<String>,
    /// The functions that it is about, with the driver that each is to have.
    pub functions: Vec<(Target, Wanted)>,
    /// Its lanes in the plan.
    pub lanes: std::ops::Range<usize>,
}

/// A host file compared with a host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reconciled {
    /// In the order of the file.
    pub outcomes: Vec<Outcome>,
    /// What has to be done; the lanes of an entry stand or fall together.
    pub plan: Plan,
    /// What the host shows to be wrong in the file itself.
    pub mistakes: Vec<Mistake>,
}

/// Compares a host file with a host.
#[must_use]
pub fn reconcile(wish: &Wish, ground: Ground<'_>) -> Reconciled {
    let mut at_work = Reconciler { wish, ground, plan: Plan::default(), mdevs: BTreeMap::new(), idxd: BTreeMap::new() };
    let mut found = Reconciled::default();
    let mut taken: BTreeMap<Target, (usize, Wanted)> = BTreeMap::new();
    let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
    // What a PF becomes decides what its subfunctions find.
    let mut order: Vec<usize> = (0..wish.entries.len()).collect();
    order.sort_by_key(|number| !matches!(wish.entries[*number].kind, EntryKind::Pf(..)));
    for number in order {
        let entry = &wish.entries[number];
        let from = at_work.plan.lanes.len();
        let mut stands = at_work.entry(entry);
        if let Err(Refused::Create(CreateError::TooMany { pf, wanted, total })) = stands.0 {
            let message = format!("vfs = {wanted}, and {pf} has {} at most", counted(total, "VF"));
            let hint = Some(format!("lower it to {total}"));
            found.mistakes.push(Mistake { place: entry.place.clone(), message, hint });
        }
        for (target, wanted) in &stands.1 {
            let place = ground.inventory.place(*target).map_or(*target, Target::Pci);
            let before = taken.insert(place, (number, wanted.clone()));
            if let Some((first, had)) = before.filter(|(first, _)| *first != number) {
                // A vGPU stays on the driver that its range gives it.
                if matches!(entry.kind, EntryKind::Vgpu(_))
                    && matches!(wish.entries[first].kind, EntryKind::Pf(..))
                    && matches!(had, Wanted::Host | Wanted::Named(_))
                {
                    continue;
                }
                let other = &wish.entries[first].place;
                let message = format!("{place} has two entries: this one, and that of {other}");
                let hint = Some(String::from("let one of them say what it is to be"));
                found.mistakes.push(Mistake { place: entry.place.clone(), message, hint });
            }
        }
        let standing = match stands.0 {
            Ok(standing) => standing,
            Err(refused) => {
                at_work.plan.lanes.truncate(from);
                Standing::Refused(refused)
            }
        };
        let notes = std::mem::take(&mut stands.2);
        let lanes = from..at_work.plan.lanes.len();
        outcomes.insert(number, Outcome { entry: entry.clone(), standing, notes, functions: stands.1, lanes });
    }
    let mut bonds: Vec<usize> = (0..at_work.plan.lanes.len()).collect();
    let mut by_lane: Vec<&Outcome> = outcomes.values().collect();
    by_lane.sort_by_key(|outcome| outcome.lanes.start);
    for outcome in by_lane {
        // The functions of a [[device]] that stands for several are each for itself.
        if !matches!(outcome.entry.kind, EntryKind::Device(_)) {
            // What waits for the lane of another entry stands or falls with that: a WQ, for that of its device.
            let after = outcome.lanes.clone().flat_map(|lane| &at_work.plan.lanes[lane].after);
            let bond = after.map(|lane| bonds[*lane]).min().unwrap_or(outcome.lanes.start).min(outcome.lanes.start);
            outcome.lanes.clone().for_each(|lane| bonds[lane] = bond);
        }
    }
    found.mistakes.extend(at_work.taken_from_idxd());
    found.outcomes = outcomes.into_values().collect();
    found.plan = at_work.plan;
    tie(&mut found.plan, ground.inventory, bonds);
    found
}

/// How an entry stands, the functions that it is about, and notes.
type Stands = (Result<Standing, Refused>, Vec<(Target, Wanted)>, Vec<String>);

struct Reconciler<'a> {
    wish: &'a Wish,
    ground: Ground<'a>,
    plan: Plan,
    /// mdevs to be made of each type of each parent.
    mdevs: BTreeMap<MdevOf, Vec<Uuid>>,
    /// idxd devices as they are going to be.
    idxd: BTreeMap<Bdf, Numbered>,
}

impl Reconciler<'_> {
    fn entry(&mut self, entry: &Entry) -> Stands {
        let Ground { inventory, identities, .. } = self.ground;
        let selection = entry.kind.which().map(|which| which.select(inventory, identities));
        let not = |why: String| (Ok(Standing::NotApplied(why)), Vec::new(), Vec::new());
        let (bdfs, untold) = match selection {
            None => (Vec::new(), None),
            Some(Selection::Nothing(why)) => return not(why),
            Some(Selection::These(bdfs)) => (bdfs, None),
            Some(Selection::Untold(bdfs, parts)) => {
                let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                (bdfs, Some(parts.join(" and ")))
            }
        };
        let several = matches!(&entry.kind, EntryKind::Device(DeviceEntry { several: Several::Each, .. }));
        if bdfs.len() > 1 && untold.is_none() && !several {
            let all: Vec<String> = bdfs.iter().map(ToString::to_string).collect();
            return not(format!("{} match: {}; say which", all.len(), all.join(", ")));
        }
        match &entry.kind {
            EntryKind::Device(entry) => self.device(entry, &bdfs, untold.as_deref()),
            EntryKind::Pf(entry, ranges) => match (untold, bdfs.first()) {
                (None, Some(pf)) => self.pf(entry, ranges, *pf),
                (untold, _) => not(cannot_be_told(untold.as_deref(), &bdfs)),
            },
            EntryKind::Mdev(entry) => match (untold, bdfs.first(), &entry.parent) {
                (None, Some(parent), _) => match parent.to_string().parse() {
                    Ok(parent) => self.mdev(entry, &parent),
                    Err(_) => not(format!("{parent} is no mdev parent")),
                },
                (None, None, Some(parent)) => self.mdev(entry, parent),
                (untold, ..) => not(cannot_be_told(untold.as_deref(), &bdfs)),
            },
            EntryKind::Wq(entry, parameters) => match (untold, bdfs.first()) {
                (None, Some(function)) => self.wq(entry, parameters, *function),
                (untold, _) => not(cannot_be_told(untold.as_deref(), &bdfs)),
            },
            EntryKind::Sf(entry, wish) => match (untold, bdfs.first()) {
                (None, Some(pf)) => self.sf(wish, (*pf, entry.sfnum)),
                (untold, _) => not(cannot_be_told(untold.as_deref(), &bdfs)),
            },
            EntryKind::Vgpu(entry) => match (untold, bdfs.first()) {
                (None, Some(pf)) => self.vgpu(entry, *pf),
                (untold, _) => not(cannot_be_told(untold.as_deref(), &bdfs)),
            },
        }
    }

    /// Whether an entry is about a function.
    fn selects(&self, which: &Match, function: Bdf) -> bool {
        let selection = which.select(self.ground.inventory, self.ground.identities);
        matches!(selection, Selection::These(bdfs) if bdfs.contains(&function))
    }

    /// How a function is bound.
    fn binding(&self, bdf: Bdf, wanted: &Wanted) -> BindWish {
        BindWish {
            devices: vec![bdf],
            wanted: wanted.clone(),
            fallback: self.fallback(),
            prefer: self.prefer(),
            open: WhenOpen::Refuse,
        }
    }

    fn fallback(&self) -> Fallback {
        match self.wish.policy.fallback {
            super::file::FallbackWord::NextBest => Fallback::NextBest,
            super::file::FallbackWord::Never => Fallback::Never,
        }
    }

    fn prefer(&self) -> Vec<crate::model::DriverName> {
        self.wish.policy.prefer.iter().map(|driver| driver.0.clone()).collect()
    }

    fn device(&mut self, entry: &DeviceEntry, bdfs: &[Bdf], untold: Option<&str>) -> Stands {
        let Ground { inventory, tables, .. } = self.ground;
        let wanted = &entry.driver.0;
        let functions: Vec<(Target, Wanted)> = bdfs.iter().map(|bdf| (Target::Pci(*bdf), wanted.clone())).collect();
        let mut notes = Vec::new();
        let mut changes = Vec::new();
        let mut stands = || -> Result<Standing, Refused> {
            let mut missing = Vec::new();
            for bdf in bdfs {
                if !is_in_place(&self.binding(*bdf, wanted), *bdf, inventory, tables)? {
                    missing.push(*bdf);
                }
            }
            if let Some(parts) = untold {
                // Of several, the one that it is may be any of those that have what is wanted.
                if missing.len() == bdfs.len() {
                    return Ok(Standing::NotApplied(cannot_be_told(Some(parts), bdfs)));
                }
                notes.push(format!("{parts} could not be compared: only the host driver tells"));
                return Ok(Standing::InPlace);
            }
            for bdf in missing {
                let lane = bind(&self.binding(bdf, wanted), inventory, tables)?.lanes.remove(0);
                let function = inventory.functions.get(&bdf).ok_or(PlanError::NoSuchDevice(bdf))?;
                changes.push(tell::of_device(function, &lane, inventory));
                self.push(lane);
            }
            Ok(if changes.is_empty() { Standing::InPlace } else { Standing::Differs(std::mem::take(&mut changes)) })
        };
        let standing = stands();
        let functions =
            if matches!(standing, Ok(Standing::NotApplied(_))) || untold.is_some() { Vec::new() } else { functions };
        (standing, functions, notes)
    }

    fn push(&mut self, lane: Lane) -> usize {
        self.plan.lanes.push(lane);
        self.plan.lanes.len() - 1
    }

    fn pf(&mut self, entry: &PfEntry, ranges: &[VfRangeWish], pf: Bdf) -> Stands {
        let eaches: Vec<VfEach> = ranges.iter().map(|range| self.each(range)).collect();
        let mut given: BTreeMap<VfIndex, &VfEach> = BTreeMap::new();
        for (range, each) in ranges.iter().zip(&eaches) {
            given.extend(range.range.vfs.indices().map(|index| (index, each)));
        }
        let mut functions: Vec<(Target, Wanted)> =
            given.iter().map(|(index, each)| (Target::Vf { pf, index: *index }, each.wanted.clone())).collect();
        functions.push((Target::Pci(pf), Wanted::Host));
        (self.vfs(entry, pf, &given), functions, Vec::new())
    }

    fn each(&self, range: &VfRangeWish) -> VfEach {
        VfEach {
            wanted: range.range.driver.0.clone(),
            fallback: self.fallback(),
            prefer: self.prefer(),
            ..VfEach::of(range.parameters.clone())
        }
    }

    fn vfs(&mut self, entry: &PfEntry, pf: Bdf, given: &BTreeMap<VfIndex, &VfEach>) -> Result<Standing, Refused> {
        let Ground { inventory, known, tables, without_netdev, .. } = self.ground;
        let there = Pf::of(pf, inventory)?;
        if entry.vfs > there.total {
            return Err(CreateError::TooMany { pf, wanted: entry.vfs, total: there.total }.into());
        }
        let key = given.values().find_map(|each| each.parameters.first_netdev_key());
        if let Some(key) = key.filter(|_| without_netdev.contains(&pf)) {
            return Err(Refused::NoNetdev { pf, key });
        }
        let mode = known.devlink.get(&pf).and_then(|devlink| devlink.eswitch);
        let other_mode = entry.eswitch.is_some_and(|wanted| mode != Some(wanted.0));
        if entry.vfs == 0 {
            return Ok(self.no_vfs(there));
        }
        if entry.vfs == there.enabled && !other_mode {
            return self.kept(there, given);
        }
        let from = self.plan.lanes.len();
        let draft = Draft { there: there.driven()?, change: Vfs::Enable(entry.vfs), given: given.clone() };
        Making::of(draft, inventory, known)?.make(tables, &mut self.plan)?;
        let lanes = &self.plan.lanes[from..];
        Ok(Standing::Differs(tell::of_vfs(there, entry.vfs, lanes, inventory)))
    }

    fn no_vfs(&mut self, there: Pf<'_>) -> Standing {
        if there.enabled == 0 {
            return Standing::InPlace;
        }
        let pf = there.function.bdf;
        let Ground { inventory, known, .. } = self.ground;
        let from = self.plan.lanes.len();
        self.plan.lanes.extend(create::leaving(pf, inventory, known));
        let after = (from..self.plan.lanes.len()).collect();
        let pool = known.pools.get(&pf).cloned();
        let lane = Lane { after, ..create::closing(pf, pool.unwrap_or_default(), Last::Yes) };
        let changes = tell::of_vfs(there, 0, std::slice::from_ref(&lane), inventory);
        self.push(lane);
        Standing::Differs(changes)
    }

    /// VFs that are there and stay: each is looked at by itself.
    fn kept(&mut self, there: Pf<'_>, given: &BTreeMap<VfIndex, &VfEach>) -> Result<Standing, Refused> {
        let Ground { inventory, known, .. } = self.ground;
        let pf = there.function.bdf;
        let mut changes = Vec::new();
        let pool = known.pools.get(&pf);
        let mut next =
            pool.cloned().unwrap_or(Pool { vfs: there.enabled, autoprobe: there.autoprobe, ..Pool::default() });
        next.give(given);
        let mut lanes = Vec::new();
        let mut is_free = false;
        for (index, each) in given {
            let vf = inventory.vf(pf, *index).ok_or(PlanError::NoSuchDevice(pf))?;
            // One that nobody has been given could be given to somebody else.
            is_free |= pool.is_some_and(|pool| pool.ours && !pool.given.contains(index)) && vf.driver.is_none();
            if let Some(lane) = self.vf(vf, pf, *index, each)? {
                changes.push(tell::of_vf(vf, &lane));
                lanes.push(lane);
            }
        }
        if !lanes.is_empty() || is_free {
            if pool.is_none_or(|pool| !Setting::Pool(Some(pool.clone())).is_as(&Setting::Pool(Some(next.clone())))) {
                let device = Target::Pci(pf);
                let mut lane = Lane::new(device, Otherwise::LeaveWithout);
                lane.has_children = true;
                lane.finish.push(Step::Set { device, to: Setting::Pool(Some(next)) });
                if lanes.is_empty() {
                    changes.push(tell::of_pool(pf, given.keys().copied()));
                }
                let at = self.push(lane);
                lanes.iter_mut().for_each(|lane| lane.after.push(at));
            }
            self.plan.lanes.extend(lanes);
        }
        Ok(if changes.is_empty() { Standing::InPlace } else { Standing::Differs(changes) })
    }

    /// What has to be done about a VF that is there.
    fn vf(&self, vf: &PciFunction, pf: Bdf, index: VfIndex, each: &VfEach) -> Result<Option<Lane>, Refused> {
        let Ground { inventory, known, tables, .. } = self.ground;
        let wish = self.binding(vf.bdf, &each.wanted);
        let set = SetWish {
            parameters: &each.parameters,
            unsupported: Unsupported::Fails,
            attributes: &known.attributes,
            devlink: &known.devlink,
            pools: &known.pools,
            hooks: &known.hooks,
            machine: &known.machine,
        };
        let bound = match each.wanted {
            // As it is made: no driver has it, and none is kept away.
            Wanted::None => vf.driver.is_none(),
            _ => is_in_place(&wish, vf.bdf, inventory, tables)?,
        };
        if bound && set.missing(pf, index).is_empty() {
            return Ok(None);
        }
        Ok(Some(bind_set(&wish, set, inventory, tables)?.lanes.remove(0)))
    }
}

fn cannot_be_told(parts: Option<&str>, bdfs: &[Bdf]) -> String {
    let all: Vec<String> = bdfs.iter().map(ToString::to_string).collect();
    format!(
        "it cannot be told whether it is {}: only the host driver tells {}",
        all.join(" or "),
        parts.unwrap_or("what it is")
    )
}

impl Reconciled {
    /// Whether something cannot be taken back when it is done.
    pub fn irreversible(&self) -> impl Iterator<Item = (&Outcome, &Change)> {
        let all = self.outcomes.iter().flat_map(|outcome| match &outcome.standing {
            Standing::Differs(changes) => changes.iter().map(|change| (outcome, change)).collect(),
            _ => Vec::new(),
        });
        all.filter(|(_, change)| change.lost.is_some())
    }

    /// Whether the host is as the file says, in everything that it says.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.standing == Standing::InPlace)
    }
}

/// The devices whose VFs, drivers and settings have to be read of the host before it is compared.
#[must_use]
pub fn subjects(wish: &Wish, inventory: &Inventory, identities: &Identities) -> (Vec<Bdf>, Vec<Bdf>) {
    let (mut devices, mut pfs) = (Vec::new(), Vec::new());
    for entry in &wish.entries {
        let Some(which) = entry.kind.which() else { continue };
        let (Selection::These(bdfs) | Selection::Untold(bdfs, _)) = which.select(inventory, identities) else {
            continue;
        };
        match entry.kind {
            EntryKind::Pf(..) => pfs.extend(bdfs.iter().filter(|bdf| is_pf(inventory, **bdf))),
            EntryKind::Device(_) => devices.extend(bdfs),
            EntryKind::Mdev(_) | EntryKind::Wq(..) | EntryKind::Sf(..) | EntryKind::Vgpu(_) => {}
        }
    }
    (devices, pfs)
}

fn is_pf(inventory: &Inventory, bdf: Bdf) -> bool {
    inventory.functions.get(&bdf).is_some_and(|function| matches!(function.role, Role::Pf { .. }))
}

impl Value {
    /// The value of a word of `--set`, as a host file has it.
    #[must_use]
    pub fn of(word: &str) -> Self {
        match (word, word.parse::<i64>()) {
            ("on", _) => Self::Switch(true),
            ("off", _) => Self::Switch(false),
            (_, Ok(number)) if number.to_string() == word => Self::Number(number),
            _ => Self::Text(word.to_owned()),
        }
    }
}
