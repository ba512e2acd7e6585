//! Findings: what stands in the way of giving a device away, or is worth knowing before it is done.
//!
//! Pure: from what was read to a list of [`Finding`]s with stable ids. Only severity [`Refuse`](Severity::Refuse) stops an
//! act, and each can be lifted by its own id; nothing lifts all.

mod device;
mod in_use;
mod isolation;
mod kernel;
mod made;
mod other;
mod protect;
mod unfinished;
mod vf;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::matching::DriverTable;
use crate::model::isolation::Isolation;
use crate::model::pci::CloseUp;
use crate::model::rules::Rules;
use crate::model::vf::VfFacts;
use crate::model::{Address, Bdf, DriverName, InUse, Inventory, ParseError, PciFunction, Target};

pub use made::kept_pool;
pub use other::{mdev, subfunction, work_queue};
pub use unfinished::{Halfway, Unfinished, left_halfway};
pub use vf::degraded;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Likely to hurt later.
    Warn,
    /// Stops the act, unless it is allowed by its id.
    Refuse,
}

impl Severity {
    /// As printed and as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Refuse => "refuse",
        }
    }
}

macro_rules! findings {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $severity:ident;)*) => {
        /// The stable id of a finding: what `--allow` takes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FindingId { $($(#[$doc])* $variant,)* }

        impl FindingId {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The id as printed.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            /// How much it matters.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }
        }
    };
}

findings! {
    /// The kernel has no IOMMU group at all.
    NoIommu = "no-iommu", Refuse;
    /// The function is in no IOMMU group.
    NoGroup = "no-group", Refuse;
    /// A bridge, or another function that is no endpoint.
    NotEndpoint = "not-endpoint", Refuse;
    /// A function of the platform itself, or one that shares a group with such a function.
    Chipset = "chipset", Refuse;
    /// Another member of the group has a driver that does DMA for the host.
    GroupNotViable = "group-not-viable", Refuse;
    /// A PF with VFs enabled.
    VfsEnabled = "vfs-enabled", Refuse;
    /// vfio-pci refuses this device.
    Denylisted = "denylisted", Refuse;
    /// The display that the firmware booted with.
    BootVga = "boot-vga", Refuse;
    /// A block device that is mounted, or swap.
    BlockInUse = "block-in-use", Refuse;
    /// A network interface that is up.
    NetdevUp = "netdev-up", Refuse;
    /// A network interface that a default route goes through.
    DefaultRoute = "default-route", Refuse;
    /// Somebody has the device's group open.
    GroupOpen = "group-open", Refuse;
    /// Somebody has the device itself open.
    DeviceOpen = "device-open", Refuse;
    /// A program has a BAR of the device mapped past VFIO.
    BarMapped = "bar-mapped", Refuse;
    /// An operation on it did not end, or could not be taken back in full.
    UnfinishedOperation = "unfinished-operation", Refuse;
    /// The named driver's id table does not have this device.
    DriverMismatch = "driver-mismatch", Refuse;
    /// The named driver's id table is not known.
    TableUnknown = "table-unknown", Warn;
    /// An override that does not agree with the driver.
    OverrideLeft = "override-left", Warn;
    /// No reset method works.
    NoReset = "no-reset", Warn;
    /// The reset methods that work do not reset everything, or reset more than this function.
    WeakReset = "weak-reset", Note;
    /// The kernel is locked down.
    Lockdown = "lockdown", Note;
    /// A network interface that something is stacked on: a bond, a bridge, a VLAN.
    NetdevEnslaved = "netdev-enslaved", Refuse;
    /// The ssh connection that the command was typed through goes through it.
    SshRoute = "ssh-route", Refuse;
    /// What the machine starts from is on it.
    HoldsBoot = "holds-boot", Refuse;
    /// The console is on it.
    Console = "console", Refuse;
    /// A TPM.
    TpmInUse = "tpm-in-use", Refuse;
    /// The random number generator that the kernel draws from.
    RngInUse = "rng-in-use", Warn;
    /// A PF of VFs that are given to VFIO.
    VfsInVms = "vfs-in-vms", Refuse;
    /// Firmware wants memory mapped one to one for its group.
    DirectRegion = "direct-region", Refuse;
    /// vfio-pci takes it by its ids when it is loaded.
    VfioPciIds = "vfio-pci-ids", Warn;
    /// It is on a VFIO driver without an override.
    DynamicId = "dynamic-id", Note;
    /// libvirt takes it from its driver by itself.
    LibvirtManaged = "libvirt-managed", Warn;
    /// driverctl sets its driver.
    DriverctlRule = "driverctl-rule", Warn;
    /// mdevctl has mdevs defined on it.
    MdevctlRule = "mdevctl-rule", Note;
    /// Interrupts are not isolated, and the kernel was told to go on all the same.
    UnsafeInterrupts = "unsafe-interrupts", Warn;
    /// An mdev without driver, which nothing but making it anew gives one.
    MdevUnbound = "mdev-unbound", Refuse;
    /// A VF that NVIDIA's driver makes vGPUs of.
    VendorVgpu = "vendor-vgpu", Refuse;
    /// A work queue or a subfunction: no driver makes a VFIO device of it.
    NoVfioProvider = "no-vfio-provider", Refuse;
    /// A pool of VFs of which none is given any more, and which stays for those that somebody has all the same.
    PoolKept = "pool-kept", Warn;
    /// A PF whose driver leaves its VFs behind when it goes.
    VfsStay = "vfs-stay", Warn;
    /// A VF without an address of its PF's.
    VfMacUnset = "vf-mac-unset", Note;
    /// A VF that got its address after its driver had looked.
    MacAfterDriver = "mac-after-driver", Note;
    /// A VF for a variant driver that migrates only what is migratable at its devlink port, and it is not.
    NotMigratable = "not-migratable", Note;
    /// A device on a variant driver that offers no migration, as it says itself.
    Degraded = "degraded", Warn;
}

