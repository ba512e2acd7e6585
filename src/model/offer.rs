//! What can be made on a host, parent by parent: pure counting over an inventory.

use std::collections::BTreeMap;
use std::fmt;

use super::idxd::WqType;
use super::pci::Role;
use super::vgpu::{VgpuTypeId, creatable_on};
use super::{Bdf, BusName, IdxdDevice, Inventory, MdevParent, PciFunction, SfParent, Vgpu, counted};

/// What devices are made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parent {
    /// A PCI function: of VFs, of vGPUs, of SFs, and of mdevs where its driver says so.
    Pci(Bdf),
    /// An mdev parent that is no PCI function, by its name in `/sys/class/mdev_bus`.
    Mdev(BusName),
    /// An idxd device, `dsa0`.
    Idxd(BusName),
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(bdf) => bdf.fmt(f),
            Self::Mdev(name) | Self::Idxd(name) => name.fmt(f),
        }
    }
}

/// What is made: the TYPE of `create`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OfferKind {
    /// `vf`.
    Vf,
    /// An mdev, by the id of its type.
    Mdev(BusName),
    /// `wq`.
    Wq,
    /// `vgpu:<id>`: a VF made a vGPU by NVIDIA's driver.
    Vgpu(VgpuTypeId),
    /// `sf`.
    Sf,
}

impl fmt::Display for OfferKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vf => f.write_str("vf"),
            Self::Mdev(id) => id.fmt(f),
            Self::Wq => f.write_str("wq"),
            Self::Vgpu(id) => write!(f, "vgpu:{id}"),
            Self::Sf => f.write_str("sf"),
        }
    }
}

/// One type of one parent. `None` is what the kernel does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Of what it is made.
    pub parent: Parent,
    /// What is made.
    pub kind: OfferKind,
    /// What the driver calls it.
    pub name: Option<String>,
    /// What it is, in the driver's words or in ours.
    pub description: Option<String>,
    /// The VFIO interface that it has: `vfio-pci`; `None` for what is no VFIO device.
    pub device_api: Option<String>,
    /// How many there can be at most.
    pub total: Option<u32>,
    /// How many there are: VFs and WQs that are enabled, mdevs, VFs that are this vGPU, SFs.
    pub made: u32,
    /// How many are left: VFs that are enabled and nobody's, WQs that nobody has configured, instances of an mdev type, VFs that
    /// can be made this vGPU.
    pub free: Option<u32>,
    /// How many of those made are somebody's: VFs with a driver or reserved by an override, WQs with clients.
    pub in_use: Option<u32>,
    /// Making one leaves fewer of the parent's other types.
    pub shared: Option<bool>,
    /// Why none can be had now.
    pub why_not: Option<String>,
}

/// Everything that can be made, by parent; of each VFs, then mdevs, WQs, vGPUs, SFs.
#[must_use]
pub fn offers(inventory: &Inventory, vgpus: &BTreeMap<Bdf, Vgpu>) -> Vec<Offer> {
    let vfs = inventory.functions.values().filter_map(|function| vfs(inventory, function));
    let mdevs = inventory.mdev_parents.iter().flat_map(|parent| mdevs(inventory, parent));
    let queues = inventory.idxd.iter().map(work_queues);
    let sfs = inventory.sf_parents.iter().flatten().map(subfunctions);
    let all = vfs.chain(mdevs).chain(queues).chain(self::vgpus(inventory, vgpus)).chain(sfs);
    let mut all: Vec<Offer> = all.collect();
    all.sort_by(|one, other| one.parent.cmp(&other.parent));
    all
}

impl Offer {
    fn new(parent: Parent, kind: OfferKind) -> Self {
        Self {
            parent,
            kind,
            name: None,
            description: None,
            device_api: None,
            total: None,
            made: 0,
            free: None,
            in_use: None,
            shared: Some(false),
            why_not: None,
        }
    }
}

/// Whether a VF is nobody's: without driver, and not reserved by an override.
#[must_use]
pub fn vf_is_free(vf: &PciFunction) -> bool {
    let reserved = vf.driver_override.as_deref().is_some_and(|text| text != "none");
    vf.driver.is_none() && !vf.is_vfio() && !reserved
}

