//! What a PF's driver keeps for its VFs: hardware address, VLAN, rates, spoof check, trust, link state, GUIDs.
//!
//! These are the attributes of the rtnetlink message `RTM_SETLINK`, `IFLA_VFINFO_LIST`. They belong to the *PF's* driver and
//! not to the VF: they are there before a VF has a driver and stay when the VF changes hands, but go with the VF.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::ParseError;
use super::address::is_component;

/// The name of a network interface: 1 to 15 bytes, no blank, no `/`, no `:`.
///
/// # Kernel
/// `net/core/dev.c` `dev_valid_name()`, `IFNAMSIZ` 16 (7.2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetdevName(String);

impl NetdevName {
    /// The name as the kernel spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NetdevName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NetdevName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let good = is_component(text) && text.len() < 16 && !text.bytes().any(|b| b == b':' || b.is_ascii_whitespace());
        if good { Ok(Self(text.to_owned())) } else { Err(ParseError::new("the name of a network interface", text)) }
    }
}

/// Reads `N` bytes in hexadecimal with a colon between each two.
fn octets<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

fn colons(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        write!(f, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
    }
    Ok(())
}

/// An Ethernet address: `52:54:00:12:34:56`. Read in either case, printed in lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it names a group of hosts: no device may have it.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether it is all zero: for a VF, "not set", and the VF's own driver may choose.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// Whether somebody chose it, and no maker: it identifies no piece of hardware.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0[0] & 2 == 2
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        colons(&self.0, f)
    }
}

impl FromStr for Mac {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        octets(text).map(Self).ok_or_else(|| ParseError::new("a MAC address", text))
    }
}

/// An InfiniBand EUI-64: `00:11:22:33:44:55:66:77`. Read in either case, printed in lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 8]);

impl Guid {
    /// The number that rtnetlink carries, whose highest byte is the first.
    #[must_use]
    pub const fn number(self) -> u64 {
        u64::from_be_bytes(self.0)
    }
}

impl From<u64> for Guid {
    fn from(number: u64) -> Self {
        Self(number.to_be_bytes())
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        colons(&self.0, f)
    }
}

impl FromStr for Guid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        octets(text).map(Self).ok_or_else(|| ParseError::new("a GUID", text))
    }
}

/// A closed enum with one word for each value: printed, and read back.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::model::ParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::model::ParseError::new($what, text)),
                }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Something that is on or off.
    Switch, "on or off",
    /// It is not.
    Off = "off",
    /// It is.
    On = "on",
}

impl Switch {
    /// On when it holds.
    #[must_use]
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

words! {
    /// `IFLA_VF_LINK_STATE`: what a VF sees of the link.
    LinkState, "auto, enable or disable",
    /// That of the PF's port.
    Auto = "auto",
    /// Up, whatever the port's.
    Enable = "enable",
    /// Down, whatever the port's.
    Disable = "disable",
}

words! {
    /// The tag that a VLAN is written in.
    VlanProto, "802.1Q or 802.1ad",
    /// `ETH_P_8021Q`.
    Dot1Q = "802.1Q",
    /// `ETH_P_8021AD`: the outer of two tags.
    Dot1Ad = "802.1ad",
}

impl VlanProto {
    /// `ETH_P_…`.
    #[must_use]
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::Dot1Q => 0x8100,
            Self::Dot1Ad => 0x88a8,
        }
    }

    /// The tag of an ethertype.
    #[must_use]
    pub const fn of_ethertype(ethertype: u16) -> Option<Self> {
        match ethertype {
            0x8100 => Some(Self::Dot1Q),
            0x88a8 => Some(Self::Dot1Ad),
            _ => None,
        }
    }
}

/// The VLAN that the PF puts a VF in: `id 100 qos 3 proto 802.1Q`. Id 0 with QoS 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan {
    id: u16,
    qos: u8,
    proto: VlanProto,
}

impl Vlan {
    /// None: the VF tags as it likes.
    pub const NONE: Self = Self { id: 0, qos: 0, proto: VlanProto::Dot1Q };

    /// `None` unless the id is 0 to 4095 and the QoS 0 to 7.
    #[must_use]
    pub const fn new(id: u16, qos: u8, proto: VlanProto) -> Option<Self> {
        if id <= 4095 && qos <= 7 { Some(Self { id, qos, proto }) } else { None }
    }

    /// 0 to 4095.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.id
    }

    /// The priority, 0 to 7.
    #[must_use]
    pub const fn qos(self) -> u8 {
        self.qos
    }

    /// The tag.
    #[must_use]
    pub const fn proto(self) -> VlanProto {
        self.proto
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} qos {} proto {}", self.id, self.qos, self.proto)
    }
}

