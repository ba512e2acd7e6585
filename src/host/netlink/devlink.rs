//! devlink: devices, ports and their functions, the eswitch, to bytes and back. Nothing here waits or asks.

use netlink_bindings::builtin::BuiltinBitfield32;
use netlink_bindings::devlink::{
    IterableDevlink, IterableDlPortFunction, OpEswitchGetDo, OpEswitchSetDo, OpGetDump, OpPortDelDo, OpPortGetDump,
    OpPortNewDo, OpPortSetDo, PushDevlink,
};
use netlink_bindings::nlctrl::OpGetfamilyDo;
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::{find_attr, push_header};

use crate::model::devlink::{
    DevlinkHandle, DevlinkPort, EswitchMode, Flavour, PortFunction, PortIndex, PortNew, PortOpstate, PortSetting,
    PortState,
};
use crate::model::vf::{Mac, Switch};

/// `NETLINK_GENERIC`.
pub(super) const PROTOCOL: isize = 16;

/// `GENL_ID_CTRL`: the family that knows the others.
pub(super) const CONTROLLER: u16 = 16;

/// `DEVLINK_PORT_FN_CAP_ROCE`.
const ROCE: u32 = 1;

/// `DEVLINK_PORT_FN_CAP_MIGRATABLE`.
const MIGRATABLE: u32 = 2;

/// `DEVLINK_PORT_FN_CAP_IPSEC_CRYPTO`.
const IPSEC_CRYPTO: u32 = 4;

/// `DEVLINK_PORT_FN_CAP_IPSEC_PACKET`.
const IPSEC_PACKET: u32 = 8;

/// `DEVLINK_PORT_FN_ATTR_MAX_IO_EQS`, which the codec has not got.
const MAX_IO_EQS: u16 = 6;

/// Asks for the number of the family.
pub(super) fn get_family() -> Vec<u8> {
    let mut payload = Vec::new();
    drop(OpGetfamilyDo::encode_request(&mut payload).push_family_name(c"devlink"));
    payload
}

/// The number of the family.
pub(super) fn read_family(object: &[u8]) -> Option<u16> {
    OpGetfamilyDo::decode_request(object).get_family_id().ok()
}

fn name<Prev: Pusher>(encoder: PushDevlink<Prev>, handle: &DevlinkHandle) -> PushDevlink<Prev> {
    encoder
        .push_bus_name_bytes(handle.bus().as_str().as_bytes())
        .push_dev_name_bytes(handle.device().as_str().as_bytes())
}

/// Asks for all devices.
pub(super) fn get_devices() -> Vec<u8> {
    let mut payload = Vec::new();
    drop(OpGetDump::encode_request(&mut payload));
    payload
}

/// The device that an object is about.
pub(super) fn read_handle(object: &[u8]) -> Option<DevlinkHandle> {
    let attributes = OpGetDump::decode_request(object);
    let bus = attributes.get_bus_name().ok()?.to_str().ok()?;
    let device = attributes.get_dev_name().ok()?.to_str().ok()?;
    format!("{bus}/{device}").parse().ok()
}

/// Asks for the ports of a device.
pub(super) fn get_ports(handle: &DevlinkHandle) -> Vec<u8> {
    let mut payload = Vec::new();
    drop(name(OpPortGetDump::encode_request(&mut payload), handle));
    payload
}

/// A port of that device; `None` when it is another one's, for kernels before 6.5 list those of all.
pub(super) fn read_port(object: &[u8], handle: &DevlinkHandle) -> Option<DevlinkPort> {
    if read_handle(object)? != *handle {
        return None;
    }
    let attributes = OpPortGetDump::decode_request(object);
    Some(DevlinkPort {
        index: PortIndex(attributes.get_port_index().ok()?),
        flavour: attributes.get_port_flavour().ok().and_then(Flavour::of_number),
        controller: attributes.get_port_controller_number().ok(),
        pf: attributes.get_port_pci_pf_number().ok(),
        vf: attributes.get_port_pci_vf_number().ok(),
        sf: attributes.get_port_pci_sf_number().ok(),
        netdev: netdev(&attributes),
        ifindex: attributes.get_port_netdev_ifindex().ok(),
        external: attributes.get_port_external().ok().map(|value| switch(value.into())),
        function: attributes.get_port_function().ok().map(|function| read_function(&function)),
    })
}

