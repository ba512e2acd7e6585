//! Functions made, set and bound in one call, and unmade: nothing is left behind.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::tool::{json, on, overridden};
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Verdict};
use crate::sysfs::{Device, names};

pub(crate) const CASES: [Case; 5] = [
    Case::new("create: 7 VFs with MAC and VLAN on vfio-pci in one call, and igbvf never looks", seven),
    Case::new("create: a pool gives VFs and takes them back, and ends with the last", pool),
    Case::new("create: a VF for its host driver, under autoprobe 0", for_the_host),
    Case::new("create: more than there can be is refused, and nothing is made", too_many),
    Case::new("create: 12 mdevs of mtty-2, and the 13th is refused", mdevs).within(120),
];

/// The devices in the answer of `create` or `destroy`.
fn devices(value: &Value) -> &[Value] {
    value["devices"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn addresses(value: &Value) -> Vec<String> {
    devices(value).iter().filter_map(|device| Some(device["address"].as_str()?.to_owned())).collect()
}

fn destroy(code: i32, all: &[String]) -> Result<Value, String> {
    let words: Vec<&str> = std::iter::once("destroy").chain(all.iter().map(String::as_str)).collect();
    json(code, &words)
}

/// Expects the machine to be as it was.
fn same(before: &Snapshot) -> Result<(), String> {
    let differences = before.differences();
    if !differences.is_empty() {
        return Err(format!("not as it was:\n{differences}"));
    }
    let pools = names(Path::new("/run/vfioadm/pool"));
    if pools.is_empty() { Ok(()) } else { Err(format!("left behind: {pools:?}")) }
}

/// How often the kernel's log tells of igbvf and a device.
fn told_of_igbvf() -> Result<usize, String> {
    const O_NONBLOCK: i32 = 0o4000;
    let opened = fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg");
    let mut log = opened.map_err(|error| format!("/dev/kmsg: {error}"))?;
    let (mut told, mut record) = (0, [0; 8192]);
    loop {
        match log.read(&mut record) {
            Ok(length) => told += usize::from(String::from_utf8_lossy(&record[..length]).contains("igbvf 0000:")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(told),
            // Overwritten while it was read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(format!("/dev/kmsg: {error}")),
        }
    }
}

fn seven(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let told = told_of_igbvf()?;
    let set = ["--set", "mac=auto", "--set", "vlan=100", "--set", "qos=3"];
    let value = json(0, &[&["create", pf.address(), "vf", "--count", "7"][..], &set].concat())?;
    let made = devices(&value);
    if made.len() != 7 || pf.vfs().len() != 7 {
        return Err(format!("{} VFs were told, and {} are there", made.len(), pf.vfs().len()).into());
    }
    let mut macs: Vec<&str> = made.iter().filter_map(|device| device["parameters"]["mac"].as_str()).collect();
    macs.sort_unstable();
    macs.dedup();
    if macs.len() != 7 || macs.contains(&"00:00:00:00:00:00") {
        return Err(format!("the kernel reports the addresses {macs:?}").into());
    }
    for (device, vf) in made.iter().zip(pf.vfs()) {
        let of = &device["parameters"];
        if of["vlan"] != 100 || of["qos"] != 3 || device["address"] != vf.address() || device["node"].is_null() {
            return Err(format!("{vf} is not as wanted: {device}").into());
        }
        on(&vf, Some("vfio-pci"))?;
        overridden(&vf, Some("vfio-pci"))?;
    }
    let bound: Vec<_> =
        names(Path::new("/sys/bus/pci/drivers/igbvf")).into_iter().filter(|name| name.starts_with("0000:")).collect();
    if !bound.is_empty() || told_of_igbvf()? != told {
        return Err(format!("igbvf has looked: {bound:?}").into());
    }
    destroy(0, &addresses(&value))?;
    Ok(same(&before)?)
}

fn pool(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let first = addresses(&json(0, &["create", pf.address(), "vf", "--count", "2", "--pool", "7"])?);
    if pf.vfs().len() != 7 || pf.read("sriov_drivers_autoprobe") != "0" {
        return Err(format!("{} VFs, autoprobe {}", pf.vfs().len(), pf.read("sriov_drivers_autoprobe")).into());
    }
    let second = addresses(&json(0, &["create", pf.address(), "vf", "--count", "3", "--set", "vlan=7"])?);
    let value = json(1, &["create", pf.address(), "vf", "--count", "3"])?;
    if value["error"]["id"] != "needs-yes" {
        return Err(format!("three of two that are free: {}", value["error"]).into());
    }
    let all = [first, second].concat();
    for (at, vf) in all.iter().enumerate() {
        destroy(0, std::slice::from_ref(vf))?;
        if at + 1 < all.len() {
            on(&Device::at(vf), None)?;
            overridden(&Device::at(vf), None)?;
        }
    }
    Ok(same(&before)?)
}

fn for_the_host(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let value = json(0, &["create", pf.address(), "vf", "--driver", "host", "--set", "trust=on"])?;
    let [vf] = &pf.vfs()[..] else { return Err(format!("{} VFs, not one", pf.vfs().len()).into()) };
    on(vf, Some("igbvf"))?;
    overridden(vf, None)?;
    destroy(0, &addresses(&value))?;
    Ok(same(&before)?)
}

fn too_many(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    for (words, id) in [
        (&["create", pf.address(), "vf", "--count", "8"][..], "too-many"),
        (&["create", Role::Edu.device()?.address(), "vf"], "not-a-parent"),
        (&["create", Role::NvmePf.device()?.address(), "vf", "--set", "mac=auto"], "parameter-unsupported"),
        (&["create", pf.address(), "vf", "--set", "link-state=enable"], "parameter-refused"),
        // devlink does not know igb, nor nvme.
        (&["create", pf.address(), "vf", "--set", "migratable=on"], "parameter-unsupported"),
        (&["create", pf.address(), "vf", "--set", "eswitch=switchdev"], "parameter-unsupported"),
        (&["create", Role::NvmePf.device()?.address(), "vf", "--set", "roce=off"], "parameter-unsupported"),
        (&["create", pf.address(), "sf"], "not-a-parent"),
        (&["create", pf.address(), "wq"], "not-a-parent"),
        (&["create", pf.address(), "vgpu:1"], "not-a-parent"),
    ] {
        let value = json(1, words)?;
        if value["error"]["id"] != id {
            return Err(format!("{}: {}", words.join(" "), value["error"]).into());
        }
        same(&before)?;
    }
    Ok(())
}

fn mdevs(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let loaded = Command::new("modprobe").arg("mtty").status().map_err(|error| format!("modprobe: {error}"))?;
    if !loaded.success() {
        return Err("mtty did not load".to_owned().into());
    }
    let value = json(0, &["create", "mtty", "mtty-2", "--count", "12"])?;
    for device in devices(&value) {
        let node = device["node"].as_str().unwrap_or_default();
        if !Path::new(node).exists() {
            return Err(format!("no node: {device}").into());
        }
    }
    let refused = json(1, &["create", "mtty", "mtty-2"])?;
    if refused["error"]["id"] != "none-left" {
        return Err(format!("the thirteenth: {}", refused["error"]).into());
    }
    let all = addresses(&value);
    if all.len() != 12 {
        return Err(format!("{} mdevs were told, not 12", all.len()).into());
    }
    destroy(0, &all)?;
    Ok(same(&before)?)
}
