//! Who has the devices open that are to be judged, asked in the order of what it costs: the kernel's own count, then
//! `/proc`, and the group node only where these say nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::check::Judged;
use super::open;
use crate::discover::Holders;
use crate::host::{Host, vfio_device_is_open};
use crate::model::{Address, Bdf, GroupId, Hold, Holder, InUse, PciFunction, Role, Warning};

/// In what ways each judged device is in use, or a VF of it that would go with it.
pub(super) fn gather(host: &dyn Host, judged: &Judged<'_>, warnings: &mut Vec<Warning>) -> BTreeMap<Bdf, Vec<InUse>> {
    let inventory = judged.inventory;
    let functions = || judged.purposes.iter().filter_map(|(bdf, _)| inventory.functions.get(bdf));
    let own = |function: &PciFunction| -> Vec<&PciFunction> {
        let vfs = matches!(function.role, Role::Pf { .. }).then(|| inventory.vfs_of(function.bdf));
        let own = inventory.functions.get(&function.bdf).into_iter().chain(vfs.into_iter().flatten());
        // Nobody takes a bridge.
        own.filter(|function| !function.class().is_bridge()).collect()
    };
    let mut look = Look { host, judged, groups: BTreeMap::new(), warnings };
    let mut asked: BTreeSet<Address> = BTreeSet::new();
    for function in functions().flat_map(own) {
        if look.is_worth_asking(function) {
            asked.insert(function.bdf.into());
            asked.extend(look.beside(function));
        }
    }
    let holders = Holders::read(host, inventory, &asked);
    look.warnings.extend(unseen(&holders));
    let mut found: BTreeMap<Bdf, Vec<InUse>> = BTreeMap::new();
    for function in functions() {
        let uses = own(function).into_iter().filter_map(|part| look.in_use(part, &holders));
        let uses: Vec<InUse> = uses.collect();
        if !uses.is_empty() {
            found.insert(function.bdf, uses);
        }
    }
    found
}

/// What somebody who is not root does not see.
pub(super) fn unseen(holders: &Holders) -> Vec<Warning> {
    let some = Some(holders.unreadable).filter(|processes| *processes > 0);
    let words = |processes| format!("what {processes} processes have open is unknown: root can see it");
    some.map(|processes| Warning::new("/proc", words(processes))).into_iter().collect()
}

struct Look<'a> {
    host: &'a dyn Host,
    judged: &'a Judged<'a>,
    /// Whether a group is open, asked once.
    groups: BTreeMap<GroupId, bool>,
    warnings: &'a mut Vec<Warning>,
}

impl Look<'_> {
    /// Whether any process can hold a function: not a VFIO device whose driver has not enabled it, that has no cdev and
    /// whose group nobody has.
    fn is_worth_asking(&mut self, function: &PciFunction) -> bool {
        let Some(vfio) = &function.vfio_dev else { return true };
        let may_be_open = || vfio_device_is_open(self.host, function.bdf).unwrap_or(None) != Some(false);
        vfio.has_cdev || may_be_open() || self.group_is_open(function)
    }

    /// In what way one function is in use.
    fn in_use(&mut self, function: &PciFunction, holders: &Holders) -> Option<InUse> {
        let all = holders.of(&function.bdf.into());
        let by =
            |hold: Hold| -> Vec<Holder> { all.iter().filter(|holder| holder.how.hold() == hold).cloned().collect() };
        let used = |hold, holders| Some(InUse { function: function.bdf, hold, holders });
        let (device, group, bar) = (by(Hold::Device), by(Hold::Group), by(Hold::Bar));
        if !device.is_empty() {
            used(Hold::Device, device)
        } else if holders.is_open(function.bdf) == Some(true) {
            used(Hold::Device, Vec::new())
        } else if !group.is_empty() {
            used(Hold::Group, group)
        } else if self.group_is_open(function) {
            // Who has another device of the group open has the group.
            let beside = self.beside(function);
            let all: BTreeSet<&Holder> = beside.iter().flat_map(|other| holders.of(other)).collect();
            used(Hold::Group, all.into_iter().filter(|holder| holder.how.hold() == Hold::Device).cloned().collect())
        } else if !bar.is_empty() {
            used(Hold::Bar, bar)
        } else {
            None
        }
    }

    /// The other VFIO devices of its group.
    fn beside(&self, function: &PciFunction) -> Vec<Address> {
        let others = self.judged.inventory.group_siblings(function.bdf).filter(|_| function.is_vfio());
        others.filter(|other| other.is_vfio()).map(|other| other.bdf.into()).collect()
    }

    fn group_is_open(&mut self, function: &PciFunction) -> bool {
        let Some(group) = function.group.filter(|_| self.judged.probe && function.is_vfio()) else { return false };
        if let Some(known) = self.groups.get(&group) {
            return *known;
        }
        let answer = open::group_is_open(self.host, group).unwrap_or_else(|error| {
            let message = format!("whether somebody uses it is unknown ({error})");
            self.warnings.push(Warning::new(function.bdf, message));
            false
        });
        self.groups.insert(group, answer);
        answer
    }
}
