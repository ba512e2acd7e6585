//! What is printed is read back, and what is wrong is refused.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_mac_survives_printing_in_any_case(bytes: [u8; 6]) {
        let text = Mac(bytes).to_string();
        prop_assert_eq!(text.parse::<Mac>().unwrap(), Mac(bytes));
        prop_assert_eq!(text.to_uppercase().parse::<Mac>().unwrap(), Mac(bytes));
    }

    #[test]
    fn a_guid_survives_printing_and_counting(bytes: [u8; 8]) {
        prop_assert_eq!(Guid(bytes).to_string().parse::<Guid>().unwrap(), Guid(bytes));
        prop_assert_eq!(Guid::from(Guid(bytes).number()), Guid(bytes));
    }

    #[test]
    fn no_text_makes_them_panic(text in "\\PC{0,24}") {
        drop((text.parse::<Mac>(), text.parse::<Guid>(), text.parse::<NetdevName>()));
    }
}

#[test]
fn a_setting_survives_printing() {
    let vlan = Vlan::new(100, 3, VlanProto::Dot1Ad).unwrap();
    for setting in [
        VfSetting::Mac(Mac([2, 0, 0, 0, 0, 1])),
        VfSetting::Vlan(vlan),
        VfSetting::Rate { min_mbps: 1, max_mbps: 100 },
        VfSetting::Spoofchk(Switch::Off),
        VfSetting::Trust(Switch::On),
        VfSetting::LinkState(LinkState::Enable),
        VfSetting::RssQueryEn(Switch::On),
        VfSetting::NodeGuid(Guid([1; 8])),
        VfSetting::PortGuid(Guid([2; 8])),
    ] {
        for setting in [setting, setting.unset()] {
            assert_eq!(setting.to_string().parse::<VfSetting>().unwrap(), setting);
        }
    }
    for wrong in ["", "mac", "vlan 1", "vlan 4096 qos 0 proto 802.1Q", "colour blue"] {
        assert!(wrong.parse::<VfSetting>().is_err(), "{wrong}");
    }
}

#[test]
fn what_is_no_mac_is_refused() {
    for text in
        ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52-54-00-12-34-56", "5:54:00:12:34:56", "+5:54:00:12:34:56"]
    {
        assert!(text.parse::<Mac>().is_err(), "{text}");
    }
    let mac = |text: &str| text.parse::<Mac>().unwrap();
    assert!(mac("01:00:5E:00:00:01").is_multicast() && mac("ff:ff:ff:ff:ff:ff").is_multicast());
    assert!(mac("00:00:00:00:00:00").is_zero() && !mac("52:54:00:00:00:01").is_multicast());
    assert!(mac("52:54:00:00:00:01").is_local() && !mac("00:1b:21:00:00:01").is_local());
}

#[test]
fn a_vlan_has_its_ranges() {
    assert!(Vlan::new(4095, 7, VlanProto::Dot1Ad).is_some());
    assert!(Vlan::new(4096, 0, VlanProto::Dot1Q).is_none() && Vlan::new(0, 8, VlanProto::Dot1Q).is_none());
    for proto in VlanProto::ALL {
        assert_eq!(VlanProto::of_ethertype(proto.ethertype()), Some(*proto));
        assert_eq!(proto.to_string().parse(), Ok(*proto));
    }
}

#[test]
fn an_interface_name_is_one_of_the_kernel() {
    for (text, good) in
        [("enp4s0f0", true), ("a", true), ("", false), ("..", false), ("a/b", false), ("a:1", false), ("a b", false)]
    {
        assert_eq!(text.parse::<NetdevName>().is_ok(), good, "{text}");
    }
    assert!("fifteen_letters".parse::<NetdevName>().is_ok() && "sixteen__letters".parse::<NetdevName>().is_err());
}
