//! From modules to drivers and back: they are named alike, and not always the same.
//!
//! What sysfs shows of a loaded module decides. For a module that is not loaded there is a table and a rule: a driver
//! whose `.name` is `KBUILD_MODNAME`, as most are, is called as its module, with underscores; `vfio-pci` and `xe-vfio-pci`
//! spell theirs out.
//!
//! # Kernel
//! `.name` in `drivers/vfio/pci/vfio_pci.c` and `xe/main.c` against `mlx5/main.c`, `virtio/main.c`,
//! `hisilicon/hisi_acc_vfio_pci.c` and the others below `drivers/vfio/pci`; `scripts/Makefile.lib` `name-fix`;
//! `drivers/base/module.c` `module_add_driver()` makes `/sys/module/<module>/drivers/pci:<driver>` (7.2).

use super::tables::Tables;
use super::variants;
use crate::model::{DriverName, ModuleName};

/// The VFIO driver of a module: what sysfs shows when it is loaded, else by table and rule.
///
/// A module with several PCI drivers gives the one that is named as table and rule say, else the first in byte order.
#[must_use]
pub fn vfio_driver(module: &ModuleName, tables: &Tables) -> Option<DriverName> {
    let expected = expected(module);
    match tables.drivers.get(module).map(Vec::as_slice).unwrap_or_default() {
        [] => expected,
        shown => shown.iter().find(|driver| Some(*driver) == expected.as_ref()).or_else(|| shown.iter().min()).cloned(),
    }
}

/// The native driver of a module, when it is loaded: no rule holds for those that are not (`snd_hda_intel`, `ehci-pci`,
/// `xhci_hcd`).
#[must_use]
pub fn native_driver(module: &ModuleName, tables: &Tables) -> Option<DriverName> {
    let shown = tables.drivers.get(module)?;
    shown.iter().find(|driver| alike(driver, module)).or_else(|| shown.iter().min()).cloned()
}

/// The modules that may have a driver of this name. One at most is right; none is when there is no such driver.
#[must_use]
pub fn modules_of(driver: &DriverName, tables: &Tables) -> Vec<ModuleName> {
    let shown: Vec<ModuleName> = tables
        .drivers
        .iter()
        .filter(|(_, drivers)| drivers.contains(driver))
        .map(|(module, _)| module.clone())
        .collect();
    if !shown.is_empty() {
        return shown;
    }
    let loaded_without_it = |module: &ModuleName| tables.drivers.get(module).is_some_and(|shown| !shown.is_empty());
    guessed_module(driver).filter(|module| !loaded_without_it(module)).into_iter().collect()
}

/// The module that a driver is expected to be in when nothing is known of it but its name: itself with underscores.
///
/// `None` for a name that only looks like a driver's: the driver of module `vfio_pci` is `vfio-pci`, so a driver
/// `vfio_pci` does not exist, and writing it to `driver_override` would silently bind nothing.
#[must_use]
pub fn guessed_module(driver: &DriverName) -> Option<ModuleName> {
    let module = ModuleName::normalised(driver.as_str()).ok()?;
    match variants::of_module(module.as_str()) {
        Some(variant) if variant.driver != driver.as_str() => None,
        _ => Some(module),
    }
}

/// A driver that exists and whose name differs from a wrong one in dashes and underscores only.
#[must_use]
pub fn nearest(wrong: &DriverName, tables: &Tables) -> Option<DriverName> {
    let module = ModuleName::normalised(wrong.as_str()).ok()?;
    let shown = tables.drivers.get(&module).and_then(|drivers| drivers.first());
    let known = || variants::of_module(module.as_str()).and_then(|variant| variant.driver.parse().ok());
    tables
        .registered
        .iter()
        .find(|driver| alike(driver, &module))
        .or(shown)
        .cloned()
        .or_else(known)
        .filter(|found| found != wrong)
}

fn expected(module: &ModuleName) -> Option<DriverName> {
    variants::of_module(module.as_str()).map_or(module.as_str(), |variant| variant.driver).parse().ok()
}

fn alike(driver: &DriverName, module: &ModuleName) -> bool {
    ModuleName::normalised(driver.as_str()).is_ok_and(|name| name == *module)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(text: &str) -> DriverName {
        text.parse().unwrap()
    }

    fn module(text: &str) -> ModuleName {
        text.parse().unwrap()
    }

    fn shown(modules: &[(&str, &[&str])]) -> Tables {
        let drivers = modules.iter().map(|(name, drivers)| (module(name), drivers.iter().map(|d| driver(d)).collect()));
        Tables { drivers: drivers.collect(), ..Tables::default() }
    }

    #[test]
    fn a_module_that_is_not_loaded_is_named_by_table_and_rule() {
        for (name, wanted) in
            [("vfio_pci", "vfio-pci"), ("xe_vfio_pci", "xe-vfio-pci"), ("mlx5_vfio_pci", "mlx5_vfio_pci"), ("a", "a")]
        {
            assert_eq!(vfio_driver(&module(name), &Tables::default()), Some(driver(wanted)));
        }
    }

    #[test]
    fn what_sysfs_shows_is_above_the_rule() {
        let tables = shown(&[("acme_vfio", &["acme-vfio"]), ("twin", &["zz", "twin", "aa"]), ("pair", &["q", "p"])]);
        assert_eq!(vfio_driver(&module("acme_vfio"), &tables), Some(driver("acme-vfio")));
        assert_eq!(vfio_driver(&module("twin"), &tables), Some(driver("twin")));
        assert_eq!(vfio_driver(&module("pair"), &tables), Some(driver("p")));
    }

    #[test]
    fn a_native_driver_is_named_by_sysfs_alone() {
        let tables = shown(&[("xhci_pci", &["xhci_hcd"]), ("virtio_pci", &["virtio-pci"])]);
        assert_eq!(native_driver(&module("xhci_pci"), &tables), Some(driver("xhci_hcd")));
        assert_eq!(native_driver(&module("virtio_pci"), &tables), Some(driver("virtio-pci")));
        assert_eq!(native_driver(&module("snd_hda_intel"), &tables), None);
        assert_eq!(modules_of(&driver("xhci_hcd"), &tables), [module("xhci_pci")]);
        assert_eq!(modules_of(&driver("xhci_pci"), &tables), [], "the module is loaded and has no such driver");
    }

    #[test]
    fn a_name_with_the_wrong_dashes_is_no_driver_and_the_right_one_is_told() {
        assert_eq!(guessed_module(&driver("vfio_pci")), None);
        assert_eq!(nearest(&driver("vfio_pci"), &Tables::default()), Some(driver("vfio-pci")));
        assert_eq!(nearest(&driver("mlx5-vfio-pci"), &Tables::default()), Some(driver("mlx5_vfio_pci")));
        let tables = Tables { registered: [driver("virtio-pci")].into(), ..Tables::default() };
        assert_eq!(nearest(&driver("virtio_pci"), &tables), Some(driver("virtio-pci")));
        assert_eq!(nearest(&driver("nothing"), &tables), None);
    }
}
