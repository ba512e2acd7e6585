//! Journals that vfioadm did not leave like that: of another boot, edited, cut off; and a place that cannot be written.
//!
//! Each begins with a real one, of a bind that was killed.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::Signal;

use super::running::{Ended, Running, all, many, run, same, under_way};
use super::tool::JOURNALS;
use crate::machine::Snapshot;
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::{Device, names};

pub(crate) const CASES: [Case; 7] = [
    Case::new("journal: log shows a killed bind as unfinished, and then as undone", logged).within(300),
    Case::new("journal: one of another boot is said to be so, and nothing is done", another_boot).within(300),
    Case::new("journal: an edited one is refused, and nothing is done", edited).within(300),
    Case::new("journal: one without its head is refused, and nothing is done", headless).within(300),
    Case::new("journal: one whose last line is cut off is undone", torn).within(300),
    Case::new("journal: /run/vfioadm that cannot be written is refused before anything is done", read_only),
    Case::told("journal: a full disk at any point leaves the machine as it was", full).within(300),
];

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const FORGED: &str = "/tmp/boot_id";
const ATTEMPTS: usize = 20;

/// Kills a bind of many devices amid its work. Gives its journal, and the machine as it was before.
fn killed() -> Result<(PathBuf, Snapshot), String> {
    let devices = many()?;
    let before = Snapshot::take();
    for _ in 0..ATTEMPTS {
        let running = Running::start(&all(&["bind"], &devices))?;
        let amid = under_way(&running, &devices)?;
        running.signal(Signal::KILL)?;
        let ended = running.end()?;
        if amid && ended.code.is_none() {
            return Ok((newest()?, before));
        }
        ended.expect(0, None)?;
        run(&["undo", ended.operation()?])?.expect(0, None)?;
    }
    Err(format!("{ATTEMPTS} binds ended before they could be killed"))
}

fn newest() -> Result<PathBuf, String> {
    let journals = names(Path::new(JOURNALS)).into_iter().filter(|name| name.ends_with(".jsonl"));
    let newest =
        journals.max_by_key(|name| fs::metadata(Path::new(JOURNALS).join(name)).and_then(|of| of.modified()).ok());
    newest.map(|name| Path::new(JOURNALS).join(name)).ok_or_else(|| format!("no journal in {JOURNALS}"))
}

/// What `log` says of the operation of a journal.
fn state(journal: &Path) -> Result<String, String> {
    let id = journal.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let log = run(&["log"])?;
    let operations = log.value["operations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = operations.iter().find(|one| one["id"] == id.as_str());
    let one = one.ok_or_else(|| log.complaint(&format!("{id} is not in the log")))?;
    Ok(one["state"].as_str().unwrap_or_default().to_owned())
}

fn is(journal: &Path, expected: &str) -> Result<(), String> {
    let state = state(journal)?;
    if state == expected {
        Ok(())
    } else {
        Err(format!("log says {state:?} of {}, not {expected:?}", journal.display()))
    }
}

fn logged(_: Counts) -> Verdict {
    let (journal, before) = killed()?;
    is(&journal, "unfinished")?;
    run(&["undo"])?.expect(0, None)?;
    is(&journal, "undone")?;
    Ok(same(&before, "undo")?)
}

/// The boot id is another, and the journal is the one that was written.
fn another_boot(_: Counts) -> Verdict {
    let (journal, _) = killed()?;
    let left = Snapshot::take();
    fs::write(FORGED, "01234567-89ab-4cde-8f01-23456789abcd\n").map_err(|error| format!("write {FORGED}: {error}"))?;
    mount_bind(FORGED, BOOT_ID).map_err(|errno| format!("mount {FORGED} on {BOOT_ID}: {errno}"))?;
    let asked = || -> Result<(), String> {
        is(&journal, "another_boot")?;
        let undone = run(&["undo"])?;
        undone.expect(0, None)?;
        same(&left, "undo of another boot's journal")?;
        let id = journal.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let named = run(&["undo", &id])?;
        if named.code == Some(3) {
            return Err(named.complaint("nothing should have been done"));
        }
        same(&left, "undo of another boot's journal, named")
    };
    let answer = asked();
    unmount(BOOT_ID, UnmountFlags::DETACH).map_err(|errno| format!("unmount {BOOT_ID}: {errno}"))?;
    forget(&journal);
    Ok(answer?)
}

/// A journal that is spoiled is nobody's to undo; the machine is put back without it.
fn forget(journal: &Path) {
    drop(fs::remove_file(journal));
}

/// Spoils a journal, and expects that `undo` refuses it and does nothing.
fn spoiled(spoil: fn(&str) -> String) -> Verdict {
    let (journal, _) = killed()?;
    let left = Snapshot::take();
    let text = fs::read_to_string(&journal).map_err(|error| format!("read {}: {error}", journal.display()))?;
    let other = spoil(&text);
    if other == text {
        return Err(format!("nothing to spoil in {text:?}").into());
    }
    fs::write(&journal, other).map_err(|error| format!("write {}: {error}", journal.display()))?;
    let refused = (|| {
        let undone = run(&["undo"])?;
        let (error, remedy) = (&undone.value["error"]["id"], undone.value["error"]["remedy"].as_str());
        if undone.code != Some(1) || error.is_null() || remedy.is_none_or(str::is_empty) {
            return Err(undone.complaint("not refused with a remedy"));
        }
        same(&left, "undo of a spoiled journal")
    })();
    forget(&journal);
    Ok(refused?)
}

/// Another address in the first act, well formed.
fn edited(_: Counts) -> Verdict {
    spoiled(|text| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if let Some(line) = lines.get_mut(1) {
            *line = line.replacen(":00.", ":01.", 1).replacen(":10.", ":11.", 1);
        }
        lines.join("\n") + "\n"
    })
}

