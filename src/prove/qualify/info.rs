//! What a device says of itself.

use super::bench::broken;
use super::{Bench, Case, Linked, Off, Told};
use crate::host::device::{Access, DeviceFlags, Feature, PCI_CONFIG, PCI_VGA, RegionFlags};
use crate::host::opening::Kind;
use crate::model::Errno;
use crate::prove::inspect::inspect;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "id-table",
        rule: "a variant's module has a vfio_pci: alias for the device, and none that would bind it unasked \
               (drivers/pci/pci-driver.c pci_match_device(), PCI_ID_F_VFIO_DRIVER_OVERRIDE)",
        after: &[],
        run: id_table,
    },
    Case {
        id: "driver-name",
        rule: "the module that has the alias has a driver of the name that driver_override and bind take \
               (drivers/base/module.c module_add_driver(): /sys/module/<module>/drivers/pci:<driver>, by its owner)",
        after: &["id-table"],
        run: driver_name,
    },
    Case {
        id: "info",
        rule: "GET_INFO names one bus; a PCI device has at least 9 regions and 5 kinds of interrupt \
               (include/uapi/linux/vfio.h; vfio_pci_core.c vfio_pci_ioctl_get_info())",
        after: &[],
        run: info,
    },
    Case {
        id: "regions",
        rule: "every region is answered for, none lies over another, the one after the last is EINVAL \
               (vfio_pci_core.c vfio_pci_ioctl_get_region_info())",
        after: &["info"],
        run: regions,
    },
    Case {
        id: "irqs",
        rule: "every kind of interrupt is answered for, what there is can be told by eventfd, the one after the last is EINVAL \
               (vfio_pci_core.c vfio_pci_ioctl_get_irq_info())",
        after: &["info"],
        run: irqs,
    },
    Case {
        id: "features",
        rule: "a feature that is there can be got or set as the header says, one that is not is ENOTTY (pre-copy info v2 EINVAL, \
               dma-buf also EOPNOTSUPP) (vfio_main.c vfio_ioctl_device_feature(), vfio.h vfio_check_feature())",
        after: &[],
        run: features,
    },
    Case {
        id: "feature-unknown",
        rule: "a feature that no header has is ENOTTY (vfio_main.c vfio_ioctl_device_feature())",
        after: &["features"],
        run: feature_unknown,
    },
    Case {
        id: "feature-flags",
        rule: "GET and SET at once, or neither, without PROBE is EINVAL; so is too little room for what is got \
               (vfio_main.c vfio_ioctl_device_feature())",
        after: &[],
        run: feature_flags,
    },
    Case {
        id: "parity",
        rule: "by cdev and by group a device says the same (drivers/vfio/group.c, device_cdev.c: one struct vfio_device)",
        after: &["info"],
        run: parity,
    },
];

fn id_table(bench: &Bench<'_>) -> Told {
    match bench.table {
        None => Err(Off::NotApplicable("it has no table of PCI ids".to_owned())),
        Some(table) if table.native => broken("its module has a pci: alias for the device, and would be bound unasked"),
        Some(table) if !table.vfio => broken("no vfio_pci: alias of its module has the device"),
        Some(_) => Ok("a vfio_pci: alias has it, and no pci: alias of the module".to_owned()),
    }
}

fn driver_name(bench: &Bench<'_>) -> Told {
    match bench.table.map(|table| table.linked) {
        None => Err(Off::NotApplicable("it has no table of PCI ids".to_owned())),
        Some(Linked::BuiltIn) => Err(Off::NotApplicable("the driver is built in".to_owned())),
        Some(Linked::No) => broken(format!("its module has no driver {}: its owner is not set", bench.driver)),
        Some(Linked::Yes) => Ok(format!("pci:{} is its module's", bench.driver)),
    }
}

fn info(bench: &Bench<'_>) -> Told {
    let device = bench.fresh()?;
    let info = device.info()?;
    let buses = DeviceFlags::all() - DeviceFlags::RESET - DeviceFlags::CAPS;
    let named = info.flags.intersection(buses).bits().count_ones();
    if named != 1 {
        return broken(format!("it names {named} buses: flags {:#x}", info.flags.bits()));
    }
    if info.flags.contains(DeviceFlags::PCI) && (info.num_regions < PCI_VGA + 1 || info.num_irqs < 5) {
        return broken(format!("it has {} regions and {} kinds of interrupt", info.num_regions, info.num_irqs));
    }
    Ok(format!("{} regions, {} kinds of interrupt, flags {:#x}", info.num_regions, info.num_irqs, info.flags.bits()))
}

fn regions(bench: &Bench<'_>) -> Told {
    let device = bench.fresh()?;
    let info = device.info()?;
    let mut places: Vec<(u64, u64, u32)> = Vec::new();
    for index in 0..info.num_regions {
        let region = match device.region(index) {
            Ok(region) => region,
            Err(error) if error.errno == Errno::EINVAL && index == PCI_VGA => continue,
            // mtty has no more than BAR 0 and its configuration, and answers for the others all the same.
            Err(error) => return broken(format!("region {index}: {}", error.errno)),
        };
        let Some(end) = region.offset.checked_add(region.size).filter(|end| i64::try_from(*end).is_ok()) else {
            return broken(format!("region {index} lies beyond the end of the file: {:#x}", region.offset));
        };
        if region.size == 0 {
            continue;
        }
        if let Some((_, _, other)) = places.iter().find(|(from, to, _)| region.offset < *to && *from < end) {
            return broken(format!("regions {other} and {index} lie over one another"));
        }
        let readable = region.flags.contains(RegionFlags::READ);
        if index == PCI_CONFIG && info.flags.contains(DeviceFlags::PCI) && (region.size < 64 || !readable) {
            return broken(format!("its configuration has {} bytes", region.size));
        }
        places.push((region.offset, end, index));
    }
    match device.region(info.num_regions) {
        Err(error) if error.errno == Errno::EINVAL => {
            Ok(format!("{} of {} are not empty", places.len(), info.num_regions))
        }
        Err(error) => broken(format!("region {}: {}", info.num_regions, error.errno)),
        Ok(_) => broken(format!("it answers for region {}, of {}", info.num_regions, info.num_regions)),
    }
}

