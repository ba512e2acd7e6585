//! Follows a machine: the console into its log, the records into phases and counts, and silence into an error.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vfioadm_wire::Record;

use crate::monitor::Monitor;
use crate::report::{Phase, Tally};

/// Between two records when no case is running.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// What a case gets beyond the deadline that the guest itself holds it to.
const CASE_GRACE: Duration = Duration::from_secs(30);
/// For records still in the pipe when QEMU has gone.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// What happened in a machine.
#[derive(Debug)]
pub(crate) enum Event {
    /// The console printed a line.
    Console(String),
    /// QEMU closed the console: it has ended.
    ConsoleEnd,
    /// The guest said something.
    Record(Record),
    /// The records ended, with the reason when it is a bad one.
    RecordsEnd(Option<String>),
}

/// Copies the console to its log and hands on its lines, until QEMU closes it.
pub(crate) fn follow_console(mut from: impl Read, mut log: fs::File, to: &Sender<Event>) {
    let (mut buffer, mut line) = ([0; 4096], Vec::new());
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        // A full disk must not stop the run; the tail then shows what there is.
        drop(log.write_all(&buffer[..read]));
        for byte in &buffer[..read] {
            if *byte == b'\n' {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if to.send(Event::Console(text)).is_err() {
                    return;
                }
            } else {
                line.push(*byte);
            }
        }
    }
    drop(to.send(Event::ConsoleEnd));
}

/// Hands on the guest's records, until QEMU closes their socket.
pub(crate) fn follow_records(listener: &UnixListener, to: &Sender<Event>) {
    let Ok((stream, _)) = listener.accept() else { return drop(to.send(Event::RecordsEnd(None))) };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(record) => {
                if to.send(Event::Record(record)).is_err() {
                    return;
                }
            }
            Err(error) => {
                let reason = format!("the guest sent a record that is none: {error}: {line:?}");
                return drop(to.send(Event::RecordsEnd(Some(reason))));
            }
        }
    }
    drop(to.send(Event::RecordsEnd(None)));
}

/// When the lab stops waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// From starting QEMU to user space.
    pub(crate) boot: Duration,
    /// For the whole run.
    pub(crate) whole: Duration,
}

