//! An open device: what it says of itself, the same by whatever way it was opened.

use std::time::Duration;

use uuid::Uuid;
use vfioadm::host::device::{
    Access, Device, DeviceFlags, Feature, Iommu, Owner, PCI_CONFIG, PCI_NUM_REGIONS, PCI_REQ, PCI_VGA, RegionFlags, Way,
};
use vfioadm::host::opening::{Manner, OpenError, open_device, ways};
use vfioadm::host::{HostError, HostPath};
use vfioadm::model::{Address, Bdf, Errno};

use crate::Case;
use crate::ground::{Ground, Role, expect, said};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "device: by cdev and by group it has the same info, regions and interrupts",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_ioctl_get_info(), _get_region_info(), _get_irq_info()",
        run: |ground| {
            let edu = on_vfio(ground, Role::Edu)?;
            let by: Vec<String> = each_way(ground, edu, described)?;
            expect("ways", by.len(), 2)?;
            expect("by group", &by[1], &by[0])
        },
    },
    Case {
        name: "device: config space is region 7, and begins with the ids",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_rw(); vfio_pci_config.c vfio_pci_config_rw()",
        run: |ground| {
            let edu = on_vfio(ground, Role::Edu)?;
            each_way(ground, edu, |device| {
                let config = device.region(PCI_CONFIG).map_err(said)?;
                expect("flags", config.flags, RegionFlags::READ | RegionFlags::WRITE)?;
                let mut ids = [0; 4];
                expect("bytes", device.read_at(&config, 0, &mut ids).map_err(said)?, 4)?;
                expect("ids", ids, [0x34, 0x12, 0xe8, 0x11])?;
                expect("beyond", errno(device.read_at(&config, config.size, &mut ids)), Err(Errno::EINVAL))
            })
            .map(drop)
        },
    },
    Case {
        name: "device: no VGA, no region of its own kind and no sixth interrupt are EINVAL",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_ioctl_get_region_info(), vfio_pci_ioctl_get_irq_info()",
        run: |ground| {
            let edu = on_vfio(ground, Role::Edu)?;
            each_way(ground, edu, |device| {
                expect("VGA", errno(device.region(PCI_VGA)), Err(Errno::EINVAL))?;
                expect("the tenth", errno(device.region(PCI_NUM_REGIONS)), Err(Errno::EINVAL))?;
                expect("the sixth", errno(device.irq(PCI_REQ + 1)), Err(Errno::EINVAL))
            })
            .map(drop)
        },
    },
    Case {
        name: "device: without a way to reset it alone, RESET is missing and EINVAL; a VF of igb resets",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_enable(): reset_works; vfio_pci_ioctl_reset()",
        run: resets,
    },
    Case {
        name: "device: a hot reset of what is on the root bus is ENODEV; behind a bridge it hits the neighbour too",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_ioctl_get_pci_hot_reset_info(), vfio_pci_fill_devs()",
        run: hot_resets,
    },
    Case {
        name: "device: a cdev tells of its IOMMU by the iommufd, a group by its container",
        rule: "drivers/iommu/iommufd/device.c iommufd_get_hw_info(); drivers/vfio/vfio_iommu_type1.c",
        run: |ground| {
            let edu = on_vfio(ground, Role::Edu)?;
            each_way(ground, edu, |device| match (device.way(), device.iommu().map_err(said)?) {
                (Way::Cdev(_), Iommu::Iommufd(_)) => Ok(()),
                (Way::Group(..), Iommu::Type1(info)) => expect("4 KiB pages", info.page_sizes & 0x1000, 0x1000),
                (way, iommu) => Err(format!("{way}: {iommu:?}")),
            })
            .map(drop)
        },
    },
    Case {
        name: "feature: what vfio-pci offers for edu, by probe, and what it refuses otherwise",
        rule: "drivers/vfio/vfio_main.c vfio_ioctl_device_feature(); vfio_pci_core.c vfio_pci_core_ioctl_feature()",
        run: |ground| {
            let edu = on_vfio(ground, Role::Edu)?;
            each_way(ground, edu, features).map(drop)
        },
    },
    Case {
        name: "feature: low power is entered once, and left as often as one likes",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_runtime_pm_entry(), vfio_pci_core_pm_exit()",
        run: |ground| {
            let edu = on_vfio(ground, Role::Edu)?;
            each_way(ground, edu, |device| {
                let set = |feature| errno(device.ask(feature, Access::SET));
                expect("entry", set(Feature::LOW_POWER_ENTRY), Ok(()))?;
                expect("another", set(Feature::LOW_POWER_ENTRY), Err(Errno::EINVAL))?;
                expect("exit", set(Feature::LOW_POWER_EXIT), Ok(()))?;
                expect("another", set(Feature::LOW_POWER_EXIT), Ok(()))
            })
            .map(drop)
        },
    },
    Case {
        name: "token: a VF whose PF is on vfio-pci opens with the PF's token, and with no other",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_match_token_uuid() (7.2), vfio_pci_core_feature_token()",
        run: tokens,
    },
    Case {
        name: "device: on its host driver it is no VFIO device; open by another way, it is EBUSY",
        rule: "drivers/vfio/device_cdev.c vfio_df_ioctl_bind_iommufd(); group.c vfio_device_block_group()",
        run: |ground| {
            let e1000 = ground.device(Role::E1000)?;
            expect("on e1000", opened(ground, e1000, &Manner::default()).map(drop), Err(OpenError::NoVfioDevice))?;
            let edu = on_vfio(ground, Role::Edu)?;
            let [cdev, group] = &ways_of(ground, edu)?[..] else { return Err("edu has not two ways".to_owned()) };
            let _held = ground.host().open_device(group, None).map_err(said)?;
            expect("the cdev", errno(ground.host().open_device(cdev, None).map(drop)), Err(Errno::EBUSY))
        },
    },
];

