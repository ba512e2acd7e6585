//! The reactions, on the demo host.

mod device;
mod held;
mod made;
mod matrix;
mod probing;

use super::*;
use crate::host::record;

fn demo() -> FakeHost {
    FakeHost::demo().unwrap()
}

fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

fn path(text: &str) -> HostPath {
    HostPath::parse(text).unwrap()
}

fn lock(host: &FakeHost) -> Box<dyn Lock + '_> {
    host.lock(&Claim::new("a test", host)).unwrap()
}

/// One write; the errno when it is refused.
fn write(host: &FakeHost, at: &str, value: &str) -> Result<(), Errno> {
    lock(host).hand().write(&path(at), value).map_err(|error| error.errno)
}

fn load(host: &FakeHost, module: &str) -> Result<(), Errno> {
    let loaded = lock(host).hand().load_module(&module.parse().unwrap(), Blacklist::Respect);
    loaded.map_err(|error| error.errno)
}

fn set_override(host: &FakeHost, device: &str, driver: &str) {
    write(host, &format!("/sys/bus/pci/devices/{device}/driver_override"), &format!("{driver}\n")).unwrap();
}

fn bind(host: &FakeHost, driver: &str, device: &str) -> Result<(), Errno> {
    write(host, &format!("/sys/bus/pci/drivers/{driver}/bind"), device)
}

fn unbind(host: &FakeHost, device: &str) -> Result<(), Errno> {
    write(host, &format!("/sys/bus/pci/devices/{device}/driver/unbind"), device)
}

fn driver(host: &FakeHost, device: &str) -> Option<String> {
    host.link_name(&path(&format!("/sys/bus/pci/devices/{device}/driver"))).ok()
}

fn text(host: &FakeHost, at: &str) -> Result<String, Errno> {
    host.text(&path(at)).map_err(|error| error.errno)
}

/// Unbinds, overrides and binds.
fn give(host: &FakeHost, driver_name: &str, device: &str) -> Result<(), Errno> {
    set_override(host, device, driver_name);
    if driver(host, device).is_some() {
        unbind(host, device).unwrap();
    }
    bind(host, driver_name, device)
}

#[test]
fn the_demo_host_loads_and_survives_printing() {
    let host = demo();
    let again = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
    assert_eq!(again.snapshot(), host.snapshot());
    assert_eq!(again.to_text(), host.to_text());
    assert_eq!(host.snapshot().devices.len(), 43);
}

#[test]
fn every_recorded_host_of_the_tests_loads() {
    for text in
        [include_str!("../../../../tests/hosts/small.host"), include_str!("../../../../tests/hosts/no_iommu.host")]
    {
        let tree = record::parse(text.as_bytes()).unwrap();
        assert_eq!(record::parse(record::print(&tree).as_bytes()).unwrap(), tree);
        assert!(FakeHost::new(tree).snapshot().devices.len() > 5);
    }
}

#[test]
fn an_override_is_cut_cleared_and_measured_as_the_kernel_does() {
    let host = demo();
    let at = "/sys/bus/pci/devices/0000:c1:00.0/driver_override";
    let now = || text(&host, at).unwrap();
    assert_eq!(now(), "(null)");
    for (value, wanted) in [("vfio-pci", "vfio-pci"), ("", "vfio-pci"), ("a\nb", "a"), ("x\0y", "x"), ("\n", "(null)")]
    {
        write(&host, at, value).unwrap();
        assert_eq!(now(), wanted, "{value:?}");
    }
    assert_eq!(write(&host, at, &"x".repeat(4094)), Ok(()));
    assert_eq!(write(&host, at, &"x".repeat(4095)), Err(Errno::EINVAL));
    assert_eq!(write(&host, at, &"x".repeat(5000)), Err(Errno::EINVAL));
    assert_eq!(now().len(), 4094);
    assert_eq!(driver(&host, "0000:c1:00.0").as_deref(), Some("nvme"), "an override binds nothing");
}

