//! What has to be done so that there are VFs and mdevs, and so that there are none.
//!
//! A PF has one lane, each VF one that waits for it: drivers cannot be given to VFs that are not there, and VFs cannot be
//! taken away under a driver. All lanes of a command stand or fall together.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::bind::{Fallback, PlanError, Subject, Wanted};
use super::clearing::leave;
use super::eswitch::{Asked, EswitchError};
use super::hooks::Hooks;
use super::parameters::Parameters;
use crate::matching::Tables;
use crate::model::devlink::{Devlink, EswitchMode};
use crate::model::offer::vf_is_free;
use crate::model::vf::{Switch, VfAttributes};
use crate::model::{Bdf, BusName, Inventory, ModAlias, PciFunction, Role, Target, VfIndex, counted};
use crate::step::{Lane, MdevOf, Otherwise, Plan, Pool, Setting, Step, Unsupported};

/// What is wanted of some PFs.
#[derive(Debug, Clone)]
pub struct VfWish {
    /// The PFs, in the order they were named.
    pub pfs: Vec<Bdf>,
    /// How many VFs of each.
    pub count: u16,
    /// How many to enable when there are none.
    pub pool: u16,
    /// What they are to have before their driver looks.
    pub parameters: Parameters,
    /// Their driver.
    pub wanted: Wanted,
    /// What follows a refusal.
    pub fallback: Fallback,
    /// Whether VFs that are there may go to make room.
    pub replace: Replace,
    /// What follows when a driver cannot set a parameter.
    pub unsupported: Unsupported,
}

/// What happens to VFs that are there when more are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// They stay, and the wish is refused.
    Never,
    /// They go, with all that they have.
    Accepted,
}

/// What is known of PFs beside the inventory.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What vfioadm remembers of those that it enabled VFs on.
    pub pools: BTreeMap<Bdf, Pool>,
    /// `sriov_vf_device`: the device id of the VFs that there are going to be.
    pub vf_devices: BTreeMap<Bdf, u16>,
    /// What the drivers of PFs report of their VFs.
    pub attributes: BTreeMap<(Bdf, VfIndex), VfAttributes>,
    /// What devlink tells of those that it knows.
    pub devlink: BTreeMap<Bdf, Devlink>,
    /// What vendors' tools have to do with VFs.
    pub hooks: Hooks,
    /// `/etc/machine-id`.
    pub machine: String,
}

/// Why there is nothing to be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// No driver for the VFs.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// What is asked of its eswitch or its ports cannot be had.
    #[error(transparent)]
    Eswitch(#[from] EswitchError),
    /// It has no SR-IOV capability.
    #[error("{0} is no PF: it has no SR-IOV capability")]
    NotAPf(Bdf),
    /// It is a VF itself.
    #[error("{vf} is a VF itself, of {pf}")]
    IsAVf {
        /// What was named.
        vf: Bdf,
        /// Its PF.
        pf: Bdf,
    },
    /// Nobody there to make VFs.
    #[error("{0} has no driver, and it is the driver of a PF that makes its VFs")]
    NoDriver(Bdf),
    /// More than there can be.
    #[error("{pf} has {} at most, not {wanted}", counted(*total, "VF"))]
    TooMany {
        /// The PF.
        pf: Bdf,
        /// How many were asked for.
        wanted: u16,
        /// `sriov_totalvfs`.
        total: u16,
    },
    /// Fewer than are to be given.
    #[error("a pool of {} does not hold the {count} that are to be given", counted(*pool, "VF"))]
    SmallPool {
        /// `--pool`.
        pool: u16,
        /// `--count`.
        count: u16,
    },
    /// Too few are free, and more cannot be made without destroying these.
    #[error(
        "{pf} has {}, {free} of them free, not {wanted}; more can be made only when all are destroyed: {vfs}",
        counted(*enabled, "VF")
    )]
    NotFree {
        /// The PF.
        pf: Bdf,
        /// How many there are.
        enabled: u16,
        /// How many are free.
        free: usize,
        /// How many were asked for.
        wanted: u16,
        /// The VFs that are not free, with their drivers.
        vfs: String,
    },
    /// A VF that no `create` has given.
    #[error("{vf} was not made by vfioadm create: it is VF {index} of {pf}, where somebody else enabled the VFs")]
    NotGiven {
        /// The VF.
        vf: Bdf,
        /// Its PF.
        pf: Bdf,
        /// Its index.
        index: VfIndex,
    },
    /// Nothing that can be unmade.
    #[error("{0} is a function of the hardware and cannot be destroyed")]
    NotMade(Bdf),
    /// There is one already.
    #[error("there is an mdev {0} already")]
    UuidTaken(Uuid),
    /// Not that many instances.
    #[error("{parent} has {left} of {kind} left, not {wanted}")]
    NoneLeft {
        /// The parent.
        parent: BusName,
        /// The type.
        kind: BusName,
        /// `available_instances`.
        left: u32,
        /// How many were asked for.
        wanted: usize,
    },
}

