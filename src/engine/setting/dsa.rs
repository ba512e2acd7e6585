//! The bus `dsa`: attributes of WQs and engines, and the drivers that have devices and WQs.

use crate::engine::StepError;
use crate::engine::act::Act;
use crate::host::{HostError, HostPath, Read, Verb, optional};
use crate::model::dsa::{DsaBound, DsaKey, DsaName, DsaValue};
use crate::model::idxd::CmdStatus;
use crate::model::{BusName, DriverName, Errno, Target};
use crate::step::Setting;

/// An attribute as it is; `None` when it is not there.
pub(super) fn now(host: &dyn Read, like: &DsaValue) -> Result<Option<DsaValue>, HostError> {
    value(host, like.of, like.key)
}

fn value(host: &dyn Read, of: DsaName, key: DsaKey) -> Result<Option<DsaValue>, HostError> {
    let text = optional(host.text(&HostPath::dsa(of).attr(key.attribute())))?;
    Ok(text.map(|text| DsaValue { of, key, value: text.trim().to_owned() }))
}

/// Whether a kernel may not have it: `driver_name` came with 6.7, and before no WQ is one driver's alone.
pub(super) const fn is_optional(to: &Setting) -> bool {
    matches!(to, Setting::Dsa(DsaValue { key: DsaKey::DriverName, .. }))
}

/// The driver of a device or WQ.
pub(in crate::engine) fn driver(host: &dyn Read, of: DsaName) -> Result<Option<DriverName>, HostError> {
    let path = HostPath::dsa(of).attr("driver");
    match optional(host.link_name(&path))? {
        None => Ok(None),
        Some(name) => name.parse().map(Some).map_err(|_| HostError::new(Verb::Read, path, Errno::EINVAL)),
    }
}

/// The driver of a device or WQ, with all that goes when it goes.
///
/// # Kernel
/// `drivers/dma/idxd/device.c` `idxd_wq_disable_cleanup()` of a WQ; `idxd_device_clear_state()` of a device that is
/// configurable (7.2).
pub(super) fn bound(host: &dyn Read, of: DsaName) -> Result<Option<DsaBound>, HostError> {
    let Some(driver) = driver(host, of)? else { return Ok(None) };
    let mut config = Vec::new();
    match of {
        DsaName::Queue(..) => {
            for key in DsaKey::OF_DRIVER {
                config.extend(value(host, of, key)?.filter(|value| key != DsaKey::Threshold || value.value != "0"));
            }
        }
        DsaName::Device(..) => {
            let pasid = optional(host.text(&HostPath::dsa(of).attr("pasid_enabled")))?.is_some_and(|on| on == "1");
            let names = optional(host.list(&HostPath::dsa(of)))?.unwrap_or_default();
            let mut names: Vec<DsaName> = names.iter().filter_map(|name| name.parse().ok()).collect();
            names.sort_unstable();
            for name in names {
                config.extend(value(host, name, DsaKey::Size)?.filter(|size| size.value != "0"));
                let group = value(host, name, DsaKey::GroupId)?.filter(|group| group.value != "-1");
                // A shared WQ in a group would keep a device without PASID from being enabled.
                if group.is_some() && !pasid && matches!(name, DsaName::Queue(..)) {
                    config.push(DsaValue { of: name, key: DsaKey::Mode, value: String::from("dedicated") });
                }
                config.extend(group);
            }
        }
        DsaName::Engine(..) => {}
    }
    Ok(Some(DsaBound { driver, config }))
}

/// What an attribute takes to be as it was. No threshold of 0 can be written; mode `dedicated` makes it so.
///
/// # Kernel
/// `drivers/dma/idxd/sysfs.c` `wq_threshold_store()`, `wq_mode_store()` (7.2).
pub(super) fn way_back(host: &dyn Read, was: &DsaValue) -> Result<Vec<DsaValue>, HostError> {
    if was.key != DsaKey::Threshold || was.value != "0" {
        return Ok(vec![was.clone()]);
    }
    let dedicated = DsaValue { of: was.of, key: DsaKey::Mode, value: String::from("dedicated") };
    Ok(std::iter::once(dedicated).chain(value(host, was.of, DsaKey::Mode)?).collect())
}

