//! What every machine answers: the calls on files that are not theirs, and by name what the kernel says then. Nothing
//! here needs VFIO.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use vfioadm_uapi::container::{self, Extension};
use vfioadm_uapi::iommufd::{self, ObjectId};
use vfioadm_uapi::{Errno, cdev, device, group};

/// Opens a file of this machine.
fn open(path: &str, flags: OFlags) -> OwnedFd {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("every Linux has it")
}

/// Every call on one descriptor, by C name.
fn every_call(fd: BorrowedFd<'_>) -> Vec<(&'static str, Option<Errno>)> {
    vec![
        ("VFIO_GET_API_VERSION", container::api_version(fd).err()),
        ("VFIO_CHECK_EXTENSION", container::check_extension(fd, Extension::TYPE1V2).err()),
        ("VFIO_SET_IOMMU", container::set_iommu(fd, Extension::TYPE1V2).err()),
        ("VFIO_GROUP_GET_STATUS", group::status(fd).err()),
        ("VFIO_GROUP_SET_CONTAINER", group::set_container(fd, fd).err()),
        ("VFIO_GROUP_UNSET_CONTAINER", group::unset_container(fd).err()),
        ("VFIO_GROUP_GET_DEVICE_FD", group::device_fd(fd, "0000:3b:00.2").err()),
        ("VFIO_DEVICE_GET_INFO", device::info(fd).err()),
        ("VFIO_DEVICE_RESET", device::reset(fd).err()),
        ("VFIO_DEVICE_BIND_IOMMUFD", cdev::bind_iommufd(fd, fd).err()),
        ("VFIO_DEVICE_ATTACH_IOMMUFD_PT", cdev::attach(fd, ObjectId(1)).err()),
        ("VFIO_DEVICE_DETACH_IOMMUFD_PT", cdev::detach(fd).err()),
        ("IOMMU_DESTROY", iommufd::destroy(fd, ObjectId(1)).err()),
        ("IOMMU_IOAS_ALLOC", iommufd::ioas_alloc(fd).err()),
    ]
}

#[test]
fn a_device_of_another_kind_has_no_such_call() {
    let null = open("/dev/null", OFlags::RDWR);
    for (call, errno) in every_call(null.as_fd()) {
        assert_eq!(errno, Some(Errno::NOTTY), "{call} on /dev/null");
    }
}

#[test]
fn neither_has_a_directory_nor_a_pipe() {
    let root = open("/", OFlags::RDONLY | OFlags::DIRECTORY);
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    for (name, fd) in [("/", root), ("the reading end", reader), ("the writing end", writer)] {
        for (call, errno) in every_call(fd.as_fd()) {
            assert_eq!(errno, Some(Errno::NOTTY), "{call} on {name}");
        }
    }
}

#[test]
fn a_path_alone_is_no_open_file() {
    let null = open("/dev/null", OFlags::PATH);
    for (call, errno) in every_call(null.as_fd()) {
        assert_eq!(errno, Some(Errno::BADF), "{call} on an O_PATH descriptor");
    }
}

#[test]
fn a_device_name_with_a_nul_does_not_reach_the_kernel() {
    let null = open("/dev/null", OFlags::RDWR);
    assert_eq!(group::device_fd(null.as_fd(), "0000:3b:00.2\0").err(), Some(Errno::INVAL));
    let long = format!("0000:3b:00.2{}\0", " ".repeat(5000));
    assert_eq!(group::device_fd(null.as_fd(), &long).err(), Some(Errno::INVAL));
}

#[test]
fn a_long_device_name_does_reach_it() {
    let null = open("/dev/null", OFlags::RDWR);
    assert_eq!(group::device_fd(null.as_fd(), &"x".repeat(5000)).err(), Some(Errno::NOTTY));
}

#[test]
fn flags_are_sets_and_keep_bits_of_a_later_kernel() {
    let status = group::GroupFlags::from_bits_retain(0x8000_0003);
    assert!(status.contains(group::GroupFlags::VIABLE));
    assert_eq!(status.bits(), 0x8000_0003);
    let info = device::DeviceFlags::from_bits_retain(0x1_0083);
    assert!(info.contains(device::DeviceFlags::RESET | device::DeviceFlags::PCI | device::DeviceFlags::CAPS));
    assert_eq!(info.bits(), 0x1_0083);
}
