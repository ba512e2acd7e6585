//! The running kernel's driver tables, or another's: depmod's files and sysfs, read into what [`matching`] takes.
//!
//! [`matching`]: crate::matching

use std::collections::BTreeSet;

use crate::host::path::Root;
use crate::host::{HostError, HostPath, Read, optional};
use crate::matching::{Alias, Collector, Source, Tables, Wanted, index, names, text, variants};
use crate::model::{AliasPattern, DriverName, ModAlias, ModuleName, Warning};

/// Whose tables are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// The running kernel's: its module directory, and the drivers that sysfs shows.
    Running,
    /// Another kernel's: its module directory alone.
    Other,
}

/// What the tables are read for.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The devices to be matched.
    pub devices: &'a [ModAlias],
    /// Drivers that somebody named, whose tables are to be compared with the devices.
    pub drivers: &'a [DriverName],
    /// The kernel.
    pub kernel: Kernel,
}

/// Reads the tables: three files, one listing, and one listing per module that matters for the devices.
///
/// Whatever cannot be read or understood is a warning, and the rest is used: without `/lib/modules`, as in a container,
/// the drivers that are registered still make candidates.
///
/// # Kernel
/// `/sys/bus/pci/drivers` and `/sys/module/<module>/drivers`: `drivers/base/bus.c` `bus_add_driver()`,
/// `drivers/base/module.c` `module_add_driver()` (7.2). The files are depmod's (kmod 34.2).
#[must_use]
pub fn read_tables(host: &dyn Read, query: &Query<'_>) -> (Tables, Vec<Warning>) {
    let mut reader = Reader { host, warnings: Vec::new() };
    let mut tables = Tables::default();
    if query.kernel == Kernel::Running {
        tables.registered = reader.registered();
        tables.release = reader.text(&HostPath::fixed(Root::Proc, "sys/kernel/osrelease")).and_then(|r| r.parse().ok());
    }
    let named = reader.modules_of(query, &mut tables);
    let wanted = Wanted { devices: query.devices, modules: &named };
    tables.aliases = reader.built_in(&wanted);
    let loadable = reader.loadable(&wanted);
    let have_modules = loadable.is_some();
    tables.aliases.extend(loadable.unwrap_or_default());
    if query.kernel == Kernel::Running {
        for module in concerned(&tables, query.devices) {
            reader.drivers_of(&module, &mut tables);
        }
    }
    if have_modules {
        tables.modules = reader.silent_modules(&tables, &named, query.kernel);
    }
    (tables, reader.warnings)
}

/// The modules whose drivers' names decide something: those with an alias that matches a device.
fn concerned(tables: &Tables, devices: &[ModAlias]) -> BTreeSet<ModuleName> {
    let matching = |pattern: &AliasPattern| devices.iter().any(|device| pattern.matches(device));
    tables.aliases.iter().filter(|alias| matching(&alias.pattern)).map(|alias| alias.module.clone()).collect()
}

