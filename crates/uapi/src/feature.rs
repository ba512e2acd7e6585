//! `VFIO_DEVICE_FEATURE`: what some devices offer beyond the rest, each by its number; whether a device has it is asked by
//! [`probe`].
//!
//! Those of migration are in [`migration`](crate::migration), those that log DMA in [`dma_logging`](crate::dma_logging).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::layout::layout;
use crate::{Errno, Result, call, opcode};

/// A feature, by its number.
///
/// A number and not an enum: the kernel answers for numbers that are not listed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Feature(pub u16);

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $theirs:literal;)*) => {
        impl Feature {
            $($(#[$doc])* #[doc(alias = $theirs)] pub const $name: Self = Self($number);)*

            /// Each that is known here, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name, as the header spells it after `VFIO_DEVICE_FEATURE_`.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(&$theirs["VFIO_DEVICE_FEATURE_".len()..]),)*
                    _ => None,
                }
            }
        }

        /// For the header test.
        #[cfg(test)]
        pub(crate) const NAMED: &[(&str, u16)] = &[$(($theirs, $number)),*];
    };
}

features! {
    /// SET of 16 bytes: the token that a PF's VFs are opened with.
    PCI_VF_TOKEN = 0, "VFIO_DEVICE_FEATURE_PCI_VF_TOKEN";
    /// GET: how the device migrates.
    MIGRATION = 1, "VFIO_DEVICE_FEATURE_MIGRATION";
    /// GET and SET: the state of its migration.
    MIG_DEVICE_STATE = 2, "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE";
    /// SET: it may sleep while it is open.
    LOW_POWER_ENTRY = 3, "VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY";
    /// SET: it may sleep once, and an eventfd tells when it wakes.
    LOW_POWER_ENTRY_WITH_WAKEUP = 4, "VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP";
    /// SET: it may not sleep any more.
    LOW_POWER_EXIT = 5, "VFIO_DEVICE_FEATURE_LOW_POWER_EXIT";
    /// SET: it logs where it writes.
    DMA_LOGGING_START = 6, "VFIO_DEVICE_FEATURE_DMA_LOGGING_START";
    /// SET: it stops that.
    DMA_LOGGING_STOP = 7, "VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP";
    /// GET: where it has written.
    DMA_LOGGING_REPORT = 8, "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT";
    /// GET: how many bytes of state there would be.
    MIG_DATA_SIZE = 9, "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE";
    /// SET: whether it may do DMA, of CDX devices.
    BUS_MASTER = 10, "VFIO_DEVICE_FEATURE_BUS_MASTER";
    /// GET: parts of a BAR as a dma-buf.
    DMA_BUF = 11, "VFIO_DEVICE_FEATURE_DMA_BUF";
    /// SET: flags of the pre-copy info mean something from now on.
    MIG_PRECOPY_INFO_V2 = 12, "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2";
}

bitflags::bitflags! {
    /// What is done with a feature.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Access: u32 {
        /// Its data is read.
        #[doc(alias = "VFIO_DEVICE_FEATURE_GET")]
        const GET = 1 << 16;
        /// It is set, with data or by being asked alone.
        #[doc(alias = "VFIO_DEVICE_FEATURE_SET")]
        const SET = 1 << 17;
        /// Nothing is done: whether the device has it, and can do all that is named beside.
        #[doc(alias = "VFIO_DEVICE_FEATURE_PROBE")]
        const PROBE = 1 << 18;
    }
}

/// `struct vfio_device_feature`, without the data behind it.
#[repr(C)]
struct Head {
    argsz: u32,
    flags: u32,
}
layout!(Head is "vfio_device_feature", 8 bytes { argsz at 0, flags at 4 });

/// A header with its data.
#[repr(C)]
struct Message<T> {
    head: Head,
    data: T,
}

/// Gets or sets a feature with its data, and gives what the ioctl returned.
///
/// # Safety
/// `T` is `repr(C)`, has no padding and no alignment above 8, whatever the kernel writes there is a `T`, and addresses in it
/// are of memory that the handlers of the feature may read, or write, until they return.
pub(crate) unsafe fn with<T>(device: BorrowedFd<'_>, feature: Feature, access: Access, data: T) -> Result<(T, i32)> {
    const { assert!(std::mem::offset_of!(Message<T>, data) == 8 && size_of::<Message<T>>() == 8 + size_of::<T>()) };
    let argsz = u32::try_from(size_of::<Message<T>>()).map_err(|_| Errno::INVAL)?;
    let mut message = Message { head: Head { argsz, flags: u32::from(feature.0) | access.bits() }, data };
    // SAFETY: the kernel reads and writes at most `argsz` bytes, which is all of the structure and has no padding, as
    // asserted; the caller's word for what is in it.
    let returned = unsafe { call::structure::<{ opcode::DEVICE_FEATURE }, _>(device, &mut message) }?;
    Ok((message.data, returned))
}

