//! Running a plan: lanes at once, each a step at a time; what fails is taken back.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::StepError;
use super::hands::{Hands, Watch, Way};
use super::journal::{End, Ended, Journal, Left, Seconds};
use super::lane::{LaneResult, Turn, Walk};
use super::schedule::{Next, Schedule, Success};
use crate::host::{Host, Lock, Write};
use crate::model::Target;
use crate::step::Plan;

/// How many lanes go at once on a real host, chosen with `lab bench` (1,016 VFs on two processors): an unbind waits for RCU,
/// not for a processor, so that more hands do more until their own work fills the processors, at about 16. Binding is as
/// fast with 4 as with 16, for the kernel does it one by one.
pub const AT_ONCE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);

/// In which order the steps of different lanes are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many lanes at once, each by a thread of its own; one: lane after lane, in the order of the plan.
    AtOnce(NonZeroUsize),
    /// A step of this lane, a step of that, in an order that follows from a number: for tests.
    Interleaved(u64),
}

/// What a plan is run with.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// The right to change it.
    pub lock: &'a dyn Lock,
    /// Where every act is written down before it is done.
    pub journal: &'a Journal,
    /// Who hears of it.
    pub watch: &'a dyn Watch,
    /// In which order.
    pub pace: Pace,
}

/// How far the work has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Lanes that have ended.
    pub ended: usize,
    /// All lanes.
    pub all: usize,
}

/// What came of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// One for each lane, in the order of the plan.
    pub lanes: Vec<LaneResult>,
    /// How often the user asked to stop before the work was over: once, to take everything back; twice, to stop where it was.
    pub interrupts: usize,
    /// Whether it stopped where it was, with something left to take back.
    pub stopped: bool,
    /// The end could not be written down.
    pub unrecorded: Option<StepError>,
}

/// Runs a plan. A lane that fails is taken back with its bond; the others are not touched by it. When the user asks to stop,
/// everything is taken back; asked again, everything stays where it is, for [`undo`](super::undo::undo) to find.
pub fn run(plan: &Plan, work: Work<'_>) -> Report {
    let walks = plan.lanes.iter().map(Walk::new).collect();
    let mut ran = Running::new(walks, Schedule::of(plan), work);
    ran.go();
    ran.tell_why();
    let report = ran.finish();
    // Nothing was wanted of a host that stopped halfway: it is for the undo to end it.
    let whole = report.lanes.iter().all(|lane| lane.remains.is_empty()) && report.interrupts < 2;
    let fell: Vec<Target> = report.lanes.iter().filter(|lane| lane.error.is_some()).map(|lane| lane.device).collect();
    // Some have what was wanted, if only as before.
    let done = report.lanes.iter().any(LaneResult::changed) || fell.is_empty();
    match (whole, done) {
        (true, true) => report.ended(Ended::Done, fell, work),
        (true, false) => report.ended(Ended::RolledBack, fell, work),
        (false, _) if report.interrupts >= 2 => report,
        (false, _) => report.ended(Ended::Remains, fell, work),
    }
}

impl Report {
    /// Writes down how it ended, and which devices do not have what was wanted.
    pub(super) fn ended(mut self, end: Ended, fell: Vec<Target>, work: Work<'_>) -> Self {
        let left = self.lanes.iter().filter_map(|lane| Some(Left::new(lane.device, lane.now()?)));
        let at: Seconds = work.host.now().into();
        let settled = work.journal.settled();
        let remains = self.lanes.iter().filter(|lane| !lane.remains.is_empty()).map(|lane| lane.device);
        let line = End { at, settled, end, left: left.collect(), fell, remains: remains.collect() };
        self.unrecorded = work.journal.end(&line).err().map(StepError::NotRecorded);
        self
    }
}

/// Lanes at work.
pub(super) struct Running<'a> {
    walks: Vec<Mutex<Walk<'a>>>,
    schedule: Mutex<Schedule>,
    changed: Condvar,
    /// How often the user was seen to have asked to stop.
    heard: AtomicUsize,
    work: Work<'a>,
}

impl<'a> Running<'a> {
    pub(super) fn new(walks: Vec<Walk<'a>>, schedule: Schedule, work: Work<'a>) -> Self {
        let walks = walks.into_iter().map(Mutex::new).collect();
        Self { walks, schedule: Mutex::new(schedule), changed: Condvar::new(), heard: AtomicUsize::new(0), work }
    }

    /// Until there is nothing more to do, or the user has asked twice to stop.
    pub(super) fn go(&mut self) {
        match self.work.pace {
            Pace::Interleaved(seed) => self.interleave(Shuffle(seed)),
            Pace::AtOnce(count) => {
                let hands = count.get().min(self.walks.len());
                let this: &Self = self;
                std::thread::scope(|scope| {
                    for _ in 1..hands {
                        // Where no more threads may be made, those that there are do it all.
                        if std::thread::Builder::new().spawn_scoped(scope, || this.hand()).is_err() {
                            break;
                        }
                    }
                    this.hand();
                });
            }
        }
    }

