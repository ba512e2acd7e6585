//! The fake kernel's state, what it can tell about a device, and which attribute a write belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fault::Faults;
use super::iommu::Opens;
use super::native::{self, Native};
use super::tree::{HIDDEN, Last, Node, Tree};
use super::vfio::{self, Function, PfChannel, Variant, Vdev};
use crate::host::{HostPath, worker};
use crate::model::address::is_component;
use crate::model::{AliasPattern, Bdf, Class, Errno, ModAlias};

/// Where the functions are.
pub(super) const DEVICES: &str = "/sys/bus/pci/devices";

/// Where the drivers are.
pub(super) const DRIVERS: &str = "/sys/bus/pci/drivers";

/// Where the IOMMU groups are.
pub(super) const GROUPS: &str = "/sys/kernel/iommu_groups";

/// The module directory's alias file.
pub(super) const ALIASES: &str = "/lib/modules/$(uname -r)/modules.alias";

/// A driver, as the fake knows it.
#[derive(Clone, Copy)]
pub(super) enum Driver {
    /// A VFIO driver.
    Vfio(&'static dyn Variant),
    /// Any other.
    Native(Native),
}

impl Driver {
    /// The driver of this name; one that the fake has no model of is a plain native one.
    pub(super) fn named(name: &str) -> Self {
        vfio::by_driver(name).map_or_else(|| Self::Native(Native::named(name)), Self::Vfio)
    }

    /// `driver_managed_dma`: it may stand beside a user in one group.
    ///
    /// # Kernel
    /// Set by the VFIO drivers, `drivers/pci/pci-stub.c` and `drivers/pci/pcie/portdrv.c` (7.2).
    pub(super) const fn manages_dma(self) -> bool {
        match self {
            Self::Vfio(_) => true,
            Self::Native(native) => native.manages_dma,
        }
    }
}

/// Everything behind the fake's mutex.
#[derive(Default)]
pub(super) struct Kernel {
    /// What can be seen, and below [`HIDDEN`] what cannot.
    pub(super) tree: Tree,
    /// The id tables by module, from modules.alias and from what was seen bound.
    pub(super) tables: BTreeMap<String, Vec<AliasPattern>>,
    /// What is open.
    pub(super) opens: Opens,
    /// Devices that their VFIO driver has enabled, for somebody has them open.
    pub(super) enabled: BTreeSet<Bdf>,
    /// What of `/proc` goes when something open is closed, by its number.
    pub(super) shown: BTreeMap<u64, Vec<String>>,
    /// What VFIO drivers made of their devices.
    pub(super) vdevs: BTreeMap<Bdf, Vdev>,
    /// What is known of them beyond that.
    pub(super) devices: super::device::Devices,
    /// The numbers that VFIO devices have.
    pub(super) numbers: BTreeSet<u32>,
    /// Devices whose driver waits in `.remove` for a holder to let go, and that driver.
    pub(super) leaving: BTreeMap<Bdf, String>,
    /// Devices whose driver is in a probe that nobody waits for any more.
    pub(super) probing: BTreeMap<Bdf, super::probing::Probing>,
    /// mdevs whose driver waits for a holder to let go.
    pub(super) leaving_mdevs: Vec<super::mdev::Leaving>,
    /// PFs whose VFs were being taken away when one was found held, and the VFs that are left.
    pub(super) going: BTreeMap<Bdf, BTreeMap<u16, Bdf>>,
    /// Time.
    pub(super) now: Duration,
    /// What goes wrong, and what was written.
    pub(super) faults: Faults,
}

impl Kernel {
    /// A kernel in the state that `tree` shows.
    pub(super) fn new(tree: Tree) -> Self {
        let mut kernel = Self { tree, ..Self::default() };
        kernel.drop_impossible();
        kernel.read_tables();
        kernel.learn_tables();
        kernel.numbers = kernel.seen_numbers().collect();
        kernel.end_recorded_probes();
        kernel.adopt_vfio_devices();
        kernel.adopt_processes();
        kernel.devices.learn(&kernel.tree);
        kernel
    }

    /// A VF has no VFs: what says otherwise is no host, and would have no end.
    fn drop_impossible(&mut self) {
        let vfs: Vec<Bdf> = self.functions().filter(|bdf| self.pf(*bdf).is_some()).collect();
        for dir in vfs.into_iter().map(dev) {
            let links: Vec<String> =
                self.tree.names(&dir).filter(|name| name.starts_with("virtfn")).map(str::to_owned).collect();
            for link in links {
                self.tree.remove(&format!("{dir}/{link}"));
            }
        }
    }

