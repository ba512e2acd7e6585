//! Groups as a whole, VFs, and back again: nothing is left behind.

use std::collections::BTreeSet;

use super::tool::{bound, json, on, overridden, result_of, vfioadm};
use crate::machine::{Role, Snapshot};
use crate::orders::Counts;
use crate::runner::{Case, Verdict};
use crate::sysfs::Device;

pub(crate) const CASES: [Case; 8] = [
    Case::new("group: --with-group binds both functions behind the bridge", with_group),
    Case::new("group: both functions named are as good as --with-group", both_named),
    Case::new("unbind: each device is back on its host driver, without an override", give_back),
    Case::new("unbind: a device without a host driver is left without one", nothing_to_give_back),
    Case::new("bind: the second time nothing changes", twice),
    Case::new("bind: VFs under autoprobe 0, there and back", vfs),
    Case::new("bind: --driver none keeps every driver away", none),
    Case::new("bind and unbind: round after round the same", rounds),
];

fn with_group(_: Counts) -> Verdict {
    let devices = Role::E1000.devices();
    let value = json(0, &["bind", devices[0].address(), "--with-group"])?;
    for device in &devices {
        bound(&value, device, "vfio-pci")?;
    }
    let value = json(0, &["unbind", devices[0].address(), "--with-group"])?;
    for device in &devices {
        bound(&value, device, "e1000")?;
        overridden(device, None)?;
    }
    Ok(())
}

fn both_named(_: Counts) -> Verdict {
    let devices = Role::E1000.devices();
    let value = json(0, &["bind", devices[0].address(), devices[1].address()])?;
    for device in &devices {
        bound(&value, device, "vfio-pci")?;
    }
    Ok(())
}

fn give_back(_: Counts) -> Verdict {
    let before = Snapshot::take();
    for role in [Role::Igb, Role::Virtio, Role::NvmePf, Role::NvmeDisk] {
        let device = role.device()?;
        let host = device.driver().ok_or_else(|| format!("{role:?} {device} has no driver to begin with"))?;
        json(0, &["bind", device.address()])?;
        if device.driver().as_ref() == Some(&host) {
            return Err(format!("bind left {device} on {host}").into());
        }
        let value = json(0, &["unbind", device.address()])?;
        bound(&value, &device, &host)?;
        overridden(&device, None)?;
    }
    match before.differences() {
        same if same.is_empty() => Ok(()),
        some => Err(format!("there and back is not where it began:\n{some}").into()),
    }
}

fn nothing_to_give_back(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    json(0, &["bind", device.address()])?;
    let ran = vfioadm(&["unbind", device.address()])?.exits(0)?;
    if !ran.stderr.contains(device.address()) {
        return Err(ran.complaint("no warning that names the device").into());
    }
    on(&device, None)?;
    Ok(overridden(&device, None)?)
}

fn twice(_: Counts) -> Verdict {
    for role in [Role::Mlx5Vf, Role::QatVf, Role::Edu] {
        let device = role.device()?;
        json(0, &["bind", device.address()])?;
        let between = Snapshot::take();
        let value = json(0, &["bind", device.address()])?;
        if result_of(&value, &device)?["changed"] != false || !between.differences().is_empty() {
            return Err(
                format!("{role:?}: the second bind changed something: {value}\n{}", between.differences()).into()
            );
        }
    }
    Ok(())
}

fn vfs(_: Counts) -> Verdict {
    let pf = Role::Igb.device()?;
    pf.write("sriov_drivers_autoprobe", "0")?;
    pf.write("sriov_numvfs", "4")?;
    let vfs = pf.vfs();
    let addresses: Vec<_> = vfs.iter().map(Device::address).collect();
    let value = json(0, &[&["bind"][..], &addresses].concat())?;
    for vf in &vfs {
        bound(&value, vf, "vfio-pci")?;
    }
    let value = json(0, &[&["unbind"][..], &addresses].concat())?;
    for vf in &vfs {
        bound(&value, vf, "igbvf")?;
        overridden(vf, None)?;
    }
    if pf.read("sriov_drivers_autoprobe") != "0" {
        return Err("autoprobe of the PF was changed".to_owned().into());
    }
    Ok(on(&pf, Some("igb"))?)
}

fn none(_: Counts) -> Verdict {
    let device = Role::Virtio.device()?;
    json(0, &["bind", device.address(), "--driver", "none"])?;
    on(&device, None)?;
    overridden(&device, Some("none"))?;
    json(0, &["unbind", device.address()])?;
    on(&device, Some("virtio-pci"))?;
    Ok(overridden(&device, None)?)
}

fn rounds(counts: Counts) -> Verdict {
    let devices = [Role::Virtio, Role::Mlx5Vf, Role::PdsVf].map(Role::device);
    let devices = devices.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut ends = BTreeSet::new();
    for _ in 0..counts.pick(2, 15) {
        let addresses: Vec<_> = devices.iter().map(Device::address).collect();
        json(0, &[&["bind"][..], &addresses].concat())?;
        ends.insert(devices.iter().map(Device::driver).collect::<Vec<_>>());
        for device in &devices {
            device.unbind()?;
            device.write("driver_override", "\n")?;
        }
    }
    if ends.len() == 1 { Ok(()) } else { Err(format!("not every round ended alike: {ends:?}").into()) }
}