/// Reads events until the guest has said `End`.
pub(crate) struct Follow<'a> {
    events: &'a Receiver<Event>,
    deadlines: Deadlines,
    /// Where a file goes that the guest sends.
    keep: Option<&'a Path>,
    tell: &'a mut dyn FnMut(&Phase),
    monitor: Option<Monitor>,
    up: bool,
    panic: Option<String>,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(
        events: &'a Receiver<Event>,
        deadlines: Deadlines,
        keep: Option<&'a Path>,
        tell: &'a mut dyn FnMut(&Phase),
    ) -> Follow<'a> {
        Follow { events, deadlines, keep, tell, monitor: None, up: false, panic: None }
    }

    /// Has the guest's lines carried out there.
    pub(crate) fn with_monitor(self, monitor: Monitor) -> Follow<'a> {
        Follow { monitor: Some(monitor), ..self }
    }

    /// Counts cases until `End`.
    pub(crate) fn run(mut self) -> Result<Tally> {
        let started = Instant::now();
        let (boot, whole) = (started + self.deadlines.boot, started + self.deadlines.whole);
        let mut waiting_for = "user space".to_owned();
        let mut until = boot;
        let mut gone = false;
        let mut tally = Tally::default();
        loop {
            let event = match self.events.recv_timeout(until.min(whole).saturating_duration_since(Instant::now())) {
                Ok(event) => event,
                Err(_) if gone => return Err(self.died(&waiting_for)),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= whole => {
                    bail!("not done after {} s, waiting for {waiting_for}", self.deadlines.whole.as_secs())
                }
                Err(_) => bail!("the guest fell silent while the lab waited for {waiting_for}"),
            };
            let record = match event {
                Event::Console(line) => {
                    if line.contains("Kernel panic") {
                        self.panic = Some(line.clone());
                    }
                    if !self.up {
                        (self.tell)(&Phase::Boot(line));
                    }
                    continue;
                }
                Event::ConsoleEnd => {
                    (gone, until) = (true, Instant::now() + DRAIN_DEADLINE);
                    continue;
                }
                Event::RecordsEnd(Some(reason)) => bail!(reason),
                Event::RecordsEnd(None) => {
                    (gone, until) = (true, Instant::now() + DRAIN_DEADLINE);
                    continue;
                }
                // Amid a case, whose deadline stays.
                Event::Record(Record::Monitor { line }) => {
                    self.monitor.as_mut().context("the guest asks for a monitor, and there is none")?.run(&line)?;
                    continue;
                }
                Event::Record(record) => record,
            };
            let (wait, next) = match &record {
                Record::CaseStart { suite, case, deadline_seconds, .. } => (
                    Duration::from_secs_f64(deadline_seconds.clamp(0.0, 3600.0)) + CASE_GRACE,
                    format!("{suite}/{case}"),
                ),
                Record::Cut { .. } => (self.deadlines.boot, "user space, after the power cut".to_owned()),
                _ => (IDLE_DEADLINE, "the guest's next word".to_owned()),
            };
            if !gone {
                (until, waiting_for) = (Instant::now() + wait, next);
            }
            if self.record(record, &mut tally)? {
                return Ok(tally);
            }
        }
    }

    /// Takes in a record; true when it was the last.
    fn record(&mut self, record: Record, tally: &mut Tally) -> Result<bool> {
        match record {
            Record::Ready { .. } if self.up => bail!(match &self.panic {
                Some(panic) => format!("the guest panicked, and booted again: {panic}"),
                None => "the guest booted again, and nobody cut its power".to_owned(),
            }),
            Record::Ready { kernel: release, uptime } => {
                self.up = true;
                (self.tell)(&Phase::BootEnd { release, uptime });
            }
            Record::SuiteStart { suite, cases } => (self.tell)(&Phase::SuiteStart { suite, cases }),
            Record::CaseStart { .. } | Record::Monitor { .. } => {}
            Record::Case { suite, case, outcome, seconds, detail } => {
                tally.count(outcome);
                (self.tell)(&Phase::Case { suite, case, outcome, seconds, detail });
            }
            Record::SuiteEnd { suite } => (self.tell)(&Phase::SuiteEnd { suite }),
            Record::Cut { told } => {
                self.up = false;
                (self.tell)(&Phase::Cut(told));
            }
            Record::File { name, text } => {
                let path = self.keep.with_context(|| format!("the guest sent {name}, unasked"))?;
                fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
            }
            Record::Broken { reason } => bail!("the guest gave up: {reason}"),
            Record::End => {
                (self.tell)(&Phase::End);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn died(&self, waiting_for: &str) -> anyhow::Error {
        match &self.panic {
            Some(panic) => anyhow::anyhow!("the guest panicked while the lab waited for {waiting_for}: {panic}"),
            None => anyhow::anyhow!("QEMU ended while the lab waited for {waiting_for}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use vfioadm_wire::Outcome;

    use super::*;

    fn follow(events: Vec<Event>) -> (Result<Tally>, Vec<Phase>) {
        let (sender, receiver) = channel();
        events.into_iter().for_each(|event| sender.send(event).unwrap());
        drop(sender);
        let mut phases = Vec::new();
        let mut tell = |phase: &Phase| phases.push(phase.clone());
        let deadlines = Deadlines { boot: Duration::from_secs(5), whole: Duration::from_secs(5) };
        let ran = Follow::new(&receiver, deadlines, None, &mut tell).run();
        (ran, phases)
    }

    fn started(case: &str) -> Event {
        let (suite, case) = ("s".to_owned(), case.to_owned());
        Event::Record(Record::CaseStart { suite, case, deadline_seconds: 1.0 })
    }

    fn ended(case: &str, outcome: Outcome) -> Event {
        let (suite, case) = ("s".to_owned(), case.to_owned());
        Event::Record(Record::Case { suite, case, outcome, seconds: 0.0, detail: String::new() })
    }

    #[test]
    fn cases_are_counted_until_the_end() {
        let (ran, phases) = follow(vec![
            Event::Console("Linux version".to_owned()),
            Event::Record(Record::Ready { kernel: "7".to_owned(), uptime: 1.0 }),
            Event::Console("chatter".to_owned()),
            started("a"),
            ended("a", Outcome::Pass),
            started("b"),
            ended("b", Outcome::Fail),
            Event::Record(Record::End),
        ]);
        assert_eq!(ran.unwrap(), Tally { passed: 1, failed: 1, skipped: 0 });
        assert_eq!(phases.len(), 5, "{phases:?}");
        assert_eq!(phases[0], Phase::Boot("Linux version".to_owned()));
    }

    #[test]
    fn a_machine_that_ends_early_names_the_case_it_ended_in() {
        let (ran, _) = follow(vec![started("a"), Event::ConsoleEnd]);
        assert_eq!(ran.unwrap_err().to_string(), "QEMU ended while the lab waited for s/a");
    }

    #[test]
    fn what_was_still_in_the_pipe_counts() {
        let (ran, _) = follow(vec![Event::ConsoleEnd, ended("a", Outcome::Pass), Event::Record(Record::End)]);
        assert_eq!(ran.unwrap().passed, 1);
    }

    #[test]
    fn a_machine_may_boot_again_after_a_power_cut_and_not_otherwise() {
        let ready = || Event::Record(Record::Ready { kernel: "7".to_owned(), uptime: 1.0 });
        let cut = Event::Record(Record::Cut { told: "amid a bind".to_owned() });
        let end = || Event::Record(Record::End);
        let (ran, phases) =
            follow(vec![ready(), started("a"), cut, ready(), started("a"), ended("a", Outcome::Pass), end()]);
        assert_eq!(ran.unwrap().passed, 1);
        assert!(phases.contains(&Phase::Cut("amid a bind".to_owned())), "{phases:?}");
        let (ran, _) = follow(vec![ready(), started("a"), ready(), end()]);
        assert_eq!(ran.unwrap_err().to_string(), "the guest booted again, and nobody cut its power");
    }

    #[test]
    fn a_guest_that_asks_for_a_monitor_where_there_is_none_is_told_so() {
        let (ran, _) = follow(vec![Event::Record(Record::Monitor { line: "device_del virtio".to_owned() })]);
        assert_eq!(ran.unwrap_err().to_string(), "the guest asks for a monitor, and there is none");
    }

    #[test]
    fn a_panic_is_quoted() {
        let line = "[    1.0] Kernel panic - not syncing: Attempted to kill init!".to_owned();
        let (ran, _) = follow(vec![Event::Console(line), Event::ConsoleEnd, Event::RecordsEnd(None)]);
        assert!(ran.unwrap_err().to_string().ends_with("Attempted to kill init!"));
    }

    #[test]
    fn a_guest_that_gives_up_says_why() {
        let (ran, _) = follow(vec![Event::Record(Record::Broken { reason: "no modules".to_owned() })]);
        assert_eq!(ran.unwrap_err().to_string(), "the guest gave up: no modules");
    }
}
