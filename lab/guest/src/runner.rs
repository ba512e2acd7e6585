//! Runs suites: each case under a deadline, a panic is a failure, and the machine is put back after every case.

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use vfioadm::host::linux::Linux;
use vfioadm_contract::Ground;
use vfioadm_wire::{Outcome, Record};

use crate::channel::Channel;
use crate::machine::Snapshot;
use crate::orders::{Counts, Orders};
use crate::scenarios::tool::JOURNALS;
use crate::sysfs::names;
use crate::{bench, boot, cut, kmod, say, scale, scenarios};

/// For one case, unless it says otherwise; the slowest waits for a PF's VFs to come and go, a second each time.
const DEADLINE: Duration = Duration::from_secs(60);

/// For one about the lab's own variants: a probe outlasts a bind there.
const VARIANT_DEADLINE: Duration = Duration::from_secs(240);

/// What it keeps beside its journals.
const NOTES: [&str; 3] = ["pool", "hooked", "applied"];

/// The suite whose cases look at what a boot has left, one after the other: nothing is put back between them.
const BOOT: &str = "boot";
/// The same where dracut has made the initramfs.
const BOOT_DRACUT: &str = "boot-dracut";

/// Why a case did not pass.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It does not hold.
    Fail(String),
    /// It cannot be shown here.
    Skip(String),
}

impl From<String> for Stop {
    fn from(reason: String) -> Stop {
        Stop::Fail(reason)
    }
}

/// What a case returns.
pub(crate) type Verdict = Result<(), Stop>;

/// A case: what must hold, in a name, and the function that shows it.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    show: Show,
    deadline: Duration,
}

/// How a case is shown.
#[derive(Clone, Copy)]
enum Show {
    /// On this machine, by the shipped binary.
    Scenario(fn(Counts) -> Verdict),
    /// On this machine, with something to tell when it holds.
    Told(fn(Counts) -> Result<String, Stop>),
    /// On whatever machine: here, on the real kernel, with the modules that it asks for.
    Contract(&'static vfioadm_contract::Case, Modules),
}

/// Which modules there are.
#[derive(Clone, Copy)]
enum Modules {
    /// The kernel's own.
    Kernel,
    /// And the lab's.
    Lab,
}

impl Case {
    /// A belief about the kernel.
    fn contract(case: &'static vfioadm_contract::Case) -> Case {
        Case { name: case.name, show: Show::Contract(case, Modules::Kernel), deadline: DEADLINE }
    }

    /// A belief about the lab's own variants.
    fn variant(case: &'static vfioadm_contract::Case) -> Case {
        Case { name: case.name, show: Show::Contract(case, Modules::Lab), deadline: VARIANT_DEADLINE }
    }

    /// A scenario.
    pub(crate) const fn new(name: &'static str, run: fn(Counts) -> Verdict) -> Case {
        Case { name, show: Show::Scenario(run), deadline: DEADLINE }
    }

    /// A scenario that tells what it saw.
    pub(crate) const fn told(name: &'static str, run: fn(Counts) -> Result<String, Stop>) -> Case {
        Case { name, show: Show::Told(run), deadline: DEADLINE }
    }

    /// The same with another deadline.
    pub(crate) const fn within(self, seconds: u64) -> Case {
        Case { deadline: Duration::from_secs(seconds), ..self }
    }

