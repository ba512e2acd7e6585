//! Settings that are neither override nor driver: what a device is set to, how it is set, and whether it shows.

mod devlink;
mod dsa;

pub use devlink::Request;
pub(super) use devlink::subfunction;
pub(super) use dsa::{driver as dsa_driver, explained};

use super::act::{Act, Change, gone, refuse_open};
use super::{State, StepError, place, state};
use crate::host::{HostError, HostPath, Links, Read, Verb, mdev_attribute, optional, pf_netdev, vf_list};
use crate::model::vf::{NetdevName, Switch};
use crate::model::{Bdf, Errno, Hook, HookWay, MdevAttribute, Target, VfIndex};
use crate::step::{MdevOf, Pool, Setting, Undo};

/// What NVIDIA's driver makes of a VF.
const VGPU_TYPE: &str = "nvidia/current_vgpu_type";

/// What `device` is set to, of the kind of `like`; `None` when it is not there, or is not told.
pub(super) fn now(host: &dyn Links, device: Target, like: &Setting) -> Result<Option<Setting>, StepError> {
    let bdf = place(host, device)?;
    Ok(match (like, device, bdf) {
        (Setting::Autoprobe(_), _, Some(pf)) => {
            let text = optional(host.text(&HostPath::pci(pf).attr("sriov_drivers_autoprobe")))?;
            text.map(|text| Setting::Autoprobe(if text == "0" { Switch::Off } else { Switch::On }))
        }
        (Setting::Vfs(_), _, Some(pf)) => {
            optional(host.list(&HostPath::pci(pf)))?.map(|names| Setting::Vfs(vfs_among(&names)))
        }
        (Setting::Vf { pf, index, to }, ..) => {
            let list = vf_list(host, *pf)?.ok_or_else(|| no_netdev(*pf))?;
            let told = list.vfs.get(index).and_then(|attributes| attributes.value_of(to));
            told.map(|to| Setting::Vf { pf: *pf, index: *index, to })
        }
        // Written and never read: it is there, or it is not.
        (Setting::MsixCount(to), _, Some(vf)) => match host.link(&HostPath::pci(vf).attr("sriov_vf_msix_count")) {
            Ok(_) | Err(HostError { errno: Errno::EINVAL, .. }) => {
                Some(Setting::MsixCount(msix_before(host, device, *to)?))
            }
            Err(error) => return Err(error.into()),
        },
        (Setting::Hook(hook), _, Some(_)) => {
            let set = hooked(host, (hook.pf, hook.index))?;
            Some(Setting::Hook(set.unwrap_or_else(|| hook.that_way(HookWay::Undo))))
        }
        (Setting::Pool(_), Target::Pci(pf), _) => Some(Setting::Pool(pool(host, pf)?)),
        (Setting::Mdev(_), Target::Mdev(uuid), _) => Some(Setting::Mdev(mdev(host, uuid)?)),
        (Setting::MdevAttribute(like), Target::Mdev(uuid), _) => {
            let told = mdev_attribute(host, uuid, &like.name);
            told.map(|value| Setting::MdevAttribute(MdevAttribute { name: like.name.clone(), value }))
        }
        (Setting::Vgpu(_), _, Some(vf)) => {
            let text = optional(host.text(&HostPath::pci(vf).attr(VGPU_TYPE)))?;
            text.and_then(|text| text.trim().parse().ok()).map(Setting::Vgpu)
        }
        (Setting::Dsa(like), ..) => dsa::now(host, like)?.map(Setting::Dsa),
        (Setting::DsaDriver(_), Target::Dsa(name), _) => Some(Setting::DsaDriver(dsa::bound(host, name)?)),
        (Setting::Eswitch(_), Target::Pci(pf), _) => devlink::eswitch(host, pf)?.map(Setting::Eswitch),
        (Setting::Port { pf, behind, to }, ..) => {
            devlink::told(host, (*pf, *behind), *to)?.map(|to| Setting::Port { pf: *pf, behind: *behind, to })
        }
        (Setting::Sf(_), Target::Sf { pf, sfnum }, _) => Some(Setting::Sf(subfunction(host, pf, sfnum)?)),
        _ => None,
    })
}

/// What vfioadm remembers of the VFs that it enabled on a PF. One that speaks of another number of VFs than there are is of
/// VFs that are gone.
///
/// # Errors
/// What the kernel refused; `EINVAL` when it is not as it was written.
pub(crate) fn pool(host: &dyn Read, pf: Bdf) -> Result<Option<Pool>, HostError> {
    let path = HostPath::pool(pf);
    let Some(text) = optional(host.text(&path))? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|_| HostError::new(Verb::Read, path, Errno::EINVAL))
}

