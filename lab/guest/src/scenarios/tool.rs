//! Runs the shipped binary as a user does, and reads what it printed as a program does.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::sysfs::Device;

/// The binary under test.
pub(crate) const VFIOADM: &str = "/usr/bin/vfioadm";
/// Where it keeps its journals.
pub(crate) const JOURNALS: &str = "/run/vfioadm";

/// What a run of it left.
pub(crate) struct Ran {
    words: String,
    /// Its exit status.
    pub(crate) code: i32,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

/// Runs `vfioadm WORDS`.
pub(crate) fn vfioadm(words: &[&str]) -> Result<Ran, String> {
    if !Path::new(VFIOADM).exists() {
        return Err(format!("no {VFIOADM} in this guest"));
    }
    let words: Vec<_> = words.to_vec();
    let output = Command::new(VFIOADM).args(&words).output().map_err(|error| format!("start {VFIOADM}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().ok_or_else(|| format!("vfioadm {}: {}", words.join(" "), output.status))?;
    Ok(Ran { words: words.join(" "), code, stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

/// What a run left that may print a great deal.
pub(crate) struct Measured {
    /// Its exit status.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) value: Value,
    /// The most memory that it had resident.
    pub(crate) peak_kib: u64,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// Runs `vfioadm WORDS -o json`, and measures it. Its standard error goes to the console.
///
/// The kernel forgets the peak with the process. So it is read before every read of the output: vfioadm cannot end, and
/// its peak is not yet forgotten, while more is to be printed than the pipe holds.
pub(crate) fn measured(words: &[&str]) -> Result<Measured, String> {
    let command = format!("vfioadm {}", words.join(" "));
    let told = |what: &str, error: std::io::Error| format!("{command}: {what}: {error}");
    let started = Instant::now();
    let mut child = Command::new(VFIOADM)
        .args(words)
        .args(["-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| told("start it", error))?;
    let status = format!("/proc/{}/status", child.id());
    let (mut printed, mut peak) = (Vec::new(), None);
    if let Some(stdout) = &mut child.stdout {
        let mut chunk = [0; 4096];
        loop {
            peak = peak.max(fs::read_to_string(&status).ok().as_deref().and_then(peak_of));
            match stdout.read(&mut chunk).map_err(|error| told("read its output", error))? {
                0 => break,
                read => printed.extend_from_slice(&chunk[..read]),
            }
        }
    }
    let code = child.wait().map_err(|error| told("wait for it", error))?.code();
    let seconds = started.elapsed().as_secs_f64();
    let value = serde_json::from_slice(&printed).map_err(|error| format!("{command}: {code:?}, no JSON: {error}"))?;
    let peak_kib = peak.ok_or_else(|| format!("{command}: {status} has no VmHWM"))?;
    Ok(Measured { code, value, peak_kib, seconds })
}

/// `VmHWM:      5432 kB`; a process that has ended has none.
fn peak_of(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// Runs `vfioadm WORDS -o json`, expects that exit status, and returns the object.
pub(crate) fn json(code: i32, words: &[&str]) -> Result<Value, String> {
    let mut all = words.to_vec();
    all.extend(["-o", "json"]);
    let ran = vfioadm(&all)?;
    let value = serde_json::from_str(&ran.stdout).map_err(|error| ran.complaint(&format!("no JSON: {error}")))?;
    if ran.code == code { Ok(value) } else { Err(ran.complaint(&format!("exit {}, expected {code}", ran.code))) }
}

impl Ran {
    /// What is wrong, with all that was printed.
    pub(crate) fn complaint(&self, what: &str) -> String {
        format!("vfioadm {}: {what}\n{}{}", self.words, self.stdout, self.stderr)
    }

    /// Expects an exit status.
    pub(crate) fn exits(self, code: i32) -> Result<Ran, String> {
        if self.code == code { Ok(self) } else { Err(self.complaint(&format!("exit {}, expected {code}", self.code))) }
    }
}

/// The entry of `device` among the `results` of a bind or an unbind.
pub(crate) fn result_of<'a>(value: &'a Value, device: &Device) -> Result<&'a Value, String> {
    let results = value["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    results
        .iter()
        .find(|result| result["address"] == device.address())
        .ok_or_else(|| format!("no result for {device} in {value}"))
}

/// Expects that a refusal names a finding, and that the host is as it was.
pub(crate) fn refused(words: &[&str], finding: &str) -> Result<Value, String> {
    let value = json(1, words)?;
    if value["error"]["id"] != finding {
        return Err(format!("vfioadm {}: refused, but not for {finding}: {value}", words.join(" ")));
    }
    let remedy = value["error"]["remedy"].as_str().unwrap_or_default();
    if remedy.is_empty() {
        return Err(format!("vfioadm {}: refused without a remedy: {value}", words.join(" ")));
    }
    Ok(value)
}

/// Expects that a device was bound to `driver`, by what vfioadm says and by what the kernel shows.
pub(crate) fn bound(value: &Value, device: &Device, driver: &str) -> Result<(), String> {
    let result = result_of(value, device)?;
    if result["driver"] != driver {
        return Err(format!("vfioadm says that {device} went to {}, not to {driver}: {value}", result["driver"]));
    }
    on(device, Some(driver))
}

/// Expects that the kernel shows a driver, or none.
pub(crate) fn on(device: &Device, driver: Option<&str>) -> Result<(), String> {
    let shown = device.driver();
    if shown.as_deref() == driver { Ok(()) } else { Err(format!("{device} is on {shown:?}, not on {driver:?}")) }
}

/// Expects that the kernel shows an override, or none.
pub(crate) fn overridden(device: &Device, value: Option<&str>) -> Result<(), String> {
    let shown = device.driver_override();
    if shown.as_deref() == value { Ok(()) } else { Err(format!("{device} has the override {shown:?}, not {value:?}")) }
}
