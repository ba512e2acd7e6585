//! Loading modules, and what their drivers do when they are registered.

use super::kernel::{ALIASES, DRIVERS, Kernel, kstrtobool, kstrtouint};
use super::tree::HIDDEN;
use super::vfio;
use super::{mdev, native};
use crate::host::Blacklist;
use crate::model::{Bdf, Errno};

/// What VFIO's core needs, in the order of loading, with the parameters that can be seen.
const CORE: [(&str, &[(&str, &str)]); 4] = [
    ("iommufd", &[("allow_unsafe_interrupts", "N")]),
    ("vfio", &[("enable_unsafe_noiommu_mode", "N")]),
    ("vfio_iommu_type1", &[("allow_unsafe_interrupts", "N"), ("disable_hugepages", "N"), ("dma_entry_limit", "65535")]),
    ("vfio_pci_core", &[]),
];

/// A module that no device asks for and every kernel with `CONFIG_NETDEVSIM` has.
const NETDEVSIM: &str = "netdevsim";

/// `sizeof(fault)` of `lab/kmod/migration.c`.
const FAULT_BYTES: usize = 32;

impl Kernel {
    /// What modprobe does: nothing when the module is there; else the modules that it needs, then its driver.
    ///
    /// # Errors
    /// `ENOENT` with modprobe's words when no such module is known, or a blacklist holds for it.
    pub(super) fn load_module(&mut self, module: &str, blacklist: Blacklist) -> Result<(), (Errno, String)> {
        if self.tree.has(&format!("/sys/module/{module}")) {
            return Ok(());
        }
        let absent = |why: &str| Err((Errno::ENOENT, format!("modprobe: {why}")));
        if !self.has_module(module) {
            return absent(&format!("FATAL: Module {module} not found in directory /lib/modules/$(uname -r)"));
        }
        let listed = self.tree.text(&format!("{HIDDEN}/modprobe/blacklist")).unwrap_or_default();
        if blacklist == Blacklist::Respect && listed.lines().any(|name| name == module) {
            return absent(&format!("{module} is blacklisted"));
        }
        if let Some(variant) = vfio::by_module(module) {
            for need in variant.needs() {
                self.load_needed(need);
            }
            self.load_core();
            self.put_module(module, variant.parameters());
            self.register(variant.driver(), module);
        } else {
            if let Some(sample) = mdev::sample(module) {
                self.load_core();
                self.put_module("mdev", &[]);
                self.put_module(module, &[]);
                self.register_sample(sample);
            }
            self.put_module(module, &[]);
            if module == NETDEVSIM {
                self.add_netdevsim_bus();
            }
            if let Some(driver) = self.driver_in(module) {
                self.register(&driver, module);
            }
        }
        Ok(())
    }

    /// Makes the module of a VFIO driver one that can be loaded, as depmod does.
    pub(super) fn install(&mut self, variant: &dyn vfio::Variant) {
        let mut lines = self.tree.file(ALIASES).unwrap_or_default().to_vec();
        for pattern in variant.aliases() {
            lines.extend(format!("alias {pattern} {}\n", variant.module()).into_bytes());
            self.tables.entry(variant.module().to_owned()).or_default().push(pattern);
        }
        self.tree.put(ALIASES, lines);
    }

    /// VFIO's core, which all its drivers need.
    fn load_core(&mut self) {
        for (name, parameters) in CORE {
            self.put_module(name, parameters);
        }
        self.tree.put("/dev/vfio/vfio", "");
        self.tree.put("/dev/iommu", "");
        for name in ["iommu", "vfio"] {
            self.tree.put_link(&format!("/sys/class/misc/{name}"), format!("../../devices/virtual/misc/{name}"));
        }
    }

    /// A module that another one needs. What the host does not have is taken to be built in.
    fn load_needed(&mut self, module: &str) {
        if !self.tree.has(&format!("/sys/module/{module}")) {
            self.put_module(module, &[]);
            if let Some(driver) = self.driver_in(module) {
                self.register(&driver, module);
            }
        }
    }

    /// Whether the kernel's module directory has it: an alias names it, or the fake knows it.
    fn has_module(&self, module: &str) -> bool {
        let named = |text: &[u8], at: usize| {
            String::from_utf8_lossy(text).lines().any(|line| line.split_whitespace().nth(at) == Some(module))
        };
        module == NETDEVSIM
            || self.tree.file(ALIASES).is_some_and(|text| named(text, 2))
            || self.tree.file(&format!("{HIDDEN}/modprobe/modules")).is_some_and(|text| named(text, 0))
    }

