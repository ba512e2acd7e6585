//! Teams of hands on the real host, each for a thread that waits for all of its workers in one place.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::hand::{Hand, Listens};
use super::linux::Linux;
use super::wait::Answers;
use super::worker::Crew;
use super::{Clock, Team, Write};

/// How many hands a team has at least, when there are several: fewer are not worth a thread.
const WORTH_A_THREAD: usize = 8;

/// So many hands in all, in a team for each processor.
///
/// Deciding and writing down cost as much time of a processor as the kernel's part of an unbind does, so that one thread would
/// leave the others idle.
pub(super) fn all<'a>(host: &'a Linux, crew: &'a Crew, count: usize) -> Vec<Box<dyn Team + 'a>> {
    crew.expect(count);
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    sizes(count, processors).map(|size| Box::new(Answered::new((host, crew), size)) as Box<dyn Team>).collect()
}

/// How many hands each team has: none has two more than another.
fn sizes(count: usize, processors: usize) -> impl Iterator<Item = usize> {
    let teams = (count / WORTH_A_THREAD).clamp(1, processors.max(1));
    (0..teams).map(move |team| (count + team) / teams)
}

/// A team whose answers come to one place.
struct Answered<'a> {
    host: &'a Linux,
    hands: Vec<Hand<'a>>,
    /// Where nothing can be listened to, each hand waits by itself.
    answers: Option<Arc<Answers>>,
}

impl<'a> Answered<'a> {
    fn new((host, crew): (&'a Linux, &'a Crew), size: usize) -> Self {
        let answers = Answers::new().ok().map(Arc::new);
        let hand = |place| Hand::new(host, crew, answers.clone().map(|answers| Listens { answers, place }));
        let hands = (0..size).map(hand).collect();
        Self { host, hands, answers }
    }
}

impl Team for Answered<'_> {
    fn hands(&self) -> Vec<&dyn Write> {
        self.hands.iter().map(|hand| hand as &dyn Write).collect()
    }

    fn wait(&self, length: Duration) -> Vec<usize> {
        if let Some(answers) = &self.answers {
            return answers.wait(length, self.host.signals.get());
        }
        self.host.nap(length);
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hand_is_in_a_team_and_no_team_is_small() {
        for (count, processors) in [(1, 64), (2, 2), (7, 4), (9, 2), (64, 2), (65, 2), (64, 64), (127, 3), (5, 0)] {
            let sizes: Vec<usize> = sizes(count, processors).collect();
            assert_eq!(sizes.iter().sum::<usize>(), count, "{count} {processors}");
            assert!(sizes.len() <= processors.max(1));
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(most - least <= 1 && (sizes.len() == 1 || *least >= WORTH_A_THREAD), "{sizes:?}");
        }
    }
}
