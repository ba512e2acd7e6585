//! `bind`, `unbind` and `drivers_probe`: who answers what, and who says yes and means no.

use vfioadm::model::Errno;

use crate::Case;
use crate::ground::{Ground, Role, expect};

/// An address that no function of the machine has.
const NOWHERE: &str = "0000:ff:1f.7";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "bind: an unknown device is ENODEV",
        rule: "drivers/base/bus.c bind_store()",
        run: |ground| expect("bind", ground.bind("e1000", NOWHERE), Err(Errno::ENODEV)),
    },
    Case {
        name: "bind: a device that the table does not have is ENODEV",
        rule: "drivers/base/bus.c bind_store(): driver_match_device()",
        run: |ground| {
            let edu = ground.device(Role::Edu)?;
            expect("bind", ground.bind("e1000", &edu.to_string()), Err(Errno::ENODEV))
        },
    },
    Case {
        name: "bind: a VFIO driver without an override is ENODEV",
        rule: "drivers/pci/pci-driver.c pci_match_device(): override_only",
        run: without_override,
    },
    Case {
        name: "bind: with its override a VFIO driver takes the device",
        rule: "drivers/base/dd.c device_driver_attach()",
        run: |ground| ground.give_to_vfio(ground.device(Role::Edu)?),
    },
    Case {
        name: "bind: a device that has a driver is EBUSY, if this one matches",
        rule: "drivers/base/dd.c __driver_probe_device()",
        run: has_a_driver,
    },
    Case {
        name: "bind: overridden for another driver is ENODEV, before anything else",
        rule: "drivers/base/bus.c bind_store(): the match comes first",
        run: overridden_elsewhere,
    },
    Case {
        name: "bind: the probe's own errno comes back",
        rule: "drivers/base/dd.c device_driver_attach(); drivers/vfio/pci/{qat,pds}",
        run: probe_errno,
    },
    Case {
        name: "bind: mlx5_vfio_pci and virtio_vfio_pci take a device without its PF",
        rule: "drivers/vfio/pci/mlx5/cmd.c mlx5vf_cmd_set_migratable(); virtio/main.c virtiovf_pci_probe()",
        run: degrade,
    },
    Case {
        name: "bind: a bridge on vfio-pci is EINVAL",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_register_device(): header type",
        run: bridge,
    },
    Case {
        name: "bind: a name with a newline is the same name",
        rule: "lib/string_helpers.c sysfs_streq()",
        run: |ground| {
            let edu = ground.device(Role::Edu)?;
            ground.load("vfio_pci")?;
            ground.put(edu, "driver_override", "vfio-pci\n")?;
            expect("bind", ground.bind("vfio-pci", &format!("{edu}\n")), Ok(()))
        },
    },
    Case {
        name: "unbind: a device that is not on this driver is ENODEV",
        rule: "drivers/base/bus.c unbind_store()",
        run: not_on_it,
    },
    Case {
        name: "unbind: the device is left without a driver",
        rule: "drivers/base/dd.c __device_release_driver()",
        run: |ground| {
            let device = ground.device(Role::E1000)?;
            expect("unbind", ground.unbind("e1000", &device.to_string()), Ok(()))?;
            ground.on(device, None)?;
            expect("a second unbind", ground.unbind("e1000", &device.to_string()), Err(Errno::ENODEV))
        },
    },
    Case {
        name: "drivers_probe: finds the host driver",
        rule: "drivers/base/dd.c device_attach()",
        run: |ground| {
            let device = ground.device(Role::E1000)?;
            ground.release(device)?;
            expect("drivers_probe", ground.drivers_probe(&device.to_string()), Ok(()))?;
            ground.on(device, Some("e1000"))
        },
    },
    Case {
        name: "drivers_probe: says yes when the probe refused",
        rule: "drivers/base/bus.c bus_rescan_devices_helper(): the probe's errno is lost",
        run: false_success,
    },
    Case {
        name: "drivers_probe: an unknown device is ENODEV",
        rule: "drivers/base/bus.c drivers_probe_store()",
        run: |ground| expect("drivers_probe", ground.drivers_probe(NOWHERE), Err(Errno::ENODEV)),
    },
];