fn vfs(inventory: &Inventory, pf: &PciFunction) -> Option<Offer> {
    let Role::Pf { total, enabled, .. } = pf.role else { return None };
    let free = count(inventory.vfs_of(pf.bdf).filter(|vf| vf_is_free(vf)));
    let enabled = u32::from(enabled);
    Some(Offer {
        description: Some(String::from("SR-IOV virtual function")),
        device_api: Some(String::from("vfio-pci")),
        total: Some(total.into()),
        made: enabled,
        free: Some(free),
        in_use: Some(enabled.saturating_sub(free)),
        why_not: if free > 0 { None } else { no_vf(inventory, pf, (total, enabled)) },
        ..Offer::new(Parent::Pci(pf.bdf), OfferKind::Vf)
    })
}

/// Why a PF without a free VF cannot be given more. That its driver makes none is not known before it is asked.
///
/// # Kernel
/// `drivers/pci/iov.c` `sriov_numvfs_store()`: `ENOENT` without a driver or its `sriov_configure`, `EBUSY` from some VFs to
/// more; `drivers/vfio/pci/vfio_pci.c` `vfio_pci_sriov_configure()`: only with `enable_sriov` (7.2).
fn no_vf(inventory: &Inventory, pf: &PciFunction, (total, enabled): (u16, u32)) -> Option<String> {
    let driver = pf.driver.as_ref().map(|driver| driver.as_str());
    if enabled > 0 {
        let more = if enabled < u32::from(total) { "; more can only be made when these are destroyed" } else { "" };
        return Some(format!("all {enabled} that are enabled are in use{more}"));
    }
    Some(match driver {
        _ if total == 0 => String::from("the firmware or the driver allows none"),
        None => String::from("the PF has no driver, and its driver makes them"),
        Some("vfio-pci") if inventory.kernel.vfio_pci_makes_vfs => return None,
        Some("vfio-pci") => String::from("the PF is on vfio-pci, which makes them only with enable_sriov=1"),
        Some(driver) if pf.is_vfio() => format!("the PF is on {driver}, which makes none"),
        Some("nvidia") => String::from("NVIDIA's driver has them enabled by its own sriov-manage"),
        Some(_) => return None,
    })
}

fn mdevs<'a>(inventory: &'a Inventory, parent: &'a MdevParent) -> impl Iterator<Item = Offer> + 'a {
    let shared = parent.shares_instances();
    let at = parent.name.as_str().parse().map_or_else(|_| Parent::Mdev(parent.name.clone()), Parent::Pci);
    parent.types.iter().map(move |kind| {
        let same = |id: &Option<BusName>, name: &BusName| id.as_ref() == Some(name);
        let made =
            inventory.mdevs.iter().filter(|mdev| same(&mdev.parent, &parent.name) && same(&mdev.type_id, &kind.id));
        let why_not = match kind.available_instances {
            Some(0) if shared == Some(true) => Some("none is left; mdevs of the parent's other types use them too"),
            Some(0) => Some("none is left"),
            _ => None,
        };
        Offer {
            name: kind.name.clone(),
            description: kind.description.clone(),
            device_api: kind.device_api.clone(),
            made: count(made),
            free: kind.available_instances,
            shared,
            why_not: why_not.map(str::to_owned),
            ..Offer::new(at.clone(), OfferKind::Mdev(kind.id.clone()))
        }
    })
}

