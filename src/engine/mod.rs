//! The hands: the only room that changes the machine.
//!
//! Each step goes through five acts. *Observe*: read what it will replace. *Record*: write the step and its undo down.
//! *Perform*: one write. *Settle*: wait until the kernel shows it, or the deadline passes: a successful write is a claim.
//! *Reverse*: when a device cannot have what was wanted, take back what was done, newest first, to what was seen.

mod act;
mod hands;
pub mod history;
pub mod journal;
mod lane;
mod result;
mod run;
mod schedule;
mod setting;
mod task;
mod undo;

pub use act::{Act, Change, act};
pub use hands::Watch;
pub use result::{LaneResult, Tried};
pub use run::{AT_ONCE, Pace, Progress, Report, Work, lend, run};
pub use setting::Request;
pub(crate) use setting::{hooked, pool};
pub use undo::undo;

use std::fmt;
use std::time::Duration;

use crate::host::{HostError, HostPath, Links, Read, Verb, optional};
use crate::model::pci::override_read_as;
use crate::model::{Bdf, DriverName, Errno, ModuleName, Target};
use crate::step::Setting;

/// How long the kernel gets to show what it said yes to. A bind shows at once; this is for a host under load.
pub const SETTLE: Duration = Duration::from_secs(10);

/// Why a step did not do what it was for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The kernel refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel said yes and does not show it.
    #[error("{path} shows {shown}, {} s after {wanted} was accepted", waited.as_secs())]
    NotSettled {
        /// Where it should show.
        path: HostPath,
        /// What was accepted.
        wanted: String,
        /// What is there.
        shown: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// No driver of the module is registered.
    #[error("module {0} has registered no PCI driver")]
    NoDriver(ModuleName),
    /// The kernel has not answered, and cannot be told otherwise. Nothing more is done to the device.
    #[error("{0} {1}")]
    Stuck(Target, Pending),
    /// Somebody has it open.
    #[error("{0} is open: its driver would not let it go before whoever has it open closes it")]
    Open(Bdf),
    /// Somebody has it, or what would go with it.
    #[error("{0} is left as it is: {1}")]
    Used(Target, String),
    /// It could not be written down, and so was not done.
    #[error("the journal could not be written ({0}), so it was not done")]
    NotRecorded(Errno),
    /// This device was done, and then taken back with those that it stands or falls with.
    #[error("taken back, because {0} failed")]
    TakenBack(Target),
    /// This device was not begun, because one that it stands or falls with failed.
    #[error("not tried, because {0} failed")]
    NotTried(Target),
    /// The user asked to stop.
    #[error("taken back or not begun, because vfioadm was asked to stop")]
    Interrupted,
    /// It was not taken back, because it is a later operation's now.
    #[error("later changed by {0}, which is left as it is")]
    Superseded(String),
    /// It is not as the operation left it.
    #[error("{0} is {1}, which is not how the operation left it: somebody has had it since")]
    ChangedSince(Target, Box<Binding>),
    /// It is not set as the operation left it.
    #[error("{0} has {1}, which is not how the operation left it: somebody has set it since")]
    SetSince(Target, Box<Setting>),
    /// Its VFs would go, and one of them is not the operation's to take.
    #[error("{0} keeps its VFs, for {1} is not to be taken away")]
    KeptFor(Bdf, Target),
}

/// What the kernel is still at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// An unbind.
    Unbind,
    /// A bind.
    Bind,
    /// A reset.
    Reset,
    /// VFs being made or taken away.
    Vfs,
    /// An mdev being made or removed.
    Mdev,
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unbind => "is half unbound: its driver waits until whoever has the device open closes it",
            Self::Bind => "is half bound: the driver has not answered, or waits for a device lock that somebody has",
            Self::Reset => "has not come back from its reset",
            Self::Vfs => "is still making VFs or taking them away: its driver has not answered",
            Self::Mdev => "is still being made or removed: its driver waits until whoever has it open closes it",
        })
    }
}

impl StepError {
    /// The kernel's errno, or the one that says most nearly what happened.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Host(error) => error.errno,
            Self::NotSettled { .. } | Self::Stuck(..) => Errno::ETIMEDOUT,
            Self::NoDriver(_) => Errno::ENODEV,
            Self::Open(_)
            | Self::Used(..)
            | Self::Superseded(_)
            | Self::ChangedSince(..)
            | Self::SetSince(..)
            | Self::KeptFor(..) => Errno::EBUSY,
            Self::NotRecorded(errno) => *errno,
            Self::TakenBack(_) | Self::NotTried(_) | Self::Interrupted => Errno::EINTR,
        }
    }

    /// Whether the write was left behind at its deadline, and still waits.
    #[must_use]
    pub const fn is_left_behind(&self) -> bool {
        matches!(self, Self::Host(HostError { verb: Verb::Wait, .. }) | Self::Stuck(..))
    }

    /// Whether a module could not be loaded, as against a probe that refused.
    #[must_use]
    pub const fn is_load(&self) -> bool {
        matches!(self, Self::Host(HostError { verb: Verb::Load, .. }) | Self::NoDriver(_))
    }
}

