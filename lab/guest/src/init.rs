//! PID 1: from a bare initramfs to a machine on which a suite can run, and to its end.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::CWD;
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};
use vfioadm_wire::Record;

use crate::channel::Channel;
use crate::orders::Orders;
use crate::{runner, say};

/// Left by PID 1 on a file system that no other machine has.
const MARKER: &str = "/run/vfioadm-lab-guest";
/// The kernel starts PID 1 without one.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
const SHELL: &str = "/usr/bin/busybox";
const RECORDING: &str = "/run/guest.host";
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("debugfs", "/sys/kernel/debug"),
    ("securityfs", "/sys/kernel/security"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
];

/// Whether this machine is the lab's guest.
pub(crate) fn is_lab() -> Result<(), String> {
    if Path::new(MARKER).exists() {
        return Ok(());
    }
    Err("this is not the lab's guest: the suites unbind devices without asking, so they run nowhere else".to_owned())
}

/// The word by which a system's unit starts the suites.
pub(crate) const SERVICE: &str = "service";

/// Runs the suites in a system that has a PID 1 of its own; the machine is off afterwards.
pub(crate) fn serve() -> ! {
    match (Channel::open(), Orders::read()) {
        (Ok(mut channel), Ok(orders)) => {
            channel.send(&ready());
            runner::run(&orders, &mut channel);
            channel.send(&Record::End);
        }
        (Ok(mut channel), Err(reason)) => channel.send(&Record::Broken { reason }),
        (Err(reason), _) => say(format_args!("vfioadm-guest: {reason}")),
    }
    off()
}

/// Does what PID 1 does; the machine is off afterwards.
pub(crate) fn run() -> ! {
    let prepared = prepare();
    let mut channel = Channel::open();
    let done = prepared.and_then(|orders| {
        if let Ok(channel) = &mut channel {
            channel.send(&ready());
        }
        match &mut channel {
            _ if orders.shell => shell(),
            Ok(channel) if orders.record => record(channel),
            _ => suites(&orders),
        }
    });
    match (&mut channel, done) {
        (Ok(channel), Ok(())) => channel.send(&Record::End),
        (Ok(channel), Err(reason)) => {
            say(format_args!("init: {reason}"));
            channel.send(&Record::Broken { reason });
        }
        (Err(reason), _) => say(format_args!("init: {reason}")),
    }
    off()
}

fn off() -> ! {
    rustix::fs::sync();
    // Does not return; were it to, the end of PID 1 panics the kernel, and the lab knows what that means.
    reboot(RebootCommand::PowerOff).ok();
    std::process::exit(1)
}

fn prepare() -> Result<Orders, String> {
    for (kind, at) in MOUNTS {
        mount(kind, at, kind, MountFlags::empty(), None).map_err(|error| format!("mount {kind} on {at}: {error}"))?;
    }
    fs::write(MARKER, "").map_err(|error| format!("write {MARKER}: {error}"))?;
    rustix::fs::symlinkat("/proc/self/fd", CWD, "/dev/fd").ok();
    let orders = Orders::read()?;
    if !orders.modules.is_empty() {
        let output = Command::new("/usr/sbin/modprobe")
            .arg("-a")
            .args(&orders.modules)
            .output()
            .map_err(|error| format!("start modprobe: {error}"))?;
        if !output.status.success() {
            // Not the end: a kernel of the user's own may have a driver built in, and the cases say what they miss.
            say(format_args!("init: modprobe: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
        }
    }
    Ok(orders)
}

fn ready() -> Record {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Record::Ready { kernel, uptime }
}

/// Runs the suites in a process of their own, so that their end is not the kernel's.
fn suites(orders: &Orders) -> Result<(), String> {
    if orders.suites.is_empty() {
        return Ok(());
    }
    let mut child =
        Command::new("/init").env("PATH", PATH).spawn().map_err(|error| format!("start the suites: {error}"))?;
    let id = i32::try_from(child.id()).unwrap_or_default();
    loop {
        // Orphans of killed cases end up here and are reaped like the child itself.
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == id => {
                return match status.terminating_signal() {
                    None => Ok(()),
                    Some(signal) => Err(format!("the suites were killed by signal {signal}")),
                };
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                drop(child.kill());
                return Err(format!("wait for the suites: {error}"));
            }
        }
    }
}

/// Sends home what `vfioadm record` makes of this machine.
fn record(channel: &mut Channel) -> Result<(), String> {
    let output = Command::new("/usr/bin/vfioadm")
        .args(["record", RECORDING])
        .env("PATH", PATH)
        .output()
        .map_err(|error| format!("start vfioadm: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "vfioadm record: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        ));
    }
    let text = fs::read_to_string(RECORDING).map_err(|error| format!("read {RECORDING}: {error}"))?;
    channel.send(&Record::File { name: "guest.host".to_owned(), text });
    Ok(())
}

fn shell() -> Result<(), String> {
    say(format_args!("vfioadm is in PATH; `/init SUITE [FILTER]` runs a suite; `exit` powers off"));
    // busybox runs its own tools by name when it is the shell; `setsid -c` gives it job control.
    let status = Command::new(SHELL)
        .args(["setsid", "-c", SHELL, "sh"])
        .env("PATH", PATH)
        .env("HOME", "/")
        .env("TERM", "vt100")
        .env("PS1", "guest# ")
        .status();
    status.map(drop).map_err(|error| format!("start a shell: {error}"))
}
