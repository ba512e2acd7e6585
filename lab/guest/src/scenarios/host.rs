//! A host file on a real kernel: compared, applied, in place, and drifted.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::create::load;
use super::tool::{json, on, vfioadm};
use crate::kmsg::{IGBVF, told};
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Verdict};
use crate::sysfs::{Device, names};

pub(crate) const CASES: [Case; 4] = [
    Case::new("host file: 7 VFs with two drivers and MACs, an mdev and a device, applied and in place", whole)
        .within(180),
    Case::new("host file: what is described is in place, and brings it all back", described).within(180),
    Case::new("host file: another card at the address is left alone, and told", another).within(60),
    Case::new("host file: a driver that refuses takes all of it back", refused).within(120),
];

const FILE: &str = "/run/want.toml";
const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// `match` of a device, by its product and its address.
fn which(device: &Device) -> String {
    let id = |attribute: &str| device.read(attribute).trim_start_matches("0x").to_owned();
    format!("match = {{ id = \"{}:{}\", address = \"{device}\" }}", id("vendor"), id("device"))
}

fn write(text: &str) -> Result<(), String> {
    fs::write(FILE, text).map_err(|error| format!("write {FILE}: {error}"))
}

/// A host file of every kind of entry.
fn file() -> Result<String, String> {
    let (pf, edu) = (Role::Igb.device()?, Role::Edu.device()?);
    Ok(format!(
        "[[pf]]\n{}\nvfs = 7\n\n[[pf.range]]\nvfs = \"0-3\"\nset = {{ mac = \"auto\", vlan = 100 }}\n\n\
         [[pf.range]]\nvfs = \"4\"\ndriver = \"vfio-pci\"\nset = {{ mac = \"52:54:00:aa:00:04\" }}\n\n\
         [[pf.range]]\nvfs = \"5-6\"\ndriver = \"none\"\n\n\
         [[device]]\n{}\n\n[[mdev]]\nuuid = \"{UUID}\"\nparent = \"mtty\"\ntype = \"mtty-1\"\n",
        which(&pf),
        which(&edu),
    ))
}

