//! A fake device that logs its DMA. It does none, so that nothing is ever dirty.

use super::DeviceFault;
use crate::host::device::IovaRange;
use crate::host::fake::kernel::Kernel;
use crate::model::{Address, Errno};

/// `LOG_MAX_RANGES`, with pages of 4 KiB.
const MOST: usize = 256;

impl Kernel {
    /// Whether a device can log.
    pub(super) fn logs(&self, at: &Address) -> bool {
        match self.function_of(at).and_then(|bdf| self.vdevs.get(&bdf)) {
            Some(vdev) => vdev.dirty_log && vdev.migration.is_some(),
            None => self.migration_flags(at).is_some(),
        }
    }

    /// `DMA_LOGGING_START`.
    ///
    /// # Kernel
    /// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_logging_start()`; `drivers/vfio/pci/mlx5/cmd.c`
    /// `mlx5vf_start_page_tracker()` (`EINVAL` while it logs) (7.2).
    pub(super) fn start_logging(&mut self, at: &Address, page_size: u64, ranges: &[IovaRange]) -> Result<u64, Errno> {
        if !self.logs(at) {
            return Err(Errno::ENOTTY);
        }
        if ranges.is_empty() {
            return Err(Errno::EINVAL);
        }
        if ranges.len() > MOST {
            return Err(Errno::E2BIG);
        }
        let mut seen: Vec<(u64, u64)> = Vec::new();
        for range in ranges {
            let mask = page_size.wrapping_sub(1);
            if range.length == 0 || range.iova & mask != 0 || range.length & mask != 0 {
                return Err(Errno::EINVAL);
            }
            let end = range.iova.checked_add(range.length).ok_or(Errno::EOVERFLOW)?;
            if seen.iter().any(|(from, to)| range.iova < *to && *from < end) {
                return Err(Errno::EINVAL);
            }
            seen.push((range.iova, end));
        }
        let twice = self.devices.does(at, DeviceFault::LogsTwice);
        let migrating = self.migrating(at)?;
        if migrating.logging.is_some() && !twice {
            return Err(Errno::EINVAL);
        }
        migrating.logging = Some(page_size);
        Ok(page_size)
    }

    /// `DMA_LOGGING_STOP`. No error when it does not log.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/mlx5/cmd.c` `mlx5vf_stop_page_tracker()` (7.2).
    pub(super) fn stop_logging(&mut self, at: &Address) -> Result<(), Errno> {
        if !self.logs(at) {
            return Err(Errno::ENOTTY);
        }
        self.migrating(at)?.logging = None;
        Ok(())
    }

    /// `DMA_LOGGING_REPORT`.
    ///
    /// # Kernel
    /// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_logging_report()`; `drivers/vfio/pci/mlx5/cmd.c`
    /// `mlx5vf_tracker_read_and_clear()` (`EINVAL` while it does not log) (7.2).
    pub(super) fn logged(&mut self, at: &Address, range: IovaRange, page_size: u64) -> Result<Vec<u64>, Errno> {
        if !self.logs(at) {
            return Err(Errno::ENOTTY);
        }
        let whole = page_size.is_power_of_two()
            && page_size >= 4096
            && range.length > 0
            && range.iova.is_multiple_of(page_size)
            && range.length.is_multiple_of(page_size);
        if !whole {
            return Err(Errno::EINVAL);
        }
        range.iova.checked_add(range.length).ok_or(Errno::EOVERFLOW)?;
        let unlogged = self.devices.does(at, DeviceFault::ReportsUnlogged);
        if self.migrating(at)?.logging.is_none() && !unlogged {
            return Err(Errno::EINVAL);
        }
        let words = usize::try_from((range.length / page_size).div_ceil(64)).map_err(|_| Errno::ENOMEM)?;
        Ok(vec![0; words])
    }
}
