//! A plan carried out: written down, done, told.

use super::Session;
use super::narrator::{Narrator, boot_id};
use super::open::Opened;
use super::report::Trouble;
use crate::engine::journal::{Header, Journal};
use crate::engine::{self, Pace, Report, Work};
use crate::host::Lock;
use crate::step::Plan;

/// What came of a plan.
pub(super) struct Carried {
    /// Lane by lane.
    pub(super) report: Report,
    /// Every change, as a line that root could paste.
    pub(super) changes: Vec<String>,
    /// The operation's name in the journal; `None` when there was nothing to do.
    pub(super) operation: Option<String>,
}

/// How a plan is carried out.
pub(super) struct Order<'a> {
    /// The verb, which the operation is named after.
    pub(super) verb: &'static str,
    /// What is to be done.
    pub(super) plan: &'a Plan,
    /// In which order.
    pub(super) pace: Pace,
}

impl Session<'_, '_> {
    /// Carries out a plan under the host's lock.
    ///
    /// # Errors
    /// It cannot be written down, and so was not begun.
    pub(super) fn carry_out(
        &mut self,
        order: &Order<'_>,
        opened: &Opened,
        lock: Box<dyn Lock + '_>,
    ) -> Result<Carried, Trouble> {
        let host = opened.host();
        let ledger = self.ledger(opened)?;
        let journal = match order.plan.steps().next() {
            Some(_) => {
                let header = Header::new(boot_id(host)?, &self.command, host.date(), order.plan);
                Journal::begin(&ledger, order.verb, &header)?
            }
            None => Journal::none(),
        };
        let narrator = Narrator::new(self, host);
        let work = Work { host, lock: lock.as_ref(), journal: &journal, watch: &narrator, pace: order.pace };
        let report = engine::run(order.plan, work);
        let changes = narrator.into_lines();
        let operation = self.close(&ledger, &journal, host);
        drop(lock);
        Ok(Carried { report, changes, operation })
    }
}
