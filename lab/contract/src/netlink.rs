//! What a PF's driver keeps for its VFs, by rtnetlink, and devlink: igb, which is a device, and netdevsim, which is none.

use vfioadm::host::path::Root;
use vfioadm::host::{HostError, HostPath};
use vfioadm::model::devlink::{
    Behind, DevlinkHandle, DevlinkPort, EswitchMode, Flavour, PortIndex, PortNew, PortSetting,
};
use vfioadm::model::devlink::{PortState, PortState::Active};
use vfioadm::model::vf::{LinkState, Mac, NetdevName, Switch, VfAttributes, VfSetting, Vlan, VlanProto};
use vfioadm::model::{Bdf, Errno};

use crate::Case;
use crate::ground::{Ground, Role, expect, said};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "netlink: what is set of a VF of igb is what is read, and of no other VF",
        rule: "net/core/rtnetlink.c do_setvfinfo(), rtnl_fill_vfinfo(); igb_main.c igb_ndo_set_vf_*()",
        run: igb_sets,
    },
    Case {
        name: "netlink: a new VF of igb checks for spoofing and is not trusted",
        rule: "drivers/net/ethernet/intel/igb/igb_main.c igb_vf_configure()",
        run: |ground| {
            let (_, netdev) = igb(ground, "2")?;
            for index in 0..2 {
                expect("a new VF", attributes(ground, &netdev, index)?, FRESH)?;
            }
            Ok(())
        },
    },
    Case {
        name: "netlink: igb limits a VF's rate while its link is up, and guarantees none",
        rule: "drivers/net/ethernet/intel/igb/igb_main.c igb_ndo_set_vf_bw(); rtnetlink.c rtnl_set_vf_rate()",
        run: igb_rates,
    },
    Case {
        name: "netlink: what igb cannot set is refused by errno",
        rule: "net/core/rtnetlink.c do_setvfinfo(): no ndo is EOPNOTSUPP; igb_main.c igb_ndo_set_vf_*()",
        run: igb_refuses,
    },
    Case {
        name: "netlink: without VFs igb has none to set, and spoofchk is not supported",
        rule: "drivers/net/ethernet/intel/igb/igb_main.c igb_ndo_set_vf_spoofchk(): vfs_allocated_count",
        run: |ground| {
            let netdev = ground.netdev(ground.device(Role::Igb)?)?;
            let set = |setting| ground.set_vf(&netdev, 0, setting);
            expect("spoofchk", set(VfSetting::Spoofchk(Switch::On)), Err(Errno::EOPNOTSUPP))?;
            expect("trust", set(VfSetting::Trust(Switch::On)), Err(Errno::EINVAL))?;
            let list = ground.host().vf_attributes(&netdev).map_err(said)?;
            expect("VFs", (list.total, list.vfs.len(), list.is_complete()), (0, 0, true))
        },
    },
    Case {
        name: "netlink: what igb keeps for a VF goes with it",
        rule: "drivers/net/ethernet/intel/igb/igb_main.c igb_disable_sriov(): kfree(vf_data)",
        run: |ground| {
            let (pf, netdev) = igb(ground, "2")?;
            ground.set_vf(&netdev, 1, VfSetting::Mac(MAC)).map_err(said)?;
            ground.set_vf(&netdev, 1, VfSetting::Trust(Switch::On)).map_err(said)?;
            ground.put(pf, "sriov_numvfs", "0")?;
            ground.put(pf, "sriov_numvfs", "2")?;
            expect("the next VF", attributes(ground, &netdev, 1)?, FRESH)
        },
    },
    Case {
        name: "netlink: what igb keeps for a VF is not its host driver's",
        rule: "drivers/net/ethernet/intel/igb/igb_main.c igb_set_vf_mac(): vf_data of the PF",
        run: |ground| {
            let (pf, netdev) = igb(ground, "1")?;
            ground.set_vf(&netdev, 0, VfSetting::Mac(MAC)).map_err(said)?;
            let vf = ground.vfs(pf)?.into_iter().next().ok_or("no VF")?;
            ground.give_to_vfio(vf)?;
            expect("on vfio-pci", attributes(ground, &netdev, 0)?.mac, Some(MAC))?;
            ground.release(vf)?;
            expect("on nothing", attributes(ground, &netdev, 0)?.mac, Some(MAC))
        },
    },
    Case {
        name: "netlink: an interface whose driver knows no VFs reports none and sets none",
        rule: "net/core/rtnetlink.c rtnl_fill_vf(), do_setvfinfo()",
        run: |ground| {
            let netdev = ground.netdev(ground.device(Role::E1000)?)?;
            let list = ground.host().vf_attributes(&netdev).map_err(said)?;
            expect("VFs", (list.total, list.vfs.len()), (0, 0))?;
            expect("mac", ground.set_vf(&netdev, 0, VfSetting::Mac(MAC)), Err(Errno::EOPNOTSUPP))
        },
    },
    Case {
        name: "netlink: no such interface is ENODEV",
        rule: "net/core/rtnetlink.c rtnl_getlink(), rtnl_setlink()",
        run: |ground| {
            let netdev = name("no-such-link")?;
            let got = ground.host().vf_attributes(&netdev).map_err(|error| error.errno);
            expect("read", got, Err(Errno::ENODEV))?;
            expect("set", ground.set_vf(&netdev, 0, VfSetting::Mac(MAC)), Err(Errno::ENODEV))
        },
    },
    Case {
        name: "netlink: netdevsim sets all but GUIDs, and keeps it for the next VFs",
        rule: "drivers/net/netdevsim/netdev.c nsim_set_vf_*(); dev.c nsim_drv_configure_vfs()",
        run: |ground| netdevsim(ground, netdevsim_sets),
    },
    Case {
        name: "devlink: netdevsim has a port for its connector, and in switchdev mode one for each VF",
        rule: "drivers/net/netdevsim/dev.c nsim_esw_switchdev_enable(), nsim_esw_legacy_enable()",
        run: |ground| netdevsim(ground, switchdev),
    },
    Case {
        name: "devlink: VFs of netdevsim that come have ports, and when they go it is in legacy mode",
        rule: "drivers/net/netdevsim/dev.c nsim_drv_configure_vfs()",
        run: |ground| netdevsim(ground, vfs_come_and_go),
    },
    Case {
        name: "devlink: a port of netdevsim has no function to set",
        rule: "net/devlink/port.c devlink_port_function_validate()",
        run: |ground| netdevsim(ground, no_function),
    },
    Case {
        name: "devlink: netdevsim makes no ports and gives none up",
        rule: "net/devlink/port.c devlink_nl_port_new_doit(), devlink_nl_port_del_doit()",
        run: |ground| {
            netdevsim(ground, |ground, handle| {
                let hand = ground.hand();
                let new = PortNew { pf: 0, sf: 1, controller: None };
                let errno = |error: HostError| error.errno;
                expect("add", hand.add_port(handle, new).map_err(errno), Err(Errno::EOPNOTSUPP))?;
                expect("del", hand.del_port(handle, PortIndex(0)).map_err(errno), Err(Errno::EOPNOTSUPP))?;
                expect("del of none", hand.del_port(handle, PortIndex(77)).map_err(errno), Err(Errno::ENODEV))
            })
        },
    },
    Case {
        name: "devlink: a device that it does not know is ENODEV",
        rule: "net/devlink/netlink.c devlink_get_from_attrs_lock()",
        run: |ground| {
            let errno = |error: HostError| error.errno;
            let unknown = DevlinkHandle::try_from(ground.device(Role::Edu)?).map_err(said)?;
            let host = ground.host();
            expect("known", host.devlink_handles().map_err(said)?.contains(&unknown), false)?;
            expect("ports", host.devlink_ports(&unknown).map_err(errno), Err(Errno::ENODEV))?;
            expect("eswitch", host.eswitch_mode(&unknown).map_err(errno), Err(Errno::ENODEV))?;
            let set = ground.hand().set_eswitch_mode(&unknown, EswitchMode::Switchdev);
            expect("set", set.map_err(errno), Err(Errno::ENODEV))
        },
    },
];

