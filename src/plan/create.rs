//! What has to be done so that there are VFs and mdevs, and so that there are none.
//!
//! A PF has one lane, each VF one that waits for it: drivers cannot be given to VFs that are not there, and VFs cannot be
//! taken away under a driver. All lanes of a command stand or fall together.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::bind::{Choosing, Fallback, PlanError, Wanted};
use super::clearing::{leave, without_driver};
use super::eswitch::EswitchError;
use super::hooks::Hooks;
use super::making::{Change, Draft, Making, Pf};
use super::parameters::Parameters;
use super::queues;
use crate::matching::Tables;
use crate::model::devlink::Devlink;
use crate::model::offer::vf_is_free;
use crate::model::vf::{Switch, VfAttributes};
use crate::model::{
    Bdf, BusName, DriverName, Inventory, MdevAttribute, MdevAttributeName, ModAlias, PciFunction, Role, Target,
    VfIndex, Vgpu, counted,
};
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
    /// What each is to be.
    pub each: VfEach,
    /// Whether VFs that are there may go to make room.
    pub replace: Replace,
}

/// What a VF is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfEach {
    /// What it is to have before its driver looks.
    pub parameters: Parameters,
    /// Its driver.
    pub wanted: Wanted,
    /// What follows a refusal.
    pub fallback: Fallback,
    /// Drivers that come first where the best is wanted.
    pub prefer: Vec<DriverName>,
    /// What follows when a driver cannot set a parameter.
    pub unsupported: Unsupported,
}

impl VfEach {
    /// One with the best driver, or the next best, and these parameters.
    #[must_use]
    pub const fn of(parameters: Parameters) -> Self {
        Self {
            parameters,
            wanted: Wanted::Best,
            fallback: Fallback::NextBest,
            prefer: Vec::new(),
            unsupported: Unsupported::Fails,
        }
    }

    /// How its best driver is chosen.
    pub(super) fn choice(&self) -> Choosing<'_> {
        Choosing { fallback: self.fallback, prefer: &self.prefer }
    }
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
    /// What attributes of mdevs say, where they can be read.
    pub mdev_attributes: BTreeMap<(Uuid, MdevAttributeName), String>,
    /// What is read of idxd devices beside the inventory.
    pub idxd: queues::Told,
    /// What NVIDIA's driver makes of VFs, and could make.
    pub vgpus: BTreeMap<Bdf, Vgpu>,
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
        draft(*pf, wish, inventory, known)?.make(tables, &mut plan)?;
    }
    plan.bond_all();
    Ok(plan)
}

/// Which VFs of a PF are given: free ones, or new ones.
fn draft<'a>(pf: Bdf, wish: &'a VfWish, inventory: &'a Inventory, known: &'a Known) -> Result<Making<'a>, CreateError> {
    let there = Pf::of(pf, inventory)?.driven()?;
    let pool = known.pools.get(&pf).filter(|pool| pool.vfs == there.enabled);
    let free: Vec<VfIndex> = free_of(pf, inventory, known, pool);
    let (change, given) = if there.enabled > 0 && free.len() >= wish.count.into() {
        (Change::Keep, free.into_iter().take(wish.count.into()).collect())
    } else {
        if wish.pool > there.total {
            return Err(CreateError::TooMany { pf, wanted: wish.pool, total: there.total });
        }
        if there.enabled > 0 && wish.replace == Replace::Never {
            let (enabled, free, vfs) = (there.enabled, free.len(), taken(pf, inventory, known, &free));
            return Err(CreateError::NotFree { pf, enabled, free, wanted: wish.count, vfs });
        }
        (Change::Enable(wish.pool), (0..wish.count).collect::<Vec<_>>())
    };
    let given = given.into_iter().map(|index| (index, &wish.each)).collect();
    Making::of(Draft { there, change, given }, inventory, known)
}

/// The ids that the VFs of PFs have, or are going to have.
#[must_use]
pub fn aliases(pfs: &[Bdf], inventory: &Inventory, known: &Known) -> Vec<ModAlias> {
    let pfs = pfs.iter().filter_map(|pf| inventory.functions.get(pf));
    pfs.map(|pf| alias_of_vfs(pf, inventory, known)).collect()
}

pub(super) fn alias_of_vfs(pf: &PciFunction, inventory: &Inventory, known: &Known) -> ModAlias {
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

/// What is to be done about the VFs of a PF before they go: the kernel takes them from their drivers one after the other, and
/// here it is done side by side.
pub(crate) fn leaving(pf: Bdf, inventory: &Inventory, known: &Known) -> Vec<Lane> {
    let given = known.pools.get(&pf).map(|pool| &pool.given);
    let lane = |vf: &PciFunction| match vf.role {
        Role::Vf { index: Some(index), .. } if given.is_some_and(|given| given.contains(&index)) => {
            Some(leave((pf, index), inventory, known))
        }
        Role::Vf { index: Some(index), .. } if !vf_is_free(vf) => Some(without_driver(Target::Vf { pf, index })),
        _ => None,
    };
    inventory.vfs_of(pf).filter_map(lane).collect()
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
pub(crate) enum Last {
    Yes,
    No,
}

/// What is to be done about a PF that has `left` to give, or nothing more.
pub(crate) fn closing(pf: Bdf, left: Pool, last: Last) -> Lane {
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
    /// What each is given once it is made, in this order.
    pub attributes: Vec<MdevAttribute>,
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
            let attributes = wish.attributes.iter().cloned().map(Setting::MdevAttribute);
            let all = std::iter::once(Setting::Mdev(Some(of))).chain(attributes);
            lane.finish = all.map(|to| Step::Set { device, to }).collect();
            lane.is_made = true;
            plan.lanes.push(lane);
        }
    }
    plan.bond_all();
    Ok(plan)
}
