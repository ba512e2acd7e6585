//! Lanes in flight on a thread: each is a future that stops where it waits for the kernel, and the others go on.
//!
//! A write that may wait for a holder is made by a worker of the host, and a lane waits for its answer, as for a hook's; a lane whose step is
//! to be asked for again waits for a moment. Everything else is done at once. So a thread decides and writes down for many, and the
//! kernel is busy with as many devices as there are lanes in flight. A thread for each would do the same at the price of a
//! switch for every answer; there are as many as there are teams of hands, which is what the processors can do at once.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::host::{Begun, Clock, HostError, HostPath, Team, Write};
use crate::model::{Bdf, Hook};

/// How soon it is seen that the user asks to stop, and that a deadline has passed.
const TICK: Duration = Duration::from_millis(100);

/// Where a lane waits.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Until when, when it waits for a moment.
    until: Cell<Option<Duration>>,
}

/// Writes, and waits for the answer while others go on.
pub(super) async fn write(host: &dyn Write, path: &HostPath, value: &str) -> Result<(), HostError> {
    answer(host, host.begin(path, value)).await
}

/// Runs a hook, and waits for its end while others go on.
pub(super) async fn hook(host: &dyn Write, hook: &Hook, vf: Bdf) -> Result<(), HostError> {
    answer(host, host.begin_hook(hook, vf)).await
}

async fn answer(host: &dyn Write, begun: Begun) -> Result<(), HostError> {
    match begun {
        Begun::Done(done) => done,
        Begun::Waits => std::future::poll_fn(|_| host.answer().map_or(Poll::Pending, Poll::Ready)).await,
    }
}

/// Lets time pass while others go on.
pub(super) async fn nap(clock: &dyn Clock, waits: &Waits, length: Duration) {
    let until = clock.now() + length;
    std::future::poll_fn(|_| {
        let over = clock.now() >= until;
        waits.until.set((!over).then_some(until));
        if over { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// A lane in flight, in one of so many places.
struct InFlight<'a, T> {
    place: usize,
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    waits: &'a Waits,
}

/// Lanes in flight, each in the place whose hand it has.
pub(super) struct Flight<'a, T> {
    team: &'a dyn Team,
    clock: &'a dyn Clock,
    flying: Vec<InFlight<'a, T>>,
    free: Vec<usize>,
    /// When all were last asked.
    asked: Duration,
}

impl<'a, T> Flight<'a, T> {
    /// None yet, and so many places.
    pub(super) fn new(team: &'a dyn Team, clock: &'a dyn Clock, places: usize) -> Self {
        Self { team, clock, flying: Vec::new(), free: (0..places).rev().collect(), asked: clock.now() }
    }

    /// A place for one more.
    pub(super) fn free(&self) -> Option<usize> {
        self.free.last().copied()
    }

    /// Sends one on its way, in the place that was free; what it comes to, when that is at once.
    pub(super) fn send(&mut self, future: impl Future<Output = T> + 'a, waits: &'a Waits) -> Option<T> {
        let place = self.free.pop().unwrap_or_default();
        let mut flying = InFlight { place, future: Box::pin(future), waits };
        match flying.ask() {
            Poll::Ready(output) => {
                self.free.push(place);
                Some(output)
            }
            Poll::Pending => {
                self.flying.push(flying);
                None
            }
        }
    }

    /// Whether none is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_empty()
    }

    /// Waits until some can go on, and tells what came of those that have arrived.
    pub(super) fn next(&mut self) -> Vec<T> {
        let now = self.clock.now();
        let first = self.flying.iter().filter_map(|flying| flying.waits.until.get()).min();
        let length = first.map_or(TICK, |until| until.saturating_sub(now).min(TICK));
        let answered = self.team.wait(length);
        let now = self.clock.now();
        // Now and then all are asked, for deadlines are theirs to keep.
        let all = now >= self.asked + TICK || (answered.is_empty() && first.is_none());
        if all {
            self.asked = now;
        }
        let mut arrived = Vec::new();
        let mut at = 0;
        while let Some(flying) = self.flying.get_mut(at) {
            let due = flying.waits.until.get().is_some_and(|until| now >= until);
            if !all && !due && !answered.contains(&flying.place) {
                at += 1;
                continue;
            }
            match flying.ask() {
                Poll::Pending => at += 1,
                Poll::Ready(output) => {
                    self.free.push(flying.place);
                    drop(self.flying.swap_remove(at));
                    arrived.push(output);
                }
            }
        }
        arrived
    }
}

impl<T> InFlight<'_, T> {
    fn ask(&mut self) -> Poll<T> {
        self.future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }
}

/// Does one thing to its end.
pub(super) fn finish<'a, T>(
    future: impl Future<Output = T> + 'a,
    waits: &'a Waits,
    (team, clock): (&'a dyn Team, &'a dyn Clock),
) -> T {
    let mut flight = Flight::new(team, clock, 1);
    let mut done = flight.send(future, waits);
    loop {
        match done {
            Some(output) => return output,
            None => done = flight.next().pop(),
        }
    }
}