/// What was given to the hook that has made a VF ready, as far as vfioadm knows: what the tool did it alone can tell.
///
/// # Errors
/// What the kernel refused; `EINVAL` when it is not as it was written.
pub(crate) fn hooked(host: &dyn Read, vf: (Bdf, VfIndex)) -> Result<Option<Hook>, HostError> {
    let path = HostPath::hooked(vf.0, vf.1);
    let Some(text) = optional(host.text(&path))? else { return Ok(None) };
    Hook::noted(vf, &text).map(Some).ok_or_else(|| HostError::new(Verb::Read, path, Errno::EINVAL))
}

/// The count of MSI-X vectors that a VF had before it gets `to`: the one that it was given with, and the driver's own before.
fn msix_before(host: &dyn Read, device: Target, to: u32) -> Result<u32, HostError> {
    let Target::Vf { pf, index } = device else { return Ok(0) };
    let given = pool(host, pf)?.and_then(|pool| pool.msix_of(index));
    Ok(given.filter(|given| *given != to).unwrap_or(0))
}

/// The change that brings `device` to `to`; `None` when it is so already. Of a device that is made in the same plan there is
/// nothing to take back but itself.
pub(super) fn change(
    host: &dyn Links,
    device: Target,
    to: &Setting,
    taken_back: TakenBack,
) -> Result<Option<Change>, StepError> {
    let was = match (taken_back, to) {
        (TakenBack::WithTheDevice, Setting::Vf { .. } | Setting::MsixCount(_) | Setting::Port { .. }) => None,
        // Whatever is remembered is of a VF that had its name before.
        (TakenBack::WithTheDevice, Setting::Hook(hook)) => Some(Setting::Hook(hook.that_way(HookWay::Undo))),
        _ => now(host, device, to)?,
    };
    if is_so(was.as_ref(), to) || (was.is_none() && dsa::is_optional(to)) {
        return Ok(None);
    }
    let act = act(host, device, was.as_ref(), to)?;
    let undo = match taken_back {
        // What a vendor's tool keeps of a VF does not go with the VF.
        TakenBack::WithTheDevice if !matches!(to, Setting::Mdev(_) | Setting::Sf(_) | Setting::Hook(_)) => None,
        // What is not told goes back to what a VF has that nobody has set.
        _ => match was.or_else(|| unset(to)) {
            Some(was) => Some(Undo { device, was }),
            // It is of an mdev that was made a moment ago: one that is there and not told is not planned for.
            None if matches!(to, Setting::MdevAttribute(_)) => None,
            None => return Err(devlink::untold(host, to).unwrap_or_else(|| gone(device)).into()),
        },
    };
    Ok(Some(Change { act, undo, makes: Some(to.clone()) }))
}

/// Whether nobody can make such a setting here: the PF's driver has no operation for it, or there is no PF's interface.
///
/// # Kernel
/// `net/core/rtnetlink.c` `do_setvfinfo()`; `drivers/pci/iov.c` `sriov_vf_msix_count_store()`: `EOPNOTSUPP` (7.2).
pub(super) fn is_unsupported(error: &StepError) -> bool {
    match error {
        StepError::Host(HostError { errno: Errno::EOPNOTSUPP, .. }) => true,
        // A kernel before 5.13 has no such file.
        StepError::Host(HostError { path, errno: Errno::ENOENT, .. }) => path.rest().ends_with("/sriov_vf_msix_count"),
        StepError::Host(HostError { verb: Verb::Read, path, errno: Errno::ENODEV, .. }) => {
            path.rest().ends_with("/net")
        }
        _ => false,
    }
}

/// How a change is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenBack {
    /// By setting what was there before.
    BySetting,
    /// It goes with the device.
    WithTheDevice,
}

