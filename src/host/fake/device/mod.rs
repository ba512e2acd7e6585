//! An open VFIO device of the fake kernel: what it says of itself, and its migration.
//!
//! A PCI function migrates when its driver made it so; of mdevs those of mtty do, as the sample does it.

mod answers;
mod fault;
mod logging;
mod migration;
mod sample;
mod session;
mod stream;
mod twin;

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
use super::tree::{HIDDEN, Tree};
use super::vfio::Migration;
use crate::host::device::{
    Access, Data, Device, DeviceInfo, Feature, HotResetInfo, Iommu, IovaRange, IrqInfo, MigrationFlags, RegionInfo,
    State, Way,
};
use crate::host::vfio::{not_set, spelled};
use crate::host::{HostError, HostPath, Open, Verb};
use crate::model::{Address, Bdf, Errno};
use migration::{Migrating, Reader, Writer};
use session::SessionFile;
use twin::{Session, Twin};

/// What the fake kernel knows of its VFIO devices beyond what a driver made of them.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// Those that are open and migrate.
    migrating: BTreeMap<Address, Migrating>,
    /// What is in a device, when it is not what a reset leaves.
    contents: BTreeMap<Address, Content>,
    /// What a reset leaves in a device, where the host says what.
    fresh: BTreeMap<Address, Content>,
    /// Those that have a state of their own, which their driver saves by itself.
    own: BTreeSet<Bdf>,
    /// What they do wrong.
    faults: BTreeMap<Address, BTreeSet<DeviceFault>>,
    /// How often their next opens are refused with `EAGAIN`.
    busy: BTreeMap<Bdf, u32>,
    /// The token of a PF.
    tokens: BTreeMap<Bdf, Uuid>,
    /// Those that may sleep while they are open.
    drowsy: BTreeSet<Bdf>,
    /// Those with a state of their own.
    twins: BTreeMap<Bdf, Twin>,
}

impl Devices {
    /// Goes on with the devices of a host that was changed by hand.
    pub(super) fn adopt(&mut self, other: Self) {
        self.twins.retain(|bdf, _| other.twins.contains_key(bdf));
        for (bdf, twin) in other.twins {
            self.twins.entry(bdf).or_insert(twin);
        }
    }

    /// What is in a device.
    fn content(&self, at: &Address) -> Content {
        self.contents.get(at).or_else(|| self.fresh.get(at)).copied().unwrap_or_default()
    }

    /// Reads what the hidden part of the tree says of a function: `state_bytes`, `state_seed`, `own_state`, which says that
    /// it migrates whatever its driver is and without its PF, and `fault`, by name.
    pub(super) fn learn(&mut self, tree: &Tree) {
        let place = format!("{HIDDEN}/pci");
        for (name, bdf) in tree.names(&place).filter_map(|name| Some((name, name.parse::<Bdf>().ok()?))) {
            let text = |what: &str| tree.text(&format!("{place}/{name}/{what}"));
            let number = |what: &str| text(what).and_then(|text| text.parse::<u64>().ok());
            let at = Address::Pci(bdf);
            let fault = text("fault").and_then(DeviceFault::named);
            if number("state_bytes").is_some() || number("state_seed").is_some() {
                let Content { seed, length } = Content::default();
                let content = Content {
                    seed: number("state_seed").unwrap_or(seed),
                    length: number("state_bytes").unwrap_or(length),
                };
                self.fresh.insert(at.clone(), content);
            }
            if number("own_state") == Some(1) {
                self.own.insert(bdf);
            }
            if let Some(fault) = fault {
                self.faults.entry(at).or_default().insert(fault);
            }
        }
    }

    /// Whether a device does this wrong.
    fn does(&self, at: &Address, fault: DeviceFault) -> bool {
        self.faults.get(at).is_some_and(|faults| faults.contains(&fault))
    }
}

impl FakeHost {
    /// Has a device do something wrong from now on.
    pub fn fault(&self, device: &Address, fault: DeviceFault) {
        self.kernel().devices.faults.entry(device.clone()).or_default().insert(fault);
    }

    /// Puts something into a device, as its user would.
    pub fn fill(&self, device: &Address, content: Content) {
        self.kernel().devices.contents.insert(device.clone(), content);
    }

    /// What is in a device.
    #[must_use]
    pub fn content(&self, device: &Address) -> Content {
        self.kernel().devices.content(device)
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
            // Nobody can leave anything open of a host that is in this process.
            Way::Inherited(_) => return Err(HostError::new(Verb::Open, way.node(), Errno::EBADF)),
        };
        let refused = |verb, errno| HostError::new(verb, way.node(), errno);
        let mut kernel = self.kernel();
        let number = kernel.open(&what, &Process::own()).map_err(|errno| refused(Verb::Open, errno))?;
        let subject = kernel.opened(number);
        if let Some(Address::Pci(bdf)) = subject
            && let Err(errno) = kernel.enable_vfio(bdf, token)
        {
            kernel.close(number);
            let ioctl =
                if matches!(way, Way::Cdev(_)) { "VFIO_DEVICE_BIND_IOMMUFD" } else { "VFIO_GROUP_GET_DEVICE_FD" };
            return Err(refused(Verb::Ioctl(ioctl), errno));
        }
        drop(kernel);
        Ok(Box::new(FakeDevice {
            kernel: Arc::clone(&self.kernel),
            number,
            subject,
            way: way.clone(),
            node: way.node(),
        }))
    }
}

