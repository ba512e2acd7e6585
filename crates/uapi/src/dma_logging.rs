//! A device that logs where it writes: dirty tracking by the device itself. It has to do with [`migration`](crate::migration)
//! only in that both are wanted at once.

use std::os::fd::BorrowedFd;

use crate::feature::{Access, Feature, bare, with};
use crate::layout::layout;
use crate::{Errno, Result};

/// Addresses as the device says them.
#[doc(alias = "vfio_device_feature_dma_logging_range")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IovaRange {
    /// The first one.
    pub iova: u64,
    /// In bytes.
    pub length: u64,
}

/// `struct vfio_device_feature_dma_logging_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Range {
    iova: u64,
    length: u64,
}
layout!(Range reads "vfio_device_feature_dma_logging_range", 16 bytes { iova at 0, length at 8 });

/// `struct vfio_device_feature_dma_logging_control`.
#[repr(C)]
struct Control {
    page_size: u64,
    num_ranges: u32,
    __reserved: u32,
    ranges: u64,
}
layout!(Control reads "vfio_device_feature_dma_logging_control", 24 bytes {
    page_size at 0, num_ranges at 8, __reserved at 12, ranges at 16,
});

/// `struct vfio_device_feature_dma_logging_report`.
#[repr(C)]
struct Report {
    iova: u64,
    length: u64,
    page_size: u64,
    bitmap: u64,
}
layout!(Report reads "vfio_device_feature_dma_logging_report", 32 bytes {
    iova at 0, length at 8, page_size at 16, bitmap at 24,
});

#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 3] = [Range::LAYOUT, Control::LAYOUT, Report::LAYOUT];

/// `VFIO_DEVICE_FEATURE_DMA_LOGGING_START`: the device logs what it writes in these ranges, in pages of about `page_size`
/// bytes; gives the size that it uses.
///
/// # Errors
/// `ENOTTY` the device cannot · `EINVAL` no range, one that is empty, is not of whole pages or overlaps another; it logs
/// already (the driver may say so by another errno); a cdev that is not bound · `E2BIG` more ranges than fit into a page of
/// the kernel, 256 of 4 KiB · `EOVERFLOW` a range ends beyond the last address · `EOPNOTSUPP` the driver cannot just now · the
/// driver's own.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_logging_start()` (7.2). An empty range is refused here: the kernel
/// would count it in below its own beginning.
#[doc(alias = "VFIO_DEVICE_FEATURE_DMA_LOGGING_START")]
pub fn start(device: BorrowedFd<'_>, page_size: u64, ranges: &[IovaRange]) -> Result<u64> {
    if ranges.iter().any(|range| range.length == 0) {
        return Err(Errno::INVAL);
    }
    let ranges: Vec<Range> = ranges.iter().map(|range| Range { iova: range.iova, length: range.length }).collect();
    let num_ranges = u32::try_from(ranges.len()).map_err(|_| Errno::TOOBIG)?;
    let control = Control { page_size, num_ranges, __reserved: 0, ranges: address(ranges.as_ptr()) };
    // SAFETY: numbers without padding; the address is of as many ranges as it says, which the kernel reads while they are
    // there.
    let (control, _) = unsafe { with(device, Feature::DMA_LOGGING_START, Access::SET, control) }?;
    Ok(control.page_size)
}

/// `VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP`: the device stops to log; what was logged is lost.
///
/// # Errors
/// `ENOTTY` the device cannot log · `EINVAL` a cdev that is not bound · the driver's own: mlx5 says nothing of a device that
/// does not log, others may.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_logging_stop()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP")]
pub fn stop(device: BorrowedFd<'_>) -> Result<()> {
    bare(device, Feature::DMA_LOGGING_STOP, Access::SET)
}

/// `VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT`: reads what was written in a range, and forgets it: a bit for each page of
/// `page_size` bytes, the lowest bit of the first number first.
///
/// After an error the log is worth nothing: all memory counts as written.
///
/// # Errors
/// `ENOTTY` the device cannot log · `EINVAL` the page size is below 4 KiB or no power of two, or the range is empty or not of
/// whole pages; the device does not log; a cdev that is not bound · `EOVERFLOW` the range ends beyond the last address ·
/// `EOPNOTSUPP` a kernel without `CONFIG_IOMMUFD_DRIVER` · the driver's own.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_logging_report()`; `drivers/iommu/iommufd/iova_bitmap.c` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT")]
pub fn report(device: BorrowedFd<'_>, range: IovaRange, page_size: u64) -> Result<Vec<u64>> {
    let mut bitmap = room(range, page_size)?;
    let report =
        Report { iova: range.iova, length: range.length, page_size, bitmap: address(bitmap.as_mut_ptr().cast_const()) };
    // SAFETY: numbers without padding; the address is of a bit for each page of the range, which the kernel sets while they
    // are there.
    unsafe { with(device, Feature::DMA_LOGGING_REPORT, Access::GET, report) }?;
    Ok(bitmap)
}

/// A bit for each page of a range, none of them set.
pub(crate) fn room(range: IovaRange, page_size: u64) -> Result<Vec<u64>> {
    let whole = page_size.is_power_of_two()
        && range.length > 0
        && range.iova.is_multiple_of(page_size)
        && range.length.is_multiple_of(page_size);
    if !whole {
        return Err(Errno::INVAL);
    }
    let numbers = usize::try_from((range.length / page_size).div_ceil(64)).map_err(|_| Errno::NOMEM)?;
    let mut bitmap = Vec::new();
    bitmap.try_reserve_exact(numbers).map_err(|_| Errno::NOMEM)?;
    bitmap.resize(numbers, 0);
    Ok(bitmap)
}

/// An address, as the uAPI takes it.
pub(crate) fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_bit_for_each_page() {
        let numbers = |iova, length, page_size| room(IovaRange { iova, length }, page_size).map(|bits| bits.len());
        assert_eq!(numbers(0, 4096, 4096), Ok(1));
        assert_eq!(numbers(4096, 64 * 4096, 4096), Ok(1));
        assert_eq!(numbers(4096, 65 * 4096, 4096), Ok(2));
        assert_eq!(numbers(0, 1 << 30, 1 << 21), Ok(8));
    }

    #[test]
    fn a_range_of_parts_of_pages_is_refused() {
        for (iova, length, page_size) in [(0, 0, 4096), (1, 4096, 4096), (0, 4097, 4096), (0, 4096, 0), (0, 9, 3)] {
            assert_eq!(room(IovaRange { iova, length }, page_size), Err(Errno::INVAL));
        }
        assert_eq!(room(IovaRange { iova: 0, length: u64::MAX - 4095 }, 1), Err(Errno::NOMEM));
    }
}
