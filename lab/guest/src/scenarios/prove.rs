//! A device opened: inspected, saved, loaded and qualified on the real kernel.

use std::fs;
use std::process::Command;

use serde_json::Value;
use vfioadm::host::linux::Linux;
use vfioadm::host::opening::{Manner, open_device};
use vfioadm::host::{Device as Opened, HostPath};
use vfioadm::model::Address;

use super::tool::{json, refused, vfioadm};
use crate::hold::{Holder, Manner as Holds, Way};
use crate::machine::Role;
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 8] = [
    Case::new("inspect: edu and a VF of igb on vfio-pci, the same by cdev and by group", inspected).within(120),
    Case::new("inspect: mtty migrates with pre-copy, mdpy does not", emulated),
    Case::new("inspect: mlx5_vfio_pci without its PF is plain, and says so", degraded),
    Case::new("inspect: held, on its host driver, in a group that is not viable: refused", not_opened).within(120),
    Case::new("state: what is written through a serial port of mtty is in the next one", carried).within(120),
    Case::new("state: a file that is cut, damaged or foreign is refused, and the device runs", spoiled).within(120),
    Case::told("qualify: mtty keeps every rule but its quirks", mtty).within(600),
    Case::told("qualify: a VF of igb on vfio-pci keeps every rule that is about it", plain).within(600),
];

const FILE: &str = "/run/state";

/// `UART_SCR`: a register that keeps what is written to it.
const SCRATCH: u64 = 7;

fn vf() -> Result<Device, String> {
    let pf = Role::Igb.device()?;
    let made = json(0, &["create", pf.address(), "vf"])?;
    let address = made["devices"][0]["address"].as_str().ok_or_else(|| format!("no VF: {made}"))?;
    Ok(Device::at(address))
}

/// Two mdevs of mtty.
pub(super) fn ports() -> Result<[String; 2], String> {
    let loaded = Command::new("modprobe").arg("mtty").status().map_err(|error| format!("modprobe: {error}"))?;
    if !loaded.success() {
        return Err("mtty did not load".to_owned());
    }
    let made = json(0, &["create", "mtty", "mtty-2", "--count", "2"])?;
    let uuid = |at: usize| made["devices"][at]["address"].as_str().map(str::to_owned);
    uuid(0).zip(uuid(1)).map(|(a, b)| [a, b]).ok_or_else(|| format!("no mdevs: {made}"))
}

fn same_both_ways(device: &str) -> Result<Value, String> {
    let [mut cdev, mut group] =
        [json(0, &["inspect", device, "--by", "cdev"])?, json(0, &["inspect", device, "--by", "group"])?];
    let ways = [cdev["opened_by"]["way"].clone(), group["opened_by"]["way"].clone()];
    if ways != ["cdev", "group"] {
        return Err(format!("opened by {ways:?}"));
    }
    let whole = cdev.clone();
    // What a way has of its own.
    for key in ["opened_by", "dirty_tracking", "reset"] {
        (cdev[key], group[key]) = (Value::Null, Value::Null);
    }
    if cdev == group { Ok(whole) } else { Err(format!("by cdev {cdev}, by group {group}")) }
}

fn inspected(_: Counts) -> Verdict {
    let edu = Role::Edu.device()?;
    json(0, &["bind", edu.address()])?;
    let value = same_both_ways(edu.address())?;
    let config = value["regions"].as_array().and_then(|all| all.iter().find(|region| region["name"] == "config"));
    if !value["migration"].is_null() || config.is_none() || value["reset"]["alone"] != false {
        return Err(format!("edu: {value}").into());
    }
    let vf = vf()?;
    let value = same_both_ways(vf.address())?;
    // What the kernel shows of the same: BARs in `resource`, MSI-X in the configuration space.
    let lines = vf.read("resource");
    for (index, line) in lines.lines().take(6).enumerate() {
        let words: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
            .collect();
        let size = match words.as_slice() {
            [0, 0, _] => 0,
            [start, end, _] => end - start + 1,
            _ => return Err(format!("resource of {vf}: {line}").into()),
        };
        if value["regions"][index]["size"] != size {
            return Err(format!("BAR {index} of {vf} has {size} bytes: {value}").into());
        }
    }
    if value["reset"]["alone"] != true || value["low_power"] != true {
        return Err(format!("{vf}: {value}").into());
    }
    Ok(())
}

fn emulated(_: Counts) -> Verdict {
    let [port, _] = ports()?;
    let value = same_both_ways(&port)?;
    let migration = &value["migration"];
    if migration["state"] != "RUNNING" || migration["flags"] != serde_json::json!(["stop_copy", "p2p", "pre_copy"]) {
        return Err(format!("mtty: {value}").into());
    }
    let loaded = Command::new("modprobe").arg("mdpy").status().map_err(|error| format!("modprobe: {error}"))?;
    if !loaded.success() {
        return Err(Stop::from("mdpy did not load".to_owned()));
    }
    let made = json(0, &["create", "mdpy", "mdpy-vga"])?;
    let uuid = made["devices"][0]["address"].as_str().unwrap_or_default().to_owned();
    let value = json(0, &["inspect", &uuid])?;
    if value["migration"].is_null() { Ok(()) } else { Err(format!("mdpy: {value}").into()) }
}

