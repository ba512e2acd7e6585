//! A thousand functions: what vfioadm costs there, and that it counts right.
//!
//! Times are told and never judged: the guest may be emulated. The PFs are QEMU's NVMe with 127 VFs each, all enabled
//! with `sriov_drivers_autoprobe` 0, and so without a driver.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::orders::Counts;
use crate::runner::{Case, Stop};
use crate::scenarios::killed::{bind_killed, undo_killed};
use crate::scenarios::own_loops::saved_each;
use crate::scenarios::signals::{one_signal, two_signals};
use crate::scenarios::tool::{Measured, measured, on, overridden};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 7] = [
    Case::told("list: every function, every VF with its PF and its index, in 20 MB", list).within(DEADLINE),
    Case::told("bind and unbind: all VFs of a PF by patterns, in one call", by_pattern).within(DEADLINE),
    Case::told("killed: a bind of 127 VFs at any point, then undo, is as if it had not been", killed).within(3600),
    Case::told("killed: undo of 127 VFs itself at any point, then undo again", killed_twice).within(1800),
    Case::told("signals: SIGINT amid a bind of 127 VFs, and it is taken back", interrupted).within(DEADLINE),
    Case::told("signals: SIGTERM twice amid a bind of 127 VFs, and it stops; undo takes it back", stopped)
        .within(DEADLINE),
    Case::told("state: 127 VFs of a PF on the lab's variant, saved in one run", saved).within(900),
];

/// In seconds; a thousand functions come and go one after the other.
const DEADLINE: u64 = 300;

const PFS: usize = 8;
pub(crate) const VFS: usize = 127;
const PEAK_BYTES: u64 = 20_000_000;

/// Every PF of the machine.
pub(crate) fn pfs() -> Vec<Device> {
    Device::all().into_iter().filter(|device| device.path("sriov_totalvfs").exists()).collect()
}

/// Enables all VFs of a PF.
pub(crate) fn enable_of(pf: &Device, autoprobe: &str) -> Result<(), String> {
    pf.write("sriov_drivers_autoprobe", autoprobe)?;
    pf.write("sriov_numvfs", &VFS.to_string())
}

/// Enables all VFs of one PF, under autoprobe 0.
fn enable_one() -> Result<Vec<Device>, String> {
    let pf = pfs().into_iter().next().ok_or("the machine has no PF")?;
    enable_of(&pf, "0")?;
    match pf.vfs() {
        vfs if vfs.len() == VFS => Ok(vfs),
        other => Err(format!("{pf} has {} VFs, not {VFS}", other.len())),
    }
}

fn killed(counts: Counts) -> Result<String, Stop> {
    bind_killed(&enable_one()?, counts.pick(5, 100), counts)
}

fn killed_twice(counts: Counts) -> Result<String, Stop> {
    undo_killed(&enable_one()?, counts.pick(2, 15), counts)
}

fn interrupted(_: Counts) -> Result<String, Stop> {
    one_signal(&enable_one()?, Signal::INT)
}

fn stopped(_: Counts) -> Result<String, Stop> {
    two_signals(&enable_one()?)
}

fn saved(_: Counts) -> Result<String, Stop> {
    saved_each(&enable_one()?)
}

/// Enables all VFs of the machine, under autoprobe 0, and returns them by PF.
pub(crate) fn enable() -> Result<BTreeMap<Device, Vec<Device>>, String> {
    let mut all = BTreeMap::new();
    for pf in pfs() {
        enable_of(&pf, "0")?;
        let vfs = pf.vfs();
        if vfs.len() != VFS {
            return Err(format!("{pf} has {} VFs, not {VFS}", vfs.len()));
        }
        all.insert(pf, vfs);
    }
    if all.len() == PFS { Ok(all) } else { Err(format!("the machine has {} PFs, not {PFS}", all.len())) }
}

