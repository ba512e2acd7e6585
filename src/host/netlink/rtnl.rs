//! rtnetlink: the VF attributes of a PF's interface, to bytes and back. Nothing here waits or asks.

use std::collections::BTreeMap;

use netlink_bindings::rt_link::{
    Ifinfomsg, IflaVfGuid, IflaVfLinkState, IflaVfMac, IflaVfRate, IflaVfRssQueryEn, IflaVfSpoofchk, IflaVfTrust,
    IflaVfVlanInfo, IterableVfinfoAttrs, LinkAttrs, OpGetlinkDo, OpSetlinkDo,
};

use super::message::{Kind, Request};
use crate::model::VfIndex;
use crate::model::vf::{Guid, LinkState, Mac, NetdevName, Switch, VfAttributes, VfList, VfSetting, Vlan, VlanProto};

/// `NETLINK_ROUTE`.
pub(super) const PROTOCOL: isize = 0;

/// `RTM_GETLINK`.
const GETLINK: u16 = 18;

/// `RTM_SETLINK`.
const SETLINK: u16 = 19;

/// `RTEXT_FILTER_VF | RTEXT_FILTER_SKIP_STATS`: the VFs, without a third of their length.
const FILTER: u32 = 1 | 8;

/// Asks for an interface with its VFs.
pub(super) fn get(netdev: &NetdevName) -> Request {
    let mut payload = Vec::new();
    drop(
        OpGetlinkDo::encode_request(&mut payload, &Ifinfomsg::new())
            .push_ifname_bytes(netdev.as_str().as_bytes())
            .push_ext_mask(FILTER),
    );
    Request { message_type: GETLINK, kind: Kind::Do, payload }
}

/// Sets one attribute of one VF.
pub(super) fn set(netdev: &NetdevName, index: VfIndex, setting: VfSetting) -> Request {
    let mut payload = Vec::new();
    let vf = u32::from(index);
    let switch = |on: Switch| u32::from(on.is_on());
    let link = OpSetlinkDo::encode_request(&mut payload, &Ifinfomsg::new());
    let info = link.push_ifname_bytes(netdev.as_str().as_bytes()).nested_vfinfo_list().nested_info();
    // Dropping an encoder ends what is nested in it.
    match setting {
        VfSetting::Mac(Mac(bytes)) => {
            let mut value = IflaVfMac { vf, ..IflaVfMac::new() };
            value.mac[..bytes.len()].copy_from_slice(&bytes);
            drop(info.push_mac(value));
        }
        VfSetting::Vlan(vlan) => {
            // A big-endian half word and two bytes of nothing.
            let [high, low] = vlan.proto().ethertype().to_be_bytes();
            let vlan_proto = u32::from_ne_bytes([high, low, 0, 0]);
            let value = IflaVfVlanInfo { vf, vlan: vlan.id().into(), qos: vlan.qos().into(), vlan_proto };
            drop(info.nested_vlan_list().push_info(value));
        }
        VfSetting::Rate { min_mbps, max_mbps } => {
            drop(info.push_rate(IflaVfRate { vf, min_tx_rate: min_mbps, max_tx_rate: max_mbps }));
        }
        VfSetting::Spoofchk(on) => drop(info.push_spoofchk(IflaVfSpoofchk { vf, setting: switch(on) })),
        VfSetting::Trust(on) => drop(info.push_trust(IflaVfTrust { vf, setting: switch(on) })),
        VfSetting::LinkState(state) => {
            let link_state = match state {
                LinkState::Auto => 0,
                LinkState::Enable => 1,
                LinkState::Disable => 2,
            };
            drop(info.push_link_state(IflaVfLinkState { vf, link_state }));
        }
        VfSetting::RssQueryEn(on) => drop(info.push_rss_query_en(IflaVfRssQueryEn { vf, setting: switch(on) })),
        VfSetting::NodeGuid(guid) => {
            drop(info.push_ib_node_guid(IflaVfGuid { vf, guid: guid.number(), ..IflaVfGuid::new() }));
        }
        VfSetting::PortGuid(guid) => {
            drop(info.push_ib_port_guid(IflaVfGuid { vf, guid: guid.number(), ..IflaVfGuid::new() }));
        }
    }
    Request { message_type: SETLINK, kind: Kind::Do, payload }
}

