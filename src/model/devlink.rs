//! devlink: a device's ports, the functions behind them, and the mode of its eswitch.
//!
//! In `switchdev` mode a PF has one port for each function of the host, the representor. What a function may do is set at
//! its port: `migratable`, without which mlx5_vfio_pci binds and cannot migrate, is set here and before the VF has a driver.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::vf::{Mac, NetdevName, Switch, words};
use super::{Bdf, BusName, ParseError, VfIndex};

/// A device that devlink knows, by bus and name: `pci/0000:3b:00.0`, `netdevsim/netdevsim1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevlinkHandle {
    bus: BusName,
    device: BusName,
}

impl DevlinkHandle {
    /// `DEVLINK_ATTR_BUS_NAME`.
    #[must_use]
    pub const fn bus(&self) -> &BusName {
        &self.bus
    }

    /// `DEVLINK_ATTR_DEV_NAME`.
    #[must_use]
    pub const fn device(&self) -> &BusName {
        &self.device
    }

    /// The PCI function that it is.
    #[must_use]
    pub fn bdf(&self) -> Option<Bdf> {
        if self.bus.as_str() == "pci" { self.device.as_str().parse().ok() } else { None }
    }
}

impl fmt::Display for DevlinkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bus, self.device)
    }
}

impl FromStr for DevlinkHandle {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = text.split_once('/').and_then(|(bus, device)| Some((bus.parse().ok()?, device.parse().ok()?)));
        parts.map(|(bus, device)| Self { bus, device }).ok_or_else(|| ParseError::new("a devlink handle", text))
    }
}

impl TryFrom<Bdf> for DevlinkHandle {
    type Error = ParseError;

    fn try_from(bdf: Bdf) -> Result<Self, ParseError> {
        format!("pci/{bdf}").parse()
    }
}

/// `DEVLINK_ATTR_PORT_INDEX`: a port of one device, as its driver counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(pub u32);

impl fmt::Display for PortIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

words! {
    /// `DEVLINK_ATTR_PORT_FLAVOUR`: what is behind a port, in devlink's words.
    Flavour, "a flavour of devlink ports",
    /// A connector.
    Physical = "physical",
    /// The host's own port of a switch.
    Cpu = "cpu",
    /// A port between switches.
    Dsa = "dsa",
    /// A physical function.
    PciPf = "pcipf",
    /// A virtual function.
    PciVf = "pcivf",
    /// A port without hardware.
    Virtual = "virtual",
    /// A connector that is not used.
    Unused = "unused",
    /// A subfunction.
    PciSf = "pcisf",
}

impl Flavour {
    /// `DEVLINK_PORT_FLAVOUR_…`, which count from 0 in the order of [`ALL`](Self::ALL).
    #[must_use]
    pub fn of_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

words! {
    /// `DEVLINK_ATTR_ESWITCH_MODE`.
    EswitchMode, "legacy, switchdev or switchdev_inactive",
    /// The PF forwards by address and VLAN; VFs are set by rtnetlink.
    Legacy = "legacy",
    /// Every function has a port; VFs are set at their ports.
    Switchdev = "switchdev",
    /// The same, and nothing is forwarded yet.
    SwitchdevInactive = "switchdev_inactive",
}

impl Serialize for EswitchMode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EswitchMode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl EswitchMode {
    /// `DEVLINK_ESWITCH_MODE_…`, which count from 0 in the order of [`ALL`](Self::ALL).
    #[must_use]
    pub fn of_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Legacy => 0,
            Self::Switchdev => 1,
            Self::SwitchdevInactive => 2,
        }
    }
}

words! {
    /// `DEVLINK_PORT_FN_ATTR_STATE`: what the function was told to be.
    PortState, "active or inactive",
    /// It is not to be seen.
    Inactive = "inactive",
    /// It is to be used.
    Active = "active",
}

words! {
    /// `DEVLINK_PORT_FN_ATTR_OPSTATE`: what the function is.
    PortOpstate, "attached or detached",
    /// No driver has it.
    Detached = "detached",
    /// A driver has it.
    Attached = "attached",
}

