//! What is known of drivers when a device is matched: aliases, registered drivers, which module has which driver.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::index::Entry;
use super::variants::{self, Release};
use crate::model::driver::{FIELDS, Field, Table};
use crate::model::{AliasPattern, DriverName, ModAlias, ModuleName, Warning};

/// Where an alias was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// modules.builtin.alias.bin: the driver is part of the kernel.
    BuiltIn,
    /// modules.alias, text or binary: the driver is in a module that can be loaded.
    Loadable,
    /// No index: the driver is there without one, and its table is [known](variants::VARIANTS).
    Known,
}

/// One line of modules.alias: a pattern and the module that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The pattern.
    pub pattern: AliasPattern,
    /// The module.
    pub module: ModuleName,
    /// The index it is from.
    pub source: Source,
    /// The module's place in modules.order, lower first.
    pub order: u32,
}

/// Which aliases a lookup is about. Every `vfio_pci:` alias always is: there are a few dozen at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted<'a> {
    /// `pci:` aliases that match one of these devices.
    pub devices: &'a [ModAlias],
    /// All `pci:` aliases of these modules.
    pub modules: &'a [ModuleName],
}

impl Wanted<'_> {
    fn keeps(&self, pattern: &AliasPattern, module: &ModuleName) -> bool {
        pattern.table == Table::Vfio
            || self.devices.iter().any(|device| pattern.matches(device))
            || self.modules.contains(module)
    }
}

/// Everything that matching needs to know of a kernel, gathered beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// The aliases that the lookup is about.
    pub aliases: Vec<Alias>,
    /// `/sys/module/<module>/drivers/pci:<driver>`, of the modules that are loaded or built in.
    pub drivers: BTreeMap<ModuleName, Vec<DriverName>>,
    /// `/sys/bus/pci/drivers/<driver>`.
    pub registered: BTreeSet<DriverName>,
    /// Modules without a known alias that exist all the same: modules.dep or modules.builtin has them.
    pub modules: BTreeSet<ModuleName>,
    /// The kernel's release, to tell which ids a driver without aliases has.
    pub release: Option<Release>,
}

impl Tables {
    /// All aliases that drivers publish in `table`, plus what is known of VFIO drivers that publish none.
    ///
    /// An older kernel has no aliases of built-in drivers anywhere (6.12 has none, 7.2 has them). A VFIO driver that is registered, or whose
    /// module exists, and that no index has a `vfio_pci:` alias of, is taken to have the ids it had when they were read in
    /// the kernel's source, at the newest release that is not newer than this kernel.
    ///
    /// # Kernel
    /// `include/linux/module.h` defines `MODULE_DEVICE_TABLE` to nothing in a built-in driver (6.12).
    pub(super) fn all(&self, table: Table) -> impl Iterator<Item = Alias> {
        let published = self.aliases.iter().filter(move |alias| alias.pattern.table == table).cloned();
        let silent = variants::VARIANTS.iter().filter(move |variant| {
            table == Table::Vfio && self.has(variant.driver, variant.module) && !self.publishes(variant.module)
        });
        published.chain(silent.flat_map(|variant| {
            let order = u32::MAX;
            variant.patterns(self.release).filter_map(move |pattern| {
                Some(Alias { pattern, module: variant.module.parse().ok()?, source: Source::Known, order })
            })
        }))
    }

    /// Whether one of these modules has the device in a table.
    #[must_use]
    pub fn has_alias(&self, modules: &[ModuleName], device: &ModAlias, table: Table) -> bool {
        self.all(table).any(|alias| modules.contains(&alias.module) && alias.pattern.matches(device))
    }

    fn has(&self, driver: &str, module: &str) -> bool {
        self.registered.iter().any(|name| name.as_str() == driver)
            || self.modules.iter().any(|name| name.as_str() == module)
    }

    fn publishes(&self, module: &str) -> bool {
        self.aliases.iter().any(|alias| alias.pattern.table == Table::Vfio && alias.module.as_str() == module)
    }
}

/// Gathers aliases from files, and what was odd in them.
#[derive(Debug, Clone, Default)]
pub struct Collector {
    aliases: Vec<Alias>,
    /// How many PCI aliases had a form that is not known, and the first of them with its place.
    odd: Option<(String, usize)>,
}

impl Collector {
    /// Takes one alias as bytes: keeps it, leaves it out as not wanted, or counts it as odd.
    pub(super) fn add(&mut self, entry: Entry<'_>, source: Source, wanted: &Wanted<'_>) {
        let Entry { key, priority: order, value: module } = entry;
        let parsed = std::str::from_utf8(key).ok().and_then(|key| key.parse::<AliasPattern>().ok());
        let named = std::str::from_utf8(module).ok().and_then(|name| ModuleName::normalised(name).ok());
        match (parsed, named) {
            (Some(pattern), Some(module)) => {
                if wanted.keeps(&pattern, &module) {
                    self.aliases.push(Alias { pattern, module, source, order });
                }
            }
            _ => self.odd(&[key, b" ", module].concat()),
        }
    }

    /// Counts an alias, or a whole line, whose form is not known.
    pub(super) fn odd(&mut self, text: &[u8]) {
        let (_, count) = self.odd.get_or_insert_with(|| {
            let shown: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(120).collect();
            (shown, 0)
        });
        *count += 1;
    }

    /// The aliases in order of source, module and pattern, each once; and one warning about the odd ones of `file`.
    #[must_use]
    pub fn finish(mut self, file: &str) -> (Vec<Alias>, Option<Warning>) {
        self.aliases.sort_by(|a, b| {
            let key = |alias: &Alias| (alias.source, alias.order);
            key(a).cmp(&key(b)).then_with(|| a.module.cmp(&b.module)).then_with(|| a.pattern.order(&b.pattern))
        });
        self.aliases.dedup();
        let warning = self.odd.map(|(first, count)| {
            let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            Warning::new(file, format_args!("left out a PCI alias of an unknown form: {first}{more}"))
        });
        (self.aliases, warning)
    }
}

/// How patterns are compared, so that nothing depends on how a file was written.
pub(super) trait PatternOrder {
    /// The rank of a match, smallest best: how many fields are `*`, then which, from the left, `false` for an exact one.
    fn exactness(&self) -> (u8, [bool; FIELDS]);

    /// By exactness, then by value: a total order.
    fn order(&self, other: &Self) -> Ordering;
}

impl PatternOrder for AliasPattern {
    fn exactness(&self) -> (u8, [bool; FIELDS]) {
        (self.wildcards(), self.fields.map(|field| field == Field::Any))
    }

    fn order(&self, other: &Self) -> Ordering {
        let values = |pattern: &Self| {
            pattern.fields.map(|field| match field {
                Field::Any => 0,
                Field::Exact(value) => value,
            })
        };
        self.exactness().cmp(&other.exactness()).then_with(|| values(self).cmp(&values(other)))
    }
}
