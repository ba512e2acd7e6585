//! `vfioadm boot`: the files that apply the host file at every boot, installed, removed, looked at.

mod placed;

use std::collections::BTreeSet;
use std::path::Path;

use placed::{Placed, place};
use serde::Serialize;

use super::Session;
use super::args::want::{BootAct, BootArgs, BootFiles};
use super::report::{Exit, Trouble};
use crate::discover;
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::host::config;
use crate::matching::{candidates, host_candidates};
use crate::model::{ModAlias, ModuleName, PciId};
use crate::want::boot::{Boot, Initramfs, Installed, ids};
use crate::want::{Source, read};

/// The object of docs/json.md.
#[derive(Serialize)]
struct Told {
    schema: &'static str,
    files: Vec<Row>,
    /// What is to be run for it to hold.
    next: Vec<&'static str>,
    error: Option<Trouble>,
}

#[derive(Serialize)]
struct Row {
    path: String,
    /// `installed`, `removed`, `present`, `missing`, `differs`, `not_ours`.
    state: &'static str,
}

pub(super) fn run(args: &BootArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    if !session.is_live() {
        return Err(Trouble::new(Exit::Usage, "bad-host", "boot is of the machine that vfioadm runs on")
            .remedy("leave --host out; --root names a system beside the running one"));
    }
    match &args.act {
        BootAct::Install(files) => install(files, session),
        BootAct::Remove(files) => remove(files, session),
        BootAct::Status(files) => status(files, session),
    }
}

fn install(args: &BootFiles, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let files = wanted(args, session)?;
    // Looked at before the first is written.
    for file in &files {
        if placed::placed(&args.root, file)? == Placed::Others {
            let path = place(&args.root, file);
            let message = format!("{} is there, and vfioadm has not made it", path.display());
            return Err(Trouble::new(Exit::Failed, "not-ours", message)
                .state("as it was; nothing was written")
                .remedy("see whose it is; move it away, and install again"));
        }
    }
    let mut rows = Vec::new();
    for file in &files {
        let state = match placed::placed(&args.root, file)? {
            Placed::Same => "present",
            _ => {
                placed::put(&args.root, file)?;
                "installed"
            }
        };
        rows.push(Row { path: place(&args.root, file).display().to_string(), state });
    }
    Ok(tell(rows, next(&args.root, &files), session))
}

fn remove(args: &BootFiles, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let boot = Boot { program: "", ids: BTreeSet::new(), softdeps: BTreeSet::new(), initramfs: every_initramfs() };
    let files = boot.files();
    let mut rows = Vec::new();
    for file in files.iter().rev() {
        let state = match placed::placed(&args.root, file)? {
            Placed::Missing => "missing",
            Placed::Others => "not_ours",
            Placed::Same | Placed::Differs => {
                placed::take_away(&args.root, file)?;
                "removed"
            }
        };
        rows.push(Row { path: place(&args.root, file).display().to_string(), state });
    }
    let gone: Vec<Installed> = files
        .into_iter()
        .zip(rows.iter().rev())
        .filter(|(_, row)| row.state == "removed")
        .map(|(file, _)| file)
        .collect();
    let next = next(&args.root, &gone);
    rows.retain(|row| row.state != "missing");
    Ok(tell(rows, next, session))
}

fn status(args: &BootFiles, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let files = wanted(args, session)?;
    let mut rows = Vec::new();
    for file in &files {
        let state = match placed::placed(&args.root, file)? {
            Placed::Same => "present",
            Placed::Missing => "missing",
            Placed::Differs => "differs",
            Placed::Others => "not_ours",
        };
        rows.push(Row { path: place(&args.root, file).display().to_string(), state });
    }
    let good = rows.iter().all(|row| row.state == "present");
    let next = if good { Vec::new() } else { vec!["vfioadm boot install"] };
    tell(rows, next, session);
    Ok(if good { Exit::Done } else { Exit::Found })
}

fn tell(files: Vec<Row>, next: Vec<&'static str>, session: &mut Session<'_, '_>) -> Exit {
    if session.json() {
        session.print_json(&Told { schema: "vfioadm.boot/1", files, next, error: None });
        return Exit::Done;
    }
    for row in &files {
        session.print(format_args!("{:<9}  {}\n", row.state.replace('_', " "), row.path));
    }
    if files.is_empty() {
        session.print(format_args!("nothing is installed\n"));
    }
    if !next.is_empty() {
        session.print(format_args!("next: {}\n", next.join("; ")));
    }
    Exit::Done
}

fn every_initramfs() -> BTreeSet<Initramfs> {
    [Initramfs::InitramfsTools, Initramfs::Dracut].into()
}

/// What makes what was written hold, and vfioadm does not do: each of them is another program's.
fn next(root: &Path, files: &[Installed]) -> Vec<&'static str> {
    if root != Path::new("/") {
        return Vec::new();
    }
    let has = |part: &str| files.iter().any(|file| file.path.starts_with(part));
    let all = [
        ("systemctl daemon-reload", has("etc/systemd")),
        ("udevadm control --reload", has("etc/udev")),
        ("update-initramfs -u", has("etc/initramfs-tools")),
        ("dracut -f", has("usr/lib/dracut")),
    ];
    all.into_iter().filter(|(_, needed)| *needed).map(|(command, _)| command).collect()
}

/// The files as the host file and the machine of today have them.
fn wanted(args: &BootFiles, session: &mut Session<'_, '_>) -> Result<Vec<Installed>, Trouble> {
    let texts = config::below(&args.root.join("etc"))?;
    let sources: Vec<Source<'_>> = texts.iter().map(|text| Source { name: &text.name, text: &text.text }).collect();
    let wish = read(&sources).map_err(|mistakes| super::want::mistaken(&mistakes, session))?;
    let (ids, vfio) = ids(&wish);
    let program = placed::this_program()?;
    let softdeps = softdeps(&vfio, session)?;
    let initramfs = every_initramfs().into_iter().filter(|kind| placed::has(&args.root, *kind)).collect();
    let boot = Boot { program: &program, ids, softdeps, initramfs };
    Ok(boot.files())
}

/// The host modules of the functions with these ids, each with the module of the VFIO driver that is best.
fn softdeps(
    ids: &BTreeSet<PciId>,
    session: &mut Session<'_, '_>,
) -> Result<BTreeSet<(ModuleName, ModuleName)>, Trouble> {
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let opened = session.open(None)?;
    let inventory = discover::inventory(opened.host())?;
    let functions = inventory.functions.values().filter(|function| ids.contains(&PciId::of(&function.alias)));
    let aliases: Vec<ModAlias> = functions.map(|function| function.alias).collect();
    if aliases.is_empty() {
        return Ok(BTreeSet::new());
    }
    let query = Query { devices: &aliases, drivers: &[], kernel: Kernel::Running };
    let (tables, warnings) = read_tables(opened.host(), &query);
    session.warn(&warnings);
    let mut all = BTreeSet::new();
    for alias in &aliases {
        let Some(best) = candidates(alias, &tables).into_iter().find_map(|candidate| candidate.module) else {
            continue;
        };
        let hosts = host_candidates(alias, &tables).into_iter().map(|host| host.module);
        all.extend(hosts.filter(|host| *host != best).map(|host| (host, best.clone())));
    }
    Ok(all)
}
