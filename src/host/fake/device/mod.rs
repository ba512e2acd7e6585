//! An open VFIO device of the fake kernel: what it says of itself, and its migration.
//!
//! A PCI function alone has migration; an mdev says what every device says.

mod answers;
mod fault;
mod logging;
mod migration;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;
use vfioadm_uapi::migration::NotSet;

pub use fault::DeviceFault;
pub use stream::Content;

use super::FakeHost;
use super::kernel::Kernel;
use super::processes::Process;
use crate::host::device::{
    Access, Data, Device, DeviceInfo, Feature, HotResetInfo, Iommu, IovaRange, IrqInfo, MigrationFlags, RegionInfo,
    State, Way,
};
use crate::host::vfio::{not_set, spelled};
use crate::host::{HostError, HostPath, Open, Verb};
use crate::model::{Address, Bdf, Errno};
use migration::{Migrating, Reader, Writer};

/// What the fake kernel knows of its VFIO devices beyond what a driver made of them.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// Those that are open and migrate.
    migrating: BTreeMap<Bdf, Migrating>,
    /// What is in a device, when it is not what a reset leaves.
    contents: BTreeMap<Bdf, Content>,
    /// What they do wrong.
    faults: BTreeMap<Bdf, BTreeSet<DeviceFault>>,
    /// How often their next opens are refused with `EAGAIN`.
    busy: BTreeMap<Bdf, u32>,
    /// The token of a PF.
    tokens: BTreeMap<Bdf, Uuid>,
}

impl Devices {
    /// Whether a device does this wrong.
    fn does(&self, bdf: Bdf, fault: DeviceFault) -> bool {
        self.faults.get(&bdf).is_some_and(|faults| faults.contains(&fault))
    }
}

impl FakeHost {
    /// Has a device do something wrong from now on.
    pub fn fault(&self, bdf: Bdf, fault: DeviceFault) {
        self.kernel().devices.faults.entry(bdf).or_default().insert(fault);
    }

    /// Puts something into a device, as its user would.
    pub fn fill(&self, bdf: Bdf, content: Content) {
        self.kernel().devices.contents.insert(bdf, content);
    }

    /// What is in a device.
    #[must_use]
    pub fn content(&self, bdf: Bdf) -> Content {
        self.kernel().devices.contents.get(&bdf).copied().unwrap_or_default()
    }

    /// Refuses the next so many opens of a device, as while somebody resets it.
    pub fn keep_busy(&self, bdf: Bdf, opens: u32) {
        self.kernel().devices.busy.insert(bdf, opens);
    }

    /// Opens a device by a way, once.
    ///
    /// # Kernel
    /// As of [`Kernel::open`]; `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_enable()` (`EAGAIN`),
    /// `vfio_pci_validate_vf_token()` (`EACCES`, `EINVAL`) (7.2).
    pub(super) fn open_fake_device(&self, way: &Way, token: Option<Uuid>) -> Result<Box<dyn Device>, HostError> {
        let what = match way {
            Way::Cdev(name) => Open::BoundCdev(name.clone()),
            Way::Group(group, Address::Pci(bdf)) | Way::NoIommu(group, Address::Pci(bdf)) => {
                Open::GroupDevice(*group, *bdf)
            }
            Way::Group(group, _) | Way::NoIommu(group, _) => Open::Container(*group),
        };
        let refused = |verb, errno| HostError::new(verb, way.node(), errno);
        let mut kernel = self.kernel();
        let number = kernel.open(&what, &Process::own()).map_err(|errno| refused(Verb::Open, errno))?;
        let bdf = kernel.opens.device(number);
        if let Some(bdf) = bdf
            && let Err(errno) = kernel.enable_vfio(bdf, token)
        {
            kernel.close(number);
            let ioctl =
                if matches!(way, Way::Cdev(_)) { "VFIO_DEVICE_BIND_IOMMUFD" } else { "VFIO_GROUP_GET_DEVICE_FD" };
            return Err(refused(Verb::Ioctl(ioctl), errno));
        }
        drop(kernel);
        Ok(Box::new(FakeDevice { kernel: Arc::clone(&self.kernel), number, bdf, way: way.clone(), node: way.node() }))
    }
}

/// An open device.
struct FakeDevice {
    kernel: Arc<Mutex<Kernel>>,
    number: u64,
    bdf: Option<Bdf>,
    way: Way,
    node: HostPath,
}

impl Drop for FakeDevice {
    fn drop(&mut self) {
        let mut kernel = self.kernel();
        kernel.close(self.number);
        kernel.finish();
    }
}

impl FakeDevice {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the kernel something of a PCI function that is still there; an mdev has no such ioctl.
    fn asked<T>(
        &self,
        ioctl: &'static str,
        ask: impl FnOnce(&mut Kernel, Bdf) -> Result<T, Errno>,
    ) -> Result<T, HostError> {
        let mut kernel = self.kernel();
        let answer = match self.bdf {
            Some(bdf) if kernel.opens.device(self.number) == Some(bdf) => ask(&mut kernel, bdf),
            Some(_) => Err(Errno::EIO),
            None => Err(Errno::ENOTTY),
        };
        answer.map_err(|errno| HostError::new(Verb::Ioctl(ioctl), self.node.clone(), errno))
    }

