//! Devices of other buses: an mdev, which is a VFIO device from the start, a WQ and a subfunction, which never are one.

use super::{Finding, FindingId};
use crate::model::idxd::NO_VFIO_PROVIDER;
use crate::model::{Address, Holder, IdxdDevice, Mdev, Subfunction, WorkQueue, counted, sf};

/// What is found of an mdev that is to be given to a VM, and who has it open.
///
/// # Kernel
/// `drivers/vfio/mdev/mdev_driver.c` `mdev_match()`: no driver matches, so that one which was unbound stays so (7.2).
#[must_use]
pub fn mdev(mdev: &Mdev, holders: &[Holder]) -> Vec<Finding> {
    let address = Address::Mdev(mdev.uuid);
    let mut found = Vec::new();
    if !holders.is_empty() {
        let words: Vec<String> = holders.iter().map(ToString::to_string).collect();
        found.push(Finding {
            id: FindingId::DeviceOpen,
            device: Some(address.clone()),
            message: format!("{address} is open: {}", words.join(", ")),
            remedy: String::from("stop what has it open; taking it away waits for that"),
        });
    }
    if mdev.driver.is_none() {
        found.push(Finding {
            id: FindingId::MdevUnbound,
            device: Some(address.clone()),
            message: format!("{address} has no driver, and an mdev is bound only when it is made"),
            remedy: String::from("remove it and make it anew"),
        });
    }
    found
}

/// What is found of a subfunction.
#[must_use]
pub fn subfunction(subfunction: &Subfunction) -> Vec<Finding> {
    let address = subfunction.address();
    vec![Finding {
        id: FindingId::NoVfioProvider,
        message: format!("{address} cannot be given to a VM: it is {}", sf::NO_VFIO_PROVIDER),
        device: Some(address),
        remedy: format!("use it from the host, or make a VF instead: vfioadm create {} vf", subfunction.function),
    }]
}

/// What is found of a WQ.
#[must_use]
pub fn work_queue(device: &IdxdDevice, queue: &WorkQueue) -> Vec<Finding> {
    let address = Address::Wq(queue.address.clone());
    let mut found = Vec::new();
    if queue.clients > 0 {
        found.push(Finding {
            id: FindingId::DeviceOpen,
            device: Some(address.clone()),
            message: format!("{address} has {}", counted(queue.clients, "client")),
            remedy: String::from("stop the programs that submit to it"),
        });
    }
    let instead =
        device.function.map_or_else(String::new, |bdf| format!(", or give all of {} away by {bdf}", device.name));
    found.push(Finding {
        id: FindingId::NoVfioProvider,
        device: Some(address.clone()),
        message: format!("{address} cannot be given to a VM: {NO_VFIO_PROVIDER}; {}", queue.purpose(device)),
        remedy: format!("use it from the host{instead}"),
    });
    found
}
