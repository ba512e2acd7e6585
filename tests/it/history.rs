//! Operations beside each other: what a later one, or somebody, has had since is not an older one's to take back.

use vfioadm::engine::StepError;
use vfioadm::engine::history::{Halfway, Superseded, prune};
use vfioadm::engine::journal::{End, Ended, Header, Journal, Operation, Standing};
use vfioadm::host::fake::{FakeHost, Fault};
use vfioadm::host::ledger::{KEPT, Ledger, OperationId};
use vfioadm::model::{Errno, Target};
use vfioadm::plan::Wanted;

use crate::faults::{act_on, plan, prepared};
use crate::journal::{LastWrite, assert_same, assert_undone, case, cut, done, header, undo_but, undo_it};

#[test]
fn what_somebody_has_had_since_is_not_touched() {
    let host = prepared(case());
    let before = host.snapshot();
    let (ledger, id) = done(&host);
    let operation = Operation::read(&ledger, &id).unwrap();
    let theirs = operation.header.lanes[2].device;
    let place = format!("/sys/bus/pci/devices/{theirs}/driver_override");
    host.edit(|tree| tree.put_text(&place, "somebody"));
    let journal = Journal::resume(&ledger, &operation).unwrap();
    let report = undo_it(&host, &operation, &journal, 1);
    for lane in &report.lanes {
        assert_eq!(lane.error.is_some(), lane.device == theirs, "{}: {:?}", lane.device, lane.error);
        let name = lane.device.to_string();
        assert_eq!(host.snapshot().devices[&name] == before.devices[&name], lane.device != theirs);
    }
    assert_eq!(Operation::read(&ledger, &id).unwrap().standing(Some("this boot")), Standing::Remains);
    // The others are done with.
    assert_eq!(halfway(&ledger), [theirs]);
}

/// The devices that are in the middle of an operation.
fn halfway(ledger: &Ledger) -> Vec<Target> {
    let found = Halfway::read(ledger, Some("this boot")).unwrap();
    assert!(found.unusable.is_empty());
    found.operations.into_iter().flat_map(|(_, devices)| devices).collect()
}

/// Gives one device of the case what is wanted, in an operation of its own.
fn later(host: &FakeHost, ledger: &Ledger, device: Target, wanted: &Wanted) -> OperationId {
    let mut plan = plan(host, case(), wanted);
    plan.lanes.retain(|lane| lane.device == device);
    let journal = Journal::begin(ledger, "unbind", &header(&plan)).unwrap();
    let report = act_on(host, &plan, &journal, 1);
    assert!(report.lanes.iter().all(|lane| lane.error.is_none()), "{report:?}");
    journal.id().unwrap().clone()
}

/// An operation that was cut off when it had changed two devices and begun a third, with what it has changed.
fn cut_amid(host: &FakeHost) -> (Ledger, Operation, Vec<Target>) {
    let plan = plan(host, case(), &case().wanted);
    for lines in 1.. {
        let copy = host.copied();
        let (ledger, id) = cut(&copy, &plan, lines, LastWrite::Done).unwrap();
        let touched = halfway(&ledger);
        if touched.len() == 3 {
            cut(host, &plan, lines, LastWrite::Done).unwrap();
            let operation = Operation::read(&ledger, &id).unwrap();
            assert!(operation.header.lanes.len() > 3, "no device of it is untouched");
            return (ledger, operation, touched);
        }
    }
    unreachable!()
}

#[test]
fn what_a_later_operation_has_had_is_left_as_it_is() {
    for wanted in [Wanted::Host, Wanted::None, Wanted::Best] {
        let host = prepared(case());
        let before = host.snapshot();
        let (ledger, operation, touched) = cut_amid(&host);
        let theirs = touched[1];
        let id = later(&host, &ledger, theirs, &wanted);
        let had = host.snapshot();
        assert_eq!(halfway(&ledger), [touched[0], touched[2]], "{wanted:?}");

        let superseded = Superseded::read(&ledger, &operation).unwrap();
        assert!(!superseded.is_all_of(&operation));
        let journal = Journal::resume(&ledger, &operation).unwrap();
        let report = undo_but(&host, &operation, &superseded, (&journal, 1));
        for lane in &report.lanes {
            let name = lane.device.to_string();
            let (expected, error) = match lane.device == theirs {
                true => (&had, Some(StepError::Superseded(id.to_string()))),
                false => (&before, None),
            };
            assert_eq!(host.snapshot().devices[&name], expected.devices[&name], "{wanted:?}");
            assert_eq!((&lane.error, lane.remains.is_empty()), (&error, true), "{wanted:?}");
        }
        let stands = |id: &OperationId| Operation::read(&ledger, id).unwrap().standing(Some("this boot"));
        assert_eq!((stands(&operation.id), stands(&id)), (Standing::Undone, Standing::Done));
        assert_eq!(halfway(&ledger), []);
    }
}

