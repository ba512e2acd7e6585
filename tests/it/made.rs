//! `create` and `destroy` through the command line: what an operator reads, and what is left of the host.

use insta::assert_snapshot;
use vfioadm::host::fake::{FakeHost, Process};
use vfioadm::host::{Held, HostPath, Open, Read as _};
use vfioadm::model::GroupId;

use crate::create;
use crate::odd_hosts::pci;
use crate::saved::Saved;

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// The demo host with no VFs on its igb PF.
fn bare() -> Saved {
    Saved::of(&create::bare(), |_| ())
}

#[test]
fn an_mdev_that_an_operation_left_halfway_is_that_operations() {
    let saved = Saved::new(|_| ());
    let mut said = saved.say(&[&format!("create mtty mtty-2 --uuid {UUID}")]);
    saved.kill("create-1");
    let before = saved.text();
    said += &saved.say(&[&format!("destroy {UUID}"), &format!("-o json create mtty mtty-2 --uuid {UUID}")]);
    assert_eq!(saved.text(), before, "something was done");
    said += &saved.say(&["undo", &format!("create mtty mtty-2 --uuid {UUID}")]);
    assert_snapshot!(said);
}

#[test]
fn a_vf_that_an_operation_left_halfway_is_that_operations() {
    let saved = bare();
    let mut said = saved.say(&["create 0000:81:00.0 vf --count 2 --driver none", "bind 0000:81:00.0/vf0"]);
    saved.kill("bind-2");
    let before = saved.text();
    said += &saved.say(&["destroy 0000:81:00.0/vf0", "destroy --dry-run 0000:81:00.0/vf0"]);
    assert_eq!(saved.text(), before, "something was done");
    said += &saved.say(&["undo", "destroy 0000:81:00.0/vf0 0000:81:00.0/vf1"]);
    assert_snapshot!(said);
}

fn qemu() -> Process {
    Process::new(4242, "/usr/bin/qemu-system-x86_64 -name guest=web1,debug-threads=on")
}

/// The group of a device, by its directory.
fn group(host: &FakeHost, directory: &str) -> GroupId {
    host.link_name(&HostPath::parse(&format!("{directory}/iommu_group")).unwrap()).unwrap().parse().unwrap()
}

/// A VM has these open when the next command looks.
fn held(saved: &Saved, hold: impl FnOnce(&FakeHost) -> Vec<Box<dyn Held>>) {
    let host = saved.host();
    let _held = hold(&host);
    saved.write(&host, |_| ());
}

#[test]
fn what_a_vm_has_open_is_not_destroyed_and_the_vm_is_named() {
    let saved = bare();
    let uuid = format!("create mtty mtty-2 --uuid {UUID}");
    let mut said = saved.say(&["create 0000:81:00.0 vf --count 2", &uuid]);
    held(&saved, |host| {
        let vf = "0000:81:10.0".parse().unwrap();
        let by_group = Open::GroupDevice(group(host, "/sys/bus/pci/devices/0000:81:10.0"), vf);
        let mdev = Open::Group(group(host, &format!("/sys/bus/mdev/devices/{UUID}")));
        vec![host.hold_as(&qemu(), &by_group).unwrap(), host.hold_as(&qemu(), &mdev).unwrap()]
    });
    let before = saved.text();
    said += &saved.say(&[
        "destroy 0000:81:00.0/vf1 0000:81:00.0/vf0",
        "-o json destroy 0000:81:00.0/vf0",
        &format!("destroy --dry-run {UUID}"),
        "create 0000:81:00.0 vf --count 3 --yes",
        "log",
    ]);
    assert_eq!(saved.text(), before, "something was done");
    said += &saved.say(&["destroy 0000:81:00.0/vf1"]);
    assert_snapshot!(said);
}

#[test]
fn a_pool_that_stays_for_somebodys_vf_is_told_and_ends_with_it() {
    let saved = bare();
    let before = saved.snapshot();
    let said = saved.say(&[
        "create 0000:81:00.0 vf --pool 3",
        "bind 0000:81:00.0/vf1",
        "destroy 0000:81:00.0/vf0",
        "types 0000:81:00.0",
        "destroy 0000:81:00.0/vf1",
        "types 0000:81:00.0",
    ]);
    assert_snapshot!(said);
    assert_eq!(saved.snapshot(), before);
}

