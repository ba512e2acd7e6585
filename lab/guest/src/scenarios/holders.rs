//! A device that another process has open: who it is, that it is asked, and what happens when it does not let go.

use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};

use super::tool::{json, on, refused, vfioadm};
use crate::hold::{Holder, Manner, Way};
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 10] = [
    Case::told("holders: unbind names the pid and command that has the group open", by_group),
    Case::told("holders: unbind names the pid and command that has the cdev open", by_cdev),
    Case::told(
        "holders: unbind names the pid and command that has a BAR mapped, and no descriptor (group)",
        by_group_bar,
    ),
    Case::told(
        "holders: unbind names the pid and command that has a BAR mapped, and no descriptor (cdev)",
        by_cdev_bar,
    ),
    Case::new("holders: list --holders and show name the process", shown),
    Case::new("holders: --wait-holder waits until the holder lets go", waited_for),
    Case::new("holders: --wait-holder gives up at its deadline", waited_in_vain),
    Case::new("holders: --request has the kernel ask, and a holder that listens lets go", asked),
    Case::new("holders: --request and one that does not listen: told, others served, undone later", ignored)
        .within(180),
    Case::new("holders: one device of many is held, the others are untouched", one_of_many),
];

/// An answer that takes longer waited for the holder.
const PROMPT: Duration = Duration::from_secs(15);
/// The holder's program.
const COMMAND: &str = "init";

/// Binds the device and has somebody hold it.
fn held(device: &Device, way: Way, manner: Manner) -> Result<Holder, String> {
    json(0, &["bind", device.address()])?;
    Holder::start(device, way, manner)
}

/// Expects a refusal that names the holder.
fn named(words: &[&str], holder: &Holder) -> Result<(), String> {
    let value = refused(words, "device-open")?;
    let message = value["error"]["message"].as_str().unwrap_or_default();
    let (pid, digit) = (holder.pid().to_string(), |c: char| c.is_ascii_digit());
    let has_pid = message.split(|c| !digit(c)).any(|number| number == pid);
    if has_pid && message.contains(COMMAND) {
        return Ok(());
    }
    Err(format!("the holder is {COMMAND} with pid {pid}, and the message is {message:?}"))
}

fn untouched(before: &Snapshot) -> Result<(), String> {
    match before.differences() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("the refusal left traces:\n{some}")),
    }
}

fn refusal(way: Way) -> Result<String, Stop> {
    let device = Role::Edu.device()?;
    let holder = held(&device, way, Manner::Stays)?;
    let (before, started) = (Snapshot::take(), Instant::now());
    named(&["unbind", device.address()], &holder)?;
    let took = started.elapsed();
    untouched(&before)?;
    if took > PROMPT {
        return Err(format!("the refusal took {} s", took.as_secs()).into());
    }
    Ok(format!("refused after {:.2} s", took.as_secs_f64()))
}

fn by_group(_: Counts) -> Result<String, Stop> {
    refusal(Way::Group)
}

fn by_cdev(_: Counts) -> Result<String, Stop> {
    refusal(Way::Cdev)
}

fn by_group_bar(_: Counts) -> Result<String, Stop> {
    refusal(Way::GroupBar)
}

fn by_cdev_bar(_: Counts) -> Result<String, Stop> {
    refusal(Way::CdevBar)
}

fn shown(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    let holder = held(&device, Way::Cdev, Manner::Stays)?;
    let value = json(0, &["list", "--holders"])?;
    let devices = value["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    for shown in devices {
        let holders = shown["holders"].as_array().ok_or_else(|| format!("no holders in {shown}"))?;
        let pids: Vec<_> = holders.iter().map(|one| one["pid"].as_u64()).collect();
        let expected = if shown["address"] == device.address() { vec![Some(u64::from(holder.pid()))] } else { vec![] };
        if pids != expected {
            return Err(format!("holders should have the pids {expected:?}: {shown}").into());
        }
    }
    let ran = vfioadm(&["show", device.address()])?.exits(0)?;
    if ran.stdout.contains(&holder.pid().to_string()) {
        return Ok(());
    }
    Err(ran.complaint("does not name the holder").into())
}

fn waited_for(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    let _holder = held(&device, Way::Group, Manner::ASecond)?;
    json(0, &["unbind", device.address(), "--wait-holder", "10"])?;
    Ok(on(&device, None)?)
}

fn waited_in_vain(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    let holder = held(&device, Way::Cdev, Manner::Stays)?;
    let before = Snapshot::take();
    named(&["unbind", device.address(), "--wait-holder", "1"], &holder)?;
    Ok(untouched(&before)?)
}

fn asked(_: Counts) -> Verdict {
    for way in [Way::Cdev, Way::Group] {
        let device = Role::Edu.device()?;
        let holder = held(&device, way, Manner::Obeys)?;
        json(0, &["unbind", device.address(), "--request"])?;
        on(&device, None)?;
        let status = holder.ends()?;
        if !status.success() {
            return Err(format!("the holder ended with {status}, and not because it was asked").into());
        }
    }
    Ok(())
}

/// The standard output of the tool is read to its end, so the case ends only when nobody has it open any more.
fn ignored(_: Counts) -> Verdict {
    let (device, other) = (Role::Edu.device()?, Role::PdsVf.device()?);
    let holder = held(&device, Way::Cdev, Manner::Ignores)?;
    let before = Snapshot::take();
    let value = json(3, &["unbind", device.address(), "--request"])?;
    let error = &value["error"];
    let words = format!("{} {}", error["message"], error["remedy"]);
    if error["id"] != "half-unbound" || value["host"] != "changed" || !words.contains(device.address()) {
        return Err(format!("the device is stuck, and this is what is said: {value}").into());
    }
    // Nothing that does not need the device waits for it.
    json(0, &["list"])?;
    json(0, &["bind", other.address()])?;
    json(0, &["unbind", other.address()])?;
    lspci()?;
    let pid =
        Pid::from_raw(i32::try_from(holder.pid()).unwrap_or_default()).ok_or("a holder without a pid".to_owned())?;
    test_kill_process(pid).map_err(|errno| format!("the holder was not left alone: {errno}"))?;
    drop(holder);
    json(0, &["undo"])?;
    match before.differences() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("undo did not bring the device back:\n{some}").into()),
    }
}

fn lspci() -> Result<(), String> {
    let output = std::process::Command::new("lspci").arg("-Dnk").output();
    let output = output.map_err(|error| format!("start lspci: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("lspci: {}", output.status)) }
}

fn one_of_many(_: Counts) -> Verdict {
    let (device, other) = (Role::Edu.device()?, Role::PdsVf.device()?);
    json(0, &["bind", other.address()])?;
    let holder = held(&device, Way::Cdev, Manner::Stays)?;
    let before = Snapshot::take();
    named(&["unbind", other.address(), device.address()], &holder)?;
    Ok(untouched(&before)?)
}
