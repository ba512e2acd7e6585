//! An open device of the real machine.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use uuid::Uuid;
use vfioadm_uapi::container::Extension;
use vfioadm_uapi::iommufd::{ObjectId, hwpt};
use vfioadm_uapi::migration::NotSet;
use vfioadm_uapi::{
    Result as Answer, cdev, container, device, dma_logging, feature, group, hot_reset, inherited, irq, migration,
    region, type1,
};

use super::{HeldContainer, container_node, node, refused};
use crate::host::device::{
    Access, Data, Device, DeviceInfo, Feature, HotResetInfo, Iommu, IovaRange, IrqInfo, MigrationFlags, Precopy,
    RegionInfo, Resuming, Saving, State, Way,
};
use crate::host::path::Root;
use crate::host::{Held, HostError, HostPath, Verb};
use crate::model::{Address, Errno};

/// An open device. Closed in the order of its fields: the device before what it was opened by.
pub(super) struct Opened {
    device: OwnedFd,
    by: By,
    way: Way,
    node: HostPath,
}

/// What a device was opened by.
enum By {
    /// An iommufd, which knows the device by a number.
    Iommufd(OwnedFd, ObjectId),
    /// Its group, set to a container.
    Container(HeldContainer),
    /// Whatever it was, somebody else has it.
    Others,
}

/// Opens a device by a way, once.
pub(super) fn open(dev: BorrowedFd<'_>, way: &Way, token: Option<Uuid>) -> Result<Opened, HostError> {
    let path = way.node();
    let (device, by) = match way {
        Way::Cdev(_) => {
            let cdev = node(dev, &path)?;
            let iommufd = node(dev, &HostPath::fixed(Root::Dev, "iommu"))?;
            let bound = match token {
                Some(token) => cdev::bind_iommufd_with_token(cdev.as_fd(), iommufd.as_fd(), token.as_bytes()),
                None => cdev::bind_iommufd(cdev.as_fd(), iommufd.as_fd()),
            };
            let id = bound.map_err(refused(Verb::Ioctl("VFIO_DEVICE_BIND_IOMMUFD"), &path))?;
            (cdev, By::Iommufd(iommufd, id))
        }
        Way::Group(_, address) => by_group(dev, &path, Extension::TYPE1V2, &name(address, token))?,
        Way::Inherited(number) => (inherited::copy(*number).map_err(refused(Verb::Open, &path))?, By::Others),
        Way::NoIommu(_, address) => by_group(dev, &path, Extension::NOIOMMU, &name(address, token))?,
    };
    Ok(Opened { device, by, way: way.clone(), node: path })
}

/// What a group is asked for: the name, and the token where there is one.
fn name(address: &Address, token: Option<Uuid>) -> String {
    match token {
        Some(token) => format!("{address} vf_token={}", token.as_hyphenated()),
        None => address.to_string(),
    }
}

fn by_group(dev: BorrowedFd<'_>, path: &HostPath, iommu: Extension, name: &str) -> Result<(OwnedFd, By), HostError> {
    let held = HeldContainer::open(dev, path)?;
    container::set_iommu(held.container.as_fd(), iommu)
        .map_err(refused(Verb::Ioctl("VFIO_SET_IOMMU"), &container_node()))?;
    // The token is a secret between the users of a PF and its VFs.
    let shown = name.split_once(' ').map_or(name, |(device, _)| device);
    let device = group::device_fd(held.group.fd.as_fd(), name)
        .map_err(|errno| refused(Verb::Ioctl("VFIO_GROUP_GET_DEVICE_FD"), path)(errno).with_value(shown))?;
    Ok((device, By::Container(held)))
}

impl Opened {
    /// Makes a refused ioctl an error that says which, of this device.
    fn told<T>(&self, ioctl: &'static str, answer: Answer<T>) -> Result<T, HostError> {
        answer.map_err(refused(Verb::Ioctl(ioctl), &self.node))
    }

