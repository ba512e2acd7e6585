//! Migration of a fake device: its states, and the files of its data.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::stream::{Bad, Content, Ids, Sink, Source};
use super::{DeviceFault, failed};
use crate::host::device::{MigrationFlags, Precopy, PrecopyFlags, Resuming, Saving, State};
use crate::host::fake::kernel::Kernel;
use crate::host::fake::vfio::Migration;
use crate::host::{HostError, HostPath, Verb};
use crate::model::{Address, Errno};

/// Initial bytes of pre-copy: at most so much of the data.
const INITIAL: u64 = 64 << 10;

/// A device that is open and migrates.
pub(super) struct Migrating {
    state: State,
    /// The file that is open for its data, by number.
    file: Option<u64>,
    files: u64,
    /// Whether flags of pre-copy info mean something.
    pub(super) precopy_v2: bool,
    saves: u64,
    sink: Sink,
    /// Whether what was written so far is no good.
    bad: Option<Bad>,
    /// What it logs DMA in: the size of pages.
    pub(super) logging: Option<u64>,
}

impl std::fmt::Debug for Migrating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migrating").field("state", &self.state).field("file", &self.file).finish_non_exhaustive()
    }
}

impl Default for Migrating {
    fn default() -> Self {
        Self {
            state: State::Running,
            file: None,
            files: 0,
            precopy_v2: false,
            saves: 0,
            sink: Sink::default(),
            bad: None,
            logging: None,
        }
    }
}

impl Migrating {
    /// Opens the next file, and gives its number.
    fn open(&mut self) -> u64 {
        self.files += 1;
        self.file = Some(self.files);
        self.files
    }

    /// Every state is left, and what was open is of no use any more.
    fn reset(&mut self) {
        *self = Self { files: self.files, saves: self.saves, precopy_v2: self.precopy_v2, ..Self::default() };
    }
}

impl Kernel {
    /// How a device migrates; `None` when it does not.
    pub(super) fn migration_flags(&self, at: &Address) -> Option<MigrationFlags> {
        let all = match self.kind_of_migration(at)? {
            Migration::StopCopy => MigrationFlags::STOP_COPY,
            Migration::P2p => MigrationFlags::STOP_COPY | MigrationFlags::P2P,
            Migration::PreCopy => MigrationFlags::STOP_COPY | MigrationFlags::PRE_COPY,
            Migration::P2pPreCopy => MigrationFlags::STOP_COPY | MigrationFlags::P2P | MigrationFlags::PRE_COPY,
        };
        Some(if self.devices.does(at, DeviceFault::FlagsWithoutStopCopy) {
            all.difference(MigrationFlags::STOP_COPY)
        } else {
            all
        })
    }

    /// The flags that its states go by.
    fn own_flags(&self, at: &Address) -> Option<MigrationFlags> {
        Some(self.migration_flags(at)? | MigrationFlags::STOP_COPY)
    }

    pub(super) fn migrating(&mut self, at: &Address) -> Result<&mut Migrating, Errno> {
        self.migration_flags(at).ok_or(Errno::ENOTTY)?;
        Ok(self.devices.migrating.entry(at.clone()).or_default())
    }

    /// `MIG_DEVICE_STATE`, GET.
    pub(super) fn migration_state(&mut self, at: &Address) -> Result<State, Errno> {
        if let Some(state) = self.twin_state(at) {
            return Ok(state);
        }
        let state = self.migrating(at)?.state;
        Ok(if self.devices.does(at, DeviceFault::SaysRunning) { State::Running } else { state })
    }

    /// `MIG_DEVICE_STATE`, SET: walks the way, step by step; gives the number of the file that the last one opened.
    ///
    /// # Kernel
    /// `drivers/vfio/vfio_main.c` `vfio_mig_get_next_state()`; `drivers/vfio/pci/mlx5/main.c`
    /// `mlx5vf_pci_set_device_state()`, `mlx5vf_pci_step_device_state_locked()` (7.2).
    pub(super) fn set_migration_state(&mut self, at: &Address, to: State) -> Result<Option<u64>, Errno> {
        let flags = self.own_flags(at).ok_or(Errno::ENOTTY)?;
        if self.orphan_does(at, DeviceFault::ClaimsWithoutPf) {
            return Err(Errno::EIO);
        }
        let from = self.migrating(at)?.state;
        let way = from.way(to, flags).map_err(|_| Errno::EINVAL)?;
        if way.is_empty() && self.devices.does(at, DeviceFault::SecondFile) {
            return Ok(Some(self.migrating(at)?.open()));
        }
        let halfway = way.len() > 1 && self.devices.does(at, DeviceFault::StopsHalfway);
        let (mut now, mut file) = (from, None);
        for next in way {
            file = self.step(at, now, next)?;
            now = next;
            self.migrating(at)?.state = now;
            if halfway {
                return Err(Errno::EIO);
            }
        }
        Ok(file)
    }