fn on_vfio(ground: &Ground<'_>, role: Role) -> Result<Bdf, String> {
    let device = ground.device(role)?;
    ground.give_to_vfio(device)?;
    Ok(device)
}

fn errno<T>(answer: Result<T, HostError>) -> Result<T, Errno> {
    answer.map_err(|error| error.errno)
}

fn ways_of(ground: &Ground<'_>, bdf: Bdf) -> Result<Vec<Way>, String> {
    ways(ground.host(), &HostPath::pci(bdf), &Address::from(bdf)).map_err(said)
}

fn opened(ground: &Ground<'_>, bdf: Bdf, manner: &Manner) -> Result<Box<dyn Device>, OpenError> {
    open_device(ground.host(), &HostPath::pci(bdf), &Address::from(bdf), manner)
}

/// Shows something on a function opened by each of its ways.
fn each_way<T>(
    ground: &Ground<'_>,
    bdf: Bdf,
    show: impl Fn(&dyn Device) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    opened_each_way(ground, &(HostPath::pci(bdf), Address::from(bdf)), show)
}

/// Shows something on a device, which is at that directory and has that address, opened by each of its ways, one after the
/// other: first its cdev, then its group.
pub(crate) fn opened_each_way<T>(
    ground: &Ground<'_>,
    (directory, address): &(HostPath, Address),
    show: impl Fn(&dyn Device) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let ways = ways(ground.host(), directory, address).map_err(said)?;
    let kinds: Vec<bool> = ways.iter().map(|way| matches!(way, Way::Cdev(_))).collect();
    expect("by cdev, then by group", kinds, vec![true, false])?;
    let shown = ways.iter().map(|way| {
        // The nodes are made by devtmpfs a moment later.
        ground.until("the node is there", || {
            Ok(errno(ground.host().open_device(way, None)).map(drop) != Err(Errno::ENOENT))
        })?;
        let device = ground.host().open_device(way, None).map_err(said)?;
        show(&*device).map_err(|reason| format!("{way}: {reason}"))
    });
    shown.collect()
}

