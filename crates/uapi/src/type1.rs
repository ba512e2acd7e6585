//! The type 1 IOMMU of a [`container`](crate::container), once it is set: what it offers, what is mapped, what was written.
//!
//! An iommufd that stands in for a container answers the same, but for dirty pages.

use std::os::fd::BorrowedFd;

use crate::capability::{self, Header, Plain, read, read_all};
use crate::dma_logging::{IovaRange, address, room};
use crate::layout::layout;
use crate::memory::Memory;
use crate::{Errno, Result, call, opcode};

/// What it offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Sizes of pages that it maps: a bit for each, so 4 KiB is bit 12.
    pub page_sizes: u64,
    /// What else it says, in the kernel's order.
    pub capabilities: Vec<Capability>,
}

/// More than fits into the fixed part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// The addresses that can be mapped: first and last of each range.
    #[doc(alias = "VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE")]
    IovaRanges(Vec<(u64, u64)>),
    /// Dirty pages are tracked.
    #[doc(alias = "VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION")]
    Migration {
        /// Sizes of pages that it is told in: a bit for each.
        page_sizes: u64,
        /// The longest bitmap, in bytes.
        max_bitmap: u64,
    },
    /// How many more mappings there may be.
    #[doc(alias = "VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL")]
    DmaAvail(u32),
    /// One that is not known here: id and version.
    Other(u16, u16),
}

pub(crate) const INFO_CAPS: u32 = 1 << 1;
pub(crate) const CAP_IOVA_RANGE: u16 = 1;
pub(crate) const CAP_MIGRATION: u16 = 2;
pub(crate) const CAP_DMA_AVAIL: u16 = 3;

/// `struct vfio_iommu_type1_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Type1Info {
    argsz: u32,
    flags: u32,
    iova_pgsizes: u64,
    cap_offset: u32,
    pad: u32,
}
layout!(Type1Info reads "vfio_iommu_type1_info", 24 bytes {
    argsz at 0, flags at 4, iova_pgsizes at 8, cap_offset at 16, pad at 20,
});
// SAFETY: five numbers.
unsafe impl Plain for Type1Info {}

/// `struct vfio_iommu_type1_info_cap_iova_range`, without the ranges behind it.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapIovaRange {
    header: Header,
    nr_iovas: u32,
    reserved: u32,
}
layout!(CapIovaRange reads "vfio_iommu_type1_info_cap_iova_range", 16 bytes {
    header at 0, nr_iovas at 8, reserved at 12,
});
// SAFETY: numbers, and a structure of numbers.
unsafe impl Plain for CapIovaRange {}

/// `struct vfio_iova_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct VfioIovaRange {
    start: u64,
    end: u64,
}
layout!(VfioIovaRange reads "vfio_iova_range", 16 bytes { start at 0, end at 8 });
// SAFETY: two numbers.
unsafe impl Plain for VfioIovaRange {}

/// `struct vfio_iommu_type1_info_cap_migration`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapMigration {
    header: Header,
    flags: u32,
    _gap: u32,
    pgsize_bitmap: u64,
    max_dirty_bitmap_size: u64,
}
layout!(CapMigration reads "vfio_iommu_type1_info_cap_migration", 32 bytes {
    header at 0, flags at 8, pgsize_bitmap at 16, max_dirty_bitmap_size at 24,
});
// SAFETY: numbers, and a structure of numbers.
unsafe impl Plain for CapMigration {}

/// `struct vfio_iommu_type1_info_dma_avail`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapDmaAvail {
    header: Header,
    avail: u32,
}
layout!(CapDmaAvail reads "vfio_iommu_type1_info_dma_avail", 12 bytes { header at 0, avail at 8 });
// SAFETY: a number, and a structure of numbers.
unsafe impl Plain for CapDmaAvail {}

/// `struct vfio_iommu_type1_dma_map`.
#[repr(C)]
struct DmaMap {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}
layout!(DmaMap is "vfio_iommu_type1_dma_map", 32 bytes {
    argsz at 0, flags at 4, vaddr at 8, iova at 16, size at 24,
});

