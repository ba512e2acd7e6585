//! Which VFIO drivers suit a device, best first, and why. Pure: tables in, candidates out.
//!
//! The rule is written down in `docs/matching.md` as text that another tool can adopt, and
//! `tests/matching/vectors.json` holds both to it. [`tables`] is what a choice is made from, [`index`] and [`text`] read it
//! from depmod's files, [`names`] leads from modules to drivers, [`variants`] holds what is known of each driver of the
//! kernel's tree, and [`mod@predict`] says what a probe will probably answer, which changes no choice.

pub mod encode;
pub mod index;
pub mod names;
pub mod predict;
pub mod tables;
pub mod text;
pub mod variants;
#[cfg(test)]
mod vectors;

use std::collections::BTreeMap;
use std::fmt;

pub use index::IndexError;
pub use predict::{DeviceFacts, Expect, Prediction, predict};
pub use tables::{Alias, Collector, Source, Tables, Wanted};
pub use variants::Release;

use crate::model::driver::Table;
use crate::model::{AliasPattern, DriverName, ModAlias, ModuleName};
use tables::PatternOrder;

/// Where a candidate's driver is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Availability {
    /// Its module is loaded.
    Loaded,
    /// It is part of the kernel, and publishes its aliases.
    BuiltIn,
    /// Its module has to be loaded.
    Loadable,
    /// It is registered, and no index has an alias of it: what is known of its table is ours.
    Registered,
}

impl Availability {
    /// The word, as JSON has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::BuiltIn => "built-in",
            Self::Loadable => "loadable",
            Self::Registered => "registered",
        }
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A VFIO driver whose id table matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its place, 1 is best.
    pub rank: u32,
    /// The driver: what `driver_override` takes.
    pub driver: DriverName,
    /// The module it is in; `None` for a driver that is registered and of which no module is known.
    pub module: Option<ModuleName>,
    /// The entry of its table that matches best.
    pub alias: AliasPattern,
    /// How many fields of that entry are `*`.
    pub wildcards: u8,
    /// Where the driver is.
    pub availability: Availability,
}

/// The VFIO drivers whose id tables match a device, best first, each driver once.
///
/// Fewest wildcard fields first; of equals the one whose exact fields are further left; of equals still, by the driver's
/// name in byte order. No order of files, lines or modules has a part in it.
#[must_use]
pub fn candidates(device: &ModAlias, tables: &Tables) -> Vec<Candidate> {
    let mut best: BTreeMap<DriverName, Alias> = BTreeMap::new();
    for alias in tables.all(Table::Vfio).filter(|alias| alias.pattern.matches(device)) {
        let Some(driver) = names::vfio_driver(&alias.module, tables) else { continue };
        let better = |old: &Alias| {
            let order = alias.pattern.order(&old.pattern);
            order.then_with(|| alias.source.cmp(&old.source)).then_with(|| alias.module.cmp(&old.module)).is_lt()
        };
        if best.get(&driver).is_none_or(better) {
            best.insert(driver, alias);
        }
    }
    let mut ranked: Vec<(DriverName, Alias)> = best.into_iter().collect();
    // Stable, and the map gave them in the order of their names.
    ranked.sort_by_key(|(_, alias)| alias.pattern.exactness());
    (1..)
        .zip(ranked)
        .map(|(rank, (driver, alias))| {
            let registered = tables.registered.contains(&driver);
            let availability = match alias.source {
                Source::BuiltIn => Availability::BuiltIn,
                Source::Known if registered => Availability::Registered,
                Source::Loadable if registered => Availability::Loaded,
                Source::Loadable | Source::Known => Availability::Loadable,
            };
            let module = (availability != Availability::Registered).then_some(alias.module);
            let wildcards = alias.pattern.wildcards();
            Candidate { rank, driver, module, alias: alias.pattern, wildcards, availability }
        })
        .collect()
}

