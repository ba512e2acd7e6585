//! What vfioadm says of an open device is what another program reads of it: `lab/reader`, which is built against the headers
//! of this kernel and has no line in common with vfioadm.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::own_variants::vfs_of;
use super::prove::ports;
use super::tool::{json, on};
use crate::kmod::{self, Variant};
use crate::machine::Role;
use crate::orders::Counts;
use crate::runner::{Case, Stop};
use crate::sysfs::{names, settle};

pub(crate) const CASES: [Case; 1] =
    [Case::told("inspect: by each way, a device of every driver is what another program reads of it", witnessed)
        .within(300)];

/// Where the lab puts it.
const READER: &str = "/usr/bin/vfio-reader";
const NODE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// What vfioadm calls a bit, in the order of the bits, as `linux/vfio.h` has them.
const DEVICE_FLAGS: [&str; 9] = ["reset", "pci", "platform", "amba", "ccw", "ap", "fsl_mc", "caps", "cdx"];
const REGION_FLAGS: [&str; 4] = ["read", "write", "mmap", "caps"];
const IRQ_FLAGS: [&str; 4] = ["eventfd", "maskable", "automasked", "noresize"];
const MIGRATION_FLAGS: [&str; 3] = ["stop_copy", "p2p", "pre_copy"];
/// What vfioadm calls a capability, from id 1 on.
const DEVICE_CAPABILITIES: [&str; 5] = ["zpci_base", "zpci_group", "zpci_util", "zpci_pfip", "pci_atomic_comp"];
const REGION_CAPABILITIES: [&str; 3] = ["sparse_mmap", "type", "msix_mappable"];

