//! The power goes off amid a bind, and the machine boots again: it starts clean.
//!
//! One case on several boots of one machine. What it has to know of the boot before is on the only thing that outlives a
//! boot, the disk.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use vfioadm_wire::Record;

use crate::channel::Channel;
use crate::machine::{MOUNT_POINT, Role, Snapshot, disk};
use crate::orders::Counts;
use crate::runner::{Case, Stop};
use crate::scenarios::running::{Chance, Running, all, many, run, under_way};
use crate::scenarios::tool::{JOURNALS, json, on};
use crate::sysfs::names;

pub(crate) const CASES: [Case; 1] =
    [Case::told("power cut amid a bind of many devices: the next boot starts clean", cut).within(180)];

/// The machine after its first boot, then a line for every cut.
const NOTES: &str = "notes";
const SYSRQ: &str = "/proc/sysrq-trigger";
const ATTEMPTS: usize = 20;

fn cut(counts: Counts) -> Result<String, Stop> {
    let disk = disk()?;
    mount(&disk, MOUNT_POINT, "ext4", MountFlags::empty(), None)
        .map_err(|errno| format!("mount {disk} on {MOUNT_POINT}: {errno}"))?;
    let notes = Path::new(MOUNT_POINT).join(NOTES);
    let found = format!("{:?}", Snapshot::take());
    let known = fs::read_to_string(&notes).unwrap_or_default();
    let mut lines = known.lines();
    match lines.next() {
        None => note(&notes, &found)?,
        Some(first) if first != found => {
            return Err(format!("the machine did not boot as it did at first:\nwas {first}\nnow {found}").into());
        }
        Some(_) => clean_start()?,
    }
    let cuts = lines.count();
    if cuts >= counts.pick(1, 5) {
        return Ok(format!("{cuts} power cuts, {cuts} clean starts"));
    }
    note(&notes, "cut")?;
    unmount(MOUNT_POINT, UnmountFlags::empty()).map_err(|errno| format!("unmount {MOUNT_POINT}: {errno}"))?;
    Err(amid_a_bind()?)
}

fn note(notes: &Path, line: &str) -> Result<(), String> {
    let written = || -> std::io::Result<()> {
        let mut file: File = OpenOptions::new().create(true).append(true).open(notes)?;
        writeln!(file, "{line}")?;
        file.sync_all()
    };
    written().map_err(|error| format!("write {}: {error}", notes.display()))
}

/// Nothing to undo, nobody who has the lock, and a bind works.
fn clean_start() -> Result<(), String> {
    if let Some(journal) = names(Path::new(JOURNALS)).into_iter().find(|name| name.ends_with(".jsonl")) {
        return Err(format!("{JOURNALS}/{journal} has outlived a boot"));
    }
    let undone = run(&["undo"])?;
    undone.expect(0, None)?;
    if !undone.value["operation"].is_null() {
        return Err(undone.complaint("there should be nothing to undo"));
    }
    let device = Role::Edu.device()?;
    json(0, &["bind", device.address()])?;
    on(&device, Some("vfio-pci"))?;
    json(0, &["unbind", device.address()])?;
    on(&device, None)
}

/// Starts a bind, and resets the machine when it is under way. Returns only when that did not work.
fn amid_a_bind() -> Result<Stop, String> {
    let devices = many()?;
    let before = Snapshot::take();
    let mut chance = Chance::new();
    let mut channel = Channel::open()?;
    for _ in 0..ATTEMPTS {
        let running = Running::start(&all(&["bind"], &devices))?;
        let amid = under_way(&running, &devices)?;
        std::thread::sleep(chance.part_of(std::time::Duration::from_millis(100)));
        if amid && Path::new(&format!("/proc/{}/exe", running.pid())).read_link().is_ok() {
            let on_vfio = |driver: Option<String>| driver.is_some_and(|name| name.contains("vfio"));
            let bound = devices.iter().filter(|device| on_vfio(device.driver())).count();
            let told =
                format!("amid a bind of {} devices, {bound} of them bound; seed {}", devices.len(), chance.seed());
            channel.send(&Record::Cut { told });
            fs::write(SYSRQ, "b").map_err(|error| format!("write b to {SYSRQ}: {error}"))?;
            return Ok(Stop::Fail("the machine was reset, and goes on".to_owned()));
        }
        drop(running.end()?);
        before.restore()?;
    }
    Ok(Stop::Fail(format!("{ATTEMPTS} binds ended before the power could be cut")))
}
