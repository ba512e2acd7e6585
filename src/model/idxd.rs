//! Intel's data accelerators (DSA and IAA) as the idxd driver shows them on the bus `dsa`: devices, WQs, engines, groups.

use std::fmt;

use super::{Bdf, BusName, DriverName};

/// A number of a group, engine or WQ in its device.
pub type IdxdIndex = u16;

/// `dsa<N>` or `iax<N>`: an accelerator that the PCI driver `idxd` has.
///
/// # Kernel
/// `Documentation/ABI/stable/sysfs-driver-dma-idxd`; `drivers/dma/idxd/sysfs.c` (7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdxdDevice {
    /// Its name on the bus.
    pub name: BusName,
    /// The PCI function.
    pub function: Option<Bdf>,
    /// `dsa` or `iax`: the first part of its name, and the directory of its nodes below `/dev`.
    pub kind: IdxdKind,
    /// `state`: `disabled`, `enabled` or `halted`; anything else as it reads.
    pub state: String,
    /// The driver of the bus that has it: `idxd` while it is enabled.
    pub driver: Option<DriverName>,
    /// `configurable`: its WQs, engines and groups can be set.
    pub configurable: bool,
    /// `pasid_enabled`: shared WQs and user WQs can be enabled.
    pub pasid: bool,
    /// `max_work_queues`.
    pub max_work_queues: u16,
    /// `max_work_queues_size`: what the sizes of all WQs may come to, in entries.
    pub max_work_queues_size: u32,
    /// `cmd_status`: why the last bind was refused; 0 when it was not.
    pub cmd_status: u32,
    /// Its WQs, by number.
    pub work_queues: Vec<WorkQueue>,
    /// Its engines, by number.
    pub engines: Vec<Engine>,
    /// Its groups, by number.
    pub groups: Vec<WqGroup>,
}

/// Which accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdxdKind {
    /// Data streaming: copies, fills, compares.
    Dsa,
    /// In-memory analytics: compresses.
    Iax,
}

impl IdxdKind {
    /// As the kernel spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dsa => "dsa",
            Self::Iax => "iax",
        }
    }
}

/// `type` of a WQ: who may submit to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WqType {
    /// Nobody yet.
    None,
    /// The kernel, by driver `dmaengine` or `crypto`.
    Kernel,
    /// Programs, by driver `user`: a character device with SVA.
    User,
}

impl WqType {
    /// As the attribute spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kernel => "kernel",
            Self::User => "user",
        }
    }

    /// What the attribute says.
    #[must_use]
    pub fn read_as(text: &str) -> Self {
        match text {
            "kernel" => Self::Kernel,
            "user" => Self::User,
            _ => Self::None,
        }
    }
}

/// `mode` of a WQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WqMode {
    /// One client; `threshold` is 0.
    Dedicated,
    /// Several clients, up to `threshold` entries for those without privilege.
    Shared,
}

impl WqMode {
    /// As the attribute spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dedicated => "dedicated",
            Self::Shared => "shared",
        }
    }
}

/// `wq<N>.<M>`: a work queue.
///
/// `cdev_minor` is never read: that takes `wq_lock`, which a bind holds to its end (`drivers/dma/idxd/sysfs.c`
/// `wq_cdev_minor_show()`, 7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkQueue {
    /// Its name on the bus, `wq0.1`.
    pub address: BusName,
    /// `state`: it is enabled, and so in the hands of its driver.
    pub enabled: bool,
    /// `type`.
    pub kind: WqType,
    /// `mode`.
    pub mode: WqMode,
    /// `size`, in entries; 0 is not configured.
    pub size: u32,
    /// `group_id`; `None` for -1.
    pub group: Option<IdxdIndex>,
    /// `priority`, 0..=15.
    pub priority: u8,
    /// `threshold`, in entries.
    pub threshold: u32,
    /// `name`: what the administrator calls it; empty is not set.
    pub name: String,
    /// `driver_name`: the driver that alone may have it; `None` before 6.7, and where it is empty.
    pub driver_name: Option<String>,
    /// The driver of the bus that has it: `user`, `dmaengine`, `crypto`.
    pub driver: Option<DriverName>,
    /// `clients`: how many have it open.
    pub clients: u32,
}

impl WorkQueue {
    /// Whether `create` could make one of it: it is disabled, and nobody has configured it. What a WQ that was enabled keeps,
    /// its size and its group, says nothing.
    #[must_use]
    pub fn is_free(&self) -> bool {
        !self.enabled && self.kind == WqType::None && self.name.is_empty()
    }

    /// Its character device, `/dev/dsa/wq0.1`, while driver `user` has it.
    ///
    /// # Kernel
    /// `drivers/dma/idxd/cdev.c` `idxd_wq_add_cdev()` (7.2).
    #[must_use]
    pub fn node(&self, device: &IdxdDevice) -> Option<String> {
        let user = self.driver.as_ref().is_some_and(|driver| driver.as_str() == "user");
        user.then(|| format!("/dev/{}/{}", device.kind.as_str(), self.address))
    }

