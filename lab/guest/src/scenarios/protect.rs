//! What the host would miss, on a kernel that has it: stacked interfaces, VFs that are given away, ids and interrupts,
//! and the port that makes a group.
//!
//! Open vSwitch, ZFS, multipath, TPMs, displays and other tools' files are shown on recorded hosts
//! (`tests/it/protect.rs`): this guest has none of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tool::{json, refused, vfioadm};
use crate::machine::{Role, disk};
use crate::orders::Counts;
use crate::runner::{Case, Verdict};
use crate::sysfs::{Device, names, write};

pub(crate) const CASES: [Case; 13] = [
    Case::new("protect: a slave of a bond is refused with its bond", bond),
    Case::new("protect: a port of a bridge is refused with its bridge", bridge),
    Case::new("protect: what is stacked on an interface is named", stacked),
    Case::new("protect: the route to the peer of the ssh connection is kept, through sudo too", ssh),
    Case::new("protect: what the machine starts from is kept", boot),
    Case::new("protect: a disk in an MD array is in use", array),
    Case::new("protect: regions are judged by what the kernel prints of them", regions),
    Case::new("protect: the console of the platform is nobody's", console),
    Case::new("protect: a PF stays while its VFs are given away", vfs),
    Case::new("protect: a dynamic id is noted, and ids at load are warned of", ids),
    Case::new("protect: unsafe interrupts are warned of", interrupts),
    Case::new("protect: the port that makes a group is named", isolation),
    Case::new("protect: a recording shows the same findings", recorded),
];

/// The igb and its network interface.
fn nic() -> Result<(Device, String), String> {
    let device = Role::Igb.device()?;
    let name = device.names("net").into_iter().next().ok_or_else(|| format!("{device} has no network interface"))?;
    Ok((device, name))
}

fn run(words: &str) -> Result<(), String> {
    let mut words = words.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).output().map_err(|error| format!("start {program}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()) }
}

/// Something that is taken away again, whatever comes of the case.
struct Away(&'static str);

impl Drop for Away {
    fn drop(&mut self) {
        // What is gone already needs no taking away.
        drop(run(self.0));
    }
}

/// The findings of a check, as `id: message`.
fn findings(words: &[&str]) -> Result<Vec<String>, String> {
    let mut all = vec!["check"];
    all.extend(words);
    all.extend(["-o", "json"]);
    let ran = vfioadm(&all)?;
    let value: serde_json::Value =
        serde_json::from_str(&ran.stdout).map_err(|error| ran.complaint(&format!("no JSON: {error}")))?;
    let rows = value["findings"].as_array().ok_or_else(|| ran.complaint("no findings"))?;
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| format!("{}: {}", text(row, "id"), text(row, "message"))).collect())
}

/// Expects a finding that says `word`.
fn finds(words: &[&str], id: &str, word: &str) -> Result<(), String> {
    let found = findings(words)?;
    if found.iter().any(|line| line.starts_with(&format!("{id}: ")) && line.contains(word)) {
        return Ok(());
    }
    Err(format!("check {}: no {id} with {word:?} in {found:#?}", words.join(" ")))
}

/// Expects that there is none of them.
fn does_not_find(words: &[&str], id: &str) -> Result<(), String> {
    match findings(words)?.into_iter().find(|line| line.starts_with(&format!("{id}: "))) {
        None => Ok(()),
        Some(line) => Err(format!("check {}: {line}", words.join(" "))),
    }
}

fn bond(_: Counts) -> Verdict {
    let (device, name) = nic()?;
    run("modprobe bonding max_bonds=0")?;
    let _bond = Away("ip link delete bond7");
    write(Path::new("/sys/class/net/bonding_masters"), "+bond7")?;
    write(Path::new("/sys/class/net/bond7/bonding/slaves"), &format!("+{name}"))?;
    finds(&[device.address()], "netdev-enslaved", &format!("{name}, which is a slave of bond bond7"))?;
    let lifted = "netdev-up,default-route";
    let value = refused(&["bind", device.address(), "--allow", lifted], "netdev-enslaved")?;
    // The remedy is what a person types.
    let remedy = value["error"]["remedy"].as_str().unwrap_or_default();
    let (_, command) = remedy.split_once(": ").ok_or_else(|| format!("no command in {remedy:?}"))?;
    run(command.split(';').next().unwrap_or_default())?;
    Ok(does_not_find(&[device.address()], "netdev-enslaved")?)
}

fn bridge(_: Counts) -> Verdict {
    let (device, name) = nic()?;
    let _bridge = Away("ip link delete br7");
    run("ip link add br7 type bridge")?;
    run(&format!("ip link set {name} master br7"))?;
    finds(&[device.address()], "netdev-enslaved", &format!("{name}, which is a port of bridge br7"))?;
    refused(&["bind", device.address()], "netdev-enslaved")?;
    run("ip link delete br7")?;
    Ok(does_not_find(&[device.address()], "netdev-enslaved")?)
}