fn degraded(_: Counts) -> Verdict {
    let device = Role::Mlx5Vf.device()?;
    json(0, &["bind", device.address()])?;
    let value = json(0, &["inspect", device.address()])?;
    if value["driver"] != "mlx5_vfio_pci" || !value["migration"].is_null() {
        return Err(format!("{device}: {value}").into());
    }
    refused(&["state", "save", device.address(), FILE], "not-migratable")?;
    Ok(())
}

fn not_opened(_: Counts) -> Verdict {
    let edu = Role::Edu.device()?;
    refused(&["inspect", edu.address()], "not-vfio")?;
    json(0, &["bind", edu.address()])?;
    for way in [Way::Cdev, Way::Group] {
        let holder = Holder::start(&edu, way, Holds::Stays)?;
        for by in ["cdev", "group"] {
            let value = refused(&["inspect", edu.address(), "--by", by], "device-open")?;
            let message = value["error"]["message"].as_str().unwrap_or_default();
            if !message.contains(&holder.pid().to_string()) {
                return Err(format!("held by {way:?}, pid {}: {message}", holder.pid()).into());
            }
        }
        drop(holder);
    }
    // Its neighbour is on e1000, and the group's DMA is the host's.
    let e1000 = Role::E1000.device()?;
    json(0, &["bind", e1000.address(), "--allow", "group-not-viable"])?;
    refused(&["inspect", e1000.address()], "group-not-viable")?;
    Ok(())
}

/// An mdev, opened by the library.
fn opened(uuid: &str) -> Result<Box<dyn Opened>, String> {
    let address: Address = uuid.parse().map_err(|error| format!("{uuid}: {error}"))?;
    let directory = HostPath::parse(&format!("/sys/bus/mdev/devices/{uuid}")).ok_or("no such mdev")?;
    open_device(&Linux::new(), &directory, &address, &Manner::default()).map_err(|error| error.to_string())
}

pub(super) fn write_through(uuid: &str, byte: u8) -> Result<(), String> {
    let device = opened(uuid)?;
    let port = device.region(0).map_err(|error| error.to_string())?;
    let written = device.write_at(&port, SCRATCH, &[byte]).map_err(|error| error.to_string())?;
    if written == 1 { Ok(()) } else { Err("nothing was written".to_owned()) }
}

pub(super) fn read_through(uuid: &str) -> Result<u8, String> {
    let device = opened(uuid)?;
    let port = device.region(0).map_err(|error| error.to_string())?;
    let mut byte = [0];
    device.read_at(&port, SCRATCH, &mut byte).map_err(|error| error.to_string())?;
    Ok(byte[0])
}

fn carried(_: Counts) -> Verdict {
    let [from, to] = ports()?;
    for (byte, flag) in [(0x5a, None), (0xa5, Some("--precopy"))] {
        write_through(&from, byte)?;
        let words: Vec<&str> = ["state", "save", &from, FILE].into_iter().chain(flag).collect();
        let saved = json(0, &words)?;
        let told = json(0, &["state", "info", FILE])?;
        if saved["bytes"] != told["bytes"] || told["header"]["kind"]["model"] != "mtty-2" {
            return Err(format!("saved {saved}, told {told}").into());
        }
        json(0, &["state", "load", &to, FILE])?;
        let kept = read_through(&to)?;
        if kept != byte {
            return Err(format!("{byte:#x} was written, and {kept:#x} came ({flag:?})").into());
        }
    }
    // By a pipe, both ways at once.
    write_through(&from, 0x3c)?;
    let line = format!("vfioadm -q state save {from} - | vfioadm -q state load {to} -");
    let piped = Command::new("/bin/sh").args(["-c", &line]).status().map_err(|error| format!("sh: {error}"))?;
    let kept = read_through(&to)?;
    if piped.success() && kept == 0x3c { Ok(()) } else { Err(format!("{line}: {piped}, {kept:#x}").into()) }
}

fn spoiled(_: Counts) -> Verdict {
    let [from, to] = ports()?;
    json(0, &["state", "save", &from, FILE])?;
    let whole = fs::read(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    let mut damaged = whole.clone();
    let middle = whole.len() - 24;
    damaged[middle] ^= 1;
    for (content, id) in
        [(&whole[..whole.len() - 1], "state-cut-off"), (&damaged, "state-damaged"), (&[], "state-cut-off")]
    {
        fs::write(FILE, content).map_err(|error| format!("{FILE}: {error}"))?;
        refused(&["state", "load", &to, FILE], id)?;
        let state = json(0, &["state", "info", &to])?;
        if state["migration"]["state"] != "RUNNING" {
            return Err(format!("after {id}: {state}").into());
        }
    }
    let vf = vf()?;
    fs::write(FILE, &whole).map_err(|error| format!("{FILE}: {error}"))?;
    refused(&["state", "load", vf.address(), FILE], "foreign-state")?;
    Ok(())
}

/// What a qualification says, when nothing fails.
fn qualified(words: &[&str]) -> Result<String, Stop> {
    let ran = vfioadm(&[&["qualify", "--yes", "--loops", "5"], words].concat())?;
    if ran.code == 0 { Ok(ran.stdout) } else { Err(ran.complaint(&format!("exit {}", ran.code)).into()) }
}

fn mtty(_: Counts) -> Result<String, Stop> {
    let [port, peer] = ports()?;
    write_through(&peer, 0x77)?;
    qualified(&[&port, "--peer", &peer])
}

fn plain(_: Counts) -> Result<String, Stop> {
    qualified(&[vf()?.address()])
}
