//! The machine itself, without vfioadm: if one of these fails, the lab is wrong and not the tool.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::tool::on;
use crate::hold::{Holder, Manner, Way};
use crate::machine::{Role, disk};
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 4] = [
    Case::new("fixture: every device is there, on its host driver", every_role),
    Case::new("fixture: groups are as the table says", groups),
    Case::new("fixture: the kernel's own answers to variant drivers", variants),
    Case::new("fixture: the kernel asks a holder before it waits, and a mapped BAR alone makes it wait", holders),
];

fn every_role(_: Counts) -> Verdict {
    let expected = [
        (Role::Edu, 1, None),
        (Role::E1000, 2, Some("e1000")),
        (Role::Igb, 1, Some("igb")),
        (Role::NvmePf, 1, Some("nvme")),
        (Role::NvmeDisk, 1, Some("nvme")),
        (Role::Virtio, 1, Some("virtio-pci")),
        (Role::Mlx5Vf, 1, None),
        (Role::Cx5, 1, None),
        (Role::QatVf, 1, None),
        (Role::PdsVf, 1, None),
        (Role::Lpc, 1, None),
    ];
    for (role, count, driver) in expected {
        let devices = role.devices();
        if devices.len() != count {
            return Err(Stop::Fail(format!("{role:?}: {} devices, not {count}", devices.len())));
        }
        for device in devices.iter().filter(|_| role != Role::Lpc) {
            on(device, driver)?;
        }
    }
    disk()?;
    Ok(())
}

fn groups(_: Counts) -> Verdict {
    let bridged = Role::E1000.device()?.group();
    if bridged.len() != 3 {
        return Err(Stop::Fail(format!("the bridge's group has {bridged:?}, not the bridge and two devices")));
    }
    for role in [Role::Edu, Role::Igb, Role::NvmePf, Role::Virtio, Role::Mlx5Vf, Role::Cx5, Role::QatVf, Role::PdsVf] {
        let group = role.device()?.group();
        if group.len() != 1 {
            return Err(Stop::Fail(format!("{role:?} shares its group: {group:?}")));
        }
    }
    Ok(())
}

fn variants(_: Counts) -> Verdict {
    let expected = [
        (Role::Mlx5Vf, "mlx5_vfio_pci", None),
        (Role::QatVf, "qat_vfio_pci", Some("ENODEV")),
        (Role::PdsVf, "pds_vfio_pci", Some("EINVAL")),
        (Role::Virtio, "virtio_vfio_pci", None),
        (Role::Edu, "vfio_pci", None),
    ];
    for (role, module, refusal) in expected {
        let driver = if module == "vfio_pci" { "vfio-pci" } else { module };
        load(module)?;
        let device = role.device()?;
        device.unbind()?;
        device.write("driver_override", driver)?;
        let answer = bind(&device, driver);
        match (answer, refusal) {
            (Ok(()), None) => {}
            (Err(told), Some(errno)) if told.ends_with(errno) => {}
            (answer, _) => return Err(Stop::Fail(format!("{driver} on {device}: {answer:?}, expected {refusal:?}"))),
        }
    }
    Ok(())
}

/// The holders of other cases, without vfioadm: one that is asked, and one that has no descriptor.
fn holders(_: Counts) -> Verdict {
    load("vfio-pci")?;
    let device = Role::Edu.device()?;
    for way in [Way::Group, Way::Cdev] {
        device.write("driver_override", "vfio-pci")?;
        bind(&device, "vfio-pci")?;
        let holder = Holder::start(&device, way, Manner::Obeys)?;
        device.unbind()?;
        let status = holder.ends()?;
        if !status.success() {
            return Err(format!("{way:?}: the holder ended with {status}").into());
        }
    }
    for way in [Way::GroupBar, Way::CdevBar] {
        bind(&device, "vfio-pci")?;
        let holder = Holder::start(&device, way, Manner::Stays)?;
        let nodes = std::fs::read_dir(format!("/proc/{}/fd", holder.pid())).map_err(|error| error.to_string())?;
        let held = |path: &Path| path.starts_with("/dev/vfio") || path.to_string_lossy().contains("vfio-device");
        if let Some(open) = nodes.flatten().filter_map(|fd| fd.path().read_link().ok()).find(|path| held(path)) {
            return Err(format!("{way:?}: the holder still has {} open", open.display()).into());
        }
        let writer = device.clone();
        let unbind = std::thread::spawn(move || writer.unbind());
        std::thread::sleep(Duration::from_millis(500));
        if unbind.is_finished() {
            return Err(format!("{way:?}: a mapped BAR does not hold the device").into());
        }
        drop(holder);
        unbind.join().map_err(|_| "the writer panicked".to_owned())??;
    }
    Ok(())
}

fn bind(device: &Device, driver: &str) -> Result<(), String> {
    device.bind(driver)?;
    match device.driver() {
        Some(bound) if bound == driver => Ok(()),
        other => Err(format!("bind to {driver} succeeded and the device is on {other:?}")),
    }
}

fn load(module: &str) -> Result<(), String> {
    let output = Command::new("modprobe").arg(module).output().map_err(|error| format!("start modprobe: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()) }
}
