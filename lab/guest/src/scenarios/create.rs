//! Functions made, set and bound in one call, and unmade: nothing is left behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::killed::command_killed;
use super::running::run;
use super::tool::{JOURNALS, json, on, overridden};
use crate::kmsg::{IGBVF, told};
use crate::leaks::Held;
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::{Device, names};

pub(crate) const CASES: [Case; 9] = [
    Case::new("create: 7 VFs with MAC and VLAN on vfio-pci in one call, and igbvf never looks", seven),
    Case::new("create: a pool gives VFs and takes them back, and ends with the last", pool),
    Case::new("create: a VF for its host driver, under autoprobe 0", for_the_host),
    Case::new("create: more than there can be is refused, and nothing is made", too_many),
    Case::new("create: 12 mdevs of mtty-2, and the 13th is refused", mdevs).within(120),
    Case::new("create: the last mdev is taken by somebody else meanwhile, and none is left behind", last_taken)
        .within(300),
    Case::new("create: a VF that has a driver is set anew, and undone", set_anew),
    Case::told("create: mdevs made and unmade again and again leak nothing", cycles).within(3600),
    Case::told("create: killed at any point of 7 VFs, then undo, is as if it had not been", seven_killed).within(1800),
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

fn seven(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let before_it = told(IGBVF)?;
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
    told_by_ip(&pf, &macs, "vlan 100, qos 3")?;
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
    if !bound.is_empty() || told(IGBVF)? != before_it {
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

/// Expects that iproute2, which has nothing of ours, tells of every VF of a PF one of these addresses, and these words.
fn told_by_ip(pf: &Device, macs: &[&str], words: &str) -> Result<(), String> {
    let nets = names(&Path::new("/sys/bus/pci/devices").join(pf.address()).join("net"));
    let netdev = nets.first().ok_or_else(|| format!("{pf} has no network interface"))?;
    let output = Command::new("/usr/bin/ip").args(["link", "show", "dev", netdev]).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let vfs: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("vf ")).collect();
    let good = |line: &&&str| line.contains(words) && macs.iter().any(|mac| line.contains(mac));
    if vfs.len() == macs.len() && vfs.iter().filter(good).count() == vfs.len() {
        return Ok(());
    }
    Err(format!("ip tells otherwise than {macs:?} and {words}:\n{text}"))
}

fn mdevs(_: Counts) -> Verdict {
    let before = Snapshot::take();
    load("mtty")?;
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

pub(super) fn load(module: &str) -> Result<(), String> {
    let loaded = Command::new("modprobe").arg(module).status().map_err(|error| format!("modprobe: {error}"))?;
    if loaded.success() { Ok(()) } else { Err(format!("{module} did not load")) }
}

const MDEVS: &str = "/sys/bus/mdev/devices";

/// What vfioadm has counted is gone when it comes to it: the kernel's own errno is told, and all that was made goes.
///
/// # Kernel
/// `drivers/vfio/mdev/mdev_core.c` `mdev_device_create()`: `EUSERS`, for it counts for mdpy; `samples/vfio-mdev/mtty.c`
/// `mtty_init_dev()`: `ENOSPC`.
fn last_taken(_: Counts) -> Verdict {
    for (parent, kind, count, errno) in [("mdpy", "mdpy-vga", "4", "EUSERS"), ("mtty", "mtty-2", "12", "ENOSPC")] {
        load(parent)?;
        let before = Snapshot::take();
        let mut told = String::new();
        // The other may come too early, and vfioadm counts one less; or too late.
        for _ in 0..20 {
            let taken = thread::scope(|scope| {
                let other = scope.spawn(|| take_one(parent, kind));
                let ended = run(&["create", parent, kind, "--count", count]);
                other.join().map_err(|_| String::from("the other has died")).and(ended)
            })?;
            told = taken.complaint("told");
            let made: Vec<String> = names(Path::new(MDEVS)).into_iter().filter(|name| name != OTHER).collect();
            match taken.code {
                Some(0) => drop(destroy(0, &made)?),
                _ if !made.is_empty() => return Err(format!("left behind: {made:?}; {told}").into()),
                _ => taken.expect(1, Some("none-left"))?,
            }
            remove_other()?;
            if told.contains(errno) {
                break;
            }
        }
        if !told.contains(errno) || !told.contains("none of its type is left") {
            return Err(format!("{kind}: the kernel was never asked for one too many: {told}").into());
        }
        same(&before)?;
    }
    Ok(())
}

/// The mdev of somebody else.
const OTHER: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa10ff";

/// Takes one as soon as another is there.
fn take_one(parent: &str, kind: &str) {
    let by = Instant::now() + Duration::from_secs(20);
    while names(Path::new(MDEVS)).is_empty() && Instant::now() < by {
        thread::yield_now();
    }
    let create = format!("/sys/class/mdev_bus/{parent}/mdev_supported_types/{kind}/create");
    // None is left: that is seen by what vfioadm says.
    drop(fs::write(create, OTHER));
}

fn remove_other() -> Result<(), String> {
    let remove = Path::new(MDEVS).join(OTHER).join("remove");
    if !remove.exists() {
        return Ok(());
    }
    fs::write(&remove, "1").map_err(|error| format!("{}: {error}", remove.display()))
}

fn set_anew(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let value = json(0, &["create", pf.address(), "vf", "--set", "mac=52:54:00:00:00:01"])?;
    let [vf] = &pf.vfs()[..] else { return Err(format!("{} VFs, not one", pf.vfs().len()).into()) };
    told_by_ip(&pf, &["52:54:00:00:00:01"], "trust off")?;
    let set = json(0, &["bind", vf.address(), "--set", "mac=52:54:00:00:00:02", "--set", "vlan=9"])?;
    on(vf, Some("vfio-pci"))?;
    told_by_ip(&pf, &["52:54:00:00:00:02"], "vlan 9")?;
    json(0, &["undo", set["operation"].as_str().unwrap_or_default()])?;
    on(vf, Some("vfio-pci"))?;
    told_by_ip(&pf, &["52:54:00:00:00:01"], "trust off")?;
    destroy(0, &addresses(&value))?;
    Ok(same(&before)?)
}

/// A leak of one object of 256 bytes in each cycle would show; what the kernel keeps for itself is in the first tenth.
fn cycles(counts: Counts) -> Result<String, Stop> {
    let before = Snapshot::take();
    load("mtty")?;
    let times = counts.pick(20, 1000);
    let cycle = || -> Result<(), String> {
        let made = addresses(&json(0, &["create", "mtty", "mtty-1"])?);
        destroy(0, &made).map(drop)
    };
    (0..times / 10).try_for_each(|_| cycle())?;
    let first = Held::now()?;
    (0..times).try_for_each(|_| cycle())?;
    let last = Held::now()?;
    same(&before)?;
    let grown = last.grown_since(first, counts).map_err(|leak| format!("{times} cycles: {leak}"))?;
    let journals = names(Path::new(JOURNALS)).iter().filter(|name| name.ends_with(".jsonl")).count();
    let told = format!("{times} cycles: {grown}, {journals} journals");
    // They are forgotten but for the newest.
    if journals > 80 { Err(format!("something leaks: {told}").into()) } else { Ok(told) }
}

fn seven_killed(counts: Counts) -> Result<String, Stop> {
    let pf = Role::Igb.device()?;
    command_killed(&["create", pf.address(), "vf", "--count", "7", "--set", "mac=auto"], counts.pick(3, 50), counts)
}
