//! WQs, subfunctions and vGPUs made and unmade on the fake kernel: the same faults and cuts as VFs and mdevs. No lab has the
//! hardware: the host is a fixture built from the kernel's ABI documents.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use vfioadm::discover;
use vfioadm::engine::journal::Journal;
use vfioadm::host::fake::FakeHost;
use vfioadm::host::{Claim, Host, HostPath};
use vfioadm::model::devlink::Devlink;
use vfioadm::model::{Bdf, DriverName};
use vfioadm::plan::queues::{self, Others, QueueError, QueueWish};
use vfioadm::plan::subfunctions::{self, SfError};
use vfioadm::plan::vgpus::{self, VgpuError};
use vfioadm::step::Plan;

use crate::create::{Cases, cut_after_each_line, done, fail_each_write, undo_each};
use crate::faults::act_on;
use crate::saved::{Saved, sequence};
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
    create_a_queue_that_blocks_on_faults: "create -v iax1 wq --set block-on-fault=on --set max-transfer-size=65536";
    create_a_queue_for_some_operations: "create -v iax1 wq --set op-config=8";
    create_a_queue_for_operations_that_the_device_has_not: "create iax1 wq --set op-config=1,00000000";
    create_a_queue_with_batches_where_there_are_none: "create iax1 wq --set max-batch-size=8";
    create_a_queue_with_more_than_the_device_has: "create iax1 wq --set max-transfer-size=4294967296";
    create_a_queue_of_a_pf: "create 42:00.0 wq";
    create_a_queue_for_a_driver_that_is_not_there: "create iax1 wq --set type=kernel --set driver-name=crypto";
    create_a_subfunction: "create -v 45:00.0 sf --set roce=off --set hw-addr=02:00:00:00:00:01";
    create_subfunctions_as_json: "create -o json enp69s0np0 sf --count 2 --set sfnum=100";
    create_a_subfunction_dry_run: "create --dry-run 45:00.0 sf";
    create_a_subfunction_of_what_makes_none: "create 42:00.0 sf";
    create_a_vgpu: "create -v 41:00.0 vgpu:1153";
    create_a_vgpu_as_json: "create -o json 41:00.0 vgpu:1153";
    create_a_vgpu_of_a_type_that_is_not_left: "create 41:00.0 vgpu:1157";
    destroy_a_subfunction: "destroy -v 45:00.0/sf88";
    destroy_a_subfunction_as_json: "destroy -o json enp69s0np0/sf88";
    destroy_a_subfunction_that_is_not_there: "destroy 45:00.0/sf89";
    bind_a_subfunction_is_refused: "bind 45:00.0/sf88";
    destroy_a_vgpu: "destroy -v 41:00.4";
    destroy_one_of_each: "destroy 45:00.0/sf88 41:00.4 wq0.1 c2177883-f1bb-47f0-914d-32a22e3a8804";
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
        ("create 45:00.0 sf --driver none", "VFIO cannot assign"),
        ("create 45:00.0 sf --set sfnum=x", "sfnum takes a number"),
        ("create 45:00.0 sf --set vlan=4", "there are sfnum (a number"),
        ("create 45:00.0 sf --count 2 --set hw-addr=02:00:00:00:00:01", "hw-addr=auto"),
        ("create 41:00.0 vgpu:1153 --driver best --no-fallback", "stays on NVIDIA's driver"),
        ("create 41:00.0 vgpu:1153 --set mac=auto", "a vGPU has no parameter mac"),
        ("create 41:00.0 vgpu:0", "vgpu:0 is no vGPU"),
        ("create 41:00.0 vgpu:x", "vgpu:x"),
        ("destroy 45:00.0/sfx", "45:00.0/sfx"),
        ("destroy eth7/sf1", "eth7"),
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

