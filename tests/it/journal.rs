//! An operation cut off after every line of its journal, and undone from what the journal says.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use vfioadm::engine::history::{Superseded, unfinished};
use vfioadm::engine::journal::{Header, Journal, JournalError, Operation, Standing};
use vfioadm::engine::{Pace, Report, Work, lend, undo};
use vfioadm::host::fake::{FakeHost, Fault, Snapshot};
use vfioadm::host::ledger::{Append, Ledger, OperationId};
use vfioadm::host::{Claim, Host};
use vfioadm::model::Errno;
use vfioadm::step::Plan;

use crate::faults::{CASES, Case, Unwatched, act_on, differing, more_cases, plan, prepared};

/// A journal whose writer dies: after `lines` lines, or with the write that the last line announces done.
struct Mortal {
    file: Box<dyn Append>,
    lines: usize,
    host: FakeHost,
    last_write: LastWrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastWrite {
    Lost,
    Done,
}

impl Append for Mortal {
    fn append(&mut self, line: &str) -> Result<(), Errno> {
        if self.lines == 0 {
            return Err(Errno::EIO);
        }
        self.lines -= 1;
        self.file.append(line)?;
        if self.lines == 0 {
            let next = self.host.writes().len() + 1;
            self.host.fail(Fault::from(next + usize::from(self.last_write == LastWrite::Done), Errno::EIO));
        }
        Ok(())
    }
}

fn resumed(ledger: &Ledger, id: &OperationId) -> Box<dyn Append> {
    let length = ledger.read(id).unwrap().len();
    ledger.resume(id, length).unwrap()
}

pub(crate) fn header(plan: &Plan) -> Header {
    Header::new(Some(String::from("this boot")), "vfioadm bind", std::time::Duration::ZERO, plan)
}

/// Runs `plan` until its journal has `lines` lines, the first of which says whose it is. `None` when it ended before.
pub(crate) fn cut(host: &FakeHost, plan: &Plan, lines: usize, last_write: LastWrite) -> Option<(Ledger, OperationId)> {
    let ledger = Ledger::in_memory();
    // The header, in a journal of its own; what follows goes through mortal hands.
    let id = Journal::begin(&ledger, "bind", &header(plan)).unwrap().id().unwrap().clone();
    let begun = Operation::read(&ledger, &id).unwrap();
    let file = resumed(&ledger, &id);
    let mortal = Mortal { file, lines, host: host.clone(), last_write };
    let journal = Journal::resume_onto(&begun, Box::new(mortal));
    act_on(host, plan, &journal, lines as u64);
    host.heal();
    let cut_off = Operation::read(&ledger, &id).unwrap();
    (cut_off.end.is_none() && cut_off.records.len() == lines).then_some((ledger, id))
}

/// Lends what `plan` comes to, by a journal.
fn lend_it(host: &FakeHost, plan: &Plan, journal: &Journal, look: impl FnOnce()) -> Report {
    let lock = host.lock(&Claim::new("a test", host)).unwrap();
    let pace = Pace::Interleaved(7);
    lend(plan, Work { host, lock: lock.as_ref(), journal, watch: &Unwatched, pace }, look)
}

pub(crate) fn assert_same(host: &FakeHost, before: &Snapshot, what: &str) {
    let now = host.snapshot();
    let others = differing(before, &now);
    let shown: Vec<_> = others.iter().map(|name| (name, before.devices.get(name), now.devices.get(name))).collect();
    assert!(shown.is_empty(), "{what}: {shown:#?}");
}

pub(crate) fn undo_it(host: &FakeHost, operation: &Operation, journal: &Journal, seed: u64) -> Report {
    undo_but(host, operation, &Superseded::default(), (journal, seed))
}

pub(crate) fn undo_but(
    host: &FakeHost,
    operation: &Operation,
    superseded: &Superseded,
    (journal, seed): (&Journal, u64),
) -> Report {
    let lock = host.lock(&Claim::new("a test", host)).unwrap();
    let pace = Pace::Interleaved(seed);
    undo(operation, superseded, Work { host, lock: lock.as_ref(), journal, watch: &Unwatched, pace })
}

/// Cuts the undo of an operation off when it has written so many lines; says whether it had not ended before.
pub(crate) fn cut_undo(host: &FakeHost, of: (&Ledger, &OperationId), lines: usize, last_write: LastWrite) -> bool {
    let operation = Operation::read(of.0, of.1).unwrap();
    let mortal = Mortal { file: resumed(of.0, of.1), lines, host: host.clone(), last_write };
    undo_it(host, &operation, &Journal::resume_onto(&operation, Box::new(mortal)), 3);
    host.heal();
    Operation::read(of.0, of.1).unwrap().standing(Some("this boot")) != Standing::Undone
}

pub(crate) fn assert_undone(host: &FakeHost, ledger: &Ledger, id: &OperationId, what: &str) -> usize {
    let operation = Operation::read(ledger, id).unwrap();
    let journal = Journal::resume(ledger, &operation).unwrap();
    let report = undo_it(host, &operation, &journal, 5);
    for lane in &report.lanes {
        assert!(lane.remains.is_empty(), "{what}: {:?}", lane.remains);
    }
    assert_eq!(Operation::read(ledger, id).unwrap().standing(Some("this boot")), Standing::Undone, "{what}");
    journal.acts()
}

#[test]
fn cut_off_after_every_line_it_is_undone() {
    let (mut cuts, mut twice) = (0, 0);
    for case in CASES.iter().chain(&more_cases()) {
        let start = prepared(case);
        let before = start.snapshot();
        let plan = plan(&start, case, &case.wanted);
        for last_write in [LastWrite::Lost, LastWrite::Done] {
            for lines in 1.. {
                let host = start.copied();
                let Some((ledger, id)) = cut(&host, &plan, lines, last_write) else { break };
                let what = format!("{}, cut after line {lines}, last write {last_write:?}", case.name);
                let half_done = (host.copied(), ledger.copied().unwrap());
                let acts = assert_undone(&host, &ledger, &id, &what);
                assert_same(&host, &before, &what);
                cuts += 1;
                // The undo is cut off itself, and asked for again.
                for undo_lines in 1..=acts {
                    let (host, ledger) = (half_done.0.copied(), half_done.1.copied().unwrap());
                    cut_undo(&host, (&ledger, &id), undo_lines, last_write);
                    let what = format!("{what}; the undo cut after line {undo_lines}");
                    assert_undone(&host, &ledger, &id, &what);
                    assert_same(&host, &before, &what);
                    twice += 1;
                }
            }
        }
    }
    let plans = CASES.len() + more_cases().len();
    writeln!(
        std::io::stderr(),
        "{cuts} cuts in {plans} plans, and {twice} in their undos: each undone to the former state"
    )
    .unwrap();
    assert!(cuts > 100 && twice > 100, "{cuts} and {twice} cuts are too few to mean anything");
}

#[test]
fn what_is_lent_is_taken_back_and_undone_wherever_it_is_cut_off() {
    let (mut seen, mut cuts) = (0, 0);
    for case in CASES.iter().chain(&more_cases()) {
        let start = prepared(case);
        let before = start.snapshot();
        let plan = plan(&start, case, &case.wanted);
        let (host, ledger) = (start.copied(), Ledger::in_memory());
        let journal = Journal::begin(&ledger, "qualify", &header(&plan)).unwrap();
        let id = journal.id().unwrap().clone();
        let report = lend_it(&host, &plan, &journal, || {
            // What fell back, and falls back again, is as before.
            seen += usize::from(!differing(&before, &host.snapshot()).is_empty());
            assert!(Operation::read(&ledger, &id).unwrap().end.is_none(), "{}: it has ended", case.name);
        });
        assert!(report.lanes.iter().all(|lane| lane.remains.is_empty()), "{}: {report:?}", case.name);
        assert_same(&host, &before, case.name);
        assert_eq!(Operation::read(&ledger, &id).unwrap().standing(Some("this boot")), Standing::RolledBack);
        for lines in 1.. {
            let (host, ledger) = (start.copied(), Ledger::in_memory());
            let id = Journal::begin(&ledger, "qualify", &header(&plan)).unwrap().id().unwrap().clone();
            let begun = Operation::read(&ledger, &id).unwrap();
            let file = resumed(&ledger, &id);
            let mortal = Mortal { file, lines, host: host.clone(), last_write: LastWrite::Done };
            lend_it(&host, &plan, &Journal::resume_onto(&begun, Box::new(mortal)), || {});
            host.heal();
            let cut_off = Operation::read(&ledger, &id).unwrap();
            if cut_off.end.is_some() || cut_off.records.len() != lines {
                break;
            }
            let what = format!("{}, cut after line {lines}", case.name);
            assert_undone(&host, &ledger, &id, &what);
            assert_same(&host, &before, &what);
            cuts += 1;
        }
    }
    assert!(seen > 10 && cuts > 50, "{seen} were seen, and {cuts} cut off");
}

pub(crate) fn case() -> &'static Case {
    &CASES[4]
}

