//! Vendors' tools that make VFs ready, as real programs: shell scripts for the VFs of the network PF.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::running::{Running, run, same};
use super::tool::{json, on};
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Verdict};
use crate::sysfs::{Device, names};

pub(crate) const CASES: [Case; 6] = [
    Case::new("hooks: create runs one before the driver looks, and destroy undoes it", there_and_back),
    Case::new("hooks: one that waits for another VF keeps it waiting no more than itself", side_by_side),
    Case::new("hooks: one that fails leaves nothing behind, and what it said is told", fails),
    Case::new("hooks: one that others can write, or that a link leads to, is not run", untrusted),
    Case::new("hooks: one that hangs is killed at its deadline, and leaves nothing behind", hangs).within(300),
    Case::new("hooks: killed with vfioadm amid it, it is undone by undo", killed).within(300),
];

/// What the hook leaves, which is nowhere in the kernel.
const MARKS: &str = "/run/hooked-vfs";
/// What vfioadm remembers.
const NOTES: &str = "/run/vfioadm/hooked";
const HOOKS: &str = "/etc/vfioadm/hooks.d";

/// The hook of the VFs of the network PF, until it is dropped.
struct Hook(PathBuf);

impl Hook {
    /// With these scripts; both may use `$mark`, a file for their VF.
    fn new(set: &str, undo: &str) -> Result<Self, String> {
        // igb's VFs: Intel 82576.
        let hook = Self(Path::new(HOOKS).join("8086:10ca"));
        for directory in [&hook.0, Path::new(MARKS)] {
            fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        hook.put("set", set)?;
        hook.put("undo", undo)?;
        // The guest's is a tmpfs, which everybody may write.
        mode(Path::new("/"), 0o755)?;
        Ok(hook)
    }

    fn put(&self, name: &str, script: &str) -> Result<(), String> {
        let text = format!("#!/bin/sh\nmark={MARKS}/$VFIOADM_VF_INDEX\n{script}\n");
        let path = self.0.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        mode(&path, 0o755)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        for directory in ["/etc/vfioadm", MARKS] {
            fs::remove_dir_all(directory).ok();
        }
    }
}

fn mode(path: &Path, mode: u32) -> Result<(), String> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| format!("{}: {error}", path.display()))
}

/// Expects the machine as it was, and nothing of a hook.
fn nothing_left(before: &Snapshot, after: &str) -> Result<(), String> {
    same(before, after)?;
    for directory in [MARKS, NOTES, "/run/vfioadm/pool"] {
        let left = names(Path::new(directory));
        if !left.is_empty() {
            return Err(format!("after {after}, left in {directory}: {left:?}"));
        }
    }
    Ok(())
}

