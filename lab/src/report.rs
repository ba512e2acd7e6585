//! What people see of a run: phases as they happen, and counts at the end.

use vfioadm_wire::Outcome;

use crate::say;

/// A step of a run. The rig tells it, the report prints it, and tests of the rig compare it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// QEMU was started.
    BootStart,
    /// The console printed a line before user space was up.
    Boot(String),
    /// User space is up: the kernel's release, and seconds on the guest's clock.
    BootEnd {
        release: String,
        uptime: f64,
    },
    SuiteStart {
        suite: String,
        cases: usize,
    },
    Case {
        suite: String,
        case: String,
        outcome: Outcome,
        seconds: f64,
        detail: String,
    },
    SuiteEnd {
        suite: String,
    },
    /// The guest resets the machine, amid this.
    Cut(String),
    /// The guest said that it is done, and powered off.
    End,
}

/// How many cases ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Tally {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Pass => &mut self.passed,
            Outcome::Fail => &mut self.failed,
            Outcome::Skip => &mut self.skipped,
        } += 1;
    }

    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    pub(crate) fn total(self) -> usize {
        self.passed + self.failed + self.skipped
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Prints a phase.
pub(crate) fn show(phase: &Phase) {
    match phase {
        Phase::BootStart | Phase::Boot(_) | Phase::SuiteEnd { .. } | Phase::End => {}
        Phase::Cut(told) => say(format_args!("  power cut {told}")),
        Phase::BootEnd { release, uptime } => say(format_args!("guest is up: Linux {release}, after {uptime:.1} s")),
        Phase::SuiteStart { suite, cases } => say(format_args!("{suite}: {cases} cases")),
        Phase::Case { suite, case, outcome, seconds, detail } => {
            let word = match outcome {
                Outcome::Pass => "ok  ",
                Outcome::Fail => "FAIL",
                Outcome::Skip => "skip",
            };
            let mut line = format!("  {word} {suite}/{case}  {seconds:.2} s");
            for part in detail.lines() {
                line.push_str("\n         ");
                line.push_str(part);
            }
            say(format_args!("{line}"));
        }
    }
}
