//! Errors, hints, exit codes: the one place.

use std::fmt;

use serde::Serialize;

use crate::check::Finding;
use crate::engine::StepError;
use crate::host::ledger::LedgerError;
use crate::host::{HostError, LockError, Verb};
use crate::model::selector::ResolveError;
use crate::model::{Errno, Warning};
use crate::plan::PlanError;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// It failed or was refused; the host is as it was.
    Failed = 1,
    /// The command line or a file is wrong; nothing was tried.
    Usage = 2,
    /// The host is not as it was.
    Changed = 3,
    /// `check` found something of severity warn or refuse.
    Found = 4,
}

/// Why a command did not do what was asked: what a person reads at 3 a.m., and what a program finds under `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Stable, one word: a finding's id, or one of those in docs/json.md.
    pub id: &'static str,
    /// What happened, to which object.
    pub message: String,
    /// What to do next.
    pub remedy: Option<String>,
    /// What was asked of the kernel, and its answer.
    #[serde(skip)]
    answer: Option<Box<Answer>>,
    /// The state that the host is in.
    #[serde(skip)]
    host: Option<String>,
    /// How the command ends.
    #[serde(skip)]
    pub exit: Exit,
}

/// What the kernel, or what was read from it, said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    asked: Option<String>,
    text: String,
}

impl Trouble {
    /// Trouble without details.
    pub fn new(exit: Exit, id: &'static str, message: impl fmt::Display) -> Self {
        Self { id, message: message.to_string(), remedy: None, answer: None, host: None, exit }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds what was asked of the kernel and its answer.
    #[must_use]
    pub fn kernel(mut self, error: &HostError) -> Self {
        let text = match (error.verb, &error.value, &error.said) {
            (Verb::Load, Some(said), _) => format!("{}: {said}", error.errno),
            (_, _, Some(said)) => format!("{}: {said}", error.errno),
            _ => error.errno.to_string(),
        };
        self.answer = Some(Box::new(Answer { asked: Some(error.asked()), text }));
        self
    }

    /// Adds what a step met.
    #[must_use]
    pub fn step(mut self, error: &StepError) -> Self {
        match error {
            StepError::Host(error) => self.kernel(error),
            other => {
                self.answer = Some(Box::new(Answer { asked: None, text: other.to_string() }));
                self
            }
        }
    }

    /// Adds the state of the host.
    #[must_use]
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.host = Some(state.into());
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message)?;
        let answer = self.answer.as_ref();
        let lines = [
            ("asked", answer.and_then(|answer| answer.asked.as_ref())),
            ("answer", answer.map(|answer| &answer.text)),
            ("host", self.host.as_ref()),
            ("hint", self.remedy.as_ref()),
        ];
        for (name, text) in lines {
            if let Some(text) = text {
                writeln!(f, "  {name}: {text}")?;
            }
        }
        Ok(())
    }
}

impl From<HostError> for Trouble {
    fn from(error: HostError) -> Self {
        if error.verb == Verb::Trust {
            return super::hooks::untrusted(&error);
        }
        let trouble = Self::new(Exit::Failed, "host-unreadable", "the host could not be read").kernel(&error);
        match error.errno {
            Errno::EACCES | Errno::EPERM => trouble.remedy("run it as root"),
            _ => trouble,
        }
    }
}

impl From<LedgerError> for Trouble {
    fn from(error: LedgerError) -> Self {
        let (id, remedy) = match error.errno {
            Errno::ENOENT if error.verb == "read" => ("no-such-operation", "see what there is: vfioadm log"),
            Errno::EACCES | Errno::EPERM => ("not-root", "run it as root"),
            Errno::ENOSPC => ("no-journal", "make room: nothing is done that cannot be written down first"),
            _ => (
                "no-journal",
                "make sure that its directory can be written: nothing is done that cannot be written down first",
            ),
        };
        Self::new(Exit::Failed, id, format!("the journal could not be used: {error}"))
            .state("as it was; nothing was tried")
            .remedy(remedy)
    }
}

impl From<LockError> for Trouble {
    fn from(error: LockError) -> Self {
        let (id, remedy) = match &error {
            LockError::Held(_) => {
                ("locked", "try again when it has ended, or have vfioadm wait for it: --wait-lock SECONDS")
            }
            LockError::Untrusted { .. } => {
                ("lock-untrusted", "see who made it; remove it, and vfioadm makes it anew for root alone")
            }
            LockError::Unavailable { errno: Errno::EACCES | Errno::EPERM, .. } => ("not-root", "run it as root"),
            LockError::Unavailable { .. } => ("lock-unavailable", "make sure that /run is mounted and can be written"),
        };
        Self::new(Exit::Failed, id, format_args!("no change can be made: {error}")).state("as it was").remedy(remedy)
    }
}

impl From<ResolveError> for Trouble {
    fn from(error: ResolveError) -> Self {
        Self::new(Exit::Usage, "no-such-device", error).remedy("see what is here: vfioadm list")
    }
}

impl From<PlanError> for Trouble {
    fn from(error: PlanError) -> Self {
        let message = error.to_string();
        let (id, remedy) = match error {
            PlanError::NoSuchDevice(_) => ("no-such-device", String::from("see what is here: vfioadm list")),
            PlanError::NoCandidate(bdf) => (
                "no-candidate",
                format!(
                    "its kernel needs CONFIG_VFIO_PCI, and /lib/modules must be that kernel's; see: vfioadm match {bdf}"
                ),
            ),
            PlanError::NoSuchDriver { nearest: Some(nearest), .. } => {
                ("no-such-driver", format!("did you mean {nearest}"))
            }
            PlanError::NoSuchDriver { .. } => {
                ("no-such-driver", String::from("see what is registered: ls /sys/bus/pci/drivers"))
            }
        };
        Self::new(Exit::Failed, id, message).state("as it was").remedy(remedy)
    }
}

impl From<&Finding> for Trouble {
    fn from(finding: &Finding) -> Self {
        Self::new(Exit::Failed, finding.id.as_str(), &finding.message).state("as it was; nothing was tried").remedy(
            match finding.is_worth_lifting() {
                true => format!("{}; or accept it with --allow {}", finding.remedy, finding.id),
                false => finding.remedy.clone(),
            },
        )
    }
}

/// A warning as one line.
pub(super) fn warning_line(warning: &Warning) -> String {
    format!("warning: {warning}")
}
