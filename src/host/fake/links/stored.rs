//! VF attributes and devlink ports as files of the hidden tree, so that they are recorded, saved and loaded with a host.
//!
//! ```text
//! /kernel/links/pci/0000:01:00.0/vfs/1/mac = 52:54:00:00:00:01
//! /kernel/links/pci/0000:01:00.0/vfs/1/vlan = 100 3 802.1Q
//! /kernel/links/pci/0000:3b:00.0/eswitch = switchdev
//! /kernel/links/pci/0000:3b:00.0/ports/2/flavour = pcivf
//! /kernel/links/pci/0000:3b:00.0/ports/2/function/migratable = on
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use crate::host::fake::tree::{HIDDEN, Tree};
use crate::model::VfIndex;
use crate::model::devlink::{DevlinkHandle, DevlinkPort, EswitchMode, PortFunction, PortIndex};
use crate::model::vf::{VfAttributes, Vlan};

/// Where the state of a device is.
pub(crate) fn place(handle: &DevlinkHandle) -> String {
    format!("{HIDDEN}/links/{handle}")
}

fn get<T: FromStr>(tree: &Tree, path: &str) -> Option<T> {
    tree.text(path)?.parse().ok()
}

fn put<T: Display>(tree: &mut Tree, path: &str, value: Option<T>) {
    match value {
        Some(value) => tree.put_text(path, value),
        None => drop(tree.remove(path)),
    }
}

/// The VFs that have stored attributes.
pub(crate) fn vfs(tree: &Tree, device: &str) -> BTreeMap<VfIndex, VfAttributes> {
    let indices = tree.names(&format!("{device}/vfs")).filter_map(|name| name.parse().ok());
    indices.map(|index: VfIndex| (index, vf(tree, &format!("{device}/vfs/{index}")))).collect()
}

fn vf(tree: &Tree, at: &str) -> VfAttributes {
    let vlan = tree.text(&format!("{at}/vlan")).and_then(|text| {
        let mut words = text.split(' ');
        Vlan::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?)
    });
    VfAttributes {
        mac: get(tree, &format!("{at}/mac")),
        vlan,
        min_tx_rate_mbps: get(tree, &format!("{at}/min_tx_rate")),
        max_tx_rate_mbps: get(tree, &format!("{at}/max_tx_rate")),
        spoofchk: get(tree, &format!("{at}/spoofchk")),
        trust: get(tree, &format!("{at}/trust")),
        link_state: get(tree, &format!("{at}/state")),
        rss_query_en: get(tree, &format!("{at}/query_rss")),
        node_guid: get(tree, &format!("{at}/node_guid")),
        port_guid: get(tree, &format!("{at}/port_guid")),
    }
}

/// Stores what is reported of a VF.
pub(crate) fn put_vf(tree: &mut Tree, device: &str, index: VfIndex, vf: &VfAttributes) {
    let at = format!("{device}/vfs/{index}");
    let vlan = vf.vlan.map(|vlan| format!("{} {} {}", vlan.id(), vlan.qos(), vlan.proto()));
    put(tree, &format!("{at}/mac"), vf.mac);
    put(tree, &format!("{at}/vlan"), vlan);
    put(tree, &format!("{at}/min_tx_rate"), vf.min_tx_rate_mbps);
    put(tree, &format!("{at}/max_tx_rate"), vf.max_tx_rate_mbps);
    put(tree, &format!("{at}/spoofchk"), vf.spoofchk);
    put(tree, &format!("{at}/trust"), vf.trust);
    put(tree, &format!("{at}/state"), vf.link_state);
    put(tree, &format!("{at}/query_rss"), vf.rss_query_en);
    put(tree, &format!("{at}/node_guid"), vf.node_guid);
    put(tree, &format!("{at}/port_guid"), vf.port_guid);
}

/// The stored mode of an eswitch.
pub(crate) fn eswitch(tree: &Tree, device: &str) -> Option<EswitchMode> {
    get(tree, &format!("{device}/eswitch"))
}

/// Stores it.
pub(crate) fn put_eswitch(tree: &mut Tree, device: &str, mode: EswitchMode) {
    tree.put_text(&format!("{device}/eswitch"), mode);
}

/// The stored ports, by index; `None` when none were ever stored.
pub(crate) fn ports(tree: &Tree, device: &str) -> Option<Vec<DevlinkPort>> {
    let all = format!("{device}/ports");
    if !tree.has(&all) {
        return None;
    }
    let indices = tree.names(&all).filter_map(|name| name.parse().ok().map(PortIndex));
    let mut ports: Vec<_> = indices.map(|index| port(tree, &format!("{all}/{index}"), index)).collect();
    ports.sort_by_key(|port| port.index);
    Some(ports)
}

