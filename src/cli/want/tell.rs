//! A host file and its host, as a person and as a program read it.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::compare::{Compared, of_refused};
use crate::cli::check::FindingRow;
use crate::cli::report::{Exit, Trouble};
use crate::cli::{Session, ignore_closed};
use crate::engine::Report;
use crate::model::counted;
use crate::want::reconcile::{Change, Outcome, Sign};
use crate::want::{Mistake, Standing};

/// The object of docs/json.md.
#[derive(Serialize)]
pub(super) struct Told {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<Option<String>>,
    /// Whether the host was as the file says.
    clean: bool,
    entries: Vec<Row>,
    findings: Vec<FindingRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'static str>,
    /// What became of each `apply` since the machine was booted.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Vec<Remembered>>,
    error: Option<Trouble>,
    #[serde(skip)]
    more_errors: Vec<Trouble>,
    #[serde(skip)]
    does: Does,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Plan,
    Verify,
    Apply,
    Status,
}

/// What became of an `apply`, as it is kept in `/run/vfioadm/applied`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// When, in seconds since 1970.
    pub(super) date: u64,
    /// The command line.
    pub(super) command: String,
    /// The operation's name in the journal.
    pub(super) operation: Option<String>,
    /// How it ended.
    pub(super) exit: u8,
    /// What went wrong, as it was said: with the kernel's answer, the state of the host, and what to do.
    pub(super) errors: Vec<String>,
}

/// An entry.
#[derive(Serialize)]
struct Row {
    file: String,
    line: usize,
    column: usize,
    entry: String,
    /// `in_place`, `differs`, `not_applied`, `refused`.
    state: &'static str,
    /// Why, of one that is not applied or refused.
    reason: Option<String>,
    /// What to do about it.
    remedy: Option<String>,
    notes: Vec<String>,
    changes: Vec<ChangeRow>,
}

#[derive(Serialize)]
struct ChangeRow {
    /// `make`, `change`, `remove`.
    kind: &'static str,
    device: String,
    words: String,
    /// What goes and does not come back when it is undone.
    lost: Option<String>,
    #[serde(skip)]
    sign: char,
}

impl From<&Change> for ChangeRow {
    fn from(change: &Change) -> Self {
        let kind = match change.sign {
            Sign::Make => "make",
            Sign::Alter => "change",
            Sign::Remove => "remove",
        };
        let (words, lost) = (change.words.clone(), change.lost.clone());
        Self { kind, device: change.target.to_string(), words, lost, sign: change.sign.as_char() }
    }
}

impl From<&Outcome> for Row {
    fn from(outcome: &Outcome) -> Self {
        let (state, reason, changes) = match &outcome.standing {
            Standing::InPlace => ("in_place", None, Vec::new()),
            Standing::Differs(changes) => ("differs", None, changes.iter().map(ChangeRow::from).collect()),
            Standing::NotApplied(why) => ("not_applied", Some(why.clone()), Vec::new()),
            Standing::Refused(refused) => ("refused", Some(refused.to_string()), Vec::new()),
        };
        let remedy = match &outcome.standing {
            Standing::Refused(refused) => of_refused(refused).remedy,
            _ => None,
        };
        let place = &outcome.entry.place;
        Self {
            file: place.file.clone(),
            line: place.line,
            column: place.column,
            entry: outcome.entry.to_string(),
            state,
            reason,
            remedy,
            notes: outcome.notes.clone(),
            changes,
        }
    }
}

impl Told {
    fn new(does: Does, compared: &Compared) -> Self {
        let is_apply = does == Does::Apply;
        Self {
            schema: match does {
                Does::Plan => "vfioadm.plan/1",
                Does::Verify => "vfioadm.verify/1",
                Does::Apply => "vfioadm.apply/1",
                Does::Status => "vfioadm.status/1",
            },
            operation: is_apply.then_some(None),
            clean: compared.is_clean(),
            entries: compared.reconciled.outcomes.iter().map(Row::from).collect(),
            findings: compared.findings.iter().map(FindingRow::from).collect(),
            lost: is_apply.then(Vec::new),
            changes: is_apply.then(Vec::new),
            host: is_apply.then_some("as_it_was"),
            applied: None,
            error: None,
            more_errors: Vec::new(),
            does,
        }
    }

    /// What would be done.
    pub(super) fn of_plan(compared: &Compared) -> Self {
        Self::new(Does::Plan, compared)
    }

    /// How the host differs.
    pub(super) fn of_verify(compared: &Compared) -> Self {
        Self::new(Does::Verify, compared)
    }

    /// What is to be done.
    pub(super) fn of_apply(compared: &Compared) -> Self {
        Self::new(Does::Apply, compared)
    }

    /// How the host stands, and what became of it since it was booted.
    pub(super) fn of_status(compared: &Compared, applied: Vec<Remembered>) -> Self {
        Self { applied: Some(applied), ..Self::new(Does::Status, compared) }
    }

    /// Adds what was done, and says how the command would end by that alone.
    pub(super) fn carried(&mut self, report: &Report, changes: Vec<String>, operation: Option<String>) -> Exit {
        let lanes = &report.lanes;
        let failed = report.interrupts > 0 || lanes.iter().any(|lane| lane.error.is_some());
        let changed = lanes.iter().any(|lane| lane.changed() || !lane.remains.is_empty());
        self.operation = Some(operation);
        self.changes = Some(changes);
        self.lost = Some(lanes.iter().flat_map(|lane| &lane.lost).cloned().collect());
        self.host = Some(if changed { "changed" } else { "as_it_was" });
        match (failed, changed) {
            (false, _) => Exit::Done,
            (true, false) => Exit::Failed,
            (true, true) => Exit::Changed,
        }
    }

