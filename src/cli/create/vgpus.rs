//! NVIDIA's vGPUs: VFs made one, which keep their driver.

use super::Prepared;
use crate::cli::args::CreateArgs;
use crate::cli::report::{Exit, Trouble};
use crate::discover;
use crate::host::Host;
use crate::model::vgpu::VgpuTypeId;
use crate::model::{Bdf, Inventory};
use crate::plan::vgpus::{self, VgpuError};
use crate::step::Plan;

pub(super) fn plan(args: &CreateArgs, id: VgpuTypeId, prepared: &Prepared, host: &dyn Host) -> Result<Plan, Trouble> {
    let pfs = prepared.pfs(&args.kind.to_string())?;
    let inventory = &prepared.inventory;
    let of = |vf: Bdf| inventory.functions.get(&vf).and_then(|vf| vf.pf());
    let known = discover::vgpus(host, inventory, |vf| pfs.contains(&vf) || of(vf).is_some_and(|pf| pfs.contains(&pf)));
    Ok(vgpus::vgpus(&pfs, (id, args.count), inventory, &known)?)
}

pub(super) fn unmake(vfs: &[Bdf], inventory: &Inventory, host: &dyn Host, plan: &mut Plan) -> Result<(), Trouble> {
    let known = discover::vgpus(host, inventory, |vf| vfs.contains(&vf));
    Ok(vgpus::unmake(vfs, inventory, &known, plan)?)
}

impl From<VgpuError> for Trouble {
    fn from(error: VgpuError) -> Self {
        let message = error.to_string();
        let (id, remedy) = match error {
            VgpuError::IsNone(vf) => ("not-made-here", format!("see what it is: vfioadm show {vf}")),
            VgpuError::NotNow { vf, others, .. } if others.is_empty() => {
                ("none-left", format!("destroy a vGPU that nobody needs; see: vfioadm show {vf}"))
            }
            VgpuError::NotNow { others, .. } => ("none-left", format!("there are {others}")),
            VgpuError::NoVfs(pf) | VgpuError::NoVf { pf, .. } => (
                "not-a-parent",
                format!(
                    "have NVIDIA's driver enable them: /usr/lib/nvidia/sriov-manage -e {pf}; see: vfioadm types {pf}"
                ),
            ),
            VgpuError::NoneLeft { pf, others, .. } if others.is_empty() => {
                ("none-left", format!("destroy a vGPU that nobody needs; see: vfioadm types {pf}"))
            }
            VgpuError::NoneLeft { others, .. } => ("none-left", format!("there are {others}")),
        };
        Self::new(Exit::Failed, id, message).state("as it was; nothing was tried").remedy(remedy)
    }
}
