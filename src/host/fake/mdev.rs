//! mdev: parents, types, and mdevs made and removed through sysfs.

use uuid::Uuid;

use super::driver_core::up;
use super::kernel::{GROUPS, Kernel};
use crate::model::{Bdf, Errno};

/// Where the mdevs are.
const DEVICES: &str = "/sys/bus/mdev/devices";

/// Where their drivers are.
const DRIVERS: &str = "/sys/bus/mdev/drivers";

/// A type of a parent that the fake knows.
#[derive(Debug, Clone, Copy)]
struct Kind {
    id: &'static str,
    name: &'static str,
    description: Option<&'static str>,
    /// What one takes of the parent's budget.
    cost: u32,
}

/// A module that registers an mdev parent of its own.
#[derive(Debug)]
pub(super) struct Sample {
    /// The module, its mdev driver, and its parent: `/sys/devices/virtual/<name>/<name>`.
    name: &'static str,
    types: &'static [Kind],
    budget: u32,
    /// What `create` says when the budget is used up: mdev's core counts for a driver without `get_available`.
    none_left: Errno,
}

const fn kind(id: &'static str, name: &'static str, description: Option<&'static str>, cost: u32) -> Kind {
    Kind { id, name, description, cost }
}

/// # Kernel
/// `samples/vfio-mdev/mtty.c`, `mdpy.c` (`max_instances`), `mbochs.c` (7.2).
const SAMPLES: [Sample; 3] = [
    Sample {
        name: "mtty",
        types: &[kind("mtty-1", "Single port serial", None, 1), kind("mtty-2", "Dual port serial", None, 2)],
        budget: 24,
        none_left: Errno::ENOSPC,
    },
    Sample {
        name: "mdpy",
        types: &[
            kind("mdpy-vga", "mdpy-vga", Some("virtual display, 640x480 framebuffer"), 1),
            kind("mdpy-xga", "mdpy-xga", Some("virtual display, 1024x768 framebuffer"), 1),
            kind("mdpy-hd", "mdpy-hd", Some("virtual display, 1920x1080 framebuffer"), 1),
        ],
        budget: 4,
        none_left: Errno::EUSERS,
    },
    Sample {
        name: "mbochs",
        types: &[
            kind("mbochs-small", "mbochs-small", Some("virtual display, 4 MB video memory"), 4),
            kind("mbochs-medium", "mbochs-medium", Some("virtual display, 16 MB video memory"), 16),
            kind("mbochs-large", "mbochs-large", Some("virtual display, 64 MB video memory"), 64),
        ],
        budget: 256,
        none_left: Errno::ENOSPC,
    },
];

/// The sample in a module of this name.
pub(super) fn sample(module: &str) -> Option<&'static Sample> {
    SAMPLES.iter().find(|sample| sample.name == module)
}

impl Sample {
    /// The sample that has a type of this id.
    fn of_type(id: &str) -> Option<&'static Self> {
        SAMPLES.iter().find(|sample| sample.types.iter().any(|kind| kind.id == id))
    }

    fn cost(&self, id: &str) -> u32 {
        self.types.iter().find(|kind| kind.id == id).map_or(1, |kind| kind.cost)
    }
}

/// What goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Going {
    /// The mdev itself.
    Mdev,
    /// Its driver alone.
    Driver,
}

/// An mdev that its driver is leaving, for somebody has it open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaving {
    /// Its directory.
    dir: String,
    /// The id of its type.
    kind: String,
    /// Its group.
    group: Option<u32>,
    what: Going,
}