/// # Kernel
/// `drivers/dma/idxd/sysfs.c`: a WQ is set while it is disabled and the device `configurable`, its size only while the
/// device is disabled as well, `wq_size_store()` (7.2).
fn work_queues(device: &IdxdDevice) -> Offer {
    let queues = || device.work_queues.iter();
    let of = |kind: WqType| count(queues().filter(|queue| queue.enabled && queue.kind == kind));
    let free = count(queues().filter(|queue| queue.is_free()));
    let enabled = count(queues().filter(|queue| queue.enabled));
    let set = count(queues().filter(|queue| !queue.enabled && !queue.is_free()));
    let why_not = if !device.configurable {
        Some(format!("{} is not configurable", device.name))
    } else if device.state == "halted" {
        Some(format!("{} is halted", device.name))
    } else if free == 0 {
        Some(String::from("every WQ is configured"))
    } else if device.state == "enabled" && queues().filter(|queue| queue.is_free()).all(|queue| queue.size == 0) {
        Some(format!("{} is enabled, and a WQ gets its size only while it is not", device.name))
    } else {
        None
    };
    let description = format!(
        "work queue: {} user, {} kernel, {set} configured and disabled; {}, {}",
        of(WqType::User),
        of(WqType::Kernel),
        counted(device.engines.len(), "engine"),
        counted(device.groups.len(), "group"),
    );
    Offer {
        description: Some(description),
        total: Some(device.max_work_queues.into()),
        made: enabled,
        free: Some(free),
        in_use: Some(count(queues().filter(|queue| queue.clients > 0))),
        why_not,
        ..Offer::new(Parent::Idxd(device.name.clone()), OfferKind::Wq)
    }
}

/// The vGPU types of each GPU, by PF: those that can be made on any of its VFs, and those that some are.
fn vgpus(inventory: &Inventory, vgpus: &BTreeMap<Bdf, Vgpu>) -> Vec<Offer> {
    let mut gpus: BTreeMap<Bdf, Vec<&Vgpu>> = BTreeMap::new();
    for (vf, vgpu) in vgpus {
        let pf = inventory.functions.get(vf).and_then(PciFunction::pf).unwrap_or(*vf);
        gpus.entry(pf).or_default().push(vgpu);
    }
    let mut all = Vec::new();
    for (pf, vfs) in gpus {
        let mut types = creatable_on(vfs.iter().copied());
        for made in vfs.iter().filter_map(|vf| vf.current) {
            types.entry(made).or_insert(("", 0));
        }
        let used = vfs.iter().all(|vf| vf.current.is_some());
        for (id, (name, free)) in types {
            let why_not = match free {
                0 if used => Some("every VF is a vGPU already"),
                0 => Some("the GPU has no room for another"),
                _ => None,
            };
            all.push(Offer {
                name: Some(name.to_owned()).filter(|name| !name.is_empty()),
                description: Some(String::from("vGPU on a VF, which stays on the nvidia driver")),
                device_api: Some(String::from("vfio-pci")),
                made: count(vfs.iter().filter(|vf| vf.current == Some(id))),
                free: Some(free),
                shared: Some(true),
                why_not: why_not.map(str::to_owned),
                ..Offer::new(Parent::Pci(pf), OfferKind::Vgpu(id))
            });
        }
    }
    all
}

fn subfunctions(parent: &SfParent) -> Offer {
    Offer {
        description: Some(String::from("subfunction: an auxiliary device for vDPA, RDMA and Ethernet, never for VFIO")),
        total: parent.total,
        made: parent.made,
        free: parent.total.map(|total| total.saturating_sub(parent.made)),
        why_not: (!parent.switchdev).then(|| String::from("the eswitch is not in mode switchdev")),
        ..Offer::new(Parent::Pci(parent.function), OfferKind::Sf)
    }
}

