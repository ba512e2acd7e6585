//! A save or a load is killed where nobody chose, and the device is as good as before.
//!
//! Kills come at a moment drawn from the length of an undisturbed run, at one drawn from the time in which the device's data is
//! on its way, and, so that some are surely amid it, while whoever has the other end of a pipe keeps it waiting.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::Signal;

use super::own_migration::on_variant;
use super::prove::{ports, read_through, write_through};
use super::running::{Chance, Ended, Running};
use super::tool::{VFIOADM, json};
use crate::orders::Counts;
use crate::runner::{Case, Stop};
use crate::sysfs::{Device, names, settle};

pub(crate) const CASES: [Case; 2] = [
    Case::told(
        "state: killed amid save and load, a device of the lab's variant is saved and loaded as before",
        variant,
    )
    .within(3000),
    Case::told("state: killed amid save and load, an mdev of mtty is saved and loaded as before", mtty).within(3000),
];

const FILE: &str = "/run/state";
const AGAIN: &str = "/run/state-again";
const PIPE: &str = "/run/state-pipe";
/// The least that a pipe holds.
const PIPE_BYTES: usize = 4096;
/// So large that there are some pieces of data; every opening and every close of the variant costs as much.
const STATE_BYTES: &str = "state_bytes=8388608";
/// The data's files, as `/proc/<pid>/fd` has them: `lab/kmod`, and `samples/vfio-mdev/mtty.c`.
const STREAMS: [&str; 2] = ["anon_inode:[lab]", "anon_inode:mtty"];
const DEADLINE: Duration = Duration::from_secs(60);
/// How often a run is looked at.
const TICK: Duration = Duration::from_millis(1);
/// What is written to the port whose state is saved.
const BYTE: u8 = 0x5a;

/// When the kills came.
#[derive(Default)]
struct Toll {
    seed: u64,
    /// The data was not on its way, or no more.
    beside: usize,
    /// It was.
    amid: usize,
    /// The program had ended by itself.
    after: usize,
}

impl fmt::Display for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Toll { seed, beside, amid, after } = self;
        let all = beside + amid + after;
        write!(
            f,
            "{all} kills: {amid} with the data on its way, {beside} before or after, {after} too late; seed {seed}"
        )
    }
}

/// A device that is saved, and its sibling that is loaded.
struct Pair {
    from: String,
    to: String,
    /// Whether a device keeps what is in it when it is closed.
    keeps: bool,
}

fn variant(counts: Counts) -> Result<String, Stop> {
    let [from, to, _] = on_variant(&[STATE_BYTES])?;
    let address = |device: &Device| device.address().to_owned();
    Ok(Pair { from: address(&from), to: address(&to), keeps: false }.killed(counts.pick(1, 15))?)
}

fn mtty(counts: Counts) -> Result<String, Stop> {
    let [from, to] = ports()?;
    write_through(&from, BYTE)?;
    Ok(Pair { from, to, keeps: true }.killed(counts.pick(1, 15))?)
}

impl Pair {
    /// Kills each command in each way so many times, and looks at the devices each time.
    fn killed(&self, times: usize) -> Result<String, String> {
        let mut chance = Chance::new();
        let mut toll = Toll { seed: chance.seed(), ..Toll::default() };
        let mut lengths = String::new();
        let save = ["state", "save", &self.from, FILE];
        let early = ["state", "save", &self.from, FILE, "--precopy"];
        let load = ["state", "load", &self.to, FILE];
        for time in 0..times {
            for words in [&save[..], &early, &load] {
                let (length, data) = undisturbed(words)?;
                if time == 0 {
                    let (length, data) = (length.as_secs_f64(), data.as_secs_f64());
                    lengths += &format!("\nundisturbed: {} {length:.2} s, its data {data:.2} s", words.join(" "));
                }
                for (since, delay) in [(Since::Start, chance.part_of(length)), (Since::Data, chance.part_of(data))] {
                    self.after(words, &mut toll, || killed_at(words, since, delay)).map_err(|error| {
                        format!("{words:?}, kill {time}, {delay:?} since {since:?}, seed {}: {error}", chance.seed())
                    })?;
                }
            }
            for words in [&save[..], &early] {
                self.after(words, &mut toll, || self.save_held_up(words))?;
            }
            let part = chance.below(u64::MAX);
            self.after(&load, &mut toll, || self.load_held_up(part)).map_err(|error| format!("{load:?}: {error}"))?;
        }
        // A third of them wait until it is.
        if toll.amid < times * 3 {
            return Err(format!("too few came amid: {toll}"));
        }
        Ok(format!("{toll}{lengths}"))
    }

