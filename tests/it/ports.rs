//! What devlink keeps for VFs, and the mode of a PF's eswitch: set with the VFs, and back with them. The fake's mlx5 is read from
//! its source; no lab has the hardware.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use vfioadm::discover;
use vfioadm::discover::tables::{Kernel, Query, read_tables};
use vfioadm::host::fake::FakeHost;
use vfioadm::host::{Claim, Host, HostPath, Read};
use vfioadm::model::Bdf;
use vfioadm::model::devlink::EswitchMode;
use vfioadm::plan::create::{self, CreateError, Known, Replace, VfEach, VfWish};
use vfioadm::plan::parameters;
use vfioadm::step::{Plan, Pool};

use crate::create::{Cases, cut_after_each_line, done, fail_each_write, set, undo_each};
use crate::saved::{Saved, sequence};
use crate::vfioadm;

/// An mlx5 PF of the demo host: eight VFs at most.
const PF: &str = "0000:3b:00.0";

fn pf() -> Bdf {
    PF.parse().unwrap()
}

/// The demo host with no VFs on that PF.
fn bare() -> FakeHost {
    let host = FakeHost::demo().unwrap();
    let numvfs = HostPath::pci(pf()).attr("sriov_numvfs");
    host.lock(&Claim::new("a test", &host)).unwrap().hand().write(&numvfs, "0").unwrap();
    host
}

fn known(host: &FakeHost, pf: Bdf) -> Known {
    let mut known = Known { machine: String::from("m"), ..Known::default() };
    if let Ok(text) = host.text(&HostPath::pool(pf)) {
        known.pools.insert(pf, serde_json::from_str::<Pool>(&text).unwrap());
    }
    known.attributes = discover::vf_attributes(host, pf).unwrap();
    known.devlink.extend(discover::devlink(host, pf).unwrap().map(|devlink| (pf, devlink)));
    known
}

fn vfs_of(host: &FakeHost, pf: Bdf, (count, pool): (u16, u16), set: &[&str]) -> Result<Plan, CreateError> {
    let set: Vec<_> = set.iter().map(|text| text.parse().unwrap()).collect();
    let wish = VfWish {
        pfs: vec![pf],
        count,
        pool,
        each: VfEach::of(parameters::parse(&set).unwrap()),
        replace: Replace::Never,
    };
    let (inventory, known) = (discover::inventory(host).unwrap(), known(host, pf));
    let aliases = create::aliases(&wish.pfs, &inventory, &known);
    let (tables, _) = read_tables(host, &Query { devices: &aliases, drivers: &[], kernel: Kernel::Running });
    create::vfs(&wish, &inventory, &tables, &known)
}

fn vfs(host: &FakeHost, of: (u16, u16), set: &[&str]) -> Result<Plan, CreateError> {
    vfs_of(host, pf(), of, set)
}

fn destroy(host: &FakeHost, indices: &[u16]) -> Plan {
    let (inventory, known) = (discover::inventory(host).unwrap(), known(host, pf()));
    let vfs: Vec<Bdf> = indices.iter().map(|index| inventory.vf(pf(), *index).unwrap().bdf).collect();
    create::destroy(&vfs, &[], &inventory, &known).unwrap()
}

/// What is set and taken back.
const SET: [&str; 6] = ["eswitch=switchdev", "migratable=on", "roce=off", "hw-addr=auto", "max-io-eqs=16", "msix=8"];

fn cases() -> Cases {
    let mut cases = BTreeMap::new();
    let host = bare();
    cases.insert("create 3 VFs in switchdev mode", (host.copied(), vfs(&host, (3, 3), &SET).unwrap()));
    done(&host, &vfs(&host, (1, 3), &SET).unwrap());
    let plan = vfs(&host, (2, 2), &["migratable=on", "roce=off", "max-io-eqs=16", "msix=9"]).unwrap();
    cases.insert("create 2 VFs from a pool in switchdev mode", (host.copied(), plan));
    done(&host, &vfs(&host, (2, 2), &["migratable=on", "hw-addr=auto", "max-io-eqs=20", "msix=9"]).unwrap());
    let plan = set(&host, pf(), "migratable=off roce=on hw-addr=52:54:00:00:00:01");
    cases.insert("bind --set of a VF with a port", (host.copied(), plan));
    cases.insert("destroy 2 of 3 VFs in switchdev mode", (host.copied(), destroy(&host, &[0, 2])));
    cases.insert("destroy all VFs, and back to legacy mode", (host.copied(), destroy(&host, &[0, 1, 2])));
    cases
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    fail_each_write(cases(), "VFs in switchdev mode");
}