fn irqs(bench: &Bench<'_>) -> Told {
    let device = bench.fresh()?;
    let count = device.info()?.num_irqs;
    let mut found = 0;
    for index in 0..count {
        match device.irq(index) {
            Ok(irq) if irq.count > 0 && !irq.flags.contains(crate::host::device::IrqFlags::EVENTFD) => {
                return broken(format!("interrupts {index} are not told by eventfd"));
            }
            Ok(irq) => found += u32::from(irq.count > 0),
            // ERR of a device that is no PCIe device, before 7.0; MSI-X and the rest of mtty.
            Err(error) if error.errno == Errno::EINVAL => {}
            Err(error) => return broken(format!("interrupts {index}: {}", error.errno)),
        }
    }
    match device.irq(count) {
        Err(error) if error.errno == Errno::EINVAL => Ok(format!("{found} of {count} kinds")),
        Err(error) => broken(format!("interrupts {count}: {}", error.errno)),
        Ok(_) => broken(format!("it answers for interrupts {count}, of {count}")),
    }
}

/// What the header has each feature do.
fn offered(feature: Feature) -> Access {
    match feature {
        Feature::MIGRATION | Feature::MIG_DATA_SIZE | Feature::DMA_LOGGING_REPORT | Feature::DMA_BUF => Access::GET,
        Feature::MIG_DEVICE_STATE => Access::GET | Access::SET,
        _ => Access::SET,
    }
}

fn features(bench: &Bench<'_>) -> Told {
    let device = bench.fresh()?;
    let ask = |feature, access| device.ask(feature, access | Access::PROBE).map_err(|error| error.errno);
    let mut found = Vec::new();
    for feature in Feature::ALL.iter().copied() {
        let name = feature.name().unwrap_or_default();
        match ask(feature, Access::empty()) {
            Ok(()) => {
                for access in [Access::GET, Access::SET] {
                    let wanted = if offered(feature).contains(access) { Ok(()) } else { Err(Errno::EINVAL) };
                    let said = ask(feature, access);
                    if said != wanted {
                        return broken(format!("PROBE of {name} with {access:?}: {said:?}, and not {wanted:?}"));
                    }
                }
                found.push(name);
            }
            Err(Errno::ENOTTY) => {}
            Err(Errno::EINVAL) if feature == Feature::MIG_PRECOPY_INFO_V2 => {}
            Err(Errno::EOPNOTSUPP) if feature == Feature::DMA_BUF => {}
            Err(errno) => return broken(format!("PROBE of {name}: {errno}")),
        }
    }
    Ok(if found.is_empty() { "none".to_owned() } else { found.join(", ") })
}

fn feature_unknown(bench: &Bench<'_>) -> Told {
    let device = bench.fresh()?;
    for number in [0x7fff, 0xffff] {
        match device.ask(Feature(number), Access::PROBE) {
            Err(error) if error.errno == Errno::ENOTTY => {}
            Err(error) => return broken(format!("PROBE of feature {number:#x}: {}", error.errno)),
            Ok(()) => return broken(format!("it has feature {number:#x}")),
        }
    }
    Ok("ENOTTY".to_owned())
}

fn feature_flags(bench: &Bench<'_>) -> Told {
    let device = bench.fresh()?;
    let asked = |feature, access: Access, what: &str| match device.ask(feature, access) {
        Err(error) if error.errno == Errno::EINVAL => Ok(()),
        Err(error) => broken(format!("{what}: {}", error.errno)),
        Ok(()) => broken(format!("{what} was taken")),
    };
    asked(Feature::MIGRATION, Access::GET | Access::SET, "GET and SET of MIGRATION")?;
    let has = |feature: &Feature| device.ask(*feature, Access::PROBE).is_ok();
    if let Some(feature) = Feature::ALL.iter().copied().find(has) {
        let name = feature.name().unwrap_or_default();
        asked(feature, Access::empty(), &format!("neither GET nor SET of {name}"))?;
    }
    if device.migration().is_ok() {
        asked(Feature::MIGRATION, Access::GET, "GET of MIGRATION without room")?;
        asked(Feature::MIG_DEVICE_STATE, Access::SET, "SET of MIG_DEVICE_STATE without data")?;
    }
    Ok("EINVAL each time".to_owned())
}

fn parity(bench: &Bench<'_>) -> Told {
    let by = |kind| match (bench.open)(Some(kind)) {
        Ok(device) => Ok(inspect(device.as_ref())?),
        Err(error) => Err(Off::NotApplicable(format!("it cannot be opened by {kind:?}: {error}"))),
    };
    let (cdev, group) = (by(Kind::Cdev)?, by(Kind::Group)?);
    let same = cdev.info == group.info
        && cdev.regions == group.regions
        && cdev.irqs == group.irqs
        && cdev.features == group.features
        && cdev.migration == group.migration;
    if same {
        Ok("info, regions, interrupts, features and migration are the same".to_owned())
    } else {
        broken(format!("by cdev {cdev:?}, by group {group:?}"))
    }
}