/// Reads `RTM_NEWLINK`. Attributes behind a list that overflowed are not looked at: they are its rest.
pub(super) fn read(object: &[u8]) -> VfList {
    let (_, attributes) = OpGetlinkDo::decode_request(object);
    let mut list = VfList::default();
    for attribute in attributes.map_while(Result::ok) {
        match attribute {
            LinkAttrs::NumVf(total) => list.total = total,
            LinkAttrs::VfinfoList(vfs) => {
                list.vfs = vfs.get_info().filter_map(|info| read_vf(&info)).collect::<BTreeMap<_, _>>();
                break;
            }
            _ => {}
        }
    }
    list
}

/// One `IFLA_VF_INFO`; its index is said in each of its attributes.
fn read_vf(info: &IterableVfinfoAttrs<'_>) -> Option<(VfIndex, VfAttributes)> {
    let mac = info.get_mac().ok()?;
    // -1 is a driver that said nothing.
    let switch = |setting: u32| match setting {
        0 => Some(Switch::Off),
        1 => Some(Switch::On),
        _ => None,
    };
    let rate = info.get_rate().ok();
    let vlan = match info.get_vlan_list().ok().and_then(|list| list.get_info().next()) {
        Some(entry) => {
            let [high, low, ..] = entry.vlan_proto.to_ne_bytes();
            vlan(entry.vlan, entry.qos, VlanProto::of_ethertype(u16::from_be_bytes([high, low])))
        }
        None => info.get_vlan().ok().and_then(|entry| vlan(entry.vlan, entry.qos, Some(VlanProto::Dot1Q))),
    };
    let attributes = VfAttributes {
        mac: mac.mac.first_chunk().copied().map(Mac),
        vlan,
        min_tx_rate_mbps: rate.as_ref().map(|rate| rate.min_tx_rate),
        max_tx_rate_mbps: rate.as_ref().map(|rate| rate.max_tx_rate),
        spoofchk: info.get_spoofchk().ok().and_then(|value| switch(value.setting)),
        trust: info.get_trust().ok().and_then(|value| switch(value.setting)),
        link_state: info.get_link_state().ok().and_then(|value| match value.link_state {
            0 => Some(LinkState::Auto),
            1 => Some(LinkState::Enable),
            2 => Some(LinkState::Disable),
            _ => None,
        }),
        rss_query_en: info.get_rss_query_en().ok().and_then(|value| switch(value.setting)),
        node_guid: info.get_ib_node_guid().ok().map(|value| Guid::from(value.guid)),
        port_guid: info.get_ib_port_guid().ok().map(|value| Guid::from(value.guid)),
    };
    Some((VfIndex::try_from(mac.vf).ok()?, attributes))
}

fn vlan(id: u32, qos: u32, proto: Option<VlanProto>) -> Option<Vlan> {
    Vlan::new(u16::try_from(id).ok()?, u8::try_from(qos).ok()?, proto?)
}

