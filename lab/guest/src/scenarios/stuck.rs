//! A write that waits for a holder, seen from outside: who has the lock meanwhile, what the worker has open, and that the
//! user can stop waiting.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::in_use::{By, hold};
use super::tool::{VFIOADM, json, on, refused};
use crate::machine::Role;
use crate::orders::Counts;
use crate::runner::{Case, Verdict};
use crate::sysfs::settle;

/// Less than the worker's deadline.
const PROMPT: Duration = Duration::from_secs(15);

pub(crate) const CASES: [Case; 2] = [
    Case::new("stuck: a second vfioadm is told who has the lock, and the worker has not", told),
    Case::new("stuck: a second signal ends the tool, and the worker goes on alone", interrupted),
];

/// The worker of a running vfioadm.
fn worker_of(tool: &Child) -> Option<u32> {
    let parent = format!("\nPPid:\t{}\n", tool.id());
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut pids =
        pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| s.contains(&parent)));
    pids.find(|pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"vfioadm-worker\0"))
    })
}

/// A vfioadm that unbinds a held device, as it waits for it; ended with the test.
struct Waiting(Child);

impl Waiting {
    fn start(words: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(VFIOADM);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self).map_err(|error| format!("start {VFIOADM}: {error}"))
    }

    fn interrupt(&self) -> Result<(), String> {
        kill_process(Pid::from_child(&self.0), Signal::INT).map_err(|errno| format!("SIGINT: {errno}"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn told(_: Counts) -> Verdict {
    let (device, other) = (Role::Edu.device()?, Role::PdsVf.device()?);
    json(0, &["bind", device.address()])?;
    let held = hold(&device, By::Cdev)?;
    let mut tool = Waiting::start(&["unbind", device.address(), "--request"])?;
    settle("the unbind waits for the holder", PROMPT, || device.driver().is_none() && worker_of(&tool.0).is_some())?;
    let worker = worker_of(&tool.0).ok_or_else(|| "no worker".to_owned())?;

    let second = json(1, &["bind", other.address()])?;
    let message = second["error"]["message"].as_str().unwrap_or_default();
    if second["error"]["id"] != "locked" || !message.contains(&format!("pid {} (", tool.0.id())) {
        return Err(format!("does not say who has the lock: {second}").into());
    }
    let mut open: Vec<_> = fs::read_dir(format!("/proc/{worker}/fd"))
        .map_err(|error| format!("the worker's descriptors: {error}"))?
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    open.sort();
    let others: Vec<_> =
        open.iter().filter(|name| *name != "/dev/null" && *name != "/sys" && !name.ends_with("/unbind")).collect();
    // The way to the tool of the crew, and that of its one worker.
    if others.len() != 2 || !others.iter().all(|socket| socket.starts_with("socket:")) {
        return Err(format!("the worker has open: {open:?}").into());
    }
    drop(held);
    let status = tool.0.wait().map_err(|error| format!("wait: {error}"))?;
    if !status.success() {
        return Err(format!("the unbind of a device that was let go: {status}").into());
    }
    Ok(on(&device, None)?)
}

fn interrupted(_: Counts) -> Verdict {
    let (device, other) = (Role::Edu.device()?, Role::PdsVf.device()?);
    json(0, &["bind", device.address()])?;
    let held = hold(&device, By::Cdev)?;
    let mut tool = Waiting::start(&["unbind", device.address(), "--request"])?;
    settle("the unbind waits for the holder", PROMPT, || device.driver().is_none() && worker_of(&tool.0).is_some())?;
    let worker = worker_of(&tool.0).ok_or_else(|| "no worker".to_owned())?;
    tool.interrupt()?;
    // Two that come at once are one to the kernel.
    std::thread::sleep(Duration::from_millis(200));
    tool.interrupt()?;
    let by = Instant::now() + PROMPT;
    let status = loop {
        match tool.0.try_wait().map_err(|error| format!("wait: {error}"))? {
            Some(status) => break status,
            None if Instant::now() > by => return Err("the tool waits on after two signals".to_owned().into()),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.code() != Some(3) {
        return Err(format!("the host is not as it was, and the tool ended with {status}").into());
    }
    if !fs::exists(format!("/proc/{worker}/fd")).unwrap_or(false) {
        return Err("the worker has gone with the tool".to_owned().into());
    }
    json(0, &["bind", other.address()])?;
    json(0, &["unbind", other.address()])?;
    drop(held);
    settle("the worker ends", PROMPT, || {
        fs::read_to_string(format!("/proc/{worker}/stat")).map_or(true, |stat| stat.contains(") Z "))
    })?;
    refused(&["unbind", device.address()], "unfinished-operation")?;
    json(0, &["undo"])?;
    on(&device, Some("vfio-pci"))?;
    json(0, &["unbind", device.address()])?;
    Ok(on(&device, None)?)
}
