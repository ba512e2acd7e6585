//! The lab's variant, many times over: what a thousand sessions leave behind, and the VFs of a whole PF saved in one run.

use std::fs;
use std::path::Path;
use std::thread;

use super::own_migration::on_variant;
use super::own_qualify::{cases, qualify};
use super::tool::{bound, json};
use crate::kmod::{self, Variant};
use crate::leaks::Held;
use crate::orders::Counts;
use crate::runner::{Case, Stop};
use crate::sysfs::{Device, names};

pub(crate) const CASES: [Case; 1] =
    [Case::told("qualify: session after session leaves neither files nor memory behind", sessions).within(3000)];

/// Where the states of a PF's VFs go.
const STATES: &str = "/run/states";
/// Savers at once: each waits for resets most of the time.
const SAVERS: usize = 8;

/// Both loops of `qualify`, open and close, save and load; what is kept from the first tenth is the kernel's own.
fn sessions(counts: Counts) -> Result<String, Stop> {
    let [device, sibling, _] = on_variant(&["state_bytes=20000"])?;
    let times: u32 = counts.pick(20, 1000);
    qualify(0, [&device, &sibling], times / 10)?;
    let first = Held::now()?;
    let value = qualify(0, [&device, &sibling], times)?;
    let last = Held::now()?;
    for id in ["open-close-loop", "save-load-loop"] {
        let went = cases(&value).iter().any(|case| case["id"] == id && case["evidence"] == format!("{times} times"));
        if !went {
            return Err(format!("{id} did not go {times} times: {value}").into());
        }
    }
    // One object of 256 bytes for each session would be 500 KiB.
    let grown = last.grown_since(first, counts).map_err(|leak| format!("{times} sessions each way: {leak}"))?;
    Ok(format!("{times} sessions each way: {grown}"))
}

/// Binds all to the variant in one call, saves the state of each, and looks at every file.
pub(crate) fn saved_each(vfs: &[Device]) -> Result<String, Stop> {
    kmod::install()?;
    Variant::BySubsystem.load(&["state_bytes=65536"])?;
    let addresses: Vec<_> = vfs.iter().map(Device::address).collect();
    let value = json(0, &[&["bind"], &addresses[..]].concat())?;
    vfs.iter().try_for_each(|vf| bound(&value, vf, Variant::BySubsystem.name()))?;
    fs::create_dir_all(STATES).map_err(|error| format!("{STATES}: {error}"))?;
    let save = |vf: &Device| -> Result<u64, String> {
        let file = format!("{STATES}/{}", vf.address());
        let saved = json(0, &["state", "save", vf.address(), &file])?;
        let told = json(0, &["state", "info", &file])?;
        let after = json(0, &["state", "info", vf.address()])?;
        if saved["bytes"] != told["bytes"] || after["migration"]["state"] != "RUNNING" {
            return Err(format!("{vf}: saved {saved}, the file {told}, the device {after}"));
        }
        saved["bytes"].as_u64().filter(|bytes| *bytes >= 65536).ok_or_else(|| format!("{vf}: {saved}"))
    };
    let bytes: u64 = thread::scope(|scope| {
        let parts = vfs.chunks(vfs.len().div_ceil(SAVERS));
        let savers: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(save).sum::<Result<u64, String>>())).collect();
        savers.into_iter().map(|saver| saver.join().map_err(|_| "a saver panicked".to_owned())?).sum::<Result<_, _>>()
    })?;
    let files = names(Path::new(STATES)).len();
    fs::remove_dir_all(STATES).map_err(|error| format!("{STATES}: {error}"))?;
    if files != vfs.len() {
        return Err(format!("{files} files of {} VFs", vfs.len()).into());
    }
    Ok(format!("{files} states of {bytes} bytes in all; every device runs"))
}
