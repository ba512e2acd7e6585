//! VFs of one PF in the making: what has to be done about the PF, and about each VF that is given.

use std::collections::BTreeMap;

use super::bind::{PlanError, Subject, Wanted};
use super::create::{CreateError, Known, VfEach, alias_of_vfs};
use super::eswitch::Asked;
use crate::matching::Tables;
use crate::model::devlink::EswitchMode;
use crate::model::vf::Switch;
use crate::model::{Bdf, Inventory, PciFunction, Role, Target, VfIndex};
use crate::step::{Lane, Otherwise, Plan, Pool, Setting, Step};

/// A PF that can make VFs.
#[derive(Clone, Copy)]
pub(crate) struct Pf<'a> {
    pub(crate) function: &'a PciFunction,
    pub(crate) total: u16,
    pub(crate) enabled: u16,
    pub(crate) autoprobe: bool,
}

impl<'a> Pf<'a> {
    /// The function, when it has the SR-IOV capability.
    pub(crate) fn of(pf: Bdf, inventory: &'a Inventory) -> Result<Self, CreateError> {
        let function = inventory.functions.get(&pf).ok_or(PlanError::NoSuchDevice(pf))?;
        let (total, enabled, autoprobe) = match function.role {
            Role::Pf { total, enabled, autoprobe } => (total, enabled, autoprobe),
            Role::Vf { pf: other, .. } => return Err(CreateError::IsAVf { vf: pf, pf: other }),
            _ => return Err(CreateError::NotAPf(pf)),
        };
        Ok(Self { function, total, enabled, autoprobe })
    }

    /// The same, with a driver that can make VFs.
    pub(crate) fn driven(self) -> Result<Self, CreateError> {
        if self.function.driver.is_none() { Err(CreateError::NoDriver(self.function.bdf)) } else { Ok(self) }
    }
}

/// What happens to the number of VFs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Those that are there do.
    Keep,
    /// So many are enabled; those that are there go first.
    Enable(u16),
}

/// What is wanted of one PF.
pub(crate) struct Draft<'a> {
    pub(crate) there: Pf<'a>,
    pub(crate) change: Change,
    /// The VFs that are given, and what each is to be.
    pub(crate) given: BTreeMap<VfIndex, &'a VfEach>,
}

/// VFs of one PF in the making.
pub(crate) struct Making<'a> {
    known: &'a Known,
    inventory: &'a Inventory,
    /// What the VFs are under: the PF as it is going to be.
    after: Inventory,
    pf: &'a PciFunction,
    autoprobe: bool,
    /// VFs that go first.
    gone: u16,
    /// The mode that the eswitch is brought to.
    eswitch: Option<EswitchMode>,
    /// How many are enabled; `None`: those that are there do.
    enabled: Option<u16>,
    given: BTreeMap<VfIndex, &'a VfEach>,
    pool: Pool,
}

impl<'a> Making<'a> {
    pub(crate) fn of(draft: Draft<'a>, inventory: &'a Inventory, known: &'a Known) -> Result<Self, CreateError> {
        let Draft { there: Pf { function, total, enabled: there, autoprobe }, change, given } = draft;
        let pf = function.bdf;
        let (gone, enabled) = match change {
            Change::Keep => (0, None),
            Change::Enable(count) => (there, Some(count)),
        };
        let pool = known.pools.get(&pf).filter(|pool| pool.vfs == there);
        let eswitch = eswitch(pf, there - gone, &given, known)?;
        let new = Pool { autoprobe, ..Pool::default() };
        let mut next = match (enabled, pool) {
            (Some(vfs), None) => Pool { vfs, ours: true, ..new },
            (Some(vfs), Some(pool)) => {
                Pool { vfs, ours: true, autoprobe: pool.autoprobe, eswitch: pool.eswitch, ..new }
            }
            (None, Some(pool)) => pool.clone(),
            (None, None) => Pool { vfs: there, ..new },
        };
        // Of VFs that are not there yet it is asked when they are.
        if let (None, Some(free)) = (enabled, given.keys().next()) {
            next.fresh.get_or_insert_with(|| known.fresh(pf, *free));
        }
        next.give(&given);
        next.eswitch = next.eswitch.or(eswitch.map(|(_, now)| now));
        let eswitch = eswitch.map(|(wanted, _)| wanted);
        let mut after = Inventory { kernel: inventory.kernel.clone(), ..Inventory::default() };
        let autoprobe_then = if next.ours { false } else { autoprobe };
        let role = Role::Pf { total, enabled: next.vfs, autoprobe: autoprobe_then };
        after.functions.insert(pf, PciFunction { role, ..function.clone() });
        Ok(Self { known, inventory, after, pf: function, autoprobe, gone, eswitch, enabled, given, pool: next })
    }

