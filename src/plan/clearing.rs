//! A VF given back: what takes back what was set of it, so that the next one finds nothing that it would not expect.
//!
//! All that is set is told by somebody but a count of MSI-X vectors, which vfioadm remembers in the pool.
//!
//! # Kernel
//! `Documentation/ABI/testing/sysfs-bus-pci`: 0 in `sriov_vf_msix_count` is the device's default; mlx5 `sriov.c`
//! `mlx5_core_sriov_set_msix_vec_count()` goes back to it, `ice_sriov.c` `ice_sriov_set_msix_vec_count()` takes it and does
//! nothing (mainline).

use super::create::Known;
use crate::model::devlink::{Behind, PortFunction, PortSetting};
use crate::model::vf::{Switch, VfAttributes, VfSetting};
use crate::model::{Bdf, Inventory, PciFunction, Role, Target, VfIndex};
use crate::step::{Lane, Otherwise, Setting, Step, Unsupported, WhenOpen};

impl Known {
    /// What takes back what was set of a VF at its port.
    pub(super) fn clearing_of_port(&self, pf: Bdf, index: VfIndex) -> Vec<PortSetting> {
        let fresh = self.pools.get(&pf).and_then(|pool| pool.fresh.as_deref()).unwrap_or_default();
        self.at_port(pf, index).map(|function| function.clearing(fresh)).unwrap_or_default()
    }

    /// What one that nobody has set has at its port.
    pub(super) fn fresh(&self, pf: Bdf, free: VfIndex) -> Vec<PortSetting> {
        self.at_port(pf, free).map(PortFunction::fresh).unwrap_or_default()
    }

    fn at_port(&self, pf: Bdf, index: VfIndex) -> Option<&PortFunction> {
        Behind::Vf(index).port_in(&self.devlink.get(&pf)?.ports)?.function.as_ref()
    }
}

/// Nobody's again: no driver, no override, and nothing set that the next one would not expect. What goes with the VF anyway is
/// taken back too, so that it is known how to bring it back.
pub(super) fn leave((pf, index): (Bdf, VfIndex), inventory: &Inventory, known: &Known) -> Lane {
    let device = Target::Vf { pf, index };
    let mut lane = without_driver(device);
    if known.pools.get(&pf).is_some_and(|pool| pool.msix_of(index).is_some()) {
        // One that was made with --best-effort may have been left without.
        lane.unsupported = Unsupported::IsSkipped;
        lane.finish.push(Step::Set { device, to: Setting::MsixCount(0) });
    }
    let cleared = known.hooks.undo((pf, index)).into_iter().chain(clearing((pf, index), inventory, known));
    lane.finish.extend(cleared.map(|to| Step::Set { device, to }));
    lane
}

/// No driver, and none kept away.
pub(super) fn without_driver(device: Target) -> Lane {
    let mut lane = Lane::new(device, Otherwise::LeaveWithout);
    lane.finish.push(Step::Unbind { device, open: WhenOpen::Refuse });
    lane.finish.push(Step::SetOverride { device, driver: None });
    lane
}

/// The settings of a VF, as far as its PF's driver tells that it has some.
fn clearing((pf, index): (Bdf, VfIndex), inventory: &Inventory, known: &Known) -> Vec<Setting> {
    let attributes = known.attributes.get(&(pf, index));
    let mut all = attributes.map(VfAttributes::clearing).unwrap_or_default();
    let told = attributes.and_then(|of| of.spoofchk);
    let fresh = told.and_then(|_| spoofchk_of_new(pf, inventory, known)).filter(|fresh| told != Some(*fresh));
    all.extend(fresh.map(VfSetting::Spoofchk));
    let port = known.clearing_of_port(pf, index).into_iter();
    let port = port.map(|to| Setting::Port { pf, behind: Behind::Vf(index), to });
    all.into_iter().map(|to| Setting::Vf { pf, index, to }).chain(port).collect()
}

/// Whether a VF that nobody has set is checked for spoofed addresses: as one that was never given tells, else by the PF's driver;
/// `None` where neither is known, and the VF keeps what it has.
///
/// # Kernel
/// `igb_main.c` `igb_vf_configure()`, `ixgbe_sriov.c` `__ixgbe_enable_sriov()`, `i40e_virtchnl_pf.c` `i40e_alloc_vfs()`, `ice_vf_lib.c`
/// `ice_initialize_vf_entry()`: on; mlx5 `eswitch.c` `mlx5_eswitch_clear_vf_vports_info()` zeroes `mlx5_vport_info` of `eswitch.h`:
/// off (mainline).
fn spoofchk_of_new(pf: Bdf, inventory: &Inventory, known: &Known) -> Option<Switch> {
    let given = known.pools.get(&pf).map(|pool| &pool.given);
    let never_given = inventory.vfs_of(pf).filter_map(|vf| match vf.role {
        Role::Vf { index: Some(index), .. } if given.is_some_and(|given| !given.contains(&index)) => Some(index),
        _ => None,
    });
    let mut told = never_given.filter_map(|index| known.attributes.get(&(pf, index))?.spoofchk);
    let driver = inventory.functions.get(&pf).and_then(|pf: &PciFunction| pf.driver.as_ref());
    told.next().or_else(|| match driver?.as_str() {
        "igb" | "ixgbe" | "i40e" | "ice" => Some(Switch::On),
        "mlx5_core" => Some(Switch::Off),
        _ => None,
    })
}
