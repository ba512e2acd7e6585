//! Two vfioadm at once on the same devices: one writes and the other waits or is told who does, and what is left is what one
//! after the other would have left.

use std::thread;
use std::time::{Duration, Instant};

use super::running::{Chance, Ended, Running, all, run, same};
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 3] = [
    Case::told("two writers: one acts, the other acts too or is told who does", told_who).within(1800),
    Case::told("two writers: --wait-lock, and both act, in some order", both).within(1800),
    Case::new("two writers: the second names pid and command of the first", named),
];

/// Two commands that want the same devices otherwise, and a device each for itself.
struct Rivals {
    /// Each with the options that it is given besides.
    words: [Vec<String>; 2],
    before: Snapshot,
    /// About how long one of them takes.
    takes: Duration,
    /// What each alone leaves.
    alone: [Snapshot; 2],
    /// What is left by both, by who was first.
    serial: [Snapshot; 2],
}

impl Rivals {
    fn meet(options: &[&str]) -> Result<Rivals, String> {
        let one = [Role::Edu, Role::Mlx5Vf, Role::PdsVf].map(Role::device);
        let two = [Role::Mlx5Vf, Role::PdsVf, Role::Virtio].map(Role::device);
        let devices = |all: [Result<Device, String>; 3]| all.into_iter().collect::<Result<Vec<_>, _>>();
        let words = |verb: &[&str], devices: &[Device]| {
            all(&[verb, options].concat(), devices).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let words = [words(&["bind"], &devices(one)?), words(&["bind", "--driver", "none"], &devices(two)?)];
        let before = Snapshot::take();
        let left_by = |order: &[usize]| -> Result<Snapshot, String> {
            for at in order {
                run(&borrowed(&words[*at]))?.expect(0, None)?;
            }
            let left = Snapshot::take();
            before.restore()?;
            Ok(left)
        };
        let started = Instant::now();
        let alone = [left_by(&[0])?, left_by(&[1])?];
        let takes = started.elapsed() / 4;
        let serial = [left_by(&[0, 1])?, left_by(&[1, 0])?];
        if serial[0] == serial[1] {
            return Err("both orders leave the same, so this shows nothing".to_owned());
        }
        Ok(Rivals { words, before, takes, alone, serial })
    }

    /// Starts both, and waits for both: every other time together, else at a distance in which the first may end.
    fn fight(&self, time: usize, chance: &mut Chance) -> Result<[Ended; 2], String> {
        let first = time / 2 % 2;
        let one = Running::start(&borrowed(&self.words[first]))?;
        if time % 2 == 1 {
            thread::sleep(chance.part_of(self.takes));
        }
        let two = Running::start(&borrowed(&self.words[1 - first]))?;
        let (one, two) = (one.end()?, two.end()?);
        Ok(if first == 0 { [one, two] } else { [two, one] })
    }

    /// What may be left, when these succeeded.
    fn allowed(&self, succeeded: [bool; 2]) -> Vec<&Snapshot> {
        match succeeded {
            [true, true] => self.serial.iter().collect(),
            [true, false] => vec![&self.alone[0]],
            [false, true] => vec![&self.alone[1]],
            [false, false] => Vec::new(),
        }
    }
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn told_who(counts: Counts) -> Result<String, Stop> {
    let rivals = Rivals::meet(&[])?;
    let mut chance = Chance::new();
    let (mut locked, mut orders) = (0, 0);
    let times = counts.pick(10, 200);
    for time in 0..times {
        let ended = rivals.fight(time, &mut chance)?;
        for one in &ended {
            match one.code {
                Some(0) => one.expect(0, None)?,
                _ => one.expect(1, Some("locked"))?,
            }
        }
        let succeeded = [ended[0].code == Some(0), ended[1].code == Some(0)];
        match succeeded {
            [true, true] => orders += 1,
            _ => locked += 1,
        }
        settle(&rivals, succeeded, time)?;
    }
    Ok(format!("{times} times: {locked} with one told who holds the lock, {orders} with one after the other"))
}

fn both(counts: Counts) -> Result<String, Stop> {
    let rivals = Rivals::meet(&["--wait-lock", "60"])?;
    let mut chance = Chance::new();
    let mut firsts = [0, 0];
    let times = counts.pick(10, 200);
    for time in 0..times {
        for one in rivals.fight(time, &mut chance)? {
            one.expect(0, None)?;
        }
        let now = Snapshot::take();
        for (count, serial) in firsts.iter_mut().zip(&rivals.serial) {
            *count += usize::from(now == *serial);
        }
        settle(&rivals, [true, true], time)?;
    }
    Ok(format!("{times} times: {} as if the one came first, {} as if the other did", firsts[0], firsts[1]))
}

/// Expects one of the states that may be left, and puts the machine back.
fn settle(rivals: &Rivals, succeeded: [bool; 2], time: usize) -> Result<(), String> {
    let allowed = rivals.allowed(succeeded);
    let different: Vec<_> = allowed.iter().map(|state| state.differences()).collect();
    if !different.iter().any(String::is_empty) {
        let told = different.join("\nor\n");
        return Err(format!("fight {}, succeeded {succeeded:?}: an update was lost:\n{told}", time + 1));
    }
    rivals.before.restore()
}

/// A bind of many is slow enough for another to come upon it.
fn named(_: Counts) -> Verdict {
    let (devices, other) = (super::running::many()?, Role::Cx5.device()?);
    let before = Snapshot::take();
    for _ in 0..20 {
        let first = Running::start(&all(&["bind"], &devices))?;
        super::running::under_way(&first, &devices)?;
        let pid = first.pid();
        let second = run(&["bind", "--driver", "none", other.address()])?;
        let ended = first.end()?;
        ended.expect(0, None)?;
        if second.code == Some(0) {
            before.restore()?;
            continue;
        }
        second.expect(1, Some("locked"))?;
        let message = second.value["error"]["message"].as_str().unwrap_or_default();
        if !message.contains(&pid.to_string()) || !message.contains("vfioadm bind") {
            return Err(second.complaint(&format!("the holder is vfioadm bind with pid {pid}")).into());
        }
        before.restore()?;
        return Ok(same(&before, "the fight")?);
    }
    Err(Stop::Fail("the first had always ended before the second began".to_owned()))
}