    /// The numbers of VFIO devices that can be seen, mdevs among them.
    fn seen_numbers(&self) -> impl Iterator<Item = u32> {
        let below = self.functions().flat_map(|bdf| self.tree.names(&format!("{}/vfio-dev", dev(bdf))));
        let mdevs = self.mdevs().into_iter().flat_map(|mdev| self.tree.names(&format!("{mdev}/vfio-dev")));
        let nodes = self.tree.names("/dev/vfio/devices");
        below.chain(mdevs).chain(nodes).filter_map(|name| name.strip_prefix("vfio")?.parse().ok())
    }

    /// The directories of all mdevs.
    pub(super) fn mdevs(&self) -> Vec<String> {
        let all = self.tree.names("/sys/bus/mdev/devices");
        all.filter_map(|uuid| self.tree.resolve(&format!("/sys/bus/mdev/devices/{uuid}"), Last::Follow).ok()).collect()
    }

    /// The id tables that modules.alias holds.
    fn read_tables(&mut self) {
        let text = self.tree.file(ALIASES).unwrap_or_default();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(alias), Some(module)) = (words.next(), words.next(), words.next())
                && let Ok(pattern) = alias.parse()
            {
                self.tables.entry(module.to_owned()).or_default().push(pattern);
            }
        }
        let drivers: Vec<String> = self.tree.names(&format!("{HIDDEN}/drivers")).map(str::to_owned).collect();
        for driver in drivers {
            let lines = self.tree.text(&format!("{HIDDEN}/drivers/{driver}/aliases")).unwrap_or_default();
            let patterns: Vec<AliasPattern> = lines.lines().filter_map(|line| line.parse().ok()).collect();
            self.tables.entry(format!("driver {driver}")).or_default().extend(patterns);
        }
    }

    /// A driver seen on a device that no table gives it must have it in its table: a built-in has no alias on older
    /// kernels.
    fn learn_tables(&mut self) {
        let all: Vec<Bdf> = self.functions().collect();
        for bdf in all {
            let Some(driver) = self.driver_name(bdf).map(str::to_owned) else { continue };
            let Some(alias) = self.alias(bdf) else { continue };
            let native = matches!(Driver::named(&driver), Driver::Native(_));
            if native && self.driver_override(bdf).is_none() && !self.table_has(&driver, &alias) {
                self.learn(&driver, AliasPattern::of_ids(NATIVE, alias.vendor(), alias.device()));
            }
        }
    }

    /// Adds a line to a driver's own table, and to what is saved with the host.
    pub(super) fn learn(&mut self, driver: &str, pattern: AliasPattern) {
        let place = format!("{HIDDEN}/drivers/{driver}/aliases");
        if !self.tree.has(&place) {
            self.tree.put(&place, "");
        }
        self.tree.append(&place, format!("{pattern}\n").as_bytes());
        self.tables.entry(format!("driver {driver}")).or_default().push(pattern);
    }

    /// Whether a native driver's table has the device.
    pub(super) fn table_has(&self, driver: &str, alias: &ModAlias) -> bool {
        let own = self.tables.get(&format!("driver {driver}"));
        let module = self.tables.get(&self.module_of(driver));
        let lines = own.into_iter().chain(module).flatten();
        lines.filter(|pattern| pattern.table == NATIVE).any(|pattern| pattern.matches(alias))
    }

    /// The module of a driver, registered or not.
    pub(super) fn module_of(&self, driver: &str) -> String {
        let linked = self.tree.link_name(&format!("{DRIVERS}/{driver}/module"));
        if let Some(module) = linked.filter(|name| is_component(name)) {
            return module.to_owned();
        }
        match Driver::named(driver) {
            Driver::Vfio(variant) => variant.module().to_owned(),
            Driver::Native(_) => native::module_of(driver).replace('-', "_"),
        }
    }

    /// All PCI functions, in order.
    pub(super) fn functions(&self) -> impl Iterator<Item = Bdf> {
        self.tree.names(DEVICES).filter_map(|name| name.parse().ok())
    }

    /// The device that a text names, one newline at the end tolerated.
    ///
    /// # Kernel
    /// `drivers/base/bus.c` `bus_find_device_by_name()`, `lib/string_helpers.c` `sysfs_streq()` (7.2).
    pub(super) fn find(&self, text: &str) -> Option<Bdf> {
        let name = text.strip_suffix('\n').unwrap_or(text);
        let bdf: Bdf = name.parse().ok()?;
        (bdf.to_string() == name && self.tree.has(&dev(bdf))).then_some(bdf)
    }

    /// The ids of a device.
    pub(super) fn alias(&self, bdf: Bdf) -> Option<ModAlias> {
        self.tree.text(&format!("{}/modalias", dev(bdf)))?.parse().ok()
    }

    /// The driver that has a device.
    pub(super) fn driver_name(&self, bdf: Bdf) -> Option<&str> {
        self.tree.link_name(&format!("{}/driver", dev(bdf))).filter(|name| is_component(name))
    }

    /// The same with its model.
    pub(super) fn driver(&self, bdf: Bdf) -> Option<Driver> {
        self.driver_name(bdf).map(Driver::named)
    }

    /// `driver_override`, when it is set.
    pub(super) fn driver_override(&self, bdf: Bdf) -> Option<&str> {
        self.tree.text(&format!("{}/driver_override", dev(bdf))).filter(|text| !text.is_empty() && *text != "(null)")
    }

    /// The IOMMU group of a device.
    pub(super) fn group(&self, bdf: Bdf) -> Option<u32> {
        self.tree.link_name(&format!("{}/iommu_group", dev(bdf)))?.parse().ok()
    }

    /// The PCI functions in an IOMMU group.
    pub(super) fn members(&self, group: u32) -> impl Iterator<Item = Bdf> {
        self.tree.names(&format!("{GROUPS}/{group}/devices")).filter_map(|name| name.parse().ok())
    }

    /// The PF of a VF.
    pub(super) fn pf(&self, bdf: Bdf) -> Option<Bdf> {
        self.tree.link_name(&format!("{}/physfn", dev(bdf)))?.parse().ok()
    }

    /// The VFs of a PF that are there, by index: those that say that they are its own.
    pub(super) fn vfs(&self, pf: Bdf) -> BTreeMap<u16, Bdf> {
        let dir = dev(pf);
        let indices = self.tree.names(&dir).filter_map(|name| name.strip_prefix("virtfn")?.parse().ok());
        let found = indices.filter_map(|index: u16| {
            let bdf: Bdf = self.tree.link_name(&format!("{dir}/virtfn{index}"))?.parse().ok()?;
            (self.pf(bdf) == Some(pf)).then_some((index, bdf))
        });
        found.collect()
    }

    /// A number that an attribute holds.
    pub(super) fn number<T: std::str::FromStr>(&self, bdf: Bdf, attribute: &str) -> Option<T> {
        self.tree.text(&format!("{}/{attribute}", dev(bdf)))?.parse().ok()
    }

    /// A module parameter that says yes.
    pub(super) fn parameter(&self, module: &str, name: &str) -> bool {
        self.tree.text(&format!("/sys/module/{module}/parameters/{name}")) == Some("Y")
    }

    /// A device as a VFIO driver sees it.
    pub(super) fn function(&self, bdf: Bdf) -> Option<Function> {
        let pf = self.pf(bdf);
        let vf = pf.and_then(|pf| self.vfs(pf).into_iter().find(|(_, vf)| *vf == bdf)).map(|(index, _)| index);
        let given = self.tree.text(&format!("{HIDDEN}/pci/{bdf}/properties")).unwrap_or_default();
        let mut properties: Vec<String> = given.lines().map(str::to_owned).collect();
        let mut also = |name: &str, holds: bool| properties.extend(holds.then(|| name.to_owned()));
        also("opregion", bdf.domain() == 0 && bdf.bus() == 0);
        also("zpci", self.tree.has(&format!("{}/function_handle", dev(bdf))));
        also("denylist-disabled", self.parameter("vfio_pci", "disable_denylist"));
        Some(Function {
            alias: self.alias(bdf)?,
            vf: vf.or(pf.map(|_| 0)),
            enabled_vfs: self.vfs(bdf).len(),
            grouped: self.group(bdf).is_some() || self.parameter("vfio", "enable_unsafe_noiommu_mode"),
            properties,
            parameters: vfio::Parameters::default(),
        })
    }

    /// The way from a VF to its PF's driver.
    pub(super) fn pf_channel(&self, bdf: Bdf) -> PfChannel {
        PfChannel {
            driver: self.pf(bdf).and_then(|pf| self.driver_name(pf)).map(str::to_owned),
            migratable: self.tree.text(&format!("{HIDDEN}/pci/{bdf}/migratable")) != Some("0"),
        }
    }

    /// Takes a device away at once, as a surprise removal does.
    ///
    /// # Kernel
    /// `drivers/pci/remove.c` `pci_stop_and_remove_bus_device()` (7.2).
    pub(super) fn vanish(&mut self, bdf: Bdf) {
        if let Some(pf) = self.pf(bdf) {
            for (index, vf) in self.vfs(pf) {
                if vf == bdf {
                    self.tree.remove(&format!("{}/virtfn{index}", dev(pf)));
                }
            }
        }
        for vf in self.vfs(bdf).into_values() {
            self.vanish(vf);
        }
        // Who has it open keeps a descriptor of nothing.
        self.opens.close_device(bdf);
        self.enabled.remove(&bdf);
        self.probing.remove(&bdf);
        let _nobody_waits = self.release(bdf);
        self.leaving.remove(&bdf);
        self.going.remove(&bdf);
        self.leave_group(bdf);
        self.tree.remove(&dev(bdf));
    }

    /// One `write(2)` to a file that is there.
    ///
    /// # Errors
    /// `ENOENT`; `EISDIR`; `EACCES` for an attribute without a store; `ETIMEDOUT` when it waits for somebody who has a
    /// device open; else the attribute's own answer.
    ///
    /// # Kernel
    /// `fs/kernfs/file.c` `kernfs_fop_open()` (mode and store are checked at open), `kernfs_fop_write_iter()` (a page
    /// at most), `fs/sysfs/file.c` `sysfs_kf_write()` (zero bytes reach no store) (7.2).
    pub(super) fn store(&mut self, path: &str, value: &str) -> Result<(), Errno> {
        let answer = self.react(path, value);
        if answer == Err(Errno::ETIMEDOUT) {
            let path = HostPath::parse(path);
            self.now += path.and_then(|path| worker::deadline(&path)).unwrap_or_default();
        }
        answer
    }

    fn react(&mut self, path: &str, value: &str) -> Result<(), Errno> {
        let place = self.tree.resolve(path, Last::Follow)?;
        match self.tree.node(&place) {
            Some(Node::File(_)) => {}
            Some(_) => return Err(Errno::EISDIR),
            None => return Err(Errno::ENOENT),
        }
        let parts: Vec<&str> = place.split('/').skip(1).collect();
        if value.is_empty() {
            return Ok(());
        }
        match parts[..] {
            ["sys", "bus", "pci", "drivers", driver, "bind"] => self.bind_store(driver, value),
            ["sys", "bus", "pci", "drivers", driver, "unbind"] => self.unbind_store(driver, value),
            ["sys", "bus", "pci", "drivers_probe"] => self.drivers_probe_store(value),
            ["sys", "bus", "pci", "drivers_autoprobe"] => {
                self.tree.put_text(&place, u8::from(!value.starts_with('0')));
                Ok(())
            }
            ["sys", "bus", "pci", "devices", name, attribute] => {
                let bdf: Bdf = name.parse().map_err(|_| Errno::ENODEV)?;
                self.device_store(bdf, attribute, value)
            }
            ["sys", "module", module, "parameters", name] => self.parameter_store(module, name, value),
            ["sys", "bus", "netdevsim", "new_device"] => self.new_netdevsim(value),
            ["sys", "bus", "netdevsim", "del_device"] => self.del_netdevsim(value),
            ["sys", "devices", name, "sriov_numvfs"] => self.netdevsim_numvfs_store(name, value),
            [.., "net", _, "flags"] => self.flags_store(&place, value),
            ["sys", "bus", "mdev", "drivers", _, "bind"] => Err(Errno::ENODEV),
            ["sys", "bus", "mdev", "drivers", driver, "unbind"] => self.mdev_unbind_store(driver, value),
            ["sys", "bus", "dsa", "drivers", driver, "bind"] => self.idxd_bind_store(driver, value),
            ["sys", "bus", "dsa", "drivers", driver, "unbind"] => self.idxd_unbind_store(driver, value),
            ["sys", "bus", "pci", "devices", name, "nvidia", "current_vgpu_type"] => {
                self.current_vgpu_type_store(name.parse().map_err(|_| Errno::ENODEV)?, value)
            }
            [.., "mdev_supported_types", kind, "create"] => {
                let parent = place.split("/mdev_supported_types/").next().unwrap_or_default();
                self.mdev_create_store(parent, kind, value)
            }
            [.., uuid, "remove"] if uuid.len() == 36 => {
                self.mdev_remove_store(place.trim_end_matches("/remove"), value)
            }
            [.., uuid, "nvidia", "vgpu_params"] if uuid.len() == 36 => self.vgpu_params_store(&place, value),
            [.., "matrix", uuid, attribute] if uuid.len() == 36 => {
                self.ap_matrix_store(place.trim_end_matches(&format!("/{attribute}")), attribute, value)
            }
            [.., device, attribute] if super::idxd::is_device(device) => {
                let dir = place.rsplit_once('/').map_or("", |(dir, _)| dir);
                self.idxd_store(dir, attribute, value)
            }
            _ => Err(Errno::EACCES),
        }
    }

    fn device_store(&mut self, bdf: Bdf, attribute: &str, value: &str) -> Result<(), Errno> {
        let place = format!("{}/{attribute}", dev(bdf));
        match attribute {
            "driver_override" => self.driver_override_store(bdf, value),
            "sriov_numvfs" => self.sriov_numvfs_store(bdf, value),
            "sriov_drivers_autoprobe" => self.sriov_drivers_autoprobe_store(bdf, value),
            "sriov_vf_msix_count" => self.sriov_vf_msix_count_store(bdf, value),
            "reset_method" => self.reset_method_store(bdf, value),
            "enable" => self.enable_store(bdf, value),
            "numa_node" | "d3cold_allowed" | "msi_bus" | "broken_parity_status" => {
                let number: i64 = value.trim().parse().map_err(|_| Errno::EINVAL)?;
                self.tree.put_text(&place, number);
                Ok(())
            }
            _ => Err(Errno::EACCES),
        }
    }

    /// `reset_method`: sets the order of reset methods, disables them (`""`) or restores them (`default`).
    ///
    /// # Kernel
    /// `drivers/pci/pci-sysfs.c` `reset_method_store()`: `EINVAL`, list unchanged, for a method that the device has
    /// not; `reset_method_show()`: nothing at all, not even a newline, when all are disabled (7.2).
    fn reset_method_store(&mut self, bdf: Bdf, value: &str) -> Result<(), Errno> {
        let place = format!("{}/reset_method", dev(bdf));
        let first = format!("{HIDDEN}/pci/{bdf}/reset_methods");
        if !self.tree.has(&first) {
            let text = self.tree.text(&place).unwrap_or_default().to_owned();
            self.tree.put_text(&first, text);
        }
        let able = self.tree.text(&first).unwrap_or_default().to_owned();
        let wanted = value.strip_suffix('\n').unwrap_or(value);
        let text = match wanted {
            "default" => able,
            list => {
                let methods: Vec<&str> = list.split_whitespace().collect();
                if methods.iter().any(|method| !able.split_whitespace().any(|known| known == *method)) {
                    return Err(Errno::EINVAL);
                }
                methods.join(" ")
            }
        };
        let end = if text.is_empty() { "" } else { "\n" };
        self.tree.put(&place, format!("{text}{end}"));
        Ok(())
    }
}

