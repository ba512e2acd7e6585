use proptest::prelude::*;

use super::*;
use crate::host::fake::FakeHost;
use crate::host::{Claim, Host as _, HostError, Links, Read, Verb};
use crate::model::Errno;
use crate::model::devlink::{DevlinkHandle, DevlinkPort, EswitchMode, PortNew, PortSetting};
use crate::model::vf::{Mac, NetdevName, Switch, VfList, VfSetting};

fn problem(text: &str) -> (usize, Problem) {
    let error = parse(text.as_bytes()).unwrap_err();
    (error.line, error.problem)
}

#[test]
fn every_kind_of_node_is_read() {
    let text = "vfioadm-host 1\n# a comment\n\n/sys/a -> ../b\n/sys/a/x = 1\n/sys/e/\n/sys/m | one\n/sys/m | two\n/sys/n ~\n\
                /sys/raw ~ \\xff\\\\\\x20\n/lib/modules/$(uname -r)/modules.alias = alias a b\nend 8\n";
    let tree = parse(text.as_bytes()).unwrap();
    assert_eq!(tree.link("/sys/a"), Some("../b"));
    assert_eq!(tree.file("/sys/a/x"), Some(&b"1\n"[..]));
    assert_eq!(tree.file("/sys/m"), Some(&b"one\ntwo\n"[..]));
    assert_eq!(tree.file("/sys/n"), Some(&b""[..]));
    assert_eq!(tree.file("/sys/raw"), Some(&b"\xff\\ "[..]));
    assert_eq!(tree.text("/lib/modules/$(uname -r)/modules.alias"), Some("alias a b"));
    assert!(matches!(tree.node("/sys/e"), Some(Node::Dir(_))));
}

#[test]
fn what_is_no_recorded_host_is_refused_with_its_line() {
    let with = |line: &str| problem(&format!("vfioadm-host 1\n{line}\nend 1\n"));
    assert_eq!(problem(""), (1, Problem::Magic));
    assert_eq!(problem("vfioadm-host 2\nend 0\n"), (1, Problem::Magic));
    assert_eq!(problem("vfioadm-host 1\n/sys/a = 1\n"), (3, Problem::Cut));
    assert_eq!(problem("vfioadm-host 1\n/sys/a = 1\nend 2\n"), (3, Problem::Count { said: 2, found: 1 }));
    assert_eq!(problem("vfioadm-host 1\nend 0\n/sys/a = 1\n"), (3, Problem::AfterEnd));
    assert_eq!(with("/sys/../etc/passwd = x").1, Problem::NotAPath("/sys/../etc/passwd".to_owned()));
    assert_eq!(with("/home/passwd = x").1, Problem::NotAPath("/home/passwd".to_owned()));
    assert!(matches!(with("/sys/a").1, Problem::NotANode(_)));
    assert!(matches!(with("/sys/a ! b").1, Problem::NotANode(_)));
    assert!(matches!(with("/sys/a = \\q").1, Problem::NotANode(_)));
    assert!(matches!(with("/sys/a = \\x9").1, Problem::NotANode(_)));
    assert_eq!(with("/sys/\u{e9} = x").1, Problem::NotText);
    assert_eq!(problem("vfioadm-host 1\n/sys/a = 1\n/sys/a = 2\nend 2\n"), (3, Problem::Twice("/sys/a".to_owned())));
    let below = problem("vfioadm-host 1\n/sys/a = 1\n/sys/a/b = 2\nend 2\n");
    assert_eq!(below, (3, Problem::BelowFile("/sys/a/b".to_owned())));
    assert_eq!(with(&format!("/sys{} = 1", "/a".repeat(100))).0, 2);
}

#[test]
fn a_line_of_100_mb_is_refused() {
    let mut bytes = b"vfioadm-host 1\n/sys/a = ".to_vec();
    bytes.resize(100_000_000, b'x');
    assert_eq!(parse(&bytes).unwrap_err(), RecordError { line: 2, problem: Problem::TooLong });
}

#[test]
fn a_host_cut_anywhere_is_refused() {
    let text = print(&parse(b"vfioadm-host 1\n/sys/a = 1\n/sys/b | x\n/sys/b | y\n/sys/c -> d\nend 4\n").unwrap());
    for at in 0..text.len() - 1 {
        assert!(parse(&text.as_bytes()[..at]).is_err(), "cut at {at}: {:?}", &text[..at]);
    }
    assert!(parse(text.as_bytes()).is_ok());
}

/// The lines of `a` that `b` has not.
fn missing<'a>(a: &'a str, b: &str) -> Vec<&'a str> {
    let there: std::collections::BTreeSet<&str> = b.lines().collect();
    a.lines().filter(|line| !there.contains(line) && !line.starts_with("end ")).collect()
}

