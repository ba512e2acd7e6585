//! What is made and is no PCI function and no mdev: as it is when all was done, and why it was not made.

use serde::Serialize;

use super::Made;
use crate::cli::types::QueueView;
use crate::discover;
use crate::engine::{LaneResult, StepError};
use crate::host::{Host, HostError, Verb};
use crate::model::dsa::DsaName;
use crate::model::idxd::NO_VFIO_PROVIDER;
use crate::model::{Errno, Inventory, Target};

/// What has an object of its own in a row; `null` for what is none of it.
#[derive(Default, Serialize)]
pub(super) struct Beside {
    pub(super) wq: Option<QueueView>,
}

/// What was read when all was done, once and only where such were made or unmade.
#[derive(Default)]
pub(super) struct After {
    inventory: Inventory,
}

impl After {
    pub(super) fn read(lanes: &[LaneResult], host: &dyn Host) -> Self {
        let of_idxd = lanes.iter().any(|lane| matches!(lane.device, Target::Dsa(_)));
        // What cannot be read is not shown.
        let inventory = if of_idxd { discover::inventory(host).unwrap_or_default() } else { Inventory::default() };
        Self { inventory }
    }

    /// What a WQ is now, and its lines for people.
    pub(super) fn queue(&self, name: DsaName) -> (Beside, Vec<String>) {
        let Some((device, queue)) = self.inventory.work_queue(&name.to_string()) else {
            return (Beside::default(), vec![String::from("WQ, gone with its device")]);
        };
        let words = match &queue.driver {
            None => vec![String::from("WQ, destroyed: it is disabled, and no driver has it")],
            Some(driver) => {
                let group = queue.group.map_or_else(String::new, |group| format!(", group {group}"));
                let threshold =
                    if queue.threshold > 0 { format!(", threshold {}", queue.threshold) } else { String::new() };
                let (mode, size) = (queue.mode.as_str(), queue.size);
                vec![
                    format!("WQ of {}, on {driver}: {mode}, {size} entries{threshold}{group}", device.name),
                    format!("{}; {NO_VFIO_PROVIDER}", queue.purpose(device)),
                ]
            }
        };
        (Beside { wq: Some(QueueView::of(device, queue)) }, words)
    }
}

/// Its id, what happened, and what to do next.
pub(super) type Words = (&'static str, String, String);

/// Why it did not come to what was asked; `None` when that is said elsewhere.
pub(super) fn trouble(made: &Made<'_>, lane: &LaneResult, error: &StepError) -> Option<Words> {
    match (error, lane.device) {
        (StepError::Host(error @ HostError { verb: Verb::Write, .. }), Target::Dsa(name)) => {
            Some(of_idxd(made, name, error))
        }
        _ => None,
    }
}

fn of_idxd(made: &Made<'_>, name: DsaName, error: &HostError) -> Words {
    let path = error.path.rest();
    let file = path.rsplit('/').next().unwrap_or_default();
    let driver = path.rsplit('/').nth(1).unwrap_or_default();
    let log =
        function_of(made, name).map_or_else(|| String::from("dmesg | grep idxd"), |bdf| format!("dmesg | grep {bdf}"));
    match file {
        "bind" => {
            let why = error.said.as_deref().map_or_else(String::new, |said| format!(": {said}"));
            (
                "driver-refused",
                format!("{name} did not bind to {driver}{why}"),
                format!("the driver's own reason is in the kernel log: {log}"),
            )
        }
        "unbind" => ("not-made", format!("{driver} did not let {name} go"), format!("see the kernel log: {log}")),
        _ => (
            "parameter-refused",
            format!(
                "{driver} does not take {file} {}: {}",
                error.value.as_deref().unwrap_or_default(),
                attribute_words(error.errno)
            ),
            String::from("correct its value, or leave it out of --set"),
        ),
    }
}

/// The PCI function of an idxd device, which is what the kernel log names.
fn function_of(made: &Made<'_>, name: DsaName) -> Option<crate::model::Bdf> {
    let same = |device: &&crate::model::IdxdDevice| {
        device.name.as_str().parse().is_ok_and(|device: DsaName| device.device() == name.device())
    };
    made.inventory.idxd.iter().find(same).and_then(|device| device.function)
}

/// # Kernel
/// `drivers/dma/idxd/sysfs.c` `wq_*_store()`, `engine_group_id_store()` (7.2).
fn attribute_words(errno: Errno) -> String {
    match errno {
        Errno::EPERM | Errno::ENXIO => {
            String::from("the device is not configurable, or somebody has enabled the WQ since")
        }
        Errno::EINVAL => String::from("it takes no such value, or its device has no room for it"),
        Errno::EOPNOTSUPP => String::from("the device has not got it"),
        other => other.to_string(),
    }
}
