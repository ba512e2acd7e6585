//! What tells one function from another of the same kind.
//!
//! Its maker's ids and its address anybody can read. A serial number, a MAC address and the name of an interface are told by
//! its own driver, and by no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Bdf;
use super::vf::{Guid, Mac};

/// A part of an identity that a file tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The serial number of an NVMe controller, or of the PCIe device.
    Serial,
    /// MAC addresses of network interfaces.
    Mac,
    /// GUIDs of InfiniBand devices.
    Guid,
    /// Names of network interfaces.
    Netdev,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serial => "serial",
            Self::Mac => "mac",
            Self::Guid => "guid",
            Self::Netdev => "netdev",
        })
    }
}

/// What a function tells of itself; nothing of a part that was not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Serial numbers: the controller's, the PCIe device's as lspci prints it.
    pub serials: BTreeSet<String>,
    /// `net/*/address`.
    pub macs: BTreeSet<Mac>,
    /// `infiniband/*/node_guid`.
    pub guids: BTreeSet<Guid>,
    /// The names below `net`.
    pub netdevs: BTreeSet<String>,
}

/// What the functions of a host tell of themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities {
    /// Those that were asked.
    pub told: BTreeMap<Bdf, Told>,
    /// `/sys/bus/pci/slots/<label>/address`: domain, bus and device.
    pub slots: BTreeMap<String, String>,
}

impl Identities {
    /// The label of the slot that a function is in.
    #[must_use]
    pub fn slot_of(&self, bdf: Bdf) -> Option<&str> {
        let place = format!("{:04x}:{:02x}:{:02x}", bdf.domain(), bdf.bus(), bdf.device());
        self.slots.iter().find(|(_, address)| **address == place).map(|(label, _)| label.as_str())
    }
}