/// What the PF's driver reports of one VF. `None` is "not reported", which is not "off".
///
/// A driver that reports anything reports `mac`, `vlan`, both rates and `link_state`, whether or not it can set them: what it
/// has no idea of reads zero, none, 0 and `auto`.
///
/// # Kernel
/// `net/core/rtnetlink.c` `rtnl_fill_vfinfo()`: `spoofchk`, `rss_query_en` and `trusted` are -1 when the driver is silent; the
/// GUIDs come when it has `ndo_get_vf_guid` (7.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VfAttributes {
    /// `IFLA_VF_MAC`: the administrative address, zero when none was set.
    pub mac: Option<Mac>,
    /// `IFLA_VF_VLAN_LIST`, which has one entry (`MAX_VLAN_LIST_LEN`, 7.2), or `IFLA_VF_VLAN` of an older kernel.
    pub vlan: Option<Vlan>,
    /// `IFLA_VF_RATE`, `min_tx_rate`, in Mbit/s; 0 is no guarantee.
    pub min_tx_rate_mbps: Option<u32>,
    /// `IFLA_VF_RATE`, `max_tx_rate`, in Mbit/s; 0 is no limit.
    pub max_tx_rate_mbps: Option<u32>,
    /// `IFLA_VF_SPOOFCHK`.
    pub spoofchk: Option<Switch>,
    /// `IFLA_VF_TRUST`.
    pub trust: Option<Switch>,
    /// `IFLA_VF_LINK_STATE`.
    pub link_state: Option<LinkState>,
    /// `IFLA_VF_RSS_QUERY_EN`.
    pub rss_query_en: Option<Switch>,
    /// `IFLA_VF_IB_NODE_GUID`.
    pub node_guid: Option<Guid>,
    /// `IFLA_VF_IB_PORT_GUID`.
    pub port_guid: Option<Guid>,
}

impl VfAttributes {
    /// Whether somebody has set what a VF carries into a network: an address, or a VLAN.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.mac.is_some_and(|mac| !mac.is_zero()) || self.vlan.is_some_and(|vlan| vlan != Vlan::NONE)
    }

    /// What it carries into a network, in words: `mac 52:54:00:12:34:56`, `vlan 100`.
    #[must_use]
    pub fn identity(&self) -> Vec<String> {
        let mac = self.mac.filter(|mac| !mac.is_zero()).map(|mac| format!("mac {mac}"));
        let vlan = self.vlan.filter(|vlan| *vlan != Vlan::NONE).map(|vlan| format!("vlan {}", vlan.id()));
        mac.into_iter().chain(vlan).collect()
    }

    /// The same attribute as that of `like`, where the driver reports it.
    #[must_use]
    pub fn value_of(&self, like: &VfSetting) -> Option<VfSetting> {
        Some(match like {
            VfSetting::Mac(_) => VfSetting::Mac(self.mac?),
            VfSetting::Vlan(_) => VfSetting::Vlan(self.vlan?),
            VfSetting::Rate { .. } => {
                VfSetting::Rate { min_mbps: self.min_tx_rate_mbps?, max_mbps: self.max_tx_rate_mbps? }
            }
            VfSetting::Spoofchk(_) => VfSetting::Spoofchk(self.spoofchk?),
            VfSetting::Trust(_) => VfSetting::Trust(self.trust?),
            VfSetting::LinkState(_) => VfSetting::LinkState(self.link_state?),
            VfSetting::RssQueryEn(_) => VfSetting::RssQueryEn(self.rss_query_en?),
            VfSetting::NodeGuid(_) => VfSetting::NodeGuid(self.node_guid?),
            VfSetting::PortGuid(_) => VfSetting::PortGuid(self.port_guid?),
        })
    }

    /// What takes back all that is set but `spoofchk`, which drivers begin with on or off.
    #[must_use]
    pub fn clearing(&self) -> Vec<VfSetting> {
        let rate = self.min_tx_rate_mbps.zip(self.max_tx_rate_mbps);
        let set = [
            self.vlan.map(VfSetting::Vlan),
            rate.map(|(min_mbps, max_mbps)| VfSetting::Rate { min_mbps, max_mbps }),
            self.trust.map(VfSetting::Trust),
            self.link_state.map(VfSetting::LinkState),
            self.rss_query_en.map(VfSetting::RssQueryEn),
            self.mac.map(VfSetting::Mac),
        ];
        set.into_iter().flatten().filter(|set| *set != set.unset()).map(VfSetting::unset).collect()
    }
}

/// What a PF's driver keeps for a VF, beside what the VF's own driver goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VfFacts {
    /// What the PF's driver reports.
    pub kept: VfAttributes,
    /// The address of the VF's own network interface, when its driver has made one.
    pub own: Option<Mac>,
    /// Whether it may be migrated, by its devlink port; asked where a variant for it looks at it.
    pub migratable: Option<Switch>,
}