struct Reader<'a> {
    host: &'a dyn Read,
    warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn warn(&mut self, subject: impl std::fmt::Display, message: impl std::fmt::Display) {
        self.warnings.push(Warning::new(subject, message));
    }

    /// `None` when it is not there, or with a warning when it cannot be read.
    fn settled<T>(&mut self, result: Result<T, HostError>) -> Option<T> {
        optional(result).unwrap_or_else(|error| {
            self.warn(&error.path, error.errno);
            None
        })
    }

    fn file(&mut self, name: &'static str) -> Option<Vec<u8>> {
        self.settled(self.host.read(&HostPath::fixed(Root::Modules, name)))
    }

    fn text(&mut self, path: &HostPath) -> Option<String> {
        self.settled(self.host.text(path))
    }

    fn registered(&mut self) -> BTreeSet<DriverName> {
        let names = self.settled(self.host.list(&HostPath::pci_drivers())).unwrap_or_default();
        // A name that is none of ours to write (with a space, as some have) is no driver that anybody can ask for.
        names.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// The modules of the named drivers, from sysfs when they are registered and by their names when not.
    fn modules_of(&mut self, query: &Query<'_>, tables: &mut Tables) -> Vec<ModuleName> {
        let mut modules = BTreeSet::new();
        for driver in query.drivers {
            let shown = tables.registered.contains(driver).then(|| HostPath::pci_driver(driver).attr("module"));
            let module = shown
                .and_then(|link| self.settled(self.host.link_name(&link)))
                .and_then(|name| name.parse().ok())
                .or_else(|| names::guessed_module(driver));
            if let Some(module) = module {
                if query.kernel == Kernel::Running {
                    self.drivers_of(&module, tables);
                }
                modules.insert(module);
            }
        }
        modules.into_iter().collect()
    }

    /// `/sys/module/<module>/drivers/pci:<driver>`.
    fn drivers_of(&mut self, module: &ModuleName, tables: &mut Tables) {
        if tables.drivers.contains_key(module) {
            return;
        }
        let entries = self.settled(self.host.list(&HostPath::module(module).attr("drivers"))).unwrap_or_default();
        let mut drivers: Vec<DriverName> =
            entries.iter().filter_map(|entry| entry.strip_prefix("pci:")?.parse().ok()).collect();
        drivers.sort();
        tables.drivers.insert(module.clone(), drivers);
    }

    /// modules.builtin.alias.bin. Old kernels and old depmods have none, or an empty one; there is no text beside it.
    fn built_in(&mut self, wanted: &Wanted<'_>) -> Vec<Alias> {
        const NAME: &str = "modules.builtin.alias.bin";
        let Some(data) = self.file(NAME).filter(|data| !data.is_empty()) else { return Vec::new() };
        let mut collector = Collector::default();
        match index::collect(&data, Source::BuiltIn, wanted, &mut collector) {
            Ok(()) => self.finish(collector, NAME),
            Err(error) => {
                self.warn(in_modules(NAME), format_args!("{error}: aliases of built-in drivers are not known"));
                Vec::new()
            }
        }
    }

    /// modules.alias.bin, else modules.alias, which says the same; `None` when there is neither.
    fn loadable(&mut self, wanted: &Wanted<'_>) -> Option<Vec<Alias>> {
        const INDEX: &str = "modules.alias.bin";
        const TEXT: &str = "modules.alias";
        let (damaged, why) = match self.file(INDEX) {
            None => (false, "is missing".to_owned()),
            Some(data) => {
                let mut collector = Collector::default();
                match index::collect(&data, Source::Loadable, wanted, &mut collector) {
                    Ok(()) => return Some(self.finish(collector, INDEX)),
                    Err(error) => (true, error.to_string()),
                }
            }
        };
        let Some(data) = self.file(TEXT) else {
            let remedy = "run depmod, or in a container mount the host's /lib/modules";
            let left = "only drivers that are already registered are considered";
            self.warn(in_modules(INDEX), format_args!("{why}, and {TEXT} is missing too: {left}; {remedy}"));
            return None;
        };
        if damaged {
            self.warn(in_modules(INDEX), format_args!("{why}: read {TEXT} instead; run depmod to make it anew"));
        }
        let mut collector = Collector::default();
        text::collect(&data, wanted, &mut collector);
        Some(self.finish(collector, TEXT))
    }

    fn finish(&mut self, collector: Collector, name: &'static str) -> Vec<Alias> {
        let (aliases, odd) = collector.finish(&in_modules(name).to_string());
        self.warnings.extend(odd);
        aliases
    }

    /// Of the modules that no index has an alias of, those that exist: the catch-all's, those of drivers that somebody
    /// named, and for another kernel every variant's, since sysfs does not show there what is built in.
    fn silent_modules(&mut self, tables: &Tables, named: &[ModuleName], kernel: Kernel) -> BTreeSet<ModuleName> {
        let expected =
            variants::VARIANTS.iter().take(if kernel == Kernel::Other { variants::VARIANTS.len() } else { 1 });
        let asked = named.iter().cloned().chain(expected.filter_map(|variant| variant.module.parse().ok()));
        let silent = |module: &ModuleName| tables.aliases.iter().all(|alias| alias.module != *module);
        let mut asked: BTreeSet<ModuleName> = asked.filter(silent).collect();
        if asked.is_empty() {
            return asked;
        }
        let lists: Vec<Listing> = [("modules.dep.bin", "modules.dep"), ("modules.builtin.bin", "modules.builtin")]
            .into_iter()
            .filter_map(|(indexed, plain)| {
                let whole = |data: &Vec<u8>| index::Index::parse(data).is_ok();
                let indexed = self.file(indexed).filter(whole).map(Listing::Indexed);
                indexed.or_else(|| self.file(plain).map(Listing::Plain))
            })
            .collect();
        asked.retain(|module| lists.iter().any(|list| list.has(module)));
        asked
    }
}

