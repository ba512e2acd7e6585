//! What vfioadm says on recorded hosts: standard output, standard error and exit status together.

use insta::assert_snapshot;

use crate::create::bare;
use crate::saved::{Saved, sequence};
use crate::vfioadm;

macro_rules! said {
    ($($(#[$doc:meta])* $name:ident: $line:expr;)*) => {
        $($(#[$doc])* #[test] fn $name() { assert_snapshot!(vfioadm($line)); })*
    };
}

said! {
    list: "--host demo list";
    list_of_one_pf: "--host demo list --pf 0000:3b:00.0";
    list_by_class_and_driver: "--host demo list --class 0108 --driver nvme";
    list_as_json: "--host demo list -o json 0000:3b:00.2 0000:81:00.0 c2177883-f1bb-47f0-914d-32a22e3a8804";
    list_of_what_has_no_driver: "--host demo list --driver none --device 10ca";
    show_a_pf: "--host demo show 0000:3b:00.0";
    show_a_vf_by_pf_and_index: "--host demo show 0000:3b:00.0/vf2";
    show_storage_in_use: "--host demo show 65:00.0";
    show_an_mdev: "--host demo show C2177883-F1BB-47F0-914D-32A22E3A8804";
    show_as_json: "--host demo -o json show pci_0000_81_00_0";
    match_a_vf_whose_pf_driver_is_there: "--host demo match 0000:3b:00.2";
    match_a_vf_whose_pf_driver_is_absent: "--host demo match 0000:6b:00.1";
    match_what_only_vfio_pci_takes: "--host demo match 0000:c1:00.0";
    match_a_modalias: "--host demo match --modalias pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00";
    match_as_json: "--host demo -o json match 0000:3b:00.2";
    check_what_is_free: "--host demo check 0000:3b:00.2";
    check_storage_in_use: "--host demo check 0000:65:00.0";
    check_the_management_nic: "--host demo check 0000:01:00.0";
    check_the_boot_vga: "--host demo check 0000:03:00.0";
    check_a_chipset_function: "--host demo check 0000:00:1f.2";
    check_a_bridge: "--host demo check 0000:84:00.0";
    check_a_pf_with_vfs: "--host demo check 0000:3b:00.0";
    check_one_of_a_group: "--host demo check 0000:85:01.0";
    check_a_whole_group: "--host demo check 0000:85:01.0 --with-group";
    check_a_driver_that_does_not_match: "--host demo check 0000:81:10.4 --driver mlx5_vfio_pci";
    check_everything_as_json: "--host demo -o json check";
    bind: "--host demo bind 0000:3b:00.2";
    bind_verbosely: "--host demo bind -v 0000:3b:00.2";
    bind_as_json: "--host demo bind -o json 0000:3b:00.2";
    bind_falls_back: "--host demo bind 0000:6b:00.1";
    bind_does_not_fall_back: "--host demo bind --no-fallback 0000:6b:00.1";
    bind_does_not_fall_back_as_json: "--host demo -o json bind --no-fallback 0000:6b:00.1";
    bind_degrades: "--host demo bind 0000:89:00.0 --allow netdev-up";
    bind_one_of_a_group_is_refused: "--host demo bind 0000:85:01.0";
    bind_a_group: "--host demo bind --with-group 0000:85:01.0";
    bind_many: "--host demo bind 81:10.*";
    bind_a_named_driver: "--host demo bind --driver vfio-pci 0000:3b:00.2";
    bind_a_driver_that_does_not_match_is_refused: "--host demo bind --driver mlx5_vfio_pci 0000:81:10.4";
    bind_a_driver_that_does_not_match_is_refused_as_json: "--host demo -o json bind --driver mlx5_vfio_pci 0000:81:10.4";
    bind_an_unknown_driver: "--host demo bind --driver vfio_pci 0000:81:10.4";
    bind_storage_in_use_is_refused: "--host demo bind 0000:65:00.0";
    bind_the_chipset_is_refused: "--host demo bind 0000:00:1f.2";
    bind_an_mdev_is_refused: "--host demo bind c2177883-f1bb-47f0-914d-32a22e3a8804";
    bind_a_work_queue_is_refused: "--host tests/hosts/types.host bind wq0.1";
    bind_a_work_queue_that_is_not_there: "--host demo bind wq0.1";
    bind_to_no_driver: "--host demo bind -v --driver none 0000:81:10.0";
    bind_dry_run: "--host demo bind --dry-run 0000:3b:00.2";
    bind_dry_run_shows_the_fallback: "--host demo bind --dry-run 0000:6b:00.1";
    create_vfs: "--host demo create 0000:81:00.0 vf --count 2 --set mac=auto --set vlan=100 --set trust=on";
    create_vfs_verbosely: "--host demo -v create 0000:81:00.0 vf --count 2 --set mac=auto --set vlan=100";
    create_vfs_dry_run: "--host demo create --dry-run 0000:81:00.0 vf --count 2 --set mac=auto --set vlan=100";
    create_vfs_as_json: "--host demo -o json create 0000:81:00.0 vf --set mac=auto --set vlan=100 --set qos=3";
    create_vfs_in_the_place_of_others: "--host demo create -v 0000:81:00.0 vf --count 5 --yes --allow netdev-up";
    create_vfs_in_the_place_of_others_dry_run: "--host demo create --dry-run 0000:81:00.0 vf --count 5 --set mac=auto --yes";
    create_vfs_for_their_host_driver: "--host demo create 0000:81:00.0 vf --driver host";
    create_a_parameter_that_the_driver_refuses: "--host demo create 0000:81:00.0 vf --set link-state=enable";
    create_a_parameter_that_the_driver_refuses_as_json: "--host demo -o json create 0000:81:00.0 vf --set link-state=enable";
    create_a_parameter_that_the_kernel_has_not: "--host demo create 0000:81:00.0 vf --set msix=4";
    create_an_mdev: "--host demo create mtty mtty-2 --uuid 83B8F4F2-509F-382F-3C1E-E6BFE0FA1001";
    create_an_mdev_verbosely: "--host demo -v create mtty mtty-2 --uuid 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    create_an_mdev_dry_run: "--host demo create --dry-run mtty mtty-2 --uuid 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    create_an_mdev_as_json: "--host demo -o json create mtty mtty-2 --uuid 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    destroy_an_mdev: "--host demo destroy c2177883-f1bb-47f0-914d-32a22e3a8804";
    destroy_an_mdev_verbosely: "--host demo destroy -v c2177883-f1bb-47f0-914d-32a22e3a8804";
    destroy_an_mdev_dry_run: "--host demo destroy --dry-run c2177883-f1bb-47f0-914d-32a22e3a8804";
    destroy_an_mdev_as_json: "--host demo -o json destroy c2177883-f1bb-47f0-914d-32a22e3a8804";
    destroy_what_create_has_not_made: "--host demo destroy 0000:81:10.0";
    destroy_what_create_has_not_made_as_json: "--host demo -o json destroy 0000:81:00.0";
    help_create: "create --help";
    help_destroy: "destroy --help";
    check_without_an_iommu: "--host tests/hosts/no_iommu.host check";
    bind_without_an_iommu: "--host tests/hosts/no_iommu.host bind 0000:00:1f.6";
    bind_falls_back_verbosely: "--host demo bind -v 0000:6b:00.1";
    bind_two_of_which_one_fails: "--host demo bind --no-fallback 0000:3b:00.2 0000:6b:00.1";
    bind_dry_run_as_json: "--host demo -o json bind --dry-run 0000:6b:00.1";
    unbind_dry_run: "--host demo unbind --dry-run 0000:6b:00.1";
    unbind_what_is_on_its_host_driver: "--host demo unbind 0000:3b:00.2";
    unbind_what_has_no_driver: "--host demo unbind -v 0000:81:10.4";
    a_laptop: "--host tests/hosts/small.host check";
    an_unknown_device: "--host demo bind 0000:ff:00.0";
    an_unknown_netdev: "--host demo bind eth99";
    help: "--help";
    help_bind: "bind --help";
}

/// VFs are given out of a pool and come back; each command sees what the one before left.
#[test]
fn a_pool_on_a_saved_host() {
    let saved = Saved::of(&bare(), |_| ());
    let before = saved.snapshot();
    let said = saved.say(&[
        "create 0000:81:00.0 vf --pool 3 --set vlan=100",
        "create -v 0000:81:00.0 vf --count 2",
        "destroy --dry-run 0000:81:00.0/vf0",
        "destroy -v 0000:81:00.0/vf0",
        "-o json destroy 0000:81:00.0/vf1",
        "destroy --dry-run 0000:81:00.0/vf2",
        "destroy -v 0000:81:00.0/vf2",
        "log",
        "undo destroy-5",
        "undo create-1",
        "destroy 0000:81:00.0/vf2",
    ]);
    assert_snapshot!(said);
    assert_eq!(saved.snapshot(), before);
}

/// A device goes to VFIO and comes back; each command sees what the one before left.
#[test]
fn a_sequence_on_a_saved_host() {
    let said = sequence(
        "--host demo",
        &[
            "bind 0000:3b:00.2",
            "bind 0000:3b:00.2",
            "show 0000:3b:00.2",
            "list --driver mlx5_vfio_pci",
            "check 0000:3b:00.2",
            "unbind -v 0000:3b:00.2",
            "unbind 0000:3b:00.2",
            "list 0000:3b:00.2",
        ],
    );
    assert_snapshot!(said);
}
