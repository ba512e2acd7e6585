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
