//! From [`Read`] to an [`Inventory`]: what is on this machine.
//!
//! A listing reads little of every function; a [close-up](close_up) reads more of one. A device that goes away meanwhile
//! is a warning, never a failure.

mod closeup;
mod functions;
mod mdevs;
mod names;
pub mod tables;
mod usage;

pub use closeup::close_up;
pub use names::Names;
pub use usage::{Usage, read_netdev_names};

use crate::host::path::Root;
use crate::host::{HostError, HostPath, Read, optional};
use crate::model::inventory::Kernel;
use crate::model::{Inventory, ModuleName, Warning};

/// Reads the host: kernel, PCI functions, groups, mdevs and their parents.
///
/// # Errors
/// When the list of PCI functions itself cannot be read.
pub fn inventory(host: &dyn Read) -> Result<Inventory, HostError> {
    let mut inventory = Inventory::default();
    functions::read(host, &mut inventory)?;
    mdevs::read(host, &mut inventory);
    inventory.kernel = kernel(host);
    inventory.kernel.iommu = !inventory.groups.is_empty();
    Ok(inventory)
}

/// Reads one function into `inventory`.
///
/// # Errors
/// When it is not there.
pub fn one(host: &dyn Read, bdf: crate::model::Bdf, inventory: &mut Inventory) -> Result<(), HostError> {
    functions::read_one(host, bdf, inventory)
}

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
        denylist_disabled: flag("module/vfio_pci/parameters/disable_denylist"),
    }
}

/// Whether `module` is loaded or built in.
#[must_use]
pub fn is_loaded(host: &dyn Read, module: &ModuleName) -> bool {
    optional(host.list(&HostPath::module(module))).unwrap_or(None).is_some()
}

/// Turns a failed read of something that is only nice to have into a warning.
fn warned<T: Default>(result: Result<T, HostError>, subject: &str, warnings: &mut Vec<Warning>) -> T {
    result.unwrap_or_else(|error| {
        warnings.push(Warning::new(subject, format!("could not be read ({error})")));
        T::default()
    })
}