const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// A VF of igb that nobody has set or had.
const FRESH: VfAttributes = VfAttributes {
    mac: Some(Mac([0; 6])),
    vlan: Some(Vlan::NONE),
    min_tx_rate_mbps: Some(0),
    max_tx_rate_mbps: Some(0),
    spoofchk: Some(Switch::On),
    trust: Some(Switch::Off),
    link_state: Some(LinkState::Auto),
    rss_query_en: None,
    node_guid: None,
    port_guid: None,
};

fn name(text: &str) -> Result<NetdevName, String> {
    text.parse().map_err(said)
}

fn vlan(id: u16, qos: u8, proto: VlanProto) -> Result<Vlan, String> {
    Vlan::new(id, qos, proto).ok_or_else(|| format!("no VLAN {id} with QoS {qos}"))
}

/// The igb PF with so many VFs that no driver has had, and its interface.
fn igb(ground: &Ground<'_>, vfs: &str) -> Result<(Bdf, NetdevName), String> {
    let pf = ground.device(Role::Igb)?;
    ground.put(pf, "sriov_drivers_autoprobe", "0")?;
    ground.put(pf, "sriov_numvfs", vfs)?;
    Ok((pf, ground.netdev(pf)?))
}

/// What is reported of one VF.
fn attributes(ground: &Ground<'_>, netdev: &NetdevName, index: u16) -> Result<VfAttributes, String> {
    let mut list = ground.host().vf_attributes(netdev).map_err(said)?;
    expect("the list is complete", list.is_complete(), true)?;
    list.vfs.remove(&index).ok_or_else(|| format!("{netdev} reports no VF {index}"))
}

