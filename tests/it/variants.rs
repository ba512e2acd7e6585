//! The twins of the lab's own variants: which is chosen, what comes of refusing, waiting and losing a PF, and which case of
//! `qualify` catches which fault.

use vfioadm::host::fake::FakeHost;
use vfioadm::host::fake::vfio::lab::{self, BY_DEVICE_NAME, BY_SUBSYSTEM_NAME};
use vfioadm::host::{Blacklist, Claim, Host as _, HostPath};
use vfioadm_contract::{CAUGHT, Peer};

use crate::saved::Saved;

const NVME_PF: &str = "0000:03:00.0";
const VF: &str = "0000:03:00.1";
const SIBLING: &str = "0000:03:00.2";
/// An igb VF.
const STRANGER: &str = "0000:02:10.0";
/// No VF.
const ALONE: &str = "0000:06:00.0";
const EDU: &str = "0000:00:02.0";

/// Parameters of a module.
type Told<'a> = (&'a str, &'a [(&'a str, &'a str)]);

/// The lab's guest with the variants among its modules, these loaded and told so, and two VFs of each PF that no driver has.
fn guest(told: &[Told<'_>]) -> Saved {
    let host = FakeHost::from_text(include_bytes!("../../lab/contract/tests/guest.host")).unwrap();
    lab::BOTH.into_iter().for_each(|variant| host.install(variant));
    for pf in [NVME_PF, "0000:02:00.0"] {
        write(&host, &format!("/sys/bus/pci/devices/{pf}/sriov_drivers_autoprobe"), "0");
        write(&host, &format!("/sys/bus/pci/devices/{pf}/sriov_numvfs"), "2");
    }
    for (module, parameters) in told {
        tell(&host, module, parameters);
    }
    Saved::of(&host, |_| {})
}

fn write(host: &FakeHost, path: &str, value: &str) {
    let lock = host.lock(&Claim::new("a test", host)).unwrap();
    lock.hand().write(&HostPath::parse(path).unwrap(), value).unwrap();
}

/// Loads a module, where it is not loaded, and sets its parameters.
fn tell(host: &FakeHost, module: &str, parameters: &[(&str, &str)]) {
    let lock = host.lock(&Claim::new("a test", host)).unwrap();
    lock.hand().load_module(&module.parse().unwrap(), Blacklist::Ignore).unwrap();
    drop(lock);
    for (name, value) in parameters {
        write(host, &format!("/sys/module/{module}/parameters/{name}"), value);
    }
}

/// Sets parameters behind vfioadm's back.
fn tell_saved(saved: &Saved, module: &str, parameters: &[(&str, &str)]) {
    let host = saved.host();
    tell(&host, module, parameters);
    saved.write(&host, |_| {});
}

/// The driver of a device.
fn driver(saved: &Saved, device: &str) -> Option<String> {
    saved.snapshot().devices[device].get("driver").cloned()
}

#[test]
fn of_two_that_match_the_one_whose_table_names_the_subsystem_is_chosen() {
    let saved = guest(&[]);
    let lines = [format!("match {VF}"), format!("bind {VF} {STRANGER} {ALONE}"), format!("inspect {VF}")];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
}

#[test]
fn the_first_refuses_then_the_second_and_vfio_pci_takes_it() {
    let saved = guest(&[(BY_SUBSYSTEM_NAME, &[("probe_errno", "19")])]);
    let mut said = saved.say(&[&format!("bind {VF}")]);
    assert_eq!(driver(&saved, VF).as_deref(), Some(BY_DEVICE_NAME));
    tell_saved(&saved, BY_DEVICE_NAME, &[("probe_errno", "22")]);
    said += &saved.say(&[
        &format!("bind {ALONE} --no-fallback"),
        &format!("bind {ALONE}"),
        &format!("bind {SIBLING} -o json"),
    ]);
    for device in [ALONE, SIBLING] {
        assert_eq!(driver(&saved, device).as_deref(), Some("vfio-pci"));
    }
    // One that has stopped to refuse is better than the fallback, and the device is moved to it.
    tell_saved(&saved, BY_DEVICE_NAME, &[("probe_errno", "0")]);
    said += &saved.say(&[&format!("bind {ALONE}")]);
    insta::assert_snapshot!(said);
}

#[test]
fn a_probe_that_takes_longer_than_a_bind_may_is_left_behind_and_undone_when_it_has_ended() {
    let saved = guest(&[(BY_SUBSYSTEM_NAME, &[("probe_delay_ms", "70000")])]);
    let before = saved.snapshot();
    let lines = [format!("bind {ALONE} {EDU}"), format!("show {ALONE}"), "undo".to_owned(), "log".to_owned()];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
    assert_eq!(saved.snapshot(), before);
}

#[test]
fn a_probe_that_takes_as_long_as_a_bind_may_is_waited_for() {
    let saved = guest(&[(BY_SUBSYSTEM_NAME, &[("probe_delay_ms", "59000")])]);
    assert_eq!(saved.vfioadm(&format!("bind {ALONE}")).exit, 0);
    assert_eq!(driver(&saved, ALONE).as_deref(), Some(BY_SUBSYSTEM_NAME));
}

#[test]
fn a_vf_stays_bound_when_the_driver_of_its_pf_goes_and_falls_back_when_it_is_bound_anew() {
    let needs = &[("need_pf", "2")][..];
    let saved = guest(&[(BY_SUBSYSTEM_NAME, needs), (BY_DEVICE_NAME, needs)]);
    let file = saved.beside("state").display().to_string();
    let lines = [
        format!("bind {ALONE}"),
        format!("bind {VF}"),
        format!("state info {VF}"),
        format!("bind {NVME_PF} --driver none --yes --allow vfs-enabled"),
        format!("bind {NVME_PF} --driver none --yes --allow vfs-enabled,vfs-in-vms"),
        format!("show {VF}"),
        format!("state info {VF}"),
        format!("state save {VF} {file}"),
        format!("bind {NVME_PF} --driver host --allow vfs-in-vms"),
        format!("state save {VF} {file}"),
        format!("bind {NVME_PF} --driver none --yes --allow vfs-enabled,vfs-in-vms"),
        format!("bind {VF} --driver none"),
        format!("bind {VF}"),
    ];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
    assert_eq!(driver(&saved, VF).as_deref(), Some("vfio-pci"));
}

/// A VF, its sibling and a stranger on the variant that ranks first.
fn bound(parameters: &[(&str, &str)]) -> Saved {
    let saved = guest(&[(BY_SUBSYSTEM_NAME, parameters)]);
    assert_eq!(saved.vfioadm(&format!("bind {VF} {SIBLING} {STRANGER}")).exit, 0);
    saved
}

#[test]
fn a_state_goes_into_the_sibling_and_not_into_a_stranger() {
    let saved = bound(&[("state_bytes", "300000")]);
    let file = saved.beside("state").display().to_string();
    let lines = [
        format!("state save {VF} {file} --precopy"),
        format!("state info {file}"),
        format!("state load {SIBLING} {file}"),
        format!("state load {STRANGER} {file}"),
    ];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
}

/// The twins are of these sources.
mod sources {
    use std::collections::BTreeSet;

    use vfioadm::host::fake::vfio::lab::{BOTH, LabFault};
    use vfioadm_contract::CAUGHT;

    const MIGRATION: &str = include_str!("../../lab/kmod/migration.c");
    const VARIANT: &str = include_str!("../../lab/kmod/variant.c");
    const README: &str = include_str!("../../lab/kmod/README.md");

    /// What stands behind a word, up to one of these, each time.
    fn behind<'a>(text: &'a str, word: &'a str, ends: &'a [char]) -> impl Iterator<Item = &'a str> {
        text.split(word).skip(1).filter_map(move |rest| rest.split(ends).next()).map(str::trim)
    }

    #[test]
    fn they_break_the_rules_that_the_sources_break() {
        let twin: BTreeSet<&str> = LabFault::ALL.iter().map(|(_, name)| *name).collect();
        let source: BTreeSet<&str> = behind(MIGRATION, "broken(", &[')']).filter(|name| *name != "rule").collect();
        assert_eq!(twin, source);
        let faults = README.split("## Faults").nth(1).unwrap();
        let told: BTreeSet<&str> = behind(faults, "\n| `", &['`']).filter(|name| *name != "fault").collect();
        assert_eq!(twin, told);
        assert_eq!(twin, CAUGHT.iter().map(|caught| caught.fault).collect());
    }

    #[test]
    fn they_have_the_parameters_of_the_sources() {
        let all = [behind(MIGRATION, "\nLAB_PARAM(", &['"']), behind(VARIANT, "\nLAB_PARAM(", &['"'])];
        let mut source: Vec<(&str, &str)> = all
            .into_iter()
            .flatten()
            .map(|words| {
                let words: Vec<&str> = words.split(',').map(str::trim).collect();
                let value = match words[3] {
                    "true" => "Y",
                    "SZ_64K" => "65536",
                    number => number,
                };
                (words[2], value)
            })
            .collect();
        assert!(MIGRATION.contains("static char fault[32] = \"none\";"));
        source.push(("fault", "none"));
        source.sort_unstable();
        for twin in BOTH {
            assert_eq!(twin.parameters(), source, "{}", twin.driver());
        }
    }

    #[test]
    fn they_have_the_tables_of_the_sources() {
        let numbers = |text: &str| {
            let vendors = text
                .replace("PCI_VENDOR_ID_INTEL", "0x8086")
                .replace("PCI_VENDOR_ID_REDHAT", "0x1b36")
                .replace("PCI_VENDOR_ID_MELLANOX", "0x15b3");
            let words: Vec<String> = vendors.split(", 0x").map(|word| word.replace("0x", "").to_uppercase()).collect();
            words
        };
        let table: Vec<Vec<String>> = behind(VARIANT, "\tLAB_ID(", &[')']).map(numbers).collect();
        let aliases = |subsystem: bool| {
            let line = move |ids: &Vec<String>| {
                let sub = if subsystem { format!("sv0000{}sd0000{}", ids[2], ids[3]) } else { "sv*sd*".to_owned() };
                format!("vfio_pci:v0000{}d0000{}{sub}bc*sc*i*", ids[0], ids[1])
            };
            table.iter().map(line).collect::<Vec<_>>()
        };
        for twin in BOTH {
            let patterns: Vec<String> = twin.aliases().iter().map(ToString::to_string).collect();
            assert_eq!(patterns, aliases(twin.driver() == super::BY_SUBSYSTEM_NAME), "{}", twin.driver());
            assert_eq!(patterns.len(), 3);
        }
    }
}