    /// The same of a feature, with its name.
    fn feature<T>(
        &self,
        feature: Feature,
        ask: impl FnOnce(&mut Kernel, Bdf) -> Result<T, Errno>,
    ) -> Result<T, HostError> {
        self.asked("VFIO_DEVICE_FEATURE", ask).map_err(|error| error.with_value(&spelled(feature)))
    }
}

impl Device for FakeDevice {
    fn way(&self) -> &Way {
        &self.way
    }

    fn info(&self) -> Result<DeviceInfo, HostError> {
        match self.bdf {
            Some(_) => self.asked("VFIO_DEVICE_GET_INFO", |kernel, bdf| Ok(kernel.device_info(bdf))),
            None => Ok(answers::emulated()),
        }
    }

    fn region(&self, index: u32) -> Result<RegionInfo, HostError> {
        self.asked("VFIO_DEVICE_GET_REGION_INFO", |kernel, bdf| kernel.region_info(bdf, index))
            .map_err(|error| error.with_value(&index.to_string()))
    }

    fn irq(&self, index: u32) -> Result<IrqInfo, HostError> {
        self.asked("VFIO_DEVICE_GET_IRQ_INFO", |kernel, bdf| kernel.irq_info(bdf, index))
            .map_err(|error| error.with_value(&index.to_string()))
    }

    fn read_at(&self, region: &RegionInfo, at: u64, into: &mut [u8]) -> Result<usize, HostError> {
        let read = self.asked("pread", |kernel, bdf| kernel.read_region(bdf, region, at, into));
        read.map_err(|error| HostError { verb: Verb::Read, ..error })
    }

    fn write_at(&self, region: &RegionInfo, at: u64, data: &[u8]) -> Result<usize, HostError> {
        let written = self.asked("pwrite", |kernel, bdf| kernel.write_region(bdf, region, at, data));
        written.map_err(|error| HostError { verb: Verb::Write, ..error })
    }

    fn reset(&self) -> Result<(), HostError> {
        self.asked("VFIO_DEVICE_RESET", Kernel::reset_device)
    }

    fn hot_reset_info(&self) -> Result<HotResetInfo, HostError> {
        let by_cdev = matches!(self.way, Way::Cdev(_));
        self.asked("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", |kernel, bdf| {
            if by_cdev { kernel.hot_reset_by_cdev(bdf) } else { kernel.hot_reset_by_group(bdf) }
        })
    }

    fn hot_reset(&self) -> Result<(), HostError> {
        self.asked("VFIO_DEVICE_PCI_HOT_RESET", Kernel::hot_reset)
    }

    fn ask(&self, feature: Feature, access: Access) -> Result<(), HostError> {
        self.feature(feature, |kernel, bdf| kernel.ask_feature(bdf, feature, access))
    }

    fn set_vf_token(&self, token: Uuid) -> Result<(), HostError> {
        self.feature(Feature::PCI_VF_TOKEN, |kernel, bdf| kernel.set_vf_token(bdf, token))
    }

    fn migration(&self) -> Result<MigrationFlags, HostError> {
        self.feature(Feature::MIGRATION, |kernel, bdf| kernel.migration_flags(bdf).ok_or(Errno::ENOTTY))
    }

    fn state(&self) -> Result<State, HostError> {
        self.feature(Feature::MIG_DEVICE_STATE, |kernel, bdf| kernel.migration_state(bdf))
    }

    fn set_state(&self, to: State) -> Result<Option<Data>, HostError> {
        let from = self.state()?;
        from.may_ask(to).map_err(|why| not_set(&self.node, to, NotSet::NoWay(why)))?;
        let set =
            self.feature(Feature::MIG_DEVICE_STATE, |kernel, bdf| Ok((bdf, kernel.set_migration_state(bdf, to)?)));
        let (bdf, file) = set.map_err(|error| error.with_value(&format!("MIG_DEVICE_STATE {to}")))?;
        let kernel = Arc::clone(&self.kernel);
        Ok(file.map(|file| match to {
            State::Resuming => Data::Resuming(Box::new(Writer::new(kernel, bdf, file))),
            _ => Data::Saving(Box::new(Reader::new(kernel, bdf, file, self.node.clone()))),
        }))
    }

    fn data_size(&self) -> Result<u64, HostError> {
        self.feature(Feature::MIG_DATA_SIZE, |kernel, bdf| kernel.data_size(bdf))
    }

    fn start_logging(&self, page_size: u64, ranges: &[IovaRange]) -> Result<u64, HostError> {
        self.feature(Feature::DMA_LOGGING_START, |kernel, bdf| kernel.start_logging(bdf, page_size, ranges))
    }

    fn stop_logging(&self) -> Result<(), HostError> {
        self.ask(Feature::DMA_LOGGING_STOP, Access::SET)
    }

    fn logged(&self, range: IovaRange, page_size: u64) -> Result<Vec<u64>, HostError> {
        self.feature(Feature::DMA_LOGGING_REPORT, |kernel, bdf| kernel.logged(bdf, range, page_size))
    }

    fn iommu(&self) -> Result<Iommu, HostError> {
        Ok(answers::iommu(&self.way, self.bdf.is_some()))
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

/// The error of a read or a write.
fn failed(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}
