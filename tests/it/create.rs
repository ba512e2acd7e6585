//! Functions made and unmade: every write failed in turn, the journal cut after every line, and the words.

use std::collections::BTreeMap;
use std::io::Write as _;

use vfioadm::discover;
use vfioadm::discover::tables::{Kernel, Query, read_tables};
use vfioadm::engine::journal::Journal;
use vfioadm::host::fake::{FakeHost, Fault};
use vfioadm::host::ledger::Ledger;
use vfioadm::host::path::Root;
use vfioadm::host::{Claim, Host, HostPath, Read};
use vfioadm::model::{Address, Bdf, Errno, Hook, HookId, MdevAttribute};
use vfioadm::plan::create::{self, CreateError, Known, MdevWish, Replace, VfEach, VfWish};
use vfioadm::plan::hooks::Hooks;
use vfioadm::plan::parameters;
use vfioadm::plan::set::{SetWish, bind_set};
use vfioadm::plan::{BindWish, Fallback, Wanted};
use vfioadm::step::{Plan, Pool, Unsupported, WhenOpen};

use crate::faults::{act_on, differing};
use crate::journal::{LastWrite, assert_same, assert_undone, cut, cut_undo, header};

/// The igb PF of the demo host: seven VFs at most.
const PF: &str = "0000:81:00.0";

/// A PF of mlx5.
const MLX5: &str = "0000:3b:00.0";

pub(crate) fn pf() -> Bdf {
    PF.parse().unwrap()
}

/// The demo host with no VFs on that PF.
pub(crate) fn bare() -> FakeHost {
    let host = FakeHost::demo().unwrap();
    host.lock(&Claim::new("a test", &host))
        .unwrap()
        .hand()
        .write(&HostPath::pci(pf()).attr("sriov_numvfs"), "0")
        .unwrap();
    host
}

pub(crate) fn known(host: &FakeHost) -> Known {
    let mut known = Known { machine: String::from("m"), ..Known::default() };
    if let Ok(text) = host.text(&HostPath::pool(pf())) {
        known.pools.insert(pf(), serde_json::from_str::<Pool>(&text).unwrap());
    }
    known.attributes = discover::vf_attributes(host, pf()).unwrap();
    known.hooks = hooks(host);
    for pf in [PF, MLX5].map(|pf| pf.parse().unwrap()) {
        let device = host.text(&HostPath::pci(pf).attr("sriov_vf_device")).unwrap();
        known.vf_devices.insert(pf, u16::from_str_radix(&device, 16).unwrap());
    }
    known
}

/// Whose VFs the igb PF makes.
pub(crate) fn hook_id() -> HookId {
    "8086:10ca".parse().unwrap()
}

/// The hooks that there are, and those that were run for VFs of that PF.
fn hooks(host: &FakeHost) -> Hooks {
    let there = [hook_id()].into_iter().filter(|id| host.hook(*id).unwrap()).collect();
    let note =
        |index| Some(((pf(), index), Hook::noted((pf(), index), &host.text(&HostPath::hooked(pf(), index)).ok()?)?));
    Hooks { there, run: (0..7).filter_map(note).collect() }
}

pub(crate) fn vfs(host: &FakeHost, count: u16, pool: u16) -> Result<Plan, CreateError> {
    wished(host, count, |wish| wish.pool = pool)
}

/// The plan of a wish that differs from the usual one.
fn wished(host: &FakeHost, count: u16, differs: impl FnOnce(&mut VfWish)) -> Result<Plan, CreateError> {
    let set: Vec<_> = ["mac=auto", "vlan=100", "trust=on"].iter().map(|text| text.parse().unwrap()).collect();
    let mut wish = VfWish {
        pfs: vec![pf()],
        count,
        pool: count,
        each: VfEach::of(parameters::parse(&set).unwrap()),
        replace: Replace::Never,
    };
    differs(&mut wish);
    let (inventory, known) = (discover::inventory(host).unwrap(), known(host));
    let aliases = create::aliases(&wish.pfs, &inventory, &known);
    let query = Query { devices: &aliases, drivers: &[], kernel: Kernel::Running };
    let (tables, _) = read_tables(host, &query);
    create::vfs(&wish, &inventory, &tables, &known)
}

