//! Hosts that are not as simple as the demo host: what a user saw go wrong, each with its host.

use std::path::PathBuf;

use vfioadm::host::fake::{FakeHost, Tree};

use crate::{Said, vfioadm};

/// The demo host with a change, as a file that lives as long as this value.
pub(crate) struct Odd {
    _directory: tempfile::TempDir,
    file: PathBuf,
}

impl Odd {
    pub(crate) fn new(change: impl FnOnce(&mut Tree)) -> Self {
        let host = FakeHost::demo().unwrap();
        host.edit(change);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("odd.host");
        write(&file, host.to_text().as_bytes());
        Self { _directory: directory, file }
    }

    pub(crate) fn vfioadm(&self, line: &str) -> Said {
        vfioadm(&format!("--host {} {line}", self.file.display()))
    }
}

#[expect(clippy::disallowed_methods, reason = "a test writes its fixture")]
fn write(file: &std::path::Path, bytes: &[u8]) {
    std::fs::write(file, bytes).unwrap();
}

pub(crate) fn pci(rest: &str) -> String {
    format!("/sys/bus/pci/devices/{rest}")
}

#[track_caller]
pub(crate) fn finds(said: &Said, id: &str, word: &str) {
    let found = said.out.split("\n").any(|line| line.contains(id) && line.contains(word));
    assert!(found, "no {id} with {word} in {said}");
    assert_eq!(said.exit, 4, "{said}");
}

#[track_caller]
pub(crate) fn refused(said: &Said, word: &str) {
    assert!(said.exit == 1 && said.err.contains(word) && said.err.contains("as it was"), "{said}");
}

#[test]
fn a_root_on_btrfs_over_luks_is_seen() {
    let odd = Odd::new(|tree| {
        tree.put("/proc/self/mountinfo", "29 1 0:33 /root / rw - btrfs /dev/mapper/luks-aa rw\n");
        tree.put("/proc/swaps", "Filename Type Size Used Priority\n");
        tree.put_link("/sys/class/block/dm-0", "../../devices/virtual/block/dm-0");
        tree.put_text("/sys/devices/virtual/block/dm-0/dm/name", "luks-aa");
        tree.put_text("/sys/devices/virtual/block/dm-0/dev", "254:0");
        tree.put_dir("/sys/devices/virtual/block/dm-0/holders");
        tree.put_dir(&pci("0000:65:00.0/nvme/nvme0/nvme0n1/nvme0n1p2/holders/dm-0"));
    });
    finds(&odd.vfioadm("check 0000:65:00.0"), "block-in-use", "mounted on / and held by dm-0");
    refused(&odd.vfioadm("bind 0000:65:00.0"), "nvme0n1p2");
}

#[test]
fn a_logical_volume_that_nobody_mounted_is_seen() {
    let odd = Odd::new(|tree| tree.put_dir(&pci("0000:c1:00.0/nvme/nvme1/nvme1n1/holders/dm-7")));
    finds(&odd.vfioadm("check 0000:c1:00.0"), "block-in-use", "held by dm-7");
}

#[test]
fn a_disk_is_lost_with_the_controller_that_it_is_behind() {
    let odd = Odd::new(|tree| {
        // As Intel VMD: an endpoint with a PCI domain of its own behind it.
        tree.put_text(&pci("0000:c0:01.0/class"), "0x010400");
        tree.put_text(&pci("0000:c0:01.0/modalias"), "pci:v00008086d00009A0Bsv00008086sd00000000bc01sc04i00");
        tree.put("/proc/self/mountinfo", "29 1 259:9 / /data rw - ext4 /dev/nvme1n1 rw\n");
    });
    finds(&odd.vfioadm("check 0000:c0:01.0"), "block-in-use", "mounted on /data");
}

#[test]
fn a_default_route_over_a_bond_is_the_nics() {
    let odd = Odd::new(|tree| {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                      bond0 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0\n";
        tree.put("/proc/net/route", routes);
        tree.put("/proc/net/ipv6_route", "");
        tree.put_dir(&pci("0000:01:00.0/net/eno1/upper_bond0"));
    });
    finds(&odd.vfioadm("check 0000:01:00.0"), "default-route", "eno1");
}

