//! Variant drivers that refuse, wait, lose their PF and migrate when they are told to: those of `lab/kmod`, and their twins.

use vfioadm::discover::tables::{Kernel, Query, read_tables};
use vfioadm::host::HostPath;
use vfioadm::host::device::MigrationFlags;
use vfioadm::matching;
use vfioadm::model::{Address, Bdf, Errno, ModAlias};

use crate::Case;
use crate::ground::{Answer, Ground, Role, expect, said};
use crate::migration::{errno, every_pair, opened_at};

/// Module and driver of the one whose table names vendor and device.
pub(crate) const BY_DEVICE: &str = "lab_vfio_pci";
/// Of the one whose table names the subsystem too.
pub(crate) const BY_SUBSYSTEM: &str = "lab_sub_vfio_pci";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "variant: of tables that have the same device, the one that names its subsystem ranks first, vfio-pci last",
        rule: "scripts/mod/file2alias.c do_pci_entry(): sv and sd; drivers/pci/pci-driver.c pci_match_device()",
        run: ranked,
    },
    Case {
        name: "variant: one refuses, then the next, each with its errno, and vfio-pci takes the device",
        rule: "drivers/base/dd.c device_driver_attach(); lab/kmod/variant.c lab_probe(): probe_errno",
        run: chain,
    },
    Case {
        name: "variant: a probe that takes longer than a bind may is left behind, and binds the device when it ends",
        rule: "drivers/base/dd.c really_probe(): driver_sysfs_add() comes before the probe; lab_probe(): probe_delay_ms",
        run: slow,
    },
    Case {
        name: "variant: one that needs a PF refuses what has none on a driver, or binds it without its migration",
        rule: "lab/kmod/variant.c lab_init(): need_pf, as drivers/vfio/pci/qat and drivers/vfio/pci/mlx5",
        run: without_pf,
    },
    Case {
        name: "variant: the driver of the PF goes, and a bound VF keeps its driver and has lost its state",
        rule: "drivers/base/devres.c devres_release_all(); lab/kmod/variant.c lab_pf_leaves()",
        run: pf_leaves,
    },
    Case {
        name: "variant: a device keeps the states and the size that its module had when it was bound",
        rule: "lab/kmod/variant.c lab_init(): precopy, p2p, state_bytes",
        run: as_bound,
    },
    Case {
        name: "variant: a parameter takes its kind of value alone, and changes nothing else",
        rule: "kernel/params.c param_set_uint(), param_set_bool(), param_set_copystring()",
        run: parameters,
    },
    Case {
        name: "variant: every way between two states is walked, and no other",
        rule: "drivers/vfio/vfio_main.c vfio_mig_get_next_state(); lab/kmod/migration.c lab_set_state()",
        run: |ground| {
            let [vf, _] = siblings(ground, Role::NvmePf)?;
            taken(ground, vf)?;
            every_pair(&*opened(ground, vf)?)
        },
    },
];

/// Two VFs of a PF that is on its own driver; no driver has looked at them.
pub(crate) fn siblings(ground: &Ground<'_>, role: Role) -> Result<[Bdf; 2], String> {
    let pf = ground.device(role)?;
    ground.put(pf, "sriov_drivers_autoprobe", "0")?;
    ground.put(pf, "sriov_numvfs", "2")?;
    ground.vfs(pf)?.try_into().map_err(|vfs| format!("{pf} has the VFs {vfs:?}"))
}

/// A device of every kind that both tables have; of the VFs each can be reset.
fn devices(ground: &Ground<'_>) -> Result<[Bdf; 3], String> {
    let ([igb, _], [nvme, _]) = (siblings(ground, Role::Igb)?, siblings(ground, Role::NvmePf)?);
    for vf in [igb, nvme] {
        let methods = ground.read(vf, "reset_method")?;
        expect(&format!("the first way to reset {vf}"), methods.split(' ').next(), Some("flr"))?;
    }
    Ok([igb, nvme, ground.device(Role::Cx5)?])
}

/// Writes a parameter of a loaded module.
fn set(ground: &Ground<'_>, module: &str, (name, value): (&'static str, &str)) -> Answer {
    let path = HostPath::module(&module.parse().map_err(|_| Errno::EINVAL)?).attr("parameters").attr(name);
    ground.write_to(&path, value)
}

/// The same, which must succeed.
pub(crate) fn tell(ground: &Ground<'_>, module: &str, parameters: &[(&'static str, &str)]) -> Result<(), String> {
    ground.load(module)?;
    parameters.iter().try_for_each(|parameter| {
        expect(&format!("{module}: {}={}", parameter.0, parameter.1), set(ground, module, *parameter), Ok(()))
    })
}