    /// The same of a feature, with its name.
    fn of<T>(&self, feature: Feature, answer: Answer<T>) -> Result<T, HostError> {
        self.told("VFIO_DEVICE_FEATURE", answer).map_err(|error| error.with_value(&spelled(feature)))
    }
}

/// The name of a feature, or its number.
pub(crate) fn spelled(feature: Feature) -> String {
    feature.name().map_or_else(|| feature.0.to_string(), str::to_owned)
}

/// The error of a state that was not set, or not even asked for.
pub(crate) fn not_set(node: &HostPath, to: State, why: NotSet) -> HostError {
    let error = |errno| {
        let error = HostError::new(Verb::Ioctl("VFIO_DEVICE_FEATURE"), node.clone(), errno);
        error.with_value(&format!("MIG_DEVICE_STATE {to}"))
    };
    match why {
        NotSet::Kernel(errno) => error(Errno(errno.raw_os_error())),
        NotSet::NoWay(why) => error(Errno::EINVAL).with_said(why.words()),
    }
}

impl Held for Opened {
    fn viable(&self) -> Result<Option<bool>, HostError> {
        match &self.by {
            By::Container(held) => held.viable(),
            By::Iommufd(..) | By::Others => Ok(None),
        }
    }
}

impl Device for Opened {
    fn way(&self) -> &Way {
        &self.way
    }

    fn info(&self) -> Result<DeviceInfo, HostError> {
        self.told("VFIO_DEVICE_GET_INFO", device::info(self.device.as_fd()))
    }

    fn region(&self, index: u32) -> Result<RegionInfo, HostError> {
        let answer = region::info(self.device.as_fd(), index);
        self.told("VFIO_DEVICE_GET_REGION_INFO", answer).map_err(|error| error.with_value(&index.to_string()))
    }

    fn irq(&self, index: u32) -> Result<IrqInfo, HostError> {
        let answer = irq::info(self.device.as_fd(), index);
        self.told("VFIO_DEVICE_GET_IRQ_INFO", answer).map_err(|error| error.with_value(&index.to_string()))
    }

    fn read_at(&self, region: &RegionInfo, at: u64, into: &mut [u8]) -> Result<usize, HostError> {
        region::read_at(self.device.as_fd(), region, at, into).map_err(refused(Verb::Read, &self.node))
    }

    fn write_at(&self, region: &RegionInfo, at: u64, data: &[u8]) -> Result<usize, HostError> {
        region::write_at(self.device.as_fd(), region, at, data).map_err(refused(Verb::Write, &self.node))
    }

    fn reset(&self) -> Result<(), HostError> {
        self.told("VFIO_DEVICE_RESET", device::reset(self.device.as_fd()))
    }

    fn hot_reset_info(&self) -> Result<HotResetInfo, HostError> {
        self.told("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", hot_reset::info(self.device.as_fd()))
    }

    fn hot_reset(&self) -> Result<(), HostError> {
        let answer = match &self.by {
            By::Container(held) => hot_reset::reset(self.device.as_fd(), &[held.group.fd.as_fd()]),
            By::Iommufd(..) | By::Others => hot_reset::reset(self.device.as_fd(), &[]),
        };
        self.told("VFIO_DEVICE_PCI_HOT_RESET", answer)
    }

    fn ask(&self, feature: Feature, access: Access) -> Result<(), HostError> {
        self.of(feature, feature::bare(self.device.as_fd(), feature, access))
    }

    fn set_vf_token(&self, token: Uuid) -> Result<(), HostError> {
        self.of(Feature::PCI_VF_TOKEN, feature::set_vf_token(self.device.as_fd(), token.into_bytes()))
    }

    fn migration(&self) -> Result<MigrationFlags, HostError> {
        self.of(Feature::MIGRATION, migration::flags(self.device.as_fd()))
    }