/// A native driver's module whose id table matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCandidate {
    /// The module.
    pub module: ModuleName,
    /// Its driver, when the module is loaded: the names of others are not known.
    pub driver: Option<DriverName>,
    /// The entry of its table that matches best.
    pub alias: AliasPattern,
    /// Whether it is part of the kernel.
    pub source: Source,
}

/// The native drivers whose id tables match a device, in the order in which the kernel would come to try them: built-in
/// ones, then modules in the order of modules.order. They say which driver a device can be given back to.
///
/// An empty answer does not mean that there is none: older kernels publish no aliases of built-in drivers. Without an
/// override, a write to `drivers_probe` finds those.
#[must_use]
pub fn host_candidates(device: &ModAlias, tables: &Tables) -> Vec<HostCandidate> {
    let mut matching: Vec<Alias> = tables.all(Table::Native).filter(|alias| alias.pattern.matches(device)).collect();
    matching.sort_by(|a, b| {
        let place = |alias: &Alias| (alias.source, alias.order);
        place(a).cmp(&place(b)).then_with(|| a.module.cmp(&b.module)).then_with(|| a.pattern.order(&b.pattern))
    });
    let mut hosts: Vec<HostCandidate> = Vec::new();
    for Alias { pattern: alias, module, source, .. } in matching {
        if hosts.iter().all(|host| host.module != module) {
            hosts.push(HostCandidate { driver: names::native_driver(&module, tables), module, alias, source });
        }
    }
    hosts
}

/// What the id table of a driver that somebody named says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverTable {
    /// It has this entry, the best of those that match.
    Matches(AliasPattern),
    /// It has entries, and none matches.
    DoesNotMatch {
        /// `vfio_pci:` or `pci:`.
        table: Table,
        /// How many entries.
        entries: usize,
    },
    /// The driver exists, and nothing is known of its table: it has no static ids (`pci-stub`, `uio_pci_generic`), or is
    /// built into a kernel that publishes none.
    Unknown,
    /// There is no such driver.
    NoSuchDriver {
        /// One whose name differs in dashes and underscores only: `vfio-pci` for `vfio_pci`.
        nearest: Option<DriverName>,
    },
}

impl DriverTable {
    /// Whether `driver`, whose table this is, makes VFIO devices: its table says so; where it is not known, its name does.
    #[must_use]
    pub fn is_vfio(&self, driver: &DriverName) -> bool {
        match self {
            Self::Matches(pattern) => pattern.table == Table::Vfio,
            Self::DoesNotMatch { table, .. } => *table == Table::Vfio,
            Self::Unknown | Self::NoSuchDriver { .. } => driver.is_vfio(),
        }
    }
}