    /// Adds what went wrong, the first of all first.
    pub(super) fn troubles(&mut self, troubles: Vec<Trouble>) {
        for trouble in troubles {
            match self.error {
                None => self.error = Some(trouble),
                Some(_) => self.more_errors.push(trouble),
            }
        }
    }

    /// A recorded host that could not be written back is as it was, whatever was done to its copy in memory.
    pub(super) fn not_saved(&mut self, trouble: Trouble) {
        self.host = Some("as_it_was");
        self.error = Some(trouble);
    }

    /// What is remembered of it until the next boot.
    pub(super) fn remembered(&self, date: std::time::Duration, command: &str) -> Remembered {
        let all: Vec<&Trouble> = self.error.iter().chain(&self.more_errors).collect();
        Remembered {
            date: date.as_secs(),
            command: command.to_owned(),
            operation: self.operation.clone().flatten(),
            exit: all.iter().map(|trouble| trouble.exit).max().unwrap_or(Exit::Done) as u8,
            errors: all.iter().map(|trouble| trouble.to_string().trim_end().to_owned()).collect(),
        }
    }

    /// Prints it, and says how the command ends.
    pub(super) fn print(&self, session: &mut Session<'_, '_>) -> Exit {
        if session.json() {
            session.print_json(self);
        } else {
            self.print_words(session);
        }
        let all: Vec<&Trouble> = self.error.iter().chain(&self.more_errors).collect();
        all.iter().for_each(|trouble| session.print_trouble(trouble));
        let exit = all.iter().map(|trouble| trouble.exit).max().unwrap_or(Exit::Done);
        if let (Exit::Changed, Some(Some(operation))) = (exit, &self.operation) {
            ignore_closed(writeln!(session.env.err, "take it all back with: vfioadm undo {operation}"));
        }
        exit
    }

    fn print_words(&self, session: &mut Session<'_, '_>) {
        for applied in self.applied.iter().flatten() {
            let when = UNIX_EPOCH + Duration::from_secs(applied.date);
            let when = humantime::format_rfc3339_seconds(when);
            let how = if applied.exit == 0 { "done" } else { "failed" };
            session.print(format_args!("{when}  {}: {how}\n", applied.command));
            applied.errors.iter().for_each(|error| session.print(format_args!("  {}\n", error.replace('\n', "\n  "))));
        }
        if self.applied.as_ref().is_some_and(Vec::is_empty) {
            session.print(format_args!("nothing was applied since the machine was booted\n"));
        }
        let is_said = |row: &&Row| row.state != "in_place" || !row.notes.is_empty();
        for row in self.entries.iter().filter(is_said) {
            session.print(format_args!("{}  {}:{}\n", row.entry, row.file, row.line));
            for change in &row.changes {
                session.print(format_args!("  {} {}  {}\n", change.sign, change.device, change.words));
                if let Some(lost) = &change.lost {
                    session.print(format_args!("  ! {}  {lost}\n", change.device));
                }
            }
            if let Some(reason) = &row.reason {
                let what = if row.state == "refused" { "refused" } else { "not applied" };
                let remedy = row.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
                session.print(format_args!("  {what}: {reason}{remedy}\n"));
            }
            row.notes.iter().for_each(|note| session.print(format_args!("  note: {note}\n")));
        }
        if self.does == Does::Plan {
            for finding in self.findings.iter().filter(|finding| finding.is_serious()) {
                session.print(format_args!("{}\n", finding.words()));
            }
        }
        session.print(format_args!("{}\n", self.summary()));
        self.lost.iter().flatten().for_each(|lost| session.print(format_args!("lost: {lost}\n")));
    }

    /// One line of all.
    fn summary(&self) -> String {
        let count = |state: &str| self.entries.iter().filter(|row| row.state == state).count();
        let changes =
            |kind: &str| self.entries.iter().flat_map(|row| &row.changes).filter(|of| of.kind == kind).count();
        let (make, alter, remove) = (changes("make"), changes("change"), changes("remove"));
        let (not_applied, refused) = (count("not_applied"), count("refused"));
        let mut words = match (self.does, make + alter + remove) {
            (_, 0) => format!("{} of {} in place", count("in_place"), counted(self.entries.len(), "entry")),
            (Does::Apply, _) if self.error.is_some() => String::from("not applied"),
            (Does::Apply, _) => format!("{make} made, {alter} changed, {remove} removed"),
            (Does::Plan | Does::Verify | Does::Status, _) => {
                format!("{make} to make, {alter} to change, {remove} to remove")
            }
        };
        if not_applied > 0 {
            words.push_str(&format!("; {} not applied", counted(not_applied, "entry")));
        }
        if refused > 0 {
            words.push_str(&format!("; {} refused", counted(refused, "entry")));
        }
        words
    }
}

/// Says every mistake of a host file but the first, which the command ends with.
pub(in crate::cli) fn mistaken(mistakes: &[Mistake], session: &mut Session<'_, '_>) -> Trouble {
    let trouble = |mistake: &Mistake| {
        let trouble = Trouble::new(Exit::Usage, "bad-host-file", mistake);
        match &mistake.hint {
            Some(hint) => trouble.remedy(hint),
            None => trouble.remedy("see docs/host.md"),
        }
    };
    let mut all = mistakes.iter().map(trouble);
    let first = all.next().unwrap_or_else(|| Trouble::new(Exit::Usage, "bad-host-file", "the host file is wrong"));
    all.for_each(|trouble| session.print_trouble(&trouble));
    first.state("as it was; nothing was tried")
}