    fn state(&self) -> Result<State, HostError> {
        self.of(Feature::MIG_DEVICE_STATE, migration::state(self.device.as_fd()))
    }

    fn set_state(&self, to: State) -> Result<Option<Data>, HostError> {
        let data = migration::set_state(self.device.as_fd(), to).map_err(|why| not_set(&self.node, to, why))?;
        Ok(data.map(|data| match data {
            migration::Data::Saving(file) => Data::Saving(Box::new(Reader { file, node: self.node.clone() })),
            migration::Data::Resuming(file) => Data::Resuming(Box::new(Writer(file))),
        }))
    }

    fn set_no_state(&self, number: u32) -> Result<(), HostError> {
        self.of(Feature::MIG_DEVICE_STATE, migration::set_no_state(self.device.as_fd(), number))
    }

    fn data_size(&self) -> Result<u64, HostError> {
        self.of(Feature::MIG_DATA_SIZE, migration::data_size(self.device.as_fd()))
    }

    fn start_logging(&self, page_size: u64, ranges: &[IovaRange]) -> Result<u64, HostError> {
        self.of(Feature::DMA_LOGGING_START, dma_logging::start(self.device.as_fd(), page_size, ranges))
    }

    fn stop_logging(&self) -> Result<(), HostError> {
        self.of(Feature::DMA_LOGGING_STOP, dma_logging::stop(self.device.as_fd()))
    }

    fn logged(&self, range: IovaRange, page_size: u64) -> Result<Vec<u64>, HostError> {
        self.of(Feature::DMA_LOGGING_REPORT, dma_logging::report(self.device.as_fd(), range, page_size))
    }

    fn iommu(&self) -> Result<Iommu, HostError> {
        match (&self.by, &self.way) {
            (By::Iommufd(iommufd, id), _) => match hwpt::hw_info(iommufd.as_fd(), *id) {
                Ok(info) => Ok(Iommu::Iommufd(info)),
                // An emulated device is no device of the iommufd's.
                Err(vfioadm_uapi::Errno::NOENT) => Ok(Iommu::None),
                Err(errno) => {
                    let iommufd = HostPath::fixed(Root::Dev, "iommu");
                    Err(refused(Verb::Ioctl("IOMMU_GET_HW_INFO"), &iommufd)(errno))
                }
            },
            (By::Container(_), Way::NoIommu(..)) | (By::Others, _) => Ok(Iommu::None),
            (By::Container(held), _) => type1::info(held.container.as_fd())
                .map(Iommu::Type1)
                .map_err(refused(Verb::Ioctl("VFIO_IOMMU_GET_INFO"), &container_node())),
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let device = self.device.as_fd();
        match &self.by {
            By::Others => vec![device],
            By::Iommufd(iommufd, _) => vec![device, iommufd.as_fd()],
            By::Container(held) => vec![device, held.group.fd.as_fd(), held.container.as_fd()],
        }
    }
}

/// The data of a device that is saved.
struct Reader {
    file: migration::Saving,
    node: HostPath,
}

impl io::Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }
}

impl Saving for Reader {
    fn precopy(&self) -> Result<Precopy, HostError> {
        self.file.precopy().map_err(refused(Verb::Ioctl("VFIO_MIG_GET_PRECOPY_INFO"), &self.node))
    }

    fn wrong_way(&mut self) -> io::Result<usize> {
        Ok(self.file.write(&[0])?)
    }

    fn read_at(&mut self) -> io::Result<usize> {
        Ok(self.file.read_at(0, &mut [0])?)
    }

    fn is_readable(&mut self, within: Duration) -> io::Result<bool> {
        Ok(self.file.is_readable(within)?)
    }
}

/// The data of a device that is loaded.
struct Writer(migration::Resuming);

impl io::Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Resuming for Writer {
    fn wrong_way(&mut self) -> io::Result<usize> {
        Ok(self.0.read(&mut [0])?)
    }
}
