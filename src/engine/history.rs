//! The operations of a host read together: which did not end, which devices are in the middle of one, and what a later one
//! has had.

use std::collections::{BTreeMap, BTreeSet};

use super::journal::{JournalError, Operation, Standing, is_an_end};
use crate::host::ledger::{KEPT, Ledger, LedgerError, OperationId};
use crate::model::Target;

/// An operation that was read back, or why it could not be.
pub type ReadBack = Result<Operation, JournalError>;

/// The operations that did not end, or left something that could not be taken back, oldest first. What cannot be read is
/// among them.
///
/// # Errors
/// [`LedgerError`] when the list itself cannot be read.
pub fn unfinished(ledger: &Ledger, boot: Option<&str>) -> Result<Vec<(OperationId, ReadBack)>, LedgerError> {
    let mut found = Vec::new();
    for id in ledger.operations()? {
        if is_an_end(&ledger.last_line(&id)?) {
            continue;
        }
        let operation = Operation::read(ledger, &id);
        let open = |operation: &Operation| {
            matches!(operation.standing(boot), Standing::Unfinished | Standing::Remains | Standing::AnotherBoot)
        };
        if operation.as_ref().map_or_else(|error| !matches!(error, JournalError::Empty(_)), open) {
            found.push((id, operation));
        }
    }
    Ok(found)
}

/// What later operations have had of one that is open: these devices are theirs to take back now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Superseded(BTreeMap<Target, OperationId>);

impl Superseded {
    /// Reads which devices of `operation` are as later operations of the same boot have them; to find one as it is wanted is
    /// enough. Of an operation that has ended nothing is superseded: how it left its devices is known, and compared.
    ///
    /// # Errors
    /// [`LedgerError`] when the list of operations cannot be read. Of an operation that cannot be used nothing is known.
    pub fn read(ledger: &Ledger, operation: &Operation) -> Result<Self, LedgerError> {
        let boot = operation.header.boot.as_deref();
        if !matches!(operation.standing(boot), Standing::Unfinished | Standing::Remains) || operation.is_reopened() {
            return Ok(Self::default());
        }
        let mine = operation.touched();
        let mut found = BTreeMap::new();
        for id in ledger.operations()?.into_iter().filter(|id| id.number() > operation.id.number()) {
            let Ok(later) = Operation::read(ledger, &id) else { continue };
            if later.header.boot == operation.header.boot {
                found.extend(later.has().intersection(&mine).map(|device| (*device, id.clone())));
            }
        }
        Ok(Self(found))
    }

    /// The newest operation that has had a device.
    #[must_use]
    pub fn by(&self, device: Target) -> Option<&OperationId> {
        self.0.get(&device)
    }

    /// Whether nothing that `operation` did is its own to take back any more.
    #[must_use]
    pub fn is_all_of(&self, operation: &Operation) -> bool {
        let touched = operation.touched();
        !touched.is_empty() && touched.iter().all(|device| self.0.contains_key(device))
    }
}

/// The operations of this boot that devices are in the middle of.
#[derive(Debug, Clone, Default)]
pub struct Halfway {
    /// Each with those devices, oldest first.
    pub operations: Vec<(Operation, BTreeSet<Target>)>,
    /// What cannot be used: of which devices it is is not known.
    pub unusable: Vec<(OperationId, JournalError)>,
}

impl Halfway {
    /// Reads them.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn read(ledger: &Ledger, boot: Option<&str>) -> Result<Self, LedgerError> {
        let mut found = Self::default();
        for (id, operation) in unfinished(ledger, boot)? {
            match operation {
                Ok(operation) if operation.standing(boot) == Standing::AnotherBoot => {}
                Ok(operation) => {
                    let superseded = Superseded::read(ledger, &operation)?;
                    let mut devices = operation.halfway();
                    devices.retain(|device| superseded.by(*device).is_none());
                    found.operations.push((operation, devices));
                }
                Err(error) => found.unusable.push((id, error)),
            }
        }
        Ok(found)
    }
}

/// The operations that are open, and those that say what is no longer to be undone of these.
///
/// # Errors
/// [`LedgerError`].
pub fn needed(ledger: &Ledger, boot: Option<&str>) -> Result<BTreeSet<u64>, LedgerError> {
    let mut needed: BTreeSet<u64> = BTreeSet::new();
    for (id, operation) in unfinished(ledger, boot)? {
        needed.insert(id.number());
        if let Ok(operation) = operation {
            needed.extend(Superseded::read(ledger, &operation)?.0.values().map(OperationId::number));
        }
    }
    Ok(needed)
}

/// Forgets the oldest operations that have ended, but for the last [`KEPT`] and those that are [`needed`].
///
/// # Errors
/// [`LedgerError`].
pub fn prune(ledger: &Ledger, boot: Option<&str>) -> Result<(), LedgerError> {
    let all = ledger.operations()?;
    if all.len() <= KEPT {
        return Ok(());
    }
    let needed = needed(ledger, boot)?;
    let mut old = all.iter().take(all.len() - KEPT).filter(|id| !needed.contains(&id.number()));
    old.try_for_each(|id| ledger.remove(id))
}