    /// Adds a lane for the PF, and one for each VF that is given.
    pub(crate) fn make(&self, tables: &Tables, plan: &mut Plan) -> Result<(), CreateError> {
        let at = plan.lanes.len();
        plan.lanes.push(self.pf_lane());
        for (index, each) in &self.given {
            let mut lane = self.vf_lane(*index, each, tables)?;
            lane.after.push(at);
            plan.lanes.push(lane);
        }
        Ok(())
    }

    fn pf_lane(&self) -> Lane {
        let device = Target::Pci(self.pf.bdf);
        let mut lane = Lane::new(device, Otherwise::LeaveWithout);
        lane.has_children = true;
        let mut set = |to| lane.finish.push(Step::Set { device, to });
        if self.gone > 0 {
            set(Setting::Vfs(0));
        }
        if let Some(mode) = self.eswitch {
            set(Setting::Eswitch(mode));
        }
        // While a pool lives nobody's driver is to take what is free.
        if self.pool.ours && self.autoprobe {
            set(Setting::Autoprobe(Switch::Off));
        }
        if let Some(count) = self.enabled {
            set(Setting::Vfs(count));
        }
        set(Setting::Pool(Some(self.pool.clone())));
        lane
    }

    fn vf_lane(&self, index: VfIndex, each: &VfEach, tables: &Tables) -> Result<Lane, CreateError> {
        let pf = self.pf.bdf;
        let target = Target::Vf { pf, index };
        let there = self.inventory.vf(pf, index).filter(|_| self.enabled.is_none());
        let function = match there {
            Some(vf) => vf.clone(),
            None => self.foreseen(index),
        };
        let subject = Subject { target, function: &function, inventory: &self.after, tables };
        let mut lane = match each.wanted {
            Wanted::None => Lane::new(target, Otherwise::LeaveWithout),
            _ => subject.lane(&each.wanted, each.choice())?,
        };
        let Known { machine, hooks, .. } = self.known;
        let settings = each.parameters.settings(pf, index, machine).into_iter();
        let settings = settings.chain(hooks.set(&function, each.parameters.words(pf, index, machine)));
        lane.prepare = settings.map(|to| Step::Set { device: target, to }).collect();
        lane.is_made = there.is_none();
        lane.unsupported = each.unsupported;
        Ok(lane)
    }

    /// A VF before it is there: its maker's vendor, the device id that the PF tells, and the rest as its siblings or its PF
    /// have it. Every VFIO driver's table goes by vendor and device alone.
    ///
    /// # Kernel
    /// `drivers/pci/iov.c` `pci_iov_add_virtfn()`: `vendor` of the PF, `device` of the SR-IOV capability (7.2).
    fn foreseen(&self, index: VfIndex) -> PciFunction {
        PciFunction {
            alias: alias_of_vfs(self.pf, self.inventory, self.known),
            driver: None,
            driver_override: None,
            group: None,
            role: Role::Vf { pf: self.pf.bdf, index: Some(index) },
            vfio_dev: None,
            mdev_parent: false,
            vendor_vgpu: false,
            boot_vga: false,
            ..self.pf.clone()
        }
    }
}

/// The mode that the eswitch has to be brought to, and the one that it is in, of a PF that keeps `stay` of its VFs.
fn eswitch(
    pf: Bdf,
    stay: u16,
    given: &BTreeMap<VfIndex, &VfEach>,
    known: &Known,
) -> Result<Option<(EswitchMode, EswitchMode)>, CreateError> {
    let mut change = None;
    let mut asked: Vec<(&VfEach, Vec<VfIndex>)> = Vec::new();
    for (index, each) in given {
        match asked.iter_mut().find(|(other, _)| std::ptr::eq(*other, *each)) {
            Some((_, indices)) => indices.push(*index),
            None => asked.push((each, vec![*index])),
        }
    }
    for (each, given) in &asked {
        let asked = Asked { pf, parameters: &each.parameters, devlink: known.devlink.get(&pf), stay, given };
        change = change.or(asked.change()?);
    }
    Ok(change)
}

impl Pool {
    /// Remembers VFs that are given, and their counts of MSI-X vectors.
    pub(crate) fn give(&mut self, given: &BTreeMap<VfIndex, &VfEach>) {
        self.given.extend(given.keys());
        let counts = given.iter().filter_map(|(index, each)| Some((*index, each.parameters.msix()?)));
        for (index, count) in counts {
            self.msix.retain(|(of, _)| *of != index);
            self.msix.insert((index, count));
        }
    }
}
