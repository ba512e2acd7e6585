//! Devices as they are printed: the shared part of `list` and `show`, and tables.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::Terminal;
use crate::discover::{Holders, Names};
use crate::host::Read;
use crate::model::idxd::WqType;
use crate::model::{Address, Bdf, Holder, How, IdxdDevice, Inventory, Mdev, PciFunction, Role, Subfunction, WorkQueue};

/// One device of a listing. Every key is always there.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Device {
    pub(super) address: String,
    pub(super) vendor: Option<String>,
    pub(super) device: Option<String>,
    pub(super) class: Option<String>,
    pub(super) name: Option<String>,
    pub(super) driver: Option<String>,
    #[serde(rename = "override")]
    pub(super) driver_override: Option<String>,
    pub(super) iommu_group: Option<u32>,
    pub(super) numa_node: Option<u32>,
    pub(super) role: &'static str,
    pub(super) pf: Option<String>,
    pub(super) vf_index: Option<u16>,
    pub(super) cdev: Option<String>,
    /// `None` when nobody asked.
    pub(super) holders: Option<Vec<HolderView>>,
    /// `None` when nobody asked, and when the kernel does not say.
    pub(super) open: Option<bool>,
    /// `None` when nobody asked, and of what is no VFIO device.
    pub(super) probed: Option<Probed>,
}

/// What a device said of its migration when it was opened.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Probed {
    /// `None` when it could not be asked.
    pub(super) migrates: Option<bool>,
    pub(super) flags: Vec<&'static str>,
    /// Why it could not be asked.
    pub(super) reason: Option<String>,
}

impl Probed {
    /// `stop_copy p2p pre_copy`, `no`, or why that is not known.
    pub(super) fn words(&self) -> String {
        match (self.migrates, &self.reason) {
            (Some(true), _) => self.flags.join(" "),
            (Some(false), _) => "no".to_owned(),
            (None, reason) => format!("? {}", reason.as_deref().unwrap_or_default()),
        }
    }
}

/// A process that has a device open, as printed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct HolderView {
    pid: u32,
    command: String,
    vm: Option<String>,
    by: &'static str,
    #[serde(skip)]
    words: String,
}

impl From<&Holder> for HolderView {
    fn from(holder: &Holder) -> Self {
        let (pid, command, vm) = (holder.pid, holder.command.clone(), holder.vm.clone());
        Self { pid, command, vm, by: holder.how.as_str(), words: held_words(holder) }
    }
}

/// `pid 4242 (qemu-system-x86_64, VM web1), by its cdev`.
fn held_words(holder: &Holder) -> String {
    let by = match holder.how {
        How::Cdev => ", by its cdev",
        How::Device => ", by its group",
        How::Mapping => ", by a mapped BAR",
        How::OneOf => "",
        How::Group => ", its group only",
        How::Resource => ", by a BAR in sysfs",
        How::Uio => ", by UIO",
    };
    format!("{holder}{by}")
}

impl Device {
    pub(super) fn of_function(function: &PciFunction, names: &Names) -> Self {
        let (vendor, device) = (function.alias.vendor(), function.alias.device());
        let class = function.class();
        let name =
            names.device(vendor, device).or_else(|| names.class(class.base(), class.sub()).map(ToOwned::to_owned));
        let (pf, vf_index) = match function.role {
            Role::Vf { pf, index } => (Some(pf.to_string()), index),
            _ => (None, None),
        };
        Self {
            address: function.bdf.to_string(),
            vendor: Some(format!("{vendor:04x}")),
            device: Some(format!("{device:04x}")),
            class: Some(class.to_string()),
            name,
            driver: function.driver.as_ref().map(ToString::to_string),
            driver_override: function.driver_override.clone(),
            iommu_group: function.group.map(|group| group.0),
            numa_node: function.numa_node,
            role: role(function.role),
            pf,
            vf_index,
            cdev: cdev(function),
            holders: None,
            open: None,
            probed: None,
        }
    }

    pub(super) fn of_mdev(mdev: &Mdev) -> Self {
        let parent = mdev.parent.as_ref().map_or("", |parent| parent.as_str());
        let name = mdev.type_id.as_ref().map(|id| format!("{id} of {parent}"));
        Self {
            address: mdev.uuid.to_string(),
            vendor: None,
            device: None,
            class: None,
            name,
            driver: mdev.driver.as_ref().map(ToString::to_string),
            driver_override: None,
            iommu_group: mdev.group.map(|group| group.0),
            numa_node: None,
            role: "mdev",
            pf: None,
            vf_index: None,
            cdev: mdev.cdev.as_ref().map(|cdev| format!("/dev/vfio/devices/{cdev}")),
            holders: None,
            open: None,
            probed: None,
        }
    }