#[test]
fn bind_answers_in_the_order_of_the_kernel() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    assert_eq!(bind(&host, "vfio-pci", "0000:ff:00.0"), Err(Errno::ENODEV), "unknown device");
    assert_eq!(bind(&host, "vfio-pci", "0000:c1:00.0"), Err(Errno::ENODEV), "no override");
    set_override(&host, "0000:c1:00.0", "vfio-pci");
    assert_eq!(bind(&host, "nvme", "0000:c1:00.0"), Err(Errno::ENODEV), "the override is another driver's");
    assert_eq!(bind(&host, "vfio-pci", "0000:c1:00.0"), Err(Errno::EBUSY), "it has a driver");
    assert_eq!(bind(&host, "vfio-pci", "0000:C1:00.0"), Err(Errno::ENODEV), "names are compared, not addresses");
    unbind(&host, "0000:c1:00.0").unwrap();
    assert_eq!(bind(&host, "vfio-pci", "0000:c1:00.0\n"), Ok(()), "a newline is tolerated");
    assert_eq!(driver(&host, "0000:c1:00.0").as_deref(), Some("vfio-pci"));
    assert_eq!(write(&host, "/sys/bus/pci/drivers/nvme/unbind", "0000:c1:00.0"), Err(Errno::ENODEV), "not nvme's");
    assert_eq!(write(&host, "/sys/bus/pci/drivers/none/bind", "0000:c1:00.0"), Err(Errno::ENOENT));
    assert_eq!(text(&host, "/sys/bus/pci/drivers/nvme/bind"), Err(Errno::EACCES));
    assert_eq!(write(&host, "/sys/bus/pci/devices/0000:c1:00.0/vendor", "1"), Err(Errno::EACCES));
}

#[test]
fn drivers_probe_succeeds_whatever_happens() {
    let host = demo();
    let probe = |device: &str| write(&host, "/sys/bus/pci/drivers_probe", device);
    assert_eq!(probe("0000:ff:00.0"), Err(Errno::ENODEV));
    assert_eq!(probe("0000:c1:00.0"), Ok(()), "it has a driver");
    assert_eq!(probe("0000:6b:00.1"), Ok(()), "no driver wants it");
    assert_eq!(driver(&host, "0000:6b:00.1"), None);
    assert_eq!(probe("0000:81:10.4"), Ok(()));
    assert_eq!(driver(&host, "0000:81:10.4").as_deref(), Some("igbvf"));
    set_override(&host, "0000:81:10.6", "no-such-driver");
    assert_eq!(probe("0000:81:10.6"), Ok(()));
    assert_eq!(driver(&host, "0000:81:10.6"), None);
}

#[test]
fn probes_answer_as_their_drivers_do() {
    let host = demo();
    for module in ["vfio_pci", "mlx5_vfio_pci", "qat_vfio_pci", "virtio_vfio_pci", "pds_vfio_pci", "xe_vfio_pci"] {
        load(&host, module).unwrap();
    }
    for (driver, device, answer) in [
        ("qat_vfio_pci", "0000:6b:00.1", Err(Errno::ENODEV)),
        ("vfio-pci", "0000:6b:00.1", Ok(())),
        ("vfio-pci", "0000:84:00.0", Err(Errno::EINVAL)),
        ("pds_vfio_pci", "0000:81:10.4", Err(Errno::EINVAL)),
        ("pds_vfio_pci", "0000:c1:00.0", Err(Errno::EINVAL)),
        ("xe-vfio-pci", "0000:81:10.4", Err(Errno::ENODEV)),
        ("xe-vfio-pci", "0000:c1:00.0", Ok(())),
        ("mlx5_vfio_pci", "0000:3b:00.2", Ok(())),
        ("mlx5_vfio_pci", "0000:81:10.6", Ok(())),
        ("virtio_vfio_pci", "0000:89:00.0", Ok(())),
    ] {
        assert_eq!(give(&host, driver, device), answer, "{driver} on {device}");
    }
    let migration = |device: &str| host.vdev(bdf(device)).unwrap().migration;
    assert_eq!(migration("0000:3b:00.2"), Some(vfio::Migration::P2pPreCopy));
    assert_eq!(migration("0000:89:00.0"), None, "virtio's PF function is a plain device");
}

