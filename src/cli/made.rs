//! What became of a `create` or `destroy`, as a person and as a program read it.

pub(super) mod beside;

use std::collections::BTreeMap;

use serde::Serialize;

use beside::Beside;
pub(super) use beside::trouble as trouble_beside;

use super::check::FindingRow;
use super::report::{Exit, Trouble};
use super::{Session, ignore_closed, not_made, taken, view};
use crate::check::{Finding, FindingId, refusals};
use crate::discover;
use crate::engine::{self, LaneResult, Report};
use crate::host::Host;
use crate::model::dsa::DsaName;
use crate::model::vf::VfAttributes;
use crate::model::{Bdf, Inventory, Mdev, Target};
use crate::step::Plan;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    Create,
    Destroy,
    Apply,
}

impl Does {
    /// The verb.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Destroy => "destroy",
            Self::Apply => "apply",
        }
    }

    /// What did not come to pass: an error's id, and words.
    pub(super) const fn not(self) -> (&'static str, &'static str) {
        match self {
            Self::Create => ("not-made", "was not made"),
            Self::Destroy => ("not-destroyed", "was not destroyed"),
            Self::Apply => ("not-applied", "was not brought to what the host file says"),
        }
    }
}

/// The object of docs/json.md.
#[derive(Serialize)]
pub(super) struct Outcome {
    schema: String,
    /// The operation's name in the journal; `None` when nothing was done.
    pub(super) operation: Option<String>,
    devices: Vec<Row>,
    findings: Vec<FindingRow>,
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
    /// What it was not set to, with --best-effort.
    skipped: Vec<String>,
    /// Lines for people.
    #[serde(skip)]
    words: Vec<String>,
}

/// What the PF's driver reports of a VF; `null` where it is silent.
#[derive(Serialize)]
pub(super) struct Parameters {
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
    /// Whether things were made or unmade.
    pub(super) does: Does,
    /// The host before.
    pub(super) inventory: &'a Inventory,
    /// What was wanted.
    pub(super) wanted: &'a Plan,
    /// What came of it.
    pub(super) report: &'a Report,
}

impl Outcome {
    /// What would be done.
    pub(super) fn of_plan(does: Does, changes: Vec<String>) -> Self {
        Self { changes, shows_changes: true, ..Self::new(does) }
    }

    /// That nothing is done, for `findings` that are not allowed stand in the way.
    pub(super) fn of_refusals(does: Does, findings: &[Finding], allow: &[FindingId]) -> Option<Self> {
        let mut refused = refusals(findings, allow).map(taken::trouble);
        let error = Some(refused.next()?);
        Some(Self { error, more_errors: refused.collect(), ..Self::new(does) })
    }

    /// The same, with what was found before.
    pub(super) fn with(self, findings: &[Finding]) -> Self {
        Self { findings: findings.iter().map(FindingRow::from).collect(), ..self }
    }

    fn new(does: Does) -> Self {
        Self {
            schema: format!("vfioadm.{}/1", does.as_str()),
            operation: None,
            devices: Vec::new(),
            findings: Vec::new(),
            lost: Vec::new(),
            changes: Vec::new(),
            host: "as_it_was",
            error: None,
            more_errors: Vec::new(),
            shows_changes: false,
        }
    }

    /// What was done.
    pub(super) fn of_report(made: &Made<'_>, host: &dyn Host) -> Self {
        let lanes = &made.report.lanes;
        let failed = made.report.interrupts > 0 || lanes.iter().any(|lane| lane.error.is_some());
        // What could not be taken back need not show in a driver.
        let changed = lanes.iter().any(|lane| lane.changed() || !lane.remains.is_empty())
            || (!failed && beside::changes_more(made.wanted));
        let exit = if changed { Exit::Changed } else { Exit::Failed };
        let mut outcome = Self::new(made.does);
        outcome.host = if changed { "changed" } else { "as_it_was" };
        outcome.lost = lanes.iter().flat_map(|lane| &lane.lost).cloned().collect();
        if failed {
            let mut troubles = not_made::troubles(made, exit);
            outcome.error = Some(troubles.remove(0));
            outcome.more_errors = troubles;
            return outcome;
        }
        let (attributes, mdevs) = (attributes_of(lanes, host), mdevs_of(lanes, host));
        let after = After { attributes, mdevs, beside: beside::After::read(made, host) };
        let rows = lanes.iter().filter_map(|lane| row(lane, made, &after, host));
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

fn row(lane: &LaneResult, made: &Made<'_>, after: &After, host: &dyn Host) -> Option<Row> {
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
        skipped: lane.skipped.clone(),
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
            let place = place.or_else(|| made.inventory.vf(pf, index).map(|vf| vf.bdf));
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
    row.words = words(&row, lane, made.does);
    if let (Target::Vf { pf, index }, Some(_)) = (lane.device, now) {
        after.beside.tell_port(&mut row.beside, &mut row.words, (pf, index));
    }
    after.beside.tell_vgpu(&mut row.beside, &mut row.words, &row.address);
    Some(row)
}

fn words(row: &Row, lane: &LaneResult, does: Does) -> Vec<String> {
    let what = match (&row.pf, row.vf_index) {
        (Some(pf), Some(index)) => format!("VF {index} of {pf}"),
        _ => String::from("mdev"),
    };
    if lane.now().is_none() {
        return vec![format!("{what}, destroyed")];
    }
    if does == Does::Destroy && row.driver.is_none() {
        return vec![format!("{what}, free again")];
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
    lines.extend(row.skipped.iter().map(|what| format!("skipped: {what}")));
    lines
}