    /// Kills, and expects that no file is less than whole, that both devices answer, and that a state goes from one to the other.
    fn after(
        &self,
        words: &[&str],
        toll: &mut Toll,
        kill: impl FnOnce() -> Result<Point, String>,
    ) -> Result<(), String> {
        match kill()? {
            Point::Beside => toll.beside += 1,
            Point::Amid => toll.amid += 1,
            Point::After => toll.after += 1,
        }
        let told = |error: String| format!("after {words:?} was killed: {error}");
        json(0, &["state", "info", FILE]).map_err(told)?;
        let known = [FILE, AGAIN, PIPE].map(|path| path.trim_start_matches("/run/"));
        let left = names(Path::new("/run"));
        for name in left.iter().filter(|name| name.starts_with("state") && !known.contains(&name.as_str())) {
            // Named, and killed before it took the place of the file that was there: it has to be whole.
            let path = format!("/run/{name}");
            json(0, &["state", "info", &path]).map_err(told)?;
            fs::remove_file(&path).map_err(|error| format!("remove {path}: {error}"))?;
        }
        for device in [&self.from, &self.to] {
            let inspected = json(0, &["inspect", device]).map_err(told)?;
            if inspected["migration"].is_null() {
                return Err(told(format!("{device} migrates no more: {inspected}")));
            }
        }
        let saved = json(0, &["state", "save", &self.from, AGAIN]).map_err(told)?;
        let loaded = json(0, &["state", "load", &self.to, AGAIN]).map_err(told)?;
        if saved["bytes"] != loaded["bytes"] || saved["bytes"] == 0 {
            return Err(told(format!("saved {saved}, loaded {loaded}")));
        }
        for device in [&self.from, &self.to] {
            let state = json(0, &["state", "info", device]).map_err(told)?;
            if state["migration"]["state"] != "RUNNING" {
                return Err(told(format!("{device}: {state}")));
            }
        }
        match self.keeps.then(|| read_through(&self.to)).transpose()? {
            None | Some(BYTE) => Ok(()),
            Some(other) => Err(told(format!("{BYTE:#x} was saved, and {other:#x} came"))),
        }
    }

