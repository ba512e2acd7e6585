//! What is open, and what that keeps from happening.

use super::*;

#[test]
fn a_group_is_owned_by_drivers_or_by_one_user() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    let group: GroupId =
        host.link_name(&path("/sys/bus/pci/devices/0000:85:01.0/iommu_group")).unwrap().parse().unwrap();
    let errno = |what: &Open| host.open(what).err().map(|error| error.errno);
    assert_eq!(errno(&Open::Group(group)), Some(Errno::ENOENT));
    give(&host, "vfio-pci", "0000:85:01.0").unwrap();
    let held = host.open(&Open::Group(group)).unwrap();
    assert_eq!(held.viable().unwrap(), Some(false), "the other NIC is on e1000");
    assert_eq!(errno(&Open::Group(group)), Some(Errno::EBUSY));
    drop(held);
    assert_eq!(errno(&Open::Container(group)), Some(Errno::EPERM));
    let cdev = Open::BoundCdev("vfio1".parse().unwrap());
    assert_eq!(errno(&cdev), Some(Errno::EPERM));
    unbind(&host, "0000:85:02.0").unwrap();
    let held = host.open(&Open::GroupDevice(group, bdf("0000:85:01.0"))).unwrap();
    assert_eq!(held.viable().unwrap(), Some(true));
    assert_eq!(errno(&cdev), Some(Errno::EBUSY));
    assert_eq!(bind(&host, "e1000", "0000:85:02.0"), Err(Errno::EBUSY), "a user owns the group");
    set_override(&host, "0000:85:02.0", "vfio-pci");
    assert_eq!(bind(&host, "vfio-pci", "0000:85:02.0"), Ok(()), "vfio may join");
    drop(held);
    let held = host.open(&cdev).unwrap();
    assert_eq!(held.viable().unwrap(), None);
    assert_eq!(errno(&cdev), Some(Errno::EINVAL), "bound already");
    assert_eq!(errno(&Open::Group(group)), Some(Errno::EBUSY));
}

#[test]
fn a_group_without_a_device_is_taken_from_who_has_it() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    give(&host, "vfio-pci", "0000:c1:00.0").unwrap();
    let group = host.link_name(&path("/sys/bus/pci/devices/0000:c1:00.0/iommu_group")).unwrap().parse().unwrap();
    let held = host.open(&Open::Container(group)).unwrap();
    unbind(&host, "0000:c1:00.0").unwrap();
    assert_eq!(held.viable().unwrap_err().errno, Errno::ENODEV);
    assert_eq!(give(&host, "nvme", "0000:c1:00.0"), Ok(()), "its DMA is owned by nobody");
}

#[test]
fn an_mdev_is_opened_by_its_cdev() {
    let host = demo();
    let open = Open::BoundCdev("vfio0".parse().unwrap());
    let held = host.open(&open).unwrap();
    assert_eq!(host.open(&open).err().map(|error| error.errno), Some(Errno::EINVAL));
    assert_eq!(held.viable().unwrap(), None);
}

#[test]
fn a_held_device_is_left_half_unbound_until_it_is_closed() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    give(&host, "vfio-pci", "0000:c1:00.0").unwrap();
    let held = host.open(&Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    assert_eq!(unbind(&host, "0000:c1:00.0"), Err(Errno::ETIMEDOUT));
    assert_eq!(driver(&host, "0000:c1:00.0"), None);
    assert!(host.read(&path("/dev/vfio/devices/vfio1")).is_err());
    assert_eq!(write(&host, "/sys/bus/pci/drivers_probe", "0000:c1:00.0"), Ok(()), "false success");
    set_override(&host, "0000:c1:00.0", "");
    set_override(&host, "0000:c1:00.0", "nvme");
    assert_eq!(bind(&host, "nvme", "0000:c1:00.0"), Err(Errno::ETIMEDOUT));
    assert_eq!(write(&host, "/sys/bus/pci/drivers/vfio-pci/unbind", "0000:c1:00.0"), Err(Errno::ETIMEDOUT));
    drop(held);
    assert_eq!(bind(&host, "nvme", "0000:c1:00.0"), Ok(()));
}