fn headless(_: Counts) -> Verdict {
    spoiled(|text| text.lines().skip(1).fold(String::new(), |all, line| all + line + "\n"))
}

/// As a crash leaves it: the last record is not all there, and so what it announces was never begun.
fn torn(_: Counts) -> Verdict {
    let (journal, before) = killed()?;
    let text = fs::read_to_string(&journal).map_err(|error| format!("read {}: {error}", journal.display()))?;
    let half = r#"{"record":"act","at":1.000,"dev"#;
    fs::write(&journal, text + half).map_err(|error| format!("write {}: {error}", journal.display()))?;
    run(&["undo"])?.expect(0, None)?;
    Ok(same(&before, "undo of a journal with half a line at its end")?)
}

/// Does something with a file system of its own at /run/vfioadm.
fn instead<T>(flags: MountFlags, options: &str, act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    fs::create_dir_all(JOURNALS).map_err(|error| format!("make {JOURNALS}: {error}"))?;
    let options = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
    mount("tmpfs", JOURNALS, "tmpfs", flags, options.as_c_str())
        .map_err(|errno| format!("mount on {JOURNALS}: {errno}"))?;
    let done = act();
    unmount(JOURNALS, UnmountFlags::DETACH).map_err(|errno| format!("unmount {JOURNALS}: {errno}"))?;
    done
}

fn read_only(_: Counts) -> Verdict {
    let devices = many()?;
    let before = Snapshot::take();
    let ended = instead(MountFlags::RDONLY, "mode=755,size=1m", || run(&all(&["bind"], &devices)))?;
    refused(&ended)?;
    Ok(same(&before, "a bind without a journal")?)
}

/// Expects exit 1, a remedy, and that the host is said to be as it was.
fn refused(ended: &Ended) -> Result<(), String> {
    let remedy = ended.value["error"]["remedy"].as_str().unwrap_or_default();
    if ended.code == Some(1) && !remedy.is_empty() && ended.value["host"] == "as_it_was" {
        return Ok(());
    }
    Err(ended.complaint("not refused with a remedy"))
}

/// From a disk with room for nothing to one with room for all.
fn full(_: Counts) -> Result<String, Stop> {
    let devices: Vec<Device> = many()?;
    let before = Snapshot::take();
    let mut last = String::new();
    for (refusals, kib) in (4..=128).step_by(4).enumerate() {
        let ended = instead(MountFlags::empty(), &format!("mode=755,size={kib}k"), || {
            let ended = run(&all(&["bind"], &devices))?;
            if ended.code == Some(0) {
                run(&["undo", ended.operation()?])?;
            }
            Ok(ended)
        })?;
        if ended.code == Some(0) {
            before.restore()?;
            return Ok(format!("{refusals} sizes refused, up to {} KiB", kib - 4));
        }
        refused(&ended).map_err(|error| format!("with {kib} KiB: {error}"))?;
        last = ended.complaint("still refused");
        same(&before, &format!("a bind with {kib} KiB for its journal"))?;
    }
    Err(Stop::Fail(format!("128 KiB are not enough for the journal of a few devices: {last}")))
}