fn port(tree: &Tree, at: &str, index: PortIndex) -> DevlinkPort {
    let function = format!("{at}/function");
    DevlinkPort {
        index,
        flavour: get(tree, &format!("{at}/flavour")),
        controller: get(tree, &format!("{at}/controller")),
        pf: get(tree, &format!("{at}/pfnum")),
        vf: get(tree, &format!("{at}/vfnum")),
        sf: get(tree, &format!("{at}/sfnum")),
        netdev: get(tree, &format!("{at}/netdev")),
        ifindex: get(tree, &format!("{at}/ifindex")),
        external: get(tree, &format!("{at}/external")),
        function: tree.has(&function).then(|| PortFunction {
            hw_addr: get(tree, &format!("{function}/hw_addr")),
            state: get(tree, &format!("{function}/state")),
            opstate: get(tree, &format!("{function}/opstate")),
            roce: get(tree, &format!("{function}/roce")),
            migratable: get(tree, &format!("{function}/migratable")),
            ipsec_crypto: get(tree, &format!("{function}/ipsec_crypto")),
            ipsec_packet: get(tree, &format!("{function}/ipsec_packet")),
            max_io_eqs: get(tree, &format!("{function}/max_io_eqs")),
        }),
    }
}

/// Stores all ports of a device, instead of those that were stored.
pub(crate) fn put_ports(tree: &mut Tree, device: &str, ports: &[DevlinkPort]) {
    tree.remove(&format!("{device}/ports"));
    tree.put_dir(&format!("{device}/ports"));
    for port in ports {
        let at = format!("{device}/ports/{}", port.index);
        tree.put_dir(&at);
        put(tree, &format!("{at}/flavour"), port.flavour);
        put(tree, &format!("{at}/controller"), port.controller);
        put(tree, &format!("{at}/pfnum"), port.pf);
        put(tree, &format!("{at}/vfnum"), port.vf);
        put(tree, &format!("{at}/sfnum"), port.sf);
        put(tree, &format!("{at}/netdev"), port.netdev.as_ref());
        put(tree, &format!("{at}/ifindex"), port.ifindex);
        put(tree, &format!("{at}/external"), port.external);
        if let Some(function) = &port.function {
            let at = format!("{at}/function");
            tree.put_dir(&at);
            put(tree, &format!("{at}/hw_addr"), function.hw_addr);
            put(tree, &format!("{at}/state"), function.state);
            put(tree, &format!("{at}/opstate"), function.opstate);
            put(tree, &format!("{at}/roce"), function.roce);
            put(tree, &format!("{at}/migratable"), function.migratable);
            put(tree, &format!("{at}/ipsec_crypto"), function.ipsec_crypto);
            put(tree, &format!("{at}/ipsec_packet"), function.ipsec_packet);
            put(tree, &format!("{at}/max_io_eqs"), function.max_io_eqs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::record;
    use crate::model::devlink::{Flavour, PortOpstate, PortState};
    use crate::model::vf::{LinkState, Mac, Switch, VlanProto};

    #[test]
    fn what_is_stored_survives_being_saved_and_loaded() {
        let device = place(&"pci/0000:3b:00.0".parse().unwrap());
        let mac = Some(Mac([0x52, 0x54, 0, 0, 0, 1]));
        let full = VfAttributes {
            mac,
            vlan: Vlan::new(100, 3, VlanProto::Dot1Ad),
            min_tx_rate_mbps: Some(10),
            max_tx_rate_mbps: Some(100),
            spoofchk: Some(Switch::On),
            trust: Some(Switch::Off),
            link_state: Some(LinkState::Disable),
            rss_query_en: Some(Switch::On),
            node_guid: Some(1.into()),
            port_guid: Some(2.into()),
        };
        let function = PortFunction {
            hw_addr: mac,
            state: Some(PortState::Active),
            opstate: Some(PortOpstate::Attached),
            roce: Some(Switch::Off),
            migratable: Some(Switch::On),
            ipsec_crypto: Some(Switch::Off),
            ipsec_packet: Some(Switch::Off),
            max_io_eqs: Some(64),
        };
        let port = DevlinkPort {
            flavour: Some(Flavour::PciSf),
            controller: Some(0),
            pf: Some(0),
            vf: Some(1),
            sf: Some(88),
            netdev: "eth0".parse().ok(),
            ifindex: Some(4),
            external: Some(Switch::Off),
            function: Some(function),
            ..DevlinkPort::new(PortIndex(32768))
        };
        let all = [DevlinkPort::new(PortIndex(1)), port];
        let mut tree = Tree::default();
        assert_eq!(ports(&tree, &device), None);
        put_vf(&mut tree, &device, 0, &full);
        put_ports(&mut tree, &device, &all);
        put_eswitch(&mut tree, &device, EswitchMode::Switchdev);
        let again = record::parse(record::print(&tree).as_bytes()).unwrap();
        assert_eq!(vfs(&again, &device), BTreeMap::from([(0, full)]));
        assert_eq!(ports(&again, &device).as_deref(), Some(&all[..]));
        assert_eq!(eswitch(&again, &device), Some(EswitchMode::Switchdev));
    }
}
