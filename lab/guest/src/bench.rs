//! What vfioadm costs among a thousand functions, against a program that does nothing but the same writes and reads.
//!
//! Every figure is of this run and this machine, and nothing is asserted about time: the guest may be emulated, and only
//! the ratios travel. Tool and raw writer take turns, so that what slows the machine down slows both.
//!
//! `unbind` would give the VFs back to nvme, which is nvme's time and not the tool's; so what is compared is `bind --driver
//! none`, which takes a device from its driver and leaves it without. The raw writer writes what the tool writes then.

mod create;
mod host;
mod rules;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use vfioadm::engine::AT_ONCE;

use crate::orders::Counts;
use crate::runner::{Case, Stop};
use crate::scale::{enable, every_on};
use crate::scenarios::tool::{JOURNALS, VFIOADM, measured};
use crate::sysfs::{Device, names};
use crate::{raw, say};

use rules::{Act, Rules};

pub(crate) const CASES: [Case; 3] = [
    Case::told("bind, take and list: vfioadm and the raw writer, round by round", compare).within(3000),
    Case::told("create: vfioadm, the raw writer, and the way by the native driver", create::compare).within(3000),
    Case::told("host file: apply against create, verify against list", host::compare).within(3000),
];

const ROUNDS: usize = 3;
/// Of the raw writer.
const THREADS: [usize; 4] = [1, 4, 16, 64];
/// Of the raw writer that keeps the rules: as many as vfioadm has lanes.
const RULED_THREADS: usize = AT_ONCE.get();
/// Of vfioadm.
const JOBS: [&str; 7] = ["2", "4", "8", "16", "32", "64", "128"];
/// The word that makes this program the enumerator.
pub(crate) const ENUMERATE: &str = "enumerate";

/// Seconds of one round.
#[derive(Default)]
struct Round {
    raw_bind: Vec<f64>,
    raw_take: Vec<f64>,
    /// By [`rules::run`], for each of [`Rules::EACH`].
    ruled_bind: Vec<f64>,
    ruled_take: Vec<f64>,
    bind: Run,
    take: Run,
    list: f64,
    enumerate: f64,
}

/// Seconds of a run of vfioadm.
#[derive(Debug, Default, Clone, Copy)]
struct Run {
    /// From its start to its end.
    whole: f64,
    /// From the first write to the last settle, by its journal; none when it keeps no journal.
    acting: Option<f64>,
}

fn compare(_: Counts) -> Result<String, Stop> {
    let vfs: Vec<Device> = enable()?.into_values().flatten().collect();
    load("vfio-pci")?;
    let mut rounds = Vec::new();
    for number in 0..ROUNDS {
        let mut round = Round::default();
        // Whoever comes second finds the machine warmer, or more worn.
        if number % 2 == 0 {
            raw_writer(&vfs, &mut round)?;
            tool(&vfs, &mut round)?;
        } else {
            tool(&vfs, &mut round)?;
            raw_writer(&vfs, &mut round)?;
        }
        say(format_args!("bench: round {}: bind {:?}, take {:?}", number + 1, round.bind, round.take));
        rounds.push(round);
    }
    let swept = sweep(&vfs)?;
    let bound = raw::bind(&vfs, 16)?;
    say(format_args!("bench: bound again in {bound:.1} s, to weigh list and bind"));
    let list = measured(&["list"])?.peak_kib;
    raw::take(&vfs, 16)?;
    let addresses: Vec<_> = vfs.iter().map(Device::address).collect();
    let bind = measured(&[&["bind"], &addresses[..]].concat())?.peak_kib;
    Ok(told(&rounds, vfs.len(), [list, bind]) + &swept)
}

/// What the number of lanes at once is chosen from.
fn sweep(vfs: &[Device]) -> Result<String, String> {
    let addresses: Vec<_> = vfs.iter().map(Device::address).collect();
    let mut lines = String::new();
    for jobs in JOBS {
        let mut acting = [0.0; 2];
        for (driver, seconds) in ["vfio-pci", "none"].into_iter().zip(&mut acting) {
            let words = [&["bind", "--jobs", jobs, "--driver", driver], &addresses[..]].concat();
            *seconds = timed(&words)?.acting.unwrap_or(f64::NAN);
        }
        let [bind, take] = acting;
        lines += &format!("\nvfioadm --jobs {jobs:>3}, first write to last settle: bind {bind:.2} s, take {take:.2} s");
    }
    Ok(lines)
}

fn raw_writer(vfs: &[Device], round: &mut Round) -> Result<(), String> {
    for threads in THREADS {
        round.raw_bind.push(raw::bind(vfs, threads)?);
        round.raw_take.push(raw::take(vfs, threads)?);
    }
    for rules in Rules::EACH {
        round.ruled_bind.push(rules::run(Act::Bind, vfs, RULED_THREADS, rules)?);
        round.ruled_take.push(rules::run(Act::Take, vfs, RULED_THREADS, rules)?);
    }
    Ok(())
}

fn tool(vfs: &[Device], round: &mut Round) -> Result<(), String> {
    let addresses: Vec<_> = vfs.iter().map(Device::address).collect();
    round.bind = timed(&[&["bind", "--driver", "vfio-pci"], &addresses[..]].concat())?;
    every_on(vfs, Some("vfio-pci"), "vfio-pci")?;
    round.list = timed(&["list"])?.whole;
    let started = Instant::now();
    succeeds(Command::new("/init").arg(ENUMERATE))?;
    round.enumerate = started.elapsed().as_secs_f64();
    round.take = timed(&[&["bind", "--driver", "none"], &addresses[..]].concat())?;
    every_on(vfs, None, "none")
}