#[test]
fn a_group_member_that_cannot_be_read_is_in_the_way() {
    let odd = Odd::new(|tree| tree.put_text(&pci("0000:85:02.0/modalias"), "garbage"));
    let said = odd.vfioadm("bind 0000:85:01.0");
    refused(&said, "0000:85:02.0, of which nothing is known");
}

#[test]
fn a_bridge_on_a_driver_that_does_dma_is_named_with_what_to_do() {
    let odd = Odd::new(|tree| {
        tree.put_link(&pci("0000:84:00.0/driver"), "../../../../bus/pci/drivers/shpchp");
    });
    let said = odd.vfioadm("bind --with-group 0000:85:01.0");
    refused(&said, "echo 0000:84:00.0 > /sys/bus/pci/drivers/shpchp/unbind");
    assert!(!said.err.contains("with --with-group"), "{said}");
}

#[test]
fn an_override_that_is_not_utf_8_stops_the_act_and_nothing_else() {
    let odd = Odd::new(|tree| tree.put(&pci("0000:6b:00.1/driver_override"), &b"a\xffb\n"[..]));
    let said = odd.vfioadm("-o json bind 0000:6b:00.1");
    assert_eq!(said.exit, 1, "{said}");
    let json = said.json();
    assert_eq!((&json["host"], &json["results"][0]["changed"]), (&"as_it_was".into(), &false.into()), "{said}");
    assert!(odd.vfioadm("list").err.contains("driver_override"), "{said}");
}

#[test]
fn vfs_that_go_with_their_pf_are_counted_and_need_yes() {
    let line = "-o json bind --driver qat_vfio_pci --allow driver-mismatch --allow vfs-enabled 0000:81:00.0";
    let odd = Odd::new(|_| {});
    let said = odd.vfioadm(line);
    assert_eq!((said.exit, &said.json()["error"]["id"]), (1, &"needs-yes".into()), "{said}");
    let said = odd.vfioadm(&format!("{line} --yes"));
    let json = said.json();
    assert_eq!((said.exit, &json["host"]), (3, &"changed".into()), "{said}");
    assert!(json["results"][0]["lost"].to_string().contains("4 VFs"), "{said}");
}

#[test]
fn what_belongs_to_the_host_is_left_to_it_whatever_the_driver() {
    for line in [
        "bind --driver none 0000:00:1f.0",
        "bind --driver none 0000:00:1f.2",
        "bind --driver none 0000:80:01.0",
        "bind --driver none 0000:03:00.0",
    ] {
        refused(&vfioadm(&format!("--host demo {line}")), "nothing was tried");
    }
}

#[test]
fn a_vfio_driver_is_told_by_its_table_and_not_by_its_name() {
    let odd = Odd::new(|tree| {
        let path = "/lib/modules/$(uname -r)/modules.alias";
        let lines = tree.text(path).unwrap().to_owned();
        tree.put(path, format!("{lines}\nalias vfio_pci:v00008086d0000100Esv*sd*bc*sc*i* acme_vfio\n"));
    });
    refused(&odd.vfioadm("bind --driver acme_vfio 0000:85:01.0"), "not viable");
    let said = odd.vfioadm("bind --driver acme_vfio --with-group --dry-run 0000:85:01.0");
    assert!(said.out.contains("echo acme_vfio > /sys/bus/pci/devices/0000:85:01.0/driver_override"), "{said}");
}

#[test]
fn a_lane_that_is_taken_back_says_so_of_each_device() {
    let odd = Odd::new(|tree| {
        tree.put_link(&pci("0000:6b:00.1/iommu_group"), "../../../../kernel/iommu_groups/31");
        tree.put_link("/sys/kernel/iommu_groups/31/devices/0000:6b:00.1", "../../../../devices/x/0000:6b:00.1");
    });
    let said = odd.vfioadm("bind --no-fallback 0000:85:01.0 0000:6b:00.1 0000:85:02.0");
    assert_eq!(said.exit, 1, "{said}");
    assert!(!said.out.contains("0000:85:01.0: bound"), "{said}");
    let json = odd.vfioadm("-o json bind --no-fallback 0000:85:01.0 0000:6b:00.1 0000:85:02.0").json();
    let reasons: Vec<_> =
        json["results"].as_array().unwrap().iter().map(|result| result["reason"].to_string()).collect();
    assert!(reasons[0].contains("taken back, because 0000:6b:00.1 failed"), "{reasons:?}");
    assert!(reasons[2].contains("not tried"), "{reasons:?}");
}

