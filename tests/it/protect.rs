//! What the host would miss is found and refused. The lab's kernel has bonds, bridges, macvlans and parameters, and shows
//! them for real; Open vSwitch, ZFS, LVM, multipath, libvirt, driverctl, TPMs and displays are here as such hosts show
//! them, in hand-made trees.

use vfioadm::host::fake::Tree;

use crate::odd_hosts::{Odd, finds, pci, refused};
use crate::{Said, vfioadm};

/// The management NIC of the demo host, and its interface.
const NIC: &str = "0000:01:00.0";
/// An NVMe of the demo host that nothing uses.
const DISK: &str = "0000:c1:00.0";
/// A function of the demo host that nothing speaks against.
const FREE: &str = "0000:3b:00.2";

#[track_caller]
fn not_found(said: &Said, id: &str) {
    assert!(!said.out.contains(&format!("{id}:")), "{id} in {said}");
}

/// An interface that is stacked on `eno1`.
fn stack(tree: &mut Tree, name: &str) {
    tree.put_link(&format!("/sys/class/net/{name}"), format!("../../devices/virtual/net/{name}"));
    let target = format!("../../../../../virtual/net/{name}");
    tree.put_link(&pci(&format!("{NIC}/net/eno1/upper_{name}")), target);
    let lower = format!("../../../pci0000:00/0000:00:1c.0/{NIC}/net/eno1");
    tree.put_link(&format!("/sys/devices/virtual/net/{name}/lower_eno1"), lower);
}

fn enslave(tree: &mut Tree, name: &str) {
    stack(tree, name);
    tree.put_link(&pci(&format!("{NIC}/net/eno1/master")), format!("../../../../../virtual/net/{name}"));
}

#[test]
fn a_slave_of_a_bond_and_a_port_of_a_bridge_are_named_with_their_masters() {
    for (name, directory, word) in [
        ("bond0", Some("bonding"), "a slave of bond bond0"),
        ("br0", Some("bridge"), "a port of bridge br0"),
        ("team0", None, "enslaved to team0"),
    ] {
        let odd = Odd::new(|tree| {
            enslave(tree, name);
            tree.put_dir(&format!("/sys/devices/virtual/net/{name}"));
            if let Some(directory) = directory {
                tree.put_text(&format!("/sys/devices/virtual/net/{name}/{directory}/x"), "");
            }
        });
        finds(&odd.vfioadm(&format!("check {NIC}")), "netdev-enslaved", word);
        let shown = odd.vfioadm(&format!("show {NIC}"));
        assert!(shown.out.contains(word), "{shown}");
        refused(&odd.vfioadm(&format!("bind {NIC} --allow netdev-up,default-route")), "ip link set eno1 nomaster");
    }
}

#[test]
fn a_port_of_open_vswitch_carries_the_default_route_of_its_internal_port() {
    let odd = Odd::new(|tree| {
        enslave(tree, "ovs-system");
        tree.put_link("/sys/class/net/br-ex", "../../devices/virtual/net/br-ex");
        tree.put_link("/sys/devices/virtual/net/br-ex/master", "../ovs-system");
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                      br-ex 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0\n";
        tree.put("/proc/net/route", routes);
    });
    let said = odd.vfioadm(&format!("check {NIC}"));
    finds(&said, "netdev-enslaved", "a port of an Open vSwitch bridge (ovs-system)");
    finds(&said, "default-route", "eno1");
    refused(&odd.vfioadm(&format!("bind {NIC}")), "ovs-vsctl del-port eno1");
}

#[test]
fn a_vlan_over_an_interface_is_named_with_what_it_is() {
    let odd = Odd::new(|tree| {
        stack(tree, "eno1.10");
        tree.put("/sys/devices/virtual/net/eno1.10/uevent", "DEVTYPE=vlan\nINTERFACE=eno1.10\nIFINDEX=7\n");
        stack(tree, "ipvl0");
        tree.put("/sys/devices/virtual/net/ipvl0/uevent", "INTERFACE=ipvl0\nIFINDEX=8\n");
    });
    let said = odd.vfioadm(&format!("check {NIC}"));
    finds(&said, "netdev-enslaved", "below vlan eno1.10");
    finds(&said, "netdev-enslaved", "below interface ipvl0");
    assert!(said.out.contains("ip link delete eno1.10"), "{said}");
}