fn igb_sets(ground: &Ground<'_>) -> Result<(), String> {
    let (_, netdev) = igb(ground, "2")?;
    let set = |setting: VfSetting| ground.set_vf(&netdev, 1, setting).map_err(|errno| format!("{setting}: {errno}"));
    let vlan = vlan(100, 3, VlanProto::Dot1Q)?;
    set(VfSetting::Mac(MAC))?;
    set(VfSetting::Vlan(vlan))?;
    set(VfSetting::Spoofchk(Switch::Off))?;
    set(VfSetting::Trust(Switch::On))?;
    let wanted = VfAttributes {
        mac: Some(MAC),
        vlan: Some(vlan),
        spoofchk: Some(Switch::Off),
        trust: Some(Switch::On),
        ..FRESH
    };
    expect("VF 1", attributes(ground, &netdev, 1)?, wanted)?;
    expect("VF 0", attributes(ground, &netdev, 0)?, FRESH)?;
    set(VfSetting::Mac(Mac([0; 6])))?;
    set(VfSetting::Vlan(Vlan::NONE))?;
    set(VfSetting::Spoofchk(Switch::On))?;
    set(VfSetting::Trust(Switch::Off))?;
    expect("VF 1, taken back", attributes(ground, &netdev, 1)?, FRESH)
}

fn igb_rates(ground: &Ground<'_>) -> Result<(), String> {
    let (_, netdev) = igb(ground, "2")?;
    let rate = |min_mbps, max_mbps| ground.set_vf(&netdev, 0, VfSetting::Rate { min_mbps, max_mbps });
    ground.up(&netdev)?;
    expect("a limit", rate(0, 100), Ok(()))?;
    expect("read", attributes(ground, &netdev, 0)?, VfAttributes { max_tx_rate_mbps: Some(100), ..FRESH })?;
    expect("a guarantee", rate(10, 100), Err(Errno::EINVAL))?;
    expect("a guarantee above the limit", rate(200, 100), Err(Errno::EINVAL))?;
    expect("faster than the link", rate(0, 1001), Err(Errno::EINVAL))?;
    expect("the limit stays", attributes(ground, &netdev, 0)?.max_tx_rate_mbps, Some(100))?;
    expect("none", rate(0, 0), Ok(()))?;
    expect("read", attributes(ground, &netdev, 0)?, FRESH)
}

fn igb_refuses(ground: &Ground<'_>) -> Result<(), String> {
    let (_, netdev) = igb(ground, "2")?;
    let on = Switch::On;
    for (index, setting, errno) in [
        (2, VfSetting::Mac(MAC), Errno::EINVAL),
        (2, VfSetting::Vlan(vlan(1, 0, VlanProto::Dot1Q)?), Errno::EINVAL),
        (2, VfSetting::Spoofchk(on), Errno::EINVAL),
        (2, VfSetting::Trust(on), Errno::EINVAL),
        (0, VfSetting::Mac(Mac([1, 0, 0x5e, 0, 0, 1])), Errno::EINVAL),
        (0, VfSetting::Vlan(vlan(1, 0, VlanProto::Dot1Ad)?), Errno::EPROTONOSUPPORT),
        (0, VfSetting::LinkState(LinkState::Disable), Errno::EOPNOTSUPP),
        (0, VfSetting::RssQueryEn(on), Errno::EOPNOTSUPP),
        (0, VfSetting::NodeGuid(1.into()), Errno::EOPNOTSUPP),
        (0, VfSetting::PortGuid(1.into()), Errno::EOPNOTSUPP),
    ] {
        expect(&format!("vf {index} {setting}"), ground.set_vf(&netdev, index, setting), Err(errno))?;
    }
    expect("VF 0", attributes(ground, &netdev, 0)?, FRESH)
}

