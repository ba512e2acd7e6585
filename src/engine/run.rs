//! Running a plan: lanes at once, each a step at a time; what fails is taken back.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::StepError;
use super::hands::{Hands, Watch, Way};
use super::journal::{End, Ended, Journal, Left, Seconds};
use super::lane::{Turn, Walk};
use super::result::LaneResult;
use super::schedule::{Next, Schedule, Success};
use super::task::{Flight, Waits, finish};
use crate::host::{Host, Lock, Team, Write};
use crate::model::Target;
use crate::step::{Lane, Plan};

/// How many lanes are in flight at once on a real host, chosen with `lab bench` (1,016 VFs on two processors): an unbind waits
/// for RCU, not for a processor, so that more lanes do more, until each grace period of the kernel serves as many as there are
/// processor time for.
pub const AT_ONCE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

/// In which order the steps of different lanes are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many lanes in flight at once; one: lane after lane, in the order of the plan.
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
    let ran = Running::new(walks, Schedule::of(plan), work);
    ran.keep_drivers_away(plan);
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

/// Runs a plan, has somebody look at what it came to, and takes everything back: one operation, which is unfinished until then,
/// so that [`undo`](super::undo::undo) finds it when it was cut off. When a lane fails there is nothing to look at.
pub fn lend(plan: &Plan, work: Work<'_>, look: impl FnOnce()) -> Report {
    let walks = plan.lanes.iter().map(Walk::new).collect();
    let ran = Running::new(walks, Schedule::of(plan), work);
    ran.keep_drivers_away(plan);
    ran.go();
    let stands = (0..plan.lanes.len()).all(|lane| ran.schedule().stands(lane));
    if stands {
        look();
        ran.schedule().call_all_back();
        ran.go();
    } else {
        ran.tell_why();
    }
    let report = ran.finish();
    let all = report.lanes.iter().map(|lane| lane.device).collect();
    match report.lanes.iter().all(|lane| lane.remains.is_empty()) {
        _ if report.interrupts >= 2 => report,
        true => report.ended(Ended::RolledBack, all, work),
        false => report.ended(Ended::Remains, all, work),
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
    /// Those that are not in flight.
    walks: Mutex<Vec<Option<Walk<'a>>>>,
    schedule: Mutex<Schedule>,
    /// Rung when a lane has arrived: another may set out.
    arrival: Condvar,
    /// How often the user was seen to have asked to stop.
    heard: AtomicUsize,
    work: Work<'a>,
}

/// A lane that has come to the end of its way.
struct Arrived<'a> {
    lane: usize,
    way: Way,
    walk: Walk<'a>,
}

impl<'a> Running<'a> {
    pub(super) fn new(walks: Vec<Walk<'a>>, schedule: Schedule, work: Work<'a>) -> Self {
        let walks = Mutex::new(walks.into_iter().map(Some).collect());
        let (schedule, arrival, heard) = (Mutex::new(schedule), Condvar::new(), AtomicUsize::new(0));
        Self { walks, schedule, arrival, heard, work }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn walks(&self) -> MutexGuard<'_, Vec<Option<Walk<'a>>>> {
        self.walks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the first module is loaded, which may bring a host driver along: lanes that begin with an override begin, so that it
    /// finds none of their devices.
    fn keep_drivers_away(&self, plan: &Plan) {
        if !plan.lanes.iter().any(Lane::keeps_away) {
            return;
        }
        let teams = self.work.lock.teams(1);
        let Some((team, host)) = teams.first().and_then(|team| Some((team, *team.hands().first()?))) else { return };
        let waits = Waits::default();
        let hands = self.hands(host, &waits);
        for (number, lane) in plan.lanes.iter().enumerate().filter(|(_, lane)| lane.after.is_empty()) {
            let Some(turns) = lane.turns_to_an_override() else { continue };
            let Some(walk) = self.walks()[number].take() else { continue };
            let mut going = Arrived { lane: number, way: Way::Ahead, walk };
            for _ in 0..turns {
                let turn = self.turn(&mut going, &hands);
                if finish(turn, &waits, (team.as_ref(), self.work.host)) == Turn::Over {
                    break;
                }
            }
            if going.walk.has_more() {
                self.schedule().begin(number);
            }
            self.walks()[number] = Some(going.walk);
        }
    }

    /// Until there is nothing more to do, or the user has asked twice to stop.
    pub(super) fn go(&self) {
        let lanes = self.walks().len();
        match self.work.pace {
            Pace::Interleaved(seed) => self.interleave(Shuffle(seed)),
            Pace::AtOnce(count) => self.fly(count.get().min(lanes).max(1)),
        }
    }

    /// Lanes in flight, so many at once, by a thread for each team.
    fn fly(&self, places: usize) {
        let mut teams = self.work.lock.teams(places);
        let mine = teams.pop();
        std::thread::scope(|scope| {
            for team in teams {
                // Where no thread can be made there is one team less.
                drop(std::thread::Builder::new().spawn_scoped(scope, move || self.pilot(team.as_ref())));
            }
            if let Some(team) = mine {
                self.pilot(team.as_ref());
            }
        });
    }

    /// As many lanes in flight as the team has hands, until there are no more.
    fn pilot(&self, team: &dyn Team) {
        let hosts = team.hands();
        let waits: Vec<Waits> = hosts.iter().map(|_| Waits::default()).collect();
        let mut flight = Flight::new(team, self.work.host, hosts.len());
        loop {
            let next = match flight.free() {
                Some(place) if flight.is_empty() => (self.await_next(), place),
                Some(place) => (self.next(), place),
                None => (Next::Wait, 0),
            };
            let arrived = match next {
                (Next::Go(lane, way), place) => {
                    let walk = self.walks()[lane].take();
                    let (Some(walk), Some(host), Some(waits)) = (walk, hosts.get(place), waits.get(place)) else {
                        break;
                    };
                    let hands = self.hands(*host, waits);
                    flight.send(self.way(Arrived { lane, way, walk }, hands), waits).into_iter().collect()
                }
                // What is in flight comes to an end, whatever the user has asked.
                (Next::Over | Next::Wait, _) if flight.is_empty() => break,
                (Next::Over | Next::Wait, _) => flight.next(),
            };
            for arrived in arrived {
                self.arrived(arrived);
            }
        }
    }

    /// A lane's way to its end.
    async fn way(&self, mut going: Arrived<'a>, hands: Hands<'_>) -> Arrived<'a> {
        while self.turn(&mut going, &hands).await == Turn::More {}
        going
    }

    /// What it came to.
    pub(super) fn finish(self) -> Report {
        let hand = self.work.lock.hand();
        let interrupts = self.heard.into_inner();
        let walks = self.walks.into_inner().unwrap_or_else(PoisonError::into_inner);
        let walks: Vec<Walk<'a>> = walks.into_iter().flatten().collect();
        let stopped = interrupts > 1 && walks.iter().any(Walk::has_more);
        let look = |mut walk: Walk<'a>| {
            walk.look(hand.as_ref());
            walk.result
        };
        Report { lanes: walks.into_iter().map(look).collect(), interrupts, stopped, unrecorded: None }
    }

