//! `vfioadm undo`: takes an operation back, from what it wrote down.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Session;
use super::args::UndoArgs;
use super::narrator::{Narrator, boot_id};
use super::outcome::without;
use super::report::{Exit, Trouble};
use super::taken::{self, Before};
use crate::check::{Finding, refusals};
use crate::discover;
use crate::engine::history::{Superseded, unfinished};
use crate::engine::journal::{End, Ended, Journal, JournalError, Operation, Standing};
use crate::engine::{LaneResult, Pace, Report, State, Work, undo};
use crate::host::Host;
use crate::host::ledger::{Ledger, LedgerError, OperationId};
use crate::model::{Bdf, Errno, Inventory, Target, Warning, counted};

/// The object of docs/json.md.
#[derive(Serialize)]
struct Outcome {
    schema: &'static str,
    operation: Option<String>,
    results: Vec<Row>,
    changes: Vec<String>,
    host: &'static str,
    error: Option<Trouble>,
    #[serde(skip)]
    more_errors: Vec<Trouble>,
}

#[derive(Serialize)]
struct Row {
    address: String,
    driver: Option<String>,
    changed: bool,
    lost: Vec<String>,
    reason: Option<String>,
    /// Whether it is there, and what it is bound to, for people.
    #[serde(skip)]
    words: String,
}

pub(super) fn run(args: &UndoArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let lock = session.lock(host)?;
    let ledger = session.ledger(&opened)?;
    let boot = boot_id(host)?;
    let found = match &args.operation {
        Some(id) => match named(&ledger, id, args)? {
            Named::Whole(operation) => Some(*operation),
            Named::Nothing(words) => return Ok(nothing(Some(id.to_string()), &format!("{id} {words}"), session)),
        },
        None => newest(&ledger, boot.as_deref(), session)?,
    };
    let Some(operation) = found else {
        return Ok(nothing(None, "nothing to undo: no operation is unfinished", session));
    };
    let id = operation.id.to_string();
    let standing = operation.standing(boot.as_deref());
    match standing {
        Standing::AnotherBoot => {
            close(&ledger, &operation, session);
            return Ok(nothing(Some(id.clone()), &format!("{id} is {ANOTHER_BOOT}"), session));
        }
        Standing::Undone | Standing::RolledBack | Standing::Closed if args.operation.is_some() && !args.forget => {
            let words = match standing {
                Standing::Undone => "was undone already",
                Standing::RolledBack => "left nothing to undo: it was rolled back when it failed",
                _ => "is closed: what it left was left so on purpose, or is a later operation's",
            };
            return Ok(nothing(Some(id.clone()), &format!("{id} {words}"), session));
        }
        _ if args.forget => {
            close(&ledger, &operation, session);
            return Ok(nothing(Some(id.clone()), &format!("{id} is closed, and what it left stays as it is"), session));
        }
        _ => {}
    }
    let superseded = Superseded::read(&ledger, &operation)?;
    if let Some(refused) = refused(&operation, &superseded, args, host, session)? {
        return Ok(refused.print(session));
    }
    let journal = Journal::resume(&ledger, &operation)?;
    let narrator = Narrator::new(session, host);
    let work =
        Work { host, lock: lock.as_ref(), journal: &journal, watch: &narrator, pace: Pace::AtOnce(opened.at_once()) };
    let report = undo(&operation, &superseded, work);
    let changes = narrator.into_lines();
    drop(lock);
    if let Some(error) = &report.unrecorded {
        let words = format!("that it was undone was not written down ({error}): vfioadm log still has it as it was");
        session.warn(&[Warning::new(&operation.id, words)]);
    }
    session.save(&opened)?;
    let outcome = Outcome::new(&operation, &report, changes);
    Ok(outcome.print(session))
}