#[test]
fn a_parameter_that_cannot_be_set_is_named_as_it_was_given() {
    for (line, said) in [
        ("create mtty mtty-2 --set msix=4", "an mdev of type mtty-2 has no parameter msix"),
        (
            "create 0000:6b:00.0 vf --set msix=4 --set min-rate=10",
            "0000:6b:00.0 has no network interface, and min-rate is set through it",
        ),
        ("create 0000:c1:00.0 vf --set mac=auto", "0000:c1:00.0 is no PF"),
    ] {
        let told = Saved::new(|_| ()).vfioadm(line);
        assert_eq!(told.exit, 1, "{told}");
        assert!(told.err.contains(said), "{told}");
    }
}

#[test]
fn what_would_go_to_make_room_is_named_with_whoever_uses_it() {
    let saved = bare();
    let mut said = saved.say(&[
        "create 0000:81:00.0 vf --count 2 --set mac=52:54:00:00:00:01 --set vlan=100",
        "create 0000:81:00.0 vf --count 1 --set mac=52:54:00:00:00:01 --set vlan=100",
        "create 0000:81:00.0 vf --count 1 --pool 3 --driver host --set trust=on",
    ]);
    held(&saved, |host| {
        let vf = "0000:81:10.0".parse().unwrap();
        let by_group = Open::GroupDevice(group(host, "/sys/bus/pci/devices/0000:81:10.0"), vf);
        vec![host.hold_as(&qemu(), &by_group).unwrap()]
    });
    let before = saved.text();
    said += &saved.say(&["create 0000:81:00.0 vf --count 3", "-o json create 0000:81:00.0 vf --count 3"]);
    assert_eq!(saved.text(), before, "something was done");
    assert_snapshot!(said);
}

#[test]
fn what_a_driver_cannot_set_is_skipped_when_that_is_good_enough() {
    let saved = bare();
    let before = saved.snapshot();
    let mut said = saved.say(&["create 0000:81:00.0 vf --set link-state=enable --set vlan=100"]);
    assert_eq!(saved.snapshot(), before);
    said += &saved.say(&[
        "create 0000:81:00.0 vf --pool 2 --best-effort --set link-state=enable --set vlan=100 --set node-guid=00:11:22:33:44:55:66:77",
        "create 0000:81:00.0 vf --set vlan=7 --set node-guid=00:11:22:33:44:55:66:77",
        "-o json create 0000:81:00.0 vf --best-effort --set vlan=7 --set node-guid=00:11:22:33:44:55:66:77",
        "undo create-4",
        "destroy 0000:81:00.0/vf0",
    ]);
    assert_eq!(saved.snapshot(), before);
    saved.change(|tree| drop(tree.remove(&pci("0000:81:00.0/net"))));
    said += &saved.say(&[
        "create 0000:81:00.0 vf --set mac=auto",
        "create 0000:81:00.0 vf --best-effort --set mac=02:00:00:00:00:01",
    ]);
    assert_snapshot!(said);
}

/// Where the fake keeps what the PF's driver has for a VF.
fn set_behind_its_back(saved: &Saved, index: u16, attribute: &str, value: &str) {
    saved.change(|tree| tree.put_text(&format!("/kernel/links/pci/0000:81:00.0/vfs/{index}/{attribute}"), value));
}

#[test]
fn what_somebody_has_set_since_is_not_taken_back() {
    let saved = bare();
    let before = saved.snapshot();
    let mut said = saved.say(&["create 0000:81:00.0 vf --count 2 --set mac=auto --set vlan=100"]);
    set_behind_its_back(&saved, 0, "vlan", "7 0 802.1Q");
    said += &saved.say(&["undo create-1", "-o json undo create-1", "show 0000:81:00.0/vf0"]);
    set_behind_its_back(&saved, 0, "vlan", "100 0 802.1Q");
    said += &saved.say(&["undo create-1"]);
    assert_snapshot!(said);
    assert_eq!(saved.snapshot(), before);
}

