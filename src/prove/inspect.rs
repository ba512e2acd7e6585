//! All that an open device says of itself.

use crate::host::device::{
    Access, DeviceInfo, Feature, HotResetInfo, Iommu, IrqInfo, MigrationFlags, RegionCapability, RegionInfo,
    RegionType, State,
};
use crate::host::device::{PCI_CONFIG, PCI_ERR, PCI_INTX, PCI_MSI, PCI_MSIX, PCI_REQ, PCI_ROM, PCI_VGA};
use crate::host::{Device, HostError};
use crate::model::Errno;

/// What a device said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What it is.
    pub info: DeviceInfo,
    /// Each region that there is, with its index.
    pub regions: Vec<(u32, RegionInfo)>,
    /// Each kind of interrupt that there is, with its index.
    pub irqs: Vec<(u32, IrqInfo)>,
    /// What a reset of its slot or bus would hit; `None` where neither can be reset, and of what is no PCI device.
    pub hot_reset: Option<HotResetInfo>,
    /// The features that it has, in the order of their numbers.
    pub features: Vec<Offered>,
    /// How it migrates; `None`: it does not.
    pub migration: Option<Migrates>,
    /// The IOMMU in front of it.
    pub iommu: Iommu,
}

/// A feature that a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// Which.
    pub feature: Feature,
    /// Whether it can be read.
    pub get: bool,
    /// Whether it can be set.
    pub set: bool,
}

/// How a device migrates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrates {
    /// What it can.
    pub flags: MigrationFlags,
    /// The state that it was found in.
    pub state: State,
    /// How many bytes of state there are, about; `None` of a kernel that does not say (before 6.2).
    pub data_size: Option<u64>,
}

impl Inspection {
    /// Whether it has a feature.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.iter().any(|offered| offered.feature == feature)
    }

    /// Whether it logs itself where it writes.
    #[must_use]
    pub fn logs_dma(&self) -> bool {
        self.has(Feature::DMA_LOGGING_START)
    }
}

/// Asks a device everything. Nothing is changed.
///
/// # Errors
/// What the device refused to say, but that it has none of it.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_ioctl()`; `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature()` (7.2).
pub fn inspect(device: &dyn Device) -> Result<Inspection, HostError> {
    let info = device.info()?;
    let regions = all(info.num_regions, |index| device.region(index))?;
    let irqs = all(info.num_irqs, |index| device.irq(index))?;
    let features = features(device)?;
    // A device that is no PCI function answers ENOTTY, and mtty, which looks like one, EINVAL or ENOTTY.
    let hot_reset = unless(device.hot_reset_info(), &[Errno::ENODEV, Errno::ENOTTY, Errno::EINVAL])?;
    let (migration, iommu) = (migration(device)?, device.iommu()?);
    Ok(Inspection { info, regions, irqs, hot_reset, features, migration, iommu })
}

/// Asks a device how it migrates; `None`: it does not.
///
/// # Errors
/// What the device refused to say, but that it has none of it.
pub fn migration(device: &dyn Device) -> Result<Option<Migrates>, HostError> {
    let Some(flags) = unless(device.migration(), &[Errno::ENOTTY])? else { return Ok(None) };
    Ok(Some(Migrates { flags, state: device.state()?, data_size: unless(device.data_size(), &[Errno::ENOTTY])? }))
}

/// Each of so many, but those that there are not.
fn all<T>(count: u32, one: impl Fn(u32) -> Result<T, HostError>) -> Result<Vec<(u32, T)>, HostError> {
    let found = (0..count).map(|index| Ok(unless(one(index), &[Errno::EINVAL])?.map(|one| (index, one))));
    found.filter_map(Result::transpose).collect()
}

/// An answer, or none when the device has not got that.
fn unless<T>(answer: Result<T, HostError>, absent: &[Errno]) -> Result<Option<T>, HostError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if absent.contains(&error.errno) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Which features it has, and what of them. One that it has not is `ENOTTY`; pre-copy info v2 `EINVAL` of a device without
/// pre-copy; dma-buf `EOPNOTSUPP` of a driver that has no part in it.
fn features(device: &dyn Device) -> Result<Vec<Offered>, HostError> {
    let absent = [Errno::ENOTTY, Errno::EINVAL, Errno::EOPNOTSUPP];
    let can = |feature, access| Ok(unless(device.ask(feature, access | Access::PROBE), &absent)?.is_some());
    let mut found = Vec::new();
    for feature in Feature::ALL.iter().copied() {
        if can(feature, Access::empty())? {
            found.push(Offered { feature, get: can(feature, Access::GET)?, set: can(feature, Access::SET)? });
        }
    }
    Ok(found)
}

/// What a region is: `BAR 0`, `config`, `Intel OpRegion`.
#[must_use]
pub fn region_name(index: u32, region: &RegionInfo) -> String {
    let kind = region.capabilities.iter().find_map(|capability| match capability {
        RegionCapability::Type(kind) => Some(*kind),
        _ => None,
    });
    match (index, kind) {
        (bar, None) if bar < PCI_ROM => format!("BAR {bar}"),
        (PCI_ROM, None) => "ROM".to_owned(),
        (PCI_CONFIG, None) => "config".to_owned(),
        (PCI_VGA, None) => "VGA".to_owned(),
        (_, Some(RegionType::INTEL_OPREGION)) => "Intel OpRegion".to_owned(),
        (_, Some(RegionType::INTEL_HOST_CFG)) => "config of the host bridge".to_owned(),
        (_, Some(RegionType::INTEL_LPC_CFG)) => "config of the LPC bridge".to_owned(),
        (_, Some(RegionType::GFX_EDID)) => "EDID".to_owned(),
        (_, Some(kind)) => match kind.vendor() {
            Some(vendor) => format!("vendor {vendor:04x}, {}", kind.subtype),
            None => format!("type {}, {}", kind.kind, kind.subtype),
        },
        (_, None) => "of the driver".to_owned(),
    }
}

/// What interrupts of an index are, of a PCI device.
#[must_use]
pub fn irq_name(index: u32) -> &'static str {
    match index {
        PCI_INTX => "INTx",
        PCI_MSI => "MSI",
        PCI_MSIX => "MSI-X",
        PCI_ERR => "error",
        PCI_REQ => "request",
        _ => "of the driver",
    }
}