/// A new device of netdevsim, `id 1` with one port, for as long as `show` takes.
fn netdevsim(ground: &Ground<'_>, show: fn(&Ground<'_>, &DevlinkHandle) -> Result<(), String>) -> Result<(), String> {
    ground.load("netdevsim")?;
    let bus = HostPath::fixed(Root::Sys, "bus/netdevsim");
    ground.hand().write(&bus.attr("new_device"), "1 1").map_err(said)?;
    let shown = "netdevsim/netdevsim1".parse().map_err(said).and_then(|handle| show(ground, &handle));
    let gone = ground.hand().write(&bus.attr("del_device"), "1").map_err(said);
    shown.and(gone)
}

fn set_numvfs(ground: &Ground<'_>, count: &str) -> Result<(), Errno> {
    let path = HostPath::fixed(Root::Sys, "bus/netdevsim/devices/netdevsim1/sriov_numvfs");
    ground.hand().write(&path, count).map_err(|error| error.errno)
}

fn ports(ground: &Ground<'_>, handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, String> {
    ground.host().devlink_ports(handle).map_err(said)
}

/// PF number, VF number, controller.
type VfPort = (Option<u16>, Option<u16>, Option<u32>);

/// The ports of VFs.
fn vf_ports(ground: &Ground<'_>, handle: &DevlinkHandle) -> Result<Vec<VfPort>, String> {
    let all = ports(ground, handle)?;
    let vfs = all.iter().filter(|port| port.flavour == Some(Flavour::PciVf));
    Ok(vfs.map(|port| (port.pf, port.vf, port.controller)).collect())
}

fn mode(ground: &Ground<'_>, handle: &DevlinkHandle) -> Result<Option<EswitchMode>, String> {
    ground.host().eswitch_mode(handle).map_err(said)
}

const TWO: [VfPort; 2] = [(Some(0), Some(0), Some(0)), (Some(0), Some(1), Some(0))];

fn switchdev(ground: &Ground<'_>, handle: &DevlinkHandle) -> Result<(), String> {
    expect("known", ground.host().devlink_handles().map_err(said)?.contains(handle), true)?;
    let first = ports(ground, handle)?;
    let [port] = &first[..] else { return Err(format!("not one port: {first:?}")) };
    expect("flavour", (port.index, port.flavour), (PortIndex(0), Some(Flavour::Physical)))?;
    expect("an interface", port.netdev.is_some(), true)?;
    expect("mode", mode(ground, handle)?, Some(EswitchMode::Legacy))?;
    expect("two VFs", set_numvfs(ground, "2"), Ok(()))?;
    expect("ports in legacy mode", vf_ports(ground, handle)?, Vec::new())?;
    let set = |mode| ground.hand().set_eswitch_mode(handle, mode).map_err(|error| error.errno);
    expect("switchdev", set(EswitchMode::Switchdev), Ok(()))?;
    expect("mode", mode(ground, handle)?, Some(EswitchMode::Switchdev))?;
    expect("ports", vf_ports(ground, handle)?, TWO.to_vec())?;
    expect("the same again", set(EswitchMode::Switchdev), Ok(()))?;
    // A kernel that does not know it yet (6.12) refuses it by its netlink policy, and does not ask netdevsim.
    let third = set(EswitchMode::SwitchdevInactive);
    expect("a third mode", matches!(third, Err(Errno::EINVAL | Errno::ERANGE)), true)?;
    let rate = VfSetting::Rate { min_mbps: 0, max_mbps: 100 };
    let netdev = port.netdev.clone().ok_or("no interface")?;
    expect("a rate by rtnetlink", ground.set_vf(&netdev, 0, rate), Err(Errno::EOPNOTSUPP))?;
    expect("legacy", set(EswitchMode::Legacy), Ok(()))?;
    expect("ports", vf_ports(ground, handle)?, Vec::new())
}

fn vfs_come_and_go(ground: &Ground<'_>, handle: &DevlinkHandle) -> Result<(), String> {
    ground.hand().set_eswitch_mode(handle, EswitchMode::Switchdev).map_err(said)?;
    expect("ports without VFs", vf_ports(ground, handle)?, Vec::new())?;
    expect("two", set_numvfs(ground, "2"), Ok(()))?;
    expect("ports", vf_ports(ground, handle)?, TWO.to_vec())?;
    expect("others", set_numvfs(ground, "3"), Err(Errno::EBUSY))?;
    expect("none", set_numvfs(ground, "0"), Ok(()))?;
    expect("ports", vf_ports(ground, handle)?, Vec::new())?;
    expect("mode", mode(ground, handle)?, Some(EswitchMode::Legacy))?;
    expect("too many", set_numvfs(ground, "5"), Err(Errno::ENOMEM))
}

