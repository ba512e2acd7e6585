//! What other tools, and vfio-pci's own parameters, are told to do with devices.

use std::collections::BTreeMap;

use super::{Bdf, DriverName, ModAlias};

/// Standing orders that do not come from vfioadm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Domains of libvirt whose definition has the function with `managed='yes'`.
    pub libvirt: BTreeMap<Bdf, Vec<String>>,
    /// The driver that driverctl sets for a function, at boot and on hotplug.
    pub driverctl: BTreeMap<Bdf, DriverName>,
    /// UUIDs of the mdevs that mdevctl has defined on a function.
    pub mdevctl: BTreeMap<Bdf, Vec<String>>,
    /// What vfio-pci takes when it is loaded.
    pub ids: Vec<IdsAtLoad>,
}

/// One place that gives vfio-pci ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdsAtLoad {
    /// "the kernel command line", `/etc/modprobe.d/vfio.conf`.
    pub place: String,
    /// The ids.
    pub ids: Vec<DynamicId>,
}

/// One id of vfio-pci's parameter `ids`: `vendor:device[:subvendor[:subdevice[:class[:class_mask]]]]`, in hexadecimal.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci.c` `vfio_pci_fill_ids()`; `drivers/pci/pci.h` `pci_match_one_device()` (7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DynamicId {
    vendor: u32,
    device: u32,
    subvendor: u32,
    subdevice: u32,
    class: u32,
    class_mask: u32,
}

/// `PCI_ANY_ID`.
const ANY: u32 = u32::MAX;

impl DynamicId {
    /// Reads a comma-separated list; what the kernel would pass over with a warning is passed over.
    #[must_use]
    pub fn parse_list(text: &str) -> Vec<Self> {
        text.split(',').filter_map(Self::parse).collect()
    }

    /// Reads one; `None` of what the kernel would pass over with a warning.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // As sscanf("%x:%x…"): what is not a number ends the list of fields.
        let mut fields = text.split(':').map_while(|field| {
            let digits = field.trim_start_matches("0x").trim_start_matches("0X");
            u32::from_str_radix(digits, 16).ok()
        });
        let (vendor, device) = (fields.next()?, fields.next()?);
        let (subvendor, subdevice) = (fields.next().unwrap_or(ANY), fields.next().unwrap_or(ANY));
        let (class, class_mask) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
        Some(Self { vendor, device, subvendor, subdevice, class, class_mask })
    }

    /// Whether a device has it.
    #[must_use]
    pub fn matches(&self, device: &ModAlias) -> bool {
        let is = |wanted: u32, has: u16| wanted == ANY || wanted == u32::from(has);
        let (subvendor, subdevice) = device.subsystem();
        is(self.vendor, device.vendor())
            && is(self.device, device.device())
            && is(self.subvendor, subvendor)
            && is(self.subdevice, subdevice)
            && (self.class ^ device.class()) & self.class_mask == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_the_kernel_reads_them() {
        let nic = ModAlias::new(0x8086, 0x10c9, (0x8086, 0xa04c), 0x020000);
        let has = |text: &str| DynamicId::parse_list(text).iter().any(|id| id.matches(&nic));
        for text in [
            "8086:10c9",
            "10de:1db6,8086:10C9",
            "0x8086:0x10c9",
            "8086:ffffffff",
            "8086:10c9:8086:a04c",
            "8086:10c9:ffffffff:ffffffff:020000:ffff00",
        ] {
            assert!(has(text), "{text}");
        }
        for text in ["", "8086", "8086:10ca", "8086:10c9:1:2", "8086:10c9:ffffffff:ffffffff:030000:ff0000", "x:y"] {
            assert!(!has(text), "{text}");
        }
    }
}
