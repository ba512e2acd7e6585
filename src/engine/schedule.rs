//! Which lane goes next: what may run at once, what waits for what, and what falls with what.

use super::hands::Way;
use crate::step::Plan;

/// What there is to do for a hand that is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// This lane, that way.
    Go(usize, Way),
    /// Nothing until another lane ends.
    Wait,
    /// Nothing any more.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not begun.
    Waiting,
    /// Under way.
    Going(Way),
    /// It has what was wanted.
    Stands,
    /// It has not, or what it has is to be taken back.
    Falls,
    /// It was never begun, and never will be.
    Untried,
    /// As far back as it comes.
    Back,
}

/// The state of all lanes.
pub(super) struct Schedule {
    states: Vec<State>,
    /// The lanes that each waits for on the way ahead, and that wait for it on the way back.
    after: Vec<Vec<usize>>,
    bonds: Vec<usize>,
    /// Those that wait, and have something to take back already.
    begun: Vec<bool>,
    /// By bond: a lane of it has failed.
    fallen: Vec<bool>,
    /// The lanes of each bond that are on their way ahead.
    ahead: Vec<usize>,
    ended: usize,
    /// Lanes before this one are not waiting.
    first_waiting: usize,
    /// Lanes that may be on their way back.
    falling: Vec<usize>,
}

impl Schedule {
    /// All of a plan, nothing begun.
    pub(super) fn of(plan: &Plan) -> Self {
        let after = plan.lanes.iter().map(|lane| lane.after.clone()).collect();
        Self::new(after, plan.lanes.iter().map(|lane| lane.bond).collect(), State::Waiting)
    }

    /// Every lane on its way back, those that others waited for last.
    pub(super) fn back(after: Vec<Vec<usize>>) -> Self {
        let mut schedule = Self::new(after, Vec::new(), State::Falls);
        schedule.bonds = vec![0; schedule.states.len()];
        schedule.fallen = vec![true];
        schedule.ahead = vec![0];
        schedule.falling = (0..schedule.states.len()).collect();
        schedule
    }

    fn new(after: Vec<Vec<usize>>, bonds: Vec<usize>, state: State) -> Self {
        let count = bonds.iter().max().map_or(0, |last| last + 1);
        Self {
            states: vec![state; after.len()],
            begun: vec![false; after.len()],
            after,
            bonds,
            fallen: vec![false; count],
            ahead: vec![0; count],
            ended: 0,
            first_waiting: 0,
            falling: Vec::new(),
        }
    }

    /// A lane has made its first change before its time.
    pub(super) fn begin(&mut self, lane: usize) {
        self.begun[lane] = true;
    }

    /// How many lanes will not be touched again, as things are.
    pub(super) const fn ended(&self) -> usize {
        self.ended
    }

    /// How many lanes there are.
    pub(super) const fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether the lane is to stop where it is on its way ahead.
    pub(super) fn is_called_back(&self, lane: usize) -> bool {
        self.fallen[self.bonds[lane]]
    }

    /// Whether the lane has what was wanted, and keeps it.
    pub(super) fn stands(&self, lane: usize) -> bool {
        self.states[lane] == State::Stands
    }

    /// Whether the lane was never begun.
    pub(super) fn is_untried(&self, lane: usize) -> bool {
        matches!(self.states[lane], State::Untried | State::Waiting)
    }

    /// Everything is to be taken back, what stands already as well.
    pub(super) fn call_all_back(&mut self) {
        if self.fallen.iter().all(|fallen| *fallen) {
            return;
        }
        self.fallen.fill(true);
        for lane in 0..self.states.len() {
            self.drop_lane(lane);
        }
    }

    /// What a free hand does next.
    pub(super) fn next(&mut self) -> Next {
        // Whoever is without a driver comes first.
        if let Some(back) = self.next_back() {
            return back;
        }
        while self.states.get(self.first_waiting).is_some_and(|state| *state != State::Waiting) {
            self.first_waiting += 1;
        }
        for lane in self.first_waiting..self.states.len() {
            if self.states[lane] != State::Waiting {
                continue;
            }
            let needs = || self.after[lane].iter().map(|other| self.states[*other]);
            if self.is_called_back(lane)
                || needs().any(|state| matches!(state, State::Falls | State::Untried | State::Back))
            {
                if self.begun[lane] {
                    self.states[lane] = State::Falls;
                    self.falling.push(lane);
                } else {
                    self.states[lane] = State::Untried;
                    self.ended += 1;
                }
            } else if needs().all(|state| state == State::Stands) {
                self.states[lane] = State::Going(Way::Ahead);
                self.ahead[self.bonds[lane]] += 1;
                return Next::Go(lane, Way::Ahead);
            }
        }
        match self.next_back() {
            Some(back) => back,
            None if self.is_busy() || !self.falling.is_empty() => Next::Wait,
            None => Next::Over,
        }
    }

