//! One device's way through its attempts, a step at a time, and back.

use std::time::Duration;

use super::act::{Act, Seen, act, act_after, gone, refuse_open};
use super::hands::{Hands, Way};
use super::result::{LaneResult, Tried};
use super::{Pending, State, StepError, childless_binding, place, setting, state};
use crate::host::{HostError, HostPath, Links, Read, Verb, optional};
use crate::model::{Bdf, DriverName, Errno, Target, counted};
use crate::step::{Attempt, Lane, Otherwise, Setting, Step, Undo, Unsupported, WhenOpen};

/// Where a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Nothing was looked at.
    Start,
    /// At this step of what comes before the attempts.
    Prepare(usize),
    /// At this step of this attempt.
    Attempt(usize, usize),
    /// At this step of what follows the attempt that succeeded.
    Finish(usize),
    /// Ahead there is nothing more.
    End,
}

/// Whether a lane has more to do on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    More,
    Over,
}

/// A lane at work. Each turn is one step, so that lanes can be interleaved and stopped between any two.
pub(super) struct Walk<'a> {
    lane: Option<&'a Lane>,
    at: At,
    /// How to take back what was done, oldest first.
    done: Vec<Undo>,
    /// What it was last seen to be, until a step may have changed that.
    seen: Seen,
    /// Whether the last step took it from a driver.
    taken: bool,
    /// The last driver's no, until another takes the device.
    refusal: Option<StepError>,
    pub(super) result: LaneResult,
}

impl<'a> Walk<'a> {
    pub(super) fn new(lane: &'a Lane) -> Self {
        let result = LaneResult::new(lane.device, lane.bond);
        Self {
            lane: Some(lane),
            at: At::Start,
            done: Vec::new(),
            seen: Seen::default(),
            taken: false,
            refusal: None,
            result,
        }
    }

    /// A lane that has only a way back.
    pub(super) fn back(result: LaneResult, done: Vec<Undo>) -> Self {
        Self { lane: None, at: At::End, done, seen: Seen::default(), taken: false, refusal: None, result }
    }

    /// One step ahead.
    pub(super) async fn ahead(&mut self, hands: &Hands<'_>) -> Turn {
        let Some(lane) = self.lane else { return Turn::Over };
        match self.step_ahead(lane, hands).await {
            Ok(At::End) => self.at = At::End,
            Ok(at) => {
                self.at = at;
                return Turn::More;
            }
            Err(error) => {
                self.result.error = Some(error);
                self.at = At::End;
            }
        }
        Turn::Over
    }

    /// One thing taken back, newest first.
    pub(super) async fn step_back(&mut self, hands: &Hands<'_>) -> Turn {
        let Some(undo) = self.done.pop() else { return Turn::Over };
        let is_for_a_driver = setting::is_for_a_driver(&undo.was)
            && self.done.iter().any(|older| matches!(older.was, Setting::Driver(_)));
        let free = if is_for_a_driver { hands.let_go(&undo).await } else { Ok(()) };
        let reversed = match free {
            Ok(()) => hands.reverse(&undo).await,
            Err(error) => Err(error),
        };
        match reversed {
            Ok(reversed) => self.result.undone += usize::from(reversed),
            Err(StepError::Host(HostError { verb: Verb::Wait, path, .. })) => {
                let stuck = self.be_stuck(match path.rest().rsplit('/').next() {
                    Some("bind") => Pending::Bind,
                    Some("sriov_numvfs") => Pending::Vfs,
                    Some("remove" | "create") => Pending::Mdev,
                    _ => Pending::Unbind,
                });
                self.result.error.get_or_insert(stuck);
            }
            Err(error) => {
                self.result.is_set |= is_set(&undo);
                self.result.remains.push(error.to_string());
            }
        }
        if self.done.is_empty() && self.lane.is_some_and(Lane::keeps_away) {
            self.offer(hands).await;
        }
        Turn::More
    }

    /// Nobody is kept away any more: the host driver that came meanwhile, and was, has it as if nothing had been tried.
    async fn offer(&self, hands: &Hands<'_>) {
        let device = self.result.device;
        if let Ok(Some(change)) = act(&Step::Reprobe { device }, hands.host) {
            // One that takes no device leaves it as it was.
            drop(hands.make(device, &change, Way::Back).await);
        }
    }

    /// Whether there is more to take back.
    pub(super) const fn has_more(&self) -> bool {
        !self.done.is_empty()
    }