    /// Kills a save whose pipe has room for the header alone.
    fn save_held_up(&self, words: &[&str]) -> Result<Point, String> {
        let told = |what: &str, error: &dyn fmt::Display| format!("{what} {PIPE}: {error}");
        drop(fs::remove_file(PIPE));
        rustix::fs::mknodat(CWD, PIPE, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(|errno| told("make", &errno))?;
        let mut pipe = File::options().read(true).write(true).open(PIPE).map_err(|error| told("open", &error))?;
        fcntl_setpipe_size(&pipe, PIPE_BYTES).map_err(|errno| told("shrink", &errno))?;
        let filled = PIPE_BYTES - header_end(&whole()?)? - 1;
        pipe.write_all(&vec![0; filled]).map_err(|error| told("fill", &error))?;
        let words: Vec<&str> = words.iter().map(|word| if *word == FILE { PIPE } else { *word }).collect();
        let running = Running::start(&words)?;
        settle("its data is on its way", DEADLINE, || has_stream(running.pid()))?;
        running.signal(Signal::KILL)?;
        Point::of(&running.end()?, Point::Amid)
    }

    /// Kills a load that has got a part of its file and waits for more.
    fn load_held_up(&self, part: u64) -> Result<Point, String> {
        let (whole, told) = (whole()?, |error: std::io::Error| format!("{VFIOADM}: {error}"));
        let header = header_end(&whole)?;
        let rest = u64::try_from(whole.len() - header - 1).map_err(|error| error.to_string())?;
        let end = header + usize::try_from(part % rest).map_err(|error| error.to_string())?;
        let mut child = Command::new(VFIOADM)
            .args(["-q", "state", "load", &self.to, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(told)?;
        let given = child.stdin.as_mut().map_or(Ok(()), |pipe| pipe.write_all(&whole[..end])).map_err(told);
        let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
        let amid = given.and_then(|()| settle("its data is on its way", DEADLINE, || has_stream(pid)));
        child.kill().map_err(told)?;
        let status = child.wait().map_err(told)?;
        amid?;
        if status.code().is_none() { Ok(Point::Amid) } else { Err(format!("it ended with {status} at byte {end}")) }
    }
}

/// When a kill came.
enum Point {
    Beside,
    Amid,
    After,
}

impl Point {
    /// When it came, of a run that was seen there.
    fn of(ended: &Ended, seen: Point) -> Result<Point, String> {
        match ended.code {
            None => Ok(seen),
            Some(0) => Ok(Point::After),
            Some(_) => Err(ended.complaint("it should have succeeded, or been killed")),
        }
    }
}

/// What a moment is counted from.
#[derive(Debug, Clone, Copy)]
enum Since {
    /// The start of the program.
    Start,
    /// When the device's data is open.
    Data,
}

/// How long a command takes when nobody disturbs it, and for how long it has the device's data open.
fn undisturbed(words: &[&str]) -> Result<(Duration, Duration), String> {
    let started = Instant::now();
    let running = Running::start(words)?;
    let begun = data_begins(&running).then(Instant::now);
    while has_stream(running.pid()) {
        thread::sleep(TICK);
    }
    let data = begun.map(|begun| begun.elapsed()).unwrap_or_default();
    running.end()?.expect(0, None)?;
    Ok((started.elapsed(), data))
}

/// Waits until a program has a device's data open; false when it ended before that was seen.
fn data_begins(running: &Running) -> bool {
    // A child that nobody has waited for has no `exe` any more.
    let process = format!("/proc/{}/exe", running.pid());
    loop {
        if has_stream(running.pid()) {
            return true;
        }
        if fs::read_link(&process).is_err() {
            return false;
        }
        thread::sleep(TICK);
    }
}

fn killed_at(words: &[&str], since: Since, delay: Duration) -> Result<Point, String> {
    let running = Running::start(words)?;
    if matches!(since, Since::Data) {
        data_begins(&running);
    }
    thread::sleep(delay);
    let seen = if has_stream(running.pid()) { Point::Amid } else { Point::Beside };
    running.signal(Signal::KILL)?;
    Point::of(&running.end()?, seen)
}

/// Whether a process has a device's data open.
fn has_stream(pid: i32) -> bool {
    let directory = Path::new("/proc").join(pid.to_string()).join("fd");
    let target = |name: &String| fs::read_link(directory.join(name)).ok().map(|path| path.display().to_string());
    let is_stream = |path: String| STREAMS.iter().any(|stream| path.starts_with(stream));
    names(&directory).iter().filter_map(target).any(is_stream)
}

fn whole() -> Result<Vec<u8>, String> {
    fs::read(FILE).map_err(|error| format!("{FILE}: {error}"))
}

/// Where the header of a state file ends: magic, length and sum are before it.
fn header_end(file: &[u8]) -> Result<usize, String> {
    let length = file.get(8..12).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(u32::from_le_bytes);
    length
        .and_then(|length| usize::try_from(length).ok())
        .map(|length| 16 + length)
        .ok_or_else(|| "no header".to_owned())
}