/// The plan of WQs by their numbers.
fn numbered(host: &FakeHost, device: &str, wanted: &[(u16, &[&str])]) -> Plan {
    let inventory = discover::inventory(host).unwrap();
    let mut of = queues::Numbered::of(inventory.idxd.iter().find(|of| of.name.as_str() == device).unwrap());
    let drivers = ["user", "dmaengine"].map(|name| name.parse().unwrap()).into();
    let (told, mut plan) = (queues::Told { drivers, ..queues::Told::default() }, Plan::default());
    for (index, set) in wanted {
        let set: Vec<_> = set.iter().map(|text| text.parse().unwrap()).collect();
        of.make(*index, &queues::parse(&set).unwrap(), &told, &mut plan).unwrap();
    }
    plan.bond_all();
    plan
}

fn without_queues(host: &FakeHost, names: &[&str]) -> Result<Plan, QueueError> {
    let names: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
    let mut plan = Plan::default();
    queues::unmake(&names, &discover::inventory(host).unwrap(), &mut plan)?;
    plan.bond_all();
    Ok(plan)
}

/// One of each is made, and taken back by name.
#[test]
fn one_of_each_is_undone() {
    let said = sequence(
        HOST,
        &[
            "create iax1 wq --count 2",
            "create 45:00.0 sf",
            "create 41:00.0 vgpu:1153",
            "undo create-1",
            "undo create-2",
            "undo create-3",
            "undo -o json create-3",
            "types iax1",
        ],
    );
    assert_snapshot!(said);
}

const PF: &str = "0000:45:00.0";

fn devlink(host: &FakeHost) -> BTreeMap<Bdf, Devlink> {
    let all = [PF, "0000:42:00.0"].map(|pf| pf.parse().unwrap());
    all.into_iter().filter_map(|pf| Some((pf, discover::devlink(host, pf).unwrap()?))).collect()
}

fn subfunctions_of(host: &FakeHost, (pf, count): (&str, u16), set: &[&str]) -> Result<Plan, SfError> {
    let set: Vec<_> = set.iter().map(|text| text.parse().unwrap()).collect();
    let wish = subfunctions::parse(&set, count)?;
    subfunctions::subfunctions(&[pf.parse().unwrap()], &wish, &devlink(host), "m")
}

fn without_subfunctions(host: &FakeHost, numbers: &[u32]) -> Result<Plan, SfError> {
    let all: Vec<(Bdf, u32)> = numbers.iter().map(|sfnum| (PF.parse().unwrap(), *sfnum)).collect();
    let mut plan = Plan::default();
    subfunctions::unmake(&all, &devlink(host), &mut plan)?;
    plan.bond_all();
    Ok(plan)
}

fn vgpus_of(host: &FakeHost, pf: &str, (id, count): (u32, u16)) -> Result<Plan, VgpuError> {
    let inventory = discover::inventory(host).unwrap();
    let known = discover::vgpus(host, &inventory, |_| true);
    vgpus::vgpus(&[pf.parse().unwrap()], (id, count), &inventory, &known)
}

fn without_vgpus(host: &FakeHost, vfs: &[&str]) -> Result<Plan, VgpuError> {
    let vfs: Vec<Bdf> = vfs.iter().map(|vf| vf.parse().unwrap()).collect();
    let inventory = discover::inventory(host).unwrap();
    let mut plan = Plan::default();
    vgpus::unmake(&vfs, &inventory, &discover::vgpus(host, &inventory, |_| true), &mut plan)?;
    plan.bond_all();
    Ok(plan)
}

