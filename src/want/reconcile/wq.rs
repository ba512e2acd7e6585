//! `[[wq]]` and its host.

use std::collections::BTreeSet;

use super::{Reconciler, Refused, Standing, Stands, tell};
use crate::model::dsa::{DsaKey, DsaName, DsaValue};
use crate::model::idxd::IdxdIndex;
use crate::model::{Bdf, Target};
use crate::plan::Wanted;
use crate::plan::queues::{Numbered, QueueError, QueueParameters, others};
use crate::want::file::WqEntry;
use crate::want::read::{EntryKind, Mistake};
use crate::want::select::Selection;

impl Reconciler<'_> {
    pub(super) fn wq(&mut self, entry: &WqEntry, of: &QueueParameters, function: Bdf) -> Stands {
        let device = self.ground.inventory.idxd.iter().find(|device| device.function == Some(function));
        let Some(device) = device else {
            let why = format!("{function} has no idxd device: driver idxd does not have it");
            return (Ok(Standing::NotApplied(why)), Vec::new(), Vec::new());
        };
        // What is planned for those after it is not kept when it is refused.
        let mut going = self.idxd.remove(&function).unwrap_or_else(|| Numbered::of(device));
        let name = going.queue(entry.wq).ok().and_then(|queue| queue.address.as_str().parse().ok());
        let functions = name.map(|name| (Target::Dsa(name), Wanted::Best)).into_iter().collect();
        let lost = others(device, &self.queues_of(function)).join(", ");
        let standing = self.stands(entry, of, (&mut going, lost));
        self.idxd.insert(function, going);
        (standing, functions, Vec::new())
    }

    fn stands(
        &mut self,
        entry: &WqEntry,
        of: &QueueParameters,
        (going, others): (&mut Numbered, String),
    ) -> Result<Standing, Refused> {
        let told = &self.ground.known.idxd;
        let queue = going.queue(entry.wq)?;
        if queue.enabled {
            let differences = going.differences(queue, of, told)?;
            if differences.is_empty() {
                return Ok(Standing::InPlace);
            }
            let Some(lane) = going.set_live(queue, of, &differences)? else {
                let words: Vec<String> =
                    differences.iter().map(|of| format!("{} {}, not {}", of.key, of.now, of.wanted)).collect();
                return Err(QueueError::Differs { queue: queue.address.clone(), what: words.join("; ") }.into());
            };
            let words: Vec<String> =
                differences.iter().map(|of| format!("{} {} -> {}", of.key, of.now, of.wanted)).collect();
            let change = tell::of_queue(lane.device, words.join(", "));
            self.push(lane);
            return Ok(Standing::Differs(vec![change]));
        }
        let is_on = going.is_going_to_be_enabled();
        let (name, given) = going.make(entry.wq, of, told, &mut self.plan)?;
        // Each of them is gone without when that is not to be lost.
        let queue = tell::of_new_queue(name, words(name, &given, of), if is_on { &others } else { "" });
        let device = if is_on { None } else { Some(tell::of_idxd(going.device()?, &others)) };
        Ok(Standing::Differs(device.into_iter().chain([queue]).collect()))
    }

    /// The entries about WQs of a device that another entry takes from driver idxd.
    pub(super) fn taken_from_idxd(&self) -> Vec<Mistake> {
        let mut all = Vec::new();
        for device in &self.wish.entries {
            let EntryKind::Device(taken) = &device.kind else { continue };
            let Selection::These(functions) = taken.which.select(self.ground.inventory, self.ground.identities) else {
                continue;
            };
            if taken.driver.0 == Wanted::Host {
                continue;
            }
            for wq in &self.wish.entries {
                let EntryKind::Wq(entry, _) = &wq.kind else { continue };
                if let Some(function) = functions.iter().find(|function| self.selects(&entry.which, **function)) {
                    let message =
                        format!("{function} has its WQs on driver idxd alone, and {} takes it away", device.place);
                    let hint = Some(String::from("keep one of them, or give the device its host driver"));
                    all.push(Mistake { place: wq.place.clone(), message, hint });
                }
            }
        }
        all
    }

    /// The numbers of the WQs of a device that the file is about.
    fn queues_of(&self, function: Bdf) -> BTreeSet<IdxdIndex> {
        let mut all = BTreeSet::new();
        for entry in &self.wish.entries {
            if let EntryKind::Wq(entry, _) = &entry.kind
                && self.selects(&entry.which, function)
            {
                all.insert(entry.wq);
            }
        }
        all
    }
}

/// What a WQ is given, as sysfs spells it, and the driver that it goes to.
fn words(name: DsaName, given: &[DsaValue], of: &QueueParameters) -> String {
    let mut all: Vec<String> = Vec::new();
    for value in given.iter().filter(|value| value.key != DsaKey::DriverName) {
        all.push(if value.of == name { format!("{} {}", value.key, value.value) } else { value.to_string() });
    }
    all.push(format!("driver {}", of.driver()));
    all.join(", ")
}
