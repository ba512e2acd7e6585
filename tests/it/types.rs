//! What can be made, on a host that has one of each: `tests/hosts/types.host`.

use insta::assert_snapshot;

use crate::vfioadm;

const HOST: &str = "--host tests/hosts/types.host";

macro_rules! said {
    ($($name:ident: $line:expr;)*) => {
        $(#[test] fn $name() { assert_snapshot!(vfioadm(&format!("{HOST} {}", $line))); })*
    };
}

said! {
    everything: "types";
    of_a_gpu_as_json: "types -o json 41:00.0";
    of_an_idxd_device_as_json: "types -o json dsa0";
    of_an_mdev_parent: "types mtty";
    of_a_pf_in_switchdev_mode: "types 45:00.0";
    of_a_pf_in_switchdev_mode_as_json: "types -o json enp69s0np0";
    of_an_idxd_device_by_its_function: "types e7:02.0";
    of_what_makes_nothing: "types 0000:00:00.0";
    of_nothing: "types nothing0";
    of_nothing_as_json: "types -o json wq0.1";
    list: "list";
    list_work_queues_by_driver: "list --driver user";
    list_a_slot_as_json: "list -o json wq0.5";
    show_a_work_queue: "show wq0.1";
    show_a_work_queue_as_json: "show -o json wq0.1";
    show_a_subfunction: "show 45:00.0/sf88";
    show_a_subfunction_by_its_auxiliary_device_as_json: "show -o json mlx5_core.sf.4";
    show_a_subfunction_that_is_not_there: "show 45:00.0/sf89";
    list_subfunctions_of_a_pf: "list --pf 45:00.0";
    list_a_subfunction_as_json: "list -o json enp69s0np0/sf88";
    list_a_subfunction_that_is_not_there: "list 45:00.0/sf89";
    check_a_subfunction: "check 45:00.0/sf88";
    show_an_mdev: "show C2177883-F1BB-47F0-914D-32A22E3A8804";
    show_a_vf_that_is_a_vgpu: "show 41:00.4";
    show_a_vf_that_can_be_a_vgpu: "show 41:00.5";
    check_work_queues: "check wq0.0 wq0.5";
    bind_a_vf_for_vgpus_is_refused: "bind 41:00.5";
    check_an_mdev: "check c2177883-f1bb-47f0-914d-32a22e3a8804";
    check_a_work_queue_that_is_not_there: "check wq7.0";
}

#[test]
fn the_demo_host_says_what_can_be_made() {
    assert_snapshot!(vfioadm("--host demo types"));
}

#[test]
fn a_recording_of_it_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("again.host");
    let recorded = vfioadm(&format!("{HOST} record {}", file.display()));
    assert_eq!(recorded.exit, 0, "{recorded}");
    #[expect(clippy::disallowed_methods, reason = "a test reads what it had written")]
    let text = std::fs::read_to_string(&file).unwrap();
    for line in
        ["/dev/dsa/wq0.0 ~", "/sys/bus/dsa/drivers/user/bind ~", "creatable_vgpu_types | 1153  : NVIDIA L40S-8Q"]
    {
        assert!(text.contains(line), "{line}");
    }
    for verb in ["types", "types -o json", "list", "show wq0.0", "show 45:00.0/sf88"] {
        let again = vfioadm(&format!("--host {} {verb}", file.display()));
        assert_eq!(again.to_string(), vfioadm(&format!("{HOST} {verb}")).to_string(), "{verb}");
    }
}