#[test]
fn two_devices_of_which_one_fails_are_exit_3_and_each_says_changed() {
    let said = vfioadm("--host demo -o json bind --no-fallback 0000:3b:00.2 0000:6b:00.1");
    assert_eq!(said.exit, 3, "{said}");
    let json = said.json();
    assert_eq!(json["results"][0]["changed"], true);
    assert_eq!(json["results"][1]["changed"], false);
    assert_eq!(json["host"], "changed");
}

#[test]
fn a_vf_under_autoprobe_0_is_given_back() {
    let odd = Odd::new(|tree| tree.put_text(&pci("0000:81:00.0/sriov_drivers_autoprobe"), "0"));
    let save = |line: &str| odd.vfioadm(&format!("--save {line}"));
    assert_eq!(save("bind 0000:81:10.0").exit, 0);
    let said = save("unbind 0000:81:10.0");
    assert_eq!(said.exit, 0, "{said}");
    let device = &odd.vfioadm("-o json list 0000:81:10.0").json()["devices"][0];
    assert_eq!((&device["driver"], &device["override"]), (&"igbvf".into(), &serde_json::Value::Null));
}

#[test]
fn what_has_no_host_driver_is_left_without_one_with_a_warning() {
    let said = vfioadm("--host demo unbind 0000:6b:00.1");
    assert_eq!(said.exit, 0, "{said}");
    assert!(said.err.contains("warning: 0000:6b:00.1: has no host driver"), "{said}");
}

#[test]
fn a_second_bind_after_a_fallback_ends_where_it_began() {
    let odd = Odd::new(|_| {});
    assert_eq!(odd.vfioadm("--save bind 0000:6b:00.1").exit, 0);
    let json = odd.vfioadm("--save -o json bind 0000:6b:00.1").json();
    assert_eq!((&json["results"][0]["driver"], &json["host"]), (&"vfio-pci".into(), &"as_it_was".into()));
}

#[test]
fn an_unknown_driver_is_exit_1_for_check_too() {
    let said = vfioadm("--host demo -o json check --driver no_such_driver 0000:3b:00.2");
    assert_eq!((said.exit, &said.json()["error"]["id"]), (1, &"no-such-driver".into()), "{said}");
}

#[test]
fn every_failure_prints_the_whole_object() {
    for (line, keys) in [
        ("show 0.0.1234", vec!["device", "group_members", "vfs", "blocks", "error"]),
        ("match 0.0.1234", vec!["device", "candidates", "chosen", "error"]),
        ("check 0.0.1234", vec!["findings", "error"]),
        ("list 0.0.1234", vec!["devices", "mdev_parents", "error"]),
        ("bind 0.0.1234", vec!["operation", "results", "changes", "host", "error"]),
        ("unbind 0.0.1234", vec!["operation", "results", "changes", "host", "error"]),
    ] {
        let said = vfioadm(&format!("--host demo -o json {line}"));
        assert_eq!(said.exit, 1, "{said}");
        let json = said.json();
        for key in keys {
            assert!(json.get(key).is_some(), "{line}: no {key} in {said}");
        }
        assert_eq!(json["error"]["id"], "bus-not-supported");
    }
}

#[test]
fn results_that_cannot_be_written_are_an_error_unless_the_reader_went_away() {
    struct Broken(std::io::ErrorKind);
    impl std::io::Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for (kind, exit) in [(std::io::ErrorKind::StorageFull, 1), (std::io::ErrorKind::BrokenPipe, 0)] {
        let mut err = Vec::new();
        let terminal = vfioadm::cli::Terminal::default();
        let mut env = vfioadm::cli::Env { out: &mut Broken(kind), err: &mut err, terminal };
        let words = ["vfioadm", "--host", "demo", "list"].map(std::ffi::OsString::from);
        assert_eq!(vfioadm::cli::run(words, &mut env), exit, "{kind}");
    }
}

