//! Groups, cdevs and who owns the DMA: one user at a time, and no host driver beside it.

use vfioadm::host::Open;
use vfioadm::model::Errno;

use crate::Case;
use crate::ground::{Ground, Role, expect, refused, said};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "group: opened by one at a time",
        rule: "drivers/vfio/group.c vfio_group_fops_open(): opened_file",
        run: |ground| {
            let group = vfio_group(ground)?;
            let held = ground.hold(&Open::Group(group))?;
            refused("a second open", ground.open(&Open::Group(group)), Errno::EBUSY)?;
            drop(held);
            ground.hold(&Open::Group(group)).map(drop)
        },
    },
    Case {
        name: "group: viable alone, opened as far as the device",
        rule: "drivers/vfio/group.c vfio_group_ioctl_get_device_fd()",
        run: |ground| {
            let edu = ground.device(Role::Edu)?;
            let held = ground.hold(&Open::GroupDevice(vfio_group(ground)?, edu))?;
            expect("viable", held.viable().map_err(said)?, Some(true))
        },
    },
    Case {
        name: "group: without any device on a VFIO driver there is no node",
        rule: "drivers/vfio/group.c vfio_group_has_device(); the node goes with the last device",
        run: |ground| {
            let group = vfio_group(ground)?;
            ground.release(ground.device(Role::Edu)?)?;
            refused("open", ground.open(&Open::Group(group)), Errno::ENOENT)
        },
    },
    Case {
        name: "group: not viable beside a host driver, and its DMA is not given: EPERM",
        rule: "drivers/iommu/iommu.c iommu_group_claim_dma_owner(): owner_cnt",
        run: not_viable,
    },
    Case {
        name: "group: while a user owns the DMA, a host driver beside it is EBUSY",
        rule: "drivers/iommu/iommu.c iommu_device_use_default_domain()",
        run: owned,
    },
    Case {
        name: "cdev: opened and bound to an iommufd, and its group is shut meanwhile",
        rule: "drivers/vfio/device_cdev.c vfio_df_ioctl_bind_iommufd(); group.c vfio_device_block_group()",
        run: cdev,
    },
    Case {
        name: "cdev: shut while the device is open by its group",
        rule: "drivers/vfio/group.c vfio_device_block_group()",
        run: |ground| {
            let edu = ground.device(Role::Edu)?;
            let group = vfio_group(ground)?;
            let _held = ground.hold(&Open::GroupDevice(group, edu))?;
            refused("bind the cdev", ground.open(&Open::BoundCdev(ground.cdev(edu)?)), Errno::EBUSY)
        },
    },
    Case {
        name: "cdev: not given beside a host driver: EPERM",
        rule: "drivers/iommu/iommu.c iommu_device_claim_dma_owner()",
        run: |ground| {
            let device = ground.device(Role::E1000)?;
            ground.give_to_vfio(device)?;
            refused("bind", ground.open(&Open::BoundCdev(ground.cdev(device)?)), Errno::EPERM)
        },
    },
];

/// The group of edu, given to vfio-pci.
fn vfio_group(ground: &Ground<'_>) -> Result<vfioadm::model::GroupId, String> {
    let edu = ground.device(Role::Edu)?;
    ground.give_to_vfio(edu)?;
    ground.group(edu)
}

fn not_viable(ground: &Ground<'_>) -> Result<(), String> {
    let (device, other) = (ground.device(Role::E1000)?, ground.device(Role::OtherE1000)?);
    ground.give_to_vfio(device)?;
    let group = ground.group(device)?;
    expect("the other's group", ground.group(other)?, group)?;
    let held = ground.hold(&Open::Group(group))?;
    expect("viable", held.viable().map_err(said)?, Some(false))?;
    drop(held);
    refused("set a container", ground.open(&Open::Container(group)), Errno::EPERM)?;
    ground.give_to_vfio(other)?;
    let held = ground.hold(&Open::Container(group))?;
    expect("viable with both", held.viable().map_err(said)?, Some(true))
}

fn owned(ground: &Ground<'_>) -> Result<(), String> {
    let (device, other) = (ground.device(Role::E1000)?, ground.device(Role::OtherE1000)?);
    ground.give_to_vfio(device)?;
    ground.release(other)?;
    let held = ground.hold(&Open::Container(ground.group(device)?))?;
    expect("bind beside the user", ground.bind("e1000", &other.to_string()), Err(Errno::EBUSY))?;
    ground.on(other, None)?;
    drop(held);
    expect("bind when the user has gone", ground.bind("e1000", &other.to_string()), Ok(()))
}

fn cdev(ground: &Ground<'_>) -> Result<(), String> {
    let edu = ground.device(Role::Edu)?;
    let group = vfio_group(ground)?;
    let held = ground.hold(&Open::BoundCdev(ground.cdev(edu)?))?;
    refused("open the group", ground.open(&Open::Group(group)), Errno::EBUSY)?;
    drop(held);
    ground.hold(&Open::Group(group)).map(drop)
}
