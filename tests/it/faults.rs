//! Every write of a bind and of an unbind failed in turn: the host equals its former self, or has what was wanted.

use std::collections::BTreeSet;
use std::io::Write as _;

use vfioadm::discover;
use vfioadm::discover::tables::{Kernel, Query, read_tables};
use vfioadm::engine::journal::Journal;
use vfioadm::engine::{self, LaneResult, Pace, Pending, Report, StepError, Watch, Work};
use vfioadm::host::fake::{FakeHost, Fault, Snapshot, Tree};
use vfioadm::host::{Claim, Host, Open, Probe};
use vfioadm::model::{Bdf, Errno, Inventory};
use vfioadm::plan::{BindWish, Fallback, Wanted, bind};
use vfioadm::step::{Plan, WhenOpen};

/// A wish for some devices of the demo host, from the state that `first` brings about.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What `first` chooses devices by: a test on the inventory.
    devices: fn(&Inventory) -> Vec<Bdf>,
    /// A change to the demo host beforehand.
    edit: Option<fn(&mut Tree)>,
    /// Done before, without faults.
    first: Option<Wanted>,
    pub(crate) wanted: Wanted,
    fallback: Fallback,
}

fn by_ids(inventory: &Inventory, vendor: u16, device: u16) -> Vec<Bdf> {
    let has = |bdf: &&Bdf| {
        let alias = &inventory.functions[bdf].alias;
        (alias.vendor(), alias.device()) == (vendor, device)
    };
    inventory.functions.keys().filter(has).copied().collect()
}

fn one_mlx5_vf(inventory: &Inventory) -> Vec<Bdf> {
    by_ids(inventory, 0x15b3, 0x101e)[..1].to_vec()
}

fn qat_vf(inventory: &Inventory) -> Vec<Bdf> {
    by_ids(inventory, 0x8086, 0x4941)
}

fn e1000s(inventory: &Inventory) -> Vec<Bdf> {
    by_ids(inventory, 0x8086, 0x100e)
}

fn igb_vfs(inventory: &Inventory) -> Vec<Bdf> {
    by_ids(inventory, 0x8086, 0x10ca)
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "bind",
        devices: one_mlx5_vf,
        edit: None,
        first: None,
        wanted: Wanted::Best,
        fallback: Fallback::NextBest,
    },
    Case {
        name: "bind --no-fallback",
        devices: one_mlx5_vf,
        edit: None,
        first: None,
        wanted: Wanted::Best,
        fallback: Fallback::Never,
    },
    Case {
        name: "bind, the best refuses",
        devices: qat_vf,
        edit: None,
        first: None,
        wanted: Wanted::Best,
        fallback: Fallback::NextBest,
    },
    Case {
        name: "bind --with-group",
        devices: e1000s,
        edit: None,
        first: None,
        wanted: Wanted::Best,
        fallback: Fallback::NextBest,
    },
    Case {
        name: "bind of many",
        devices: igb_vfs,
        edit: None,
        first: None,
        wanted: Wanted::Best,
        fallback: Fallback::NextBest,
    },
    Case {
        name: "bind --driver none",
        devices: one_mlx5_vf,
        edit: None,
        first: None,
        wanted: Wanted::None,
        fallback: Fallback::Never,
    },
    Case {
        name: "unbind",
        devices: one_mlx5_vf,
        edit: None,
        first: Some(Wanted::Best),
        wanted: Wanted::Host,
        fallback: Fallback::NextBest,
    },
    Case {
        name: "unbind of a group",
        devices: e1000s,
        edit: None,
        first: Some(Wanted::Best),
        wanted: Wanted::Host,
        fallback: Fallback::NextBest,
    },
    Case {
        name: "unbind of what has no host driver",
        devices: qat_vf,
        edit: None,
        first: Some(Wanted::Best),
        wanted: Wanted::Host,
        fallback: Fallback::NextBest,
    },
];

fn vfio_pci() -> Wanted {
    Wanted::Named("vfio-pci".parse().unwrap())
}

pub(crate) fn more_cases() -> Vec<Case> {
    let autoprobe_0 = |tree: &mut Tree| tree.put_text("/sys/bus/pci/devices/0000:81:00.0/sriov_drivers_autoprobe", "0");
    let override_left = |tree: &mut Tree| {
        tree.put_text("/sys/bus/pci/devices/0000:3b:00.2/driver_override", "somebody_elses");
    };
    let case =
        |name, devices, first, wanted| Case { name, devices, edit: None, first, wanted, fallback: Fallback::NextBest };
    vec![
        Case { edit: Some(autoprobe_0), ..case("bind under autoprobe 0", igb_vfs as _, None, Wanted::Best) },
        Case { edit: Some(autoprobe_0), ..case("unbind under autoprobe 0", igb_vfs, Some(Wanted::Best), Wanted::Host) },
        Case { edit: Some(override_left), ..case("bind over an override", one_mlx5_vf, None, Wanted::Best) },
        case("bind --driver vfio-pci", one_mlx5_vf, None, vfio_pci()),
        case("bind of what vfio-pci has", one_mlx5_vf, Some(vfio_pci()), Wanted::Best),
        case("bind of what fell back", qat_vf, Some(Wanted::Best), Wanted::Best),
    ]
}

