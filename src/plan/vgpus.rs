//! NVIDIA's vGPUs: which VFs are made one. They keep their driver, which is the VFIO driver as well.

use std::collections::BTreeMap;

use crate::model::vgpu::{VgpuTypeId, creatable_on};
use crate::model::{Bdf, Inventory, PciFunction, Role, Target, VfIndex, Vgpu, counted};
use crate::step::{Lane, Otherwise, Plan, Setting, Step};

/// Why no vGPU can be made or unmade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VgpuError {
    /// Nothing to be unmade.
    #[error("{0} is no vGPU: there is nothing to destroy")]
    IsNone(Bdf),
    /// No VF that NVIDIA's driver makes vGPUs of.
    #[error("{0} has no VF that NVIDIA's driver makes vGPUs of")]
    NoVfs(Bdf),
    /// No VF of that number, or none of NVIDIA's.
    #[error("{pf} has no VF {index} that NVIDIA's driver makes vGPUs of")]
    NoVf {
        /// The PF.
        pf: Bdf,
        /// Its index.
        index: VfIndex,
    },
    /// The VF cannot be it.
    #[error("{vf} cannot be vGPU type {id} now")]
    NotNow {
        /// The VF.
        vf: Bdf,
        /// The type.
        id: VgpuTypeId,
        /// The types that it can be.
        others: String,
    },
    /// Too few VFs that can be it.
    #[error("{pf} has {} that can be vGPU type {id} now, not {wanted}", counted(*left, "VF"))]
    NoneLeft {
        /// The PF.
        pf: Bdf,
        /// The type.
        id: VgpuTypeId,
        /// How many there are.
        left: usize,
        /// How many were asked for.
        wanted: u16,
        /// The types that can be made.
        others: String,
    },
}

/// Plans `count` vGPUs of a type on each of `pfs`. That the GPU has room for as many is known when the last is made.
///
/// # Errors
/// [`VgpuError`].
pub fn vgpus(
    pfs: &[Bdf],
    (id, count): (VgpuTypeId, u16),
    inventory: &Inventory,
    vgpus: &BTreeMap<Bdf, Vgpu>,
) -> Result<Plan, VgpuError> {
    let mut plan = Plan::default();
    for pf in pfs {
        let of = |vf: &Bdf| vf == pf || inventory.functions.get(vf).and_then(PciFunction::pf) == Some(*pf);
        let mine: Vec<(&Bdf, &Vgpu)> = vgpus.iter().filter(|(vf, _)| of(vf)).collect();
        if mine.is_empty() {
            return Err(VgpuError::NoVfs(*pf));
        }
        let can_be = |vgpu: &Vgpu| vgpu.current.is_none() && vgpu.creatable.iter().any(|kind| kind.id == id);
        let able: Vec<Bdf> = mine.iter().filter(|(_, vgpu)| can_be(vgpu)).map(|(vf, _)| **vf).collect();
        if able.len() < usize::from(count) {
            let others = creatable_on(mine.iter().map(|(_, vgpu)| *vgpu));
            let others: Vec<String> = others.keys().map(|id| format!("vgpu:{id}")).collect();
            let (left, others) = (able.len(), others.join(", "));
            return Err(VgpuError::NoneLeft { pf: *pf, id, left, wanted: count, others });
        }
        let chosen = able.into_iter().take(count.into());
        plan.lanes.extend(chosen.map(|vf| lane(target(vf, inventory), id)));
    }
    // What one VF is made decides what the next can be: they come one after the other.
    for at in 1..plan.lanes.len() {
        plan.lanes[at].after.push(at - 1);
    }
    plan.bond_all();
    Ok(plan)
}

/// Plans one VF to be a vGPU of a type, and says of which it is one now; `None` when it is so. That the GPU has room for one of another
/// type is known when it is made.
///
/// # Errors
/// [`VgpuError::NoVf`], [`VgpuError::NotNow`].
pub fn one(
    (pf, index): (Bdf, VfIndex),
    id: VgpuTypeId,
    inventory: &Inventory,
    vgpus: &BTreeMap<Bdf, Vgpu>,
) -> Result<Option<(Lane, Option<VgpuTypeId>)>, VgpuError> {
    let vf = inventory.vf(pf, index).ok_or(VgpuError::NoVf { pf, index })?.bdf;
    let vgpu = vgpus.get(&vf).ok_or(VgpuError::NoVf { pf, index })?;
    if vgpu.current == Some(id) {
        return Ok(None);
    }
    if vgpu.current.is_none() && vgpu.creatable.iter().all(|kind| kind.id != id) {
        let others: Vec<String> = vgpu.creatable.iter().map(|kind| kind.id.to_string()).collect();
        return Err(VgpuError::NotNow { vf, id, others: others.join(", ") });
    }
    let mut lane = lane(Target::Vf { pf, index }, id);
    if vgpu.current.is_some() {
        lane.finish.insert(0, Step::Set { device: lane.device, to: Setting::Vgpu(0) });
    }
    Ok(Some((lane, vgpu.current)))
}

/// Plans the end of vGPUs. Their VFs stay.
///
/// # Errors
/// [`VgpuError::IsNone`].
pub fn unmake(
    vfs: &[Bdf],
    inventory: &Inventory,
    vgpus: &BTreeMap<Bdf, Vgpu>,
    plan: &mut Plan,
) -> Result<(), VgpuError> {
    for vf in vfs {
        vgpus.get(vf).and_then(|vgpu| vgpu.current).ok_or(VgpuError::IsNone(*vf))?;
        plan.lanes.push(lane(target(*vf, inventory), 0));
    }
    Ok(())
}

/// A VF by its PF, as all verbs that make name it.
fn target(vf: Bdf, inventory: &Inventory) -> Target {
    match inventory.functions.get(&vf).map(|function| function.role) {
        Some(Role::Vf { pf, index: Some(index) }) => Target::Vf { pf, index },
        _ => Target::Pci(vf),
    }
}

fn lane(device: Target, id: VgpuTypeId) -> Lane {
    let mut lane = Lane::new(device, Otherwise::LeaveWithout);
    lane.finish.push(Step::Set { device, to: Setting::Vgpu(id) });
    lane
}
