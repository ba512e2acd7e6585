//! What is stacked on a device by the host: over a network interface, over a block device.

use std::fmt;

/// A network interface that is stacked on another: its master, or any that has a link `upper_<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    /// `bond0`.
    pub name: String,
    /// What it is.
    pub kind: UpperKind,
}

/// What a stacked network interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpperKind {
    /// A bond, of which the lower interface is a slave.
    Bond,
    /// A bridge, of which it is a port.
    Bridge,
    /// `ovs-system`: the lower interface is a port of an Open vSwitch bridge.
    OpenVswitch,
    /// Another master, of which the kernel does not say what it is: a VRF, a team, a failover device.
    Master,
    /// A VLAN, macvlan or what else `DEVTYPE` says; nothing for an ipvlan.
    Over(Option<String>),
}

impl UpperKind {
    /// Whether `ip link set LOWER nomaster` takes the lower interface away from it.
    #[must_use]
    pub const fn is_master(&self) -> bool {
        matches!(self, Self::Bond | Self::Bridge | Self::Master)
    }
}

impl fmt::Display for Upper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.kind {
            UpperKind::Bond => write!(f, "a slave of bond {name}"),
            UpperKind::Bridge => write!(f, "a port of bridge {name}"),
            UpperKind::OpenVswitch => write!(f, "a port of an Open vSwitch bridge ({name})"),
            UpperKind::Master => write!(f, "enslaved to {name}"),
            UpperKind::Over(Some(kind)) => write!(f, "below {kind} {name}"),
            UpperKind::Over(None) => write!(f, "below interface {name}"),
        }
    }
}

/// A block device that is stacked on another: what `holders` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHolder {
    /// `dm-0`, `md127`.
    pub name: String,
    /// What it is, when the kernel tells.
    pub kind: Option<HolderKind>,
    /// What it is called in `/dev/mapper`.
    pub called: Option<String>,
}

/// What a stacked block device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HolderKind {
    /// A logical volume.
    Lvm,
    /// An encrypted volume.
    Crypt,
    /// A multipath device, of which the lower is a path.
    Multipath,
    /// A RAID of the firmware's, by dmraid.
    DmRaid,
    /// An MD array with its level, `raid1`.
    Md(Option<String>),
}

impl HolderKind {
    /// What made a device-mapper device, by the prefix of its `dm/uuid`. A partition's `part1-` is passed over.
    #[must_use]
    pub fn of_dm_uuid(uuid: &str) -> Option<Self> {
        let rest = match uuid.split_once('-') {
            Some((part, rest)) if part.starts_with("part") => rest,
            _ => uuid,
        };
        match rest.split_once('-')?.0 {
            "LVM" => Some(Self::Lvm),
            "CRYPT" => Some(Self::Crypt),
            "mpath" => Some(Self::Multipath),
            "DMRAID" => Some(Self::DmRaid),
            _ => None,
        }
    }
}

impl fmt::Display for HolderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lvm => f.write_str("LVM"),
            Self::Crypt => f.write_str("dm-crypt"),
            Self::Multipath => f.write_str("multipath"),
            Self::DmRaid => f.write_str("dmraid"),
            Self::Md(Some(level)) => write!(f, "MD {level}"),
            Self::Md(None) => f.write_str("MD"),
        }
    }
}

impl fmt::Display for BlockHolder {
    /// `dm-0 (LVM vg0-root)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match (&self.kind, &self.called) {
            (Some(kind), Some(called)) => write!(f, " ({kind} {called})"),
            (Some(kind), None) => write!(f, " ({kind})"),
            (None, Some(called)) => write!(f, " ({called})"),
            (None, None) => Ok(()),
        }
    }
}

/// What the machine starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootUse {
    /// Mounted where the boot loader or the kernels are.
    Mounted(String),
    /// A partition of a type that firmware or a boot loader starts from.
    Partition(&'static str),
}

impl BootUse {
    /// By a mount point: `/boot`, `/efi` and what is below them.
    #[must_use]
    pub fn of_mount(point: &str) -> Option<Self> {
        let below = |top| point.strip_prefix(top).is_some_and(|rest: &str| rest.is_empty() || rest.starts_with('/'));
        ["/boot", "/efi"].into_iter().any(below).then(|| Self::Mounted(point.to_owned()))
    }

    /// By a partition's type, a GUID or the number of an MBR.
    #[must_use]
    pub fn of_partition_type(kind: &str) -> Option<Self> {
        let name = match kind.to_ascii_lowercase().as_str() {
            "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" | "0xef" => "an EFI system partition",
            "bc13c2ff-59e6-4262-a352-b275fd6f7172" => "an extended boot loader partition",
            "21686148-6449-6e6f-744e-656564454649" => "a BIOS boot partition",
            "9e1a2d38-c612-4316-aa26-8b49521e5a8b" | "0x41" => "a PReP boot partition",
            _ => return None,
        };
        Some(Self::Partition(name))
    }
}

impl fmt::Display for BootUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted(point) => write!(f, "mounted on {point}"),
            Self::Partition(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maker_of_a_mapped_device_is_told_by_its_uuid() {
        for (uuid, kind) in [
            ("LVM-abcDEF", "LVM"),
            ("CRYPT-LUKS2-0123-luks-home", "dm-crypt"),
            ("mpath-3600508b400105e210000900000490000", "multipath"),
            ("part1-mpath-3600508b", "multipath"),
            ("DMRAID-isw_x", "dmraid"),
        ] {
            assert_eq!(HolderKind::of_dm_uuid(uuid).unwrap().to_string(), kind);
        }
        assert_eq!(HolderKind::of_dm_uuid("thing"), None);
        assert_eq!(HolderKind::of_dm_uuid(""), None);
    }

    #[test]
    fn what_the_machine_starts_from_is_told_by_mount_point_and_partition_type() {
        for point in ["/boot", "/boot/efi", "/efi"] {
            assert!(BootUse::of_mount(point).is_some(), "{point}");
        }
        for point in ["/", "/bootstrap", "/srv/boot"] {
            assert!(BootUse::of_mount(point).is_none(), "{point}");
        }
        assert!(BootUse::of_partition_type("C12A7328-F81F-11D2-BA4B-00A0C93EC93B").is_some());
        assert!(BootUse::of_partition_type("0fc63daf-8483-4772-8e79-3d69d8477de4").is_none());
    }
}
