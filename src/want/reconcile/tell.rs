//! What is going to happen to a device, in a line.

use uuid::Uuid;

use crate::model::devlink::PortSetting;
use crate::model::dsa::DsaName;
use crate::model::vgpu::VgpuTypeId;
use crate::model::{Bdf, Inventory, Mdev, MdevAttribute, PciFunction, Role, Target, VfIndex, Vgpu, counted};
use crate::plan::making::Pf;
use crate::plan::subfunctions::Comes;
use crate::step::{Lane, MdevOf, Setting, Step};
use crate::want::scalar::VfRange;

/// What kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// It is not there, and is made.
    Make,
    /// It is there, and becomes different.
    Alter,
    /// It goes.
    Remove,
}

impl Sign {
    /// `+`, `~`, `-`.
    #[must_use]
    pub const fn as_char(self) -> char {
        match self {
            Self::Make => '+',
            Self::Alter => '~',
            Self::Remove => '-',
        }
    }
}

/// One change of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What kind.
    pub sign: Sign,
    /// Of what.
    pub target: Target,
    /// From what to what.
    pub words: String,
    /// What goes and does not come back when it is undone.
    pub lost: Option<String>,
}

fn on(driver: Option<&crate::model::DriverName>) -> String {
    driver.map_or_else(|| String::from("none"), ToString::to_string)
}

/// The drivers that a lane tries: `driver iavf -> mlx5_vfio_pci, else vfio-pci`.
fn driver(from: Option<String>, lane: &Lane) -> Option<String> {
    let mut tried = lane.attempts.iter();
    let first = tried.next()?;
    let name = |attempt: &crate::step::Attempt| match &attempt.driver {
        Some(driver) => driver.to_string(),
        None if attempt.steps.iter().any(|step| matches!(step, Step::Reprobe { .. })) => {
            String::from("what the kernel chooses")
        }
        None => String::from("none"),
    };
    let mut words = match from {
        Some(from) if from != name(first) => format!("driver {from} -> {}", name(first)),
        Some(_) => format!("driver {} again", name(first)),
        None => format!("driver {}", name(first)),
    };
    for next in tried {
        words.push_str(", else ");
        words.push_str(&name(next));
    }
    Some(words)
}

/// What a lane sets, without the name of the VF, which the line begins with.
fn settings(lane: &Lane) -> Vec<String> {
    let set = lane.prepare.iter().filter_map(|step| match step {
        Step::Set { to: Setting::Vf { to, .. }, .. } => Some(to.to_string()),
        Step::Set { to: Setting::Port { to, .. }, .. } => Some(to.to_string()),
        Step::Set { to, .. } => Some(to.to_string()),
        _ => None,
    });
    set.collect()
}

fn joined(lane: &Lane, driver: Option<String>) -> String {
    let mut all = settings(lane);
    all.extend(driver);
    if all.is_empty() { String::from("no driver") } else { all.join(", ") }
}

/// A function that gets another driver.
pub(super) fn of_device(function: &PciFunction, lane: &Lane, inventory: &Inventory) -> Change {
    let has_vfs = matches!(function.role, Role::Pf { enabled: 1.., .. }) && function.driver.is_some();
    let lost = has_vfs.then(|| {
        let vfs: Vec<String> = inventory.vfs_of(function.bdf).map(PciFunction::on_driver).collect();
        format!("its VFs may go with its driver: {}", vfs.join(", "))
    });
    let words = driver(Some(on(function.driver.as_ref())), lane);
    let words = words.unwrap_or_else(|| String::from("override cleared"));
    Change { sign: Sign::Alter, target: lane.device, words, lost: lost.filter(|_| !lane.attempts.is_empty()) }
}

/// A VF that is there and gets another driver, or is set.
pub(super) fn of_vf(vf: &PciFunction, lane: &Lane) -> Change {
    let words = joined(lane, driver(Some(on(vf.driver.as_ref())), lane));
    Change { sign: Sign::Alter, target: lane.device, words, lost: None }
}

/// A PF that gets another number of VFs, and those that are given.
pub(super) fn of_vfs(there: Pf<'_>, wanted: u16, lanes: &[Lane], inventory: &Inventory) -> Vec<Change> {
    let pf = there.function.bdf;
    let mut words = match (there.enabled, wanted) {
        (now, wanted) if now == wanted => format!("its {} made anew", counted(now, "VF")),
        (now, wanted) => format!("VFs {now} -> {wanted}"),
    };
    let steps = lanes.first().map(|lane| lane.finish.as_slice()).unwrap_or_default();
    for step in steps {
        if let Step::Set { to: to @ (Setting::Autoprobe(_) | Setting::Eswitch(_)), .. } = step {
            words.push_str(&format!(", {to}"));
        }
    }
    let lost = (there.enabled > 0).then(|| gone(pf, inventory));
    let sign = if wanted == 0 { Sign::Remove } else { Sign::Alter };
    let mut changes = vec![Change { sign, target: Target::Pci(pf), words, lost }];
    for lane in lanes.iter().skip(1) {
        let words = joined(lane, driver(None, lane));
        changes.push(Change { sign: Sign::Make, target: lane.device, words, lost: None });
    }
    changes
}