/// The write of an attribute.
pub(super) fn set(to: &DsaValue, was: Option<&Setting>) -> Act {
    let was = match was {
        Some(Setting::Dsa(was)) if was.value.is_empty() => Some(String::from("''")),
        Some(Setting::Dsa(was)) => Some(was.value.clone()),
        _ => None,
    };
    // An empty line is how a name is cleared: a write of no bytes does nothing.
    let value = if to.value.is_empty() { String::from("\n") } else { to.value.clone() };
    Act::Write { path: HostPath::dsa(to.of).attr(to.key.attribute()), value, was }
}

/// Keeps off a WQ that somebody has open, and a device that a WQ is enabled of: both would go under whoever has them.
///
/// # Kernel
/// `drivers/dma/idxd/device.c` `idxd_drv_disable_wq()` warns of clients and goes on; `idxd_device_drv_remove()` takes every WQ from
/// its driver (7.2).
pub(super) fn refuse_used(host: &dyn Read, of: DsaName) -> Result<(), StepError> {
    let used = |why| Err(StepError::Used(Target::Dsa(of), why));
    if let DsaName::Queue(..) = of {
        let clients = optional(host.text(&HostPath::dsa(of).attr("clients")))?;
        return match clients.as_deref().map(str::trim) {
            Some("0") | None => Ok(()),
            Some(count) => used(format!("whoever submits to it has it open, clients {count}")),
        };
    }
    for name in optional(host.list(&HostPath::dsa(of)))?.unwrap_or_default() {
        if let Ok(queue @ DsaName::Queue(..)) = name.parse()
            && driver(host, queue)?.is_some()
        {
            return used(format!("{queue} is enabled, and would be disabled with it"));
        }
    }
    Ok(())
}

/// The write that gives a device or WQ to a driver, or takes it away; `None` when there is nobody to take it from.
pub(super) fn give(of: DsaName, to: Option<&DsaBound>, was: Option<&Setting>) -> Option<Act> {
    let (driver, file, told) = match (to, was) {
        (Some(to), _) => (&to.driver, "bind", None),
        (None, Some(Setting::DsaDriver(Some(was)))) => {
            (&was.driver, "unbind", Some(format!("bound to {}", was.driver)))
        }
        (None, _) => return None,
    };
    let path = HostPath::dsa_drivers().child(driver).attr(file);
    Some(Act::Write { path, value: of.to_string(), was: told })
}

/// A refusal of `bind`, with what the device says of it. It is read at once, for the next command writes over it.
///
/// # Kernel
/// `drivers/dma/idxd/sysfs.c` `cmd_status_show()` (7.2).
pub(in crate::engine) fn explained(host: &dyn Read, error: HostError) -> HostError {
    let of_bus = error.path.rest().starts_with(HostPath::dsa_drivers().rest()) && error.path.rest().ends_with("/bind");
    let of = error.value.as_deref().and_then(|name| name.parse::<DsaName>().ok()).filter(|_| of_bus);
    match of.and_then(|of| status(host, of)).filter(|status| status.0 != 0) {
        Some(status) => error.with_said(&status.to_string()),
        None => error,
    }
}

/// `cmd_status` of a device, or of that of a WQ.
fn status(host: &dyn Read, of: DsaName) -> Option<CmdStatus> {
    let link = host.link(&HostPath::dsa(of)).ok()?;
    // …/0000:e7:01.0/dsa0/wq0.1
    let parts: Vec<&str> = link.rsplit('/').take(2).collect();
    let name = parts.into_iter().find(|name| matches!(name.parse(), Ok(DsaName::Device(..))))?;
    let device: BusName = name.parse().ok()?;
    let path = HostPath::fixed(crate::host::path::Root::Sys, "bus/dsa/devices").child(&device).attr("cmd_status");
    u32::from_str_radix(host.text(&path).ok()?.trim_start_matches("0x"), 16).ok().map(CmdStatus)
}