#[test]
fn what_a_later_operation_has_taken_back_is_the_older_ones_again() {
    let host = prepared(case());
    let before = host.snapshot();
    let (ledger, operation, touched) = cut_amid(&host);
    let id = later(&host, &ledger, touched[0], &Wanted::Host);
    assert_undone(&host, &ledger, &id, "the later one");
    assert_eq!(Superseded::read(&ledger, &operation).unwrap(), Superseded::default());
    assert_eq!(halfway(&ledger), touched);
    assert_undone(&host, &ledger, &operation.id, "the older one");
    assert_same(&host, &before, "both");
}

#[test]
fn one_of_which_later_ones_have_had_everything_is_closed() {
    let host = prepared(case());
    let (ledger, operation, touched) = cut_amid(&host);
    touched.iter().for_each(|device| drop(later(&host, &ledger, *device, &Wanted::None)));
    let had = host.snapshot();
    let superseded = Superseded::read(&ledger, &operation).unwrap();
    assert!(superseded.is_all_of(&operation));
    let journal = Journal::resume(&ledger, &operation).unwrap();
    undo_but(&host, &operation, &superseded, (&journal, 1));
    assert_same(&host, &had, "nothing was the older one's to take back");
    assert_eq!(Operation::read(&ledger, &operation.id).unwrap().standing(Some("this boot")), Standing::Closed);
}

#[test]
fn a_later_one_that_found_a_device_as_it_was_wanted_has_it_too() {
    let host = prepared(case());
    let (ledger, operation, touched) = cut_amid(&host);
    let id = later(&host, &ledger, touched[0], &Wanted::None);
    assert_undone(&host, &ledger, &id, "the first");
    // Somebody takes it from its driver by hand, so that the next one has nothing to do.
    let place = format!("/sys/bus/pci/devices/{}", touched[0]);
    host.edit(|tree| {
        tree.put_text(&format!("{place}/driver_override"), "none");
        tree.remove(&format!("{place}/driver"));
    });
    let had = host.snapshot();
    let id = later(&host, &ledger, touched[0], &Wanted::None);
    let found = Operation::read(&ledger, &id).unwrap();
    assert_eq!((found.records.len(), found.standing(Some("this boot"))), (0, Standing::Done));
    assert_same(&host, &had, "it had nothing to do");
    assert_eq!(Superseded::read(&ledger, &operation).unwrap().by(touched[0]), Some(&id));
}

#[test]
fn a_later_one_that_failed_has_had_nothing() {
    let host = prepared(case());
    let (ledger, operation, touched) = cut_amid(&host);
    let mut plan = plan(&host, case(), &Wanted::None);
    plan.lanes.retain(|lane| touched[..2].contains(&lane.device));
    let journal = Journal::begin(&ledger, "bind", &header(&plan)).unwrap();
    host.fail(Fault::at(&format!("{}/driver_override", touched[0]), Errno::EIO));
    let report = act_on(&host, &plan, &journal, 1);
    let failed: Vec<Target> = report.lanes.iter().filter(|lane| lane.error.is_some()).map(|lane| lane.device).collect();
    assert_eq!((report.lanes.len(), &failed[..]), (2, &touched[..1]));
    let superseded = Superseded::read(&ledger, &operation).unwrap();
    assert_eq!((superseded.by(touched[0]), superseded.by(touched[1])), (None, journal.id()));
}

#[test]
fn one_of_another_boot_has_had_nothing_of_this() {
    let host = prepared(case());
    let (ledger, operation, touched) = cut_amid(&host);
    let mut plan = plan(&host, case(), &Wanted::Host);
    plan.lanes.retain(|lane| lane.device == touched[0]);
    let header = Header::new(Some(String::from("the next")), "vfioadm", std::time::Duration::ZERO, &plan);
    act_on(&host, &plan, &Journal::begin(&ledger, "unbind", &header).unwrap(), 1);
    assert_eq!(Superseded::read(&ledger, &operation).unwrap(), Superseded::default());
}

#[test]
fn what_is_needed_to_undo_is_never_forgotten() {
    let host = prepared(case());
    let (ledger, operation, touched) = cut_amid(&host);
    let id = later(&host, &ledger, touched[0], &Wanted::Host);
    let plan = plan(&host, case(), &Wanted::Host);
    for _ in 0..KEPT + 9 {
        let journal = Journal::begin(&ledger, "bind", &header(&plan)).unwrap();
        let at = std::time::Duration::ZERO.into();
        let end = End { at, settled: at, end: Ended::Done, left: Vec::new(), fell: Vec::new(), remains: Vec::new() };
        journal.end(&end).unwrap();
    }
    prune(&ledger, Some("this boot")).unwrap();
    let all = ledger.operations().unwrap();
    assert_eq!((all.len(), &all[0], &all[1]), (KEPT + 2, &operation.id, &id));
}
