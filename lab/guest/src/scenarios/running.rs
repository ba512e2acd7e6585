//! A run of vfioadm that something happens to before it ends.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::tool::VFIOADM;
use crate::machine::{Role, Snapshot};
use crate::sysfs::Device;

/// For a run of it, and for what has to happen meanwhile. Generous: none of the cases is about time.
const DEADLINE: Duration = Duration::from_secs(120);

/// It runs.
pub(crate) struct Running {
    words: String,
    pid: Pid,
    output: Receiver<std::io::Result<Output>>,
}

/// It has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    words: String,
    /// Its exit status; none when a signal killed it.
    pub(crate) code: Option<i32>,
    /// What it printed; null when that is no JSON.
    pub(crate) value: Value,
    /// Its standard error.
    stderr: String,
}

impl Running {
    /// Starts `vfioadm WORDS -o json`.
    pub(crate) fn start(words: &[&str]) -> Result<Running, String> {
        let name = format!("vfioadm {}", words.join(" "));
        let child = Command::new(VFIOADM)
            .args(words)
            .args(["-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start {name}: {error}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("a child without a pid")?;
        let (sender, output) = channel();
        // Whoever has its standard output open keeps this thread waiting, and `end` says so.
        thread::spawn(move || drop(sender.send(child.wait_with_output())));
        Ok(Running { words: name, pid, output })
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends it a signal; none, when it has ended already.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), String> {
        match kill_process(self.pid, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(format!("send {signal:?} to {}: {errno}", self.words)),
        }
    }

    /// Waits for its end and the end of its output.
    pub(crate) fn end(self) -> Result<Ended, String> {
        let Running { words, output, .. } = self;
        let output = match output.recv_timeout(DEADLINE) {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(format!("wait for {words}: {error}")),
            Err(_) => return Err(format!("{words}: it, or its output, has not ended after {} s", DEADLINE.as_secs())),
        };
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Ended { words, code: output.status.code(), value, stderr })
    }
}

impl Ended {
    /// Its operation's name.
    pub(crate) fn operation(&self) -> Result<&str, String> {
        self.value["operation"].as_str().ok_or_else(|| self.complaint("no operation"))
    }

    /// Expects an exit status and an error; no error, when none is named.
    pub(crate) fn expect(&self, code: i32, error: Option<&str>) -> Result<(), String> {
        if self.code != Some(code) || self.value["error"]["id"].as_str() != error {
            return Err(self.complaint(&format!("not exit {code} with the error {error:?}")));
        }
        Ok(())
    }

    /// What is wrong, and the beginning of all that was printed: of a thousand devices that may be much.
    pub(crate) fn complaint(&self, what: &str) -> String {
        let (error, host) = (&self.value["error"], &self.value["host"]);
        let words: String = self.words.chars().take(200).collect();
        let stderr: String = self.stderr.chars().take(500).collect();
        format!("{words}: {what}: exit {:?}, host {host}, error {error}\n{stderr}", self.code)
    }
}

/// Runs `vfioadm WORDS -o json` to its end.
pub(crate) fn run(words: &[&str]) -> Result<Ended, String> {
    Running::start(words)?.end()
}

/// The words of a command for all of these devices.
pub(crate) fn all<'a>(verb: &[&'a str], devices: &'a [Device]) -> Vec<&'a str> {
    verb.iter().copied().chain(devices.iter().map(Device::address)).collect()
}

/// Waits until a device is not what it was: the operation is under way. False when it ended before that could be seen.
pub(crate) fn under_way(running: &Running, devices: &[Device]) -> Result<bool, String> {
    let look = || devices.iter().map(|device| (device.driver_override(), device.driver())).collect::<Vec<_>>();
    let (before, by) = (look(), Instant::now() + DEADLINE);
    // A child that nobody has waited for has no `cwd` any more.
    let process = format!("/proc/{}/exe", running.pid());
    while Instant::now() < by {
        if look() != before {
            return Ok(true);
        }
        if std::fs::read_link(Path::new(&process)).is_err() {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(format!("{}: nothing happened for {} s", running.words, DEADLINE.as_secs()))
}

/// Expects the machine as it was.
pub(crate) fn same(before: &Snapshot, after: &str) -> Result<(), String> {
    match before.differences() {
        none if none.is_empty() => Ok(()),
        some => {
            let shown: String = some.chars().take(2000).collect();
            Err(format!("after {after} the machine is not as it was:\n{shown}"))
        }
    }
}

/// The seven VFs of the network PF, on their host driver.
pub(crate) fn seven_vfs() -> Result<Vec<Device>, String> {
    let pf = Role::Igb.device()?;
    pf.write("sriov_numvfs", "7")?;
    match pf.vfs() {
        seven if seven.len() == 7 => Ok(seven),
        other => Err(format!("{pf} has {} VFs, not 7", other.len())),
    }
}

/// As many devices as the machine has for this: VFs, groups of one and a group of two, drivers that take and that refuse.
pub(crate) fn many() -> Result<Vec<Device>, String> {
    let mut devices = seven_vfs()?;
    for role in [Role::Edu, Role::E1000, Role::Virtio, Role::Mlx5Vf, Role::QatVf, Role::PdsVf] {
        devices.extend(role.devices());
    }
    Ok(devices)
}

/// Numbers that look like chance, and come again with the same seed (xorshift64).
pub(crate) struct Chance {
    seed: u64,
    state: u64,
}

impl Chance {
    /// From `lab.seed` of the kernel command line, or from the kernel's own chance.
    pub(crate) fn new() -> Chance {
        let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let given = line.split_whitespace().find_map(|word| word.strip_prefix("lab.seed=")?.parse().ok());
        let drawn = || {
            let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
            uuid.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(1)
        };
        let seed = given.unwrap_or_else(drawn).max(1);
        Chance { seed, state: seed }
    }

    /// What to give to `LAB_SEED` to have the same again.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// A part of `whole`, up to a tenth more than all of it.
    pub(crate) fn part_of(&mut self, whole: Duration) -> Duration {
        let thousandths = u32::try_from(self.below(1100)).unwrap_or_default();
        whole * thousandths / 1000
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % end
    }
}
