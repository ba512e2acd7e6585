//! `vfioadm log`: the operations since the machine was booted, and all that one did.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::Session;
use super::args::LogArgs;
use super::narrator::boot_id;
use super::report::{Exit, Trouble};
use super::view::{or_dash, table};
use crate::engine::journal::{JournalError, Operation, Record, Seconds, SettingRow, Standing};
use crate::host::ledger::{Ledger, OperationId};
use crate::model::Warning;

/// The object of docs/json.md.
#[derive(Serialize)]
struct Log {
    schema: &'static str,
    operations: Vec<Row>,
    /// What the operation that was named did; of a list, nothing.
    acts: Vec<ActRow>,
    error: Option<Trouble>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    state: Option<Standing>,
    date: Option<String>,
    pid: Option<u32>,
    command: Option<String>,
    devices: Vec<String>,
    acts: usize,
    reason: Option<String>,
}

/// A record with every key.
#[derive(Serialize)]
struct ActRow {
    at: Seconds,
    device: String,
    act: String,
    was: Option<SettingRow>,
    makes: Option<SettingRow>,
    worker: Option<u32>,
    back: bool,
}

impl From<Record> for ActRow {
    fn from(Record { at, device, act, was, makes, worker, back }: Record) -> Self {
        Self { at, device: device.to_string(), act, was, makes, worker, back }
    }
}

pub(super) fn run(args: &LogArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let ledger = session.ledger(&opened)?;
    let boot = boot_id(opened.host())?;
    let ids = match &args.operation {
        Some(id) => vec![id.clone()],
        None => ledger.operations()?,
    };
    let mut log = Log { schema: "vfioadm.log/1", operations: Vec::new(), acts: Vec::new(), error: None };
    for id in ids {
        let (row, records) = read(&ledger, &id, boot.as_deref())?;
        log.operations.push(row);
        if args.operation.is_some() {
            log.acts = records.into_iter().map(ActRow::from).collect();
        }
    }
    if session.json() {
        session.print_json(&log);
    } else {
        log.print(session);
    }
    Ok(Exit::Done)
}

/// One operation. One that cannot be used is shown all the same: it is when something is wrong that this is read.
fn read(ledger: &Ledger, id: &OperationId, boot: Option<&str>) -> Result<(Row, Vec<Record>), Trouble> {
    let (operation, state, reason) = match Operation::read(ledger, id) {
        Ok(operation) => {
            let torn = String::from("its last line was cut off, and so what it announces was not begun");
            let (state, reason) = (operation.standing(boot), operation.torn.then_some(torn));
            (Some(operation), Some(state), reason)
        }
        Err(JournalError::Unreadable(error)) => return Err(super::undo::unreadable(id, error)),
        Err(JournalError::Edited { file, line }) => {
            let rest = format!("{file}: line {line} is not as vfioadm wrote it; what follows it is not shown");
            (Operation::read_until(ledger, id, line), None, Some(rest))
        }
        Err(empty @ JournalError::Empty(_)) => (None, None, Some(empty.to_string())),
    };
    let header = operation.as_ref().map(|operation| &operation.header);
    // After the year 9999 it cannot be said so.
    let said = |since: &u64| *since < 253_402_300_800;
    let date = |since: u64| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since)).to_string();
    let lanes = header.iter().flat_map(|header| &header.lanes);
    let row = Row {
        id: id.to_string(),
        state,
        date: header.map(|header| header.date).filter(said).map(date),
        pid: header.map(|header| header.pid),
        command: header.map(|header| header.command.clone()),
        devices: lanes.map(|lane| lane.device.to_string()).collect(),
        acts: operation.as_ref().map_or(0, |operation| operation.records.len()),
        reason,
    };
    Ok((row, operation.map(|operation| operation.records).unwrap_or_default()))
}

impl Log {
    fn print(&self, session: &mut Session<'_, '_>) {
        if self.operations.is_empty() {
            session.warn(&[Warning::new("log", "vfioadm has done nothing to this host since it was booted")]);
            return;
        }
        let cells = |row: &Row| {
            vec![
                row.id.clone(),
                row.state.map_or("damaged", words).to_owned(),
                or_dash(row.date.as_ref()),
                or_dash(row.pid),
                row.devices.len().to_string(),
                or_dash(row.command.as_ref()),
            ]
        };
        let header = ["OPERATION", "STATE", "WHEN", "PID", "DEVICES", "COMMAND"];
        let table = table(session.env.terminal, &header, self.operations.iter().map(cells).collect());
        session.print(format_args!("{table}"));
        for record in &self.acts {
            let back = if record.back { "   # takes back" } else { "" };
            session.print(format_args!("{:>9.3} {} {}{back}\n", f64::from(record.at), record.device, record.act));
        }
        for row in &self.operations {
            row.reason.iter().for_each(|reason| session.print(format_args!("# {}: {reason}\n", row.id)));
        }
    }
}

const fn words(standing: Standing) -> &'static str {
    match standing {
        Standing::Unfinished => "unfinished",
        Standing::Done => "done",
        Standing::RolledBack => "rolled back",
        Standing::Remains => "not undone",
        Standing::Undone => "undone",
        Standing::Closed => "closed",
        Standing::AnotherBoot => "another boot",
    }
}