/// Looks up a named driver's id table: a VFIO driver's by its `vfio_pci:` aliases, any other's by its `pci:` aliases.
///
/// A driver exists when it is registered, or when a module that has a driver of this name does. `tables` must have been
/// read with the driver named ([`Wanted::modules`]), or a native table cannot be told from an unknown one.
#[must_use]
pub fn table_of(driver: &DriverName, device: &ModAlias, tables: &Tables) -> DriverTable {
    let modules = names::modules_of(driver, tables);
    for table in [Table::Vfio, Table::Native] {
        let entries: Vec<Alias> = tables.all(table).filter(|alias| modules.contains(&alias.module)).collect();
        if entries.is_empty() {
            continue;
        }
        let matching = entries.iter().map(|alias| &alias.pattern).filter(|pattern| pattern.matches(device));
        return match matching.min_by(|a, b| a.order(b)) {
            Some(pattern) => DriverTable::Matches(pattern.clone()),
            None => DriverTable::DoesNotMatch { table, entries: entries.len() },
        };
    }
    if tables.registered.contains(driver) || modules.iter().any(|module| tables.modules.contains(module)) {
        DriverTable::Unknown
    } else {
        DriverTable::NoSuchDriver { nearest: names::nearest(driver, tables) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: ModAlias = ModAlias::new(0x15b3, 0x1018, (0x15b3, 8), 0x020000);

    fn tables(lines: &[&str]) -> Tables {
        let alias = |(line, order): (&&str, u32)| {
            let (pattern, module) = line.split_once(' ').unwrap();
            let (pattern, module) = (pattern.parse().unwrap(), module.parse().unwrap());
            Alias { pattern, module, source: Source::Loadable, order }
        };
        Tables { aliases: lines.iter().zip(0..).map(alias).collect(), ..Tables::default() }
    }

    fn ask(driver: &str, tables: &Tables) -> DriverTable {
        table_of(&driver.parse().unwrap(), &DEVICE, tables)
    }

    #[test]
    fn a_vfio_driver_is_held_to_its_vfio_aliases() {
        let tables = tables(&[
            "vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci",
            "vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci",
            "pci:v000015B3d00001018sv*sd*bc*sc*i* mlx5_vfio_pci",
        ]);
        assert_eq!(ask("vfio-pci", &tables), DriverTable::Matches(AliasPattern::catch_all(Table::Vfio)));
        assert_eq!(ask("mlx5_vfio_pci", &tables), DriverTable::DoesNotMatch { table: Table::Vfio, entries: 1 });
    }

    #[test]
    fn any_other_driver_is_held_to_its_pci_aliases() {
        let tables = tables(&["pci:v000015B3d00001018sv*sd*bc*sc*i* mlx5_core", "pci:v*d*sv*sd*bc01sc08i02* nvme"]);
        let wanted = AliasPattern::of_ids(Table::Native, 0x15b3, 0x1018);
        assert_eq!(ask("mlx5_core", &tables), DriverTable::Matches(wanted));
        assert_eq!(ask("nvme", &tables), DriverTable::DoesNotMatch { table: Table::Native, entries: 1 });
    }

    #[test]
    fn a_driver_without_a_table_is_unknown_and_one_that_is_nowhere_is_none() {
        let mut tables = tables(&["vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci"]);
        tables.registered.insert("pci-stub".parse().unwrap());
        tables.modules.insert("uio_pci_generic".parse().unwrap());
        assert_eq!(ask("pci-stub", &tables), DriverTable::Unknown);
        assert_eq!(ask("uio_pci_generic", &tables), DriverTable::Unknown);
        let nearest = |name: &str| DriverTable::NoSuchDriver { nearest: Some(name.parse().unwrap()) };
        assert_eq!(ask("vfio_pci", &tables), nearest("vfio-pci"));
        assert_eq!(ask("pci_stub", &tables), nearest("pci-stub"));
        assert_eq!(ask("nothing", &tables), DriverTable::NoSuchDriver { nearest: None });
    }

    #[test]
    fn a_built_in_variant_of_an_old_kernel_is_held_to_the_ids_it_had() {
        let mut tables = Tables { release: "6.12".parse().ok(), ..Tables::default() };
        tables.registered.insert("mlx5_vfio_pci".parse().unwrap());
        assert_eq!(ask("mlx5_vfio_pci", &tables), DriverTable::DoesNotMatch { table: Table::Vfio, entries: 1 });
    }

    #[test]
    fn availability_says_where_the_driver_is() {
        let mut tables = tables(&["vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci", "vfio_pci:v000015B3d*sv*sd*bc*sc*i* acme"]);
        tables.aliases[1].source = Source::BuiltIn;
        let words = |tables: &Tables| -> Vec<&str> {
            candidates(&DEVICE, tables).iter().map(|candidate| candidate.availability.word()).collect()
        };
        assert_eq!(words(&tables), ["built-in", "loadable"]);
        tables.registered.insert("vfio-pci".parse().unwrap());
        assert_eq!(words(&tables), ["built-in", "loaded"]);
        tables.aliases.clear();
        assert_eq!(words(&tables), ["registered"]);
    }
}