/// What there is of an operation that the user named.
enum Named {
    Whole(Box<Operation>),
    /// Nothing to act on, in words.
    Nothing(&'static str),
}

/// The operation that the user named.
fn named(ledger: &Ledger, id: &OperationId, args: &UndoArgs) -> Result<Named, Trouble> {
    match Operation::read(ledger, id) {
        Ok(operation) => Ok(Named::Whole(Box::new(operation))),
        Err(JournalError::Empty(_)) if !args.forget => {
            Ok(Named::Nothing("was cut off before it did anything: nothing to undo"))
        }
        // What cannot be read cannot be closed.
        Err(JournalError::Edited { .. } | JournalError::Empty(_)) if args.forget => {
            ledger.remove(id)?;
            Ok(Named::Nothing("is forgotten: its journal is removed, and what it left stays as it is"))
        }
        Err(error) => Err(unusable(id, error)),
    }
}

/// The newest operation that did not end; those of another boot are closed on the way.
fn newest(ledger: &Ledger, boot: Option<&str>, session: &mut Session<'_, '_>) -> Result<Option<Operation>, Trouble> {
    for (id, operation) in unfinished(ledger, boot)?.into_iter().rev() {
        let operation = operation.map_err(|error| unusable(&id, error))?;
        let why = if operation.standing(boot) == Standing::AnotherBoot {
            String::from(ANOTHER_BOOT)
        } else if Superseded::read(ledger, &operation)?.is_all_of(&operation) {
            String::from("closed: later operations have had every device that it left, and these stay as they are")
        } else {
            return Ok(Some(operation));
        };
        close(ledger, &operation, session);
        session.warn(&[Warning::new(&id, why)]);
    }
    Ok(None)
}

const ANOTHER_BOOT: &str = "closed: it is of another boot, and what it changed went with that kernel";

/// Why the record of an operation could not be read.
pub(super) fn unreadable(id: &OperationId, error: LedgerError) -> Trouble {
    if error.errno != Errno::ENOENT {
        return error.into();
    }
    Trouble::new(Exit::Failed, "no-such-operation", format!("there is no operation {id}"))
        .state("as it was; nothing was tried")
        .remedy("see what there is: vfioadm log")
}

fn unusable(id: &OperationId, error: JournalError) -> Trouble {
    match error {
        JournalError::Unreadable(error) => unreadable(id, error),
        other => Trouble::new(Exit::Failed, "journal-damaged", format!("{id} cannot be undone: {other}"))
            .state("as it was; nothing was tried: a wrong undo is worse than none")
            .remedy(format!(
                "see which devices it had and put them right by hand: vfioadm log {id}; then give it up: vfioadm undo {id} --forget"
            )),
    }
}

/// Writes down that nobody is to take it back any more.
fn close(ledger: &Ledger, operation: &Operation, session: &mut Session<'_, '_>) {
    let at = std::time::Duration::ZERO.into();
    let end = End { at, settled: at, end: Ended::Closed, left: Vec::new(), fell: Vec::new(), remains: Vec::new() };
    let closed = Journal::resume(ledger, operation).map(|journal| journal.end(&end));
    let failed = match closed {
        Ok(Ok(())) => return,
        Ok(Err(errno)) => errno.to_string(),
        Err(error) => error.to_string(),
    };
    session.warn(&[Warning::new(&operation.id, format!("could not be closed ({failed})"))]);
}

fn nothing(operation: Option<String>, words: &str, session: &mut Session<'_, '_>) -> Exit {
    if session.json() {
        session.print_json(&Outcome { operation, ..Outcome::default() });
    } else {
        session.print(format_args!("{words}\n"));
    }
    Exit::Done
}

const SCHEMA: &str = "vfioadm.undo/1";

/// A device that would be taken from its driver is not, if the host has come to use it since.
fn refused(
    operation: &Operation,
    superseded: &Superseded,
    args: &UndoArgs,
    host: &dyn Host,
    session: &mut Session<'_, '_>,
) -> Result<Option<Outcome>, Trouble> {
    let inventory = discover::inventory(host)?;
    let mut former = BTreeMap::new();
    for (target, driver) in operation.former_drivers() {
        if superseded.by(target).is_none() {
            former.extend(inventory.place(target).map(|bdf| (bdf, driver)));
        }
    }
    let taken = |bdf: &Bdf, former: &Option<String>| {
        let now = inventory.functions.get(bdf).and_then(|function| function.driver.as_ref());
        now.is_some_and(|now| former.as_deref() != Some(now.as_str()))
    };
    let devices: BTreeMap<&Bdf, _> = former.iter().filter(|(bdf, former)| taken(bdf, former)).collect();
    let devices: BTreeSet<Bdf> = devices.keys().map(|bdf| **bdf).collect();
    // That the operation is unfinished is why it is undone.
    let before = Before { inventory: &inventory, unfinished: &BTreeMap::new() };
    let findings = before.of_functions(&devices, host, session);
    let refused: Vec<&Finding> = refusals(&findings, &args.allow).collect();
    Ok((!refused.is_empty()).then(|| Outcome::refused(operation, &inventory, &refused)))
}

impl Default for Outcome {
    /// Of an operation of which nothing was done.
    fn default() -> Self {
        let (results, changes, more_errors) = (Vec::new(), Vec::new(), Vec::new());
        Self { schema: SCHEMA, operation: None, results, changes, host: "as_it_was", error: None, more_errors }
    }
}

impl Outcome {
    fn refused(operation: &Operation, inventory: &Inventory, refused: &[&Finding]) -> Self {
        let row = |device: Target| {
            let place = inventory.place(device);
            let mut why = refused
                .iter()
                .filter(|finding| finding.device.as_ref().is_none_or(|of| place.is_some_and(|bdf| *of == bdf.into())));
            let driver = place.and_then(|bdf| inventory.functions.get(&bdf)?.driver.as_ref());
            Row {
                address: device.to_string(),
                driver: driver.map(ToString::to_string),
                changed: false,
                lost: Vec::new(),
                reason: Some(why.next().map_or_else(|| String::from("not tried"), |finding| finding.message.clone())),
                words: String::new(),
            }
        };
        let mut troubles = refused.iter().map(|finding| taken::trouble(finding));
        Self {
            operation: Some(operation.id.to_string()),
            results: operation.header.lanes.iter().map(|lane| row(lane.device)).collect(),
            error: troubles.next(),
            more_errors: troubles.collect(),
            ..Self::default()
        }
    }