/// `struct vfio_iommu_type1_dma_unmap`, without a bitmap behind it.
#[repr(C)]
struct DmaUnmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}
layout!(DmaUnmap is "vfio_iommu_type1_dma_unmap", 24 bytes { argsz at 0, flags at 4, iova at 8, size at 16 });

/// `struct vfio_iommu_type1_dirty_bitmap`, without the range behind it.
#[repr(C)]
struct DirtyBitmap {
    argsz: u32,
    flags: u32,
}
layout!(DirtyBitmap is "vfio_iommu_type1_dirty_bitmap", 8 bytes { argsz at 0, flags at 4 });

/// `struct vfio_bitmap`.
#[repr(C)]
struct Bitmap {
    pgsize: u64,
    size: u64,
    data: u64,
}
layout!(Bitmap reads "vfio_bitmap", 24 bytes { pgsize at 0, size at 8, data at 16 });

/// `struct vfio_iommu_type1_dirty_bitmap_get`.
#[repr(C)]
struct DirtyBitmapGet {
    iova: u64,
    size: u64,
    bitmap: Bitmap,
}
layout!(DirtyBitmapGet reads "vfio_iommu_type1_dirty_bitmap_get", 40 bytes { iova at 0, size at 8, bitmap at 16 });

/// Both, one behind the other.
#[repr(C)]
struct GetBitmap {
    head: DirtyBitmap,
    get: DirtyBitmapGet,
}
const _: () = assert!(size_of::<GetBitmap>() == 48);

#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 10] = [
    Type1Info::LAYOUT,
    CapIovaRange::LAYOUT,
    VfioIovaRange::LAYOUT,
    CapMigration::LAYOUT,
    CapDmaAvail::LAYOUT,
    DmaMap::LAYOUT,
    DmaUnmap::LAYOUT,
    DirtyBitmap::LAYOUT,
    Bitmap::LAYOUT,
    DirtyBitmapGet::LAYOUT,
];

bitflags::bitflags! {
    /// What a device may do with memory.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct MapFlags: u32 {
        /// Read it.
        #[doc(alias = "VFIO_DMA_MAP_FLAG_READ")]
        const READ = 1 << 0;
        /// Write it.
        #[doc(alias = "VFIO_DMA_MAP_FLAG_WRITE")]
        const WRITE = 1 << 1;
    }
}

pub(crate) const DIRTY_START: u32 = 1 << 0;
pub(crate) const DIRTY_STOP: u32 = 1 << 1;
pub(crate) const DIRTY_GET_BITMAP: u32 = 1 << 2;

