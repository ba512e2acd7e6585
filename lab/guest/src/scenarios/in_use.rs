//! A device that somebody has open: vfioadm says who, and does not wait for him.
//!
//! The kernel would let it: a write to `unbind` waits until the last descriptor is closed, and the writer cannot be
//! killed (`drivers/vfio/vfio_main.c` `vfio_unregister_group_dev()`).

use std::time::{Duration, Instant};

use vfioadm::host::linux::Linux;
use vfioadm::host::{Held, Open, Probe};
use vfioadm::model::GroupId;

use super::tool::{json, on, refused, vfioadm};
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Verdict};
use crate::sysfs::Device;

/// An answer that takes longer waited for the holder.
const PROMPT: Duration = Duration::from_secs(15);

pub(crate) const CASES: [Case; 5] = [
    Case::new("in use: unbinding a device open by its group is refused at once", by_group),
    Case::new("in use: unbinding a device open by its cdev is refused at once", by_cdev),
    Case::new("in use: the device is given back when the holder has gone", when_gone),
    Case::new("in use: an unbind that waits is left behind at its deadline", left_behind),
    Case::new("in use: what a later command had is not undone by the one that was left behind", had_since),
];

/// By which node the holder came.
#[derive(Clone, Copy)]
pub(super) enum By {
    Group,
    Cdev,
}

/// Opens a device that is on a VFIO driver.
pub(super) fn hold(device: &Device, by: By) -> Result<Box<dyn Held>, String> {
    let parse = |what: &str, name: Option<String>| name.ok_or_else(|| format!("{device} has no {what}"));
    let open = match by {
        By::Cdev => {
            let name = parse("cdev", device.names("vfio-dev").into_iter().next())?;
            Open::BoundCdev(name.parse().map_err(|_| format!("{name} is no cdev"))?)
        }
        By::Group => {
            let group = parse("group", device.link("iommu_group"))?;
            let group = group.parse().map_err(|_| format!("{group} is no group"))?;
            let bdf = device.address().parse().map_err(|_| format!("{device} is no address"))?;
            Open::GroupDevice(GroupId(group), bdf)
        }
    };
    Linux::new().open(&open).map_err(|error| error.to_string())
}

fn held(by: By) -> Verdict {
    let device = Role::Edu.device()?;
    json(0, &["bind", device.address()])?;
    let _held = hold(&device, by)?;
    let (before, started) = (Snapshot::take(), Instant::now());
    refused(&["unbind", device.address()], "device-open")?;
    if started.elapsed() > PROMPT {
        return Err(format!("the refusal took {} s", started.elapsed().as_secs()).into());
    }
    match before.differences() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("the refusal left traces:\n{some}").into()),
    }
}

fn by_group(_: Counts) -> Verdict {
    held(By::Group)
}

fn by_cdev(_: Counts) -> Verdict {
    held(By::Cdev)
}

fn when_gone(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    json(0, &["bind", device.address()])?;
    drop(hold(&device, By::Cdev)?);
    json(0, &["unbind", device.address()])?;
    Ok(on(&device, None)?)
}

/// Forced, the unbind waits for the holder in a process of its own: the tool returns, says so, and others are served.
fn left_behind(_: Counts) -> Verdict {
    let (device, other) = (Role::Edu.device()?, Role::PdsVf.device()?);
    json(0, &["bind", device.address()])?;
    let held = hold(&device, By::Cdev)?;
    let ran = vfioadm(&["unbind", device.address(), "--allow", "device-open"])?.exits(3)?;
    if !ran.stderr.contains("half unbound") {
        return Err(ran.complaint("does not say what state the device is in").into());
    }
    // Neither the lock nor the bus is held up.
    json(0, &["list"])?;
    json(0, &["bind", other.address()])?;
    json(0, &["unbind", other.address()])?;
    drop(held);
    let by = Instant::now() + PROMPT;
    while !device.names("vfio-dev").is_empty() || device.link("driver").is_some() {
        if Instant::now() > by {
            return Err("the driver did not let go when the holder was gone".to_owned().into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // The device is the unfinished operation's, until that is undone.
    refused(&["unbind", device.address()], "unfinished-operation")?;
    json(0, &["undo"])?;
    on(&device, Some("vfio-pci"))?;
    json(0, &["unbind", device.address()])?;
    Ok(on(&device, None)?)
}

/// What an operation left half unbound, and a later one was allowed to have, is not the older one's to take back.
fn had_since(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    json(0, &["bind", device.address()])?;
    let held = hold(&device, By::Cdev)?;
    let left = json(3, &["unbind", device.address(), "--allow", "device-open"])?;
    drop(held);
    let by = Instant::now() + PROMPT;
    while !device.names("vfio-dev").is_empty() {
        if Instant::now() > by {
            return Err("the driver did not let go when the holder was gone".to_owned().into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    json(0, &["unbind", device.address(), "--allow", "unfinished-operation"])?;
    let before = Snapshot::take();
    let undone = vfioadm(&["undo"])?.exits(0)?;
    let operation = left["operation"].as_str().unwrap_or("no operation");
    if !undone.stderr.contains(operation) {
        return Err(undone.complaint(&format!("does not say that {operation} is closed")).into());
    }
    json(0, &["bind", device.address()])?;
    json(0, &["unbind", device.address()])?;
    match before.differences() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("undo did what was another operation's:\n{some}").into()),
    }
}
