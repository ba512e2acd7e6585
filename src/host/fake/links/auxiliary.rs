//! The auxiliary devices of subfunctions: there while the function behind a port is active.

use super::{Device, stored};
use crate::host::fake::kernel::{Kernel, dev};
use crate::model::Bdf;
use crate::model::devlink::{DevlinkPort, Flavour, PortState};

/// Where the bus shows them.
const BUS: &str = "/sys/bus/auxiliary/devices";

/// What they are called, before their number.
const NAME: &str = "mlx5_core.sf.";

impl Kernel {
    /// Makes the auxiliary devices of a PF fit its ports.
    ///
    /// # Kernel
    /// mlx5 `sf/dev/dev.c` `mlx5_sf_dev_add()`, with `sfnum_show()`, and `mlx5_sf_dev_del()`; its driver is
    /// `sf/dev/driver.c` `mlx5_sf_driver` (7.2).
    pub(super) fn follow_subfunctions(&mut self, pf: Bdf) {
        let ports = stored::ports(&self.tree, &Device::Pci(pf).place()).unwrap_or_default();
        let active = |port: &&DevlinkPort| {
            let state = port.function.as_ref().and_then(|function| function.state);
            port.flavour == Some(Flavour::PciSf) && state == Some(PortState::Active)
        };
        let mut wanted: Vec<u32> = ports.iter().filter(active).filter_map(|port| port.sf).collect();
        let names: Vec<String> =
            self.tree.names(BUS).filter(|name| name.starts_with(NAME)).map(str::to_owned).collect();
        for name in &names {
            let place = format!("{}/{name}", dev(pf));
            let sfnum = self.tree.text(&format!("{place}/sfnum")).and_then(|text| text.parse::<u32>().ok());
            let Some(sfnum) = sfnum else {
                continue;
            };
            match wanted.iter().position(|wanted| *wanted == sfnum) {
                Some(at) => drop(wanted.remove(at)),
                None => {
                    self.tree.remove(&format!("{BUS}/{name}"));
                    self.tree.remove(&place);
                }
            }
        }
        let real = self.device_link(pf);
        for sfnum in wanted {
            let Some(name) =
                (0u32..).map(|id| format!("{NAME}{id}")).find(|name| !self.tree.has(&format!("{BUS}/{name}")))
            else {
                continue;
            };
            let place = format!("{}/{name}", dev(pf));
            self.tree.put_link(&format!("{BUS}/{name}"), format!("../../../{real}/{name}"));
            self.tree.put_text(&format!("{place}/sfnum"), sfnum);
            self.tree.put_link(&format!("{place}/driver"), "../../../../bus/auxiliary/drivers/mlx5_core.sf");
        }
    }
}
