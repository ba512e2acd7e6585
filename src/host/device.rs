//! A VFIO device that is open: what it is, and what can be done with it.
//!
//! Not to be confused with a read: opening resets a vfio-pci device, and so does its last close
//! (`drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_enable()`, `vfio_pci_core_disable()`, 7.2).

use std::os::fd::BorrowedFd;

use uuid::Uuid;
pub use vfioadm_uapi::device::Info as DeviceInfo;
pub use vfioadm_uapi::feature::{Access, Feature};
pub use vfioadm_uapi::hot_reset::Info as HotReset;
pub use vfioadm_uapi::irq::Info as IrqInfo;
pub use vfioadm_uapi::migration::{MigrationFlags, Precopy, State};
pub use vfioadm_uapi::region::Info as RegionInfo;

use super::{HostError, HostPath};
use crate::model::{BusName, Errno, GroupId};

/// The way to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// Its cdev, `/dev/vfio/devices/vfio3`, bound to an iommufd of its own, and attached to an address space of that.
    Cdev(BusName),
    /// Its group, `/dev/vfio/12`, in a container of its own.
    Group(GroupId),
    /// Its group, `/dev/vfio/noiommu-12`: nothing keeps its DMA from the host's memory. Needs `CAP_SYS_RAWIO`.
    NoIommu(GroupId),
}

/// A device to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// By what.
    pub by: By,
    /// What `VFIO_GROUP_GET_DEVICE_FD` calls it: a BDF, an mdev's UUID.
    pub name: String,
    /// What a VF is opened with when its PF's user has set one.
    pub token: Option<Uuid>,
}

impl Opening {
    /// The node that is opened for it.
    #[must_use]
    pub fn node(&self) -> HostPath {
        match &self.by {
            By::Cdev(name) => HostPath::cdev(name),
            By::Group(id) => HostPath::group_node(*id),
            By::NoIommu(id) => HostPath::noiommu_node(*id),
        }
    }
}

/// An open device; dropping it closes it.
///
/// # Errors
/// Each call is one ioctl but where it says more, and its error names that: `ENODEV` the device is on its way out or has gone;
/// `EIO` it does not wake up; `ENOTTY` the driver does not know it; what else there is, beside each.
pub trait Device: Send {
    /// The node that was opened.
    fn node(&self) -> &HostPath;

    /// The descriptor, for another program to go on with; `None` of a device in memory.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// `VFIO_DEVICE_GET_INFO`: what it is.
    ///
    /// # Errors
    /// As of all.
    fn info(&self) -> Result<DeviceInfo, HostError>;

    /// `VFIO_DEVICE_GET_REGION_INFO`: a region.
    ///
    /// # Errors
    /// `EINVAL` it has no such region.
    fn region(&self, index: u32) -> Result<RegionInfo, HostError>;

    /// `VFIO_DEVICE_GET_IRQ_INFO`: interrupts of a kind.
    ///
    /// # Errors
    /// `EINVAL` it has no such kind.
    fn irq(&self, index: u32) -> Result<IrqInfo, HostError>;

    /// Reads from a region; how much was read.
    ///
    /// # Errors
    /// `EINVAL` beyond its end, or not to be read.
    fn read_at(&self, region: &RegionInfo, at: u64, into: &mut [u8]) -> Result<usize, HostError>;

    /// Writes to a region; how much was written.
    ///
    /// # Errors
    /// `EINVAL` beyond its end, or not to be written.
    fn write_at(&self, region: &RegionInfo, at: u64, data: &[u8]) -> Result<usize, HostError>;

    /// `VFIO_DEVICE_RESET`: loses all that is in it, and brings its migration back to RUNNING.
    ///
    /// # Errors
    /// `EINVAL` it cannot be reset alone; `EAGAIN` somebody holds its lock.
    fn reset(&self) -> Result<(), HostError>;

    /// `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`: who else a reset of its bus or slot would hit.
    ///
    /// # Errors
    /// `ENODEV` no such reset is possible; `ENOTTY` no PCI device.
    fn hot_reset(&self) -> Result<HotReset, HostError>;