impl Kernel {
    /// Registers the driver and the parent of a sample.
    ///
    /// # Kernel
    /// `drivers/vfio/mdev/mdev_core.c` `mdev_register_parent()`, `mdev_sysfs.c` `mdev_type_add()` (7.2). Contract: the
    /// `mdev:` cases.
    pub(super) fn register_sample(&mut self, sample: &'static Sample) {
        let name = sample.name;
        let driver = format!("{DRIVERS}/{name}");
        for file in ["bind", "unbind", "uevent"] {
            self.tree.put(&format!("{driver}/{file}"), "");
        }
        self.tree.put_link(&format!("{driver}/module"), format!("../../../../module/{name}"));
        let link = format!("../../../bus/mdev/drivers/{name}");
        self.tree.put_link(&format!("/sys/module/{name}/drivers/mdev:{name}"), link);
        self.tree.put_dir(DEVICES);
        let real = format!("devices/virtual/{name}/{name}");
        for kind in sample.types {
            let dir = format!("/sys/{real}/mdev_supported_types/{}", kind.id);
            self.tree.put_text(&format!("{dir}/name"), kind.name);
            if let Some(text) = kind.description {
                self.tree.put_text(&format!("{dir}/description"), text);
            }
            self.tree.put_text(&format!("{dir}/device_api"), "vfio-pci");
            self.tree.put_text(&format!("{dir}/available_instances"), sample.budget / kind.cost);
            self.tree.put(&format!("{dir}/create"), "");
            self.tree.put_dir(&format!("{dir}/devices"));
        }
        self.tree.put_link(&format!("/sys/class/mdev_bus/{name}"), format!("../../{real}"));
    }

    /// `create`: makes an mdev of a UUID, and binds it to the parent's driver.
    ///
    /// In this order: `EINVAL` another length than 36, or 37 with anything at the end; `EINVAL` no UUID; `EEXIST` it is
    /// anywhere on the system; `EUSERS` none is left and mdev's core counts, or what the driver says when it counts.
    ///
    /// # Kernel
    /// `drivers/vfio/mdev/mdev_sysfs.c` `create_store()`, `mdev_core.c` `mdev_device_create()` (7.2). Contract: the `mdev:`
    /// cases.
    pub(super) fn mdev_create_store(&mut self, parent: &str, kind: &str, value: &str) -> Result<(), Errno> {
        if !(36..=37).contains(&value.len()) {
            return Err(Errno::EINVAL);
        }
        let uuid = value.get(..36).and_then(|text| Uuid::try_parse(text).ok()).ok_or(Errno::EINVAL)?;
        let uuid = uuid.hyphenated().to_string();
        let going = self.leaving_mdevs.iter().any(|leaving| leaving.dir.ends_with(&uuid));
        if self.tree.has(&format!("{DEVICES}/{uuid}")) || going {
            return Err(Errno::EEXIST);
        }
        let sample = Sample::of_type(kind);
        if self.available(parent, kind) == 0 {
            return Err(sample.map_or(Errno::EUSERS, |sample| sample.none_left));
        }
        self.charge(parent, kind, -1);
        self.forget_mdev(&uuid);
        self.add_mdev(parent, kind, &uuid);
        Ok(())
    }