pub(crate) fn plan(host: &FakeHost, case: &Case, wanted: &Wanted) -> Plan {
    let inventory = discover::inventory(host).unwrap();
    let devices = (case.devices)(&inventory);
    assert!(!devices.is_empty(), "{}: the demo host has no such device", case.name);
    let aliases: Vec<_> = devices.iter().map(|bdf| inventory.functions[bdf].alias).collect();
    let query = Query { devices: &aliases, drivers: &[], kernel: Kernel::Running };
    let (tables, _) = read_tables(host, &query);
    let open = WhenOpen::Ask;
    let wish = BindWish { devices, wanted: wanted.clone(), fallback: case.fallback, prefer: Vec::new(), open };
    bind(&wish, &inventory, &tables).unwrap()
}

pub(crate) struct Unwatched;

impl Watch for Unwatched {
    fn change(&self, _act: &str, _refused: Option<Errno>) {}
}

/// Runs a plan, its lanes interleaved as `seed` has it.
fn act(host: &FakeHost, plan: &Plan, seed: u64) -> Vec<LaneResult> {
    act_on(host, plan, &Journal::none(), seed).lanes
}

pub(crate) fn act_on(host: &FakeHost, plan: &Plan, journal: &Journal, seed: u64) -> Report {
    let lock = host.lock(&Claim::new("a test", host)).unwrap();
    let pace = Pace::Interleaved(seed);
    engine::run(plan, Work { host, lock: lock.as_ref(), journal, watch: &Unwatched, pace })
}

pub(crate) fn prepared(case: &Case) -> FakeHost {
    let host = FakeHost::demo().unwrap();
    if let Some(edit) = case.edit {
        host.edit(edit);
    }
    if let Some(first) = &case.first {
        let plan = plan(&host, case, first);
        assert!(act(&host, &plan, 1).iter().all(|lane| lane.error.is_none()));
    }
    host
}

/// The devices that differ between two states.
pub(crate) fn differing(a: &Snapshot, b: &Snapshot) -> BTreeSet<String> {
    let names: BTreeSet<&String> = a.devices.keys().chain(b.devices.keys()).collect();
    names.into_iter().filter(|name| a.devices.get(*name) != b.devices.get(*name)).cloned().collect()
}

#[test]
fn a_failed_write_leaves_every_device_as_it_was_or_as_wanted() {
    let mut failed = 0;
    let mut total = 0;
    for case in CASES.iter().chain(&more_cases()) {
        let start = prepared(case);
        let clean = start.copied();
        let before = clean.snapshot();
        let done_before = clean.writes().len();
        act(&clean, &plan(&clean, case, &case.wanted), 1);
        let after = clean.snapshot();
        let writes = clean.writes().len() - done_before;
        assert!(writes > 0, "{}: nothing was written", case.name);
        for errno in [Errno::EIO, Errno::EBUSY, Errno::ENODEV, Errno::EINVAL, Errno::ENOMEM] {
            // A fallback makes writes that the clean run did not.
            for n in 1..=writes + 8 {
                for effect in [false, true] {
                    let host = start.copied();
                    let fault = Fault::nth(n, errno);
                    host.fail(if effect { fault.after_effect() } else { fault });
                    let plan = plan(&host, case, &case.wanted);
                    let seed = u64::try_from(n).unwrap() * 2 + u64::from(effect);
                    let lanes = act(&host, &plan, seed);
                    if !host.writes().iter().any(|written| written.answer == Some(errno)) {
                        continue;
                    }
                    let now = host.snapshot();
                    let what = format!("{}, write {n} of {writes}, {errno}, with effect: {effect}", case.name);
                    for lane in &lanes {
                        assert!(lane.remains.is_empty(), "{what}: {:?}", lane.remains);
                        let bond_failed = lanes.iter().any(|other| other.bond == lane.bond && other.error.is_some());
                        failed += usize::from(bond_failed);
                        let name = lane.device.to_string();
                        let refused = lane.tried.iter().any(|tried| tried.error.is_some());
                        let same = now.devices[&name] == before.devices[&name];
                        let wanted = now.devices[&name] == after.devices[&name];
                        if bond_failed {
                            let shown = &now.devices[&name];
                            assert!(same && !lane.changed(), "{what}: {name} failed and is {shown:?}");
                        } else {
                            let shown = &now.devices[&name];
                            assert!(wanted || refused, "{what}: {name} did not fail and is {shown:?}");
                        }
                    }
                    let acted: BTreeSet<String> = plan.lanes.iter().map(|lane| lane.device.to_string()).collect();
                    let others = differing(&before, &now);
                    assert!(others.is_subset(&acted), "{what}: also changed {others:?}");
                    total += 1;
                }
            }
        }
    }
    // Past the test runner's capture: the count is what this test has to show.
    writeln!(
        std::io::stderr(),
        "{total} failed writes in {} plans; {failed} lanes rolled back, each to its former state",
        CASES.len() + more_cases().len()
    )
    .unwrap();
    assert!(total > 100 && failed > 50, "{total} faults and {failed} roll-backs are too few to mean anything");
}