/// An operation that did what was wanted.
pub(crate) fn done(host: &FakeHost) -> (Ledger, OperationId) {
    let ledger = Ledger::in_memory();
    let plan = plan(host, case(), &case().wanted);
    let journal = Journal::begin(&ledger, "bind", &header(&plan)).unwrap();
    let report = act_on(host, &plan, &journal, 1);
    assert!(report.lanes.iter().all(|lane| lane.error.is_none()));
    (ledger, journal.id().unwrap().clone())
}

#[test]
fn one_that_has_ended_is_undone_when_it_is_named() {
    let host = prepared(case());
    let before = host.snapshot();
    let (ledger, id) = done(&host);
    assert!(unfinished(&ledger, Some("this boot")).unwrap().is_empty());
    assert_undone(&host, &ledger, &id, "by name");
    assert_same(&host, &before, "");
}

#[test]
fn it_is_known_by_its_boot() {
    let host = prepared(case());
    let plan = plan(&host, case(), &case().wanted);
    let (ledger, id) = cut(&host, &plan, 3, LastWrite::Done).unwrap();
    let operation = Operation::read(&ledger, &id).unwrap();
    assert_eq!(operation.standing(Some("this boot")), Standing::Unfinished);
    assert_eq!(operation.standing(Some("the next")), Standing::AnotherBoot);
    assert_eq!(operation.standing(None), Standing::AnotherBoot);
}

