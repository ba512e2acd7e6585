//! libvirt: definitions of domains and networks, and node devices as `virsh nodedev-dumpxml` prints them.

use uuid::Uuid;

use super::xml::{self, Element};
use super::{Asked, Found, MdevAsk, ParentRef, Piece, Remark, Rival, quoted};
use crate::model::{Bdf, DriverName, PciId};
use crate::plan::Wanted;

pub(super) fn read(pieces: &[Piece<'_>], found: &mut Found) {
    for piece in pieces {
        let root = match xml::parse(piece.text) {
            Ok(root) => root,
            Err(error) => {
                found.leave_out(Remark::new(piece.path, format_args!("is no XML: {error}")));
                continue;
            }
        };
        match root.name.as_str() {
            "domain" => of_domain(piece.path, &root, found),
            "network" => of_network(piece.path, &root, found),
            "device" => of_node(piece.path, &root, found),
            other => {
                let words = format!("<{other}> is neither a domain nor a network nor a node device");
                found.leave_out(Remark::new(piece.path, words));
            }
        }
    }
}

/// The name of a domain or a network, without what a terminal would take for orders.
fn name(root: &Element) -> String {
    root.child_text("name").unwrap_or("without a name").chars().filter(|c| !c.is_control()).take(64).collect()
}

/// `0x10` or `16`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn bdf<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<Bdf> {
    let byte = |key: &str| u8::try_from(number(value(key)?)?).ok();
    let domain = value("domain").map_or(Some(0), number)?;
    Bdf::new(domain, byte("bus")?, byte("slot")?, value("function").map_or(Some(0), |_| byte("function"))?)
}

/// What libvirt binds by itself, and how that ends.
struct Owner<'a> {
    name: &'a str,
    edit: &'static str,
    is_managed: bool,
}

impl Owner<'_> {
    fn rival(&self, bdf: Bdf) -> Option<Rival> {
        let Self { name, edit, .. } = self;
        self.is_managed.then(|| Rival {
            what: format!("managed='yes' of {bdf} in {name}"),
            does: format!("libvirt binds {bdf} when {name} starts, and gives it back to its host driver when it ends"),
            command: format!("virsh {edit} {}  # managed='no' for {bdf}", quoted(name)),
        })
    }
}

fn of_domain(path: &str, root: &Element, found: &mut Found) {
    let name = name(root);
    let Some(devices) = root.child("devices") else { return };
    for device in &devices.children {
        let is_hostdev = match device.name.as_str() {
            "hostdev" => device.attribute("mode").is_none_or(|mode| mode == "subsystem"),
            "interface" => device.attribute("type") == Some("hostdev"),
            _ => false,
        };
        let Some(address) = device.child("source").and_then(|source| source.child("address")) else { continue };
        if !is_hostdev {
            continue;
        }
        let place = format!("{path}: {name}");
        if device.attribute("type") == Some("mdev") {
            match address.attribute("uuid").and_then(|uuid| Uuid::parse_str(uuid).ok()) {
                Some(uuid) => found.ask(format_args!("{place} {uuid}"), Asked::MdevByName(uuid), None),
                None => found.leave_out(Remark::new(place, "an mdev of it has no UUID")),
            }
            continue;
        }
        let is_pci = device.name == "interface" || device.attribute("type") == Some("pci");
        if !is_pci {
            continue;
        }
        let owner = Owner { name: &name, edit: "edit", is_managed: device.attribute("managed") == Some("yes") };
        let Some(bdf) = of_function(&place, device, address, &owner, found) else { continue };
        let set: Vec<&str> =
            ["mac", "vlan", "virtualport"].into_iter().filter(|key| device.child(key).is_some()).collect();
        if device.name == "interface" && !set.is_empty() {
            let words = format!("{} of {bdf} is set by libvirt itself when {name} starts", set.join(", "));
            found.leave_out(Remark::new(place, words));
        }
    }
}

/// A function that a guest is given: on the driver that is named, or on the best, as libvirt has it since 10.0.
fn of_function(place: &str, device: &Element, address: &Element, owner: &Owner<'_>, found: &mut Found) -> Option<Bdf> {
    let Some(bdf) = bdf(|key| address.attribute(key)) else {
        found.leave_out(Remark::new(place, "an address of it is no PCI address"));
        return None;
    };
    // `name` says vfio, xen or kvm, which is no driver of a device.
    let model = device.child("driver").and_then(|driver| driver.attribute("model"));
    let driver = match model.map(str::parse::<DriverName>) {
        None => Wanted::Best,
        Some(Ok(driver)) => Wanted::Named(driver),
        Some(Err(error)) => {
            found.leave_out(Remark::new(format_args!("{place} {bdf}"), error));
            return None;
        }
    };
    found.ask(format_args!("{place} {bdf}"), Asked::Device { bdf, id: None, driver }, owner.rival(bdf));
    Some(bdf)
}

