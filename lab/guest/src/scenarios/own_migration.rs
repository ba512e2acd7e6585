//! The lab's own variant migrates: by ioctl, without vfioadm's own rules, so that what vfioadm says of it has a control.

use std::collections::BTreeSet;

use vfioadm_uapi::migration::State;

use super::own_variants::vfs_of;
use super::tool::{bound, json};
use crate::kmod::{self, Variant};
use crate::machine::Role;
use crate::migrate::{Bound, Broken, rounds};
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 4] = [
    Case::new("migration: the lab's variant is saved on a VF and loaded on its sibling, and keeps every rule", healthy)
        .within(180),
    Case::told("migration: each fault of the lab's variant breaks the rule that it is named for", faults).within(600),
    Case::new("migration: stopped or before, a session ends with the driver of the PF that the VF needs", pf_leaves),
    Case::new("migration: need_pf=1 binds a function without a PF, and it does not migrate", degrades),
];

/// A fault, and the rules that are seen broken then.
const FAULTS: [(&str, &[Broken]); 22] = [
    ("wrong_state", &[Broken::State, Broken::Reset, Broken::Close]),
    ("forbidden_arc", &[Broken::Arc]),
    ("second_fd", &[Broken::SecondFd]),
    ("stop_copy_fails", &[Broken::StopCopy]),
    ("stuck_error", &[Broken::StopCopy, Broken::Reset]),
    ("reset_keeps", &[Broken::Reset]),
    ("close_keeps", &[Broken::Close]),
    ("eof_missing", &[Broken::Eof]),
    ("eof_early", &[Broken::Eof]),
    ("precopy_eof", &[Broken::PrecopyEnd]),
    ("precopy_info_grows", &[Broken::InfoGrows]),
    ("precopy_info_always", &[Broken::InfoAlways]),
    ("data_size_small", &[Broken::DataSize]),
    ("loses_tail", &[Broken::Load]),
    ("fd_survives", &[Broken::FdSurvives]),
    ("seekable", &[Broken::Seekable]),
    ("both_ways", &[Broken::BothWays]),
    ("accepts_truncated", &[Broken::Truncated]),
    ("accepts_corrupt", &[Broken::Corrupt]),
    ("accepts_foreign", &[Broken::Foreign]),
    ("load_loses", &[Broken::Content]),
    ("none", &[]),
];

/// Two siblings and a device of another kind, on the variant.
pub(super) fn on_variant(parameters: &[&str]) -> Result<[Device; 3], Stop> {
    kmod::install()?;
    Variant::BySubsystem.load(parameters)?;
    let ([from, to], [foreign, _]) = (vfs_of(Role::NvmePf)?, vfs_of(Role::Igb)?);
    for device in [&from, &to, &foreign] {
        let value = json(0, &["bind", device.address()])?;
        bound(&value, device, Variant::BySubsystem.name())?;
    }
    Ok([from, to, foreign])
}

fn healthy(_: Counts) -> Verdict {
    let devices = on_variant(&[])?;
    for (precopy, p2p, state_bytes) in [("1", "1", "70000"), ("0", "1", "4096"), ("1", "0", "1"), ("0", "0", "65536")] {
        for (parameter, value) in [("precopy", precopy), ("p2p", p2p), ("state_bytes", state_bytes)] {
            Variant::BySubsystem.set(parameter, value)?;
        }
        // What a device has is decided when it is bound.
        for device in &devices {
            device.unbind()?;
            device.bind(Variant::BySubsystem.name())?;
        }
        let broken = rounds(&devices)?;
        if !broken.is_empty() {
            let with = format!("precopy={precopy} p2p={p2p} state_bytes={state_bytes}");
            return Err(format!("the healthy variant with {with} breaks {broken:?}").into());
        }
    }
    Ok(())
}

fn faults(_: Counts) -> Result<String, Stop> {
    let devices = on_variant(&["state_bytes=5000"])?;
    let mut wrong = Vec::new();
    for (fault, expected) in FAULTS {
        Variant::BySubsystem.set("fault", fault)?;
        let broken = rounds(&devices)?;
        if broken != expected.iter().copied().collect::<BTreeSet<_>>() {
            wrong.push(format!("{fault}: breaks {broken:?}, not {expected:?}"));
        }
        Variant::BySubsystem.set("fault", "none")?;
    }
    if wrong.is_empty() { Ok(format!("{} faults", FAULTS.len() - 1)) } else { Err(wrong.join("\n").into()) }
}

fn pf_leaves(_: Counts) -> Verdict {
    let [vf, sibling, _] = on_variant(&["need_pf=1"])?;
    let (saving, running) = (Bound::open(&vf)?, Bound::open(&sibling)?);
    let (mut data, pf) = (saving.begin(State::StopCopy)?, Role::NvmePf.device()?);
    pf.unbind()?;
    let after = (saving.set(State::Running), running.set(State::Stop), data.read(), saving.state());
    let expected = "(Err(\"ENOTCONN\"), Err(\"ENOTCONN\"), Err(\"ENODEV\"), Ok(StopCopy))";
    if format!("{after:?}") != expected {
        return Err(format!("without the PF's driver: {after:?}, not {expected}").into());
    }
    drop((data, saving, running));
    pf.bind("nvme")?;
    let again = Bound::open(&vf)?;
    if again.set(State::Stop) != Err("ENOTCONN".to_owned()) {
        return Err("a new driver of the PF brought back what the old one took along".to_owned().into());
    }
    Ok(())
}

fn degrades(_: Counts) -> Verdict {
    kmod::install()?;
    Variant::BySubsystem.load(&["need_pf=1"])?;
    let device = Role::Cx5.device()?;
    let value = json(0, &["bind", device.address()])?;
    bound(&value, &device, Variant::BySubsystem.name())?;
    match Bound::open(&device)?.state() {
        Err(errno) if errno == "ENOTTY" => Ok(()),
        other => Err(format!("a function without a PF has the migration state {other:?}").into()),
    }
}
