//! Mediated devices, their parents and the types that a parent offers.

use uuid::Uuid;

use super::{Address, BusName, DriverName, GroupId};

/// A device that can give mdevs: it has `mdev_supported_types/`.
///
/// # Kernel
/// `drivers/vfio/mdev/mdev_core.c` `mdev_register_parent()` (7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MdevParent {
    /// Its name in `/sys/class/mdev_bus`.
    pub name: BusName,
    /// Its address, when it is on a bus that this tool knows.
    pub address: Option<Address>,
    /// What it offers, in name order.
    pub types: Vec<MdevType>,
}

impl MdevParent {
    /// Whether making one of a type leaves fewer of the others: `None` where only the driver knows.
    ///
    /// sysfs does not tell. It is so where the driver lets mdev's core count, which it does for the parent, and where the
    /// driver divides one budget; the name of a type begins with the driver's.
    ///
    /// # Kernel
    /// `drivers/vfio/mdev/mdev_sysfs.c` `mdev_type_add()` names the types, `available_instances_show()` takes the parent's
    /// count for `max_instances`. `samples/vfio-mdev/mtty.c` divides ports, `mbochs.c` megabytes,
    /// `drivers/gpu/drm/i915/gvt/kvmgt.c` graphics memory; `mdpy.c` has `max_instances` (7.2).
    #[must_use]
    pub fn shares_instances(&self) -> Option<bool> {
        const SHARING: [&str; 4] = ["mtty-", "mdpy-", "mbochs-", "i915-"];
        match self.types.as_slice() {
            [] | [_] => Some(false),
            [first, ..] => SHARING.iter().any(|driver| first.id.as_str().starts_with(driver)).then_some(true),
        }
    }
}

/// `mdev_supported_types/<driver>-<type>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MdevType {
    /// The directory name, `mtty-2`.
    pub id: BusName,
    /// `name`: what the driver calls it.
    pub name: Option<String>,
    /// `description`: what the driver says of it, when it says anything; several lines on some.
    pub description: Option<String>,
    /// `device_api`: `vfio-pci`, `vfio-ap`, …
    pub device_api: Option<String>,
    /// `available_instances`: how many more can be made, shared between the types of a parent where the driver says so.
    pub available_instances: Option<u32>,
}

/// A mediated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mdev {
    /// Its name.
    pub uuid: Uuid,
    /// The name of its parent in `/sys/class/mdev_bus`, when it could be told.
    pub parent: Option<BusName>,
    /// The name of its type directory.
    pub type_id: Option<BusName>,
    /// The mdev driver that has it.
    pub driver: Option<DriverName>,
    /// Its private IOMMU group.
    pub group: Option<GroupId>,
    /// The name of its cdev, `vfio3`, when the kernel has cdevs.
    pub cdev: Option<BusName>,
}
