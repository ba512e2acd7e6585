//! The regions of an open VFIO device, by index: for vfio-pci 0 to 5 are the BARs.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags};

use crate::capability::{self, Header, Plain, read, read_all};
use crate::layout::layout;
use crate::{Errno, Result, opcode};

bitflags::bitflags! {
    /// What can be done with a region.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct RegionFlags: u32 {
        /// It can be read.
        #[doc(alias = "VFIO_REGION_INFO_FLAG_READ")]
        const READ = 1 << 0;
        /// It can be written.
        #[doc(alias = "VFIO_REGION_INFO_FLAG_WRITE")]
        const WRITE = 1 << 1;
        /// It can be mapped.
        #[doc(alias = "VFIO_REGION_INFO_FLAG_MMAP")]
        const MMAP = 1 << 2;
        /// There are capabilities.
        #[doc(alias = "VFIO_REGION_INFO_FLAG_CAPS")]
        const CAPS = 1 << 3;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

/// What a device says of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// What can be done with it.
    pub flags: RegionFlags,
    /// In bytes; zero when the device has no such region.
    pub size: u64,
    /// Where it begins in the device's file, in bytes.
    pub offset: u64,
    /// What else is said of it, in the kernel's order.
    pub capabilities: Vec<Capability>,
}

/// More than fits into the fixed part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// Only these parts of it can be mapped.
    #[doc(alias = "VFIO_REGION_INFO_CAP_SPARSE_MMAP")]
    SparseMmap(Vec<Area>),
    /// What it is, when its index does not say.
    #[doc(alias = "VFIO_REGION_INFO_CAP_TYPE")]
    Type(Type),
    /// The page with the MSI-X table can be mapped too. The table is still set by
    /// [`irq`](crate::irq) alone.
    #[doc(alias = "VFIO_REGION_INFO_CAP_MSIX_MAPPABLE")]
    MsixMappable,
    /// One that is not known here, or that no kernel gives any more (those of `NVLink`): id and version.
    Other(u16, u16),
}

/// A part of a region.
#[doc(alias = "vfio_region_sparse_mmap_area")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Where it begins in the region, in bytes.
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}

/// What a region of its own kind is.
#[doc(alias = "vfio_region_info_cap_type")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    /// A type of the bus driver, or [`VENDOR`](Type::VENDOR) and the vendor's PCI id.
    pub kind: u32,
    /// A number of that type.
    pub subtype: u32,
}

impl Type {
    /// The type is a PCI vendor's.
    #[doc(alias = "VFIO_REGION_TYPE_PCI_VENDOR_TYPE")]
    pub const VENDOR: u32 = 1 << 31;
    /// The `OpRegion` of Intel graphics.
    #[doc(alias = "VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION")]
    pub const INTEL_OPREGION: Self = Self { kind: Self::VENDOR | 0x8086, subtype: 1 };
    /// Config space of the host bridge, for Intel graphics.
    #[doc(alias = "VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG")]
    pub const INTEL_HOST_CFG: Self = Self { kind: Self::VENDOR | 0x8086, subtype: 2 };
    /// Config space of the LPC bridge, for Intel graphics.
    #[doc(alias = "VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG")]
    pub const INTEL_LPC_CFG: Self = Self { kind: Self::VENDOR | 0x8086, subtype: 3 };
    /// The EDID of a mediated display.
    #[doc(alias = "VFIO_REGION_SUBTYPE_GFX_EDID")]
    pub const GFX_EDID: Self = Self { kind: 1, subtype: 1 };
    /// Asynchronous commands of vfio-ccw.
    #[doc(alias = "VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD")]
    pub const CCW_ASYNC_CMD: Self = Self { kind: 2, subtype: 1 };
    /// The subchannel information block of vfio-ccw.
    #[doc(alias = "VFIO_REGION_SUBTYPE_CCW_SCHIB")]
    pub const CCW_SCHIB: Self = Self { kind: 2, subtype: 2 };
    /// Channel report words of vfio-ccw.
    #[doc(alias = "VFIO_REGION_SUBTYPE_CCW_CRW")]
    pub const CCW_CRW: Self = Self { kind: 2, subtype: 3 };

    /// The PCI vendor whose type it is.
    #[must_use]
    pub const fn vendor(self) -> Option<u16> {
        if self.kind & Self::VENDOR == 0 { None } else { Some((self.kind & 0xffff) as u16) }
    }
}

/// Of vfio-pci, the ROM.
#[doc(alias = "VFIO_PCI_ROM_REGION_INDEX")]
pub const PCI_ROM: u32 = 6;
/// Config space.
#[doc(alias = "VFIO_PCI_CONFIG_REGION_INDEX")]
pub const PCI_CONFIG: u32 = 7;
/// The ranges of VGA; most devices have none, and answer `EINVAL`.
#[doc(alias = "VFIO_PCI_VGA_REGION_INDEX")]
pub const PCI_VGA: u32 = 8;
/// The first index of a region that says by its [`Type`] what it is.
#[doc(alias = "VFIO_PCI_NUM_REGIONS")]
pub const PCI_NUM_REGIONS: u32 = 9;