fn addresses(value: &Value) -> Vec<String> {
    let devices = value["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    devices.iter().filter_map(|device| Some(device["address"].as_str()?.to_owned())).collect()
}

fn destroy(all: &[String]) -> Result<(), String> {
    let words: Vec<&str> = std::iter::once("destroy").chain(all.iter().map(String::as_str)).collect();
    json(0, &words).map(drop)
}

fn text(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

fn there_and_back(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let tell = "env | grep -v -e ^PWD= -e ^OLDPWD= -e ^SHLVL= -e ^_= | sort";
    let driver = "test -e /sys/bus/pci/devices/$1/driver && echo driver";
    let _hook = Hook::new(
        &format!(
            "{{ {tell}; echo \"$@\"; {driver}; /usr/bin/ip link show dev $(ls /sys/bus/pci/devices/$VFIOADM_PF/net); }} > $mark"
        ),
        &format!("{{ {tell}; echo \"$@\"; {driver}; }} > {MARKS}/undone; rm $mark"),
    )?;
    let value = json(0, &["create", pf.address(), "vf", "--set", "mac=52:54:00:00:00:01", "--set", "vlan=7"])?;
    let [vf] = &pf.vfs()[..] else { return Err(format!("{} VFs, not one", pf.vfs().len()).into()) };
    on(vf, Some("vfio-pci"))?;
    let told = |operation: &str| {
        format!(
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nVFIOADM_DEVICE=10ca\nVFIOADM_OPERATION={operation}\nVFIOADM_PF={pf}\n\
             VFIOADM_SET=mac=52:54:00:00:00:01 vlan=7\nVFIOADM_VENDOR=8086\nVFIOADM_VF={vf}\nVFIOADM_VF_INDEX=0\n{vf}\n"
        )
    };
    let set = text(&format!("{MARKS}/0"))?;
    let seen = set.strip_prefix(&told("set")).unwrap_or_default();
    let is_set = |line: &str| line.contains(" vf 0 ") && line.contains("52:54:00:00:00:01") && line.contains("vlan 7");
    if !seen.lines().any(is_set) {
        return Err(format!("set was told, and saw:\n{set}").into());
    }
    destroy(&addresses(&value))?;
    let undone = text(&format!("{MARKS}/undone"))?;
    if undone != told("undo") {
        return Err(format!("undo was told, and saw:\n{undone}").into());
    }
    fs::remove_file(format!("{MARKS}/undone")).map_err(|error| error.to_string())?;
    Ok(nothing_left(&before, "destroy")?)
}

/// The hook of VF 0 ends when VF 1 has its driver: were its lane not to go on meanwhile, both would fail.
fn side_by_side(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let other = format!("/sys/bus/pci/devices/{pf}/virtfn1/driver");
    let _hook = Hook::new(
        &format!("touch $mark; test $VFIOADM_VF_INDEX = 1 || until test -e {other}; do sleep 0.1; done"),
        "rm $mark",
    )?;
    let value = json(0, &["create", pf.address(), "vf", "--count", "2"])?;
    for vf in pf.vfs() {
        on(&vf, Some("vfio-pci"))?;
    }
    destroy(&addresses(&value))?;
    Ok(nothing_left(&before, "destroy")?)
}

fn fails(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let hook = Hook::new("touch $mark; echo no such firmware >&2; test $VFIOADM_VF_INDEX != 1", "rm -f $mark")?;
    let failed = run(&["create", pf.address(), "vf", "--count", "3"])?;
    failed.expect(1, Some("hook-failed"))?;
    let told = failed.complaint("told");
    if !told.contains("exit status: 1: no such firmware") {
        return Err(told.into());
    }
    nothing_left(&before, "a hook that failed")?;
    // A VF that is there, and set for the first time.
    let value = json(0, &["create", pf.address(), "vf"])?;
    hook.put("set", "touch $mark.again; exit 1")?;
    hook.put("undo", "rm -f $mark $mark.again")?;
    let made = addresses(&value);
    let [vf] = &made[..] else { return Err(format!("{} VFs, not one", made.len()).into()) };
    // The former parameters are set again, by the same program, which fails again: it is said.
    run(&["bind", vf, "--set", "vlan=9"])?.expect(3, Some("hook-failed"))?;
    hook.put("set", "touch $mark")?;
    run(&["undo"])?.expect(0, None)?;
    on(&Device::at(vf), Some("vfio-pci"))?;
    destroy(&made)?;
    Ok(nothing_left(&before, "destroy")?)
}

fn untrusted(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let hook = Hook::new("touch $mark", "rm $mark")?;
    let refused = |why: &str| -> Result<(), String> {
        let refused = run(&["create", pf.address(), "vf"])?;
        refused.expect(1, Some("hook-untrusted"))?;
        let told = refused.complaint("told");
        if !told.contains(why) || !told.contains("nothing was tried") {
            return Err(told);
        }
        nothing_left(&before, why)
    };
    let (set, undo) = (hook.0.join("set"), hook.0.join("undo"));
    let directories = [&hook.0, Path::new(HOOKS), Path::new("/etc/vfioadm"), Path::new("/etc"), Path::new("/")];
    for path in [set.as_path(), &undo].into_iter().chain(directories) {
        for bits in [0o775, 0o757] {
            mode(path, bits)?;
            refused("can be written by others than root")?;
        }
        mode(path, 0o755)?;
    }
    std::os::unix::fs::chown(&set, Some(1), None).map_err(|error| error.to_string())?;
    refused("belongs to user 1")?;
    fs::remove_file(&set).map_err(|error| error.to_string())?;
    symlink("undo", &set).map_err(|error| error.to_string())?;
    refused("symbolic link")?;
    Ok(())
}

fn hangs(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let _hook = Hook::new("touch $mark; echo waiting; sleep 1000 & echo $! > /run/hook-pid; sleep 1000", "rm $mark")?;
    let failed = run(&["create", pf.address(), "vf"])?;
    failed.expect(1, Some("hook-failed"))?;
    let told = failed.complaint("told");
    if !told.contains("it still ran and was killed: waiting") {
        return Err(told.into());
    }
    gone(text("/run/hook-pid")?.trim())?;
    Ok(nothing_left(&before, "a hook that hung")?)
}

/// Waits until a process has ended.
fn gone(pid: &str) -> Result<(), String> {
    let (stat, by) = (format!("/proc/{pid}/stat"), Instant::now() + Duration::from_secs(20));
    // A zombie has ended, and is whoever's it was left to.
    while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        if Instant::now() > by {
            return Err(format!("process {pid} of the hook goes on"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn killed(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let pf = Role::Igb.device()?;
    let _hook = Hook::new(
        "touch $mark; echo $$ > /run/hook-pid.new; mv /run/hook-pid.new /run/hook-pid; exec sleep 1000",
        "rm $mark",
    )?;
    fs::remove_file("/run/hook-pid").ok();
    let running = Running::start(&["create", pf.address(), "vf", "--set", "vlan=7"])?;
    let by = Instant::now() + Duration::from_secs(60);
    while !Path::new("/run/hook-pid").exists() {
        if Instant::now() > by {
            return Err(String::from("the hook was not run").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    running.signal(Signal::KILL)?;
    let ended = running.end()?;
    if ended.code.is_some() {
        return Err(ended.complaint("it should have been killed").into());
    }
    gone(text("/run/hook-pid")?.trim())?;
    run(&["undo"])?.expect(0, None)?;
    Ok(nothing_left(&before, "undo")?)
}
