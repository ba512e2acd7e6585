//! An open VFIO device: what it is, what it can, and its state.
//!
//! What it says is plain data, as `vfioadm_uapi` has it, by the names that are given here. Nothing of it is kept: each
//! question is asked of the kernel again.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

pub use vfioadm_uapi::device::{AtomicComp, Capability as DeviceCapability, DeviceFlags, Info as DeviceInfo};
pub use vfioadm_uapi::dma_logging::IovaRange;
pub use vfioadm_uapi::feature::{Access, Feature};
pub use vfioadm_uapi::hot_reset::{Dependent, Info as HotResetInfo, Owner};
pub use vfioadm_uapi::iommufd::hwpt::{HwCapabilities, HwInfo};
pub use vfioadm_uapi::irq::{Info as IrqInfo, IrqFlags};
pub use vfioadm_uapi::migration::{MigrationFlags, NoWay, Precopy, PrecopyFlags, State};
pub use vfioadm_uapi::region::{
    Area, Capability as RegionCapability, Info as RegionInfo, RegionFlags, Type as RegionType,
};
pub use vfioadm_uapi::type1::{Capability as Type1Capability, Info as Type1Info};
pub use vfioadm_uapi::{irq::PCI_ERR, irq::PCI_INTX, irq::PCI_MSI, irq::PCI_MSIX, irq::PCI_REQ};
pub use vfioadm_uapi::{region::PCI_CONFIG, region::PCI_NUM_REGIONS, region::PCI_ROM, region::PCI_VGA, zpci};

use super::{HostError, HostPath};
use crate::model::{Address, BusName, GroupId};

/// A way to open a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Its cdev, `/dev/vfio/devices/vfio3`, bound to a new iommufd.
    Cdev(BusName),
    /// Its group, `/dev/vfio/12`, set to a new container with a type 1 IOMMU.
    Group(GroupId, Address),
    /// Its group without IOMMU, `/dev/vfio/noiommu-12`: nothing keeps the device from any memory, and the kernel is tainted.
    NoIommu(GroupId, Address),
    /// A device that whoever started this process has opened, and left open here by this number. Closing it gives nothing back.
    Inherited(RawFd),
}

impl Way {
    /// The node that is opened.
    #[must_use]
    pub fn node(&self) -> HostPath {
        match self {
            Self::Cdev(name) => HostPath::cdev(name),
            Self::Group(group, _) => HostPath::group_node(*group),
            Self::NoIommu(group, _) => HostPath::noiommu_node(*group),
            Self::Inherited(number) => HostPath::own_descriptor(*number),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cdev(_) => write!(f, "cdev {}", self.node()),
            Self::Group(..) => write!(f, "group {}", self.node()),
            Self::NoIommu(..) => write!(f, "group {}, without IOMMU", self.node()),
            Self::Inherited(number) => write!(f, "descriptor {number}"),
        }
    }
}

/// The IOMMU in front of an open device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Iommu {
    /// As an iommufd tells.
    Iommufd(HwInfo),
    /// As a container tells.
    Type1(Type1Info),
    /// There is none: an emulated device, one that was opened without IOMMU, or one that somebody else opened.
    None,
}

/// The file of a migration's data.
pub enum Data {
    /// To be read, in order, to its end in `STOP_COPY`.
    ///
    /// In pre-copy there may be nothing for now: `ENOMSG` of some drivers, 0 bytes of others.
    Saving(Box<dyn Saving>),
    /// To be written, in order. Whether it was good the device says when it leaves `RESUMING`.
    Resuming(Box<dyn Resuming>),
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Saving(_) => "Saving",
            Self::Resuming(_) => "Resuming",
        })
    }
}

/// The data of a device that is saved.
pub trait Saving: io::Read + Send {
    /// `VFIO_MIG_GET_PRECOPY_INFO`: how much there is to be read, about.
    ///
    /// # Errors
    /// `EINVAL` the device is not in a state of pre-copy; `ENODEV` it has left; else the driver's own.
    fn precopy(&self) -> Result<Precopy, HostError>;

    /// `write(2)` of a byte: it goes the other way.
    ///
    /// # Errors
    /// `EBADF`.
    fn wrong_way(&mut self) -> io::Result<usize>;

    /// `pread(2)` of a byte: it has no places.
    ///
    /// # Errors
    /// `ESPIPE`.
    fn read_at(&mut self) -> io::Result<usize>;

    /// `poll(2)`: whether a read would answer at once, with data, an end or an error; waits so long for it.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::migration::Saving::is_readable`].
    fn is_readable(&mut self, within: Duration) -> io::Result<bool>;
}

