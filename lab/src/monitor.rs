//! QEMU's monitor: what a guest cannot do to its own machine, pull a device out and put one in.
//!
//! QMP over a socket that QEMU connects to; lines are those of the monitor for people, `human-monitor-command`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// For one answer, and for one guest to let go of a device.
const DEADLINE: Duration = Duration::from_secs(60);

/// A monitor; nobody speaks to it before the first line.
pub(crate) struct Monitor {
    listener: UnixListener,
    open: Option<BufReader<UnixStream>>,
}

impl Monitor {
    /// That of the QEMU which connects there when it starts.
    pub(crate) fn new(listener: UnixListener) -> Monitor {
        Monitor { listener, open: None }
    }

    /// Has a line carried out. QEMU answers with words when something is wrong with it, and with none otherwise. A `device_del` is
    /// over when the guest has let go of the device, and its name is free again.
    pub(crate) fn run(&mut self, line: &str) -> Result<()> {
        let words = json!({ "execute": "human-monitor-command", "arguments": { "command-line": line } });
        let answer = self.opened().and_then(|qemu| ask(qemu, &words)).with_context(|| format!("QEMU: {line}"))?;
        match answer.as_str().map(str::trim) {
            Some("") => {}
            _ => bail!("QEMU: {line}: {answer}"),
        }
        match line.strip_prefix("device_del ") {
            Some(id) => self.opened().and_then(|qemu| deleted(qemu, id)).with_context(|| format!("QEMU: {line}")),
            None => Ok(()),
        }
    }

    fn opened(&mut self) -> Result<&mut BufReader<UnixStream>> {
        match &mut self.open {
            Some(qemu) => Ok(qemu),
            closed => {
                // It has connected before it started the guest.
                self.listener.set_nonblocking(true).context("set up the monitor's socket")?;
                let (stream, _) = self.listener.accept().context("QEMU has not connected its monitor")?;
                stream.set_nonblocking(false).context("set up the monitor's socket")?;
                stream.set_read_timeout(Some(DEADLINE)).context("set up the monitor's socket")?;
                let mut qemu = BufReader::new(stream);
                read(&mut qemu)?; // its greeting
                ask(&mut qemu, &json!({ "execute": "qmp_capabilities" }))?;
                Ok(closed.insert(qemu))
            }
        }
    }
}

/// Sends a command and waits for its answer; events in between are nobody's.
fn ask(qemu: &mut BufReader<UnixStream>, command: &Value) -> Result<Value> {
    writeln!(qemu.get_mut(), "{command}").context("write to the monitor")?;
    loop {
        let mut said = read(qemu)?;
        if said["error"].is_object() {
            bail!("{}", said["error"]);
        }
        if let Some(answer) = said.get_mut("return") {
            return Ok(answer.take());
        }
    }
}

/// Waits until a device is gone.
fn deleted(qemu: &mut BufReader<UnixStream>, id: &str) -> Result<()> {
    loop {
        let said = read(qemu)?;
        if said["event"] == "DEVICE_DELETED" && said["data"]["device"] == id {
            return Ok(());
        }
    }
}

fn read(qemu: &mut BufReader<UnixStream>) -> Result<Value> {
    let mut line = String::new();
    if qemu.read_line(&mut line).context("read from the monitor")? == 0 {
        bail!("the monitor was closed");
    }
    serde_json::from_str(&line).with_context(|| format!("the monitor said {line:?}"))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A QEMU that knows one line.
    fn qemu(at: &std::path::Path) -> thread::JoinHandle<usize> {
        let stream = UnixStream::connect(at).unwrap();
        thread::spawn(move || {
            let mut to = stream.try_clone().unwrap();
            writeln!(to, r#"{{"QMP": {{}}}}"#).unwrap();
            let mut asked = 0;
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                asked += 1;
                let is_del = line.contains("device_del virtio");
                let answer = match line {
                    line if line.contains("qmp_capabilities") => "{}",
                    _ if is_del => r#""""#,
                    _ => r#""Error: no such thing""#,
                };
                writeln!(to, r#"{{"event": "RTC_CHANGE"}}"#).unwrap();
                writeln!(to, r#"{{"return": {answer}}}"#).unwrap();
                for device in ["other", "virtio"].iter().filter(|_| is_del) {
                    writeln!(to, r#"{{"event": "DEVICE_DELETED", "data": {{"device": "{device}"}}}}"#).unwrap();
                }
            }
            asked
        })
    }

    #[test]
    fn words_are_an_error_and_silence_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monitor");
        let mut monitor = Monitor::new(UnixListener::bind(&path).unwrap());
        let qemu = qemu(&path);
        monitor.run("device_del virtio").unwrap();
        monitor.run("device_del virtio").unwrap();
        let error = monitor.run("device_del other").unwrap_err().to_string();
        assert_eq!(error, r#"QEMU: device_del other: "Error: no such thing""#);
        drop(monitor);
        assert_eq!(qemu.join().unwrap(), 4);
    }

    #[test]
    fn a_qemu_that_has_not_connected_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut monitor = Monitor::new(UnixListener::bind(dir.path().join("monitor")).unwrap());
        let error = format!("{:#}", monitor.run("info pci").unwrap_err());
        assert!(error.starts_with("QEMU: info pci: QEMU has not connected its monitor"), "{error}");
    }
}