    /// What it is for, in words.
    #[must_use]
    pub fn purpose(&self, device: &IdxdDevice) -> String {
        match (self.node(device), self.kind) {
            (Some(node), _) => format!("programs submit to it by {node}, with SVA"),
            (None, WqType::User) => {
                String::from("for programs, by a character device with SVA, when driver user has it")
            }
            (None, WqType::Kernel) => String::from("for the kernel's own use: a DMA channel, or compression"),
            (None, WqType::None) => String::from("it is not configured, and so for nobody"),
        }
    }
}

/// Why no WQ can be given to a VM as a device: the one sentence for all verbs.
pub const NO_VFIO_PROVIDER: &str = "no driver of the kernel makes a VFIO device of a WQ";

/// `engine<N>.<M>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Its name on the bus.
    pub name: BusName,
    /// `group_id`; `None` for -1.
    pub group: Option<IdxdIndex>,
}

/// `group<N>.<M>`: engines that serve WQs together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WqGroup {
    /// Its name on the bus.
    pub name: BusName,
    /// Its number.
    pub index: IdxdIndex,
}

/// `cmd_status` of a device: why a bind was refused, as the kernel's header names it.
///
/// # Kernel
/// `include/uapi/linux/idxd.h` `enum idxd_scmd_stat` (7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CmdStatus(pub u32);

impl CmdStatus {
    /// `IDXD_SCMD_DEV_ENABLED`.
    pub const DEV_ENABLED: Self = Self(0x8000_0010);
    /// `IDXD_SCMD_DEV_NOT_ENABLED`.
    pub const DEV_NOT_ENABLED: Self = Self(0x8000_0020);
    /// `IDXD_SCMD_WQ_ENABLED`.
    pub const WQ_ENABLED: Self = Self(0x8000_0021);
    /// `IDXD_SCMD_WQ_NO_GRP`.
    pub const WQ_NO_GRP: Self = Self(0x8003_0000);
    /// `IDXD_SCMD_WQ_NO_NAME`.
    pub const WQ_NO_NAME: Self = Self(0x8004_0000);
    /// `IDXD_SCMD_WQ_NO_SVM`.
    pub const WQ_NO_SVM: Self = Self(0x8005_0000);
    /// `IDXD_SCMD_WQ_NO_THRESH`.
    pub const WQ_NO_THRESH: Self = Self(0x8006_0000);
    /// `IDXD_SCMD_WQ_NO_SWQ_SUPPORT`.
    pub const WQ_NO_SWQ_SUPPORT: Self = Self(0x800c_0000);
    /// `IDXD_SCMD_WQ_NONE_CONFIGURED`.
    pub const WQ_NONE_CONFIGURED: Self = Self(0x800d_0000);
    /// `IDXD_SCMD_WQ_USER_NO_IOMMU`.
    pub const WQ_USER_NO_IOMMU: Self = Self(0x8011_0000);
    /// `IDXD_SCMD_WQ_NO_DRV_NAME`.
    pub const WQ_NO_DRV_NAME: Self = Self(0x8020_0000);

    /// What it means; `None` for 0 and for what the header does not have.
    #[must_use]
    pub const fn words(self) -> Option<&'static str> {
        Some(match self.0 {
            0x8000_0010 => "the device is enabled already",
            0x8000_0020 => "the device is not enabled",
            0x8000_0021 => "the WQ is enabled already",
            0x8002_0000 => "the DMA device could not be registered",
            0x8003_0000 => "the WQ is in no group",
            0x8004_0000 => "the WQ has no name",
            0x8005_0000 => "a shared WQ needs PASID, which is off",
            0x8006_0000 => "a shared WQ needs a threshold",
            0x8007_0000 => "the portal could not be mapped",
            0x8008_0000 => "out of memory for the WQ",
            0x8009_0000 => "the reference counter could not be set up",
            0x800a_0000 => "the DMA channel could not be registered",
            0x800b_0000 => "the character device could not be made",
            0x800c_0000 => "this device has no shared WQs",
            0x800d_0000 => "no WQ is in a group",
            0x800e_0000 => "a WQ has no size",
            0x800f_0000 => "a dedicated kernel WQ needs privileged PASID",
            0x8010_0000 => "the WQ has no interrupt",
            0x8011_0000 => "a user WQ needs SVA, which is off",
            0x8012_0000 => "the event log could not be set up",
            0x8020_0000 => "driver_name of the WQ names another driver",
            _ => return None,
        })
    }
}

impl fmt::Display for CmdStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            Some(words) => f.write_str(words),
            None => write!(f, "{:#x}", self.0),
        }
    }
}