#[test]
fn a_device_that_vanishes_is_an_error_and_nothing_else_changes() {
    let case = &CASES[4];
    let mut vanished = 0;
    for n in 1..80 {
        let host = prepared(case);
        let before = host.snapshot();
        let plan = plan(&host, case, &case.wanted);
        let gone = plan.lanes[0].device;
        host.vanish_at_read(n, gone.pci().unwrap());
        let lanes = act(&host, &plan, 7);
        let now = host.snapshot();
        if now.devices.contains_key(&gone.to_string()) {
            break;
        }
        vanished += 1;
        for unit in &lanes {
            if unit.device == gone {
                // Had it been bound before it went, there was nothing to fail.
                let done = unit.tried.iter().any(|tried| tried.error.is_none());
                assert!(unit.error.is_some() || done, "read {n}: {gone} vanished and nobody noticed");
            } else {
                assert_eq!(unit.error, None, "read {n}: {} failed because {gone} vanished", unit.device);
            }
        }
        // Its PF shows one VF fewer.
        let pf = before.devices[&gone.to_string()].get("physfn").cloned();
        let mut acted: BTreeSet<String> = plan.lanes.iter().map(|lane| lane.device.to_string()).collect();
        acted.extend(pf);
        assert!(differing(&before, &now).is_subset(&acted));
    }
    assert!(vanished > 10, "it vanished {vanished} times only");
}

fn unbind_of_many() -> Case {
    Case {
        name: "unbind of many",
        devices: igb_vfs,
        edit: None,
        first: Some(Wanted::Best),
        wanted: Wanted::Host,
        fallback: Fallback::NextBest,
    }
}

#[test]
fn an_unbind_that_waits_for_a_holder_is_left_behind_and_the_others_go_on() {
    let case = unbind_of_many();
    let host = prepared(&case);
    let plan = plan(&host, &case, &case.wanted);
    let device = plan.lanes[1].device;
    let bdf = device.pci().unwrap();
    let inventory = discover::inventory(&host).unwrap();
    let cdev = inventory.functions[&bdf].vfio_dev.as_ref().unwrap().name.clone();
    let held = host.open(&Open::BoundCdev(cdev)).unwrap();
    let writes = host.writes().len();
    let lanes = act(&host, &plan, 7);
    for (number, lane) in lanes.iter().enumerate() {
        if number == 1 {
            assert_eq!(lane.error, Some(StepError::Stuck(device, Pending::Unbind)));
            assert_eq!(lane.remains.len(), 1);
            assert!(lane.changed());
        } else {
            assert_eq!(lane.error, None, "{} had to wait for another", lane.device);
        }
    }
    // Nothing more is written about the one that waits: it would wait too.
    let about = |written: &&vfioadm::host::fake::Written| {
        written.value == device.to_string() || written.path.rest().contains(&device.to_string())
    };
    let last = host.writes().into_iter().skip(writes).rfind(|written| about(&written)).unwrap();
    assert!(last.path.rest().ends_with("/unbind"), "{last:?}");
    drop(held);
    assert_eq!(engine::binding(&host, bdf).unwrap().unwrap().driver, None);
    let again = act(&host, &self::plan(&host, &case, &case.wanted), 1);
    assert!(again.iter().all(|lane| lane.error.is_none()));
}

#[test]
fn a_holder_that_appears_after_the_check_keeps_the_device() {
    let case = unbind_of_many();
    let host = prepared(&case);
    let inventory = discover::inventory(&host).unwrap();
    let devices = igb_vfs(&inventory);
    let aliases: Vec<_> = devices.iter().map(|bdf| inventory.functions[bdf].alias).collect();
    let (tables, _) = read_tables(&host, &Query { devices: &aliases, drivers: &[], kernel: Kernel::Running });
    let wish = BindWish {
        devices: devices.clone(),
        wanted: Wanted::Host,
        fallback: Fallback::NextBest,
        open: WhenOpen::Refuse,
        prefer: Vec::new(),
    };
    let plan = bind(&wish, &inventory, &tables).unwrap();
    let cdev = inventory.functions[&devices[1]].vfio_dev.as_ref().unwrap().name.clone();
    let before = host.snapshot();
    let held = host.open(&Open::BoundCdev(cdev)).unwrap();
    for lane in act(&host, &plan, 3) {
        let wanted = (lane.device == devices[1].into()).then_some(StepError::Open(devices[1]));
        assert_eq!((lane.error.clone(), lane.remains.len()), (wanted, 0), "{}", lane.device);
    }
    drop(held);
    let name = devices[1].to_string();
    assert_eq!(host.snapshot().devices[&name], before.devices[&name], "it is its holder's, as it was");
}
