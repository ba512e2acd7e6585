//! The kernel's uevents, as they come.

use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use rustix::event::{PollFd, PollFlags};

use crate::host::wait::timespec;
use crate::model::Errno;
use crate::model::uevent::Uevent;

/// The multicast group that the kernel sends to; udev's own is 2.
const KERNEL: u32 = 1;

/// Room for the events of a thousand VFs that appear and are bound while somebody else has the processor.
const ROOM_BYTES: i32 = 16 << 20;

/// Listens for uevents of the kernel.
#[derive(Debug)]
pub struct Uevents {
    socket: Socket,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// Something happened to a device that vfioadm knows how to name.
    Event(Uevent),
    /// Something else, or nothing in that time.
    Nothing,
    /// More than there was room for: some are lost.
    Lost,
}

impl Uevents {
    /// Begins to listen.
    ///
    /// # Errors
    /// The errno of `socket(2)` or `bind(2)`; in a network namespace of another user there are none to be heard.
    ///
    /// # Kernel
    /// `lib/kobject_uevent.c` `uevent_net_init()`: any user may listen (`NL_CFG_F_NONROOT_RECV`, 7.2).
    pub fn listen() -> Result<Self, Errno> {
        let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT).map_err(errno)?;
        // As much as the system lets this user have.
        socket.set_rx_buf_sz(ROOM_BYTES).ok();
        socket.bind(&SocketAddr::new(0, KERNEL)).map_err(errno)?;
        socket.set_non_blocking(true).map_err(errno)?;
        Ok(Self { socket })
    }

    /// Waits so long for the next one.
    ///
    /// # Errors
    /// What the socket says, but that it has lost some.
    pub fn next(&self, within: Duration) -> Result<Came, Errno> {
        let mut polled = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timespec(within))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Came::Nothing),
            Ok(_) => {}
            Err(error) => return Err(Errno(error.raw_os_error())),
        }
        match self.socket.recv_from_full() {
            // Anybody with the right to may send to the group: the kernel alone is number 0.
            Ok((message, sender)) if sender.port_number() == 0 => {
                Ok(Uevent::parse(&message).map_or(Came::Nothing, Came::Event))
            }
            Ok(_) => Ok(Came::Nothing),
            Err(error) => match errno(error) {
                Errno::EAGAIN => Ok(Came::Nothing),
                Errno::ENOBUFS => Ok(Came::Lost),
                other => Err(other),
            },
        }
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(Errno::EIO.0))
}