/// A host that is logged into by ssh and sudo from `peer`: 100 is vfioadm, 90 sudo, 80 a shell that has the variable.
fn logged_in(tree: &mut Tree, peer: &str) {
    tree.put("/proc/self/environ", "PATH=/bin\0SUDO_USER=me\0");
    tree.put("/proc/self/status", "Name:\tvfioadm\nPPid:\t90\n");
    tree.put("/proc/90/environ", "PATH=/bin\0");
    tree.put("/proc/90/status", "Name:\tsudo\nPPid:\t80\n");
    tree.put("/proc/80/environ", format!("PATH=/bin\0SSH_CONNECTION={peer} 50000 192.0.2.1 22\0"));
    tree.put("/proc/80/status", "Name:\tbash\nPPid:\t1\n");
}

#[test]
fn the_way_in_by_ssh_is_kept_through_sudo() {
    // eno1 has the default route and 192.0.2.0/24.
    for peer in ["203.0.113.9", "192.0.2.7"] {
        let odd = Odd::new(|tree| logged_in(tree, peer));
        finds(&odd.vfioadm(&format!("check {NIC}")), "ssh-route", peer);
        refused(&odd.vfioadm(&format!("bind {NIC} --allow netdev-up,default-route")), "carries this ssh connection");
    }
    for peer in ["127.0.0.1", "192.0.2.1", "2001:db8::1"] {
        let odd = Odd::new(|tree| logged_in(tree, peer));
        not_found(&odd.vfioadm(&format!("check {NIC}")), "ssh-route");
    }
    not_found(&vfioadm(&format!("--host demo check {NIC}")), "ssh-route");
}

#[test]
fn a_circle_of_parents_ends() {
    let odd = Odd::new(|tree| {
        tree.put("/proc/self/status", "PPid:\t90\n");
        tree.put("/proc/90/status", "PPid:\t90\n");
    });
    not_found(&odd.vfioadm(&format!("check {NIC}")), "ssh-route");
}

/// A device-mapper device or MD array that holds the free disk.
fn hold(tree: &mut Tree, name: &str, facts: &[(&str, &str)]) {
    tree.put_dir(&pci(&format!("{DISK}/nvme/nvme1/nvme1n1/holders/{name}")));
    tree.put_link(&format!("/sys/class/block/{name}"), format!("../../devices/virtual/block/{name}"));
    for (file, text) in facts {
        tree.put_text(&format!("/sys/devices/virtual/block/{name}/{file}"), text);
    }
}

#[test]
fn what_is_stacked_on_a_disk_is_said_in_words() {
    for (name, facts, words) in [
        ("dm-7", [("dm/name", "vg0-data"), ("dm/uuid", "LVM-abc")], "held by dm-7 (LVM vg0-data)"),
        ("dm-7", [("dm/name", "mpatha"), ("dm/uuid", "mpath-3600")], "held by dm-7 (multipath mpatha)"),
        ("dm-7", [("dm/name", "luks-1"), ("dm/uuid", "CRYPT-LUKS2-1-x")], "held by dm-7 (dm-crypt luks-1)"),
        ("md127", [("md/level", "raid1"), ("dev", "9:127")], "held by md127 (MD raid1)"),
    ] {
        let odd = Odd::new(|tree| hold(tree, name, &facts));
        finds(&odd.vfioadm(&format!("check {DISK}")), "block-in-use", words);
        let shown = odd.vfioadm(&format!("show {DISK}"));
        assert!(shown.out.contains(words), "{shown}");
    }
}

