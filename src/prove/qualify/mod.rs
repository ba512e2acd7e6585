//! A conformance suite for VFIO drivers: cases, each of which holds a device to one rule of the kernel's interface.
//!
//! Each case opens the device anew and closes it; the last ones also take it, and its PF, from their drivers, by the power of a [`Rig`]. A case that stands on another (`after`) is not tried when that one did not hold:
//! so one fault is told once, by the case whose rule it breaks.

mod bench;
mod info;
mod loading;
mod logging;
mod probing;
mod rig;
mod sessions;
mod states;
mod streams;

use std::collections::BTreeSet;

pub use bench::{Bench, Linked, Open, Table};
pub use rig::{Hindrance, Rig, Situation, Who};

use crate::host::HostError;
use crate::host::opening::OpenError;

/// One rule, and how a device is held to it.
pub struct Case {
    /// Stable, for whoever counts.
    pub id: &'static str,
    /// What the kernel says, and where.
    pub rule: &'static str,
    /// The cases without which this one says nothing.
    after: &'static [&'static str],
    run: fn(&Bench<'_>) -> Told,
}

/// What was seen when it holds, or why not.
type Told = Result<String, Off>;

/// Why a case does not hold.
#[derive(Debug)]
enum Off {
    /// The rule is broken.
    Fail(String),
    /// The rule is broken as it is known to be of this driver.
    Quirk(String),
    /// The rule is not about this device.
    NotApplicable(String),
}

impl From<HostError> for Off {
    fn from(error: HostError) -> Self {
        Self::Fail(error.to_string())
    }
}

impl From<OpenError> for Off {
    fn from(error: OpenError) -> Self {
        Self::Fail(format!("it was not opened: {error}"))
    }
}

/// Whether a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Pass,
    /// It does not.
    Fail,
    /// It does not, as is known of this driver.
    Quirk,
    /// It is not about this device, or was not tried.
    NotApplicable,
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Quirk => "quirk",
            Self::NotApplicable => "not_applicable",
        }
    }
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which.
    pub id: &'static str,
    /// Its rule.
    pub rule: &'static str,
    /// Whether it holds.
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: String,
}

/// What a case does to a device beyond opening it, which resets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// Nothing: it asks.
    None,
    /// What is in it is lost: it is sent through its states, loaded and reset.
    Content,
    /// It is taken from its driver and given back, and so is its PF, or the peer.
    Binding,
}

/// All cases, in the order in which they are tried.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    by_harm().map(|(_, case)| case)
}

fn by_harm() -> impl Iterator<Item = (Harm, &'static Case)> {
    [
        (Harm::None, info::CASES),
        (Harm::Content, states::CASES),
        (Harm::Content, streams::CASES),
        (Harm::Content, loading::CASES),
        (Harm::Content, sessions::CASES),
        (Harm::Content, logging::CASES),
        (Harm::Binding, probing::CASES),
    ]
    .into_iter()
    .flat_map(|(harm, cases)| cases.iter().map(move |case| (harm, case)))
}

/// Why a case is not tried on a device that is not to be harmed.
fn spared(harm: Harm, bench: &Bench<'_>) -> Option<&'static str> {
    match (harm, bench.rig) {
        (Harm::None, _) | (_, Some(_)) => None,
        (Harm::Content, None) => Some("needs --yes: what is in the device would be lost"),
        (Harm::Binding, None) => Some("needs --yes: devices would be taken from their drivers and given back"),
    }
}

/// Holds a device to every rule, and tells of each as it comes.
pub fn qualify(bench: &Bench<'_>, mut told: impl FnMut(&Outcome)) -> Vec<Outcome> {
    let mut broken: BTreeSet<&'static str> = BTreeSet::new();
    let mut outcomes = Vec::new();
    for (harm, case) in by_harm() {
        let missing = case.after.iter().find(|id| broken.contains(*id));
        let (verdict, evidence) = match (missing, spared(harm, bench)) {
            (Some(id), _) => (Verdict::NotApplicable, format!("not tried: {id} did not hold")),
            (None, Some(reason)) => (Verdict::NotApplicable, reason.to_owned()),
            (None, None) => match (case.run)(bench) {
                Ok(evidence) => (Verdict::Pass, evidence),
                Err(Off::Fail(evidence)) => (Verdict::Fail, evidence),
                Err(Off::Quirk(evidence)) => (Verdict::Quirk, evidence),
                Err(Off::NotApplicable(evidence)) => (Verdict::NotApplicable, evidence),
            },
        };
        // What stands on a case that was not tried has nothing to stand on either.
        if verdict == Verdict::Fail || missing.is_some() {
            broken.insert(case.id);
        }
        let outcome = Outcome { id: case.id, rule: case.rule, verdict, evidence };
        told(&outcome);
        outcomes.push(outcome);
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_stands_on_cases_before_it() {
        let mut seen = BTreeSet::new();
        for case in cases() {
            for id in case.after {
                assert!(seen.contains(id), "{} stands on {id}", case.id);
            }
            assert!(seen.insert(case.id), "{} is there twice", case.id);
        }
    }
}