    /// Says of lanes that were not tried, or taken back for another's sake, why.
    fn tell_why(&self) {
        let interrupted = self.heard.load(Ordering::Relaxed) > 0;
        let schedule = self.schedule();
        let mut walks = self.walks();
        let failed = walks.iter().flatten().filter(|walk| walk.result.error.is_some());
        let culprits: Vec<_> = failed.map(|walk| (walk.result.bond, walk.result.device)).collect();
        for (lane, walk) in walks.iter_mut().enumerate() {
            let Some(walk) = walk else { continue };
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
        self.heard.fetch_max(interrupts, Ordering::Relaxed).max(interrupts)
    }

    /// What the next lane is for a free place.
    fn next(&self) -> Next {
        self.next_of(&mut self.schedule())
    }

    fn next_of(&self, schedule: &mut Schedule) -> Next {
        match self.interrupts() {
            0 => {}
            1 => schedule.call_all_back(),
            _ => return Next::Over,
        }
        schedule.next()
    }

    /// The same for who has nothing in flight, and waits until the lanes of others have arrived.
    fn await_next(&self) -> Next {
        let mut schedule = self.schedule();
        loop {
            match self.next_of(&mut schedule) {
                Next::Wait if schedule.is_busy() => {
                    schedule = self.arrival.wait(schedule).unwrap_or_else(PoisonError::into_inner);
                }
                next => return next,
            }
        }
    }

    /// One step of a lane, unless it is to stop.
    async fn turn(&self, going: &mut Arrived<'a>, hands: &Hands<'_>) -> Turn {
        let interrupts = self.interrupts();
        let called_back = self.schedule().is_called_back(going.lane);
        match going.way {
            Way::Ahead if interrupts > 0 || called_back => Turn::Over,
            Way::Ahead => going.walk.ahead(hands).await,
            Way::Back if interrupts > 1 => Turn::Over,
            Way::Back => going.walk.step_back(hands).await,
        }
    }

    /// A lane has come to the end of its way.
    fn arrived(&self, Arrived { lane, way, walk }: Arrived<'a>) {
        let failed = walk.result.error.is_some();
        // What cannot be written down any more is not gone on with by halves.
        let unrecorded = matches!(walk.result.error, Some(StepError::NotRecorded(_)));
        // Whoever is told that it has arrived may send it back at once.
        self.walks()[lane] = Some(walk);
        let mut schedule = self.schedule();
        match way {
            Way::Ahead => {
                schedule.went_ahead(lane, if failed { Success::No } else { Success::Yes });
                if unrecorded {
                    schedule.call_all_back();
                }
            }
            Way::Back => schedule.went_back(lane),
        }
        let progress = Progress { ended: schedule.ended(), all: schedule.len() };
        drop(schedule);
        self.arrival.notify_all();
        self.work.journal.settle(self.work.host.now().into());
        self.work.watch.progress(progress);
    }

    /// What a lane's work is done with, by the hand that is `host`.
    fn hands<'h>(&'h self, host: &'h dyn Write, waits: &'h Waits) -> Hands<'h> {
        Hands { host, clock: self.work.host, watch: self.work.watch, journal: self.work.journal, waits }
    }

    /// One lane's step after another's, in an order that chance picks: nothing waits here but for the clock.
    fn interleave(&self, mut chance: Shuffle) {
        let teams = self.work.lock.teams(1);
        let Some((team, host)) = teams.first().and_then(|team| Some((team, *team.hands().first()?))) else { return };
        let waits = Waits::default();
        let mut going: Vec<Arrived<'a>> = Vec::new();
        loop {
            // Either another lane sets out, or one of those under way takes a step.
            if going.is_empty() || chance.next().is_multiple_of(3) {
                match self.next() {
                    Next::Go(lane, way) => {
                        going.extend(self.walks()[lane].take().map(|walk| Arrived { lane, way, walk }));
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
            let hands = self.hands(host, &waits);
            let turn = self.turn(&mut going[place], &hands);
            if finish(turn, &waits, (team.as_ref(), self.work.host)) == Turn::Over {
                self.arrived(going.swap_remove(place));
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
