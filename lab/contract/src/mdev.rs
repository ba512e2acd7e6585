//! mdevs: made by their type's `create`, removed by their own `remove`; the kernel's three sample parents.

use vfioadm::discover;
use vfioadm::host::path::Root;
use vfioadm::host::{HostPath, Open, optional};
use vfioadm::model::{Address, Errno, Mdev};

use crate::Case;
use crate::ground::{Answer, Ground, expect, refused, said};

pub(crate) const FIRST: &str = "5bd2a1a0-65f4-4a4a-8a4f-0123456789ab";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "mdev: a sample's module makes its parent, with types and what is left of each",
        rule: "drivers/vfio/mdev/mdev_core.c mdev_register_parent(); samples/vfio-mdev/*.c",
        run: parents,
    },
    Case {
        name: "mdev: made, it is bound, in a group of its own, with its nodes; removed, nothing is left",
        rule: "drivers/vfio/mdev/mdev_core.c mdev_device_create(), mdev_device_remove()",
        run: made_and_removed,
    },
    Case {
        name: "mdev: its name is lower case, whatever was written, and the newline counts for nothing",
        rule: "drivers/vfio/mdev/mdev_core.c mdev_device_create(): %pUl",
        run: |ground| {
            let lower = uuid(1);
            ground.create("mtty", "mtty-1", &format!("{}\n", lower.to_uppercase())).map_err(said)?;
            expect("made", ground.mdevs()?, vec![lower])
        },
    },
    Case {
        name: "mdev: another length than 36, or 37 with what ends it, is EINVAL; so is what is no UUID",
        rule: "drivers/vfio/mdev/mdev_sysfs.c create_store(): UUID_STRING_LEN, guid_parse()",
        run: |ground| {
            ground.load("mtty")?;
            for (text, answer) in [
                (&FIRST[..35], Err(Errno::EINVAL)),
                (&format!("{FIRST}\n\n"), Err(Errno::EINVAL)),
                ("5bd2a1a065f44a4a8a4f0123456789ab", Err(Errno::EINVAL)),
                ("5bd2a1a0-65f4-4a4a-8a4f-0123456789ag", Err(Errno::EINVAL)),
                ("5bd2a1a06-5f4-4a4a-8a4f-0123456789ab", Err(Errno::EINVAL)),
                (&format!("{FIRST}x"), Ok(())),
            ] {
                expect(&format!("create {text:?}"), ground.create("mtty", "mtty-1", text), answer)?;
            }
            Ok(())
        },
    },
    Case {
        name: "mdev: a UUID is made once, on whatever parent",
        rule: "drivers/vfio/mdev/mdev_core.c mdev_device_create(): mdev_list is of the whole system",
        run: |ground| {
            expect("first", ground.create("mtty", "mtty-1", FIRST), Ok(()))?;
            expect("same type", ground.create("mtty", "mtty-1", FIRST), Err(Errno::EEXIST))?;
            expect("other type", ground.create("mtty", "mtty-2", FIRST), Err(Errno::EEXIST))?;
            expect("other parent", ground.create("mdpy", "mdpy-vga", FIRST), Err(Errno::EEXIST))?;
            expect("left", ground.left("mdpy", "mdpy-vga")?, 4)
        },
    },
    Case {
        name: "mdev: mtty's types share 24 ports; the 13th of two ports is ENOSPC, and one that fits is made",
        rule: "samples/vfio-mdev/mtty.c mtty_init_dev(), mtty_get_available()",
        run: |ground| {
            ground.create("mtty", "mtty-1", &uuid(0)).map_err(said)?;
            expect("mtty-1", ground.left("mtty", "mtty-1")?, 23)?;
            expect("mtty-2", ground.left("mtty", "mtty-2")?, 11)?;
            for n in 1..12 {
                expect(&format!("mtty-2 number {n}"), ground.create("mtty", "mtty-2", &uuid(n)), Ok(()))?;
            }
            expect("one port is left", ground.left("mtty", "mtty-1")?, 1)?;
            expect("mtty-2", ground.left("mtty", "mtty-2")?, 0)?;
            expect("one more of two", ground.create("mtty", "mtty-2", &uuid(12)), Err(Errno::ENOSPC))?;
            expect("one more of one", ground.create("mtty", "mtty-1", &uuid(12)), Ok(()))?;
            expect("and one more", ground.create("mtty", "mtty-1", &uuid(13)), Err(Errno::ENOSPC))?;
            expect("what failed", ground.mdevs()?.contains(&uuid(13)), false)
        },
    },
    Case {
        name: "mdev: mdpy has four of all types together, counted by mdev's core; the fifth is EUSERS",
        rule: "drivers/vfio/mdev/mdev_core.c mdev_device_create(); samples/vfio-mdev/mdpy.c max_instances",
        run: |ground| {
            for (n, kind) in (0..).zip(["mdpy-vga", "mdpy-xga", "mdpy-hd", "mdpy-vga"]) {
                expect(kind, ground.create("mdpy", kind, &uuid(n)), Ok(()))?;
                for other in ["mdpy-vga", "mdpy-xga", "mdpy-hd"] {
                    expect(other, ground.left("mdpy", other)?, 3 - n)?;
                }
            }
            expect("the fifth", ground.create("mdpy", "mdpy-hd", &uuid(4)), Err(Errno::EUSERS))?;
            expect("remove", ground.remove(&uuid(0), "1"), Ok(()))?;
            expect("then", ground.create("mdpy", "mdpy-hd", &uuid(4)), Ok(()))
        },
    },
    Case {
        name: "mdev: mbochs divides 256 MB",
        rule: "samples/vfio-mdev/mbochs.c mbochs_init_dev(), mbochs_get_available()",
        run: |ground| {
            for n in 0..3 {
                expect("large", ground.create("mbochs", "mbochs-large", &uuid(n)), Ok(()))?;
            }
            expect("small", ground.create("mbochs", "mbochs-small", &uuid(3)), Ok(()))?;
            let left = |kind| ground.left("mbochs", kind);
            let left = (left("mbochs-small")?, left("mbochs-medium")?, left("mbochs-large")?);
            expect("left", left, (15, 3, 0))?;
            expect("large", ground.create("mbochs", "mbochs-large", &uuid(4)), Err(Errno::ENOSPC))
        },
    },
    Case {
        name: "mdev: remove takes a number; 0 does nothing",
        rule: "drivers/vfio/mdev/mdev_sysfs.c remove_store()",
        run: |ground| {
            ground.create("mtty", "mtty-1", FIRST).map_err(said)?;
            expect("remove 0", ground.remove(FIRST, "0"), Ok(()))?;
            expect("remove x", ground.remove(FIRST, "x"), Err(Errno::EINVAL))?;
            expect("made", ground.mdevs()?, vec![FIRST.to_owned()])?;
            expect("remove 2", ground.remove(FIRST, "2\n"), Ok(()))?;
            expect("made", ground.mdevs()?, Vec::<String>::new())
        },
    },
    Case {
        name: "mdev: unbound, it is there and bound by nothing again",
        rule: "drivers/vfio/mdev/mdev_driver.c mdev_match() is 0; mtty counts ports by its own devices",
        run: |ground| {
            ground.create("mtty", "mtty-1", FIRST).map_err(said)?;
            expect("unbind", ground.mdev_driver("mtty", "unbind", FIRST), Ok(()))?;
            expect("again", ground.mdev_driver("mtty", "unbind", FIRST), Err(Errno::ENODEV))?;
            let mdev = ground.mdev(FIRST)?;
            expect("driver, group, cdev", (mdev.driver, mdev.group, mdev.cdev), (None, None, None))?;
            expect("left", ground.left("mtty", "mtty-1")?, 24)?;
            expect("bind", ground.mdev_driver("mtty", "bind", FIRST), Err(Errno::ENODEV))?;
            expect("remove", ground.remove(FIRST, "1"), Ok(()))?;
            expect("left", ground.left("mtty", "mtty-1")?, 24)
        },
    },
    Case {
        name: "mdev: opened by its group's node or its cdev, never by both",
        rule: "drivers/vfio/group.c vfio_group_fops_open(); drivers/vfio/device_cdev.c vfio_df_ioctl_bind_iommufd()",
        run: |ground| {
            ground.create("mtty", "mtty-2", FIRST).map_err(said)?;
            let mdev = ground.mdev(FIRST)?;
            let (Some(group), Some(cdev)) = (mdev.group, mdev.cdev) else { return Err("it has no nodes".to_owned()) };
            let held = ground.hold(&Open::BoundCdev(cdev.clone()))?;
            refused("the group", ground.open(&Open::Group(group)), Errno::EBUSY)?;
            drop(held);
            let held = ground.hold(&Open::Container(group))?;
            expect("viable", held.viable().map_err(said)?, Some(true))?;
            refused("the cdev", ground.open(&Open::BoundCdev(cdev)), Errno::EBUSY)
        },
    },
    Case {
        name: "mdev: removing one that is open waits for its last close, off the bus already, its UUID and its ports taken",
        rule: "drivers/vfio/mdev/mdev_sysfs.c remove_store(); drivers/base/core.c device_del(); drivers/vfio/vfio_main.c \
               vfio_unregister_group_dev()",
        run: waiting_remove,
    },
];