/// All that a device says of itself that has nothing to do with how it was opened.
fn described(device: &dyn Device) -> Result<String, String> {
    let info = device.info().map_err(said)?;
    expect("PCI", info.flags.contains(DeviceFlags::PCI), true)?;
    expect("regions, irqs", (info.num_regions, info.num_irqs), (PCI_NUM_REGIONS, PCI_REQ + 1))?;
    let regions: Vec<_> = (0..info.num_regions).map(|index| errno(device.region(index))).collect();
    let irqs: Vec<_> = (0..info.num_irqs).map(|index| errno(device.irq(index))).collect();
    Ok(format!("{info:?} {regions:?} {irqs:?}"))
}

fn resets(ground: &Ground<'_>) -> Result<(), String> {
    let edu = on_vfio(ground, Role::Edu)?;
    each_way(ground, edu, |device| {
        expect("RESET", device.info().map_err(said)?.flags.contains(DeviceFlags::RESET), false)?;
        expect("reset", errno(device.reset()), Err(Errno::EINVAL))
    })?;
    let pf = ground.device(Role::Igb)?;
    ground.put(pf, "sriov_drivers_autoprobe", "0")?;
    ground.put(pf, "sriov_numvfs", "1")?;
    let vf = *ground.vfs(pf)?.first().ok_or("no VF")?;
    ground.give_to_vfio(vf)?;
    each_way(ground, vf, |device| {
        expect("RESET", device.info().map_err(said)?.flags.contains(DeviceFlags::RESET), true)?;
        expect("reset", errno(device.reset()), Ok(()))?;
        expect("a VF has no line", device.irq(0).map_err(said)?.count, 0)?;
        expect("migration", errno(device.migration()), Err(Errno::ENOTTY))
    })
    .map(drop)
}

fn hot_resets(ground: &Ground<'_>) -> Result<(), String> {
    let edu = on_vfio(ground, Role::Edu)?;
    each_way(ground, edu, |device| {
        expect("info", errno(device.hot_reset_info()).map(drop), Err(Errno::ENODEV))?;
        expect("hot reset", errno(device.hot_reset()), Err(Errno::ENODEV))
    })?;
    let (first, second) = (on_vfio(ground, Role::E1000)?, on_vfio(ground, Role::OtherE1000)?);
    let group = ground.group(first)?;
    each_way(ground, first, |device| {
        let info = device.hot_reset_info().map_err(said)?;
        let place = |bdf: Bdf| (bdf.bus(), bdf.device() << 3 | bdf.function());
        let hit: Vec<_> = info.devices.iter().map(|one| (one.bus, one.devfn)).collect();
        expect("hit", hit, vec![place(first), place(second)])?;
        let owners: Vec<Owner> = info.devices.iter().map(|one| one.owner).collect();
        match (device.way(), &owners[..]) {
            (Way::Cdev(_), [Owner::Bound(_), Owner::InOwnGroup]) => expect("owned", info.owned, Some(true))?,
            (Way::Group(..), [Owner::Group(own), Owner::Group(other)]) => {
                expect("groups", (*own, *other, info.owned), (group.0, group.0, None))?;
            }
            (_, owners) => return Err(format!("owners {owners:?}")),
        }
        expect("hot reset", errno(device.hot_reset()), Ok(()))
    })
    .map(drop)
}

