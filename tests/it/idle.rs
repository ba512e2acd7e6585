//! Devices without a driver whose host driver comes with the module of a variant: it never looks at them.

use std::collections::BTreeSet;

use vfioadm::discover;
use vfioadm::discover::tables::{Kernel, Query, read_tables};
use vfioadm::engine::journal::Journal;
use vfioadm::host::fake::build::{Build, Device};
use vfioadm::host::fake::{FakeHost, Fault};
use vfioadm::model::{Bdf, Errno};
use vfioadm::plan::{BindWish, Fallback, Wanted, bind};
use vfioadm::step::{Plan, WhenOpen};

use crate::faults::act_on;

/// In the table of mlx5_vfio_pci, whose module needs mlx5_core.
const VARIANT: &str = "0000:05:00.0";
/// In that of mlx5_core alone.
const PLAIN: &str = "0000:06:00.0";

/// Both, before mlx5_core is loaded.
fn host() -> FakeHost {
    let device = |bdf: &str, id, group| Device::new(bdf.parse().unwrap(), 0x15b3, id).group(group);
    let alias = |id: &str| format!("pci:v000015B3d0000{id}sv*sd*bc*sc*i*").parse().unwrap();
    Build::new()
        .device(&device(VARIANT, 0x101e, 1))
        .device(&device(PLAIN, 0x1018, 2))
        .alias(&alias("101E"), "mlx5_core")
        .alias(&alias("1018"), "mlx5_core")
        .host()
}

fn plan(host: &FakeHost, devices: &[&str], fallback: Fallback) -> Plan {
    let inventory = discover::inventory(host).unwrap();
    let aliases: Vec<_> = inventory.functions.values().map(|function| function.alias).collect();
    let query = Query { devices: &aliases, drivers: &[], kernel: Kernel::Running };
    let (tables, _) = read_tables(host, &query);
    let devices = devices.iter().map(|bdf| bdf.parse().unwrap()).collect();
    let wish = BindWish { devices, wanted: Wanted::Best, fallback, prefer: Vec::new(), open: WhenOpen::Refuse };
    bind(&wish, &inventory, &tables).unwrap()
}

/// Driver and override of a device.
fn state(host: &FakeHost, bdf: &str) -> (Option<String>, Option<String>) {
    let inventory = discover::inventory(host).unwrap();
    let function = &inventory.functions[&bdf.parse::<Bdf>().unwrap()];
    (function.driver.as_ref().map(ToString::to_string), function.driver_override.clone())
}

#[test]
fn the_host_driver_that_a_variant_brings_along_takes_nobody() {
    for seed in 0..50 {
        let host = host();
        let plan = plan(&host, &[VARIANT, PLAIN], Fallback::NextBest);
        let lanes = act_on(&host, &plan, &Journal::none(), seed).lanes;
        assert!(lanes.iter().all(|lane| lane.error.is_none()), "{lanes:?}");
        let both = [VARIANT, PLAIN].map(|bdf| state(&host, bdf).0);
        assert_eq!(both, [Some("mlx5_vfio_pci".to_owned()), Some("vfio-pci".to_owned())]);
        let paths: BTreeSet<String> = host.writes().iter().map(|write| write.path.to_string()).collect();
        assert!(!paths.iter().any(|path| path.contains("mlx5_core/")), "it had to be taken away: {paths:?}");
    }
}

#[test]
fn a_device_that_no_driver_of_vfio_takes_goes_to_the_host_driver_that_has_come() {
    let host = host();
    host.fail(Fault::at("mlx5_vfio_pci/bind", Errno::EINVAL));
    let lanes = act_on(&host, &plan(&host, &[VARIANT], Fallback::Never), &Journal::none(), 1).lanes;
    assert!(lanes[0].error.is_some(), "{lanes:?}");
    assert_eq!(state(&host, VARIANT), (Some("mlx5_core".to_owned()), None));
    assert_eq!(state(&host, PLAIN), (Some("mlx5_core".to_owned()), None), "nobody has kept it away from this one");
}

#[test]
fn when_all_fall_together_nothing_is_kept_away_any_more() {
    let host = host();
    let mut plan = plan(&host, &[VARIANT, PLAIN], Fallback::Never);
    plan.bond_all();
    host.fail(Fault::at("mlx5_vfio_pci/bind", Errno::EINVAL));
    let lanes = act_on(&host, &plan, &Journal::none(), 3).lanes;
    assert!(lanes.iter().all(|lane| lane.error.is_some()), "{lanes:?}");
    for bdf in [VARIANT, PLAIN] {
        assert_eq!(state(&host, bdf), (Some("mlx5_core".to_owned()), None), "{bdf}");
    }
}
