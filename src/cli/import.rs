//! `vfioadm import`: another tool's files, as a host file.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::args::want::ImportArgs;
use super::report::{Exit, Trouble};
use super::{Paint, Session, ignore_closed};
use crate::discover;
use crate::host::foreign::{self, ForeignError, ForeignFile};
use crate::host::path::Root;
use crate::host::{HostError, HostPath, Read, optional};
use crate::model::{DriverName, Errno, ModuleName, counted};
use crate::want::import::{Ground, Imported, Piece, Remark, Scope, Tool, read, settle};

/// Where a tool has its files.
enum Place {
    File(Root, &'static str),
    /// The files of a directory whose names end so.
    Files(Root, &'static str, &'static [&'static str]),
    /// The files of each directory in a directory.
    Below(Root, &'static str),
}

const fn places(tool: Tool) -> &'static [Place] {
    match tool {
        Tool::Driverctl => &[Place::Files(Root::Etc, "driverctl.d", &[""])],
        Tool::Mdevctl => &[Place::Below(Root::Etc, "mdevctl.d")],
        Tool::Libvirt => &[
            Place::Files(Root::Etc, "libvirt/qemu", &[".xml"]),
            Place::Files(Root::Etc, "libvirt/qemu/networks", &[".xml"]),
        ],
        Tool::SriovOperator => &[
            Place::File(Root::Etc, "sriov-operator/sriov-interface-config.yaml"),
            Place::Files(Root::Etc, "sriov-operator/pci", &[""]),
            Place::File(Root::Etc, "sriov-operator/infiniband/guids"),
            Place::File(Root::Etc, "sriov-operator/managed-ovs-bridges.json"),
        ],
        Tool::Nmstate => &[Place::Files(Root::Etc, "nmstate", &[".yml", ".yaml"])],
        Tool::AccelConfig => &[Place::File(Root::Etc, "accel-config/accel-config.conf")],
        Tool::Cmdline => &[
            Place::File(Root::Proc, "cmdline"),
            Place::Files(Root::Etc, "modprobe.d", &[".conf"]),
            Place::Files(Root::Run, "modprobe.d", &[".conf"]),
        ],
    }
}

impl Place {
    fn files(&self, host: &dyn Read) -> Result<Vec<ForeignFile>, HostError> {
        let mut found = Vec::new();
        match self {
            Self::File(root, rest) => one(host, &HostPath::fixed(*root, rest), &mut found)?,
            Self::Files(root, rest, endings) => {
                let directory = HostPath::fixed(*root, rest);
                for name in names(host, &directory)? {
                    let is_wanted = endings.iter().any(|ending| name.ends_with(ending)) && !name.starts_with('.');
                    if let (true, Some(path)) = (is_wanted, directory.entry(&name)) {
                        one(host, &path, &mut found)?;
                    }
                }
            }
            Self::Below(root, rest) => {
                let directory = HostPath::fixed(*root, rest);
                for path in names(host, &directory)?.iter().filter_map(|name| directory.entry(name)) {
                    for path in names(host, &path)?.iter().filter_map(|name| path.entry(name)) {
                        one(host, &path, &mut found)?;
                    }
                }
            }
        }
        Ok(found)
    }

    fn spelled(&self) -> String {
        let (Self::File(root, rest) | Self::Files(root, rest, _) | Self::Below(root, rest)) = self;
        HostPath::fixed(*root, rest).to_string()
    }
}

/// The names in a directory; none where it is not there, or is a file.
fn names(host: &dyn Read, directory: &HostPath) -> Result<Vec<String>, HostError> {
    let mut names = match optional(host.list(directory)) {
        Err(error) if error.errno == Errno::ENOTDIR => Vec::new(),
        other => other?.unwrap_or_default(),
    };
    names.sort();
    Ok(names)
}

/// A file, when it is one and is there.
fn one(host: &dyn Read, path: &HostPath, found: &mut Vec<ForeignFile>) -> Result<(), HostError> {
    let bytes = match optional(host.read(path)) {
        Err(error) if error.errno == Errno::EISDIR => None,
        other => other?,
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    found.extend(bytes.map(|bytes| ForeignFile { path: path.to_string(), text: text(bytes) }));
    Ok(())
}

/// Prints another tool's files as a host file. Nothing is changed and nothing is disabled.
pub(super) fn run(args: &ImportArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let (mut files, mut scope) = (Vec::new(), Scope::All);
    if args.paths.is_empty() {
        for place in places(args.tool) {
            files.extend(place.files(host)?);
        }
    } else {
        scope = Scope::Named;
        for path in &args.paths {
            files.extend(foreign::named(path)?);
        }
    }
    let mut inventory = discover::inventory(host)?;
    inventory.netdevs = discover::read_netdev_names(host, &mut inventory.warnings);
    session.warn(&inventory.warnings);
    let buses = names(host, &HostPath::fixed(Root::Sys, "bus"))?;
    let pieces: Vec<Piece<'_>> = files.iter().map(|file| Piece { path: &file.path, text: &file.text }).collect();
    let found = read(args.tool, &pieces, &buses);
    let drivers = drivers(host, &found.drivers())?;
    let imported = settle(args.tool, found, &Ground { inventory: &inventory, drivers: &drivers, scope });
    if session.json() {
        session.print_json(&json!({
            "schema": "vfioadm.import/1",
            "tool": args.tool.as_str(),
            "files": files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
            "host": imported.file,
            "left_out": remarks(&imported.left_out),
            "notes": remarks(&imported.notes),
            "rivals": imported.rivals.iter().map(|rival| json!({
                "what": rival.what, "does": rival.does, "command": rival.command,
            })).collect::<Vec<_>>(),
            "error": null,
        }));
    } else {
        session.print(format_args!("{}", imported.file.to_toml()));
        session.print_import(args.tool, &files, &imported);
    }
    Ok(Exit::Done)
}

fn remarks(all: &[Remark]) -> Vec<Value> {
    all.iter().map(|of| json!({ "place": of.place, "words": of.words, "remedy": of.remedy })).collect()
}

/// What is called so in a file, a driver or a module → the driver. What is not registered now is left out, but for vfio-pci itself.
fn drivers(host: &dyn Read, named: &BTreeSet<DriverName>) -> Result<BTreeMap<DriverName, DriverName>, HostError> {
    let registered = names(host, &HostPath::fixed(Root::Sys, "bus/pci/drivers"))?;
    let mut found = BTreeMap::new();
    for given in named {
        let same = |name: &&String| name.replace('_', "-") == given.as_str().replace('_', "-");
        let is_vfio_pci = given.as_str().replace('_', "-") == "vfio-pci";
        let driver = if registered.iter().any(|name| name == given.as_str()) {
            Some(given.as_str().to_owned())
        } else if let Some(of) = of_module(host, given)? {
            Some(of)
        } else {
            registered.iter().find(same).cloned().or_else(|| is_vfio_pci.then(|| String::from("vfio-pci")))
        };
        found.extend(driver.and_then(|driver| Some((given.clone(), driver.parse().ok()?))));
    }
    Ok(found)
}

/// `/sys/module/<module>/drivers/pci:<driver>`: the first.
fn of_module(host: &dyn Read, given: &DriverName) -> Result<Option<String>, HostError> {
    let Ok(module) = ModuleName::normalised(given.as_str()) else { return Ok(None) };
    let all = names(host, &HostPath::module(&module).attr("drivers"))?;
    Ok(all.iter().find_map(|name| name.strip_prefix("pci:")).map(str::to_owned))
}

impl Session<'_, '_> {
    /// What was left out, and what to disable: on standard error, so that standard output is the host file alone.
    fn print_import(&mut self, tool: Tool, files: &[ForeignFile], imported: &Imported) {
        if self.global.quiet {
            return;
        }
        if files.is_empty() {
            let all: Vec<String> = places(tool).iter().map(Place::spelled).collect();
            ignore_closed(writeln!(self.env.err, "no file of {tool} is at {}", all.join(", ")));
        }
        for remark in &imported.left_out {
            let label = self.painted(Paint::Yellow, "left out:");
            self.print_remark(&label, remark);
        }
        imported.notes.iter().for_each(|remark| self.print_remark("note:", remark));
        if !imported.rivals.is_empty() {
            let words = "would have the same devices; nothing of it is done by vfioadm";
            let count = counted(imported.rivals.len(), "thing");
            ignore_closed(writeln!(self.env.err, "to disable before the host file is applied, {count} that {words}:"));
        }
        for rival in &imported.rivals {
            let [what, does, command] = [&rival.what, &rival.does, &rival.command].map(|text| plain(text));
            ignore_closed(writeln!(self.env.err, "  {what}: {does}\n    {command}"));
        }
    }

    fn print_remark(&mut self, label: &str, remark: &Remark) {
        let remedy = remark.remedy.as_ref().map(|remedy| format!("\n    {}", plain(remedy))).unwrap_or_default();
        ignore_closed(writeln!(self.env.err, "{label} {}: {}{remedy}", plain(&remark.place), plain(&remark.words)));
    }
}

/// A text of somebody's, without what a terminal would take for orders.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl From<ForeignError> for Trouble {
    fn from(error: ForeignError) -> Self {
        Self::new(Exit::Usage, "bad-file", error)
            .state("as it was; nothing was tried")
            .remedy("name a file of the tool's, or a directory of them")
    }
}
