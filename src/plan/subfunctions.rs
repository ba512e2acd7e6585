//! Subfunctions: a port made by devlink, set, and made active.

use std::collections::BTreeMap;

use super::parameters::{Assignment, ParameterError};
use crate::model::devlink::{Behind, DevlinkPort, EswitchMode, PortSetting, PortState, pf_number};
use crate::model::vf::Mac;
use crate::model::{Bdf, Target};
use crate::step::{Lane, Otherwise, Plan, Setting, SfOf, Step};

/// Every key that is accepted, with what it takes.
pub const KEYS: [(&str, &str); 2] =
    [("sfnum", "a number; those of more than one count up"), ("hw-addr", "a MAC address")];

/// What devlink tells of a PF; `None` where it does not know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devlink {
    /// The mode of its eswitch, where it has one.
    pub eswitch: Option<EswitchMode>,
    /// Its ports.
    pub ports: Vec<DevlinkPort>,
}

/// What is wanted of each PF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SfWish {
    /// The number of the first.
    pub sfnum: u32,
    /// How many.
    pub count: u16,
    /// Its address; without one the driver gives it one.
    pub hw_addr: Option<Mac>,
}

/// Why no subfunction can be made or unmade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SfError {
    /// A key is wrong.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The key that is needed is not there.
    #[error("a subfunction has a number, which no driver chooses")]
    NoNumber,
    /// One address for several.
    #[error("hw-addr={0} is one address, and several subfunctions are asked for")]
    OneAddress(Mac),
    /// devlink does not know the PF.
    #[error("devlink does not know {0}: its driver makes no subfunctions")]
    NoDevlink(Bdf),
    /// Not in mode switchdev.
    #[error("the eswitch of {0} is not in mode switchdev, and there are subfunctions in no other")]
    NotSwitchdev(Bdf),
    /// The number is taken.
    #[error("{pf} has a subfunction {sfnum} already")]
    Taken {
        /// The PF.
        pf: Bdf,
        /// The number.
        sfnum: u32,
    },
    /// None of that number.
    #[error("{pf} has no subfunction {sfnum}")]
    NoSuch {
        /// The PF.
        pf: Bdf,
        /// The number.
        sfnum: u32,
    },
}

/// Reads `--set` and `--count`.
///
/// # Errors
/// [`SfError`].
pub fn parse(all: &[Assignment], count: u16) -> Result<SfWish, SfError> {
    let (mut sfnum, mut hw_addr) = (None, None);
    for Assignment { key, value } in all {
        let known = KEYS.iter().find(|(known, _)| known == key);
        let (key, takes) = *known.ok_or_else(|| ParameterError::UnknownKey(key.clone()))?;
        let bad = || ParameterError::BadValue { key, value: value.clone(), takes };
        let twice = match key {
            "sfnum" => {
                let digits = value.bytes().all(|b| b.is_ascii_digit());
                let number = digits.then(|| value.parse::<u32>().ok()).flatten().ok_or_else(bad)?;
                // The last one's number is a number too.
                number.checked_add(u32::from(count)).ok_or_else(bad)?;
                sfnum.replace(number).is_some()
            }
            _ => {
                let mac: Mac = value.parse().map_err(|_| bad())?;
                if mac.is_zero() || mac.is_multicast() {
                    return Err(bad().into());
                }
                hw_addr.replace(mac).is_some()
            }
        };
        if twice {
            return Err(ParameterError::Twice(key.to_owned()).into());
        }
    }
    match (sfnum, hw_addr) {
        (None, _) => Err(SfError::NoNumber),
        (_, Some(mac)) if count > 1 => Err(SfError::OneAddress(mac)),
        (Some(sfnum), hw_addr) => Ok(SfWish { sfnum, count, hw_addr }),
    }
}

/// Plans subfunctions on each of `pfs`.
///
/// # Errors
/// [`SfError`].
pub fn subfunctions(pfs: &[Bdf], wish: SfWish, known: &BTreeMap<Bdf, Devlink>) -> Result<Plan, SfError> {
    let mut plan = Plan::default();
    for pf in pfs {
        let devlink = known.get(pf).ok_or(SfError::NoDevlink(*pf))?;
        if devlink.eswitch != Some(EswitchMode::Switchdev) {
            return Err(SfError::NotSwitchdev(*pf));
        }
        if let (Some(mac), 2..) = (wish.hw_addr, pfs.len()) {
            return Err(SfError::OneAddress(mac));
        }
        for sfnum in wish.sfnum..wish.sfnum + u32::from(wish.count) {
            if Behind::Sf(sfnum).port_in(&devlink.ports).is_some() {
                return Err(SfError::Taken { pf: *pf, sfnum });
            }
            plan.lanes.push(making(*pf, sfnum, (wish.hw_addr, pf_number(*pf, &devlink.ports))));
        }
    }
    plan.bond_all();
    Ok(plan)
}

fn making(pf: Bdf, sfnum: u32, (hw_addr, pfnum): (Option<Mac>, u16)) -> Lane {
    let device = Target::Sf { pf, sfnum };
    let behind = Behind::Sf(sfnum);
    let mut lane = Lane::new(device, Otherwise::LeaveWithout);
    lane.is_made = true;
    let mut set = |to| lane.finish.push(Step::Set { device, to });
    set(Setting::Sf(Some(SfOf { pfnum, hw_addr, state: PortState::Active })));
    if let Some(mac) = hw_addr {
        set(Setting::Port { pf, behind, to: PortSetting::HwAddr(mac) });
    }
    set(Setting::Port { pf, behind, to: PortSetting::State(PortState::Active) });
    lane
}

/// The end of a subfunction. Its driver lets it go before its port goes.
///
/// # Errors
/// [`SfError::NoSuch`].
pub fn unmake(pf: Bdf, sfnum: u32, known: &BTreeMap<Bdf, Devlink>) -> Result<Lane, SfError> {
    let there = known.get(&pf).and_then(|devlink| Behind::Sf(sfnum).port_in(&devlink.ports));
    there.ok_or(SfError::NoSuch { pf, sfnum })?;
    let device = Target::Sf { pf, sfnum };
    let mut lane = Lane::new(device, Otherwise::LeaveWithout);
    let inactive = PortSetting::State(PortState::Inactive);
    lane.finish.push(Step::Set { device, to: Setting::Port { pf, behind: Behind::Sf(sfnum), to: inactive } });
    lane.finish.push(Step::Set { device, to: Setting::Sf(None) });
    Ok(lane)
}
