//! What operations before this one have left.

use std::collections::BTreeMap;

use super::Session;
use super::narrator::boot_id;
use super::open::Opened;
use super::report::Trouble;
use crate::check::{Halfway, Unfinished};
use crate::engine::history;
use crate::engine::journal::Standing;
use crate::model::{Target, Warning};

/// How the journals are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Under the host's lock: what has not ended was cut off.
    UnderLock,
    /// Without: somebody may be at it.
    InPassing,
}

impl Session<'_, '_> {
    /// The devices that an operation of this boot left halfway, each with the newest such operation. What is not known of
    /// them is a warning: whether this command can write its own journal is asked when it begins one.
    pub(super) fn left_halfway(&mut self, opened: &Opened, seen: Seen) -> BTreeMap<Target, Unfinished> {
        let read = boot_id(opened.host()).map_err(Trouble::from).and_then(|boot| {
            let ledger = self.ledger(opened)?;
            Ok((history::Halfway::read(&ledger, boot.as_deref())?, boot))
        });
        let (halfway, boot) = match read {
            Ok(read) => read,
            Err(trouble) => {
                let words = format!("whether an operation was left unfinished is not known: {}", trouble.message);
                self.warn(&[Warning::new("journal", words)]);
                return BTreeMap::new();
            }
        };
        for (id, error) in &halfway.unusable {
            let words = format!(
                "whether it left devices halfway is not known: {error}; see which it had: vfioadm log {id}; give it up: vfioadm undo {id} --forget"
            );
            self.warn(&[Warning::new(id, words)]);
        }
        let mut found = BTreeMap::new();
        for (operation, devices) in halfway.operations {
            let standing = operation.standing(boot.as_deref());
            let unfinished = Unfinished {
                operation: operation.id.to_string(),
                pid: operation.header.pid,
                command: operation.header.command,
                halfway: match (standing, seen) {
                    (Standing::Unfinished, Seen::UnderLock) => Halfway::CutOff,
                    (Standing::Unfinished, Seen::InPassing) => Halfway::NotEnded,
                    _ => Halfway::Remains,
                },
            };
            found.extend(devices.into_iter().map(|device| (device, unfinished.clone())));
        }
        found
    }
}