/// The header alone, without any data: for what needs none, and to see what the kernel says of too little.
///
/// With [`PROBE`](Access::PROBE) nothing is done. Without it, a feature that has no data is set: the device may sleep, or
/// stops to log. One that has data answers `EINVAL`.
///
/// # Errors
/// `ENOTTY` the device has no such feature, or is no VFIO device · `EINVAL` it has it and cannot do that; GET and SET at once,
/// or neither, without PROBE; data is missing; of [`MIG_PRECOPY_INFO_V2`](Feature::MIG_PRECOPY_INFO_V2) also that the device
/// has no pre-copy; a cdev that is not bound · `EOPNOTSUPP` of [`DMA_BUF`](Feature::DMA_BUF), the driver has no part in it ·
/// the driver's own.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature()`; `include/linux/vfio.h` `vfio_check_feature()`;
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_ioctl_feature()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE")]
pub fn bare(device: BorrowedFd<'_>, feature: Feature, access: Access) -> Result<()> {
    let head = pack(Head { argsz: Head::SIZE, flags: u32::from(feature.0) | access.bits() });
    // Room behind the header, for a driver that does not look how long it is told that the data may be.
    let mut words = [head, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads and writes at most `argsz` bytes, 8, before it returns, and there are more.
    unsafe { call::words::<{ opcode::DEVICE_FEATURE }>(device, &mut words) }.map(drop)
}

/// Whether the device has a feature, and can do with it what is named. Nothing is done.
///
/// # Errors
/// As of [`bare`].
///
/// # Kernel
/// As of [`bare`].
#[doc(alias = "VFIO_DEVICE_FEATURE_PROBE")]
pub fn probe(device: BorrowedFd<'_>, feature: Feature, access: Access) -> Result<()> {
    bare(device, feature, access | Access::PROBE)
}

/// The header, as it lies in memory.
fn pack(head: Head) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&head.argsz.to_ne_bytes());
    bytes[4..].copy_from_slice(&head.flags.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// `VFIO_DEVICE_FEATURE_PCI_VF_TOKEN`: sets the token of a PF, a UUID in the order in which it is spelled. From then on its
/// VFs are opened with it alone, and so is the PF while a VF is open.
///
/// # Errors
/// `ENOTTY` not a PF, or not one of vfio-pci · `EINVAL` a cdev that is not bound.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_feature_token()`, `vfio_pci_validate_vf_token()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_PCI_VF_TOKEN")]
pub fn set_vf_token(device: BorrowedFd<'_>, token: [u8; 16]) -> Result<()> {
    // SAFETY: 16 bytes, which the kernel reads.
    unsafe { with(device, Feature::PCI_VF_TOKEN, Access::SET, token) }.map(drop)
}

/// `VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY`: lets the device sleep while it is open. Any access wakes it, and it may sleep again.
/// Mapped regions fault until [`low_power_exit`].
///
/// # Errors
/// `EINVAL` it may sleep already; a cdev that is not bound · `ENOTTY` the driver does not offer this.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_pm_entry()`, `vfio_pci_runtime_pm_entry()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY")]
pub fn low_power_entry(device: BorrowedFd<'_>) -> Result<()> {
    bare(device, Feature::LOW_POWER_ENTRY, Access::SET)
}

/// `struct vfio_device_low_power_entry_with_wakeup`.
#[repr(C)]
struct LowPowerEntryWithWakeup {
    wakeup_eventfd: i32,
    reserved: u32,
}
layout!(LowPowerEntryWithWakeup reads "vfio_device_low_power_entry_with_wakeup", 8 bytes {
    wakeup_eventfd at 0, reserved at 4,
});

/// `VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP`: as [`low_power_entry`], until it wakes for whatever reason; then the
/// eventfd rings, and the device stays awake.
///
/// # Errors
/// As of [`low_power_entry`]; `EINVAL` also for what is no eventfd.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_pm_entry_with_wakeup()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP")]
pub fn low_power_entry_with_wakeup(device: BorrowedFd<'_>, eventfd: BorrowedFd<'_>) -> Result<()> {
    let entry = LowPowerEntryWithWakeup { wakeup_eventfd: eventfd.as_raw_fd(), reserved: 0 };
    // SAFETY: two numbers, which the kernel reads; the eventfd is open meanwhile, and the kernel takes a reference.
    unsafe { with(device, Feature::LOW_POWER_ENTRY_WITH_WAKEUP, Access::SET, entry) }.map(drop)
}

/// `VFIO_DEVICE_FEATURE_LOW_POWER_EXIT`: the device stays awake from now on. No error when it may not sleep.
///
/// # Errors
/// `EINVAL` a cdev that is not bound · `ENOTTY` the driver does not offer this.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_pm_exit()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_LOW_POWER_EXIT")]
pub fn low_power_exit(device: BorrowedFd<'_>) -> Result<()> {
    bare(device, Feature::LOW_POWER_EXIT, Access::SET)
}

/// Whether a CDX device may do DMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusMaster {
    /// It may not.
    #[doc(alias = "VFIO_DEVICE_FEATURE_CLEAR_MASTER")]
    Clear = 0,
    /// It may.
    #[doc(alias = "VFIO_DEVICE_FEATURE_SET_MASTER")]
    Set = 1,
}

