//! vfio-user devices: PCI functions with any ids, served from threads of this process to QEMU over unix sockets.

mod core;
mod models;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::net::{Shutdown, shutdown};
use vfio_user::Server;

pub(crate) use models::{MODELS, Model};

/// A device being served. Dropping it closes the door; QEMU's going away ends the service.
pub(crate) struct Served {
    listener: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// Serves one device to the first client that connects.
///
/// The listener is made by the caller: a socket's path may be no longer than 107 bytes, and only the caller knows a
/// short way to say it.
pub(crate) fn serve(model: Model, listener: UnixListener) -> Result<Served> {
    let kept = listener.as_fd().try_clone_to_owned().context("duplicate the socket of a vfio-user device")?;
    let thread = std::thread::Builder::new()
        .name(model.name.to_owned())
        .spawn(move || {
            let mut function = (model.make)();
            let server = Server::from_owned_fd(listener.into(), true, function.irqs(), function.regions());
            // The client's end is the machine's end: QEMU says what is wrong with a device on its own stderr.
            drop(server.run(&mut function));
        })
        .context("start the thread of a vfio-user device")?;
    Ok(Served { listener: kept, thread: Some(thread) })
}

impl Drop for Served {
    fn drop(&mut self) {
        // Wakes an accept(2) that no client ever came to; a connection in progress is not touched.
        shutdown(&self.listener, Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
