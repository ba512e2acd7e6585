//! The right driver: variants that take the device, variants that refuse it, and what is said about either.

use serde_json::Value;

use super::tool::{bound, json, on, overridden, refused, result_of};
use crate::machine::Role;
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};

pub(crate) const CASES: [Case; 10] = [
    Case::new("bind: 15b3:101e goes to mlx5_vfio_pci", mlx5),
    Case::new("bind: qat_vfio_pci refuses 8086:4941 with ENODEV, vfio-pci takes it", qat),
    Case::new("bind: pds_vfio_pci refuses 1dd8:1003 with EINVAL, vfio-pci takes it", pds),
    Case::new("bind: 1af4:1041 goes to virtio_vfio_pci, without migration", virtio),
    Case::new("bind: edu goes to vfio-pci", edu),
    Case::new("bind: 15b3:1018 forced to mlx5_vfio_pci is refused", cx5),
    Case::new("bind: --no-fallback leaves a refused device as it was", no_fallback),
    Case::new("bind: a driver named by hand is taken literally", by_hand),
    Case::new("bind: a driver that does not exist is refused", no_such_driver),
    Case::new("bind: a variant that is part of the kernel is found and chosen", built_in),
];

fn mlx5(_: Counts) -> Verdict {
    let device = Role::Mlx5Vf.device()?;
    let value = json(0, &["bind", device.address()])?;
    bound(&value, &device, "mlx5_vfio_pci")?;
    Ok(overridden(&device, Some("mlx5_vfio_pci"))?)
}

fn qat(_: Counts) -> Verdict {
    fallback(Role::QatVf, "qat_vfio_pci", "ENODEV")
}

fn pds(_: Counts) -> Verdict {
    fallback(Role::PdsVf, "pds_vfio_pci", "EINVAL")
}

fn fallback(role: Role, variant: &str, errno: &str) -> Verdict {
    let device = role.device()?;
    let value = json(0, &["bind", device.address()])?;
    bound(&value, &device, "vfio-pci")?;
    overridden(&device, Some("vfio-pci"))?;
    refused_by(&value, role, variant, errno)
}

/// Expects that `tried` tells which driver refused and with what.
fn refused_by(value: &Value, role: Role, variant: &str, errno: &str) -> Verdict {
    let result = result_of(value, &role.device()?)?;
    let tried = result["tried"].as_array().map(Vec::as_slice).unwrap_or_default();
    let told = tried.iter().any(|one| one["driver"] == variant && one["errno"].as_str() == Some(errno));
    if told { Ok(()) } else { Err(format!("tried does not tell that {variant} answered {errno}: {result}").into()) }
}

fn virtio(_: Counts) -> Verdict {
    let device = Role::Virtio.device()?;
    let matched = json(0, &["match", device.address()])?;
    if !matched["chosen"].to_string().contains("migrat") {
        return Err(format!("match does not say that migration is absent: {}", matched["chosen"]).into());
    }
    let value = json(0, &["bind", device.address()])?;
    Ok(bound(&value, &device, "virtio_vfio_pci")?)
}

fn edu(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    let value = json(0, &["bind", device.address()])?;
    Ok(bound(&value, &device, "vfio-pci")?)
}

fn cx5(_: Counts) -> Verdict {
    let device = Role::Cx5.device()?;
    refused(&["bind", device.address(), "--driver", "mlx5_vfio_pci"], "driver-mismatch")?;
    on(&device, None)?;
    Ok(overridden(&device, None)?)
}

fn no_fallback(_: Counts) -> Verdict {
    let device = Role::QatVf.device()?;
    let value = json(1, &["bind", device.address(), "--no-fallback"])?;
    if value["host"] != "as_it_was" || value["error"]["id"].is_null() {
        return Err(format!("host is {} and error {}", value["host"], value["error"]).into());
    }
    on(&device, None)?;
    Ok(overridden(&device, None)?)
}

fn by_hand(_: Counts) -> Verdict {
    let device = Role::Mlx5Vf.device()?;
    let value = json(0, &["bind", device.address(), "--driver", "vfio-pci"])?;
    Ok(bound(&value, &device, "vfio-pci")?)
}

fn no_such_driver(_: Counts) -> Verdict {
    let device = Role::Edu.device()?;
    json(1, &["bind", device.address(), "--driver", "no_such_driver"])?;
    // A module's name where the driver's is asked for: the kernel would take it and bind nothing.
    json(1, &["bind", device.address(), "--driver", "vfio_pci"])?;
    on(&device, None)?;
    Ok(overridden(&device, None)?)
}

fn built_in(_: Counts) -> Verdict {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let builtin = std::fs::read_to_string(format!("/lib/modules/{release}/modules.builtin")).unwrap_or_default();
    if !builtin.contains("virtio-vfio-pci.ko") {
        return Err(Stop::Skip("virtio_vfio_pci is a module in this kernel".to_owned()));
    }
    let device = Role::Virtio.device()?;
    let matched = json(0, &["match", device.address()])?;
    if matched["chosen"]["driver"] != "virtio_vfio_pci" {
        return Err(format!("chosen: {}", matched["chosen"]).into());
    }
    let value = json(0, &["bind", device.address()])?;
    Ok(bound(&value, &device, "virtio_vfio_pci")?)
}
