//! A record read back: what was done, how it stands, and how to take it back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{End, Ended, FORMAT, Header, HeaderLane, Left, Record, SUM, SettingRow, checksum};
use crate::engine::Binding;
use crate::host::ledger::{Ledger, LedgerError, OperationId};
use crate::model::Target;
use crate::step::{Setting, Undo};

/// A record that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its name.
    pub id: OperationId,
    /// Its first line.
    pub header: Header,
    /// Its acts, oldest first.
    pub records: Vec<Record>,
    /// How it ended, when nothing was recorded after that.
    pub end: Option<End>,
    /// The last line was torn: its act was not begun.
    pub torn: bool,
    /// The checksum of its last line.
    pub(super) sum: u32,
    /// The bytes of its whole lines.
    pub(super) length: usize,
    /// What it left when it ended, whatever came of it since.
    left: Option<Vec<Left>>,
    /// How many acts there were then.
    reopened: usize,
}

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] LedgerError),
    /// It has no first line: the command stopped before it had written one, and so before it did anything.
    #[error("{0} is empty: it was cut off before anything was done")]
    Empty(String),
    /// A line is not as it was written.
    #[error("{file}: line {line} is not as vfioadm wrote it")]
    Edited {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
    },
}

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It was cut off, or something could not be taken back.
    Unfinished,
    /// It did what was wanted.
    Done,
    /// It was rolled back when it failed.
    RolledBack,
    /// Something could not be taken back.
    Remains,
    /// It was undone.
    Undone,
    /// It was given up.
    Closed,
    /// It is of another boot: what it changed went with that kernel.
    AnotherBoot,
}

