//! Every source, on the demo host with two devices on vfio-pci: `vfio1` and `vfio2`.

use std::sync::Mutex;

use super::*;
use crate::discover::inventory;
use crate::host::fake::{FakeHost, Process};
use crate::host::{Blacklist, Claim, Held, Host as _, HostError, Open, Verb};

const NVME: &str = "0000:c1:00.0";
const VF: &str = "0000:81:10.0";
/// On its host driver.
const NIC: &str = "0000:89:00.0";
const QEMU: &str = "/usr/bin/qemu-system-x86_64 -name guest=web1,debug-threads=on -S";

fn path(text: &str) -> HostPath {
    HostPath::parse(text).unwrap()
}

fn host() -> FakeHost {
    let host = FakeHost::demo().unwrap();
    {
        let lock = host.lock(&Claim::new("a test", &host)).unwrap();
        let hand = lock.hand();
        hand.load_module(&"vfio_pci".parse().unwrap(), Blacklist::Respect).unwrap();
        for device in [NVME, VF] {
            let dir = format!("/sys/bus/pci/devices/{device}");
            hand.write(&path(&format!("{dir}/driver_override")), "vfio-pci").unwrap();
            hand.write(&path(&format!("{dir}/driver/unbind")), device).unwrap();
            hand.write(&path("/sys/bus/pci/drivers/vfio-pci/bind"), device).unwrap();
        }
    }
    host
}

/// The same with a kernel that has no `vfio-device-syspath:`.
fn older() -> FakeHost {
    let host = host();
    host.edit(|tree| tree.put_text("/proc/sys/kernel/osrelease", "6.12.48"));
    host
}

fn group(host: &FakeHost, device: &str) -> GroupId {
    host.link_name(&path(&format!("/sys/bus/pci/devices/{device}/iommu_group"))).unwrap().parse().unwrap()
}

fn by_group(host: &FakeHost, device: &str) -> Open {
    Open::GroupDevice(group(host, device), device.parse().unwrap())
}

fn cdev(name: &str) -> Open {
    Open::BoundCdev(name.parse().unwrap())
}

fn hold(host: &FakeHost, process: &Process, what: &Open) -> Box<dyn Held> {
    host.hold_as(process, what).unwrap()
}

/// Who holds a device: `pid 4242 (qemu-system-x86_64, VM web1) cdev`.
fn holders(host: &dyn Read, device: &str) -> Vec<String> {
    let device: Address = device.parse().unwrap();
    let found = Holders::read(host, &inventory(host).unwrap(), &[device.clone()].into());
    found.of(&device).iter().map(|holder| format!("{holder} {}", holder.how.as_str())).collect()
}

/// A host whose reads are written down, and of which some are refused.
struct Watched<'a> {
    host: &'a FakeHost,
    seen: Mutex<Vec<String>>,
    refused: Option<(&'static str, Errno)>,
}

impl<'a> Watched<'a> {
    fn new(host: &'a FakeHost, refused: Option<(&'static str, Errno)>) -> Self {
        Self { host, seen: Mutex::default(), refused }
    }

    fn pass(&self, path: &HostPath) -> Result<(), HostError> {
        self.seen.lock().unwrap().push(path.to_string());
        match self.refused {
            Some((part, errno)) if path.to_string().contains(part) => {
                Err(HostError::new(Verb::Read, path.clone(), errno))
            }
            _ => Ok(()),
        }
    }

    fn has_seen(&self, part: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|path| path.contains(part))
    }
}

impl Read for Watched<'_> {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        self.pass(path).and_then(|()| self.host.read(path))
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        self.pass(path).and_then(|()| self.host.link(path))
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        self.pass(path).and_then(|()| self.host.list(path))
    }
}

#[test]
fn a_vm_is_named_by_what_libvirt_calls_it() {
    let host = host();
    assert_eq!(holders(&host, NVME), [""; 0]);
    let held = hold(&host, &Process::new(4242, QEMU), &cdev("vfio1"));
    assert_eq!(holders(&host, NVME), ["pid 4242 (qemu-system-x86_64, VM web1) cdev"]);
    assert_eq!(holders(&host, VF), [""; 0]);
    drop(held);
    assert_eq!(holders(&host, NVME), [""; 0]);
}

#[test]
fn a_group_node_is_told_from_a_device_of_the_group() {
    for host in [host(), older()] {
        let dpdk = Process::new(77, "dpdk-testpmd -a 0000:c1:00.0");
        let held = hold(&host, &dpdk, &Open::Container(group(&host, NVME)));
        assert_eq!(holders(&host, NVME), ["pid 77 (dpdk-testpmd) group"]);
        drop(held);
        let _held = hold(&host, &dpdk, &by_group(&host, NVME));
        assert_eq!(holders(&host, NVME), ["pid 77 (dpdk-testpmd) device"]);
        assert_eq!(holders(&host, VF), [""; 0]);
    }
}

#[test]
fn two_vms_by_their_groups_are_not_mixed_up() {
    for host in [host(), older()] {
        let _one = hold(&host, &Process::new(10, "qemu-kvm -name one"), &by_group(&host, NVME));
        let _two = hold(&host, &Process::new(20, "qemu-kvm -name guest=two"), &by_group(&host, VF));
        assert_eq!(holders(&host, NVME), ["pid 10 (qemu-kvm, VM one) device"]);
        assert_eq!(holders(&host, VF), ["pid 20 (qemu-kvm, VM two) device"]);
    }
}

