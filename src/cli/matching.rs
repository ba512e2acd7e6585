//! `vfioadm match`

use serde::Serialize;

use super::args::MatchArgs;
use super::report::{Exit, Trouble};
use super::view::{self};
use super::{Session, open};
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::host::path::Root;
use crate::matching::{self, Candidate, DeviceFacts, Prediction};
use crate::model::Warning;

#[derive(Serialize)]
struct Matched {
    schema: &'static str,
    device: Option<String>,
    modalias: String,
    candidates: Vec<Row>,
    chosen: Option<Row>,
    error: Option<Trouble>,
}

/// A candidate as printed.
#[derive(Clone, Serialize)]
struct Row {
    rank: u32,
    driver: String,
    module: Option<String>,
    alias: String,
    wildcards: u8,
    availability: &'static str,
    prediction: String,
    gains: Vec<String>,
    loses: Vec<String>,
}

impl Row {
    fn new(candidate: Candidate, prediction: Prediction) -> Self {
        Self {
            rank: candidate.rank,
            driver: candidate.driver.to_string(),
            module: candidate.module.map(|module| module.to_string()),
            alias: candidate.alias.to_string(),
            wildcards: candidate.wildcards,
            availability: candidate.availability.word(),
            prediction: prediction.text,
            gains: prediction.gains,
            loses: prediction.loses,
        }
    }
}

pub(super) fn run(args: &MatchArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(args.modules.as_deref())?;
    let host = opened.host();
    let (device, alias, mut facts) = match (&args.device, args.modalias) {
        (Some(device), _) => {
            let (inventory, addresses) = session.resolve(host, std::slice::from_ref(device))?;
            let [bdf] = open::pci_only(&addresses, "match")?[..] else {
                let message = format!("{device} names {} devices; match takes one", addresses.len());
                return Err(Trouble::new(Exit::Usage, "not-one-device", message).remedy("list them: vfioadm list"));
            };
            let facts = DeviceFacts::of(&inventory, bdf)
                .ok_or_else(|| Trouble::new(Exit::Failed, "no-such-device", format_args!("{bdf} went away")))?;
            (Some(bdf), facts.alias, facts)
        }
        (None, Some(alias)) => (None, alias, DeviceFacts::of_alias(alias)),
        (None, None) => {
            return Err(Trouble::new(Exit::Usage, "no-device", "neither a device nor a modalias was given"));
        }
    };
    let kernel = if args.modules.is_some() { Kernel::Other } else { Kernel::Running };
    let (tables, mut warnings) = read_tables(host, &Query { devices: &[alias], drivers: &[], kernel });
    if let Some(modules) = &args.modules {
        // The directory is called after its kernel's release.
        facts.release = modules.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let spelled = |warning: Warning| Warning {
            subject: warning.subject.replace(Root::Modules.spelled(), &modules.display().to_string()),
            ..warning
        };
        warnings = warnings.into_iter().map(spelled).collect();
    }
    session.warn(&warnings);
    let candidates: Vec<Row> = matching::candidates(&alias, &tables)
        .into_iter()
        .map(|candidate| {
            let prediction = matching::predict(&candidate.driver, &facts);
            Row::new(candidate, prediction)
        })
        .collect();
    let chosen = candidates.first().cloned();
    let device = device.map(|bdf| bdf.to_string());
    let error = chosen.is_none().then(|| no_candidate(device.as_deref(), &alias));
    let modalias = alias.to_string();
    let matched = Matched { schema: "vfioadm.match/1", device, modalias, candidates, chosen, error };
    if session.json() {
        session.print_json(&matched);
    } else {
        print(session, &matched);
    }
    if let Some(trouble) = &matched.error {
        session.print_trouble(trouble);
    }
    Ok(matched.error.map_or(Exit::Done, |trouble| trouble.exit))
}

fn no_candidate(device: Option<&str>, alias: &crate::model::ModAlias) -> Trouble {
    let subject = device.map_or_else(|| alias.to_string(), ToOwned::to_owned);
    let message = format!("this kernel has no VFIO driver for {subject}, not even vfio-pci");
    Trouble::new(Exit::Failed, "no-candidate", message)
        .remedy("its kernel needs CONFIG_VFIO_PCI, and depmod must have been run for its modules")
}

fn print(session: &mut Session<'_, '_>, matched: &Matched) {
    let Some(chosen) = &matched.chosen else { return };
    match &matched.device {
        Some(device) => session.print(format_args!("{device}, {}\n", matched.modalias)),
        None => session.print(format_args!("{}\n", matched.modalias)),
    }
    let rows = matched
        .candidates
        .iter()
        .map(|row| {
            vec![
                row.rank.to_string(),
                row.driver.clone(),
                format!("{} of 7", row.wildcards),
                row.availability.to_owned(),
                row.prediction.clone(),
            ]
        })
        .collect();
    let table = view::table(session.env.terminal, &["RANK", "DRIVER", "WILDCARDS", "AVAILABILITY", "PREDICTION"], rows);
    session.print(format_args!("{table}"));
    for row in &matched.candidates {
        for gain in &row.gains {
            session.print(format_args!("  {} gains: {gain}\n", row.driver));
        }
        for loss in &row.loses {
            session.print(format_args!("  {} loses: {loss}\n", row.driver));
        }
    }
    let why = if matched.candidates.len() == 1 {
        String::from("the only VFIO driver that matches")
    } else {
        format!("its entry {} has the fewest wildcard fields", chosen.alias)
    };
    session.print(format_args!("chosen: {}, {why}\n", chosen.driver));
}
