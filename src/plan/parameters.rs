//! `--set key=value`: what a VF is to have before its driver looks.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::ports::{self, PortParameters};
use crate::model::devlink::{Behind, EswitchMode};
use crate::model::vf::{Guid, LinkState, Mac, Switch, VfSetting, Vlan, VlanProto};
use crate::model::{Bdf, ParseError, VfIndex};
use crate::step::Setting;

/// Every key that is accepted, with what it takes.
pub const KEYS: [(&str, &str); 17] = [
    ("mac", "a MAC address, or auto"),
    ("vlan", "0 to 4094; 0 is none"),
    ("qos", "0 to 7, with vlan"),
    ("proto", "802.1Q or 802.1ad, with vlan"),
    ("min-rate", "Mbit/s; 0 is no guarantee"),
    ("max-rate", "Mbit/s; 0 is no limit"),
    ("spoofchk", "on or off"),
    ("trust", "on or off"),
    ("link-state", "auto, enable or disable"),
    ("node-guid", "8 bytes with colons"),
    ("port-guid", "8 bytes with colons"),
    ("msix", "a count of MSI-X vectors; 0 is the driver's own choice"),
    ports::KEYS[0],
    ports::KEYS[1],
    ports::KEYS[2],
    ports::KEYS[3],
    ("eswitch", "legacy or switchdev; of a PF that has no VFs yet"),
];

/// One `key=value` as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The key.
    pub key: String,
    /// The value, which may hold `=`.
    pub value: String,
}

impl std::str::FromStr for Assignment {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            _ => Err(ParseError::new("key=value", text)),
        }
    }
}

/// Which MAC a VF is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacWish {
    /// This one.
    Fixed(Mac),
    /// One of its own, the same each time.
    Auto,
}

/// Everything that was asked of the VFs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    mac: Option<MacWish>,
    vlan: Option<Vlan>,
    rate: Option<(u32, u32)>,
    others: Vec<VfSetting>,
    msix: Option<u32>,
    port: PortParameters,
    eswitch: Option<EswitchMode>,
    /// The keys and their values, in the order they were given.
    given: Vec<(&'static str, String)>,
}

/// Why an assignment is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// No such key.
    #[error("there is no parameter {0}")]
    UnknownKey(String),
    /// Given twice.
    #[error("parameter {0} is given twice")]
    Twice(String),
    /// No value of the key.
    #[error("{key}={value}: {key} takes {takes}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        takes: &'static str,
    },
    /// A MAC that no device may have.
    #[error("mac={0}: a VF's address is neither zero nor multicast")]
    BadMac(Mac),
    /// One address for several VFs.
    #[error("{key}={mac} is one address, and several VFs are asked for")]
    OneMac {
        /// The key.
        key: &'static str,
        /// The address.
        mac: Mac,
    },
    /// One address by two ways.
    #[error("mac and hw-addr are the same address, by rtnetlink and by devlink")]
    TwoAddresses,
    /// What means nothing without a VLAN.
    #[error("{0} goes with vlan")]
    NeedsVlan(&'static str),
    /// A guarantee above the limit.
    #[error("min-rate={min} is more than max-rate={max}")]
    Rates {
        /// What is guaranteed, in Mbit/s.
        min: u32,
        /// The limit.
        max: u32,
    },
}