fn netdev(attributes: &IterableDevlink<'_>) -> Option<crate::model::vf::NetdevName> {
    attributes.get_port_netdev_name().ok()?.to_str().ok()?.parse().ok()
}

fn read_function(function: &IterableDlPortFunction<'_>) -> PortFunction {
    let caps = function.get_caps().ok();
    let cap = |bit: u32| {
        let caps = caps.as_ref().filter(|caps| caps.selector & bit != 0)?;
        Some(switch(caps.value & bit))
    };
    let count = find_attr(function.get_buf(), MAX_IO_EQS).and_then(|value| value.first_chunk::<4>());
    PortFunction {
        hw_addr: function.get_hw_addr().ok().and_then(|bytes| bytes.try_into().ok()).map(Mac),
        state: function.get_state().ok().and_then(|value| match value {
            0 => Some(PortState::Inactive),
            1 => Some(PortState::Active),
            _ => None,
        }),
        opstate: function.get_opstate().ok().and_then(|value| match value {
            0 => Some(PortOpstate::Detached),
            1 => Some(PortOpstate::Attached),
            _ => None,
        }),
        roce: cap(ROCE),
        migratable: cap(MIGRATABLE),
        ipsec_crypto: cap(IPSEC_CRYPTO),
        ipsec_packet: cap(IPSEC_PACKET),
        max_io_eqs: count.map(|count| u32::from_ne_bytes(*count)),
    }
}

/// On when any bit is set.
fn switch(bits: u32) -> Switch {
    if bits == 0 { Switch::Off } else { Switch::On }
}

/// Asks for the mode of the eswitch.
pub(super) fn get_eswitch(handle: &DevlinkHandle) -> Vec<u8> {
    let mut payload = Vec::new();
    drop(name(OpEswitchGetDo::encode_request(&mut payload), handle));
    payload
}

/// The mode of the eswitch.
pub(super) fn read_eswitch(object: &[u8]) -> Option<EswitchMode> {
    OpEswitchGetDo::decode_request(object).get_eswitch_mode().ok().and_then(EswitchMode::of_number)
}

/// Sets it.
pub(super) fn set_eswitch(handle: &DevlinkHandle, mode: EswitchMode) -> Vec<u8> {
    let mut payload = Vec::new();
    drop(name(OpEswitchSetDo::encode_request(&mut payload), handle).push_eswitch_mode(mode.number()));
    payload
}

/// Sets one attribute of the function behind a port.
pub(super) fn set_port(handle: &DevlinkHandle, port: PortIndex, setting: PortSetting) -> Vec<u8> {
    let mut payload = Vec::new();
    let encoder = name(OpPortSetDo::encode_request(&mut payload), handle).push_port_index(port.0);
    let mut function = encoder.nested_port_function();
    let cap = |bit: u32, on: Switch| BuiltinBitfield32 { value: if on.is_on() { bit } else { 0 }, selector: bit };
    match setting {
        PortSetting::HwAddr(Mac(bytes)) => drop(function.push_hw_addr(&bytes)),
        PortSetting::State(state) => drop(function.push_state(u8::from(state == PortState::Active))),
        PortSetting::Roce(on) => drop(function.push_caps(cap(ROCE, on))),
        PortSetting::Migratable(on) => drop(function.push_caps(cap(MIGRATABLE, on))),
        PortSetting::MaxIoEqs(count) => {
            push_header(function.as_vec_mut(), MAX_IO_EQS, 4);
            function.as_vec_mut().extend(count.to_ne_bytes());
            drop(function);
        }
    }
    payload
}

