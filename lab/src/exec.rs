//! Starts the programs that build things: every one under a deadline, with its output in a log and the log's tail in
//! the error.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How much of a log an error quotes.
const TAIL: usize = 15;

/// Runs a program to its end with its output appended to `log`.
pub(crate) fn run(what: &str, command: &mut Command, log: &Path, deadline: Duration) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("{what}: open the log {}", log.display()))?;
    writeln!(file, "## {what}: {command:?}").with_context(|| format!("{what}: write to {}", log.display()))?;
    let errors = file.try_clone().with_context(|| format!("{what}: duplicate the log's descriptor"))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("{what}: start {}", command.get_program().display()))?;
    match wait(&mut child, deadline).with_context(|| format!("{what}: wait for {}", command.get_program().display()))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{what}: {status}\n{}\n  all of it: {}", tail(log), log.display()),
        None => bail!(
            "{what}: not done after {} s, killed\n{}\n  all of it: {}",
            deadline.as_secs(),
            tail(log),
            log.display()
        ),
    }
}

/// Runs a program to its end and returns what it printed.
pub(crate) fn output(what: &str, command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{what}: start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{what}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for a child until a deadline; kills and reaps it when that has passed, and answers `None`.
pub(crate) fn wait(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id of zero")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let timeout = Timespec::try_from(deadline).context("a deadline beyond time_t")?;
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    if poll(&mut fds, Some(&timeout)).context("poll a process")? == 0 {
        drop(child.kill());
        child.wait().context("reap a killed process")?;
        return Ok(None);
    }
    child.wait().map(Some).context("reap a process")
}

/// The last lines of a text file, indented; says so when there are none.
pub(crate) fn tail(path: &Path) -> String {
    let Ok(file) = File::open(path) else { return format!("  ({} cannot be read)", path.display()) };
    let mut kept = VecDeque::with_capacity(TAIL);
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        if kept.len() == TAIL {
            kept.pop_front();
        }
        kept.push_back(format!("  | {}", String::from_utf8_lossy(&line).trim_end()));
    }
    if kept.is_empty() { "  (it printed nothing)".to_owned() } else { Vec::from(kept).join("\n") }
}
