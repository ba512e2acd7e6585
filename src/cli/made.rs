//! What became of a `create` or `destroy`, as a person and as a program read it.

mod beside;

use std::collections::BTreeMap;

use serde::Serialize;

use beside::Beside;

use super::report::{Exit, Trouble};
use super::{Session, ignore_closed, view};
use crate::discover;
use crate::engine::{self, LaneResult, Report, StepError};
use crate::host::{Host, HostError, Verb};
use crate::model::dsa::DsaName;
use crate::model::vf::VfAttributes;
use crate::model::{Bdf, Errno, Inventory, Mdev, Target};
use crate::step::{Plan, Setting, Step};

/// The object of docs/json.md.
#[derive(Serialize)]
pub(super) struct Outcome {
    schema: String,
    /// The operation's name in the journal; `None` when nothing was done.
    pub(super) operation: Option<String>,
    devices: Vec<Row>,
    lost: Vec<String>,
    /// Each change as a line that root could paste; of a dry run, those that would be made.
    pub(super) changes: Vec<String>,
    host: &'static str,
    error: Option<Trouble>,
    #[serde(skip)]
    more_errors: Vec<Trouble>,
    #[serde(skip)]
    shows_changes: bool,
}

/// A device that was made, or unmade, as it is now.
#[derive(Serialize)]
struct Row {
    address: String,
    pf: Option<String>,
    vf_index: Option<u16>,
    uuid: Option<String>,
    parameters: Option<Parameters>,
    driver: Option<String>,
    node: Option<String>,
    cdev: Option<String>,
    #[serde(flatten)]
    beside: Beside,
    /// Lines for people.
    #[serde(skip)]
    words: Vec<String>,
}

/// What the PF's driver reports of a VF; `null` where it is silent.
#[derive(Serialize)]
struct Parameters {
    mac: Option<String>,
    vlan: Option<u16>,
    qos: Option<u8>,
    proto: Option<String>,
    min_rate: Option<u32>,
    max_rate: Option<u32>,
    spoofchk: Option<bool>,
    trust: Option<bool>,
    link_state: Option<String>,
    node_guid: Option<String>,
    port_guid: Option<String>,
}

impl From<&VfAttributes> for Parameters {
    fn from(of: &VfAttributes) -> Self {
        Self {
            mac: of.mac.map(|mac| mac.to_string()),
            vlan: of.vlan.map(|vlan| vlan.id()),
            qos: of.vlan.map(|vlan| vlan.qos()),
            proto: of.vlan.map(|vlan| vlan.proto().to_string()),
            min_rate: of.min_tx_rate_mbps,
            max_rate: of.max_tx_rate_mbps,
            spoofchk: of.spoofchk.map(|switch| switch.is_on()),
            trust: of.trust.map(|switch| switch.is_on()),
            link_state: of.link_state.map(|state| state.to_string()),
            node_guid: of.node_guid.map(|guid| guid.to_string()),
            port_guid: of.port_guid.map(|guid| guid.to_string()),
        }
    }
}

/// What was wanted, and what came of it.
pub(super) struct Made<'a> {
    /// The host before.
    pub(super) inventory: &'a Inventory,
    /// What was wanted.
    pub(super) wanted: &'a Plan,
    /// What came of it.
    pub(super) report: &'a Report,
}

impl Outcome {
    /// What would be done.
    pub(super) fn of_plan(verb: &str, changes: Vec<String>) -> Self {
        Self { changes, shows_changes: true, ..Self::new(verb) }
    }

    fn new(verb: &str) -> Self {
        Self {
            schema: format!("vfioadm.{verb}/1"),
            operation: None,
            devices: Vec::new(),
            lost: Vec::new(),
            changes: Vec::new(),
            host: "as_it_was",
            error: None,
            more_errors: Vec::new(),
            shows_changes: false,
        }
    }

