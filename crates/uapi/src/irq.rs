//! The interrupts of an open VFIO device, by index. Of vfio-pci's five indices the last two are none of the hardware's: the
//! kernel rings them itself.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::layout::layout;
use crate::{Result, call, opcode};

/// `VFIO_PCI_REQ_IRQ_INDEX`: the kernel asks the user to close the device, because somebody wants to unbind it. It asks
/// again every ten seconds, and waits for as long as it takes.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_request()`; `drivers/vfio/vfio_main.c`
/// `vfio_unregister_group_dev()` (7.2).
#[doc(alias = "VFIO_PCI_REQ_IRQ_INDEX")]
pub const PCI_REQ: u32 = 4;

/// `VFIO_PCI_INTX_IRQ_INDEX`: the line.
#[doc(alias = "VFIO_PCI_INTX_IRQ_INDEX")]
pub const PCI_INTX: u32 = 0;
/// `VFIO_PCI_MSI_IRQ_INDEX`.
#[doc(alias = "VFIO_PCI_MSI_IRQ_INDEX")]
pub const PCI_MSI: u32 = 1;
/// `VFIO_PCI_MSIX_IRQ_INDEX`.
#[doc(alias = "VFIO_PCI_MSIX_IRQ_INDEX")]
pub const PCI_MSIX: u32 = 2;
/// `VFIO_PCI_ERR_IRQ_INDEX`: an error that cannot be recovered from (AER).
#[doc(alias = "VFIO_PCI_ERR_IRQ_INDEX")]
pub const PCI_ERR: u32 = 3;

bitflags::bitflags! {
    /// How the interrupts of an index are used.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct IrqFlags: u32 {
        /// An eventfd tells of them.
        #[doc(alias = "VFIO_IRQ_INFO_EVENTFD")]
        const EVENTFD = 1 << 0;
        /// They can be masked.
        #[doc(alias = "VFIO_IRQ_INFO_MASKABLE")]
        const MASKABLE = 1 << 1;
        /// Each is masked when it has come, and the user unmasks it.
        #[doc(alias = "VFIO_IRQ_INFO_AUTOMASKED")]
        const AUTOMASKED = 1 << 2;
        /// They are set up all at once; without this, one by one (dynamic MSI-X).
        #[doc(alias = "VFIO_IRQ_INFO_NORESIZE")]
        const NORESIZE = 1 << 3;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

/// What a device says of the interrupts of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// How they are used.
    pub flags: IrqFlags,
    /// How many there are; zero when the device has none of this kind.
    pub count: u32,
}

/// `struct vfio_irq_info`.
#[repr(C)]
struct IrqInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    count: u32,
}
layout!(IrqInfo is "vfio_irq_info", 16 bytes { argsz at 0, flags at 4, index at 8, count at 12 });

/// `VFIO_DEVICE_GET_IRQ_INFO`: reads how many interrupts an index has, and how they are used.
///
/// # Errors
/// `EINVAL` no such index (of vfio-pci also [`PCI_ERR`] of a device that is not PCI Express), or a cdev that is not bound ·
/// `ENOTTY` not a VFIO device.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_get_irq_info()` (7.2).
#[doc(alias = "VFIO_DEVICE_GET_IRQ_INFO")]
pub fn info(device: BorrowedFd<'_>, index: u32) -> Result<Info> {
    let mut info = IrqInfo { argsz: IrqInfo::SIZE, flags: 0, index, count: 0 };
    // SAFETY: the kernel reads and writes at most the 16 bytes of the structure before it returns; any number is a `u32`.
    unsafe { call::structure::<{ opcode::DEVICE_GET_IRQ_INFO }, _>(device, &mut info) }?;
    Ok(Info { flags: IrqFlags::from_bits_retain(info.flags), count: info.count })
}

/// The data is eventfds.
pub(crate) const DATA_EVENTFD: u32 = 1 << 2;
/// They are what an interrupt triggers.
pub(crate) const ACTION_TRIGGER: u32 = 1 << 5;

/// `struct vfio_irq_set`, without the data that follows it.
#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
}
layout!(IrqSet is "vfio_irq_set", 20 bytes { argsz at 0, flags at 4, index at 8, start at 12, count at 16 });
#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 2] = [IrqInfo::LAYOUT, IrqSet::LAYOUT];

/// One interrupt's worth of it: a `__s32` of data.
#[repr(C)]
struct OneEventfd {
    set: IrqSet,
    eventfd: i32,
}
const _: () = assert!(size_of::<OneEventfd>() == 24 && std::mem::offset_of!(OneEventfd, eventfd) == 20);

/// `VFIO_DEVICE_SET_IRQS`: has the kernel ring `eventfd` for the first interrupt of an index, until the device is closed.
///
/// The kernel keeps the eventfd alive; the descriptor may be closed.
///
/// # Errors
/// `EINVAL` no such index, or it has no interrupt, or the descriptor is no eventfd; a cdev that is not bound · `ENOTTY` the
/// index cannot be triggered, or not a VFIO device.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_intrs.c` `vfio_pci_set_irqs_ioctl()`, `vfio_pci_set_ctx_trigger_single()` (7.2).
#[doc(alias = "VFIO_DEVICE_SET_IRQS")]
pub fn set_trigger(device: BorrowedFd<'_>, index: u32, eventfd: BorrowedFd<'_>) -> Result<()> {
    let argsz = IrqSet::SIZE + 4;
    let set = IrqSet { argsz, flags: DATA_EVENTFD | ACTION_TRIGGER, index, start: 0, count: 1 };
    let mut one = OneEventfd { set, eventfd: eventfd.as_raw_fd() };
    // SAFETY: the kernel reads `argsz` bytes, which is all of the structure, before it returns, and writes nothing; there
    // is no padding, as asserted above. The eventfd is open for as long, and the kernel takes a reference of its own.
    unsafe { call::structure::<{ opcode::DEVICE_SET_IRQS }, _>(device, &mut one) }.map(drop)
}