fn mdevs(host: &FakeHost) -> Plan {
    let uuids = ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"];
    let wish = MdevWish {
        parent: "mtty".parse().unwrap(),
        kind: "mtty-2".parse().unwrap(),
        uuids: uuids.iter().map(|uuid| uuid.parse().unwrap()).collect(),
        attributes: Vec::new(),
    };
    create::mdevs(&[wish], &discover::inventory(host).unwrap()).unwrap()
}

/// A host that has AP queues to give, and the plan of an mdev that is given some.
fn matrix() -> (FakeHost, Plan) {
    let host = FakeHost::demo().unwrap();
    host.edit(|tree| {
        let parent = "/sys/devices/vfio_ap/matrix";
        let kind = format!("{parent}/mdev_supported_types/vfio_ap-passthrough");
        tree.put_text(&format!("{kind}/available_instances"), 65536);
        tree.put(&format!("{kind}/create"), "");
        tree.put_link("/sys/class/mdev_bus/matrix", String::from("../../devices/vfio_ap/matrix"));
    });
    let attributes = [("assign_adapter", "5"), ("assign_adapter", "6"), ("assign_domain", "4")];
    let wish = MdevWish {
        parent: "matrix".parse().unwrap(),
        kind: "vfio_ap-passthrough".parse().unwrap(),
        uuids: vec!["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001".parse().unwrap()],
        attributes: attributes.map(|(name, value)| MdevAttribute::new(name, value).unwrap()).into(),
    };
    let plan = create::mdevs(&[wish], &discover::inventory(&host).unwrap()).unwrap();
    (host, plan)
}

/// The plan of a bind of a PF's first VF that is to have parameters.
pub(crate) fn set(host: &FakeHost, pf: Bdf, words: &str) -> Plan {
    let words: Vec<_> = words.split(' ').map(|word| word.parse().unwrap()).collect();
    let inventory = discover::inventory(host).unwrap();
    let vf = inventory.vf(pf, 0).unwrap();
    let attributes = discover::vf_attributes(host, pf).unwrap();
    let devlink = discover::devlink(host, pf).unwrap().map(|devlink| (pf, devlink)).into_iter().collect();
    let wish = BindWish {
        devices: vec![vf.bdf],
        wanted: Wanted::Best,
        fallback: Fallback::NextBest,
        prefer: Vec::new(),
        open: WhenOpen::Refuse,
    };
    let parameters = parameters::parse(&words).unwrap();
    let set = SetWish {
        parameters: &parameters,
        unsupported: Unsupported::Fails,
        attributes: &attributes,
        devlink: &devlink,
        pools: &std::collections::BTreeMap::new(),
        hooks: &hooks(host),
        machine: "0123456789abcdef0123456789abcdef",
    };
    let query = Query { devices: &[vf.alias], drivers: &[], kernel: Kernel::Running };
    bind_set(&wish, set, &inventory, &read_tables(host, &query).0).unwrap()
}

/// Everything that `create` has made on the host.
pub(crate) fn destroy(host: &FakeHost) -> Plan {
    let (inventory, known) = (discover::inventory(host).unwrap(), known(host));
    let given = known.pools.get(&pf()).map(|pool| pool.given.clone()).unwrap_or_default();
    let vfs: Vec<Bdf> = given.iter().filter_map(|index| inventory.vf(pf(), *index)).map(|vf| vf.bdf).collect();
    let mdevs: Vec<_> = inventory
        .mdevs
        .iter()
        .filter(|mdev| mdev.uuid.to_string().starts_with("83b8f4f2-509f-382f-3c1e-e6bfe0fa100"))
        .map(|mdev| mdev.uuid)
        .collect();
    create::destroy(&vfs, &mdevs, &inventory, &known).unwrap()
}

pub(crate) fn done(host: &FakeHost, plan: &Plan) {
    let report = act_on(host, plan, &Journal::none(), 1);
    for lane in &report.lanes {
        assert_eq!(lane.error, None, "{}", lane.device);
    }
}