impl fmt::Display for FindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for FindingId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = Self::ALL.iter().copied().find(|id| id.as_str() == text);
        found.ok_or_else(|| ParseError::new("the id of a finding", text))
    }
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its stable id.
    pub id: FindingId,
    /// The device it is about; `None` for the host.
    pub device: Option<Address>,
    /// What was found, with the evidence: in words, with every name.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    fn new(id: FindingId, device: Bdf, message: String, remedy: impl Into<String>) -> Self {
        Self { id, device: Some(device.into()), message, remedy: remedy.into() }
    }

    fn of_host(id: FindingId, message: String, remedy: impl Into<String>) -> Self {
        Self { id, device: None, message, remedy: remedy.into() }
    }

    /// How much it matters.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.id.severity()
    }

    /// The device whose group is to be explained.
    #[must_use]
    pub const fn wants_isolation_of(&self) -> Option<Bdf> {
        match (self.id, &self.device) {
            (FindingId::GroupNotViable, Some(Address::Pci(bdf))) => Some(*bdf),
            _ => None,
        }
    }

    /// Adds why the group is what it is.
    pub fn explain(&mut self, isolation: &Isolation) {
        self.message.push_str(&format!("; {isolation}"));
    }

    /// Whether lifting it can lead anywhere: the kernel refuses a bridge and a host without IOMMU all the same, and taking
    /// a device that somebody has open waits for him. An operation that is unfinished is to be ended by its name.
    #[must_use]
    pub const fn is_worth_lifting(&self) -> bool {
        !matches!(
            self.id,
            FindingId::NoIommu
                | FindingId::NotEndpoint
                | FindingId::GroupOpen
                | FindingId::DeviceOpen
                | FindingId::UnfinishedOperation
                | FindingId::MdevUnbound
                | FindingId::NoVfioProvider
        )
    }
}

