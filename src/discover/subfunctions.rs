//! Subfunctions that are active, which sysfs tells without a lock; and the PCI functions that devlink makes them on: asked when it
//! is wanted, for each answer waits for the lock of a devlink device.

use super::warned;
use crate::host::path::Root;
use crate::host::{HostError, HostPath, Links, Read, optional};
use crate::model::devlink::{Devlink, DevlinkHandle, DevlinkPort, EswitchMode, Flavour};
use crate::model::{Bdf, BusName, Errno, Inventory, PciFunction, SfParent, Subfunction, Warning};

/// Reads the subfunctions of `/sys/bus/auxiliary/devices` into `inventory`. Other devices of that bus are not looked at.
pub(super) fn read(host: &dyn Read, inventory: &mut Inventory) {
    let bus = HostPath::fixed(Root::Sys, "bus/auxiliary/devices");
    let names = warned(optional(host.list(&bus)), "subfunctions", &mut inventory.warnings).unwrap_or_default();
    let names = names.iter().filter(|name| name.contains(".sf.")).filter_map(|name| name.parse::<BusName>().ok());
    let read = |name: BusName| {
        let path = bus.child(&name);
        // The link to the device leads through its PCI function: …/0000:3b:00.0/mlx5_core.sf.4.
        let link = optional(host.link(&path)).unwrap_or(None)?;
        let function = link.rsplit('/').nth(1)?.parse().ok()?;
        let sfnum = optional(host.text(&path.attr("sfnum"))).unwrap_or(None)?.parse().ok()?;
        let driver = optional(host.link_name(&path.attr("driver"))).unwrap_or(None);
        Some(Subfunction { name, function, sfnum, driver: driver.and_then(|name| name.parse().ok()) })
    };
    inventory.subfunctions = names.filter_map(read).collect();
    inventory.subfunctions.sort_by_key(|subfunction| (subfunction.function, subfunction.sfnum));
}

/// The drivers that make ports of subfunctions. devlink tells of no driver whether it has `port_new` before it is asked for one.
///
/// # Kernel
/// `.port_new` in `drivers/net` (7.2): `mellanox/mlx5/core/devlink.c`, `intel/ice/devlink/devlink.c`.
const MAKERS: [&str; 2] = ["mlx5_core", "ice"];

/// The functions of `inventory` that `wanted` says and that have subfunctions, or have a connector, an eswitch in switchdev mode
/// and a driver that makes them; and what could not be asked.
///
/// How many there can be is firmware's setting and is not asked for. In legacy mode a driver is not told from one that never makes
/// any: such a function is left out.
pub fn sf_parents(
    host: &dyn Links,
    inventory: &Inventory,
    wanted: impl Fn(Bdf) -> bool,
) -> (Vec<SfParent>, Vec<Warning>) {
    let mut warnings = Vec::new();
    let handles = host.devlink_handles().unwrap_or_else(|error| {
        warnings.push(Warning::new("devlink", format_args!("subfunctions could not be read ({error})")));
        Vec::new()
    });
    let mut parents = Vec::new();
    for handle in handles {
        let Some(function) = handle.bdf().and_then(|bdf| inventory.functions.get(&bdf)) else { continue };
        if function.pf().is_some() || !wanted(function.bdf) {
            continue;
        }
        match parent(host, &handle, function) {
            Ok(parent) => parents.extend(parent),
            Err(error) => {
                warnings.push(Warning::new(function.bdf, format_args!("subfunctions could not be read ({error})")));
            }
        }
    }
    (parents, warnings)
}

/// What devlink tells of a PF; `None` where it does not know it.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`; `ETIMEDOUT` when somebody has the lock of the devlink device.
pub fn devlink(host: &dyn Links, pf: Bdf) -> Result<Option<Devlink>, HostError> {
    let Ok(handle) = DevlinkHandle::try_from(pf) else { return Ok(None) };
    let Some(ports) = optional(host.devlink_ports(&handle))? else { return Ok(None) };
    Ok(Some(Devlink { eswitch: eswitch(host.eswitch_mode(&handle))?, ports }))
}

/// The mode of an eswitch; `None` of a function that manages none.
fn eswitch(mode: Result<Option<EswitchMode>, HostError>) -> Result<Option<EswitchMode>, HostError> {
    match mode {
        Err(HostError { errno: Errno::EOPNOTSUPP, .. }) => Ok(None),
        other => other,
    }
}

fn parent(host: &dyn Links, handle: &DevlinkHandle, function: &PciFunction) -> Result<Option<SfParent>, HostError> {
    let ports = host.devlink_ports(handle)?;
    let made = ports.iter().filter(|port| port.flavour == Some(Flavour::PciSf)).count();
    let able = function.driver.as_ref().is_some_and(|driver| MAKERS.contains(&driver.as_str()));
    if made == 0 && !(able && has_connector(&ports)) {
        return Ok(None);
    }
    // No driver keeps a subfunction in legacy mode, and where there is one nothing more has to be asked, which wants a privilege.
    let able = |mode| matches!(mode, Some(EswitchMode::Switchdev | EswitchMode::SwitchdevInactive));
    let switchdev = made > 0 || able(eswitch(host.eswitch_mode(handle))?);
    let made = u32::try_from(made).unwrap_or(u32::MAX);
    Ok(switchdev.then_some(SfParent { function: function.bdf, made, total: None, switchdev }))
}

fn has_connector(ports: &[DevlinkPort]) -> bool {
    ports.iter().any(|port| port.flavour == Some(Flavour::Physical))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::inventory;
    use crate::host::fake::FakeHost;
    use crate::host::{Claim, Host as _};
    use crate::model::devlink::PortNew;

    #[test]
    fn a_pf_is_a_parent_in_switchdev_mode_only() {
        let host = FakeHost::demo().unwrap();
        let inventory = inventory(&host).unwrap();
        let parents = || sf_parents(&host, &inventory, |_| true);
        assert_eq!(parents(), (Vec::new(), Vec::new()));
        let pf: Bdf = "0000:3b:00.0".parse().unwrap();
        let handle = pf.try_into().unwrap();
        let lock = host.lock(&Claim::new("a test", &host)).unwrap();
        let hand = lock.hand();
        hand.set_eswitch_mode(&handle, EswitchMode::Switchdev).unwrap();
        let parent = |made| SfParent { function: pf, made, total: None, switchdev: true };
        assert_eq!(parents(), (vec![parent(0)], Vec::new()));
        hand.add_port(&handle, PortNew { pf: 0, sf: 88, controller: None }).unwrap();
        assert_eq!(parents(), (vec![parent(1)], Vec::new()));
        assert_eq!(sf_parents(&host, &inventory, |bdf| bdf != pf).0, []);
    }
}
