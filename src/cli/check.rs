//! `vfioadm check`

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::args::CheckArgs;
use super::past::Seen;
use super::report::{Exit, Trouble};
use super::{Session, in_use, open, probe};
use crate::check::{self, Finding, FindingId, Picture, Purpose, Severity, Unfinished};
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::discover::{self, Holders, Usage, close_up};
use crate::host::Host;
use crate::matching::{self, DriverTable, Tables};
use crate::model::isolation::Isolation;
use crate::model::pci::CloseUp;
use crate::model::{Address, Bdf, Inventory, ModAlias, PciFunction, Target, Warning};
use crate::plan::{PlanError, Wanted};

#[derive(Serialize)]
struct Checked {
    schema: &'static str,
    findings: Vec<FindingRow>,
    error: Option<Trouble>,
}

/// A finding as printed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FindingRow {
    id: &'static str,
    severity: &'static str,
    device: Option<String>,
    message: String,
    remedy: String,
}

impl FindingRow {
    /// Whether it is more than a note.
    pub(super) fn is_serious(&self) -> bool {
        self.severity != Severity::Note.as_str()
    }

    /// Two lines for people.
    pub(super) fn words(&self) -> String {
        format!("{:<6}  {}: {}\n        {}", self.severity, self.id, self.message, self.remedy)
    }
}

impl From<&Finding> for FindingRow {
    fn from(finding: &Finding) -> Self {
        Self {
            id: finding.id.as_str(),
            severity: finding.severity().as_str(),
            device: finding.device.as_ref().map(ToString::to_string),
            message: finding.message.clone(),
            remedy: finding.remedy.clone(),
        }
    }
}

pub(super) fn run(args: &CheckArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let (inventory, addresses) = session.resolve(host, &args.devices)?;
    let (others, functions): (Vec<Address>, Vec<Address>) = addresses
        .into_iter()
        .partition(|address| matches!(address, Address::Mdev(_) | Address::Wq(_) | Address::Sf { .. }));
    others.iter().try_for_each(|address| open::is_active(address, &inventory))?;
    let mut devices = open::pci_only(&functions, "check")?;
    // All together would hide what each alone meets, and opening every group would be in the way of VMs that start.
    let all = args.devices.is_empty();
    if all {
        let givable = |function: &&PciFunction| !function.class().is_bridge() && !function.class().is_chipset();
        devices = inventory.functions.values().filter(givable).map(|function| function.bdf).collect();
    }
    let together = match (all, args.with_group) {
        (true, _) => BTreeSet::new(),
        (false, true) => with_groups(&inventory, &devices),
        (false, false) => devices.iter().copied().collect(),
    };
    // As `bind` does: what is bound together is judged together.
    devices.extend(together.iter().filter(|bdf| !devices.contains(bdf)).copied().collect::<Vec<_>>());
    let mut warnings = Vec::new();
    let tables = match &args.driver {
        Wanted::Named(driver) => {
            let functions = devices.iter().filter_map(|bdf| inventory.functions.get(bdf));
            let aliases: Vec<ModAlias> = functions.map(|function| function.alias).collect();
            let drivers = std::slice::from_ref(driver);
            let (tables, more) = read_tables(host, &Query { devices: &aliases, drivers, kernel: Kernel::Running });
            warnings = more;
            tables
        }
        _ => Tables::default(),
    };
    let purposes = purposes(&inventory, &devices, &args.driver, &tables);
    for (_, purpose) in &purposes {
        if let Purpose::Named(wrong, DriverTable::NoSuchDriver { nearest }) = purpose {
            return Err(PlanError::NoSuchDriver { wrong: wrong.clone(), nearest: nearest.clone() }.into());
        }
    }
    let unfinished = session.left_halfway(&opened, Seen::InPassing);
    let judged = Judged {
        inventory: &inventory,
        purposes: &purposes,
        together: &together,
        unfinished: &unfinished,
        probe: !all,
    };
    let mut found = if devices.is_empty() { Vec::new() } else { judged.findings(host, &mut warnings) };
    found.extend(of_other_buses(host, &inventory, &others, &mut warnings));
    if args.probe {
        probe::warn_of_opening(session);
        found.extend(degraded(host, &inventory, &devices));
    }
    session.warn(&warnings);
    let rows: Vec<FindingRow> = found.iter().map(FindingRow::from).collect();
    if session.json() {
        session.print_json(&Checked { schema: "vfioadm.check/1", findings: rows, error: None });
    } else if rows.is_empty() {
        session.print(format_args!("nothing stands in the way\n"));
    } else {
        for row in &rows {
            session.print(format_args!("{}\n", row.words()));
        }
    }
    let serious = found.iter().any(|finding| finding.severity() >= Severity::Warn);
    Ok(if serious { Exit::Found } else { Exit::Done })
}

/// Those on a variant driver that say themselves that they do not migrate.
fn degraded(host: &dyn Host, inventory: &Inventory, devices: &[Bdf]) -> Vec<Finding> {
    let on_variant = |function: &&PciFunction| {
        function.is_vfio() && function.driver.as_ref().is_some_and(|driver| driver.as_str() != "vfio-pci")
    };
    let functions: Vec<&PciFunction> =
        devices.iter().filter_map(|bdf| inventory.functions.get(bdf)).filter(on_variant).collect();
    let addresses: Vec<Address> = functions.iter().map(|function| function.bdf.into()).collect();
    let probed = probe::migrations(host, inventory, &addresses);
    let plain = functions
        .into_iter()
        .zip(probed)
        .filter(|(_, probed)| probed.as_ref().is_some_and(|probed| probed.migrates == Some(false)));
    plain.map(|(function, _)| check::degraded(function)).collect()
}