    /// The PCI driver in a module: by the tables of the fake, or of the module's own name when it has PCI aliases.
    fn driver_in(&self, module: &str) -> Option<String> {
        let known = native::driver_of(module).map(str::to_owned);
        known.or_else(|| self.tables.contains_key(module).then(|| module.to_owned()))
    }

    /// A parameter of a module that can be written.
    ///
    /// # Kernel
    /// `kernel/params.c` `param_attr_store()`, `param_set_uint()`, `param_set_bool()` (`EINVAL`), `param_set_copystring()`
    /// (`ENOSPC`) (7.2). Contract: `variant: a parameter …`.
    pub(super) fn parameter_store(&mut self, module: &str, name: &str, value: &str) -> Result<(), Errno> {
        let yes = || kstrtobool(value).map(|yes| if yes { "Y" } else { "N" }.to_owned()).ok_or(Errno::EINVAL);
        let text = match (module, name) {
            ("vfio_pci", "nointxmask" | "disable_idle_d3" | "enable_sriov") => yes()?,
            ("vfio", "enable_unsafe_noiommu_mode") => yes()?,
            (vfio::lab::BY_DEVICE_NAME | vfio::lab::BY_SUBSYSTEM_NAME, "p2p" | "precopy") => yes()?,
            (vfio::lab::BY_DEVICE_NAME | vfio::lab::BY_SUBSYSTEM_NAME, "fault") if value.len() < FAULT_BYTES => {
                value.trim_end().to_owned()
            }
            (vfio::lab::BY_DEVICE_NAME | vfio::lab::BY_SUBSYSTEM_NAME, "fault") => return Err(Errno::ENOSPC),
            (vfio::lab::BY_DEVICE_NAME | vfio::lab::BY_SUBSYSTEM_NAME, _) => {
                kstrtouint(value).ok_or(Errno::EINVAL)?.to_string()
            }
            _ => return Err(Errno::EACCES),
        };
        self.tree.put_text(&format!("/sys/module/{module}/parameters/{name}"), text);
        Ok(())
    }

    /// # Kernel
    /// `kernel/module/sysfs.c` `mod_sysfs_setup()`, `kernel/params.c` `module_param_sysfs_setup()` (7.2).
    fn put_module(&mut self, module: &str, parameters: &[(&str, &str)]) {
        let dir = format!("/sys/module/{module}");
        if self.tree.has(&dir) {
            return;
        }
        self.tree.put_text(&format!("{dir}/initstate"), "live");
        for (name, value) in parameters {
            self.tree.put_text(&format!("{dir}/parameters/{name}"), value);
        }
    }

    /// Registers a driver: its directory, the links between it and its module, and a probe of every device without a
    /// driver that it matches. A VFIO driver matches none that has no override.
    ///
    /// # Kernel
    /// `drivers/base/bus.c` `bus_add_driver()`, `drivers/base/dd.c` `driver_attach()`, `drivers/base/module.c`
    /// `module_add_driver()` (7.2). Contract: the `names:` cases.
    pub(super) fn register(&mut self, driver: &str, module: &str) {
        let dir = format!("{DRIVERS}/{driver}");
        if self.tree.has(&dir) {
            return;
        }
        for file in ["bind", "unbind", "new_id", "remove_id", "uevent"] {
            self.tree.put(&format!("{dir}/{file}"), "");
        }
        if self.tree.text("/sys/bus/pci/drivers_autoprobe") != Some("0") {
            let idle: Vec<Bdf> = self.functions().filter(|bdf| self.driver_name(*bdf).is_none()).collect();
            for bdf in idle {
                if self.matches(driver, bdf) {
                    // A probe that refuses leaves the device as it was, and registering goes on.
                    let _refused = self.probe(driver, bdf);
                }
            }
        }
        self.tree.put_link(&format!("{dir}/module"), format!("../../../../module/{module}"));
        self.tree.put_link(
            &format!("/sys/module/{module}/drivers/pci:{driver}"),
            format!("../../../bus/pci/drivers/{driver}"),
        );
    }
}
