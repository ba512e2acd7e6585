//! What is compared when a host is said to be as it was.

use std::collections::BTreeMap;
use std::fmt;

use super::kernel::{Kernel, dev};
use super::tree::HIDDEN;

/// The state that acts change, per device and in order.
///
/// It leaves out what does not come back: numbers of VFIO devices and groups, loaded modules, flags of interfaces, the
/// clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Device → what is said of it: `driver`, `driver_override`, `sriov_numvfs`, `sriov_drivers_autoprobe`, `physfn`,
    /// `group_with` (the other members of its group), `vfio`, `reset_method`, `msix`, and what netlink tells of it: `vfs`, `eswitch`,
    /// `ports`; what is absent has no entry. What a hook keeps of a VF has an entry of its own, for that does not
    /// go with the VF, and so has what vfioadm remembers of it.
    pub devices: BTreeMap<String, BTreeMap<&'static str, String>>,
}

impl Snapshot {
    pub(super) fn of(kernel: &Kernel) -> Self {
        let mut devices = BTreeMap::new();
        for bdf in kernel.functions() {
            let mut said: BTreeMap<&'static str, String> = BTreeMap::new();
            let mut say = |what, text: Option<String>| {
                if let Some(text) = text {
                    said.insert(what, text);
                }
            };
            let text = |attribute: &str| kernel.tree.text(&format!("{}/{attribute}", dev(bdf))).map(str::to_owned);
            say("driver", kernel.driver_name(bdf).map(str::to_owned));
            say("driver_override", kernel.driver_override(bdf).map(str::to_owned));
            say("sriov_drivers_autoprobe", text("sriov_drivers_autoprobe"));
            say("sriov_numvfs", text("sriov_totalvfs").map(|_| kernel.vfs(bdf).len().to_string()));
            say("physfn", kernel.pf(bdf).map(|pf| pf.to_string()));
            say("vfio", kernel.vdevs.contains_key(&bdf).then(|| "yes".to_owned()));
            say("leaving", kernel.leaving.get(&bdf).cloned());
            say("reset_method", text("reset_method"));
            say("msix", kernel.tree.text(&format!("{HIDDEN}/pci/{bdf}/msix")).map(str::to_owned));
            say("current_vgpu_type", text("nvidia/current_vgpu_type"));
            for (what, told) in kernel.links_state(bdf) {
                say(what, Some(told));
            }
            let others = kernel.group(bdf).map(|group| {
                let names = kernel.members(group).filter(|other| *other != bdf).map(|other| other.to_string());
                names.collect::<Vec<_>>().join(" ")
            });
            say("group_with", others);
            devices.insert(bdf.to_string(), said);
        }
        for dir in kernel.mdevs() {
            let name = dir.rsplit('/').next().unwrap_or_default();
            let link = |what: &'static str| Some((what, kernel.tree.link_name(&format!("{dir}/{what}"))?.to_owned()));
            let said = ["driver", "mdev_type"].into_iter().filter_map(link).collect();
            devices.insert(format!("mdev {name}"), said);
        }
        devices.extend(kernel.idxd_state());
        devices.extend(kernel.netdevsim_state());
        devices.extend(kernel.hooked().into_iter().map(|(of, given)| (of, BTreeMap::from([("given", given)]))));
        Self { devices }
    }
}

impl fmt::Display for Snapshot {
    /// One line a device.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (device, said) in &self.devices {
            write!(f, "{device}")?;
            for (what, text) in said {
                write!(f, " {what}={text:?}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