#[test]
fn a_mapped_bar_alone_is_found() {
    let host = host();
    let mapper = |pid| Process::new(pid, "mapper").with_a_mapping_alone();
    let held = hold(&host, &mapper(31), &cdev("vfio1"));
    assert_eq!(holders(&host, NVME), ["pid 31 (mapper) mapping"]);
    drop(held);
    let _held = hold(&host, &mapper(32), &by_group(&host, NVME));
    assert_eq!(holders(&host, NVME), ["pid 32 (mapper) mapping"], "no other is open");
    // Who has the other by a descriptor has that one mapped.
    let other = hold(&host, &Process::new(40, QEMU), &by_group(&host, VF));
    assert_eq!(holders(&host, NVME), ["pid 32 (mapper) mapping"]);
    drop(other);
    let _second = hold(&host, &mapper(33), &by_group(&host, VF));
    assert_eq!(holders(&host, NVME), ["perhaps pid 32 (mapper) one-of", "perhaps pid 33 (mapper) one-of"]);
}

#[test]
fn a_bar_that_is_mapped_past_vfio_is_found_by_sysfs_and_by_uio() {
    let host = host();
    host.edit(|tree| {
        tree.put_text("/proc/55/comm", "pcimem");
        tree.put("/proc/55/cmdline", "pcimem\0");
        tree.put_dir("/proc/55/fd");
        let bar = format!("/sys/devices/pci0000:80/0000:80:04.0/{NIC}/resource0_wc");
        let lines = ["55d0-55d1 r-xp 00000000 08:01 99       /usr/bin/pcimem", "55d2-55d3 rw-p 00000000 00:00 0"];
        tree.put("/proc/55/maps", format!("{}\n7f-80 rw-s 00000000 00:15 77    {bar}\n", lines.join("\n")));
        tree.put_text("/proc/56/comm", "testpmd");
        tree.put_link("/proc/56/fd/9", "/dev/uio0");
        tree.put_link("/sys/class/uio/uio0/device", format!("../../../{NIC}"));
    });
    assert_eq!(holders(&host, NIC), ["pid 56 (testpmd) uio"]);
    host.edit(|tree| drop(tree.remove("/proc/56")));
    assert_eq!(holders(&host, NIC), ["pid 55 (pcimem) resource"]);
}

#[test]
fn a_cdev_that_has_gone_is_known_by_fdinfo() {
    let host = host();
    host.edit(|tree| {
        tree.put_text("/proc/9/comm", "qemu");
        tree.put_link("/proc/9/fd/30", "/dev/vfio/devices/vfio7 (deleted)");
        tree.put("/proc/9/fdinfo/30", format!("pos:\t0\nvfio-device-syspath: /sys/devices/pci0000:c0/{NVME}\n"));
    });
    assert_eq!(holders(&host, NVME), ["pid 9 (qemu) cdev"]);
}

#[test]
fn an_mdev_is_held_by_its_cdev() {
    let host = host();
    let _held = hold(&host, &Process::new(5, QEMU), &cdev("vfio0"));
    let found = holders(&host, "c2177883-f1bb-47f0-914d-32a22e3a8804");
    assert_eq!(found, ["pid 5 (qemu-system-x86_64, VM web1) cdev"]);
}

#[test]
fn maps_and_fdinfo_are_read_only_when_they_can_tell() {
    let host = host();
    let quiet = Process::new(1, "init");
    host.edit(|tree| {
        tree.put_link("/proc/1/fd/0", "/dev/null");
        tree.put_link("/proc/1/fd/1", "socket:[4711]");
        tree.put("/proc/1/maps", "");
    });
    let watched = Watched::new(&host, None);
    assert_eq!(holders(&watched, NVME), [""; 0]);
    assert!(!watched.has_seen("/maps") && !watched.has_seen("/fdinfo") && !watched.has_seen("/comm"));
    let _held = hold(&host, &quiet, &cdev("vfio1"));
    assert_eq!(holders(&watched, NVME), ["pid 1 (init) cdev"]);
    assert!(!watched.has_seen("/maps") && !watched.has_seen("/fdinfo"));
    holders(&watched, NIC);
    assert!(watched.has_seen("/maps"), "what is on a host driver may be mapped through sysfs");
}

#[test]
fn a_process_that_ends_is_passed_over_and_one_of_another_user_is_counted() {
    let host = host();
    let _held = hold(&host, &Process::new(4242, QEMU), &cdev("vfio1"));
    let devices: BTreeSet<Address> = [NVME.parse().unwrap()].into();
    for (refused, unreadable) in
        [(("/4242/fd", Errno::ENOENT), 0), (("/4242/comm", Errno(3)), 0), (("/4242/fd", Errno::EACCES), 1)]
    {
        let watched = Watched::new(&host, Some(refused));
        let found = Holders::read(&watched, &inventory(&host).unwrap(), &devices);
        assert_eq!((found.of(&NVME.parse().unwrap()), found.unreadable), (&[][..], unreadable));
        assert_eq!(found.is_open(NVME.parse().unwrap()), Some(true), "the kernel counts it all the same");
    }
}

#[test]
fn names_are_whole_and_harmless() {
    let cut = Process::new(3, "/usr/bin/cloud-hypervisor-static --kernel x");
    let host = host();
    let held = hold(&host, &cut, &cdev("vfio1"));
    assert_eq!(holders(&host, NVME), ["pid 3 (cloud-hypervisor-static) cdev"]);
    drop(held);
    host.edit(|tree| {
        tree.put_text("/proc/4/comm", "\u{1b}[31mevil");
        tree.put("/proc/4/cmdline", "");
        tree.put_link("/proc/4/fd/3", "/chroot/dev/vfio/devices/vfio1");
    });
    assert_eq!(holders(&host, NVME), ["pid 4 (?[31mevil) cdev"]);
    assert_eq!(guest(&["qemu", "-name", "debug-threads=on,guest=a b"]), Some("a b"));
    assert_eq!(guest(&["qemu", "-name"]), None);
    assert_eq!(guest(&["qemu", "-name", "debug-threads=on"]), None);
}