#[test]
fn cut_off_after_every_line_nothing_is_left_behind() {
    cut_after_each_line(cases(), "VFs in switchdev mode");
}

#[test]
fn one_that_has_ended_is_undone_when_it_is_named() {
    undo_each(cases());
}

#[test]
fn a_vf_is_migratable_before_its_driver_looks_and_clean_when_it_is_given_back() {
    let host = bare();
    let before = host.snapshot();
    let function = |index| {
        let devlink = discover::devlink(&host, pf()).unwrap().unwrap();
        vfioadm::model::devlink::Behind::Vf(index).port_in(&devlink.ports).unwrap().function.clone().unwrap()
    };
    let writes = host.writes().len();
    done(&host, &vfs(&host, (2, 2), &SET).unwrap());
    let written: Vec<String> = host.writes()[writes..].iter().map(|written| written.value.clone()).collect();
    let at = |text: &str| written.iter().position(|value| value == text).unwrap();
    assert!(at("mode switchdev") < at("2"), "{written:?}");
    assert!(at("port 1 migratable enable") < at("0000:3b:00.2"), "{written:?}");
    let (set, fresh) = (function(0), vfioadm::model::vf::Switch::Off);
    assert_eq!((set.migratable.map(|on| on.is_on()), set.roce), (Some(true), Some(fresh)));
    assert!(set.hw_addr.unwrap().is_local());
    let msix = |index: usize| host.snapshot().devices[["0000:3b:00.2", "0000:3b:00.3"][index]].get("msix").cloned();
    assert_eq!((set.max_io_eqs, msix(0), msix(1)), (Some(16), Some("8".into()), Some("8".into())));
    // All that there are were given and set, so that none of them tells what a new one has.
    done(&host, &destroy(&host, &[0]));
    let new = ["roce enable", "max_io_eqs 10"].map(|text| text.parse().unwrap());
    assert_eq!((function(0).clearing(&new), msix(0)), (Vec::new(), None));
    assert!(function(0).hw_addr.unwrap().is_zero());
    assert_eq!((function(1).clearing(&new).len(), msix(1)), (3, Some("8".into())), "the other one is left alone");
    done(&host, &destroy(&host, &[1]));
    assert_eq!(host.snapshot(), before, "the last one takes the mode of the eswitch along");
}

