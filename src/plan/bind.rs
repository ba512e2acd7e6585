//! What has to be done so that devices get the driver that is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::matching::{self, Candidate, DriverTable, Tables};
use crate::model::{Address, Bdf, DriverName, Inventory, ModAlias, ModuleName, ParseError, PciFunction, Role, Target};
use crate::step::{Attempt, Choice, DriverRef, Lane, Otherwise, Plan, Step, WhenOpen};

/// Which driver a device is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The VFIO driver that matches best.
    Best,
    /// The driver that the kernel would give it by itself.
    Host,
    /// None, and none by accident either: the override says `none`.
    None,
    /// This one, literally.
    Named(DriverName),
}

impl fmt::Display for Wanted {
    /// As it is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Host => f.write_str("host"),
            Self::None => f.write_str("none"),
            Self::Named(driver) => driver.fmt(f),
        }
    }
}

impl FromStr for Wanted {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(match text {
            "best" => Self::Best,
            "host" => Self::Host,
            "none" => Self::None,
            name => Self::Named(name.parse()?),
        })
    }
}

/// What follows when the best driver refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The next best is tried.
    NextBest,
    /// Nothing: the device goes back to what it was.
    Never,
}

/// What is wanted of some devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindWish {
    /// The devices, in the order they were named.
    pub devices: Vec<Bdf>,
    /// The driver.
    pub wanted: Wanted,
    /// What follows a refusal.
    pub fallback: Fallback,
    /// Drivers that come first where the best is wanted.
    pub prefer: Vec<DriverName>,
    /// What if somebody has a device open.
    pub open: WhenOpen,
}

/// How the best driver is chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choosing<'a> {
    pub(crate) fallback: Fallback,
    pub(crate) prefer: &'a [DriverName],
}

impl Choosing<'_> {
    /// The drivers that are tried, in order: those that are preferred, then by rank.
    pub(crate) fn candidates(self, alias: &ModAlias, tables: &Tables) -> Vec<Candidate> {
        let mut candidates = matching::candidates(alias, tables);
        let place = |driver: &DriverName| self.prefer.iter().position(|preferred| preferred == driver);
        candidates.sort_by_key(|candidate| place(&candidate.driver).unwrap_or(self.prefer.len()));
        if self.fallback == Fallback::Never {
            candidates.truncate(1);
        }
        candidates
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The function is not there.
    #[error("there is no PCI function {0}")]
    NoSuchDevice(Bdf),
    /// No VFIO driver matches, not even vfio-pci.
    #[error("this kernel has no VFIO driver for {0}")]
    NoCandidate(Bdf),
    /// No driver of the name is registered, and no module has it.
    #[error("this kernel has no PCI driver {wrong}")]
    NoSuchDriver {
        /// The name.
        wrong: DriverName,
        /// One that is there and differs only in dashes and underscores.
        nearest: Option<DriverName>,
    },
}

/// Plans it: one lane for each device. The devices of an IOMMU group, and a PF with its VFs, succeed or are taken back
/// together; a VF waits for its PF.
///
/// # Errors
/// [`PlanError`] when a device or a driver is not there.
pub fn bind(wish: &BindWish, inventory: &Inventory, tables: &Tables) -> Result<Plan, PlanError> {
    let mut plan = Plan::default();
    let mut seen = BTreeSet::new();
    for bdf in &wish.devices {
        if !seen.insert(*bdf) {
            continue;
        }
        let function = inventory.functions.get(bdf).ok_or(PlanError::NoSuchDevice(*bdf))?;
        let subject = Subject { target: (*bdf).into(), function, inventory, tables };
        let mut lane = subject.lane(&wish.wanted, Choosing { fallback: wish.fallback, prefer: &wish.prefer })?;
        if wish.open == WhenOpen::Ask {
            ask_the_holder(&mut lane);
        }
        plan.lanes.push(lane);
    }
    let apart = (0..plan.lanes.len()).collect();
    tie(&mut plan, inventory, apart);
    Ok(plan)
}

/// Whether a device has what is wanted and is left alone: a VFIO driver that comes into question where the best may be the
/// next best, for a better one has refused it or came later.
///
/// # Errors
/// [`PlanError`] when it is not there.
pub fn is_in_place(wish: &BindWish, bdf: Bdf, inventory: &Inventory, tables: &Tables) -> Result<bool, PlanError> {
    let function = inventory.functions.get(&bdf).ok_or(PlanError::NoSuchDevice(bdf))?;
    Ok(match &wish.wanted {
        Wanted::Best => {
            let choosing = Choosing { fallback: wish.fallback, prefer: &wish.prefer };
            let mut candidates = choosing.candidates(&function.alias, tables).into_iter();
            candidates.any(|candidate| function.driver.as_ref() == Some(&candidate.driver))
        }
        Wanted::Host => {
            let subject = Subject { target: bdf.into(), function, inventory, tables };
            // Without a host driver there is nothing but to let the kernel choose, and it has chosen none.
            let nobody = function.driver.is_none();
            let lane = subject.host();
            let done = lane.attempts.iter().all(|attempt| attempt.driver.is_none() && nobody);
            done && function.driver_override.is_none()
        }
        Wanted::None => function.driver.is_none() && function.driver_override.as_deref() == Some(NOBODY),
        Wanted::Named(driver) => function.driver.as_ref() == Some(driver),
    })
}