    /// Looks at what it has come to.
    pub(super) fn look(&mut self, host: &dyn Links) {
        if self.result.before.is_some() {
            self.result.after = self.state(host).ok().map(|(_, seen)| seen);
            self.result.is_set |= self.done.iter().any(is_set);
            note_lost_children(&mut self.result);
        }
    }

    /// The kernel has not come back. Whatever else is written about the device would wait too, unkillably, so that what was
    /// done is left to a later undo.
    fn be_stuck(&mut self, pending: Pending) -> StepError {
        let stuck = StepError::Stuck(self.result.device, pending);
        self.result.remains.push(stuck.to_string());
        self.done.clear();
        stuck
    }

    async fn step_ahead(&mut self, lane: &Lane, hands: &Hands<'_>) -> Result<At, StepError> {
        match self.at {
            At::Start => {
                let (place, before) = self.state(hands.host)?;
                // An mdev and an SF are made by their own lane, a VF by that of its PF.
                let is_vf = lane.device.is_function();
                if before == State::Absent && (is_vf || !lane.is_made) {
                    return Err(gone(lane.device).into());
                }
                let binding = before.binding();
                self.seen = Seen {
                    is_made: lane.is_made,
                    place,
                    driver: binding.map(|binding| binding.driver.clone()),
                    driver_override: binding.map(|binding| binding.driver_override.clone()),
                };
                self.result.before = Some(if lane.is_made && is_vf { State::Absent } else { before });
                Ok(At::Prepare(0))
            }
            At::Prepare(step) => match lane.prepare.get(step) {
                Some(step_now) => self.step_or_skip(lane, step_now, hands).await.map(|()| At::Prepare(step + 1)),
                None => Ok(self.next_attempt(lane, 0)),
            },
            At::Attempt(number, step) => {
                let attempt = &lane.attempts[number];
                match attempt.steps.get(step) {
                    None => self.end_of_attempt(lane, number, hands),
                    Some(step_now) => match self.attempt_step(step_now, attempt, hands).await {
                        Ok(()) => Ok(At::Attempt(number, step + 1)),
                        Err(Refused::ByDriver(error)) => {
                            self.refused(lane, attempt, error);
                            Ok(self.next_attempt(lane, number + 1))
                        }
                        Err(Refused::ByHost(error)) => Err(error),
                    },
                }
            }
            At::Finish(step) => match (step, self.refusal.take(), lane.finish.get(step)) {
                (0, Some(refusal), _) => Err(refusal),
                (_, _, Some(step_now)) => self.step_or_skip(lane, step_now, hands).await.map(|()| At::Finish(step + 1)),
                (_, _, None) => Ok(At::End),
            },
            At::End => Ok(At::End),
        }
    }

    /// One step; a setting that nobody can make is gone on without, where the lane says so.
    async fn step_or_skip(&mut self, lane: &Lane, step: &Step, hands: &Hands<'_>) -> Result<(), StepError> {
        match (self.step(step, Proof::Read, hands).await, step) {
            (Err(error), Step::Set { to, .. })
                if lane.unsupported == Unsupported::IsSkipped && setting::is_unsupported(&error) =>
            {
                self.skip(to, &error);
                Ok(())
            }
            (done, _) => done,
        }
    }

    /// Goes on without a setting: it was not made, so there is nothing of it to take back.
    fn skip(&mut self, to: &Setting, error: &StepError) {
        self.done.retain(|undo| !undo.is_of_kind(to));
        let why = match error.errno() {
            Errno::ENODEV => String::from("its PF has no network interface"),
            Errno::ENOENT => String::from("this kernel has no file for it"),
            _ => String::from("the driver cannot set it"),
        };
        self.result.skipped.push(format!("{to}: {why}"));
    }

    /// Where it is, and what it is bound to.
    fn state(&self, host: &dyn Links) -> Result<(Option<Bdf>, State), HostError> {
        let device = self.result.device;
        match self.lane {
            Some(lane) if !lane.has_children && device.is_function() => match place(host, device)? {
                None => Ok((None, State::Absent)),
                Some(bdf) => Ok((Some(bdf), childless_binding(host, bdf)?.into())),
            },
            _ => state(host, device),
        }
    }

    fn next_attempt(&self, lane: &Lane, number: usize) -> At {
        if number < lane.attempts.len() { At::Attempt(number, 0) } else { At::Finish(0) }
    }

