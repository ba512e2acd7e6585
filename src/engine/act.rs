//! A step made concrete: which file gets which value, what was there before, and how to take it back.

use std::fmt;

use super::{StepError, driver, driver_override};
use crate::host::{Blacklist, HostError, HostPath, Read, Verb, module_is_live, optional};
use crate::model::pci::OVERRIDE_UNSET;
use crate::model::{Bdf, DriverName, Errno, ModuleName};
use crate::step::{Choice, DriverRef, Step, Undo};

/// One change, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A write to an attribute.
    Write {
        /// Which.
        path: HostPath,
        /// What is written.
        value: String,
        /// What was read there before, when that says something.
        was: Option<String>,
    },
    /// A module to be loaded.
    Load {
        /// Which.
        module: ModuleName,
        /// Whether a blacklist holds.
        blacklist: Blacklist,
    },
}

impl Act {
    /// Whether it writes to the `bind` of a driver.
    pub(super) fn is_bind(&self) -> bool {
        matches!(self, Self::Write { path, .. } if path.rest().ends_with("/bind"))
    }
}

impl fmt::Display for Act {
    /// A line that root could paste: `echo vfio-pci > /sys/…/driver_override   # was (null)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, value, was } => {
                // An empty line is how an attribute is cleared: a write of no bytes does nothing.
                let value = value.trim_end_matches('\n');
                write!(f, "echo {} > {path}", if value.is_empty() { "''" } else { value })?;
                was.as_ref().map_or(Ok(()), |was| write!(f, "   # was {was}"))
            }
            Self::Load { module, blacklist: Blacklist::Respect } => write!(f, "modprobe --use-blacklist -- {module}"),
            Self::Load { module, blacklist: Blacklist::Ignore } => write!(f, "modprobe -- {module}"),
        }
    }
}

/// Observes what `step` would replace: the change it comes to and its undo. `None` when the host is already so.
///
/// # Errors
/// What the kernel refused while being read; `ENODEV` when the function is gone.
pub fn act(step: &Step, host: &dyn Read) -> Result<Option<(Act, Undo)>, StepError> {
    Ok(match step {
        Step::LoadModule { module, choice } => load(module, *choice, host)?,
        Step::SetOverride { device, driver } => {
            let name = driver.as_ref().map(|driver| resolve(driver, host)).transpose()?;
            set_override(*device, name.as_ref().map(DriverName::as_str), host)?
        }
        Step::Unbind { device } => {
            driver(host, *device)?.map(|was| (unbind(*device, &was), driver_was(*device, Some(was))))
        }
        Step::Bind { device, driver: wanted } => {
            let wanted = resolve(wanted, host)?;
            let was = driver(host, *device)?;
            let already = was.as_ref() == Some(&wanted);
            (!already).then(|| (bind(*device, &wanted), driver_was(*device, was)))
        }
        Step::Reprobe { device } => {
            let act = Act::Write {
                path: HostPath::fixed(crate::host::path::Root::Sys, "bus/pci/drivers_probe"),
                value: device.to_string(),
                was: None,
            };
            driver(host, *device)?.is_none().then(|| (act, driver_was(*device, None)))
        }
    })
}

fn driver_was(device: Bdf, was: Option<DriverName>) -> Undo {
    Undo::Driver { device, was }
}

fn load(module: &ModuleName, choice: Choice, host: &dyn Read) -> Result<Option<(Act, Undo)>, StepError> {
    if module_is_live(host, module)? {
        return Ok(None);
    }
    let blacklist = match choice {
        Choice::Ours => Blacklist::Respect,
        Choice::Users => Blacklist::Ignore,
    };
    Ok(Some((Act::Load { module: module.clone(), blacklist }, Undo::Nothing)))
}

/// The change that sets an override to `wanted`, unless it is so already.
pub(super) fn set_override(
    device: Bdf,
    wanted: Option<&str>,
    host: &dyn Read,
) -> Result<Option<(Act, Undo)>, StepError> {
    let path = HostPath::pci(device).attr("driver_override");
    let was = driver_override(host, device)?.ok_or_else(|| HostError::new(Verb::Read, path.clone(), Errno::ENODEV))?;
    if was.as_deref() == wanted {
        return Ok(None);
    }
    // A write of no bytes does nothing; a lone newline clears (drivers/base/dd.c __device_set_driver_override(), 7.2).
    let value = wanted.unwrap_or("\n").to_owned();
    let shown = was.clone().unwrap_or_else(|| OVERRIDE_UNSET.to_owned());
    Ok(Some((Act::Write { path, value, was: Some(shown) }, Undo::Override { device, was })))
}

/// The write that takes `device` from `driver`.
pub(super) fn unbind(device: Bdf, driver: &DriverName) -> Act {
    Act::Write {
        path: HostPath::pci_driver(driver).attr("unbind"),
        value: device.to_string(),
        was: Some(format!("bound to {driver}")),
    }
}

/// The write that gives `device` to `driver`.
pub(super) fn bind(device: Bdf, driver: &DriverName) -> Act {
    Act::Write { path: HostPath::pci_driver(driver).attr("bind"), value: device.to_string(), was: None }
}

/// The name of a driver: as given, or as the loaded module registered it.
///
/// # Kernel
/// `drivers/base/module.c` `module_add_driver()` makes `/sys/module/<module>/drivers/<bus>:<driver>`, for built-in drivers
/// too (7.2).
fn resolve(driver: &DriverRef, host: &dyn Read) -> Result<DriverName, StepError> {
    let module = match driver {
        DriverRef::Named(name) => return Ok(name.clone()),
        DriverRef::OfModule(module) => module,
    };
    let listed = optional(host.list(&HostPath::module(module).attr("drivers")))?.unwrap_or_default();
    let mut names: Vec<DriverName> =
        listed.iter().filter_map(|entry| entry.strip_prefix("pci:")).filter_map(|name| name.parse().ok()).collect();
    names.sort();
    // A module with several PCI drivers has its main one under its own name.
    let own = names.iter().position(|name| name.as_str().replace('-', "_") == module.as_str());
    match (own, names.is_empty()) {
        (Some(own), _) => Ok(names.swap_remove(own)),
        (None, false) => Ok(names.swap_remove(0)),
        (None, true) => Err(StepError::NoDriver(module.clone())),
    }
}