/// A UUID of its own for each number.
pub(crate) fn uuid(n: u32) -> String {
    format!("5bd2a1a0-65f4-4a4a-8a4f-{n:012x}")
}

impl Ground<'_> {
    /// The directory of a parent of a sample module, which is loaded.
    fn kind(&self, parent: &str, kind: &str) -> Result<HostPath, Errno> {
        self.load(parent).map_err(|_| Errno::ENOENT)?;
        let path = HostPath::fixed(Root::Sys, "class/mdev_bus").entry(parent).ok_or(Errno::EINVAL)?;
        path.attr("mdev_supported_types").entry(kind).ok_or(Errno::EINVAL)
    }

    pub(crate) fn create(&self, parent: &str, kind: &str, uuid: &str) -> Answer {
        self.write_to(&self.kind(parent, kind)?.attr("create"), uuid)
    }

    fn remove(&self, uuid: &str, value: &str) -> Answer {
        let path = HostPath::fixed(Root::Sys, "bus/mdev/devices").entry(uuid).ok_or(Errno::EINVAL)?;
        self.write_to(&path.attr("remove"), value)
    }

    fn mdev_driver(&self, driver: &str, attribute: &'static str, uuid: &str) -> Answer {
        let path = HostPath::fixed(Root::Sys, "bus/mdev/drivers").entry(driver).ok_or(Errno::EINVAL)?;
        self.write_to(&path.attr(attribute), uuid)
    }

    /// `available_instances`.
    fn left(&self, parent: &str, kind: &str) -> Result<u32, String> {
        let path = self.kind(parent, kind).map_err(said)?.attr("available_instances");
        self.host().text(&path).map_err(said)?.parse().map_err(said)
    }

    /// The names of all mdevs.
    fn mdevs(&self) -> Result<Vec<String>, String> {
        let mut names = self.host().list(&HostPath::fixed(Root::Sys, "bus/mdev/devices")).map_err(said)?;
        names.sort();
        Ok(names)
    }

    fn mdev(&self, uuid: &str) -> Result<Mdev, String> {
        let inventory = discover::inventory(self.host()).map_err(said)?;
        let found = inventory.mdevs.into_iter().find(|mdev| Address::Mdev(mdev.uuid).to_string() == uuid);
        found.ok_or_else(|| format!("there is no mdev {uuid}"))
    }
}

