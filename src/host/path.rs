//! Where things are. Paths are made of typed names only, so that no text from outside becomes part of one.

use std::fmt;

use crate::model::devlink::DevlinkHandle;
use crate::model::dsa::DsaName;
use crate::model::vf::NetdevName;
use crate::model::{Bdf, BusName, DriverName, GroupId, HookId, MdevAttributeName, ModuleName, VfIndex};

/// The directories that a host is read below, each held open by its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Root {
    /// `/sys`.
    Sys,
    /// `/proc`.
    Proc,
    /// `/dev`.
    Dev,
    /// The running kernel's module directory, `/lib/modules/$(uname -r)`, or the one given with `--modules`.
    Modules,
    /// `/usr/share`, for pci.ids.
    Share,
    /// `/run`: what is true until the next boot.
    Run,
    /// `/etc`: what other tools are told to do with devices.
    Etc,
}

impl Root {
    /// How the root is spelled in messages: a line that a shell takes.
    #[must_use]
    pub const fn spelled(self) -> &'static str {
        match self {
            Self::Sys => "/sys",
            Self::Proc => "/proc",
            Self::Dev => "/dev",
            Self::Modules => "/lib/modules/$(uname -r)",
            Self::Share => "/usr/share",
            Self::Run => "/run",
            Self::Etc => "/etc",
        }
    }

    /// All of them.
    pub const ALL: [Self; 7] = [Self::Sys, Self::Proc, Self::Dev, Self::Modules, Self::Share, Self::Run, Self::Etc];
}

/// A place on a host: a root and a relative path below it, without `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPath {
    root: Root,
    rest: String,
}

/// What may become one component of a path.
pub trait Component: fmt::Display {}
impl Component for Bdf {}
impl Component for BusName {}
impl Component for DriverName {}
impl Component for ModuleName {}
impl Component for GroupId {}
impl Component for HookId {}
impl Component for DsaName {}
impl Component for NetdevName {}
impl Component for uuid::fmt::Hyphenated {}

impl HostPath {
    /// A fixed place: `rest` is a literal of this program.
    #[must_use]
    pub fn fixed(root: Root, rest: &'static str) -> Self {
        Self { root, rest: rest.to_owned() }
    }