/// The data of a device that is loaded.
pub trait Resuming: io::Write + Send {
    /// `read(2)` of a byte: it goes the other way.
    ///
    /// # Errors
    /// `EBADF`.
    fn wrong_way(&mut self) -> io::Result<usize>;
}

/// An open VFIO device. Dropping it closes all that was opened for it, the device first.
///
/// A vfio-pci device is reset when it is opened first and when it is closed last: a state that was loaded is gone with it.
///
/// Every error names the node that was opened and the ioctl. Each method is one call of `vfioadm_uapi`, which has the
/// errnos and the kernel's functions.
pub trait Device: Send {
    /// How it was opened.
    fn way(&self) -> &Way;

    /// `VFIO_DEVICE_GET_INFO`.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::device::info`].
    fn info(&self) -> Result<DeviceInfo, HostError>;

    /// `VFIO_DEVICE_GET_REGION_INFO`.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::region::info`]: `EINVAL` for an index that the device has not got, such as VGA of most.
    fn region(&self, index: u32) -> Result<RegionInfo, HostError>;

    /// `VFIO_DEVICE_GET_IRQ_INFO`.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::irq::info`].
    fn irq(&self, index: u32) -> Result<IrqInfo, HostError>;

    /// Reads a region from byte `at` on, once: fewer bytes than asked for are no error.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::region::read_at`].
    fn read_at(&self, region: &RegionInfo, at: u64, into: &mut [u8]) -> Result<usize, HostError>;

    /// Writes a region from byte `at` on, once.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::region::write_at`].
    fn write_at(&self, region: &RegionInfo, at: u64, data: &[u8]) -> Result<usize, HostError>;

    /// `VFIO_DEVICE_RESET`: all that was in the device is lost, and it runs.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::device::reset`].
    fn reset(&self) -> Result<(), HostError>;

    /// `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`. Resets nothing.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::hot_reset::info`].
    fn hot_reset_info(&self) -> Result<HotResetInfo, HostError>;

    /// `VFIO_DEVICE_PCI_HOT_RESET` with what was opened for this device and nothing else: its own group, or none for a cdev.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::hot_reset::reset`].
    fn hot_reset(&self) -> Result<(), HostError>;

    /// `VFIO_DEVICE_FEATURE`, the header alone: with [`Access::PROBE`] whether the device has it and nothing more.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::feature::bare`].
    fn ask(&self, feature: Feature, access: Access) -> Result<(), HostError>;

    /// `VFIO_DEVICE_FEATURE_PCI_VF_TOKEN`, of a PF.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::feature::set_vf_token`].
    fn set_vf_token(&self, token: uuid::Uuid) -> Result<(), HostError>;

    /// `VFIO_DEVICE_FEATURE_MIGRATION`.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::migration::flags`]: `ENOTTY` the device does not migrate.
    fn migration(&self) -> Result<MigrationFlags, HostError>;

    /// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`, GET.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::migration::state`].
    fn state(&self) -> Result<State, HostError>;

    /// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`, SET. After an error the device may be in any state on the way: ask.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::migration::set_state`]; `EINVAL` with the reason in `said` where the kernel was not even asked:
    /// `STOP_COPY` to pre-copy, and anything out of `ERROR`.
    fn set_state(&self, to: State) -> Result<Option<Data>, HostError>;

    /// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`, SET, with a number that is no state that a device can be sent to.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::migration::set_no_state`]: `EINVAL`.
    fn set_no_state(&self, number: u32) -> Result<(), HostError>;

    /// `VFIO_DEVICE_FEATURE_MIG_DATA_SIZE`: how many bytes `STOP_COPY` would give, about.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::migration::data_size`].
    fn data_size(&self) -> Result<u64, HostError>;

    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_START`; gives the size of pages that the device chose.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::dma_logging::start`].
    fn start_logging(&self, page_size: u64, ranges: &[IovaRange]) -> Result<u64, HostError>;

    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP`.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::dma_logging::stop`].
    fn stop_logging(&self) -> Result<(), HostError>;

    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT`: a bit for each page of the range.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::dma_logging::report`].
    fn logged(&self, range: IovaRange, page_size: u64) -> Result<Vec<u64>, HostError>;

    /// `IOMMU_GET_HW_INFO` or `VFIO_IOMMU_GET_INFO`: the IOMMU in front of the device.
    ///
    /// # Errors
    /// As [`vfioadm_uapi::iommufd::hwpt::hw_info`] and [`vfioadm_uapi::type1::info`].
    fn iommu(&self) -> Result<Iommu, HostError>;

    /// The descriptors that keep the device open, the device's own first; for another program to have. A fake has none.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
}
