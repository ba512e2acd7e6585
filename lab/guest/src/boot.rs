//! A system with systemd has booted by itself, and its host file is `lab/system/host.toml`: what has come of it, and what comes
//! of it when devices go and come, and when an entry fails.
//!
//! The cases go one after the other on one boot. Each leaves the machine as its host file says.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use vfioadm_wire::Record;

use crate::channel::Channel;
use crate::kmsg::{IGBVF, told};
use crate::machine::Role;
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::scenarios::tool::{Ran, json, on, vfioadm};
use crate::sysfs::{Device, mdevs, settle};
use crate::watcher::Watcher;

const WHOLE: Case = Case::told(
    "booted: 7 VFs on two drivers with MACs, an mdev and devices are in place, and igbvf never looked",
    whole,
)
.within(180);
const EARLY: Case =
    Case::new("booted: the initramfs gave devices to VFIO before their host driver was there", early).within(60);

pub(crate) const CASES: [Case; 5] = [
    WHOLE,
    EARLY,
    Case::new("booted: a device that is pulled out and put in again is put back, and watch tells", again).within(240),
    Case::new("booted: another device in its place is left alone, and reported", another).within(240),
    Case::new("booted: an entry that fails leaves the host driver, and systemctl status shows it", failing).within(240),
];
/// Those that depend on the initramfs.
pub(crate) const OF_THE_INITRAMFS: [Case; 2] = [WHOLE, EARLY];

const UNIT: &str = "vfioadm.service";
const MAC: &str = "52:54:00:aa:00:04";
const FAILING: &str = "/etc/vfioadm/host.d/failing.toml";
const DEADLINE: Duration = Duration::from_secs(90);

