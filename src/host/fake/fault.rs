//! Faults on demand: a write that fails, before or after its effect, and a device that vanishes under a reader.

use crate::host::HostPath;
use crate::model::{Bdf, Errno};

/// Which write a fault is for. Loading a module counts as a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// The `n`th since the host was made, from 1.
    Nth(usize),
    /// The `n`th since the host was made, from 1, and every one after it: whoever wrote is dead.
    From(usize),
    /// Every write to a path that ends so: `/driver_override`, `vfio-pci/bind`.
    PathEnds(String),
}

/// Whether the kernel had done what was asked when it said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It had not.
    Undone,
    /// It had: the answer was lost.
    Done,
}

/// A write that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub when: When,
    /// The answer.
    pub errno: Errno,
    /// Whether it has its effect.
    pub effect: Effect,
}

impl Fault {
    /// The `n`th write fails, from 1, without effect.
    #[must_use]
    pub const fn nth(n: usize, errno: Errno) -> Self {
        Self { when: When::Nth(n), errno, effect: Effect::Undone }
    }

    /// Every write from the `n`th on fails, without effect.
    #[must_use]
    pub const fn from(n: usize, errno: Errno) -> Self {
        Self { when: When::From(n), errno, effect: Effect::Undone }
    }

    /// Every write to a path that ends so fails, without effect.
    #[must_use]
    pub fn at(path_ends: &str, errno: Errno) -> Self {
        Self { when: When::PathEnds(path_ends.to_owned()), errno, effect: Effect::Undone }
    }

    /// The same, with its effect.
    #[must_use]
    pub fn after_effect(self) -> Self {
        Self { effect: Effect::Done, ..self }
    }
}

/// A write that was asked for, and the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The attribute; a module's directory for a load.
    pub path: HostPath,
    /// The value; `load` for a load.
    pub value: String,
    /// The errno, when it was refused.
    pub answer: Option<Errno>,
}

/// The faults of a fake host, and its record of writes.
#[derive(Debug, Default)]
pub(super) struct Faults {
    faults: Vec<Fault>,
    vanish: Vec<(usize, Bdf)>,
    reads: usize,
    pub(super) writes: Vec<Written>,
}

impl Faults {
    /// Adds a fault.
    pub(super) fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Lets no more writes fail.
    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    /// Lets a device vanish before the `n`th read from now.
    pub(super) fn add_vanish(&mut self, n: usize, bdf: Bdf) {
        self.vanish.push((self.reads + n, bdf));
    }

    /// The fault for the write that comes now.
    pub(super) fn next_write(&self, path: &HostPath) -> Option<Fault> {
        let number = self.writes.len() + 1;
        let text = path.to_string();
        let holds = |fault: &Fault| match &fault.when {
            When::Nth(n) => *n == number,
            When::From(n) => *n <= number,
            When::PathEnds(end) => text.ends_with(end.as_str()),
        };
        self.faults.iter().find(|fault| holds(fault)).cloned()
    }

    /// Counts a read; the devices that vanish before it.
    pub(super) fn next_read(&mut self) -> Vec<Bdf> {
        self.reads += 1;
        let now = self.reads;
        let due = self.vanish.iter().filter(|(n, _)| *n <= now).map(|(_, bdf)| *bdf).collect();
        self.vanish.retain(|(n, _)| *n > now);
        due
    }
}
