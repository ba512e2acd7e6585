//! devlink: mlx5_core, as its source says, and netdevsim, as the lab shows it.
//!
//! No lab device holds the model of mlx5_core: it is read from `drivers/net/ethernet/mellanox/mlx5/core` (7.2), and gives the demo
//! host functions that can be made migratable, and subfunctions. Representors are not modelled: a port of it has no interface.

use super::{Device, Said, stored};
use crate::host::fake::kernel::Kernel;
use crate::host::fake::tree::HIDDEN;
use crate::model::devlink::{
    DevlinkHandle, DevlinkPort, EswitchMode, Flavour, PortFunction, PortIndex, PortNew, PortOpstate, PortSetting,
    PortState,
};
use crate::model::vf::{Mac, Switch};
use crate::model::{Errno, VfIndex};

/// `NSIM_DEV_VF_PORT_INDEX_BASE`.
const NETDEVSIM_VF: u32 = 128;

/// mlx5: the vport of the connector, and the first of subfunctions.
const UPLINK: u32 = 0xffff;
const FIRST_SF: u32 = 0x8000;

/// mlx5: how many subfunctions firmware is set up for.
const MOST_SFS: u32 = 64;

/// Who answers for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Model {
    /// mlx5_core on a PF, the eswitch's manager.
    Mlx5(crate::model::Bdf),
    /// mlx5_core on a VF.
    Mlx5Vf,
    /// netdevsim.
    Netdevsim(String),
    /// Recorded, of a driver that the fake has no model of: it can be looked at.
    Recorded,
}

impl Kernel {
    fn model(&self, handle: &DevlinkHandle) -> Result<Model, Errno> {
        let device = handle.device().as_str();
        if handle.bus().as_str() == "netdevsim" && self.tree.has(&format!("/sys/bus/netdevsim/devices/{device}")) {
            return Ok(Model::Netdevsim(device.to_owned()));
        }
        let Some(bdf) = handle.bdf().filter(|bdf| self.driver_name(*bdf).is_some()) else { return Err(Errno::ENODEV) };
        match self.driver_name(bdf) {
            Some("mlx5_core") if self.pf(bdf).is_some() => Ok(Model::Mlx5Vf),
            Some("mlx5_core") => Ok(Model::Mlx5(bdf)),
            _ if self.tree.has(&format!("{}/ports", stored::place(handle))) => Ok(Model::Recorded),
            _ => Err(Errno::ENODEV),
        }
    }

    /// `DEVLINK_CMD_GET`.
    pub(super) fn handles(&self) -> Vec<DevlinkHandle> {
        let functions = self.functions().filter_map(|bdf| DevlinkHandle::try_from(bdf).ok());
        let simulated = self.tree.names("/sys/bus/netdevsim/devices");
        let simulated = simulated.filter_map(|name| format!("netdevsim/{name}").parse().ok());
        functions.chain(simulated).filter(|handle| self.model(handle).is_ok()).collect()
    }