#[test]
fn vfs_that_are_held_keep_their_pf_waiting() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    give(&host, "vfio-pci", "0000:81:10.2").unwrap();
    let held = host.open(&Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    let numvfs = "/sys/bus/pci/devices/0000:81:00.0/sriov_numvfs";
    assert_eq!(write(&host, numvfs, "0"), Err(Errno::ETIMEDOUT));
    assert!(text(&host, "/sys/bus/pci/devices/0000:81:10.0/vendor").is_err(), "the first is gone");
    assert!(text(&host, "/sys/bus/pci/devices/0000:81:10.2/vendor").is_ok(), "the second is held");
    assert!(host.link(&path("/sys/bus/pci/devices/0000:81:10.2/physfn")).is_err(), "and half gone");
    assert!(host.link(&path("/sys/bus/pci/devices/0000:81:10.4/physfn")).is_ok());
    assert_eq!(write(&host, numvfs, "0"), Err(Errno::ETIMEDOUT), "the PF is locked");
    drop(held);
    assert!(text(&host, "/sys/bus/pci/devices/0000:81:10.2/vendor").is_err());
    assert!(text(&host, "/sys/bus/pci/devices/0000:81:10.6/vendor").is_err());
    assert_eq!(write(&host, numvfs, "4"), Ok(()));
}

#[test]
fn a_pf_driver_waits_for_its_held_vfs() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    give(&host, "vfio-pci", "0000:81:10.6").unwrap();
    let held = host.open(&Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    assert_eq!(unbind(&host, "0000:81:00.0"), Err(Errno::ETIMEDOUT));
    assert_eq!(driver(&host, "0000:81:00.0"), None);
    assert_eq!(bind(&host, "igb", "0000:81:00.0"), Err(Errno::ETIMEDOUT), "its lock is held");
    drop(held);
    assert!(text(&host, "/sys/bus/pci/devices/0000:81:10.6/vendor").is_err());
    assert_eq!(bind(&host, "igb", "0000:81:00.0"), Ok(()));
    assert_eq!(text(&host, "/sys/class/net/enp129s0/flags").unwrap(), "0x1002", "its interface is back under its name");
}

#[test]
fn a_holder_that_yields_lets_a_device_go() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    give(&host, "vfio-pci", "0000:c1:00.0").unwrap();
    let enable = "/sys/bus/pci/devices/0000:c1:00.0/enable";
    assert_eq!(text(&host, enable).unwrap(), "0");
    let qemu = Process::new(4242, "/usr/bin/qemu-system-x86_64 -name web1").that_yields();
    let held = host.hold_as(&qemu, &Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    assert_eq!(text(&host, enable).unwrap(), "1");
    assert_eq!(text(&host, "/proc/4242/comm").unwrap(), "qemu-system-x86");
    assert_eq!(unbind(&host, "0000:c1:00.0"), Ok(()));
    assert_eq!(text(&host, enable).unwrap(), "0");
    assert!(host.list(&path("/proc/4242/fd")).is_err(), "it has ended");
    assert_eq!(bind(&host, "nvme", "0000:c1:00.0"), Err(Errno::ENODEV), "the override is vfio-pci");
    drop(held);
    assert_eq!(give(&host, "nvme", "0000:c1:00.0"), Ok(()));
    assert_eq!(text(&host, enable).unwrap(), "1");
}

#[test]
fn a_recorded_host_goes_on_with_who_has_what_open() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    give(&host, "vfio-pci", "0000:c1:00.0").unwrap();
    give(&host, "vfio-pci", "0000:81:10.0").unwrap();
    let qemu = Process::new(4242, "/usr/bin/qemu-system-x86_64 -name web1");
    let group = host.link_name(&path("/sys/bus/pci/devices/0000:81:10.0/iommu_group")).unwrap().parse().unwrap();
    let _held = [
        host.hold_as(&qemu, &Open::BoundCdev("vfio1".parse().unwrap())).unwrap(),
        host.hold_as(&qemu, &Open::GroupDevice(group, bdf("0000:81:10.0"))).unwrap(),
    ];
    let again = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
    assert_eq!(again.to_text(), host.to_text());
    assert_eq!(again.open(&Open::Group(group)).err().map(|error| error.errno), Some(Errno::EBUSY));
    assert_eq!(unbind(&again, "0000:81:10.0"), Err(Errno::ETIMEDOUT));
    assert_eq!(unbind(&again, "0000:c1:00.0"), Err(Errno::ETIMEDOUT));
}

#[test]
fn vfs_that_come_again_are_enabled_by_their_driver_once() {
    let host = demo();
    let numvfs = "/sys/bus/pci/devices/0000:81:00.0/sriov_numvfs";
    for count in ["0", "2", "0", "2"] {
        assert_eq!(write(&host, numvfs, count), Ok(()));
    }
    let vf = "/sys/bus/pci/devices/0000:81:10.0";
    assert_eq!(
        text(&host, &format!("{vf}/enable")).unwrap(),
        if driver(&host, "0000:81:10.0").is_some() { "1" } else { "0" }
    );
}