    /// A place that a recorded host names.
    ///
    /// `None` when it is under no root, or has a component that is empty, `.` or `..`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Root::ALL.into_iter().find_map(|root| {
            let rest = text.strip_prefix(root.spelled())?.strip_prefix('/')?;
            let good = rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
            (good && !rest.bytes().any(|b| b == 0)).then(|| Self { root, rest: rest.to_owned() })
        })
    }

    /// `/sys/bus/pci/devices`.
    #[must_use]
    pub fn pci_devices() -> Self {
        Self::fixed(Root::Sys, "bus/pci/devices")
    }

    /// The directory of a PCI function.
    #[must_use]
    pub fn pci(bdf: Bdf) -> Self {
        Self::pci_devices().child(&bdf)
    }

    /// What vfioadm remembers of the VFs that it enabled on a PF: `/run/vfioadm/pool/<BDF>`.
    #[must_use]
    pub fn pool(pf: Bdf) -> Self {
        Self::fixed(Root::Run, "vfioadm/pool").child(&pf)
    }

    /// What became of applying the host file since the machine was booted: `/run/vfioadm/applied`.
    #[must_use]
    pub fn applied() -> Self {
        Self::fixed(Root::Run, "vfioadm/applied")
    }

    /// What vendors' tools do to VFs: `/etc/vfioadm/hooks.d`.
    #[must_use]
    pub fn hooks() -> Self {
        Self::fixed(Root::Etc, "vfioadm/hooks.d")
    }

    /// The directory of a hook.
    #[must_use]
    pub fn hook(id: HookId) -> Self {
        Self::hooks().child(&id)
    }

    /// What vfioadm remembers of a VF that a hook has made ready: `/run/vfioadm/hooked/<PF>-<index>`.
    #[must_use]
    pub fn hooked(pf: Bdf, index: VfIndex) -> Self {
        Self { root: Root::Run, rest: format!("vfioadm/hooked/{pf}-{index}") }
    }

    /// `mdev_supported_types/<type>/create` of an mdev parent.
    #[must_use]
    pub fn mdev_create(parent: &BusName, kind: &BusName) -> Self {
        let types = Self::fixed(Root::Sys, "class/mdev_bus").child(parent).attr("mdev_supported_types");
        types.child(kind).attr("create")
    }

    /// The directory of an mdev.
    #[must_use]
    pub fn mdev(uuid: uuid::Uuid) -> Self {
        Self::fixed(Root::Sys, "bus/mdev/devices").child(uuid.as_hyphenated())
    }

    /// An attribute of an mdev.
    #[must_use]
    pub fn mdev_attribute(uuid: uuid::Uuid, name: &MdevAttributeName) -> Self {
        let mdev = Self::mdev(uuid);
        Self { root: mdev.root, rest: format!("{}/{name}", mdev.rest) }
    }

    /// `virtfnN` of a PF: the link to its VF of that index.
    #[must_use]
    pub fn vf_link(pf: Bdf, index: VfIndex) -> Self {
        let pf = Self::pci(pf);
        Self { root: pf.root, rest: format!("{}/virtfn{index}", pf.rest) }
    }

    /// `/sys/bus/dsa/drivers`.
    #[must_use]
    pub fn dsa_drivers() -> Self {
        Self::fixed(Root::Sys, "bus/dsa/drivers")
    }

    /// The directory of an idxd device, WQ or engine.
    #[must_use]
    pub fn dsa(name: DsaName) -> Self {
        Self::fixed(Root::Sys, "bus/dsa/devices").child(&name)
    }

    /// The directory of a network interface.
    #[must_use]
    pub fn netdev(name: &NetdevName) -> Self {
        Self::fixed(Root::Sys, "class/net").child(name)
    }

    /// The directory of the device that devlink knows by that handle.
    #[must_use]
    pub fn devlink(handle: &DevlinkHandle) -> Self {
        Self::fixed(Root::Sys, "bus").child(handle.bus()).attr("devices").child(handle.device())
    }

    /// `/proc`, whose entries that are numbers are the processes.
    #[must_use]
    pub fn processes() -> Self {
        Self::fixed(Root::Proc, ".")
    }

    /// The directory of a process.
    #[must_use]
    pub fn process(pid: u32) -> Self {
        Self { root: Root::Proc, rest: pid.to_string() }
    }

    /// A descriptor of this process.
    #[must_use]
    pub fn own_descriptor(number: std::os::fd::RawFd) -> Self {
        Self { root: Root::Proc, rest: format!("self/fd/{number}") }
    }

    /// `/sys/bus/pci/drivers`.
    #[must_use]
    pub fn pci_drivers() -> Self {
        Self::fixed(Root::Sys, "bus/pci/drivers")
    }

    /// The directory of a registered PCI driver.
    #[must_use]
    pub fn pci_driver(driver: &DriverName) -> Self {
        Self::pci_drivers().child(driver)
    }

    /// The directory of a module that is loaded or built in.
    #[must_use]
    pub fn module(module: &ModuleName) -> Self {
        Self::fixed(Root::Sys, "module").child(module)
    }

    /// The group node, `/dev/vfio/12`.
    #[must_use]
    pub fn group_node(group: GroupId) -> Self {
        Self::fixed(Root::Dev, "vfio").child(&group)
    }

    /// The node of a group without IOMMU, `/dev/vfio/noiommu-12`.
    #[must_use]
    pub fn noiommu_node(group: GroupId) -> Self {
        Self { root: Root::Dev, rest: format!("vfio/noiommu-{group}") }
    }

    /// The cdev, `/dev/vfio/devices/vfio3`.
    #[must_use]
    pub fn cdev(name: &BusName) -> Self {
        Self::fixed(Root::Dev, "vfio/devices").child(name)
    }

    /// A typed name below this place.
    #[must_use]
    pub fn child(&self, name: &dyn Component) -> Self {
        Self { root: self.root, rest: format!("{}/{name}", self.rest) }
    }

    /// A fixed name below this place: an attribute.
    #[must_use]
    pub fn attr(&self, name: &'static str) -> Self {
        Self { root: self.root, rest: format!("{}/{name}", self.rest) }
    }

    /// An entry that [`list`](super::Read::list) gave for this place. `None` when it is not one plain component.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<Self> {
        let plain = !name.is_empty() && name != "." && name != ".." && !name.bytes().any(|b| b == b'/' || b == 0);
        plain.then(|| Self { root: self.root, rest: format!("{}/{name}", self.rest) })
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> Root {
        self.root
    }

    /// The path below the root.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.rest
    }
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.root.spelled(), self.rest)
    }
}