/// Makes the port of a subfunction.
pub(super) fn add_port(handle: &DevlinkHandle, port: PortNew) -> Vec<u8> {
    let mut payload = Vec::new();
    let encoder = name(OpPortNewDo::encode_request(&mut payload), handle)
        .push_port_flavour(7)
        .push_port_pci_pf_number(port.pf)
        .push_port_pci_sf_number(port.sf);
    match port.controller {
        Some(controller) => drop(encoder.push_port_controller_number(controller.into())),
        None => drop(encoder),
    }
    payload
}

/// Takes a port away.
pub(super) fn del_port(handle: &DevlinkHandle, port: PortIndex) -> Vec<u8> {
    let mut payload = Vec::new();
    drop(name(OpPortDelDo::encode_request(&mut payload), handle).push_port_index(port.0));
    payload
}

#[cfg(test)]
mod tests {
    use netlink_bindings::utils::{finalize_nested_header, push_nested_header};
    use proptest::prelude::*;

    use super::*;

    fn handle() -> DevlinkHandle {
        "pci/0000:3b:00.0".parse().unwrap()
    }

    #[test]
    fn a_request_is_the_bytes_that_devlink_sends() {
        let mut wanted = vec![6, 1, 0, 0];
        push_header(&mut wanted, 1, 4);
        wanted.extend(b"pci\0");
        push_header(&mut wanted, 2, 13);
        wanted.extend(b"0000:3b:00.0\0");
        push_header(&mut wanted, 3, 4);
        wanted.extend(2u32.to_ne_bytes());
        let function = push_nested_header(&mut wanted, 145);
        push_header(&mut wanted, 4, 8);
        wanted.extend(2u32.to_ne_bytes());
        wanted.extend(2u32.to_ne_bytes());
        finalize_nested_header(&mut wanted, function);
        assert_eq!(set_port(&handle(), PortIndex(2), PortSetting::Migratable(Switch::On)), wanted);
    }

    #[test]
    fn what_is_set_at_a_port_is_what_is_read() {
        let mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
        let none = PortFunction::default;
        for (setting, wanted) in [
            (PortSetting::HwAddr(mac), PortFunction { hw_addr: Some(mac), ..none() }),
            (PortSetting::State(PortState::Active), PortFunction { state: Some(PortState::Active), ..none() }),
            (PortSetting::Roce(Switch::Off), PortFunction { roce: Some(Switch::Off), ..none() }),
            (PortSetting::Migratable(Switch::On), PortFunction { migratable: Some(Switch::On), ..none() }),
            (PortSetting::MaxIoEqs(32), PortFunction { max_io_eqs: Some(32), ..none() }),
        ] {
            let read = read_port(&set_port(&handle(), PortIndex(2), setting), &handle()).unwrap();
            assert_eq!(read, DevlinkPort { function: Some(wanted), ..DevlinkPort::new(PortIndex(2)) }, "{setting}");
        }
    }

    #[test]
    fn a_new_port_is_named_by_its_numbers() {
        let new = PortNew { pf: 1, sf: 88, controller: Some(0) };
        let mut bytes = add_port(&handle(), new);
        push_header(&mut bytes, 3, 4);
        bytes.extend(32768u32.to_ne_bytes());
        let read = read_port(&bytes, &handle()).unwrap();
        assert_eq!((read.flavour, read.pf, read.sf), (Some(Flavour::PciSf), Some(1), Some(88)));
        assert_eq!((read.index, read.controller), (PortIndex(32768), Some(0)));
        assert_eq!(read_port(&bytes, &"pci/0000:3b:00.1".parse().unwrap()), None, "of another device");
    }

    #[test]
    fn a_mode_is_the_mode_that_is_read() {
        for mode in EswitchMode::ALL {
            assert_eq!(read_eswitch(&set_eswitch(&handle(), *mode)), Some(*mode));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop((read_family(&bytes), read_eswitch(&bytes), read_port(&bytes, &handle())));
            let mut object = get_ports(&handle());
            push_header(&mut object, 3, 4);
            object.extend(1u32.to_ne_bytes());
            let function = push_nested_header(&mut object, 145);
            object.extend(bytes);
            finalize_nested_header(&mut object, function);
            drop(read_port(&object, &handle()));
        }
    }
}