fn cases_of_subfunctions_and_vgpus() -> Cases {
    let mut cases = BTreeMap::new();
    let host = self::host();
    let set = ["hw-addr=auto", "roce=off", "max-io-eqs=16"];
    cases.insert("create 4 subfunctions", (host.copied(), subfunctions_of(&host, (PF, 4), &set).unwrap()));
    let plan = subfunctions_of(&host, (PF, 1), &["sfnum=89", "state=inactive", "roce=off", "max-io-eqs=4"]).unwrap();
    cases.insert("create an inactive subfunction", (host.copied(), plan.clone()));
    done(&host, &plan);
    cases.insert("destroy 2 subfunctions", (host.copied(), without_subfunctions(&host, &[88, 89]).unwrap()));
    cases.insert("create 3 vGPUs", (host.copied(), vgpus_of(&host, "0000:41:00.0", (1153, 3)).unwrap()));
    done(&host, &vgpus_of(&host, "0000:41:00.0", (1153, 1)).unwrap());
    let both = without_vgpus(&host, &["0000:41:00.4", "0000:41:00.5"]).unwrap();
    cases.insert("destroy 2 vGPUs", (host.copied(), both));
    let known = devlink(&host);
    let wish = subfunctions::parse(&["roce=off", "hw-addr=auto"].map(|text| text.parse().unwrap()), 1).unwrap();
    let of = (PF.parse().unwrap(), 88);
    let differences = subfunctions::differences(of, &wish, &known, "m").unwrap().unwrap();
    let plan = Plan { lanes: vec![subfunctions::set(of, &differences, &known).0] };
    cases.insert("set a subfunction that is active", (host, plan));
    let host = self::host();
    let inventory = discover::inventory(&host).unwrap();
    let known = discover::vgpus(&host, &inventory, |_| true);
    let of = ("0000:41:00.0".parse().unwrap(), 0);
    let plan = Plan { lanes: vec![vgpus::one(of, 1151, &inventory, &known).unwrap().unwrap().0] };
    cases.insert("make a vGPU one of another type", (host, plan));
    cases
}

#[test]
fn a_failed_request_leaves_nothing_behind() {
    fail_each_write(cases_of_subfunctions_and_vgpus(), "subfunctions and vGPUs");
}

#[test]
fn cut_off_after_every_request_nothing_is_left_behind() {
    cut_after_each_line(cases_of_subfunctions_and_vgpus(), "subfunctions and vGPUs");
}

#[test]
fn subfunctions_and_vgpus_are_undone_when_they_are_named() {
    undo_each(cases_of_subfunctions_and_vgpus());
}

/// What sysfs shows of subfunctions: those that are active.
#[test]
fn a_subfunction_is_listed_while_it_is_active() {
    let saved = Saved::of(&host(), |_| ());
    let listed = || {
        let all = saved.vfioadm("-o json list --pf 45:00.0").json()["devices"].clone();
        let of_sf = |device: &&serde_json::Value| device["role"] == "sf";
        all.as_array().unwrap().iter().filter(of_sf).map(|device| device["address"].clone()).collect::<Vec<_>>()
    };
    let done = |line: &str| assert_eq!(saved.vfioadm(line).exit, 0, "{line}");
    assert_eq!(listed(), ["0000:45:00.0/sf88"]);
    done("create 45:00.0 sf --set sfnum=3");
    done("create 45:00.0 sf --set sfnum=5 --set state=inactive");
    assert_eq!(listed(), ["0000:45:00.0/sf3", "0000:45:00.0/sf88"]);
    done("destroy mlx5_core.sf.4");
    assert_eq!(listed(), ["0000:45:00.0/sf3"]);
    done("undo destroy-3");
    assert_eq!(listed(), ["0000:45:00.0/sf3", "0000:45:00.0/sf88"]);
}

#[test]
fn no_vf_is_taken_from_the_driver_that_makes_it_a_vgpu() {
    let host = host();
    let plan = vgpus_of(&host, "0000:41:00.0", (1153, 3)).unwrap();
    let before = host.writes().len();
    done(&host, &plan);
    let files: Vec<String> = host.writes()[before..].iter().map(|written| written.path.to_string()).collect();
    assert!(files.len() == 3 && files.iter().all(|path| path.ends_with("/nvidia/current_vgpu_type")), "{files:?}");
}

