//! Mediated devices, their parents and the types that a parent offers.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::address::is_component;
use super::{Address, BusName, DriverName, GroupId, ParseError};

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

/// An attribute of an mdev that its driver has made, below the directory of the mdev: `assign_adapter`, `nvidia/vgpu_params`.
///
/// What the kernel itself puts there is none: `remove` would end the mdev, and the links lead to other devices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MdevAttributeName(String);

impl FromStr for MdevAttributeName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const NOT_THE_DRIVERS: [&str; 8] =
            ["remove", "uevent", "driver", "driver_override", "subsystem", "iommu_group", "mdev_type", "vfio-dev"];
        let mut parts = text.splitn(2, '/');
        let first = parts.next().unwrap_or_default();
        let is_good = is_component(first) && parts.next().is_none_or(is_component);
        if !is_good || NOT_THE_DRIVERS.contains(&first) {
            return Err(ParseError::new("an attribute of an mdev such as assign_adapter or nvidia/vgpu_params", text));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for MdevAttributeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An attribute with what is written to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MdevAttribute {
    /// Which.
    pub name: MdevAttributeName,
    /// Its text, one line without its end.
    pub value: String,
}

impl MdevAttribute {
    /// An attribute and its value, both from outside.
    ///
    /// # Errors
    /// [`ParseError`]: it is no name of an attribute, or the value is not one line, of 4,095 bytes at most.
    pub fn new(name: &str, value: &str) -> Result<Self, ParseError> {
        let is_good = (1..4096).contains(&value.len()) && value.trim() == value && !value.chars().any(char::is_control);
        if !is_good {
            return Err(ParseError::new(
                "a value of an attribute, which is one line without blanks at its ends",
                value,
            ));
        }
        Ok(Self { name: name.parse()?, value: value.to_owned() })
    }
}

impl fmt::Display for MdevAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_the_drivers_own_and_below_its_mdev() {
        for name in ["assign_adapter", "nvidia/vgpu_params", "a b"] {
            assert_eq!(name.parse::<MdevAttributeName>().unwrap().to_string(), name);
        }
        for name in
            ["", "/", "a/", "/a", "a/b/c", ".", "../remove", "nvidia/..", "remove", "driver/unbind", "mdev_type/create"]
        {
            assert!(name.parse::<MdevAttributeName>().is_err(), "{name}");
        }
        for value in ["", " 5", "5 ", "5\n6", "\0", &"5".repeat(4096)] {
            assert!(MdevAttribute::new("assign_adapter", value).is_err(), "{value}");
        }
        assert_eq!(
            MdevAttribute::new("nvidia/vgpu_params", "a=1, b=2").unwrap().to_string(),
            "nvidia/vgpu_params a=1, b=2"
        );
    }
}