/// Plans VFs: from none, as many as the pool is to have; from some, those that are free.
///
/// # Errors
/// [`CreateError`].
pub fn vfs(wish: &VfWish, inventory: &Inventory, tables: &Tables, known: &Known) -> Result<Plan, CreateError> {
    if wish.pool < wish.count {
        return Err(CreateError::SmallPool { pool: wish.pool, count: wish.count });
    }
    let mut plan = Plan::default();
    for pf in &wish.pfs {
        let making = Making::of(*pf, wish, inventory, known)?;
        let at = plan.lanes.len();
        plan.lanes.push(making.pf_lane());
        for index in &making.given {
            let mut lane = making.vf_lane(*index, tables)?;
            lane.after.push(at);
            plan.lanes.push(lane);
        }
    }
    plan.bond_all();
    Ok(plan)
}

/// VFs of one PF in the making.
struct Making<'a> {
    wish: &'a VfWish,
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
    /// The indices that are given.
    given: Vec<VfIndex>,
    pool: Pool,
}

impl<'a> Making<'a> {
    fn of(pf: Bdf, wish: &'a VfWish, inventory: &'a Inventory, known: &'a Known) -> Result<Self, CreateError> {
        let function = inventory.functions.get(&pf).ok_or(PlanError::NoSuchDevice(pf))?;
        let (total, there, autoprobe) = match function.role {
            Role::Pf { total, enabled, autoprobe } => (total, enabled, autoprobe),
            Role::Vf { pf: other, .. } => return Err(CreateError::IsAVf { vf: pf, pf: other }),
            _ => return Err(CreateError::NotAPf(pf)),
        };
        if function.driver.is_none() {
            return Err(CreateError::NoDriver(pf));
        }
        let pool = known.pools.get(&pf).filter(|pool| pool.vfs == there);
        let free: Vec<VfIndex> = free_of(pf, inventory, known, pool);
        let (gone, enabled, given) = if there > 0 && free.len() >= wish.count.into() {
            (0, None, free.into_iter().take(wish.count.into()).collect())
        } else {
            if wish.pool > total {
                return Err(CreateError::TooMany { pf, wanted: wish.pool, total });
            }
            if there > 0 && wish.replace == Replace::Never {
                let (free, vfs) = (free.len(), taken(pf, inventory, known, &free));
                return Err(CreateError::NotFree { pf, enabled: there, free, wanted: wish.count, vfs });
            }
            (there, Some(wish.pool), (0..wish.count).collect::<Vec<_>>())
        };
        let (parameters, devlink) = (&wish.parameters, known.devlink.get(&pf));
        let eswitch = Asked { pf, parameters, devlink, stay: there - gone, given: &given }.change()?;
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
        if let (None, Some(free)) = (enabled, given.first()) {
            next.fresh.get_or_insert_with(|| known.fresh(pf, *free));
        }
        next.given.extend(&given);
        next.msix
            .extend(parameters.msix().into_iter().flat_map(|count| given.iter().map(move |index| (*index, count))));
        next.eswitch = next.eswitch.or(eswitch.map(|(_, now)| now));
        let eswitch = eswitch.map(|(wanted, _)| wanted);
        let mut after = Inventory { kernel: inventory.kernel.clone(), ..Inventory::default() };
        let autoprobe_then = if next.ours { false } else { autoprobe };
        let role = Role::Pf { total, enabled: next.vfs, autoprobe: autoprobe_then };
        after.functions.insert(pf, PciFunction { role, ..function.clone() });
        Ok(Self { wish, known, inventory, after, pf: function, autoprobe, gone, eswitch, enabled, given, pool: next })
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

    fn vf_lane(&self, index: VfIndex, tables: &Tables) -> Result<Lane, CreateError> {
        let pf = self.pf.bdf;
        let target = Target::Vf { pf, index };
        let there = self.inventory.vf(pf, index).filter(|_| self.enabled.is_none());
        let function = match there {
            Some(vf) => vf.clone(),
            None => self.foreseen(index),
        };
        let subject = Subject { target, function: &function, inventory: &self.after, tables };
        let mut lane = match self.wish.wanted {
            Wanted::None => Lane::new(target, Otherwise::LeaveWithout),
            _ => subject.lane(&self.wish.wanted, self.wish.fallback)?,
        };
        let Known { machine, hooks, .. } = self.known;
        let settings = self.wish.parameters.settings(pf, index, machine).into_iter();
        let settings = settings.chain(hooks.set(&function, self.wish.parameters.words(pf, index, machine)));
        lane.prepare = settings.map(|to| Step::Set { device: target, to }).collect();
        lane.is_made = there.is_none();
        lane.unsupported = self.wish.unsupported;
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

/// The ids that the VFs of PFs have, or are going to have.
#[must_use]
pub fn aliases(pfs: &[Bdf], inventory: &Inventory, known: &Known) -> Vec<ModAlias> {
    let pfs = pfs.iter().filter_map(|pf| inventory.functions.get(pf));
    pfs.map(|pf| alias_of_vfs(pf, inventory, known)).collect()
}

fn alias_of_vfs(pf: &PciFunction, inventory: &Inventory, known: &Known) -> ModAlias {
    match inventory.vfs_of(pf.bdf).next() {
        Some(sibling) => sibling.alias,
        None => {
            let device = known.vf_devices.get(&pf.bdf).copied().unwrap_or_else(|| pf.alias.device());
            ModAlias::new(pf.alias.vendor(), device, pf.alias.subsystem(), pf.alias.class())
        }
    }
}

/// The VFs that can be given: nobody's, never set, and not given before.
fn free_of(pf: Bdf, inventory: &Inventory, known: &Known, pool: Option<&Pool>) -> Vec<VfIndex> {
    let mut free: Vec<VfIndex> = inventory
        .vfs_of(pf)
        .filter_map(|vf| match vf.role {
            Role::Vf { index: Some(index), .. } if vf_is_free(vf) => Some(index),
            _ => None,
        })
        .filter(|index| match pool {
            Some(pool) if pool.ours => !pool.given.contains(index),
            Some(pool) if pool.given.contains(index) => false,
            _ => {
                let set = known.attributes.get(&(pf, *index)).is_some_and(VfAttributes::is_configured);
                !set && known.clearing_of_port(pf, *index).is_empty()
            }
        })
        .collect();
    free.sort_unstable();
    free
}

/// The VFs that somebody has, with their drivers and what they carry into a network.
fn taken(pf: Bdf, inventory: &Inventory, known: &Known, free: &[VfIndex]) -> String {
    const MOST: usize = 16;
    let words = |vf: &PciFunction| match vf.role {
        Role::Vf { index: Some(index), .. } if free.contains(&index) => None,
        Role::Vf { index: Some(index), .. } => {
            let set = known.attributes.get(&(pf, index)).map(VfAttributes::identity).unwrap_or_default();
            Some(if set.is_empty() { vf.on_driver() } else { format!("{} ({})", vf.on_driver(), set.join(", ")) })
        }
        _ => Some(vf.on_driver()),
    };
    let all: Vec<String> = inventory.vfs_of(pf).filter_map(words).collect();
    let more = all.len().saturating_sub(MOST);
    let shown = all[..all.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Plans the end of VFs and mdevs. The last VF of a pool that vfioadm enabled takes the pool with it.
///
/// # Errors
/// [`CreateError::NotGiven`], [`CreateError::NotMade`].
pub fn destroy(vfs: &[Bdf], mdevs: &[Uuid], inventory: &Inventory, known: &Known) -> Result<Plan, CreateError> {
    let mut of_pf: BTreeMap<Bdf, BTreeSet<VfIndex>> = BTreeMap::new();
    for vf in vfs {
        let function = inventory.functions.get(vf).ok_or(PlanError::NoSuchDevice(*vf))?;
        let Role::Vf { pf, index: Some(index) } = function.role else { return Err(CreateError::NotMade(*vf)) };
        // Of a pool that vfioadm enabled it made all VFs, also those that somebody took without asking.
        let made = known.pools.get(&pf).is_some_and(|pool| pool.ours || pool.given.contains(&index));
        if !made {
            return Err(CreateError::NotGiven { vf: *vf, pf, index });
        }
        of_pf.entry(pf).or_default().insert(index);
    }
    let mut plan = Plan::default();
    for (pf, indices) in of_pf {
        let Some(pool) = known.pools.get(&pf) else { continue };
        let mut left = pool.clone();
        left.given.retain(|index| !indices.contains(index));
        left.msix.retain(|(index, _)| !indices.contains(index));
        left.fresh.get_or_insert_default();
        let all_go = left.given.is_empty() && left.ours && users_besides(pf, &indices, inventory).is_empty();
        let mut after = Vec::new();
        for index in indices {
            after.push(plan.lanes.len());
            plan.lanes.push(leave((pf, index), inventory, known));
        }
        // No subfunction is there in legacy mode.
        if all_go && known.devlink.get(&pf).is_some_and(|devlink| devlink.subfunctions() > 0) {
            left.eswitch = None;
        }
        plan.lanes.push(Lane { after, ..closing(pf, left, if all_go { Last::Yes } else { Last::No }) });
    }
    for uuid in mdevs {
        let device = Target::Mdev(*uuid);
        let mut lane = Lane::new(device, Otherwise::LeaveWithout);
        lane.finish.push(Step::Set { device, to: Setting::Mdev(None) });
        plan.lanes.push(lane);
    }
    plan.bond_all();
    Ok(plan)
}

/// The VFs of a PF, but for some, that somebody has.
#[must_use]
pub fn users_besides<'a>(pf: Bdf, but: &BTreeSet<VfIndex>, inventory: &'a Inventory) -> Vec<&'a PciFunction> {
    let others = inventory.vfs_of(pf).filter(|vf| {
        let named = matches!(vf.role, Role::Vf { index: Some(index), .. } if but.contains(&index));
        !named && !vf_is_free(vf)
    });
    others.collect()
}

/// Whether a PF's pool ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

fn closing(pf: Bdf, left: Pool, last: Last) -> Lane {
    let device = Target::Pci(pf);
    let mut lane = Lane::new(device, Otherwise::LeaveWithout);
    lane.has_children = true;
    let mut set = |to| lane.finish.push(Step::Set { device, to });
    match last {
        Last::No if left.given.is_empty() && !left.ours => set(Setting::Pool(None)),
        Last::No => set(Setting::Pool(Some(left))),
        Last::Yes => {
            set(Setting::Vfs(0));
            if let Some(mode) = left.eswitch {
                set(Setting::Eswitch(mode));
            }
            if left.autoprobe {
                set(Setting::Autoprobe(Switch::On));
            }
            set(Setting::Pool(None));
        }
    }
    lane
}

/// What is wanted of an mdev parent.
#[derive(Debug, Clone)]
pub struct MdevWish {
    /// The parent, as `/sys/class/mdev_bus` has it.
    pub parent: BusName,
    /// The type.
    pub kind: BusName,
    /// A UUID for each.
    pub uuids: Vec<Uuid>,
}

/// Plans mdevs.
///
/// # Errors
/// [`CreateError::UuidTaken`], [`CreateError::NoneLeft`].
pub fn mdevs(wishes: &[MdevWish], inventory: &Inventory) -> Result<Plan, CreateError> {
    let mut plan = Plan::default();
    for wish in wishes {
        let parent = inventory.mdev_parents.iter().find(|parent| parent.name == wish.parent);
        let kind = parent.and_then(|parent| parent.types.iter().find(|kind| kind.id == wish.kind));
        let left = kind.and_then(|kind| kind.available_instances);
        if let Some(left) = left.filter(|left| usize::try_from(*left).is_ok_and(|left| left < wish.uuids.len())) {
            let (parent, kind) = (wish.parent.clone(), wish.kind.clone());
            return Err(CreateError::NoneLeft { parent, kind, left, wanted: wish.uuids.len() });
        }
        for uuid in &wish.uuids {
            if inventory.mdevs.iter().any(|mdev| mdev.uuid == *uuid) {
                return Err(CreateError::UuidTaken(*uuid));
            }
            let device = Target::Mdev(*uuid);
            let mut lane = Lane::new(device, Otherwise::LeaveWithout);
            let of = MdevOf { parent: wish.parent.clone(), kind: wish.kind.clone() };
            lane.finish.push(Step::Set { device, to: Setting::Mdev(Some(of)) });
            lane.is_made = true;
            plan.lanes.push(lane);
        }
    }
    plan.bond_all();
    Ok(plan)
}