/// The function behind a port, as far as the driver reports it. `None` is "not reported", which is not "off".
///
/// # Kernel
/// `net/devlink/port.c` `devlink_nl_port_function_attrs_put()` (7.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortFunction {
    /// `DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR`, when it is an Ethernet one.
    pub hw_addr: Option<Mac>,
    /// `DEVLINK_PORT_FN_ATTR_STATE`.
    pub state: Option<PortState>,
    /// `DEVLINK_PORT_FN_ATTR_OPSTATE`.
    pub opstate: Option<PortOpstate>,
    /// `DEVLINK_PORT_FN_CAP_ROCE`.
    pub roce: Option<Switch>,
    /// `DEVLINK_PORT_FN_CAP_MIGRATABLE`, of VFs only.
    pub migratable: Option<Switch>,
    /// `DEVLINK_PORT_FN_CAP_IPSEC_CRYPTO`, of VFs only.
    pub ipsec_crypto: Option<Switch>,
    /// `DEVLINK_PORT_FN_CAP_IPSEC_PACKET`, of VFs only.
    pub ipsec_packet: Option<Switch>,
    /// `DEVLINK_PORT_FN_ATTR_MAX_IO_EQS`: how many event queues.
    pub max_io_eqs: Option<u32>,
}

impl PortFunction {
    /// What takes back what was set of a VF, as far as the driver tells of it and one that nobody has set had `fresh`. Its address
    /// is the one that rtnetlink sets; of a count of event queues no value is every driver's own.
    #[must_use]
    pub fn clearing(&self, fresh: &[PortSetting]) -> Vec<PortSetting> {
        let usual = [PortSetting::Roce(Switch::On), PortSetting::Migratable(Switch::Off)];
        let is_told = |to: &PortSetting| fresh.iter().any(|fresh| fresh.key() == to.key());
        let all = fresh.iter().copied().chain(usual.into_iter().filter(|to| !is_told(to)));
        all.filter(|to| to.told_by(self).is_some_and(|now| now != *to)).collect()
    }

    /// What of it drivers begin with differently, and a VF is to have again when it is given back.
    #[must_use]
    pub fn fresh(&self) -> Vec<PortSetting> {
        let all = [PortSetting::Roce(Switch::On), PortSetting::MaxIoEqs(0)];
        all.into_iter().filter_map(|to| to.told_by(self)).collect()
    }

    /// What a subfunction is to have again when it is made again, beside its state.
    #[must_use]
    pub fn kept(&self) -> Vec<PortSetting> {
        let hw_addr = self.hw_addr.filter(|mac| !mac.is_zero()).map(PortSetting::HwAddr);
        self.fresh().into_iter().chain(hw_addr).collect()
    }
}

/// A port. What its flavour has not got is `None`.
///
/// # Kernel
/// `net/devlink/port.c` `devlink_nl_port_fill()`, `devlink_nl_port_attrs_put()` (7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevlinkPort {
    /// `DEVLINK_ATTR_PORT_INDEX`.
    pub index: PortIndex,
    /// `DEVLINK_ATTR_PORT_FLAVOUR`; `None` when the driver gave none, or one that came after 7.2.
    pub flavour: Option<Flavour>,
    /// `DEVLINK_ATTR_PORT_CONTROLLER_NUMBER`: 0 is this host.
    pub controller: Option<u32>,
    /// `DEVLINK_ATTR_PORT_PCI_PF_NUMBER`.
    pub pf: Option<u16>,
    /// `DEVLINK_ATTR_PORT_PCI_VF_NUMBER`: the VF index.
    pub vf: Option<u16>,
    /// `DEVLINK_ATTR_PORT_PCI_SF_NUMBER`.
    pub sf: Option<u32>,
    /// `DEVLINK_ATTR_PORT_NETDEV_NAME`: the representor's.
    pub netdev: Option<NetdevName>,
    /// `DEVLINK_ATTR_PORT_NETDEV_IFINDEX`.
    pub ifindex: Option<u32>,
    /// `DEVLINK_ATTR_PORT_EXTERNAL`: whether another host has the function.
    pub external: Option<Switch>,
    /// `DEVLINK_ATTR_PORT_FUNCTION`; `None` when nothing is reported of it.
    pub function: Option<PortFunction>,
}

