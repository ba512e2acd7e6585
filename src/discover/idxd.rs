//! idxd devices, their WQs, engines and groups: all below `/sys/bus/dsa`, which is not there without the driver.

use super::warned;
use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};
use crate::model::idxd::{Engine, IdxdKind, WqGroup, WqMode, WqType};
use crate::model::{BusName, DriverName, IdxdDevice, Inventory, WorkQueue};

/// Reads `/sys/bus/dsa/devices` into `inventory`. None of what is read takes a lock.
pub(super) fn read(host: &dyn Read, inventory: &mut Inventory) {
    let bus = HostPath::fixed(Root::Sys, "bus/dsa/devices");
    let names = warned(optional(host.list(&bus)), "idxd devices", &mut inventory.warnings).unwrap_or_default();
    let mut names: Vec<BusName> = names.iter().filter_map(|name| name.parse().ok()).collect();
    names.sort_by_cached_key(|name| numbers(name.as_str()));
    let entry = |name: &BusName| Entry { host, path: bus.child(name), name: name.clone() };
    for name in &names {
        let Some((kind, number)) = device_number(name.as_str()) else { continue };
        let own = |prefix: &str| {
            let start = format!("{prefix}{number}.");
            names.iter().filter(move |name| name.as_str().starts_with(&start))
        };
        let mut device = entry(name).device(kind);
        device.work_queues = own("wq").map(|name| entry(name).work_queue()).collect();
        device.engines =
            own("engine").map(|name| Engine { name: name.clone(), group: entry(name).index("group_id") }).collect();
        device.groups = own("group")
            .filter_map(|name| Some(WqGroup { name: name.clone(), index: numbers(name.as_str()).1? }))
            .collect();
        inventory.idxd.push(device);
    }
}

/// `dsa0` and `iax1`, and nothing else of the bus.
fn device_number(name: &str) -> Option<(IdxdKind, u16)> {
    let of = |kind: IdxdKind| Some((kind, name.strip_prefix(kind.as_str())?.parse().ok()?));
    of(IdxdKind::Dsa).or_else(|| of(IdxdKind::Iax))
}

/// What a name is sorted by: its two numbers.
fn numbers(name: &str) -> (Option<u16>, Option<u16>) {
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let (first, second) = digits.split_once('.').unwrap_or((digits, ""));
    (first.parse().ok(), second.parse().ok())
}

/// One device of the bus.
struct Entry<'a> {
    host: &'a dyn Read,
    path: HostPath,
    name: BusName,
}

impl Entry<'_> {
    fn text(&self, name: &'static str) -> Option<String> {
        optional(self.host.text(&self.path.attr(name))).unwrap_or(None)
    }

    fn number<T: std::str::FromStr>(&self, name: &'static str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// `-1` is none.
    fn index(&self, name: &'static str) -> Option<u16> {
        self.number(name)
    }

    fn flag(&self, name: &'static str) -> bool {
        self.text(name).is_some_and(|text| text == "1")
    }

    fn driver(&self) -> Option<DriverName> {
        optional(self.host.link_name(&self.path.attr("driver"))).unwrap_or(None)?.parse().ok()
    }

    fn device(&self, kind: IdxdKind) -> IdxdDevice {
        // The link to the device leads through its PCI function: …/0000:e7:01.0/dsa0.
        let link = optional(self.host.link(&self.path)).unwrap_or(None);
        let function = link.and_then(|text| text.rsplit('/').nth(1)?.parse().ok());
        let status = self.text("cmd_status");
        let status = status.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        IdxdDevice {
            name: self.name.clone(),
            function,
            kind,
            state: self.text("state").unwrap_or_default(),
            driver: self.driver(),
            configurable: self.flag("configurable"),
            pasid: self.flag("pasid_enabled"),
            max_work_queues: self.number("max_work_queues").unwrap_or(0),
            max_work_queues_size: self.number("max_work_queues_size").unwrap_or(0),
            cmd_status: status.unwrap_or(0),
            work_queues: Vec::new(),
            engines: Vec::new(),
            groups: Vec::new(),
        }
    }

    fn work_queue(&self) -> WorkQueue {
        WorkQueue {
            address: self.name.clone(),
            enabled: self.text("state").is_some_and(|state| state == "enabled"),
            kind: self.text("type").map_or(WqType::None, |text| WqType::read_as(&text)),
            mode: if self.text("mode").is_some_and(|mode| mode == "dedicated") {
                WqMode::Dedicated
            } else {
                WqMode::Shared
            },
            size: self.number("size").unwrap_or(0),
            group: self.index("group_id"),
            priority: self.number("priority").unwrap_or(0),
            threshold: self.number("threshold").unwrap_or(0),
            name: self.text("name").unwrap_or_default(),
            driver_name: self.text("driver_name").filter(|name| !name.is_empty()),
            driver: self.driver(),
            clients: self.number("clients").unwrap_or(0),
        }
    }
}