#[test]
fn a_pf_with_vfs_is_busy_for_vfio() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    set_override(&host, "0000:6b:00.0", "vfio-pci");
    assert_eq!(bind(&host, "vfio-pci", "0000:6b:00.0"), Err(Errno::EBUSY));
}

#[test]
fn a_module_brings_its_driver_and_a_native_one_probes() {
    let host = demo();
    assert_eq!(load(&host, "no_such_module"), Err(Errno::ENOENT));
    load(&host, "xe_vfio_pci").unwrap();
    let link = host.link_name(&path("/sys/module/xe_vfio_pci/drivers/pci:xe-vfio-pci")).unwrap();
    assert_eq!(link, "xe-vfio-pci");
    assert_eq!(host.link_name(&path("/sys/bus/pci/drivers/xe-vfio-pci/module")).unwrap(), "xe_vfio_pci");
    host.edit(|tree| {
        tree.put_text("/kernel/modprobe/blacklist", "qat_vfio_pci");
        tree.put_text("/kernel/modprobe/modules", "qat_4xxx");
        tree.put_text("/kernel/drivers/4xxx/aliases", "pci:v00008086d00004940sv*sd*bc*sc*i*");
    });
    assert_eq!(load(&host, "qat_vfio_pci"), Err(Errno::ENOENT));
    lock(&host).hand().load_module(&"qat_vfio_pci".parse().unwrap(), Blacklist::Ignore).unwrap();
    load(&host, "qat_4xxx").unwrap();
    assert_eq!(driver(&host, "0000:6b:00.0").as_deref(), Some("4xxx"));
    assert_eq!(give(&host, "qat_vfio_pci", "0000:6b:00.1"), Ok(()), "with its PF's driver it is taken");
}

#[test]
fn autoprobe_off_blocks_bind_without_override() {
    let host = demo();
    write(&host, "/sys/bus/pci/devices/0000:81:00.0/sriov_drivers_autoprobe", "0").unwrap();
    assert_eq!(bind(&host, "igbvf", "0000:81:10.4"), Err(Errno::ENODEV));
    set_override(&host, "0000:81:10.4", "igbvf");
    assert_eq!(bind(&host, "igbvf", "0000:81:10.4"), Ok(()));
}

#[test]
fn sriov_numvfs_answers_as_the_kernel_does() {
    let host = demo();
    let numvfs = |pf: &str, value: &str| write(&host, &format!("/sys/bus/pci/devices/{pf}/sriov_numvfs"), value);
    let igb = "0000:81:00.0";
    for (value, answer) in [
        ("x", Err(Errno::EINVAL)),
        ("70000", Err(Errno::EINVAL)),
        ("-1", Err(Errno::EINVAL)),
        ("8", Err(Errno::ERANGE)),
        ("4\n", Ok(())),
        ("2", Err(Errno::EBUSY)),
        ("0x0", Ok(())),
        ("0", Ok(())),
        ("7", Ok(())),
    ] {
        assert_eq!(numvfs(igb, value), answer, "{value:?}");
    }
    assert_eq!(numvfs("0000:6b:00.0", "0"), Err(Errno::ENOENT), "no driver");
    assert_eq!(driver(&host, "0000:81:11.4").as_deref(), Some("igbvf"), "the seventh VF was probed");
    let vf = "/sys/bus/pci/devices/0000:81:11.4";
    assert_eq!(text(&host, &format!("{vf}/modalias")), text(&host, "/sys/bus/pci/devices/0000:81:10.0/modalias"));
    assert_eq!(text(&host, &format!("{vf}/reset_method")).unwrap(), "flr");
    assert_eq!(text(&host, &format!("{vf}/numa_node")).unwrap(), "1");
    assert_eq!(host.link_name(&path("/sys/bus/pci/devices/0000:81:00.0/virtfn6")).unwrap(), "0000:81:11.4");
    let again = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
    assert_eq!(again.snapshot(), host.snapshot());
}

