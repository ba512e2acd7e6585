//! What a fake device says of itself: info, regions, interrupts, features, resets.

use uuid::Uuid;

use super::{DeviceFault, sample};
use crate::host::device::{
    Access, Dependent, DeviceFlags, DeviceInfo, Feature, HotResetInfo, HwCapabilities, HwInfo, Iommu, IrqFlags,
    IrqInfo, MigrationFlags, Owner, PCI_CONFIG, PCI_ERR, PCI_INTX, PCI_MSI, PCI_MSIX, PCI_NUM_REGIONS, PCI_REQ,
    PCI_ROM, RegionCapability, RegionFlags, RegionInfo, RegionType, Type1Capability, Type1Info, Way,
};
use crate::host::fake::kernel::{Driver, Kernel, dev};
use crate::host::fake::vfio::lab;
use crate::model::{Address, Bdf, Errno};

/// Where each region of vfio-pci begins: `VFIO_PCI_OFFSET_SHIFT`.
const SHIFT: u32 = 40;
/// `PCI_CFG_SPACE_EXP_SIZE`.
const EXTENDED: u64 = 4096;
/// `PCI_CFG_SPACE_SIZE`.
const CONVENTIONAL: u64 = 256;

/// The region of a state of its own: `LAB_REGION_TYPE`, `LAB_REGION_SUBTYPE` of `lab/kmod/variant.c`.
const LAB_STATE: RegionType = RegionType { kind: RegionType::VENDOR | 0x1b36, subtype: 0x6c62 };

/// Where a place of a region is in a state, if it is the region of one.
fn place_in_state(region: &RegionInfo, at: u64) -> Option<usize> {
    region.capabilities.contains(&RegionCapability::Type(LAB_STATE)).then(|| usize::try_from(at).ok())?
}

/// The IOMMU in front of a device.
pub(super) fn iommu(way: &Way, device: Option<&Address>) -> Iommu {
    let physical = matches!(device, Some(Address::Pci(_)));
    match way {
        Way::Cdev(_) if physical => {
            Iommu::Iommufd(HwInfo { kind: 1, max_pasid_log2: 0, capabilities: HwCapabilities::DIRTY_TRACKING })
        }
        Way::Group(..) if physical => Iommu::Type1(Type1Info {
            page_sizes: 0x4020_1000,
            capabilities: vec![
                Type1Capability::Migration { page_sizes: 0x1000, max_bitmap: 1 << 28 },
                Type1Capability::DmaAvail(65535),
            ],
        }),
        _ => Iommu::None,
    }
}

/// A line of `resource`: its size, and whether it is memory.
fn bar(line: &str) -> Option<(u64, bool)> {
    let mut words = line.split_whitespace().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
    let (Some(Ok(start)), Some(Ok(end)), Some(Ok(flags))) = (words.next(), words.next(), words.next()) else {
        return None;
    };
    // IORESOURCE_MEM.
    (end > start).then(|| (end - start + 1, flags & 0x200 != 0))
}

impl Kernel {
    /// Opens the device itself: refused while somebody resets it, and for want of the right token.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_enable()` (`EAGAIN`), `vfio_pci_validate_vf_token()`: a VF whose PF is a
    /// VFIO device wants the token that this has, which is a random one until it is set (7.2).
    pub(super) fn enable_vfio(&mut self, bdf: Bdf, token: Option<Uuid>) -> Result<(), Errno> {
        if let Some(left) = self.devices.busy.get_mut(&bdf).filter(|left| **left > 0) {
            *left -= 1;
            return Err(Errno::EAGAIN);
        }
        if self.devices.does(&Address::Pci(bdf), DeviceFault::DeadWhenForced) && self.is_forced(bdf) {
            return Err(Errno::EIO);
        }
        let Some(pf) = self.pf(bdf) else {
            return match token {
                None => Ok(()),
                Some(token) if self.can_have_vfs(bdf) => self.set_vf_token(bdf, token),
                Some(_) => Err(Errno::EINVAL),
            };
        };
        match (self.vdevs.contains_key(&pf), token) {
            (false, None) => Ok(()),
            (false, Some(_)) => Err(Errno::EINVAL),
            (true, Some(token)) if self.devices.tokens.get(&pf) == Some(&token) => Ok(()),
            (true, _) => Err(Errno::EACCES),
        }
    }