/// What is about to be done with a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Give it to a VFIO driver.
    Vfio,
    /// Give it to its host driver.
    Host,
    /// Leave it without a driver.
    None,
    /// Give it to a driver that the user named, with what is known of that driver's id table.
    Named(DriverName, DriverTable),
}

/// Everything that checks look at.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// The host.
    pub inventory: &'a Inventory,
    /// A close look at each device that is asked about, and at its group.
    pub close_ups: &'a BTreeMap<Bdf, CloseUp>,
    /// The devices that the same command gives to VFIO: they do not stand in each other's way.
    pub together: &'a BTreeSet<Bdf>,
    /// Who has a device open, or a VF of it.
    pub in_use: &'a BTreeMap<Bdf, Vec<InUse>>,
    /// Members of a device's group that the inventory does not have: not PCI functions, or not readable.
    pub strangers: &'a BTreeMap<Bdf, Vec<String>>,
    /// What other tools are told to do.
    pub rules: &'a Rules,
    /// The devices that an operation left halfway.
    pub unfinished: &'a BTreeMap<Target, Unfinished>,
    /// What PFs' drivers keep for VFs, where it was asked.
    pub vfs: &'a BTreeMap<Bdf, VfFacts>,
}

/// What is found about giving `device` to what `purpose` says, in the order of [`FindingId::ALL`].
#[must_use]
pub fn device(picture: Picture<'_>, device: &PciFunction, purpose: &Purpose) -> Vec<Finding> {
    let mut found = Vec::new();
    let to_vfio = match purpose {
        Purpose::Vfio => true,
        Purpose::Named(driver, table) => table.is_vfio(driver),
        Purpose::Host | Purpose::None => false,
    };
    if *purpose != Purpose::Host {
        isolation::check_belongs_to_host(picture, device, &mut found);
    }
    if *purpose != Purpose::Host {
        device::check_vendor_vgpu(device, &mut found);
    }
    if to_vfio {
        // What is ruled out for good is not judged further.
        if found.iter().all(|finding| finding.id != FindingId::NotEndpoint) {
            isolation::check(picture, device, &mut found);
        }
        device::check_for_vfio(picture, device, &mut found);
        kernel::check(picture, &mut found);
    }
    if let Purpose::Named(driver, table) = purpose {
        device::check_table(device, driver, table, &mut found);
    }
    in_use::check(picture, device, &mut found);
    unfinished::check(picture, device, &mut found);
    // A PF without a driver loses nothing with it; VFIO refuses it all the same.
    if to_vfio || device.driver.is_some() {
        device::check_vfs(device, &mut found);
    }
    if *purpose != Purpose::Host {
        vf::check_pf(device, &mut found);
    }
    vf::check(picture, device, &mut found);
    vf::check_migratable(picture, device, purpose, &mut found);
    device::check_override(device, &mut found);
    protect::check_vfs_in_vms(picture, device, &mut found);
    // All that is behind a bridge is below it, and nobody takes a bridge.
    if !device.class().is_bridge() {
        protect::check_rules(picture, device, &mut found);
        if let Some(close_up) = picture.close_ups.get(&device.bdf) {
            protect::check_duties(device, close_up, &mut found);
            if to_vfio {
                protect::check_direct_regions(device, close_up, &mut found);
            }
        }
    }
    found.sort_by_key(|finding| finding.id);
    found
}

/// Those of `findings` that stop the act: severity refuse, and not allowed by id.
pub fn refusals<'a>(findings: &'a [Finding], allowed: &'a [FindingId]) -> impl Iterator<Item = &'a Finding> {
    findings.iter().filter(|finding| finding.severity() == Severity::Refuse && !allowed.contains(&finding.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_read_back_and_is_one_word() {
        for id in FindingId::ALL {
            assert_eq!(id.as_str().parse(), Ok(*id));
            assert!(id.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
        assert!("everything".parse::<FindingId>().is_err());
    }
}