/// Runs `vfioadm WORDS -o json`, which must succeed, and takes its time.
fn timed(words: &[&str]) -> Result<Run, String> {
    let before = newest_journal();
    let started = Instant::now();
    succeeds(Command::new(VFIOADM).args(words).args(["-o", "json"]))?;
    let whole = started.elapsed().as_secs_f64();
    let acting = newest_journal().filter(|journal| Some(journal) != before.as_ref()).and_then(|path| acting(&path));
    Ok(Run { whole, acting })
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("start {}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let first = told.lines().next().unwrap_or_default();
    Err(format!("{}: {}: {first}", command.get_program().display(), output.status))
}

fn newest_journal() -> Option<String> {
    let journals = names(Path::new(JOURNALS)).into_iter().filter(|name| name.ends_with(".jsonl"));
    let age = |name: &String| fs::metadata(Path::new(JOURNALS).join(name)).and_then(|of| of.modified()).ok();
    journals.max_by_key(age)
}

/// From the first act in a journal to the moment when the kernel had shown the last, which its last line tells.
fn acting(journal: &str) -> Option<f64> {
    let text = fs::read_to_string(Path::new(JOURNALS).join(journal)).ok()?;
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let first = lines.iter().find_map(|line| line.get("act").and(line["at"].as_f64()))?;
    Some(lines.iter().find_map(|line| line["settled"].as_f64())? - first)
}

fn load(module: &str) -> Result<(), String> {
    succeeds(Command::new("modprobe").arg(module))
}

/// Of one figure of every round.
fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    middle(rounds.iter().map(of))
}

fn middle(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

fn best(all: &[f64]) -> f64 {
    all.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The figures, in words.
fn told(rounds: &[Round], vfs: usize, [list_kib, bind_kib]: [u64; 2]) -> String {
    let udev = if Path::new("/run/udev/control").exists() { "running" } else { "not running" };
    let mut lines = vec![format!("{vfs} VFs on 2 processors, udevd {udev}; medians of {} rounds", rounds.len())];
    let of = |raw: fn(&Round) -> &[f64]| {
        THREADS.iter().enumerate().map(move |(at, _)| median(rounds, |round| raw(round)[at]))
    };
    let binds: Vec<f64> = of(|round| &round.raw_bind).collect();
    let takes: Vec<f64> = of(|round| &round.raw_take).collect();
    let against = |lines: &mut Vec<String>, what: &str, raw: &[f64], run: fn(&Round) -> Run| {
        for (threads, seconds) in THREADS.iter().zip(raw) {
            lines.push(format!("{what}: raw writer, {threads:2} threads: {seconds:6.2} s"));
        }
        let (best, one) = (best(raw), raw[0]);
        let whole = median(rounds, |round| run(round).whole);
        let mut tell = |name: &str, seconds: f64| {
            let (ratio, faster) = (seconds / best, one / seconds);
            lines.push(format!(
                "{what}: vfioadm, {name}: {seconds:.2} s, {ratio:.2} times the raw writer's best, {faster:.1} times as \
                 fast as one raw thread"
            ));
        };
        if rounds.iter().all(|round| run(round).acting.is_some()) {
            tell("first write to last settle", median(rounds, |round| run(round).acting.unwrap_or(f64::NAN)));
        }
        tell("whole process", whole);
    };
    let ruled = |lines: &mut Vec<String>, what: &str, raw: &[f64], of: fn(&Round) -> (&[f64], Run)| {
        let acting = median(rounds, |round| of(round).1.acting.unwrap_or(f64::NAN));
        for (at, rules) in Rules::EACH.into_iter().enumerate() {
            let seconds = median(rounds, |round| of(round).0[at]);
            let (times, ours) = (seconds / best(raw), acting / seconds);
            lines.push(format!(
                "{what}: raw writer by vfioadm's rules ({}), {RULED_THREADS} threads: {seconds:.2} s, {times:.2} times its \
                 best; vfioadm {ours:.2} times this",
                rules.as_str()
            ));
        }
    };
    lines.push("bind: write driver_override, write drivers/vfio-pci/bind; vfioadm bind --driver vfio-pci".to_owned());
    against(&mut lines, "bind", &binds, |round| round.bind);
    ruled(&mut lines, "bind", &binds, |round| (&round.ruled_bind, round.bind));
    lines.push(
        "take: write driver_override, write drivers/vfio-pci/unbind; vfioadm bind --driver none (unbind would give the VFs \
         to nvme, and the time would be nvme's)"
            .to_owned(),
    );
    against(&mut lines, "take", &takes, |round| round.take);
    ruled(&mut lines, "take", &takes, |round| (&round.ruled_take, round.take));
    let (list, enumerate) = (median(rounds, |round| round.list), median(rounds, |round| round.enumerate));
    lines.push(format!(
        "list -o json of {} functions: {list:.2} s, {:.2} times an enumerator that reads the same attributes ({enumerate:.2} s)",
        Device::all().len(),
        list / enumerate
    ));
    lines.push(format!("peak memory: list {list_kib} KiB, bind of all {bind_kib} KiB"));
    lines.join("\n")
}
