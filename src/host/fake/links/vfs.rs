//! rtnetlink: what the drivers of PFs keep for their VFs, and which of it they let be set.

use super::{Device, Said, stored};
use crate::host::fake::kernel::{Kernel, dev};
use crate::host::fake::tree::HIDDEN;
use crate::model::devlink::EswitchMode;
use crate::model::vf::{LinkState, Mac, NetdevName, Switch, VfAttributes, VfList, VfSetting, Vlan, VlanProto};
use crate::model::{Errno, VfIndex};

/// Which rates a driver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rates {
    /// A limit, no guarantee, and only while the link is up: up to its speed, in Mbit/s.
    LimitUpTo(u32),
    /// A limit, no guarantee.
    Limit,
    /// Both.
    Both,
}

/// A PF's driver, as far as rtnetlink can see it. What is `None` it has no `ndo_set_vf_…` for, and does not report.
#[derive(Debug, Clone, Copy)]
struct Ops {
    protos: &'static [VlanProto],
    rates: Rates,
    /// What a new VF has.
    spoofchk: Switch,
    link_state: Option<LinkState>,
    rss_query_en: Option<Switch>,
    /// What it does not take while its eswitch is in switchdev mode.
    switchdev: fn(&VfSetting) -> Switched,
}

/// Whether something is set in switchdev mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switched {
    /// As in legacy mode.
    Set,
    /// `EOPNOTSUPP`.
    Refused,
}

impl Ops {
    /// The driver of this name; `None` when it has no `ndo_get_vf_config`, or the fake no model of it.
    ///
    /// # Kernel
    /// `struct net_device_ops` of `drivers/net/ethernet/intel/igb/igb_main.c`, `ixgbe/ixgbe_main.c`, `i40e/i40e_main.c`,
    /// `ice/ice_main.c`, `drivers/net/netdevsim/netdev.c`, `mellanox/mlx5/core/en_main.c` and its `esw/legacy.c` (7.2).
    /// Contract: the `netlink:` cases hold igb and netdevsim; no lab device holds the others.
    fn of(driver: &str) -> Option<Self> {
        const Q: &[VlanProto] = &[VlanProto::Dot1Q];
        let plain = Self {
            protos: Q,
            rates: Rates::Both,
            spoofchk: Switch::On,
            link_state: Some(LinkState::Auto),
            rss_query_en: None,
            switchdev: |_| Switched::Set,
        };
        match driver {
            "igb" => Some(Self { rates: Rates::LimitUpTo(1000), link_state: None, ..plain }),
            "ixgbe" => Some(Self { rates: Rates::LimitUpTo(10_000), rss_query_en: Some(Switch::Off), ..plain }),
            "i40e" => Some(Self { rates: Rates::Limit, ..plain }),
            "ice" => Some(plain),
            "mlx5_core" => Some(Self {
                spoofchk: Switch::Off,
                // "compatibility with libvirt": VLAN 0 is always taken.
                switchdev: |setting| match setting {
                    VfSetting::Vlan(vlan) if vlan.id() > 0 => Switched::Refused,
                    VfSetting::Spoofchk(_) | VfSetting::LinkState(_) => Switched::Refused,
                    _ => Switched::Set,
                },
                ..plain
            }),
            "netdevsim" => Some(Self {
                protos: VlanProto::ALL,
                spoofchk: Switch::Off,
                rss_query_en: Some(Switch::Off),
                switchdev: |setting| match setting {
                    VfSetting::Rate { .. } => Switched::Refused,
                    _ => Switched::Set,
                },
                ..plain
            }),
            _ => None,
        }
    }

    /// What a new VF has.
    fn fresh(&self) -> VfAttributes {
        VfAttributes {
            mac: Some(Mac([0; 6])),
            vlan: Some(Vlan::NONE),
            min_tx_rate_mbps: Some(0),
            max_tx_rate_mbps: Some(0),
            spoofchk: Some(self.spoofchk),
            trust: Some(Switch::Off),
            // The core reports it for a driver that has no idea of it.
            link_state: Some(LinkState::Auto),
            rss_query_en: self.rss_query_en,
            ..VfAttributes::default()
        }
    }
}

