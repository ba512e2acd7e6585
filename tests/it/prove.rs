//! Devices that are opened: inspected, saved, loaded.

use std::fs;
use std::path::PathBuf;

use vfioadm::host::fake::build::{Build, Device, Sriov};
use vfioadm::host::fake::{FakeHost, Process};
use vfioadm::host::{Blacklist, Claim, Host as _, HostPath, Open, Probe};

use crate::saved::Saved;

const VF: &str = "0000:3b:00.2";
const SIBLING: &str = "0000:3b:00.3";
const PLAIN: &str = "0000:81:10.4";

/// The demo host with two mlx5 VFs and one igb VF on the best VFIO driver of each.
fn bound() -> Saved {
    let saved = Saved::new(|_| {});
    assert_eq!(saved.vfioadm(&format!("bind {VF} {SIBLING} {PLAIN}")).exit, 0);
    saved
}

#[test]
fn a_device_says_what_it_is_in_words_and_in_full() {
    let saved = bound();
    let lines = [
        format!("inspect {VF}"),
        format!("inspect {VF} --by group"),
        format!("inspect {PLAIN}"),
        format!("inspect {VF} -o json"),
    ];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
}

#[test]
fn what_cannot_be_opened_is_told_why() {
    let saved = bound();
    let lines = [
        "inspect 0000:3b:00.0",
        "inspect 0000:3b:00.4",
        "inspect 0000:3b:00.*",
        "inspect 0000:ff:00.0",
        "state save 0000:81:10.4 s",
    ];
    insta::assert_snapshot!(saved.say(&lines));
}

#[test]
fn a_state_goes_from_one_device_into_another() {
    let saved = bound();
    let file = saved.beside("state").display().to_string();
    let lines = [
        format!("state info {VF}"),
        format!("state save {VF} {file}"),
        format!("state info {file}"),
        format!("state load {SIBLING} {file}"),
        format!("state save --precopy {VF} {file} -o json"),
        format!("state load {SIBLING} {file} -o json"),
        format!("state save {PLAIN} {file}"),
        format!("state load {PLAIN} {file}"),
        format!("state save {VF} - -o json"),
    ];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
}

