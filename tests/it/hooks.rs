//! Vendors' tools that make VFs ready: when they are run and undone, and what follows when one fails or is not trusted.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use vfioadm::engine::journal::Journal;
use vfioadm::host::fake::{FakeHost, Fault, Tree};
use vfioadm::host::{HostPath, Read};
use vfioadm::model::{Errno, HookWay};
use vfioadm::plan::create;

use crate::create::{
    Cases, bare, cut_after_each_line, destroy, done, fail_each_write, hook_id, known, pf, set, undo_each, vfs,
};
use crate::faults::act_on;
use crate::journal::assert_same;
use crate::saved::Saved;

const VF: &str = "0000:81:10.0";

fn with_hook(host: FakeHost) -> FakeHost {
    host.edit(|tree| tree.put_hook(hook_id()));
    host
}

fn cases() -> Cases {
    let mut cases = BTreeMap::new();
    let host = with_hook(bare());
    let plan = vfs(&host, 3, 3).unwrap();
    cases.insert("create 3 VFs from none", (host.copied(), plan.clone()));
    done(&host, &plan);
    let plan = destroy(&host);
    cases.insert("destroy all of a pool", (host, plan));

    let host = with_hook(bare());
    done(&host, &vfs(&host, 2, 5).unwrap());
    let plan = vfs(&host, 2, 2).unwrap();
    cases.insert("create 2 VFs from a pool", (host.copied(), plan));
    let inventory = vfioadm::discover::inventory(&host).unwrap();
    let first = inventory.vf(pf(), 0).unwrap().bdf;
    let plan = create::destroy(&[first], &[], &inventory, &known(&host)).unwrap();
    cases.insert("destroy one of a pool", (host, plan));

    let host = with_hook(FakeHost::demo().unwrap());
    let plan = set(&host, pf(), "vlan=100 trust=on");
    cases.insert("bind --set of a VF on its host driver", (host.copied(), plan.clone()));
    done(&host, &plan);
    let plan = set(&host, pf(), "vlan=7 spoofchk=off");
    cases.insert("bind --set of a VF that a hook has made ready", (host, plan));
    cases
}

#[test]
fn a_failed_write_or_hook_leaves_nothing_behind() {
    fail_each_write(cases(), "VFs with a hook");
}

#[test]
fn cut_off_after_every_line_a_hook_is_undone() {
    cut_after_each_line(cases(), "VFs with a hook");
}

#[test]
fn one_that_has_ended_is_undone_when_it_is_named() {
    undo_each(cases());
}

/// The ends of the paths that were written, in order, and for hooks which way.
fn written(host: &FakeHost, after: usize) -> Vec<String> {
    let all = host.writes();
    let name = |path: &HostPath| path.to_string().rsplit('/').next().unwrap_or_default().to_owned();
    all[after..].iter().map(|written| name(&written.path)).collect()
}

#[test]
fn it_is_run_after_everything_else_that_a_driver_finds_and_undone_before_that_is_cleared() {
    let host = with_hook(bare());
    let before = host.writes().len();
    done(&host, &vfs(&host, 1, 1).unwrap());
    let all = written(&host, before);
    let at = |name: &str| all.iter().position(|written| written == name).unwrap_or_else(|| panic!("{name} in {all:?}"));
    let (noted, set, bound) = (at("0000:81:00.0-0"), at("set"), at("bind"));
    let last_parameter = all.iter().rposition(|written| written.starts_with("enp")).unwrap();
    assert!(last_parameter < noted && noted < set && set < bound, "{all:?}");
    let given = host.snapshot().devices[&format!("hooked {VF}")]["given"].clone();
    assert!(given.starts_with("mac=") && given.ends_with(" vlan=100 trust=on") && !given.contains("auto"), "{given}");

    let before = host.writes().len();
    done(&host, &destroy(&host));
    let all = written(&host, before);
    let at = |name: &str| all.iter().position(|written| written == name).unwrap_or_else(|| panic!("{name} in {all:?}"));
    let cleared = all.iter().position(|written| written.starts_with("enp")).unwrap();
    assert!(at("unbind") < at("undo") && at("undo") < at("0000:81:00.0-0"), "{all:?}");
    assert!(at("0000:81:00.0-0") < cleared && cleared < at("sriov_numvfs"), "{all:?}");
}

#[test]
fn undo_is_run_where_set_was_and_nowhere_else() {
    let host = bare();
    done(&host, &vfs(&host, 1, 3).unwrap());
    // There was no hook when the first was given.
    let host = with_hook(host);
    done(&host, &vfs(&host, 1, 1).unwrap());
    let before = host.writes().len();
    done(&host, &destroy(&host));
    let undone = host.writes()[before..].iter().filter(|written| written.path.to_string().ends_with("/undo")).count();
    assert_eq!(undone, 1, "{:?}", written(&host, before));
    assert_eq!(host.list(&HostPath::parse("/run/vfioadm/hooked").unwrap()).unwrap_or_default(), Vec::<String>::new());
}

