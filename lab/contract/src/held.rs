//! Who has a device open, and how it can be told: `enable`, and the descriptors in `/proc`.

use vfioadm::discover::Holders;
use vfioadm::host::{Held, HostPath, Open, optional, vfio_device_is_open};
use vfioadm::model::{Address, Bdf, Errno, How};

use crate::Case;
use crate::ground::{Ground, Role, expect, refused, said};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "enable: a host driver counts it up, and down when it goes",
        rule: "drivers/pci/pci.c pci_enable_device(), pci_disable_device(), called by every driver in its probe and remove",
        run: host_drivers,
    },
    Case {
        name: "enable: counts the device that is open by its group, and not the group",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_enable(), vfio_pci_core_disable()",
        run: |ground| {
            let edu = on_vfio(ground)?;
            let group = ground.group(edu)?;
            is_open(ground, edu, ("0", false))?;
            counts(ground, edu, &Open::Group(group), ("0", false))?;
            counts(ground, edu, &Open::Container(group), ("0", false))?;
            counts(ground, edu, &Open::GroupDevice(group, edu), ("1", true))
        },
    },
    Case {
        name: "enable: counts the device that is open by its cdev, once that is bound to an iommufd",
        rule: "drivers/vfio/device_cdev.c vfio_device_fops_cdev_open() opens no device; vfio_df_ioctl_bind_iommufd() does",
        run: |ground| {
            let edu = on_vfio(ground)?;
            let cdev = ground.cdev(edu)?;
            counts(ground, edu, &Open::Cdev(cdev.clone()), ("0", false))?;
            counts(ground, edu, &Open::BoundCdev(cdev), ("1", true))
        },
    },
    Case {
        name: "enable: set by hand on a device without driver, refused on one that has a driver",
        rule: "drivers/pci/pci-sysfs.c enable_store()",
        run: |ground| {
            let (edu, bound) = (ground.device(Role::Edu)?, ground.device(Role::E1000)?);
            expect("on a bound device", ground.write(bound, "enable", "1"), Err(Errno::EBUSY))?;
            expect("down from 0", ground.write(edu, "enable", "0"), Err(Errno::EIO))?;
            ground.put(edu, "enable", "1")?;
            expect("enable", ground.read(edu, "enable")?.as_str(), "1")?;
            ground.put(edu, "enable", "0")?;
            expect("enable", ground.read(edu, "enable")?.as_str(), "0")
        },
    },
    Case {
        name: "enable: left counted by somebody else, the device sleeps while nobody has it open",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_register_device(): pm_runtime_put()",
        run: left_enabled,
    },
    Case {
        name: "unbind: of an open device waits for its last close, half done, and nothing that is read waits with it",
        rule: "drivers/base/dd.c __device_release_driver(); drivers/vfio/vfio_main.c vfio_unregister_group_dev()",
        run: waiting_unbind,
    },
    Case {
        name: "holders: this process, by a group node, a device of it, and a cdev",
        rule: "fs/proc/fd.c proc_fd_link(); drivers/vfio/vfio_main.c vfio_device_show_fdinfo()",
        run: own_descriptors,
    },
    Case {
        name: "holders: of two devices of a group, the one that is open",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_enable(): the other's enable is 0",
        run: |ground| {
            let (device, other) = (ground.device(Role::E1000)?, ground.device(Role::OtherE1000)?);
            ground.give_to_vfio(device)?;
            ground.give_to_vfio(other)?;
            let _held = ground.hold(&Open::GroupDevice(ground.group(device)?, device))?;
            holds(ground, device, &[How::Device])?;
            holds(ground, other, &[How::Group])
        },
    },
];

/// Gives edu to vfio-pci.
fn on_vfio(ground: &Ground<'_>) -> Result<Bdf, String> {
    let edu = ground.device(Role::Edu)?;
    ground.give_to_vfio(edu)?;
    Ok(edu)
}