impl Operation {
    /// Reads the record of an operation.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn read(ledger: &Ledger, id: &OperationId) -> Result<Self, JournalError> {
        Self::parse(id, &ledger.read(id)?, &ledger.file(id))
    }

    /// What can be read of one that was edited: all before the line that is not as it was written. For the eye only.
    #[must_use]
    pub fn read_until(ledger: &Ledger, id: &OperationId, line: usize) -> Option<Self> {
        let bytes = ledger.read(id).ok()?;
        let whole: Vec<u8> = bytes.split_inclusive(|byte| *byte == b'\n').take(line - 1).flatten().copied().collect();
        Self::parse(id, &whole, &ledger.file(id)).ok()
    }

    fn parse(id: &OperationId, bytes: &[u8], file: &str) -> Result<Self, JournalError> {
        let edited = |line: usize| JournalError::Edited { file: file.to_owned(), line };
        let text = String::from_utf8_lossy(bytes);
        let length = text.rfind('\n').map_or(0, |end| end + 1);
        let torn = text.len() > length;
        let mut lines = text[..length].lines().enumerate().map(|(at, line)| (at + 1, line));
        let (_, first) = lines.next().ok_or_else(|| JournalError::Empty(file.to_owned()))?;
        let mut sum = 0;
        let header: Header = checked(&mut sum, first).ok_or_else(|| edited(1))?;
        if header.format != FORMAT {
            return Err(edited(1));
        }
        if !can_be_waited_for(&header) {
            return Err(edited(1));
        }
        let mut operation =
            Self { id: id.clone(), header, records: Vec::new(), end: None, torn, sum, length, left: None, reopened: 0 };
        for (number, line) in lines {
            match checked(&mut sum, line).ok_or_else(|| edited(number))? {
                Line::Record(record) => {
                    operation.records.push(record);
                    operation.end = None;
                }
                Line::End(end) => {
                    if matches!(end.end, Ended::Done | Ended::RolledBack) {
                        operation.left = Some(end.left.clone());
                        operation.reopened = operation.records.len();
                    }
                    operation.end = Some(end);
                }
            }
        }
        operation.sum = sum;
        Ok(operation)
    }

    /// How it stands, on a machine that was booted as `boot`.
    #[must_use]
    pub fn standing(&self, boot: Option<&str>) -> Standing {
        match self.end.as_ref().map(|end| end.end) {
            Some(Ended::RolledBack) => Standing::RolledBack,
            Some(Ended::Undone) => Standing::Undone,
            Some(Ended::Closed) => Standing::Closed,
            Some(Ended::Done | Ended::Remains) | None if self.header.boot.as_deref() != boot => Standing::AnotherBoot,
            Some(Ended::Done) => Standing::Done,
            Some(Ended::Remains) => Standing::Remains,
            None => Standing::Unfinished,
        }
    }

    /// How to take it back, by device: to what each had of a kind before that was first touched, the last kind first. What
    /// lies between is not gone through, so that a device that is back already is left alone.
    pub(in crate::engine) fn undos(&self) -> BTreeMap<Target, Vec<Undo>> {
        let mut all: BTreeMap<Target, Vec<Undo>> = BTreeMap::new();
        for record in &self.records {
            let Some(was) = record.was.as_ref().and_then(SettingRow::setting) else { continue };
            let undos = all.entry(record.device).or_default();
            if !undos.iter().any(|undo| undo.is_of_kind(&was)) {
                undos.push(Undo { device: record.device, was });
            }
        }
        all
    }

    /// The values that it gave each setting of a device, or found there, but for override and driver. Of one that was cut off,
    /// without what goes with a device that it made: whether that was set is not known, and what it had before was not asked.
    pub(in crate::engine) fn set(&self, device: Target) -> Vec<Vec<Setting>> {
        let mine = || self.records.iter().filter(|record| record.device == device);
        let is_one = |setting: &Setting| {
            let is_another = matches!(setting, Setting::Override(_) | Setting::Driver(_));
            !is_another && !matches!(setting, Setting::MsixCount(_) | Setting::Hook(_))
        };
        let found = mine().flat_map(|record| &record.was).map(|was| (was, true));
        let given = mine().flat_map(|record| &record.makes).map(|makes| (makes, self.left.is_some()));
        let mut all: Vec<Vec<Setting>> = Vec::new();
        for (row, is_known) in found.chain(given) {
            let Some(setting) = row.setting().filter(is_one) else { continue };
            match all.iter_mut().find(|kind| kind[0].is_of_kind(&setting)) {
                Some(kind) => kind.push(setting),
                None if is_known => all.push(vec![setting]),
                None => {}
            }
        }
        all
    }

    /// Whether it had ended, and is being undone since: whatever was done before that began is known to its undo.
    pub(in crate::engine) fn is_reopened(&self) -> bool {
        self.left.is_some() && self.records.len() > self.reopened
    }

    /// Whether `seen` is a state of `device` that this operation can have left: the one it ended with, or, when it did not
    /// end, any that it went through.
    pub(in crate::engine) fn may_have_left(&self, device: Target, seen: &Binding) -> bool {
        let now = Left::new(device, seen);
        let mine = || self.records.iter().filter(|record| record.device == device);
        let since = self.records.iter().skip(self.reopened).any(|record| record.device == device);
        if let Some(left) = self.left.as_ref().filter(|_| !since) {
            return left.contains(&now);
        }
        let settings: BTreeSet<&SettingRow> =
            mine().flat_map(|record| record.was.iter().chain(&record.makes)).collect();
        let driver = SettingRow::Driver(now.driver.clone());
        // Between two drivers it has none, and what the kernel chose is not known beforehand.
        let driver_ok = now.driver.is_none()
            || settings.contains(&driver)
            || mine().any(|record| record.makes.is_none() && matches!(record.was, Some(SettingRow::Driver(_))))
            || !settings.iter().any(|setting| matches!(setting, SettingRow::Driver(_)));
        let touched = settings.iter().any(|setting| matches!(setting, SettingRow::Override(_)));
        driver_ok && (!touched || settings.contains(&SettingRow::Override(now.driver_override)))
    }

    /// The driver that each device had before its driver was first touched.
    #[must_use]
    pub fn former_drivers(&self) -> BTreeMap<Target, Option<String>> {
        let mut former = BTreeMap::new();
        for record in &self.records {
            if let Some(SettingRow::Driver(driver)) = &record.was {
                former.entry(record.device).or_insert_with(|| driver.clone());
            }
        }
        former
    }

    /// The devices that it has changed, or was about to: those with something to take back.
    pub(in crate::engine) fn touched(&self) -> BTreeSet<Target> {
        self.records.iter().filter(|record| record.was.is_some()).map(|record| record.device).collect()
    }

    /// The devices that are as it has them: what it wanted, or what it could not take back; all that it touched, as long as
    /// it has not ended.
    pub(in crate::engine) fn has(&self) -> BTreeSet<Target> {
        let Some(End { end, left, fell, remains, .. }) = &self.end else { return self.touched() };
        match end {
            Ended::Done | Ended::Remains => {
                let fell: BTreeSet<&Target> = fell.iter().collect();
                let stand = left.iter().map(|left| left.device).filter(|device| !fell.contains(device));
                stand.chain(remains.iter().copied()).collect()
            }
            Ended::RolledBack | Ended::Undone | Ended::Closed => BTreeSet::new(),
        }
    }

    /// Those that it touched and may have left halfway: all, unless it says of which it could not take something back.
    pub(in crate::engine) fn halfway(&self) -> BTreeSet<Target> {
        let mut touched = self.touched();
        if let Some(End { end: Ended::Remains, remains, .. }) = &self.end {
            touched.retain(|device| remains.contains(device));
        }
        touched
    }

    /// The workers that may still be at a write of this operation, with the last act that each was given.
    pub(in crate::engine) fn workers(&self) -> BTreeMap<u32, &Record> {
        self.records.iter().filter_map(|record| Some((record.worker?, record))).collect()
    }
}

/// Whether a last line says that nothing is left to do: a glance, which spares reading the whole.
pub(in crate::engine) fn is_an_end(line: &[u8]) -> bool {
    matches!(serde_json::from_slice(line), Ok(Line::End(End { end, .. })) if end != Ended::Remains)
}

/// Whether the lanes can be gone through in the order that they wait in: none waits for itself, nor for one that is not
/// there.
fn can_be_waited_for(header: &Header) -> bool {
    let mut gone = vec![false; header.lanes.len()];
    loop {
        let ready = |(at, lane): &(usize, &HeaderLane)| {
            !gone[*at] && lane.after.iter().all(|other| gone.get(*other).is_some_and(|gone| *gone))
        };
        let now: Vec<usize> = header.lanes.iter().enumerate().filter(ready).map(|(at, _)| at).collect();
        if now.is_empty() {
            return gone.iter().all(|gone| *gone);
        }
        now.into_iter().for_each(|at| gone[at] = true);
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    End(End),
    Record(Record),
}

/// A line whose checksum holds.
fn checked<T: for<'de> Deserialize<'de>>(sum: &mut u32, line: &str) -> Option<T> {
    let (open, said) = line.strip_suffix("\"}")?.rsplit_once(SUM)?;
    let body = format!("{open}}}");
    let now = checksum(*sum, &body);
    *sum = now;
    (said == format!("{now:08x}")).then(|| serde_json::from_str(&body).ok()).flatten()
}