fn without_override(ground: &Ground<'_>) -> Result<(), String> {
    let edu = ground.device(Role::Edu)?;
    ground.load("vfio_pci")?;
    expect("bind", ground.bind("vfio-pci", &edu.to_string()), Err(Errno::ENODEV))?;
    ground.on(edu, None)
}

fn has_a_driver(ground: &Ground<'_>) -> Result<(), String> {
    let device = ground.device(Role::E1000)?;
    expect("bind to its own", ground.bind("e1000", &device.to_string()), Err(Errno::EBUSY))?;
    ground.load("vfio_pci")?;
    ground.put(device, "driver_override", "vfio-pci")?;
    expect("bind to another that matches", ground.bind("vfio-pci", &device.to_string()), Err(Errno::EBUSY))?;
    ground.on(device, Some("e1000"))
}

fn overridden_elsewhere(ground: &Ground<'_>) -> Result<(), String> {
    let device = ground.device(Role::E1000)?;
    ground.put(device, "driver_override", "vfio-pci")?;
    expect("bind while it has a driver", ground.bind("e1000", &device.to_string()), Err(Errno::ENODEV))?;
    ground.release(device)?;
    expect("bind while it has none", ground.bind("e1000", &device.to_string()), Err(Errno::ENODEV))
}

fn probe_errno(ground: &Ground<'_>) -> Result<(), String> {
    let refusing = [(Role::QatVf, "qat_vfio_pci", Errno::ENODEV), (Role::PdsVf, "pds_vfio_pci", Errno::EINVAL)];
    for (role, driver, errno) in refusing {
        let device = ground.device(role)?;
        ground.load(driver)?;
        expect(driver, ground.give(device, driver), Err(errno))?;
        ground.on(device, None)?;
        ground.overridden(device, driver)?;
        ground.give_to_vfio(device)?;
    }
    Ok(())
}

fn degrade(ground: &Ground<'_>) -> Result<(), String> {
    for (role, driver) in [(Role::Mlx5Vf, "mlx5_vfio_pci"), (Role::Virtio, "virtio_vfio_pci")] {
        let device = ground.device(role)?;
        ground.load(driver)?;
        expect(driver, ground.give(device, driver), Ok(()))?;
        ground.on(device, Some(driver))?;
    }
    Ok(())
}

fn bridge(ground: &Ground<'_>) -> Result<(), String> {
    let bridge = ground.device(Role::Bridge)?;
    ground.load("vfio_pci")?;
    expect("bind", ground.give(bridge, "vfio-pci"), Err(Errno::EINVAL))
}

fn not_on_it(ground: &Ground<'_>) -> Result<(), String> {
    let (edu, device) = (ground.device(Role::Edu)?, ground.device(Role::E1000)?);
    expect("without a driver", ground.unbind("e1000", &edu.to_string()), Err(Errno::ENODEV))?;
    expect("on another driver", ground.unbind("igb", &device.to_string()), Err(Errno::ENODEV))?;
    expect("unknown", ground.unbind("e1000", NOWHERE), Err(Errno::ENODEV))?;
    ground.on(device, Some("e1000"))
}

fn false_success(ground: &Ground<'_>) -> Result<(), String> {
    let device = ground.device(Role::QatVf)?;
    ground.load("qat_vfio_pci")?;
    ground.put(device, "driver_override", "qat_vfio_pci")?;
    expect("drivers_probe", ground.drivers_probe(&device.to_string()), Ok(()))?;
    ground.on(device, None)?;
    let bound = ground.device(Role::E1000)?;
    expect("drivers_probe of a bound device", ground.drivers_probe(&bound.to_string()), Ok(()))?;
    ground.on(bound, Some("e1000"))
}
