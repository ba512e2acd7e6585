use super::*;
use crate::host::fake::Fault;
use crate::host::{Claim, Host, through_netdev};
use crate::model::devlink::{Flavour, PortFunction, PortState};
use crate::model::vf::{Mac, Switch};

const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

fn pf() -> DevlinkHandle {
    "pci/0000:3b:00.0".parse().unwrap()
}

fn netdev() -> NetdevName {
    "enp59s0f0np0".parse().unwrap()
}

#[test]
fn a_vf_of_the_demo_host_is_made_migratable_at_its_port() {
    let host = FakeHost::demo().unwrap();
    let lock = host.lock(&Claim::new("a test", &host)).unwrap();
    let hand = lock.hand();
    assert_eq!(hand.eswitch_mode(&pf()).unwrap(), Some(EswitchMode::Legacy));
    hand.set_eswitch_mode(&pf(), EswitchMode::Switchdev).unwrap();
    let port = |vf| hand.devlink_ports(&pf()).unwrap().into_iter().find(|port| port.vf == Some(vf)).unwrap();
    assert_eq!(port(1).function.unwrap().migratable, Some(Switch::Off));
    hand.set_port(&pf(), port(1).index, PortSetting::Migratable(Switch::On)).unwrap();
    hand.set_port(&pf(), port(1).index, PortSetting::HwAddr(MAC)).unwrap();
    let again = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
    let ports = again.devlink_ports(&pf()).unwrap();
    let function = ports.iter().find(|port| port.vf == Some(1)).unwrap().function.clone().unwrap();
    assert_eq!((function.migratable, function.hw_addr), (Some(Switch::On), Some(MAC)));
    hand.set_eswitch_mode(&pf(), EswitchMode::Legacy).unwrap();
    assert!(hand.devlink_ports(&pf()).unwrap().iter().all(|port| port.vf.is_none()));
}

/// The function behind the port of VF 1 of the demo host.
fn function(hand: &dyn Links) -> PortFunction {
    let port = hand.devlink_ports(&pf()).unwrap().into_iter().find(|port| port.vf == Some(1)).unwrap();
    port.function.unwrap()
}

#[test]
fn a_vf_has_one_address_at_its_port_and_at_its_pf() {
    let host = FakeHost::demo().unwrap();
    let lock = host.lock(&Claim::new("a test", &host)).unwrap();
    let hand = lock.hand();
    hand.set_eswitch_mode(&pf(), EswitchMode::Switchdev).unwrap();
    let port = hand.devlink_ports(&pf()).unwrap().into_iter().find(|port| port.vf == Some(1)).unwrap().index;
    hand.set_port(&pf(), port, PortSetting::HwAddr(MAC)).unwrap();
    assert_eq!(hand.vf_attributes(&netdev()).unwrap().vfs[&1].mac, Some(MAC));
    let other = Mac([0x52, 0x54, 0, 0, 0, 2]);
    hand.set_vf(&netdev(), 1, VfSetting::Mac(other)).unwrap();
    assert_eq!(function(&*hand).hw_addr, Some(other));
    hand.set_eswitch_mode(&pf(), EswitchMode::Legacy).unwrap();
    assert_eq!(hand.vf_attributes(&netdev()).unwrap().vfs[&1].mac, Some(other));
}

#[test]
fn a_vf_is_migratable_as_long_as_it_is_there() {
    let host = FakeHost::demo().unwrap();
    let lock = host.lock(&Claim::new("a test", &host)).unwrap();
    let hand = lock.hand();
    hand.set_eswitch_mode(&pf(), EswitchMode::Switchdev).unwrap();
    let port = hand.devlink_ports(&pf()).unwrap().into_iter().find(|port| port.vf == Some(1)).unwrap().index;
    hand.set_port(&pf(), port, PortSetting::Migratable(Switch::On)).unwrap();
    hand.set_eswitch_mode(&pf(), EswitchMode::Legacy).unwrap();
    hand.set_eswitch_mode(&pf(), EswitchMode::Switchdev).unwrap();
    assert_eq!(function(&*hand).migratable, Some(Switch::On), "firmware has kept it");
    let numvfs = HostPath::pci("0000:3b:00.0".parse().unwrap()).attr("sriov_numvfs");
    hand.write(&numvfs, "0").unwrap();
    hand.write(&numvfs, "4").unwrap();
    assert_eq!(function(&*hand).migratable, Some(Switch::Off), "another VF");
}