#[cfg(test)]
mod tests {
    use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};
    use proptest::prelude::*;

    use super::*;

    fn netdev() -> NetdevName {
        "enp4s0f0".parse().unwrap()
    }

    fn any_setting() -> impl Strategy<Value = VfSetting> {
        let switch = || prop_oneof![Just(Switch::On), Just(Switch::Off)];
        prop_oneof![
            any::<[u8; 6]>().prop_map(|bytes| VfSetting::Mac(Mac(bytes))),
            (0u16..4096, 0u8..8, any::<bool>()).prop_map(|(id, qos, ad)| {
                let proto = if ad { VlanProto::Dot1Ad } else { VlanProto::Dot1Q };
                VfSetting::Vlan(Vlan::new(id, qos, proto).unwrap())
            }),
            any::<(u32, u32)>().prop_map(|(min_mbps, max_mbps)| VfSetting::Rate { min_mbps, max_mbps }),
            switch().prop_map(VfSetting::Spoofchk),
            switch().prop_map(VfSetting::Trust),
            switch().prop_map(VfSetting::RssQueryEn),
            (0usize..3).prop_map(|at| VfSetting::LinkState(LinkState::ALL[at])),
            any::<u64>().prop_map(|number| VfSetting::NodeGuid(number.into())),
            any::<u64>().prop_map(|number| VfSetting::PortGuid(number.into())),
        ]
    }

    /// What a VF of which a request set one attribute reads as.
    fn expected(setting: VfSetting) -> VfAttributes {
        let mut wanted = VfAttributes { mac: Some(Mac([0; 6])), ..VfAttributes::default() };
        match setting {
            VfSetting::Mac(mac) => wanted.mac = Some(mac),
            VfSetting::Vlan(vlan) => wanted.vlan = Some(vlan),
            VfSetting::Rate { min_mbps, max_mbps } => {
                (wanted.min_tx_rate_mbps, wanted.max_tx_rate_mbps) = (Some(min_mbps), Some(max_mbps));
            }
            VfSetting::Spoofchk(on) => wanted.spoofchk = Some(on),
            VfSetting::Trust(on) => wanted.trust = Some(on),
            VfSetting::LinkState(state) => wanted.link_state = Some(state),
            VfSetting::RssQueryEn(on) => wanted.rss_query_en = Some(on),
            VfSetting::NodeGuid(guid) => wanted.node_guid = Some(guid),
            VfSetting::PortGuid(guid) => wanted.port_guid = Some(guid),
        }
        wanted
    }

    #[test]
    fn a_request_is_the_bytes_that_ip_link_sends() {
        let request = set(&netdev(), 2, VfSetting::Trust(Switch::On));
        let mut wanted = vec![0; 16];
        push_header(&mut wanted, 3, 9);
        wanted.extend(b"enp4s0f0\0");
        let list = push_nested_header(&mut wanted, 22);
        let info = push_nested_header(&mut wanted, 1);
        push_header(&mut wanted, 9, 8);
        wanted.extend(2u32.to_ne_bytes());
        wanted.extend(1u32.to_ne_bytes());
        finalize_nested_header(&mut wanted, info);
        finalize_nested_header(&mut wanted, list);
        assert_eq!((request.message_type, request.payload), (19, wanted));
    }

    #[test]
    fn what_a_silent_driver_reports_is_not_off() {
        let mut object = vec![0; 16];
        push_header(&mut object, 21, 4);
        object.extend(1u32.to_ne_bytes());
        let list = push_nested_header(&mut object, 22);
        let info = push_nested_header(&mut object, 1);
        push_header(&mut object, 1, 36);
        object.extend([0; 36]);
        for kind in [4u16, 7, 9] {
            push_header(&mut object, kind, 8);
            object.extend(0u32.to_ne_bytes());
            object.extend(u32::MAX.to_ne_bytes());
        }
        finalize_nested_header(&mut object, info);
        finalize_nested_header(&mut object, list);
        let read = read(&object);
        assert!(read.is_complete());
        assert_eq!(read.vfs[&0], VfAttributes { mac: Some(Mac([0; 6])), ..VfAttributes::default() });
    }

    /// Before 7.3 the length of the list is 16 bits of what it should be.
    #[test]
    fn a_list_that_overflowed_gives_the_vfs_that_it_has() {
        let mut object = vec![0; 16];
        push_header(&mut object, 21, 4);
        object.extend(2000u32.to_ne_bytes());
        let list = push_nested_header(&mut object, 22);
        for vf in 0u32..2000 {
            let info = push_nested_header(&mut object, 1);
            push_header(&mut object, 1, 36);
            object.extend(vf.to_ne_bytes());
            object.extend([0; 32]);
            finalize_nested_header(&mut object, info);
        }
        let length = (object.len() - list) % 65536;
        object[list..list + 2].copy_from_slice(&u16::try_from(length).unwrap().to_ne_bytes());
        let read = read(&object);
        assert_eq!(read.total, 2000);
        assert!(!read.is_complete() && read.vfs.len() == (length - 4) / 44, "{}", read.vfs.len());
    }

    proptest! {
        #[test]
        fn what_is_set_is_what_is_read(index: u16, setting in any_setting()) {
            let request = set(&netdev(), index, setting);
            // A kernel's answer names the VF's address whatever else it has: here the request stands in for it.
            let (_, mut link) = OpGetlinkDo::decode_request(&request.payload);
            let list = link.find_map(|attribute| match attribute {
                Ok(LinkAttrs::VfinfoList(list)) => Some(list),
                _ => None,
            });
            let info = list.unwrap().get_info().next().unwrap();
            let mut bytes = info.get_buf().to_vec();
            if info.get_mac().is_err() {
                push_header(&mut bytes, 1, 36);
                bytes.extend(u32::from(index).to_ne_bytes());
                bytes.extend([0; 32]);
            }
            let read = read_vf(&netlink_bindings::rt_link::VfinfoAttrs::new(&bytes));
            prop_assert_eq!(read, Some((index, expected(setting))));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&bytes));
            let mut object = vec![0; 16];
            let list = push_nested_header(&mut object, 22);
            let info = push_nested_header(&mut object, 1);
            object.extend(bytes);
            finalize_nested_header(&mut object, info);
            finalize_nested_header(&mut object, list);
            drop(read(&object));
        }
    }
}