fn act(host: &dyn Links, device: Target, was: Option<&Setting>, to: &Setting) -> Result<Act, StepError> {
    let there = || place(host, device)?.ok_or_else(|| StepError::from(gone(device)));
    let told = was.map(ToString::to_string);
    Ok(match (to, device) {
        (Setting::Autoprobe(switch), _) => Act::Write {
            path: HostPath::pci(there()?).attr("sriov_drivers_autoprobe"),
            value: u8::from(switch.is_on()).to_string(),
            was: was.map(|was| u8::from(*was == Setting::Autoprobe(Switch::On)).to_string()),
        },
        (Setting::Vfs(count), _) => {
            let pf = there()?;
            refuse_held(host, pf)?;
            let path = HostPath::pci(pf).attr("sriov_numvfs");
            let was = match was {
                Some(Setting::Vfs(count)) => Some(count.to_string()),
                _ => None,
            };
            Act::Write { path, value: count.to_string(), was }
        }
        (Setting::Vf { pf, index, to }, _) => {
            Act::SetVf { pf: *pf, netdev: netdev_of(host, *pf)?, index: *index, to: *to, was: told }
        }
        (Setting::MsixCount(count), _) => {
            let path = HostPath::pci(there()?).attr("sriov_vf_msix_count");
            Act::Write { path, value: count.to_string(), was: None }
        }
        (Setting::Hook(hook), _) => Act::Hook { hook: hook.clone(), vf: there()? },
        (Setting::Pool(pool), Target::Pci(pf)) => {
            let told_now = |pool: &Pool| pool.fresh.clone().unwrap_or_else(|| devlink::fresh(host, pf));
            let pool = pool.as_ref().map(|pool| Pool { fresh: Some(told_now(pool)), ..pool.clone() });
            let content = pool.and_then(|pool| serde_json::to_string(&pool).ok());
            Act::Keep { path: HostPath::pool(pf), content, was: told }
        }
        (Setting::Mdev(Some(of)), Target::Mdev(uuid)) => {
            Act::Write { path: HostPath::mdev_create(&of.parent, &of.kind), value: uuid.to_string(), was: None }
        }
        (Setting::Mdev(None), Target::Mdev(uuid)) => {
            Act::Write { path: HostPath::mdev(uuid).attr("remove"), value: String::from("1"), was: told }
        }
        (Setting::MdevAttribute(of), Target::Mdev(uuid)) => {
            let was = match was {
                Some(Setting::MdevAttribute(was)) => Some(or(&was.value, "''")),
                _ => None,
            };
            // A write of no bytes does nothing.
            Act::Write { path: HostPath::mdev_attribute(uuid, &of.name), value: or(&of.value, "\n"), was }
        }
        (Setting::Vgpu(id), _) => {
            let path = HostPath::pci(there()?).attr(VGPU_TYPE);
            let was = was.map(|was| if let Setting::Vgpu(id) = was { id.to_string() } else { was.to_string() });
            Act::Write { path, value: id.to_string(), was }
        }
        (Setting::Dsa(to), _) => dsa::set(to, was),
        (Setting::DsaDriver(to), Target::Dsa(name)) => {
            if to.is_none() {
                dsa::refuse_used(host, name)?;
            }
            dsa::give(name, to.as_ref(), was).ok_or_else(|| gone(device))?
        }
        (Setting::Eswitch(mode), Target::Pci(pf)) => Act::Devlink(Request::eswitch(host, pf, *mode)?),
        (Setting::Port { pf, behind, to }, _) => Act::Devlink(Request::port(host, (*pf, *behind), *to)?.with_was(told)),
        (Setting::Sf(to), Target::Sf { pf, sfnum }) => {
            Act::Devlink(Request::subfunction(host, (pf, sfnum), to.as_ref())?)
        }
        _ => return Err(gone(device).into()),
    })
}

/// VFs that somebody has open are not taken away: the write would wait for whoever has, with the locks of the PF and of the
/// whole bus.
fn refuse_held(host: &dyn Read, pf: Bdf) -> Result<(), StepError> {
    for name in optional(host.list(&HostPath::pci(pf)))?.unwrap_or_default() {
        let index = name.strip_prefix("virtfn").and_then(|index| index.parse().ok());
        let Some(index) = index else { continue };
        if let Some(vf) = place(host, Target::Vf { pf, index })? {
            refuse_open(vf, host)?;
        }
    }
    Ok(())
}

/// What has to be set, in order, so that something is as it was: more than one thing where one write brings back a part.
pub(super) fn way_back(host: &dyn Links, undo: &Undo) -> Result<Vec<Setting>, StepError> {
    Ok(match &undo.was {
        Setting::Dsa(was) => dsa::way_back(host, was)?.into_iter().map(Setting::Dsa).collect(),
        Setting::DsaDriver(Some(bound)) => {
            bound.config.iter().cloned().map(Setting::Dsa).chain([undo.was.clone()]).collect()
        }
        Setting::Sf(Some(of)) => devlink::way_back(undo, of),
        // A vGPU is of no other type before it is of none.
        Setting::Vgpu(1..) => vec![Setting::Vgpu(0), undo.was.clone()],
        was => vec![was.clone()],
    })
}