    /// What it came to.
    pub(super) fn finish(self) -> Report {
        let hand = self.work.lock.hand();
        let interrupts = self.heard.load(Ordering::Acquire);
        let stopped = interrupts > 1 && self.walks.iter().any(|walk| lock(walk).has_more());
        let look = |walk: Mutex<Walk<'a>>| {
            let mut walk = walk.into_inner().unwrap_or_else(PoisonError::into_inner);
            walk.look(hand.as_ref());
            walk.result
        };
        let lanes = self.walks.into_iter().map(look).collect();
        Report { lanes, interrupts, stopped, unrecorded: None }
    }

    /// Says of lanes that were not tried, or taken back for another's sake, why.
    fn tell_why(&self) {
        let interrupted = self.heard.load(Ordering::Acquire) > 0;
        let schedule = lock(&self.schedule);
        let failed: Vec<_> = self.walks.iter().map(lock).filter(|walk| walk.result.error.is_some()).collect();
        let culprits: Vec<_> = failed.iter().map(|walk| (walk.result.bond, walk.result.device)).collect();
        drop(failed);
        for (lane, walk) in self.walks.iter().enumerate() {
            let mut walk = lock(walk);
            if walk.result.error.is_some() || schedule.stands(lane) {
                continue;
            }
            let culprit = culprits.iter().find(|(bond, _)| *bond == walk.result.bond).map(|(_, device)| *device);
            walk.result.error = Some(match (culprit, schedule.is_untried(lane)) {
                (Some(device), true) => StepError::NotTried(device),
                (Some(device), false) => StepError::TakenBack(device),
                (None, _) if interrupted => StepError::Interrupted,
                (None, untried) => match culprits.first() {
                    Some((_, device)) if untried => StepError::NotTried(*device),
                    Some((_, device)) => StepError::TakenBack(*device),
                    None => continue,
                },
            });
        }
    }

    fn interrupts(&self) -> usize {
        let interrupts = self.work.host.interrupts();
        if interrupts > 0 {
            self.heard.fetch_max(interrupts, Ordering::AcqRel);
        }
        interrupts
    }

    /// What the next lane is for a free hand.
    fn next(&self, schedule: &mut Schedule) -> Next {
        match self.interrupts() {
            0 => {}
            1 => schedule.call_all_back(),
            _ => return Next::Over,
        }
        schedule.next()
    }

    /// One hand: takes what comes next, and goes its way to the end.
    fn hand(&self) {
        let host = self.work.lock.hand();
        let hands = self.hands(host.as_ref());
        let mut schedule = lock(&self.schedule);
        loop {
            match self.next(&mut schedule) {
                Next::Over => break,
                Next::Wait => {
                    // Woken by whoever ends a lane; by itself, to see whether the user has asked to stop.
                    let (woken, _) = self
                        .changed
                        .wait_timeout(schedule, Duration::from_millis(100))
                        .unwrap_or_else(PoisonError::into_inner);
                    schedule = woken;
                }
                Next::Go(lane, way) => {
                    drop(schedule);
                    while self.turn(lane, way, &hands) == Turn::More {}
                    self.work.journal.settle(self.work.host.now().into());
                    schedule = lock(&self.schedule);
                    self.arrived(&mut schedule, lane, way);
                }
            }
        }
        drop(schedule);
        self.changed.notify_all();
    }

    /// One step of a lane, unless it is to stop.
    fn turn(&self, lane: usize, way: Way, hands: &Hands<'_>) -> Turn {
        let interrupts = self.interrupts();
        let called_back = lock(&self.schedule).is_called_back(lane);
        let mut walk = lock(&self.walks[lane]);
        match way {
            Way::Ahead if interrupts > 0 || called_back => Turn::Over,
            Way::Ahead => walk.ahead(hands),
            Way::Back if interrupts > 1 => Turn::Over,
            Way::Back => walk.step_back(hands),
        }
    }

    /// A lane has come to the end of its way.
    fn arrived(&self, schedule: &mut Schedule, lane: usize, way: Way) {
        match way {
            Way::Ahead => {
                let walk = lock(&self.walks[lane]);
                schedule.went_ahead(lane, if walk.result.error.is_some() { Success::No } else { Success::Yes });
                // What cannot be written down any more is not gone on with by halves.
                if matches!(walk.result.error, Some(StepError::NotRecorded(_))) {
                    schedule.call_all_back();
                }
            }
            Way::Back => schedule.went_back(lane),
        }
        self.work.watch.progress(Progress { ended: schedule.ended(), all: self.walks.len() });
        self.changed.notify_all();
    }

    /// What a lane's work is done with, by the hand that is `host`.
    fn hands<'h>(&'h self, host: &'h dyn Write) -> Hands<'h> {
        Hands { host, clock: self.work.host, watch: self.work.watch, journal: self.work.journal }
    }

    /// The same on one thread: each turn goes to a lane that chance picks.
    fn interleave(&self, mut chance: Shuffle) {
        let host = self.work.lock.hand();
        let hands = self.hands(host.as_ref());
        let mut going: Vec<(usize, Way)> = Vec::new();
        loop {
            // Either another lane sets out, or one of those under way takes a step.
            if going.is_empty() || chance.next().is_multiple_of(3) {
                let next = self.next(&mut lock(&self.schedule));
                match next {
                    Next::Go(lane, way) => {
                        going.push((lane, way));
                        continue;
                    }
                    Next::Over if going.is_empty() => return,
                    Next::Wait | Next::Over => {}
                }
            }
            let count = u64::try_from(going.len()).unwrap_or(1).max(1);
            let Some(place) = usize::try_from(chance.next() % count).ok().filter(|place| *place < going.len()) else {
                continue;
            };
            let (lane, way) = going[place];
            if self.turn(lane, way, &hands) == Turn::Over {
                self.work.journal.settle(self.work.host.now().into());
                going.swap_remove(place);
                self.arrived(&mut lock(&self.schedule), lane, way);
            }
        }
    }
}

/// Numbers that follow from the first one, and nobody can guess (xorshift64*).
struct Shuffle(u64);

impl Shuffle {
    fn next(&mut self) -> u64 {
        let mut x = self.0 | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0 = x;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics with it held but a test, and then what is behind it is what was seen last.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
