//! Tests of the whole: words on recorded hosts, faults on the fake kernel. The contract's tests are `lab/contract`'s.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod bad_create;
mod bad_input;
mod beside;
mod boot;
mod create;
mod faults;
mod history;
mod hooks;
mod idle;
mod import;
mod in_use;
mod journal;
mod made;
mod odd_hosts;
mod plans;
mod ports;
mod protect;
mod prove;
mod qualify;
mod readme;
mod saved;
mod types;
mod undo;
mod variants;
mod wants;
mod words;
mod worker;

use std::ffi::OsString;

use vfioadm::cli::{Env, Terminal, run};

/// What a command said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "snapshot what was said or assert how it ended"]
pub struct Said {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The exit status.
    pub exit: u8,
}

impl Said {
    /// The object that was printed.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self}"))
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pid = std::process::id().to_string();
        let text = |text: &str| text.replace(&format!("-{pid}\""), "-PID\"");
        write!(f, "{}--- stderr\n{}--- exit {}\n", text(&self.out), text(&self.err), self.exit)
    }
}

/// Runs a command line, without the program's name, in this process.
pub fn vfioadm(line: &str) -> Said {
    vfioadm_with(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
}

/// The same with words that hold spaces or worse.
pub fn vfioadm_with(words: &[OsString]) -> Said {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once(OsString::from("vfioadm")).chain(words.iter().cloned());
    let exit = run(args, &mut Env { out: &mut out, err: &mut err, terminal: Terminal::default() });
    Said { out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap(), exit }
}
