//! What may be done to a host, as data. Dry run, journal, `-v` and undo all read the same values.

use std::fmt;

use crate::model::{DriverName, ModuleName, Target};

/// One change. Closed: what is not here, vfioadm does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Loads a module.
    LoadModule {
        /// Which.
        module: ModuleName,
        /// Whether modprobe's blacklist holds.
        choice: Choice,
    },
    /// Writes `driver_override`.
    SetOverride {
        /// Of which function.
        device: Target,
        /// What; `None` clears it.
        driver: Option<DriverRef>,
    },
    /// Takes the function from whatever driver has it.
    Unbind {
        /// Which.
        device: Target,
        /// What if somebody has it open.
        open: WhenOpen,
    },
    /// `reset`: what the last user left in the function is not for the next.
    Reset {
        /// Which.
        device: Target,
    },
    /// `drivers/<driver>/bind`.
    Bind {
        /// Which function.
        device: Target,
        /// To which driver.
        driver: DriverRef,
    },
    /// `drivers_probe`: lets the kernel choose, for a host driver that no alias names.
    Reprobe {
        /// Which function.
        device: Target,
    },
}

/// What an unbind does about a VFIO device that somebody has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenOpen {
    /// It is not done: it would wait for whoever has the device open.
    Refuse,
    /// It is done all the same: the kernel then asks the holder to let go, and the write waits until it does.
    Ask,
}

/// Who chose a driver: the user by name, or vfioadm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// vfioadm; a module that the administrator blacklisted is then left alone.
    Ours,
    /// The user, by its name.
    Users,
}

/// A driver, or the driver of a module whose name shows only once it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverRef {
    /// By its name in sysfs.
    Named(DriverName),
    /// Whatever PCI driver the module registers.
    OfModule(ModuleName),
}

impl fmt::Display for DriverRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(driver) => driver.fmt(f),
            Self::OfModule(module) => module.fmt(f),
        }
    }
}

/// What a step changes about a function, with one value: the one that it had, or the one that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `driver_override`; `None` when it is not set.
    Override(Option<String>),
    /// The driver; `None` when it has none.
    Driver(Option<DriverName>),
}

/// How to take a step back, from what was seen before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    /// The function.
    pub device: Target,
    /// What was seen.
    pub was: Setting,
}

impl Undo {
    /// Whether it is about the same of a function, its override or its driver.
    #[must_use]
    pub fn is_of_kind(&self, other: &Setting) -> bool {
        std::mem::discriminant(&self.was) == std::mem::discriminant(other)
    }
}

/// Whether a step can be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reversible {
    /// The host is then as it was.
    Exactly,
    /// All but this comes back.
    Roughly(&'static str),
    /// Nothing comes back.
    No(&'static str),
}

impl Step {
    /// The step in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Self::LoadModule { module, .. } => format!("load module {module}"),
            Self::SetOverride { device, driver: Some(driver) } => format!("set the override of {device} to {driver}"),
            Self::SetOverride { device, driver: None } => format!("clear the override of {device}"),
            Self::Unbind { device, .. } => format!("unbind {device}"),
            Self::Bind { device, driver } => format!("bind {device} to {driver}"),
            Self::Reset { device } => format!("reset {device}"),
            Self::Reprobe { device } => format!("let the kernel choose a driver for {device}"),
        }
    }

    /// What of it can be undone.
    #[must_use]
    pub const fn reversible(&self) -> Reversible {
        match self {
            Self::LoadModule { .. } => Reversible::Roughly("modules, which stay loaded"),
            Self::SetOverride { .. } => Reversible::Exactly,
            Self::Unbind { .. } => Reversible::Roughly("addresses of network interfaces"),
            Self::Reset { .. } => Reversible::No("the state of the device itself"),
            Self::Bind { .. } | Self::Reprobe { .. } => Reversible::Roughly("the number of a cdev"),
        }
    }
}

/// One way to reach what is wanted of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The driver it ends with; `None` for a device that is to have none, or the one that the kernel picks.
    pub driver: Option<DriverRef>,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// What is to happen to one device, in order. Lanes run at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The device.
    pub device: Target,
    /// The attempts, best first: the first whose driver takes the device ends it. None: nothing to do.
    pub attempts: Vec<Attempt>,
    /// Done after the attempt that succeeded.
    pub finish: Vec<Step>,
    /// What holds when no attempt binds anything.
    pub otherwise: Otherwise,
    /// The lanes, by their place in the plan, that must have succeeded before this one begins: a PF before its VFs.
    pub after: Vec<usize>,
    /// Whether it may have VFs or mdevs, which some drivers take along when they go.
    pub has_children: bool,
    /// Lanes with the same bond succeed together or are taken back together: an IOMMU group, a PF and its VFs.
    pub bond: usize,
}

/// What it means that no attempt bound a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// A failure: everything is taken back.
    Fail,
    /// The device is left without a driver, and the result says so.
    LeaveWithout,
}

/// Everything that one command is to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order of the command line.
    pub lanes: Vec<Lane>,
}

impl Plan {
    /// Every step of every attempt, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.lanes.iter().flat_map(Lane::steps)
    }

    /// Makes every lane succeed with all others or be taken back with them.
    pub fn bond_all(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.bond = 0);
    }
}

impl Lane {
    /// Every step of every attempt, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.attempts.iter().flat_map(|attempt| &attempt.steps).chain(&self.finish)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.steps().next().is_none()
    }
}