#[test]
fn a_pf_keeps_its_vfs_when_one_of_them_is_somebodys() {
    let saved = bare();
    let before = saved.snapshot();
    let said = saved.say(&[
        "create 0000:81:00.0 vf --pool 3",
        "bind 0000:81:00.0/vf1",
        "undo create-1",
        "unbind -q 0000:81:00.0/vf1",
        "undo create-1",
        "bind --driver none 0000:81:00.0/vf1",
        "undo create-1",
    ]);
    assert_snapshot!(said);
    assert_eq!(saved.snapshot(), before);
}

/// The id of the error that a command ends with, its exit status and what it says. Nothing is changed by it.
fn refused(saved: &Saved, line: &str) -> (u8, String) {
    let before = saved.text();
    let said = saved.vfioadm(line);
    assert_eq!(saved.text(), before, "{line}: something was done: {said}");
    assert!(!said.err.is_empty(), "{line}: without a word");
    if said.exit == 1 {
        let json = saved.vfioadm(&format!("-o json {line}")).json();
        assert_eq!((&json["host"], json["error"]["remedy"].is_string()), (&"as_it_was".into(), true), "{line}: {json}");
    }
    (said.exit, said.err)
}

#[test]
fn bad_input_is_refused_by_name_and_the_host_is_as_it_was() {
    let saved = Saved::new(|_| ());
    let mdev = |uuid: &str| format!("create mtty mtty-2 --uuid {uuid}");
    let short = &UUID[..35];
    let lines: [(&str, u8, &str); 29] = [
        ("create 0000:81:00.0 vf --count 0", 2, "0 is not in 1..=65535"),
        ("create 0000:81:00.0 vf --count 65536", 2, "65536 is not in 1..=65535"),
        ("create 0000:81:00.0 vf --count 8 --yes", 1, "0000:81:00.0 has 7 VFs at most, not 8"),
        ("create 0000:81:00.0 vf --count 3", 1, "0000:81:00.0 has 4 VFs, 2 of them free, not 3"),
        ("create 0000:81:00.0 vf --count 2 --pool 1", 1, "a pool of 1 VF does not hold the 2"),
        (&mdev(short), 2, "not a UUID of 36 characters"),
        (&mdev(&format!("{UUID}0")), 2, "not a UUID of 36 characters"),
        (&mdev("83b8f4f2509f382f3c1ee6bfe0fa1001"), 2, "not a UUID of 36 characters"),
        (&mdev(&format!("urn:uuid:{UUID}")), 2, "not a UUID of 36 characters"),
        (
            &mdev("c2177883-f1bb-47f0-914d-32a22e3a8804"),
            1,
            "there is an mdev c2177883-f1bb-47f0-914d-32a22e3a8804 already",
        ),
        (&format!("{} --count 2", mdev(UUID)), 2, "--uuid is the name of one mdev"),
        (&format!("create 0000:81:00.0 vf --uuid {UUID}"), 2, "--uuid names an mdev"),
        ("create mtty mtty-2 --count 12", 1, "mtty has 11 of mtty-2 left, not 12"),
        ("create mtty mtty-9", 1, "mtty has no mdev type mtty-9"),
        ("create mtty vf", 1, "nothing of type vf can be made of mtty"),
        ("create mtty mtty-2 --pool 3", 2, "--pool is of VFs"),
        ("create mtty mtty-2 --set vlan=5", 1, "an mdev of type mtty-2 has no parameter vlan"),
        ("create 0000:81:00.0 vf --set mac=01:00:5e:00:00:01", 2, "neither zero nor multicast"),
        ("create 0000:81:00.0 vf --set mac=00:00:00:00:00:00", 2, "neither zero nor multicast"),
        ("create 0000:81:00.0 vf --set mac=52:54:00:12:34", 2, "mac takes a MAC address, or auto"),
        ("create 0000:81:00.0 vf --set vlan=4095", 2, "vlan takes 0 to 4094"),
        ("create 0000:81:00.0 vf --set vlan=5 --set vlan=6", 2, "parameter vlan is given twice"),
        (
            "create 0000:81:00.0 vf --set colour=blue",
            2,
            "there are mac (a MAC address, or auto), vlan (0 to 4094; 0 is none)",
        ),
        ("create 0000:81:00.0 vf --set vlan", 2, "not key=value"),
        ("create 0000:81:10.0 vf", 1, "0000:81:10.0 is a VF itself, of 0000:81:00.0"),
        ("create 0000:6b:00.0 vf --count 2", 1, "0000:6b:00.0 has no driver"),
        ("create 0000:c1:00.0 vf", 1, "0000:c1:00.0 is no PF"),
        ("create 0000:ff:00.0 vf", 2, "0000:ff:00.0"),
        ("destroy 0000:81:00.0", 1, "0000:81:00.0 is a function of the hardware"),
    ];
    for (line, exit, words) in lines {
        let (ended, said) = refused(&saved, line);
        assert!(ended == exit && said.contains(words), "{line}: exit {ended}\n{said}");
    }
}