impl DevlinkPort {
    /// A port of which nothing is known.
    #[must_use]
    pub const fn new(index: PortIndex) -> Self {
        Self {
            index,
            flavour: None,
            controller: None,
            pf: None,
            vf: None,
            sf: None,
            netdev: None,
            ifindex: None,
            external: None,
            function: None,
        }
    }
}

/// One attribute of the function behind a port, and the value to set it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortSetting {
    /// `DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR`.
    HwAddr(Mac),
    /// `DEVLINK_PORT_FN_ATTR_STATE`.
    State(PortState),
    /// `DEVLINK_PORT_FN_CAP_ROCE`.
    Roce(Switch),
    /// `DEVLINK_PORT_FN_CAP_MIGRATABLE`.
    Migratable(Switch),
    /// `DEVLINK_PORT_FN_ATTR_MAX_IO_EQS`.
    MaxIoEqs(u32),
}

impl PortSetting {
    /// What the user calls the attribute: `hw-addr`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::HwAddr(_) => "hw-addr",
            Self::State(_) => "state",
            Self::Roce(_) => "roce",
            Self::Migratable(_) => "migratable",
            Self::MaxIoEqs(_) => "max-io-eqs",
        }
    }

    /// What the function has of the same attribute, where it is reported.
    #[must_use]
    pub fn told_by(self, function: &PortFunction) -> Option<Self> {
        Some(match self {
            Self::HwAddr(_) => Self::HwAddr(function.hw_addr?),
            Self::State(_) => Self::State(function.state?),
            Self::Roce(_) => Self::Roce(function.roce?),
            Self::Migratable(_) => Self::Migratable(function.migratable?),
            Self::MaxIoEqs(_) => Self::MaxIoEqs(function.max_io_eqs?),
        })
    }
}

impl Serialize for PortSetting {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSetting {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl FromStr for PortSetting {
    type Err = ParseError;

    /// Reads what [`Display`](fmt::Display) prints.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refused = || ParseError::new("an attribute of a port function", text);
        let (key, value) = text.split_once(' ').ok_or_else(refused)?;
        let able = || match value {
            "enable" => Ok(Switch::On),
            "disable" => Ok(Switch::Off),
            _ => Err(refused()),
        };
        Ok(match key {
            "hw_addr" => Self::HwAddr(value.parse()?),
            "state" => Self::State(value.parse()?),
            "roce" => Self::Roce(able()?),
            "migratable" => Self::Migratable(able()?),
            "max_io_eqs" => Self::MaxIoEqs(value.parse().map_err(|_| refused())?),
            _ => return Err(refused()),
        })
    }
}

impl fmt::Display for PortSetting {
    /// As `devlink port function set` has it: `hw_addr 52:54:00:12:34:56`, `migratable enable`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let able = |on: Switch| if on.is_on() { "enable" } else { "disable" };
        match *self {
            Self::HwAddr(mac) => write!(f, "hw_addr {mac}"),
            Self::State(state) => write!(f, "state {state}"),
            Self::Roce(on) => write!(f, "roce {}", able(on)),
            Self::Migratable(on) => write!(f, "migratable {}", able(on)),
            Self::MaxIoEqs(count) => write!(f, "max_io_eqs {count}"),
        }
    }
}

/// What devlink tells of a PF.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devlink {
    /// The mode of its eswitch, where it manages one.
    pub eswitch: Option<EswitchMode>,
    /// Its ports.
    pub ports: Vec<DevlinkPort>,
}

impl Devlink {
    /// How many of its ports are of subfunctions.
    #[must_use]
    pub fn subfunctions(&self) -> usize {
        self.ports.iter().filter(|port| port.flavour == Some(Flavour::PciSf)).count()
    }
}

/// What a VF has at its port that nobody has set, when none of the PF's has been: what the first of them has.
#[must_use]
pub fn fresh(ports: &[DevlinkPort]) -> Vec<PortSetting> {
    let function = Behind::Vf(0).port_in(ports).and_then(|port| port.function.as_ref());
    function.map(PortFunction::fresh).unwrap_or_default()
}

/// Whose port: a function of the PF that devlink knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behind {
    /// A VF, by its index.
    Vf(VfIndex),
    /// A subfunction, by its number.
    Sf(u32),
}

