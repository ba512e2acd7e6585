//! What netlink tells, which no file has: the VF attributes of PFs, and devlink's ports and eswitches.

use super::Recorder;
use crate::host::fake::links::stored;
use crate::host::fake::tree::HIDDEN;
use crate::host::path::Root;
use crate::host::{HostError, HostPath};
use crate::model::devlink::{DevlinkHandle, DevlinkPort, PortFunction};
use crate::model::vf::{NetdevName, VfAttributes};
use crate::model::{Bdf, Errno, Warning};

impl Recorder<'_> {
    /// All of it. What cannot be asked is warned of once.
    pub(super) fn links(&mut self) {
        self.vf_attributes();
        self.devlink();
    }

    /// By interfaces, for rtnetlink knows devices by nothing else. Representors hang below the PF too, and report no VFs.
    fn vf_attributes(&mut self) {
        let class = HostPath::fixed(Root::Sys, "class/net");
        for name in self.names(&class) {
            let Ok(netdev) = name.parse::<NetdevName>() else { continue };
            let text = class.entry(&name).and_then(|path| self.host.link(&path).ok()).unwrap_or_default();
            let Some(pf) = device_of(&text, &name).filter(|bdf| self.has_vfs(*bdf)) else { continue };
            let Ok(handle) = DevlinkHandle::try_from(pf) else { continue };
            let list = match self.host.vf_attributes(&netdev) {
                Ok(list) => list,
                Err(error) => {
                    self.warnings
                        .push(Warning::new(pf, format_args!("the attributes of its VFs are left out: {error}")));
                    continue;
                }
            };
            for (index, vf) in &list.vfs {
                let vf = VfAttributes {
                    mac: vf.mac.map(|mac| self.disguise.mac(mac)),
                    node_guid: vf.node_guid.map(|guid| self.disguise.guid(guid)),
                    port_guid: vf.port_guid.map(|guid| self.disguise.guid(guid)),
                    ..vf.clone()
                };
                stored::put_vf(&mut self.tree, &stored::place(&handle), *index, &vf);
            }
            if !list.vfs.is_empty() && !list.is_complete() {
                let (told, all) = (list.vfs.len(), list.total);
                let message =
                    format!("the kernel told the attributes of {told} of {all} VFs; the others' are left out");
                self.warnings.push(Warning::new(pf, message));
            }
        }
    }

    fn has_vfs(&self, bdf: Bdf) -> bool {
        self.tree.text(&format!("{}/sriov_numvfs", HostPath::pci(bdf))).is_some_and(|count| count != "0")
    }

    /// Of the PCI functions that were recorded; a kernel without devlink has none.
    fn devlink(&mut self) {
        let handles = self.host.devlink_handles().unwrap_or_else(|error| {
            self.warnings.push(Warning::new("devlink", format_args!("left out: {error}")));
            Vec::new()
        });
        let mut refused: Option<HostError> = None;
        for handle in handles {
            let Some(bdf) = handle.bdf().filter(|bdf| self.tree.has(&HostPath::pci(*bdf).to_string())) else {
                continue;
            };
            let place = stored::place(&handle);
            match self.host.devlink_ports(&handle) {
                Ok(ports) => {
                    let ports: Vec<_> = ports.into_iter().map(|port| self.port_as_recorded(port)).collect();
                    for port in &ports {
                        self.migratable(bdf, port);
                    }
                    stored::put_ports(&mut self.tree, &place, &ports);
                }
                Err(error) => {
                    self.warnings.push(Warning::new(bdf, format_args!("its devlink ports are left out: {error}")));
                    continue;
                }
            }
            match self.host.eswitch_mode(&handle) {
                Ok(Some(mode)) => stored::put_eswitch(&mut self.tree, &place, mode),
                // It has no eswitch, or another function manages it.
                Ok(None) | Err(HostError { errno: Errno::EOPNOTSUPP, .. }) => {}
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if let Some(error) = refused {
            self.warnings.push(Warning::new("devlink", format_args!("modes of eswitches are left out: {error}")));
        }
    }

    fn port_as_recorded(&self, port: DevlinkPort) -> DevlinkPort {
        let name = |netdev: NetdevName| self.disguise.name(netdev.as_str()).parse().ok();
        let function = port
            .function
            .map(|function| PortFunction { hw_addr: function.hw_addr.map(|mac| self.disguise.mac(mac)), ..function });
        DevlinkPort { netdev: port.netdev.and_then(name), function, ..port }
    }

    /// What mlx5_vfio_pci finds out of a VF is at its port.
    fn migratable(&mut self, pf: Bdf, port: &DevlinkPort) {
        let told = port.function.as_ref().and_then(|function| function.migratable);
        if let (Some(index), Some(on)) = (port.vf, told)
            && let Some(vf) = self.tree.link_name(&format!("{}/virtfn{index}", HostPath::pci(pf)))
        {
            let place = format!("{HIDDEN}/pci/{vf}/migratable");
            self.tree.put_text(&place, u8::from(on.is_on()));
        }
    }
}

/// The function that an interface is a child of, by its link in `/sys/class/net`.
fn device_of(link: &str, netdev: &str) -> Option<Bdf> {
    let above = link.strip_suffix(netdev)?.strip_suffix("/net/")?;
    above.rsplit('/').next()?.parse().ok()
}