fn stacked(_: Counts) -> Verdict {
    let (device, name) = nic()?;
    let _vlan = Away("ip link delete vlan7");
    let _macvlan = Away("ip link delete macvlan7");
    run(&format!("ip link add link {name} name vlan7 type vlan id 7"))?;
    run(&format!("ip link add link {name} name macvlan7 type macvlan"))?;
    for upper in ["vlan7", "macvlan7"] {
        finds(&[device.address()], "netdev-enslaved", upper)?;
    }
    finds(&[device.address()], "netdev-enslaved", "below vlan vlan7")?;
    Ok(refused(&["bind", device.address()], "netdev-enslaved").map(drop)?)
}

/// A shell that was started with `SSH_CONNECTION`, and vfioadm as its child without it: as through sudo.
fn ssh(_: Counts) -> Verdict {
    let (device, name) = nic()?;
    run(&format!("ip address add 192.0.2.1/24 dev {name}"))?;
    run(&format!("ip link set {name} up"))?;
    let run_from = |peer: &str| -> Result<bool, String> {
        let line = format!("env -u SSH_CONNECTION /usr/bin/vfioadm -o json check {}; true", device.address());
        let output = Command::new("/usr/bin/busybox")
            .args(["sh", "-c", &line])
            .env("SSH_CONNECTION", format!("{peer} 50000 192.0.2.1 22"))
            .output()
            .map_err(|error| format!("start a shell: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !text.contains("netdev-up") {
            return Err(format!("no findings in {text}{}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(text.contains("ssh-route") && text.contains(peer))
    };
    let found = run_from("192.0.2.77");
    let elsewhere = [run_from("198.51.100.7"), run_from("192.0.2.1")];
    run(&format!("ip address flush dev {name}"))?;
    if !found? {
        return Err("the way to the ssh peer is not refused".to_owned().into());
    }
    for other in elsewhere {
        if other? {
            return Err("an ssh peer that is reached otherwise is refused".to_owned().into());
        }
    }
    Ok(())
}

/// An array without a level that runs: being in it is enough.
fn array(_: Counts) -> Verdict {
    let device = Role::NvmeDisk.device()?;
    let node = disk()?;
    let name = node.trim_start_matches("/dev/");
    let number = fs::read_to_string(format!("/sys/class/block/{name}/dev")).unwrap_or_default();
    let md = PathBuf::from("/sys/class/block/md7/md");
    write(Path::new("/sys/module/md_mod/parameters/new_array"), "md7")?;
    for (attribute, value) in [("metadata_version", "none"), ("level", "raid1"), ("new_dev", number.trim_end())] {
        write(&md.join(attribute), value)?;
    }
    let found = finds(&[device.address()], "block-in-use", &format!("{name}, held by md7 (MD raid1)"));
    let refusal = refused(&["bind", device.address()], "block-in-use");
    write(&md.join("array_state"), "clear")?;
    found?;
    refusal?;
    Ok(does_not_find(&[device.address()], "block-in-use")?)
}

/// QEMU's VT-d has no region that is mapped directly for good; the chipset's ISA bridge has a relaxable one on some kernels.
fn regions(_: Counts) -> Verdict {
    let groups = Path::new("/sys/kernel/iommu_groups");
    let text = |group: &String| fs::read_to_string(groups.join(group).join("reserved_regions")).unwrap_or_default();
    let all: String = names(groups).iter().map(text).collect();
    let kinds: Vec<_> = all.lines().filter_map(|line| line.split(' ').nth(2)).map(str::trim).collect();
    if !kinds.contains(&"msi") {
        return Err(format!("no region for interrupts in {all:?}").into());
    }
    if kinds.contains(&"direct") {
        return Err(format!("a region is mapped directly, and this case does not expect it: {all}").into());
    }
    Ok(does_not_find(&[], "direct-region")?)
}

/// There is no EFI in the guest: what is mounted tells.
fn boot(_: Counts) -> Verdict {
    let device = Role::NvmeDisk.device()?;
    let node = disk()?;
    let boot = "/boot";
    fs::create_dir_all(boot).map_err(|error| format!("make {boot}: {error}"))?;
    run(&format!("/usr/bin/busybox mount -t ext4 {node} {boot}"))?;
    let found = finds(&[device.address()], "holds-boot", "mounted on /boot");
    let refusal = refused(&["bind", device.address(), "--allow", "block-in-use"], "holds-boot");
    run(&format!("/usr/bin/busybox umount {boot}"))?;
    found?;
    refusal?;
    Ok(does_not_find(&[device.address()], "holds-boot")?)
}

fn console(_: Counts) -> Verdict {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    if !active.contains("ttyS0") {
        return Err(format!("the guest's console is {active:?}, not ttyS0").into());
    }
    Ok(does_not_find(&[], "console")?)
}

fn vfs(_: Counts) -> Verdict {
    let (pf, _) = nic()?;
    pf.write("sriov_drivers_autoprobe", "0")?;
    pf.write("sriov_numvfs", "2")?;
    does_not_find(&[pf.address()], "vfs-in-vms")?;
    let vf = pf.vfs().into_iter().next().ok_or_else(|| format!("{pf} has no VF"))?;
    json(0, &["bind", vf.address()])?;
    finds(&[pf.address()], "vfs-in-vms", &format!("{vf} on "))?;
    finds(&["--driver", "host", pf.address()], "vfs-in-vms", vf.address())?;
    let lifted = "vfs-enabled,netdev-up";
    refused(&["bind", pf.address(), "--driver", "none", "--yes", "--allow", lifted], "vfs-in-vms")?;
    json(0, &["unbind", vf.address()])?;
    Ok(does_not_find(&[pf.address()], "vfs-in-vms")?)
}

fn ids(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    run("modprobe vfio-pci")?;
    let drivers = PathBuf::from("/sys/bus/pci/drivers/vfio-pci");
    write(&drivers.join("new_id"), "1234 11e8")?;
    let found = match device.driver().as_deref() {
        Some("vfio-pci") => finds(&[device.address()], "dynamic-id", "without an override"),
        other => Err(format!("new_id did not bind {device}: it is on {other:?}")),
    };
    write(&drivers.join("remove_id"), "1234 11e8")?;
    found?;
    let conf = "/etc/modprobe.d/vfio-lab.conf";
    fs::create_dir_all("/etc/modprobe.d").map_err(|error| format!("make /etc/modprobe.d: {error}"))?;
    fs::write(conf, "options vfio-pci ids=1234:11e8\n").map_err(|error| format!("write {conf}: {error}"))?;
    let found = finds(&[device.address()], "vfio-pci-ids", conf);
    fs::remove_file(conf).map_err(|error| format!("remove {conf}: {error}"))?;
    found?;
    does_not_find(&[device.address()], "vfio-pci-ids")?;
    device.unbind()?;
    json(0, &["bind", device.address()])?;
    Ok(does_not_find(&[device.address()], "dynamic-id")?)
}

fn interrupts(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    run("modprobe vfio_iommu_type1")?;
    for module in ["vfio_iommu_type1", "iommufd"] {
        let path = PathBuf::from(format!("/sys/module/{module}/parameters/allow_unsafe_interrupts"));
        does_not_find(&[device.address()], "unsafe-interrupts")?;
        write(&path, "Y")?;
        let found = finds(&[device.address()], "unsafe-interrupts", module);
        write(&path, "N")?;
        found?;
    }
    Ok(())
}

fn isolation(_: Counts) -> Verdict {
    let device = Role::E1000.device()?;
    let group = device.group();
    let bridge = group.iter().find(|member| member.read("class").starts_with("0x0604"));
    let bridge = bridge.ok_or_else(|| format!("no bridge in {group:?}"))?;
    if bridge.read("power/runtime_status") != "active" {
        bridge.write("power/control", "on")?;
    }
    let words = format!("{bridge} (PCIe-to-PCI bridge) leads to conventional PCI");
    finds(&[device.address()], "group-not-viable", &words)?;
    let shown = json(0, &["show", device.address()])?;
    if !shown["isolation"].as_str().is_some_and(|text| text.contains(&words)) {
        return Err(format!("show {device} does not say why its group is one: {}", shown["isolation"]).into());
    }
    let alone = json(0, &["show", Role::Edu.device()?.address()])?;
    if !alone["isolation"].is_null() {
        return Err(format!("edu is alone in its group, and show explains it: {alone}").into());
    }
    let lpc = json(0, &["show", Role::Lpc.device()?.address()])?;
    if !lpc["isolation"].as_str().is_some_and(|text| text.contains("one device of several functions")) {
        return Err(format!("the chipset's group is not explained: {}", lpc["isolation"]).into());
    }
    Ok(())
}

/// What the live machine shows, its recording shows.
fn recorded(_: Counts) -> Verdict {
    const RECORDING: &str = "/tmp/protect.host";
    let ((pf, name), edu, e1000) = (nic()?, Role::Edu.device()?, Role::E1000.device()?);
    let _bridge = Away("ip link delete br7");
    let _vlan = Away("ip link delete vlan7");
    run("ip link add br7 type bridge")?;
    run(&format!("ip link set {name} master br7"))?;
    run("ip link add link br7 name vlan7 type vlan id 7")?;
    let devices = [pf.address(), edu.address(), e1000.address()];
    let live = findings(&devices)?;
    vfioadm(&["record", RECORDING])?.exits(0)?;
    let mut words = vec!["--host", RECORDING];
    words.extend(devices);
    let again = findings(&words)?;
    if live == again && live.iter().any(|line| line.contains("a port of bridge br7")) {
        return Ok(());
    }
    Err(format!("live: {live:#?}\nrecorded: {again:#?}").into())
}