fn waiting_unbind(ground: &Ground<'_>) -> Result<(), String> {
    let edu = ground.device(Role::Edu)?;
    ground.give_to_vfio(edu)?;
    let group = ground.group(edu)?;
    let held = ground.hold(&Open::BoundCdev(ground.cdev(edu)?))?;
    expect("unbind", ground.unbind("vfio-pci", &edu.to_string()), Err(Errno::ETIMEDOUT))?;
    ground.on(edu, None)?;
    let nodes = optional(ground.host().list(&HostPath::pci(edu).attr("vfio-dev"))).map_err(said)?;
    expect("vfio-dev", nodes, None)?;
    expect("enable", ground.read(edu, "enable")?.as_str(), "1")?;
    ground.overridden(edu, "vfio-pci")?;
    ground.read(edu, "modalias")?;
    refused("the group", ground.open(&Open::Group(group)), Errno::EBUSY)?;
    drop(held);
    ground.until("the device is let go", || Ok(ground.read(edu, "enable")? == "0"))?;
    // It waits for the unbind, which has the lock of the device to its end.
    expect("bind", ground.bind("vfio-pci", &edu.to_string()), Ok(()))?;
    ground.on(edu, Some("vfio-pci"))
}

/// What `enable` reads, and what is made of it.
fn is_open(ground: &Ground<'_>, bdf: Bdf, (enable, open): (&str, bool)) -> Result<(), String> {
    expect(&format!("enable of {bdf}"), ground.read(bdf, "enable")?.as_str(), enable)?;
    expect(&format!("{bdf} is open"), vfio_device_is_open(ground.host(), bdf).map_err(said)?, Some(open))
}

/// What it reads while something is open; it is 0 again when it is closed.
fn counts(ground: &Ground<'_>, bdf: Bdf, what: &Open, judged: (&str, bool)) -> Result<(), String> {
    let held: Box<dyn Held> = ground.hold(what)?;
    is_open(ground, bdf, judged).map_err(|reason| format!("{what:?}: {reason}"))?;
    drop(held);
    is_open(ground, bdf, ("0", false)).map_err(|reason| format!("{what:?} closed: {reason}"))
}

fn host_drivers(ground: &Ground<'_>) -> Result<(), String> {
    for role in [Role::E1000, Role::Igb, Role::NvmePf, Role::Virtio] {
        let device = ground.device(role)?;
        expect(&format!("enable of {role:?}"), ground.read(device, "enable")?.as_str(), "1")?;
        ground.release(device)?;
        expect(&format!("enable of {role:?} without driver"), ground.read(device, "enable")?.as_str(), "0")?;
        ground.give_to_vfio(device)?;
        is_open(ground, device, ("0", false))?;
    }
    Ok(())
}

fn left_enabled(ground: &Ground<'_>) -> Result<(), String> {
    let edu = ground.device(Role::Edu)?;
    ground.put(edu, "enable", "1")?;
    let judged = (|| {
        ground.give_to_vfio(edu)?;
        ground.until("edu sleeps", || Ok(vfio_device_is_open(ground.host(), edu).map_err(said)? == Some(false)))?;
        is_open(ground, edu, ("1", false))?;
        let held = ground.hold(&Open::BoundCdev(ground.cdev(edu)?))?;
        is_open(ground, edu, ("2", true))?;
        drop(held);
        ground.until("edu sleeps", || Ok(vfio_device_is_open(ground.host(), edu).map_err(said)? == Some(false)))
    })();
    ground.release(edu)?;
    ground.put(edu, "enable", "0")?;
    judged
}

fn own_descriptors(ground: &Ground<'_>) -> Result<(), String> {
    let edu = on_vfio(ground)?;
    let (group, cdev) = (ground.group(edu)?, ground.cdev(edu)?);
    let ways = [
        (Open::Group(group), How::Group),
        (Open::Container(group), How::Group),
        (Open::GroupDevice(group, edu), How::Device),
        (Open::Cdev(cdev.clone()), How::Cdev),
        (Open::BoundCdev(cdev), How::Cdev),
    ];
    for (what, how) in ways {
        holds(ground, edu, &[])?;
        let held = ground.hold(&what)?;
        holds(ground, edu, &[how]).map_err(|reason| format!("{what:?}: {reason}"))?;
        drop(held);
    }
    holds(ground, edu, &[])
}

/// By what this process holds a device, as `/proc` shows it; and that nobody else does.
fn holds(ground: &Ground<'_>, bdf: Bdf, ways: &[How]) -> Result<(), String> {
    let inventory = vfioadm::discover::inventory(ground.host()).map_err(said)?;
    let device = Address::from(bdf);
    let holders = Holders::read(ground.host(), &inventory, &[device.clone()].into());
    let own = std::process::id();
    let found: Vec<(u32, How)> = holders.of(&device).iter().map(|holder| (holder.pid, holder.how)).collect();
    let wanted: Vec<(u32, How)> = ways.iter().map(|how| (own, *how)).collect();
    expect(&format!("holders of {bdf}"), found, wanted)
}