impl Kernel {
    /// The device that something open is: a function, or the mdev of its group.
    fn opened(&self, number: u64) -> Option<Address> {
        match self.opens.device(number) {
            Some(bdf) => Some(Address::Pci(bdf)),
            None => self.mdev_of_group(self.opens.group(number)?).map(Address::Mdev),
        }
    }

    /// A function that a VFIO driver has.
    fn function_of(&self, at: &Address) -> Option<Bdf> {
        match at {
            Address::Pci(bdf) if self.vdevs.contains_key(bdf) => Some(*bdf),
            _ => None,
        }
    }

    /// How a device migrates, by its driver.
    fn kind_of_migration(&self, at: &Address) -> Option<Migration> {
        match at {
            Address::Pci(bdf) => {
                let own = self.devices.own.contains(bdf).then_some(Migration::P2pPreCopy);
                let claimed = self.orphan_does(at, DeviceFault::ClaimsWithoutPf).then_some(Migration::StopCopy);
                self.vdevs.get(bdf)?.migration.or(own).or(claimed)
            }
            Address::Mdev(uuid) => self.is_mtty(*uuid).then_some(Migration::P2pPreCopy),
            _ => None,
        }
    }

    /// Whether a VF does this wrong, now that its PF has no driver.
    fn orphan_does(&self, at: &Address, fault: DeviceFault) -> bool {
        let Address::Pci(bdf) = at else { return false };
        self.devices.does(at, fault) && self.pf(*bdf).is_some_and(|pf| self.driver_name(pf).is_none())
    }

    /// The first open of a function.
    pub(super) fn open_function(&mut self, bdf: Bdf) {
        self.open_twin(&Address::Pci(bdf));
    }

    /// The last close of a function.
    pub(super) fn close_function(&mut self, bdf: Bdf) {
        self.devices.drowsy.remove(&bdf);
        self.close_migration(&Address::Pci(bdf));
    }

    /// An mdev that is made is a new device.
    pub(super) fn forget_mdev(&mut self, uuid: &str) {
        if let Ok(uuid) = uuid.parse() {
            self.devices.migrating.remove(&Address::Mdev(uuid));
            self.devices.contents.remove(&Address::Mdev(uuid));
        }
    }
}

/// An open device.
struct FakeDevice {
    kernel: Arc<Mutex<Kernel>>,
    number: u64,
    subject: Option<Address>,
    way: Way,
    node: HostPath,
}

impl Drop for FakeDevice {
    fn drop(&mut self) {
        let mut kernel = self.kernel();
        kernel.close(self.number);
        if let Some(mdev @ Address::Mdev(_)) = &self.subject {
            kernel.close_migration(mdev);
        }
        kernel.finish();
    }
}

impl FakeDevice {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the kernel something of a device that is still there.
    fn asked<T>(
        &self,
        ioctl: &'static str,
        ask: impl FnOnce(&mut Kernel, &Address) -> Result<T, Errno>,
    ) -> Result<T, HostError> {
        let mut kernel = self.kernel();
        let answer = match kernel.opened(self.number) {
            Some(subject) if self.subject.as_ref() == Some(&subject) => ask(&mut kernel, &subject),
            _ => Err(Errno::EIO),
        };
        answer.map_err(|errno| HostError::new(Verb::Ioctl(ioctl), self.node.clone(), errno))
    }

    /// The same of a PCI function; an mdev has no such ioctl.
    fn asked_of_function<T>(
        &self,
        ioctl: &'static str,
        ask: impl FnOnce(&mut Kernel, Bdf) -> Result<T, Errno>,
    ) -> Result<T, HostError> {
        self.asked(ioctl, |kernel, at| match at {
            Address::Pci(bdf) => ask(kernel, *bdf),
            _ => Err(Errno::ENOTTY),
        })
    }

    /// The same of a feature, with its name.
    fn feature<T>(
        &self,
        feature: Feature,
        ask: impl FnOnce(&mut Kernel, &Address) -> Result<T, Errno>,
    ) -> Result<T, HostError> {
        self.asked("VFIO_DEVICE_FEATURE", ask).map_err(|error| error.with_value(&spelled(feature)))
    }
}

impl Device for FakeDevice {
    fn way(&self) -> &Way {
        &self.way
    }

    fn info(&self) -> Result<DeviceInfo, HostError> {
        self.asked("VFIO_DEVICE_GET_INFO", |kernel, at| Ok(kernel.device_info(at)))
    }

    fn region(&self, index: u32) -> Result<RegionInfo, HostError> {
        self.asked("VFIO_DEVICE_GET_REGION_INFO", |kernel, at| kernel.region_info(at, index))
            .map_err(|error| error.with_value(&index.to_string()))
    }

