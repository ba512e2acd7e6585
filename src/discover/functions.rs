//! PCI functions and IOMMU groups, in one pass over `/sys/bus/pci/devices`.
//!
//! One directory listing per function tells what it has, so that nothing is asked for that is not there; then at most
//! seven small reads. `uevent`, which would give more at once, waits for the device lock on some kernels, and
//! `sriov_numvfs` does on all.

use std::collections::BTreeMap;

use crate::host::{HostError, HostPath, Read, optional};
use crate::model::pci::{VfioDev, override_read_as};
use crate::model::{Bdf, Errno, Group, GroupId, Inventory, PciFunction, Role, VfIndex, Warning};

/// Reads every PCI function into `inventory`. One that vanishes while it is read is left out with a warning.
pub(super) fn read(host: &dyn Read, inventory: &mut Inventory) -> Result<(), HostError> {
    let Some(names) = optional(host.list(&HostPath::pci_devices()))? else {
        inventory.warnings.push(Warning::new(HostPath::pci_devices(), "there is no PCI bus on this machine"));
        return Ok(());
    };
    let mut indices: BTreeMap<Bdf, VfIndex> = BTreeMap::new();
    for name in names {
        let Ok(bdf) = name.parse::<Bdf>() else {
            inventory.warnings.push(Warning::new(&name, "not the name of a PCI function; left out"));
            continue;
        };
        match function(host, bdf, &mut indices, &mut inventory.warnings) {
            Ok(function) => {
                inventory.functions.insert(bdf, function);
            }
            Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENODEV) => {
                inventory.warnings.push(Warning::new(bdf, format!("vanished while it was read; left out ({error})")));
            }
            Err(error) => inventory.warnings.push(Warning::new(bdf, format!("could not be read; left out ({error})"))),
        }
    }
    for function in inventory.functions.values_mut() {
        if let Role::Vf { index, .. } = &mut function.role {
            *index = indices.get(&function.bdf).copied();
        }
        if let Some(id) = function.group {
            let group = inventory.groups.entry(id).or_insert_with(|| Group { id, members: Vec::new() });
            group.members.push(function.bdf);
        }
    }
    Ok(())
}

/// Reads one function into `inventory`.
pub(super) fn read_one(host: &dyn Read, bdf: Bdf, inventory: &mut Inventory) -> Result<(), HostError> {
    let function = function(host, bdf, &mut BTreeMap::new(), &mut inventory.warnings)?;
    inventory.functions.insert(bdf, function);
    Ok(())
}

/// What the listing of a device directory says about it.
#[derive(Default)]
struct Entries {
    driver: bool,
    driver_override: bool,
    group: bool,
    numa: bool,
    vf: bool,
    pf: bool,
    vfio: bool,
    mdev: bool,
    nvidia: bool,
    boot_vga: bool,
    virtfns: Vec<String>,
}

impl Entries {
    fn of(names: Vec<String>) -> Self {
        let mut entries = Self::default();
        for name in names {
            match name.as_str() {
                "driver" => entries.driver = true,
                "driver_override" => entries.driver_override = true,
                "iommu_group" => entries.group = true,
                "numa_node" => entries.numa = true,
                "physfn" => entries.vf = true,
                "sriov_totalvfs" => entries.pf = true,
                "vfio-dev" => entries.vfio = true,
                "mdev_supported_types" => entries.mdev = true,
                "nvidia" => entries.nvidia = true,
                "boot_vga" => entries.boot_vga = true,
                other if other.starts_with("virtfn") => entries.virtfns.push(name),
                _ => {}
            }
        }
        entries
    }
}

