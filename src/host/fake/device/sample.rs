//! What an open mdev of `samples/vfio-mdev/mtty.c` says of itself; other samples say the same, and do not migrate.

use uuid::Uuid;

use crate::host::device::{
    DeviceFlags, DeviceInfo, IrqFlags, IrqInfo, PCI_CONFIG, PCI_INTX, PCI_MSI, PCI_NUM_REGIONS, RegionFlags, RegionInfo,
};
use crate::host::fake::kernel::Kernel;
use crate::model::{Address, Errno};

/// `MTTY_VFIO_PCI_OFFSET_SHIFT`.
const SHIFT: u32 = 40;

/// # Kernel
/// `samples/vfio-mdev/mtty.c` `mtty_get_device_info()`: no `RESET`, though it can (7.2).
pub(super) const fn info() -> DeviceInfo {
    DeviceInfo { flags: DeviceFlags::PCI, num_regions: PCI_NUM_REGIONS, num_irqs: 5, capabilities: Vec::new() }
}

/// # Kernel
/// `samples/vfio-mdev/mtty.c` `mtty_ioctl_get_region_info()` (7.2).
pub(super) fn region(index: u32) -> Result<RegionInfo, Errno> {
    let size = match index {
        PCI_CONFIG => 0xff,
        0 => 8,
        index if index < PCI_NUM_REGIONS => 0,
        _ => return Err(Errno::EINVAL),
    };
    let flags = RegionFlags::READ | RegionFlags::WRITE;
    Ok(RegionInfo { flags, size, offset: u64::from(index) << SHIFT, capabilities: Vec::new() })
}

/// # Kernel
/// `samples/vfio-mdev/mtty.c` `mtty_get_irq_info()` (7.2).
pub(super) const fn irq(index: u32) -> Result<IrqInfo, Errno> {
    let flags = match index {
        PCI_INTX => IrqFlags::MASKABLE.union(IrqFlags::AUTOMASKED),
        PCI_MSI => IrqFlags::NORESIZE,
        _ => return Err(Errno::EINVAL),
    };
    Ok(IrqInfo { flags: flags.union(IrqFlags::EVENTFD), count: 1 })
}

/// `UART_SCR`, a register that keeps what is written to it: here, of BAR 0, the seed of what is in the device.
const SCRATCH: u64 = 7;

/// Where the scratch register is in a read or write of a region, if it is.
fn scratch(region: &RegionInfo, at: u64, length: usize) -> Option<usize> {
    let place = SCRATCH.checked_sub(at).and_then(|place| usize::try_from(place).ok())?;
    (region.offset == 0 && place < length).then_some(place)
}

impl Kernel {
    /// # Kernel
    /// `samples/vfio-mdev/mtty.c` `handle_bar_read()` (7.2).
    pub(super) fn read_sample(&self, at: &Address, region: &RegionInfo, (place, into): (u64, &mut [u8])) {
        if let Some(byte) = scratch(region, place, into.len()).and_then(|index| into.get_mut(index)) {
            let content = self.devices.content(at);
            *byte = content.seed.to_le_bytes()[0];
        }
    }

    /// # Kernel
    /// `samples/vfio-mdev/mtty.c` `handle_bar_write()` (7.2).
    pub(super) fn write_sample(&mut self, at: &Address, region: &RegionInfo, (place, data): (u64, &[u8])) {
        if let Some(byte) = scratch(region, place, data.len()).and_then(|index| data.get(index)) {
            let content = self.devices.contents.entry(at.clone()).or_default();
            content.seed = u64::from(*byte);
        }
    }

    /// The mdev that is alone in a group.
    pub(super) fn mdev_of_group(&self, group: u32) -> Option<Uuid> {
        let number = group.to_string();
        let dirs = self.mdevs();
        let own = dirs.iter().find(|dir| self.tree.link_name(&format!("{dir}/iommu_group")) == Some(&number))?;
        own.rsplit('/').next()?.parse().ok()
    }

    /// Whether an mdev is of the sample that migrates.
    pub(super) fn is_mtty(&self, uuid: Uuid) -> bool {
        let end = format!("/{}", uuid.as_hyphenated());
        let dirs = self.mdevs();
        dirs.iter().any(|dir| dir.ends_with(&end) && self.tree.link_name(&format!("{dir}/driver")) == Some("mtty"))
    }
}
