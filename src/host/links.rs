//! The netlink part of the seam: what is read of network interfaces and of devlink, beside files.
//!
//! A trait of its own and not part of [`Read`], because it needs a socket and waits for other locks: a reader of files alone
//! (a directory, a shadow of a host) has neither. Whatever writes can read all of it, so [`Write`](super::Write) has it.

use super::{HostError, Read};
use crate::model::devlink::{DevlinkHandle, DevlinkPort, EswitchMode};
use crate::model::vf::{NetdevName, VfList};

/// Observes interfaces and devlink devices without disturbing them.
///
/// The kernel answers while it holds the RTNL mutex or the lock of the devlink device: a read waits for whoever changes one,
/// for as long as a driver takes to change its eswitch or to reload. See [`netlink`](super::netlink) for what a deadline can
/// do about that.
pub trait Links: Read {
    /// `RTM_GETLINK` with `RTEXT_FILTER_VF`: what a PF's driver keeps for its VFs, all in one request.
    ///
    /// The list may be short, and [`VfList::is_complete`] says so. Kernels from 7.3 on report 128 VFs at most, 256 when no
    /// statistics are asked for, as here; before, the 16-bit length of `IFLA_VFINFO_LIST` overflowed at some 330 VFs, and what
    /// was cut is not reported here. A driver without `ndo_get_vf_config` reports none. So a VF that the list has not got is not
    /// a VF without attributes: whoever sets them must know what was set, and not rely on reading it back.
    ///
    /// # Errors
    /// `ENODEV` no such interface in this network namespace; `ETIMEDOUT`.
    ///
    /// # Kernel
    /// `net/core/rtnetlink.c` `rtnl_getlink()`, `rtnl_fill_vf()` (7.2), `rtnl_vfinfo_cap` (7.3).
    fn vf_attributes(&self, netdev: &NetdevName) -> Result<VfList, HostError>;

    /// `DEVLINK_CMD_GET`: the devices that devlink knows; none when this kernel has no devlink.
    ///
    /// # Errors
    /// `EAGAIN` when devices come and go faster than they can be listed; `ETIMEDOUT`.
    ///
    /// # Kernel
    /// `net/devlink/dev.c` `devlink_nl_get_dumpit()` (7.2).
    fn devlink_handles(&self) -> Result<Vec<DevlinkHandle>, HostError>;

    /// `DEVLINK_CMD_PORT_GET`: the ports of a device, by index.
    ///
    /// # Errors
    /// `ENODEV` devlink does not know the device; `ENOENT` this kernel has no devlink; `EAGAIN` when ports come and go faster
    /// than they can be listed; `ETIMEDOUT`.
    ///
    /// # Kernel
    /// `net/devlink/port.c` `devlink_nl_port_get_dumpit()`, `netlink.c` `devlink_nl_dumpit()` (7.2).
    fn devlink_ports(&self, handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, HostError>;

    /// `DEVLINK_CMD_ESWITCH_GET`: the mode of a device's eswitch; `None` when it has none, or one of a mode that came after
    /// 7.2.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`; `EOPNOTSUPP` this function does not manage the eswitch (mlx5_core on a VF); else as
    /// [`devlink_ports`](Links::devlink_ports).
    ///
    /// # Kernel
    /// `net/devlink/dev.c` `devlink_nl_eswitch_get_doit()` (7.2).
    fn eswitch_mode(&self, handle: &DevlinkHandle) -> Result<Option<EswitchMode>, HostError>;
}