fn function(
    host: &dyn Read,
    bdf: Bdf,
    indices: &mut BTreeMap<Bdf, VfIndex>,
    warnings: &mut Vec<Warning>,
) -> Result<PciFunction, HostError> {
    let path = HostPath::pci(bdf);
    let entries = Entries::of(host.list(&path)?);
    let mut read = Attributes { host, path: &path, bdf, warnings };
    let alias = read.host.text(&path.attr("modalias"))?;
    let alias = alias.parse().map_err(|_| {
        HostError::new(crate::host::Verb::Read, path.attr("modalias"), Errno::EINVAL).with_value(&alias)
    })?;
    let driver = if entries.driver { read.link("driver") } else { None };
    let driver_override = if entries.driver_override { read.text("driver_override") } else { None };
    let group: Option<GroupId> = if entries.group { read.link("iommu_group") } else { None };
    let numa_node = if entries.numa { read.text("numa_node").and_then(|node| node.parse().ok()) } else { None };
    let role = if entries.vf {
        read.link("physfn").map(|pf| Role::Vf { pf, index: None })
    } else if entries.pf {
        Some(read.pf(&entries.virtfns, indices))
    } else {
        None
    };
    let vfio_dev = if entries.vfio { read.vfio_dev() } else { None };
    let boot_vga = entries.boot_vga && read.text("boot_vga").is_some_and(|text| text == "1");
    let mut function = PciFunction {
        bdf,
        alias,
        driver,
        driver_override: driver_override.and_then(override_read_as),
        group,
        numa_node,
        role: role.unwrap_or(Role::Function),
        vfio_dev,
        mdev_parent: entries.mdev,
        vendor_vgpu: entries.nvidia,
        boot_vga,
    };
    if function.role == Role::Function && function.class().is_pci_bridge() {
        function.role = Role::Bridge;
    }
    Ok(function)
}

/// Reads attributes of one function. What is gone by now is absent; what cannot be understood is absent with a warning.
struct Attributes<'a> {
    host: &'a dyn Read,
    path: &'a HostPath,
    bdf: Bdf,
    warnings: &'a mut Vec<Warning>,
}

impl Attributes<'_> {
    fn text(&mut self, name: &'static str) -> Option<String> {
        let read = optional(self.host.text(&self.path.attr(name)));
        read.unwrap_or_else(|error| {
            self.warnings.push(Warning::new(self.bdf, format!("{name} is unknown ({error})")));
            None
        })
    }

    fn link<T: std::str::FromStr<Err = crate::model::ParseError>>(&mut self, name: &'static str) -> Option<T> {
        let read = optional(self.host.link_name(&self.path.attr(name)));
        let text = read.unwrap_or_else(|error| {
            self.warnings.push(Warning::new(self.bdf, format!("{name} is unknown ({error})")));
            None
        })?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.warnings.push(Warning::new(self.bdf, format!("{name} is unknown: {error}")));
                None
            }
        }
    }

    fn pf(&mut self, virtfns: &[String], indices: &mut BTreeMap<Bdf, VfIndex>) -> Role {
        let mut enabled: u16 = 0;
        for name in virtfns {
            let index = name.strip_prefix("virtfn").and_then(|index| index.parse::<VfIndex>().ok());
            let target = self.path.entry(name).and_then(|link| optional(self.host.link_name(&link)).unwrap_or(None));
            if let (Some(index), Some(Ok(vf))) = (index, target.map(|target| target.parse::<Bdf>())) {
                indices.insert(vf, index);
                enabled += 1;
            }
        }
        Role::Pf {
            total: self.text("sriov_totalvfs").and_then(|total| total.parse().ok()).unwrap_or(0),
            enabled,
            autoprobe: self.text("sriov_drivers_autoprobe").is_none_or(|text| text != "0"),
        }
    }

    fn vfio_dev(&mut self) -> Option<VfioDev> {
        let directory = self.path.attr("vfio-dev");
        let names = optional(self.host.list(&directory)).unwrap_or(None)?;
        let name = names.into_iter().find(|name| name.contains("vfio"))?;
        let inside = optional(self.host.list(&directory.entry(&name)?)).unwrap_or(None)?;
        Some(VfioDev { name: name.parse().ok()?, has_cdev: inside.iter().any(|entry| entry == "dev") })
    }
}
