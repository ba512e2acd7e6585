//! Asks a real kernel by netlink: rtnetlink for the VFs of a PF, devlink for ports, functions and the eswitch.
//!
//! The bytes are those of crate netlink-bindings, generated from the kernel's own specifications (`Documentation/netlink`);
//! the socket is netlink-sys. What is asked and how it is read has no socket (`rtnl`, `devlink`, `message`) and is tested
//! without one.
//!
//! # Waiting
//! The kernel serves a request inside the `sendmsg(2)` that brings it (`netlink_unicast_kernel()`, 7.2), and the later parts of a
//! dump inside `recvmsg(2)`, and takes the RTNL mutex or the lock of the devlink device there, unkillably. No `poll` can bound
//! that. So each request is made by a thread, and who asked stops waiting at a deadline with `ETIMEDOUT`: the request goes on
//! without it. The process cannot end before the kernel has answered, as with every lock that cannot be killed; what must be
//! able to end asks from a process that can be left behind.

mod devlink;
mod message;
mod rtnl;
mod socket;
mod uevents;

pub use uevents::{Came, Uevents};

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::{HostError, HostPath, Verb};
use crate::model::devlink::{DevlinkHandle, DevlinkPort, EswitchMode, PortIndex, PortNew, PortSetting};
use crate::model::vf::{NetdevName, VfList, VfSetting};
use crate::model::{Errno, VfIndex};
use message::{Kind, Refusal, Request};
use socket::Effect;

/// For what only reads: as long as a driver may have a lock for another change.
const READING: Duration = Duration::from_secs(10);

/// For an attribute of a VF or of a port: a command to firmware or a few.
const SETTING: Duration = Duration::from_secs(30);

/// For an eswitch, or a port that comes or goes: mlx5_core makes representors, one a function.
const RESHAPING: Duration = Duration::from_secs(120);

/// Runs one request in a thread of its own, and waits for it so long.
///
/// # Errors
/// Its own; `ETIMEDOUT` when it goes on without us.
fn within<T: Send + 'static>(
    deadline: Duration,
    request: impl FnOnce(std::time::Instant) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (sender, receiver) = channel();
    let by = socket::after(deadline);
    let started = thread::Builder::new().name("netlink".to_owned()).spawn(move || drop(sender.send(request(by))));
    started.map_err(|error| Errno(error.raw_os_error().unwrap_or(Errno::EAGAIN.0)))?;
    match receiver.recv_timeout(deadline) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout) => Err(Errno::ETIMEDOUT.into()),
        Err(RecvTimeoutError::Disconnected) => Err(Errno::EIO.into()),
    }
}

/// A request to the family devlink: its number is asked for first, for it may change when a kernel is started anew.
fn ask_devlink(payload: Vec<u8>, kind: Kind, effect: Effect, deadline: Duration) -> Result<Vec<Vec<u8>>, Refusal> {
    within(deadline, move |by| {
        let family = Request { message_type: devlink::CONTROLLER, kind: Kind::Do, payload: devlink::get_family() };
        let families = socket::ask(devlink::PROTOCOL, &family, Effect::None, by)?;
        let message_type = families.iter().find_map(|object| devlink::read_family(object)).ok_or(Errno::EBADMSG)?;
        socket::ask(devlink::PROTOCOL, &Request { message_type, kind, payload }, effect, by)
    })
}

/// What was refused, of which device.
fn of(handle: &DevlinkHandle, name: &'static str, value: &str) -> impl FnOnce(Refusal) -> HostError {
    refused(HostPath::devlink(handle), name, value.to_owned())
}

fn refused(path: HostPath, name: &'static str, value: String) -> impl FnOnce(Refusal) -> HostError {
    move |refusal| {
        let error = HostError::new(Verb::Request(name), path, refusal.errno).with_said(&refusal.said);
        if value.is_empty() { error } else { error.with_value(&value) }
    }
}

/// As [`Links::vf_attributes`](super::Links::vf_attributes).
pub(super) fn vf_attributes(netdev: &NetdevName) -> Result<VfList, HostError> {
    let request = rtnl::get(netdev);
    let objects = within(READING, move |by| socket::ask(rtnl::PROTOCOL, &request, Effect::None, by));
    let objects = objects.map_err(refused(HostPath::netdev(netdev), "RTM_GETLINK", String::new()))?;
    Ok(objects.first().map(|object| rtnl::read(object)).unwrap_or_default())
}

/// As [`Write::set_vf`](super::Write::set_vf).
pub(super) fn set_vf(netdev: &NetdevName, index: VfIndex, setting: VfSetting) -> Result<(), HostError> {
    let request = rtnl::set(netdev, index, setting);
    let answer = within(SETTING, move |by| socket::ask(rtnl::PROTOCOL, &request, Effect::Change, by));
    let value = format!("vf {index} {setting}");
    answer.map(drop).map_err(refused(HostPath::netdev(netdev), "RTM_SETLINK", value))
}

