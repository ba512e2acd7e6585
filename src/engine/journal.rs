//! What was about to be done, and how to take it back.

use crate::host::HostError;
use crate::step::{Step, Undo};

/// One step and its undo, written down before the step is performed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// What is about to be done.
    pub step: Step,
    /// How to take it back, from what was observed.
    pub undo: Undo,
}

/// Where intents are written down.
pub trait Journal {
    /// Writes down an intent. The step is not performed when this fails.
    ///
    /// # Errors
    /// What the journal's place answered.
    fn record(&mut self, intent: &Intent) -> Result<(), HostError>;
}

/// A journal that lives as long as the process.
#[derive(Debug, Default)]
pub struct Memory(pub Vec<Intent>);

impl Journal for Memory {
    fn record(&mut self, intent: &Intent) -> Result<(), HostError> {
        self.0.push(intent.clone());
        Ok(())
    }
}
