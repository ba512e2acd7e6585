//! What the guest tells the lab, one JSON record per line on a serial port of its own.
//!
//! The console is for people: the kernel prints there whenever it likes, in the middle of a line if it must. Results
//! therefore never travel on it.

use serde::{Deserialize, Serialize};

/// The port that carries the records, as the guest sees it.
pub const PORT: &str = "/dev/ttyS1";

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It held.
    Pass,
    /// It did not, or it panicked, or it overran its deadline.
    Fail,
    /// This kernel or this machine cannot show it.
    Skip,
}

/// One thing the guest has to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// User space is up and every module asked for is loaded.
    Ready {
        /// `uname -r`.
        kernel: String,
        /// Seconds since the kernel's clock started.
        uptime: f64,
    },
    /// A suite begins.
    SuiteStart {
        /// Its name.
        suite: String,
        /// How many cases the filter left.
        cases: usize,
    },
    /// A case begins: what was running when a guest falls silent.
    CaseStart {
        /// The suite's name.
        suite: String,
        /// The case's name.
        case: String,
        /// How long the guest itself gives it.
        deadline_seconds: f64,
    },
    /// A case ended.
    Case {
        /// The suite's name.
        suite: String,
        /// The case's name.
        case: String,
        /// How.
        outcome: Outcome,
        /// How long it took.
        seconds: f64,
        /// Why it failed or was skipped; what it saw, when it passed and has something to say.
        detail: String,
    },
    /// A suite ended.
    SuiteEnd {
        /// Its name.
        suite: String,
    },
    /// A text file made in the guest, for the lab to keep.
    File {
        /// What it is.
        name: String,
        /// What is in it.
        text: String,
    },
    /// What the guest asks the lab to do with its machine: a line for QEMU's monitor.
    Monitor {
        /// `device_del virtio`.
        line: String,
    },
    /// The guest's last word before it resets the machine, as if the power had been cut. It boots again.
    Cut {
        /// Amid what.
        told: String,
    },
    /// The guest cannot do what it was booted for.
    Broken {
        /// Why.
        reason: String,
    },
    /// Nothing more will come; the guest powers off.
    End,
}