    fn irq(&self, index: u32) -> Result<IrqInfo, HostError> {
        self.asked("VFIO_DEVICE_GET_IRQ_INFO", |kernel, at| kernel.irq_info(at, index))
            .map_err(|error| error.with_value(&index.to_string()))
    }

    fn read_at(&self, region: &RegionInfo, at: u64, into: &mut [u8]) -> Result<usize, HostError> {
        let read = self.asked("pread", |kernel, device| kernel.read_region(device, region, at, into));
        read.map_err(|error| HostError { verb: Verb::Read, ..error })
    }

    fn write_at(&self, region: &RegionInfo, at: u64, data: &[u8]) -> Result<usize, HostError> {
        let written = self.asked("pwrite", |kernel, device| kernel.write_region(device, region, at, data));
        written.map_err(|error| HostError { verb: Verb::Write, ..error })
    }

    fn reset(&self) -> Result<(), HostError> {
        self.asked("VFIO_DEVICE_RESET", Kernel::reset_device)
    }

    fn hot_reset_info(&self) -> Result<HotResetInfo, HostError> {
        let by_cdev = matches!(self.way, Way::Cdev(_));
        self.asked_of_function("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", |kernel, bdf| {
            if by_cdev { kernel.hot_reset_by_cdev(bdf) } else { kernel.hot_reset_by_group(bdf) }
        })
    }

    fn hot_reset(&self) -> Result<(), HostError> {
        self.asked_of_function("VFIO_DEVICE_PCI_HOT_RESET", Kernel::hot_reset)
    }

    fn ask(&self, feature: Feature, access: Access) -> Result<(), HostError> {
        self.feature(feature, |kernel, at| kernel.ask_feature(at, feature, access))
    }

    fn set_vf_token(&self, token: Uuid) -> Result<(), HostError> {
        self.asked_of_function("VFIO_DEVICE_FEATURE", |kernel, bdf| kernel.set_vf_token(bdf, token))
            .map_err(|error| error.with_value(&spelled(Feature::PCI_VF_TOKEN)))
    }

    fn migration(&self) -> Result<MigrationFlags, HostError> {
        self.feature(Feature::MIGRATION, |kernel, at| kernel.migration_flags(at).ok_or(Errno::ENOTTY))
    }

    fn state(&self) -> Result<State, HostError> {
        self.feature(Feature::MIG_DEVICE_STATE, |kernel, at| kernel.migration_state(at))
    }

    fn set_state(&self, to: State) -> Result<Option<Data>, HostError> {
        let from = self.state()?;
        from.may_ask(to).map_err(|why| not_set(&self.node, to, NotSet::NoWay(why)))?;
        let set = self.feature(Feature::MIG_DEVICE_STATE, |kernel, at| {
            let file = match kernel.set_twin_state(at, to) {
                Some(session) => File::OfTwin(session?),
                None => File::Numbered(kernel.set_migration_state(at, to)?),
            };
            Ok((at.clone(), file))
        });
        let (at, file) = set.map_err(|error| error.with_value(&format!("MIG_DEVICE_STATE {to}")))?;
        let kernel = Arc::clone(&self.kernel);
        let file = match file {
            File::Numbered(file) => file,
            File::OfTwin(session) => {
                let node = self.node.clone();
                return Ok(session.map(|session| SessionFile { kernel, at, session, node }.data()));
            }
        };
        let file = file.filter(|_| to != State::StopCopy || !self.kernel().devices.does(&at, DeviceFault::NoFile));
        Ok(file.map(|file| match to {
            State::Resuming => Data::Resuming(Box::new(Writer::new(kernel, at, file))),
            _ => Data::Saving(Box::new(Reader::new(kernel, at, file, self.node.clone()))),
        }))
    }

    fn set_no_state(&self, _number: u32) -> Result<(), HostError> {
        self.feature(Feature::MIG_DEVICE_STATE, |kernel, at| {
            kernel.set_no_twin_state(at).unwrap_or_else(|| {
                let takes = kernel.devices.does(at, DeviceFault::TakesAnyState);
                if takes { Ok(()) } else { Err(Errno::EINVAL) }
            })
        })
    }

    fn data_size(&self) -> Result<u64, HostError> {
        self.feature(Feature::MIG_DATA_SIZE, |kernel, at| kernel.data_size(at))
    }

    fn start_logging(&self, page_size: u64, ranges: &[IovaRange]) -> Result<u64, HostError> {
        self.feature(Feature::DMA_LOGGING_START, |kernel, at| kernel.start_logging(at, page_size, ranges))
    }

    fn stop_logging(&self) -> Result<(), HostError> {
        self.ask(Feature::DMA_LOGGING_STOP, Access::SET)
    }

    fn logged(&self, range: IovaRange, page_size: u64) -> Result<Vec<u64>, HostError> {
        self.feature(Feature::DMA_LOGGING_REPORT, |kernel, at| kernel.logged(at, range, page_size))
    }

    fn iommu(&self) -> Result<Iommu, HostError> {
        Ok(answers::iommu(&self.way, self.subject.as_ref()))
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

/// The file of a device's data that comes with a state.
enum File {
    Numbered(Option<u64>),
    OfTwin(Option<Session>),
}

/// The error of a read or a write.
fn failed(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}
