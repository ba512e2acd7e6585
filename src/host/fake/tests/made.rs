//! idxd devices and vGPUs, on the host that has them.

use super::*;

const DSA: &str = "/sys/bus/dsa/devices/dsa0";

fn types() -> FakeHost {
    FakeHost::from_text(include_bytes!("../../../../tests/hosts/types.host")).unwrap()
}

fn wq(host: &FakeHost, number: u32, attribute: &str, value: &str) -> Result<(), Errno> {
    write(host, &format!("/sys/bus/dsa/devices/wq0.{number}/{attribute}"), value)
}

fn dsa(host: &FakeHost, driver: &str, verb: &str, device: &str) -> Result<(), Errno> {
    write(host, &format!("/sys/bus/dsa/drivers/{driver}/{verb}"), device)
}

fn said(host: &FakeHost, device: &str, attribute: &str) -> String {
    text(host, &format!("/sys/bus/dsa/devices/{device}/{attribute}")).unwrap()
}

#[test]
fn a_work_queue_is_set_while_it_is_disabled_and_its_size_while_the_device_is() {
    let host = types();
    assert_eq!(wq(&host, 0, "type", "kernel"), Err(Errno::EPERM), "enabled");
    assert_eq!(wq(&host, 4, "size", "8"), Err(Errno::EPERM), "the device is enabled");
    assert_eq!(wq(&host, 4, "threshold", "8"), Err(Errno::EINVAL), "above its size");
    assert_eq!(wq(&host, 3, "threshold", "8"), Err(Errno::EINVAL), "dedicated");
    assert_eq!(wq(&host, 1, "threshold", "8"), Err(Errno::ENXIO), "enabled");
    assert_eq!(wq(&host, 4, "group_id", "4"), Err(Errno::EINVAL), "groups are 0 to 3");
    assert_eq!(wq(&host, 4, "priority", "16"), Err(Errno::EINVAL));
    assert_eq!(wq(&host, 4, "mode", "both"), Err(Errno::EINVAL));
    assert_eq!(wq(&host, 4, "state", "enabled"), Err(Errno::EACCES));
    assert_eq!(wq(&host, 3, "type", "user\n"), Ok(()));
    assert_eq!(said(&host, "wq0.3", "name"), "spare", "of the same type the name stays");
    assert_eq!(wq(&host, 3, "type", "kernel"), Ok(()));
    assert_eq!(said(&host, "wq0.3", "name"), "");
    assert_eq!(wq(&host, 3, "group_id", "2"), Ok(()));
    assert_eq!(
        (said(&host, "group0.0", "work_queues"), said(&host, "group0.2", "work_queues")),
        ("wq0.0".into(), "wq0.3".into())
    );
}

#[test]
fn a_device_that_is_disabled_forgets_what_it_was_set_to() {
    let host = types();
    assert!(host.read(&path("/dev/dsa/wq0.0")).is_ok());
    assert_eq!(dsa(&host, "idxd", "unbind", "dsa0"), Ok(()));
    assert!(host.read(&path("/dev/dsa/wq0.0")).is_err());
    for wq in ["wq0.0", "wq0.3"] {
        let set =
            ["state", "mode", "size", "group_id", "threshold", "name"].map(|attribute| said(&host, wq, attribute));
        assert_eq!(set, ["disabled", "shared", "0", "-1", "0", ""], "{wq}");
    }
    assert_eq!((said(&host, "wq0.0", "type"), said(&host, "wq0.3", "type")), ("none".into(), "user".into()));
    assert_eq!(said(&host, "wq0.0", "driver_name"), "user");
    assert_eq!(said(&host, "engine0.0", "group_id"), "-1");
    assert_eq!(dsa(&host, "idxd", "bind", "dsa0"), Err(Errno::ENXIO));
    assert_eq!(text(&host, &format!("{DSA}/cmd_status")).unwrap(), "0x800d0000", "no WQ is in a group");
    assert_eq!(wq(&host, 4, "size", "129"), Err(Errno::EINVAL), "more than all");
    for (attribute, value) in [("size", "16"), ("group_id", "0"), ("mode", "dedicated"), ("driver_name", "user")] {
        assert_eq!(wq(&host, 4, attribute, value), Ok(()), "{attribute}");
    }
    assert_eq!(dsa(&host, "idxd", "bind", "dsa0"), Err(Errno::ENXIO), "no engine is in a group");
    assert_eq!(write(&host, "/sys/bus/dsa/devices/engine0.0/group_id", "0"), Ok(()));
    assert_eq!(dsa(&host, "user", "bind", "wq0.4"), Err(Errno::ENXIO), "the device is not enabled");
    assert_eq!(dsa(&host, "idxd", "bind", "dsa0"), Ok(()));
    assert_eq!(dsa(&host, "idxd", "bind", "dsa0"), Err(Errno::EBUSY));
    assert_eq!(dsa(&host, "dmaengine", "bind", "wq0.4"), Err(Errno::ENODEV), "driver_name says user");
    assert_eq!(text(&host, &format!("{DSA}/cmd_status")).unwrap(), "0x80200000");
    assert_eq!(dsa(&host, "user", "bind", "wq0.4"), Err(Errno::ENXIO), "no name");
    assert_eq!(write(&host, &format!("{DSA}/cmd_status"), "1"), Ok(()));
    assert_eq!(text(&host, &format!("{DSA}/cmd_status")).unwrap(), "0x0");
    assert_eq!(wq(&host, 4, "name", " mine \n"), Ok(()));
    assert_eq!(dsa(&host, "user", "bind", "wq0.4"), Ok(()));
    assert_eq!((said(&host, "wq0.4", "type"), said(&host, "wq0.4", "name")), ("user".into(), "mine".into()));
    assert!(host.read(&path("/dev/dsa/wq0.4")).is_ok());
    assert_eq!(dsa(&host, "user", "unbind", "wq0.4"), Ok(()));
    let kept = ["type", "mode", "size", "group_id", "name"].map(|attribute| said(&host, "wq0.4", attribute));
    assert_eq!(kept, ["none", "shared", "16", "0", ""]);
}

