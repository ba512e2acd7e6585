//! What may be done to a host, as data. Dry run, journal, `-v` and undo all read the same values.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::devlink::{Behind, EswitchMode, PortSetting, PortState};
use crate::model::dsa::{DsaBound, DsaValue};
use crate::model::vf::{Switch, VfSetting};
use crate::model::vgpu::VgpuTypeId;
use crate::model::{Bdf, BusName, DriverName, Hook, HookWay, MdevAttribute, ModuleName, Target, VfIndex, counted};

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
    /// Brings a setting of a device to a value: anything but its override and its driver.
    Set {
        /// Of which device.
        device: Target,
        /// What, and to which value.
        to: Setting,
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

/// What a step changes about a device, with one value: the one that it had, or the one that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `driver_override`; `None` when it is not set.
    Override(Option<String>),
    /// The driver; `None` when it has none.
    Driver(Option<DriverName>),
    /// `sriov_drivers_autoprobe` of a PF.
    Autoprobe(Switch),
    /// How many VFs a PF has: `sriov_numvfs`, told by counting.
    Vfs(u16),
    /// What a PF's driver keeps for a VF.
    Vf {
        /// The PF.
        pf: Bdf,
        /// N of `virtfnN`.
        index: VfIndex,
        /// Which attribute, and its value.
        to: VfSetting,
    },
    /// `sriov_vf_msix_count` of a VF, which cannot be read; 0 is what the PF's driver gives by itself.
    MsixCount(u32),
    /// Which way a vendor's tool was last run for a VF; what that did it alone can tell.
    Hook(Hook),
    /// What vfioadm remembers of the VFs that it enabled, in `/run/vfioadm/pool`; `None`: it has enabled none.
    Pool(Option<Pool>),
    /// Whether there is an mdev, and of what.
    Mdev(Option<MdevOf>),
    /// An attribute of an mdev, which its driver may not tell.
    MdevAttribute(MdevAttribute),
    /// `nvidia/current_vgpu_type` of a VF: what it is made; 0 is nothing.
    Vgpu(VgpuTypeId),
    /// An attribute of a WQ or an engine.
    Dsa(DsaValue),
    /// The driver of the bus `dsa` that has an idxd device or a WQ, with what goes when it goes.
    DsaDriver(Option<DsaBound>),
    /// The mode of a PF's eswitch.
    Eswitch(EswitchMode),
    /// What devlink keeps for a function at its port.
    Port {
        /// The PF, by which devlink knows the port.
        pf: Bdf,
        /// Whose port.
        behind: Behind,
        /// Which attribute, and its value.
        to: PortSetting,
    },
    /// Whether there is a subfunction, and what it was.
    Sf(Option<SfOf>),
}

/// A subfunction as it can be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SfOf {
    /// `DEVLINK_ATTR_PORT_PCI_PF_NUMBER`.
    pub pfnum: u16,
    /// What it has at its port, as far as it is reported.
    pub kept: Vec<PortSetting>,
    /// `DEVLINK_PORT_FN_ATTR_STATE`.
    pub state: PortState,
}

/// What an mdev is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MdevOf {
    /// The name of its parent in `/sys/class/mdev_bus`.
    pub parent: BusName,
    /// The name of its type's directory.
    pub kind: BusName,
}

/// The VFs of a PF that vfioadm enabled for whoever asks for some: which it has given, and what to leave behind when the
/// last comes back.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// How many there are.
    pub vfs: u16,
    /// Whether vfioadm enabled them, and disables them with the last that comes back.
    pub ours: bool,
    /// Whether `sriov_drivers_autoprobe` was on before.
    pub autoprobe: bool,
    /// The mode that the PF's eswitch was in, where it was brought to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eswitch: Option<EswitchMode>,
    /// The indices that `create` has given, in order.
    pub given: BTreeSet<VfIndex>,
    /// What devlink told of a VF that nobody had set; `None`: it is asked of the first when this is written, for none has been.
    #[serde(default, skip_serializing_if = "is_silent")]
    pub fresh: Option<Vec<PortSetting>>,
    /// Those that `create` has given a count of MSI-X vectors, which the kernel does not tell.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub msix: BTreeSet<(VfIndex, u32)>,
}

impl Pool {
    /// The count of MSI-X vectors that `create` has given a VF.
    #[must_use]
    pub fn msix_of(&self, index: VfIndex) -> Option<u32> {
        self.msix.iter().find(|(of, _)| *of == index).map(|(_, count)| *count)
    }
}

/// Whether there is nothing that devlink told.
#[expect(clippy::ref_option, reason = "serde calls it with a reference")]
fn is_silent(fresh: &Option<Vec<PortSetting>>) -> bool {
    fresh.as_ref().is_none_or(Vec::is_empty)
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
    /// Whether it is about the same of a device: its override, its driver, one of its attributes.
    #[must_use]
    pub fn is_of_kind(&self, other: &Setting) -> bool {
        self.was.is_of_kind(other)
    }
}

impl Setting {
    /// Whether both are about the same of a device.
    #[must_use]
    pub fn is_of_kind(&self, other: &Self) -> bool {
        let same = std::mem::discriminant(self) == std::mem::discriminant(other);
        match (self, other) {
            (Self::Vf { pf, index, to }, Self::Vf { pf: other_pf, index: other_index, to: other }) => {
                (pf, index) == (other_pf, other_index) && std::mem::discriminant(to) == std::mem::discriminant(other)
            }
            (Self::Dsa(one), Self::Dsa(other)) => (one.of, one.key) == (other.of, other.key),
            (Self::MdevAttribute(one), Self::MdevAttribute(other)) => one.name == other.name,
            (Self::Port { pf, behind, to }, Self::Port { pf: other_pf, behind: other_behind, to: other }) => {
                (pf, behind) == (other_pf, other_behind) && std::mem::discriminant(to) == std::mem::discriminant(other)
            }
            _ => same,
        }
    }