#[test]
fn a_vf_is_not_bound_by_a_command_that_takes_its_pf_away() {
    for devices in ["0000:3b:00.2 0000:3b:00.0", "0000:3b:00.0 0000:3b:00.2"] {
        let said = vfioadm(&format!("--host demo -o json bind {devices} --allow vfs-enabled,netdev-up --yes"));
        assert_eq!((said.exit, &said.json()["error"]["id"]), (1, &"goes-with-pf".into()), "{said}");
    }
}

#[test]
fn one_finding_lifted_does_not_lift_another() {
    refused(&vfioadm("--host demo bind 0000:00:1f.2 --allow chipset"), "not viable");
    let said = vfioadm("--host demo bind 0000:85:01.0 --allow group-not-viable");
    assert_eq!(said.exit, 0, "{said}");
    assert!(said.err.contains("warning: group-not-viable: allowed, although"), "{said}");
}

#[test]
fn a_group_is_checked_as_it_is_bound() {
    let odd = Odd::new(|tree| tree.put_text(&pci("0000:85:02.0/net/enp133s2/flags"), "0x1003"));
    finds(&odd.vfioadm("check --with-group 0000:85:01.0"), "netdev-up", "enp133s2");
}

#[test]
fn what_is_behind_a_bridge_is_not_the_bridges() {
    let said = vfioadm("--host demo show 0000:00:1c.0");
    assert!(!said.out.contains("eno1"), "{said}");
    assert!(!vfioadm("--host demo check 0000:64:00.0").out.contains("block-in-use"));
}

#[test]
fn a_pf_without_a_driver_is_given_back_without_a_word_about_its_vfs() {
    assert_eq!(vfioadm("--host demo unbind 0000:6b:00.0").exit, 0);
}

#[test]
fn saving_goes_through_a_link_and_keeps_the_mode() {
    use std::os::unix::fs::PermissionsExt;
    let odd = Odd::new(|_| {});
    std::fs::set_permissions(&odd.file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let link = odd.file.with_file_name("link.host");
    std::os::unix::fs::symlink(&odd.file, &link).unwrap();
    assert_eq!(vfioadm(&format!("--host {} --save bind 0000:3b:00.2", link.display())).exit, 0);
    assert!(link.is_symlink());
    assert_eq!(std::fs::metadata(&odd.file).unwrap().permissions().mode() & 0o777, 0o600);
    let device = &odd.vfioadm("-o json list 0000:3b:00.2").json()["devices"][0];
    assert_eq!(device["driver"], "mlx5_vfio_pci");
}

#[test]
fn recording_into_a_device_leaves_it_a_device() {
    let null = std::path::Path::new("/dev/null");
    assert_eq!(vfioadm("--host demo record /dev/null").exit, 0);
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&null.metadata().unwrap().file_type()));
}

#[test]
fn two_commands_that_save_do_not_overwrite_each_other() {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    let odd = Odd::new(|_| {});
    let directory = open(odd.file.parent().unwrap(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    flock(&directory, FlockOperation::LockExclusive).unwrap();
    let said = odd.vfioadm("--save -o json bind 0000:3b:00.2");
    assert_eq!((said.exit, &said.json()["error"]["id"]), (1, &"locked".into()), "{said}");
    drop(directory);
    assert_eq!(odd.vfioadm("--save bind 0000:3b:00.2").exit, 0);
}

#[test]
fn a_warning_that_explains_a_failure_is_said_before_it() {
    let odd = Odd::new(|tree| {
        tree.put("/lib/modules/$(uname -r)/modules.order", "");
        drop(tree.remove("/lib/modules/$(uname -r)/modules.alias"));
    });
    let said = odd.vfioadm("bind 0000:3b:00.2");
    assert!(said.exit == 1 && said.err.contains("modules.alias.bin"), "{said}");
}