    /// Whether a function is on a VFIO driver whose table has it not.
    fn is_forced(&self, bdf: Bdf) -> bool {
        let (Some(Driver::Vfio(variant)), Some(alias)) = (self.driver(bdf), self.alias(bdf)) else { return false };
        !variant.aliases().into_iter().any(|pattern| pattern.matches(&alias))
    }

    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_get_info()`: `vdev->reset_works` (7.2).
    pub(super) fn device_info(&self, at: &Address) -> DeviceInfo {
        let Address::Pci(bdf) = *at else { return sample::info() };
        let resets = self.resets(bdf);
        let flags = if resets { DeviceFlags::PCI | DeviceFlags::RESET } else { DeviceFlags::PCI };
        let more = self.vdevs.get(&bdf).map_or(0, |vdev| vdev.regions.len());
        let num_regions = PCI_NUM_REGIONS + u32::try_from(more).unwrap_or(0);
        DeviceInfo { flags, num_regions, num_irqs: 5, capabilities: Vec::new() }
    }

    /// A VF can always be reset by itself (PCIe 6.2, 9.2.2.2: FLR is mandatory), so that a model need not say so.
    fn resets(&self, bdf: Bdf) -> bool {
        let methods = self.tree.text(&format!("{}/reset_method", dev(bdf)));
        methods.map_or_else(|| self.pf(bdf).is_some(), |methods| !methods.trim().is_empty())
    }

    /// Whether a function is PCI Express: its link has a speed, or it is a VF.
    fn is_express(&self, bdf: Bdf) -> bool {
        self.pf(bdf).is_some() || self.tree.has(&format!("{}/current_link_speed", dev(bdf)))
    }

    /// BARs and ROM as `resource` has them, where the host has that; the rest as every device of vfio-pci.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_get_region_info()` (7.2).
    pub(super) fn region_info(&self, at: &Address, index: u32) -> Result<RegionInfo, Errno> {
        let Address::Pci(bdf) = *at else { return sample::region(index) };
        let offset = u64::from(index) << SHIFT;
        let region = |flags, size, capabilities| RegionInfo { flags, size, offset, capabilities };
        let both = RegionFlags::READ | RegionFlags::WRITE;
        match index {
            0..=PCI_ROM => {
                let lines = self.tree.text(&format!("{}/resource", dev(bdf))).unwrap_or_default();
                let found = lines.lines().nth(usize::try_from(index).unwrap_or(usize::MAX)).and_then(bar);
                let Some((size, memory)) = found else { return Ok(region(RegionFlags::empty(), 0, Vec::new())) };
                let flags = match (index, memory) {
                    (PCI_ROM, _) => RegionFlags::READ,
                    (_, true) => both | RegionFlags::MMAP,
                    (_, false) => both,
                };
                let wild = index == 0 && self.devices.does(at, DeviceFault::WildRegion);
                let found = region(flags, size, Vec::new());
                Ok(if wild { RegionInfo { offset: u64::MAX - 1, ..found } } else { found })
            }
            PCI_CONFIG => Ok(region(both, if self.is_express(bdf) { EXTENDED } else { CONVENTIONAL }, Vec::new())),
            index => {
                let more = index.checked_sub(PCI_NUM_REGIONS).and_then(|more| usize::try_from(more).ok());
                let vdev = self.vdevs.get(&bdf).ok_or(Errno::EINVAL)?;
                let name = more.and_then(|more| vdev.regions.get(more)).ok_or(Errno::EINVAL)?;
                if let Some(length) = self.twin_length(at).filter(|_| *name == lab::REGION) {
                    return Ok(region(
                        both | RegionFlags::CAPS,
                        length as u64,
                        vec![RegionCapability::Type(LAB_STATE)],
                    ));
                }
                let kind = match *name {
                    name if name.contains("opregion") => RegionType::INTEL_OPREGION,
                    name if name.contains("host") => RegionType::INTEL_HOST_CFG,
                    _ => RegionType::INTEL_LPC_CFG,
                };
                let flags = RegionFlags::READ | RegionFlags::CAPS;
                Ok(region(flags, 8192, vec![RegionCapability::Type(kind)]))
            }
        }
    }

