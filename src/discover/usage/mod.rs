//! What the host itself does with its devices: file systems, swap, routes; and which device is whose.
//!
//! Block devices and network interfaces are found by the links of `/sys/class`, whose text names the PCI function they
//! hang below, at whatever depth: a listing of a function's own children would miss a namespace of a multipath NVMe
//! subsystem, which hangs below a virtual device.

mod blocks;
mod duties;
mod net;
mod ssh;

use std::collections::BTreeMap;

pub use net::read_netdev_names;

use crate::host::Read;
use crate::model::pci::{Block, Duty, NetDev};
use crate::model::{Bdf, Warning};

/// What of the machine's storage and network hangs below which PCI function, and is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    blocks: BTreeMap<Bdf, Vec<Block>>,
    netdevs: BTreeMap<Bdf, Vec<NetDev>>,
    duties: BTreeMap<Bdf, Vec<Duty>>,
}

impl Usage {
    /// Reads it.
    pub fn read(host: &dyn Read, warnings: &mut Vec<Warning>) -> Self {
        Self { blocks: blocks::read(host, warnings), netdevs: net::read(host, warnings), duties: duties::read(host) }
    }

    /// The block devices below a function, in name order.
    #[must_use]
    pub fn blocks(&self, bdf: Bdf) -> Vec<Block> {
        self.blocks.get(&bdf).cloned().unwrap_or_default()
    }

    /// The network interfaces below a function, in name order.
    #[must_use]
    pub fn netdevs(&self, bdf: Bdf) -> Vec<NetDev> {
        self.netdevs.get(&bdf).cloned().unwrap_or_default()
    }

    /// What else of the host's own a function carries.
    #[must_use]
    pub fn duties(&self, bdf: Bdf) -> Vec<Duty> {
        self.duties.get(&bdf).cloned().unwrap_or_default()
    }
}

/// Every PCI function in the text of a link into `/sys/devices`, outermost first. What hangs below a function hangs below
/// all that it passes: an NVMe behind Intel VMD goes when the VMD controller does. Only what is spelled as the kernel
/// spells a function counts: `00:04:0.0` is the port of a serial line.
pub(super) fn functions_in(target: &str) -> impl Iterator<Item = Bdf> {
    target.split('/').filter_map(|part| part.parse().ok().filter(|bdf: &Bdf| bdf.to_string() == part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_hangs_below_every_function_on_its_path() {
        let target = "../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme0/nvme0n1";
        let found: Vec<String> = functions_in(target).map(|bdf| bdf.to_string()).collect();
        assert_eq!(found, ["0000:00:0e.0", "10000:e0:06.0", "10000:e1:00.0"]);
        assert_eq!(functions_in("../../devices/virtual/net/lo").count(), 0);
        assert_eq!(functions_in("../../devices/pnp0/00:04/00:04:0/00:04:0.0/tty/ttyS0").count(), 0);
    }
}