fn list(_: Counts) -> Result<String, Stop> {
    let started = Instant::now();
    let pfs = enable()?;
    let enabled = started.elapsed().as_secs_f64();
    let ran = run(0, &["list"])?;
    let mut shown = BTreeMap::new();
    for device in ran.value["devices"].as_array().into_iter().flatten() {
        let address = device["address"].as_str().unwrap_or_default();
        if shown.insert(address, device).is_some() {
            return Err(format!("list shows {address} twice").into());
        }
    }
    let there = Device::all();
    let there: BTreeSet<_> = there.iter().map(Device::address).collect();
    let listed: BTreeSet<_> = shown.keys().copied().collect();
    if listed != there {
        let odd: Vec<_> = listed.symmetric_difference(&there).collect();
        return Err(format!("in only one of list and /sys/bus/pci/devices: {odd:?}").into());
    }
    for (pf, vfs) in &pfs {
        for (index, vf) in vfs.iter().enumerate() {
            let vf_shown = shown[vf.address()];
            if vf_shown["role"] != "vf" || vf_shown["pf"] != pf.address() || vf_shown["vf_index"] != index {
                return Err(format!("{vf} is VF {index} of {pf}, and list shows {vf_shown}").into());
            }
        }
    }
    let vfs = shown.values().filter(|device| device["role"] == "vf").count();
    if vfs != PFS * VFS {
        return Err(format!("list shows {vfs} VFs, and there are {}", PFS * VFS).into());
    }
    let told = format!(
        "enabling {vfs} VFs: {enabled:.2} s\nlist of {} functions: {:.2} s, peak {} KiB",
        shown.len(),
        ran.seconds,
        ran.peak_kib
    );
    if ran.peak_kib * 1024 < PEAK_BYTES { Ok(told) } else { Err(Stop::Fail(told)) }
}

/// The VFs have no queues and no interrupts, since nobody assigned them any, and nvme refuses such a one. So what they
/// had before cannot be given back, and unbind leaves them where they are; no driver at all they get when asked to.
fn by_pattern(_: Counts) -> Result<String, Stop> {
    let pfs = enable()?;
    let (pf, vfs) = pfs.first_key_value().ok_or_else(|| "no PF".to_owned())?;
    let bus = pf.address().strip_suffix("00.0").ok_or_else(|| format!("{pf} is not function 0 of its bus"))?;
    // The PF is on the bus too, and nobody's to bind; so one pattern does not do.
    let (beside_pf, others) = (format!("{bus}00.[!0]"), format!("{bus}0[!0].*"));

    let bind = run(0, &["bind", &beside_pf, &others])?;
    every(&bind, vfs, "vfio-pci", |result| result["driver"] == "vfio-pci" && result["changed"] == true)?;
    every_on(vfs, Some("vfio-pci"), "vfio-pci")?;

    let unbind = run(1, &["unbind", &beside_pf, &others])?;
    if unbind.value["host"] != "as_it_was" || unbind.value["error"]["id"] != "driver-refused" {
        let (host, error) = (&unbind.value["host"], &unbind.value["error"]);
        return Err(format!("unbind: the host is {host}, and the error {error}").into());
    }
    every(&unbind, vfs, "refused by nvme and as it was", |result| {
        let tried = result["tried"].as_array().map(Vec::as_slice).unwrap_or_default();
        let refused = matches!(tried, [nvme] if nvme["driver"] == "nvme" && nvme["errno"] == "ENODEV");
        refused && result["driver"] == "vfio-pci" && result["changed"] == false
    })?;
    every_on(vfs, Some("vfio-pci"), "vfio-pci")?;

    let none = run(0, &["bind", "--driver", "none", &beside_pf, &others])?;
    every(&none, vfs, "on no driver", |result| result["driver"].is_null() && result["changed"] == true)?;
    every_on(vfs, None, "none")?;
    Ok(format!(
        "{VFS} VFs: bind {:.2} s, unbind refused by nvme (ENODEV) and taken back {:.2} s, bind to none {:.2} s",
        bind.seconds, unbind.seconds, none.seconds
    ))
}

/// Runs vfioadm and expects an exit status; what is told of another is short.
fn run(code: i32, words: &[&str]) -> Result<Measured, String> {
    let ran = measured(words)?;
    if ran.code == Some(code) {
        Ok(ran)
    } else {
        Err(format!("vfioadm {}: exit {:?}, expected {code}: {}", words.join(" "), ran.code, ran.value["error"]))
    }
}

/// Expects results for exactly these devices, and of each that it `holds`.
fn every(ran: &Measured, vfs: &[Device], what: &str, holds: impl Fn(&Value) -> bool) -> Result<(), String> {
    let results = ran.value["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of: BTreeMap<_, _> = results.iter().filter_map(|result| Some((result["address"].as_str()?, result))).collect();
    if results.len() != vfs.len() {
        return Err(format!("{} results for {} VFs", results.len(), vfs.len()));
    }
    for vf in vfs {
        let result = of.get(vf.address()).ok_or_else(|| format!("no result for {vf}"))?;
        if !holds(result) {
            return Err(format!("{vf} should be {what}: {result}"));
        }
    }
    Ok(())
}

/// Expects that the kernel shows this of all of them.
pub(crate) fn every_on(vfs: &[Device], driver: Option<&str>, driver_override: &str) -> Result<(), String> {
    vfs.iter().try_for_each(|vf| on(vf, driver).and_then(|()| overridden(vf, Some(driver_override))))
}