/// VFs that go, as many as a line holds.
fn gone(pf: Bdf, inventory: &Inventory) -> String {
    const MOST: usize = 8;
    let all: Vec<String> = inventory.vfs_of(pf).map(PciFunction::on_driver).collect();
    let more = all.len().saturating_sub(MOST);
    let shown = all[..all.len() - more].join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("its {} go first, with all that they have: {shown}{more}", counted(all.len() as u64, "VF"))
}

/// VFs that vfioadm is to remember as given.
pub(super) fn of_pool(pf: Bdf, indices: impl Iterator<Item = VfIndex>) -> Change {
    let range = VfRange::of(&indices.collect()).map(|range| range.to_string()).unwrap_or_default();
    let words = format!("vf {range} is not for vfioadm create to give");
    Change { sign: Sign::Alter, target: Target::Pci(pf), words, lost: None }
}

/// An mdev that is made, or made anew.
pub(super) fn of_mdev(uuid: Uuid, there: Option<&Mdev>, wanted: &MdevOf, attributes: &[MdevAttribute]) -> Change {
    let mut now = format!("{} of {}", wanted.kind, wanted.parent);
    attributes.iter().for_each(|of| now.push_str(&format!(", {of}")));
    let target = Target::Mdev(uuid);
    match there {
        None => Change { sign: Sign::Make, target, words: now, lost: None },
        Some(mdev) => {
            let part = |part: &Option<crate::model::BusName>| {
                part.as_ref().map_or_else(|| String::from("unknown"), ToString::to_string)
            };
            let was = format!("{} of {}", part(&mdev.type_id), part(&mdev.parent));
            let lost = Some(format!("the mdev that is there goes first: {was}"));
            Change { sign: Sign::Alter, target, words: format!("{was} -> {now}"), lost }
        }
    }
}

/// An attribute of an mdev that is there and stays.
pub(super) fn of_attribute(uuid: Uuid, to: &MdevAttribute, now: &str) -> Change {
    let now = if now.is_empty() { "''" } else { now };
    let words = format!("{} {now} -> {}", to.name, to.value);
    Change { sign: Sign::Alter, target: Target::Mdev(uuid), words, lost: None }
}

/// A WQ that is set while it is enabled.
pub(super) fn of_queue(target: Target, words: String) -> Change {
    Change { sign: Sign::Alter, target, words, lost: None }
}

/// A WQ that is enabled.
pub(super) fn of_new_queue(name: DsaName, words: String, others: &str) -> Change {
    Change { sign: Sign::Make, target: Target::Dsa(name), words, lost: of_others(others) }
}

/// An idxd device that is enabled.
pub(super) fn of_idxd(name: DsaName, others: &str) -> Change {
    Change { sign: Sign::Alter, target: Target::Dsa(name), words: String::from("enabled"), lost: of_others(others) }
}

/// What somebody else has configured of an idxd device that is enabled.
fn of_others(others: &str) -> Option<String> {
    let words = || format!("somebody has configured {others}: that is enabled too, and lost when it is undone");
    (!others.is_empty()).then(words)
}

/// A subfunction that is made.
pub(super) fn of_subfunction(lane: &Lane) -> Change {
    let settings = lane.finish.iter().filter_map(|step| match step {
        Step::Set { to: Setting::Port { to, .. }, .. } => Some(to.to_string()),
        _ => None,
    });
    let words: Vec<String> = settings.collect();
    Change { sign: Sign::Make, target: lane.device, words: words.join(", "), lost: None }
}

/// A subfunction that is there and is set.
pub(super) fn of_set_subfunction(target: Target, all: &[(PortSetting, PortSetting)], comes: Comes) -> Change {
    let value = |setting: &PortSetting| setting.to_string().rsplit(' ').next().unwrap_or_default().to_owned();
    let words: Vec<String> =
        all.iter().map(|(now, to)| format!("{} {} -> {}", to.key(), value(now), value(to))).collect();
    let lost = (comes == Comes::Back)
        .then(|| String::from("its auxiliary device goes and comes back, with another network interface"));
    Change { sign: Sign::Alter, target, words: words.join(", "), lost }
}

/// A VF that is made a vGPU, or one of another type.
pub(super) fn of_vgpu(target: Target, id: VgpuTypeId, now: Option<VgpuTypeId>, vf: Option<&Vgpu>) -> Change {
    match now {
        None => {
            let name = vf.and_then(|vf| vf.creatable.iter().find(|kind| kind.id == id)).map(|kind| &kind.name);
            let name = name.map_or_else(String::new, |name| format!(", {name}"));
            Change { sign: Sign::Make, target, words: format!("vGPU type {id}{name}"), lost: None }
        }
        Some(now) => {
            let lost = Some(String::from("the vGPU that is there goes first, with what it was given beside its type"));
            Change { sign: Sign::Alter, target, words: format!("vGPU type {now} -> {id}"), lost }
        }
    }
}
