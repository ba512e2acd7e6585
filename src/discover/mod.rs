//! From [`Read`] to an [`Inventory`]: what is on this machine.
//!
//! A listing reads little of every function; a [close-up](close_up) reads more of one. A device that goes away meanwhile
//! is a warning, never a failure.

mod closeup;
mod functions;
mod holders;
mod identity;
mod idxd;
mod isolation;
mod mdevs;
mod names;
mod rules;
mod subfunctions;
pub mod tables;
#[cfg(test)]
mod told;
mod usage;
mod vfs;
mod vgpu;

pub use closeup::close_up;
pub use holders::Holders;
pub use identity::{Slots, identities};
pub use isolation::Ports;
pub use names::Names;
pub use rules::rules;
pub use subfunctions::{devlink, sf_parents};
pub use usage::{Usage, read_netdev_names};
pub use vfs::vf_facts;
pub use vgpu::vgpus;

use std::collections::BTreeMap;

use crate::host::path::Root;
use crate::host::{HostError, HostPath, Links, Read, optional, vf_list};
use crate::model::inventory::Kernel;
use crate::model::vf::VfAttributes;
use crate::model::{Bdf, GroupId, Inventory, VfIndex, Warning};

/// Reads the host: kernel, PCI functions, groups, mdevs and their parents, idxd devices, subfunctions.
///
/// # Errors
/// When the list of PCI functions itself cannot be read.
pub fn inventory(host: &dyn Read) -> Result<Inventory, HostError> {
    let mut inventory = Inventory::default();
    functions::read(host, &mut inventory)?;
    mdevs::read(host, &mut inventory);
    idxd::read(host, &mut inventory);
    subfunctions::read(host, &mut inventory);
    inventory.kernel = kernel(host);
    inventory.kernel.iommu = !inventory.groups.is_empty();
    Ok(inventory)
}

/// Reads one function into `inventory`.
///
/// # Errors
/// When it is not there.
pub fn one(host: &dyn Read, bdf: Bdf, inventory: &mut Inventory) -> Result<(), HostError> {
    functions::read_one(host, bdf, inventory)
}

const TYPE1: &str = "module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
const IOMMUFD: &str = "module/iommufd/parameters/allow_unsafe_interrupts";

/// All but whether there is an IOMMU, which the groups tell.
fn kernel(host: &dyn Read) -> Kernel {
    let text = |path: HostPath| optional(host.text(&path)).unwrap_or(None);
    let release = text(HostPath::fixed(Root::Proc, "sys/kernel/osrelease")).unwrap_or_default();
    let lockdown = text(HostPath::fixed(Root::Sys, "kernel/security/lockdown"))
        .and_then(|modes| modes.split_once('[')?.1.split_once(']').map(|(mode, _)| mode.to_owned()));
    let flag = |path: &'static str| text(HostPath::fixed(Root::Sys, path)).is_some_and(|value| value == "Y");
    Kernel {
        release,
        iommu: false,
        lockdown,
        unsafe_noiommu: flag("module/vfio/parameters/enable_unsafe_noiommu_mode"),
        vfio_pci_makes_vfs: flag("module/vfio_pci/parameters/enable_sriov"),
        denylist_disabled: flag("module/vfio_pci/parameters/disable_denylist"),
        unsafe_interrupts: [("vfio_iommu_type1", TYPE1), ("iommufd", IOMMUFD)]
            .into_iter()
            .filter_map(|(module, path)| flag(path).then_some(module))
            .collect(),
    }
}

/// What a PF's driver reports of its VFs, in one request; nothing of a PF without a network interface.
///
/// # Errors
/// As [`Links::vf_attributes`], whose list may be short.
pub fn vf_attributes(host: &dyn Links, pf: Bdf) -> Result<BTreeMap<(Bdf, VfIndex), VfAttributes>, HostError> {
    let Some(list) = vf_list(host, pf)? else { return Ok(BTreeMap::new()) };
    Ok(list.vfs.into_iter().map(|(index, of)| ((pf, index), of)).collect())
}

/// The members of a group that `inventory` does not have: devices of other buses, and functions that could not be read.
#[must_use]
pub fn strangers(host: &dyn Read, group: GroupId, inventory: &Inventory) -> Vec<String> {
    let path = HostPath::fixed(Root::Sys, "kernel/iommu_groups").child(&group).attr("devices");
    let names = optional(host.list(&path)).unwrap_or(None).unwrap_or_default();
    let known = |name: &str| name.parse::<Bdf>().is_ok_and(|bdf| inventory.functions.contains_key(&bdf));
    names.into_iter().filter(|name| !known(name)).collect()
}

/// Turns a failed read of something that is only nice to have into a warning.
fn warned<T: Default>(result: Result<T, HostError>, subject: &str, warnings: &mut Vec<Warning>) -> T {
    result.unwrap_or_else(|error| {
        warnings.push(Warning::new(subject, format!("could not be read ({error})")));
        T::default()
    })
}
