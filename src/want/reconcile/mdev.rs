//! `[[mdev]]` and its host.

use super::{Reconciler, Standing, Stands, tell};
use crate::model::{BusName, Target};
use crate::plan::Wanted;
use crate::plan::create::{self, MdevWish};
use crate::step::{Lane, MdevOf, Otherwise, Setting, Step};
use crate::want::file::MdevEntry;

impl Reconciler<'_> {
    pub(super) fn mdev(&mut self, entry: &MdevEntry, parent: &BusName) -> Stands {
        let (uuid, kind) = (entry.uuid.0, &entry.kind.0);
        let device = Target::Mdev(uuid);
        let functions = vec![(device, Wanted::Best)];
        let inventory = self.ground.inventory;
        let Some(of) = inventory.mdev_parents.iter().find(|of| of.name == *parent) else {
            return (
                Ok(Standing::NotApplied(format!("{parent} is no mdev parent of this host"))),
                Vec::new(),
                Vec::new(),
            );
        };
        if !of.types.iter().any(|of| of.id == *kind) {
            let all: Vec<&str> = of.types.iter().map(|kind| kind.id.as_str()).collect();
            let why = format!("{parent} has no type {kind}; it has {}", all.join(", "));
            return (Ok(Standing::NotApplied(why)), Vec::new(), Vec::new());
        }
        let there = inventory.mdevs.iter().find(|mdev| mdev.uuid == uuid);
        if there.is_some_and(|mdev| mdev.parent.as_ref() == Some(parent) && mdev.type_id.as_ref() == Some(kind)) {
            return (Ok(Standing::InPlace), functions, Vec::new());
        }
        let wanted = MdevOf { parent: parent.clone(), kind: kind.clone() };
        let all = self.mdevs.entry(wanted.clone()).or_default();
        all.push(uuid);
        let mut without = inventory.clone();
        without.mdevs.retain(|mdev| mdev.uuid != uuid);
        let wish = MdevWish { parent: parent.clone(), kind: kind.clone(), uuids: all.clone() };
        let mut lane = match create::mdevs(&[wish], &without) {
            Ok(mut plan) => plan.lanes.pop().unwrap_or_else(|| Lane::new(device, Otherwise::LeaveWithout)),
            Err(error) => return (Err(error.into()), functions, Vec::new()),
        };
        if there.is_some() {
            lane.is_made = false;
            lane.finish.insert(0, Step::Set { device, to: Setting::Mdev(None) });
        }
        let change = tell::of_mdev(uuid, there, &wanted);
        self.push(lane);
        (Ok(Standing::Differs(vec![change])), functions, Vec::new())
    }
}