#[test]
fn what_no_subfunction_or_vgpu_can_be_is_refused_with_why() {
    let host = host();
    for (pf, count, set, said) in [
        ("0000:42:00.0", 1, &[][..], "devlink does not know 0000:42:00.0: its driver makes no subfunctions"),
        (PF, 1, &["sfnum=88"], "0000:45:00.0 has a subfunction 88 already"),
        (PF, 2, &["sfnum=87"], "0000:45:00.0 has a subfunction 88 already"),
        (
            PF,
            2,
            &["hw-addr=02:00:00:00:00:01"],
            "hw-addr=02:00:00:00:00:01 is one address, and several subfunctions are asked for",
        ),
        (
            PF,
            1,
            &["hw-addr=01:00:00:00:00:01"],
            "hw-addr=01:00:00:00:00:01: hw-addr takes a unicast MAC address, or auto; by devlink",
        ),
        (PF, 1, &["sfnum=4294967295"], "sfnum=4294967295: sfnum takes a number; those of more than one count up"),
        (PF, 1, &["migratable=on"], "there is no parameter migratable"),
        (PF, 1, &["roce=on", "roce=off"], "parameter roce is given twice"),
    ] {
        assert_eq!(subfunctions_of(&host, (pf, count), set).unwrap_err().to_string(), said);
    }
    assert_eq!(without_subfunctions(&host, &[89]).unwrap_err().to_string(), "0000:45:00.0 has no subfunction 89");
    let said = vgpus_of(&host, "0000:41:00.0", (1153, 4)).unwrap_err().to_string();
    assert_eq!(said, "0000:41:00.0 has 3 VFs that can be vGPU type 1153 now, not 4");
    let said = vgpus_of(&host, "0000:42:00.0", (1153, 1)).unwrap_err().to_string();
    assert_eq!(said, "0000:42:00.0 has no VF that NVIDIA's driver makes vGPUs of");
    let said = without_vgpus(&host, &["0000:41:00.5"]).unwrap_err().to_string();
    assert_eq!(said, "0000:41:00.5 is no vGPU: there is nothing to destroy");
    host.edit(|tree| tree.put_text("/kernel/links/pci/0000:45:00.0/eswitch", "legacy"));
    let said = subfunctions_of(&host, (PF, 1), &[]).unwrap_err().to_string();
    assert_eq!(said, "the eswitch of 0000:45:00.0 is not in mode switchdev, and there are subfunctions in no other");
}