/// What udev says of the free disk's block device.
fn udev(tree: &mut Tree, lines: &str) {
    let number = tree.text(&pci(&format!("{DISK}/nvme/nvme1/nvme1n1/dev"))).unwrap().to_owned();
    tree.put(&format!("/run/udev/data/b{number}"), format!("S:disk/by-id/x\n{lines}"));
}

#[test]
fn a_member_of_a_zfs_pool_is_in_use_while_the_pool_is_imported() {
    let member = "E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=tank\n";
    let odd = Odd::new(|tree| {
        udev(tree, member);
        tree.put("/proc/spl/kstat/zfs/tank/state", "ONLINE\n");
        tree.put("/proc/spl/kstat/zfs/arcstats", "");
    });
    finds(&odd.vfioadm(&format!("check {DISK}")), "block-in-use", "in ZFS pool tank");
    refused(&odd.vfioadm(&format!("bind {DISK}")), "zpool export tank");
    for other in ["/proc/spl/kstat/zfs/arcstats", "/proc/spl/kstat/zfs/lake/state"] {
        let odd = Odd::new(|tree| {
            udev(tree, member);
            tree.put(other, "");
        });
        not_found(&odd.vfioadm(&format!("check {DISK}")), "block-in-use");
    }
}

#[test]
fn what_the_machine_starts_from_is_kept() {
    let said = vfioadm("--host demo check 0000:65:00.0");
    finds(&said, "holds-boot", "mounted on /boot/efi");
    let odd = Odd::new(|tree| udev(tree, "E:ID_PART_ENTRY_TYPE=c12a7328-f81f-11d2-ba4b-00a0c93ec93b\n"));
    finds(&odd.vfioadm(&format!("check {DISK}")), "holds-boot", "an EFI system partition");
    refused(&odd.vfioadm(&format!("bind {DISK}")), "efibootmgr");
    not_found(&vfioadm(&format!("--host demo check {DISK}")), "holds-boot");
}

/// A framebuffer of a function.
fn framebuffer(tree: &mut Tree, name: &str, bdf: &str) {
    tree.put_link(&format!("/sys/class/graphics/{name}"), format!("../../devices/pci0000:00/{bdf}/graphics/{name}"));
}

#[test]
fn the_only_display_is_kept_while_the_console_is_on_it() {
    let console = |active: &'static str, others: &'static [&'static str]| {
        Odd::new(move |tree| {
            tree.put_text("/sys/class/tty/console/active", active);
            tree.put_link("/sys/class/graphics/fbcon", "../../devices/virtual/graphics/fbcon");
            framebuffer(tree, "fb0", "0000:03:00.0");
            for (name, other) in ["fb1", "fb2"].iter().zip(others) {
                framebuffer(tree, name, other);
            }
        })
    };
    finds(&console("tty0", &[]).vfioadm("check 0000:03:00.0"), "console", "the only display");
    let two = console("ttyS0 tty0", &["0000:87:00.0"]);
    not_found(&two.vfioadm("check 0000:03:00.0"), "console");
    not_found(&console("ttyS0", &[]).vfioadm("check 0000:03:00.0"), "console");
}

#[test]
fn a_serial_function_with_the_console_is_kept_and_the_platforms_is_nobodys() {
    let odd = Odd::new(|tree| {
        tree.put_text("/sys/class/tty/console/active", "tty0 ttyS4");
        let port = format!("{FREE}/{FREE}:0/{FREE}:0.0/tty/ttyS4");
        tree.put_link("/sys/class/tty/ttyS4", format!("../../devices/pci0000:3a/{port}"));
    });
    finds(&odd.vfioadm(&format!("check {FREE}")), "console", "ttyS4");
    refused(&odd.vfioadm(&format!("bind {FREE}")), "console=");
    let odd = Odd::new(|tree| {
        tree.put_text("/sys/class/tty/console/active", "ttyS0");
        tree.put_link("/sys/class/tty/ttyS0", "../../devices/pnp0/00:01/00:01:0/00:01:0.0/tty/ttyS0");
    });
    not_found(&odd.vfioadm("check 0000:01:00.0"), "console");
}