impl Kernel {
    /// `RTM_GETLINK`.
    ///
    /// # Kernel
    /// `net/core/rtnetlink.c` `rtnl_getlink()`, `rtnl_fill_vf()` (7.2). Contract: the `netlink:` cases.
    pub(super) fn vf_list(&self, netdev: &NetdevName) -> Result<VfList, Errno> {
        Ok(self.vf_list_of(&self.device_of(netdev)?))
    }

    /// The same of a device.
    pub(super) fn vf_list_of(&self, device: &Device) -> VfList {
        let count = self.vf_count(device);
        let known = stored::vfs(&self.tree, &device.place());
        let fresh = self.ops(device).map(|ops| ops.fresh());
        let reported = (0..count).filter_map(|index| {
            // A driver that the fake has no model of reports what was recorded of it.
            let vf = known.get(&index).cloned().or_else(|| fresh.clone())?;
            Some((index, vf))
        });
        VfList { total: count.into(), vfs: reported.collect() }
    }

    /// `RTM_SETLINK`.
    ///
    /// # Kernel
    /// `net/core/rtnetlink.c` `do_setvfinfo()`, `rtnl_set_vf_rate()`; `igb_ndo_set_vf_*()`, `nsim_set_vf_*()` (7.2). Contract:
    /// the `netlink:` cases.
    pub(super) fn set_vf(&mut self, netdev: &NetdevName, index: VfIndex, setting: VfSetting) -> Result<(), Said> {
        let device = self.device_of(netdev)?;
        let ops = self.ops(&device).ok_or(Errno::EOPNOTSUPP)?;
        let count = self.vf_count(&device);
        if count == 0 && matches!(setting, VfSetting::Spoofchk(_)) && self.is_on(&device, "igb") {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let mode = stored::eswitch(&self.tree, &device.place()).unwrap_or(EswitchMode::Legacy);
        if mode != EswitchMode::Legacy && (ops.switchdev)(&setting) == Switched::Refused {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let able = match setting {
            VfSetting::LinkState(_) => ops.link_state.is_some(),
            VfSetting::RssQueryEn(_) => ops.rss_query_en.is_some(),
            VfSetting::NodeGuid(_) | VfSetting::PortGuid(_) => false,
            _ => true,
        };
        if !able {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if index >= count {
            return Err(Errno::EINVAL.into());
        }
        let known = stored::vfs(&self.tree, &device.place()).remove(&index);
        let mut vf = known.unwrap_or_else(|| ops.fresh());
        match setting {
            VfSetting::Mac(mac) if mac.is_multicast() => return Err(Errno::EINVAL.into()),
            VfSetting::Mac(mac) => vf.mac = Some(mac),
            VfSetting::Vlan(vlan) if !ops.protos.contains(&vlan.proto()) => return Err(Errno::EPROTONOSUPPORT.into()),
            VfSetting::Vlan(vlan) => vf.vlan = Some(vlan),
            VfSetting::Rate { min_mbps, max_mbps } => {
                if (max_mbps > 0 && max_mbps < min_mbps) || !self.takes_rate(netdev, ops.rates, (min_mbps, max_mbps)) {
                    return Err(Errno::EINVAL.into());
                }
                (vf.min_tx_rate_mbps, vf.max_tx_rate_mbps) = (Some(min_mbps), Some(max_mbps));
            }
            VfSetting::Spoofchk(on) => vf.spoofchk = Some(on),
            VfSetting::Trust(on) => vf.trust = Some(on),
            VfSetting::LinkState(state) => vf.link_state = Some(state),
            VfSetting::RssQueryEn(on) => vf.rss_query_en = Some(on),
            VfSetting::NodeGuid(guid) => vf.node_guid = Some(guid),
            VfSetting::PortGuid(guid) => vf.port_guid = Some(guid),
        }
        stored::put_vf(&mut self.tree, &device.place(), index, &vf);
        if let VfSetting::Mac(mac) = setting {
            self.show_mac_at_port(&device, index, mac);
        }
        Ok(())
    }

    /// The address of a VF, set at its port.
    pub(super) fn keep_mac(&mut self, device: &Device, index: VfIndex, mac: Mac) {
        let known = stored::vfs(&self.tree, &device.place()).remove(&index);
        let Some(vf) = known.or_else(|| self.ops(device).map(|ops| ops.fresh())) else { return };
        stored::put_vf(&mut self.tree, &device.place(), index, &VfAttributes { mac: Some(mac), ..vf });
    }

    fn takes_rate(&self, netdev: &NetdevName, rates: Rates, (min_mbps, max_mbps): (u32, u32)) -> bool {
        match rates {
            Rates::Both => true,
            Rates::Limit => min_mbps == 0,
            Rates::LimitUpTo(speed_mbps) => {
                let up =
                    self.interface(netdev).is_ok_and(|at| self.tree.text(&format!("{at}/operstate")) == Some("up"));
                min_mbps == 0 && up && max_mbps <= speed_mbps
            }
        }
    }

    fn ops(&self, device: &Device) -> Option<Ops> {
        match device {
            Device::Pci(bdf) if self.pf(*bdf).is_none() => Ops::of(self.driver_name(*bdf)?),
            Device::Netdevsim(_) => Ops::of("netdevsim"),
            Device::Pci(_) | Device::Other => None,
        }
    }

    fn is_on(&self, device: &Device, driver: &str) -> bool {
        matches!(device, Device::Pci(bdf) if self.driver_name(*bdf) == Some(driver))
    }

    /// `dev_num_vf()`.
    ///
    /// # Kernel
    /// `include/linux/device/bus.h` `num_vf` of `drivers/pci/pci-driver.c` and `drivers/net/netdevsim/bus.c` (7.2).
    pub(super) fn vf_count(&self, device: &Device) -> VfIndex {
        match device {
            Device::Pci(bdf) => VfIndex::try_from(self.vfs(*bdf).len()).unwrap_or(VfIndex::MAX),
            Device::Netdevsim(name) => self
                .tree
                .text(&format!("/sys/devices/{name}/sriov_numvfs"))
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            Device::Other => 0,
        }
    }

    /// A VF is gone, and what firmware kept of it.
    ///
    /// # Kernel
    /// mlx5 `sriov.c` `mlx5_device_disable_sriov()`: `mlx5_core_disable_hca()` of each (7.2).
    pub(in crate::host::fake) fn forget_vf(&mut self, vf: crate::model::Bdf) {
        self.tree.remove(&format!("{HIDDEN}/pci/{vf}/migratable"));
        self.tree.remove(&format!("{HIDDEN}/pci/{vf}/msix"));
    }

    /// The VFs of a PF have come or gone: their attributes with them. netdevsim alone keeps them, and is not asked here.
    ///
    /// # Kernel
    /// `igb_disable_sriov()` and `igb_enable_sriov()`: `vf_data` is freed and made anew; mlx5
    /// `mlx5_eswitch_clear_vf_vports_info()` (7.2). Contract: `netlink: what igb keeps for a VF goes with it`.
    pub(in crate::host::fake) fn forget_vfs(&mut self, pf: crate::model::Bdf) {
        self.tree.remove(&format!("{}/vfs", Device::Pci(pf).place()));
        self.follow_vfs(&Device::Pci(pf));
    }

    /// The place of an interface's attributes.
    pub(super) fn interface(&self, netdev: &NetdevName) -> Result<String, Errno> {
        let path = format!("/sys/class/net/{netdev}");
        self.tree.resolve(&path, crate::host::fake::tree::Last::Follow).map_err(|_| Errno::ENODEV)
    }

    /// The device whose child an interface is.
    pub(super) fn device_of(&self, netdev: &NetdevName) -> Result<Device, Errno> {
        let at = self.interface(netdev)?;
        let above = at.strip_suffix(&format!("/net/{netdev}")).unwrap_or_default();
        let name = above.rsplit('/').next().unwrap_or_default();
        Ok(match name.parse() {
            Ok(bdf) if above == dev(bdf) => Device::Pci(bdf),
            _ if above == format!("/sys/devices/{name}") && name.starts_with("netdevsim") => {
                Device::Netdevsim(name.to_owned())
            }
            _ => Device::Other,
        })
    }
}
