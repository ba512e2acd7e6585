//! Netlink on a fake host: the VF attributes of rtnetlink, and devlink.
//!
//! What a driver keeps lies [below `/kernel/links`](stored), where no path of a host reaches; what it takes and refuses is its own
//! ([`vfs`], [`devlink`]). [`netdevsim`] is here as well: it has both, and a real kernel can have it without hardware.

mod auxiliary;
mod devlink;
mod netdevsim;
mod state;
pub(crate) mod stored;
mod vfs;

use super::kernel::Kernel;
use super::tree::HIDDEN;
use super::{FakeHand, FakeHost};
use crate::host::{HostError, HostPath, Links, Verb};
use crate::model::devlink::{DevlinkHandle, DevlinkPort, EswitchMode, PortIndex, PortNew, PortSetting};
use crate::model::vf::{NetdevName, VfList, VfSetting};
use crate::model::{Bdf, Errno, VfIndex};

/// The device behind an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Device {
    /// A PCI function.
    Pci(Bdf),
    /// A device of netdevsim.
    Netdevsim(String),
    /// Something without VFs.
    Other,
}

impl Device {
    fn handle(&self) -> String {
        match self {
            Self::Pci(bdf) => format!("pci/{bdf}"),
            Self::Netdevsim(name) => format!("netdevsim/{name}"),
            Self::Other => "none/none".to_owned(),
        }
    }

    /// Where its state is.
    fn place(&self) -> String {
        format!("{HIDDEN}/links/{}", self.handle())
    }
}

/// A refusal, with what the kernel says to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    errno: Errno,
    said: &'static str,
}

impl Said {
    const fn new(errno: Errno, said: &'static str) -> Self {
        Self { errno, said }
    }
}

impl From<Errno> for Said {
    fn from(errno: Errno) -> Self {
        Self::new(errno, "")
    }
}

/// Answers a question.
fn ask<T>(
    host: &FakeHost,
    name: &'static str,
    path: HostPath,
    what: impl FnOnce(&Kernel) -> Result<T, Errno>,
) -> Result<T, HostError> {
    what(&host.reading()).map_err(|errno| HostError::new(Verb::Request(name), path, errno))
}

impl Links for FakeHost {
    fn vf_attributes(&self, netdev: &NetdevName) -> Result<VfList, HostError> {
        ask(self, "RTM_GETLINK", HostPath::netdev(netdev), |kernel| kernel.vf_list(netdev))
    }

    fn devlink_handles(&self) -> Result<Vec<DevlinkHandle>, HostError> {
        Ok(self.reading().handles())
    }

    fn devlink_ports(&self, handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, HostError> {
        ask(self, "DEVLINK_CMD_PORT_GET", HostPath::devlink(handle), |kernel| kernel.ports(handle))
    }

    fn eswitch_mode(&self, handle: &DevlinkHandle) -> Result<Option<EswitchMode>, HostError> {
        ask(self, "DEVLINK_CMD_ESWITCH_GET", HostPath::devlink(handle), |kernel| kernel.eswitch(handle))
    }
}

impl Links for FakeHand<'_> {
    fn vf_attributes(&self, netdev: &NetdevName) -> Result<VfList, HostError> {
        self.host.vf_attributes(netdev)
    }

    fn devlink_handles(&self) -> Result<Vec<DevlinkHandle>, HostError> {
        self.host.devlink_handles()
    }

    fn devlink_ports(&self, handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, HostError> {
        self.host.devlink_ports(handle)
    }

    fn eswitch_mode(&self, handle: &DevlinkHandle) -> Result<Option<EswitchMode>, HostError> {
        self.host.eswitch_mode(handle)
    }
}

impl FakeHand<'_> {
    /// Makes a request that changes something, under the faults that were ordered. It is among the
    /// [writes](FakeHost::writes) with the directory of its object as path.
    fn request<T>(
        &self,
        name: &'static str,
        path: &HostPath,
        value: &str,
        what: impl FnOnce(&mut Kernel) -> Result<T, Said>,
    ) -> Result<T, HostError> {
        let answer =
            self.act(path, value, |kernel| what(kernel).map_err(|refused| (refused.errno, refused.said.to_owned())));
        answer.map_err(|(errno, said)| {
            HostError::new(Verb::Request(name), path.clone(), errno).with_value(value).with_said(&said)
        })
    }

    pub(super) fn ask_vf(&self, netdev: &NetdevName, index: VfIndex, setting: VfSetting) -> Result<(), HostError> {
        let value = format!("vf {index} {setting}");
        self.request("RTM_SETLINK", &HostPath::netdev(netdev), &value, |kernel| kernel.set_vf(netdev, index, setting))
    }

    pub(super) fn ask_eswitch(&self, handle: &DevlinkHandle, mode: EswitchMode) -> Result<(), HostError> {
        let (path, value) = (HostPath::devlink(handle), format!("mode {mode}"));
        self.request("DEVLINK_CMD_ESWITCH_SET", &path, &value, |kernel| kernel.set_eswitch(handle, mode))
    }

    pub(super) fn ask_port(
        &self,
        handle: &DevlinkHandle,
        port: PortIndex,
        setting: PortSetting,
    ) -> Result<(), HostError> {
        let (path, value) = (HostPath::devlink(handle), format!("port {port} {setting}"));
        self.request("DEVLINK_CMD_PORT_SET", &path, &value, |kernel| kernel.set_port(handle, port, setting))
    }

    pub(super) fn ask_new_port(&self, handle: &DevlinkHandle, port: PortNew) -> Result<PortIndex, HostError> {
        let (path, value) = (HostPath::devlink(handle), port.to_string());
        self.request("DEVLINK_CMD_PORT_NEW", &path, &value, |kernel| kernel.add_port(handle, port))
    }

    pub(super) fn ask_del_port(&self, handle: &DevlinkHandle, port: PortIndex) -> Result<(), HostError> {
        let (path, value) = (HostPath::devlink(handle), format!("port {port}"));
        self.request("DEVLINK_CMD_PORT_DEL", &path, &value, |kernel| kernel.del_port(handle, port))
    }
}

#[cfg(test)]
mod tests;