    /// `VFIO_DEVICE_FEATURE` without data: asks whether it has the feature, or sets one that has no data.
    ///
    /// # Errors
    /// `ENOTTY` it has not; `EINVAL` it has it and cannot do that, or data is missing; `EOPNOTSUPP`.
    fn feature(&self, feature: Feature, access: Access) -> Result<(), HostError>;

    /// `VFIO_DEVICE_FEATURE_MIGRATION`: how it migrates.
    ///
    /// # Errors
    /// `ENOTTY` it does not.
    fn migration(&self) -> Result<MigrationFlags, HostError>;

    /// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`, GET: its state.
    ///
    /// # Errors
    /// `ENOTTY` it does not migrate; `EPROTO` the driver says a state that there is not.
    fn state(&self) -> Result<State, HostError>;

    /// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`, SET: sends it to a state, by whatever states lie between, and gives the stream
    /// that begins with the last step.
    ///
    /// # Errors
    /// `EINVAL` no way leads there, or the state that was loaded is not good; else the driver's own. It may then be in any state
    /// on the way. What [`State::may_ask`] forbids is `EINVAL` too, with its words for the value, and the kernel is not asked.
    fn set_state(&self, to: State) -> Result<Option<Box<dyn Stream>>, HostError>;

    /// The same by a number that is no state, to see what the kernel says: nothing else is asked so.
    ///
    /// # Errors
    /// `EINVAL`.
    fn set_no_state(&self, number: u32) -> Result<(), HostError>;

    /// `VFIO_DEVICE_FEATURE_MIG_DATA_SIZE`: how many bytes of state there would be, about.
    ///
    /// # Errors
    /// `ENOTTY` it cannot migrate.
    fn data_size(&self) -> Result<u64, HostError>;

    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_START`: it logs where it writes, in these ranges of `(iova, length)`. Gives the page size
    /// that it logs by.
    ///
    /// # Errors
    /// `ENOTTY` it does not log; `EINVAL` ranges that overlap, are empty or not of whole pages, or a page size that is no power
    /// of two or under 4 KiB, or it logs already; `E2BIG` too many ranges; `EOVERFLOW` beyond the end.
    fn log_start(&self, page_size: u64, ranges: &[(u64, u64)]) -> Result<u64, HostError>;

    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP`.
    ///
    /// # Errors
    /// `ENOTTY` it does not log; `EINVAL` or nothing when it was not begun, as the driver has it.
    fn log_stop(&self) -> Result<(), HostError>;

    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT`: a bit for each page that it wrote to since it was last asked.
    ///
    /// # Errors
    /// `ENOTTY` it does not log; `EINVAL` it was not begun, or the range is not of whole pages.
    fn log_report(&self, iova: u64, length: u64, page_size: u64) -> Result<Vec<u64>, HostError>;

    /// Whether the IOMMU can tell where the device writes (`IOMMU_GET_HW_INFO`, `IOMMU_HW_CAP_DIRTY_TRACKING`); `None` where
    /// that cannot be asked: by a group.
    ///
    /// # Errors
    /// The ioctl's.
    fn iommu_tracks(&self) -> Result<Option<bool>, HostError>;
}

/// The descriptor of a migration: of a state that is read out of a device, or written into it. Dropping it closes it.
pub trait Stream: Send {
    /// Reads what comes next; 0 at the end, which is one in STOP_COPY alone.
    ///
    /// # Errors
    /// `ENOMSG` nothing yet, in a pre-copy state (mlx5, virtio; others answer 0); `EBADF` it is to be written; `ENODEV` its
    /// device has left the state that it belongs to; else the driver's own.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Errno>;

    /// Writes what comes next; how much was taken.
    ///
    /// # Errors
    /// `EBADF` it is to be read; `ENODEV` as of [`read`](Stream::read); `EINVAL`, `EIO`, `ENOMEM` the driver does not take it.
    fn write(&mut self, data: &[u8]) -> Result<usize, Errno>;

    /// `pread(2)`: a stream has no places.
    ///
    /// # Errors
    /// `ESPIPE`.
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> Result<usize, Errno>;

    /// `VFIO_MIG_GET_PRECOPY_INFO`: how much there is to be read.
    ///
    /// # Errors
    /// `EINVAL` not in a pre-copy state; `ENOTTY` the driver has none.
    fn precopy(&self) -> Result<Precopy, Errno>;
}
