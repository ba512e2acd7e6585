//! WQs of idxd devices.

use super::{Prepared, not_a_parent};
use crate::cli::args::CreateArgs;
use crate::cli::report::Trouble;
use crate::host::{Host, HostPath, optional};
use crate::model::dsa::DsaName;
use crate::model::{BusName, Inventory, Parent, Target};
use crate::plan::queues::{Others, QueueError, QueueParameters, QueueWish, queues};
use crate::step::Plan;

pub(super) fn plan(
    args: &CreateArgs,
    parameters: &QueueParameters,
    prepared: &Prepared,
    host: &dyn Host,
) -> Result<Plan, Trouble> {
    let mut devices = Vec::new();
    for parent in &prepared.parents {
        match parent {
            Parent::Idxd(name) => devices.push(name.clone()),
            other => return Err(not_a_parent(&other.to_string(), "wq")),
        }
    }
    let driver = parameters.driver();
    if optional(host.list(&HostPath::dsa_drivers().child(driver)))?.is_none() {
        return Err(QueueError::NoDriver(driver.clone()).into());
    }
    for (device, key) in devices.iter().flat_map(|device| parameters.optional().map(move |key| (device, key))) {
        let of = prepared.inventory.idxd.iter().find(|of| of.name == *device);
        let queue = of.and_then(|of| of.work_queues.first()).and_then(|queue| queue.address.as_str().parse().ok());
        let Some(queue) = queue else { continue };
        if optional(host.text(&HostPath::dsa(queue).attr(key.attribute())))?.is_none() {
            return Err(QueueError::Unsupported { device: device.clone(), key }.into());
        }
    }
    let others = if args.yes { Others::Accepted } else { Others::Keep };
    let wish = QueueWish { devices, count: args.count, parameters: parameters.clone(), others };
    Ok(queues(&wish, &prepared.inventory)?)
}

/// The devices that some WQs are of.
pub(super) fn parents(names: &[BusName], inventory: &Inventory) -> Vec<Parent> {
    let mine = |name: &BusName| names.contains(name);
    let of = inventory.idxd.iter().filter(|device| device.work_queues.iter().any(|queue| mine(&queue.address)));
    of.map(|device| Parent::Idxd(device.name.clone())).collect()
}

/// Whether a target is an idxd device, or of it.
pub(super) fn is_of(target: Target, parent: &Parent) -> bool {
    match (target, parent) {
        (Target::Dsa(name), Parent::Idxd(device)) => {
            device.as_str().parse().is_ok_and(|device: DsaName| device.device() == name.device())
        }
        _ => false,
    }
}
