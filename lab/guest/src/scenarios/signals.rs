//! Signals and closed pipes: asked to stop, vfioadm takes back what it did; asked again, it stops at once.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::running::{Chance, Running, all, many, run, same, under_way};
use super::tool::VFIOADM;
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 5] = [
    Case::told("signals: SIGINT amid a bind, and it is taken back", interrupted).within(300),
    Case::told("signals: SIGTERM amid a bind, and it is taken back", terminated).within(300),
    Case::told("signals: SIGHUP amid a bind, and it is taken back", hung_up).within(300),
    Case::told("signals: SIGTERM twice, and it stops; undo takes it back", twice).within(300),
    Case::new("signals: nobody reads the output, and that is no error", unread),
];

/// A signal may come when all is done; then it is tried again.
const ATTEMPTS: usize = 20;

fn interrupted(_: Counts) -> Result<String, Stop> {
    one_signal(&many()?, Signal::INT)
}

fn terminated(_: Counts) -> Result<String, Stop> {
    one_signal(&many()?, Signal::TERM)
}

fn hung_up(_: Counts) -> Result<String, Stop> {
    one_signal(&many()?, Signal::HUP)
}

fn twice(_: Counts) -> Result<String, Stop> {
    two_signals(&many()?)
}

/// Sends a signal amid a bind of all of these.
pub(crate) fn one_signal(devices: &[Device], signal: Signal) -> Result<String, Stop> {
    let before = Snapshot::take();
    for attempt in 1..=ATTEMPTS {
        let running = Running::start(&all(&["bind"], devices))?;
        let amid = under_way(&running, devices)?;
        running.signal(signal)?;
        let ended = running.end()?;
        if !amid || ended.code == Some(0) {
            ended.expect(0, None)?;
            run(&["undo", ended.operation()?])?.expect(0, None)?;
            continue;
        }
        ended.expect(1, Some("interrupted"))?;
        if ended.value["host"] != "as_it_was" {
            return Err(ended.complaint("the host should be as it was").into());
        }
        same(&before, "the signal")?;
        let undone = run(&["undo"])?;
        undone.expect(0, None)?;
        if !undone.value["operation"].is_null() {
            return Err(undone.complaint("nothing should be left to undo").into());
        }
        return Ok(format!("{} devices, attempt {attempt}", devices.len()));
    }
    Err(format!("{ATTEMPTS} binds ended before the signal came").into())
}

/// Sends SIGTERM twice amid a bind of all of these: the second may find that all is taken back already.
pub(crate) fn two_signals(devices: &[Device]) -> Result<String, Stop> {
    let before = Snapshot::take();
    let mut chance = Chance::new();
    for attempt in 1..=ATTEMPTS {
        let running = Running::start(&all(&["bind"], devices))?;
        under_way(&running, devices)?;
        running.signal(Signal::TERM)?;
        // Two at once would be one.
        thread::sleep(Duration::from_millis(2) + chance.part_of(Duration::from_millis(30)));
        running.signal(Signal::TERM)?;
        let ended = running.end()?;
        let left = match ended.code {
            Some(0) => run(&["undo", ended.operation()?])?,
            _ => run(&["undo"])?,
        };
        left.expect(0, None)?;
        same(&before, "undo")?;
        match ended.code {
            Some(0 | 1) => {}
            Some(3) => {
                ended.expect(3, Some("interrupted"))?;
                return Ok(format!("{} devices, attempt {attempt}", devices.len()));
            }
            _ => return Err(ended.complaint("not stopped").into()),
        }
    }
    Err(format!("{ATTEMPTS} binds were taken back before the second signal came").into())
}

fn unread(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    let words =
        [&["list"][..], &["list", "-o", "json"], &["bind", device.address(), "-o", "json"], &["bind", "--help"]];
    for words in words {
        let mut child = Command::new(VFIOADM)
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start vfioadm: {error}"))?;
        drop(child.stdout.take());
        let output = child.wait_with_output().map_err(|error| format!("wait for vfioadm: {error}"))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let harmless = |line: &str| ["warning: ", "  hint: "].iter().any(|word| line.starts_with(word));
        if !output.status.success() || !stderr.lines().all(harmless) {
            return Err(format!("vfioadm {}, unread: {}\n{stderr}", words.join(" "), output.status).into());
        }
    }
    Ok(super::tool::on(&device, Some("vfio-pci"))?)
}
