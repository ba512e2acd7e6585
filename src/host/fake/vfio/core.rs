//! vfio-pci-core: what every VFIO PCI driver does unless it says otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use super::zdev;
use crate::model::driver::Table;
use crate::model::{AliasPattern, Class, Errno, ModAlias};

/// The parameters of a driver's module, as `/sys/module/<module>/parameters` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// What a parameter reads; nothing when there is none.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A parameter that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> u32 {
        self.text(name).parse().unwrap_or_default()
    }

    /// Whether a parameter says yes.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        self.text(name) == "Y"
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(all: I) -> Self {
        Self(all.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// What a driver sees of the PCI function that it probes.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its ids.
    pub alias: ModAlias,
    /// The index of a VF; `None` for anything else.
    pub vf: Option<u16>,
    /// How many VFs it has enabled, as a PF.
    pub enabled_vfs: usize,
    /// It is in an IOMMU group.
    pub grouped: bool,
    /// Firmware properties of the device, by name.
    pub properties: Vec<String>,
    /// The parameters of the driver's module.
    pub parameters: Parameters,
}

impl Function {
    /// Its class.
    #[must_use]
    pub const fn class(&self) -> Class {
        Class(self.alias.class())
    }

    /// `PCI_HEADER_TYPE_NORMAL`: neither a PCI-to-PCI, a CardBus nor a semi-transparent bridge.
    #[must_use]
    pub const fn normal_header(&self) -> bool {
        let class = self.class();
        !(class.base() == 0x06 && matches!(class.sub(), 0x04 | 0x07 | 0x09))
    }

    /// Whether firmware gives it this property.
    #[must_use]
    pub fn has(&self, property: &str) -> bool {
        self.properties.iter().any(|name| name == property)
    }
}

/// The way from a VF to its PF's driver: what `pci_iov_get_pf_drvdata()` or a vendor's own lookup finds.
///
/// # Kernel
/// `drivers/pci/iov.c` `pci_iov_get_pf_drvdata()`: `EINVAL` when this is no VF or the PF has another driver (7.2).
#[derive(Debug, Clone, Default)]
pub struct PfChannel {
    /// The PF's driver.
    pub driver: Option<String>,
    /// The VF's port function may migrate: the devlink bit that mlx5 reads once, at probe.
    pub migratable: bool,
}

impl PfChannel {
    /// Whether the PF is on this driver.
    #[must_use]
    pub fn is_on(&self, driver: &str) -> bool {
        self.driver.as_deref() == Some(driver)
    }
}

/// What `VFIO_DEVICE_FEATURE_MIGRATION` says of a device that can migrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migration {
    /// `VFIO_MIGRATION_STOP_COPY`.
    StopCopy,
    /// The same and `VFIO_MIGRATION_P2P`.
    P2p,
    /// `STOP_COPY` and `PRE_COPY`, no `P2P`.
    PreCopy,
    /// All three.
    P2pPreCopy,
}

/// A registered VFIO device: what its driver made of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vdev {
    /// Its migration, if it can.
    pub migration: Option<Migration>,
    /// It logs dirty pages itself.
    pub dirty_log: bool,
    /// Regions beyond the PCI ones.
    pub regions: Vec<&'static str>,
    /// Capabilities of `VFIO_DEVICE_GET_INFO`.
    pub caps: Vec<&'static str>,
    /// It answers low-power and other optional features.
    pub features: bool,
    /// The state that its driver keeps for it: of the lab's variants alone.
    pub own: Option<OwnState>,
}

/// A state that is the driver's own, and not the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnState {
    /// How large it is.
    pub length: usize,
    /// It is lost when the driver of the PF goes.
    pub needs_pf: bool,
}

/// A VFIO PCI driver.
///
/// Its default methods are vfio-pci-core's: a driver that says nothing of its own is plain vfio-pci under another name.
/// They are called in the kernel's order: [`ready`](Variant::ready), [`init`](Variant::init),
/// [`register`](Variant::register), [`connect`](Variant::connect).
pub trait Variant: Sync {
    /// The driver as `/sys/bus/pci/drivers` names it.
    fn driver(&self) -> &'static str;

    /// The module as `/sys/module` names it.
    fn module(&self) -> &'static str;

    /// The vendor and device ids of its table, all `PCI_DRIVER_OVERRIDE_DEVICE_VFIO`: matched only under an override.
    fn ids(&self) -> &'static [(u16, u16)];

    /// Modules that its module needs beyond the core.
    fn needs(&self) -> &'static [&'static str] {
        &[]
    }

    /// The alias lines of its table.
    fn aliases(&self) -> Vec<AliasPattern> {
        let ids = self.ids();
        if ids.is_empty() {
            return vec![AliasPattern::catch_all(Table::Vfio)];
        }
        ids.iter().map(|(vendor, device)| AliasPattern::of_ids(Table::Vfio, *vendor, *device)).collect()
    }

    /// The parameters of its module that can be seen, and what they are when it is loaded.
    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Those of them that a device keeps as they were when it was bound.
    fn kept(&self) -> &'static [&'static str] {
        &[]
    }

    /// How long a probe takes.
    fn delay(&self, _parameters: &Parameters) -> Duration {
        Duration::ZERO
    }

    /// Checks before anything is allocated.
    ///
    /// # Errors
    /// The errno that `bind` answers.
    fn ready(&self, _function: &Function) -> Result<(), Errno> {
        Ok(())
    }

    /// `vfio_device_ops.init`: takes hold of the PF and decides what the device can do.
    ///
    /// # Errors
    /// The errno that `bind` answers.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_init_dev()` (7.2).
    fn init(&self, _function: &Function, _pf: &PfChannel) -> Result<Vdev, Errno> {
        Ok(Vdev { features: true, ..Vdev::default() })
    }

    /// Registers the device with the core.
    ///
    /// # Errors
    /// `EINVAL` for a bridge or without IOMMU group, `EBUSY` for a PF with VFs enabled.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_register_device()`, `drivers/vfio/group.c`
    /// `vfio_group_find_or_alloc()` (7.2).
    fn register(&self, function: &Function) -> Result<(), Errno> {
        if !function.normal_header() {
            return Err(Errno::EINVAL);
        }
        if function.enabled_vfs > 0 {
            return Err(Errno::EBUSY);
        }
        if !function.grouped {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// What is done after the core has it.
    ///
    /// # Errors
    /// The errno that `bind` answers; the core has let go of the device then.
    fn connect(&self, _function: &Function, _pf: &PfChannel) -> Result<(), Errno> {
        Ok(())
    }

    /// What opening adds: nothing here, the graphics regions on vfio-pci.
    fn extend(&self, _function: &Function, _vdev: &mut Vdev) {}

    /// Whether it has `.sriov_configure`, so that a PF under it can make VFs.
    fn makes_vfs(&self) -> bool {
        false
    }
}

impl dyn Variant {
    /// The whole probe.
    ///
    /// # Errors
    /// The errno that `bind` answers.
    pub fn probe(&self, function: &Function, pf: &PfChannel) -> Result<Vdev, Errno> {
        self.ready(function)?;
        let mut vdev = self.init(function, pf)?;
        self.register(function)?;
        self.connect(function, pf)?;
        self.extend(function, &mut vdev);
        zdev::extend(function, &mut vdev);
        Ok(vdev)
    }
}
