//! The file of a session of [`twin`](super::twin).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::failed;
use super::twin::{Session, locked};
use crate::host::device::{Data, Precopy, Resuming, Saving};
use crate::host::fake::kernel::Kernel;
use crate::host::fake::vfio::lab::LabFault;
use crate::host::{HostError, HostPath, Verb};
use crate::model::{Address, Errno};

/// It is read, or it is written, and nothing keeps it from the other way but the mode that it was opened with.
pub(super) struct SessionFile {
    pub(super) kernel: Arc<Mutex<Kernel>>,
    pub(super) at: Address,
    pub(super) session: Session,
    pub(super) node: HostPath,
}

impl SessionFile {
    /// By the way that it goes.
    pub(super) fn data(self) -> Data {
        let saves = locked(&self.session).saves();
        if saves { Data::Saving(Box::new(self)) } else { Data::Resuming(Box::new(self)) }
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened_for(&self, fault: LabFault, otherwise: Errno) -> io::Result<()> {
        if locked(&self.session).opened_for(fault) { Ok(()) } else { Err(failed(otherwise)) }
    }
}

impl io::Read for SessionFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.kernel().read_session(&self.at, &self.session, into).map_err(failed)
    }
}

impl io::Write for SessionFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.kernel().write_session(&self.at, &self.session, data).map_err(failed)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Saving for SessionFile {
    fn precopy(&self) -> Result<Precopy, HostError> {
        let answer = self.kernel().precopy_of_session(&self.at, &self.session);
        answer.map_err(|errno| HostError::new(Verb::Ioctl("VFIO_MIG_GET_PRECOPY_INFO"), self.node.clone(), errno))
    }

    fn wrong_way(&mut self) -> io::Result<usize> {
        self.opened_for(LabFault::BothWays, Errno::EBADF)?;
        io::Write::write(self, &[0])
    }

    fn read_at(&mut self) -> io::Result<usize> {
        self.opened_for(LabFault::Seekable, Errno::ESPIPE)?;
        io::Read::read(self, &mut [0])
    }

    /// # Kernel
    /// `include/linux/poll.h` `vfs_poll()`: a file without `poll` can always be read (7.2).
    fn is_readable(&mut self, _within: Duration) -> io::Result<bool> {
        Ok(true)
    }
}

impl Resuming for SessionFile {
    fn wrong_way(&mut self) -> io::Result<usize> {
        self.opened_for(LabFault::BothWays, Errno::EBADF)?;
        io::Read::read(self, &mut [0])
    }
}
