//! Who has a device open.

use std::fmt;

use super::Bdf;

/// A process that has a device, or its IOMMU group, open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its process id, as this pid namespace counts.
    pub pid: u32,
    /// `/proc/<pid>/comm`, or the program's whole name where the kernel has cut it.
    pub command: String,
    /// The name of the VM, when it is a QEMU that was given one: libvirt names all of its own.
    pub vm: Option<String>,
    /// By what it holds the device.
    pub how: How,
}

/// By what a process holds a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// The device, by its cdev: `/dev/vfio/devices/vfioN`. A driver waits for it even before it is bound to an iommufd.
    Cdev,
    /// The device, by its group: `anon_inode:[vfio-device]`.
    Device,
    /// A BAR of the VFIO device that is mapped, without any descriptor.
    Mapping,
    /// One of several VFIO devices that are open: the kernel does not say which.
    OneOf,
    /// The group node, `/dev/vfio/N`, and no device.
    Group,
    /// A BAR by `/sys/…/resourceN`.
    Resource,
    /// `/dev/uioN`.
    Uio,
}

impl How {
    /// As in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cdev => "cdev",
            Self::Device => "device",
            Self::Mapping => "mapping",
            Self::OneOf => "one-of",
            Self::Group => "group",
            Self::Resource => "resource",
            Self::Uio => "uio",
        }
    }

    /// What it keeps from being taken away.
    #[must_use]
    pub const fn hold(self) -> Hold {
        match self {
            Self::Cdev | Self::Device | Self::Mapping | Self::OneOf => Hold::Device,
            Self::Group => Hold::Group,
            Self::Resource | Self::Uio => Hold::Bar,
        }
    }
}

impl Holder {
    /// Its command and VM, `qemu-system-x86_64, VM web1`.
    #[must_use]
    pub fn program(&self) -> String {
        match &self.vm {
            Some(vm) => format!("{}, VM {vm}", self.command),
            None => self.command.clone(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let perhaps = if self.how == How::OneOf { "perhaps " } else { "" };
        write!(f, "{perhaps}pid {} ({})", self.pid, self.program())
    }
}

/// What of a device is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// The VFIO device: its driver waits until it is closed.
    Device,
    /// The IOMMU group alone: nobody else can open it.
    Group,
    /// A BAR, past VFIO: the kernel neither waits nor takes it back.
    Bar,
}

/// One way in which a function is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The function that is held: the one that was asked about, or a VF of it that would go with it.
    pub function: Bdf,
    /// What of it.
    pub hold: Hold,
    /// By whom, as far as `/proc` shows.
    pub holders: Vec<Holder>,
}