#[test]
fn a_tpm_is_kept_and_a_random_number_generator_is_warned_of() {
    let odd = Odd::new(|tree| {
        tree.put_link("/sys/class/tpm/tpm0", format!("../../devices/pci0000:3a/{FREE}/tpm/tpm0"));
        tree.put_text("/sys/class/misc/hw_random/rng_current", "virtio_rng.0");
        let driver = "/sys/bus/virtio/drivers/virtio_rng";
        tree.put_link(&format!("{driver}/virtio3"), format!("../../../../devices/pci0000:c0/{DISK}/virtio3"));
        tree.put_link(&format!("{driver}/module"), "../../../../module/virtio_rng");
    });
    finds(&odd.vfioadm(&format!("check {FREE}")), "tpm-in-use", "tpm0");
    refused(&odd.vfioadm(&format!("bind {FREE}")), "tpm0");
    finds(&odd.vfioadm(&format!("check {DISK}")), "rng-in-use", "virtio_rng.0");
    assert_eq!(odd.vfioadm(&format!("bind {DISK}")).exit, 0, "a warning stops nothing");
    let odd = Odd::new(|tree| tree.put_text("/sys/class/misc/hw_random/rng_current", format!("cn10k-rng-{FREE}")));
    finds(&odd.vfioadm(&format!("check {FREE}")), "rng-in-use", "cn10k-rng");
}

#[test]
fn a_pf_stays_while_its_vfs_are_given_away_whatever_the_driver() {
    let odd = Odd::new(|_| {});
    assert_eq!(odd.vfioadm("--save bind 0000:81:10.0").exit, 0);
    for line in ["bind", "bind --driver none"] {
        let said = odd.vfioadm(&format!("{line} --yes --allow vfs-enabled,netdev-up 0000:81:00.0"));
        refused(&said, "0000:81:10.0 on");
        assert!(said.err.contains("vfioadm unbind 0000:81:10.0"), "{said}");
    }
    finds(&odd.vfioadm("check --driver host 0000:81:00.0"), "vfs-in-vms", "0000:81:10.0");
    not_found(&vfioadm("--host demo check 0000:81:00.0"), "vfs-in-vms");
}

#[test]
fn ids_that_vfio_pci_takes_at_load_are_warned_of_with_their_place() {
    let ids = |place: &str, text: &str| {
        let odd = Odd::new(|tree| tree.put(place, text));
        odd.vfioadm("check --driver host 0000:85:01.0")
    };
    let said = ids("/proc/cmdline", "ro quiet vfio-pci.ids=10de:1db6,8086:100e\n");
    finds(&said, "vfio-pci-ids", "the kernel command line");
    finds(&said, "vfio-pci-ids", "and one other function");
    finds(
        &ids("/etc/modprobe.d/vfio.conf", "options vfio_pci ids=8086:100e\n"),
        "vfio-pci-ids",
        "/etc/modprobe.d/vfio.conf",
    );
    not_found(&ids("/etc/modprobe.d/vfio.conf", "#options vfio_pci ids=8086:100e\n"), "vfio-pci-ids");
    not_found(&ids("/etc/modprobe.d/vfio.conf.bak", "options vfio_pci ids=8086:100e\n"), "vfio-pci-ids");
}

#[test]
fn a_device_that_came_by_a_dynamic_id_is_noted() {
    let odd = Odd::new(|_| {});
    assert_eq!(odd.vfioadm(&format!("--save bind --driver vfio-pci {DISK}")).exit, 0);
    not_found(&odd.vfioadm(&format!("check {DISK}")), "dynamic-id");
    let odd = Odd::new(|tree| tree.put_link(&pci(&format!("{DISK}/driver")), "../../../../bus/pci/drivers/vfio-pci"));
    assert!(odd.vfioadm(&format!("check {DISK}")).out.contains("dynamic-id:"));
}

