//! Subfunctions: a port made by devlink, set, and made active.

use std::collections::BTreeMap;

use super::parameters::{Assignment, Given, ParameterError, known, number};
use super::ports::{self, PortParameters};
use crate::model::devlink::{Behind, Devlink, EswitchMode, PortSetting, PortState, pf_number};
use crate::model::vf::Mac;
use crate::model::{Bdf, Target};
use crate::step::{Lane, Otherwise, Plan, Setting, SfOf, Step};

/// Every key that is accepted, with what it takes.
pub const KEYS: [(&str, &str); 5] = [
    ("sfnum", "a number; those of more than one count up"),
    ports::KEYS[0],
    ports::KEYS[1],
    ports::KEYS[2],
    ("state", "active or inactive"),
];

/// What is wanted of each PF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SfWish {
    /// The number of the first; without one those that are free from 1 on.
    pub sfnum: Option<u32>,
    /// How many.
    pub count: u16,
    /// What they are to have.
    pub parameters: PortParameters,
    /// Whether they are to be used at once.
    pub state: PortState,
}

/// Why no subfunction can be made or unmade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SfError {
    /// A key is wrong.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
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
    let mut wish = SfWish { sfnum: None, count, parameters: PortParameters::default(), state: PortState::Active };
    for given in known(all, &KEYS) {
        let given = given?;
        let Given { key, value, .. } = given;
        let bad = || given.bad();
        match key {
            "sfnum" => {
                let number: u32 = number(value).ok_or_else(bad)?;
                // The last one's number is a number too.
                number.checked_add(u32::from(count)).ok_or_else(bad)?;
                wish.sfnum = Some(number);
            }
            "state" => wish.state = value.parse().map_err(|_| bad())?,
            _ => wish.parameters.take(given)?,
        }
    }
    match wish.parameters.fixed() {
        Some(mac) if count > 1 => Err(SfError::OneAddress(mac)),
        _ => Ok(wish),
    }
}

/// Plans subfunctions on each of `pfs`, of a machine that is told from others by `machine`.
///
/// # Errors
/// [`SfError`].
pub fn subfunctions(
    pfs: &[Bdf],
    wish: &SfWish,
    known: &BTreeMap<Bdf, Devlink>,
    machine: &str,
) -> Result<Plan, SfError> {
    if let (Some(mac), 2..) = (wish.parameters.fixed(), pfs.len()) {
        return Err(SfError::OneAddress(mac));
    }
    let mut plan = Plan::default();
    for pf in pfs {
        let devlink = known.get(pf).ok_or(SfError::NoDevlink(*pf))?;
        if devlink.eswitch != Some(EswitchMode::Switchdev) {
            return Err(SfError::NotSwitchdev(*pf));
        }
        let is_taken = |sfnum: &u32| Behind::Sf(*sfnum).port_in(&devlink.ports).is_some();
        let count = usize::from(wish.count);
        let numbers: Vec<u32> = match wish.sfnum {
            Some(first) => (first..).take(count).collect(),
            None => (1..).filter(|sfnum| !is_taken(sfnum)).take(count).collect(),
        };
        if let Some(sfnum) = numbers.iter().copied().find(is_taken) {
            return Err(SfError::Taken { pf: *pf, sfnum });
        }
        let pfnum = pf_number(*pf, &devlink.ports);
        plan.lanes.extend(numbers.into_iter().map(|sfnum| Making { pf: *pf, sfnum, pfnum }.lane(wish, machine)));
    }
    plan.bond_all();
    Ok(plan)
}

/// A subfunction in the making.
struct Making {
    pf: Bdf,
    sfnum: u32,
    pfnum: u16,
}

impl Making {
    fn lane(&self, wish: &SfWish, machine: &str) -> Lane {
        let (pf, sfnum) = (self.pf, self.sfnum);
        let (device, behind) = (Target::Sf { pf, sfnum }, Behind::Sf(sfnum));
        let mut lane = Lane::new(device, Otherwise::LeaveWithout);
        lane.is_made = true;
        let of = SfOf { pfnum: self.pfnum, kept: Vec::new(), state: wish.state };
        let state = Setting::Port { pf, behind, to: PortSetting::State(wish.state) };
        let set = wish.parameters.settings(pf, behind, machine).into_iter();
        let all = std::iter::once(Setting::Sf(Some(of))).chain(set).chain([state]);
        lane.finish = all.map(|to| Step::Set { device, to }).collect();
        lane
    }
}

/// Plans the end of subfunctions. The driver of one lets it go before its port goes.
///
/// # Errors
/// [`SfError::NoSuch`].
pub fn unmake(all: &[(Bdf, u32)], known: &BTreeMap<Bdf, Devlink>, plan: &mut Plan) -> Result<(), SfError> {
    for (pf, sfnum) in all.iter().copied() {
        let (device, behind) = (Target::Sf { pf, sfnum }, Behind::Sf(sfnum));
        let there = known.get(&pf).and_then(|devlink| behind.port_in(&devlink.ports));
        there.ok_or(SfError::NoSuch { pf, sfnum })?;
        let mut lane = Lane::new(device, Otherwise::LeaveWithout);
        let inactive = Setting::Port { pf, behind, to: PortSetting::State(PortState::Inactive) };
        lane.finish = [inactive, Setting::Sf(None)].into_iter().map(|to| Step::Set { device, to }).collect();
        plan.lanes.push(lane);
    }
    Ok(())
}