/// The table of drivers that bind by themselves.
pub(super) const NATIVE: crate::model::driver::Table = crate::model::driver::Table::Native;

/// The directory of a device.
pub(super) fn dev(bdf: Bdf) -> String {
    format!("{DEVICES}/{bdf}")
}

/// The attributes that spell a device's ids.
pub(super) fn put_ids(tree: &mut Tree, bdf: Bdf, alias: ModAlias) {
    let dir = dev(bdf);
    let (vendor, device) = alias.subsystem();
    tree.put_text(&format!("{dir}/modalias"), alias);
    tree.put_text(&format!("{dir}/vendor"), format_args!("0x{:04x}", alias.vendor()));
    tree.put_text(&format!("{dir}/device"), format_args!("0x{:04x}", alias.device()));
    tree.put_text(&format!("{dir}/subsystem_vendor"), format_args!("0x{vendor:04x}"));
    tree.put_text(&format!("{dir}/subsystem_device"), format_args!("0x{device:04x}"));
    tree.put_text(&format!("{dir}/class"), format_args!("0x{}", Class(alias.class())));
}

/// Reads a boolean as the kernel does.
///
/// # Kernel
/// `lib/kstrtox.c` `kstrtobool()`: the first character, or the first two of `on` and `off` (7.2).
pub(super) fn kstrtobool(text: &str) -> Option<bool> {
    match text.as_bytes() {
        [b'y' | b'Y' | b't' | b'T' | b'1' | b'e' | b'E', ..] | [b'o' | b'O', b'n' | b'N', ..] => Some(true),
        [b'n' | b'N' | b'f' | b'F' | b'0' | b'd' | b'D', ..] | [b'o' | b'O', b'f' | b'F', ..] => Some(false),
        _ => None,
    }
}

/// Reads a number as the kernel does: decimal, `0x` or octal, one newline at the end.
///
/// # Kernel
/// `lib/kstrtox.c` `kstrtouint()` with base 0 (7.2).
pub(super) fn kstrtouint(text: &str) -> Option<u32> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}