    /// What was done.
    pub(super) fn of_report(verb: &str, made: &Made<'_>, host: &dyn Host) -> Self {
        let lanes = &made.report.lanes;
        let failed = made.report.interrupts > 0 || lanes.iter().any(|lane| lane.error.is_some());
        // What could not be taken back need not show in a driver.
        let changed = lanes.iter().any(|lane| lane.changed() || !lane.remains.is_empty())
            || (!failed && beside::changes_more(made.wanted));
        let exit = if changed { Exit::Changed } else { Exit::Failed };
        let mut outcome = Self::new(verb);
        outcome.host = if changed { "changed" } else { "as_it_was" };
        outcome.lost = lanes.iter().flat_map(|lane| &lane.lost).cloned().collect();
        if failed {
            let mut troubles = troubles(made, exit);
            outcome.error = Some(troubles.remove(0));
            outcome.more_errors = troubles;
            return outcome;
        }
        let (attributes, mdevs) = (attributes_of(lanes, host), mdevs_of(lanes, host));
        let after = After { attributes, mdevs, beside: beside::After::read(made, host) };
        let rows = lanes.iter().filter_map(|lane| row(lane, made.inventory, &after, host));
        outcome.devices = rows.collect();
        outcome
    }

    /// A recorded host that could not be written back is as it was, whatever was done to its copy in memory.
    pub(super) fn not_saved(&mut self, trouble: Trouble) {
        self.devices.clear();
        self.host = "as_it_was";
        self.error = Some(trouble);
    }

    /// Prints it, and says how the command ends.
    pub(super) fn print(&self, session: &mut Session<'_, '_>) -> Exit {
        if session.json() {
            session.print_json(self);
        } else if self.shows_changes {
            self.changes.iter().for_each(|line| session.print(format_args!("{line}\n")));
        } else {
            for row in &self.devices {
                row.words.iter().for_each(|line| session.print(format_args!("{}: {line}\n", row.address)));
            }
            self.lost.iter().for_each(|lost| session.print(format_args!("lost: {lost}\n")));
        }
        let all = self.error.iter().chain(&self.more_errors);
        all.for_each(|trouble| session.print_trouble(trouble));
        let exit = self.error.as_ref().map_or(Exit::Done, |trouble| trouble.exit);
        if let (Exit::Changed, Some(operation)) = (exit, &self.operation) {
            ignore_closed(writeln!(session.env.err, "take it all back with: vfioadm undo {operation}"));
        }
        exit
    }
}

/// What the PFs' drivers report now: one request for each PF.
fn attributes_of(lanes: &[LaneResult], host: &dyn Host) -> BTreeMap<(Bdf, u16), VfAttributes> {
    let mut all = BTreeMap::new();
    let pfs: std::collections::BTreeSet<Bdf> = lanes.iter().filter_map(|lane| pf_of(lane.device)).collect();
    for pf in pfs {
        // What cannot be read is not shown.
        all.extend(discover::vf_attributes(host, pf).unwrap_or_default());
    }
    all
}

const fn pf_of(target: Target) -> Option<Bdf> {
    match target {
        Target::Vf { pf, .. } => Some(pf),
        _ => None,
    }
}

/// What was read when all was done.
struct After {
    attributes: BTreeMap<(Bdf, u16), VfAttributes>,
    mdevs: Vec<Mdev>,
    beside: beside::After,
}

/// The mdevs that there are now, read once and only where some were made.
fn mdevs_of(lanes: &[LaneResult], host: &dyn Host) -> Vec<Mdev> {
    if !lanes.iter().any(|lane| matches!(lane.device, Target::Mdev(_)) && lane.now().is_some()) {
        return Vec::new();
    }
    discover::inventory(host).map(|inventory| inventory.mdevs).unwrap_or_default()
}