#[test]
fn a_subfunction_is_made_in_switchdev_mode_only() {
    let host = FakeHost::demo().unwrap();
    let lock = host.lock(&Claim::new("a test", &host)).unwrap();
    let hand = lock.hand();
    let new = PortNew { pf: 0, sf: 88, controller: None };
    let refused = hand.add_port(&pf(), new).unwrap_err();
    assert_eq!(refused.errno, Errno::EOPNOTSUPP);
    assert!(refused.to_string().ends_with("switchdev mode."), "{refused}");
    hand.set_eswitch_mode(&pf(), EswitchMode::Switchdev).unwrap();
    let index = hand.add_port(&pf(), new).unwrap();
    assert_eq!(index, PortIndex(32768));
    assert_eq!(hand.add_port(&pf(), new).unwrap_err().errno, Errno::EEXIST);
    hand.set_port(&pf(), index, PortSetting::State(PortState::Active)).unwrap();
    let migratable = hand.set_port(&pf(), index, PortSetting::Migratable(Switch::On));
    assert_eq!(migratable.unwrap_err().errno, Errno::EOPNOTSUPP, "of VFs only");
    hand.del_port(&pf(), index).unwrap();
    assert!(hand.devlink_ports(&pf()).unwrap().iter().all(|port| port.flavour != Some(Flavour::PciSf)));
}

#[test]
fn a_request_is_a_write_that_can_fail() {
    let host = FakeHost::demo().unwrap();
    let lock = host.lock(&Claim::new("a test", &host)).unwrap();
    host.fail(Fault::at("/net/enp59s0f0np0", Errno::EIO));
    let refused = lock.hand().set_vf(&netdev(), 1, VfSetting::Mac(MAC)).unwrap_err();
    assert_eq!(refused.errno, Errno::EIO);
    assert_eq!(host.writes().last().unwrap().value, "vf 1 mac 52:54:00:00:00:01");
    assert_eq!(host.vf_attributes(&netdev()).unwrap().vfs[&1].mac, Some(Mac([0; 6])));
    host.heal();
    lock.hand().set_vf(&netdev(), 1, VfSetting::Mac(MAC)).unwrap();
    assert_eq!(host.vf_attributes(&netdev()).unwrap().vfs[&1].mac, Some(MAC));
}

#[test]
fn what_netlink_has_set_is_told_from_what_was_there() {
    let host = FakeHost::demo().unwrap();
    let lock = host.lock(&Claim::new("a test", &host)).unwrap();
    let hand = lock.hand();
    let before = host.snapshot();
    hand.set_vf(&netdev(), 1, VfSetting::Mac(MAC)).unwrap();
    assert_ne!(host.snapshot(), before);
    hand.set_vf(&netdev(), 1, VfSetting::Mac(Mac([0; 6]))).unwrap();
    assert_eq!(host.snapshot(), before, "set back is never set");
    hand.set_eswitch_mode(&pf(), EswitchMode::Switchdev).unwrap();
    let switchdev = host.snapshot();
    assert_ne!(switchdev, before);
    let port = hand.devlink_ports(&pf()).unwrap().into_iter().find(|port| port.vf == Some(1)).unwrap().index;
    hand.set_port(&pf(), port, PortSetting::Migratable(Switch::On)).unwrap();
    assert_ne!(host.snapshot(), switchdev);
    hand.set_port(&pf(), port, PortSetting::Migratable(Switch::Off)).unwrap();
    let sf = hand.add_port(&pf(), PortNew { pf: 0, sf: 88, controller: None }).unwrap();
    assert_ne!(host.snapshot(), switchdev);
    hand.del_port(&pf(), sf).unwrap();
    assert_eq!(host.snapshot(), switchdev);
    hand.set_eswitch_mode(&pf(), EswitchMode::Legacy).unwrap();
    assert_eq!(host.snapshot(), before);
}

#[test]
fn an_interface_that_was_renamed_is_asked_by_its_new_name_and_one_that_is_gone_is_not_asked_again() {
    let host = FakeHost::demo().unwrap();
    let former: NetdevName = "eth0".parse().unwrap();
    let list = |pf: &str, from: &NetdevName| {
        through_netdev(&host, pf.parse().unwrap(), from, |netdev| host.vf_attributes(netdev))
    };
    assert_eq!(list("0000:3b:00.0", &former).unwrap(), host.vf_attributes(&netdev()).unwrap());
    let error = list("0000:c1:00.0", &former).unwrap_err();
    assert_eq!((error.errno, error.path), (Errno::ENODEV, HostPath::netdev(&former)));
}
