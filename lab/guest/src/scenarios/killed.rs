//! vfioadm is killed where nobody chose, and `undo` brings back exactly what was.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::running::{Chance, Ended, Running, all, run, same, seven_vfs};
use super::tool::json;
use crate::machine::Snapshot;
use crate::orders::Counts;
use crate::runner::{Case, Stop};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 2] = [
    Case::told("killed: a bind of 7 VFs at any point, then undo, is as if it had not been", seven).within(1800),
    Case::told("killed: undo itself at any point, then undo again, is as if it had not been", seven_twice).within(1800),
];

/// When the kills came.
#[derive(Default)]
struct Toll {
    seed: u64,
    /// Nothing had been changed yet.
    before: usize,
    /// Something had been, and the program had not ended.
    amid: usize,
    /// It had ended by itself.
    after: usize,
}

impl fmt::Display for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Toll { seed, before, amid, after } = self;
        let all = before + amid + after;
        write!(f, "{all} kills: {before} before the first change, {amid} amid, {after} after the end; seed {seed}")
    }
}

fn seven(counts: Counts) -> Result<String, Stop> {
    bind_killed(&seven_vfs()?, counts.pick(5, 100), counts)
}

fn seven_twice(counts: Counts) -> Result<String, Stop> {
    undo_killed(&seven_vfs()?, counts.pick(3, 30), counts)
}

/// Kills a bind of all of these, undoes it, and compares; `times` times.
pub(crate) fn bind_killed(devices: &[Device], times: usize, counts: Counts) -> Result<String, Stop> {
    command_killed(&all(&["bind"], devices), times, counts)
}

/// Kills a command at any point, undoes it, and compares; `times` times.
pub(crate) fn command_killed(words: &[&str], times: usize, counts: Counts) -> Result<String, Stop> {
    let mut chance = Chance::new();
    let before = Snapshot::take();
    let (length, undo) = undisturbed(words, &before)?;
    let mut toll = Toll { seed: chance.seed(), ..Toll::default() };
    for time in 1..=times {
        let delay = chance.part_of(length);
        let told = |error: String| format!("kill {time} of {times}, after {delay:?}, seed {}: {error}", chance.seed());
        killed(words, delay, &before, &mut toll).map_err(told)?;
        same(&before, "undo").map_err(told)?;
    }
    weigh(&toll, counts)?;
    let (verb, length, undo) = (words.first().unwrap_or(&""), length.as_secs_f64(), undo.as_secs_f64());
    Ok(format!("{toll}\nundisturbed: {verb} {length:.2} s, undo {undo:.2} s"))
}

/// Kills a bind and then its undo, undoes again, and compares; `times` times.
pub(crate) fn undo_killed(devices: &[Device], times: usize, counts: Counts) -> Result<String, Stop> {
    let mut chance = Chance::new();
    let before = Snapshot::take();
    let (bind, undo) = undisturbed(&all(&["bind"], devices), &before)?;
    let mut toll = Toll { seed: chance.seed(), ..Toll::default() };
    for time in 1..=times {
        let (first, second) = (chance.part_of(bind), chance.part_of(undo));
        let told = |error: String| {
            format!("kills {time} of {times}, after {first:?} and {second:?}, seed {}: {error}", chance.seed())
        };
        killed_after(&all(&["bind"], devices), first, &before).map_err(told)?;
        let words = how_to_undo().map_err(told)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        killed(&words, second, &before, &mut toll).map_err(told)?;
        same(&before, "the second undo").map_err(told)?;
    }
    weigh(&toll, counts)?;
    Ok(toll.to_string())
}

/// Runs it, kills it after `delay`, and undoes what it did.
fn killed(words: &[&str], delay: Duration, before: &Snapshot, toll: &mut Toll) -> Result<(), String> {
    let (ended, changed) = killed_after(words, delay, before)?;
    match (ended.code, changed) {
        (Some(_), _) => toll.after += 1,
        (None, true) => toll.amid += 1,
        (None, false) => toll.before += 1,
    }
    let words = how_to_undo()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run(&words)?.expect(0, None)
}

/// Runs it and kills it after `delay`. Says whether the machine was another then.
fn killed_after(words: &[&str], delay: Duration, before: &Snapshot) -> Result<(Ended, bool), String> {
    let running = Running::start(words)?;
    thread::sleep(delay);
    running.signal(Signal::KILL)?;
    let ended = running.end()?;
    if !matches!(ended.code, None | Some(0)) {
        return Err(ended.complaint("it should have succeeded, or been killed"));
    }
    Ok((ended, !before.differences().is_empty()))
}

/// How to take back what the newest operation has done: by its name when it had ended, though nobody was told so any more
/// because the kill came before the result was printed.
fn how_to_undo() -> Result<Vec<String>, String> {
    let log = json(0, &["log"])?;
    let newest = log["operations"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
    let mut words = vec!["undo".to_owned()];
    if newest["state"] == "done" {
        words.extend(newest["id"].as_str().map(str::to_owned));
    }
    Ok(words)
}

/// How long a command and its undo take when nobody disturbs them, and when the modules are there.
fn undisturbed(words: &[&str], before: &Snapshot) -> Result<(Duration, Duration), String> {
    there_and_back(words, before)?;
    there_and_back(words, before)
}

fn there_and_back(words: &[&str], before: &Snapshot) -> Result<(Duration, Duration), String> {
    let started = Instant::now();
    let done = run(words)?;
    let length = started.elapsed();
    done.expect(0, None)?;
    let started = Instant::now();
    run(&["undo", done.operation()?])?.expect(0, None)?;
    let undo = started.elapsed();
    same(before, "undo of what nobody disturbed")?;
    Ok((length, undo))
}

/// Kills that all missed have shown nothing; among a few that may be chance.
fn weigh(toll: &Toll, counts: Counts) -> Result<(), String> {
    if toll.amid == 0 && counts == Counts::Full { Err(format!("no kill hit the middle: {toll}")) } else { Ok(()) }
}