/// Reads assignments in any order.
///
/// # Errors
/// [`ParameterError`] names the first that is not taken.
pub fn parse(all: &[Assignment]) -> Result<Parameters, ParameterError> {
    let mut found = Parameters::default();
    let (mut id, mut qos, mut proto, mut min, mut max) = (None, None, None, None, None);
    for given in known(all, &KEYS) {
        let given = given?;
        let Given { key, value, .. } = given;
        found.given.push((key, value.to_owned()));
        let bad = || given.bad();
        match key {
            "mac" if value == "auto" => found.mac = Some(MacWish::Auto),
            "mac" => {
                let mac: Mac = value.parse().map_err(|_| bad())?;
                if mac.is_zero() || mac.is_multicast() {
                    return Err(ParameterError::BadMac(mac));
                }
                found.mac = Some(MacWish::Fixed(mac));
            }
            "vlan" => id = Some(number(value).filter(|id| *id <= 4094).ok_or_else(bad)?),
            "qos" => qos = Some(number(value).filter(|qos| *qos <= 7).ok_or_else(bad)?),
            "proto" => proto = Some(value.parse::<VlanProto>().map_err(|_| bad())?),
            "min-rate" => min = Some(number(value).ok_or_else(bad)?),
            "max-rate" => max = Some(number(value).ok_or_else(bad)?),
            "spoofchk" => found.others.push(VfSetting::Spoofchk(value.parse::<Switch>().map_err(|_| bad())?)),
            "trust" => found.others.push(VfSetting::Trust(value.parse::<Switch>().map_err(|_| bad())?)),
            "link-state" => found.others.push(VfSetting::LinkState(value.parse::<LinkState>().map_err(|_| bad())?)),
            "node-guid" => found.others.push(VfSetting::NodeGuid(value.parse::<Guid>().map_err(|_| bad())?)),
            "port-guid" => found.others.push(VfSetting::PortGuid(value.parse::<Guid>().map_err(|_| bad())?)),
            "msix" => found.msix = Some(number(value).filter(|count| *count <= 2048).ok_or_else(bad)?),
            "eswitch" => {
                let mode = value.parse().ok().filter(|mode| *mode != EswitchMode::SwitchdevInactive);
                found.eswitch = Some(mode.ok_or_else(bad)?);
            }
            _ => found.port.take(given)?,
        }
    }
    if found.keys().any(|key| key == "mac") && found.keys().any(|key| key == "hw-addr") {
        return Err(ParameterError::TwoAddresses);
    }
    found.vlan = vlan(id, qos, proto)?;
    if min.is_some() || max.is_some() {
        let (min, max) = (min.unwrap_or(0), max.unwrap_or(0));
        if max > 0 && min > max {
            return Err(ParameterError::Rates { min, max });
        }
        found.rate = Some((min, max));
    }
    Ok(found)
}

/// Digits alone: no sign.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// An assignment to a key that is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) key: &'static str,
    takes: &'static str,
    pub(super) value: &'a str,
}

impl Given<'_> {
    /// That the value is none of the key.
    pub(super) fn bad(self) -> ParameterError {
        ParameterError::BadValue { key: self.key, value: self.value.to_owned(), takes: self.takes }
    }
}

/// Assignments one after the other, each to one of `keys` and none to one twice.
pub(super) fn known<'a>(
    all: &'a [Assignment],
    keys: &'a [(&'static str, &'static str)],
) -> impl Iterator<Item = Result<Given<'a>, ParameterError>> {
    let mut seen = BTreeSet::new();
    all.iter().map(move |Assignment { key, value }| {
        let known = keys.iter().find(|(known, _)| known == key);
        let (key, takes) = *known.ok_or_else(|| ParameterError::UnknownKey(key.clone()))?;
        if seen.insert(key) { Ok(Given { key, takes, value }) } else { Err(ParameterError::Twice(key.to_owned())) }
    })
}

fn vlan(id: Option<u32>, qos: Option<u32>, proto: Option<VlanProto>) -> Result<Option<Vlan>, ParameterError> {
    let Some(id) = id else {
        return match (qos, proto) {
            (None, None) => Ok(None),
            (Some(_), _) => Err(ParameterError::NeedsVlan("qos")),
            (None, Some(_)) => Err(ParameterError::NeedsVlan("proto")),
        };
    };
    let (id, qos) = (u16::try_from(id).unwrap_or(u16::MAX), u8::try_from(qos.unwrap_or(0)).unwrap_or(u8::MAX));
    Ok(Vlan::new(id, qos, proto.unwrap_or(VlanProto::Dot1Q)))
}