    /// A WQ: its `name` is what it is, for what an administrator calls it need not tell.
    pub(super) fn of_queue(device: &IdxdDevice, queue: &WorkQueue) -> Self {
        let state = if queue.enabled { "enabled" } else { "disabled" };
        let label = if queue.name.is_empty() { String::new() } else { format!(" {:?}", queue.name) };
        let name = match queue.kind {
            WqType::None => format!("WQ of {}, not configured", device.name),
            kind => format!("{} WQ{label} of {}, {}, {state}", kind.as_str(), device.name, queue.mode.as_str()),
        };
        Self {
            address: queue.address.to_string(),
            vendor: None,
            device: None,
            class: None,
            name: Some(name),
            driver: queue.driver.as_ref().map(ToString::to_string),
            driver_override: None,
            iommu_group: None,
            numa_node: None,
            role: "wq",
            pf: None,
            vf_index: None,
            cdev: None,
            holders: None,
            open: None,
            probed: None,
        }
    }

    /// A subfunction, which is in the IOMMU group of its PF.
    pub(super) fn of_subfunction(subfunction: &Subfunction, inventory: &Inventory) -> Self {
        let pf = inventory.functions.get(&subfunction.function);
        Self {
            address: subfunction.address().to_string(),
            vendor: None,
            device: None,
            class: None,
            name: Some(format!("subfunction {}, auxiliary device {}", subfunction.sfnum, subfunction.name)),
            driver: subfunction.driver.as_ref().map(ToString::to_string),
            driver_override: None,
            iommu_group: pf.and_then(|pf| pf.group).map(|group| group.0),
            numa_node: None,
            role: "sf",
            pf: Some(subfunction.function.to_string()),
            vf_index: None,
            cdev: None,
            holders: None,
            open: None,
            probed: None,
        }
    }

    /// The same with who has it open.
    pub(super) fn held(self, address: &Address, holders: &Holders) -> Self {
        let open = if let Address::Pci(bdf) = address { holders.is_open(*bdf) } else { None };
        Self { holders: Some(holders.of(address).iter().map(HolderView::from).collect()), open, ..self }
    }

    /// Its holders in words, one each; one whom `/proc` does not show is somebody.
    pub(super) fn holder_words(&self) -> Vec<String> {
        let named: Vec<String> = self.holders.iter().flatten().map(|holder| holder.words.clone()).collect();
        if named.is_empty() && self.open == Some(true) { vec![String::from("somebody")] } else { named }
    }
}

/// `pf`, `vf`, `function` or `bridge`.
pub(super) const fn role(role: Role) -> &'static str {
    match role {
        Role::Pf { .. } => "pf",
        Role::Vf { .. } => "vf",
        Role::Bridge => "bridge",
        Role::Function => "function",
    }
}

/// The cdev of a function, when the kernel makes them.
pub(super) fn cdev(function: &PciFunction) -> Option<String> {
    let vfio = function.vfio_dev.as_ref().filter(|vfio| vfio.has_cdev)?;
    Some(format!("/dev/vfio/devices/{}", vfio.name))
}

/// The group node and the cdev of a function that is a VFIO device now.
pub(super) fn nodes(host: &dyn Read, bdf: Bdf) -> (Option<String>, Option<String>) {
    let mut inventory = Inventory::default();
    if crate::discover::one(host, bdf, &mut inventory).is_err() {
        return (None, None);
    }
    let function = inventory.functions.get(&bdf).filter(|function| function.is_vfio());
    (function.and_then(|of| of.group).map(|group| format!("/dev/vfio/{group}")), function.and_then(cdev))
}

/// `, /dev/vfio/12 and /dev/vfio/devices/vfio3`, to go on with.
pub(super) fn node_words((node, cdev): (Option<&str>, Option<&str>)) -> String {
    let nodes: Vec<&str> = node.into_iter().chain(cdev).collect();
    if nodes.is_empty() { String::new() } else { format!(", {}", nodes.join(" and ")) }
}

/// `PF/vfN` and the like, for people.
pub(super) fn role_words(function: &PciFunction) -> String {
    match function.role {
        Role::Pf { total, enabled, .. } => format!("pf {enabled}/{total}"),
        Role::Vf { index: Some(index), .. } => format!("vf {index}"),
        other => role(other).to_owned(),
    }
}

/// The ids whose names are to be looked up.
pub(super) fn ids<'a>(functions: impl Iterator<Item = &'a PciFunction>) -> Vec<(u16, u16)> {
    let mut ids: Vec<(u16, u16)> =
        functions.map(|function| (function.alias.vendor(), function.alias.device())).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// A table without lines, as wide as the terminal, or as wide as it needs in a pipe.
pub(super) fn table(terminal: Terminal, header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    match terminal.columns {
        Some(columns) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns.max(60));
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    let last = header.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A value or a dash.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| String::from("-"), |value| value.to_string())
}

/// The other members of a device's group, as `0000:04:00.0 (e1000)`.
pub(super) fn siblings(inventory: &Inventory, function: &PciFunction) -> Vec<String> {
    let words = |member: &PciFunction| format!("{} ({})", member.bdf, or_dash(member.driver.as_ref()));
    inventory.group_siblings(function.bdf).map(words).collect()
}
