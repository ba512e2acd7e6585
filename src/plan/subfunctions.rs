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
    /// Whether that was given.
    pub is_state_given: bool,
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
    /// What its driver does not report it has not got.
    #[error("what {pf}/sf{sfnum} has of {key} is not reported: the driver has not got it")]
    Untold {
        /// The PF.
        pf: Bdf,
        /// The number.
        sfnum: u32,
        /// The key of `--set`.
        key: &'static str,
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
    let mut wish = SfWish {
        sfnum: None,
        count,
        parameters: PortParameters::default(),
        state: PortState::Active,
        is_state_given: false,
    };
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
            "state" => {
                wish.state = value.parse().map_err(|_| bad())?;
                wish.is_state_given = true;
            }
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

/// What is different about a subfunction that is there, from and to, of all that was asked; `None` when there is none.
///
/// # Errors
/// [`SfError::NoDevlink`], [`SfError::Untold`].
pub fn differences(
    (pf, sfnum): (Bdf, u32),
    wish: &SfWish,
    known: &BTreeMap<Bdf, Devlink>,
    machine: &str,
) -> Result<Option<Vec<(PortSetting, PortSetting)>>, SfError> {
    let devlink = known.get(&pf).ok_or(SfError::NoDevlink(pf))?;
    let behind = Behind::Sf(sfnum);
    let Some(port) = behind.port_in(&devlink.ports) else { return Ok(None) };
    let function = port.function.clone().unwrap_or_default();
    let settings = wish.parameters.settings(pf, behind, machine).into_iter().filter_map(|to| match to {
        Setting::Port { to, .. } => Some(to),
        _ => None,
    });
    let state = wish.is_state_given.then_some(PortSetting::State(wish.state));
    let mut all = Vec::new();
    for to in settings.chain(state) {
        let now = to.told_by(&function).ok_or(SfError::Untold { pf, sfnum, key: to.key() })?;
        if now != to {
            all.push((now, to));
        }
    }
    Ok(Some(all))
}

/// Plans what brings a subfunction that is there to what is different. One that is active is not while it is set, for its driver looks
/// once.
#[must_use]
pub fn set(
    (pf, sfnum): (Bdf, u32),
    differences: &[(PortSetting, PortSetting)],
    known: &BTreeMap<Bdf, Devlink>,
) -> (Lane, Comes) {
    let (device, behind) = (Target::Sf { pf, sfnum }, Behind::Sf(sfnum));
    let mut lane = Lane::new(device, Otherwise::LeaveWithout);
    let port = known.get(&pf).and_then(|devlink| behind.port_in(&devlink.ports));
    let is_active = port.and_then(|port| port.function.as_ref()?.state) == Some(PortState::Active);
    let is_state = |to: &PortSetting| matches!(to, PortSetting::State(_));
    let mut steps: Vec<PortSetting> = differences.iter().map(|(_, to)| *to).filter(|to| !is_state(to)).collect();
    let state = differences.iter().map(|(_, to)| *to).find(is_state);
    let comes = if is_active && !steps.is_empty() && state.is_none() { Comes::Back } else { Comes::Not };
    if is_active && !steps.is_empty() {
        steps.insert(0, PortSetting::State(PortState::Inactive));
    }
    steps.extend(state.or((comes == Comes::Back).then_some(PortSetting::State(PortState::Active))));
    lane.finish = steps.into_iter().map(|to| Step::Set { device, to: Setting::Port { pf, behind, to } }).collect();
    (lane, comes)
}

/// Whether the auxiliary device of a subfunction goes and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comes {
    /// With what it carries: its network interface is another.
    Back,
    /// It stays, or goes because that was asked.
    Not,
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
