//! `vfioadm undo`: takes an operation back, from what it wrote down.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::args::UndoArgs;
use super::check::Judged;
use super::narrator::{Narrator, boot_id};
use super::report::{Exit, Trouble};
use super::{Session, ignore_closed};
use crate::check::{Finding, Purpose, refusals};
use crate::discover;
use crate::engine::history::{Superseded, unfinished};
use crate::engine::journal::{End, Ended, Journal, JournalError, Operation, Standing};
use crate::engine::{LaneResult, Pace, Report, Work, undo};
use crate::host::Host;
use crate::host::ledger::{Ledger, OperationId};
use crate::model::{Bdf, Warning};

/// The object of docs/json.md.
#[derive(Serialize)]
struct Outcome {
    schema: &'static str,
    operation: Option<String>,
    results: Vec<Row>,
    changes: Vec<String>,
    host: &'static str,
    error: Option<Trouble>,
}

#[derive(Serialize)]
struct Row {
    address: String,
    driver: Option<String>,
    changed: bool,
    lost: Vec<String>,
    reason: Option<String>,
}

pub(super) fn run(args: &UndoArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let lock = session.lock(host, &args.lock)?;
    let ledger = session.ledger(&opened)?;
    let boot = boot_id(host);
    let found = match &args.operation {
        Some(id) => named(&ledger, id, args, session)?,
        None => newest(&ledger, boot.as_deref(), session)?,
    };
    let Some(operation) = found else {
        return Ok(nothing(None, "nothing to undo", session));
    };
    let id = operation.id.to_string();
    match operation.standing(boot.as_deref()) {
        Standing::AnotherBoot => {
            close(&ledger, &operation, session);
            return Ok(nothing(Some(id), &another_boot(&operation), session));
        }
        Standing::Undone | Standing::RolledBack | Standing::Closed if args.operation.is_some() && !args.forget => {
            return Ok(nothing(Some(id.clone()), &format!("{id} left nothing to undo"), session));
        }
        _ if args.forget => {
            close(&ledger, &operation, session);
            return Ok(nothing(Some(id.clone()), &format!("{id} is closed, and what it left stays as it is"), session));
        }
        _ => {}
    }
    let superseded = Superseded::read(&ledger, &operation)?;
    if let Some(refusal) = refusal(&operation, &superseded, args, host, session)? {
        return Err(refusal);
    }
    let journal = Journal::resume(&ledger, &operation)?;
    let narrator = Narrator::new(session, host);
    let work =
        Work { host, lock: lock.as_ref(), journal: &journal, watch: &narrator, pace: Pace::AtOnce(opened.at_once()) };
    let report = undo(&operation, &superseded, work);
    let changes = narrator.into_lines();
    drop(lock);
    session.save(&opened)?;
    let outcome = Outcome::new(&operation, &report, changes);
    Ok(outcome.print(session))
}

/// The operation that the user named.
fn named(
    ledger: &Ledger,
    id: &OperationId,
    args: &UndoArgs,
    session: &mut Session<'_, '_>,
) -> Result<Option<Operation>, Trouble> {
    match Operation::read(ledger, id) {
        Ok(operation) => Ok(Some(operation)),
        // There is nothing in it to act on, and what cannot be read cannot be closed.
        Err(JournalError::Empty(_)) => Ok(None),
        Err(JournalError::Edited { .. }) if args.forget => {
            ledger.remove(id)?;
            session.warn(&[Warning::new(id, "its journal, which could not be used, is removed")]);
            Ok(None)
        }
        Err(error) => Err(unusable(id, error)),
    }
}

/// The newest operation that did not end; those of another boot are closed on the way.
fn newest(ledger: &Ledger, boot: Option<&str>, session: &mut Session<'_, '_>) -> Result<Option<Operation>, Trouble> {
    for (id, operation) in unfinished(ledger, boot)?.into_iter().rev() {
        let operation = operation.map_err(|error| unusable(&id, error))?;
        let why = if operation.standing(boot) == Standing::AnotherBoot {
            another_boot(&operation)
        } else if Superseded::read(ledger, &operation)?.is_all_of(&operation) {
            format!("{id}: later operations have had all that it left, so there is nothing of it to undo and it is closed")
        } else {
            return Ok(Some(operation));
        };
        close(ledger, &operation, session);
        session.warn(&[Warning::new(&id, why)]);
    }
    Ok(None)
}

fn another_boot(operation: &Operation) -> String {
    format!(
        "{} is of another boot: what it changed went with that kernel, so there is nothing to undo and it is closed",
        operation.id
    )
}

fn unusable(id: &OperationId, error: JournalError) -> Trouble {
    match error {
        JournalError::Unreadable(error) => error.into(),
        other => {
            let remedy = format!(
                "see what it says that can be read: vfioadm log {id}; give it up with: vfioadm undo {id} --forget"
            );
            Trouble::new(Exit::Failed, "journal-damaged", format!("{id} cannot be undone: {other}"))
                .state("as it was; nothing was tried, for a wrong undo is worse than none")
                .remedy(remedy)
        }
    }
}

/// Writes down that nobody is to take it back any more.
fn close(ledger: &Ledger, operation: &Operation, session: &mut Session<'_, '_>) {
    let at = std::time::Duration::ZERO.into();
    let end = End { at, settled: at, end: Ended::Closed, left: Vec::new(), remains: Vec::new() };
    let closed = Journal::resume(ledger, operation).map(|journal| journal.end(&end));
    let failed = match closed {
        Ok(Ok(())) => return,
        Ok(Err(errno)) => errno.to_string(),
        Err(error) => error.to_string(),
    };
    session.warn(&[Warning::new(&operation.id, format!("could not be closed ({failed})"))]);
}

