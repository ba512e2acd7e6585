//! The hands: the only room that changes the machine.
//!
//! Each step goes through five acts. *Observe*: read what it will replace. *Record*: put the step and its undo into the
//! journal. *Perform*: one write. *Settle*: wait until the kernel shows it, or the deadline passes: a successful write is a
//! claim. *Reverse*: when a device cannot have what was wanted, take back what was done, newest first, to what was seen.

mod act;
mod journal;
mod reverse;
mod run;

pub use act::{Act, act};
pub use journal::{Intent, Journal, Memory};
pub use run::{LaneResult, Tried, UnitResult, run};

use std::time::Duration;

use crate::host::HostPath;
use crate::host::{HostError, Read, Verb, optional};
use crate::model::{Bdf, DriverName, Errno, ModuleName};

/// How long the kernel gets to show what it said yes to. A bind shows at once; this is for a host under load.
pub const SETTLE: Duration = Duration::from_secs(10);

/// Hears of every change to the host, as it is made.
pub trait Watch {
    /// A line that root could paste, with the former value as a comment.
    fn change(&mut self, act: &Act);
}

/// Watches nothing.
pub struct Unwatched;

impl Watch for Unwatched {
    fn change(&mut self, _act: &Act) {}
}

/// Why a step did not do what it was for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The kernel refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel said yes and does not show it.
    #[error("{path} shows {shown} where {wanted} was accepted {} s ago", SETTLE.as_secs())]
    NotSettled {
        /// Where it should show.
        path: HostPath,
        /// What was accepted.
        wanted: String,
        /// What is there.
        shown: String,
    },
    /// A module is loaded and registers no PCI driver.
    #[error("module {0} is loaded and registers no PCI driver")]
    NoDriver(ModuleName),
}

impl StepError {
    /// The kernel's errno; `ETIMEDOUT` for what did not settle.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Host(error) => error.errno,
            Self::NotSettled { .. } => Errno::ETIMEDOUT,
            Self::NoDriver(_) => Errno::ENODEV,
        }
    }
}

/// Driver and override of a function, as the kernel shows them now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The driver that has it.
    pub driver: Option<DriverName>,
    /// Its `driver_override`.
    pub driver_override: Option<String>,
}

/// Reads the binding of a function; `None` when the function is gone.
///
/// # Errors
/// What the kernel refused, but that it is not there.
pub fn binding(host: &dyn Read, device: Bdf) -> Result<Option<Binding>, HostError> {
    let Some(driver_override) = driver_override(host, device)? else { return Ok(None) };
    Ok(Some(Binding { driver: driver(host, device)?, driver_override }))
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
    Ok(text.map(|text| (text != UNSET && !text.is_empty()).then_some(text)))
}

/// What an override that is not set reads as (`drivers/base/bus.c` `driver_override_show()`, 7.2).
pub(crate) const UNSET: &str = "(null)";