/// Gives a device to the variant that ranks first.
pub(crate) fn taken(ground: &Ground<'_>, bdf: Bdf) -> Result<(), String> {
    ground.load(BY_SUBSYSTEM)?;
    expect("bind", ground.give(bdf, BY_SUBSYSTEM), Ok(()))?;
    ground.on(bdf, Some(BY_SUBSYSTEM))
}

/// Opens a function.
pub(crate) fn opened(ground: &Ground<'_>, bdf: Bdf) -> Result<Box<dyn vfioadm::host::Device>, String> {
    opened_at(ground, &(HostPath::pci(bdf), Address::from(bdf)))
}

fn ranked(ground: &Ground<'_>) -> Result<(), String> {
    for device in devices(ground)? {
        let alias: ModAlias = ground.read(device, "modalias")?.parse().map_err(said)?;
        let query = Query { devices: &[alias], drivers: &[], kernel: Kernel::Running };
        let (tables, _) = read_tables(ground.host(), &query);
        let found = matching::candidates(&alias, &tables);
        let told: Vec<_> = found.iter().map(|one| (one.driver.as_str(), one.wildcards)).collect();
        // Of equals the names would decide, and come out the same.
        expect(&format!("candidates for {alias}"), told, vec![(BY_SUBSYSTEM, 3), (BY_DEVICE, 5), ("vfio-pci", 7)])?;
        // Neither is bound by itself.
        ground.load(BY_SUBSYSTEM)?;
        expect("without an override", ground.bind(BY_SUBSYSTEM, &device.to_string()), Err(Errno::ENODEV))?;
    }
    Ok(())
}

fn chain(ground: &Ground<'_>) -> Result<(), String> {
    for device in devices(ground)? {
        tell(ground, BY_SUBSYSTEM, &[("probe_errno", "19")])?;
        tell(ground, BY_DEVICE, &[("probe_errno", "22")])?;
        for (driver, errno) in [(BY_SUBSYSTEM, Errno::ENODEV), (BY_DEVICE, Errno::EINVAL)] {
            expect(driver, ground.give(device, driver), Err(errno))?;
            ground.on(device, None)?;
            ground.overridden(device, driver)?;
        }
        ground.give_to_vfio(device)?;
        tell(ground, BY_DEVICE, &[("probe_errno", "0")])?;
        expect("one that refuses no more", ground.give(device, BY_DEVICE), Ok(()))?;
        ground.on(device, Some(BY_DEVICE))?;
    }
    Ok(())
}

/// A bind may take sixty seconds.
fn slow(ground: &Ground<'_>) -> Result<(), String> {
    let device = ground.device(Role::Cx5)?;
    let vfio_dev = || ground.host().list(&HostPath::pci(device).attr("vfio-dev")).map_err(|error| error.errno);
    tell(ground, BY_SUBSYSTEM, &[("probe_delay_ms", "75000")])?;
    expect("bind", ground.give(device, BY_SUBSYSTEM), Err(Errno::ETIMEDOUT))?;
    tell(ground, BY_SUBSYSTEM, &[("probe_delay_ms", "0")])?;
    expect("while it probes", vfio_dev(), Err(Errno::ENOENT))?;
    ground.on(device, Some(BY_SUBSYSTEM))?;
    ground.within(60, "the probe ends", || Ok(vfio_dev().is_ok_and(|names| names.len() == 1)))?;
    ground.on(device, Some(BY_SUBSYSTEM))?;
    ground.release(device)?;
    expect("a probe in no time", ground.give(device, BY_SUBSYSTEM), Ok(()))
}

fn without_pf(ground: &Ground<'_>) -> Result<(), String> {
    let [vf, _] = siblings(ground, Role::NvmePf)?;
    let pf = ground.device(Role::NvmePf)?;
    tell(ground, BY_SUBSYSTEM, &[("need_pf", "2")])?;
    taken(ground, vf)?;
    ground.release(vf)?;
    ground.release(pf)?;
    let lonely = [ground.device(Role::Cx5)?, vf];
    for device in lonely {
        expect("needed", ground.give(device, BY_SUBSYSTEM), Err(Errno::ENODEV))?;
    }
    tell(ground, BY_SUBSYSTEM, &[("need_pf", "1")])?;
    for device in lonely {
        taken(ground, device)?;
        let device = opened(ground, device)?;
        expect("migration", errno(device.migration()), Err(Errno::ENOTTY))?;
        expect("state", errno(device.state()), Err(Errno::ENOTTY))?;
    }
    ground.release(vf)?;
    expect("the PF's driver", ground.bind("nvme", &pf.to_string()), Ok(()))?;
    taken(ground, vf)?;
    expect("with a PF", errno(opened(ground, vf)?.migration()).is_ok(), true)
}

