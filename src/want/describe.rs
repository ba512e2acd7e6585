//! What a host is now, in the words of a host file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::file::{
    DeviceEntry, HostFile, Match, MdevEntry, PfEntry, RangeEntry, Several, SfEntry, Value, VgpuEntry, WqEntry,
};
use super::scalar::{Text, VfRange};
use crate::model::devlink::{Behind, Devlink, EswitchMode, Flavour, PortSetting};
use crate::model::dsa::DsaName;
use crate::model::idxd::WqMode;
use crate::model::vf::{LinkState, Switch, VfAttributes, Vlan};
use crate::model::{Bdf, IdxdDevice, Inventory, PciFunction, PciId, Role, VfIndex, WorkQueue};
use crate::plan::Wanted;
use crate::plan::create::Known;

/// Describes every PF that has VFs, every function on a VFIO driver or kept without one, every mdev, every WQ that is enabled, every
/// subfunction, every VF that is a vGPU.
#[must_use]
pub fn describe(inventory: &Inventory, known: &Known) -> HostFile {
    let mut file = HostFile::default();
    for function in inventory.functions.values() {
        match function.role {
            Role::Pf { enabled: 1.., .. } => file.pf.push(spanned(pf(function, inventory, known))),
            Role::Vf { index: Some(_), .. } => continue,
            _ => {}
        }
        let is_kept = function.driver.is_none() && function.driver_override.as_deref() == Some("none");
        if function.is_vfio() || is_kept {
            let entry =
                DeviceEntry { which: which(function), driver: Text(driver(function)), several: Several::Refuse };
            file.device.push(spanned(entry));
        }
    }
    for mdev in &inventory.mdevs {
        let (Some(parent), Some(kind)) = (&mdev.parent, &mdev.type_id) else { continue };
        let function = parent.as_str().parse::<Bdf>().ok().and_then(|bdf| inventory.functions.get(&bdf));
        file.mdev.push(spanned(MdevEntry {
            uuid: Text(mdev.uuid),
            parent: function.is_none().then(|| Text(parent.clone())),
            which: function.map(which),
            kind: Text(kind.clone()),
            // Which of its attributes somebody has set, and with which values, no driver tells.
            attributes: Vec::new(),
        }));
    }
    for device in &inventory.idxd {
        let Some(function) = device.function.and_then(|bdf| inventory.functions.get(&bdf)) else { continue };
        let enabled = device.work_queues.iter().filter(|queue| queue.enabled);
        file.wq.extend(enabled.filter_map(|queue| Some(spanned(wq(function, device, queue)?))));
    }
    for (pf, devlink) in &known.devlink {
        let Some(function) = inventory.functions.get(pf) else { continue };
        let numbers = devlink.ports.iter().filter_map(|port| port.sf.filter(|_| port.flavour == Some(Flavour::PciSf)));
        let numbers: BTreeSet<u32> = numbers.collect();
        file.sf.extend(numbers.into_iter().filter_map(|sfnum| Some(spanned(sf(function, sfnum, devlink)?))));
    }
    for (vf, vgpu) in &known.vgpus {
        let (Some(kind), Some(vf)) = (vgpu.current, inventory.functions.get(vf)) else { continue };
        let Role::Vf { pf, index: Some(index) } = vf.role else { continue };
        let Some(pf) = inventory.functions.get(&pf) else { continue };
        file.vgpu.push(spanned(VgpuEntry { which: which(pf), vf: index, kind }));
    }
    file
}

/// A subfunction of this host.
fn sf(pf: &PciFunction, sfnum: u32, devlink: &Devlink) -> Option<SfEntry> {
    let function = Behind::Sf(sfnum).port_in(&devlink.ports)?.function.clone().unwrap_or_default();
    let mut set = BTreeMap::new();
    let mut put = |setting: PortSetting, value: String| drop(set.insert(setting.key().to_owned(), Value::of(&value)));
    for setting in function.kept() {
        match setting {
            PortSetting::HwAddr(mac) if !mac.is_zero() && !mac.is_multicast() => put(setting, mac.to_string()),
            PortSetting::Roce(switch) => put(setting, switch.to_string()),
            PortSetting::MaxIoEqs(count) => put(setting, count.to_string()),
            _ => {}
        }
    }
    if let Some(state) = function.state {
        put(PortSetting::State(state), state.to_string());
    }
    Some(SfEntry { which: which(pf), sfnum, set })
}