    /// A lane that goes back.
    fn next_back(&mut self) -> Option<Next> {
        let place = self.falling.iter().position(|lane| self.may_go_back(*lane))?;
        let lane = self.falling.swap_remove(place);
        self.states[lane] = State::Going(Way::Back);
        Some(Next::Go(lane, Way::Back))
    }

    /// Whether a lane is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.states.iter().any(|state| matches!(state, State::Going(_)))
    }

    /// A lane has gone its way ahead, with this success.
    pub(super) fn went_ahead(&mut self, lane: usize, success: Success) {
        let bond = self.bonds[lane];
        self.ahead[bond] -= 1;
        self.states[lane] = State::Stands;
        self.ended += 1;
        if success == Success::No {
            self.fall(bond);
        } else if self.fallen[bond] {
            self.drop_lane(lane);
        }
    }

    /// A lane has gone its way back.
    pub(super) fn went_back(&mut self, lane: usize) {
        self.states[lane] = State::Back;
        self.ended += 1;
    }

    fn fall(&mut self, bond: usize) {
        self.fallen[bond] = true;
        for lane in 0..self.states.len() {
            if self.bonds[lane] == bond {
                self.drop_lane(lane);
            }
        }
    }

    fn drop_lane(&mut self, lane: usize) {
        if self.states[lane] == State::Stands {
            self.states[lane] = State::Falls;
            self.falling.push(lane);
            self.ended -= 1;
        }
    }

    /// Not while a lane of its bond goes ahead, and not before those that waited for it.
    fn may_go_back(&self, lane: usize) -> bool {
        let waits_for = |(other, after): (usize, &Vec<usize>)| {
            after.contains(&lane) && matches!(self.states[other], State::Falls | State::Going(_) | State::Stands)
        };
        self.ahead[self.bonds[lane]] == 0 && !self.after.iter().enumerate().any(waits_for)
    }
}

/// Whether a lane came to what was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Success {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(after: &[&[usize]], bonds: &[usize]) -> Schedule {
        Schedule::new(after.iter().map(|after| after.to_vec()).collect(), bonds.to_vec(), State::Waiting)
    }

    #[test]
    fn a_vf_waits_for_its_pf_and_goes_back_before_it() {
        let mut plan = schedule(&[&[1], &[]], &[0, 0]);
        assert_eq!(plan.next(), Next::Go(1, Way::Ahead));
        assert_eq!(plan.next(), Next::Wait);
        plan.went_ahead(1, Success::Yes);
        assert_eq!(plan.next(), Next::Go(0, Way::Ahead));
        plan.went_ahead(0, Success::No);
        assert_eq!(plan.next(), Next::Go(0, Way::Back));
        assert_eq!(plan.next(), Next::Wait);
        plan.went_back(0);
        assert_eq!(plan.next(), Next::Go(1, Way::Back));
        plan.went_back(1);
        assert_eq!((plan.next(), plan.ended()), (Next::Over, 2));
    }

    #[test]
    fn a_failure_takes_its_bond_back_and_no_other() {
        let mut plan = schedule(&[&[], &[], &[], &[]], &[0, 1, 0, 0]);
        let went = [plan.next(), plan.next(), plan.next()];
        assert_eq!(went, [0, 1, 2].map(|lane| Next::Go(lane, Way::Ahead)));
        plan.went_ahead(0, Success::No);
        plan.went_ahead(1, Success::Yes);
        assert!(plan.is_called_back(2) && !plan.is_called_back(1));
        // The third lane is still at it, and the fourth is not begun.
        assert_eq!(plan.next(), Next::Wait);
        assert!(plan.is_untried(3));
        plan.went_ahead(2, Success::Yes);
        let mut back = [plan.next(), plan.next()];
        back.sort_by_key(|next| format!("{next:?}"));
        assert_eq!(back, [0, 2].map(|lane| Next::Go(lane, Way::Back)));
        plan.went_back(0);
        plan.went_back(2);
        assert_eq!((plan.next(), plan.ended()), (Next::Over, 4));
    }

    #[test]
    fn all_is_called_back_although_it_stands() {
        let mut plan = schedule(&[&[], &[]], &[0, 1]);
        plan.next();
        plan.went_ahead(0, Success::Yes);
        plan.call_all_back();
        assert_eq!(plan.next(), Next::Go(0, Way::Back));
        plan.went_back(0);
        assert_eq!((plan.next(), plan.is_untried(1)), (Next::Over, true));
    }
}
