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
pub(crate) const LAYOUT: crate::layout::Layout = IrqSet::LAYOUT;

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
