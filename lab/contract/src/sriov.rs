//! PFs and VFs: `sriov_numvfs`, `sriov_drivers_autoprobe`, and what a VF does not inherit.

use vfioadm::model::{Bdf, Errno};

use crate::Case;
use crate::ground::{Ground, Role, expect};

const NUMVFS: &str = "sriov_numvfs";
const AUTOPROBE: &str = "sriov_drivers_autoprobe";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "sriov: as many VFs as asked, each with its index",
        rule: "drivers/pci/iov.c sriov_enable(), pci_iov_sysfs_link()",
        run: |ground| {
            let pf = ground.device(Role::Igb)?;
            ground.put(pf, NUMVFS, "3")?;
            expect("VFs", ground.vfs(pf)?.len(), 3)?;
            ground.put(pf, NUMVFS, "0")?;
            expect("VFs after 0", ground.vfs(pf)?.len(), 0)
        },
    },
    Case {
        name: "sriov: too many is ERANGE, no number is EINVAL",
        rule: "drivers/pci/iov.c sriov_numvfs_store()",
        run: not_a_count,
    },
    Case {
        name: "sriov: from some to others is EBUSY, to the same is nothing",
        rule: "drivers/pci/iov.c sriov_numvfs_store()",
        run: |ground| {
            let pf = ground.device(Role::Igb)?;
            ground.put(pf, NUMVFS, "2")?;
            let first = ground.vfs(pf)?;
            expect("the same again", ground.write(pf, NUMVFS, "2"), Ok(()))?;
            expect("more", ground.write(pf, NUMVFS, "3"), Err(Errno::EBUSY))?;
            expect("fewer", ground.write(pf, NUMVFS, "1"), Err(Errno::EBUSY))?;
            expect("VFs", ground.vfs(pf)?, first)
        },
    },
    Case {
        name: "sriov: a PF without a driver, or with one that has no VFs to give, is ENOENT",
        rule: "drivers/pci/iov.c sriov_numvfs_store(): driver->sriov_configure; vfio_pci.c enable_sriov",
        run: no_driver,
    },
    Case {
        name: "sriov: autoprobe 0 keeps drivers from new VFs, and `bind` too",
        rule: "drivers/pci/pci-driver.c pci_device_can_probe()",
        run: autoprobe_off,
    },
    Case {
        name: "sriov: with autoprobe 1 the host driver takes new VFs",
        rule: "drivers/pci/iov.c pci_iov_add_virtfn()",
        run: |ground| {
            let vf = some_vf(ground, "1")?;
            ground.on(vf, Some("igbvf"))
        },
    },
    Case {
        name: "sriov: a new VF has no override, whatever the last one had",
        rule: "drivers/pci/iov.c pci_iov_remove_virtfn(): the device goes, and its override with it",
        run: fresh,
    },
    Case {
        name: "sriov: igb takes its VFs with it, nvme leaves them",
        rule: "drivers/net/ethernet/intel/igb/igb_main.c igb_remove(); drivers/nvme/host/pci.c nvme_remove()",
        run: left_behind,
    },
    Case {
        name: "sriov: a PF with VFs on vfio-pci is EBUSY",
        rule: "drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_register_device(): pci_num_vf()",
        run: |ground| {
            let pf = ground.device(Role::NvmePf)?;
            ground.load("vfio_pci")?;
            ground.put(pf, NUMVFS, "2")?;
            expect("bind", ground.give(pf, "vfio-pci"), Err(Errno::EBUSY))
        },
    },
];

/// The first of two VFs of the igb PF, created under that autoprobe.
fn some_vf(ground: &Ground<'_>, autoprobe: &str) -> Result<Bdf, String> {
    let pf = ground.device(Role::Igb)?;
    ground.put(pf, AUTOPROBE, autoprobe)?;
    ground.put(pf, NUMVFS, "2")?;
    ground.vfs(pf)?.into_iter().next().ok_or_else(|| format!("{pf} has no VF after 2 were asked for"))
}

fn not_a_count(ground: &Ground<'_>) -> Result<(), String> {
    let pf = ground.device(Role::Igb)?;
    let total: u32 = ground.read(pf, "sriov_totalvfs")?.parse().map_err(|error| format!("sriov_totalvfs: {error}"))?;
    expect("one too many", ground.write(pf, NUMVFS, &(total + 1).to_string()), Err(Errno::ERANGE))?;
    // What kstrtou16() says of a number that has no 16 bits does not come through.
    for value in ["many", "-1", "65536"] {
        expect(value, ground.write(pf, NUMVFS, value), Err(Errno::EINVAL))?;
    }
    expect("VFs", ground.vfs(pf)?.len(), 0)
}

fn no_driver(ground: &Ground<'_>) -> Result<(), String> {
    let pf = ground.device(Role::Igb)?;
    ground.release(pf)?;
    expect("without a driver", ground.write(pf, NUMVFS, "2"), Err(Errno::ENOENT))?;
    ground.give_to_vfio(pf)?;
    expect("on vfio-pci", ground.write(pf, NUMVFS, "2"), Err(Errno::ENOENT))
}

fn autoprobe_off(ground: &Ground<'_>) -> Result<(), String> {
    let vf = some_vf(ground, "0")?;
    let name = vf.to_string();
    ground.on(vf, None)?;
    expect("bind without an override", ground.bind("igbvf", &name), Err(Errno::ENODEV))?;
    expect("drivers_probe", ground.drivers_probe(&name), Ok(()))?;
    ground.on(vf, None)?;
    ground.put(vf, "driver_override", "igbvf")?;
    expect("bind with an override", ground.bind("igbvf", &name), Ok(()))?;
    ground.put(vf, "driver_override", "\n")?;
    ground.on(vf, Some("igbvf"))?;
    ground.give_to_vfio(vf)
}

fn fresh(ground: &Ground<'_>) -> Result<(), String> {
    let vf = some_vf(ground, "0")?;
    ground.overridden(vf, "(null)")?;
    ground.put(vf, "driver_override", "vfio-pci")?;
    let pf = ground.device(Role::Igb)?;
    ground.put(pf, NUMVFS, "0")?;
    let again = some_vf(ground, "0")?;
    expect("the address of VF 0", again, vf)?;
    ground.overridden(again, "(null)")
}

fn left_behind(ground: &Ground<'_>) -> Result<(), String> {
    for (role, driver, left) in [(Role::Igb, "igb", 0), (Role::NvmePf, "nvme", 2)] {
        let pf = ground.device(role)?;
        ground.put(pf, AUTOPROBE, "0")?;
        ground.put(pf, NUMVFS, "2")?;
        expect("unbind", ground.unbind(driver, &pf.to_string()), Ok(()))?;
        expect(&format!("VFs that {driver} leaves"), ground.vfs(pf)?.len(), left)?;
    }
    let pf = ground.device(Role::NvmePf)?;
    expect("VFs off without a driver", ground.write(pf, NUMVFS, "0"), Err(Errno::ENOENT))
}