/// Whether what was seen is `wanted`, as far as the kernel tells.
pub(super) fn is_so(seen: Option<&Setting>, wanted: &Setting) -> bool {
    is_told(wanted) && seen.is_some_and(|seen| seen.is_as(wanted))
}

/// Whether it is known what a device is set to: a count of MSI-X vectors is written and never read, and what a vendor's tool
/// did it alone can tell; but where none was run, there is nothing of it.
const fn is_told(setting: &Setting) -> bool {
    !matches!(setting, Setting::MsixCount(_) | Setting::Hook(Hook { way: HookWay::Set, .. }))
}

/// Whether it is there for a driver to find when it looks.
pub(super) const fn is_for_a_driver(setting: &Setting) -> bool {
    matches!(setting, Setting::Vf { .. } | Setting::Port { .. } | Setting::MsixCount(_) | Setting::Hook(_))
}

/// Whether the kernel shows `to`; otherwise what it shows. What it does not tell it is believed.
pub(super) fn shows(host: &dyn Links, device: Target, to: &Setting) -> Result<Result<(), String>, StepError> {
    if !is_told(to) {
        return Ok(Ok(()));
    }
    let shown = now(host, device, to)?;
    Ok(match (to, &shown) {
        (Setting::Mdev(Some(_)), Some(now)) if now == to => match state(host, device)?.1 {
            State::There(_) if has_node(host, device)? => Ok(()),
            _ => Err(String::from("an mdev without a VFIO node")),
        },
        (_, None) => Ok(()),
        (_, Some(now)) if now.is_as(to) => Ok(()),
        (_, Some(now)) => Err(now.to_string()),
    })
}

/// Whether an mdev has the node of its group, or its cdev.
fn has_node(host: &dyn Read, device: Target) -> Result<bool, StepError> {
    let Target::Mdev(uuid) = device else { return Ok(true) };
    let path = HostPath::mdev(uuid);
    let is_there = |path: &HostPath| match host.link(path) {
        Ok(_) | Err(HostError { errno: Errno::EINVAL, .. }) => Ok(true),
        other => optional(other).map(|found| found.is_some()),
    };
    let group = optional(host.link_name(&path.attr("iommu_group")))?.and_then(|name| name.parse().ok());
    if let Some(group) = group
        && is_there(&HostPath::group_node(crate::model::GroupId(group)))?
    {
        return Ok(true);
    }
    let names = optional(host.list(&path.attr("vfio-dev")))?.unwrap_or_default();
    let cdevs = names.iter().filter_map(|name| name.parse().ok());
    for name in cdevs {
        if is_there(&HostPath::cdev(&name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many VFs the names in the directory of a PF tell of.
pub(super) fn vfs_among(names: &[String]) -> u16 {
    u16::try_from(names.iter().filter(|name| name.starts_with("virtfn")).count()).unwrap_or(u16::MAX)
}

fn netdev_of(host: &dyn Read, pf: Bdf) -> Result<NetdevName, HostError> {
    pf_netdev(host, pf)?.ok_or_else(|| no_netdev(pf))
}

fn no_netdev(pf: Bdf) -> HostError {
    HostError::new(Verb::Read, HostPath::pci(pf).attr("net"), Errno::ENODEV)
}

fn mdev(host: &dyn Read, uuid: uuid::Uuid) -> Result<Option<MdevOf>, StepError> {
    let path = HostPath::mdev(uuid);
    let Some(target) = optional(host.link(&path))? else { return Ok(None) };
    let parent = target.rsplit('/').nth(1).and_then(|name| name.parse().ok());
    let kind = optional(host.link_name(&path.attr("mdev_type")))?.and_then(|name| name.parse().ok());
    let unknown = || HostError::new(Verb::Read, path.clone(), Errno::EINVAL);
    Ok(Some(MdevOf { parent: parent.ok_or_else(unknown)?, kind: kind.ok_or_else(unknown)? }))
}

/// A text, or another in the place of none.
fn or(text: &str, nothing: &str) -> String {
    String::from(if text.is_empty() { nothing } else { text })
}

/// What a VF has that nobody has set.
fn unset(like: &Setting) -> Option<Setting> {
    match like {
        Setting::Vf { pf, index, to } => Some(Setting::Vf { pf: *pf, index: *index, to: to.unset() }),
        _ => None,
    }
}