    /// The nodes of a new mdev: an emulated IOMMU has a group for each.
    ///
    /// # Kernel
    /// `mdev_create_sysfs_files()`, `drivers/vfio/group.c` `vfio_noiommu_group_alloc()` for `VFIO_EMULATED_IOMMU`,
    /// `drivers/vfio/vfio_main.c` `__vfio_register_dev()` (7.2).
    fn add_mdev(&mut self, parent: &str, kind: &str, uuid: &str) {
        let real = format!("{}/{uuid}", self.real_place(parent));
        let (dir, above) = (format!("{parent}/{uuid}"), up(&real));
        let group = self.free_group();
        self.tree.put(&format!("{dir}/remove"), "");
        self.add_mdev_attributes(&dir, kind);
        self.tree.put_link(&format!("{dir}/mdev_type"), format!("../mdev_supported_types/{kind}"));
        self.tree.put_link(&format!("{dir}/iommu_group"), format!("{above}kernel/iommu_groups/{group}"));
        if let Some(driver) = self.parent_driver(parent) {
            self.tree.put_link(&format!("{dir}/driver"), format!("{above}bus/mdev/drivers/{driver}"));
            self.tree.put_link(&format!("{DRIVERS}/{driver}/{uuid}"), format!("../../../../{real}"));
        }
        let link = format!("../../../{uuid}");
        self.tree.put_link(&format!("{parent}/mdev_supported_types/{kind}/devices/{uuid}"), link);
        self.tree.put_link(&format!("{DEVICES}/{uuid}"), format!("../../../{real}"));
        self.tree.put_link(&format!("{GROUPS}/{group}/devices/{uuid}"), format!("../../../../{real}"));
        self.tree.put_text(&format!("{GROUPS}/{group}/name"), "vfio-noiommu");
        self.tree.put_text(&format!("{GROUPS}/{group}/type"), "unknown");
        self.tree.put(&format!("/dev/vfio/{group}"), "");
        let number = self.add_vfio_number(&dir);
        self.add_cdev(&dir, number);
    }

    /// `remove`: takes an mdev away, and waits for whoever has it open. `0` does nothing; what is no number is `EINVAL`.
    ///
    /// # Kernel
    /// `mdev_sysfs.c` `remove_store()`: the attribute goes first; `mdev_core.c` `mdev_device_remove_common()`, `drivers/base/
    /// core.c` `device_del()`: its entry on the bus goes before its driver is waited for (7.2). Contract: `mdev: removing
    /// …`.
    pub(super) fn mdev_remove_store(&mut self, dir: &str, value: &str) -> Result<(), Errno> {
        let text = value.strip_suffix('\n').unwrap_or(value);
        if text.parse::<u64>().map_err(|_| Errno::EINVAL)? == 0 {
            return Ok(());
        }
        let uuid = dir.rsplit('/').next().unwrap_or_default().to_owned();
        let kind = self.tree.link_name(&format!("{dir}/mdev_type")).unwrap_or_default().to_owned();
        self.tree.remove(&format!("{dir}/remove"));
        self.tree.remove(&format!("{dir}/mdev_type"));
        if let Some((parent, _)) = dir.rsplit_once('/') {
            self.tree.remove(&format!("{parent}/mdev_supported_types/{kind}/devices/{uuid}"));
        }
        self.tree.remove(&format!("{DEVICES}/{uuid}"));
        self.leave_mdev(dir, kind, Going::Mdev)
    }

    /// `unbind` of an mdev driver. The mdev stays, and no driver matches it again.
    ///
    /// # Kernel
    /// `drivers/base/bus.c` `unbind_store()`; `mdev_driver.c` `mdev_match()` (7.2). Contract: `mdev: unbound …`.
    pub(super) fn mdev_unbind_store(&mut self, driver: &str, value: &str) -> Result<(), Errno> {
        let uuid = value.strip_suffix('\n').unwrap_or(value);
        let place = format!("{DEVICES}/{uuid}");
        let dir = self.tree.resolve(&place, super::tree::Last::Follow).map_err(|_| Errno::ENODEV)?;
        if self.tree.link_name(&format!("{dir}/driver")) != Some(driver) {
            return Err(Errno::ENODEV);
        }
        let kind = self.tree.link_name(&format!("{dir}/mdev_type")).unwrap_or_default().to_owned();
        self.leave_mdev(&dir, kind, Going::Driver)
    }