#[test]
fn vfs_gone_and_back_are_the_same_and_driverless_under_autoprobe_0() {
    let host = demo();
    let pf = "/sys/bus/pci/devices/0000:3b:00.1";
    let before = host.snapshot();
    write(&host, &format!("{pf}/sriov_numvfs"), "0").unwrap();
    assert_eq!(text(&host, "/sys/bus/pci/devices/0000:3b:01.2/vendor"), Err(Errno::ENOENT));
    let saved = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
    write(&saved, &format!("{pf}/sriov_numvfs"), "3").unwrap();
    assert_eq!(saved.snapshot(), before, "the template survives saving");
    write(&host, &format!("{pf}/sriov_drivers_autoprobe"), "0").unwrap();
    write(&host, &format!("{pf}/sriov_numvfs"), "3").unwrap();
    assert_eq!(driver(&host, "0000:3b:01.2"), None);
}

#[test]
fn unbinding_a_pf_takes_its_vfs_along_or_leaves_them() {
    let host = demo();
    unbind(&host, "0000:81:00.0").unwrap();
    assert_eq!(text(&host, "/sys/bus/pci/devices/0000:81:10.0/vendor"), Err(Errno::ENOENT));
    host.edit(|tree| {
        let dir = "/sys/bus/pci/devices/0000:c1:00.0";
        for (name, value) in
            [("totalvfs", "4"), ("numvfs", "0"), ("offset", "1"), ("stride", "1"), ("vf_device", "a80b")]
        {
            tree.put_text(&format!("{dir}/sriov_{name}"), value);
        }
        tree.put_text(&format!("{dir}/sriov_drivers_autoprobe"), 1);
    });
    write(&host, "/sys/bus/pci/devices/0000:c1:00.0/sriov_numvfs", "2").unwrap();
    assert_eq!(driver(&host, "0000:c1:00.2").as_deref(), Some("nvme"), "by its class");
    unbind(&host, "0000:c1:00.0").unwrap();
    assert!(text(&host, "/sys/bus/pci/devices/0000:c1:00.1/vendor").is_ok());
    let gone = write(&host, "/sys/bus/pci/devices/0000:c1:00.0/sriov_numvfs", "0");
    assert_eq!(gone, Err(Errno::ENOENT), "nobody can take them away now");
}

#[test]
fn nodes_come_with_the_first_device_of_a_group_and_go_with_the_last() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    let group = host.link_name(&path("/sys/bus/pci/devices/0000:85:01.0/iommu_group")).unwrap();
    let node = path(&format!("/dev/vfio/{group}"));
    give(&host, "vfio-pci", "0000:85:01.0").unwrap();
    give(&host, "vfio-pci", "0000:85:02.0").unwrap();
    assert_eq!(
        host.list(&path("/sys/bus/pci/devices/0000:85:01.0/vfio-dev")).unwrap(),
        ["vfio1"],
        "vfio0 is the mdev's"
    );
    assert!(host.read(&path("/dev/vfio/devices/vfio2")).is_ok());
    unbind(&host, "0000:85:01.0").unwrap();
    assert!(host.read(&node).is_ok());
    give(&host, "vfio-pci", "0000:c1:00.0").unwrap();
    assert_eq!(host.list(&path("/sys/bus/pci/devices/0000:c1:00.0/vfio-dev")).unwrap(), ["vfio1"], "the lowest free");
    assert_eq!(text(&host, "/sys/bus/pci/devices/0000:c1:00.0/power/runtime_status").unwrap(), "suspended");
    unbind(&host, "0000:85:02.0").unwrap();
    assert_eq!(host.read(&node).unwrap_err().errno, Errno::ENOENT);
}