#[test]
fn a_recording_of_a_host_is_that_host() {
    for text in [
        include_str!("../../../tests/hosts/demo.host"),
        include_str!("../../../tests/hosts/small.host"),
        include_str!("../../../tests/hosts/no_iommu.host"),
    ] {
        let host = FakeHost::from_text(text.as_bytes()).unwrap();
        let (tree, warnings) = record(&host, Privacy::Strip).unwrap();
        assert_eq!(warnings, []);
        let (before, after) = (host.to_text(), print(&tree));
        let left_out =
            |line: &&&str| !["/sriov_vf_total_msix", "/proc/net/", "/kernel/"].iter().any(|part| line.contains(part));
        assert_eq!(missing(&before, &after).iter().filter(left_out).collect::<Vec<_>>(), [&""; 0], "lost");
        assert_eq!(missing(&after, &before).iter().filter(left_out).collect::<Vec<_>>(), [&""; 0], "made up");
        let again = FakeHost::from_text(after.as_bytes()).unwrap();
        assert_eq!(again.snapshot(), host.snapshot());
    }
}

#[test]
fn a_recording_tells_no_serial_number_and_no_hardware_address() {
    let host = FakeHost::demo().unwrap();
    host.edit(|tree| {
        let dir = "/sys/bus/pci/devices/0000:01:00.0";
        tree.put_text(&format!("{dir}/serial_number"), "00-02-c9-ff-ff-01-02-03");
        tree.put_text(&format!("{dir}/net/enx0123456789ab/address"), "01:23:45:67:89:ab");
        tree.put_text(&format!("{dir}/net/enx0123456789ab/flags"), "0x1003");
        tree.put_link("/sys/class/net/enx0123456789ab", "../../devices/pci0000:00/0000:01:00.0/net/enx0123456789ab");
        tree.put("/proc/net/route", "Iface\tx\nenx0123456789ab\t00000000\t0100A8C0\t3\t0\t0\t0\t00000000\n");
        tree.put_text("/sys/bus/pci/devices/0000:65:00.0/nvme/nvme0/serial", "S0123456789AB");
        tree.put("/proc/self/environ", "SSH_CONNECTION=203.0.113.9 50000 192.0.2.1 22\0");
        tree.put("/proc/cmdline", "root=UUID=aa rd.luks.key=SECRET-WORD vfio-pci.ids=10de:1db6\n");
        tree.put("/etc/modprobe.d/a.conf", "options wlan key=SECRET-WORD\noptions vfio-pci ids=10de:1db6\n");
        let source = "<source><address domain='0x0000' bus='0x3b' slot='0x00' function='0x2'/></source>";
        let hostdev = format!("<hostdev managed='yes'><graphics passwd='SECRET-WORD'/>{source}</hostdev>");
        tree.put("/etc/libvirt/qemu/acme.xml", format!("<domain><name>acme</name>{hostdev}</domain>"));
        let dm = "/sys/devices/virtual/block/dm-0";
        tree.put_link("/sys/class/block/dm-0", "../../devices/virtual/block/dm-0");
        tree.put_text(&format!("{dm}/dev"), "254:0");
        tree.put_text(&format!("{dm}/dm/name"), "luks-5ec2e7aa-0000-4000-8000-5ec2e75ec2e7");
        tree.put_text(&format!("{dm}/dm/uuid"), "CRYPT-LUKS2-5ec2e7aa000040008000-luks");
        tree.put(
            "/run/udev/data/b259:1",
            "E:ID_SERIAL=5ec2e7aa\nE:ID_PART_ENTRY_TYPE=c12a7328-f81f-11d2-ba4b-00a0c93ec93b\n",
        );
    });
    let text = |privacy| print(&record(&host, privacy).unwrap().0);
    let strict = text(Privacy::Strip);
    for secret in ["02-c9", "0123456789", "01:23:45", "S0123", "0100A8C0", "203.0.113", "SECRET-WORD", "acme", "5ec2e7"]
    {
        assert!(!strict.to_lowercase().contains(&secret.to_lowercase()), "{secret}");
    }
    assert!(strict.contains("/net/enx000000000000/flags = 0x1003"));
    for kept in
        ["vfio-pci.ids=10de:1db6", "options vfio-pci ids=10de:1db6", "bus='0x3b'", "dm/uuid = CRYPT-", "c12a7328"]
    {
        assert!(strict.contains(kept), "{kept} in {strict}");
    }
    assert!(strict.contains("route | enx000000000000\\t00000000"), "the default route is still its own");
    let kept = text(Privacy::Keep);
    assert!(kept.contains("01:23:45:67:89:ab") && kept.contains("02-c9") && kept.contains("0100A8C0"));
    assert!(kept.contains("/nvme/nvme0/serial = S0123456789AB"));
}

