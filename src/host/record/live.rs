//! A live host into a recorded one: what vfioadm reads of it, and no more.
//!
//! Everything goes through [`Links`], so nothing is disturbed; attributes whose read waits for a device lock
//! (`sriov_numvfs`, `sriov_vf_total_msix`) are counted or left out.

mod around;
mod links;
mod made;

use std::collections::{BTreeMap, BTreeSet};

use super::Privacy;
use super::files;
use super::privacy::Disguise;
use crate::host::fake::Tree;
use crate::host::fake::tree::HIDDEN;
use crate::host::path::Root;
use crate::host::{HostError, HostPath, Links, Verb, optional};
use crate::model::isolation::Port;
use crate::model::{Bdf, Class, Errno, ModAlias, Warning};

/// Attributes of a PCI function, read when they are there.
const ATTRIBUTES: [&str; 25] = [
    "boot_vga",
    "class",
    "current_link_speed",
    "current_link_width",
    "d3cold_allowed",
    "device",
    "driver_override",
    "enable",
    "label",
    "local_cpulist",
    "max_link_speed",
    "max_link_width",
    "modalias",
    "numa_node",
    "power_state",
    "reset_method",
    "revision",
    "sriov_drivers_autoprobe",
    "sriov_offset",
    "sriov_stride",
    "sriov_totalvfs",
    "sriov_vf_device",
    "subsystem_device",
    "subsystem_vendor",
    "vendor",
];

/// Its links, beside `virtfnN`.
const LINKS: [&str; 4] = ["driver", "iommu_group", "physfn", "dep_link"];

/// Modules that are recorded whether or not a PCI driver is in them.
const MODULES: [&str; 8] =
    ["vfio", "vfio_pci_core", "vfio_pci", "vfio_iommu_type1", "iommufd", "mdev", "vfio_platform", "vfio_virqfd"];

/// Classes whose entries lead to what hangs below a device, and the attributes recorded of each.
const CLASSES: [(&str, &[&str]); 4] = [
    ("net", &["flags", "operstate", "address"]),
    ("block", &["dev", "partition", "size"]),
    ("nvme", &["state", "transport"]),
    ("drm", &["dev"]),
];

/// Records a host, so that a [fake kernel](crate::host::fake) can go on from there.
///
/// A device that vanishes meanwhile is left out with a warning.
///
/// # Errors
/// There is no `/sys/bus/pci/devices`, or it cannot be read.
pub fn record(host: &dyn Links, privacy: Privacy) -> Result<(Tree, Vec<Warning>), HostError> {
    let mut recorder =
        Recorder { host, tree: Tree::default(), warnings: Vec::new(), disguise: Disguise::new(privacy), cdevs: None };
    let names = host.list(&HostPath::pci_devices())?;
    recorder.disguise.learn(host);
    let mut groups = BTreeSet::new();
    for name in names {
        match name.parse::<Bdf>() {
            Ok(bdf) => match recorder.function(bdf) {
                Ok(group) => groups.extend(group),
                Err(error) => {
                    recorder.tree.remove(&HostPath::pci(bdf).to_string());
                    recorder.warnings.push(Warning::new(bdf, format_args!("left out: {error}")));
                }
            },
            Err(error) => recorder.warnings.push(Warning::new(HostPath::pci_devices(), error)),
        }
    }
    recorder.bus();
    recorder.classes();
    recorder.links();
    recorder.subsystems();
    groups.extend(recorder.mdevs());
    recorder.idxd();
    recorder.subfunctions();
    for group in groups {
        recorder.group(&group);
    }
    recorder.nodes();
    recorder.around();
    recorder.kernel();
    Ok((recorder.tree, recorder.warnings))
}

struct Recorder<'a> {
    host: &'a dyn Links,
    tree: Tree,
    warnings: Vec<Warning>,
    disguise: Disguise,
    /// Whether VFIO devices have cdevs, as far as any was seen.
    cdevs: Option<bool>,
}