/// What is found of mdevs, WQs and subfunctions.
fn of_other_buses(
    host: &dyn Host,
    inventory: &Inventory,
    others: &[Address],
    warnings: &mut Vec<Warning>,
) -> Vec<Finding> {
    if others.is_empty() {
        return Vec::new();
    }
    let holders = Holders::read(host, inventory, &others.iter().cloned().collect());
    warnings.extend(in_use::unseen(&holders));
    let found = others.iter().map(|address| match address {
        Address::Mdev(uuid) => {
            let mdev = inventory.mdevs.iter().find(|mdev| mdev.uuid == *uuid);
            mdev.map(|mdev| check::mdev(mdev, holders.of(address))).unwrap_or_default()
        }
        Address::Wq(name) => {
            let queue = inventory.work_queue(name.as_str());
            queue.map(|(device, queue)| check::work_queue(device, queue)).unwrap_or_default()
        }
        Address::Sf { .. } => inventory.subfunction(address).map(check::subfunction).unwrap_or_default(),
        _ => Vec::new(),
    });
    found.flatten().collect()
}

/// What each device is to be checked for.
pub(super) fn purposes(
    inventory: &Inventory,
    devices: &[Bdf],
    wanted: &Wanted,
    tables: &Tables,
) -> Vec<(Bdf, Purpose)> {
    let functions = devices.iter().filter_map(|bdf| inventory.functions.get(bdf));
    let purpose = |function: &PciFunction| match wanted {
        Wanted::Best => Purpose::Vfio,
        Wanted::Host => Purpose::Host,
        Wanted::None => Purpose::None,
        Wanted::Named(driver) => Purpose::Named(driver.clone(), matching::table_of(driver, &function.alias, tables)),
    };
    functions.map(|function| (function.bdf, purpose(function))).collect()
}

impl Session<'_, '_> {
    /// Says what is likely to hurt later, and goes on.
    pub(super) fn warn_of(&mut self, findings: &[Finding]) {
        let warnings: Vec<Warning> = findings
            .iter()
            .filter(|finding| finding.severity() == Severity::Warn)
            // An override that is about to be rewritten is no news.
            .filter(|finding| finding.id != FindingId::OverrideLeft)
            .map(|finding| Warning::new(finding.id, format!("{}; {}", finding.message, finding.remedy)))
            .collect();
        self.warn(&warnings);
    }
}

/// Devices to be judged.
pub(super) struct Judged<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) purposes: &'a [(Bdf, Purpose)],
    /// Those that go to VFIO together.
    pub(super) together: &'a BTreeSet<Bdf>,
    /// Those that an operation left halfway.
    pub(super) unfinished: &'a BTreeMap<Target, Unfinished>,
    /// Whether to open the group of a VFIO device for a moment when nothing else tells whether somebody has it.
    pub(super) probe: bool,
}

impl Judged<'_> {
    /// Looks at each device closely and judges it.
    pub(super) fn findings(&self, host: &dyn Host, warnings: &mut Vec<Warning>) -> Vec<Finding> {
        let inventory = self.inventory;
        let usage = Usage::read(host, warnings);
        let devices = || self.purposes.iter().filter_map(|(bdf, _)| inventory.functions.get(bdf));
        let close_ups: BTreeMap<Bdf, CloseUp> =
            devices().map(|function| (function.bdf, close_up(host, function.bdf, &usage, warnings))).collect();
        let in_use = in_use::gather(host, self, warnings);
        let strangers = devices()
            .filter_map(|function| Some((function.bdf, discover::strangers(host, function.group?, inventory))))
            .filter(|(_, names)| !names.is_empty())
            .collect();
        let rules = discover::rules(host, warnings);
        // As bridges are: each answer waits for a lock that is everybody's.
        let asked = devices().map(|function| function.bdf).filter(|_| self.probe);
        let vfs = discover::vf_facts(host, inventory, asked, warnings);
        let picture = Picture {
            inventory,
            close_ups: &close_ups,
            together: self.together,
            in_use: &in_use,
            strangers: &strangers,
            rules: &rules,
            unfinished: self.unfinished,
            vfs: &vfs,
        };
        let judged = self.purposes.iter().filter_map(|(bdf, purpose)| Some((inventory.functions.get(bdf)?, purpose)));
        let mut found: Vec<Finding> = Vec::new();
        for finding in judged.flat_map(|(function, purpose)| check::device(picture, function, purpose)) {
            // What is found of the host is found once.
            if finding.device.is_some() || !found.contains(&finding) {
                found.push(finding);
            }
        }
        // Bridges are read for devices that were named, never for a survey.
        let mut ports = discover::Ports::of(host);
        for finding in found.iter_mut().filter(|_| self.probe) {
            let isolation = finding.wants_isolation_of().and_then(|bdf| ports.explain(inventory, bdf));
            // That nothing is known is for `show` to say.
            if let Some(isolation) = isolation.filter(Isolation::is_known) {
                finding.explain(&isolation);
            }
        }
        found
    }
}

/// The devices and all other endpoints of their groups.
pub(super) fn with_groups(inventory: &Inventory, devices: &[Bdf]) -> BTreeSet<Bdf> {
    let mut all: BTreeSet<Bdf> = devices.iter().copied().collect();
    for bdf in devices {
        let endpoints = inventory.group_siblings(*bdf).filter(|member| !member.class().is_bridge());
        all.extend(endpoints.map(|member| member.bdf));
    }
    all
}
