//! `--set` of what devlink keeps for a function at its port: of VFs and of subfunctions.

use super::parameters::{Given, MacWish, ParameterError, auto_mac, number};
use crate::model::Bdf;
use crate::model::devlink::{Behind, PortFunction, PortSetting};
use crate::model::vf::{Mac, Switch};
use crate::step::Setting;

/// Every key that is accepted, with what it takes.
pub const KEYS: [(&str, &str); 4] = [
    ("hw-addr", "a unicast MAC address, or auto; by devlink"),
    ("roce", "on or off; by devlink"),
    ("max-io-eqs", "a count of event queues; by devlink"),
    ("migratable", "on or off; by devlink"),
];

/// Everything that was asked of the functions behind ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortParameters {
    hw_addr: Option<MacWish>,
    others: Vec<PortSetting>,
}

impl PortParameters {
    /// Takes one of [`KEYS`].
    pub(super) fn take(&mut self, given: Given<'_>) -> Result<(), ParameterError> {
        let Given { key, value, .. } = given;
        let bad = || given.bad();
        let switch = || value.parse::<Switch>().map_err(|_| bad());
        match key {
            "hw-addr" if value == "auto" => self.hw_addr = Some(MacWish::Auto),
            "hw-addr" => {
                let mac = value.parse().ok().filter(|mac: &Mac| !mac.is_zero() && !mac.is_multicast());
                self.hw_addr = Some(MacWish::Fixed(mac.ok_or_else(bad)?));
            }
            "roce" => self.others.push(PortSetting::Roce(switch()?)),
            "migratable" => self.others.push(PortSetting::Migratable(switch()?)),
            _ => self.others.push(PortSetting::MaxIoEqs(number(value).ok_or_else(bad)?)),
        }
        Ok(())
    }

    /// Whether nothing was asked.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The one address, when one was given.
    pub(super) const fn fixed(&self) -> Option<Mac> {
        match self.hw_addr {
            Some(MacWish::Fixed(mac)) => Some(mac),
            _ => None,
        }
    }

    /// The first key, to name it in a refusal.
    #[must_use]
    pub fn first_key(&self) -> &'static str {
        if self.hw_addr.is_some() { "hw-addr" } else { self.others.first().map_or("hw-addr", |to| to.key()) }
    }

    /// The first key that the driver does not report of a function, and so has not got.
    #[must_use]
    pub fn unknown_to(&self, function: &PortFunction) -> Option<&'static str> {
        let hw_addr = self.hw_addr.map(|_| PortSetting::HwAddr(Mac([0; 6])));
        let mut all = hw_addr.into_iter().chain(self.others.iter().copied());
        all.find(|to| to.told_by(function).is_none()).map(PortSetting::key)
    }

    /// The settings of one function, in the order in which they are made.
    #[must_use]
    pub fn settings(&self, pf: Bdf, behind: Behind, machine: &str) -> Vec<Setting> {
        let hw_addr = self.hw_addr.map(|wish| match wish {
            MacWish::Fixed(mac) => mac,
            MacWish::Auto => match behind {
                Behind::Vf(index) => auto_mac(machine, pf, index),
                Behind::Sf(_) => auto_mac(machine, pf, behind),
            },
        });
        let all = self.others.iter().copied().chain(hw_addr.map(PortSetting::HwAddr));
        all.map(|to| Setting::Port { pf, behind, to }).collect()
    }
}