#[test]
fn a_device_that_vanishes_while_it_is_recorded_is_left_out() {
    let vf = "0000:3b:00.3".parse().unwrap();
    for at in (1..2000).step_by(97) {
        let host = FakeHost::demo().unwrap();
        host.vanish_at_read(at, vf);
        let (tree, _) = record(&host, Privacy::Strip).unwrap();
        parse(print(&tree).as_bytes()).unwrap();
    }
    let host = FakeHost::from_text(b"vfioadm-host 1\nend 0\n").unwrap();
    assert!(record(&host, Privacy::Strip).is_err(), "no PCI bus");
}

#[test]
fn vfs_of_a_recorded_pf_that_has_none_find_their_driver() {
    let host = FakeHost::from_text(include_bytes!("../../../tests/hosts/no_iommu.host")).unwrap();
    let (tree, _) = record(&host, Privacy::Strip).unwrap();
    let aliases = tree.text("/lib/modules/$(uname -r)/modules.alias").unwrap();
    assert!(aliases.contains("igbvf"), "{aliases}");
    assert!(host.read(&HostPath::parse("/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs").unwrap()).is_ok());
}

#[test]
fn bytes_that_are_no_text_survive() {
    let host = FakeHost::demo().unwrap();
    host.edit(|tree| tree.put("/sys/bus/pci/devices/0000:01:00.0/label", vec![0xff, b'\n']));
    let again = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
    let path = HostPath::parse("/sys/bus/pci/devices/0000:01:00.0/label").unwrap();
    assert_eq!(again.read(&path).unwrap(), [0xff, b'\n']);
    let (tree, _) = record(&again, Privacy::Strip).unwrap();
    assert_eq!(tree.file("/sys/bus/pci/devices/0000:01:00.0/label"), Some(&[0xff, b'\n'][..]));
}

const LOCAL: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const MAKERS: Mac = Mac([0x00, 0x02, 0xc9, 1, 2, 3]);

fn mlx5() -> DevlinkHandle {
    "pci/0000:3b:00.0".parse().unwrap()
}

fn netdev() -> NetdevName {
    "enp59s0f0np0".parse().unwrap()
}

/// The demo host with a PF in switchdev mode, addresses of its VFs, one that is migratable, and a subfunction.
fn switched() -> FakeHost {
    let host = FakeHost::demo().unwrap();
    let lock = host.lock(&Claim::new("a test", &host)).unwrap();
    let hand = lock.hand();
    hand.set_eswitch_mode(&mlx5(), EswitchMode::Switchdev).unwrap();
    hand.set_vf(&netdev(), 1, VfSetting::Mac(LOCAL)).unwrap();
    hand.set_vf(&netdev(), 1, VfSetting::Trust(Switch::On)).unwrap();
    hand.set_vf(&netdev(), 2, VfSetting::Mac(MAKERS)).unwrap();
    let port = hand.devlink_ports(&mlx5()).unwrap().into_iter().find(|port| port.vf == Some(1)).unwrap();
    hand.set_port(&mlx5(), port.index, PortSetting::Migratable(Switch::On)).unwrap();
    hand.add_port(&mlx5(), PortNew { pf: 0, sf: 88, controller: None }).unwrap();
    drop(hand);
    drop(lock);
    host
}

#[test]
fn what_netlink_tells_of_a_host_is_recorded() {
    let host = switched();
    let (tree, warnings) = record(&host, Privacy::Keep).unwrap();
    assert_eq!(warnings, []);
    let again = FakeHost::from_text(print(&tree).as_bytes()).unwrap();
    assert_eq!(again.devlink_handles().unwrap(), host.devlink_handles().unwrap());
    for handle in host.devlink_handles().unwrap() {
        assert_eq!(again.devlink_ports(&handle).unwrap(), host.devlink_ports(&handle).unwrap());
        assert_eq!(again.eswitch_mode(&handle).ok(), host.eswitch_mode(&handle).ok());
    }
    assert_eq!(again.vf_attributes(&netdev()).unwrap(), host.vf_attributes(&netdev()).unwrap());
    assert_eq!(again.snapshot(), host.snapshot());
    let text = |vf: &str| tree.text(&format!("/kernel/pci/{vf}/migratable"));
    assert_eq!((text("0000:3b:00.3"), text("0000:3b:00.4")), (Some("1"), Some("0")));
    assert!(record(&again, Privacy::Keep).unwrap().0 == tree, "recorded again it is the same");
}