fn cases() -> Cases {
    let mut cases = BTreeMap::new();
    let host = bare();
    let plan = vfs(&host, 3, 3).unwrap();
    cases.insert("create 3 VFs from none", (host.copied(), plan.clone()));
    done(&host, &plan);
    let plan = destroy(&host);
    cases.insert("destroy all of a pool", (host, plan));

    let host = bare();
    done(&host, &vfs(&host, 2, 5).unwrap());
    let plan = vfs(&host, 2, 2).unwrap();
    cases.insert("create 2 VFs from a pool", (host.copied(), plan));

    let host = FakeHost::demo().unwrap();
    let plan = vfs(&host, 2, 2).unwrap();
    cases.insert("create 2 VFs where somebody else enabled them", (host.copied(), plan.clone()));
    done(&host, &plan);
    let plan = destroy(&host);
    cases.insert("destroy 2 VFs where somebody else enabled them", (host, plan));

    let host = FakeHost::demo().unwrap();
    let plan = set(&host, pf(), "mac=auto vlan=100 trust=on");
    cases.insert("bind --set of a VF on its host driver", (host.copied(), plan.clone()));
    done(&host, &plan);
    let plan = set(&host, pf(), "vlan=7 spoofchk=off");
    cases.insert("bind --set of a VF on vfio-pci", (host, plan));

    let host = FakeHost::demo().unwrap();
    let plan = mdevs(&host);
    cases.insert("create 2 mdevs", (host.copied(), plan.clone()));
    done(&host, &plan);
    let plan = destroy(&host);
    cases.insert("destroy 2 mdevs", (host, plan));
    cases.insert("create an mdev with attributes", matrix());
    cases
}

/// Past the test runner's capture: a count is what these tests have to show.
fn tell(line: &str) {
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    fail_each_write(cases(), "VFs and mdevs");
}

/// Plans, each with the host that it begins on.
pub(crate) type Cases = BTreeMap<&'static str, (FakeHost, Plan)>;

pub(crate) fn fail_each_write(cases: Cases, what_is_made: &str) {
    let (mut total, mut back) = (0, 0);
    for (name, (start, plan)) in cases {
        let before = start.snapshot();
        let clean = start.copied();
        let written = clean.writes().len();
        done(&clean, &plan);
        let writes = clean.writes().len() - written;
        assert!(writes > 1, "{name}: {writes} writes");
        for errno in [Errno::EIO, Errno::EBUSY, Errno::ENODEV, Errno::EINVAL, Errno::ENOMEM] {
            for n in 1..=writes + 4 {
                for effect in [false, true] {
                    let host = start.copied();
                    let fault = Fault::nth(n, errno);
                    host.fail(if effect { fault.after_effect() } else { fault });
                    let report = act_on(&host, &plan, &Journal::none(), n as u64);
                    if !host.writes().iter().any(|written| written.answer == Some(errno)) {
                        continue;
                    }
                    let what = format!("{name}, write {n} of {writes}, {errno}, with effect: {effect}");
                    total += 1;
                    if report.lanes.iter().any(|lane| lane.error.is_some()) {
                        for lane in &report.lanes {
                            assert!(lane.remains.is_empty(), "{what}: {:?}", lane.remains);
                            assert!(!lane.changed(), "{what}: {} is not as it was", lane.device);
                        }
                        assert_same(&host, &before, &what);
                        back += 1;
                    }
                }
            }
        }
    }
    tell(&format!(
        "{total} failed writes of create and destroy of {what_is_made}, {back} taken back to the former state\n"
    ));
    assert!(total > 100 && back > 100, "{total} and {back} are too few to mean anything");
}

#[test]
fn cut_off_after_every_line_nothing_is_left_behind() {
    cut_after_each_line(cases(), "VFs and mdevs");
}

pub(crate) fn cut_after_each_line(cases: Cases, what_is_made: &str) {
    let mut cuts = 0;
    for (name, (start, plan)) in cases {
        let before = start.snapshot();
        for last_write in [LastWrite::Lost, LastWrite::Done] {
            for lines in 1.. {
                let host = start.copied();
                let Some((ledger, id)) = cut(&host, &plan, lines, last_write) else { break };
                let what = format!("{name}, cut after line {lines}, last write {last_write:?}");
                assert_undone(&host, &ledger, &id, &what);
                assert_same(&host, &before, &what);
                cuts += 1;
            }
        }
    }
    tell(&format!("{cuts} cuts of create and destroy of {what_is_made}, each undone to the former state\n"));
    assert!(cuts > 50, "{cuts} cuts are too few to mean anything");
}

