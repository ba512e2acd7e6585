//! Opening a VFIO device by the best of its ways, as long as that takes.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use super::device::{Device, Way};
use super::path::Root;
use super::{Host, HostError, HostPath, Read, Verb, optional};
use crate::model::{Address, BusName, Errno, GroupId};

/// How soon a device that is busy is asked again: at first, and at most.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_millis(200);

/// Whether a device may be opened without IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WithoutIommu {
    /// No.
    #[default]
    Refuse,
    /// Yes: the user has allowed it.
    Allow,
}

/// A kind of way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A cdev.
    Cdev,
    /// A group, with an IOMMU or without.
    Group,
}

impl Kind {
    const fn is_of(self, way: &Way) -> bool {
        matches!((self, way), (Self::Cdev, Way::Cdev(_)) | (Self::Group, Way::Group(..) | Way::NoIommu(..)))
    }
}

/// How to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// The token that its PF's user has set, for a VF; or that its VFs are open with, for a PF.
    pub token: Option<Uuid>,
    /// Whether it may be opened without IOMMU.
    pub without_iommu: WithoutIommu,
    /// By this kind of way alone.
    pub by: Option<Kind>,
    /// For how long a device is asked again that somebody resets or binds.
    pub patience: Duration,
}

impl Default for Manner {
    /// Without token, with an IOMMU, and for 10 s, as long as a write may take.
    fn default() -> Self {
        Self { token: None, without_iommu: WithoutIommu::Refuse, by: None, patience: Duration::from_secs(10) }
    }
}

/// Why a device was not opened. Nothing is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// It is no VFIO device: no VFIO driver has it.
    NoVfioDevice,
    /// It can be opened without IOMMU alone, and that was not allowed.
    WithoutIommu(GroupId),
    /// What the kernel refused.
    Host(HostError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVfioDevice => f.write_str("it is not on a VFIO driver"),
            Self::WithoutIommu(group) => {
                write!(f, "there is no IOMMU in front of it, only {}", HostPath::noiommu_node(*group))
            }
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<HostError> for OpenError {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

/// The ways to open a device whose directory in sysfs this is, best first: its cdev, its group, its group without IOMMU. None
/// when it is no VFIO device.
///
/// # Errors
/// What the kernel refused, but that it is not there.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_init_device()` names `vfio-dev/vfioN`, with `dev` where cdevs are built;
/// `drivers/vfio/group.c` `vfio_create_group()` names a group's node (7.2).
pub fn ways(host: &dyn Read, directory: &HostPath, address: &Address) -> Result<Vec<Way>, HostError> {
    let place = directory.attr("vfio-dev");
    let Some(names) = optional(host.list(&place))? else { return Ok(Vec::new()) };
    let mut ways = Vec::new();
    for name in names.iter().filter_map(|name| name.parse::<BusName>().ok()) {
        if optional(host.read(&place.child(&name).attr("dev")))?.is_some() && name.as_str().starts_with("vfio") {
            ways.push(Way::Cdev(name));
        }
    }
    let group =
        optional(host.link_name(&directory.attr("iommu_group")))?.and_then(|name| name.parse().ok()).map(GroupId);
    if let Some(group) = group {
        let nodes = optional(host.list(&HostPath::fixed(Root::Dev, "vfio")))?.unwrap_or_default();
        let has = |name: &str| nodes.iter().any(|node| node == name);
        if has(&format!("noiommu-{group}")) {
            ways.push(Way::NoIommu(group, address.clone()));
        } else {
            ways.push(Way::Group(group, address.clone()));
        }
    }
    Ok(ways)
}

/// Opens a device by the first of its ways that is there, and asks a device again that somebody resets or binds just now
/// (`EAGAIN`), until it is open or patience ends.
///
/// A way is not there when its node is not, nor `/dev/iommu` for a cdev; and with a token, when the kernel knows none for a
/// cdev. Any other refusal is the answer: the next way would have the same.
///
/// # Errors
/// [`OpenError`]; of a device that stayed busy, how often it was asked.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_enable()` calls `pci_try_reset_function()`, which gives up at once when
/// somebody has the lock of the device (7.2).
pub fn open_device(
    host: &dyn Host,
    directory: &HostPath,
    address: &Address,
    manner: &Manner,
) -> Result<Box<dyn Device>, OpenError> {
    let ways = ways(host, directory, address)?;
    let mut missing = None;
    for way in ways.iter().filter(|way| manner.by.is_none_or(|by| by.is_of(way))) {
        if let Way::NoIommu(group, _) = way
            && manner.without_iommu == WithoutIommu::Refuse
        {
            return Err(OpenError::WithoutIommu(*group));
        }
        match patiently(host, way, manner) {
            Err(error) if not_there(&error, way, manner) => missing = Some(error),
            opened => return Ok(opened?),
        }
    }
    Err(missing.map_or(OpenError::NoVfioDevice, OpenError::Host))
}

/// Whether a refusal says that this way is not there.
fn not_there(error: &HostError, way: &Way, manner: &Manner) -> bool {
    match (error.verb, error.errno) {
        // A static node whose module is not there says ENODEV or ENXIO.
        (Verb::Open, Errno::ENOENT) => true,
        (Verb::Open, Errno::ENODEV | Errno::ENXIO) => error.path == HostPath::fixed(Root::Dev, "iommu"),
        (Verb::Ioctl("VFIO_DEVICE_BIND_IOMMUFD"), Errno::EINVAL) => {
            manner.token.is_some() && matches!(way, Way::Cdev(_))
        }
        _ => false,
    }
}

/// Opens by one way, and asks again while it is busy.
fn patiently(host: &dyn Host, way: &Way, manner: &Manner) -> Result<Box<dyn Device>, HostError> {
    let begun = host.now();
    let (mut asked, mut pause) = (1u32, SOON);
    loop {
        match host.open_device(way, manner.token) {
            Err(error) if error.errno == Errno::EAGAIN => {
                let waited = host.now().saturating_sub(begun);
                if waited >= manner.patience || host.interrupts() > 0 {
                    let said =
                        format!("asked {asked} times within {} s: somebody resets it or binds it", waited.as_secs());
                    return Err(error.with_said(&said));
                }
                host.nap(pause.min(manner.patience.saturating_sub(waited)).max(SOON));
                (asked, pause) = (asked + 1, LATER.min(pause * 2));
            }
            answer => return answer,
        }
    }
}
