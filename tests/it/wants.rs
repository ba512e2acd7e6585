//! What holds of every host and its host file: described, nothing is to be done; given back and applied, it is as it was; applied twice,
//! nothing is written; failed, it is as it was; and the order of the entries is nobody's.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use vfioadm::discover::tables::{Kernel, Query, read_tables};
use vfioadm::discover::{self, Slots};
use vfioadm::engine::journal::Journal;
use vfioadm::host::fake::{FakeHost, Fault};
use vfioadm::model::{Bdf, Errno, Inventory, ModAlias, Role};
use vfioadm::plan::create::{Known, aliases};
use vfioadm::want::describe::describe;
use vfioadm::want::{Ground, Reconciled, Source, Standing, read, reconcile};

use crate::faults::{act_on, differing};

/// A host in memory that something was done to, command by command.
fn changed(changes: &[Change]) -> FakeHost {
    let host = FakeHost::demo().unwrap();
    for change in changes {
        let wish = change.file(&host);
        let reconciled = reconciled(&host, &wish);
        let mut plan = reconciled.plan;
        plan.bond_all();
        // What cannot be had is not.
        act_on(&host, &plan, &Journal::none(), 1);
    }
    host
}

/// One change of a host, in the words of a host file.
#[derive(Debug, Clone)]
enum Change {
    /// A function gets a driver.
    Driver(usize, &'static str),
    /// A PF gets VFs, some of them with drivers and settings.
    Vfs(usize, u16, Vec<(u16, &'static str, &'static str)>),
    /// There is an mdev.
    Mdev(u8, &'static str),
}

/// Functions that nobody needs, and that are alone in their groups or whole.
const DEVICES: [&str; 8] = [
    "0000:c1:00.0",
    "0000:89:00.0",
    "0000:3b:01.2",
    "0000:3b:01.3",
    "0000:3b:01.4",
    "0000:6b:00.1",
    "0000:85:01.0",
    "0000:85:02.0",
];
const PFS: [&str; 2] = ["0000:81:00.0", "0000:3b:00.0"];
const DRIVERS: [&str; 4] = ["best", "host", "none", "vfio-pci"];
const SETS: [&str; 4] =
    ["", "mac = \"auto\"", "mac = \"auto\", vlan = 100, qos = 3", "spoofchk = false, trust = true, vlan = 7"];

impl Change {
    fn file(&self, host: &FakeHost) -> String {
        let inventory = discover::inventory(host).unwrap();
        let which = |bdf: &str| {
            let alias = &inventory.functions[&bdf.parse::<Bdf>().unwrap()].alias;
            format!("match = {{ id = \"{:04x}:{:04x}\", address = \"{bdf}\" }}\n", alias.vendor(), alias.device())
        };
        match self {
            Self::Driver(device, driver) => format!("[[device]]\n{}driver = \"{driver}\"\n", which(DEVICES[*device])),
            Self::Vfs(pf, count, ranges) => {
                let mut text = format!("[[pf]]\n{}vfs = {count}\n", which(PFS[*pf]));
                let ranges: BTreeMap<u16, (&str, &str)> =
                    ranges.iter().filter(|(index, ..)| index < count).map(|(index, d, s)| (*index, (*d, *s))).collect();
                for (index, (driver, set)) in ranges {
                    let range = format!("[[pf.range]]\nvfs = \"{index}\"\ndriver = \"{driver}\"\nset = {{ {set} }}\n");
                    text.push_str(&range);
                }
                text
            }
            Self::Mdev(number, kind) => format!(
                "[[mdev]]\nuuid = \"83b8f4f2-509f-382f-3c1e-e6bfe0fa10{number:02x}\"\nparent = \"mtty\"\ntype = \"{kind}\"\n"
            ),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let range = (0..7u16, proptest::sample::select(&DRIVERS[..]), proptest::sample::select(&SETS[..]));
    prop_oneof![
        (0..DEVICES.len(), proptest::sample::select(&DRIVERS[..]))
            .prop_map(|(device, driver)| Change::Driver(device, driver)),
        (0..PFS.len(), 0..8u16, proptest::collection::vec(range, 0..4))
            .prop_map(|(pf, count, ranges)| Change::Vfs(pf, count, ranges)),
        (0..4u8, proptest::sample::select(&["mtty-1", "mtty-2"][..]))
            .prop_map(|(number, kind)| Change::Mdev(number, kind)),
    ]
}

/// What is known of every PF.
fn known(host: &FakeHost, inventory: &Inventory) -> Known {
    let mut known = Known { machine: String::from("m"), ..Known::default() };
    for function in inventory.functions.values() {
        let Role::Pf { enabled, .. } = function.role else { continue };
        let pf = function.bdf;
        let text = vfioadm::host::Read::text(host, &vfioadm::host::HostPath::pool(pf));
        let pool: Option<vfioadm::step::Pool> = text.ok().map(|text| serde_json::from_str(&text).unwrap());
        known.pools.extend(pool.filter(|pool| pool.vfs == enabled).map(|pool| (pf, pool)));
        known.attributes.extend(discover::vf_attributes(host, pf).unwrap());
        known.devlink.extend(discover::devlink(host, pf).unwrap().map(|devlink| (pf, devlink)));
        let device = vfioadm::host::Read::text(host, &vfioadm::host::HostPath::pci(pf).attr("sriov_vf_device"));
        known.vf_devices.extend(device.ok().and_then(|id| u16::from_str_radix(&id, 16).ok()).map(|id| (pf, id)));
    }
    known
}

fn reconciled(host: &FakeHost, text: &str) -> Reconciled {
    let wish = read(&[Source { name: "want.toml", text }]).unwrap_or_else(|mistakes| panic!("{mistakes:?} in\n{text}"));
    let inventory = discover::inventory(host).unwrap();
    let identities = discover::identities(host, &wish.asks(&inventory), Slots::Unwanted).unwrap();
    let known = known(host, &inventory);
    let pfs: Vec<Bdf> = known.vf_devices.keys().copied().collect();
    let mut all: Vec<ModAlias> = inventory.functions.values().map(|function| function.alias).collect();
    all.extend(aliases(&pfs, &inventory, &known));
    let drivers: BTreeSet<_> = inventory.functions.values().filter_map(|function| function.driver.clone()).collect();
    let drivers: Vec<_> = drivers.into_iter().collect();
    let (tables, _) = read_tables(host, &Query { devices: &all, drivers: &drivers, kernel: Kernel::Running });
    let without_netdev = BTreeSet::new();
    let (known, identities) = (&known, &identities);
    reconcile(
        &wish,
        Ground { inventory: &inventory, tables: &tables, known, identities, without_netdev: &without_netdev },
    )
}

fn described(host: &FakeHost) -> String {
    let inventory = discover::inventory(host).unwrap();
    describe(&inventory, &known(host, &inventory)).to_toml()
}

/// Applies a file, all or nothing; whether it was done.
fn apply(host: &FakeHost, text: &str) -> bool {
    let mut plan = reconciled(host, text).plan;
    plan.bond_all();
    act_on(host, &plan, &Journal::none(), 1).lanes.iter().all(|lane| lane.error.is_none())
}

fn clean(host: &FakeHost, text: &str) -> Result<(), TestCaseError> {
    for outcome in reconciled(host, text).outcomes {
        prop_assert_eq!(outcome.standing, Standing::InPlace, "{} of\n{}", outcome.entry, text);
    }
    Ok(())
}

fn check(cases: u32, test: impl Fn(Vec<Change>) -> Result<(), TestCaseError>) {
    // The cases are the same in every run: what fails once fails again.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    runner.run(&proptest::collection::vec(change(), 0..6), test).unwrap();
}

#[test]
fn of_a_host_that_is_described_nothing_is_to_be_done() {
    check(60, |changes| {
        let host = changed(&changes);
        let text = described(&host);
        clean(&host, &text)?;
        prop_assert!(reconciled(&host, &text).plan.lanes.is_empty());
        Ok(())
    });
}

#[test]
fn a_host_that_was_given_back_is_what_it_was_when_its_description_is_applied() {
    check(40, |changes| {
        let host = changed(&changes);
        let text = described(&host);
        let inventory = discover::inventory(&host).unwrap();
        let is_ours = |bdf: &&Bdf| {
            let function = &inventory.functions[*bdf];
            function.is_vfio() || function.driver_override.is_some()
        };
        for bdf in inventory.functions.keys().filter(is_ours) {
            let alias = &inventory.functions[bdf].alias;
            let (vendor, device) = (alias.vendor(), alias.device());
            let back = format!(
                "[[device]]\nmatch = {{ id = \"{vendor:04x}:{device:04x}\", address = \"{bdf}\" }}\ndriver = \"host\"\n"
            );
            prop_assert!(apply(&host, &back));
        }
        prop_assert!(apply(&host, &text), "{}", text);
        prop_assert_eq!(described(&host), text);
        Ok(())
    });
}

#[test]
fn what_is_applied_is_in_place_and_is_applied_once() {
    check(40, |changes| {
        let text = described(&changed(&changes));
        let host = FakeHost::demo().unwrap();
        if !apply(&host, &text) {
            return Ok(());
        }
        clean(&host, &text)?;
        let writes = host.writes().len();
        prop_assert!(apply(&host, &text));
        prop_assert_eq!(host.writes().len(), writes, "a second apply writes");
        Ok(())
    });
}

#[test]
fn a_write_that_fails_takes_all_of_it_back() {
    let failed = std::cell::Cell::new(0);
    // VFs that go to make room do not come back as they were, and need --yes: there are none to begin with.
    let start = FakeHost::demo().unwrap();
    for pf in 0..PFS.len() {
        assert!(apply(&start, &Change::Vfs(pf, 0, Vec::new()).file(&start)));
    }
    check(12, |changes| {
        let text = described(&changed(&changes));
        if reconciled(&start, &text).irreversible().next().is_some() {
            return Ok(());
        }
        let before = start.snapshot();
        let clean = start.copied();
        apply(&clean, &text);
        let writes = clean.writes().len() - start.writes().len();
        for n in (1..=writes).step_by(writes / 6 + 1) {
            let host = start.copied();
            host.fail(Fault::nth(n, Errno::EIO));
            if apply(&host, &text) {
                continue;
            }
            failed.set(failed.get() + 1);
            let now = host.snapshot();
            prop_assert_eq!(differing(&before, &now), BTreeSet::new(), "write {} of {} of\n{}", n, writes, &text);
        }
        Ok(())
    });
    assert!(failed.get() > 10, "{} failures are too few to mean anything", failed.get());
}

#[test]
fn the_order_of_the_entries_is_nobodys() {
    check(30, |changes| {
        let text = described(&changed(&changes));
        // The ranges of a PF belong to it; every other table stands alone.
        let blocks = text.split("\n\n").fold(Vec::new(), |mut blocks: Vec<String>, block| {
            match blocks.last_mut() {
                Some(last) if block.starts_with("[[pf.range]]") => *last = format!("{last}\n\n{block}"),
                _ => blocks.push(block.to_owned()),
            }
            blocks
        });
        let turned: Vec<String> = blocks.into_iter().rev().collect();
        let (one, other) = (FakeHost::demo().unwrap(), FakeHost::demo().unwrap());
        prop_assert_eq!(apply(&one, &text), apply(&other, &turned.join("\n\n")));
        prop_assert_eq!(described(&one), described(&other));
        Ok(())
    });
}

#[test]
fn what_a_host_driver_has_yet_to_tell_is_waited_for_and_nothing_else_is() {
    let host = FakeHost::demo().unwrap();
    let inventory = discover::inventory(&host).unwrap();
    let identities = discover::identities(&host, &BTreeMap::new(), Slots::Unwanted).unwrap();
    let later = |of: &str| {
        let which: vfioadm::want::file::Match = toml::from_str(of).unwrap();
        which.is_told_later(&inventory, &identities)
    };
    // What nobody has asked a function is as what its driver has not told yet.
    assert!(later("id = \"144d:a80a\"\nserial = \"S1\""), "on its host driver, which has not told");
    assert!(!later("id = \"144d:a80a\""), "it matches already");
    assert!(!later("id = \"dead:beef\"\nserial = \"S1\""), "there is no such product");
    assert!(!later("id = \"144d:a80a\"\nserial = \"S1\"\nslot = \"no-such-slot\""), "it is in another slot");
    let bound = changed(&[Change::Driver(0, "vfio-pci")]);
    let inventory = discover::inventory(&bound).unwrap();
    let which: vfioadm::want::file::Match =
        toml::from_str("id = \"144d:a80a\"\naddress = \"0000:c1:00.0\"\nserial = \"S1\"").unwrap();
    assert!(!which.is_told_later(&inventory, &identities), "nobody tells the serial of a device that is VFIO's");
}