#[test]
fn an_undo_that_is_cut_off_itself_is_undone() {
    let mut cuts = 0;
    for (name, (start, plan)) in cases() {
        let before = start.snapshot();
        for last_write in [LastWrite::Lost, LastWrite::Done] {
            for lines in 1.. {
                let host = start.copied();
                let Some((ledger, id)) = cut(&host, &plan, lines, last_write) else { break };
                for undo_lines in 1.. {
                    let (host, ledger) = (host.copied(), ledger.copied().unwrap());
                    if !cut_undo(&host, (&ledger, &id), undo_lines, last_write) {
                        break;
                    }
                    let what = format!("{name}, cut after line {lines}, its undo after line {undo_lines}");
                    assert_undone(&host, &ledger, &id, &what);
                    assert_same(&host, &before, &what);
                    cuts += 1;
                }
            }
        }
    }
    writeln!(std::io::stderr(), "{cuts} cuts in undos of create and destroy, each undone to the former state").unwrap();
    assert!(cuts > 100, "{cuts} cuts are too few to mean anything");
}

/// The drivers of the VFs that went do not come back, and these are all.
#[test]
fn vfs_that_went_to_make_room_come_back_when_it_is_cut_off() {
    let start = FakeHost::demo().unwrap();
    let plan = wished(&start, 7, |wish| wish.replace = Replace::Accepted).unwrap();
    let before = start.snapshot();
    for last_write in [LastWrite::Lost, LastWrite::Done] {
        for lines in 1.. {
            let host = start.copied();
            let Some((ledger, id)) = cut(&host, &plan, lines, last_write) else { break };
            let what = format!("cut after line {lines}, last write {last_write:?}");
            assert_undone(&host, &ledger, &id, &what);
            let now = host.snapshot();
            let mut differ = differing(&before, &now);
            differ.retain(|name| !name.starts_with("0000:81:10."));
            assert_eq!(differ, std::collections::BTreeSet::new(), "{what}");
            assert_eq!(now.devices.len(), before.devices.len(), "{what}");
        }
    }
}

#[test]
fn a_vf_whose_best_driver_refuses_gets_the_next() {
    let mlx5: Bdf = MLX5.parse().unwrap();
    let plan_on = |host: &FakeHost, fallback| {
        host.lock(&Claim::new("a test", host))
            .unwrap()
            .hand()
            .write(&HostPath::pci(mlx5).attr("sriov_numvfs"), "0")
            .unwrap();
        let plan = wished(host, 2, |wish| (wish.pfs, wish.each.fallback) = (vec![mlx5], fallback)).unwrap();
        host.fail(Fault::at("mlx5_vfio_pci/bind", Errno::EINVAL));
        plan
    };
    let host = FakeHost::demo().unwrap();
    let plan = plan_on(&host, Fallback::NextBest);
    let report = act_on(&host, &plan, &Journal::none(), 1);
    for lane in report.lanes.iter().skip(1) {
        let tried: Vec<(&str, bool)> =
            lane.tried.iter().map(|tried| (tried.driver.as_str(), tried.error.is_none())).collect();
        assert_eq!((&lane.error, &tried[..]), (&None, &[("mlx5_vfio_pci", false), ("vfio-pci", true)][..]));
    }
    let host = FakeHost::demo().unwrap();
    let plan = plan_on(&host, Fallback::Never);
    let before = host.snapshot();
    let report = act_on(&host, &plan, &Journal::none(), 1);
    assert!(report.lanes.iter().all(|lane| lane.error.is_some() && lane.remains.is_empty()), "{report:?}");
    assert_same(&host, &before, "a driver refused, and no other was wanted");
}