/// As [`Links::devlink_handles`](super::Links::devlink_handles).
pub(super) fn devlink_handles() -> Result<Vec<DevlinkHandle>, HostError> {
    match ask_devlink(devlink::get_devices(), Kind::Dump, Effect::None, READING) {
        Ok(objects) => Ok(objects.iter().filter_map(|object| devlink::read_handle(object)).collect()),
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(Vec::new()),
        Err(refusal) => {
            let bus = HostPath::fixed(super::path::Root::Sys, "bus");
            Err(refused(bus, "DEVLINK_CMD_GET", String::new())(refusal))
        }
    }
}

/// As [`Links::devlink_ports`](super::Links::devlink_ports).
pub(super) fn devlink_ports(handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, HostError> {
    let objects = ask_devlink(devlink::get_ports(handle), Kind::Dump, Effect::None, READING);
    let objects = objects.map_err(of(handle, "DEVLINK_CMD_PORT_GET", ""))?;
    let mut ports: Vec<DevlinkPort> = objects.iter().filter_map(|object| devlink::read_port(object, handle)).collect();
    ports.sort_by_key(|port| port.index);
    Ok(ports)
}

/// As [`Links::eswitch_mode`](super::Links::eswitch_mode).
pub(super) fn eswitch_mode(handle: &DevlinkHandle) -> Result<Option<EswitchMode>, HostError> {
    let objects = ask_devlink(devlink::get_eswitch(handle), Kind::Do, Effect::None, READING);
    let objects = objects.map_err(of(handle, "DEVLINK_CMD_ESWITCH_GET", ""))?;
    Ok(objects.first().and_then(|object| devlink::read_eswitch(object)))
}

/// As [`Write::set_eswitch_mode`](super::Write::set_eswitch_mode).
pub(super) fn set_eswitch_mode(handle: &DevlinkHandle, mode: EswitchMode) -> Result<(), HostError> {
    let answer = ask_devlink(devlink::set_eswitch(handle, mode), Kind::Do, Effect::Change, RESHAPING);
    answer.map(drop).map_err(of(handle, "DEVLINK_CMD_ESWITCH_SET", &format!("mode {mode}")))
}

/// As [`Write::set_port`](super::Write::set_port).
pub(super) fn set_port(handle: &DevlinkHandle, port: PortIndex, setting: PortSetting) -> Result<(), HostError> {
    let deadline = if matches!(setting, PortSetting::State(_)) { RESHAPING } else { SETTING };
    let answer = ask_devlink(devlink::set_port(handle, port, setting), Kind::Do, Effect::Change, deadline);
    answer.map(drop).map_err(of(handle, "DEVLINK_CMD_PORT_SET", &format!("port {port} {setting}")))
}

/// As [`Write::add_port`](super::Write::add_port).
pub(super) fn add_port(handle: &DevlinkHandle, port: PortNew) -> Result<PortIndex, HostError> {
    let answer = ask_devlink(devlink::add_port(handle, port), Kind::Do, Effect::Change, RESHAPING);
    let made = answer.and_then(|objects| {
        let made = objects.iter().find_map(|object| devlink::read_port(object, handle));
        made.map(|port| port.index).ok_or_else(|| Errno::EBADMSG.into())
    });
    made.map_err(of(handle, "DEVLINK_CMD_PORT_NEW", &port.to_string()))
}

/// As [`Write::del_port`](super::Write::del_port).
pub(super) fn del_port(handle: &DevlinkHandle, port: PortIndex) -> Result<(), HostError> {
    let answer = ask_devlink(devlink::del_port(handle, port), Kind::Do, Effect::Change, RESHAPING);
    answer.map(drop).map_err(of(handle, "DEVLINK_CMD_PORT_DEL", &format!("port {port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any Linux has a loopback interface without VFs; a sandbox may have no netlink at all.
    #[test]
    fn an_interface_without_vfs_has_none_and_one_that_is_not_there_is_enodev() {
        match vf_attributes(&"lo".parse().unwrap()) {
            Ok(list) => assert_eq!(list, VfList::default()),
            Err(error) => return assert!(error.to_string().contains("RTM_GETLINK"), "{error}"),
        }
        let error = vf_attributes(&"no-such-link".parse().unwrap()).unwrap_err();
        assert_eq!(error.errno, Errno::ENODEV);
        assert_eq!(error.to_string(), "request RTM_GETLINK of /sys/class/net/no-such-link: ENODEV (No such device)");
    }

    #[test]
    fn a_request_that_the_kernel_keeps_is_left_at_the_deadline() {
        let (keep, kept) = channel::<()>();
        let answer = within(Duration::from_millis(20), move |_| {
            kept.recv().ok();
            Ok(())
        });
        assert_eq!(answer, Err(Errno::ETIMEDOUT.into()));
        drop(keep);
    }
}
