//! What VFs that are there are to have, set before their drivers look.

use std::collections::BTreeMap;

use super::bind::{BindWish, PlanError, bind};
use super::eswitch::{Asked, EswitchError};
use super::hooks::Hooks;
use super::parameters::Parameters;
use crate::matching::Tables;
use crate::model::devlink::Devlink;
use crate::model::vf::VfAttributes;
use crate::model::{Bdf, Inventory, Role, VfIndex};
use crate::step::{Plan, Pool, Setting, Step, Unsupported};

/// What is to be set, and what is known of how it is now.
#[derive(Debug, Clone, Copy)]
pub struct SetWish<'a> {
    /// What.
    pub parameters: &'a Parameters,
    /// What follows when a driver cannot set it.
    pub unsupported: Unsupported,
    /// What the drivers of PFs report.
    pub attributes: &'a BTreeMap<(Bdf, VfIndex), VfAttributes>,
    /// What devlink tells of PFs.
    pub devlink: &'a BTreeMap<Bdf, Devlink>,
    /// What is remembered of VFs whose counts of MSI-X vectors were set.
    pub pools: &'a BTreeMap<Bdf, Pool>,
    /// What vendors' tools have to do with VFs.
    pub hooks: &'a Hooks,
    /// `/etc/machine-id`.
    pub machine: &'a str,
}

impl SetWish<'_> {
    /// What a VF is to have and has not, as far as it is known.
    #[must_use]
    pub fn missing(&self, pf: Bdf, index: VfIndex) -> Vec<Setting> {
        let (kept, devlink) = (self.attributes.get(&(pf, index)), self.devlink.get(&pf));
        let is_new = |setting: &Setting| match setting {
            Setting::Vf { to, .. } => kept.and_then(|kept| kept.value_of(to)).as_ref() != Some(to),
            Setting::Port { behind, to, .. } => {
                let function = devlink.and_then(|devlink| behind.port_in(&devlink.ports)?.function.as_ref());
                function.and_then(|function| to.told_by(function)) != Some(*to)
            }
            Setting::MsixCount(count) => self.pools.get(&pf).and_then(|pool| pool.msix_of(index)) != Some(*count),
            _ => true,
        };
        self.parameters.settings(pf, index, self.machine).into_iter().filter(is_new).collect()
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// No driver for a device.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Not to be had at its devlink port.
    #[error(transparent)]
    Eswitch(#[from] EswitchError),
    /// A function that no PF keeps anything for.
    #[error("{0} is no VF, and parameters are kept by a PF for its VFs")]
    NotAVf(Bdf),
}

/// Plans a bind of VFs that are to have parameters before their driver looks. A VF that has all of them is not taken from its
/// driver; any other is, whatever driver it is to have.
///
/// # Errors
/// [`SetError`].
pub fn bind_set(wish: &BindWish, set: SetWish<'_>, inventory: &Inventory, tables: &Tables) -> Result<Plan, SetError> {
    let mut free = inventory.clone();
    let mut wanted: BTreeMap<Bdf, Vec<Setting>> = BTreeMap::new();
    for bdf in &wish.devices {
        let function = free.functions.get_mut(bdf).ok_or(PlanError::NoSuchDevice(*bdf))?;
        let Role::Vf { pf, index: Some(index) } = function.role else { return Err(SetError::NotAVf(*bdf)) };
        // Its siblings are there as well, so that no mode of the eswitch but the one that it has can be asked for.
        let devlink = set.devlink.get(&pf);
        Asked { pf, parameters: set.parameters, devlink, stay: 1, given: &[index] }.change()?;
        let mut settings = set.missing(pf, index);
        if !settings.is_empty() {
            settings.extend(set.hooks.set(function, set.parameters.words(pf, index, set.machine)));
            function.driver = None;
            wanted.insert(*bdf, settings);
        }
    }
    let mut plan = bind(wish, &free, tables)?;
    for lane in &mut plan.lanes {
        let Some(bdf) = lane.device.pci() else { continue };
        let Some(settings) = wanted.remove(&bdf) else { continue };
        let device = lane.device;
        if inventory.functions.get(&bdf).is_some_and(|function| function.driver.is_some()) {
            lane.prepare.push(Step::Unbind { device, open: wish.open });
        }
        lane.prepare.extend(settings.into_iter().map(|to| Step::Set { device, to }));
        lane.unsupported = set.unsupported;
    }
    Ok(plan)
}