fn parents(ground: &Ground<'_>) -> Result<(), String> {
    let wanted = [
        ("mtty", "mtty-1", "Single port serial", None, 24),
        ("mtty", "mtty-2", "Dual port serial", None, 12),
        ("mdpy", "mdpy-vga", "mdpy-vga", Some("virtual display, 640x480 framebuffer"), 4),
        ("mdpy", "mdpy-xga", "mdpy-xga", Some("virtual display, 1024x768 framebuffer"), 4),
        ("mdpy", "mdpy-hd", "mdpy-hd", Some("virtual display, 1920x1080 framebuffer"), 4),
        ("mbochs", "mbochs-small", "mbochs-small", Some("virtual display, 4 MB video memory"), 64),
        ("mbochs", "mbochs-medium", "mbochs-medium", Some("virtual display, 16 MB video memory"), 16),
        ("mbochs", "mbochs-large", "mbochs-large", Some("virtual display, 64 MB video memory"), 4),
    ];
    for (module, ..) in wanted {
        ground.load(module)?;
    }
    let inventory = discover::inventory(ground.host()).map_err(said)?;
    for (module, id, name, description, available) in wanted {
        let parent = inventory.mdev_parents.iter().find(|parent| parent.name.as_str() == module);
        let parent = parent.ok_or_else(|| format!("there is no parent {module}"))?;
        let kind = parent.types.iter().find(|kind| kind.id.as_str() == id);
        let kind = kind.ok_or_else(|| format!("{module} has no type {id}"))?;
        let found =
            (kind.name.as_deref(), kind.description.as_deref(), kind.device_api.as_deref(), kind.available_instances);
        expect(id, found, (Some(name), description, Some("vfio-pci"), Some(available)))?;
        expect("shared", parent.shares_instances(), Some(true))?;
    }
    Ok(())
}

