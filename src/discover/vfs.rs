//! What PFs' drivers keep for VFs: asked for devices that were named, for each answer waits for RTNL.

use std::collections::BTreeMap;

use super::vf_attributes;
use crate::host::{HostError, HostPath, Links, Read, optional};
use crate::matching::variants;
use crate::model::devlink::{Behind, DevlinkHandle, DevlinkPort};
use crate::model::vf::{Mac, VfFacts};
use crate::model::{Bdf, Errno, Inventory, Role, Warning};

/// What is kept for those of `devices` that are VFs, one request for each PF; and what could not be asked.
pub fn vf_facts(
    host: &dyn Links,
    inventory: &Inventory,
    devices: impl Iterator<Item = Bdf>,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<Bdf, VfFacts> {
    let mut of_pf: BTreeMap<Bdf, _> = BTreeMap::new();
    let mut ports: BTreeMap<Bdf, Vec<DevlinkPort>> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for vf in devices.filter_map(|bdf| inventory.functions.get(&bdf)) {
        let Role::Vf { pf, index: Some(index) } = vf.role else { continue };
        let all = of_pf.entry(pf).or_insert_with(|| {
            vf_attributes(host, pf).unwrap_or_else(|error| {
                // A driver that keeps nothing has nothing to tell.
                if error.errno != Errno::EOPNOTSUPP {
                    warnings.push(Warning::new(pf, format_args!("what it keeps for its VFs is unknown ({error})")));
                }
                BTreeMap::new()
            })
        });
        // Asked where a driver for it looks at it.
        let migratable = variants::wants_migratable(&vf.alias).and_then(|_| {
            let ports = ports.entry(pf).or_insert_with(|| {
                ports_of(host, pf).unwrap_or_else(|error| {
                    warnings
                        .push(Warning::new(pf, format_args!("what devlink keeps for its VFs is unknown ({error})")));
                    Vec::new()
                })
            });
            Behind::Vf(index).port_in(ports)?.function.as_ref()?.migratable
        });
        let kept = all.remove(&(pf, index));
        if kept.is_some() || migratable.is_some() {
            let (kept, own) = (kept.unwrap_or_default(), own_address(host, vf.bdf));
            found.insert(vf.bdf, VfFacts { kept, own, migratable });
        }
    }
    found
}

/// The devlink ports of a PF, which anybody may read; nothing where devlink does not know it.
fn ports_of(host: &dyn Links, pf: Bdf) -> Result<Vec<DevlinkPort>, HostError> {
    let Ok(handle) = DevlinkHandle::try_from(pf) else { return Ok(Vec::new()) };
    Ok(optional(host.devlink_ports(&handle))?.unwrap_or_default())
}

/// The address that the driver of a VF goes by. A recording that was made without identities has none.
fn own_address(host: &dyn Read, vf: Bdf) -> Option<Mac> {
    let path = HostPath::pci(vf).attr("net");
    let names = optional(host.list(&path)).unwrap_or(None).unwrap_or_default();
    let address = names.first().and_then(|name| path.entry(name)).map(|path| path.attr("address"))?;
    host.text(&address).ok()?.parse().ok().filter(|mac: &Mac| !mac.is_zero())
}