#[test]
fn a_host_that_cannot_be_does_not_hang_or_overflow() {
    let mut text = String::from("vfioadm-host 1\n");
    let mut count = 0;
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
        count += 1;
    };
    for bus in 0..=255u32 {
        for slot in 0..32u32 {
            let (next_bus, next_slot) = if slot == 31 { ((bus + 1) % 256, 0) } else { (bus, slot + 1) };
            let dir = format!("/sys/bus/pci/devices/0000:{bus:02x}:{slot:02x}.0");
            line(format!("{dir}/modalias = pci:v00008086d000010C9sv00000000sd00000000bc02sc00i00"));
            line(format!("{dir}/driver -> ../igb"));
            line(format!("{dir}/virtfn0 -> ../0000:{next_bus:02x}:{next_slot:02x}.0"));
            let before = (bus * 32 + slot + 8191) % 8192;
            line(format!("{dir}/physfn -> ../0000:{:02x}:{:02x}.0", before / 32, before % 32));
        }
    }
    line("/sys/bus/pci/devices/0000:00:00.1/driver -> ..".to_owned());
    line("/sys/bus/pci/drivers/igb/unbind ~".to_owned());
    text.push_str(&format!("end {count}\n"));
    let host = FakeHost::from_text(text.as_bytes()).unwrap();
    write(&host, "/sys/bus/pci/drivers/igb/unbind", "0000:00:00.0").unwrap();
    host.vanish(bdf("0000:00:01.0"));
    FakeHost::from_text(host.to_text().as_bytes()).unwrap();
}

#[test]
fn interfaces_and_disks_go_and_come_back_down() {
    let host = demo();
    let flags = "/sys/class/net/eno1/flags";
    assert_eq!(text(&host, flags).unwrap(), "0x1003");
    assert!(text(&host, "/proc/net/route").unwrap().contains("eno1\t00000000"));
    unbind(&host, "0000:01:00.0").unwrap();
    assert_eq!(text(&host, flags), Err(Errno::ENOENT));
    assert!(!text(&host, "/proc/net/route").unwrap().contains("eno1"));
    let host = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
    bind(&host, "e1000e", "0000:01:00.0").unwrap();
    assert_eq!(text(&host, flags).unwrap(), "0x1002", "its name comes back, its state does not");
    unbind(&host, "0000:65:00.0").unwrap();
    assert_eq!(text(&host, "/sys/class/block/nvme0n1p2/dev"), Err(Errno::ENOENT));
    bind(&host, "nvme", "0000:65:00.0").unwrap();
    assert_eq!(text(&host, "/sys/class/block/nvme0n1p2/dev").unwrap(), "259:2");
    bind(&host, "igbvf", "0000:81:10.6").unwrap();
    assert_eq!(text(&host, "/sys/class/net/enp129s0v3/operstate").unwrap(), "down", "a new one");
}

#[test]
fn faults_hit_the_write_they_are_for() {
    let host = demo();
    host.fail(Fault::nth(2, Errno::EIO));
    host.fail(Fault::at("/0000:c1:00.0/driver_override", Errno::EBUSY).after_effect());
    let at = "/sys/bus/pci/devices/0000:65:00.0/driver_override";
    assert_eq!(write(&host, at, "a"), Ok(()));
    assert_eq!(write(&host, at, "b"), Err(Errno::EIO));
    assert_eq!(text(&host, at).unwrap(), "a");
    let other = "/sys/bus/pci/devices/0000:c1:00.0/driver_override";
    assert_eq!(write(&host, other, "c"), Err(Errno::EBUSY));
    assert_eq!(text(&host, other).unwrap(), "c", "done all the same");
    let answers: Vec<_> = host.writes().into_iter().map(|written| (written.value, written.answer)).collect();
    let wanted = [("a", None), ("b", Some(Errno::EIO)), ("c", Some(Errno::EBUSY))];
    assert_eq!(answers, wanted.map(|(value, answer)| (value.to_owned(), answer)));
}

