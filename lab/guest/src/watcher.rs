//! A `vfioadm watch` that runs while something happens.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::scenarios::tool::VFIOADM;
use crate::sysfs::settle;

const DEADLINE: Duration = Duration::from_secs(60);

/// It runs, and its lines are kept.
pub(crate) struct Watcher {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Watcher {
    /// Starts it. It has looked at the host by the time it has opened the kernel's uevents; nothing is to happen before.
    pub(crate) fn start() -> Result<Watcher, String> {
        let mut child = Command::new(VFIOADM)
            .args(["watch", "-o", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start vfioadm watch: {error}"))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        if let Some(stdout) = child.stdout.take() {
            let kept = Arc::clone(&lines);
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            });
        }
        let watcher = Watcher { child, lines };
        let sockets = format!("/proc/{}/fd", watcher.child.id());
        let listens = || {
            let fds = std::fs::read_dir(&sockets).into_iter().flatten().flatten();
            fds.filter_map(|fd| fd.path().read_link().ok()).any(|to| to.to_string_lossy().starts_with("socket:"))
        };
        settle("watch listens", DEADLINE, listens)?;
        Ok(watcher)
    }

    /// What it has said.
    fn lines(&self) -> Vec<Value> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line.
    pub(crate) fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<(), String> {
        let held = settle(&format!("watch tells: {what}"), DEADLINE, || self.lines().iter().any(&is));
        held.map_err(|reason| format!("{reason}: {:?}", self.lines()))
    }

    /// Ends it, as a user does, and gives all that it has said.
    pub(crate) fn end(mut self, signal: Signal) -> Result<Vec<Value>, String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("a child without a pid")?;
        kill_process(pid, signal).map_err(|errno| format!("send {signal:?} to vfioadm watch: {errno}"))?;
        let status = self.child.wait().map_err(|error| format!("wait for vfioadm watch: {error}"))?;
        match status.signal() {
            Some(by) if by == signal.as_raw() => Ok(self.lines()),
            _ => Err(format!("vfioadm watch: {status}, not ended by {signal:?}")),
        }
    }
}