/// Writes the bytes of an operation as another ledger's.
fn with_bytes(bytes: &[u8]) -> (Ledger, OperationId, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let id: OperationId = "bind-1".parse().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test writes its fixture")]
    std::fs::write(directory.path().join("bind-1.jsonl"), bytes).unwrap();
    (Ledger::in_directory(directory.path()), id, directory)
}

#[test]
fn cut_anywhere_it_is_read_to_the_last_whole_line() {
    let host = prepared(case());
    let (ledger, id) = done(&host);
    let bytes = ledger.read(&id).unwrap();
    let whole = Operation::read(&ledger, &id).unwrap();
    let first = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    for end in 0..bytes.len() {
        let (ledger, id, _directory) = with_bytes(&bytes[..end]);
        match Operation::read(&ledger, &id) {
            Err(JournalError::Empty(_)) => assert!(end <= first, "cut at {end}"),
            read => {
                let read = read.unwrap_or_else(|error| panic!("cut at {end}: {error}"));
                assert!(whole.records.starts_with(&read.records) && read.end.is_none(), "cut at {end}");
                assert_eq!(read.torn, bytes[end - 1] != b'\n', "cut at {end}");
            }
        }
    }
}

#[test]
fn a_line_that_was_changed_or_taken_out_is_told() {
    let host = prepared(case());
    let (ledger, id) = done(&host);
    let text = String::from_utf8(ledger.read(&id).unwrap()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let mut without: Vec<&str> = lines.clone();
        without.remove(at);
        // What ends one line earlier cannot be told from what was cut off there.
        if at + 1 < lines.len() {
            let (ledger, id, _directory) = with_bytes((without.join("\n") + "\n").as_bytes());
            assert!(matches!(Operation::read(&ledger, &id), Err(JournalError::Edited { .. })), "without line {at}");
        }
        let changed = line.replacen("0000:", "0001:", 1);
        let mut with = lines.clone();
        with[at] = &changed;
        let (ledger, id, _directory) = with_bytes((with.join("\n") + "\n").as_bytes());
        let told = JournalError::Edited { file: ledger.file(&id), line: at + 1 };
        assert_eq!(Operation::read(&ledger, &id).err(), Some(told), "line {at} changed");
    }
}

