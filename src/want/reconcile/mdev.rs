//! `[[mdev]]` and its host.

use super::{Reconciler, Refused, Standing, Stands, tell};
use crate::model::{BusName, Mdev, MdevAttribute, Target};
use crate::plan::Wanted;
use crate::plan::create::{self, MdevWish};
use crate::step::{Lane, MdevOf, Otherwise, Setting, Step};
use crate::want::file::MdevEntry;

impl Reconciler<'_> {
    pub(super) fn mdev(&mut self, entry: &MdevEntry, parent: &BusName) -> Stands {
        let (uuid, kind) = (entry.uuid.0, &entry.kind.0);
        let inventory = self.ground.inventory;
        let not = |why: String| (Ok(Standing::NotApplied(why)), Vec::new(), Vec::new());
        let Some(of) = inventory.mdev_parents.iter().find(|of| of.name == *parent) else {
            return not(format!("{parent} is no mdev parent of this host"));
        };
        if !of.types.iter().any(|of| of.id == *kind) {
            let all: Vec<&str> = of.types.iter().map(|kind| kind.id.as_str()).collect();
            return not(format!("{parent} has no type {kind}; it has {}", all.join(", ")));
        }
        let functions = vec![(Target::Mdev(uuid), Wanted::Best)];
        let there = inventory.mdevs.iter().find(|mdev| mdev.uuid == uuid);
        if there.is_some_and(|mdev| mdev.parent.as_ref() == Some(parent) && mdev.type_id.as_ref() == Some(kind)) {
            return (Ok(self.attributes(entry)), functions, Vec::new());
        }
        let wanted = MdevOf { parent: parent.clone(), kind: kind.clone() };
        (self.made(entry, there, &wanted), functions, Vec::new())
    }

    /// An mdev that is made, after the one of its name that is there has gone.
    fn made(&mut self, entry: &MdevEntry, there: Option<&Mdev>, wanted: &MdevOf) -> Result<Standing, Refused> {
        let uuid = entry.uuid.0;
        let device = Target::Mdev(uuid);
        let all = self.mdevs.entry(wanted.clone()).or_default();
        all.push(uuid);
        let mut without = self.ground.inventory.clone();
        without.mdevs.retain(|mdev| mdev.uuid != uuid);
        let attributes: Vec<MdevAttribute> = entry.attributes.iter().map(|of| of.0.clone()).collect();
        let change = tell::of_mdev(uuid, there, wanted, &attributes);
        let (parent, kind) = (wanted.parent.clone(), wanted.kind.clone());
        let wish = MdevWish { parent, kind, uuids: all.clone(), attributes };
        let lane = create::mdevs(&[wish], &without)?.lanes.pop();
        let mut lane = lane.unwrap_or_else(|| Lane::new(device, Otherwise::LeaveWithout));
        if there.is_some() {
            lane.is_made = false;
            lane.finish.insert(0, Step::Set { device, to: Setting::Mdev(None) });
        }
        self.push(lane);
        Ok(Standing::Differs(vec![change]))
    }

    /// The attributes of an mdev that is there. One that is given several times adds up, and is no value to compare; nor is one
    /// that cannot be read.
    fn attributes(&mut self, entry: &MdevEntry) -> Standing {
        let uuid = entry.uuid.0;
        let once = |of: &MdevAttribute| entry.attributes.iter().filter(|other| other.0.name == of.name).count() == 1;
        let mut changes = Vec::new();
        let mut lane = Lane::new(Target::Mdev(uuid), Otherwise::LeaveWithout);
        for of in entry.attributes.iter().map(|of| &of.0).filter(|of| once(of)) {
            let Some(now) = self.ground.known.mdev_attributes.get(&(uuid, of.name.clone())) else { continue };
            if *now != of.value {
                changes.push(tell::of_attribute(uuid, of, now));
                lane.finish.push(Step::Set { device: lane.device, to: Setting::MdevAttribute(of.clone()) });
            }
        }
        if changes.is_empty() {
            return Standing::InPlace;
        }
        self.push(lane);
        Standing::Differs(changes)
    }
}