fn states(value: &Value) -> Vec<&str> {
    let entries = value["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(|entry| entry["state"].as_str()).collect()
}

/// Expects every entry to be in place, by `verify` and by a second `apply`, which has nothing to do.
fn in_place() -> Result<(), String> {
    let value = json(0, &["verify", FILE])?;
    if value["clean"] != true {
        return Err(format!("exit 0, and not clean: {value}"));
    }
    let again = json(0, &["apply", FILE])?;
    if again["operation"].is_null() && again["changes"].as_array().is_some_and(Vec::is_empty) {
        return Ok(());
    }
    Err(format!("a second apply has acted: {again}"))
}

fn as_wanted(pf: &Device) -> Result<(), String> {
    let vfs = pf.vfs();
    if vfs.len() != 7 {
        return Err(format!("{pf} has {} VFs", vfs.len()));
    }
    for (index, vf) in vfs.iter().enumerate() {
        on(vf, if index < 5 { Some("vfio-pci") } else { None })?;
    }
    on(&Role::Edu.device()?, Some("vfio-pci"))?;
    match Path::new("/sys/bus/mdev/devices").join(UUID).join("mdev_type").read_link() {
        Ok(kind) if kind.ends_with("mtty-1") => Ok(()),
        other => Err(format!("the mdev is of {other:?}")),
    }
}

fn whole(_: Counts) -> Verdict {
    let before = Snapshot::take();
    load("mtty")?;
    let pf = Role::Igb.device()?;
    let before_it = told(IGBVF)?;
    write(&file()?)?;
    let planned = json(4, &["plan", "--exit-code", FILE])?;
    if states(&planned) != ["differs"; 3] || !before.differences().is_empty() {
        return Err(format!("a plan is to differ and to change nothing: {planned}").into());
    }
    let applied = json(0, &["apply", FILE])?;
    as_wanted(&pf)?;
    let igbvf: Vec<String> =
        names(Path::new("/sys/bus/pci/drivers/igbvf")).into_iter().filter(|name| name.starts_with("0000:")).collect();
    if !igbvf.is_empty() || told(IGBVF)? != before_it {
        return Err(format!("igbvf has looked: {igbvf:?}").into());
    }
    in_place()?;
    // Somebody takes a VF away: that is told, and put back.
    let vf = pf.vfs().remove(1);
    json(0, &["bind", "--driver", "none", vf.address()])?;
    let drifted = json(4, &["verify", FILE])?;
    if states(&drifted) != ["differs", "in_place", "in_place"] {
        return Err(format!("one VF has drifted: {drifted}").into());
    }
    json(0, &["apply", FILE])?;
    as_wanted(&pf)?;
    in_place()?;
    let operation = applied["operation"].as_str().unwrap_or_default().to_owned();
    if operation.is_empty() {
        return Err(format!("no operation: {applied}").into());
    }
    Ok(())
}

fn described(_: Counts) -> Verdict {
    load("mtty")?;
    let pf = Role::Igb.device()?;
    write(&file()?)?;
    json(0, &["apply", FILE])?;
    let text = vfioadm(&["describe"])?.exits(0)?.stdout;
    write(&text)?;
    in_place()?;
    // All given back, and brought back by the description.
    let mut all: Vec<String> = pf.vfs().iter().map(|vf| vf.address().to_owned()).collect();
    all.push(UUID.to_owned());
    let words: Vec<&str> = std::iter::once("destroy").chain(all.iter().map(String::as_str)).collect();
    json(0, &words)?;
    json(0, &["unbind", Role::Edu.device()?.address()])?;
    json(0, &["apply", FILE])?;
    as_wanted(&pf)?;
    in_place()?;
    let now = vfioadm(&["describe"])?.exits(0)?.stdout;
    if now == text { Ok(()) } else { Err(format!("described as\n{text}and now as\n{now}").into()) }
}

fn another(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let edu = Role::Edu.device()?;
    write(&format!("[[device]]\nmatch = {{ id = \"10de:2330\", address = \"{edu}\" }}\n"))?;
    let applied = json(0, &["apply", FILE])?;
    let verified = json(4, &["verify", FILE])?;
    let differences = before.differences();
    if states(&applied) != ["not_applied"] || states(&verified) != ["not_applied"] || !differences.is_empty() {
        return Err(format!("not left alone: {applied} {verified} {differences}").into());
    }
    let reason = verified["entries"][0]["reason"].as_str().unwrap_or_default();
    if reason != format!("{edu} is 1234:11e8") { Err(format!("told as {reason:?}").into()) } else { Ok(()) }
}

/// `qat_vfio_pci` refuses this function, and nothing else is to be tried.
fn refused(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let (edu, qat) = (Role::Edu.device()?, Role::QatVf.device()?);
    let text =
        format!("[policy]\nfallback = \"never\"\n\n[[device]]\n{}\n\n[[device]]\n{}\n", which(&edu), which(&qat));
    write(&text)?;
    let value = json(1, &["apply", FILE])?;
    let differences = before.differences();
    if value["error"]["id"] != "driver-refused" || value["host"] != "as_it_was" || !differences.is_empty() {
        return Err(format!("not taken back: {value}\n{differences}").into());
    }
    // At boot the other one goes on.
    let value = json(3, &["apply", "--boot", FILE])?;
    on(&edu, Some("vfio-pci"))?;
    on(&qat, None)?;
    let status = json(4, &["status", FILE])?;
    let errors = status["applied"][0]["errors"].as_array().map(Vec::len).unwrap_or_default();
    if value["error"]["id"] == "driver-refused" && errors == 1 {
        Ok(())
    } else {
        Err(format!("{value} {status}").into())
    }
}