impl Parameters {
    /// Whether nothing was asked.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.given.iter().map(|(key, _)| *key)
    }

    /// What a vendor's tool is told of one VF: `key=value` as they were given, with its own address in the place of `auto`.
    #[must_use]
    pub fn words(&self, pf: Bdf, index: VfIndex, machine: &str) -> String {
        let word = |(key, value): &(&str, String)| match (*key, value.as_str()) {
            ("mac" | "hw-addr", "auto") => format!("{key}={}", auto_mac(machine, pf, index)),
            (key, value) => format!("{key}={value}"),
        };
        self.given.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    /// The first key that was given, to name it in a refusal.
    #[must_use]
    pub fn first_key(&self) -> Option<&'static str> {
        self.keys().next()
    }

    /// The first key that is set by rtnetlink, and so needs the PF's network interface.
    #[must_use]
    pub fn first_netdev_key(&self) -> Option<&'static str> {
        let is_elsewhere =
            |key: &str| matches!(key, "msix" | "eswitch") || ports::KEYS.iter().any(|(port, _)| *port == key);
        self.keys().find(|key| !is_elsewhere(key))
    }

    /// Whether something is asked of devlink.
    #[must_use]
    pub fn needs_devlink(&self) -> bool {
        !self.port.is_none() || self.eswitch.is_some()
    }

    /// Whether it can be set on so many VFs.
    ///
    /// # Errors
    /// [`ParameterError::OneMac`].
    pub fn fits(&self, vfs: usize) -> Result<(), ParameterError> {
        let fixed = match (self.mac, self.port.fixed()) {
            (Some(MacWish::Fixed(mac)), _) => Some(("mac", mac)),
            (_, fixed) => fixed.map(|mac| ("hw-addr", mac)),
        };
        match fixed {
            Some((key, mac)) if vfs > 1 => Err(ParameterError::OneMac { key, mac }),
            _ => Ok(()),
        }
    }

    /// What is set at the ports of the VFs.
    #[must_use]
    pub const fn port(&self) -> &PortParameters {
        &self.port
    }

    /// The count of MSI-X vectors that the VFs are to have, when it is not the driver's own.
    #[must_use]
    pub fn msix(&self) -> Option<u32> {
        self.msix.filter(|count| *count > 0)
    }

    /// The mode that the PF's eswitch is to be in.
    #[must_use]
    pub const fn eswitch(&self) -> Option<EswitchMode> {
        self.eswitch
    }

    /// The settings of one VF, in the order in which they are made. VLAN and trust come before the address: some drivers
    /// take a change of either as a reason to reset the VF.
    #[must_use]
    pub fn settings(&self, pf: Bdf, index: VfIndex, machine: &str) -> Vec<Setting> {
        let mac = self.mac.map(|wish| match wish {
            MacWish::Fixed(mac) => mac,
            MacWish::Auto => auto_mac(machine, pf, index),
        });
        let rate = self.rate.map(|(min_mbps, max_mbps)| VfSetting::Rate { min_mbps, max_mbps });
        let vf = self.vlan.map(VfSetting::Vlan).into_iter().chain(rate).chain(self.others.iter().copied());
        let vf = vf.chain(mac.map(VfSetting::Mac)).map(|to| Setting::Vf { pf, index, to });
        let port = self.port.settings(pf, Behind::Vf(index), machine);
        self.msix.map(Setting::MsixCount).into_iter().chain(vf).chain(port).collect()
    }
}