    /// Whether this, which was seen, is `wanted`. What is there for the way back alone is not compared.
    #[must_use]
    pub fn is_as(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::DsaDriver(seen), Self::DsaDriver(wanted)) => {
                seen.as_ref().map(|seen| &seen.driver) == wanted.as_ref().map(|wanted| &wanted.driver)
            }
            (Self::Sf(seen), Self::Sf(wanted)) => seen.is_some() == wanted.is_some(),
            (Self::Hook(seen), Self::Hook(wanted)) if wanted.way == HookWay::Undo => seen.way == wanted.way,
            (Self::Pool(Some(seen)), Self::Pool(Some(wanted))) => {
                *seen == Pool { fresh: seen.fresh.clone(), ..wanted.clone() }
            }
            _ => self == wanted,
        }
    }
}

impl fmt::Display for Setting {
    /// In a few words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Override(text) => write!(f, "override {}", text.as_deref().unwrap_or("cleared")),
            Self::Driver(Some(driver)) => write!(f, "driver {driver}"),
            Self::Driver(None) => f.write_str("no driver"),
            Self::Autoprobe(switch) => write!(f, "autoprobe {switch}"),
            Self::Vfs(count) => f.write_str(&counted(*count, "VF")),
            Self::Vf { index, to, .. } => write!(f, "vf {index} {to}"),
            Self::MsixCount(count) => f.write_str(&counted(*count, "MSI-X vector")),
            Self::Hook(hook) => write!(f, "what {hook} makes of it"),
            Self::Pool(Some(pool)) => {
                write!(f, "a pool of {}, {} of them given", counted(pool.vfs, "VF"), pool.given.len())
            }
            Self::Pool(None) => f.write_str("no pool"),
            Self::Mdev(Some(of)) => write!(f, "an mdev {} of {}", of.kind, of.parent),
            Self::Mdev(None) => f.write_str("no mdev"),
            Self::MdevAttribute(of) => of.fmt(f),
            Self::Vgpu(0) => f.write_str("no vGPU"),
            Self::Vgpu(id) => write!(f, "vGPU type {id}"),
            Self::Dsa(value) => value.fmt(f),
            Self::DsaDriver(Some(bound)) => write!(f, "driver {}", bound.driver),
            Self::DsaDriver(None) => f.write_str("no driver"),
            Self::Eswitch(mode) => write!(f, "eswitch mode {mode}"),
            Self::Port { behind, to, .. } => write!(f, "{behind} {to}"),
            Self::Sf(Some(_)) => f.write_str("a subfunction"),
            Self::Sf(None) => f.write_str("no subfunction"),
        }
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
    /// Whether it loads a module.
    #[must_use]
    pub const fn is_load(&self) -> bool {
        matches!(self, Self::LoadModule { .. })
    }

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
            Self::Set { device, to: Setting::Hook(hook) } => format!("run {hook} for {device}"),
            Self::Set { device, to } => format!("set {device} to {to}"),
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
            Self::Set { to: Setting::Vfs(0), .. } => Reversible::Roughly("the drivers and nodes of VFs"),
            Self::Set { to: Setting::MsixCount(_), .. } => {
                Reversible::Roughly("a count of MSI-X vectors, which goes to the driver's own")
            }
            Self::Set { to: Setting::Hook(_), .. } => Reversible::Roughly("what a hook does not take back itself"),
            Self::Set { to: Setting::Mdev(None), .. } => Reversible::Roughly("the attributes and the node of an mdev"),
            Self::Set { to: Setting::Vgpu(0), .. } => Reversible::Roughly("what a vGPU had been given beside its type"),
            Self::Set { .. } => Reversible::Exactly,
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
    /// Done before the first attempt: what a driver finds when it looks.
    pub prepare: Vec<Step>,
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
    /// Whether this plan makes it: before, it is not there.
    pub is_made: bool,
    /// What follows when it cannot be set to what is wanted before the attempts.
    pub unsupported: Unsupported,
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

/// What follows when the driver of a device has no way to set what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    /// The lane fails.
    Fails,
    /// It goes on without, and says so.
    IsSkipped,
}

/// Everything that one command is to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order of the command line.
    pub lanes: Vec<Lane>,
}

impl Lane {
    /// Whether it begins by keeping every driver away from a device that has none.
    #[must_use]
    pub fn keeps_away(&self) -> bool {
        matches!(self.prepare.first(), Some(Step::SetOverride { driver: Some(_), .. }))
    }

    /// How many turns it takes until its device goes by an override, when that is the first thing that is done.
    #[must_use]
    pub fn turns_to_an_override(&self) -> Option<usize> {
        let first = |steps: &[Step]| matches!(steps.first(), Some(Step::SetOverride { driver: Some(_), .. }));
        match (self.prepare.as_slice(), self.attempts.first()) {
            ([], Some(attempt)) if first(&attempt.steps) => Some(3),
            (steps, _) if first(steps) => Some(2),
            _ => None,
        }
    }

    /// A lane with nothing in it yet, which stands for itself.
    #[must_use]
    pub const fn new(device: Target, otherwise: Otherwise) -> Self {
        Self {
            device,
            prepare: Vec::new(),
            attempts: Vec::new(),
            finish: Vec::new(),
            otherwise,
            after: Vec::new(),
            has_children: false,
            is_made: false,
            unsupported: Unsupported::Fails,
            bond: 0,
        }
    }
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
        self.prepare.iter().chain(self.attempts.iter().flat_map(|attempt| &attempt.steps)).chain(&self.finish)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.steps().next().is_none()
    }
}
