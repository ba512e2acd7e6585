//! A step made concrete: which file gets which value, what was there before, and how to take it back.

use std::borrow::Cow;
use std::fmt;

use super::setting::{self, Request, TakenBack};
use super::{StepError, driver, driver_override, place};
use crate::host::{Blacklist, HostError, HostPath, Links, Read, Verb, module_is_live, optional, vfio_device_is_open};
use crate::model::pci::OVERRIDE_UNSET;
use crate::model::vf::{NetdevName, VfSetting};
use crate::model::{Bdf, DriverName, Errno, Hook, ModuleName, Target, VfIndex};
use crate::step::{Choice, DriverRef, Setting, Step, Undo, WhenOpen};

/// A step as it comes out on this host, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is done.
    pub act: Act,
    /// How to take it back; `None` when there is nothing to take back.
    pub undo: Option<Undo>,
    /// What it sets; `None` when the kernel chooses, or nothing is set.
    pub makes: Option<Setting>,
}

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
    /// One attribute of a VF, by rtnetlink.
    SetVf {
        /// The PF.
        pf: Bdf,
        /// Its interface.
        netdev: NetdevName,
        /// Which VF.
        index: VfIndex,
        /// The attribute, and its value.
        to: VfSetting,
        /// What it was.
        was: Option<String>,
    },
    /// What vfioadm remembers, in a file of its own.
    Keep {
        /// Which file.
        path: HostPath,
        /// What is in it; `None`: it is removed.
        content: Option<String>,
        /// What it said, in words.
        was: Option<String>,
    },
    /// A vendor's tool.
    Hook {
        /// Which.
        hook: Hook,
        /// What it is given.
        vf: Bdf,
    },
    /// A request to devlink.
    Devlink(Request),
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
                write!(f, "echo {} > {path}", if value.is_empty() { "''".into() } else { quoted(value) })?;
                was.as_ref().map_or(Ok(()), |was| write!(f, "   # was {was}"))
            }
            Self::SetVf { netdev, index, to, was, .. } => {
                write!(f, "ip link set dev {netdev} vf {index} {to}")?;
                was.as_ref().map_or(Ok(()), |was| write!(f, "   # was {was}"))
            }
            Self::Keep { path, content, was } => {
                match content {
                    Some(content) => write!(f, "echo '{content}' > {path}")?,
                    None => write!(f, "rm {path}")?,
                }
                was.as_ref().map_or(Ok(()), |was| write!(f, "   # was {was}"))
            }
            Self::Hook { hook, vf } => {
                f.write_str("env -i")?;
                for (name, value) in hook.environment(*vf) {
                    match value.contains(' ') {
                        true => write!(f, " {name}='{value}'")?,
                        false => write!(f, " {name}={value}")?,
                    }
                }
                write!(f, " {hook} {vf}")
            }
            Self::Devlink(request) => request.fmt(f),
            Self::Load { module, blacklist: Blacklist::Respect } => write!(f, "modprobe --use-blacklist -- {module}"),
            Self::Load { module, blacklist: Blacklist::Ignore } => write!(f, "modprobe -- {module}"),
        }
    }
}

/// As a shell takes it: what a host file has set may be more than words.
fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " _./:,=+@%-".contains(c);
    if text.chars().all(is_plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")).into() }
}

/// Observes what `step` would replace: the change it comes to. `None` when the host is already so.
///
/// # Errors
/// What the kernel refused while being read; `ENODEV` when the function is gone; [`StepError::Open`] when it is not to be
/// taken from whoever has it open.
pub fn act(step: &Step, host: &dyn Links) -> Result<Option<Change>, StepError> {
    act_after(step, &Seen::default(), host)
}

/// What was read of a function, and nothing was done since that would change it. `None`: it is to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether it was made in this plan, and goes with what made it.
    pub(super) is_made: bool,
    /// Where it is.
    pub(super) place: Option<Bdf>,
    /// Its driver.
    pub(super) driver: Option<Option<DriverName>>,
    /// Its `driver_override`.
    pub(super) driver_override: Option<Option<String>>,
}

impl Seen {
    /// Where the function is.
    pub(super) fn place(&self, target: Target, host: &dyn Read) -> Result<Bdf, StepError> {
        match self.place.map_or_else(|| place(host, target), |bdf| Ok(Some(bdf)))? {
            Some(bdf) => Ok(bdf),
            None => Err(gone(target).into()),
        }
    }

    /// The function's driver.
    pub(super) fn driver(&self, device: Bdf, host: &dyn Read) -> Result<Option<DriverName>, HostError> {
        self.driver.clone().map_or_else(|| driver(host, device), Ok)
    }
}