/// `struct vfio_device_feature_bus_master`.
#[repr(C)]
struct SetBusMaster {
    op: u32,
}
layout!(SetBusMaster reads "vfio_device_feature_bus_master", 4 bytes { op at 0 });

/// `VFIO_DEVICE_FEATURE_BUS_MASTER`: lets a CDX device do DMA, or not.
///
/// # Errors
/// `ENOTTY` no CDX device, or one that cannot be told · `EINVAL` a cdev that is not bound · the bus's own.
///
/// # Kernel
/// `drivers/vfio/cdx/main.c` `vfio_cdx_bm_ctrl()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_BUS_MASTER")]
pub fn bus_master(device: BorrowedFd<'_>, master: BusMaster) -> Result<()> {
    // SAFETY: a number, which the kernel reads.
    unsafe { with(device, Feature::BUS_MASTER, Access::SET, SetBusMaster { op: master as u32 }) }.map(drop)
}

/// A part of a BAR.
#[doc(alias = "vfio_region_dma_range")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaRange {
    /// Where it begins in the region, in bytes; a multiple of the page size.
    pub offset: u64,
    /// In bytes; likewise.
    pub length: u64,
}

/// `struct vfio_region_dma_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RegionDmaRange {
    offset: u64,
    length: u64,
}
layout!(RegionDmaRange reads "vfio_region_dma_range", 16 bytes { offset at 0, length at 8 });

/// `struct vfio_device_feature_dma_buf`, without the ranges behind it.
#[repr(C)]
struct DmaBuf {
    region_index: u32,
    open_flags: u32,
    flags: u32,
    nr_ranges: u32,
}
layout!(DmaBuf reads "vfio_device_feature_dma_buf", 16 bytes {
    region_index at 0, open_flags at 4, flags at 8, nr_ranges at 12,
});

/// The same with one range.
#[repr(C)]
struct DmaBufOfOne {
    buf: DmaBuf,
    range: RegionDmaRange,
}

#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 5] =
    [Head::LAYOUT, LowPowerEntryWithWakeup::LAYOUT, SetBusMaster::LAYOUT, RegionDmaRange::LAYOUT, DmaBuf::LAYOUT];

/// `VFIO_DEVICE_FEATURE_DMA_BUF`: makes a dma-buf of one part of a BAR, to be read and written, and closed when another
/// program is run. It keeps the device's driver from leaving.
///
/// # Errors
/// `ENOTTY` a kernel without `CONFIG_PCI_P2PDMA`, or a driver that offers nothing · `EOPNOTSUPP` the driver offers other
/// features and not this one · `ENODEV` no such BAR · `EINVAL` the range is not in it, or not of whole pages; a cdev that is
/// not bound.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_dmabuf.c` `vfio_pci_core_feature_dma_buf()`, `validate_dmabuf_input()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_DMA_BUF")]
pub fn dma_buf(device: BorrowedFd<'_>, region_index: u32, range: DmaRange) -> Result<OwnedFd> {
    let open_flags = (rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC).bits();
    let buf = DmaBuf { region_index, open_flags, flags: 0, nr_ranges: 1 };
    let data = DmaBufOfOne { buf, range: RegionDmaRange { offset: range.offset, length: range.length } };
    // SAFETY: numbers without padding, which the kernel reads.
    let (_, fd) = unsafe { with(device, Feature::DMA_BUF, Access::GET, data) }?;
    // SAFETY: what the feature returns is a descriptor that the kernel made for this call, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_a_name_and_its_place() {
        let numbers: Vec<u16> = Feature::ALL.iter().map(|feature| feature.0).collect();
        assert_eq!(numbers, (0..13).collect::<Vec<_>>());
        assert_eq!(Feature::MIG_PRECOPY_INFO_V2.name(), Some("MIG_PRECOPY_INFOv2"));
        assert_eq!(Feature(13).name(), None);
    }

    #[test]
    fn the_header_lies_in_memory_as_it_is_declared() {
        let bytes = pack(Head { argsz: 8, flags: 0x4_0001 }).to_ne_bytes();
        assert_eq!(bytes, [8u32.to_ne_bytes(), 0x4_0001u32.to_ne_bytes()].concat()[..]);
    }
}
