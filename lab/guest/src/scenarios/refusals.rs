//! What vfioadm will not do, and that it leaves no trace of not doing it.

use std::fs;
use std::process::Command;

use rustix::mount::{MountFlags, mount};

use super::tool::{json, refused, vfioadm};
use crate::machine::{MOUNT_POINT, Role, Snapshot, disk};
use crate::orders::Counts;
use crate::runner::{Case, Verdict};

pub(crate) const CASES: [Case; 8] = [
    Case::new("refuse: one of two functions behind a bridge", alone),
    Case::new("refuse: the chipset's group", chipset),
    Case::new("refuse: an NVMe with a mounted file system", mounted),
    Case::new("refuse: a network interface that is up", netdev_up),
    Case::new("refuse: a PF with VFs enabled", vfs_enabled),
    Case::new("refuse: a bridge", bridge),
    Case::new("exit 2: what is no device, no driver, no flag", misused),
    Case::new("dry run: says what it would do and does nothing", dry_run),
];

/// Expects a refusal and an untouched machine.
fn untouched(words: &[&str], finding: &str) -> Verdict {
    let before = Snapshot::take();
    refused(words, finding)?;
    same(&before)
}

fn same(before: &Snapshot) -> Verdict {
    match before.differences() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("the machine was touched:\n{some}").into()),
    }
}

fn alone(_: Counts) -> Verdict {
    let device = Role::E1000.device()?;
    untouched(&["bind", device.address()], "group-not-viable")
}

fn chipset(_: Counts) -> Verdict {
    let before = Snapshot::take();
    for device in Role::Lpc.device()?.group() {
        for words in [&["bind", device.address()][..], &["bind", device.address(), "--with-group"]] {
            // The LPC controller is a bridge before it is anything else; either reason will do for it.
            let value = json(1, words)?;
            if !["chipset", "not-endpoint"].iter().any(|id| value["error"]["id"] == *id) {
                return Err(format!("refused, but not for the chipset: {value}").into());
            }
        }
    }
    same(&before)
}

fn mounted(_: Counts) -> Verdict {
    let device = Role::NvmeDisk.device()?;
    let disk = disk()?;
    mount(&disk, MOUNT_POINT, "ext4", MountFlags::empty(), None)
        .map_err(|error| format!("mount {disk} on {MOUNT_POINT}: {error}"))?;
    fs::write(format!("{MOUNT_POINT}/file"), "kept").map_err(|error| format!("write to {MOUNT_POINT}: {error}"))?;
    untouched(&["bind", device.address()], "block-in-use")?;
    // One finding lifted does not lift another.
    untouched(&["bind", device.address(), "--allow", "netdev-up"], "block-in-use")
}

fn netdev_up(_: Counts) -> Verdict {
    let device = Role::Igb.device()?;
    let name = device.names("net").into_iter().next().ok_or_else(|| format!("{device} has no network interface"))?;
    let answer = Command::new("ip").args(["link", "set", &name, "up"]).output();
    let answer = answer.map_err(|error| format!("start ip: {error}"))?;
    if !answer.status.success() {
        return Err(format!("ip link set {name} up: {}", String::from_utf8_lossy(&answer.stderr)).into());
    }
    untouched(&["bind", device.address()], "netdev-up")?;
    untouched(&["bind", &name], "netdev-up")
}

fn vfs_enabled(_: Counts) -> Verdict {
    let device = Role::Igb.device()?;
    device.write("sriov_numvfs", "2")?;
    untouched(&["bind", device.address()], "vfs-enabled")
}

fn bridge(_: Counts) -> Verdict {
    let members = Role::E1000.device()?.group();
    let bridge = members.iter().find(|member| member.read("class").starts_with("0x0604"));
    let bridge = bridge.ok_or_else(|| format!("no bridge in {members:?}"))?;
    untouched(&["bind", bridge.address()], "not-endpoint")
}

fn misused(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let device = Role::Edu.device()?;
    let long = "x".repeat(5000);
    let edu = device.address();
    for words in [
        &["bind"][..],
        &["bind", "garbage:zz"],
        &["bind", edu, "--driver", "a/b"],
        &["bind", edu, "--driver", &long],
        &["bind", edu, "--allow", "no-such-finding"],
        &["bind", edu, "--no-such-flag"],
        &["match", "--modalias", "garbage"],
    ] {
        vfioadm(words)?.exits(2)?;
    }
    same(&before)
}

fn dry_run(_: Counts) -> Verdict {
    let before = Snapshot::take();
    let device = Role::Mlx5Vf.device()?;
    let ran = vfioadm(&["bind", device.address(), "--dry-run"])?.exits(0)?;
    if !format!("{}{}", ran.stdout, ran.stderr).contains("mlx5_vfio_pci") {
        return Err(ran.complaint("does not say which driver").into());
    }
    json(0, &["bind", device.address(), "--dry-run"])?;
    same(&before)
}