#[test]
fn an_address_that_somebody_chose_is_kept_and_a_makers_is_not() {
    let (tree, _) = record(&switched(), Privacy::Strip).unwrap();
    let place = "/kernel/links/pci/0000:3b:00.0";
    let mac = |vf: u16| (tree.text(&format!("{place}/vfs/{vf}/mac")), tree.text(&port(vf)));
    fn port(vf: u16) -> String {
        format!("/kernel/links/pci/0000:3b:00.0/ports/{}/function/hw_addr", vf + 1)
    }
    let zero = Some("00:00:00:00:00:00");
    assert_eq!((mac(0), mac(2)), ((zero, zero), (zero, zero)));
    assert_eq!(mac(1), (Some("52:54:00:00:00:01"), Some("52:54:00:00:00:01")));
    assert_eq!(tree.text(&format!("{place}/vfs/1/trust")), Some("on"));
}

/// A host whose netlink refuses what it is told to.
struct Mute {
    host: FakeHost,
    devices: Option<Errno>,
    eswitch: Errno,
}

fn no<T>(errno: Errno) -> Result<T, HostError> {
    Err(HostError::new(Verb::Request("DEVLINK_CMD_GET"), HostPath::pci_devices(), errno))
}

impl Read for Mute {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        self.host.read(path)
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        self.host.link(path)
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        self.host.list(path)
    }
}

impl Links for Mute {
    fn vf_attributes(&self, _: &NetdevName) -> Result<VfList, HostError> {
        no(Errno::ENODEV)
    }

    fn devlink_handles(&self) -> Result<Vec<DevlinkHandle>, HostError> {
        self.devices.map_or_else(|| self.host.devlink_handles(), no)
    }

    fn devlink_ports(&self, handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, HostError> {
        self.host.devlink_ports(handle)
    }

    fn eswitch_mode(&self, _: &DevlinkHandle) -> Result<Option<EswitchMode>, HostError> {
        no(self.eswitch)
    }
}

#[test]
fn what_netlink_does_not_tell_is_a_warning() {
    let told = |devices, eswitch| {
        let (tree, warnings) = record(&Mute { host: switched(), devices, eswitch }, Privacy::Strip).unwrap();
        (tree, warnings.iter().filter(|warning| warning.subject == "devlink").count(), warnings.len())
    };
    let (tree, devlink, all) = told(None, Errno::EPERM);
    assert_eq!((devlink, all > devlink), (1, true), "once for all eswitches, and for each PF without attributes");
    assert!(tree.has("/kernel/links/pci/0000:3b:00.0/ports"), "ports are told to everybody");
    assert_eq!(told(None, Errno::EOPNOTSUPP).1, 0, "a function without an eswitch is nothing to warn of");
    let (tree, devlink, _) = told(Some(Errno::ETIMEDOUT), Errno::EPERM);
    assert_eq!((devlink, tree.has("/kernel/links")), (1, false));
}

/// A tree as insertion makes it.
fn any_tree() -> impl Strategy<Value = Tree> {
    let name = "[a-c \\\\é]{1,3}".prop_filter("dots", |name| name != "." && name != "..");
    let root =
        prop_oneof![Just("/sys"), Just("/proc"), Just("/dev"), Just("/lib/modules/$(uname -r)"), Just("/kernel")];
    let path = (root, proptest::collection::vec(name, 1..4));
    let node = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Node::File),
        "([a-z ]{0,6}\n){0,3}".prop_map(|text| Node::File(text.into_bytes())),
        "[a-z./é ]{0,12}".prop_map(Node::Link),
        Just(Node::Dir(Dir::default())),
    ];
    proptest::collection::vec((path, node), 0..12).prop_map(|all| {
        let mut tree = Tree::default();
        for ((root, parts), node) in all {
            // What cannot be beside the rest is left out.
            let _conflict = tree.insert(&format!("{root}/{}", parts.join("/")), node);
        }
        tree
    })
}

proptest! {
    #[test]
    fn a_host_survives_printing(tree in any_tree()) {
        let text = print(&tree);
        prop_assert!(text.is_ascii());
        prop_assert_eq!(parse(text.as_bytes()).unwrap(), tree, "{}", text);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(parse(&bytes));
        drop(parse(&[MAGIC.as_bytes(), b"\n", &bytes].concat()));
    }

    #[test]
    fn no_lines_make_the_parser_panic(
        lines in "(/(sys|proc|kernel)(/[a-c.]{0,3}){0,4} ?(->|=|~|\\||)? ?[a-z\\\\x0-9]{0,6}\n){0,8}(end [0-9]\n)?",
    ) {
        drop(parse(format!("{MAGIC}\n{lines}").as_bytes()));
    }
}