/// A WQ that is enabled. Attributes that not every kernel has are left as they are.
fn wq(function: &PciFunction, device: &IdxdDevice, queue: &WorkQueue) -> Option<WqEntry> {
    let DsaName::Queue(_, index) = queue.address.as_str().parse().ok()? else { return None };
    let driver = queue.driver.as_ref()?;
    let mut set = BTreeMap::new();
    let mut put = |key: &str, value: &str| drop(set.insert(key.to_owned(), Value::of(value)));
    put("type", queue.kind.as_str());
    put("mode", queue.mode.as_str());
    put("size", &queue.size.to_string());
    put("priority", &queue.priority.to_string());
    put("name", &queue.name);
    put("driver-name", driver.as_str());
    if queue.mode == WqMode::Shared {
        put("threshold", &queue.threshold.to_string());
    }
    if let Some(group) = queue.group {
        put("group", &group.to_string());
        let engine = device.engines.iter().find(|engine| engine.group == Some(group));
        if let Some(Ok(DsaName::Engine(_, engine))) = engine.map(|engine| engine.name.as_str().parse()) {
            put("engine", &engine.to_string());
        }
    }
    Some(WqEntry { which: which(function), wq: index, set })
}

pub(super) fn spanned<T>(value: T) -> toml::Spanned<T> {
    toml::Spanned::new(0..0, value)
}

/// What it is and where: another product there is not it.
pub(super) fn which(function: &PciFunction) -> Match {
    Match {
        id: Text(PciId::of(&function.alias)),
        subsystem: Some(Text(PciId::of_subsystem(&function.alias))),
        address: Some(Text(function.bdf)),
        serial: None,
        mac: None,
        guid: None,
        netdev: None,
        slot: None,
        pf: None,
        vf: None,
    }
}

/// A VFIO driver by its name, and one that somebody forced; any other is the host's.
fn driver(function: &PciFunction) -> Wanted {
    match &function.driver {
        None => Wanted::None,
        Some(driver) if function.is_vfio() || function.driver_override.as_deref() == Some(driver.as_str()) => {
            Wanted::Named(driver.clone())
        }
        Some(_) => Wanted::Host,
    }
}

fn pf(function: &PciFunction, inventory: &Inventory, known: &Known) -> PfEntry {
    let pf = function.bdf;
    let pool = known.pools.get(&pf);
    let mut ranges: Vec<(RangeEntry, BTreeSet<VfIndex>)> = Vec::new();
    let mut vfs = 0;
    let mut all: Vec<(VfIndex, &PciFunction)> = Vec::new();
    for vf in inventory.vfs_of(pf) {
        vfs += 1;
        if let Role::Vf { index: Some(index), .. } = vf.role {
            all.push((index, vf));
        }
    }
    all.sort_unstable_by_key(|(index, _)| *index);
    for (index, vf) in all {
        // One of a pool that is there to be given.
        let is_free = pool.is_some_and(|pool| pool.ours && !pool.given.contains(&index)) && vf.driver.is_none();
        if is_free {
            continue;
        }
        let (driver, set) = (Text(driver(vf)), set(pf, index, known));
        match ranges.iter_mut().find(|(range, _)| range.driver == driver && range.set == set) {
            Some((_, indices)) => drop(indices.insert(index)),
            None => {
                let Ok(vfs) = index.to_string().parse() else { continue };
                ranges.push((RangeEntry { vfs: Text(vfs), driver, set }, BTreeSet::from([index])));
            }
        }
    }
    let range = ranges.into_iter().map(|(range, indices)| {
        let vfs = VfRange::of(&indices).map_or(range.vfs.clone(), Text);
        spanned(RangeEntry { vfs, ..range })
    });
    let range: Vec<_> = range.collect();
    let eswitch = known.devlink.get(&pf).and_then(|devlink| devlink.eswitch);
    let eswitch = eswitch.filter(|mode| *mode == EswitchMode::Switchdev && !range.is_empty());
    PfEntry { which: which(function), vfs, eswitch: eswitch.map(Text), range }
}

/// What a VF has that a new one has not, as `--set` takes it.
fn set(pf: Bdf, index: VfIndex, known: &Known) -> BTreeMap<String, Value> {
    let mut set = BTreeMap::new();
    let mut put = |key: &str, value: String| drop(set.insert(key.to_owned(), Value::of(&value)));
    if let Some(of) = known.attributes.get(&(pf, index)) {
        kept(of, &mut put);
    }
    if let Some(count) = known.pools.get(&pf).and_then(|pool| pool.msix_of(index)) {
        put("msix", count.to_string());
    }
    let port = known.devlink.get(&pf).and_then(|devlink| Behind::Vf(index).port_in(&devlink.ports)?.function.as_ref());
    for setting in port.into_iter().flat_map(|function| {
        [PortSetting::Roce(Switch::Off), PortSetting::Migratable(Switch::On)]
            .into_iter()
            .filter(|to| to.told_by(function) == Some(*to))
    }) {
        let value = match setting {
            PortSetting::Roce(switch) | PortSetting::Migratable(switch) => switch.to_string(),
            _ => continue,
        };
        put(setting.key(), value);
    }
    set
}

