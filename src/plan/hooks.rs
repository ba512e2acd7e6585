//! What vendors' tools have to do with VFs: after everything else that a driver finds, and only where there is something to take
//! back.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Bdf, Hook, HookId, HookWay, PciFunction, Role, VfIndex};
use crate::step::Setting;

/// What is known of hooks.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Those that there are.
    pub there: BTreeSet<HookId>,
    /// The VFs that one has made ready, with what it was given.
    pub run: BTreeMap<(Bdf, VfIndex), Hook>,
}

impl Hooks {
    /// What makes a VF ready that is to have `parameters`.
    pub(super) fn set(&self, vf: &PciFunction, parameters: String) -> Option<Setting> {
        let Role::Vf { pf, index: Some(index) } = vf.role else { return None };
        let id = HookId::of(&vf.alias);
        self.there.contains(&id).then_some(Setting::Hook(Hook { pf, index, id, way: HookWay::Set, parameters }))
    }

    /// What takes that back, where it was done.
    pub(super) fn undo(&self, vf: (Bdf, VfIndex)) -> Option<Setting> {
        self.run.get(&vf).map(|set| Setting::Hook(set.that_way(HookWay::Undo)))
    }
}
