//! Modules and drivers: two names for one thing, and not always the same two.

use vfioadm::model::Errno;

use crate::Case;
use crate::ground::{Ground, Role, expect};

/// Module and driver of every variant that these kernels may have.
const VARIANTS: [(&str, &str); 8] = [
    ("vfio_pci", "vfio-pci"),
    ("mlx5_vfio_pci", "mlx5_vfio_pci"),
    ("virtio_vfio_pci", "virtio_vfio_pci"),
    ("qat_vfio_pci", "qat_vfio_pci"),
    ("pds_vfio_pci", "pds_vfio_pci"),
    ("hisi_acc_vfio_pci", "hisi_acc_vfio_pci"),
    ("nvgrace_gpu_vfio_pci", "nvgrace_gpu_vfio_pci"),
    ("xe_vfio_pci", "xe-vfio-pci"),
];

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "names: /sys/module/<module>/drivers/pci:<driver>, for every variant",
        rule: "drivers/base/module.c module_add_driver()",
        run: |ground| {
            let mut seen = 0;
            for (module, driver) in VARIANTS {
                if ground.try_load(module)? {
                    expect(module, ground.drivers_of(module)?, vec![driver.to_owned()])?;
                    seen += 1;
                }
            }
            if seen >= 5 { Ok(()) } else { Err(format!("this kernel has {seen} of the variants: too few to tell")) }
        },
    },
    Case {
        name: "names: a module that does not exist is told so",
        rule: "modprobe's own answer; no kernel rule",
        run: |ground| expect("load", ground.try_load("no_such_module")?, false),
    },
    Case {
        name: "names: an override with the module's name is kept, and binds nothing",
        rule: "drivers/pci/pci-driver.c pci_match_device(): strcmp() with the driver's name",
        run: |ground| {
            let edu = ground.device(Role::Edu)?;
            ground.load("vfio_pci")?;
            ground.put(edu, "driver_override", "vfio_pci")?;
            expect("bind", ground.bind("vfio-pci", &edu.to_string()), Err(Errno::ENODEV))?;
            expect("drivers_probe", ground.drivers_probe(&edu.to_string()), Ok(()))?;
            ground.on(edu, None)
        },
    },
    Case {
        name: "names: loading a VFIO driver binds nothing",
        rule: "drivers/pci/pci-driver.c pci_match_device(): override_only",
        run: loading_binds_nothing,
    },
];

fn loading_binds_nothing(ground: &Ground<'_>) -> Result<(), String> {
    for (module, _) in VARIANTS {
        ground.try_load(module)?;
    }
    // Not asked of the ConnectX VF: mlx5_vfio_pci brings mlx5_core along, and that one takes what it knows.
    for (role, driver) in
        [(Role::Edu, None), (Role::QatVf, None), (Role::Virtio, Some("virtio-pci")), (Role::E1000, Some("e1000"))]
    {
        ground.on(ground.device(role)?, driver)?;
    }
    Ok(())
}