/// `VFIO_IOMMU_GET_INFO`: reads what the container's IOMMU offers: two calls when there are capabilities.
///
/// # Errors
/// `EINVAL` the container has no IOMMU · `EPROTO` the chain of capabilities makes no sense · `ENOTTY` not a container.
///
/// # Kernel
/// `drivers/vfio/vfio_iommu_type1.c` `vfio_iommu_type1_get_info()` (7.2).
#[doc(alias = "VFIO_IOMMU_GET_INFO")]
pub fn info(container: BorrowedFd<'_>) -> Result<Info> {
    // SAFETY: the kernel reads and writes at most `argsz` bytes before it returns.
    let answer = unsafe { capability::ask::<{ opcode::IOMMU_GET_INFO }>(container, &[0; 6]) }?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Info> {
    let info: Type1Info = read(answer, 0).ok_or(Errno::PROTO)?;
    let chain = capability::chain(answer, if info.flags & INFO_CAPS == 0 { 0 } else { info.cap_offset })?;
    let capabilities = chain.iter().map(capability_of).collect::<Result<_>>()?;
    Ok(Info { page_sizes: info.iova_pgsizes, capabilities })
}

fn capability_of(one: &capability::Capability<'_>) -> Result<Capability> {
    Ok(match one.header.id {
        CAP_IOVA_RANGE => {
            let cap: CapIovaRange = read(one.bytes, 0).ok_or(Errno::PROTO)?;
            let ranges: Vec<VfioIovaRange> =
                read_all(one.bytes, size_of::<CapIovaRange>(), cap.nr_iovas).ok_or(Errno::PROTO)?;
            Capability::IovaRanges(ranges.iter().map(|range| (range.start, range.end)).collect())
        }
        CAP_MIGRATION => {
            let cap: CapMigration = read(one.bytes, 0).ok_or(Errno::PROTO)?;
            Capability::Migration { page_sizes: cap.pgsize_bitmap, max_bitmap: cap.max_dirty_bitmap_size }
        }
        CAP_DMA_AVAIL => {
            let cap: CapDmaAvail = read(one.bytes, 0).ok_or(Errno::PROTO)?;
            Capability::DmaAvail(cap.avail)
        }
        id => Capability::Other(id, one.header.version),
    })
}

/// `VFIO_IOMMU_MAP_DMA`: lets the container's devices reach memory by addresses from `iova` on. The kernel keeps the pages,
/// and counts them against `RLIMIT_MEMLOCK`, until they are unmapped or the container's IOMMU goes.
///
/// # Errors
/// `EINVAL` not of whole pages, no flag, or addresses that cannot be mapped; the container has no IOMMU · `EEXIST` some of them
/// are mapped · `ENOSPC` as many mappings as there may be · `ENOMEM` more than `RLIMIT_MEMLOCK` · `ENOTTY` not a container.
///
/// # Kernel
/// `drivers/vfio/vfio_iommu_type1.c` `vfio_dma_do_map()` (7.2).
#[doc(alias = "VFIO_IOMMU_MAP_DMA")]
pub fn map(container: BorrowedFd<'_>, iova: u64, memory: &Memory, flags: MapFlags) -> Result<()> {
    let (vaddr, size) = (memory.address(), memory.length());
    let mut map = DmaMap { argsz: DmaMap::SIZE, flags: flags.bits(), vaddr, iova, size };
    // SAFETY: the kernel reads the 32 bytes of the structure before it returns. The memory is referred to by nothing here,
    // and its pages are kept by the kernel for as long as a device may reach them.
    unsafe { call::structure::<{ opcode::IOMMU_MAP_DMA }, _>(container, &mut map) }.map(drop)
}

/// `VFIO_IOMMU_UNMAP_DMA`: takes all mappings that lie in a range away, and gives how many bytes they were.
///
/// # Errors
/// `EINVAL` the range is not of whole pages, or cuts a mapping; the container has no IOMMU · `ENOTTY` not a container.
///
/// # Kernel
/// `drivers/vfio/vfio_iommu_type1.c` `vfio_dma_do_unmap()` (7.2).
#[doc(alias = "VFIO_IOMMU_UNMAP_DMA")]
pub fn unmap(container: BorrowedFd<'_>, range: IovaRange) -> Result<u64> {
    let mut unmap = DmaUnmap { argsz: DmaUnmap::SIZE, flags: 0, iova: range.iova, size: range.length };
    // SAFETY: the kernel reads and writes the 24 bytes of the structure before it returns; any number is one.
    unsafe { call::structure::<{ opcode::IOMMU_UNMAP_DMA }, _>(container, &mut unmap) }?;
    Ok(unmap.size)
}

/// `VFIO_IOMMU_DIRTY_PAGES`, START: from now on the container knows which mapped pages devices may have written: of devices
/// with an IOMMU, all of them.
///
/// # Errors
/// `EACCES` an IOMMU of the first kind, [`TYPE1`](crate::container::Extension::TYPE1) · `EINVAL` the container has none; an
/// iommufd stands in for it · `ENOMEM` · `ENOTTY` not a container.
///
/// # Kernel
/// `drivers/vfio/vfio_iommu_type1.c` `vfio_iommu_type1_dirty_pages()` (7.2).
#[doc(alias = "VFIO_IOMMU_DIRTY_PAGES_FLAG_START")]
pub fn start_dirty_tracking(container: BorrowedFd<'_>) -> Result<()> {
    dirty_pages(container, DIRTY_START)
}

/// `VFIO_IOMMU_DIRTY_PAGES`, STOP: it does not know any more.
///
/// # Errors
/// As of [`start_dirty_tracking`].
///
/// # Kernel
/// As of [`start_dirty_tracking`].
#[doc(alias = "VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP")]
pub fn stop_dirty_tracking(container: BorrowedFd<'_>) -> Result<()> {
    dirty_pages(container, DIRTY_STOP)
}

fn dirty_pages(container: BorrowedFd<'_>, flags: u32) -> Result<()> {
    let mut dirty = DirtyBitmap { argsz: DirtyBitmap::SIZE, flags };
    // SAFETY: the kernel reads the 8 bytes of the structure before it returns, and writes nothing.
    unsafe { call::structure::<{ opcode::IOMMU_DIRTY_PAGES }, _>(container, &mut dirty) }.map(drop)
}

/// `VFIO_IOMMU_DIRTY_PAGES`, `GET_BITMAP`: reads which pages of a range were written, and forgets it: a bit for each page of
/// `page_size` bytes, the lowest bit of the first number first.
///
/// # Errors
/// As of [`start_dirty_tracking`]; `EINVAL` also for pages that are not the smallest of [`info`], a range that is not of
/// whole pages or cuts a mapping, and while nothing is tracked.
///
/// # Kernel
/// As of [`start_dirty_tracking`].
#[doc(alias = "VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP")]
pub fn dirty_bitmap(container: BorrowedFd<'_>, range: IovaRange, page_size: u64) -> Result<Vec<u64>> {
    let mut bitmap = room(range, page_size)?;
    let argsz = DirtyBitmap::SIZE + 40;
    let head = DirtyBitmap { argsz, flags: DIRTY_GET_BITMAP };
    let bits = Bitmap {
        pgsize: page_size,
        size: size_of_val(&bitmap[..]) as u64,
        data: address(bitmap.as_mut_ptr().cast_const()),
    };
    let mut get = GetBitmap { head, get: DirtyBitmapGet { iova: range.iova, size: range.length, bitmap: bits } };
    // SAFETY: the kernel reads the 48 bytes of the structure before it returns, and writes as many bytes at `data` as `size`
    // says, which are there for as long.
    unsafe { call::structure::<{ opcode::IOMMU_DIRTY_PAGES }, _>(container, &mut get) }?;
    Ok(bitmap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::tests::answer;

    fn iommu(capabilities: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = answer(24, capabilities);
        bytes[4..8].copy_from_slice(&3u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&0x4020_1000u64.to_ne_bytes());
        bytes[16..20].copy_from_slice(&24u32.to_ne_bytes());
        bytes
    }

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    #[test]
    fn capabilities_are_read_as_the_headers_lay_them_out() {
        let ranges = [vec![2, 0, 0, 0, 0, 0, 0, 0], numbers(&[0, 0xfedf_ffff, 0xfef0_0000, 0xffff_ffff])].concat();
        let ranges =
            if cfg!(target_endian = "big") { [numbers(&[2 << 32]), ranges[8..].to_vec()].concat() } else { ranges };
        let info = parse(&iommu(&[
            (2, 1, numbers(&[0, 0x1000, 1 << 28])),
            (3, 1, 65535u32.to_ne_bytes().to_vec()),
            (1, 1, ranges),
            (9, 2, vec![]),
        ]));
        let info = info.unwrap();
        assert_eq!(info.page_sizes, 0x4020_1000);
        assert_eq!(
            info.capabilities,
            [
                Capability::Migration { page_sizes: 0x1000, max_bitmap: 1 << 28 },
                Capability::DmaAvail(65535),
                Capability::IovaRanges(vec![(0, 0xfedf_ffff), (0xfef0_0000, 0xffff_ffff)]),
                Capability::Other(9, 2),
            ]
        );
    }

    #[test]
    fn a_capability_that_is_cut_is_an_error() {
        for (id, length) in [(1, 7), (2, 23), (3, 3)] {
            assert_eq!(parse(&iommu(&[(id, 1, vec![0; length])])), Err(Errno::PROTO), "id {id}");
        }
        assert_eq!(parse(&iommu(&[(1, 1, vec![1; 24])])), Err(Errno::PROTO));
        assert_eq!(parse(&[0; 20]), Err(Errno::PROTO));
    }
}