    fn new(operation: &Operation, report: &Report, changes: Vec<String>) -> Self {
        let remains: Vec<&LaneResult> = report.lanes.iter().filter(|lane| !lane.remains.is_empty()).collect();
        let whole = remains.is_empty() && !report.stopped;
        let id = &operation.id;
        let error = (!whole).then(|| {
            let touched = report.lanes.iter().any(|lane| lane.undone > 0 || lane.changed());
            let (exit, part) = if touched { (Exit::Changed, "undone in part") } else { (Exit::Failed, "not undone") };
            let undone: usize = report.lanes.iter().map(|lane| lane.undone).sum();
            let done = match undone {
                0 => String::from("as it was"),
                many => format!("{} undone", counted(many, "step")),
            };
            let lines: Vec<&str> = remains.iter().flat_map(|lane| &lane.remains).map(String::as_str).collect();
            if report.stopped {
                return Trouble::new(exit, "interrupted", format!("{id} is {part}: vfioadm was asked to stop"))
                    .state(done)
                    .remedy(format!("go on with: vfioadm undo {id}"));
            }
            let words = match remains.len() {
                1 => String::from("1 device is not as it was before"),
                many => format!("{many} devices are not as they were before"),
            };
            Trouble::new(exit, "not-undone", format!("{id} is {part}: {words}"))
                .state(format!("{done}; {}", lines.join("; ")))
                .remedy(format!(
                    "mend what stands in the way and ask again: vfioadm undo {id}; or leave it so: vfioadm undo {id} --forget"
                ))
        });
        Self {
            operation: Some(id.to_string()),
            results: report.lanes.iter().map(Row::from).collect(),
            changes,
            host: if whole { "as_it_was" } else { "changed" },
            error,
            ..Self::default()
        }
    }

    fn print(&self, session: &mut Session<'_, '_>) -> Exit {
        if session.json() {
            session.print_json(self);
        } else {
            for row in &self.results {
                let Row { address, changed, lost, reason, words, .. } = row;
                match (reason, changed) {
                    (Some(reason), _) => session.print(format_args!("{address}: {}\n", without(address, reason))),
                    (None, true) => session.print(format_args!("{address}: {words} again\n")),
                    (None, false) => session.print(format_args!("{address}: {words}, nothing to undo\n")),
                }
                lost.iter().for_each(|lost| session.print(format_args!("{address}: lost: {lost}\n")));
            }
        }
        let all = self.error.iter().chain(&self.more_errors);
        all.for_each(|trouble| session.print_trouble(trouble));
        match &self.error {
            None => Exit::Done,
            Some(trouble) => trouble.exit,
        }
    }
}

impl From<&LaneResult> for Row {
    fn from(lane: &LaneResult) -> Self {
        let driver = lane.now().and_then(|now| now.driver.as_ref());
        let was_gone = matches!(lane.before, None | Some(State::Absent)) && !lane.changed() && lane.error.is_none();
        let gone = was_gone.then(|| String::from("it is gone, so there is nothing to undo"));
        Self {
            address: lane.device.to_string(),
            driver: driver.map(ToString::to_string),
            // A setting that went back does not show in what it is bound to.
            changed: lane.changed() || lane.undone > 0,
            lost: lane.lost.clone(),
            reason: lane.error.as_ref().map(ToString::to_string).or_else(|| lane.remains.first().cloned()).or(gone),
            words: match (&lane.after, driver) {
                (Some(State::Absent), _) => String::from("not there"),
                (_, Some(driver)) => format!("bound to {driver}"),
                (_, None) => String::from("no driver"),
            },
        }
    }
}