#[test]
fn a_device_that_vanishes_is_gone_from_everywhere() {
    let host = demo();
    host.vanish_at_read(2, bdf("0000:3b:00.3"));
    let at = "/sys/bus/pci/devices/0000:3b:00.3/vendor";
    assert!(text(&host, at).is_ok());
    assert_eq!(text(&host, at), Err(Errno::ENOENT));
    assert!(!host.list(&path("/sys/bus/pci/devices/0000:3b:00.0")).unwrap().contains(&"virtfn1".to_owned()));
    assert!(!host.list(&path("/sys/bus/pci/drivers/mlx5_core")).unwrap().contains(&"0000:3b:00.3".to_owned()));
}

#[test]
fn there_is_one_writer() {
    let host = demo();
    let held = lock(&host);
    let claim = Claim::new("a test", &host);
    host.nap(Duration::from_secs(12));
    let second = Claim::new("another", &host);
    let holder = LockHolder { pid: std::process::id(), claim, held: Duration::from_secs(12) };
    assert_eq!(host.clone().lock(&second).err(), Some(LockError::Held(Some(holder))));
    drop(held);
    assert!(host.lock(&second).is_ok());
}

#[test]
fn time_is_what_is_napped() {
    let host = demo();
    let before = host.now();
    host.nap(Duration::from_secs(3));
    assert_eq!(host.now() - before, Duration::from_secs(3));
}

#[test]
fn without_iommu_vfio_refuses_unless_told() {
    let text_of = include_str!("../../../../tests/hosts/no_iommu.host");
    let host = FakeHost::from_text(text_of.as_bytes()).unwrap();
    load(&host, "vfio_pci").unwrap();
    assert_eq!(give(&host, "vfio-pci", "0000:01:00.0"), Err(Errno::EINVAL));
    write(&host, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y").unwrap();
    assert_eq!(bind(&host, "vfio-pci", "0000:01:00.0"), Ok(()));
    assert!(host.read(&path("/dev/vfio/noiommu-0")).is_ok());
    unbind(&host, "0000:01:00.0").unwrap();
    assert!(host.read(&path("/dev/vfio/noiommu-0")).is_err());
}

#[test]
fn a_pf_on_vfio_pci_makes_vfs_that_are_its_own() {
    let host = demo();
    load(&host, "vfio_pci").unwrap();
    let numvfs = "/sys/bus/pci/devices/0000:81:00.0/sriov_numvfs";
    write(&host, numvfs, "0").unwrap();
    give(&host, "vfio-pci", "0000:81:00.0").unwrap();
    assert_eq!(write(&host, numvfs, "2"), Err(Errno::ENOENT));
    write(&host, "/sys/module/vfio_pci/parameters/enable_sriov", "1").unwrap();
    assert_eq!(write(&host, numvfs, "2"), Ok(()));
    assert_eq!(driver(&host, "0000:81:10.2").as_deref(), Some("vfio-pci"));
}

#[test]
fn reset_methods_are_chosen_from_those_there_are() {
    let host = demo();
    let at = "/sys/bus/pci/devices/0000:c1:00.0/reset_method";
    for (value, answer, after) in [
        ("bus", Ok(()), "bus"),
        ("acpi", Err(Errno::EINVAL), "bus"),
        ("\n", Ok(()), ""),
        ("default", Ok(()), "flr bus"),
    ] {
        assert_eq!(write(&host, at, value), answer, "{value:?}");
        assert_eq!(text(&host, at).unwrap(), after);
    }
}