/// A full disk.
struct Full;

impl Append for Full {
    fn append(&mut self, _line: &str) -> Result<(), Errno> {
        Err(Errno::ENOSPC)
    }
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let host = prepared(case());
    let before = host.snapshot();
    let plan = plan(&host, case(), &case().wanted);
    let report = act_on(&host, &plan, &Journal::onto(None, Box::new(Full), 0), 1);
    assert!(report.lanes.iter().all(|lane| lane.error.is_some() && lane.remains.is_empty()));
    assert_same(&host, &before, "");
    // Modules are loaded before anything else: that is written down too.
    assert!(host.writes().is_empty(), "{:?}", host.writes());
}

/// Asks to stop once some lines are written, and again after some more.
struct Asking {
    file: Box<dyn Append>,
    lines: Arc<Mutex<usize>>,
    at: Vec<usize>,
    host: FakeHost,
}

impl Append for Asking {
    fn append(&mut self, line: &str) -> Result<(), Errno> {
        let mut lines = self.lines.lock().unwrap();
        *lines += 1;
        (0..self.at.iter().filter(|at| **at == *lines).count()).for_each(|_| self.host.interrupt());
        self.file.append(line)
    }
}

fn interrupted_at(host: &FakeHost, at: Vec<usize>) -> (Report, Ledger, OperationId) {
    let ledger = Ledger::in_memory();
    let plan = plan(host, case(), &case().wanted);
    let id = Journal::begin(&ledger, "bind", &header(&plan)).unwrap().id().unwrap().clone();
    let begun = Operation::read(&ledger, &id).unwrap();
    let asking = Asking { file: resumed(&ledger, &id), lines: Arc::default(), at, host: host.clone() };
    let journal = Journal::resume_onto(&begun, Box::new(asking));
    (act_on(host, &plan, &journal, 11), ledger, id)
}

#[test]
fn asked_to_stop_it_takes_everything_back_and_asked_twice_it_stops_where_it_is() {
    let start = prepared(case());
    let before = start.snapshot();
    let mut stopped = 0;
    for line in 1..20 {
        let host = start.copied();
        let (report, ledger, id) = interrupted_at(&host, vec![line]);
        let operation = Operation::read(&ledger, &id).unwrap();
        if report.interrupts == 0 {
            break;
        }
        assert_same(&host, &before, &format!("asked at line {line}"));
        assert_eq!(operation.standing(Some("this boot")), Standing::RolledBack);
        let host = start.copied();
        let (report, ledger, id) = interrupted_at(&host, vec![line, line]);
        assert_eq!((report.interrupts, report.lanes.len()), (2, operation.header.lanes.len()));
        stopped += usize::from(host.snapshot() != before);
        let operation = Operation::read(&ledger, &id).unwrap();
        assert_eq!(operation.standing(Some("this boot")), Standing::Unfinished);
        // Another process takes it back.
        let host = host.copied();
        assert_undone(&host, &ledger, &id, "asked twice");
        assert_same(&host, &before, "");
    }
    assert!(stopped > 5, "it stopped halfway {stopped} times only");
}

/// An undo that came to its end but could not write that down is asked for again: nothing is left to write, above all no
/// host driver is taken away and given back.
#[test]
fn what_is_back_already_is_not_touched_again() {
    let mut again = 0;
    for case in CASES.iter().chain(&more_cases()) {
        let host = prepared(case);
        let before = host.snapshot();
        let plan = plan(&host, case, &case.wanted);
        let (ledger, id) = cut(&host, &plan, 2, LastWrite::Done).unwrap();
        assert_undone(&host, &ledger, &id, case.name);
        let bytes = ledger.read(&id).unwrap();
        let end = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
        let (ledger, _, _directory) = with_bytes(&bytes[..=end]);
        let writes = host.writes().len();
        assert_undone(&host, &ledger, &"bind-1".parse().unwrap(), case.name);
        assert_eq!(host.writes().len(), writes, "{}: {:?}", case.name, &host.writes()[writes..]);
        assert_same(&host, &before, case.name);
        again += 1;
    }
    assert_eq!(again, CASES.len() + more_cases().len());
}
