//! `driver_override`: what is kept, what is dropped, and that writing it does nothing else.

use vfioadm::model::Errno;

use crate::Case;
use crate::ground::{Ground, Role, expect};

const ATTRIBUTE: &str = "driver_override";
const UNSET: &str = "(null)";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "override: unset reads (null)",
        rule: "drivers/base/bus.c driver_override_show(); lib/vsprintf.c string()",
        run: |ground| ground.overridden(ground.device(Role::Edu)?, UNSET),
    },
    Case {
        name: "override: written, read back, cleared by a newline",
        rule: "drivers/base/dd.c __device_set_driver_override()",
        run: written_and_cleared,
    },
    Case {
        name: "override: a write of no bytes changes nothing",
        rule: "fs/kernfs/file.c kernfs_fop_write_iter(): a write of no bytes never reaches the attribute",
        run: no_bytes,
    },
    Case {
        name: "override: 4094 bytes are kept, 4095 are EINVAL",
        rule: "drivers/base/dd.c __device_set_driver_override(): len >= PAGE_SIZE - 1",
        run: length,
    },
    Case {
        name: "override: text after a newline is dropped",
        rule: "drivers/base/dd.c __device_set_driver_override(): strchr(s, '\\n')",
        run: newline,
    },
    Case {
        name: "override: a name that no driver has is kept, and keeps every driver away",
        rule: "drivers/pci/pci-driver.c pci_match_device()",
        run: unknown_name,
    },
    Case {
        name: "override: writing it neither binds nor unbinds",
        rule: "drivers/base/bus.c driver_override_store()",
        run: no_effect,
    },
    Case { name: "override: outlives an unbind", rule: "drivers/base/dd.c __device_release_driver()", run: outlives },
];

fn written_and_cleared(ground: &Ground<'_>) -> Result<(), String> {
    let edu = ground.device(Role::Edu)?;
    for name in ["vfio-pci", "a", "pci-stub"] {
        ground.put(edu, ATTRIBUTE, name)?;
        ground.overridden(edu, name)?;
    }
    ground.put(edu, ATTRIBUTE, "\n")?;
    ground.overridden(edu, UNSET)
}

fn no_bytes(ground: &Ground<'_>) -> Result<(), String> {
    let edu = ground.device(Role::Edu)?;
    ground.put(edu, ATTRIBUTE, "kept")?;
    expect("a write of no bytes", ground.write(edu, ATTRIBUTE, ""), Ok(()))?;
    ground.overridden(edu, "kept")
}

fn length(ground: &Ground<'_>) -> Result<(), String> {
    let edu = ground.device(Role::Edu)?;
    let longest = "x".repeat(4094);
    expect("4094 bytes", ground.write(edu, ATTRIBUTE, &longest), Ok(()))?;
    ground.overridden(edu, &longest)?;
    ground.put(edu, ATTRIBUTE, "kept")?;
    for length in [4095, 4096, 5000] {
        expect(&format!("{length} bytes"), ground.write(edu, ATTRIBUTE, &"x".repeat(length)), Err(Errno::EINVAL))?;
    }
    ground.overridden(edu, "kept")
}

fn newline(ground: &Ground<'_>) -> Result<(), String> {
    let edu = ground.device(Role::Edu)?;
    ground.put(edu, ATTRIBUTE, "first\nsecond")?;
    ground.overridden(edu, "first")?;
    ground.put(edu, ATTRIBUTE, "\nsecond")?;
    ground.overridden(edu, UNSET)
}

fn unknown_name(ground: &Ground<'_>) -> Result<(), String> {
    let device = ground.device(Role::E1000)?;
    ground.release(device)?;
    ground.put(device, ATTRIBUTE, "no_such_driver")?;
    ground.overridden(device, "no_such_driver")?;
    expect("bind to its own driver", ground.bind("e1000", &device.to_string()), Err(Errno::ENODEV))?;
    expect("drivers_probe", ground.drivers_probe(&device.to_string()), Ok(()))?;
    ground.on(device, None)
}

fn no_effect(ground: &Ground<'_>) -> Result<(), String> {
    ground.load("vfio_pci")?;
    let (bound, free) = (ground.device(Role::E1000)?, ground.device(Role::Edu)?);
    for device in [bound, free] {
        ground.put(device, ATTRIBUTE, "vfio-pci")?;
    }
    ground.on(bound, Some("e1000"))?;
    ground.on(free, None)
}

fn outlives(ground: &Ground<'_>) -> Result<(), String> {
    let edu = ground.device(Role::Edu)?;
    ground.give_to_vfio(edu)?;
    ground.release(edu)?;
    ground.on(edu, None)?;
    ground.overridden(edu, "vfio-pci")
}
