//! The lab's own variants, `lab/kmod`: two drivers whose tables have the same devices, and that refuse, wait and need their
//! PF when they are told to.

use std::time::Duration;

use serde_json::Value;

use super::tool::{bound, json, on, overridden, refused, result_of};
use crate::kmod::{self, Variant};
use crate::machine::Role;
use crate::orders::Counts;
use crate::runner::{Case, Verdict};
use crate::sysfs::{Device, settle};

pub(crate) const CASES: [Case; 6] = [
    Case::new("variants: of two that match, the one whose table names the subsystem is chosen", ranked).within(120),
    Case::new("variants: the first refuses, and the second takes it", second),
    Case::new("variants: both refuse, and vfio-pci takes it", third),
    Case::new("variants: a probe that takes longer than a bind may is left behind, and undone when it has ended", slow)
        .within(240),
    Case::new("variants: one that needs its PF refuses without its driver, and vfio-pci takes it", no_pf),
    Case::new("variants: a VF stays bound when its PF's driver goes, and falls back when it is bound anew", orphaned),
];

/// Two VFs of a PF that is on its own driver; no driver has looked at them.
pub(super) fn vfs_of(role: Role) -> Result<[Device; 2], String> {
    let pf = role.device()?;
    pf.write("sriov_drivers_autoprobe", "0")?;
    pf.write("sriov_numvfs", "2")?;
    pf.vfs().try_into().map_err(|vfs| format!("{pf} has the VFs {vfs:?}"))
}

/// A device of every kind that both tables have.
fn devices() -> Result<[Device; 3], String> {
    let ([igb, _], [nvme, _]) = (vfs_of(Role::Igb)?, vfs_of(Role::NvmePf)?);
    Ok([igb, nvme, Role::Cx5.device()?])
}

fn ranked(_: Counts) -> Verdict {
    kmod::install()?;
    // Of as many wildcards the names would decide, and come out the same.
    let expected = [(Variant::BySubsystem.name(), 3), (Variant::ByDevice.name(), 5), ("vfio-pci", 7)];
    for device in devices()? {
        let matched = json(0, &["match", device.address()])?;
        let candidates = matched["candidates"].as_array().map(Vec::as_slice).unwrap_or_default();
        let told = candidates.iter().filter_map(|one| Some((one["driver"].as_str()?, one["wildcards"].as_u64()?)));
        let told: Vec<_> = told.collect();
        if told != expected {
            return Err(format!("the candidates for {device} are {told:?}: {matched}").into());
        }
        let value = json(0, &["bind", device.address()])?;
        bound(&value, &device, Variant::BySubsystem.name())?;
        overridden(&device, Some(Variant::BySubsystem.name()))?;
    }
    Ok(())
}

fn second(_: Counts) -> Verdict {
    kmod::install()?;
    Variant::BySubsystem.load(&["probe_errno=19"])?;
    for device in devices()? {
        let value = json(0, &["bind", device.address()])?;
        bound(&value, &device, Variant::ByDevice.name())?;
        overridden(&device, Some(Variant::ByDevice.name()))?;
        tried(&value, &device, &[(Variant::BySubsystem.name(), "ENODEV"), (Variant::ByDevice.name(), "")])?;
    }
    Ok(())
}

fn third(_: Counts) -> Verdict {
    kmod::install()?;
    Variant::BySubsystem.load(&["probe_errno=19"])?;
    Variant::ByDevice.load(&["probe_errno=22"])?;
    let refusals = [(Variant::BySubsystem.name(), "ENODEV"), (Variant::ByDevice.name(), "EINVAL")];
    for device in devices()? {
        let value = json(0, &["bind", device.address()])?;
        bound(&value, &device, "vfio-pci")?;
        overridden(&device, Some("vfio-pci"))?;
        tried(&value, &device, &[&refusals[..], &[("vfio-pci", "")]].concat())?;
    }
    // One that stopped to refuse is better than the fallback, and the device is moved to it.
    Variant::ByDevice.set("probe_errno", "0")?;
    let device = Role::Cx5.device()?;
    let value = json(0, &["bind", device.address()])?;
    Ok(bound(&value, &device, Variant::ByDevice.name())?)
}

