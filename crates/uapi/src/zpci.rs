//! What the kernel tells of a PCI function of an s390 machine, as capabilities of [`device::info`](crate::device::info).
//!
//! # Kernel
//! `include/uapi/linux/vfio_zdev.h`; `drivers/vfio/pci/vfio_pci_zdev.c` `vfio_pci_info_zdev_add_caps()` (7.2).

use crate::capability::{Capability, Header, Plain, read, read_all};
use crate::layout::layout;
use crate::{Errno, Result};

/// `struct vfio_device_info_cap_zpci_base`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapBase {
    header: Header,
    start_dma: u64,
    end_dma: u64,
    pchid: u16,
    vfn: u16,
    fmb_length: u16,
    pft: u8,
    gid: u8,
    fh: u32,
    // Where the structure ends on this side; the header leaves it to the compiler.
    _end: u32,
}
layout!(CapBase reads "vfio_device_info_cap_zpci_base", 40 bytes {
    header at 0, start_dma at 8, end_dma at 16, pchid at 24, vfn at 26, fmb_length at 28, pft at 30, gid at 31, fh at 32,
});
// SAFETY: numbers, and a structure of numbers.
unsafe impl Plain for CapBase {}

/// `struct vfio_device_info_cap_zpci_group`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapGroup {
    header: Header,
    dasm: u64,
    msi_addr: u64,
    flags: u64,
    mui: u16,
    noi: u16,
    maxstbl: u16,
    version: u8,
    reserved: u8,
    imaxstbl: u16,
    _end: [u16; 3],
}
layout!(CapGroup reads "vfio_device_info_cap_zpci_group", 48 bytes {
    header at 0, dasm at 8, msi_addr at 16, flags at 24, mui at 32, noi at 34, maxstbl at 36, version at 38,
    reserved at 39, imaxstbl at 40,
});
// SAFETY: numbers, and a structure of numbers.
unsafe impl Plain for CapGroup {}

/// `struct vfio_device_info_cap_zpci_util` and `vfio_device_info_cap_zpci_pfip`, without the text behind it.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapText {
    header: Header,
    size: u32,
}
const _: () = assert!(size_of::<CapText>() == 12 && std::mem::offset_of!(CapText, size) == 8);
// SAFETY: a number, and a structure of numbers.
unsafe impl Plain for CapText {}

#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 2] = [CapBase::LAYOUT, CapGroup::LAYOUT];

/// A PCI function, as its firmware describes it.
#[doc(alias = "vfio_device_info_cap_zpci_base")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The first address that it can reach.
    pub start_dma: u64,
    /// The last one.
    pub end_dma: u64,
    /// Physical channel.
    pub pchid: u16,
    /// Number of the virtual function.
    pub vfn: u16,
    /// Length of a measurement block, in bytes.
    pub fmb_length: u16,
    /// Type of the function.
    pub pft: u8,
    /// The group of functions that it is in.
    pub gid: u8,
    /// The handle of the function; from version 2 on.
    pub fh: Option<u32>,
}

/// The group of functions that a function is in: this has nothing to do with IOMMU groups.
#[doc(alias = "vfio_device_info_cap_zpci_group")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Mask of its DMA address space.
    pub dasm: u64,
    /// Address that an MSI is written to.
    pub msi_addr: u64,
    /// Whether the program refreshes the TLB (`VFIO_DEVICE_INFO_ZPCI_FLAG_REFRESH`), and bits of a later kernel.
    pub flags: u64,
    /// Interval at which measurement blocks are updated.
    pub mui: u16,
    /// The most MSIs.
    pub noi: u16,
    /// The longest store block, in bytes.
    pub maxstbl: u16,
    /// Version of PCI.
    pub version: u8,
    /// The longest store block that is interpreted, in bytes; from version 2 on.
    pub imaxstbl: Option<u16>,
}

/// The versions of a capability that have all our fields, before which the kernel wrote less.
const WHOLE: u16 = 2;

/// Reads the base capability. Version 1 ends before `fh`, and the bytes that follow are another capability's, or none.
pub(crate) fn base(capability: &Capability<'_>) -> Result<Base> {
    let cap: CapBase = padded(capability.bytes, std::mem::offset_of!(CapBase, fh))?;
    Ok(Base {
        start_dma: cap.start_dma,
        end_dma: cap.end_dma,
        pchid: cap.pchid,
        vfn: cap.vfn,
        fmb_length: cap.fmb_length,
        pft: cap.pft,
        gid: cap.gid,
        fh: (cap.header.version >= WHOLE).then_some(cap.fh),
    })
}

/// Reads the group capability. Version 1 ends before `imaxstbl`.
pub(crate) fn group(capability: &Capability<'_>) -> Result<Group> {
    let cap: CapGroup = padded(capability.bytes, std::mem::offset_of!(CapGroup, reserved))?;
    Ok(Group {
        dasm: cap.dasm,
        msi_addr: cap.msi_addr,
        flags: cap.flags,
        mui: cap.mui,
        noi: cap.noi,
        maxstbl: cap.maxstbl,
        version: cap.version,
        imaxstbl: (cap.header.version >= WHOLE).then_some(cap.imaxstbl),
    })
}

/// Reads the bytes of a utility string or of a function's path: EBCDIC, and numbers.
pub(crate) fn text(capability: &Capability<'_>) -> Result<Vec<u8>> {
    let cap: CapText = read(capability.bytes, 0).ok_or(Errno::PROTO)?;
    read_all(capability.bytes, size_of::<CapText>(), cap.size).ok_or(Errno::PROTO)
}

// SAFETY: a number.
unsafe impl Plain for u8 {}

/// Reads a structure of which the first `least` bytes have to be there.
fn padded<T: Plain>(bytes: &[u8], least: usize) -> Result<T> {
    if bytes.len() < least {
        return Err(Errno::PROTO);
    }
    let mut whole = bytes[..bytes.len().min(size_of::<T>())].to_vec();
    whole.resize(size_of::<T>(), 0);
    read(&whole, 0).ok_or(Errno::PROTO)
}