fn of_network(path: &str, root: &Element, found: &mut Found) {
    let name = name(root);
    let place = format!("{path}: {name}");
    let Some(forward) = root.child("forward").filter(|of| of.attribute("mode") == Some("hostdev")) else {
        found.leave_out(Remark::new(place, "is no network of functions: its forward mode is not hostdev"));
        return;
    };
    let owner = Owner { name: &name, edit: "net-edit", is_managed: forward.attribute("managed") == Some("yes") };
    for address in forward.all("address") {
        of_function(&place, forward, address, &owner, found);
    }
    for pf in forward.all("pf").filter_map(|pf| pf.attribute("dev")) {
        let words = format!("libvirt takes VFs of {pf} for it, and does not say how many there are");
        found.leave_out(Remark::new(&place, words).remedy("see what there is: vfioadm describe"));
    }
}

/// A node device: its numbers are decimal outside `<address>`.
fn of_node(path: &str, root: &Element, found: &mut Found) {
    let name = name(root);
    let place = format!("{path}: {name}");
    let Some(capability) = root.child("capability") else {
        found.leave_out(Remark::new(place, "has no capability"));
        return;
    };
    match capability.attribute("type") {
        Some("pci") => match of_pci_node(root, capability) {
            Ok(asked) => found.ask(place, asked, None),
            Err(words) => found.leave_out(Remark::new(place, words)),
        },
        Some("mdev") => of_mdev_node(&place, &name, root, found),
        other => {
            let words = format!("is neither a PCI function nor an mdev, but {}", other.unwrap_or("nothing"));
            found.leave_out(Remark::new(place, words));
        }
    }
}

fn of_pci_node(root: &Element, capability: &Element) -> Result<Asked, String> {
    let bdf = bdf(|key| capability.child_text(key)).ok_or("has no PCI address")?;
    let id = |key: &str| u16::try_from(number(capability.child(key)?.attribute("id")?)?).ok();
    let id = id("vendor").zip(id("product")).map(|(vendor, device)| PciId { vendor, device });
    let driver = root.child("driver").and_then(|driver| driver.child_text("name"));
    match driver.map(str::parse::<DriverName>) {
        Some(Ok(driver)) if driver.is_vfio() => Ok(Asked::Device { bdf, id, driver: Wanted::Named(driver) }),
        Some(Ok(driver)) => Err(format!("is on {driver}, its host driver, which it has without a host file")),
        Some(Err(error)) => Err(error.to_string()),
        None => Err(String::from("is on no driver, and nothing says that it is to stay so")),
    }
}

fn of_mdev_node(place: &str, name: &str, root: &Element, found: &mut Found) {
    let capability = root.child("capability");
    let named = name.strip_prefix("mdev_").and_then(|rest| rest.get(..36)).map(|uuid| uuid.replace('_', "-"));
    let uuid = capability.and_then(|of| of.child_text("uuid")).map(str::to_owned).or(named);
    let kind = capability.and_then(|of| of.child("type")?.attribute("id"));
    let (Some(uuid), Some(kind)) = (uuid.and_then(|uuid| Uuid::parse_str(&uuid).ok()), kind) else {
        found.leave_out(Remark::new(place, "has no UUID or no type"));
        return;
    };
    let attributes = capability.map(|of| of.all("attr").map(attribute).collect()).unwrap_or_default();
    let Some(parent) = root.child_text("parent") else {
        found.leave_out(Remark::new(place, "has no parent"));
        return;
    };
    let rival = Rival {
        what: format!("autostart of {name}"),
        does: format!("libvirt has mdevctl make {uuid} whenever {parent} appears, where autostart is on"),
        command: format!("virsh nodedev-autostart {} --disable", quoted(name)),
    };
    let parent = ParentRef::Node(parent.to_owned());
    found.ask(place, Asked::Mdev(MdevAsk { uuid, parent, kind: kind.to_owned(), attributes }), Some(rival));
}

fn attribute(attr: &Element) -> (String, String) {
    let part = |name: &str| attr.attribute(name).unwrap_or_default().to_owned();
    (part("name"), part("value"))
}