    /// One arc. The state is the caller's to change, when this has worked.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/mlx5/main.c` `mlx5vf_pci_step_device_state_locked()` (7.2). Another than mlx5's: data that was cut,
    /// or has another checksum, is refused with `EINVAL` when `RESUMING` is left, as `samples/vfio-mdev/mtty.c`
    /// `mtty_load_state()` does.
    fn step(&mut self, at: &Address, from: State, to: State) -> Result<Option<u64>, Errno> {
        use State::{PreCopy, PreCopyP2p, Resuming, Running, RunningP2p, Stop, StopCopy};
        match (from, to) {
            (Stop, StopCopy) | (PreCopy | PreCopyP2p, StopCopy)
                if self.devices.does(at, DeviceFault::FailsToStopCopy) =>
            {
                let migrating = self.migrating(at)?;
                (migrating.state, migrating.file) = (State::Error, None);
                Err(Errno::EIO)
            }
            (Stop, StopCopy) | (Running, PreCopy) | (RunningP2p, PreCopyP2p) => {
                let migrating = self.migrating(at)?;
                migrating.saves += 1;
                Ok(Some(migrating.open()))
            }
            (Stop, Resuming) => {
                let keeps = self.devices.does(at, DeviceFault::KeepsHalfLoad);
                let migrating = self.migrating(at)?;
                if !keeps {
                    migrating.sink = Sink::default();
                }
                migrating.bad = None;
                Ok(Some(migrating.open()))
            }
            (Resuming, Stop) => {
                self.load(at)?;
                self.migrating(at)?.file = None;
                Ok(None)
            }
            (StopCopy, Stop) | (PreCopy, Running) | (PreCopyP2p, RunningP2p) => {
                self.migrating(at)?.file = None;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Takes what was written for the state of the device. Nothing at all changes nothing.
    fn load(&mut self, at: &Address) -> Result<(), Errno> {
        let ids = self.ids(at);
        let does = |fault| self.devices.does(at, fault);
        let (anything, loses) = (does(DeviceFault::TakesAnything), does(DeviceFault::LosesLoad));
        let (cut, foreign) = (does(DeviceFault::TakesCut), does(DeviceFault::TakesForeign));
        let more = does(DeviceFault::TakesMore);
        let migrating = self.migrating(at)?;
        if migrating.sink.is_empty() {
            return if is_sample(at) { Err(Errno::EINVAL) } else { Ok(()) };
        }
        let found = migrating.bad.map_or_else(|| migrating.sink.finish(ids), Err);
        let content = match found {
            Ok(content) => Some(content),
            Err(Bad::Cut) if cut => None,
            Err(Bad::Foreign) if foreign => None,
            Err(Bad::TooLong) if more => None,
            Err(_) if anything => None,
            Err(_) => return Err(Errno::EINVAL),
        };
        migrating.sink = Sink::default();
        if let Some(content) = content.filter(|_| !loses) {
            self.devices.contents.insert(at.clone(), content);
        }
        Ok(())
    }

    /// The ids that are in the data.
    fn ids(&self, at: &Address) -> Ids {
        let alias = self.function_of(at).and_then(|bdf| self.alias(bdf));
        alias.map_or((0, 0), |alias| (alias.vendor(), alias.device()))
    }

    /// What is in the device, as it saves it.
    fn saved(&mut self, at: &Address) -> Result<Content, Errno> {
        let content = self.devices.content(at);
        let saves = self.migrating(at)?.saves;
        let differ = self.devices.does(at, DeviceFault::SavesDiffer);
        Ok(if differ { Content { seed: content.seed ^ saves << 32, ..content } } else { content })
    }

    /// `MIG_DATA_SIZE`.
    pub(super) fn data_size(&mut self, at: &Address) -> Result<u64, Errno> {
        if let Some(size) = self.twin_data_size(at) {
            return Ok(size);
        }
        let length = self.saved(at)?.data_length();
        Ok(if self.devices.does(at, DeviceFault::SizeTooSmall) { length / 2 } else { length })
    }

    /// A reset, of whatever kind: it runs, and what was loaded is gone.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/mlx5/main.c` `mlx5vf_pci_aer_reset_done()`, `mlx5vf_state_mutex_unlock()` (7.2).
    pub(super) fn reset_migration(&mut self, at: &Address) {
        if self.reset_twin(at) {
            return;
        }
        let keeps = self.devices.does(at, DeviceFault::ResetKeepsState)
            || self.orphan_does(at, DeviceFault::ResetKeepsWithoutPf);
        let half = self.devices.does(at, DeviceFault::KeepsHalfLoad);
        if let Some(migrating) = self.devices.migrating.get_mut(at).filter(|_| !keeps) {
            let sink = std::mem::take(&mut migrating.sink);
            migrating.reset();
            if half {
                migrating.sink = sink;
            }
        }
        self.devices.contents.remove(at);
    }

    /// The last close: the session is over, and the device is reset.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/mlx5/main.c` `mlx5vf_pci_close_device()`; `drivers/vfio/pci/vfio_pci_core.c`
    /// `vfio_pci_core_disable()` (7.2).
    pub(super) fn close_migration(&mut self, at: &Address) {
        if self.close_twin(at) {
            return;
        }
        if self.devices.does(at, DeviceFault::CloseKeepsState) || is_sample(at) {
            if let Some(migrating) = self.devices.migrating.get_mut(at) {
                migrating.file = None;
            }
            return;
        }
        self.devices.migrating.remove(at);
        self.devices.contents.remove(at);
    }

    /// The state, when a file of the device is of a session that goes on.
    fn session(&mut self, at: &Address, file: u64) -> Result<State, Errno> {
        let outlives = self.devices.does(at, DeviceFault::FileOutlivesSession);
        let migrating = self.devices.migrating.get(at).ok_or(Errno::ENODEV)?;
        match migrating.file {
            Some(open) if open == file => Ok(migrating.state),
            _ if outlives => Ok(State::StopCopy),
            _ => Err(Errno::ENODEV),
        }
    }
}

/// Whether a device is one of `samples/vfio-mdev/mtty.c`, which is an mdev, and has ways of its own: nothing more to be read in
/// pre-copy is 0 bytes, nothing written is bad data, what is no such data is EFAULT, and closing it changes no state.
pub(super) const fn is_sample(at: &Address) -> bool {
    matches!(at, Address::Mdev(_))
}

/// What a file has to know of its kernel.
struct File {
    kernel: Arc<Mutex<Kernel>>,
    at: Address,
    number: u64,
}

impl File {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File {
    /// A byte that is not to be had, unless the device does that wrong.
    fn unless(&self, fault: DeviceFault, errno: Errno) -> io::Result<usize> {
        if self.kernel().devices.does(&self.at, fault) { Ok(1) } else { Err(failed(errno)) }
    }
}

/// The file of a device that is saved.
pub(super) struct Reader {
    file: File,
    node: HostPath,
    source: Option<Source>,
}

impl Reader {
    pub(super) const fn new(kernel: Arc<Mutex<Kernel>>, at: Address, number: u64, node: HostPath) -> Self {
        Self { file: File { kernel, at, number }, node, source: None }
    }

    /// How far it may be read, and the error that is there for now.
    fn end(&mut self, state: State, faults: impl Fn(DeviceFault) -> bool, length: u64) -> Result<u64, Errno> {
        let at = self.source.as_ref().map_or(0, Source::at);
        if faults(DeviceFault::ReadFails) && at >= length / 2 {
            return Err(Errno::EIO);
        }
        match state {
            State::PreCopy | State::PreCopyP2p if at >= INITIAL.min(length) && !is_sample(&self.file.at) => {
                Err(Errno::ENOMSG)
            }
            State::PreCopy | State::PreCopyP2p => Ok(INITIAL.min(length)),
            _ if faults(DeviceFault::NoMessageInStopCopy) && at >= length => Err(Errno::ENOMSG),
            _ if faults(DeviceFault::EndsEarly) => Ok(length / 2),
            _ => Ok(length),
        }
    }
}

impl io::Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (at, number) = (&self.file.at.clone(), self.file.number);
        let kernel = Arc::clone(&self.file.kernel);
        let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let state = kernel.session(at, number).map_err(failed)?;
        let content = kernel.saved(at).map_err(failed)?;
        let (faults, ids) = (kernel.devices.faults.get(at).cloned().unwrap_or_default(), kernel.ids(at));
        let half = kernel.orphan_does(at, DeviceFault::HalfWithoutPf);
        drop(kernel);
        let does = |fault| faults.contains(&fault);
        let whole = content.data_length();
        let end = self.end(state, does, if half { whole / 2 } else { whole }).map_err(failed)?;
        let source = self.source.get_or_insert_with(|| Source::new(content, ids));
        let before = source.at();
        let count = source.read(into, end);
        if does(DeviceFault::FlipsBit)
            && let Some(place) = (end / 2).checked_sub(before).and_then(|place| usize::try_from(place).ok())
            && let Some(byte) = into[..count].get_mut(place)
        {
            *byte ^= 1;
        }
        if does(DeviceFault::LosesShortReads) && !into.len().is_multiple_of(8) {
            let rest = 8 - into.len() % 8;
            source.read(&mut [0; 8][..rest], end);
        }
        if count == 0 && does(DeviceFault::NeverEnds) {
            into.fill(0);
            return Ok(into.len());
        }
        Ok(count)
    }
}

impl Saving for Reader {
    /// # Kernel
    /// `drivers/vfio/pci/mlx5/main.c` `mlx5vf_precopy_ioctl()` (7.2).
    fn precopy(&self) -> Result<Precopy, HostError> {
        let refused = |errno| HostError::new(Verb::Ioctl("VFIO_MIG_GET_PRECOPY_INFO"), self.node.clone(), errno);
        let mut kernel = self.file.kernel();
        let state = kernel.session(&self.file.at, self.file.number).map_err(refused)?;
        let anywhere = kernel.devices.does(&self.file.at, DeviceFault::PrecopyAnywhere);
        if !anywhere && !matches!(state, State::PreCopy | State::PreCopyP2p) {
            return Err(refused(Errno::EINVAL));
        }
        let length = kernel.saved(&self.file.at).map_err(refused)?.data_length();
        let at = self.source.as_ref().map_or(0, Source::at);
        let grows = kernel.devices.does(&self.file.at, DeviceFault::PrecopyGrows);
        let initial_bytes = if grows { INITIAL + at } else { INITIAL.min(length).saturating_sub(at) };
        Ok(Precopy { flags: PrecopyFlags::empty(), initial_bytes, dirty_bytes: 0 })
    }

    fn wrong_way(&mut self) -> io::Result<usize> {
        self.file.unless(DeviceFault::BothWays, Errno::EBADF)
    }

    fn read_at(&mut self) -> io::Result<usize> {
        self.file.unless(DeviceFault::Seekable, Errno::ESPIPE)
    }

    /// # Kernel
    /// `include/linux/poll.h` `vfs_poll()`: a file without `.poll`, which is all but mlx5's, is always ready (7.2).
    fn is_readable(&mut self, _within: Duration) -> io::Result<bool> {
        Ok(!self.file.kernel().devices.does(&self.file.at, DeviceFault::DeafToPoll))
    }
}

/// The file of a device that is loaded.
pub(super) struct Writer(File);

impl Writer {
    pub(super) const fn new(kernel: Arc<Mutex<Kernel>>, at: Address, number: u64) -> Self {
        Self(File { kernel, at, number })
    }
}

impl io::Write for Writer {
    /// Data of another device or that is no data is refused at once, what was cut when `RESUMING` is left.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/mlx5/main.c` `mlx5vf_resume_write()`, `mlx5vf_resume_read_header()` (7.2).
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let (at, number) = (&self.0.at, self.0.number);
        let mut kernel = self.0.kernel();
        if kernel.session(at, number).map_err(failed)? != State::Resuming {
            return Err(failed(Errno::ENODEV));
        }
        let ids = kernel.ids(at);
        let does = |fault| kernel.devices.does(at, fault);
        let (fails, anything) = (does(DeviceFault::WriteFails), does(DeviceFault::TakesAnything));
        let (foreign, words) = (does(DeviceFault::TakesForeign), does(DeviceFault::WholeWords));
        let more = does(DeviceFault::TakesMore);
        let migrating = kernel.migrating(at).map_err(failed)?;
        if words && !data.len().is_multiple_of(4) {
            return Err(failed(Errno::EINVAL));
        }
        if fails && !migrating.sink.is_empty() {
            return Err(failed(Errno::EIO));
        }
        if migrating.bad.is_some() {
            return Ok(data.len());
        }
        match migrating.sink.write(data, ids) {
            Ok(()) => Ok(data.len()),
            Err(bad) => {
                migrating.bad = Some(bad);
                let taken = anything || (foreign && bad == Bad::Foreign) || (more && bad == Bad::TooLong);
                let refusal = if is_sample(at) { Errno::EFAULT } else { Errno::EINVAL };
                if taken { Ok(data.len()) } else { Err(failed(refusal)) }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Resuming for Writer {
    fn wrong_way(&mut self) -> io::Result<usize> {
        self.0.unless(DeviceFault::BothWays, Errno::EBADF)
    }
}
