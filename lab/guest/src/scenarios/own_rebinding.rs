//! The cases of `qualify` that rebind, on the lab's own variant: without its PF's driver it is refused, plain or whole, as `need_pf`
//! says, and whatever was seen, the machine is as it was.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::own_migration::on_variant;
use super::own_qualify::{cases, qualify};
use super::running::same;
use super::tool::{VFIOADM, json, on, vfioadm};
use crate::kmod::Variant;
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::{Device, settle};

pub(crate) const CASES: [Case; 4] = [
    Case::told(
        "qualify: without the driver of its PF the variant is refused, plain or whole, and keeps the rules",
        orphaned,
    )
    .within(1200),
    Case::told("qualify: what is forced on the variant is refused or whole, and given back", forced).within(600),
    Case::new("qualify: the driver of a PF that takes its VFs along, or that another VF needs, is left alone", spared)
        .within(900),
    Case::new("qualify: killed while the PF has no driver, undo brings everything back", killed).within(600),
];

/// The cases that take a PF from its driver.
const WITHOUT_PF: [&str; 3] = ["pf-absent", "pf-unbound", "reset-degraded"];

/// A case's verdict and evidence.
fn told<'a>(value: &'a Value, id: &str) -> (&'a str, &'a str) {
    let case = cases(value).iter().find(|case| case["id"] == id);
    let text = |key| case.and_then(|case| case[key].as_str()).unwrap_or_default();
    (text("verdict"), text("evidence"))
}

/// Expects a verdict, and how the evidence begins.
fn expect(value: &Value, id: &str, verdict: &str, evidence: &str) -> Result<String, String> {
    let (said, why) = told(value, id);
    if said == verdict && why.starts_with(evidence) {
        return Ok(format!("{id}: {why}"));
    }
    Err(format!("{id} is {said}: {why}; and not {verdict}: {evidence}"))
}

fn orphaned(_: Counts) -> Result<String, Stop> {
    let [device, sibling, _] = on_variant(&["state_bytes=20000"])?;
    let mut all = String::new();
    for (need_pf, absent, unbound) in [
        ("0", "the probe takes it; it migrates", "its stream is whole; it answers, and is opened again"),
        ("1", "the probe takes it; it does not migrate", "its stream ends with ENODEV"),
        ("2", "the probe refuses it: ENODEV", "its stream ends with ENODEV"),
    ] {
        Variant::BySubsystem.set("need_pf", need_pf)?;
        // What a device needs is decided when it is bound.
        for device in [&device, &sibling] {
            device.unbind()?;
            device.bind(Variant::BySubsystem.name())?;
        }
        let before = Snapshot::take();
        let value = qualify(0, [&device, &sibling], 1)?;
        let said = [
            expect(&value, "pf-absent", "pass", absent)?,
            expect(&value, "pf-unbound", "pass", unbound)?,
            expect(&value, "reset-degraded", "pass", "reset ")?,
        ];
        same(&before, "qualify")?;
        all += &format!("need_pf={need_pf}: {}\n", said.join("; "));
    }
    Ok(all)
}

fn forced(_: Counts) -> Result<String, Stop> {
    let [device, _, _] = on_variant(&["state_bytes=20000"])?;
    let edu = Role::Edu.device()?;
    json(0, &["bind", edu.address()])?;
    let before = Snapshot::take();
    let mut all = String::new();
    for (need_pf, evidence) in [
        ("0", "the probe takes the peer, which its table has not; it migrates"),
        ("1", "the probe takes the peer, which its table has not; it does not migrate"),
        ("2", "the probe refuses the peer: ENODEV"),
    ] {
        Variant::BySubsystem.set("need_pf", need_pf)?;
        let value = qualify(0, [&device, &edu], 1)?;
        all += &format!("need_pf={need_pf}: {}\n", expect(&value, "forced-id", "pass", evidence)?);
        same(&before, "qualify")?;
        on(&edu, Some("vfio-pci"))?;
    }
    Ok(all)
}

fn spared(_: Counts) -> Verdict {
    let [nvme, _, igb] = on_variant(&["state_bytes=20000"])?;
    let before = Snapshot::take();
    // The sibling on the variant is not the peer.
    for (device, peer, why) in [(&igb, &nvme, "which may take its VFs along"), (&nvme, &igb, "which stays as it is")] {
        let value = qualify(0, [device, peer], 1)?;
        for id in WITHOUT_PF {
            let (verdict, evidence) = told(&value, id);
            if verdict != "not_applicable" || !evidence.contains(why) {
                return Err(format!("{id} of {device} is {verdict}: {evidence}").into());
            }
        }
        same(&before, "qualify")?;
    }
    Ok(())
}

fn killed(_: Counts) -> Verdict {
    let [device, sibling, _] = on_variant(&["state_bytes=20000"])?;
    let pf = Role::NvmePf.device()?;
    let before = Snapshot::take();
    let mut child = Command::new(VFIOADM)
        .args(["qualify", device.address(), "--peer", sibling.address(), "--yes", "--loops", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("start {VFIOADM}: {error}"))?;
    let gone = settle("the PF loses its driver", Duration::from_secs(300), || pf.driver().is_none());
    child.kill().and_then(|()| child.wait()).map_err(|error| format!("kill it: {error}"))?;
    gone?;
    // Each situation is an operation: the newest is taken back first.
    for _ in 0..4 {
        let ran = vfioadm(&["undo"])?.exits(0)?;
        if ran.stdout.contains("nothing to undo: no operation is unfinished") {
            break;
        }
    }
    same(&before, "undo")?;
    back(&device, &pf)
}

/// That both are on the drivers that they had.
fn back(device: &Device, pf: &Device) -> Verdict {
    on(device, Some(Variant::BySubsystem.name()))?;
    Ok(on(pf, Some("nvme"))?)
}
