//! The hands: the only room that changes the machine.
//!
//! Each step goes through five acts. *Observe*: read what it will replace. *Record*: keep the step with its undo. *Perform*:
//! one write. *Settle*: wait until the kernel shows it, or the deadline passes: a successful write is a claim. *Reverse*:
//! when a device cannot have what was wanted, take back what was done, newest first, to what was seen.

mod act;
mod perform;
mod reverse;
mod run;

pub use act::{Act, act};
pub use perform::Watch;
pub use run::{LaneResult, Tried, UnitResult, run};

use std::time::Duration;

use crate::host::{HostError, HostPath, Read, Verb, optional};
use crate::model::pci::override_read_as;
use crate::model::{Bdf, DriverName, Errno, ModuleName};

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
    /// The driver was told to let go, and waits for whoever has the device open. It cannot be told otherwise.
    #[error("{0} is half unbound: its driver waits until whoever has the device open closes it")]
    Stuck(Bdf),
    /// This device was done, and then taken back with its lane.
    #[error("taken back, because {0} failed")]
    TakenBack(Bdf),
}

impl StepError {
    /// The kernel's errno, or the one that says most nearly what happened.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Host(error) => error.errno,
            Self::NotSettled { .. } | Self::Stuck(_) => Errno::ETIMEDOUT,
            Self::NoDriver(_) => Errno::ENODEV,
            Self::TakenBack(_) => Errno::EINTR,
        }
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

/// Reads the binding of a function; `None` when the function is gone.
///
/// # Errors
/// What the kernel refused, but that it is not there.
pub fn binding(host: &dyn Read, device: Bdf) -> Result<Option<Binding>, HostError> {
    let Some(driver_override) = driver_override(host, device)? else { return Ok(None) };
    let names = optional(host.list(&HostPath::pci(device)))?.unwrap_or_default();
    Ok(Some(Binding {
        driver: driver(host, device)?,
        driver_override,
        vfs: names.iter().filter(|name| name.starts_with("virtfn")).count(),
        mdevs: names.iter().filter(|name| uuid::Uuid::try_parse(name).is_ok()).count(),
    }))
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