    fn end_of_attempt(&mut self, lane: &Lane, number: usize, hands: &Hands<'_>) -> Result<At, StepError> {
        let bdf = self.seen.place(lane.device, hands.host)?;
        match self.seen.driver(bdf, hands.host)? {
            Some(driver) => {
                self.result.tried.push(Tried { driver: driver.to_string(), error: None });
                self.refusal = None;
                Ok(At::Finish(0))
            }
            // It was seen on the driver a moment ago.
            None if lane.attempts[number].driver.is_some() => {
                Err(HostError::new(Verb::Read, HostPath::pci(bdf).attr("driver"), Errno::ENODEV).into())
            }
            None => Ok(self.next_attempt(lane, number + 1)),
        }
    }

    /// A driver said no. A host driver that is not there, or that the administrator blacklisted, is none.
    fn refused(&mut self, lane: &Lane, attempt: &Attempt, error: StepError) {
        let driver = attempt.driver.as_ref().map(ToString::to_string).unwrap_or_default();
        self.result.tried.push(Tried { driver, error: Some(error.clone()) });
        let absent = lane.otherwise == Otherwise::LeaveWithout
            && error.is_load()
            && matches!(error.errno(), Errno::ENOENT | Errno::ENODEV);
        if !absent {
            self.refusal = Some(error);
        }
    }

    /// One step of an attempt. One that the driver refuses leads to the next attempt; a host that refuses to have an override
    /// written or a driver taken away ends the lane.
    async fn attempt_step(&mut self, step: &Step, attempt: &Attempt, hands: &Hands<'_>) -> Result<(), Refused> {
        // That an override was set shows in the bind that needs it.
        let binds = matches!(step, Step::SetOverride { driver, .. } if driver.is_some() && *driver == attempt.driver);
        let proof = if binds { Proof::Bind } else { Proof::Read };
        self.step(step, proof, hands).await.map_err(|error| match step {
            _ if is_no_probes(&error) => Refused::ByHost(error),
            Step::LoadModule { .. } | Step::Bind { .. } | Step::Reprobe { .. } => Refused::ByDriver(error),
            // The override of a module that came up without a driver: its driver is at fault, not the host.
            Step::SetOverride { .. } if error.is_load() => Refused::ByDriver(error),
            Step::SetOverride { .. } | Step::Unbind { .. } | Step::Reset { .. } | Step::Set { .. } => {
                Refused::ByHost(error)
            }
        })
    }