/// The modules that there are.
enum Listing {
    Indexed(Vec<u8>),
    Plain(Vec<u8>),
}

impl Listing {
    fn has(&self, module: &ModuleName) -> bool {
        match self {
            Self::Indexed(data) => {
                index::Index::parse(data).and_then(|index| index.contains(module.as_str())).unwrap_or(false)
            }
            Self::Plain(data) => text::lists(data, module),
        }
    }
}

fn in_modules(name: &'static str) -> HostPath {
    HostPath::fixed(Root::Modules, name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::host::Verb;
    use crate::matching::encode::{Pair, encode};
    use crate::matching::{DriverTable, candidates, host_candidates, table_of};
    use crate::model::Errno;

    /// Files, links and directories by their spelled paths, and how often anything was asked for.
    #[derive(Default)]
    struct Paper {
        files: BTreeMap<String, Vec<u8>>,
        asked: AtomicUsize,
    }

    impl Paper {
        fn with(mut self, path: &str, data: impl AsRef<[u8]>) -> Self {
            self.files.insert(path.to_owned(), data.as_ref().to_vec());
            self
        }

        fn get(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let missing = || HostError::new(Verb::Read, path.clone(), Errno::ENOENT);
            self.files.get(&path.to_string()).cloned().ok_or_else(missing)
        }
    }

    impl Read for Paper {
        fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
            self.get(path)
        }

        fn link(&self, path: &HostPath) -> Result<String, HostError> {
            Ok(String::from_utf8(self.get(path)?).unwrap())
        }

        fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
            Ok(String::from_utf8(self.get(path)?).unwrap().split_whitespace().map(str::to_owned).collect())
        }
    }

    const LINES: [Pair<'static>; 5] = [
        ("vfio_pci:v*d*sv*sd*bc*sc*i*", 0, "vfio_pci"),
        ("vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*", 1, "mlx5_vfio_pci"),
        ("pci:v000015B3d0000101Esv*sd*bc*sc*i*", 2, "mlx5_core"),
        ("pci:v*d*sv*sd*bc01sc08i02*", 3, "nvme"),
        ("usb:v1D6Bp0002d*", 4, "usbcore"),
    ];
    const VF: ModAlias = ModAlias::new(0x15b3, 0x101e, (0, 0), 0x020000);
    const DIR: &str = "/lib/modules/$(uname -r)";

    fn sysfs() -> Paper {
        Paper::default()
            .with("/sys/bus/pci/drivers", "mlx5_core vfio-pci pcieport")
            .with("/sys/bus/pci/drivers/mlx5_core/module", "../../../../module/mlx5_core")
            .with("/sys/module/mlx5_core/drivers", "pci:mlx5_core auxiliary:mlx5_core.eth")
            .with("/proc/sys/kernel/osrelease", "7.2.12\n")
    }

    fn whole() -> Paper {
        sysfs().with(&format!("{DIR}/modules.alias.bin"), encode(&LINES))
    }

    fn query<'a>(drivers: &'a [DriverName], kernel: Kernel) -> Query<'a> {
        Query { devices: &[VF], drivers, kernel }
    }

    fn ranked(tables: &Tables) -> Vec<String> {
        candidates(&VF, tables).iter().map(|candidate| candidate.driver.to_string()).collect()
    }

    #[test]
    fn a_lookup_reads_little() {
        let paper = whole();
        let (tables, warnings) = read_tables(&paper, &query(&[], Kernel::Running));
        assert_eq!(warnings, []);
        assert_eq!(ranked(&tables), ["mlx5_vfio_pci", "vfio-pci"]);
        let host = host_candidates(&VF, &tables);
        assert_eq!(host.len(), 1);
        assert_eq!(host[0].driver, Some("mlx5_core".parse().unwrap()));
        // Drivers, release, two indexes, and the drivers of three modules.
        assert_eq!(paper.asked.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_missing_index_is_replaced_by_the_text_and_a_damaged_one_with_a_warning() {
        let lines: String = LINES.iter().map(|(alias, _, module)| format!("alias {alias} {module}\n")).collect();
        let text = |paper: Paper| paper.with(&format!("{DIR}/modules.alias"), &lines);
        let (tables, warnings) = read_tables(&text(sysfs()), &query(&[], Kernel::Running));
        assert_eq!((ranked(&tables), warnings), (vec!["mlx5_vfio_pci".to_owned(), "vfio-pci".to_owned()], Vec::new()));
        for (paper, why) in [
            (text(sysfs()).with(&format!("{DIR}/modules.alias.bin"), "garbage!"), "magic 0x67617262"),
            (text(sysfs()).with(&format!("{DIR}/modules.alias.bin"), &encode(&LINES)[..40]), "cut off"),
        ] {
            let (tables, warnings) = read_tables(&paper, &query(&[], Kernel::Running));
            assert_eq!(ranked(&tables), ["mlx5_vfio_pci", "vfio-pci"], "{why}");
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].to_string().contains(why), "{}", warnings[0]);
        }
    }

    #[test]
    fn a_container_without_modules_still_has_what_is_registered() {
        let (tables, warnings) = read_tables(&sysfs(), &query(&[], Kernel::Running));
        assert_eq!(ranked(&tables), ["vfio-pci"]);
        assert_eq!(warnings.len(), 1);
        assert_eq!(
            warnings[0].to_string(),
            "/lib/modules/$(uname -r)/modules.alias.bin: is missing, and modules.alias is missing too: only drivers that \
             are already registered are considered; run depmod, or in a container mount the host's /lib/modules"
        );
    }

    #[test]
    fn a_damaged_index_of_built_in_aliases_is_a_warning_and_an_empty_one_is_not() {
        let path = format!("{DIR}/modules.builtin.alias.bin");
        let (_, warnings) = read_tables(&whole().with(&path, ""), &query(&[], Kernel::Running));
        assert_eq!(warnings, []);
        let (tables, warnings) = read_tables(&whole().with(&path, "short"), &query(&[], Kernel::Running));
        assert_eq!(warnings.len(), 1);
        assert_eq!(ranked(&tables), ["mlx5_vfio_pci", "vfio-pci"]);
    }

    #[test]
    fn a_named_driver_is_looked_up_whole() {
        let ask = |name: &str| {
            let driver: DriverName = name.parse().unwrap();
            let paper = whole().with(&format!("{DIR}/modules.dep"), "kernel/drivers/uio/uio_pci_generic.ko: x\n");
            let (tables, _) = read_tables(&paper, &query(std::slice::from_ref(&driver), Kernel::Running));
            table_of(&driver, &VF, &tables)
        };
        assert!(matches!(ask("mlx5_core"), DriverTable::Matches(_)));
        assert!(matches!(ask("mlx5_vfio_pci"), DriverTable::Matches(_)));
        assert!(matches!(ask("nvme"), DriverTable::DoesNotMatch { entries: 1, .. }));
        assert_eq!(ask("uio_pci_generic"), DriverTable::Unknown);
        assert_eq!(ask("pcieport"), DriverTable::Unknown);
        assert_eq!(ask("vfio_pci"), DriverTable::NoSuchDriver { nearest: "vfio-pci".parse().ok() });
        assert_eq!(ask("nothing"), DriverTable::NoSuchDriver { nearest: None });
    }

    #[test]
    fn another_kernel_is_judged_by_its_files_alone() {
        let paper = sysfs()
            .with(&format!("{DIR}/modules.alias.bin"), encode(&LINES[2..]))
            .with(&format!("{DIR}/modules.builtin"), "kernel/drivers/vfio/pci/vfio-pci.ko\n");
        let (tables, warnings) = read_tables(&paper, &query(&[], Kernel::Other));
        assert_eq!(warnings, []);
        assert!(tables.registered.is_empty() && tables.drivers.is_empty());
        assert_eq!(ranked(&tables), ["vfio-pci"]);
    }
}
