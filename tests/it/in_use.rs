//! What is said of devices that somebody has open: VMs, programs, and whom `/proc` does not show.

use insta::assert_snapshot;
use vfioadm::host::fake::{FakeHost, Process};
use vfioadm::host::{Blacklist, Claim, Host as _, HostPath, Open, Read as _};

use crate::vfioadm;

const NVME: &str = "0000:c1:00.0";
const VF: &str = "0000:81:10.0";

fn path(text: &str) -> HostPath {
    HostPath::parse(text).unwrap()
}

/// The demo host with these devices on vfio-pci: `vfio1`, `vfio2` and so on.
fn host(devices: &[&str]) -> FakeHost {
    let host = FakeHost::demo().unwrap();
    {
        let lock = host.lock(&Claim::new("a test", &host)).unwrap();
        let hand = lock.hand();
        hand.load_module(&"vfio_pci".parse().unwrap(), Blacklist::Respect).unwrap();
        for device in devices {
            let dir = format!("/sys/bus/pci/devices/{device}");
            hand.write(&path(&format!("{dir}/driver_override")), "vfio-pci").unwrap();
            hand.write(&path(&format!("{dir}/driver/unbind")), device).unwrap();
            hand.write(&path("/sys/bus/pci/drivers/vfio-pci/bind"), device).unwrap();
        }
    }
    host
}

fn qemu() -> Process {
    Process::new(4242, "/usr/bin/qemu-system-x86_64 -name guest=web1,debug-threads=on")
}

fn by_group(host: &FakeHost, device: &str) -> Open {
    let group = host.link_name(&path(&format!("/sys/bus/pci/devices/{device}/iommu_group"))).unwrap();
    Open::GroupDevice(group.parse().unwrap(), device.parse().unwrap())
}

/// What each of the commands says on a host as it is now.
fn said(host: &FakeHost, lines: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("my.host");
    #[expect(clippy::disallowed_methods, reason = "a test writes a recorded host")]
    std::fs::write(&file, host.to_text()).unwrap();
    let say = |line: &&str| format!("$ vfioadm {line}\n{}", vfioadm(&format!("--host {} {line}", file.display())));
    lines.iter().map(say).collect()
}

#[test]
fn a_vm_has_a_device_open() {
    let host = host(&[NVME, VF]);
    let _held = [
        host.hold_as(&qemu(), &Open::BoundCdev("vfio1".parse().unwrap())).unwrap(),
        host.hold_as(&qemu(), &by_group(&host, VF)).unwrap(),
    ];
    let lines = [
        "list --holders 0000:c1:00.0 0000:81:10.* c2177883-f1bb-47f0-914d-32a22e3a8804",
        "list --holders -o json 0000:c1:00.0",
        "show 0000:81:10.0",
        "check 0000:c1:00.0",
        "check --driver host 0000:81:10.0",
        "check 0000:81:00.0",
        "unbind 0000:c1:00.0",
        "unbind -o json 0000:81:10.0",
    ];
    assert_snapshot!(said(&host, &lines));
}

#[test]
fn a_group_is_open_and_no_device_of_it() {
    let host = host(&[NVME]);
    let Open::GroupDevice(group, _) = by_group(&host, NVME) else { panic!("not by group") };
    let dpdk = Process::new(77, "dpdk-testpmd -l 0-1");
    let _held = host.hold_as(&dpdk, &Open::Group(group)).unwrap();
    assert_snapshot!(said(&host, &["show 0000:c1:00.0", "unbind 0000:c1:00.0"]));
}

#[test]
fn a_bar_is_mapped_alone() {
    let host = host(&[NVME]);
    let mapper = Process::new(31, "mapper").with_a_mapping_alone();
    let _held = host.hold_as(&mapper, &by_group(&host, NVME)).unwrap();
    assert_snapshot!(said(&host, &["show 0000:c1:00.0", "unbind 0000:c1:00.0"]));
}

#[test]
fn somebody_in_another_pid_namespace_has_a_device_open() {
    let host = host(&[NVME]);
    let _held = host.hold_as(&qemu(), &by_group(&host, NVME)).unwrap();
    host.edit(|tree| drop(tree.remove("/proc/4242")));
    let lines = [
        "list --holders 0000:c1:00.0",
        "check 0000:c1:00.0",
        "unbind 0000:c1:00.0",
        "unbind 0000:c1:00.0 --allow device-open",
    ];
    assert_snapshot!(said(&host, &lines));
}

#[test]
fn a_program_has_mapped_a_bar_past_vfio() {
    let host = host(&[]);
    host.edit(|tree| {
        tree.put_text("/proc/55/comm", "pcimem");
        tree.put_dir("/proc/55/fd");
        tree.put("/proc/55/maps", "7f-80 rw-s 00000000 00:15 77    /sys/devices/pci0000:80/0000:81:10.0/resource0\n");
    });
    assert_snapshot!(said(&host, &["check 0000:81:10.0", "bind 0000:81:10.0"]));
}

/// A recording of a kernel or tool that did not show the count: the group node tells.
#[test]
fn a_host_without_enable_is_judged_by_its_groups() {
    let host = host(&[NVME, VF]);
    host.edit(|tree| {
        for device in [NVME, VF] {
            tree.remove(&format!("/sys/bus/pci/devices/{device}/enable"));
        }
    });
    let _held = host.hold_as(&qemu(), &by_group(&host, VF)).unwrap();
    assert_snapshot!(said(
        &host,
        &["list --holders 0000:c1:00.0 0000:81:10.0", "unbind 0000:81:10.0", "unbind 0000:c1:00.0"]
    ));
}

#[test]
fn another_device_of_the_group_is_open() {
    let group = ["0000:85:01.0", "0000:85:02.0"];
    let host = host(&group);
    let _held = host.hold_as(&qemu(), &Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    assert_snapshot!(said(&host, &["list --holders 0000:85:*", "unbind 0000:85:02.0"]));
}
