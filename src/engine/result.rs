//! What became of a device.

use super::{Binding, State, StepError};
use crate::model::Target;

/// A driver that was tried for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Its name, or its module's when it did not get as far as having one.
    pub driver: String,
    /// Why it did not take the device; `None` for the one that did.
    pub error: Option<StepError>,
}

/// What became of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneResult {
    /// The device.
    pub device: Target,
    /// Those with the same bond stood or fell with it.
    pub bond: usize,
    /// What it was before; `None` when it could not be read, or nothing was tried.
    pub before: Option<State>,
    /// What it is now; `None` when it cannot be read, or nothing was tried.
    pub after: Option<State>,
    /// The drivers that were tried, in order.
    pub tried: Vec<Tried>,
    /// Why it does not have what was wanted.
    pub error: Option<StepError>,
    /// What does not come back although the step was taken back or has succeeded.
    pub lost: Vec<String>,
    /// What it was not set to, for its driver cannot.
    pub skipped: Vec<String>,
    /// Whether anything but its override and driver was set, and stands.
    pub is_set: bool,
    /// What could not be taken back, one line each.
    pub remains: Vec<String>,
    /// How many steps were taken back.
    pub undone: usize,
}

impl LaneResult {
    /// Nothing was tried.
    pub(crate) const fn new(device: Target, bond: usize) -> Self {
        Self {
            device,
            bond,
            before: None,
            after: None,
            tried: Vec::new(),
            error: None,
            lost: Vec::new(),
            skipped: Vec::new(),
            is_set: false,
            remains: Vec::new(),
            undone: 0,
        }
    }

    /// What it is bound to now, when it is there.
    #[must_use]
    pub fn now(&self) -> Option<&Binding> {
        self.after.as_ref().and_then(State::binding)
    }

    /// Whether it is not as it was before.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.before.is_some() && (self.before != self.after || self.is_set)
    }
}