fn nothing(operation: Option<String>, words: &str, session: &mut Session<'_, '_>) -> Exit {
    let outcome =
        Outcome { schema: SCHEMA, operation, results: Vec::new(), changes: Vec::new(), host: "as_it_was", error: None };
    if session.json() {
        session.print_json(&outcome)
    } else {
        session.print(format_args!("{words}\n"))
    }
    Exit::Done
}

const SCHEMA: &str = "vfioadm.undo/1";

/// A device that would be taken from its driver is not, if the host has come to use it since.
fn refusal(
    operation: &Operation,
    superseded: &Superseded,
    args: &UndoArgs,
    host: &dyn Host,
    session: &mut Session<'_, '_>,
) -> Result<Option<Trouble>, Trouble> {
    let inventory = discover::inventory(host)?;
    let mut former = operation.former_drivers();
    former.retain(|bdf, _| superseded.by(*bdf).is_none());
    let taken = |bdf: &Bdf, former: &Option<String>| {
        let now = inventory.functions.get(bdf).and_then(|function| function.driver.as_ref());
        now.is_some_and(|now| former.as_deref() != Some(now.as_str()))
    };
    let devices: BTreeMap<&Bdf, _> = former.iter().filter(|(bdf, former)| taken(bdf, former)).collect();
    let purposes: Vec<(Bdf, Purpose)> = devices.keys().map(|bdf| (**bdf, Purpose::None)).collect();
    let together: BTreeSet<Bdf> = devices.keys().map(|bdf| **bdf).collect();
    // That the operation is unfinished is why it is undone.
    let unfinished = BTreeMap::new();
    let judged = Judged {
        inventory: &inventory,
        purposes: &purposes,
        together: &together,
        unfinished: &unfinished,
        probe: true,
    };
    let mut warnings = Vec::new();
    let findings: Vec<Finding> = judged.findings(host, &mut warnings);
    session.warn(&warnings);
    let mut troubles = refusals(&findings, &args.allow).map(Trouble::from);
    let first = troubles.next();
    troubles.for_each(|trouble| session.print_trouble(&trouble));
    Ok(first)
}

impl Outcome {
    fn new(operation: &Operation, report: &Report, changes: Vec<String>) -> Self {
        let remains: Vec<&str> = report.lanes.iter().flat_map(|lane| &lane.remains).map(String::as_str).collect();
        let whole = remains.is_empty() && report.interrupts == 0;
        let id = &operation.id;
        let error = (!whole).then(|| {
            let exit = if report.lanes.iter().all(untouched) { Exit::Failed } else { Exit::Changed };
            let (what, message) = if report.interrupts > 0 {
                ("interrupted", format!("{id} is undone in part: it was asked to stop"))
            } else {
                ("not-undone", format!("{id} is not undone"))
            };
            let undone: usize = report.lanes.iter().map(|lane| lane.undone).sum();
            let state = match remains.is_empty() {
                true => format!("{undone} steps undone, more to do"),
                false => format!("{undone} steps undone; could not be undone: {}", remains.join("; ")),
            };
            let remedy = format!(
                "see what it did with vfioadm log {id}, mend what stands in the way, and ask again; or leave it so: vfioadm undo {id} --forget"
            );
            Trouble::new(exit, what, message).state(state).remedy(remedy)
        });
        Self {
            schema: SCHEMA,
            operation: Some(id.to_string()),
            results: report.lanes.iter().map(Row::from).collect(),
            changes,
            host: if whole { "as_it_was" } else { "changed" },
            error,
        }
    }

    fn print(&self, session: &mut Session<'_, '_>) -> Exit {
        if session.json() {
            session.print_json(self);
        } else {
            for row in &self.results {
                let Row { address, driver, changed, lost, reason } = row;
                let driver =
                    driver.as_deref().map_or_else(|| String::from("no driver"), |driver| format!("bound to {driver}"));
                match (reason, changed) {
                    (Some(reason), _) => session.print(format_args!("{address}: {reason}\n")),
                    (None, true) => session.print(format_args!("{address}: {driver} again\n")),
                    (None, false) => session.print(format_args!("{address}: {driver}, nothing to undo\n")),
                }
                lost.iter().for_each(|lost| session.print(format_args!("{address}: lost: {lost}\n")));
            }
        }
        match &self.error {
            None => Exit::Done,
            Some(trouble) => {
                session.print_trouble(trouble);
                if let Some(id) = &self.operation
                    && trouble.exit == Exit::Changed
                {
                    ignore_closed(writeln!(session.env.err, "the journal stays: vfioadm log {id}"));
                }
                trouble.exit
            }
        }
    }
}

fn untouched(lane: &LaneResult) -> bool {
    lane.undone == 0 && !lane.changed()
}

impl From<&LaneResult> for Row {
    fn from(lane: &LaneResult) -> Self {
        let driver = lane.after.as_ref().and_then(|after| after.driver.as_ref());
        let gone = (lane.before.is_none() && lane.error.is_none())
            .then(|| String::from("it is gone, so there is nothing to undo"));
        Self {
            address: lane.device.to_string(),
            driver: driver.map(ToString::to_string),
            changed: lane.changed(),
            lost: lane.lost.clone(),
            reason: lane.error.as_ref().map(ToString::to_string).or_else(|| lane.remains.first().cloned()).or(gone),
        }
    }
}
