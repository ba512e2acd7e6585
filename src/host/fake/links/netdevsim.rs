//! netdevsim: a network device without hardware, with VFs and an eswitch, made by writing to its bus.

use super::Device;
use crate::host::fake::kernel::Kernel;
use crate::model::devlink::{DevlinkPort, EswitchMode, Flavour, PortIndex};
use crate::model::vf::NetdevName;
use crate::model::{Errno, VfIndex};

use super::stored;

/// `NSIM_BUS_DEV_MAX_VFS`.
const MOST_VFS: VfIndex = 4;

const BUS: &str = "/sys/bus/netdevsim";

impl Kernel {
    /// The bus appears with its module.
    ///
    /// # Kernel
    /// `drivers/net/netdevsim/bus.c` `nsim_bus_init()` (7.2).
    pub(in crate::host::fake) fn add_netdevsim_bus(&mut self) {
        for file in ["new_device", "del_device"] {
            self.tree.put(&format!("{BUS}/{file}"), "");
        }
        self.tree.put_dir(&format!("{BUS}/devices"));
    }

    /// `new_device`: `id [ports [queues]]`.
    ///
    /// # Kernel
    /// `drivers/net/netdevsim/bus.c` `new_device_store()`, `dev.c` `nsim_dev_port_add_all()` (7.2). Contract: the `devlink:`
    /// cases.
    pub(in crate::host::fake) fn new_netdevsim(&mut self, value: &str) -> Result<(), Errno> {
        let mut words = value.split_whitespace().map(str::parse::<u32>);
        let id = words.next().and_then(Result::ok).ok_or(Errno::EINVAL)?;
        let count = words.next().and_then(Result::ok).unwrap_or(1);
        let name = format!("netdevsim{id}");
        if self.tree.has(&format!("/sys/devices/{name}")) {
            return Err(Errno::EEXIST);
        }
        self.tree.put_text(&format!("/sys/devices/{name}/sriov_numvfs"), 0);
        self.tree.put_link(&format!("{BUS}/devices/{name}"), format!("../../../devices/{name}"));
        let device = Device::Netdevsim(name);
        let ports: Vec<DevlinkPort> = (0..count)
            .map(|index| DevlinkPort {
                flavour: Some(Flavour::Physical),
                netdev: self.add_interface(&device),
                ..DevlinkPort::new(PortIndex(index))
            })
            .collect();
        stored::put_ports(&mut self.tree, &device.place(), &ports);
        Ok(())
    }

    /// `del_device`: `id`.
    ///
    /// # Kernel
    /// `drivers/net/netdevsim/bus.c` `del_device_store()` (7.2).
    pub(in crate::host::fake) fn del_netdevsim(&mut self, value: &str) -> Result<(), Errno> {
        let id: u32 = value.trim().parse().map_err(|_| Errno::EINVAL)?;
        let name = format!("netdevsim{id}");
        let device = Device::Netdevsim(name.clone());
        for port in stored::ports(&self.tree, &device.place()).unwrap_or_default() {
            if let Some(netdev) = &port.netdev {
                self.remove_interface(&device, netdev);
            }
        }
        self.tree.remove(&device.place());
        self.tree.remove(&format!("{BUS}/devices/{name}"));
        self.tree.remove(&format!("/sys/devices/{name}")).map(drop).ok_or(Errno::ENOENT)
    }

    /// Its `sriov_numvfs`. What it keeps for its VFs is kept for the next ones; without VFs there is no switchdev mode.
    ///
    /// # Kernel
    /// `drivers/net/netdevsim/dev.c` `nsim_drv_configure_vfs()`: `EBUSY` from some to other than none, `ENOMEM` above
    /// `max_vfs` (7.2). Contract: `devlink: VFs of netdevsim …`.
    pub(in crate::host::fake) fn netdevsim_numvfs_store(&mut self, name: &str, value: &str) -> Result<(), Errno> {
        let wanted: VfIndex = value.trim().parse().map_err(|_| Errno::EINVAL)?;
        let device = Device::Netdevsim(name.to_owned());
        let count = self.vf_count(&device);
        if wanted == count {
            return Ok(());
        }
        if count > 0 && wanted > 0 {
            return Err(Errno::EBUSY);
        }
        if wanted > MOST_VFS {
            return Err(Errno::ENOMEM);
        }
        self.tree.put_text(&format!("/sys/devices/{name}/sriov_numvfs"), wanted);
        if wanted == 0 && stored::eswitch(&self.tree, &device.place()).is_some() {
            stored::put_eswitch(&mut self.tree, &device.place(), EswitchMode::Legacy);
        }
        self.follow_vfs(&device);
        Ok(())
    }

    /// Registers an interface of a device: `eth0`, or the next name that is free.
    pub(super) fn add_interface(&mut self, device: &Device) -> Option<NetdevName> {
        let Device::Netdevsim(parent) = device else { return None };
        let taken = |n: &u32| self.tree.has(&format!("/sys/class/net/eth{n}"));
        let name = format!("eth{}", (0u32..).find(|n| !taken(n))?);
        let at = format!("/sys/devices/{parent}/net/{name}");
        self.tree.put_text(&format!("{at}/flags"), "0x1002");
        self.tree.put_text(&format!("{at}/operstate"), "down");
        self.tree.put_text(&format!("{at}/address"), "02:00:00:00:00:00");
        self.tree.put_link(&format!("/sys/class/net/{name}"), format!("../../devices/{parent}/net/{name}"));
        name.parse().ok()
    }

    /// Takes it away.
    pub(super) fn remove_interface(&mut self, device: &Device, netdev: &NetdevName) {
        if let Device::Netdevsim(parent) = device {
            self.tree.remove(&format!("/sys/class/net/{netdev}"));
            self.tree.remove(&format!("/sys/devices/{parent}/net/{netdev}"));
        }
    }

    /// `flags` of an interface: up or down. A link partner is always there.
    ///
    /// # Kernel
    /// `net/core/net-sysfs.c` `flags_store()`, `net/core/dev.c` `dev_change_flags()` (7.2).
    pub(in crate::host::fake) fn flags_store(&mut self, place: &str, value: &str) -> Result<(), Errno> {
        let text = value.trim();
        let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
        let flags = u32::from_str_radix(digits, radix).map_err(|_| Errno::EINVAL)?;
        self.tree.put_text(place, format_args!("{flags:#x}"));
        let above = place.strip_suffix("/flags").unwrap_or(place);
        self.tree.put_text(&format!("{above}/operstate"), if flags & 1 == 1 { "up" } else { "down" });
        Ok(())
    }
}
