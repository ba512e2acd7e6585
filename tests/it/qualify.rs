//! A driver that is held to the rules: every fault is caught by one case.

use vfioadm::host::fake::build::{Build, Device, Sriov};

use crate::prove::{PLAIN, SIBLING, VF, bound};
use crate::saved::Saved;

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