    /// What there is to tell when it holds.
    fn run(&self, counts: Counts) -> Result<String, Stop> {
        match self.show {
            Show::Scenario(run) => run(counts).map(|()| String::new()),
            Show::Told(run) => run(counts),
            Show::Contract(case, modules) => {
                if matches!(modules, Modules::Lab) {
                    kmod::install()?;
                }
                let host = Linux::new().with_workers();
                let held = Ground::new(&host).and_then(|ground| (case.run)(&ground));
                held.map_err(|reason| format!("{reason}\nrule: {}", case.rule))?;
                Ok(String::new())
            }
        }
    }
}

/// Runs what is ordered.
pub(crate) fn run(orders: &Orders, channel: &mut Channel) -> ExitCode {
    let mut green = true;
    for suite in &orders.suites {
        let Some(cases) = suite_cases(suite) else {
            let reason = format!("no suite {suite} in this guest");
            say(format_args!("{reason}"));
            channel.send(&Record::Broken { reason });
            return ExitCode::from(2);
        };
        let cases: Vec<_> =
            cases.into_iter().filter(|case| format!("{suite}/{}", case.name).contains(&orders.filter)).collect();
        green &= Run { suite, counts: orders.counts, channel }.suite(&cases);
    }
    if green { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn suite_cases(suite: &str) -> Option<Vec<Case>> {
    match suite {
        "scenarios" => Some(scenarios::cases()),
        "scale" => Some(scale::CASES.to_vec()),
        "cut" => Some(cut::CASES.to_vec()),
        BOOT => Some(boot::CASES.to_vec()),
        BOOT_DRACUT => Some(boot::OF_THE_INITRAMFS.to_vec()),
        "bench" => Some(bench::CASES.to_vec()),
        "contract" => {
            let own = vfioadm_contract::variant_cases().map(Case::variant);
            Some(vfioadm_contract::cases().map(Case::contract).chain(own).collect())
        }
        _ => None,
    }
}

/// What vfioadm noted in a case, journals, pools and hooks, is of a machine that was put back behind its back.
fn forget_notes() {
    let kept = Path::new(JOURNALS);
    for name in names(kept).iter().filter(|name| name.ends_with(".jsonl")) {
        drop(std::fs::remove_file(kept.join(name)));
    }
    for name in NOTES {
        drop(std::fs::remove_dir_all(kept.join(name)));
    }
}

struct Run<'a> {
    suite: &'a str,
    counts: Counts,
    channel: &'a mut Channel,
}

impl Run<'_> {
    fn suite(&mut self, cases: &[Case]) -> bool {
        let suite = self.suite.to_owned();
        self.channel.send(&Record::SuiteStart { suite: suite.clone(), cases: cases.len() });
        let (mut green, mut lost) = (true, None);
        let found = Snapshot::take();
        for case in cases {
            self.channel.send(&Record::CaseStart {
                suite: suite.clone(),
                case: case.name.to_owned(),
                deadline_seconds: case.deadline.as_secs_f64(),
            });
            let started = Instant::now();
            let verdict = match &lost {
                Some(reason) => Err(Stop::Fail(format!("not run: {reason}"))),
                None => self.case(case, &found, &mut lost),
            };
            green &= !matches!(verdict, Err(Stop::Fail(_)));
            self.report(case.name, verdict, started.elapsed());
        }
        self.channel.send(&Record::SuiteEnd { suite });
        green
    }

    /// Runs one case; `lost` says why no other can follow when the machine is no longer known.
    fn case(&self, case: &Case, found: &Snapshot, lost: &mut Option<String>) -> Result<String, Stop> {
        let (sender, receiver) = channel();
        let (case, counts) = (*case, self.counts);
        let thread = thread::spawn(move || drop(sender.send(case.run(counts))));
        let verdict = match receiver.recv_timeout(case.deadline) {
            Ok(verdict) => verdict,
            Err(RecvTimeoutError::Disconnected) => {
                let payload = thread.join().err();
                let words = payload.as_ref().and_then(|any| {
                    any.downcast_ref::<String>().map(String::as_str).or_else(|| any.downcast_ref::<&str>().copied())
                });
                Err(Stop::Fail(format!("the case panicked: {}", words.unwrap_or("without a word"))))
            }
            Err(RecvTimeoutError::Timeout) => {
                *lost = Some(format!("{} is still running, and what it does to the machine is unknown", case.name));
                return Err(Stop::Fail(format!("not done after {} s", case.deadline.as_secs())));
            }
        };
        if [BOOT, BOOT_DRACUT].contains(&self.suite) {
            return verdict;
        }
        if let Err(reason) = found.restore() {
            *lost = Some(format!("the machine could not be put back after {}", case.name));
            let before = match verdict {
                Err(Stop::Fail(before)) => format!("{before}\n"),
                _ => String::new(),
            };
            return Err(Stop::Fail(format!("{before}{reason}")));
        }
        forget_notes();
        verdict
    }

    fn report(&mut self, case: &str, verdict: Result<String, Stop>, took: Duration) {
        let (outcome, detail) = match verdict {
            Ok(told) => (Outcome::Pass, told),
            Err(Stop::Fail(reason)) => (Outcome::Fail, reason),
            Err(Stop::Skip(reason)) => (Outcome::Skip, reason),
        };
        let seconds = took.as_secs_f64();
        say(format_args!("{outcome:?} {}/{case} {seconds:.2} s {detail}", self.suite));
        self.channel.send(&Record::Case {
            suite: self.suite.to_owned(),
            case: case.to_owned(),
            outcome,
            seconds,
            detail,
        });
    }
}