fn row(lane: &LaneResult, before: &Inventory, after: &After, host: &dyn Host) -> Option<Row> {
    let now = lane.now();
    let driver = now.and_then(|now| now.driver.as_ref()).map(ToString::to_string);
    let mut row = Row {
        address: lane.device.to_string(),
        pf: None,
        vf_index: None,
        uuid: None,
        parameters: None,
        driver,
        node: None,
        cdev: None,
        beside: Beside::default(),
        words: Vec::new(),
    };
    match lane.device {
        Target::Dsa(name @ DsaName::Queue(..)) => {
            (row.beside, row.words) = after.beside.queue(name);
            row.node = row.beside.wq.as_ref().and_then(|queue| queue.node.clone());
            return Some(row);
        }
        Target::Sf { pf, sfnum } => {
            row.pf = Some(pf.to_string());
            (row.beside, row.words) = after.beside.subfunction(pf, sfnum);
            return Some(row);
        }
        Target::Pci(_) | Target::Dsa(_) => return None,
        Target::Vf { pf, index } => {
            row.pf = Some(pf.to_string());
            row.vf_index = Some(index);
            let place = engine::place(host, lane.device).ok().flatten();
            row.parameters = place.and_then(|_| after.attributes.get(&(pf, index))).map(Parameters::from);
            let place = place.or_else(|| before.vf(pf, index).map(|vf| vf.bdf));
            let bdf = place?;
            row.address = bdf.to_string();
            if now.is_some() {
                (row.node, row.cdev) = view::nodes(host, bdf);
            }
        }
        Target::Mdev(uuid) => {
            row.uuid = Some(uuid.to_string());
            let mdev = after.mdevs.iter().find(|mdev| mdev.uuid == uuid);
            row.node = mdev.and_then(|mdev| mdev.group).map(|group| format!("/dev/vfio/{group}"));
            row.cdev = mdev.and_then(|mdev| mdev.cdev.as_ref()).map(|cdev| format!("/dev/vfio/devices/{cdev}"));
        }
    }
    row.words = words(&row, lane);
    if let (Target::Vf { pf, index }, Some(_)) = (lane.device, now) {
        after.beside.tell_port(&mut row.beside, &mut row.words, (pf, index));
    }
    after.beside.tell_vgpu(&mut row.beside, &mut row.words, &row.address);
    Some(row)
}

fn words(row: &Row, lane: &LaneResult) -> Vec<String> {
    let what = match (&row.pf, row.vf_index) {
        (Some(pf), Some(index)) => format!("VF {index} of {pf}"),
        _ => String::from("mdev"),
    };
    if lane.now().is_none() {
        return vec![format!("{what}, destroyed")];
    }
    let nodes = view::node_words((row.node.as_deref(), row.cdev.as_deref()));
    let mut lines: Vec<String> = lane
        .tried
        .iter()
        .filter_map(|tried| Some((tried, tried.error.as_ref()?)))
        .map(|(tried, error)| format!("{} refused it ({})", tried.driver, error.errno()))
        .collect();
    lines.push(match &row.driver {
        Some(driver) => format!("{what}, bound to {driver}{nodes}"),
        None => format!("{what}, no driver{nodes}"),
    });
    let set = |of: &Parameters| {
        let mac = of.mac.as_ref().filter(|mac| *mac != "00:00:00:00:00:00").map(|mac| format!("mac {mac}"));
        let vlan = of.vlan.filter(|vlan| *vlan > 0).map(|vlan| format!("vlan {vlan}"));
        let rate = of.max_rate.filter(|rate| *rate > 0).map(|rate| format!("max-rate {rate}"));
        let trust = of.trust.filter(|on| *on).map(|_| String::from("trusted"));
        let all: Vec<String> = [mac, vlan, rate, trust].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join(", "))
    };
    lines.extend(row.parameters.as_ref().and_then(set));
    lines
}

/// Why it did not come to what was asked, first the cause: the lanes that failed by themselves.
fn troubles(made: &Made<'_>, exit: Exit) -> Vec<Trouble> {
    let lanes = &made.report.lanes;
    let undone: usize = lanes.iter().map(|lane| lane.undone).sum();
    let remains: Vec<&str> = lanes.iter().flat_map(|lane| &lane.remains).map(String::as_str).collect();
    let state = match exit {
        Exit::Changed if remains.is_empty() => format!("not as it was; {undone} steps undone"),
        Exit::Changed => format!("not as it was; could not be undone: {}", remains.join("; ")),
        _ => format!("as it was; {undone} steps undone"),
    };
    let mut found = Vec::new();
    if made.report.interrupts > 0 {
        let trouble = Trouble::new(exit, "interrupted", "stopped because it was asked to").state(&state);
        found.push(trouble.remedy(match exit {
            Exit::Changed => "vfioadm undo takes back what remains",
            _ => "ask for it again when it suits",
        }));
    }
    for lane in lanes {
        match &lane.error {
            None | Some(StepError::TakenBack(_) | StepError::NotTried(_) | StepError::Interrupted) => {}
            Some(error) => found.push(trouble(made, lane, error, exit).state(&state)),
        }
    }
    if found.is_empty() {
        found.push(Trouble::new(exit, "not-made", "it was not made").state(&state));
    }
    found
}

