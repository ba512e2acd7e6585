//! What functions tell of themselves: read of those alone that it is asked of.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::path::Root;
use crate::host::{HostError, HostPath, Read, optional};
use crate::model::Bdf;
use crate::model::identity::{Identities, Part, Told};
use crate::model::vf::{Guid, Mac};

/// Asks functions for parts of their identity, and the slots for their labels where `slots` are wanted.
///
/// # Errors
/// What the kernel refused, but that it is not there.
///
/// # Kernel
/// `net/core/net-sysfs.c` `address_show()`, `drivers/infiniband/core/sysfs.c` `node_guid_show()`, `drivers/nvme/host/sysfs.c`
/// `serial` (7.2); `drivers/pci/pci-sysfs.c` `serial_number_show()` (7.3): none waits for the device lock.
pub fn identities(
    host: &dyn Read,
    asked: &BTreeMap<Bdf, BTreeSet<Part>>,
    slots: Slots,
) -> Result<Identities, HostError> {
    let mut found = Identities::default();
    for (bdf, parts) in asked {
        let mut told = Told::default();
        for part in parts {
            read(host, *bdf, *part, &mut told)?;
        }
        found.told.insert(*bdf, told);
    }
    if slots == Slots::Wanted {
        let directory = HostPath::fixed(Root::Sys, "bus/pci/slots");
        for label in optional(host.list(&directory))?.unwrap_or_default() {
            let Some(slot) = directory.entry(&label) else { continue };
            found.slots.extend(optional(host.text(&slot.attr("address")))?.map(|address| (label, address)));
        }
    }
    Ok(found)
}

/// Whether the labels of slots are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slots {
    /// They are not read.
    Unwanted,
    /// They are.
    Wanted,
}

fn read(host: &dyn Read, bdf: Bdf, part: Part, told: &mut Told) -> Result<(), HostError> {
    let path = HostPath::pci(bdf);
    match part {
        Part::Serial => {
            told.serials.extend(below(host, &path.attr("nvme"), "serial")?.map(|(_, serial)| serial.trim().to_owned()));
            let of_the_device = optional(host.text(&path.attr("serial_number")))?;
            told.serials.extend(of_the_device.map(|serial| serial.trim().to_owned()));
        }
        Part::Mac => {
            for net in networks(host, &path)? {
                let all = below(host, &net, "address")?;
                told.macs.extend(all.filter_map(|(_, mac)| mac.parse::<Mac>().ok()));
            }
        }
        Part::Netdev => {
            for net in networks(host, &path)? {
                told.netdevs.extend(optional(host.list(&net))?.unwrap_or_default());
            }
        }
        Part::Guid => {
            let all = below(host, &path.attr("infiniband"), "node_guid")?;
            // Four times four digits: 0002:c903:00f1:2345.
            let bytes = |guid: &str| u64::from_str_radix(&guid.replace(':', ""), 16).ok();
            told.guids.extend(all.filter_map(|(_, guid)| bytes(&guid)).map(Guid::from));
        }
    }
    Ok(())
}

/// Where the network interfaces of a function are: below it, or below its virtio device.
fn networks(host: &dyn Read, path: &HostPath) -> Result<Vec<HostPath>, HostError> {
    let names = optional(host.list(path))?.unwrap_or_default();
    let virtio = names.iter().filter(|name| name.starts_with("virtio")).filter_map(|name| path.entry(name));
    Ok(virtio.map(|device| device.attr("net")).chain([path.attr("net")]).collect())
}

/// An attribute of each entry of a directory.
fn below(
    host: &dyn Read,
    directory: &HostPath,
    attribute: &'static str,
) -> Result<impl Iterator<Item = (String, String)> + use<>, HostError> {
    let mut found = Vec::new();
    for name in optional(host.list(directory))?.unwrap_or_default() {
        let Some(entry) = directory.entry(&name) else { continue };
        found.extend(optional(host.text(&entry.attr(attribute)))?.map(|text| (name, text)));
    }
    Ok(found.into_iter())
}
