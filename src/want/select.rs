//! Which functions an entry is about.

use std::collections::{BTreeMap, BTreeSet};

use super::file::Match;
use super::read::Wish;
use crate::model::identity::{Identities, Part, Told};
use crate::model::{Bdf, Inventory, PciFunction, PciId, Role};

/// The functions that an entry selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These, at least one.
    These(Vec<Bdf>),
    /// Whether it is one of these cannot be told: their host driver alone would tell these parts.
    Untold(Vec<Bdf>, BTreeSet<Part>),
    /// None, and why.
    Nothing(String),
}

impl Match {
    /// The parts of an identity that a file has to be read for.
    #[must_use]
    pub fn parts(&self) -> BTreeSet<Part> {
        let wanted = [
            (Part::Serial, self.serial.is_some()),
            (Part::Mac, self.mac.is_some()),
            (Part::Guid, self.guid.is_some()),
            (Part::Netdev, self.netdev.is_some()),
        ];
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(part, _)| part).collect()
    }

    /// Whether the ids are those of a function.
    fn is_product(&self, function: &PciFunction) -> bool {
        let subsystem = self.subsystem.as_ref().map(|of| of.0);
        PciId::of(&function.alias) == self.id.0 && subsystem.is_none_or(|of| of == PciId::of_subsystem(&function.alias))
    }

    /// Whether a function is where the entry says, as far as the inventory tells.
    fn is_place(&self, function: &PciFunction) -> bool {
        let of_pf = match (&self.pf, self.vf) {
            (Some(pf), Some(vf)) => function.role == Role::Vf { pf: pf.0, index: Some(vf) },
            _ => true,
        };
        of_pf && self.address.as_ref().is_none_or(|address| address.0 == function.bdf)
    }

    /// The functions that the inventory alone does not rule out.
    fn candidates<'a>(&'a self, inventory: &'a Inventory) -> impl Iterator<Item = &'a PciFunction> {
        inventory.functions.values().filter(|function| self.is_product(function) && self.is_place(function))
    }

    /// Selects among the functions of a host.
    #[must_use]
    pub fn select(&self, inventory: &Inventory, identities: &Identities) -> Selection {
        let mut these = Vec::new();
        let (mut untold, mut keys) = (Vec::new(), BTreeSet::new());
        let mut others = Vec::new();
        for function in self.candidates(inventory) {
            match self.verdict(function, identities) {
                Verdict::Yes => these.push(function.bdf),
                Verdict::Untold(parts) => {
                    untold.push(function.bdf);
                    keys.extend(parts);
                }
                Verdict::No(why) => others.push(why),
            }
        }
        if !these.is_empty() {
            return Selection::These(these);
        }
        if !untold.is_empty() {
            return Selection::Untold(untold, keys);
        }
        Selection::Nothing(if others.is_empty() { self.absent(inventory) } else { others.join("; ") })
    }

    /// Whether nothing matches yet, and a function may that has a host driver, or is to get one: that tells more when it is up.
    #[must_use]
    pub fn is_told_later(&self, inventory: &Inventory, identities: &Identities) -> bool {
        if matches!(self.select(inventory, identities), Selection::These(_)) {
            return false;
        }
        let in_slot = |function: &PciFunction| {
            self.slot.as_ref().is_none_or(|slot| identities.slot_of(function.bdf) == Some(slot.as_str()))
        };
        let mut all = self.candidates(inventory).filter(|function| !function.is_vfio() && in_slot(function));
        all.any(|function| {
            let nothing = Told::default();
            let told = identities.told.get(&function.bdf).unwrap_or(&nothing);
            self.parts().into_iter().map(|part| self.holds(part, told)).all(|(is, all)| is || all.is_empty())
        })
    }

    fn verdict(&self, function: &PciFunction, identities: &Identities) -> Verdict {
        if let Some(slot) = &self.slot {
            let is = identities.slot_of(function.bdf);
            if is != Some(slot.as_str()) {
                return Verdict::No(format!(
                    "{} is in {}",
                    function.bdf,
                    is.map_or("no slot".into(), |is| format!("slot {is}"))
                ));
            }
        }
        let nothing = Told::default();
        let told = identities.told.get(&function.bdf).unwrap_or(&nothing);
        let mut untold = BTreeSet::new();
        for part in self.parts() {
            let (is, all) = self.holds(part, told);
            if is {
                continue;
            }
            // On its host driver it has no such thing; on another, or on none, it may.
            if all.is_empty() && (function.driver.is_none() || function.is_vfio()) {
                untold.insert(part);
                continue;
            }
            let has = if all.is_empty() { String::from("none") } else { all.join(" and ") };
            return Verdict::No(format!("the {part} of {} is {has}", function.bdf));
        }
        if untold.is_empty() { Verdict::Yes } else { Verdict::Untold(untold) }
    }

    /// Whether a part holds, and all that was told of it.
    fn holds(&self, part: Part, told: &Told) -> (bool, Vec<String>) {
        match part {
            Part::Serial => {
                let is = |wanted: &String| told.serials.iter().any(|serial| serial.eq_ignore_ascii_case(wanted));
                (self.serial.as_ref().is_some_and(is), told.serials.iter().cloned().collect())
            }
            Part::Mac => {
                let is = self.mac.as_ref().is_some_and(|mac| told.macs.contains(&mac.0));
                (is, told.macs.iter().map(ToString::to_string).collect())
            }
            Part::Guid => {
                let is = self.guid.as_ref().is_some_and(|guid| told.guids.contains(&guid.0));
                (is, told.guids.iter().map(ToString::to_string).collect())
            }
            Part::Netdev => {
                let is = self.netdev.as_ref().is_some_and(|name| told.netdevs.contains(name.as_str()));
                (is, told.netdevs.iter().cloned().collect())
            }
        }
    }

    /// Why no function of the inventory comes into question.
    fn absent(&self, inventory: &Inventory) -> String {
        let what = |function: &PciFunction| match self.subsystem {
            Some(_) if PciId::of(&function.alias) == self.id.0 => {
                format!("{} of subsystem {}", self.id.0, PciId::of_subsystem(&function.alias))
            }
            _ => PciId::of(&function.alias).to_string(),
        };
        let moved = || {
            let same: Vec<String> = inventory
                .functions
                .values()
                .filter(|function| self.is_product(function))
                .take(4)
                .map(|function| function.bdf.to_string())
                .collect();
            if same.is_empty() {
                format!("there is no {} on this host", self.id.0)
            } else {
                format!("{} is at {}", self.id.0, same.join(", "))
            }
        };
        match (&self.address, &self.pf, self.vf) {
            (Some(address), ..) => match inventory.functions.get(&address.0) {
                Some(function) if !self.is_product(function) => format!("{} is {}", address.0, what(function)),
                Some(function) => format!("{} is no VF {} of that PF", function.bdf, self.vf.unwrap_or_default()),
                None => format!("there is nothing at {}, and {}", address.0, moved()),
            },
            (None, Some(pf), Some(index)) => match inventory.vf(pf.0, index) {
                Some(function) => format!("{}/vf{index} is {}", pf.0, what(function)),
                None => format!("there is no {}/vf{index}", pf.0),
            },
            _ => moved(),
        }
    }
}

enum Verdict {
    Yes,
    Untold(BTreeSet<Part>),
    No(String),
}

impl Wish {
    /// What has to be read of which functions before it is known what the entries are about.
    #[must_use]
    pub fn asks(&self, inventory: &Inventory) -> BTreeMap<Bdf, BTreeSet<Part>> {
        let mut asks: BTreeMap<Bdf, BTreeSet<Part>> = BTreeMap::new();
        for which in self.matches() {
            let parts = which.parts();
            if parts.is_empty() {
                continue;
            }
            for function in which.candidates(inventory) {
                asks.entry(function.bdf).or_default().extend(&parts);
            }
        }
        asks
    }

    /// Whether an entry names a slot.
    #[must_use]
    pub fn asks_for_slots(&self) -> bool {
        self.matches().any(|which| which.slot.is_some())
    }

    fn matches(&self) -> impl Iterator<Item = &Match> {
        self.entries.iter().filter_map(|entry| entry.kind.which())
    }
}
