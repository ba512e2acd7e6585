//! WQs, subfunctions and vGPUs made and unmade on the fake kernel: the same faults and cuts as VFs and mdevs. No lab has the
//! hardware: the host is a fixture built from the kernel's ABI documents.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use vfioadm::discover;
use vfioadm::engine::journal::Journal;
use vfioadm::host::fake::FakeHost;
use vfioadm::plan::queues::{self, Others, QueueError, QueueWish};
use vfioadm::step::Plan;

use crate::create::{Cases, cut_after_each_line, done, fail_each_write, undo_each};
use crate::faults::act_on;
use crate::vfioadm;

const HOST: &str = "--host tests/hosts/types.host";

macro_rules! said {
    ($($name:ident: $line:expr;)*) => {
        $(#[test] fn $name() { assert_snapshot!(vfioadm(&format!("{HOST} {}", $line))); })*
    };
}

said! {
    create_a_queue: "create -v iax1 wq";
    create_queues_by_their_function: "create e7:02.0 wq --count 2 --set mode=shared --set threshold=12 --set name=spdk";
    create_a_queue_for_the_kernel_as_json: "create -o json iax1 wq --set type=kernel";
    create_a_queue_dry_run: "create --dry-run iax1 wq";
    create_a_queue_where_sizes_are_fixed: "create dsa0 wq";
    create_a_queue_of_a_pf: "create 42:00.0 wq";
    create_a_queue_for_a_driver_that_is_not_there: "create iax1 wq --set type=kernel --set driver-name=crypto";
    destroy_a_queue: "destroy -v wq0.1";
    destroy_a_queue_as_json: "destroy -o json wq0.2";
    destroy_a_queue_that_is_open: "destroy wq0.0";
    destroy_a_queue_that_is_not_enabled: "destroy -o json wq0.3";
}

/// Each is refused before a host is read, with exit 2, and names what is wrong.
#[test]
fn a_wrong_command_line_is_refused() {
    for (line, named) in [
        ("create iax1 wq --set colour=blue", "there are type (user or kernel), size"),
        ("create iax1 wq --set size=many", "size takes 1 to 65535 entries"),
        ("create iax1 wq --set threshold=4", "mode=shared"),
        ("create iax1 wq --set mac=auto", "there is no parameter mac"),
        ("create iax1 wq --count 0", "0 is not in 1..=65535"),
        ("create iax1 wq --pool 4", "--pool is of VFs"),
        ("create iax1 wq --uuid 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "--uuid names an mdev"),
        ("create iax1 wq --driver user", "--set driver-name=DRIVER"),
        ("destroy wq7.0", "wq7.0"),
    ] {
        let said = vfioadm(&format!("{HOST} {line}"));
        assert_eq!((said.exit, said.out.as_str()), (2, ""), "{line}: {said}");
        assert!(said.err.contains(named), "{line}: {said}");
    }
}

fn host() -> FakeHost {
    FakeHost::from_text(include_bytes!("../hosts/types.host")).unwrap()
}

fn queues_with(
    host: &FakeHost,
    (device, count): (&str, u16),
    set: &[&str],
    others: Others,
) -> Result<Plan, QueueError> {
    let set: Vec<_> = set.iter().map(|text| text.parse().unwrap()).collect();
    let parameters = queues::parse(&set)?;
    let wish = QueueWish { devices: vec![device.parse().unwrap()], count, parameters, others };
    queues::queues(&wish, &discover::inventory(host).unwrap())
}

fn queues(host: &FakeHost, of: (&str, u16), set: &[&str]) -> Result<Plan, QueueError> {
    queues_with(host, of, set, Others::Keep)
}

fn without_queues(host: &FakeHost, names: &[&str]) -> Result<Plan, QueueError> {
    let names: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
    let mut plan = Plan::default();
    queues::unmake(&names, &discover::inventory(host).unwrap(), &mut plan)?;
    plan.bond_all();
    Ok(plan)
}

fn cases() -> Cases {
    let mut cases = BTreeMap::new();
    let host = self::host();
    let plan = queues(&host, ("iax1", 2), &["mode=shared", "size=32", "threshold=28", "group=1"]).unwrap();
    cases.insert("create 2 shared WQs of a disabled device", (host.copied(), plan.clone()));
    done(&host, &plan);
    let plan = without_queues(&host, &["wq1.1"]).unwrap();
    cases.insert("destroy one of 2 WQs", (host.copied(), plan.clone()));
    let both = without_queues(&host, &["wq1.0", "wq1.1"]).unwrap();
    cases.insert("destroy both WQs and disable their device", (host.copied(), both));
    done(&host, &plan);
    let plan = queues(&host, ("iax1", 1), &["type=kernel", "engine=3", "group=2"]).unwrap();
    cases.insert("create a kernel WQ of an enabled device", (host, plan));
    let host = self::host();
    let plan = without_queues(&host, &["wq0.1", "wq0.2"]).unwrap();
    cases.insert("destroy WQs that somebody else has made", (host, plan));
    cases
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    fail_each_write(cases(), "WQs");
}

#[test]
fn cut_off_after_every_line_nothing_is_left_behind() {
    cut_after_each_line(cases(), "WQs");
}

#[test]
fn one_that_has_ended_is_undone_when_it_is_named() {
    undo_each(cases());
}

#[test]
fn what_the_device_says_of_a_refusal_is_told() {
    let host = host();
    let plan = queues(&host, ("iax1", 1), &[]).unwrap();
    let before = host.snapshot();
    host.edit(|tree| tree.put_text("/sys/bus/pci/devices/0000:e7:02.0/iax1/pasid_enabled", 0));
    let report = act_on(&host, &plan, &Journal::none(), 1);
    let queue = report.lanes.iter().find(|lane| lane.device.to_string() == "wq1.0").unwrap();
    let said = queue.error.as_ref().unwrap().to_string();
    assert!(said.ends_with("EOPNOTSUPP (Operation not supported): a user WQ needs SVA, which is off"), "{said}");
    assert_eq!(host.snapshot(), before, "what was configured is taken back");
}

#[test]
fn a_device_that_somebody_configures_is_left_alone_unless_that_is_accepted() {
    let host = host();
    host.edit(|tree| tree.put_text("/sys/bus/pci/devices/0000:e7:02.0/iax1/wq1.5/size", 8));
    let refused = queues(&host, ("iax1", 1), &[]).unwrap_err().to_string();
    assert!(refused.contains("somebody has configured wq1.5"), "{refused}");
    done(&host, &queues_with(&host, ("iax1", 1), &[], Others::Accepted).unwrap());
    let refused = queues_with(&host, ("iax1", 9), &[], Others::Accepted).unwrap_err().to_string();
    assert_eq!(refused, "iax1 has 7 WQs that nobody has configured, not 9");
}

#[test]
fn what_no_wq_can_be_is_refused_with_why() {
    let host = host();
    for (device, count, set, said) in [
        ("iax1", 9, &[][..], "iax1 has 8 WQs that nobody has configured, not 9"),
        ("iax1", 1, &["size=65535"], "iax1 has 128 entries left, and 65535 are asked for"),
        ("iax1", 1, &["group=7"], "iax1 has no group 7"),
        ("iax1", 1, &["engine=8"], "iax1 has no engine 8 that is free for group 0"),
        ("iax1", 1, &["mode=shared", "size=8", "threshold=9"], "threshold=9 is more than size=8"),
        ("iax1", 1, &["threshold=9"], "threshold goes with mode=shared"),
        ("iax1", 1, &["mode=both"], "mode=both: mode takes dedicated or shared"),
        ("iax1", 1, &["size=0"], "size=0: size takes 1 to 65535 entries"),
        ("iax1", 1, &["priority=16"], "priority=16: priority takes 1 to 15"),
        ("iax1", 1, &["name=a", "name=b"], "parameter name is given twice"),
        ("iax1", 1, &["colour=blue"], "there is no parameter colour"),
        (
            "dsa0",
            1,
            &["group=3"],
            "dsa0 is enabled, and a WQ gets its size only while it is not: 0 of its free WQs have one that does, not 1",
        ),
        ("dsa9", 1, &[], "dsa9 is no idxd device or WQ that vfioadm knows"),
    ] {
        assert_eq!(queues(&host, (device, count), set).unwrap_err().to_string(), said);
    }
    for (attribute, value, said) in [
        ("configurable", "0", "iax1 is not configurable: its WQs are as the firmware has set them"),
        ("state", "halted", "iax1 is halted"),
        ("pasid_enabled", "0", "iax1 has no PASID, and a user WQ needs it"),
    ] {
        let host = host.copied();
        host.edit(|tree| tree.put_text(&format!("/sys/bus/pci/devices/0000:e7:02.0/iax1/{attribute}"), value));
        assert_eq!(queues(&host, ("iax1", 1), &[]).unwrap_err().to_string(), said);
    }
    for (name, said) in
        [("wq0.0", "wq0.0 is open: it has 1 client"), ("wq0.3", "wq0.3 is not enabled: there is nothing to destroy")]
    {
        assert_eq!(without_queues(&host, &[name]).unwrap_err().to_string(), said);
    }
}