fn cases() -> Cases {
    let mut cases = BTreeMap::new();
    let host = self::host();
    let plan = queues(
        &host,
        ("iax1", 2),
        &["mode=shared", "size=32", "threshold=28", "group=1", "block-on-fault=on", "op-config=c"],
    )
    .unwrap();
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
    host.edit(|tree| {
        let dir = "/sys/bus/pci/devices/0000:e7:01.0/dsa0/wq0.1";
        let set =
            [("block_on_fault", "1"), ("max_transfer_size", "4096"), ("max_batch_size", "8"), ("enqcmds_retries", "7")];
        set.into_iter().for_each(|(attribute, value)| tree.put_text(&format!("{dir}/{attribute}"), value));
    });
    let plan = without_queues(&host, &["wq0.1", "wq0.2"]).unwrap();
    cases.insert("destroy WQs that somebody else has made", (host, plan));
    let host = self::host();
    let plan = numbered(&host, "iax1", &[(0, &["size=32"]), (3, &["group=1", "mode=shared"]), (1, &["group=1"])]);
    cases.insert("make 3 WQs of a disabled device by their numbers", (host.copied(), plan));
    done(&host, &without_queues(&host, &["wq0.1"]).unwrap());
    let plan = numbered(&host, "dsa0", &[(1, &["name=mine", "group=2"])]);
    cases.insert("make a WQ of an enabled device by its number", (host, plan));
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
fn a_device_is_not_disabled_under_a_queue_that_somebody_has_enabled_since() {
    let host = host();
    let dir = "/sys/bus/pci/devices/0000:e7:02.0/iax1/wq1.1";
    host.edit(|tree| tree.put_text(&format!("{dir}/size"), 8));
    done(&host, &queues_with(&host, ("iax1", 1), &[], Others::Accepted).unwrap());
    let plan = without_queues(&host, &["wq1.0"]).unwrap();
    {
        let lock = host.lock(&Claim::new("a test", &host)).unwrap();
        let bus = HostPath::dsa("wq1.1".parse().unwrap());
        for (attribute, value) in
            [("group_id", "0"), ("type", "user"), ("mode", "dedicated"), ("name", "theirs"), ("driver_name", "user")]
        {
            lock.hand().write(&bus.attr(attribute), value).unwrap();
        }
        let user = HostPath::dsa_drivers().child(&"user".parse::<DriverName>().unwrap());
        lock.hand().write(&user.attr("bind"), "wq1.1").unwrap();
    }
    let before = host.snapshot();
    let report = act_on(&host, &plan, &Journal::none(), 1);
    let said = report.lanes.iter().find(|lane| lane.device.to_string() == "iax1").unwrap().error.clone().unwrap();
    assert_eq!(said.to_string(), "iax1 is left as it is: wq1.1 is enabled, and would be disabled with it");
    assert_eq!(host.snapshot(), before);
}

#[test]
fn an_idxd_device_that_an_operation_left_halfway_is_that_operations() {
    let saved = Saved::of(&host(), |_| ());
    let start = saved.snapshot();
    assert_eq!(saved.vfioadm("create iax1 wq --count 2").exit, 0);
    saved.kill("create-1");
    let before = saved.text();
    for line in [
        "create iax1 wq",
        "create --dry-run e7:02.0 wq",
        "create iax1 dsa0 wq --yes",
        "destroy wq1.0",
        "destroy wq0.1 wq1.1",
    ] {
        let said = saved.vfioadm(&format!("-o json {line}"));
        assert_eq!((said.exit, &said.json()["error"]["id"]), (1, &"unfinished-operation".into()), "{line}: {said}");
        assert!(said.err.contains("vfioadm undo create-1"), "{line}: {said}");
    }
    assert_eq!(saved.text(), before, "something was done");
    assert_eq!(saved.vfioadm("destroy --dry-run wq0.1").exit, 0, "another device is nobody's");
    assert_eq!(saved.vfioadm("undo").exit, 0);
    assert_eq!(saved.snapshot(), start);
    assert_eq!(saved.vfioadm("create iax1 wq").exit, 0);
}

#[test]
fn a_queue_that_somebody_has_opened_since_and_its_device_stay() {
    let host = host();
    let plan = without_queues(&host, &["wq0.1", "wq0.2"]).unwrap();
    let before = host.snapshot();
    host.edit(|tree| tree.put_text("/sys/bus/pci/devices/0000:e7:01.0/dsa0/wq0.2/clients", 3));
    let report = act_on(&host, &plan, &Journal::none(), 1);
    let said = report.lanes.iter().find(|lane| lane.device.to_string() == "wq0.2").unwrap().error.clone().unwrap();
    assert_eq!(said.to_string(), "wq0.2 is left as it is: whoever submits to it has it open, clients 3");
    assert_eq!(host.snapshot(), before, "the other is its driver's again");
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
        ("iax1", 1, &["enqcmds-retries=9"], "enqcmds-retries goes with mode=shared"),
        (
            "iax1",
            1,
            &["max-transfer-size=4097"],
            "max-transfer-size=4097: max-transfer-size takes bytes, a power of two",
        ),
        ("iax1", 1, &["block-on-fault=1"], "block-on-fault=1: block-on-fault takes on or off"),
        (
            "iax1",
            1,
            &["op-config=0x1"],
            "op-config=0x1: op-config takes a bitmap of operations in hexadecimal, within op_cap of the device",
        ),
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
