//! The shipped binary and the lab's own variant: its state saved, loaded, and its rules held, by the binary; each of its faults
//! is caught by the one case whose rule it breaks.

use std::fs;

use serde_json::Value;
use vfioadm_contract::{CAUGHT, Caught, Peer};

use super::own_migration::on_variant;
use super::tool::{json, refused};
use crate::kmod::Variant;
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 3] = [
    Case::new("state: the lab's variant is saved and loaded into its sibling, and refuses a stranger's", carried)
        .within(180),
    Case::told("qualify: the healthy variant keeps every rule, with a sibling and with a stranger", healthy)
        .within(900),
    Case::told("qualify: each fault of the variant is caught by the one case whose rule it breaks", faults)
        .within(3600),
];

const FILE: &str = "/run/variant.state";

/// Of each loop, where loops are not the point.
const LOOPS: u32 = 2;

fn carried(_: Counts) -> Verdict {
    let [from, to, stranger] = on_variant(&["state_bytes=300000"])?;
    for flag in [None, Some("--precopy")] {
        let words: Vec<&str> = ["state", "save", from.address(), FILE].into_iter().chain(flag).collect();
        let saved = json(0, &words)?;
        let loaded = json(0, &["state", "load", to.address(), FILE])?;
        let precopy = saved["precopy_bytes"].as_u64().unwrap_or_default();
        if saved["bytes"] != loaded["bytes"] || (precopy > 0) != flag.is_some() {
            return Err(format!("saved {saved}, loaded {loaded}").into());
        }
    }
    refused(&["state", "load", stranger.address(), FILE], "foreign-state")?;
    // Handed over open: the program that goes on with it finds the state that was loaded.
    let line = format!(
        "test -n \"$VFIOADM_FDS\" && vfioadm -q state save {0} {FILE}.2 --fd ${{VFIOADM_FDS%%,*}}",
        to.address()
    );
    json(0, &["state", "save", from.address(), FILE])?;
    let ran = super::tool::vfioadm(&["state", "load", to.address(), FILE, "--", "/bin/sh", "-c", &line])?;
    let ran = ran.exits(0)?;
    let [first, second] = [FILE.to_owned(), format!("{FILE}.2")].map(|file| content(&file));
    if first? == second? { Ok(()) } else { Err(ran.complaint("what was handed over is another state").into()) }
}

/// What is of the device in a state file: all behind the header, which names the device.
fn content(file: &str) -> Result<Vec<u8>, String> {
    let bytes = fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    let length = bytes.get(8..12).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes);
    let start = 16 + usize::try_from(length).unwrap_or_default();
    // Sums follow from the header, and are left out: pieces of 1 MiB at most, and this state has one.
    Ok(bytes.get(start + 8..bytes.len().saturating_sub(16)).unwrap_or_default().to_vec())
}

/// Qualifies a device with its peer.
pub(super) fn qualify(code: i32, [device, peer]: [&Device; 2], loops: u32) -> Result<Value, String> {
    let loops = loops.to_string();
    json(code, &["qualify", device.address(), "--peer", peer.address(), "--yes", "--loops", &loops])
}

/// What came of each case.
pub(super) fn cases(value: &Value) -> &[Value] {
    value["cases"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn with<'a>(value: &'a Value, verdict: &'a str) -> impl Iterator<Item = &'a Value> {
    cases(value).iter().filter(move |case| case["verdict"] == verdict)
}

fn ids<'a>(value: &'a Value, verdict: &'a str) -> Vec<&'a str> {
    with(value, verdict).filter_map(|case| case["id"].as_str()).collect()
}

fn healthy(_: Counts) -> Result<String, Stop> {
    let [device, sibling, stranger] = on_variant(&["state_bytes=20000"])?;
    let mut told = String::new();
    for peer in [&sibling, &stranger] {
        let value = qualify(0, [&device, peer], LOOPS)?;
        let skipped = ids(&value, "not_applicable");
        told += &format!("with {peer}: {}; not applicable: {}\n", value["counts"], skipped.join(", "));
        if let Some(quirk) = ids(&value, "quirk").first() {
            return Err(format!("a quirk, {quirk}: {value}").into());
        }
    }
    Ok(told)
}

fn faults(counts: Counts) -> Result<String, Stop> {
    let [device, sibling, stranger] = on_variant(&["state_bytes=20000"])?;
    let (mut wrong, mut told) = (Vec::new(), 0);
    // Each takes half a minute under emulation, for a VF is reset at each open and each close.
    for Caught { fault, case, peer } in CAUGHT.into_iter().skip(counts.pick(CAUGHT.len() - 3, 0)) {
        Variant::BySubsystem.set("fault", fault)?;
        let peer = match peer {
            Peer::Sibling => &sibling,
            Peer::Stranger => &stranger,
        };
        let value = qualify(4, [&device, peer], LOOPS);
        Variant::BySubsystem.set("fault", "none")?;
        let value = match value {
            Ok(value) => value,
            Err(reason) => {
                wrong.push(format!("{fault}: {reason}"));
                continue;
            }
        };
        if ids(&value, "fail") == [case] {
            told += 1;
        } else {
            let evidence: Vec<String> =
                with(&value, "fail").map(|case| format!("{}: {}", case["id"], case["evidence"])).collect();
            wrong.push(format!("{fault}: not {case} alone, but {}", evidence.join("; ")));
        }
    }
    if wrong.is_empty() { Ok(format!("{told} faults")) } else { Err(wrong.join("\n").into()) }
}