fn features(device: &dyn Device) -> Result<(), String> {
    let probe = |feature, access| errno(device.ask(feature, access | Access::PROBE));
    let absent = Err(Errno::ENOTTY);
    for feature in Feature::ALL {
        let name = feature.name().unwrap_or_default();
        let answer = probe(*feature, Access::empty());
        match *feature {
            Feature::LOW_POWER_ENTRY | Feature::LOW_POWER_ENTRY_WITH_WAKEUP | Feature::LOW_POWER_EXIT => {
                expect(name, answer, Ok(()))?;
                expect(name, probe(*feature, Access::SET), Ok(()))?;
                expect(name, probe(*feature, Access::GET), Err(Errno::EINVAL))?;
                expect(name, errno(device.ask(*feature, Access::GET)), Err(Errno::EINVAL))?;
                expect(name, errno(device.ask(*feature, Access::empty())), Err(Errno::EINVAL))?;
            }
            // With CONFIG_PCI_P2PDMA, which is younger than 6.12 here.
            Feature::DMA_BUF => expect(name, matches!(answer, Ok(()) | Err(Errno::ENOTTY)), true)?,
            // A kernel that knows it says EINVAL of a device without pre-copy.
            Feature::MIG_PRECOPY_INFO_V2 => {
                expect(name, matches!(answer, Err(Errno::EINVAL | Errno::ENOTTY)), true)?;
            }
            _ => expect(name, answer, absent)?,
        }
    }
    expect("no such feature", probe(Feature(0xffff), Access::empty()), absent)?;
    expect("GET and SET", errno(device.ask(Feature::MIGRATION, Access::GET | Access::SET)), Err(Errno::EINVAL))?;
    expect("too short", errno(device.ask(Feature::LOW_POWER_ENTRY_WITH_WAKEUP, Access::SET)), Err(Errno::EINVAL))?;
    expect("migration", errno(device.migration()), Err(Errno::ENOTTY))?;
    expect("state", errno(device.state()), Err(Errno::ENOTTY))?;
    expect("DMA logging", errno(device.stop_logging()), Err(Errno::ENOTTY))
}

fn tokens(ground: &Ground<'_>) -> Result<(), String> {
    let pf = on_vfio(ground, Role::Igb)?;
    let enable = HostPath::module(&"vfio_pci".parse().map_err(said)?).attr("parameters").attr("enable_sriov");
    ground.write_to(&enable, "Y").map_err(said)?;
    let shown = (|| {
        let token = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let with = |token| Manner { token, patience: Duration::from_secs(5), ..Manner::default() };
        let held = opened(ground, pf, &Manner::default()).map_err(said)?;
        expect("offered", errno(held.ask(Feature::PCI_VF_TOKEN, Access::SET | Access::PROBE)), Ok(()))?;
        held.set_vf_token(token).map_err(said)?;
        ground.put(pf, "sriov_numvfs", "1")?;
        let vf = *ground.vfs(pf)?.first().ok_or("no VF")?;
        if ground.driver(vf)?.is_none() {
            expect("bind the VF", ground.give(vf, "vfio-pci"), Ok(()))?;
        }
        ground.on(vf, Some("vfio-pci"))?;
        let answer = |manner| {
            opened(ground, vf, &manner).map(drop).map_err(|error| match error {
                OpenError::Host(error) => error.errno,
                OpenError::NoVfioDevice | OpenError::WithoutIommu(_) => Errno::ENODEV,
            })
        };
        let another = Some(Uuid::from_u128(1));
        for way in ways_of(ground, vf)? {
            let open = |token| errno(ground.host().open_device(&way, token).map(drop));
            ground.until("the node is there", || Ok(open(another) != Err(Errno::ENOENT)))?;
            // 6.12 has no token for a cdev, and asks for none: its group alone is kept.
            let without = match (&way, open(another)) {
                (Way::Cdev(_), Err(Errno::EINVAL)) => Ok(()),
                (_, answer) => {
                    expect(&format!("{way}, another"), answer, Err(Errno::EACCES))?;
                    Err(Errno::EACCES)
                }
            };
            expect(&format!("{way}, without"), open(None), without)?;
        }
        expect("another", answer(with(another)), Err(Errno::EACCES))?;
        expect("its own", answer(with(Some(token))), Ok(()))?;
        let edu = on_vfio(ground, Role::Edu)?;
        for way in ways_of(ground, edu)? {
            let refused = ground.host().open_device(&way, Some(token)).map(drop);
            expect(&format!("{way}, that has no use for one"), errno(refused), Err(Errno::EINVAL))?;
        }
        // A VF that is left would go with the PF's driver, and the PF is open.
        ground.release(vf)?;
        ground.put(pf, "sriov_numvfs", "0")
    })();
    ground.write_to(&enable, "N").map_err(said)?;
    shown
}
