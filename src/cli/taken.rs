//! What a command takes away from whoever has it: judged before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use super::check::Judged;
use super::report::Trouble;
use super::{Session, in_use};
use crate::check::{self, Finding, FindingId, Purpose, Unfinished};
use crate::discover::Holders;
use crate::host::Host;
use crate::model::{Address, Bdf, Inventory, Target, VfIndex};
use crate::plan::create::users_besides;
use crate::step::{Plan, Setting, Step};
use uuid::Uuid;

/// The host, and what operations before have left of it.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) inventory: &'a Inventory,
    /// The devices that an operation left halfway.
    pub(super) unfinished: &'a BTreeMap<Target, Unfinished>,
}

impl Before<'_> {
    /// What is found of everything that `plan` takes away, and of what it leaves behind.
    pub(super) fn judge(self, plan: &Plan, host: &dyn Host, session: &mut Session<'_, '_>) -> Vec<Finding> {
        let mut found = self.of_functions(&functions(plan, self.inventory), host, session);
        found.extend(self.of_mdevs(&mdevs(plan), host, session));
        found.extend(self.of_pools(plan));
        found
    }

    /// What is found of functions that are taken from their drivers, all of them together.
    pub(super) fn of_functions(
        self,
        devices: &BTreeSet<Bdf>,
        host: &dyn Host,
        session: &mut Session<'_, '_>,
    ) -> Vec<Finding> {
        if devices.is_empty() {
            return Vec::new();
        }
        let purposes: Vec<(Bdf, Purpose)> = devices.iter().map(|bdf| (*bdf, Purpose::None)).collect();
        let Before { inventory, unfinished } = self;
        let judged = Judged { inventory, purposes: &purposes, together: devices, unfinished, probe: true };
        let mut warnings = Vec::new();
        let found = judged.findings(host, &mut warnings);
        session.warn(&warnings);
        found
    }

    fn of_mdevs(self, uuids: &[Uuid], host: &dyn Host, session: &mut Session<'_, '_>) -> Vec<Finding> {
        if uuids.is_empty() {
            return Vec::new();
        }
        let asked = uuids.iter().map(|uuid| Address::Mdev(*uuid)).collect();
        let holders = Holders::read(host, self.inventory, &asked);
        session.warn(&in_use::unseen(&holders));
        let mdevs = self.inventory.mdevs.iter().filter(|mdev| uuids.contains(&mdev.uuid));
        let found = mdevs.flat_map(|mdev| check::mdev(mdev, holders.of(&Address::Mdev(mdev.uuid))));
        // One that nobody can bind is to be removed.
        found.filter(|finding| finding.id != FindingId::MdevUnbound).collect()
    }

    /// The pools that give nothing any more and do not end.
    fn of_pools(self, plan: &Plan) -> Vec<Finding> {
        let mut going: BTreeMap<Bdf, BTreeSet<VfIndex>> = BTreeMap::new();
        for lane in &plan.lanes {
            if let Target::Vf { pf, index } = lane.device {
                going.entry(pf).or_default().insert(index);
            }
        }
        let kept = plan.steps().filter_map(|step| match step {
            Step::Set { device: Target::Pci(pf), to: Setting::Pool(Some(pool)) } => {
                let users = users_besides(*pf, going.get(pf)?, self.inventory);
                (pool.ours && pool.given.is_empty()).then(|| check::kept_pool(*pf, pool.vfs, &users))
            }
            _ => None,
        });
        kept.collect()
    }
}

/// The functions that a plan takes from their drivers for good: VFs that are given back, and all of a PF whose VFs go.
fn functions(plan: &Plan, inventory: &Inventory) -> BTreeSet<Bdf> {
    let mut all = BTreeSet::new();
    for step in plan.lanes.iter().flat_map(|lane| &lane.finish) {
        match step {
            Step::Unbind { device, .. } => all.extend(inventory.place(*device)),
            Step::Set { device: Target::Pci(pf), to: Setting::Vfs(0) } => {
                all.extend(inventory.vfs_of(*pf).map(|vf| vf.bdf));
            }
            _ => {}
        }
    }
    all
}

/// The mdevs that a plan removes.
fn mdevs(plan: &Plan) -> Vec<Uuid> {
    let removed = plan.steps().filter_map(|step| match step {
        Step::Set { device: Target::Mdev(uuid), to: Setting::Mdev(None) } => Some(*uuid),
        _ => None,
    });
    removed.collect()
}

/// The operation that left one of `targets` halfway, or a VF of one of them.
pub(super) fn halfway<'a>(
    targets: &[Target],
    unfinished: &'a BTreeMap<Target, Unfinished>,
) -> Option<(Target, &'a Unfinished)> {
    let concerns = |left: &Target| {
        targets.iter().any(|target| match (target, left) {
            (Target::Pci(pf), left) => left.of_function() == Some(*pf),
            (target, left) => target == left,
        })
    };
    unfinished.iter().find(|(left, _)| concerns(left)).map(|(left, of)| (*left, of))
}

/// A refusal, with what can be done about it here: only `bind` and `unbind` wait for whoever has a device open.
pub(super) fn trouble(finding: &Finding) -> Trouble {
    let trouble = Trouble::from(finding);
    match finding.id {
        FindingId::DeviceOpen | FindingId::GroupOpen => {
            trouble.remedy("end the VM or program that has it open, and ask again")
        }
        _ => trouble,
    }
}