/// What the PF's driver reports, where it is not what a new VF has on every driver.
fn kept(of: &VfAttributes, put: &mut impl FnMut(&str, String)) {
    if let Some(mac) = of.mac.filter(|mac| !mac.is_zero() && !mac.is_multicast()) {
        put("mac", mac.to_string());
    }
    if let Some(vlan) = of.vlan.filter(|vlan| *vlan != Vlan::NONE && vlan.id() <= 4094) {
        put("vlan", vlan.id().to_string());
        put("qos", vlan.qos().to_string());
        put("proto", vlan.proto().to_string());
    }
    let rates = [("min-rate", of.min_tx_rate_mbps), ("max-rate", of.max_tx_rate_mbps)];
    if rates.iter().any(|(_, rate)| rate.is_some_and(|rate| rate > 0)) {
        rates.into_iter().for_each(|(key, rate)| put(key, rate.unwrap_or(0).to_string()));
    }
    if let Some(switch) = of.spoofchk {
        put("spoofchk", switch.to_string());
    }
    if of.trust == Some(Switch::On) {
        put("trust", Switch::On.to_string());
    }
    if let Some(state) = of.link_state.filter(|state| *state != LinkState::Auto) {
        put("link-state", state.to_string());
    }
    for (key, guid) in [("node-guid", of.node_guid), ("port-guid", of.port_guid)] {
        if let Some(guid) = guid.filter(|guid| guid.number() != 0) {
            put(key, guid.to_string());
        }
    }
}

impl HostFile {
    /// The text of it, tables in the order of the file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut block = |title: &str, lines: &[String]| {
            if !text.is_empty() {
                text.push('\n');
            }
            let written = writeln!(text, "{title}");
            debug_assert!(written.is_ok(), "a String takes all that it is given");
            for line in lines {
                text.push_str(line);
                text.push('\n');
            }
        };
        for entry in &self.pf {
            let entry = entry.as_ref();
            let mut lines = vec![format!("match = {}", inline(&entry.which)), format!("vfs = {}", entry.vfs)];
            lines.extend(entry.eswitch.map(|mode| format!("eswitch = \"{}\"", mode.0)));
            block("[[pf]]", &lines);
            for range in &entry.range {
                let range = range.as_ref();
                let mut lines =
                    vec![format!("vfs = {}", inline(&range.vfs)), format!("driver = {}", inline(&range.driver))];
                if !range.set.is_empty() {
                    lines.push(format!("set = {}", inline(&range.set)));
                }
                block("[[pf.range]]", &lines);
            }
        }
        for entry in &self.device {
            let entry = entry.as_ref();
            let mut lines =
                vec![format!("match = {}", inline(&entry.which)), format!("driver = {}", inline(&entry.driver))];
            if !entry.several.is_refused() {
                lines.push(String::from("several = \"each\""));
            }
            block("[[device]]", &lines);
        }
        for entry in &self.mdev {
            let entry = entry.as_ref();
            let mut lines = vec![format!("uuid = {}", inline(&entry.uuid))];
            lines.extend(entry.parent.as_ref().map(|parent| format!("parent = {}", inline(parent))));
            lines.extend(entry.which.as_ref().map(|which| format!("match = {}", inline(which))));
            lines.push(format!("type = {}", inline(&entry.kind)));
            if !entry.attributes.is_empty() {
                lines.push(format!("attributes = {}", inline(&entry.attributes)));
            }
            block("[[mdev]]", &lines);
        }
        for entry in &self.wq {
            let entry = entry.as_ref();
            let mut lines = vec![format!("match = {}", inline(&entry.which)), format!("wq = {}", entry.wq)];
            if !entry.set.is_empty() {
                lines.push(format!("set = {}", inline(&entry.set)));
            }
            block("[[wq]]", &lines);
        }
        for entry in &self.sf {
            let entry = entry.as_ref();
            let mut lines = vec![format!("match = {}", inline(&entry.which)), format!("sfnum = {}", entry.sfnum)];
            if !entry.set.is_empty() {
                lines.push(format!("set = {}", inline(&entry.set)));
            }
            block("[[sf]]", &lines);
        }
        for entry in &self.vgpu {
            let entry = entry.as_ref();
            let which = format!("match = {}", inline(&entry.which));
            block("[[vgpu]]", &[which, format!("vf = {}", entry.vf), format!("type = {}", entry.kind)]);
        }
        text
    }
}

/// A value on one line.
fn inline(value: &impl serde::Serialize) -> String {
    let mut text = String::new();
    let written = value.serialize(toml::ser::ValueSerializer::new(&mut text));
    debug_assert!(written.is_ok(), "every type of a host file can be written");
    text
}
