//! A host file of a thousand VFs: `apply` against `create`, which makes the same, and `verify` against `list`.

use std::fmt::Write as _;
use std::fs;

use crate::orders::Counts;
use crate::runner::Stop;
use crate::say;
use crate::scale::{self, VFS, every_on};
use crate::sysfs::Device;

use super::create::{disable, made, vfs};
use super::{Run, load, middle, timed};

const ROUNDS: usize = 3;
const ALL: &str = "/run/all.toml";
const NONE: &str = "/run/none.toml";

pub(super) fn compare(_: Counts) -> Result<String, Stop> {
    load("vfio-pci")?;
    let pfs = scale::pfs();
    disable(&pfs)?;
    let range = format!("\n[[pf.range]]\nvfs = \"0-{}\"\n", VFS - 1);
    write(ALL, &pfs, &format!("vfs = {VFS}\n{range}"))?;
    write(NONE, &pfs, "vfs = 0\n")?;
    let (mut creates, mut applies, mut again): (Vec<Run>, Vec<Run>, Vec<Run>) = Default::default();
    let (mut verifies, mut lists): (Vec<Run>, Vec<Run>) = Default::default();
    for number in 0..ROUNDS {
        creates.push(made(&pfs)?);
        none_left(&pfs)?;
        applies.push(timed(&["apply", ALL])?);
        every_on(&vfs(&pfs), Some("vfio-pci"), "vfio-pci")?;
        verifies.push(timed(&["verify", ALL])?);
        lists.push(timed(&["list"])?);
        again.push(timed(&["apply", ALL])?);
        if again[number].acting.is_some() {
            return Err(Stop::from("a second apply has acted".to_owned()));
        }
        none_left(&pfs)?;
        say(format_args!("bench: round {}: create {:?}, apply {:?}", number + 1, creates[number], applies[number]));
    }
    disable(&pfs)?;
    let acting = |runs: &[Run]| middle(runs.iter().map(|run| run.acting.unwrap_or(f64::NAN)));
    let whole = |runs: &[Run]| middle(runs.iter().map(|run| run.whole));
    let (create, apply) = (acting(&creates), acting(&applies));
    let (verify, list) = (whole(&verifies), whole(&lists));
    Ok(format!(
        "{} VFs of {} PFs from nothing to vfio-pci; medians of {ROUNDS} rounds\n\
         vfioadm apply, first write to last settle: {apply:.2} s, {:.2} times vfioadm create ({create:.2} s)\n\
         vfioadm apply, whole process: {:.2} s, {:.2} times vfioadm create ({:.2} s)\n\
         vfioadm apply once more, which writes nothing: {:.2} s\n\
         vfioadm verify: {verify:.2} s, {:.2} times vfioadm list ({list:.2} s)",
        pfs.len() * VFS,
        pfs.len(),
        apply / create,
        whole(&applies),
        whole(&applies) / whole(&creates),
        whole(&creates),
        whole(&again),
        verify / list,
    ))
}

fn none_left(pfs: &[Device]) -> Result<(), String> {
    timed(&["apply", "--yes", NONE])?;
    match pfs.iter().find(|pf| !pf.vfs().is_empty()) {
        None => Ok(()),
        Some(pf) => Err(format!("{pf} has kept {} VFs", pf.vfs().len())),
    }
}

/// A host file that says the same of every PF.
fn write(file: &str, pfs: &[Device], what: &str) -> Result<(), String> {
    let mut text = String::new();
    for pf in pfs {
        let id = |attribute: &str| pf.read(attribute).trim_start_matches("0x").to_owned();
        let (vendor, device) = (id("vendor"), id("device"));
        writeln!(text, "[[pf]]\nmatch = {{ id = \"{vendor}:{device}\", address = \"{pf}\" }}\n{what}")
            .map_err(|error| error.to_string())?;
    }
    fs::write(file, text).map_err(|error| format!("write {file}: {error}"))
}