#[test]
fn vfs_that_a_vm_has_do_not_make_room() {
    let saved = bare();
    assert_eq!(saved.vfioadm("create 0000:81:00.0 vf --count 2").exit, 0);
    held(&saved, |host| {
        let vf = "0000:81:10.2".parse().unwrap();
        let by_group = Open::GroupDevice(group(host, "/sys/bus/pci/devices/0000:81:10.2"), vf);
        vec![host.hold_as(&qemu(), &by_group).unwrap()]
    });
    for (line, words) in [
        ("create 0000:81:00.0 vf --count 3", "pid 4242 (qemu-system-x86_64, VM web1) has it open"),
        ("create 0000:81:00.0 vf --count 3 --yes", "pid 4242 (qemu-system-x86_64, VM web1) has it open"),
        ("create 0000:81:00.0 vf --count 3 --yes --allow device-open", "0000:81:10.2 is open"),
    ] {
        let (ended, said) = refused(&saved, line);
        assert!(ended == 1 && said.contains(words), "{line}: exit {ended}\n{said}");
    }
}

#[test]
fn a_vf_is_set_before_its_driver_looks() {
    let saved = Saved::new(|_| ());
    let before = saved.snapshot();
    let said = saved.say(&[
        "check 0000:81:10.0",
        "bind --dry-run --set mac=52:54:00:00:00:07 --set vlan=7 0000:81:10.0",
        "bind -v --set mac=52:54:00:00:00:07 --set vlan=7 0000:81:10.0",
        "check 0000:81:10.0",
        "bind -v --set mac=52:54:00:00:00:07 --set vlan=7 0000:81:10.0",
        "bind -v --set vlan=9 0000:81:10.0",
        "undo -v bind-2",
        "bind --set link-state=enable 0000:81:10.0",
        "bind --set link-state=enable --best-effort 0000:81:10.0",
        "-o json bind --set vlan=9 0000:81:00.0",
        "bind --set mac=52:54:00:00:00:07 0000:81:10.0 0000:81:10.2",
        "bind --set colour=blue 0000:81:10.0",
        "undo bind-1",
    ]);
    assert_snapshot!(said);
    assert_eq!(saved.snapshot(), before);
}

#[test]
fn a_vf_whose_address_came_after_its_driver_is_told() {
    let saved = Saved::new(|tree| {
        tree.put_text(&pci("0000:81:10.0/net/enp129s0v0/address"), "52:54:00:00:00:01");
        tree.put_text("/kernel/links/pci/0000:81:00.0/vfs/0/mac", "52:54:00:00:00:02");
    });
    let said = saved.say(&["check 0000:81:10.0"]);
    assert!(
        said.contains("0000:81:10.0 goes by 52:54:00:00:00:01, and its PF 0000:81:00.0 keeps 52:54:00:00:00:02"),
        "{said}"
    );
}

/// The guest of the lab, recorded: its NVMe PFs make VFs.
#[test]
fn a_pf_whose_driver_leaves_its_vfs_is_told() {
    let guest = FakeHost::from_text(include_bytes!("../../lab/contract/tests/guest.host")).unwrap();
    let saved = Saved::of(&guest, |_| ());
    let said = saved.say(&[
        "check 0000:03:00.0",
        "create 0000:03:00.0 vf --count 2 --driver none",
        "check 0000:03:00.0",
        "bind 0000:03:00.0",
    ]);
    assert_snapshot!(said);
}