fn no_function(ground: &Ground<'_>, handle: &DevlinkHandle) -> Result<(), String> {
    expect("two", set_numvfs(ground, "2"), Ok(()))?;
    ground.hand().set_eswitch_mode(handle, EswitchMode::Switchdev).map_err(said)?;
    let all = ports(ground, handle)?;
    let vf = Behind::Vf(1).port_in(&all).ok_or("VF 1 has no port")?;
    expect("VF 2 and subfunction 1", (Behind::Vf(2).port_in(&all), Behind::Sf(1).port_in(&all)), (None, None))?;
    expect("function", vf.function.as_ref(), None)?;
    for (setting, words) in [
        (PortSetting::HwAddr(MAC), "Port doesn't support function attributes"),
        (PortSetting::State(Active), "Function does not support state setting"),
        (PortSetting::State(PortState::Inactive), "Function does not support state setting"),
        (PortSetting::Roce(Switch::On), "Port doesn't support RoCE function attribute"),
        (PortSetting::Migratable(Switch::On), "Port doesn't support migratable function attribute"),
        (PortSetting::MaxIoEqs(8), "Function does not support max_io_eqs setting"),
    ] {
        let refused = ground.hand().set_port(handle, vf.index, setting);
        let refused = refused.map_err(|error| (error.errno, error.said.as_deref().map(str::to_owned)));
        expect(&setting.to_string(), refused, Err((Errno::EOPNOTSUPP, Some(words.to_owned()))))?;
    }
    let refused = ground.hand().set_port(handle, PortIndex(77), PortSetting::Roce(Switch::On));
    expect("no such port", refused.map_err(|error| error.errno), Err(Errno::ENODEV))
}

fn netdevsim_sets(ground: &Ground<'_>, handle: &DevlinkHandle) -> Result<(), String> {
    expect("two", set_numvfs(ground, "2"), Ok(()))?;
    let netdev = ports(ground, handle)?.into_iter().find_map(|port| port.netdev).ok_or("no interface")?;
    let fresh = VfAttributes { spoofchk: Some(Switch::Off), rss_query_en: Some(Switch::Off), ..FRESH };
    // netdevsim has no protocol for a VF without a VLAN.
    let of = |index| attributes(ground, &netdev, index).map(|vf| VfAttributes { vlan: vf.vlan.or(FRESH.vlan), ..vf });
    expect("a new VF", of(1)?, fresh.clone())?;
    let wanted = VfAttributes {
        mac: Some(MAC),
        vlan: Some(vlan(4095, 7, VlanProto::Dot1Ad)?),
        min_tx_rate_mbps: Some(10),
        max_tx_rate_mbps: Some(100),
        spoofchk: Some(Switch::On),
        trust: Some(Switch::On),
        link_state: Some(LinkState::Disable),
        rss_query_en: Some(Switch::On),
        ..FRESH
    };
    for setting in [
        VfSetting::Mac(MAC),
        VfSetting::Vlan(vlan(4095, 7, VlanProto::Dot1Ad)?),
        VfSetting::Rate { min_mbps: 10, max_mbps: 100 },
        VfSetting::Spoofchk(Switch::On),
        VfSetting::Trust(Switch::On),
        VfSetting::LinkState(LinkState::Disable),
        VfSetting::RssQueryEn(Switch::On),
    ] {
        expect(&setting.to_string(), ground.set_vf(&netdev, 1, setting), Ok(()))?;
    }
    expect("VF 1", of(1)?, wanted.clone())?;
    expect("VF 0", of(0)?, fresh)?;
    let guid = ground.set_vf(&netdev, 1, VfSetting::NodeGuid(1.into()));
    expect("a GUID", guid, Err(Errno::EOPNOTSUPP))?;
    expect("no such VF", ground.set_vf(&netdev, 2, VfSetting::Mac(MAC)), Err(Errno::EINVAL))?;
    expect("none", set_numvfs(ground, "0"), Ok(()))?;
    expect("two again", set_numvfs(ground, "2"), Ok(()))?;
    expect("the next VF 1", of(1)?, wanted)
}