#[test]
fn a_user_work_queue_needs_sva() {
    let host = types();
    host.edit(|tree| tree.put_text("/sys/bus/pci/devices/0000:e7:01.0/dsa0/pasid_enabled", 0));
    assert_eq!(dsa(&host, "user", "bind", "wq0.3"), Err(Errno::EOPNOTSUPP));
    assert_eq!(text(&host, &format!("{DSA}/cmd_status")).unwrap(), "0x80110000");
    assert_eq!(dsa(&host, "user", "bind", "dsa0"), Err(Errno::ENODEV));
    assert_eq!(dsa(&host, "user", "bind", "wq9.0"), Err(Errno::ENODEV));
}

#[test]
fn an_idxd_device_goes_with_its_driver_and_comes_back_reset() {
    let host = types();
    assert_eq!(unbind(&host, "0000:e7:01.0"), Ok(()));
    assert!(host.link(&path("/sys/bus/dsa/devices/wq0.0")).is_err());
    assert!(host.link(&path("/sys/bus/dsa/devices/wq1.0")).is_ok());
    assert_eq!(bind(&host, "idxd", "0000:e7:01.0"), Ok(()));
    assert_eq!((said(&host, "wq0.0", "state"), said(&host, "dsa0", "state")), ("disabled".into(), "disabled".into()));
}

#[test]
fn a_vf_is_made_a_vgpu_and_the_gpu_has_room_for_fewer() {
    let host = types();
    let nvidia = |vf: u32, name: &str| format!("/sys/bus/pci/devices/0000:41:00.{vf}/nvidia/{name}");
    let make = |vf, kind: &str| write(&host, &nvidia(vf, "current_vgpu_type"), kind);
    let creatable = |vf| text(&host, &nvidia(vf, "creatable_vgpu_types")).unwrap();
    assert_eq!(make(5, "1157"), Err(Errno::EINVAL), "the GPU is divided by 8 GB already");
    assert_eq!(make(4, "1153"), Err(Errno::EINVAL), "it is one");
    assert_eq!(make(5, "x"), Err(Errno::EINVAL));
    assert_eq!(make(5, "1153\n"), Ok(()));
    assert_eq!(
        (creatable(5).as_str(), creatable(6).as_str()),
        ("ID    : vGPU Name", "ID    : vGPU Name\n1153  : NVIDIA L40S-8Q")
    );
    let held = host.open(&Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    assert_eq!(make(5, "0"), Err(Errno::EPERM));
    drop(held);
    assert_eq!((make(5, "0"), make(4, "0")), (Ok(()), Ok(())));
    assert_eq!(creatable(6).lines().count(), 7, "all types");
    assert_eq!(make(6, "1157"), Ok(()), "all of it");
    assert_eq!(creatable(5), "ID    : vGPU Name");
}

#[test]
fn of_a_parent_without_a_model_mdevs_core_counts() {
    let host = types();
    host.edit(|tree| {
        for kind in ["other-a", "other-b"] {
            let dir = format!("/sys/bus/pci/devices/0000:43:00.0/mdev_supported_types/{kind}");
            tree.put_text(&format!("{dir}/available_instances"), 1);
            tree.put(&format!("{dir}/create"), "");
        }
        tree.put_link("/sys/class/mdev_bus/0000:43:00.0", "../../devices/pci0000:43/0000:43:00.0");
    });
    let at = |kind: &str, name: &str| format!("/sys/class/mdev_bus/0000:43:00.0/mdev_supported_types/{kind}/{name}");
    let uuid = "5bd2a1a0-65f4-4a4a-8a4f-0123456789ab";
    assert_eq!(write(&host, &at("other-a", "create"), uuid), Ok(()));
    assert_eq!(text(&host, &at("other-b", "available_instances")).unwrap(), "0");
    let other = "5bd2a1a0-65f4-4a4a-8a4f-0123456789ac";
    assert_eq!(write(&host, &at("other-b", "create"), other), Err(Errno::EUSERS));
    let real = "../../../devices/pci0000:43/0000:43:00.0/5bd2a1a0-65f4-4a4a-8a4f-0123456789ab";
    assert_eq!(host.link(&path(&format!("/sys/bus/mdev/devices/{uuid}"))).unwrap(), real);
    assert_eq!(write(&host, &format!("/sys/bus/mdev/devices/{uuid}/remove"), "1"), Ok(()));
    assert_eq!(text(&host, &at("other-b", "available_instances")).unwrap(), "1");
}