#[test]
fn a_parent_that_vanishes_in_the_middle_is_an_error_and_leaves_nothing() {
    let start = bare();
    let plan = vfs(&start, 3, 3).unwrap();
    let mut vanished = 0;
    for n in 1.. {
        let host = start.copied();
        host.vanish_at_read(n, pf());
        let report = act_on(&host, &plan, &Journal::none(), 1);
        let now = host.snapshot();
        if now.devices.contains_key(PF) {
            break;
        }
        vanished += 1;
        let failed = report.lanes.iter().any(|lane| lane.error.is_some());
        let vfs = now.devices.values().filter(|of| of.get("physfn").is_some_and(|of| of == PF)).count();
        assert!(failed || report.lanes.iter().all(|lane| lane.undone == 0), "read {n}: {report:?}");
        assert_eq!(vfs, 0, "read {n}: VFs without a PF");
        let left = host.list(&HostPath::fixed(Root::Run, "vfioadm/pool")).unwrap_or_default();
        assert!(!failed || left.is_empty(), "read {n}: {left:?}");
    }
    assert!(vanished > 5, "it vanished {vanished} times only");
}

#[test]
fn one_that_has_ended_is_undone_when_it_is_named() {
    undo_each(cases());
}

pub(crate) fn undo_each(cases: Cases) {
    for (name, (host, plan)) in cases {
        let before = host.snapshot();
        let ledger = Ledger::in_memory();
        let journal = Journal::begin(&ledger, "create", &header(&plan)).unwrap();
        let report = act_on(&host, &plan, &journal, 1);
        assert!(report.lanes.iter().all(|lane| lane.error.is_none()), "{name}");
        assert_undone(&host, &ledger, journal.id().unwrap(), name);
        assert_same(&host, &before, name);
    }
}

#[test]
fn a_pool_gives_and_takes_back_and_ends_with_its_last_vf() {
    let host = bare();
    let before = host.snapshot();
    done(&host, &vfs(&host, 2, 5).unwrap());
    let pool = known(&host).pools[&pf()].clone();
    assert_eq!((pool.vfs, pool.ours, pool.given.len()), (5, true, 2));
    assert_eq!(host.text(&HostPath::pci(pf()).attr("sriov_drivers_autoprobe")).unwrap(), "0");
    done(&host, &vfs(&host, 3, 3).unwrap());
    assert_eq!(known(&host).pools[&pf()].given.len(), 5);
    let refused = vfs(&host, 1, 1).unwrap_err();
    assert!(matches!(refused, CreateError::NotFree { free: 0, enabled: 5, .. }), "{refused}");
    let inventory = discover::inventory(&host).unwrap();
    let all: Vec<Bdf> = inventory.vfs_of(pf()).map(|vf| vf.bdf).collect();
    for vf in all {
        let inventory = discover::inventory(&host).unwrap();
        assert!(inventory.contains(&Address::Pci(vf)));
        done(&host, &create::destroy(&[vf], &[], &inventory, &known(&host)).unwrap());
    }
    assert_same(&host, &before, "the last one back");
}

#[test]
fn what_cannot_be_made_is_refused_with_why() {
    let host = bare();
    for (count, pool, said) in [
        (8, 8, "0000:81:00.0 has 7 VFs at most, not 8"),
        (3, 2, "a pool of 2 VFs does not hold the 3 that are to be given"),
    ] {
        assert_eq!(vfs(&host, count, pool).unwrap_err().to_string(), said);
    }
    let demo = FakeHost::demo().unwrap();
    let said = vfs(&demo, 3, 3).unwrap_err().to_string();
    assert!(
        said.starts_with("0000:81:00.0 has 4 VFs, 2 of them free, not 3; more can be made only when all are destroyed"),
        "{said}"
    );
    let inventory = discover::inventory(&demo).unwrap();
    let vf = inventory.vfs_of(pf()).next().unwrap().bdf;
    let not_given = create::destroy(&[vf], &[], &inventory, &Known::default()).unwrap_err();
    assert!(matches!(not_given, CreateError::NotGiven { .. }), "{not_given}");
    let not_made = create::destroy(&[pf()], &[], &inventory, &Known::default()).unwrap_err();
    assert!(matches!(not_made, CreateError::NotMade(_)), "{not_made}");
}