fn made_and_removed(ground: &Ground<'_>) -> Result<(), String> {
    expect("create", ground.create("mtty", "mtty-2", FIRST), Ok(()))?;
    let mdev = ground.mdev(FIRST)?;
    let name = |text: Option<&dyn ToString>| text.map(ToString::to_string);
    expect("parent", name(mdev.parent.as_ref().map(|it| it as _)).as_deref(), Some("mtty"))?;
    expect("type", name(mdev.type_id.as_ref().map(|it| it as _)).as_deref(), Some("mtty-2"))?;
    expect("driver", name(mdev.driver.as_ref().map(|it| it as _)).as_deref(), Some("mtty"))?;
    let group = mdev.group.ok_or("it is in no group")?;
    let path = HostPath::fixed(Root::Sys, "kernel/iommu_groups").child(&group);
    expect("alone", ground.host().list(&path.attr("devices")).map_err(said)?, vec![FIRST.to_owned()])?;
    expect("name", ground.host().text(&path.attr("name")).map_err(said)?.as_str(), "vfio-noiommu")?;
    expect("type", ground.host().text(&path.attr("type")).map_err(said)?.as_str(), "unknown")?;
    let cdev = mdev.cdev.ok_or("it has no cdev")?;
    let there = |path: &HostPath| {
        let (name, above) = (path.rest().rsplit('/').next().unwrap_or_default().to_owned(), path.to_string());
        let above = above.rsplit_once('/').and_then(|(above, _)| HostPath::parse(above));
        let names = above.map(|above| optional(ground.host().list(&above))).transpose().map_err(said)?.flatten();
        Ok::<bool, String>(names.unwrap_or_default().contains(&name))
    };
    // The nodes are made by devtmpfs a moment later.
    ground.until("its group has a node", || there(&HostPath::group_node(group)))?;
    ground.until("its cdev has a node", || there(&HostPath::cdev(&cdev)))?;
    expect("remove", ground.remove(FIRST, "1"), Ok(()))?;
    expect("mdevs", ground.mdevs()?, Vec::<String>::new())?;
    expect("left", ground.left("mtty", "mtty-2")?, 12)?;
    expect("group", optional(ground.host().list(&path)).map_err(said)?, None)?;
    ground.until("the nodes are gone", || Ok(!there(&HostPath::group_node(group))? && !there(&HostPath::cdev(&cdev))?))
}

fn waiting_remove(ground: &Ground<'_>) -> Result<(), String> {
    ground.create("mtty", "mtty-2", FIRST).map_err(said)?;
    let cdev = ground.mdev(FIRST)?.cdev.ok_or("it has no cdev")?;
    let parent = HostPath::fixed(Root::Sys, "class/mdev_bus/mtty");
    let beside = || ground.host().list(&parent).map(|names| names.iter().any(|name| name == FIRST)).map_err(said);
    let held = ground.hold(&Open::BoundCdev(cdev))?;
    expect("remove", ground.remove(FIRST, "1"), Err(Errno::ETIMEDOUT))?;
    expect("on the bus", ground.mdevs()?, Vec::<String>::new())?;
    expect("below its parent", beside()?, true)?;
    expect("left", ground.left("mtty", "mtty-2")?, 11)?;
    expect("again", ground.create("mtty", "mtty-2", FIRST), Err(Errno::EEXIST))?;
    expect("another", ground.create("mtty", "mtty-2", &uuid(1)), Ok(()))?;
    drop(held);
    ground.until("it is gone", || Ok(!beside()?))?;
    ground.until("its ports are free", || Ok(ground.left("mtty", "mtty-2")? == 11))?;
    expect("create", ground.create("mtty", "mtty-2", FIRST), Ok(()))
}