    /// The driver lets go of an mdev, at once or when it is closed.
    fn leave_mdev(&mut self, dir: &str, kind: String, what: Going) -> Result<(), Errno> {
        let uuid = dir.rsplit('/').next().unwrap_or_default();
        let group = self.tree.link_name(&format!("{dir}/iommu_group")).and_then(|name| name.parse().ok());
        let bound = self.tree.link_name(&format!("{dir}/driver")).map(str::to_owned);
        if let Some(driver) = &bound {
            self.tree.remove(&format!("{DRIVERS}/{driver}/{uuid}"));
        }
        self.tree.remove(&format!("{dir}/driver"));
        self.remove_vfio_number(dir);
        let leaving = Leaving { dir: dir.to_owned(), kind, group: group.filter(|_| bound.is_some()), what };
        if leaving.group.is_some_and(|group| self.opens.has_emulated(group)) {
            self.leaving_mdevs.push(leaving);
            return Err(Errno::ETIMEDOUT);
        }
        self.gone_mdev(&leaving);
        Ok(())
    }

    /// What is left when nobody has it open any more.
    fn gone_mdev(&mut self, leaving: &Leaving) {
        let (parent, _) = leaving.dir.rsplit_once('/').unwrap_or_default();
        // mdev's core counts mdevs, a driver its own devices.
        let core = Sample::of_type(&leaving.kind).is_none_or(|sample| sample.none_left == Errno::EUSERS);
        let removed = leaving.what == Going::Mdev;
        if if core { removed } else { leaving.group.is_some() } {
            self.charge(parent, &leaving.kind, 1);
        }
        if let Some(group) = leaving.group {
            self.tree.remove(&format!("/dev/vfio/{group}"));
            self.tree.remove(&format!("{GROUPS}/{group}"));
            self.tree.remove(&format!("{}/iommu_group", leaving.dir));
            self.opens.revoke(group);
        }
        if removed {
            self.tree.remove(&leaving.dir);
        }
    }

    /// Goes on with the mdevs that were waited for.
    pub(super) fn finish_mdevs(&mut self) {
        let waiting = std::mem::take(&mut self.leaving_mdevs);
        for leaving in waiting {
            if leaving.group.is_some_and(|group| self.opens.has_emulated(group)) {
                self.leaving_mdevs.push(leaving);
            } else {
                self.gone_mdev(&leaving);
            }
        }
    }

    /// `available_instances` of one type.
    fn available(&self, parent: &str, kind: &str) -> u32 {
        let text = self.tree.text(&format!("{parent}/mdev_supported_types/{kind}/available_instances"));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Takes one of a type from the parent's budget, or gives it back, and tells all types so. Of a parent that the fake
    /// has no model of, mdev's core counts.
    fn charge(&mut self, parent: &str, kind: &str, by: i64) {
        let types = format!("{parent}/mdev_supported_types");
        let ids: Vec<String> = self.tree.names(&types).map(str::to_owned).collect();
        let sample = Sample::of_type(kind);
        let cost = |id: &str| i64::from(sample.map_or(1, |sample| sample.cost(id)));
        // The cheapest type tells the budget to the last unit.
        let Some(cheapest) = ids.iter().min_by_key(|id| cost(id)) else { return };
        let left = i64::from(self.available(parent, cheapest)) * cost(cheapest) + by * cost(kind);
        for id in &ids {
            self.tree.put_text(&format!("{types}/{id}/available_instances"), left.max(0) / cost(id));
        }
    }

    /// The driver of a parent's mdevs: that which an mdev of it has, or a sample's own.
    fn parent_driver(&self, parent: &str) -> Option<String> {
        let mdevs = self.tree.names(parent).filter(|name| name.len() == 36);
        let bound = mdevs.filter_map(|uuid| self.tree.link_name(&format!("{parent}/{uuid}/driver"))).next();
        let name = parent.rsplit('/').next().unwrap_or_default();
        bound.or_else(|| sample(name).map(|sample| sample.name)).map(str::to_owned)
    }

    /// A parent's place on a real host, below `/sys`.
    fn real_place(&self, parent: &str) -> String {
        let name = parent.rsplit('/').next().unwrap_or_default();
        match name.parse::<Bdf>() {
            Ok(bdf) => self.device_link(bdf),
            Err(_) => parent.trim_start_matches("/sys/").to_owned(),
        }
    }
}