/// A locally administered unicast address that a function of this machine has each time, and no other: FNV-1a of the machine's
/// id, the PF and the index of a VF, or the `sfN` of a subfunction.
pub(super) fn auto_mac(machine: &str, pf: Bdf, of: impl fmt::Display) -> Mac {
    let text = format!("{machine} {pf} {of}");
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let [.., a, b, c, d, e, f] = (hash ^ hash >> 48).to_be_bytes();
    Mac([a & 0xfc | 0x02, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Parameters, ParameterError> {
        let all: Vec<Assignment> = text.split(' ').map(|word| word.parse().unwrap()).collect();
        parse(&all)
    }

    fn said(text: &str) -> String {
        parsed(text).unwrap_err().to_string()
    }

    #[test]
    fn settings_come_out_as_ip_has_them() {
        let pf: Bdf = "0000:01:00.0".parse().unwrap();
        let all = parsed("mac=02:AB:00:00:00:01 qos=3 vlan=100 max-rate=50 trust=on msix=8").unwrap();
        let words: Vec<String> = all.settings(pf, 2, "m").iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "8 MSI-X vectors",
                "vf 2 vlan 100 qos 3 proto 802.1Q",
                "vf 2 min_tx_rate 0 max_tx_rate 50",
                "vf 2 trust on",
                "vf 2 mac 02:ab:00:00:00:01"
            ]
        );
        assert!(all.fits(1).is_ok() && all.fits(2).is_err());
        let auto = parsed("vlan=100 mac=auto").unwrap();
        let told = auto.words(pf, 2, "m");
        assert_eq!(told, format!("vlan=100 mac={}", auto_mac("m", pf, 2)));
    }

    #[test]
    fn a_refusal_names_a_key_that_was_given() {
        let keys = |text| {
            let all = parsed(text).unwrap();
            (all.first_key(), all.first_netdev_key())
        };
        assert_eq!(keys("msix=4"), (Some("msix"), None));
        assert_eq!(keys("eswitch=switchdev migratable=on"), (Some("eswitch"), None));
        assert_eq!(keys("msix=4 min-rate=10 mac=auto"), (Some("msix"), Some("min-rate")));
        assert_eq!(keys("link-state=auto spoofchk=on"), (Some("link-state"), Some("link-state")));
        assert_eq!((Parameters::default().first_key(), Parameters::default().first_netdev_key()), (None, None));
    }

    #[test]
    fn an_address_of_its_own_is_the_same_each_time_and_nobody_elses() {
        let all = parsed("mac=auto").unwrap();
        let mut macs = BTreeSet::new();
        for pf in ["0000:01:00.0", "0000:02:00.0"] {
            for index in 0..200 {
                let of = |machine| match all.settings(pf.parse().unwrap(), index, machine)[..] {
                    [Setting::Vf { to: VfSetting::Mac(mac), .. }] => mac,
                    _ => panic!("one address"),
                };
                let mac = of("m");
                assert_eq!(mac, of("m"));
                assert_ne!(mac, of("n"));
                assert!(mac.is_local() && !mac.is_multicast() && !mac.is_zero());
                assert!(macs.insert(mac), "{mac} twice");
            }
        }
        assert!(all.fits(400).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(said("colour=blue"), "there is no parameter colour");
        assert_eq!(said("vlan=4095"), "vlan=4095: vlan takes 0 to 4094; 0 is none");
        assert_eq!(said("vlan=+1"), "vlan=+1: vlan takes 0 to 4094; 0 is none");
        assert_eq!(
            said("mac=01:00:00:00:00:01"),
            "mac=01:00:00:00:00:01: a VF's address is neither zero nor multicast"
        );
        assert_eq!(
            said("mac=00:00:00:00:00:00"),
            "mac=00:00:00:00:00:00: a VF's address is neither zero nor multicast"
        );
        assert_eq!(said("mac=auto hw-addr=auto"), "mac and hw-addr are the same address, by rtnetlink and by devlink");
        assert_eq!(
            said("eswitch=switchdev_inactive"),
            "eswitch=switchdev_inactive: eswitch takes legacy or switchdev; of a PF that has no VFs yet"
        );
        assert_eq!(said("migratable=yes"), "migratable=yes: migratable takes on or off; by devlink");
        assert_eq!(said("qos=1"), "qos goes with vlan");
        assert_eq!(said("trust=on trust=off"), "parameter trust is given twice");
        assert_eq!(said("min-rate=10 max-rate=5"), "min-rate=10 is more than max-rate=5");
        assert!("novalue".parse::<Assignment>().is_err());
    }
}