/// The kernel does not tell a count of MSI-X vectors: what is taken back, and not set where none was, is what is remembered.
#[test]
fn a_count_of_vectors_goes_back_with_the_vf_that_was_given_it() {
    let saved = Saved::of(&bare(), |_| ());
    let msix = |vf: &str| saved.snapshot().devices[vf].get("msix").cloned();
    let said = |line: &str| saved.vfioadm(&format!("-v {line}")).to_string();
    let made = said("create 3b:00.0 vf --pool 3 --set msix=16 --set mac=auto");
    assert!(made.contains(r#""given":[0],"msix":[[0,16]]"#), "{made}");
    let made = said("create 3b:00.0 vf --set mac=auto");
    assert_eq!((msix("0000:3b:00.2"), msix("0000:3b:00.3")), (Some("16".into()), None), "{made}");
    let gone = said("destroy 3b:00.0/vf0");
    assert!(gone.contains("echo 0 > /sys/bus/pci/devices/0000:3b:00.2/sriov_vf_msix_count"), "{gone}");
    assert_eq!(msix("0000:3b:00.2"), None);
    let back = said("undo");
    assert_eq!(msix("0000:3b:00.2"), None, "nothing is unfinished: {back}");
    let back = said("undo destroy-3");
    assert_eq!(msix("0000:3b:00.2"), Some("16".into()), "{back}");
    let gone = said("destroy 3b:00.0/vf1");
    assert!(!gone.contains("msix_count"), "{gone}");
    // A driver that cannot set it could not before either.
    let said = |line: &str| saved.vfioadm(line).to_string();
    for (count, why, vf) in [(2, "this kernel has no file for it", 2), (5, "the driver cannot set it", 0)] {
        let made = said(&format!(
            "create 81:00.0 vf --count {count} --set msix=4 --set mac=auto --best-effort --yes --allow netdev-up"
        ));
        assert!(made.contains(&format!("skipped: 4 MSI-X vectors: {why}")), "{made}");
        let gone = said(&format!("destroy 81:00.0/vf{vf}"));
        assert!(gone.ends_with("--- exit 0\n") && gone.contains("free again"), "{gone}");
    }
}

#[test]
fn a_vf_that_is_there_is_taken_from_its_driver_to_be_made_migratable() {
    let host = bare();
    done(&host, &vfs(&host, (1, 1), &["eswitch=switchdev", "roce=off"]).unwrap());
    let writes = host.writes().len();
    done(&host, &set(&host, pf(), "migratable=on roce=off"));
    let written: Vec<String> =
        host.writes()[writes..].iter().map(|written| format!("{} {}", written.path, written.value)).collect();
    let at = |text: &str| written.iter().position(|line| line.contains(text));
    let (unbind, set_on, bind) = (at("unbind 0000:3b:00.2"), at("migratable enable"), at("/bind 0000:3b:00.2"));
    assert!(unbind.is_some() && unbind < set_on && set_on < bind, "{written:?}");
    assert_eq!(at("roce"), None, "what it has already is not set: {written:?}");
    let writes = host.writes().len();
    done(&host, &set(&host, pf(), "migratable=on"));
    assert_eq!(host.writes().len(), writes, "it has what was asked");
}

#[test]
fn a_vf_that_its_variant_is_not_going_to_migrate_is_told_before_and_after_it_is_bound() {
    let saved = Saved::of(&bare(), |_| ());
    let finds = |options: &str| {
        let found = saved.vfioadm(&format!("-o json check {options} 3b:00.0/vf0")).json()["findings"].clone();
        let ids: Vec<_> = found.as_array().unwrap().iter().map(|finding| finding["id"].clone()).collect();
        ids.contains(&"not-migratable".into())
    };
    let done = |line: &str| assert_eq!(saved.vfioadm(line).exit, 0, "{line}");
    done("create 3b:00.0 vf --set eswitch=switchdev --set mac=auto --driver none");
    assert!(finds("") && finds("--driver mlx5_vfio_pci"), "before it is bound");
    assert!(!finds("--driver vfio-pci") && !finds("--driver host"), "none of these migrates it");
    done("bind 3b:00.0/vf0");
    assert!(finds(""), "while it is bound");
    let said = saved.vfioadm("check 3b:00.0/vf0").to_string();
    assert!(said.contains("vfioadm bind --set migratable=on 0000:3b:00.2"), "{said}");
    let bound =
        saved.vfioadm("-o json bind --set migratable=on --set mac=02:00:00:00:00:07 3b:00.0/vf0").json()["results"][0]
            .clone();
    assert_eq!((&bound["function"]["migratable"], &bound["function"]["roce"]), (&true.into(), &true.into()));
    assert_eq!(
        (&bound["parameters"]["mac"], &bound["parameters"]["trust"]),
        (&"02:00:00:00:00:07".into(), &false.into())
    );
    let bound = saved.vfioadm("-o json bind 3b:00.0/vf0").json()["results"][0].clone();
    assert!(bound["function"].is_null() && bound["parameters"].is_null(), "{bound}");
    assert!(!finds(""), "once it is");
}

#[test]
fn the_eswitch_stays_where_it_has_subfunctions() {
    let host = bare();
    done(&host, &vfs(&host, (1, 1), &["eswitch=switchdev"]).unwrap());
    let handle = pf().try_into().unwrap();
    let new = vfioadm::model::devlink::PortNew { pf: 0, sf: 1, controller: None };
    host.lock(&Claim::new("a test", &host)).unwrap().hand().add_port(&handle, new).unwrap();
    done(&host, &destroy(&host, &[0]));
    let devlink = discover::devlink(&host, pf()).unwrap().unwrap();
    assert_eq!((devlink.eswitch, devlink.subfunctions()), (Some(EswitchMode::Switchdev), 1));
}

#[test]
fn what_cannot_be_set_is_refused_before_anything_is_made() {
    let host = bare();
    let refused = |pf: &str, set: &[&str]| vfs_of(&host, pf.parse().unwrap(), (1, 1), set).unwrap_err().to_string();
    assert_eq!(
        refused(PF, &["migratable=on"]),
        "the eswitch of 0000:3b:00.0 is in mode legacy, where its VFs have no port, and migratable is set there"
    );
    assert_eq!(
        refused(PF, &["eswitch=legacy", "hw-addr=auto"]),
        "the eswitch of 0000:3b:00.0 is in mode legacy, where its VFs have no port, and hw-addr is set there"
    );
    for (key, set) in [("roce", "roce=off"), ("max-io-eqs", "max-io-eqs=4"), ("eswitch", "eswitch=switchdev")] {
        let said = format!("devlink does not know 0000:81:00.0, and {key} is set through it");
        assert_eq!(refused("0000:81:00.0", &[set]), said);
    }
    done(&host, &vfs(&host, (1, 3), &["eswitch=switchdev"]).unwrap());
    let said =
        "0000:3b:00.0 has 3 VFs, and its eswitch is in mode switchdev: the mode is changed only while there are none";
    assert_eq!(refused(PF, &["eswitch=legacy"]), said);
    assert!(vfs(&host, (1, 1), &["eswitch=switchdev", "roce=off"]).is_ok(), "it is in that mode already");
    host.edit(|tree| drop(tree.remove("/kernel/links/pci/0000:3b:00.0/ports/2/function/migratable")));
    let said = "0000:3b:00.0/vf1 has no migratable: the driver does not report it at its devlink port";
    assert_eq!(refused(PF, &["roce=off", "migratable=on"]), said);
}

#[test]
fn a_wrong_parameter_is_refused_with_exit_2() {
    for (set, named) in [
        ("eswitch=on", "eswitch takes legacy or switchdev"),
        ("migratable=yes", "migratable takes on or off"),
        ("roce=", "roce takes on or off"),
        ("max-io-eqs=-1", "max-io-eqs takes a count of event queues"),
        ("hw-addr=00:00:00:00:00:00", "hw-addr takes a unicast MAC address"),
        ("hw-addr=02:00:00:00:00:01 --count 2", "hw-addr=auto"),
        ("hw-addr=auto --set mac=auto", "mac and hw-addr are the same address"),
        ("sfnum=4", "there are mac (a MAC address, or auto)"),
    ] {
        let said = vfioadm(&format!("--host demo create {PF} vf --set {set}"));
        assert_eq!((said.exit, said.out.as_str()), (2, ""), "{set}: {said}");
        assert!(said.err.contains(named), "{set}: {said}");
    }
}

/// Made, looked at, asked for what cannot be, and given back; each command sees what the one before left.
#[test]
fn vfs_in_switchdev_mode_and_back() {
    let said = sequence(
        "--host demo",
        &[
            "create 3b:00.0 vf --set migratable=on --yes",
            "create -v 3b:00.0 vf --count 2 --pool 3 --yes --set eswitch=switchdev --set migratable=on --set hw-addr=auto",
            "create -o json 3b:00.0 vf --set roce=off --set max-io-eqs=16",
            "create 3b:00.0 sf",
            "create 3b:00.0 vf --set eswitch=legacy",
            "create 81:00.0 vf --set roce=off",
            "create --dry-run 3b:00.1 vf --yes --count 4 --set eswitch=switchdev --set roce=off",
            "destroy 3b:00.0/vf2",
            "destroy -v 3b:00.0/vf0 3b:00.0/vf1",
            "destroy 3b:00.0/sf1",
        ],
    );
    assert_snapshot!(said);
}
