//! PCI functions as sysfs shows them.

use std::fmt;

use super::route::SshPeer;
use super::stacked::{BlockHolder, BootUse, Upper};
use super::{Bdf, BusName, DriverName, GroupId, ModAlias};

/// The 24-bit class code: base class, subclass, programming interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Class(pub u32);

impl Class {
    /// The base class, `02` for network.
    #[must_use]
    pub const fn base(self) -> u8 {
        (self.0 >> 16 & 0xff) as u8
    }

    /// The subclass.
    #[must_use]
    pub const fn sub(self) -> u8 {
        (self.0 >> 8 & 0xff) as u8
    }

    /// A bridge: class `06xx`.
    #[must_use]
    pub const fn is_bridge(self) -> bool {
        self.base() == 0x06
    }

    /// A PCI-to-PCI bridge or port, `0604`: the kernel's pcieport serves it, and a group may hold it beside a user.
    #[must_use]
    pub const fn is_pci_bridge(self) -> bool {
        self.base() == 0x06 && self.sub() == 0x04
    }

    /// A function of the platform itself that must never be given away: a bridge other than PCI-to-PCI (host, LPC/ISA)
    /// or an SMBus controller (`0c05`).
    #[must_use]
    pub const fn is_chipset(self) -> bool {
        (self.is_bridge() && !self.is_pci_bridge()) || (self.base() == 0x0c && self.sub() == 0x05)
    }

    /// A display controller, class `03xx`.
    #[must_use]
    pub const fn is_display(self) -> bool {
        self.base() == 0x03
    }
}

impl fmt::Display for Class {
    /// Six lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

/// The index of a VF: N of its PF's `virtfnN`, 0-based, 16 bits as in the SR-IOV capability.
pub type VfIndex = u16;

/// What a PCI function is in its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A PF: it has the SR-IOV capability.
    Pf {
        /// `sriov_totalvfs`.
        total: u16,
        /// How many `virtfnN` links there are. `sriov_numvfs` is never read: the read takes the device lock.
        enabled: u16,
        /// `sriov_drivers_autoprobe`.
        autoprobe: bool,
    },
    /// A VF.
    Vf {
        /// Its PF.
        pf: Bdf,
        /// Its index, when the PF's links tell it.
        index: Option<VfIndex>,
    },
    /// A bridge or port: configuration header type 1 or 2, told by class `0604`/`0607`.
    Bridge,
    /// Anything else.
    Function,
}

/// One PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciFunction {
    /// Its address.
    pub bdf: Bdf,
    /// `modalias`: all its ids.
    pub alias: ModAlias,
    /// The driver that has it.
    pub driver: Option<DriverName>,
    /// `driver_override`, as written; it may name no driver at all.
    pub driver_override: Option<String>,
    /// Its IOMMU group.
    pub group: Option<GroupId>,
    /// `numa_node`; `None` for -1.
    pub numa_node: Option<u32>,
    /// PF, VF, bridge or plain function.
    pub role: Role,
    /// The name of its cdev, `vfio3`: below `/dev/vfio/devices` when the kernel has cdevs.
    pub vfio_dev: Option<VfioDev>,
    /// It offers mdev types.
    pub mdev_parent: bool,
    /// It has a directory `nvidia`, where NVIDIA's driver makes vGPUs without mdev.
    pub vendor_vgpu: bool,
    /// It is the display that the firmware booted with.
    pub boot_vga: bool,
}

impl PciFunction {
    /// Its class.
    #[must_use]
    pub const fn class(&self) -> Class {
        Class(self.alias.class())
    }

    /// Whether the kernel has it as a VFIO device, whatever the driver is called.
    #[must_use]
    pub const fn is_vfio(&self) -> bool {
        self.vfio_dev.is_some()
    }

    /// `0000:3b:00.2 on vfio-pci`, `0000:3b:00.3 on no driver`.
    #[must_use]
    pub fn on_driver(&self) -> String {
        format!("{} on {}", self.bdf, self.driver.as_ref().map_or("no driver", |driver| driver.as_str()))
    }

    /// Its PF, for a VF.
    #[must_use]
    pub const fn pf(&self) -> Option<Bdf> {
        match self.role {
            Role::Vf { pf, .. } => Some(pf),
            _ => None,
        }
    }
}

/// What a `driver_override` that is not set reads as (`drivers/base/bus.c` `driver_override_show()`, 7.2).
pub const OVERRIDE_UNSET: &str = "(null)";