/// What `systemctl` prints, whatever it ends with: it tells of a failed unit by its exit status.
fn systemctl(words: &[&str]) -> Result<String, String> {
    let output = Command::new("systemctl").args(words).output().map_err(|error| format!("start systemctl: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Waits until the units of vfioadm have done what they do.
fn settled() -> Result<(), String> {
    let is_at_work = || {
        let states = systemctl(&["show", "--property=ActiveState", UNIT, "vfioadm-device@*.service"]);
        states.is_ok_and(|states| states.contains("activating"))
    };
    settle("vfioadm's units have ended", DEADLINE, || !is_at_work())
}

/// The entry with this in its name.
fn entry<'a>(value: &'a Value, words: &str) -> Result<&'a Value, String> {
    let entries = value["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is = |row: &&Value| row["entry"].as_str().is_some_and(|name| name.contains(words));
    entries.iter().find(is).ok_or_else(|| format!("no entry {words} in {value}"))
}

/// Expects the host to be as its file says, and an apply to have nothing to do.
fn in_place() -> Result<(), String> {
    json(0, &["verify"])?;
    let again = json(0, &["apply"])?;
    if again["operation"].is_null() { Ok(()) } else { Err(format!("another apply has acted: {again}")) }
}

fn whole(_: Counts) -> Result<String, Stop> {
    settled()?;
    let state = systemctl(&["show", "--value", "--property=ActiveState", UNIT])?;
    if state != "active" {
        return Err(format!("{UNIT} is {state}:\n{}", systemctl(&["status", "--full", UNIT])?).into());
    }
    let pf = Role::Igb.device()?;
    let vfs = pf.vfs();
    if vfs.len() != 7 {
        return Err(format!("{pf} has {} VFs", vfs.len()).into());
    }
    for (index, vf) in vfs.iter().enumerate() {
        on(vf, Some(if index < 4 { "lab_vfio_pci" } else { "vfio-pci" }))?;
    }
    let kept = Command::new("ip").args(["link", "show"]).output().map_err(|error| format!("start ip: {error}"))?;
    let kept = String::from_utf8_lossy(&kept.stdout).into_owned();
    let with_mac = |line: &&str| line.trim().starts_with("vf ") && !line.contains("00:00:00:00:00:00");
    if kept.lines().filter(with_mac).count() != 7 || !kept.contains(MAC) {
        return Err(format!("the PF does not keep seven addresses, {MAC} among them:\n{kept}").into());
    }
    if mdevs().len() != 1 {
        return Err(format!("one mdev is wanted: {:?}", mdevs()).into());
    }
    let looked = told(IGBVF)?;
    if looked != 0 {
        return Err(format!("igbvf has looked at a VF: {looked} lines of the kernel's log tell of it").into());
    }
    in_place()?;
    let status = json(0, &["status"])?;
    let took = systemctl(&["show", "--value", "--property=ExecMainStartTimestampMonotonic", UNIT])?;
    let ended = systemctl(&["show", "--value", "--property=ExecMainExitTimestampMonotonic", UNIT])?;
    let seconds = |text: &str| text.parse::<f64>().unwrap_or_default() / 1e6;
    let entries = status["entries"].as_array().map(Vec::len).unwrap_or_default();
    Ok(format!("{entries} entries in place; {UNIT} ran from {:.1} s to {:.1} s", seconds(&took), seconds(&ended)))
}

fn early(_: Counts) -> Verdict {
    on(&Role::Cx5.device()?, Some("vfio-pci"))?;
    on(&Role::Mlx5Vf.device()?, Some("mlx5_vfio_pci"))?;
    let looked = told("mlx5_core 0000:")?;
    if looked != 0 {
        return Err(format!("mlx5_core has looked: {looked} lines of the kernel's log tell of it").into());
    }
    let status = json(0, &["status"])?;
    let applied = status["applied"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_early = |of: &&Value| of["command"].as_str().is_some_and(|command| command.contains("--early"));
    match applied.iter().find(is_early) {
        Some(early) if early["exit"] == 0 && !early["operation"].is_null() => Ok(()),
        _ => Err(format!("nothing was applied in the initramfs: {status}").into()),
    }
}

/// Has QEMU do something to the machine.
fn monitor(line: &str) -> Result<(), String> {
    Channel::open()?.send(&Record::Monitor { line: line.to_owned() });
    Ok(())
}

const VIRTIO: &str = "device_add virtio-net-pci,id=virtio,bus=rp_virtio,disable-legacy=on";
const OTHER: &str = "device_add e1000e,id=other,bus=rp_virtio";

/// Pulls out what is in the slot, which the kernel gives up some seconds later.
fn pull(id: &str, device: &Device) -> Result<(), String> {
    monitor(&format!("device_del {id}"))?;
    settle(&format!("{device} is gone"), DEADLINE, || !device.path("").exists())
}

fn again(_: Counts) -> Verdict {
    let device = Role::Virtio.device()?;
    on(&device, Some("vfio-pci"))?;
    let watcher = Watcher::start()?;
    pull("virtio", &device)?;
    watcher.until("the entry has drifted", |line| line["event"] == "drifted")?;
    monitor(VIRTIO)?;
    settle(&format!("{device} is back on vfio-pci"), DEADLINE, || device.driver().as_deref() == Some("vfio-pci"))?;
    settled()?;
    watcher.until("the entry is in place again", |line| line["event"] == "in_place")?;
    let lines = watcher.end(Signal::INT)?;
    for (event, driver) in [("vanished", None), ("appeared", None), ("bound", Some("vfio-pci"))] {
        let is = |line: &Value| {
            line["event"] == event && line["device"] == device.address() && line["driver"].as_str() == driver
        };
        if !lines.iter().any(is) {
            return Err(format!("watch has not told that {device} was {event}: {lines:?}").into());
        }
    }
    Ok(in_place()?)
}

fn another(_: Counts) -> Verdict {
    let device = Role::Virtio.device()?;
    pull("virtio", &device)?;
    monitor(OTHER)?;
    settle(&format!("{device} has its host driver"), DEADLINE, || device.driver().as_deref() == Some("e1000e"))?;
    settled()?;
    let verified = json(4, &["verify"])?;
    let applied = json(0, &["apply"])?;
    on(&device, Some("e1000e"))?;
    let (state, of_apply) = (entry(&verified, "1af4:1041")?, entry(&applied, "1af4:1041")?);
    if state["state"] != "not_applied" || of_apply["state"] != "not_applied" || !applied["operation"].is_null() {
        return Err(format!("not left alone: {verified} {applied}").into());
    }
    pull("other", &device)?;
    monitor(VIRTIO)?;
    settle(&format!("{device} is back on vfio-pci"), DEADLINE, || device.driver().as_deref() == Some("vfio-pci"))?;
    settled()?;
    Ok(in_place()?)
}

fn failing(_: Counts) -> Verdict {
    let device = Role::NvmePf.device()?;
    let parameter = Path::new("/sys/module/lab_vfio_pci/parameters/probe_errno");
    crate::sysfs::write(parameter, "22")?;
    let text =
        format!("[[device]]\nmatch = {{ id = \"1b36:0010\", address = \"{device}\" }}\ndriver = \"lab_vfio_pci\"\n");
    fs::create_dir_all("/etc/vfioadm/host.d").map_err(|error| format!("make host.d: {error}"))?;
    fs::write(FAILING, text).map_err(|error| format!("write {FAILING}: {error}"))?;
    systemctl(&["restart", UNIT])?;
    on(&device, Some("nvme"))?;
    let shown = systemctl(&["status", "--full", "--lines=30", UNIT])?;
    let status = vfioadm(&["status"])?.exits(4)?;
    let tells =
        |text: &str| text.contains(device.address()) && text.contains("lab_vfio_pci") && text.contains("EINVAL");
    if !shown.contains("failed") || !tells(&shown) || !tells(&status.stdout) {
        let Ran { stdout, .. } = status;
        return Err(format!("it is not shown:\n{shown}\n{stdout}").into());
    }
    // The others are as they were, and it is mended where it was broken.
    on(&Role::Cx5.device()?, Some("vfio-pci"))?;
    crate::sysfs::write(parameter, "0")?;
    systemctl(&["restart", UNIT])?;
    on(&device, Some("lab_vfio_pci"))?;
    json(0, &["status"])?;
    in_place()?;
    json(0, &["unbind", device.address()])?;
    fs::remove_file(FAILING).map_err(|error| format!("remove {FAILING}: {error}"))?;
    systemctl(&["restart", UNIT])?;
    Ok(in_place()?)
}