/// Says which lanes wait for which, and which stand or fall together: those that have one bond already do.
pub(crate) fn tie(plan: &mut Plan, inventory: &Inventory, mut bonds: Vec<usize>) {
    let place: BTreeMap<Target, usize> = plan.lanes.iter().enumerate().map(|(at, lane)| (lane.device, at)).collect();
    let parents: BTreeSet<&Address> =
        inventory.mdev_parents.iter().filter_map(|parent| parent.address.as_ref()).collect();
    let mut of_group = BTreeMap::new();
    for (at, lane) in plan.lanes.iter_mut().enumerate() {
        let Some(function) = lane.device.pci().and_then(|bdf| inventory.functions.get(&bdf)) else { continue };
        lane.has_children = matches!(function.role, Role::Pf { .. }) || parents.contains(&Address::Pci(function.bdf));
        let pf = function.pf().and_then(|pf| place.get(&pf.into())).copied();
        lane.after.extend(pf);
        let first_of_group = function.group.map(|group| *of_group.entry(group).or_insert(at));
        for other in pf.into_iter().chain(first_of_group) {
            let (one, two) = (bonds[at], bonds[other]);
            let (kept, merged) = (one.min(two), one.max(two));
            if kept != merged {
                bonds.iter_mut().filter(|bond| **bond == merged).for_each(|bond| *bond = kept);
            }
        }
    }
    for (lane, bond) in plan.lanes.iter_mut().zip(bonds) {
        lane.bond = bond;
    }
}

/// Makes the kernel ask whoever has the device open to let go, and resets it afterwards: the reset of the last close is
/// skipped while the unbind has the device lock.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_disable()` resets only when `pci_dev_trylock()` succeeds (7.2).
fn ask_the_holder(lane: &mut Lane) {
    let device = lane.device;
    for attempt in &mut lane.attempts {
        let unbind = attempt.steps.iter().position(|step| matches!(step, Step::Unbind { .. }));
        if let Some(at) = unbind {
            attempt.steps[at] = Step::Unbind { device, open: WhenOpen::Ask };
            attempt.steps.insert(at + 1, Step::Reset { device });
        }
    }
}

/// A device that is to have a driver, and what decides which.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// What the plan calls it.
    pub(super) target: Target,
    /// What it is, or what it is going to be.
    pub(super) function: &'a PciFunction,
    /// The host that it is on.
    pub(super) inventory: &'a Inventory,
    /// The driver tables that matter for it.
    pub(super) tables: &'a Tables,
}