/// The override that a `driver_override` reads as; `None` when it is not set. Some buses show that as nothing at all.
#[must_use]
pub fn override_read_as(text: String) -> Option<String> {
    (text != OVERRIDE_UNSET && !text.is_empty()).then_some(text)
}

/// `vfio-dev/vfioN` of a device bound to a VFIO driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfioDev {
    /// `vfio3`.
    pub name: BusName,
    /// Whether it has a device number: without `CONFIG_VFIO_DEVICE_CDEV` the directory is there and the node is not.
    pub has_cdev: bool,
}

/// What a close look at one function shows beyond a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloseUp {
    /// `reset_method`, in the order that the kernel tries; `None`: no method works or the file is not there.
    pub reset_methods: Option<Vec<String>>,
    /// `power_state`: `D0` … `D3cold`, `unknown`.
    pub power_state: Option<String>,
    /// `current_link_speed` and `current_link_width`.
    pub link: Option<Link>,
    /// `max_link_speed` and `max_link_width`.
    pub max_link: Option<Link>,
    /// Network interfaces below it.
    pub netdevs: Vec<NetDev>,
    /// Block devices below it, partitions and holders included, with what uses them.
    pub blocks: Vec<Block>,
    /// What of the host's own it carries besides.
    pub duties: Vec<Duty>,
    /// Lines of its group's `reserved_regions` that say `direct`: `0x000000007c000000 0x000000007dffffff`.
    pub direct_regions: Vec<String>,
}

/// What a function does for the host, beside storage and network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// It is the only display, and the console is on it: the names of its framebuffers.
    OnlyDisplay(Vec<String>),
    /// The console is on this terminal of it, `ttyS4`.
    ConsoleTty(String),
    /// It has this TPM, `tpm0`.
    Tpm(String),
    /// It is the hardware random number generator that the kernel draws from, `virtio_rng.0`.
    Rng(String),
}

/// A PCIe link: speed as the kernel words it and lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `8.0 GT/s PCIe`.
    pub speed: String,
    /// Lanes.
    pub width: u8,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDev {
    /// `enp59s0f0`.
    pub name: String,
    /// `IFF_UP` of `flags`: somebody has configured it up.
    pub up: bool,
    /// A default route goes through it.
    pub default_route: bool,
    /// What is stacked on it directly.
    pub uppers: Vec<Upper>,
    /// It, or what is stacked on it, carries the ssh connection that the command was typed through.
    pub ssh_peer: Option<SshPeer>,
}

/// A block device and what the host does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// `nvme0n1p2`.
    pub name: String,
    /// Where it is mounted.
    pub mounts: Vec<String>,
    /// It is swap.
    pub swap: bool,
    /// What is stacked on it, `dm-0`.
    pub holders: Vec<BlockHolder>,
    /// The imported ZFS pool that it is a member of.
    pub pool: Option<String>,
    /// What the machine starts from it.
    pub boot: Option<BootUse>,
}

impl Block {
    /// Whether taking its device away would pull storage from under the host: a file system, swap, or a device stacked on
    /// it that may be in use by anybody.
    #[must_use]
    pub fn in_use(&self) -> bool {
        !self.uses().is_empty()
    }

    /// What it is used for, in words: "mounted on /", "held by dm-0 (LVM vg0-root)".
    #[must_use]
    pub fn uses(&self) -> Vec<String> {
        let mut uses: Vec<String> = self.mounts.iter().map(|point| format!("mounted on {point}")).collect();
        uses.extend(self.swap.then(|| String::from("swap")));
        uses.extend(self.holders.iter().map(|holder| format!("held by {holder}")));
        uses.extend(self.pool.iter().map(|pool| format!("in ZFS pool {pool}, which is imported")));
        uses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_tell_bridges_chipset_and_display() {
        let facts = |class| {
            let class = Class(class);
            (class.is_bridge(), class.is_pci_bridge(), class.is_chipset(), class.is_display())
        };
        assert_eq!(facts(0x060400), (true, true, false, false), "root port");
        assert_eq!(facts(0x060100), (true, false, true, false), "LPC");
        assert_eq!(facts(0x0c0500), (false, false, true, false), "SMBus");
        assert_eq!(facts(0x0c0330), (false, false, false, false), "xHCI");
        assert_eq!(facts(0x030000), (false, false, false, true), "VGA");
    }
}