/// What the qualification of the VF says: how it ends, and the cases with a verdict.
fn qualified(saved: &Saved, peer: Peer, verdict: &str) -> (u8, Vec<String>) {
    let peer = match peer {
        Peer::Sibling => SIBLING,
        Peer::Stranger => STRANGER,
    };
    let said = saved.vfioadm(&format!("qualify {VF} --peer {peer} --yes --loops 2 -o json"));
    let object = said.json();
    let cases = object["cases"].as_array().unwrap().iter().filter(|case| case["verdict"] == verdict);
    (said.exit, cases.map(|case| case["id"].as_str().unwrap().to_owned()).collect())
}

#[test]
fn the_healthy_variant_keeps_every_rule() {
    let nothing = || Vec::<String>::new();
    for kind in [&[][..], &[("precopy", "N")], &[("p2p", "N")], &[("precopy", "N"), ("p2p", "N"), ("state_bytes", "1")]]
    {
        let saved = bound(kind);
        for peer in [Peer::Sibling, Peer::Stranger] {
            assert_eq!(qualified(&saved, peer, "fail"), (0, nothing()), "{kind:?} with {peer:?}");
            assert_eq!(qualified(&saved, peer, "quirk"), (0, nothing()), "{kind:?} with {peer:?}");
        }
    }
    let (_, skipped) = qualified(&bound(&[]), Peer::Sibling, "not_applicable");
    insta::assert_snapshot!(skipped.join("\n"));
}

#[test]
fn each_fault_is_caught_by_the_case_whose_rule_it_breaks() {
    let saved = bound(&[("state_bytes", "20000")]);
    let mut wrong = Vec::new();
    for caught in CAUGHT {
        tell_saved(&saved, BY_SUBSYSTEM_NAME, &[("fault", caught.fault)]);
        let said = qualified(&saved, caught.peer, "fail");
        if said != (4, vec![caught.case.to_owned()]) {
            wrong.push(format!("{}: not {} alone, but {said:?}", caught.fault, caught.case));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