pub(crate) const CAP_SPARSE_MMAP: u16 = 1;
pub(crate) const CAP_TYPE: u16 = 2;
pub(crate) const CAP_MSIX_MAPPABLE: u16 = 3;

/// `struct vfio_region_info_cap_sparse_mmap`, without the areas behind it.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapSparseMmap {
    header: Header,
    nr_areas: u32,
    reserved: u32,
}
layout!(CapSparseMmap reads "vfio_region_info_cap_sparse_mmap", 16 bytes {
    header at 0, nr_areas at 8, reserved at 12,
});
// SAFETY: numbers, and a structure of numbers.
unsafe impl Plain for CapSparseMmap {}

/// `struct vfio_region_sparse_mmap_area`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SparseMmapArea {
    offset: u64,
    size: u64,
}
layout!(SparseMmapArea reads "vfio_region_sparse_mmap_area", 16 bytes { offset at 0, size at 8 });
// SAFETY: two numbers.
unsafe impl Plain for SparseMmapArea {}

/// `struct vfio_region_info_cap_type`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapType {
    header: Header,
    r#type: u32,
    subtype: u32,
}
const _: () = assert!(size_of::<CapType>() == 16 && std::mem::offset_of!(CapType, r#type) == 8);
// SAFETY: numbers, and a structure of numbers.
unsafe impl Plain for CapType {}

/// `struct vfio_region_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}
layout!(RegionInfo reads "vfio_region_info", 32 bytes {
    argsz at 0, flags at 4, index at 8, cap_offset at 12, size at 16, offset at 24,
});
// SAFETY: six numbers.
unsafe impl Plain for RegionInfo {}

#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 3] =
    [RegionInfo::LAYOUT, CapSparseMmap::LAYOUT, SparseMmapArea::LAYOUT];

/// `VFIO_DEVICE_GET_REGION_INFO`: reads how large a region is, where it lies in the file, and what can be done with it: two
/// calls when it has capabilities.
///
/// # Errors
/// `EINVAL` no such index, or a cdev that is not bound · `EPROTO` the chain of capabilities makes no sense · `ENOTTY` not a
/// VFIO device.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_get_region_info()`; `drivers/vfio/pci/vfio_pci_core.c`
/// `vfio_pci_ioctl_get_region_info()` (7.2).
#[doc(alias = "VFIO_DEVICE_GET_REGION_INFO")]
pub fn info(device: BorrowedFd<'_>, index: u32) -> Result<Info> {
    let fixed = [0, 0, index, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads and writes at most `argsz` bytes before it returns. Capabilities that do not fit are left
    // out, and `argsz` then holds what they would need.
    let answer = unsafe { capability::ask::<{ opcode::DEVICE_GET_REGION_INFO }>(device, &fixed) }?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Info> {
    let info: RegionInfo = read(answer, 0).ok_or(Errno::PROTO)?;
    let flags = RegionFlags::from_bits_retain(info.flags);
    let first = if flags.contains(RegionFlags::CAPS) { info.cap_offset } else { 0 };
    let chain = capability::chain(answer, first)?;
    let capabilities = chain.iter().map(capability_of).collect::<Result<_>>()?;
    Ok(Info { flags, size: info.size, offset: info.offset, capabilities })
}

fn capability_of(one: &capability::Capability<'_>) -> Result<Capability> {
    Ok(match one.header.id {
        CAP_SPARSE_MMAP => {
            let cap: CapSparseMmap = read(one.bytes, 0).ok_or(Errno::PROTO)?;
            let areas: Vec<SparseMmapArea> =
                read_all(one.bytes, size_of::<CapSparseMmap>(), cap.nr_areas).ok_or(Errno::PROTO)?;
            Capability::SparseMmap(areas.iter().map(|area| Area { offset: area.offset, size: area.size }).collect())
        }
        CAP_TYPE => {
            let cap: CapType = read(one.bytes, 0).ok_or(Errno::PROTO)?;
            Capability::Type(Type { kind: cap.r#type, subtype: cap.subtype })
        }
        CAP_MSIX_MAPPABLE => Capability::MsixMappable,
        id => Capability::Other(id, one.header.version),
    })
}

/// Where a byte of a region lies in the device's file.
fn place(region: &Info, at: u64) -> Result<u64> {
    if at >= region.size {
        return Err(Errno::INVAL);
    }
    region.offset.checked_add(at).ok_or(Errno::INVAL)
}

/// `pread`: reads a region from byte `at` on, as far as the kernel gives it in one call: at most to the end of the region.
/// A register may do something when it is read.
///
/// # Errors
/// `EINVAL` `at` is not in the region, or it cannot be read · `EIO` the device does not answer: its memory is switched off,
/// or it sleeps · the driver's own.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_device_fops_read()`; `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_rw()`;
/// `vfio_pci_rdwr.c` `vfio_pci_bar_rw()` cuts at the end of a BAR and reads all ones where the MSI-X table is (7.2).
pub fn read_at(device: BorrowedFd<'_>, region: &Info, at: u64, into: &mut [u8]) -> Result<usize> {
    rustix::io::pread(device, into, place(region, at)?)
}

/// `pwrite`: writes a region from byte `at` on, as far as the kernel takes it in one call.
///
/// # Errors
/// As of [`read_at`]; `EINVAL` also for a region that cannot be written, such as the ROM.
///
/// # Kernel
/// As of [`read_at`]; writes to the MSI-X table are dropped.
pub fn write_at(device: BorrowedFd<'_>, region: &Info, at: u64, data: &[u8]) -> Result<usize> {
    rustix::io::pwrite(device, data, place(region, at)?)
}

/// A mapped region, unmapped when it is dropped. It keeps the device open by itself, with every descriptor closed.
///
/// Nothing reads or writes through it: to hold the device, and to be seen in `/proc/self/maps`, is what it is for.
#[derive(Debug)]
pub struct Mapping {
    at: NonNull<c_void>,
    length: NonZeroUsize,
}

/// `mmap` of a region: maps all of it for reading, shared.
///
/// # Errors
/// `EINVAL` the device has no such region, or it cannot be mapped · `EBUSY` somebody else claims the BAR · `ENODEV` not a
/// file that can be mapped.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_mmap()` (7.2).
pub fn map(device: BorrowedFd<'_>, region: &Info) -> Result<Mapping> {
    let length = usize::try_from(region.size).ok().and_then(NonZeroUsize::new).ok_or(Errno::INVAL)?;
    // SAFETY: the kernel chooses a place where nothing is mapped, and the address goes nowhere but to `munmap`: no
    // reference is made of it, so what the device does with the memory behind it concerns nobody here.
    let at = unsafe {
        rustix::mm::mmap(ptr::null_mut(), length.get(), ProtFlags::READ, MapFlags::SHARED, device, region.offset)
    }?;
    Ok(Mapping { at: NonNull::new(at).ok_or(Errno::FAULT)?, length })
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `map` mapped exactly this, nothing else knows the address, and it is dropped once.
        let unmapped = unsafe { rustix::mm::munmap(self.at.as_ptr(), self.length.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of what mmap gave");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::tests::answer;

    /// An answer with these flags: 16 KiB at 1 << 40, capabilities from byte 32.
    fn region(flags: u32, capabilities: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = answer(32, capabilities);
        bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[12..16].copy_from_slice(&32u32.to_ne_bytes());
        bytes[16..24].copy_from_slice(&0x4000u64.to_ne_bytes());
        bytes[24..32].copy_from_slice(&(1u64 << 40).to_ne_bytes());
        bytes
    }

    fn areas(count: u32, areas: &[[u64; 2]]) -> Vec<u8> {
        let mut bytes = [count.to_ne_bytes(), [0; 4]].concat();
        bytes.extend(areas.as_flattened().iter().flat_map(|number| number.to_ne_bytes()));
        bytes
    }

    #[test]
    fn capabilities_are_read_as_the_headers_lay_them_out() {
        let opregion = [0x8000_8086u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
        let sparse = areas(2, &[[0, 0x1000], [0x3000, 0x1000]]);
        let info =
            parse(&region(0xf, &[(1, 1, sparse), (2, 1, opregion), (3, 1, vec![]), (4, 1, vec![0; 8])])).unwrap();
        assert_eq!((info.size, info.offset), (0x4000, 1 << 40));
        assert_eq!(
            info.capabilities,
            [
                Capability::SparseMmap(vec![Area { offset: 0, size: 0x1000 }, Area { offset: 0x3000, size: 0x1000 }]),
                Capability::Type(Type::INTEL_OPREGION),
                Capability::MsixMappable,
                Capability::Other(4, 1),
            ]
        );
        assert_eq!(Type::INTEL_OPREGION.vendor(), Some(0x8086));
        assert_eq!(Type::GFX_EDID.vendor(), None);
    }

    #[test]
    fn a_capability_that_is_cut_is_an_error() {
        let cut = [areas(1, &[]), areas(u32::MAX, &[[0, 1]]), vec![0; 7]];
        for body in cut {
            assert_eq!(parse(&region(0xf, &[(1, 1, body)])), Err(Errno::PROTO));
        }
        assert_eq!(parse(&region(0xf, &[(2, 1, vec![0; 7])])), Err(Errno::PROTO));
        assert_eq!(parse(&[0; 31]), Err(Errno::PROTO));
        assert_eq!(parse(&region(7, &[(2, 1, vec![])])).unwrap().capabilities, []);
    }

    #[test]
    fn what_is_not_in_the_region_is_not_asked_for() {
        let info = parse(&region(7, &[])).unwrap();
        assert_eq!(place(&info, 0x3fff), Ok((1 << 40) + 0x3fff));
        assert_eq!(place(&info, 0x4000), Err(Errno::INVAL));
        assert_eq!(place(&Info { offset: u64::MAX, ..info }, 1), Err(Errno::INVAL));
    }
}
