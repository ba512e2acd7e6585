//! One consistent picture of a host.

use std::collections::BTreeMap;
use std::fmt;

use super::{
    Address, Bdf, Group, GroupId, IdxdDevice, Mdev, MdevParent, PciFunction, Role, SfParent, Subfunction, Target,
    WorkQueue,
};

/// Something that could not be read or understood, and was gone on without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What it is about: an address, a path.
    pub subject: String,
    /// What happened and what is missing because of it.
    pub message: String,
}

impl Warning {
    /// A warning about `subject`.
    pub fn new(subject: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { subject: subject.to_string(), message: message.to_string() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}

/// What the running kernel is and allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kernel {
    /// `/proc/sys/kernel/osrelease`.
    pub release: String,
    /// There is at least one IOMMU group.
    pub iommu: bool,
    /// `/sys/kernel/security/lockdown`: the mode in brackets, `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
    /// `enable_unsafe_noiommu_mode` of module vfio.
    pub unsafe_noiommu: bool,
    /// `enable_sriov` of module vfio_pci: a PF on vfio-pci makes VFs.
    pub vfio_pci_makes_vfs: bool,
    /// `disable_denylist` of module vfio_pci.
    pub denylist_disabled: bool,
    /// The modules of `vfio_iommu_type1` and `iommufd` whose `allow_unsafe_interrupts` is on.
    pub unsafe_interrupts: Vec<&'static str>,
}

/// A host at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// The kernel.
    pub kernel: Kernel,
    /// Every PCI function.
    pub functions: BTreeMap<Bdf, PciFunction>,
    /// Every IOMMU group that holds a PCI function.
    pub groups: BTreeMap<GroupId, Group>,
    /// Every mdev.
    pub mdevs: Vec<Mdev>,
    /// Every mdev parent.
    pub mdev_parents: Vec<MdevParent>,
    /// Every idxd device, with its WQs, engines and groups.
    pub idxd: Vec<IdxdDevice>,
    /// Every subfunction that is active, by function and number.
    pub subfunctions: Vec<Subfunction>,
    /// The PCI functions that devlink makes subfunctions on; `None`: devlink was not asked.
    pub sf_parents: Option<Vec<SfParent>>,
    /// Network interface name → the PCI function it belongs to. Read only when a name had to be resolved.
    pub netdevs: BTreeMap<String, Bdf>,
    /// What could not be read.
    pub warnings: Vec<Warning>,
}

impl Inventory {
    /// The group that `bdf` is in.
    #[must_use]
    pub fn group_of(&self, bdf: Bdf) -> Option<&Group> {
        self.groups.get(&self.functions.get(&bdf)?.group?)
    }

    /// The other members of the group that `bdf` is in.
    pub fn group_siblings(&self, bdf: Bdf) -> impl Iterator<Item = &PciFunction> {
        let members = self.group_of(bdf).map(|group| group.members.as_slice()).unwrap_or_default();
        members.iter().filter(move |member| **member != bdf).filter_map(|member| self.functions.get(member))
    }

    /// The VFs of `pf`, in address order.
    pub fn vfs_of(&self, pf: Bdf) -> impl Iterator<Item = &PciFunction> {
        self.functions.values().filter(move |function| function.pf() == Some(pf))
    }

    /// The VF of `pf` with this index.
    #[must_use]
    pub fn vf(&self, pf: Bdf, wanted: u16) -> Option<&PciFunction> {
        self.vfs_of(pf).find(|vf| matches!(vf.role, Role::Vf { index: Some(index), .. } if index == wanted))
    }

    /// Where a target is, when it is a PCI function that is there.
    #[must_use]
    pub fn place(&self, target: Target) -> Option<Bdf> {
        match target {
            Target::Pci(bdf) => self.functions.contains_key(&bdf).then_some(bdf),
            Target::Vf { pf, index } => self.vf(pf, index).map(|vf| vf.bdf),
            Target::Mdev(_) | Target::Dsa(_) | Target::Sf { .. } => None,
        }
    }

    /// The WQ of this name, and the device that it is of.
    #[must_use]
    pub fn work_queue(&self, name: &str) -> Option<(&IdxdDevice, &WorkQueue)> {
        let all = self.idxd.iter().flat_map(|device| device.work_queues.iter().map(move |queue| (device, queue)));
        all.into_iter().find(|(_, queue)| queue.address.as_str() == name)
    }

    /// The active subfunction of this address.
    #[must_use]
    pub fn subfunction(&self, address: &Address) -> Option<&Subfunction> {
        self.subfunctions.iter().find(|subfunction| subfunction.address() == *address)
    }

    /// Whether there is a device of this address.
    #[must_use]
    pub fn contains(&self, address: &Address) -> bool {
        match address {
            Address::Pci(bdf) => self.functions.contains_key(bdf),
            Address::Mdev(uuid) => self.mdevs.iter().any(|mdev| mdev.uuid == *uuid),
            Address::Wq(name) => self.work_queue(name.as_str()).is_some(),
            _ => false,
        }
    }
}