impl Subject<'_> {
    /// All that is to be done about it.
    pub(super) fn lane(&self, wanted: &Wanted, choosing: Choosing<'_>) -> Result<Lane, PlanError> {
        let mut lane = match wanted {
            Wanted::Best => self.best(choosing)?,
            Wanted::Host => self.host(),
            Wanted::None => self.none(),
            Wanted::Named(driver) => self.named(driver)?,
        };
        if *wanted != Wanted::Host && self.would_be_taken_by(&lane) {
            lane.prepare.push(Step::SetOverride { device: lane.device, driver: nobody() });
        }
        Ok(lane)
    }

    /// Whether a host driver that is not there yet may take it while the lane loads modules: a variant needs that of its PF, which is
    /// its host driver too, and a driver that is registered looks at every device that has none. A VF is made where none looks.
    ///
    /// # Kernel
    /// `drivers/base/bus.c` `bus_add_driver()`, `drivers/base/dd.c` `driver_attach()`; `drivers/pci/pci-driver.c`
    /// `pci_match_device()` with an override (7.2).
    fn would_be_taken_by(&self, lane: &Lane) -> bool {
        let Self { function, tables, .. } = *self;
        let is_idle = function.driver.is_none() && function.driver_override.is_none() && function.pf().is_none();
        let loads = || lane.attempts.iter().flat_map(|attempt| &attempt.steps).any(Step::is_load);
        let is_there = |driver: &DriverName| tables.registered.contains(driver);
        let comes = || {
            let hosts = matching::host_candidates(&function.alias, tables);
            hosts.iter().any(|host| !host.driver.as_ref().is_some_and(is_there))
        };
        is_idle && loads() && comes()
    }

    fn best(&self, choosing: Choosing<'_>) -> Result<Lane, PlanError> {
        let Self { target: device, function, tables, .. } = *self;
        let candidates = choosing.candidates(&function.alias, tables);
        let first = candidates.first().ok_or(PlanError::NoCandidate(function.bdf))?;
        let mut lane = Lane::new(device, Otherwise::Fail);
        if function.driver.as_ref() == Some(&first.driver) {
            return Ok(lane);
        }
        for candidate in candidates {
            let driver = DriverRef::Named(candidate.driver.clone());
            let mut attempt = through_override(device, driver, candidate.module.map(|module| (module, Choice::Ours)));
            if function.driver.as_ref() == Some(&candidate.driver) {
                // It has the device unless an attempt before took it away: there is nothing to take it from.
                attempt.steps.retain(|step| !matches!(step, Step::Unbind { .. }));
            }
            lane.attempts.push(attempt);
        }
        Ok(lane)
    }

    /// Clear the override, give it to the driver that the kernel would choose; what has none is left without one.
    fn host(&self) -> Lane {
        let Self { target: device, function, tables, .. } = *self;
        let mut lane = Lane::new(device, Otherwise::LeaveWithout);
        lane.finish.push(Step::SetOverride { device, driver: None });
        let is_host_driver = |driver: &DriverName| {
            // One that somebody forced on it has a table without it.
            let made_for_it =
                !matches!(matching::table_of(driver, &function.alias, tables), DriverTable::DoesNotMatch { .. });
            !is_parking(driver) && made_for_it
        };
        if !function.is_vfio() && function.driver.as_ref().is_some_and(is_host_driver) {
            return lane;
        }
        for candidate in matching::host_candidates(&function.alias, tables) {
            let driver = match candidate.driver {
                Some(driver) if is_parking(&driver) => continue,
                Some(driver) => DriverRef::Named(driver),
                None => DriverRef::OfModule(candidate.module.clone()),
            };
            lane.attempts.push(self.native(driver, Some((candidate.module, Choice::Ours))));
        }
        let clear = Step::SetOverride { device, driver: None };
        lane.attempts.push(Attempt { driver: None, steps: vec![clear, unbind(device), Step::Reprobe { device }] });
        lane
    }

    /// Binds a native driver without leaving an override: only a VF under `sriov_drivers_autoprobe` 0 needs one meanwhile.
    ///
    /// # Kernel
    /// `drivers/pci/pci-driver.c` `pci_device_can_probe()` (7.2).
    fn native(&self, driver: DriverRef, module: Option<(ModuleName, Choice)>) -> Attempt {
        let Self { target: device, function, inventory, .. } = *self;
        let pf = function.pf().and_then(|pf| inventory.functions.get(&pf));
        let probes = pf.is_none_or(|pf| !matches!(pf.role, Role::Pf { autoprobe: false, .. }));
        let mut attempt = through_override(device, driver, module);
        if probes {
            for step in &mut attempt.steps {
                if let Step::SetOverride { driver, .. } = step {
                    *driver = None;
                }
            }
        }
        attempt
    }

    fn none(&self) -> Lane {
        let Self { target: device, function, .. } = *self;
        let mut lane = Lane::new(device, Otherwise::LeaveWithout);
        if function.driver.is_none() && function.driver_override.as_deref() == Some(NOBODY) {
            return lane;
        }
        let steps = vec![Step::SetOverride { device, driver: nobody() }, unbind(device)];
        lane.attempts.push(Attempt { driver: None, steps });
        lane
    }

    fn named(&self, driver: &DriverName) -> Result<Lane, PlanError> {
        let Self { target: device, function, tables, .. } = *self;
        let table = matching::table_of(driver, &function.alias, tables);
        if let DriverTable::NoSuchDriver { nearest } = table {
            return Err(PlanError::NoSuchDriver { wrong: driver.clone(), nearest });
        }
        let mut lane = Lane::new(device, Otherwise::Fail);
        if function.driver.as_ref() == Some(driver) {
            return Ok(lane);
        }
        let registered = tables.registered.contains(driver);
        let module = matching::names::modules_of(driver, tables).into_iter().next();
        let module = module.filter(|_| !registered).map(|module| (module, Choice::Users));
        let by_itself = !table.is_vfio(driver) && matches!(table, DriverTable::Matches(_));
        let wanted = DriverRef::Named(driver.clone());
        if by_itself {
            lane.attempts.push(self.native(wanted, module));
            lane.finish.push(Step::SetOverride { device, driver: None });
        } else {
            lane.attempts.push(through_override(device, wanted, module));
        }
        Ok(lane)
    }
}

const fn unbind(device: Target) -> Step {
    Step::Unbind { device, open: WhenOpen::Refuse }
}

/// Load, override, unbind, bind.
fn through_override(device: Target, driver: DriverRef, module: Option<(ModuleName, Choice)>) -> Attempt {
    let mut steps: Vec<Step> = module.into_iter().map(|(module, choice)| Step::LoadModule { module, choice }).collect();
    steps.push(Step::SetOverride { device, driver: Some(driver.clone()) });
    steps.push(unbind(device));
    steps.push(Step::Bind { device, driver: driver.clone() });
    Attempt { driver: Some(driver), steps }
}

/// Drivers that hold a device for somebody else and are nobody's host driver.
fn is_parking(driver: &DriverName) -> bool {
    matches!(driver.as_str(), "pci-stub" | "pciback" | "uio_pci_generic" | "igb_uio") || driver.is_vfio()
}

fn nobody() -> Option<DriverRef> {
    NOBODY.parse().ok().map(DriverRef::Named)
}

/// The override that keeps every driver away: no driver is called so.
const NOBODY: &str = "none";
