//! `vfioadm log`: the operations since the machine was booted, and all that one did.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::Session;
use super::args::LogArgs;
use super::narrator::boot_id;
use super::report::{Exit, Trouble};
use super::view::{or_dash, table};
use crate::engine::journal::{JournalError, Operation, Record, Standing};
use crate::host::ledger::{Ledger, OperationId};
use crate::model::Warning;

/// The object of docs/json.md.
#[derive(Serialize)]
struct Log {
    schema: &'static str,
    operations: Vec<Row>,
    /// What the operation that was named did; of a list, nothing.
    acts: Vec<Record>,
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

pub(super) fn run(args: &LogArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let ledger = session.ledger(&opened)?;
    let boot = boot_id(opened.host());
    let ids = match &args.operation {
        Some(id) => vec![id.clone()],
        None => ledger.operations()?,
    };
    let mut log = Log { schema: "vfioadm.log/1", operations: Vec::new(), acts: Vec::new(), error: None };
    for id in ids {
        let (row, records) = read(&ledger, &id, boot.as_deref())?;
        log.operations.push(row);
        if args.operation.is_some() {
            log.acts = records;
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
    match Operation::read(ledger, id) {
        Ok(operation) => {
            let date = UNIX_EPOCH + Duration::from_secs(operation.header.date);
            let row = Row {
                id: id.to_string(),
                state: Some(operation.standing(boot)),
                date: Some(humantime::format_rfc3339_seconds(date).to_string()),
                pid: Some(operation.header.pid),
                command: Some(operation.header.command.clone()),
                devices: operation.header.lanes.iter().map(|lane| lane.device.to_string()).collect(),
                acts: operation.records.len(),
                reason: operation
                    .torn
                    .then(|| String::from("its last line was cut off, before the act that it announces")),
            };
            Ok((row, operation.records))
        }
        Err(JournalError::Unreadable(error)) => Err(error.into()),
        Err(other) => {
            let row = Row {
                id: id.to_string(),
                state: None,
                date: None,
                pid: None,
                command: None,
                devices: Vec::new(),
                acts: 0,
                reason: Some(other.to_string()),
            };
            Ok((row, Vec::new()))
        }
    }
}

impl Log {
    fn print(&self, session: &mut Session<'_, '_>) {
        if self.operations.is_empty() {
            session.warn(&[Warning::new("log", "nothing was done to this host since it was booted")]);
            return;
        }
        let cells = |row: &Row| {
            vec![
                row.id.clone(),
                row.state.map_or("damaged", words).to_owned(),
                or_dash(row.date.as_ref()),
                or_dash(row.pid),
                row.devices.len().to_string(),
                or_dash(row.command.as_ref().or(row.reason.as_ref())),
            ]
        };
        let header = ["OPERATION", "STATE", "WHEN", "PID", "DEVICES", "COMMAND"];
        let table = table(session.env.terminal, &header, self.operations.iter().map(cells).collect());
        session.print(format_args!("{table}"));
        for record in &self.acts {
            let back = if record.back { "   # takes back" } else { "" };
            session.print(format_args!("{:>9.3} {} {}{back}\n", f64::from(record.at), record.device, record.act));
        }
        for row in self.operations.iter().filter(|row| row.command.is_some()) {
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