/// A device on a VFIO driver: its address, its directory, and a line that has to be among the reader's, lest both are silent.
type Subject = (String, PathBuf, &'static str);

fn witnessed(_: Counts) -> Result<String, Stop> {
    if !Path::new(READER).exists() {
        return Err(Stop::Skip(format!("no {READER} in this guest: the kernel is not of the lab's making")));
    }
    let (mut openings, mut lines) = (0, 0);
    for (address, directory, line) in subjects()? {
        for by in ["cdev", "group"] {
            let inspected = json(0, &["inspect", &address, "--by", by])?;
            let (told, read) = (as_read(&inspected)?, read(&address, &directory, by)?);
            if told != read {
                return Err(
                    format!("{address} by {by}: vfioadm says\n{told}and is read\n{read}from {inspected}").into()
                );
            }
            if !read.lines().any(|one| one == line) {
                return Err(format!("{address} by {by}: {line:?} is missing in\n{read}").into());
            }
            openings += 1;
            lines += read.lines().count();
        }
    }
    Ok(format!("{openings} openings, {lines} lines"))
}

/// A device of every driver that the lab has for it.
fn subjects() -> Result<Vec<Subject>, Stop> {
    kmod::install()?;
    Variant::BySubsystem.load(&[])?;
    let ([igb, own_igb], [nvme, own_nvme]) = (vfs_of(Role::Igb)?, vfs_of(Role::NvmePf)?);
    let (plain, migrates) = ("feature 3 get 0 set 1", "migration 0x7");
    let functions = [
        (Role::Edu.device()?, "vfio-pci", plain),
        (igb, "vfio-pci", plain),
        (nvme, "vfio-pci", plain),
        (Role::Virtio.device()?, "virtio_vfio_pci", plain),
        (Role::Mlx5Vf.device()?, "mlx5_vfio_pci", plain),
        (own_igb, Variant::BySubsystem.name(), migrates),
        (own_nvme, Variant::BySubsystem.name(), migrates),
    ];
    let mut subjects = Vec::new();
    for (device, driver, line) in functions {
        json(0, &["bind", device.address(), "--driver", driver])?;
        on(&device, Some(driver))?;
        subjects.push((device.address().to_owned(), device.path(""), line));
    }
    let [port, _] = ports()?;
    let display = display()?;
    for (uuid, line) in [(port, migrates), (display, "region 7 size 255 flags 0x3 caps")] {
        let directory = Path::new("/sys/bus/mdev/devices").join(&uuid);
        subjects.push((uuid, directory, line));
    }
    Ok(subjects)
}

/// An mdev of mdpy.
fn display() -> Result<String, String> {
    let loaded = Command::new("modprobe").arg("mdpy").status().map_err(|error| format!("modprobe: {error}"))?;
    if !loaded.success() {
        return Err("mdpy did not load".to_owned());
    }
    let made = json(0, &["create", "mdpy", "mdpy-vga"])?;
    made["devices"][0]["address"].as_str().map(str::to_owned).ok_or_else(|| format!("no mdev: {made}"))
}

/// What the reader prints.
fn read(address: &str, directory: &Path, by: &str) -> Result<String, String> {
    let node = match by {
        "cdev" => names(&directory.join("vfio-dev")).first().map(|name| format!("/dev/vfio/devices/{name}")),
        _ => directory
            .join("iommu_group")
            .read_link()
            .ok()
            .and_then(|group| group.file_name().map(|number| format!("/dev/vfio/{}", number.to_string_lossy()))),
    };
    let node = node.ok_or_else(|| format!("{address} has no node by {by}"))?;
    settle(&format!("{node} is there"), NODE_DEADLINE, || Path::new(&node).exists())?;
    let words = if by == "cdev" { vec![by, &node] } else { vec![by, &node, address] };
    let output = Command::new(READER).args(&words).output().map_err(|error| format!("start {READER}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// What vfioadm says, as the reader prints it.
fn as_read(inspected: &Value) -> Result<String, String> {
    let mut text = format!(
        "device flags {:#x} caps{}\n",
        bits(&inspected["flags"], &DEVICE_FLAGS)?,
        ids(&inspected["capabilities"], &DEVICE_CAPABILITIES)?
    );
    for region in list(&inspected["regions"])? {
        text += &format!(
            "region {} size {} flags {:#x} caps{}\n",
            region["index"],
            region["size"],
            bits(&region["flags"], &REGION_FLAGS)?,
            ids(&region["capabilities"], &REGION_CAPABILITIES)?
        );
    }
    for irq in list(&inspected["irqs"])? {
        let flags = bits(&irq["flags"], &IRQ_FLAGS)?;
        text += &format!("irq {} count {} flags {flags:#x}\n", irq["index"], irq["count"]);
    }
    for feature in list(&inspected["features"])? {
        let number = |name: &str| u8::from(feature[name] == true);
        text += &format!("feature {} get {} set {}\n", feature["index"], number("get"), number("set"));
    }
    if !inspected["migration"].is_null() {
        text += &format!("migration {:#x}\n", bits(&inspected["migration"]["flags"], &MIGRATION_FLAGS)?);
    }
    Ok(text)
}

fn list(value: &Value) -> Result<&[Value], String> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("no list: {value}"))
}

fn word(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("no word: {value}"))
}

/// The number that has these bits.
fn bits(value: &Value, known: &[&str]) -> Result<u64, String> {
    list(value)?.iter().try_fold(0, |bits, name| {
        let bit = known.iter().position(|one| Some(*one) == name.as_str());
        bit.map(|bit| bits | 1 << bit).ok_or_else(|| format!("no such flag: {name}"))
    })
}

/// The numbers of these capabilities, `name: content` or `capability 9, version 1`.
fn ids(value: &Value, known: &[&str]) -> Result<String, String> {
    let id = |value: &Value| {
        let capability = word(value)?;
        let name = capability.split(':').next().unwrap_or(capability);
        let number = capability.strip_prefix("capability ").and_then(|rest| rest.split(',').next()?.parse().ok());
        let listed = known.iter().position(|one| *one == name).map(|at| at + 1);
        number.or(listed).map(|id| format!(" {id}")).ok_or_else(|| format!("no such capability: {capability}"))
    };
    list(value)?.iter().map(id).collect()
}
