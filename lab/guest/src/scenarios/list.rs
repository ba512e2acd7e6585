//! `list` shows what is there, no more and no less.

use std::collections::BTreeMap;
use std::process::Command;

use super::tool::{json, vfioadm};
use crate::machine::Role;
use crate::orders::Counts;
use crate::runner::{Case, Verdict};

pub(crate) const CASES: [Case; 5] = [
    Case::new("list: the same functions, ids and drivers as lspci", same_as_lspci),
    Case::new("list: VFs stand with their PF and their index", vfs),
    Case::new("list: overrides and groups are sysfs's own", overrides),
    Case::new("record: a recorded host lists as the live one", recorded),
    Case::new("match: the variant first, vfio-pci last", ranks),
];

const RECORDING: &str = "/tmp/recorded.host";

/// Ids, class and driver.
type Shown = (String, String, String, Option<String>);

/// `lspci -Dnk`: a line per function, then indented lines about it.
fn lspci() -> Result<BTreeMap<String, Shown>, String> {
    let output = Command::new("lspci").arg("-Dnk").output().map_err(|error| format!("start lspci: {error}"))?;
    let mut all = BTreeMap::new();
    let mut last = None;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(driver) = line.trim_start().strip_prefix("Kernel driver in use: ") {
            if let Some((_, _, _, shown)) = last.as_ref().and_then(|address: &String| all.get_mut(address)) {
                *shown = Some(driver.to_owned());
            }
        } else if !line.starts_with(char::is_whitespace) {
            let mut words = line.split_whitespace();
            let (Some(address), Some(class), Some(id)) = (words.next(), words.next(), words.next()) else { continue };
            let (vendor, device) = id.split_once(':').ok_or_else(|| format!("lspci printed {line:?}"))?;
            let shown = (vendor.to_owned(), device.to_owned(), class.trim_end_matches(':').to_owned(), None);
            all.insert(address.to_owned(), shown);
            last = Some(address.to_owned());
        }
    }
    Ok(all)
}

fn same_as_lspci(_: Counts) -> Verdict {
    let expected = lspci()?;
    let value = json(0, &["list"])?;
    let mut seen = BTreeMap::new();
    for device in value["devices"].as_array().ok_or_else(|| format!("no devices in {value}"))? {
        let text = |key: &str| device[key].as_str().unwrap_or_default().to_owned();
        if text("role") == "mdev" {
            continue;
        }
        let class = text("class").chars().take(4).collect();
        let shown = (text("vendor"), text("device"), class, device["driver"].as_str().map(str::to_owned));
        seen.insert(text("address"), shown);
    }
    if seen == expected {
        return Ok(());
    }
    let odd = |of: &BTreeMap<String, Shown>, other: &BTreeMap<String, Shown>| {
        of.iter()
            .filter(|(key, value)| other.get(*key) != Some(*value))
            .map(|entry| format!("{entry:?}"))
            .collect::<Vec<_>>()
    };
    Err(format!("list: {:?}\nlspci: {:?}", odd(&seen, &expected), odd(&expected, &seen)).into())
}

fn vfs(_: Counts) -> Verdict {
    let pf = Role::Igb.device()?;
    pf.write("sriov_drivers_autoprobe", "0")?;
    pf.write("sriov_numvfs", "3")?;
    let value = json(0, &["list", "--pf", pf.address()])?;
    let devices = value["devices"].as_array().ok_or_else(|| format!("no devices in {value}"))?;
    let mut shown: Vec<_> = devices
        .iter()
        .map(|device| (device["vf_index"].as_u64(), device["address"].as_str(), device["pf"].as_str(), &device["role"]))
        .collect();
    shown.sort_by_key(|(index, ..)| *index);
    for (index, vf) in (0..).zip(pf.vfs()) {
        let Some((number, address, of, role)) = shown.get(index) else {
            return Err(format!("list --pf {pf} shows {} VFs of 3: {value}", shown.len()).into());
        };
        if *number != u64::try_from(index).ok()
            || *address != Some(vf.address())
            || *of != Some(pf.address())
            || *role != "vf"
        {
            return Err(format!("VF {index} of {pf} is {vf}, and list shows {:?}", shown[index]).into());
        }
        let named = vfioadm(&["show", &format!("{pf}/vf{index}"), "-o", "json"])?.exits(0)?;
        if !named.stdout.contains(vf.address()) {
            return Err(named.complaint(&format!("does not name {vf}")).into());
        }
    }
    Ok(())
}

fn overrides(_: Counts) -> Verdict {
    let edu = Role::Edu.device()?;
    edu.write("driver_override", "vfio-pci")?;
    let value = json(0, &["list"])?;
    for device in value["devices"].as_array().ok_or_else(|| format!("no devices in {value}"))? {
        let address = device["address"].as_str().unwrap_or_default();
        let expected = if address == edu.address() { Some("vfio-pci") } else { None };
        if device["override"].as_str() != expected {
            return Err(format!("{address}: override {}, expected {expected:?}", device["override"]).into());
        }
    }
    Ok(())
}

fn recorded(_: Counts) -> Verdict {
    vfioadm(&["record", RECORDING])?.exits(0)?;
    let (live, recorded) = (json(0, &["list"])?, json(0, &["list", "--host", RECORDING])?);
    if live["devices"] == recorded["devices"] {
        return Ok(());
    }
    let lines = |value: &serde_json::Value| -> Vec<String> {
        value["devices"].as_array().into_iter().flatten().map(ToString::to_string).collect()
    };
    let (live, recorded) = (lines(&live), lines(&recorded));
    let odd =
        |of: &[String], other: &[String]| of.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>();
    Err(format!("live: {:?}\nrecorded: {:?}", odd(&live, &recorded), odd(&recorded, &live)).into())
}

fn ranks(_: Counts) -> Verdict {
    let expected = [
        (Role::Mlx5Vf, "mlx5_vfio_pci"),
        (Role::QatVf, "qat_vfio_pci"),
        (Role::PdsVf, "pds_vfio_pci"),
        (Role::Virtio, "virtio_vfio_pci"),
        (Role::Edu, "vfio-pci"),
        (Role::Cx5, "vfio-pci"),
    ];
    for (role, first) in expected {
        let device = role.device()?;
        let value = json(0, &["match", device.address()])?;
        let names: Vec<_> =
            value["candidates"].as_array().into_iter().flatten().filter_map(|one| one["driver"].as_str()).collect();
        if names.first() != Some(&first) || names.last() != Some(&"vfio-pci") || value["chosen"]["driver"] != first {
            return Err(
                format!("{role:?} {device}: {names:?}, expected {first} first and vfio-pci last: {value}").into()
            );
        }
    }
    Ok(())
}