    /// One of each kind that a function of its sort has: the model has no vectors.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_get_irq_info()`, `vfio_pci_get_irq_count()`: a VF has no line (7.2).
    pub(super) fn irq_info(&self, at: &Address, index: u32) -> Result<IrqInfo, Errno> {
        let Address::Pci(bdf) = *at else { return sample::irq(index) };
        let is_vf = self.pf(bdf).is_some();
        let (flags, count) = match index {
            PCI_INTX => (IrqFlags::MASKABLE | IrqFlags::AUTOMASKED, u32::from(!is_vf)),
            PCI_MSI => (IrqFlags::NORESIZE, 0),
            PCI_MSIX => (IrqFlags::empty(), 1),
            PCI_ERR if !self.is_express(bdf) => return Err(Errno::EINVAL),
            PCI_ERR | PCI_REQ => (IrqFlags::NORESIZE, 1),
            _ => return Err(Errno::EINVAL),
        };
        Ok(IrqInfo { flags: flags | IrqFlags::EVENTFD, count })
    }

    /// Config space is the file `config` where the host has it, and the ids alone elsewhere; every other region reads as zeros.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_rw()` (7.2).
    pub(super) fn read_region(
        &self,
        device: &Address,
        region: &RegionInfo,
        at: u64,
        into: &mut [u8],
    ) -> Result<usize, Errno> {
        let left = region.size.checked_sub(at).filter(|left| *left > 0).ok_or(Errno::EINVAL)?;
        if !region.flags.contains(RegionFlags::READ) {
            return Err(Errno::EINVAL);
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        into[..count].fill(0);
        if matches!(device, Address::Mdev(_)) {
            self.read_sample(device, region, (at, &mut into[..count]));
        }
        if let Some(place) = place_in_state(region, at) {
            self.read_twin(device, (place, &mut into[..count]));
        }
        if let Address::Pci(bdf) = *device
            && region.offset == u64::from(PCI_CONFIG) << SHIFT
        {
            let config =
                self.tree.file(&format!("{}/config", dev(bdf))).map_or_else(|| self.ids_alone(bdf), <[u8]>::to_vec);
            let rest = usize::try_from(at).ok().and_then(|at| config.get(at..)).unwrap_or_default();
            let known = rest.len().min(count);
            into[..known].copy_from_slice(&rest[..known]);
        }
        Ok(count)
    }

    /// The first 64 bytes of config space, as far as the ids go.
    fn ids_alone(&self, bdf: Bdf) -> Vec<u8> {
        let mut config = vec![0; 64];
        if let Some(alias) = self.alias(bdf) {
            config[..2].copy_from_slice(&alias.vendor().to_le_bytes());
            config[2..4].copy_from_slice(&alias.device().to_le_bytes());
            config[9..12].copy_from_slice(&alias.class().to_le_bytes()[..3]);
        }
        config
    }

    /// What is written is lost, but in an mdev, and in the region of a state.
    pub(super) fn write_region(
        &mut self,
        device: &Address,
        region: &RegionInfo,
        at: u64,
        data: &[u8],
    ) -> Result<usize, Errno> {
        let left = region.size.checked_sub(at).filter(|left| *left > 0).ok_or(Errno::EINVAL)?;
        if !region.flags.contains(RegionFlags::WRITE) {
            return Err(Errno::EINVAL);
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        if matches!(device, Address::Mdev(_)) {
            self.write_sample(device, region, (at, &data[..count]));
        }
        if let Some(place) = place_in_state(region, at) {
            self.write_twin(device, (place, &data[..count]));
        }
        Ok(count)
    }

    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_reset()` (7.2).
    pub(super) fn reset_device(&mut self, at: &Address) -> Result<(), Errno> {
        if self.function_of(at).is_some_and(|bdf| !self.resets(bdf)) {
            return Err(Errno::EINVAL);
        }
        self.reset_migration(at);
        Ok(())
    }

    /// The functions on its bus; of a VF there is no bus to reset.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_get_pci_hot_reset_info()`; `drivers/pci/pci.c`
    /// `pci_probe_reset_bus()`: a root bus is none (7.2).
    fn hot_reset_of(&self, bdf: Bdf, owner: impl Fn(Bdf) -> Result<Owner, Errno>) -> Result<Vec<Dependent>, Errno> {
        if self.pf(bdf).is_some() || bdf.bus() == 0 {
            return Err(Errno::ENODEV);
        }
        let on_bus = |other: &Bdf| other.domain() == bdf.domain() && other.bus() == bdf.bus();
        let devices: Vec<Bdf> = self.functions().filter(on_bus).collect();
        devices
            .into_iter()
            .map(|other| {
                Ok(Dependent {
                    segment: u16::try_from(other.domain() & 0xffff).unwrap_or(0),
                    bus: other.bus(),
                    devfn: other.device() << 3 | other.function(),
                    owner: owner(other)?,
                })
            })
            .collect()
    }

    pub(super) fn hot_reset_by_group(&self, bdf: Bdf) -> Result<HotResetInfo, Errno> {
        let owner = |other| self.group(other).map(Owner::Group).ok_or(Errno::EPERM);
        Ok(HotResetInfo { owned: None, devices: self.hot_reset_of(bdf, owner)? })
    }

    /// Each open has an iommufd of its own: what is not this device, and not of its group, is not the caller's.
    pub(super) fn hot_reset_by_cdev(&self, bdf: Bdf) -> Result<HotResetInfo, Errno> {
        let owner = |other| {
            Ok(match other {
                other if other == bdf => Owner::Bound(vfioadm_uapi::iommufd::ObjectId(1)),
                other if self.group(other) == self.group(bdf) && self.vdevs.contains_key(&other) => Owner::InOwnGroup,
                _ => Owner::Other,
            })
        };
        let devices = self.hot_reset_of(bdf, owner)?;
        Ok(HotResetInfo { owned: Some(devices.iter().all(|one| one.owner != Owner::Other)), devices })
    }

    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_dev_set_hot_reset()`: `EINVAL` unless all are the caller's (7.2).
    pub(super) fn hot_reset(&mut self, bdf: Bdf) -> Result<(), Errno> {
        if self.hot_reset_by_cdev(bdf)?.owned != Some(true) {
            return Err(Errno::EINVAL);
        }
        self.reset_migration(&Address::Pci(bdf));
        Ok(())
    }

    /// `PCI_VF_TOKEN`.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_feature_token()`, `vfio_pci_vf_init()`: a PF that can have VFs (7.2).
    pub(super) fn set_vf_token(&mut self, bdf: Bdf, token: Uuid) -> Result<(), Errno> {
        if !self.can_have_vfs(bdf) {
            return Err(Errno::ENOTTY);
        }
        self.devices.tokens.insert(bdf, token);
        Ok(())
    }

    fn can_have_vfs(&self, bdf: Bdf) -> bool {
        self.pf(bdf).is_none() && self.number::<u32>(bdf, "sriov_totalvfs").is_some_and(|most| most > 0)
    }

    /// The header of a feature alone.
    ///
    /// # Kernel
    /// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature()`, `vfio_check_feature()`;
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_ioctl_feature()` (7.2).
    pub(super) fn ask_feature(&mut self, at: &Address, feature: Feature, access: Access) -> Result<(), Errno> {
        let probe = access.contains(Access::PROBE);
        let wanted = access.difference(Access::PROBE);
        if !probe && wanted == (Access::GET | Access::SET) {
            return Err(Errno::EINVAL);
        }
        let (offered, has_data) = self.offered(at, feature)?;
        if !offered.contains(wanted) {
            return Err(Errno::EINVAL);
        }
        if probe {
            return Ok(());
        }
        if wanted.is_empty() || has_data {
            return Err(Errno::EINVAL);
        }
        match (feature, at) {
            (Feature::LOW_POWER_ENTRY, Address::Pci(bdf)) => {
                if self.devices.drowsy.insert(*bdf) {
                    Ok(())
                } else {
                    Err(Errno::EINVAL)
                }
            }
            (Feature::LOW_POWER_EXIT, Address::Pci(bdf)) => {
                self.devices.drowsy.remove(bdf);
                Ok(())
            }
            (Feature::DMA_LOGGING_STOP, _) => self.stop_logging(at),
            (Feature::MIG_PRECOPY_INFO_V2, _) => {
                self.migrating(at)?.precopy_v2 = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What can be done with a feature, and whether it has data.
    fn offered(&mut self, at: &Address, feature: Feature) -> Result<(Access, bool), Errno> {
        let none = if self.devices.does(at, DeviceFault::WrongErrno) { Errno::EINVAL } else { Errno::ENOTTY };
        let migrates = self.migration_flags(at);
        let function = self.function_of(at);
        let core = function.and_then(|bdf| self.vdevs.get(&bdf)).is_some_and(|vdev| vdev.features);
        let when = |has: bool, access, data| if has { Ok((access, data)) } else { Err(none) };
        match feature {
            Feature::PCI_VF_TOKEN => {
                when(core && function.is_some_and(|bdf| self.can_have_vfs(bdf)), Access::SET, true)
            }
            Feature::MIGRATION | Feature::MIG_DATA_SIZE => when(migrates.is_some(), Access::GET, true),
            Feature::MIG_DEVICE_STATE => when(migrates.is_some(), Access::GET | Access::SET, true),
            Feature::LOW_POWER_ENTRY | Feature::LOW_POWER_EXIT => when(core, Access::SET, false),
            Feature::LOW_POWER_ENTRY_WITH_WAKEUP => when(core, Access::SET, true),
            Feature::DMA_LOGGING_START => when(self.logs(at), Access::SET, true),
            Feature::DMA_LOGGING_STOP => when(self.logs(at), Access::SET, false),
            Feature::DMA_LOGGING_REPORT => when(self.logs(at), Access::GET, true),
            // The variants have no part in it: they set no `pci_ops` (7.2).
            Feature::DMA_BUF if core => match function.and_then(|bdf| self.driver_name(bdf)) {
                Some("vfio-pci") => Ok((Access::GET, true)),
                _ => Err(Errno::EOPNOTSUPP),
            },
            Feature::MIG_PRECOPY_INFO_V2 => match migrates {
                Some(flags) if flags.contains(MigrationFlags::PRE_COPY) => Ok((Access::SET, false)),
                _ => Err(Errno::EINVAL),
            },
            _ => Err(none),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_resource_is_a_bar_or_none() {
        assert_eq!(bar("0x00000000fe000000 0x00000000fe0fffff 0x0000000000040200"), Some((1 << 20, true)));
        assert_eq!(bar("0x000000000000c000 0x000000000000c03f 0x0000000000040101"), Some((64, false)));
        assert_eq!(bar("0x0000000000000000 0x0000000000000000 0x0000000000000000"), None);
        assert_eq!(bar("0x1"), None);
    }
}