fn count<T>(all: impl Iterator<Item = T>) -> u32 {
    u32::try_from(all.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModAlias, VgpuType};

    fn function(at: &str, role: Role, driver: Option<&str>) -> PciFunction {
        PciFunction {
            bdf: at.parse().unwrap(),
            alias: ModAlias::new(0x8086, 0x10c9, (0, 0), 0x020000),
            driver: driver.map(|name| name.parse().unwrap()),
            driver_override: None,
            group: None,
            numa_node: None,
            role,
            vfio_dev: None,
            mdev_parent: false,
            vendor_vgpu: false,
            boot_vga: false,
        }
    }

    fn host(functions: Vec<PciFunction>) -> Inventory {
        let functions = functions.into_iter().map(|function| (function.bdf, function)).collect();
        Inventory { functions, ..Inventory::default() }
    }

    fn pf(enabled: u16, driver: Option<&str>) -> PciFunction {
        function("0000:01:00.0", Role::Pf { total: 8, enabled, autoprobe: true }, driver)
    }

    #[test]
    fn a_vf_is_free_without_driver_and_reservation() {
        let vf = |at: &str, driver, reserved: Option<&str>| PciFunction {
            driver_override: reserved.map(str::to_owned),
            ..function(at, Role::Vf { pf: "0000:01:00.0".parse().unwrap(), index: None }, driver)
        };
        let inventory = host(vec![
            pf(4, Some("igb")),
            vf("0000:01:10.0", None, None),
            vf("0000:01:10.2", None, Some("none")),
            vf("0000:01:10.4", None, Some("vfio-pci")),
            vf("0000:01:10.6", Some("igbvf"), None),
        ]);
        let offer = offers(&inventory, &BTreeMap::new()).remove(0);
        assert_eq!((offer.total, offer.made, offer.free, offer.in_use), (Some(8), 4, Some(2), Some(2)));
        assert_eq!(offer.why_not, None);
    }

    #[test]
    fn a_pf_says_why_it_has_no_vf_to_give() {
        for (driver, total, said) in [
            (Some("igb"), 8, None),
            (None, 8, Some("the PF has no driver, and its driver makes them")),
            (Some("vfio-pci"), 8, Some("the PF is on vfio-pci, which makes them only with enable_sriov=1")),
            (Some("igb"), 0, Some("the firmware or the driver allows none")),
        ] {
            let mut pf = pf(0, driver);
            pf.role = Role::Pf { total, enabled: 0, autoprobe: true };
            let offer = offers(&host(vec![pf]), &BTreeMap::new()).remove(0);
            assert_eq!(offer.why_not.as_deref(), said, "{driver:?}");
        }
        let mut inventory = host(vec![pf(0, Some("vfio-pci"))]);
        inventory.kernel.vfio_pci_makes_vfs = true;
        assert_eq!(offers(&inventory, &BTreeMap::new())[0].why_not, None);
    }

    #[test]
    fn a_vgpu_type_that_is_used_up_is_still_told() {
        let kind = VgpuType { id: 9, name: "NVIDIA L40S-48Q".into() };
        let bdf = |at: &str| at.parse::<Bdf>().unwrap();
        let vf = |at: &str| function(at, Role::Vf { pf: bdf("0000:01:00.0"), index: None }, Some("nvidia"));
        let inventory = host(vec![vf("0000:01:00.4"), vf("0000:01:00.5")]);
        let mut vgpus = BTreeMap::from([
            (bdf("0000:01:00.4"), Vgpu { current: None, creatable: vec![kind.clone()] }),
            (bdf("0000:01:00.5"), Vgpu { current: None, creatable: vec![kind] }),
        ]);
        let counted = |vgpus: &BTreeMap<Bdf, Vgpu>| {
            let offer = offers(&inventory, vgpus).remove(0);
            (offer.parent.to_string(), offer.kind.to_string(), offer.made, offer.free, offer.why_not)
        };
        let parent = || String::from("0000:01:00.0");
        assert_eq!(counted(&vgpus), (parent(), "vgpu:9".into(), 0, Some(2), None));
        vgpus.values_mut().for_each(|vgpu| vgpu.creatable.clear());
        vgpus.insert(bdf("0000:01:00.4"), Vgpu { current: Some(9), creatable: Vec::new() });
        let why = Some(String::from("the GPU has no room for another"));
        assert_eq!(counted(&vgpus), (parent(), "vgpu:9".into(), 1, Some(0), why));
    }

    #[test]
    fn subfunctions_are_told_only_by_who_asked_devlink() {
        let mut inventory = host(vec![pf(0, Some("mlx5_core"))]);
        assert_eq!(offers(&inventory, &BTreeMap::new()).len(), 1);
        let function = "0000:01:00.0".parse().unwrap();
        inventory.sf_parents = Some(vec![SfParent { function, made: 1, total: None, switchdev: false }]);
        let all = offers(&inventory, &BTreeMap::new());
        assert_eq!((all[1].kind.clone(), all[1].made, all[1].free), (OfferKind::Sf, 1, None));
    }
}
