//! Probes that take their time: the twins of the lab's variants.

use super::*;
use crate::host::fake::vfio::lab::{self, BY_SUBSYSTEM_NAME};

const DEVICE: &str = "0000:00:02.0";
const DIR: &str = "/sys/bus/pci/devices/0000:00:02.0";

/// One device that the variants have, on none, and the first of them loaded.
fn host(delay_ms: &str) -> FakeHost {
    let device = build::Device::new(bdf(DEVICE), 0x15b3, 0x1018).group(1);
    let host = build::Build::new().device(&device).host();
    lab::BOTH.into_iter().for_each(|variant| host.install(variant));
    load(&host, BY_SUBSYSTEM_NAME).unwrap();
    parameter(&host, "probe_delay_ms", delay_ms);
    set_override(&host, DEVICE, BY_SUBSYSTEM_NAME);
    host
}

fn parameter(host: &FakeHost, name: &str, value: &str) {
    write(host, &format!("/sys/module/{BY_SUBSYSTEM_NAME}/parameters/{name}"), value).unwrap();
}

fn is_vfio_device(host: &FakeHost) -> bool {
    host.list(&path(&format!("{DIR}/vfio-dev"))).is_ok()
}

#[test]
fn an_unbind_waits_for_a_probe_as_long_as_it_may() {
    let host = host("80000");
    assert_eq!(bind(&host, BY_SUBSYSTEM_NAME, DEVICE), Err(Errno::ETIMEDOUT));
    assert_eq!(driver(&host, DEVICE).as_deref(), Some(BY_SUBSYSTEM_NAME));
    assert!(!is_vfio_device(&host));
    assert_eq!(unbind(&host, DEVICE), Ok(()), "20 s are left of the probe, and 25 s may be waited");
    assert_eq!((driver(&host, DEVICE), is_vfio_device(&host)), (None, false));
}

#[test]
fn a_probe_that_outlasts_the_unbind_too_has_the_lock_of_the_device() {
    let host = host("100000");
    assert_eq!(bind(&host, BY_SUBSYSTEM_NAME, DEVICE), Err(Errno::ETIMEDOUT));
    assert_eq!(unbind(&host, DEVICE), Err(Errno::ETIMEDOUT));
    assert_eq!(host.vdev(bdf(DEVICE)), None);
    host.nap(Duration::from_secs(15));
    assert!(is_vfio_device(&host), "the probe has ended");
    assert!(host.vdev(bdf(DEVICE)).is_some());
    assert_eq!(unbind(&host, DEVICE), Ok(()));
}

#[test]
fn a_probe_that_refuses_in_the_end_leaves_no_driver() {
    let host = host("70000");
    assert_eq!(bind(&host, BY_SUBSYSTEM_NAME, DEVICE), Err(Errno::ETIMEDOUT));
    parameter(&host, "probe_errno", "19");
    let recorded = host.to_text();
    host.nap(Duration::from_secs(10));
    assert_eq!((driver(&host, DEVICE), is_vfio_device(&host)), (None, false));
    // Of a host that was recorded meanwhile, the probe has ended when it is looked at.
    let again = FakeHost::from_text(recorded.as_bytes()).unwrap();
    assert_eq!(again.snapshot(), host.snapshot());
}

#[test]
fn a_device_that_vanishes_in_its_probe_is_gone() {
    let host = host("70000");
    assert_eq!(bind(&host, BY_SUBSYSTEM_NAME, DEVICE), Err(Errno::ETIMEDOUT));
    host.vanish(bdf(DEVICE));
    host.nap(Duration::from_secs(10));
    assert_eq!(host.list(&path(DIR)).map_err(|error| error.errno), Err(Errno::ENOENT));
    assert_eq!(host.vdev(bdf(DEVICE)), None);
}

#[test]
fn what_a_device_was_bound_with_is_kept_with_the_host() {
    let host = host("0");
    parameter(&host, "p2p", "N");
    bind(&host, BY_SUBSYSTEM_NAME, DEVICE).unwrap();
    parameter(&host, "p2p", "Y");
    let again = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
    assert_eq!(again.vdev(bdf(DEVICE)), host.vdev(bdf(DEVICE)));
    assert_eq!(again.vdev(bdf(DEVICE)).unwrap().migration, Some(vfio::Migration::PreCopy));
    unbind(&again, DEVICE).unwrap();
    bind(&again, BY_SUBSYSTEM_NAME, DEVICE).unwrap();
    assert_eq!(again.vdev(bdf(DEVICE)).unwrap().migration, Some(vfio::Migration::P2pPreCopy));
}

#[test]
fn vfs_that_go_wait_for_a_probe_of_one() {
    let (pf, vf) = ("0000:03:00.0", "0000:03:00.1");
    let sriov = build::Sriov { total: 2, offset: 1, stride: 1, vf_device: 0x10 };
    let device = build::Device::new(bdf(pf), 0x1b36, 0x10).class(0x010802).driver("nvme").group(1).sriov(sriov);
    let host = build::Build::new().device(&device).host();
    host.install(&lab::BY_DEVICE);
    load(&host, lab::BY_DEVICE_NAME).unwrap();
    let numvfs = format!("/sys/bus/pci/devices/{pf}/sriov_numvfs");
    write(&host, &format!("/sys/bus/pci/devices/{pf}/sriov_drivers_autoprobe"), "0").unwrap();
    write(&host, &numvfs, "2").unwrap();
    write(&host, &format!("/sys/module/{}/parameters/probe_delay_ms", lab::BY_DEVICE_NAME), "100000").unwrap();
    set_override(&host, vf, lab::BY_DEVICE_NAME);
    assert_eq!(bind(&host, lab::BY_DEVICE_NAME, vf), Err(Errno::ETIMEDOUT));
    assert_eq!(write(&host, &numvfs, "0"), Err(Errno::ETIMEDOUT));
    host.nap(Duration::from_secs(100));
    assert_eq!(
        host.list(&path(&format!("/sys/bus/pci/devices/{vf}"))).map_err(|error| error.errno),
        Err(Errno::ENOENT)
    );
    assert_eq!(text(&host, &numvfs).as_deref(), Ok("0"));
}