#[test]
fn other_tools_that_would_fight_are_named_with_their_files() {
    let odd = Odd::new(|tree| {
        let source = "<source><address domain='0x0000' bus='0x3b' slot='0x00' function='0x2'/></source>";
        let hostdev = format!("<hostdev mode='subsystem' type='pci' managed='yes'>{source}</hostdev>");
        tree.put(
            "/etc/libvirt/qemu/build.xml",
            format!("<domain><name>build</name><devices>{hostdev}</devices></domain>"),
        );
        tree.put("/etc/libvirt/qemu/networks/default.xml", "<network/>");
        tree.put("/etc/driverctl.d/pci-0000:3b:00.2", "vfio-pci\n");
        tree.put("/etc/driverctl.d/pci-0000:c1:00.0", "");
        tree.put("/etc/mdevctl.d/0000:3b:00.2/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "{}");
        tree.put("/etc/mdevctl.d/scripts.d/notifiers/x", "");
    });
    let said = odd.vfioadm(&format!("check {FREE}"));
    finds(&said, "libvirt-managed", "for build");
    finds(&said, "driverctl-rule", "/etc/driverctl.d/pci-0000:3b:00.2");
    finds(&said, "mdevctl-rule", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001");
    let said = odd.vfioadm(&format!("check {DISK}"));
    for id in ["libvirt-managed", "driverctl-rule", "mdevctl-rule"] {
        not_found(&said, id);
    }
    let said = odd.vfioadm(&format!("bind {FREE}"));
    assert!(said.exit == 0 && said.err.contains("virsh edit build"), "{said}");
}

#[test]
fn unsafe_interrupts_are_said_once_for_the_host() {
    let odd = Odd::new(|tree| tree.put_text("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y"));
    let said = odd.vfioadm(&format!("check {FREE} {DISK}"));
    finds(&said, "unsafe-interrupts", "vfio_iommu_type1");
    assert_eq!(said.out.matches("unsafe-interrupts").count(), 1, "{said}");
    not_found(&odd.vfioadm(&format!("check --driver host {FREE}")), "unsafe-interrupts");
}

#[test]
fn a_region_that_firmware_maps_directly_is_refused_and_a_relaxable_one_is_not() {
    let odd = |kind: &'static str| {
        Odd::new(move |tree| {
            let group = tree.link_name(&pci(&format!("{DISK}/iommu_group"))).unwrap().to_owned();
            let lines =
                format!("0x000000007c000000 0x000000007dffffff {kind}\n0x00000000fee00000 0x00000000feefffff msi\n");
            tree.put(&format!("/sys/kernel/iommu_groups/{group}/reserved_regions"), lines);
        })
    };
    finds(
        &odd("direct").vfioadm(&format!("check {DISK}")),
        "direct-region",
        "0x000000007c000000 to 0x000000007dffffff",
    );
    refused(&odd("direct").vfioadm(&format!("bind {DISK}")), "EINVAL");
    not_found(&odd("direct").vfioadm(&format!("check --driver host {DISK}")), "direct-region");
    not_found(&odd("direct-relaxable").vfioadm(&format!("check {DISK}")), "direct-region");
}

#[test]
fn a_group_is_explained_by_the_outermost_port_that_does_not_isolate() {
    let said = vfioadm("--host demo show 0000:85:01.0");
    assert!(said.out.contains("0000:84:00.0 (PCIe-to-PCI bridge) leads to conventional PCI"), "{said}");
    let port = "0000:80:02.0";
    let config = |tree: &mut Tree| {
        let path = pci(&format!("{port}/config"));
        let mut config = tree.file(&path).unwrap().to_owned();
        config.truncate(0x100);
        tree.put(&path, config);
    };
    let odd = Odd::new(config);
    finds(&odd.vfioadm("check 0000:85:01.0"), "group-not-viable", "0000:80:02.0 (root port) has no ACS");
    refused(&odd.vfioadm("bind 0000:85:01.0"), "0000:80:02.0 (root port) has no ACS");
    let survey = odd.vfioadm("check");
    assert!(
        survey.out.contains("group-not-viable") && !survey.out.contains("ACS"),
        "bridges are not read for a survey"
    );
}

#[test]
fn a_bridge_that_sleeps_is_not_read() {
    let odd = Odd::new(|tree| {
        for bridge in ["0000:80:02.0", "0000:84:00.0"] {
            tree.put_text(&pci(&format!("{bridge}/power/runtime_status")), "suspended");
        }
    });
    let said = odd.vfioadm("show 0000:85:01.0");
    assert!(said.out.contains("0000:80:02.0 was not looked at (its runtime_status is suspended)"), "{said}");
    assert!(!odd.vfioadm("check 0000:85:01.0").out.contains("conventional"), "what is unknown is not said");
}

#[test]
fn a_recording_of_such_a_host_shows_the_same_findings() {
    let odd = Odd::new(|tree| {
        enslave(tree, "bond0");
        tree.put_dir("/sys/devices/virtual/net/bond0/bonding");
        stack(tree, "eno1.10");
        tree.put("/sys/devices/virtual/net/eno1.10/uevent", "DEVTYPE=vlan\nINTERFACE=eno1.10\n");
        hold(tree, "dm-7", &[("dm/name", "vg0-data"), ("dm/uuid", "LVM-abc"), ("dev", "254:7")]);
        udev(tree, "E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=tank\nE:ID_PART_ENTRY_TYPE=0xef\n");
        tree.put("/proc/spl/kstat/zfs/tank/state", "ONLINE\n");
        tree.put_text("/sys/class/tty/console/active", "tty0");
        framebuffer(tree, "fb0", "0000:03:00.0");
        tree.put_link("/sys/class/tpm/tpm0", format!("../../devices/pci0000:3a/{FREE}/tpm/tpm0"));
        tree.put_text("/sys/class/misc/hw_random/rng_current", format!("cn10k-rng-{FREE}"));
        tree.put("/proc/cmdline", "ro vfio-pci.ids=15b3:101e\n");
        tree.put("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=15b3:101e\n");
        tree.put("/etc/driverctl.d/pci-0000:3b:00.2", "vfio-pci\n");
        tree.put("/etc/mdevctl.d/0000:3b:00.2/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "{}");
        let source = "<source><address domain='0x0000' bus='0x3b' slot='0x00' function='0x2'/></source>";
        let domain = format!("<domain><name>domain-1</name><hostdev managed='yes'>{source}</hostdev></domain>");
        tree.put("/etc/libvirt/qemu/domain-1.xml", domain);
        tree.put_text("/sys/module/iommufd/parameters/allow_unsafe_interrupts", "Y");
        let group = tree.link_name(&pci(&format!("{DISK}/iommu_group"))).unwrap().to_owned();
        let region = "0x000000007c000000 0x000000007dffffff direct\n";
        tree.put(&format!("/sys/kernel/iommu_groups/{group}/reserved_regions"), region);
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("again.host");
    assert_eq!(odd.vfioadm(&format!("record {}", file.display())).exit, 0);
    let devices = format!("{NIC} {DISK} {FREE} 0000:03:00.0 0000:85:01.0");
    let (before, after) =
        (odd.vfioadm(&format!("check {devices}")), vfioadm(&format!("--host {} check {devices}", file.display())));
    assert_eq!(after.out, before.out);
    for id in [
        "netdev-enslaved",
        "block-in-use",
        "holds-boot",
        "console",
        "tpm-in-use",
        "rng-in-use",
        "vfio-pci-ids",
        "driverctl-rule",
        "mdevctl-rule",
        "libvirt-managed",
        "unsafe-interrupts",
        "direct-region",
        "group-not-viable",
    ] {
        assert!(before.out.contains(&format!("{id}:")), "{id} in {before}");
    }
}