/// Expects that `tried` tells which drivers were asked, in their order, and what they refused with.
fn tried(value: &Value, device: &Device, expected: &[(&str, &str)]) -> Result<(), String> {
    let result = result_of(value, device)?;
    let told = result["tried"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told: Vec<_> = told.iter().map(|one| (text(&one["driver"]), text(&one["errno"]))).collect();
    let same = told.iter().map(|(driver, errno)| (driver.as_str(), errno.as_str())).eq(expected.iter().copied());
    if same { Ok(()) } else { Err(format!("tried is {told:?}, not {expected:?}: {result}")) }
}

/// A bind may take sixty seconds.
fn slow(_: Counts) -> Verdict {
    kmod::install()?;
    Variant::BySubsystem.load(&["probe_delay_ms=70000"])?;
    let (device, other) = (Role::Cx5.device()?, Role::Edu.device()?);
    let value = json(3, &["bind", device.address(), other.address()])?;
    let (error, result) = (&value["error"], result_of(&value, &device)?);
    let reason = result["reason"].as_str().unwrap_or_default();
    if error["id"] != "half-bound" || value["host"] != "changed" || !reason.contains("half bound") {
        return Err(format!("the probe goes on, and this is what is said: {value}").into());
    }
    // The next driver is not tried, for this one may still take the device; the other device did not wait.
    on(&other, Some("vfio-pci"))?;
    settle("the probe ends", Duration::from_secs(60), || !device.names("vfio-dev").is_empty())?;
    on(&device, Some(Variant::BySubsystem.name()))?;
    json(0, &["undo"])?;
    for device in [&device, &other] {
        on(device, None)?;
        overridden(device, None)?;
    }
    Ok(())
}

fn no_pf(_: Counts) -> Verdict {
    kmod::install()?;
    Variant::BySubsystem.load(&["need_pf=2"])?;
    Variant::ByDevice.load(&["need_pf=2"])?;
    let without_pf = [(Variant::BySubsystem.name(), "ENODEV"), (Variant::ByDevice.name(), "ENODEV"), ("vfio-pci", "")];
    // A function that is no VF, and a VF whose PF has lost its driver: an NVMe PF keeps its VFs.
    let [vf, _] = vfs_of(Role::NvmePf)?;
    Role::NvmePf.device()?.unbind()?;
    for device in [Role::Cx5.device()?, vf] {
        let value = json(0, &["bind", device.address()])?;
        bound(&value, &device, "vfio-pci")?;
        tried(&value, &device, &without_pf)?;
    }
    Ok(())
}

/// An NVMe PF leaves its VFs behind; the variant has lost what it needs, and the kernel shows nothing of it.
fn orphaned(_: Counts) -> Verdict {
    kmod::install()?;
    Variant::BySubsystem.load(&["need_pf=2"])?;
    Variant::ByDevice.load(&["need_pf=2"])?;
    let [vf, _] = vfs_of(Role::NvmePf)?;
    let pf = Role::NvmePf.device()?;
    let value = json(0, &["bind", vf.address()])?;
    bound(&value, &vf, Variant::BySubsystem.name())?;
    let leave = ["bind", pf.address(), "--driver", "none", "--yes", "--allow"];
    refused(&[&leave[..], &["vfs-enabled"]].concat(), "vfs-in-vms")?;
    json(0, &[&leave[..], &["vfs-enabled,vfs-in-vms"]].concat())?;
    on(&pf, None)?;
    on(&vf, Some(Variant::BySubsystem.name()))?;
    json(0, &["bind", vf.address(), "--driver", "none"])?;
    on(&vf, None)?;
    let value = json(0, &["bind", vf.address()])?;
    bound(&value, &vf, "vfio-pci")?;
    let without_pf = [(Variant::BySubsystem.name(), "ENODEV"), (Variant::ByDevice.name(), "ENODEV"), ("vfio-pci", "")];
    Ok(tried(&value, &vf, &without_pf)?)
}