/// What was reported of a PF's VFs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VfList {
    /// `IFLA_NUM_VF`: how many VFs the PF has.
    pub total: u32,
    /// Those that the kernel reported, by index.
    pub vfs: BTreeMap<u16, VfAttributes>,
}

impl VfList {
    /// Whether every VF was reported.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        usize::try_from(self.total).is_ok_and(|total| total == self.vfs.len())
    }
}

/// One attribute of a VF, and the value to set it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VfSetting {
    /// `IFLA_VF_MAC`. Zero takes it back.
    Mac(Mac),
    /// `IFLA_VF_VLAN_LIST`. [`Vlan::NONE`] takes it back.
    Vlan(Vlan),
    /// `IFLA_VF_RATE`, both in Mbit/s: one request sets both, and 0 takes it back.
    Rate {
        /// What is guaranteed.
        min_mbps: u32,
        /// What is not exceeded.
        max_mbps: u32,
    },
    /// `IFLA_VF_SPOOFCHK`.
    Spoofchk(Switch),
    /// `IFLA_VF_TRUST`.
    Trust(Switch),
    /// `IFLA_VF_LINK_STATE`.
    LinkState(LinkState),
    /// `IFLA_VF_RSS_QUERY_EN`.
    RssQueryEn(Switch),
    /// `IFLA_VF_IB_NODE_GUID`.
    NodeGuid(Guid),
    /// `IFLA_VF_IB_PORT_GUID`.
    PortGuid(Guid),
}

impl VfSetting {
    /// The same attribute as it is on a VF that nobody has set: what takes a setting back.
    #[must_use]
    pub const fn unset(self) -> Self {
        match self {
            Self::Mac(_) => Self::Mac(Mac([0; 6])),
            Self::Vlan(_) => Self::Vlan(Vlan::NONE),
            Self::Rate { .. } => Self::Rate { min_mbps: 0, max_mbps: 0 },
            Self::Spoofchk(_) => Self::Spoofchk(Switch::On),
            Self::Trust(_) => Self::Trust(Switch::Off),
            Self::LinkState(_) => Self::LinkState(LinkState::Auto),
            Self::RssQueryEn(_) => Self::RssQueryEn(Switch::Off),
            Self::NodeGuid(_) => Self::NodeGuid(Guid([0; 8])),
            Self::PortGuid(_) => Self::PortGuid(Guid([0; 8])),
        }
    }
}

impl FromStr for VfSetting {
    type Err = ParseError;

    /// Reads what [`Display`](fmt::Display) prints.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let read = || {
            Some(match text.split(' ').collect::<Vec<_>>()[..] {
                ["mac", mac] => Self::Mac(mac.parse().ok()?),
                ["vlan", id, "qos", qos, "proto", proto] => {
                    Self::Vlan(Vlan::new(id.parse().ok()?, qos.parse().ok()?, proto.parse().ok()?)?)
                }
                ["min_tx_rate", min, "max_tx_rate", max] => {
                    Self::Rate { min_mbps: min.parse().ok()?, max_mbps: max.parse().ok()? }
                }
                ["spoofchk", on] => Self::Spoofchk(on.parse().ok()?),
                ["trust", on] => Self::Trust(on.parse().ok()?),
                ["state", state] => Self::LinkState(state.parse().ok()?),
                ["query_rss", on] => Self::RssQueryEn(on.parse().ok()?),
                ["node_guid", guid] => Self::NodeGuid(guid.parse().ok()?),
                ["port_guid", guid] => Self::PortGuid(guid.parse().ok()?),
                _ => return None,
            })
        };
        read().ok_or_else(|| ParseError::new("an attribute of a VF", text))
    }
}

impl fmt::Display for VfSetting {
    /// As `ip link set … vf N` has it: `mac 52:54:00:12:34:56`, `min_tx_rate 0 max_tx_rate 100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "mac {mac}"),
            Self::Vlan(vlan) => write!(f, "vlan {vlan}"),
            Self::Rate { min_mbps, max_mbps } => write!(f, "min_tx_rate {min_mbps} max_tx_rate {max_mbps}"),
            Self::Spoofchk(on) => write!(f, "spoofchk {on}"),
            Self::Trust(on) => write!(f, "trust {on}"),
            Self::LinkState(state) => write!(f, "state {state}"),
            Self::RssQueryEn(on) => write!(f, "query_rss {on}"),
            Self::NodeGuid(guid) => write!(f, "node_guid {guid}"),
            Self::PortGuid(guid) => write!(f, "port_guid {guid}"),
        }
    }
}

#[cfg(test)]
mod tests;
