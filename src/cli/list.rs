//! `vfioadm list`

use serde::Serialize;

use super::args::ListArgs;
use super::report::{Exit, Trouble};
use super::view::{self, Device, Probed, or_dash};
use super::{Session, in_use, open, probe};
use crate::discover::{Holders, Names};
use crate::model::{Address, DriverName, IdxdDevice, Inventory, Mdev, PciFunction, Subfunction, WorkQueue};

#[derive(Serialize)]
struct Listing<'a> {
    schema: &'static str,
    devices: &'a [Device],
    mdev_parents: Vec<Parent>,
    error: Option<Trouble>,
}

#[derive(Serialize)]
struct Parent {
    name: String,
    types: Vec<ParentType>,
}

#[derive(Serialize)]
struct ParentType {
    id: String,
    name: Option<String>,
    description: Option<String>,
    device_api: Option<String>,
    available_instances: Option<u32>,
}

pub(super) fn run(args: &ListArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let (inventory, named) = session.resolve(host, &args.selectors)?;
    let listed = |address: &&Address| {
        matches!(address, Address::Pci(_) | Address::Mdev(_) | Address::Wq(_) | Address::Sf { .. })
    };
    if let Some(other) = named.iter().find(|address| !listed(address)) {
        open::pci_only(std::slice::from_ref(other), "list")?;
    }
    named.iter().try_for_each(|address| open::is_active(address, &inventory))?;
    let named_or_all = |address: Address| named.is_empty() || named.contains(&address);
    let functions: Vec<&PciFunction> = inventory
        .functions
        .values()
        .filter(|function| named_or_all(function.bdf.into()) && wanted(args, function))
        .collect();
    let mdevs: Vec<&Mdev> = inventory
        .mdevs
        .iter()
        .filter(|mdev| named_or_all(Address::Mdev(mdev.uuid)) && wanted_mdev(args, mdev))
        .collect();
    let queues: Vec<(&IdxdDevice, &WorkQueue)> = inventory
        .idxd
        .iter()
        .flat_map(|device| device.work_queues.iter().map(move |queue| (device, queue)))
        // What nobody has configured is a slot: `types` counts those.
        .filter(|(_, queue)| !queue.is_free() || named.contains(&Address::Wq(queue.address.clone())))
        .filter(|(_, queue)| named_or_all(Address::Wq(queue.address.clone())) && wanted_queue(args, queue))
        .collect();
    let subfunctions: Vec<&Subfunction> = inventory
        .subfunctions
        .iter()
        .filter(|subfunction| named_or_all(subfunction.address()) && wanted_subfunction(args, subfunction, &inventory))
        .collect();
    let names = Names::read(host, &view::ids(functions.iter().copied()));
    let mut devices: Vec<Device> = functions.iter().map(|function| Device::of_function(function, &names)).collect();
    devices.extend(mdevs.iter().map(|mdev| Device::of_mdev(mdev)));
    devices.extend(queues.iter().map(|(device, queue)| Device::of_queue(device, queue)));
    devices.extend(subfunctions.iter().map(|subfunction| Device::of_subfunction(subfunction, &inventory)));
    let pci = functions.iter().map(|function| Address::from(function.bdf));
    let addresses: Vec<Address> = pci
        .chain(mdevs.iter().map(|mdev| Address::Mdev(mdev.uuid)))
        .chain(queues.iter().map(|(_, queue)| Address::Wq(queue.address.clone())))
        .chain(subfunctions.iter().map(|subfunction| subfunction.address()))
        .collect();
    if args.holders {
        let holders = Holders::read(host, &inventory, &addresses.iter().cloned().collect());
        session.warn(&in_use::unseen(&holders));
        devices = devices.into_iter().zip(&addresses).map(|(device, address)| device.held(address, &holders)).collect();
    }
    if args.probe {
        probe::warn_of_opening(session);
        let probed = probe::migrations(host, &inventory, &addresses);
        devices = devices.into_iter().zip(probed).map(|(device, probed)| Device { probed, ..device }).collect();
    }
    if session.json() {
        let mdev_parents = inventory.mdev_parents.iter().map(parent).collect();
        session.print_json(&Listing { schema: "vfioadm.list/1", devices: &devices, mdev_parents, error: None });
        return Ok(Exit::Done);
    }
    let words = functions
        .iter()
        .map(|function| view::role_words(function))
        .chain(mdevs.iter().map(|_| "mdev".to_owned()))
        .chain(queues.iter().map(|_| "wq".to_owned()))
        .chain(subfunctions.iter().map(|_| "sf".to_owned()));
    let rows = devices.iter().zip(words).map(|(device, role)| row(args, device, role)).collect();
    let mut header = vec!["ADDRESS", "ROLE", "IDS", "DRIVER", "OVERRIDE", "GROUP", "NUMA", "NAME"];
    if args.holders {
        header.insert(header.len() - 1, "HOLDERS");
    }
    if args.probe {
        header.insert(header.len() - 1, "MIGRATES");
    }
    let table = view::table(session.env.terminal, &header, rows);
    session.print(format_args!("{table}"));
    Ok(Exit::Done)
}