impl Recorder<'_> {
    /// Copies a file; says whether it was there and could be read.
    fn copy(&mut self, path: &HostPath) -> bool {
        match self.host.read(path) {
            Ok(bytes) => {
                self.tree.put(&path.to_string(), bytes);
                true
            }
            Err(_) => false,
        }
    }

    /// Copies a link; gives its last component.
    fn copy_link(&mut self, path: &HostPath) -> Option<String> {
        let text = self.host.link(path).ok()?;
        let name = text.rsplit('/').next().map(str::to_owned);
        self.tree.put_link(&path.to_string(), text);
        name
    }

    /// The names in a directory, none when it is not there; what else is wrong is warned of.
    fn names(&mut self, path: &HostPath) -> Vec<String> {
        let listed = optional(self.host.list(path)).unwrap_or_else(|error| {
            self.warnings.push(Warning::new(path, format_args!("left out: {error}")));
            None
        });
        let mut names = listed.unwrap_or_default();
        names.sort();
        names
    }

    /// One PCI function; gives its group.
    fn function(&mut self, bdf: Bdf) -> Result<Option<String>, HostError> {
        let path = HostPath::pci(bdf);
        let entries: BTreeSet<String> = self.host.list(&path)?.into_iter().collect();
        let alias = self.host.text(&path.attr("modalias"))?;
        if alias.parse::<ModAlias>().is_err() {
            return Err(HostError::new(Verb::Read, path.attr("modalias"), Errno::EINVAL).with_value(&alias));
        }
        // Reading the link wakes a device that sleeps (drivers/pci/pci-sysfs.c current_link_speed_show(), 7.2).
        let status = path.attr("power").entry("runtime_status").and_then(|path| self.host.text(&path).ok());
        let asleep = status.as_deref() == Some("suspended");
        for name in ATTRIBUTES.into_iter().filter(|name| entries.contains(*name)) {
            if !(asleep && name.contains("_link_")) {
                self.copy(&path.attr(name));
            }
        }
        let awake = status.as_deref() == Some("active");
        if awake && alias.parse::<ModAlias>().is_ok_and(|alias| Class(alias.class()).is_pci_bridge()) {
            self.port(&path.attr("config"));
        }
        if self.disguise.keeps() && entries.contains("serial_number") {
            self.copy(&path.attr("serial_number"));
        }
        self.copy_link(&path);
        for name in LINKS {
            if entries.contains(name) {
                self.copy_link(&path.attr(name));
            }
        }
        let mut vfs = 0u16;
        for link in entries.iter().filter(|name| name.starts_with("virtfn")).filter_map(|name| path.entry(name)) {
            vfs = vfs.saturating_add(u16::from(self.copy_link(&link).is_some()));
        }
        if entries.contains("sriov_totalvfs") {
            self.tree.put_text(&format!("{path}/sriov_numvfs"), vfs);
        }
        if entries.contains("power") {
            for name in ["control", "runtime_status"] {
                if let Some(path) = path.attr("power").entry(name) {
                    self.copy(&path);
                }
            }
        }
        if entries.contains("vfio-dev") {
            self.vfio_devs(&path.attr("vfio-dev"));
        }
        if entries.contains("mdev_supported_types") {
            self.mdev_types(&path.attr("mdev_supported_types"), &format!("{path}/mdev_supported_types"));
        }
        if entries.contains("nvidia") {
            self.vgpu(&path.attr("nvidia"));
        }
        Ok(self.tree.link_name(&format!("{path}/iommu_group")).map(str::to_owned))
    }

    /// What a bridge that is awake says of isolation: the exception that [`Read`] names.
    fn port(&mut self, config: &HostPath) {
        if let Some(port) = self.host.read(config).ok().and_then(|config| Port::parse(&config)) {
            self.tree.put(&config.to_string(), port.to_config());
        }
    }

    fn vfio_devs(&mut self, path: &HostPath) {
        for name in self.names(path) {
            let Some(dev) = path.entry(&name) else { continue };
            self.tree.put_dir(&dev.to_string());
            self.cdevs = Some(self.copy(&dev.attr("dev")));
        }
    }

    /// `/sys/bus/pci`: the drivers, and the modules that they are in.
    fn bus(&mut self) {
        let bus = HostPath::fixed(Root::Sys, "bus/pci");
        self.copy(&bus.attr("drivers_autoprobe"));
        for name in self.names(&bus) {
            if matches!(name.as_str(), "drivers_probe" | "rescan") {
                self.tree.put(&format!("{bus}/{name}"), "");
            }
        }
        let mut modules: BTreeSet<String> = MODULES.into_iter().map(str::to_owned).collect();
        for name in self.names(&HostPath::pci_drivers()) {
            let Some(driver) = HostPath::pci_drivers().entry(&name) else { continue };
            self.tree.put_dir(&driver.to_string());
            for entry in self.names(&driver) {
                let Some(path) = driver.entry(&entry) else { continue };
                match entry.as_str() {
                    "bind" | "unbind" | "new_id" | "remove_id" | "uevent" => self.tree.put(&path.to_string(), ""),
                    "module" => modules.extend(self.copy_link(&path)),
                    device if device.parse::<Bdf>().is_ok() => {
                        self.copy_link(&path);
                    }
                    _ => {}
                }
            }
        }
        let place = HostPath::fixed(Root::Sys, "module");
        for module in modules {
            if let Some(path) = place.entry(&module) {
                self.module(&path, &module);
            }
        }
    }

    fn module(&mut self, path: &HostPath, module: &str) {
        if !matches!(optional(self.host.list(path)), Ok(Some(_))) {
            return;
        }
        self.tree.put_dir(&path.to_string());
        self.copy(&path.attr("initstate"));
        let ours = module.starts_with("vfio") || module == "iommufd";
        let parameters = path.attr("parameters");
        for name in if ours { self.names(&parameters) } else { Vec::new() } {
            if let Some(path) = parameters.entry(&name) {
                self.copy(&path);
            }
        }
        let drivers = path.attr("drivers");
        let ours = |name: &&String| name.starts_with("pci:") || name.starts_with("mdev:");
        for name in self.names(&drivers).iter().filter(ours) {
            if let Some(path) = drivers.entry(name) {
                self.copy_link(&path);
            }
        }
    }

    /// Interfaces, disks, controllers and cards: their links, and beside the device what the links lead to.
    fn classes(&mut self) {
        for (class, attributes) in CLASSES {
            let Some(dir) = HostPath::fixed(Root::Sys, "class").entry(class) else { continue };
            for name in self.names(&dir) {
                let Some(path) = dir.entry(&name) else { continue };
                let Ok(text) = self.host.link(&path) else { continue };
                let below_a_function = text.split('/').any(|part| part.parse::<Bdf>().is_ok());
                if !(below_a_function || class == "block") || (class == "drm" && !is_card(&name)) {
                    continue;
                }
                let shown = self.disguise.name(&name);
                let text = text.replace(&name, &shown);
                let place = self.tree.target(&dir.to_string(), &text);
                self.tree.put_link(&format!("{dir}/{shown}"), text);
                for attribute in attributes {
                    let Some(from) = path.entry(attribute) else { continue };
                    let Ok(bytes) = self.host.read(&from) else { continue };
                    let bytes = if *attribute == "address" { self.disguise.address(bytes) } else { bytes };
                    self.tree.put(&format!("{place}/{attribute}"), bytes);
                }
                if class == "nvme"
                    && self.disguise.keeps()
                    && let Ok(bytes) = self.host.read(&path.attr("serial"))
                {
                    self.tree.put(&format!("{place}/serial"), bytes);
                }
                if class == "block" {
                    self.holders(&path.attr("holders"), &format!("{place}/holders"));
                }
            }
        }
    }

    fn holders(&mut self, from: &HostPath, place: &str) {
        let Ok(names) = self.host.list(from) else { return };
        self.tree.put_dir(place);
        for name in names {
            let text = from.entry(&name).and_then(|path| self.host.link(&path).ok());
            self.tree.put_link(&format!("{place}/{name}"), text.unwrap_or_else(|| format!("../{name}")));
        }
    }

    /// mdev parents, what they offer, and the mdevs; gives the groups of these.
    fn mdevs(&mut self) -> Vec<String> {
        let class = HostPath::fixed(Root::Sys, "class/mdev_bus");
        for name in self.names(&class) {
            let Some(path) = class.entry(&name) else { continue };
            let Ok(text) = self.host.link(&path) else { continue };
            let place = self.tree.target(&class.to_string(), &text);
            self.tree.put_link(&path.to_string(), text);
            self.mdev_types(&path.attr("mdev_supported_types"), &format!("{place}/mdev_supported_types"));
        }
        let mut groups = Vec::new();
        let bus = HostPath::fixed(Root::Sys, "bus/mdev/devices");
        for name in self.names(&bus) {
            let Some(path) = bus.entry(&name) else { continue };
            let Ok(text) = self.host.link(&path) else { continue };
            let place = self.tree.target(&bus.to_string(), &text);
            self.tree.put_link(&path.to_string(), text);
            for link in ["mdev_type", "driver", "iommu_group"] {
                let Some(text) = path.entry(link).and_then(|path| self.host.link(&path).ok()) else { continue };
                if link == "iommu_group" {
                    groups.extend(text.rsplit('/').next().map(str::to_owned));
                }
                self.tree.put_link(&format!("{place}/{link}"), text);
            }
            for dev in self.names(&path.attr("vfio-dev")) {
                self.tree.put_dir(&format!("{place}/vfio-dev/{dev}"));
                if let Some(Ok(number)) = path.attr("vfio-dev").entry(&dev).map(|dev| self.host.read(&dev.attr("dev")))
                {
                    self.tree.put(&format!("{place}/vfio-dev/{dev}/dev"), number);
                }
            }
            self.tree.put(&format!("{place}/remove"), "");
        }
        let drivers = HostPath::fixed(Root::Sys, "bus/mdev/drivers");
        for name in self.names(&drivers) {
            let Some(driver) = drivers.entry(&name) else { continue };
            for entry in self.names(&driver) {
                match (entry.as_str(), driver.entry(&entry)) {
                    ("bind" | "unbind", Some(path)) => self.tree.put(&path.to_string(), ""),
                    ("module", Some(path)) => {
                        if let Some(module) = self.copy_link(&path)
                            && let Some(path) = HostPath::fixed(Root::Sys, "module").entry(&module)
                        {
                            self.module(&path, &module);
                        }
                    }
                    (name, Some(path)) if name.len() == 36 => {
                        self.copy_link(&path);
                    }
                    _ => {}
                }
            }
        }
        groups
    }

    fn mdev_types(&mut self, from: &HostPath, place: &str) {
        for name in self.names(from) {
            let Some(path) = from.entry(&name) else { continue };
            let place = format!("{place}/{name}");
            for attribute in ["name", "device_api", "available_instances", "description"] {
                if let Some(Ok(bytes)) = path.entry(attribute).map(|path| self.host.read(&path)) {
                    self.tree.put(&format!("{place}/{attribute}"), bytes);
                }
            }
            self.tree.put(&format!("{place}/create"), "");
            self.tree.put_dir(&format!("{place}/devices"));
            let devices = path.attr("devices");
            for uuid in self.names(&devices) {
                if let Some(text) = devices.entry(&uuid).and_then(|path| self.host.link(&path).ok()) {
                    self.tree.put_link(&format!("{place}/devices/{uuid}"), text);
                }
            }
        }
    }

    /// An IOMMU group: its devices, its name and type, and its reserved regions when firmware maps one directly.
    fn group(&mut self, group: &str) {
        let Some(path) = HostPath::fixed(Root::Sys, "kernel/iommu_groups").entry(group) else { return };
        self.copy(&path.attr("name"));
        self.copy(&path.attr("type"));
        let regions = self.host.read(&path.attr("reserved_regions")).unwrap_or_default();
        if String::from_utf8_lossy(&regions).contains("direct") {
            self.tree.put(&format!("{path}/reserved_regions"), regions);
        }
        let devices = path.attr("devices");
        for name in self.names(&devices) {
            if let Some(path) = devices.entry(&name) {
                self.copy_link(&path);
            }
        }
    }

    /// `/dev/vfio` by its names alone: nothing is opened. `/dev/iommu` by its entry in sysfs.
    fn nodes(&mut self) {
        let vfio = HostPath::fixed(Root::Dev, "vfio");
        for name in self.names(&vfio) {
            if name != "devices" {
                self.tree.put(&format!("{vfio}/{name}"), "");
            }
        }
        let devices = vfio.attr("devices");
        for name in self.names(&devices) {
            self.tree.put(&format!("{devices}/{name}"), "");
        }
        let misc = HostPath::fixed(Root::Sys, "class/misc");
        for name in ["iommu", "vfio"] {
            let there = misc.entry(name).and_then(|path| self.copy_link(&path)).is_some();
            if there && name == "iommu" {
                self.tree.put("/dev/iommu", "");
            }
        }
        // VFIO_DEVICE_CDEV came with 6.6.
        let old = || {
            let release = self.host.text(&HostPath::fixed(Root::Proc, "sys/kernel/osrelease")).unwrap_or_default();
            let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
            numbers.next().is_some_and(|major| (major, numbers.next().unwrap_or(0)) < (6, 6))
        };
        if self.cdevs == Some(false) || (self.cdevs.is_none() && old()) {
            self.tree.put_text(&format!("{HIDDEN}/config/VFIO_DEVICE_CDEV"), "n");
        }
    }

    /// The kernel, the processes' view, the module directory and the names.
    fn kernel(&mut self) {
        self.copy(&HostPath::fixed(Root::Sys, "kernel/security/lockdown"));
        self.copy(&HostPath::fixed(Root::Proc, "sys/kernel/osrelease"));
        let keeps = self.disguise.keeps();
        self.reduced("self/mountinfo", files::mounts);
        self.reduced("swaps", str::to_owned);
        self.reduced("net/route", |text| if keeps { text.to_owned() } else { files::default_routes(text) });
        self.reduced("net/ipv6_route", |text| if keeps { text.to_owned() } else { files::default_ipv6_routes(text) });
        let devices = self.aliases();
        let names = files::PCI_IDS.into_iter().map(|place| HostPath::fixed(Root::Share, place));
        let found =
            names.filter_map(|path| Some((self.host.read(&path).ok()?, path))).find(|(text, _)| !text.is_empty());
        if let Some((text, path)) = found {
            self.tree.put(&path.to_string(), files::names(&text, &devices));
        }
        let path = HostPath::fixed(Root::Modules, "modules.alias");
        match self.host.read(&path) {
            Ok(text) => self.tree.put(&path.to_string(), files::aliases(&text, &devices)),
            Err(error) => self.warnings.push(Warning::new(path, format_args!("no driver tables: {error}"))),
        }
        // What is built in has its aliases here and nowhere else.
        let path = HostPath::fixed(Root::Modules, "modules.builtin.alias.bin");
        match self.host.read(&path).map(|index| files::builtin_aliases(&index, &devices)) {
            Ok(Ok(index)) => self.tree.put(&path.to_string(), index),
            Ok(Err(error)) => self.warnings.push(Warning::new(path, format_args!("left out: {error}"))),
            // Old kernels have none.
            Err(_) => {}
        }
    }

    /// A text file of `/proc`, reduced and with interfaces disguised.
    fn reduced(&mut self, name: &'static str, reduce: impl Fn(&str) -> String) {
        let path = HostPath::fixed(Root::Proc, name);
        if let Ok(bytes) = self.host.read(&path) {
            let text = reduce(&String::from_utf8_lossy(&bytes));
            self.tree.put(&path.to_string(), self.disguise.uuids(&self.disguise.names_in(&text)));
        }
    }

    /// The ids of all functions, and of the VFs that PFs without any would make.
    fn aliases(&self) -> Vec<ModAlias> {
        let mut found: BTreeMap<String, ModAlias> = BTreeMap::new();
        for name in self.tree.names("/sys/bus/pci/devices") {
            let dir = format!("/sys/bus/pci/devices/{name}");
            let text = |attribute: &str| self.tree.text(&format!("{dir}/{attribute}"));
            let Some(Ok(alias)) = text("modalias").map(str::parse::<ModAlias>) else { continue };
            found.insert(alias.to_string(), alias);
            if let Some(Ok(device)) = text("sriov_vf_device").map(|hex| u16::from_str_radix(hex, 16)) {
                let vf = ModAlias::new(alias.vendor(), device, alias.subsystem(), alias.class());
                found.insert(vf.to_string(), vf);
            }
        }
        found.into_values().collect()
    }
}

/// `card0`, not `card0-DP-1` and not `renderD128`.
fn is_card(name: &str) -> bool {
    name.strip_prefix("card").is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
}