/// The step that a lane met its error at cannot be told from the report; what it was for can, from what it answers.
fn trouble(made: &Made<'_>, lane: &LaneResult, error: &StepError, exit: Exit) -> Trouble {
    let device = lane.device;
    if let Some((id, message, remedy)) = beside::trouble(made, lane, error) {
        return Trouble::new(exit, id, message).step(error).remedy(remedy);
    }
    let refused = lane.tried.iter().rfind(|tried| tried.error.is_some());
    let (id, message, remedy) = match (error, device) {
        (StepError::Open(bdf), _) => (
            "device-open",
            format!("{bdf} is open, and taking it away would wait for whoever has it open"),
            format!("see who: vfioadm show {bdf}; end the VM or program, and ask again"),
        ),
        (StepError::NotSettled { shown, wanted, .. }, Target::Pci(pf)) => (
            "fewer-vfs",
            format!("{pf} made {shown} where {wanted} were asked for"),
            format!("ask for fewer; the driver's own reason is in the kernel log: dmesg | grep {pf}"),
        ),
        (StepError::Host(HostError { verb: Verb::Request(_), value, errno, .. }), _) => (
            "parameter-refused",
            format!("{device} does not take {}: {}", parameter(value.as_deref()), parameter_words(*errno)),
            String::from("leave it out of --set, or correct its value"),
        ),
        (StepError::Host(HostError { errno, .. }), Target::Pci(pf)) => {
            ("not-made", format!("{pf} made no VFs: {}", numvfs_words(*errno)), format!("see vfioadm show {pf}"))
        }
        (StepError::Host(HostError { errno, .. }), Target::Mdev(uuid)) => (
            if matches!(*errno, Errno::EUSERS | Errno::ENOSPC) { "none-left" } else { "not-made" },
            format!("mdev {uuid} was not made: {}", mdev_words(*errno)),
            String::from("see what can be made: vfioadm types"),
        ),
        (StepError::NotRecorded(_), _) => (
            "no-journal",
            format!("{device} was not made, for nothing is done that cannot be written down first"),
            String::from("make room for the journal"),
        ),
        _ if refused.is_some() => (
            "driver-refused",
            format!("{device} did not bind to {}", refused.map_or("", |tried| tried.driver.as_str())),
            format!("the driver's own reason is in the kernel log: dmesg | grep {}", place_words(made, device)),
        ),
        _ => ("not-made", format!("{device} did not come to be as wanted"), String::from("see vfioadm log")),
    };
    Trouble::new(exit, id, message).step(error).remedy(remedy)
}

/// How a kernel log names it.
fn place_words(made: &Made<'_>, device: Target) -> String {
    let is_made = made.wanted.steps().any(|step| matches!(step, Step::Set { to: Setting::Vfs(1..), .. }));
    match device {
        Target::Vf { pf, .. } if is_made => pf.to_string(),
        _ => made.inventory.place(device).map_or_else(|| device.to_string(), |bdf| bdf.to_string()),
    }
}

fn parameter(value: Option<&str>) -> &str {
    value.unwrap_or("what was set")
}

/// # Kernel
/// `net/core/rtnetlink.c` `do_setvfinfo()`: `EOPNOTSUPP` without the driver's operation (7.2).
fn parameter_words(errno: Errno) -> String {
    match errno {
        Errno::EOPNOTSUPP => String::from("the PF's driver cannot set it"),
        Errno::EINVAL => String::from("the PF's driver takes no such value, or not now"),
        other => other.to_string(),
    }
}

/// # Kernel
/// `drivers/pci/iov.c` `sriov_numvfs_store()`, `sriov_enable()` (7.2).
fn numvfs_words(errno: Errno) -> String {
    match errno {
        Errno::ENOENT => String::from("its driver makes none"),
        Errno::ERANGE => String::from("more than its sriov_totalvfs"),
        Errno::EBUSY => String::from("it has another number of them already"),
        Errno::ENOMEM => String::from("no memory window or bus number is left for them"),
        other => other.to_string(),
    }
}

/// # Kernel
/// `drivers/vfio/mdev/mdev_core.c` `mdev_device_create()` (7.2).
fn mdev_words(errno: Errno) -> String {
    match errno {
        Errno::EUSERS | Errno::ENOSPC => String::from("none of its type is left"),
        Errno::EEXIST => String::from("there is one of this UUID already"),
        Errno::EINVAL => String::from("its parent's driver does not take it"),
        Errno::ENODEV => String::from("its parent is going away"),
        other => other.to_string(),
    }
}
