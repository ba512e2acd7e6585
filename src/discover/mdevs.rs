//! mdevs, their parents and the types that these offer.

use uuid::Uuid;

use super::warned;
use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};
use crate::model::{Address, BusName, Inventory, Mdev, MdevParent, MdevType, Warning};

/// Reads `/sys/bus/mdev/devices` and `/sys/class/mdev_bus` into `inventory`; a kernel without mdev has neither.
pub(super) fn read(host: &dyn Read, inventory: &mut Inventory) {
    let parents = HostPath::fixed(Root::Sys, "class/mdev_bus");
    let mut names = warned(optional(host.list(&parents)), "mdev parents", &mut inventory.warnings).unwrap_or_default();
    names.sort();
    for name in names {
        match name.parse::<BusName>() {
            Ok(name) => inventory.mdev_parents.push(parent(host, &parents.child(&name), name)),
            Err(error) => inventory.warnings.push(Warning::new("mdev parents", error)),
        }
    }
    let devices = HostPath::fixed(Root::Sys, "bus/mdev/devices");
    let mut names = warned(optional(host.list(&devices)), "mdevs", &mut inventory.warnings).unwrap_or_default();
    names.sort();
    for name in names {
        match Uuid::try_parse(&name) {
            Ok(uuid) => inventory.mdevs.push(mdev(host, &devices.child(&uuid.hyphenated()), uuid)),
            Err(_) => inventory.warnings.push(Warning::new(&name, "not the name of an mdev; left out")),
        }
    }
}

fn parent(host: &dyn Read, path: &HostPath, name: BusName) -> MdevParent {
    let types = path.attr("mdev_supported_types");
    let mut ids = optional(host.list(&types)).unwrap_or(None).unwrap_or_default();
    ids.sort();
    let types = ids
        .iter()
        .filter_map(|id| id.parse::<BusName>().ok())
        .map(|id| {
            let path = types.child(&id);
            let text = |attribute| optional(host.text(&path.attr(attribute))).unwrap_or(None);
            MdevType {
                name: text("name"),
                description: text("description"),
                device_api: text("device_api"),
                available_instances: text("available_instances").and_then(|count| count.parse().ok()),
                id,
            }
        })
        .collect();
    let address = name.as_str().parse::<Address>().ok();
    MdevParent { name, address, types }
}

fn mdev(host: &dyn Read, path: &HostPath, uuid: Uuid) -> Mdev {
    let link = |attribute| optional(host.link(&path.attr(attribute))).unwrap_or(None);
    let last = |target: String| target.rsplit('/').next().unwrap_or_default().to_owned();
    // `mdev_type` leads to …/<parent>/mdev_supported_types/<type>; seen from the mdev's own directory that is
    // `../mdev_supported_types/<type>`, and the parent's name is then in the link to the mdev itself.
    let type_id = link("mdev_type").map(last).and_then(|name| name.parse().ok());
    let parent = optional(host.link(path)).unwrap_or(None).and_then(|target| {
        let mut parts = target.rsplit('/');
        parts.next();
        parts.next()?.parse().ok()
    });
    let cdev = optional(host.list(&path.attr("vfio-dev"))).unwrap_or(None).unwrap_or_default();
    Mdev {
        uuid,
        parent,
        type_id,
        driver: link("driver").map(last).and_then(|name| name.parse().ok()),
        group: link("iommu_group").map(last).and_then(|name| name.parse().ok()),
        cdev: cdev.into_iter().next().and_then(|name| name.parse().ok()),
    }
}
