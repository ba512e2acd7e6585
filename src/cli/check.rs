//! `vfioadm check`

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::args::CheckArgs;
use super::report::{Exit, Trouble};
use super::{Session, open};
use crate::check::{self, Finding, Picture, Purpose, Severity};
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::discover::{Usage, close_up};
use crate::host::{Host, Probe};
use crate::matching;
use crate::model::pci::CloseUp;
use crate::model::{Bdf, Inventory, ModAlias, PciFunction, Warning};
use crate::plan::Wanted;

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
    let mut devices = open::pci_only(&addresses, "check")?;
    if args.devices.is_empty() {
        let givable = |function: &&PciFunction| !function.class().is_bridge() && !function.class().is_chipset();
        devices = inventory.functions.values().filter(givable).map(|function| function.bdf).collect();
    }
    let mut warnings = inventory.warnings.clone();
    let (purposes, more) = purposes(host, &inventory, &devices, &args.driver);
    warnings.extend(more);
    let together = if args.with_group { with_groups(&inventory, &devices) } else { devices.iter().copied().collect() };
    // Without devices each is judged alone: that all of them could be given away together helps nobody.
    let alone = args.devices.is_empty().then(BTreeSet::new);
    let found = findings(host, &inventory, &purposes, alone.as_ref().unwrap_or(&together), &mut warnings);
    session.warn(&warnings);
    let rows: Vec<FindingRow> = found.iter().map(FindingRow::from).collect();
    if session.json() {
        session.print_json(&Checked { schema: "vfioadm.check/1", findings: rows, error: None });
    } else if rows.is_empty() {
        session.print(format_args!("nothing stands in the way\n"));
    } else {
        for row in &rows {
            session.print(format_args!("{:<6}  {}: {}\n        {}\n", row.severity, row.id, row.message, row.remedy));
        }
    }
    let serious = found.iter().any(|finding| finding.severity() >= Severity::Warn);
    Ok(if serious { Exit::Found } else { Exit::Done })
}

/// What each device is to be checked for, and what the reading of driver tables warned of.
pub(super) fn purposes(
    host: &dyn Host,
    inventory: &Inventory,
    devices: &[Bdf],
    wanted: &Wanted,
) -> (Vec<(Bdf, Purpose)>, Vec<Warning>) {
    let simple = |purpose: Purpose| (devices.iter().map(|bdf| (*bdf, purpose.clone())).collect(), Vec::new());
    let driver = match wanted {
        Wanted::Best => return simple(Purpose::Vfio),
        Wanted::Host => return simple(Purpose::Host),
        Wanted::None => return simple(Purpose::None),
        Wanted::Named(driver) => driver,
    };
    let aliases: Vec<ModAlias> =
        devices.iter().filter_map(|bdf| inventory.functions.get(bdf)).map(|function| function.alias).collect();
    let query = Query { devices: &aliases, drivers: std::slice::from_ref(driver), kernel: Kernel::Running };
    let (tables, warnings) = read_tables(host, &query);
    let functions = devices.iter().filter_map(|bdf| inventory.functions.get(bdf));
    let purpose = |function: &PciFunction| {
        let table = matching::table_of(driver, &function.alias, &tables);
        (function.bdf, Purpose::Named(driver.clone(), table))
    };
    (functions.map(purpose).collect(), warnings)
}

/// Looks at each device closely and judges it.
pub(super) fn findings(
    host: &dyn Host,
    inventory: &Inventory,
    purposes: &[(Bdf, Purpose)],
    together: &BTreeSet<Bdf>,
    warnings: &mut Vec<Warning>,
) -> Vec<Finding> {
    let usage = Usage::read(host, warnings);
    let close_ups: BTreeMap<Bdf, CloseUp> =
        purposes.iter().map(|(bdf, _)| (*bdf, close_up(host, *bdf, &usage, warnings))).collect();
    let devices = purposes.iter().filter_map(|(bdf, _)| inventory.functions.get(bdf));
    let open = devices.filter(|function| is_open(host, function)).map(|function| function.bdf).collect();
    let picture = Picture { inventory, close_ups: &close_ups, together, open: &open };
    let judged = purposes.iter().filter_map(|(bdf, purpose)| Some((inventory.functions.get(bdf)?, purpose)));
    let mut found: Vec<Finding> = Vec::new();
    for finding in judged.flat_map(|(function, purpose)| check::device(picture, function, purpose)) {
        // What is found of the host is found once.
        if finding.device.is_some() || !found.contains(&finding) {
            found.push(finding);
        }
    }
    found
}

/// Whether somebody uses a device that is a VFIO device already.
fn is_open(host: &dyn Probe, function: &PciFunction) -> bool {
    function.is_vfio() && function.group.is_some_and(|group| open::group_is_open(host, group))
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