/// Its `set` fails when it is half done, so that there is something to take back; of its note alone there is not.
#[test]
fn undo_follows_a_set_that_failed_and_not_one_that_was_never_run() {
    let start = with_hook(bare());
    let plan = vfs(&start, 1, 1).unwrap();
    let before = start.snapshot();
    for (fault, undone) in [
        (Fault::at("10ca/set", Errno::EIO), 1),
        (Fault::at("10ca/set", Errno::ETIMEDOUT).after_effect(), 1),
        (Fault::at("hooked/0000:81:00.0-0", Errno::ENOSPC), 0),
    ] {
        let host = start.copied();
        host.fail(fault.clone());
        let report = act_on(&host, &plan, &Journal::none(), 1);
        assert!(report.lanes.iter().all(|lane| lane.error.is_some()), "{fault:?}");
        let ran = host.writes().iter().filter(|written| written.path.to_string().ends_with("/undo")).count();
        assert_eq!(ran, undone, "{fault:?}");
        if undone == 1 {
            assert_same(&host, &before, "a hook that failed");
        }
    }
}

const CREATE: &str = "create 81:00.0 vf --set vlan=7";

/// A host with a hook, no VFs, and what else a test wants of the hook.
fn saved(change: impl FnOnce(&mut Tree)) -> Saved {
    Saved::of(&with_hook(bare()), change)
}

#[test]
fn a_hook_is_told_of_and_journalled() {
    assert_snapshot!(saved(|_| ()).say(&[
        "create --dry-run 81:00.0 vf --set vlan=7 --driver none",
        "create -v 81:00.0 vf --set vlan=7",
        "bind -v 81:10.0 --set vlan=8",
        "destroy -v 81:10.0",
        "log",
    ]));
}

#[test]
fn a_hook_that_fails_or_hangs_is_told_with_what_it_said() {
    for (name, said) in [("fails", Some("no such firmware")), ("hangs", None)] {
        let saved = saved(|tree| tree.fail_hook(hook_id(), HookWay::Set, said));
        let before = saved.snapshot();
        assert_snapshot!(format!("hook_that_{name}"), saved.say(&[CREATE, &format!("{CREATE} -o json")]));
        assert_eq!(saved.snapshot(), before);
    }
    let saved = Saved::of(&with_hook(FakeHost::demo().unwrap()), |tree| {
        tree.fail_hook(hook_id(), HookWay::Set, Some("no such firmware"));
    });
    let before = saved.snapshot();
    assert_snapshot!("hook_that_fails_for_bind", saved.say(&["bind 81:10.0 --set vlan=7"]));
    assert_eq!(saved.snapshot(), before);
}

/// The VF stays given, for nobody knows what the tool keeps of it.
#[test]
fn an_undo_that_fails_keeps_the_vf() {
    let saved = saved(|tree| tree.fail_hook(hook_id(), HookWay::Undo, Some("not now")));
    assert_eq!(saved.vfioadm(CREATE).exit, 0);
    let before = saved.snapshot();
    assert_snapshot!(saved.say(&["destroy 81:10.0"]));
    assert_eq!(saved.snapshot(), before);
}

/// The way back is `set` with what it was given before, by the same program.
#[test]
fn a_hook_that_fails_on_the_way_back_too_is_undone_later() {
    let saved = saved(|_| ());
    assert_eq!(saved.vfioadm(CREATE).exit, 0);
    let before = saved.snapshot();
    saved.change(|tree| tree.fail_hook(hook_id(), HookWay::Set, Some("no such firmware")));
    assert_snapshot!(saved.say(&["bind -v 81:10.0 --set vlan=9"]));
    saved.change(|tree| tree.mend_hook(hook_id(), HookWay::Set));
    assert_eq!(saved.vfioadm("undo").exit, 0);
    assert_eq!(saved.snapshot(), before);
}

#[test]
fn a_hook_that_others_can_write_or_that_is_half_there_is_refused_before_anything_is_made() {
    let before = bare();
    for (name, change) in [
        ("open", (|tree| tree.open_hook(hook_id(), HookWay::Undo)) as fn(&mut Tree)),
        ("half", |tree| drop(tree.remove("/etc/vfioadm/hooks.d/8086:10ca/undo"))),
    ] {
        let saved = saved(change);
        assert_snapshot!(format!("hook_that_is_{name}"), saved.say(&[CREATE, &format!("{CREATE} --dry-run")]));
        assert_eq!(saved.snapshot(), before.snapshot(), "{name}");
    }
}

#[test]
fn a_hook_that_is_gone_when_it_is_to_be_undone_is_refused() {
    let saved = saved(|_| ());
    assert_eq!(saved.vfioadm(CREATE).exit, 0);
    saved.change(|tree| drop(tree.remove("/etc/vfioadm/hooks.d/8086:10ca")));
    let before = saved.snapshot();
    assert_snapshot!(saved.say(&["destroy 81:10.0"]));
    assert_eq!(saved.snapshot(), before);
}