fn pf_leaves(ground: &Ground<'_>) -> Result<(), String> {
    use vfioadm::host::device::{Data, State};
    let [vf, sibling] = siblings(ground, Role::NvmePf)?;
    let pf = ground.device(Role::NvmePf)?;
    tell(ground, BY_SUBSYSTEM, &[("need_pf", "1")])?;
    taken(ground, vf)?;
    taken(ground, sibling)?;
    let (saving, running) = (opened(ground, vf)?, opened(ground, sibling)?);
    let Some(Data::Saving(mut file)) = saving.set_state(State::StopCopy).map_err(said)? else {
        return Err("STOP_COPY gave no file".to_owned());
    };
    ground.release(pf)?;
    ground.on(vf, Some(BY_SUBSYSTEM))?;
    expect("read", crate::migration::read(&mut *file), Err(Errno::ENODEV))?;
    expect("state", errno(saving.state()), Ok(State::StopCopy))?;
    expect("the VF that is saved", errno(saving.set_state(State::Running).map(drop)), Err(Errno::ENOTCONN))?;
    expect("the one that runs", errno(running.set_state(State::Stop).map(drop)), Err(Errno::ENOTCONN))?;
    drop((file, saving, running));
    expect("the PF's driver", ground.bind("nvme", &pf.to_string()), Ok(()))?;
    expect("a new one", errno(opened(ground, vf)?.set_state(State::Stop).map(drop)), Err(Errno::ENOTCONN))?;
    taken(ground, vf)?;
    expect("bound anew", errno(opened(ground, vf)?.set_state(State::Stop).map(drop)), Ok(()))
}

fn as_bound(ground: &Ground<'_>) -> Result<(), String> {
    let [vf, _] = siblings(ground, Role::Igb)?;
    let kinds = [
        ("Y", "Y", MigrationFlags::PRE_COPY | MigrationFlags::P2P, 70_000),
        ("0", "1", MigrationFlags::P2P, 4096),
        ("on", "n", MigrationFlags::PRE_COPY, 1),
        ("N", "N", MigrationFlags::empty(), 65_536),
    ];
    for (precopy, p2p, more, length) in kinds {
        let text = u64::to_string(&length);
        tell(ground, BY_SUBSYSTEM, &[("precopy", precopy), ("p2p", p2p), ("state_bytes", &text)])?;
        taken(ground, vf)?;
        tell(ground, BY_SUBSYSTEM, &[("precopy", "Y"), ("p2p", "Y"), ("state_bytes", "65536")])?;
        let device = opened(ground, vf)?;
        expect("flags", device.migration().map_err(said)?, MigrationFlags::STOP_COPY | more)?;
        expect("its region", crate::carried::region(&*device)?.size, length)?;
    }
    for length in ["0", "536870913"] {
        tell(ground, BY_SUBSYSTEM, &[("state_bytes", length)])?;
        expect(&format!("state_bytes={length}"), ground.give(vf, BY_SUBSYSTEM), Err(Errno::EINVAL))?;
    }
    Ok(())
}

fn parameters(ground: &Ground<'_>) -> Result<(), String> {
    ground.load(BY_SUBSYSTEM)?;
    let long = "x".repeat(32);
    let answers = [
        ("probe_errno", "one", Err(Errno::EINVAL)),
        ("probe_errno", "-1", Err(Errno::EINVAL)),
        ("need_pf", "0x2", Ok(())),
        ("seed", "4294967295", Ok(())),
        ("p2p", "x", Err(Errno::EINVAL)),
        ("precopy", "off", Ok(())),
        ("fault", &long, Err(Errno::ENOSPC)),
        ("fault", &long[1..], Ok(())),
    ];
    for (name, value, answer) in answers {
        expect(&format!("{name}={value}"), set(ground, BY_SUBSYSTEM, (name, value)), answer)?;
    }
    let wanted = [
        ("probe_errno", "0"),
        ("probe_delay_ms", "0"),
        ("need_pf", "2"),
        ("seed", "4294967295"),
        ("p2p", "Y"),
        ("precopy", "N"),
        ("state_bytes", "65536"),
        ("fault", &long[1..]),
    ];
    let dir = HostPath::module(&BY_SUBSYSTEM.parse().map_err(said)?).attr("parameters");
    for (name, value) in wanted {
        expect(name, ground.host().text(&dir.attr(name)).map_err(said)?.as_str(), value)?;
    }
    let mut names = ground.host().list(&dir).map_err(said)?;
    names.sort();
    let mut all = wanted.map(|(name, _)| name);
    all.sort_unstable();
    expect("parameters", names.iter().map(String::as_str).collect::<Vec<_>>(), all.to_vec())?;
    // A name of no fault breaks no rule.
    let [vf, _] = siblings(ground, Role::Igb)?;
    expect("need_pf", ground.give(vf, BY_SUBSYSTEM), Ok(()))
}