fn row(args: &ListArgs, device: &Device, role: String) -> Vec<String> {
    let ids = match (&device.vendor, &device.device) {
        (Some(vendor), Some(id)) => format!("{vendor}:{id}"),
        _ => String::from("-"),
    };
    let mut row = vec![
        device.address.clone(),
        role,
        ids,
        or_dash(device.driver.as_ref()),
        or_dash(device.driver_override.as_ref()),
        or_dash(device.iommu_group),
        or_dash(device.numa_node),
    ];
    if device.holders.is_some() {
        let words = device.holder_words();
        row.push(or_dash(Some(words.join("; ")).filter(|words| !words.is_empty())));
    }
    if args.probe {
        row.push(or_dash(device.probed.as_ref().map(Probed::words)));
    }
    row.push(or_dash(device.name.as_ref()));
    row
}

fn wanted(args: &ListArgs, function: &PciFunction) -> bool {
    args.vendor.is_none_or(|vendor| function.alias.vendor() == vendor)
        && args.device.is_none_or(|device| function.alias.device() == device)
        && args.class.as_ref().is_none_or(|class| function.class().to_string().starts_with(class.as_str()))
        && args.group.is_none_or(|group| function.group == Some(group))
        && args.pf.is_none_or(|pf| function.pf() == Some(pf))
        && args.driver.as_ref().is_none_or(|driver| is_on(driver, function.driver.as_ref()))
}

/// An mdev has no PCI ids and no PF: a selector by these leaves it out.
fn wanted_mdev(args: &ListArgs, mdev: &Mdev) -> bool {
    args.vendor.is_none()
        && args.device.is_none()
        && args.class.is_none()
        && args.pf.is_none()
        && args.group.is_none_or(|group| mdev.group == Some(group))
        && args.driver.as_ref().is_none_or(|driver| is_on(driver, mdev.driver.as_ref()))
}

/// A WQ is in no IOMMU group of its own either.
fn wanted_queue(args: &ListArgs, queue: &WorkQueue) -> bool {
    let pci_only = args.vendor.is_some() || args.device.is_some() || args.class.is_some() || args.pf.is_some();
    !pci_only && args.group.is_none() && args.driver.as_ref().is_none_or(|driver| is_on(driver, queue.driver.as_ref()))
}

/// A subfunction has a PF and shares its group.
fn wanted_subfunction(args: &ListArgs, subfunction: &Subfunction, inventory: &Inventory) -> bool {
    let group = inventory.functions.get(&subfunction.function).and_then(|pf| pf.group);
    args.vendor.is_none()
        && args.device.is_none()
        && args.class.is_none()
        && args.pf.is_none_or(|pf| subfunction.function == pf)
        && args.group.is_none_or(|wanted| group == Some(wanted))
        && args.driver.as_ref().is_none_or(|driver| is_on(driver, subfunction.driver.as_ref()))
}

/// Whether a device is on `wanted`; `none` stands for no driver.
fn is_on(wanted: &DriverName, bound: Option<&DriverName>) -> bool {
    bound.map_or(wanted.as_str() == "none", |bound| bound == wanted)
}

fn parent(parent: &crate::model::MdevParent) -> Parent {
    let types = parent.types.iter().map(|kind| ParentType {
        id: kind.id.to_string(),
        name: kind.name.clone(),
        description: kind.description.clone(),
        device_api: kind.device_api.clone(),
        available_instances: kind.available_instances,
    });
    Parent { name: parent.name.to_string(), types: types.collect() }
}