/// What acts change about a function, as the kernel shows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The driver that has it.
    pub driver: Option<DriverName>,
    /// Its `driver_override`.
    pub driver_override: Option<String>,
    /// How many VFs it has: some drivers remove them when they go.
    pub vfs: usize,
    /// How many mdevs it has: these go with their parent's driver.
    pub mdevs: usize,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Some(driver) => write!(f, "on {driver}")?,
            None => f.write_str("on no driver")?,
        }
        self.driver_override.as_ref().map_or(Ok(()), |text| write!(f, " with the override {text}"))
    }
}

/// The state of a device: not there, or bound so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is not there: not made yet, or gone.
    Absent,
    /// It is there.
    There(Binding),
}

impl State {
    /// The binding of a device that is there.
    #[must_use]
    pub const fn binding(&self) -> Option<&Binding> {
        match self {
            Self::Absent => None,
            Self::There(binding) => Some(binding),
        }
    }
}

impl From<Option<Binding>> for State {
    fn from(seen: Option<Binding>) -> Self {
        seen.map_or(Self::Absent, Self::There)
    }
}

/// The PCI address of a target; `None` when it has none now.
///
/// # Errors
/// What the kernel refused, but that it is not there.
pub(crate) fn place(host: &dyn Read, target: Target) -> Result<Option<Bdf>, HostError> {
    let (pf, index) = match target {
        Target::Pci(bdf) => return Ok(Some(bdf)),
        Target::Vf { pf, index } => (pf, index),
        Target::Mdev(_) | Target::Dsa(_) | Target::Sf { .. } => return Ok(None),
    };
    let path = HostPath::vf_link(pf, index);
    match optional(host.link_name(&path))? {
        None => Ok(None),
        Some(name) => name.parse().map(Some).map_err(|_| HostError::new(Verb::Read, path, Errno::EINVAL)),
    }
}

/// Where a target is, and what it is bound to.
///
/// # Errors
/// What the kernel refused, but that it is not there.
pub(crate) fn state(host: &dyn Links, target: Target) -> Result<(Option<Bdf>, State), HostError> {
    if let Target::Mdev(uuid) = target {
        let path = HostPath::mdev(uuid);
        if optional(host.link(&path))?.is_none() {
            return Ok((None, State::Absent));
        }
        let name = optional(host.link_name(&path.attr("driver")))?;
        let driver = name.and_then(|name| name.parse().ok());
        return Ok((None, State::There(Binding { driver, driver_override: None, vfs: 0, mdevs: 0 })));
    }
    let unbound = |driver| State::There(Binding { driver, driver_override: None, vfs: 0, mdevs: 0 });
    match target {
        Target::Dsa(name) if optional(host.link(&HostPath::dsa(name)))?.is_none() => return Ok((None, State::Absent)),
        Target::Dsa(name) => return Ok((None, unbound(setting::dsa_driver(host, name)?))),
        Target::Sf { pf, sfnum } => {
            let is_there = setting::subfunction(host, pf, sfnum)?.is_some();
            return Ok((None, if is_there { unbound(None) } else { State::Absent }));
        }
        _ => {}
    }
    match place(host, target)? {
        None => Ok((None, State::Absent)),
        Some(bdf) => Ok((Some(bdf), binding(host, bdf)?.into())),
    }
}

/// Reads the binding of a function; `None` when the function is gone.
///
/// # Errors
/// What the kernel refused, but that it is not there.
pub fn binding(host: &dyn Read, device: Bdf) -> Result<Option<Binding>, HostError> {
    let Some(mut binding) = childless_binding(host, device)? else { return Ok(None) };
    let names = optional(host.list(&HostPath::pci(device)))?.unwrap_or_default();
    binding.vfs = setting::vfs_among(&names).into();
    binding.mdevs = names.iter().filter(|name| uuid::Uuid::try_parse(name).is_ok()).count();
    Ok(Some(binding))
}

/// The same of a function that can have neither VFs nor mdevs: a listing less.
fn childless_binding(host: &dyn Read, device: Bdf) -> Result<Option<Binding>, HostError> {
    let Some(driver_override) = driver_override(host, device)? else { return Ok(None) };
    Ok(Some(Binding { driver: driver(host, device)?, driver_override, vfs: 0, mdevs: 0 }))
}

/// The driver of a function.
pub(crate) fn driver(host: &dyn Read, device: Bdf) -> Result<Option<DriverName>, HostError> {
    let path = HostPath::pci(device).attr("driver");
    match optional(host.link_name(&path))? {
        None => Ok(None),
        Some(name) => name.parse().map(Some).map_err(|_| HostError::new(Verb::Read, path, Errno::EINVAL)),
    }
}

/// The override of a function: the outer `None` when there is no such attribute, and so no such function.
fn driver_override(host: &dyn Read, device: Bdf) -> Result<Option<Option<String>>, HostError> {
    let text = optional(host.text(&HostPath::pci(device).attr("driver_override")))?;
    Ok(text.map(override_read_as))
}