/// A file with a whole state, beside the host.
#[expect(clippy::disallowed_methods, reason = "a test reads and spoils files")]
fn whole(saved: &Saved) -> (PathBuf, Vec<u8>) {
    let file = saved.beside("state");
    assert_eq!(saved.vfioadm(&format!("state save {VF} {}", file.display())).exit, 0);
    let bytes = fs::read(&file).unwrap();
    (file, bytes)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test spoils a file")]
fn a_spoiled_file_is_refused_by_its_id() {
    let saved = bound();
    let (file, bytes) = whole(&saved);
    let at = bytes.len() / 2;
    let flipped: Vec<u8> = bytes.iter().enumerate().map(|(n, byte)| if n == at { byte ^ 1 } else { *byte }).collect();
    let cases: [(&[u8], &str); 5] = [
        (b"", "state-cut-off"),
        (&bytes[..bytes.len() - 1], "state-cut-off"),
        (&flipped, "state-damaged"),
        (&[&bytes[..], b"x"].concat(), "state-damaged"),
        (b"\x7fELF and so on", "no-state-file"),
    ];
    for (content, id) in cases {
        fs::write(&file, content).unwrap();
        for line in [
            format!("state load {SIBLING} {} -o json", file.display()),
            format!("state info {} -o json", file.display()),
        ] {
            let said = saved.vfioadm(&line);
            assert_eq!((said.exit, said.json()["error"]["id"].as_str()), (1, Some(id)), "{line}: {said}");
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads and spoils files")]
fn a_file_that_is_there_stays_when_saving_fails() {
    let saved = bound();
    let (file, bytes) = whole(&saved);
    let said = saved.vfioadm(&format!("state save {PLAIN} {}", file.display()));
    assert_eq!((said.exit, fs::read(&file).unwrap()), (1, bytes));
    let beside: Vec<_> = fs::read_dir(saved.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{beside:?}");
}

#[test]
fn a_device_that_somebody_has_is_named_with_its_holder() {
    let host = FakeHost::from_text(bound().text().as_bytes()).unwrap();
    let qemu = Process::new(4242, "/usr/bin/qemu-system-x86_64 -name guest=web1,debug-threads=on");
    let _held = host.hold_as(&qemu, &Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    let saved = Saved::of(&host, |_| {});
    insta::assert_snapshot!(saved.say(&[&format!("inspect {VF}"), &format!("inspect {VF} --by group")]));
}

#[test]
fn every_way_that_is_missing_is_told() {
    let saved = bound();
    saved.change(|tree| drop(tree.remove("/dev/iommu")));
    assert_eq!(saved.vfioadm(&format!("inspect {VF}")).exit, 0, "the group is left");
    saved.change(|tree| drop(tree.remove("/dev/vfio/vfio")));
    insta::assert_snapshot!(saved.say(&[&format!("inspect {VF}"), &format!("inspect {VF} --by cdev")]));
}

/// Writes attributes of a host as root does.
fn write(host: &FakeHost, writes: &[(&str, &str)]) {
    let lock = host.lock(&Claim::new("test", host)).unwrap();
    for (path, value) in writes {
        lock.hand().write(&HostPath::parse(path).unwrap(), value).unwrap();
    }
}

/// A host with vfio-pci loaded.
fn with_vfio_pci(recording: &[u8]) -> FakeHost {
    let host = FakeHost::from_text(recording).unwrap();
    let lock = host.lock(&Claim::new("test", &host)).unwrap();
    lock.hand().load_module(&"vfio_pci".parse().unwrap(), Blacklist::Respect).unwrap();
    drop(lock);
    host
}

#[test]
fn without_an_iommu_it_is_opened_when_that_is_allowed_and_not_otherwise() {
    let host = with_vfio_pci(include_bytes!("../hosts/no_iommu.host"));
    let device = "0000:01:00.0";
    write(
        &host,
        &[
            ("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y"),
            (&format!("/sys/bus/pci/devices/{device}/driver_override"), "vfio-pci"),
            ("/sys/bus/pci/drivers/igb/unbind", device),
            ("/sys/bus/pci/drivers/vfio-pci/bind", device),
        ],
    );
    let saved = Saved::of(&host, |_| {});
    let refused = ["inspect", "state info", "list --probe"].map(|words| format!("{words} {device}"));
    let allowed = format!("inspect --allow-no-iommu {device}");
    insta::assert_snapshot!(saved.say(&[&refused[0], &refused[1], &refused[2], &allowed]));
}

#[test]
fn a_vf_whose_pf_is_on_vfio_pci_is_opened_neither_without_a_token_nor_with_another() {
    let host = with_vfio_pci(include_bytes!("../../lab/contract/tests/guest.host"));
    let pf = "0000:02:00.0";
    write(
        &host,
        &[
            ("/sys/module/vfio_pci/parameters/enable_sriov", "Y"),
            (&format!("/sys/bus/pci/devices/{pf}/driver_override"), "vfio-pci"),
            ("/sys/bus/pci/drivers/igb/unbind", pf),
            ("/sys/bus/pci/drivers/vfio-pci/bind", pf),
            (&format!("/sys/bus/pci/devices/{pf}/sriov_numvfs"), "1"),
        ],
    );
    let saved = Saved::of(&host, |_| {});
    let token = "--token 00112233-4455-6677-8899-aabbccddeeff";
    let lines = [
        format!("inspect {pf}/vf0"),
        format!("inspect {pf}/vf0 {token}"),
        format!("inspect {pf}/vf0 --by group {token}"),
    ];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
}

#[test]
fn the_device_is_closed_on_every_path() {
    let host = FakeHost::from_text(bound().text().as_bytes()).unwrap();
    let group = host.open(&Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    drop(group);
    let saved = bound();
    let file = saved.beside("none/state").display().to_string();
    for line in [format!("inspect {VF}"), format!("state save {VF} {file}"), format!("state load {VF} {file}")] {
        drop(saved.vfioadm(&line));
        assert_eq!(saved.vfioadm(&format!("inspect {VF}")).exit, 0, "after {line}");
    }
}

/// What the qualification of the first VF says, with a fault in its driver: the cases that do not hold.
fn failing(fault: &str, peer: &str) -> Vec<String> {
    told(fault, peer, "fail")
}

/// The cases with a verdict.
fn told(fault: &str, peer: &str, verdict: &str) -> Vec<String> {
    let saved = bound();
    saved.change(|tree| {
        let of = |bdf: &str, what: &str| format!("/kernel/pci/{bdf}/{what}");
        tree.put_text(&of(VF, "fault"), fault);
        tree.put_text(&of(SIBLING, "state_seed"), "77");
        let bars = "0x00000000f0000000 0x00000000f00fffff 0x0000000000040200\n".repeat(2);
        tree.put_text(&format!("/sys/bus/pci/devices/{VF}/resource"), bars);
    });
    let said = saved.vfioadm(&format!("qualify {VF} --peer {peer} --yes -o json"));
    let object = said.json();
    let cases = object["cases"].as_array().unwrap();
    let with = |verdict| cases.iter().filter(move |case| case["verdict"] == verdict);
    assert_eq!(said.exit, if with("fail").next().is_none() { 0 } else { 4 }, "{said}");
    with(verdict).map(|case| case["id"].as_str().unwrap().to_owned()).collect()
}

const MTTY: &str = "c2177883-f1bb-47f0-914d-32a22e3a8804";

/// Each fault, and the one case whose rule it breaks.
const CAUGHT: [(&str, &str); 31] = [
    ("wild-region", "regions"),
    ("wrong-errno", "features"),
    ("flags-without-stop-copy", "migration-flags"),
    ("says-running", "state-pairs"),
    ("stops-halfway", "state-pairs"),
    ("fails-to-stop-copy", "state-pairs"),
    ("second-file", "same-state"),
    ("takes-any-state", "no-such-state"),
    ("no-file", "stream-given"),
    ("both-ways", "one-way"),
    ("seekable", "no-seek"),
    ("read-fails", "stop-copy-ends"),
    ("no-message-in-stop-copy", "stop-copy-ends"),
    ("never-ends", "stop-copy-ends"),
    ("deaf-to-poll", "poll"),
    ("size-too-small", "data-size"),
    ("file-outlives-session", "stream-dies"),
    ("reset-keeps-state", "reset"),
    ("precopy-grows", "precopy-info"),
    ("precopy-anywhere", "precopy-info"),
    ("ends-early", "reload"),
    ("flips-bit", "reload"),
    ("saves-differ", "resave"),
    ("loses-load", "resave"),
    ("whole-words", "segments"),
    ("write-fails", "segments"),
    ("loses-short-reads", "read-segments"),
    ("keeps-half-load", "reset-loading"),
    ("takes-anything", "damaged"),
    ("close-keeps-state", "close"),
    ("logs-twice", "logging-session"),
];

/// What is known of mlx5, and the case that says so.
const KNOWN: [(&str, &str); 2] = [("takes-cut", "cut"), ("takes-more", "trailing")];

#[test]
fn a_driver_that_keeps_the_rules_passes_with_either_peer() {
    for peer in [SIBLING, MTTY] {
        assert_eq!(failing("none", peer), [""; 0], "with {peer}");
    }
}

#[test]
fn each_fault_is_caught_by_the_case_whose_rule_it_breaks() {
    for (fault, case) in CAUGHT {
        assert_eq!(failing(fault, SIBLING), [case], "{fault}");
    }
    assert_eq!(failing("reports-unlogged", SIBLING), ["logging-session"]);
    assert_eq!(failing("takes-foreign", MTTY), ["foreign"]);
    // As it is known of mlx5.
    for (fault, case) in KNOWN {
        assert_eq!(told(fault, SIBLING, "quirk"), [case], "{fault}");
        assert_eq!(failing(fault, SIBLING), [""; 0], "{fault}");
    }
}

const NVME_PF: &str = "0000:10:00.0";
const NVME_VF: &str = "0000:10:00.1";
const NVME_SIBLING: &str = "0000:10:00.2";

/// An NVMe PF, whose driver leaves its VFs behind, and two VFs on vfio-pci; their driver saves their state by itself.
fn nvme() -> Saved {
    let bdf = |text: &str| text.parse().unwrap();
    let device = |text, group| Device::new(bdf(text), 0x1b36, 0x10).class(0x01_0802).group(group);
    let sriov = Sriov { total: 2, offset: 1, stride: 1, vf_device: 0x10 };
    let host = Build::new()
        .device(&device(NVME_PF, 10).driver("nvme").sriov(sriov))
        .device(&device(NVME_VF, 11).vf_of(bdf(NVME_PF), 0))
        .device(&device(NVME_SIBLING, 12).vf_of(bdf(NVME_PF), 1))
        .host();
    let saved = Saved::of(&host, |tree| {
        for vf in [NVME_VF, NVME_SIBLING] {
            tree.put_text(&format!("/kernel/pci/{vf}/own_state"), "1");
        }
    });
    let said = saved.vfioadm(&format!("bind {NVME_VF} {NVME_SIBLING}"));
    assert_eq!(said.exit, 0, "{said}");
    saved
}

/// What came of the cases that rebind: id, verdict and evidence.
fn rebound(saved: &Saved, peer: &str) -> Vec<(String, String, String)> {
    let before = saved.snapshot();
    let said = saved.vfioadm(&format!("qualify {NVME_VF} --peer {peer} --yes -o json"));
    let object = said.json();
    let text = |case: &serde_json::Value, key: &str| case[key].as_str().unwrap().to_owned();
    let rebinding = ["forced-id", "pf-absent", "pf-unbound", "reset-degraded"];
    let cases = object["cases"].as_array().unwrap().iter();
    let failed: Vec<_> = cases.clone().filter(|case| case["verdict"] == "fail").map(|case| text(case, "id")).collect();
    assert!(failed.iter().all(|id| rebinding.contains(&id.as_str())), "{said}");
    // Whatever they saw, the host is as it was.
    assert_eq!(saved.snapshot(), before);
    cases
        .filter(|case| rebinding.contains(&case["id"].as_str().unwrap()))
        .map(|case| (text(case, "id"), text(case, "verdict"), text(case, "evidence")))
        .collect()
}

/// Each fault that shows while the PF has no driver, and the one case whose rule it breaks.
const WITHOUT_PF: [(&str, &str); 3] = [
    ("claims-without-pf", "pf-absent"),
    ("half-without-pf", "pf-unbound"),
    ("reset-keeps-without-pf", "reset-degraded"),
];

#[test]
fn a_vf_is_seen_without_the_driver_of_its_pf_and_the_host_is_as_it_was() {
    let cases = rebound(&nvme(), NVME_SIBLING);
    let told: Vec<String> = cases.iter().map(|(id, verdict, evidence)| format!("{verdict} {id}: {evidence}")).collect();
    assert_eq!(
        told,
        [
            "not_applicable forced-id: the driver's table has the peer",
            "pass pf-absent: the probe takes it; it migrates",
            "pass pf-unbound: its stream is whole; it answers, and is opened again",
            "pass reset-degraded: reset in STOP it is in RUNNING",
        ]
    );
}

#[test]
fn what_is_known_of_mlx5_is_a_fault_of_any_other_driver() {
    for (fault, case) in KNOWN {
        let saved = nvme();
        saved.change(|tree| tree.put_text(&format!("/kernel/pci/{NVME_VF}/fault"), fault));
        let object = saved.vfioadm(&format!("qualify {NVME_VF} --peer {NVME_SIBLING} --yes -o json")).json();
        let cases = object["cases"].as_array().unwrap().iter();
        let failed: Vec<_> = cases.filter(|one| one["verdict"] == "fail").map(|one| one["id"].clone()).collect();
        assert_eq!(failed, [case], "{fault}");
    }
}

#[test]
fn each_fault_without_the_driver_of_its_pf_is_caught_by_its_case() {
    for (fault, case) in WITHOUT_PF {
        let saved = nvme();
        saved.change(|tree| tree.put_text(&format!("/kernel/pci/{NVME_VF}/fault"), fault));
        let cases = rebound(&saved, NVME_SIBLING);
        let failed: Vec<&str> =
            cases.iter().filter(|(_, verdict, _)| verdict == "fail").map(|(id, _, _)| id.as_str()).collect();
        assert_eq!(failed, [case], "{fault}: {cases:?}");
    }
}

/// The evidence of a case of a qualification, after its verdict.
fn evidence(saved: &Saved, line: &str, case: &str) -> String {
    let object = saved.vfioadm(&format!("{line} --yes -o json")).json();
    let found = object["cases"].as_array().unwrap().iter().find(|one| one["id"] == case).unwrap().clone();
    format!("{}: {}", found["verdict"].as_str().unwrap(), found["evidence"].as_str().unwrap())
}

#[test]
fn what_is_forced_on_a_driver_is_refused_or_whole() {
    let line = format!("qualify {VF} --peer {PLAIN}");
    let saved = bound();
    let before = saved.snapshot();
    let said = evidence(&saved, &line, "forced-id");
    assert_eq!(said, "pass: the probe takes the peer, which its table has not; it does not migrate");
    assert_eq!(saved.snapshot(), before);
    saved.change(|tree| tree.put_text(&format!("/kernel/pci/{PLAIN}/fault"), "dead-when-forced"));
    let said = evidence(&saved, &line, "forced-id");
    assert!(said.starts_with("fail: it takes the peer, which then cannot be opened: "), "{said}");
    assert_eq!(saved.snapshot(), before);
    // QAT's wants a VF of its own PF.
    let bdf = |text: &str| text.parse().unwrap();
    let qat = Device::new(bdf("0000:6b:00.1"), 0x8086, 0x4941).class(0x0b_4000).group(2);
    let host = Build::new()
        .device(&Device::new(bdf("0000:6b:00.0"), 0x8086, 0x4940).class(0x0b_4000).group(1).driver("4xxx"))
        .device(&qat.vf_of(bdf("0000:6b:00.0"), 0))
        .device(&Device::new(bdf("0000:70:00.0"), 0x1234, 0x11e8).class(0x00_ff00).group(3))
        .host();
    let saved = Saved::of(&host, |_| {});
    assert_eq!(saved.vfioadm("bind 0000:6b:00.1 0000:70:00.0").exit, 0);
    let before = saved.snapshot();
    let said = evidence(&saved, "qualify 0000:6b:00.1 --peer 0000:70:00.0", "forced-id");
    assert_eq!(said, "pass: the probe refuses the peer: ENODEV (No such device)");
    assert_eq!(saved.snapshot(), before);
    // It takes its VFs along.
    let said = evidence(&saved, "qualify 0000:6b:00.1", "pf-absent");
    assert_eq!(said, "not_applicable: 0000:6b:00.0 is on 4xxx, which may take its VFs along when it goes");
}

#[test]
fn a_table_that_binds_unasked_and_a_driver_without_its_module_are_told() {
    let saved = bound();
    saved.change(|tree| {
        tree.remove("/sys/module/mlx5_vfio_pci/drivers/pci:mlx5_vfio_pci");
    });
    let said = evidence(&saved, &format!("qualify {VF}"), "driver-name");
    assert_eq!(said, "fail: its module has no driver mlx5_vfio_pci: its owner is not set");
    assert!(evidence(&saved, &format!("qualify {VF}"), "id-table").starts_with("pass"));
    let saved = bound();
    saved.change(|tree| {
        let place = "/lib/modules/$(uname -r)/modules.alias";
        let more = "alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci\n";
        let all = [tree.file(place).unwrap(), more.as_bytes()].concat();
        tree.put(place, all);
    });
    let said = evidence(&saved, &format!("qualify {VF}"), "id-table");
    assert_eq!(said, "fail: its module has a pci: alias for the device, and would be bound unasked");
}

#[test]
fn nothing_is_rebound_that_the_host_needs() {
    let rebinding = |saved: &Saved| {
        let cases = rebound(saved, NVME_SIBLING);
        cases.into_iter().filter(|(id, ..)| id.starts_with("pf-")).collect::<Vec<_>>()
    };
    let saved = nvme();
    let said = saved.vfioadm(&format!("bind {NVME_PF} --driver none --yes --allow vfs-enabled,vfs-in-vms"));
    assert_eq!(said.exit, 0, "{said}");
    for (id, verdict, evidence) in rebinding(&saved) {
        assert_eq!(
            (verdict.as_str(), evidence.as_str()),
            ("not_applicable", "0000:10:00.0, its PF, has no driver"),
            "{id}"
        );
    }
    // Another VF of it is somebody's.
    let saved = nvme();
    let said = saved.vfioadm(&format!("qualify {NVME_VF} --yes -o json"));
    let text = said.out;
    assert!(text.contains("0000:10:00.2 on vfio-pci is a VF of 0000:10:00.0 too, which stays as it is"), "{text}");
    // An operation before has left the PF halfway.
    let saved = nvme();
    assert_eq!(saved.vfioadm(&format!("bind {NVME_PF} --driver none --yes --allow vfs-enabled,vfs-in-vms")).exit, 0);
    saved.kill("bind-2");
    for (id, verdict, evidence) in rebinding(&saved) {
        assert_eq!(
            (verdict.as_str(), evidence.as_str()),
            ("not_applicable", "bind-2 is unfinished: vfioadm undo"),
            "{id}"
        );
    }
}

#[test]
fn every_fault_of_the_fake_is_among_them() {
    let known: Vec<&str> = CAUGHT.iter().chain(&KNOWN).chain(&WITHOUT_PF).map(|(fault, _)| *fault).collect();
    for (_, name) in vfioadm::host::fake::DeviceFault::ALL {
        let known = known.contains(&name) || ["reports-unlogged", "takes-foreign", "dead-when-forced"].contains(&name);
        assert!(known, "{name}");
    }
}

#[test]
fn a_qualification_is_told_in_four_ways() {
    let saved = bound();
    let lines = [
        format!("qualify {VF}"),
        format!("qualify {VF} --yes"),
        format!("qualify {PLAIN} --yes --report markdown"),
        format!("qualify {MTTY} --yes --report junit"),
        format!("qualify {VF} --peer {VF} --yes"),
    ];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
}

#[test]
fn a_listing_and_a_check_say_who_migrates() {
    let saved = bound();
    let lines = [
        format!("list --probe {VF} {PLAIN} 0000:3b:00.0"),
        format!("list --probe {VF} -o json"),
        format!("check --probe {VF}"),
    ];
    let before = saved.say(&lines.each_ref().map(String::as_str));
    // One that the variant has bound without its PF's consent is plain.
    saved.change(|tree| tree.put_text(&format!("/kernel/pci/{VF}/migratable"), "0"));
    let after = saved.say(&[lines[0].as_str(), lines[2].as_str()]);
    insta::assert_snapshot!(format!("{before}--- not migratable\n{after}"));
}