/// The same, when some of it was read a moment ago: that need not be read once more.
pub(super) fn act_after(step: &Step, seen: &Seen, host: &dyn Links) -> Result<Option<Change>, StepError> {
    Ok(match step {
        Step::Set { device, to } => {
            let back = if seen.is_made { TakenBack::WithTheDevice } else { TakenBack::BySetting };
            setting::change(host, *device, to, back)?
        }
        Step::LoadModule { module, choice } => load(module, *choice, host)?,
        Step::SetOverride { device, driver } => {
            let name = driver.as_ref().map(|driver| resolve(driver, host)).transpose()?;
            let wanted = name.as_ref().map(DriverName::as_str);
            let at = At { target: *device, bdf: seen.place(*device, host)? };
            match &seen.driver_override {
                Some(was) => override_from(at, was.clone(), wanted),
                None => set_override(at, wanted, host)?,
            }
        }
        Step::Unbind { device, open } => {
            let at = At { target: *device, bdf: seen.place(*device, host)? };
            let was = seen.driver(at.bdf, host)?;
            if was.is_some() && *open == WhenOpen::Refuse {
                refuse_open(at.bdf, host)?;
            }
            was.map(|was| unbind(at, &was))
        }
        Step::Reset { device } => {
            let path = HostPath::pci(seen.place(*device, host)?).attr("reset");
            let act = Act::Write { path, value: "1".to_owned(), was: None };
            Some(Change { act, undo: None, makes: None })
        }
        Step::Bind { device, driver: wanted } => {
            let wanted = resolve(wanted, host)?;
            let at = At { target: *device, bdf: seen.place(*device, host)? };
            let was = seen.driver(at.bdf, host)?;
            let already = was.as_ref() == Some(&wanted);
            (!already).then(|| bind(at, &wanted, was))
        }
        Step::Reprobe { device } => {
            let path = HostPath::fixed(crate::host::path::Root::Sys, "bus/pci/drivers_probe");
            let bdf = seen.place(*device, host)?;
            let act = Act::Write { path, value: bdf.to_string(), was: None };
            let undo = Some(Undo { device: *device, was: Setting::Driver(None) });
            driver(host, bdf)?.is_none().then_some(Change { act, undo, makes: None })
        }
    })
}

/// Keeps off a device that somebody has open: taking it would wait for them, and could not be called off.
pub(super) fn refuse_open(device: Bdf, host: &dyn Read) -> Result<(), StepError> {
    if is_vfio_device(device, host)? && vfio_device_is_open(host, device)? == Some(true) {
        return Err(StepError::Open(device));
    }
    Ok(())
}

/// Whether a VFIO driver has the function: there is a directory, which is no link and not read.
fn is_vfio_device(device: Bdf, host: &dyn Read) -> Result<bool, StepError> {
    match host.link(&HostPath::pci(device).attr("vfio-dev")) {
        Ok(_) | Err(HostError { errno: Errno::EINVAL, .. }) => Ok(true),
        other => Ok(optional(other)?.is_some()),
    }
}

fn load(module: &ModuleName, choice: Choice, host: &dyn Read) -> Result<Option<Change>, StepError> {
    if module_is_live(host, module)? {
        return Ok(None);
    }
    let blacklist = match choice {
        Choice::Ours => Blacklist::Respect,
        Choice::Users => Blacklist::Ignore,
    };
    Ok(Some(Change { act: Act::Load { module: module.clone(), blacklist }, undo: None, makes: None }))
}

/// A function that is there: what the plan calls it, and its address.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) target: Target,
    pub(super) bdf: Bdf,
}

/// There is nothing at `target`.
pub(super) fn gone(target: Target) -> HostError {
    HostError::new(Verb::Read, directory(target), Errno::ENODEV)
}

/// Where a target shows itself: an SF has no directory but its PF's.
pub(super) fn directory(target: Target) -> HostPath {
    match target {
        Target::Pci(bdf) | Target::Sf { pf: bdf, .. } => HostPath::pci(bdf),
        Target::Vf { pf, index } => HostPath::vf_link(pf, index),
        Target::Mdev(uuid) => HostPath::mdev(uuid),
        Target::Dsa(name) => HostPath::dsa(name),
    }
}

/// The change that sets an override to `wanted`, unless it is so already.
pub(super) fn set_override(at: At, wanted: Option<&str>, host: &dyn Read) -> Result<Option<Change>, StepError> {
    let was = driver_override(host, at.bdf)?.ok_or_else(|| gone(at.target))?;
    Ok(override_from(at, was, wanted))
}

/// The same, of an override that was read a moment ago.
fn override_from(at: At, was: Option<String>, wanted: Option<&str>) -> Option<Change> {
    let path = HostPath::pci(at.bdf).attr("driver_override");
    if was.as_deref() == wanted {
        return None;
    }
    // A write of no bytes does nothing; a lone newline clears (drivers/base/dd.c __device_set_driver_override(), 7.2).
    let value = wanted.unwrap_or("\n").to_owned();
    let shown = was.clone().unwrap_or_else(|| OVERRIDE_UNSET.to_owned());
    let undo = Some(Undo { device: at.target, was: Setting::Override(was) });
    let makes = Some(Setting::Override(wanted.map(ToOwned::to_owned)));
    Some(Change { act: Act::Write { path, value, was: Some(shown) }, undo, makes })
}

/// The change that takes a function from `driver`.
pub(super) fn unbind(at: At, driver: &DriverName) -> Change {
    let act = Act::Write {
        path: HostPath::pci_driver(driver).attr("unbind"),
        value: at.bdf.to_string(),
        was: Some(format!("bound to {driver}")),
    };
    let undo = Some(Undo { device: at.target, was: Setting::Driver(Some(driver.clone())) });
    Change { act, undo, makes: Some(Setting::Driver(None)) }
}

/// The change that gives a function to `driver`, from `was`.
pub(super) fn bind(at: At, driver: &DriverName, was: Option<DriverName>) -> Change {
    let act = Act::Write { path: HostPath::pci_driver(driver).attr("bind"), value: at.bdf.to_string(), was: None };
    let undo = Some(Undo { device: at.target, was: Setting::Driver(was) });
    Change { act, undo, makes: Some(Setting::Driver(Some(driver.clone()))) }
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