impl Behind {
    /// Its port among those of the PF: this host's, and not another's.
    #[must_use]
    pub fn port_in(self, ports: &[DevlinkPort]) -> Option<&DevlinkPort> {
        let own = |port: &&DevlinkPort| port.controller.unwrap_or(0) == 0 && port.external != Some(Switch::On);
        ports.iter().filter(own).find(|port| match self {
            Self::Vf(index) => port.flavour == Some(Flavour::PciVf) && port.vf == Some(index),
            Self::Sf(number) => port.flavour == Some(Flavour::PciSf) && port.sf == Some(number),
        })
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vf(index) => write!(f, "vf{index}"),
            Self::Sf(number) => write!(f, "sf{number}"),
        }
    }
}

/// `DEVLINK_ATTR_PORT_PCI_PF_NUMBER` of a PF's own functions: as its ports say, else the number of the function.
#[must_use]
pub fn pf_number(pf: Bdf, ports: &[DevlinkPort]) -> u16 {
    ports.iter().find_map(|port| port.pf).unwrap_or_else(|| u16::from(pf.function()))
}

/// A port to be made: `DEVLINK_CMD_PORT_NEW`. Drivers make ports of subfunctions only (7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortNew {
    /// `DEVLINK_ATTR_PORT_PCI_PF_NUMBER`: of the PF whose subfunction it is.
    pub pf: u16,
    /// `DEVLINK_ATTR_PORT_PCI_SF_NUMBER`: chosen by the user; no driver chooses for itself (7.2).
    pub sf: u32,
    /// `DEVLINK_ATTR_PORT_CONTROLLER_NUMBER`; `None` is this host's.
    pub controller: Option<u16>,
}

impl fmt::Display for PortNew {
    /// As `devlink port add` has it: `flavour pcisf pfnum 0 sfnum 88`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flavour {} pfnum {} sfnum {}", Flavour::PciSf, self.pf, self.sf)?;
        self.controller.map_or(Ok(()), |controller| write!(f, " controller {controller}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_handle_is_a_bus_and_a_device() {
        let pf: DevlinkHandle = "pci/0000:3b:00.0".parse().unwrap();
        assert_eq!((pf.bus().as_str(), pf.to_string().as_str()), ("pci", "pci/0000:3b:00.0"));
        assert_eq!(pf.bdf().map(DevlinkHandle::try_from), Some(Ok(pf)));
        assert_eq!("netdevsim/netdevsim1".parse::<DevlinkHandle>().unwrap().bdf(), None);
        for text in ["", "pci", "pci/", "/x", "pci/a/b", "../x", "pci/.."] {
            assert!(text.parse::<DevlinkHandle>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_and_words_agree() {
        for (number, mode) in (0..).zip(EswitchMode::ALL) {
            assert_eq!((mode.number(), EswitchMode::of_number(number)), (number, Some(*mode)));
            assert_eq!(mode.to_string().parse(), Ok(*mode));
        }
        for (number, word) in [(0, "physical"), (3, "pcipf"), (4, "pcivf"), (7, "pcisf")] {
            assert_eq!(Flavour::of_number(number).map(|flavour| flavour.to_string()).as_deref(), Some(word));
        }
        assert_eq!((Flavour::of_number(8), EswitchMode::of_number(3)), (None, None));
    }

    #[test]
    fn what_is_set_at_a_port_is_read_as_it_is_printed() {
        for setting in [
            PortSetting::HwAddr(Mac([2, 0, 0, 0, 0, 1])),
            PortSetting::State(PortState::Active),
            PortSetting::Roce(Switch::Off),
            PortSetting::Migratable(Switch::On),
            PortSetting::MaxIoEqs(32),
        ] {
            assert_eq!(setting.to_string().parse(), Ok(setting));
        }
        for text in ["", "roce", "roce on", "colour blue", "max_io_eqs -1"] {
            assert!(text.parse::<PortSetting>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_handle_panic(text in "\\PC{0,24}") {
            if let Ok(handle) = text.parse::<DevlinkHandle>() {
                prop_assert_eq!(handle.to_string(), text);
            }
        }
    }
}