    /// Observe, record, perform, settle.
    async fn step(&mut self, step: &Step, proof: Proof, hands: &Hands<'_>) -> Result<(), StepError> {
        let taken = std::mem::take(&mut self.taken);
        let Some(change) = act_after(step, &self.seen, hands.host)? else { return Ok(()) };
        // Nobody let go of what was not taken from anybody.
        if matches!(step, Step::Reset { .. }) && !taken {
            return Ok(());
        }
        let place = self.seen.place;
        let asked = matches!((step, place), (Step::Unbind { open: WhenOpen::Ask, .. }, Some(bdf))
            if refuse_open(bdf, hands.host).is_err());
        // What a write of the override leaves is read where it matters; it leaves the driver alone.
        let Seen { is_made, driver: had, .. } = std::mem::take(&mut self.seen);
        self.seen.is_made = is_made;
        self.seen.place = place;
        if matches!(step, Step::SetOverride { .. }) {
            self.seen.driver.clone_from(&had);
        }
        // The oldest of each kind is what it goes back to.
        let first = change.undo.clone().filter(|undo| !self.done.iter().any(|done| done.is_of_kind(&undo.was)));
        let is_first = first.is_some();
        self.done.extend(first);
        if let (Step::Unbind { .. }, Some(bdf)) = (step, place)
            && !had.flatten().is_some_and(|driver| driver.is_vfio())
        {
            note_lost_netdevs(bdf, hands.host, &mut self.result);
        }
        match (hands.make(self.result.device, &change, Way::Ahead).await, step) {
            (Ok(()), Step::Bind { device, .. }) => {
                let driver = change.act.bound_driver();
                hands.settle_driver(self.seen.place(*device, hands.host)?, driver.as_ref()).await?;
                self.seen.driver = Some(driver);
                Ok(())
            }
            (Ok(()), Step::Unbind { device, .. }) => {
                if asked {
                    self.result.lost.push(format!("whoever had {device} open: it was asked to let go, and did"));
                }
                hands.settle_driver(self.seen.place(*device, hands.host)?, None).await?;
                self.seen.driver = Some(None);
                self.taken = true;
                Ok(())
            }
            (Ok(()), Step::SetOverride { .. }) if proof == Proof::Bind => Ok(()),
            (Ok(()), Step::Set { device, to }) => hands.settle_setting(*device, to).await,
            (Ok(()), _) => settle(step, hands),
            // Nothing of the sort was done, so there is nothing to take back.
            (Err(error @ StepError::NotRecorded(_)), _) => {
                if is_first {
                    self.done.pop();
                }
                Err(error)
            }
            (Err(error), _) if error.is_left_behind() => Err(self.be_stuck(match step {
                Step::Unbind { .. } => Pending::Unbind,
                Step::Reset { .. } => Pending::Reset,
                Step::Set { to: Setting::Vfs(_), .. } => Pending::Vfs,
                Step::Set { to: Setting::Mdev(_), .. } => Pending::Mdev,
                _ => Pending::Bind,
            })),
            (Err(error), Step::Reset { device }) => {
                self.result.lost.push(not_reset(*device, &error));
                Ok(())
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// Whether it takes back another setting than override and driver, which show in the [`State`].
const fn is_set(undo: &Undo) -> bool {
    !matches!(undo.was, Setting::Override(_) | Setting::Driver(_))
}

/// How it is known that a change was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// It is read back.
    Read,
    /// The bind that follows needs it.
    Bind,
}

/// Waits until the kernel shows what it said yes to.
fn settle(step: &Step, hands: &Hands<'_>) -> Result<(), StepError> {
    match step {
        // `drivers_probe` promises nothing, a module that loaded has been looked for, and a driver was waited for.
        Step::LoadModule { .. }
        | Step::Reprobe { .. }
        | Step::Reset { .. }
        | Step::Bind { .. }
        | Step::Unbind { .. }
        | Step::Set { .. } => Ok(()),
        // It shows at once or not at all.
        Step::SetOverride { .. } => match act(step, hands.host)?.map(|change| change.act) {
            Some(Act::Write { path, value, was }) => {
                let (wanted, shown) = (value.trim_end().to_owned(), was.unwrap_or_default());
                Err(StepError::NotSettled { path, wanted, shown, waited: Duration::ZERO })
            }
            _ => Ok(()),
        },
    }
}

/// Whether an answer comes from the way to the driver and not from the driver: this process may not open the file, was
/// interrupted, or could not write down what it was about to do.
fn is_no_probes(error: &StepError) -> bool {
    matches!(
        error,
        StepError::Host(HostError { verb: Verb::Open, errno: Errno::EACCES | Errno::EPERM | Errno::EROFS, .. })
            | StepError::Host(HostError { verb: Verb::Start, .. })
            | StepError::NotRecorded(_)
            | StepError::Stuck(..)
    ) || error.errno() == Errno::EINTR
}

/// Who did not agree.
enum Refused {
    /// The driver or its module: the next candidate may.
    ByDriver(StepError),
    /// The host: no candidate will do better.
    ByHost(StepError),
}

fn not_reset(device: Target, error: &StepError) -> String {
    let why = match error.errno() {
        Errno::ENOENT => String::from("it has no reset method"),
        errno => errno.to_string(),
    };
    format!(
        "the reset of {device} after its holder let go, which the kernel skips then ({why}): the next user may find what the last one left"
    )
}

/// Network interfaces go with their driver and come back without addresses and perhaps under another name.
fn note_lost_netdevs(device: Bdf, host: &dyn Read, result: &mut LaneResult) {
    let names = optional(host.list(&HostPath::pci(device).attr("net"))).unwrap_or(None).unwrap_or_default();
    for name in names {
        result.lost.push(format!("network interface {name}: its addresses, and its name if it was not the default"));
    }
}

/// VFs and mdevs that went with a driver do not come back with it.
fn note_lost_children(result: &mut LaneResult) {
    let before = result.before.as_ref().and_then(State::binding);
    let (Some(before), Some(after)) = (before, result.now()) else { return };
    let gone = [("VF", before.vfs.saturating_sub(after.vfs)), ("mdev", before.mdevs.saturating_sub(after.mdevs))];
    for (what, count) in gone.into_iter().filter(|(_, count)| *count > 0) {
        result.lost.push(format!("{}, with what they were bound to", counted(count, what)));
    }
}

impl Act {
    /// The driver whose `bind` this writes to.
    fn bound_driver(&self) -> Option<DriverName> {
        match self {
            Self::Write { path, .. } => path.rest().rsplit('/').nth(1)?.parse().ok(),
            Self::SetVf { .. } | Self::Keep { .. } | Self::Hook { .. } | Self::Devlink(_) | Self::Load { .. } => None,
        }
    }
}