    /// `DEVLINK_CMD_PORT_GET`.
    ///
    /// # Kernel
    /// `drivers/net/netdevsim/dev.c` `__nsim_dev_port_add()`; mlx5 `esw/devlink_port.c`
    /// `mlx5_esw_offloads_devlink_port_register()`, `en/devlink.c` `mlx5e_devlink_port_register()` (7.2). Contract: the
    /// `devlink:` cases.
    pub(super) fn ports(&self, handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, Errno> {
        let model = self.model(handle)?;
        let known = stored::ports(&self.tree, &stored::place(handle));
        Ok(known.unwrap_or_else(|| match model {
            Model::Mlx5(bdf) => {
                let index = PortIndex(u32::from(bdf.function()) << 16 | UPLINK);
                let name = self.tree.names(&format!("{}/net", crate::host::fake::kernel::dev(bdf))).next();
                let netdev = name.and_then(|name| name.parse().ok());
                vec![DevlinkPort { flavour: Some(Flavour::Physical), netdev, ..DevlinkPort::new(index) }]
            }
            Model::Mlx5Vf => {
                vec![DevlinkPort { flavour: Some(Flavour::Virtual), ..DevlinkPort::new(PortIndex(UPLINK)) }]
            }
            Model::Netdevsim(_) | Model::Recorded => Vec::new(),
        }))
    }

    /// `DEVLINK_CMD_ESWITCH_GET`.
    pub(super) fn eswitch(&self, handle: &DevlinkHandle) -> Result<Option<EswitchMode>, Errno> {
        let known = stored::eswitch(&self.tree, &stored::place(handle));
        match self.model(handle)? {
            // mlx5_devlink_eswitch_get(): no manager.
            Model::Mlx5Vf => Err(Errno::EOPNOTSUPP),
            Model::Recorded => Ok(known),
            Model::Mlx5(_) | Model::Netdevsim(_) => Ok(Some(known.unwrap_or(EswitchMode::Legacy))),
        }
    }

    /// `DEVLINK_CMD_ESWITCH_SET`.
    ///
    /// # Kernel
    /// `drivers/net/netdevsim/dev.c` `nsim_devlink_eswitch_mode_set()`, which knows two modes; mlx5 `eswitch_offloads.c`
    /// `mlx5_devlink_eswitch_mode_set()`: in legacy mode there are no subfunctions (7.2). Contract: the `devlink:` cases.
    pub(super) fn set_eswitch(&mut self, handle: &DevlinkHandle, mode: EswitchMode) -> Result<(), Said> {
        let device = match self.model(handle)? {
            Model::Netdevsim(_) if mode == EswitchMode::SwitchdevInactive => return Err(Errno::EINVAL.into()),
            Model::Netdevsim(name) => Device::Netdevsim(name),
            Model::Mlx5(bdf) => Device::Pci(bdf),
            Model::Mlx5Vf | Model::Recorded => return Err(Errno::EOPNOTSUPP.into()),
        };
        stored::put_eswitch(&mut self.tree, &stored::place(handle), mode);
        self.follow_vfs(&device);
        Ok(())
    }

    /// Makes the ports of VFs fit the VFs and the mode of the eswitch, and takes subfunctions away in legacy mode.
    pub(in crate::host::fake) fn follow_vfs(&mut self, device: &Device) {
        let Ok(handle) = device.handle().parse::<DevlinkHandle>() else { return };
        let Ok(model) = self.model(&handle) else { return };
        let (base, pf) = match &model {
            Model::Mlx5(bdf) => (u32::from(bdf.function()) << 16 | 1, u16::from(bdf.function())),
            Model::Netdevsim(_) => (NETDEVSIM_VF, 0),
            Model::Mlx5Vf | Model::Recorded => return,
        };
        let legacy =
            !matches!(self.eswitch(&handle), Ok(Some(EswitchMode::Switchdev | EswitchMode::SwitchdevInactive)));
        let count = if legacy { 0 } else { self.vf_count(device) };
        let before = self.ports(&handle).unwrap_or_default();
        let stays = |port: &&DevlinkPort| match port.flavour {
            Some(Flavour::PciVf) => port.vf.is_some_and(|vf| vf < count),
            Some(Flavour::PciSf) => !legacy,
            _ => true,
        };
        let (mut ports, gone): (Vec<_>, Vec<_>) = before.into_iter().partition(|port| stays(&port));
        for netdev in gone.iter().filter_map(|port| port.netdev.as_ref()) {
            self.remove_interface(device, netdev);
        }
        for vf in (0..count).filter(|vf| !ports.iter().any(|port| port.vf == Some(*vf))).collect::<Vec<VfIndex>>() {
            let function = matches!(model, Model::Mlx5(_)).then(|| self.vf_function(device, vf));
            let netdev = if matches!(model, Model::Netdevsim(_)) { self.add_interface(device) } else { None };
            ports.push(DevlinkPort {
                flavour: Some(Flavour::PciVf),
                controller: Some(0),
                pf: Some(pf),
                vf: Some(vf),
                external: Some(Switch::Off),
                netdev,
                function,
                ..DevlinkPort::new(PortIndex(base + u32::from(vf)))
            });
        }
        let place = stored::place(&handle);
        if stored::ports(&self.tree, &place).is_some() || !legacy {
            stored::put_ports(&mut self.tree, &place, &ports);
        }
        if let Model::Mlx5(bdf) = model {
            self.follow_subfunctions(bdf);
        }
    }

    /// What a VF's function is when its port appears. What firmware keeps of the VF it has kept in legacy mode too: a VF is not
    /// migratable until it was made so.
    ///
    /// # Kernel
    /// mlx5 `eswitch.c` `esw_vport_setup()`, `mlx5_esw_vport_caps_get()`: in either mode a vport's capabilities are asked of
    /// firmware, and the address is set that the driver has kept (7.2).
    fn vf_function(&mut self, device: &Device, index: VfIndex) -> PortFunction {
        let hw_addr = stored::vfs(&self.tree, &device.place()).get(&index).and_then(|vf| vf.mac);
        let mut migratable = Switch::Off;
        if let Some(place) = self.migratable_place(device, index) {
            match self.tree.text(&place) {
                Some("1") => migratable = Switch::On,
                _ => self.tree.put_text(&place, 0),
            }
        }
        PortFunction {
            hw_addr: Some(hw_addr.unwrap_or(Mac([0; 6]))),
            roce: Some(Switch::On),
            migratable: Some(migratable),
            ipsec_crypto: Some(Switch::Off),
            ipsec_packet: Some(Switch::Off),
            max_io_eqs: Some(10),
            ..PortFunction::default()
        }
    }

    /// Where it is kept whether firmware lets a VF migrate.
    fn migratable_place(&self, device: &Device, index: VfIndex) -> Option<String> {
        let Device::Pci(pf) = device else { return None };
        self.vfs(*pf).get(&index).map(|vf| format!("{HIDDEN}/pci/{vf}/migratable"))
    }

    /// mlx5 has one address of a VF: what rtnetlink has set is at its port as well.
    ///
    /// # Kernel
    /// mlx5 `eswitch.c` `mlx5_eswitch_set_vport_mac()`, which both call: `vport->info.mac` (7.2).
    pub(super) fn show_mac_at_port(&mut self, device: &Device, index: VfIndex, mac: Mac) {
        let place = device.place();
        let Some(mut ports) = stored::ports(&self.tree, &place) else { return };
        let port = ports.iter_mut().find(|port| port.flavour == Some(Flavour::PciVf) && port.vf == Some(index));
        if let Some(function) = port.and_then(|port| port.function.as_mut()) {
            function.hw_addr = Some(mac);
            stored::put_ports(&mut self.tree, &place, &ports);
        }
    }

    /// `DEVLINK_CMD_PORT_SET`.
    ///
    /// # Kernel
    /// `net/devlink/port.c` `devlink_port_function_validate()`, `devlink_port_function_hw_addr_set()`; mlx5
    /// `esw/devlink_port.c` `mlx5_esw_pf_vf_dl_port_ops`, `mlx5_esw_dl_sf_port_ops` (7.2). Contract: `devlink: a port of netdevsim
    /// has no function`.
    pub(super) fn set_port(
        &mut self,
        handle: &DevlinkHandle,
        index: PortIndex,
        setting: PortSetting,
    ) -> Result<(), Said> {
        let mut ports = self.ports(handle)?;
        let port = ports.iter_mut().find(|port| port.index == index).ok_or(Errno::ENODEV)?;
        let is_sf = port.flavour == Some(Flavour::PciSf);
        let reason = match setting {
            PortSetting::HwAddr(_) => "Port doesn't support function attributes",
            PortSetting::State(_) => "Function does not support state setting",
            PortSetting::Roce(_) => "Port doesn't support RoCE function attribute",
            PortSetting::Migratable(_) => "Port doesn't support migratable function attribute",
            PortSetting::MaxIoEqs(_) => "Function does not support max_io_eqs setting",
        };
        let able = match setting {
            PortSetting::State(_) => is_sf,
            PortSetting::Migratable(_) => !is_sf,
            _ => true,
        };
        let function = port.function.as_mut().filter(|_| able);
        let function = function.ok_or_else(|| Said::new(Errno::EOPNOTSUPP, reason))?;
        match setting {
            PortSetting::HwAddr(mac) if mac.is_zero() || mac.is_multicast() => {
                return Err(Said::new(Errno::EINVAL, "Non-unicast hardware address unsupported"));
            }
            PortSetting::HwAddr(mac) => function.hw_addr = Some(mac),
            PortSetting::State(state) => {
                function.state = Some(state);
                function.opstate =
                    Some(if state == PortState::Active { PortOpstate::Attached } else { PortOpstate::Detached });
            }
            PortSetting::Roce(on) => function.roce = Some(on),
            PortSetting::Migratable(on) => function.migratable = Some(on),
            PortSetting::MaxIoEqs(count) => function.max_io_eqs = Some(count),
        }
        let vf = port.vf;
        stored::put_ports(&mut self.tree, &stored::place(handle), &ports);
        let Some(pf) = handle.bdf() else { return Ok(()) };
        self.follow_subfunctions(pf);
        let Some(index) = vf else { return Ok(()) };
        let device = Device::Pci(pf);
        match setting {
            PortSetting::Migratable(on) => {
                if let Some(place) = self.migratable_place(&device, index) {
                    self.tree.put_text(&place, u8::from(on.is_on()));
                }
            }
            PortSetting::HwAddr(mac) => self.keep_mac(&device, index, mac),
            _ => {}
        }
        Ok(())
    }

    /// `DEVLINK_CMD_PORT_NEW`.
    ///
    /// # Kernel
    /// `net/devlink/port.c` `devlink_nl_port_new_doit()`; mlx5 `sf/devlink.c` `mlx5_devlink_sf_port_new()`,
    /// `mlx5_sf_new_check_attr()`, `sf/hw_table.c` `mlx5_sf_hw_table_id_alloc()` (7.2). Contract: `devlink: netdevsim makes no
    /// ports`.
    pub(super) fn add_port(&mut self, handle: &DevlinkHandle, new: PortNew) -> Result<PortIndex, Said> {
        let Model::Mlx5(bdf) = self.model(handle)? else { return Err(Errno::EOPNOTSUPP.into()) };
        let refuse = |reason| Err(Said::new(Errno::EOPNOTSUPP, reason));
        if self.eswitch(handle)? == Some(EswitchMode::Legacy) {
            return refuse("mlx5_core: SF ports are only supported in eswitch switchdev mode.");
        }
        if new.controller.is_some_and(|controller| controller > 0) {
            return refuse("mlx5_core: External controller is unsupported");
        }
        if new.pf != u16::from(bdf.function()) {
            return refuse("mlx5_core: Invalid pfnum supplied");
        }
        let mut ports = self.ports(handle)?;
        if ports.iter().any(|port| port.sf == Some(new.sf)) {
            return Err(Said::new(Errno::EEXIST, "mlx5_core: SF already exist. Choose different sfnum"));
        }
        let base = u32::from(bdf.function()) << 16 | FIRST_SF;
        let free = (base..base + MOST_SFS).map(PortIndex).find(|index| !ports.iter().any(|port| port.index == *index));
        let index = free.ok_or(Errno::ENOSPC)?;
        ports.push(DevlinkPort {
            flavour: Some(Flavour::PciSf),
            controller: Some(0),
            pf: Some(new.pf),
            sf: Some(new.sf),
            external: Some(Switch::Off),
            function: Some(PortFunction {
                hw_addr: Some(Mac([0; 6])),
                state: Some(PortState::Inactive),
                opstate: Some(PortOpstate::Detached),
                roce: Some(Switch::On),
                max_io_eqs: Some(8),
                ..PortFunction::default()
            }),
            ..DevlinkPort::new(index)
        });
        stored::put_ports(&mut self.tree, &stored::place(handle), &ports);
        Ok(index)
    }

    /// `DEVLINK_CMD_PORT_DEL`.
    ///
    /// # Kernel
    /// `net/devlink/port.c` `devlink_nl_port_del_doit()`; only the ports of subfunctions have `port_del` (7.2).
    pub(super) fn del_port(&mut self, handle: &DevlinkHandle, index: PortIndex) -> Result<(), Said> {
        let mut ports = self.ports(handle)?;
        let at = ports.iter().position(|port| port.index == index).ok_or(Errno::ENODEV)?;
        if ports[at].flavour != Some(Flavour::PciSf) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        ports.remove(at);
        stored::put_ports(&mut self.tree, &stored::place(handle), &ports);
        if let Some(pf) = handle.bdf() {
            self.follow_subfunctions(pf);
        }
        Ok(())
    }

    /// The driver of a device lets it go: its ports go, and the eswitch is as it was.
    pub(in crate::host::fake) fn forget_links(&mut self, bdf: crate::model::Bdf) {
        self.tree.remove(&Device::Pci(bdf).place());
        self.follow_subfunctions(bdf);
    }
}
