//! devlink: the mode of an eswitch, what is kept at a port, subfunctions.

use std::fmt;

use crate::host::{HostError, HostPath, Links, Verb, Write, optional};
use crate::model::devlink::{
    self, Behind, DevlinkHandle, DevlinkPort, EswitchMode, PortIndex, PortNew, PortSetting, PortState,
};
use crate::model::{Bdf, Errno};
use crate::step::{Setting, SfOf, Undo};

/// A request that changes something, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    handle: DevlinkHandle,
    what: What,
    was: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Eswitch(EswitchMode),
    Set(PortIndex, PortSetting),
    Add(PortNew),
    Delete(PortIndex),
}

impl Request {
    /// The mode of a PF's eswitch.
    pub(super) fn eswitch(host: &dyn Links, pf: Bdf, mode: EswitchMode) -> Result<Self, HostError> {
        let handle = handle(pf)?;
        let was = optional(host.eswitch_mode(&handle))?.flatten().map(|mode| mode.to_string());
        Ok(Self { handle, what: What::Eswitch(mode), was })
    }

    /// An attribute of a function.
    pub(super) fn port(host: &dyn Links, of: (Bdf, Behind), to: PortSetting) -> Result<Self, HostError> {
        let (handle, port) = port(host, of)?;
        let port = port.ok_or_else(|| no_port(&handle, of.1, Some(to)))?;
        Ok(Self { handle, what: What::Set(port.index, to), was: None })
    }

    /// A subfunction made, or taken away.
    pub(super) fn subfunction(host: &dyn Links, (pf, sfnum): (Bdf, u32), to: Option<&SfOf>) -> Result<Self, HostError> {
        if let Some(of) = to {
            let new = PortNew { pf: of.pfnum, sf: sfnum, controller: None };
            return Ok(Self { handle: handle(pf)?, what: What::Add(new), was: None });
        }
        let (handle, port) = port(host, (pf, Behind::Sf(sfnum)))?;
        let port = port.ok_or_else(|| no_port(&handle, Behind::Sf(sfnum), None))?;
        Ok(Self { handle, what: What::Delete(port.index), was: Some(format!("sfnum {sfnum}")) })
    }

    /// The same with what was there before, in words.
    pub(super) fn with_was(self, was: Option<String>) -> Self {
        Self { was, ..self }
    }

    /// Makes it.
    pub(in crate::engine) fn make(&self, host: &dyn Write) -> Result<(), HostError> {
        let handle = &self.handle;
        match &self.what {
            What::Eswitch(mode) => host.set_eswitch_mode(handle, *mode),
            What::Set(port, to) => host.set_port(handle, *port, *to),
            What::Add(new) => host.add_port(handle, *new).map(drop),
            What::Delete(port) => host.del_port(handle, *port),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handle = &self.handle;
        match &self.what {
            What::Eswitch(mode) => write!(f, "devlink dev eswitch set {handle} mode {mode}")?,
            What::Set(port, to) => write!(f, "devlink port function set {handle}/{port} {to}")?,
            What::Add(new) => write!(f, "devlink port add {handle} {new}")?,
            What::Delete(port) => write!(f, "devlink port del {handle}/{port}")?,
        }
        self.was.as_ref().map_or(Ok(()), |was| write!(f, "   # was {was}"))
    }
}

fn handle(pf: Bdf) -> Result<DevlinkHandle, HostError> {
    DevlinkHandle::try_from(pf).map_err(|_| HostError::new(Verb::Read, HostPath::pci(pf), Errno::EINVAL))
}

/// The port of a function; none when devlink does not know the PF either.
fn port(host: &dyn Links, (pf, behind): (Bdf, Behind)) -> Result<(DevlinkHandle, Option<DevlinkPort>), HostError> {
    let handle = handle(pf)?;
    let ports = optional(host.devlink_ports(&handle))?.unwrap_or_default();
    let port = behind.port_in(&ports).cloned();
    Ok((handle, port))
}

fn no_port(handle: &DevlinkHandle, behind: Behind, to: Option<PortSetting>) -> HostError {
    let value = to.map_or_else(|| behind.to_string(), |to| format!("{behind} {to}"));
    HostError::new(Verb::Request("DEVLINK_CMD_PORT_GET"), HostPath::devlink(handle), Errno::ENODEV).with_value(&value)
}

/// What the VFs of a PF have at their ports, when nobody has set any of them; nothing where devlink does not tell.
pub(super) fn fresh(host: &dyn Links, pf: Bdf) -> Vec<PortSetting> {
    let ports = handle(pf).and_then(|handle| host.devlink_ports(&handle));
    ports.map(|ports| devlink::fresh(&ports)).unwrap_or_default()
}

/// The mode of a PF's eswitch, where it has one.
pub(super) fn eswitch(host: &dyn Links, pf: Bdf) -> Result<Option<EswitchMode>, HostError> {
    Ok(optional(host.eswitch_mode(&handle(pf)?))?.flatten())
}

/// What a function has of the same attribute, where the driver reports it.
pub(super) fn told(host: &dyn Links, of: (Bdf, Behind), like: PortSetting) -> Result<Option<PortSetting>, HostError> {
    let (_, port) = port(host, of)?;
    Ok(port.and_then(|port| port.function).and_then(|function| like.told_by(&function)))
}

/// A subfunction as it is; `None` when there is none.
pub(in crate::engine) fn subfunction(host: &dyn Links, pf: Bdf, sfnum: u32) -> Result<Option<SfOf>, HostError> {
    let (_, port) = port(host, (pf, Behind::Sf(sfnum)))?;
    let Some(port) = port else { return Ok(None) };
    let function = port.function.unwrap_or_default();
    Ok(Some(SfOf {
        pfnum: port.pf.unwrap_or_else(|| u16::from(pf.function())),
        kept: function.kept(),
        state: function.state.unwrap_or(PortState::Inactive),
    }))
}

/// A subfunction made again, with what it had at its port and as active as it was.
pub(super) fn way_back(undo: &Undo, of: &SfOf) -> Vec<Setting> {
    let crate::model::Target::Sf { pf, sfnum } = undo.device else { return vec![undo.was.clone()] };
    let behind = Behind::Sf(sfnum);
    let kept = of.kept.iter().copied();
    let set = kept.chain([PortSetting::State(of.state)]).map(|to| Setting::Port { pf, behind, to });
    std::iter::once(undo.was.clone()).chain(set).collect()
}

/// Why a port's attribute that is not told cannot be set: its driver has not got it.
pub(super) fn untold(host: &dyn Links, to: &Setting) -> Option<HostError> {
    let Setting::Port { pf, behind, to } = to else { return None };
    let (handle, port) = port(host, (*pf, *behind)).ok()?;
    Some(match port {
        Some(_) => HostError::new(Verb::Request("DEVLINK_CMD_PORT_SET"), HostPath::devlink(&handle), Errno::EOPNOTSUPP)
            .with_value(&format!("{behind} {to}")),
        None => no_port(&handle, *behind, Some(*to)),
    })
}
