//! What is told while the host is changed, and how the record of it is closed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Session, ignore_closed};
use crate::engine::history::{needed, prune};
use crate::engine::journal::Journal;
use crate::engine::{Progress, Watch};
use crate::host::ledger::Ledger;
use crate::host::path::Root;
use crate::host::{Clock, Host, HostError, HostPath, Read, optional};
use crate::model::{Errno, Warning};

/// Keeps every change, and prints it with `-v`; on a terminal, says how far long work has come.
pub(super) struct Narrator<'s, 'a, 'e> {
    clock: &'s dyn Clock,
    started: Duration,
    told: Mutex<Told<'s, 'a, 'e>>,
}

struct Told<'s, 'a, 'e> {
    session: &'s mut Session<'a, 'e>,
    lines: Vec<String>,
    /// When progress was last shown.
    shown: Option<Duration>,
}

/// Work that takes less is not worth a line, and a line is not worth more than so many writes.
const BETWEEN_LINES: Duration = Duration::from_millis(250);

impl<'s, 'a, 'e> Narrator<'s, 'a, 'e> {
    pub(super) fn new(session: &'s mut Session<'a, 'e>, host: &'s dyn Host) -> Self {
        let told = Told { session, lines: Vec::new(), shown: None };
        Self { clock: host, started: host.now(), told: Mutex::new(told) }
    }

    /// Every change, as a line that root could paste.
    pub(super) fn into_lines(self) -> Vec<String> {
        let told = self.told.into_inner().unwrap_or_else(PoisonError::into_inner);
        if told.shown.is_some() {
            ignore_closed(write!(told.session.env.err, "\r\x1b[K"));
        }
        told.lines
    }
}

impl Watch for Narrator<'_, '_, '_> {
    fn change(&self, act: &str, refused: Option<Errno>) {
        let line = match refused {
            None => act.to_owned(),
            Some(errno) => format!("{act}   # refused: {errno}"),
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.session.global.verbose {
            ignore_closed(writeln!(told.session.env.err, "{line}"));
        }
        told.lines.push(line);
    }

    fn progress(&self, Progress { ended, all }: Progress) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Session { global, env, .. } = &*told.session;
        if !env.terminal.err || global.quiet || global.verbose || all < 2 {
            return;
        }
        let now = self.clock.now();
        if now < told.shown.unwrap_or(self.started) + BETWEEN_LINES {
            return;
        }
        told.shown = Some(now);
        let rate = f64::from(u32::try_from(ended).unwrap_or(u32::MAX)) / (now - self.started).as_secs_f64();
        ignore_closed(write!(told.session.env.err, "\r\x1b[K{ended} of {all} devices, {rate:.0} a second"));
    }
}

/// The boot that this is; `None` for a recorded host.
///
/// What cannot be read is an error: an operation of this boot would be taken for one of another, and closed.
pub(super) fn boot_id(host: &dyn Read) -> Result<Option<String>, HostError> {
    optional(host.text(&HostPath::fixed(Root::Proc, "sys/kernel/random/boot_id")))
}

impl Session<'_, '_> {
    /// Leaves the ledger in order after an operation, and names the operation, if there is anything to name.
    pub(super) fn close(&mut self, ledger: &Ledger, journal: &Journal, host: &dyn Read) -> Option<String> {
        let (id, boot) = (journal.id()?, boot_id(host).ok()?);
        // One that found everything as it was wanted is worth keeping only if an older one would undo that.
        let kept = match journal.acts() {
            0 => needed(ledger, boot.as_deref()).and_then(|needed| match needed.contains(&id.number()) {
                true => Ok(()),
                false => ledger.remove(id),
            }),
            _ => Ok(()),
        };
        let pruned = prune(ledger, boot.as_deref());
        for error in [kept, pruned].into_iter().filter_map(Result::err) {
            self.warn(&[Warning::new("journal", error)]);
        }
        (journal.acts() > 0).then(|| id.to_string())
    }
}
