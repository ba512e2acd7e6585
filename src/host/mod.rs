//! The seam: everything that is known of a machine, or done to it, passes here.
//!
//! Three powers. [`Read`] observes and cannot disturb, [`Links`] does the same by netlink; [`Probe`] opens VFIO devices, which the kernel resets on open;
//! [`Write`] changes, and comes only from a held [`Lock`]. A function that takes `&dyn Read` can be run on a machine full
//! of other people's VMs without a second thought.
//!
//! Two machines stand behind it: the [real one](linux) and an [in-memory kernel](fake) that reacts as the real one does,
//! held to it by the contract suite (`lab/contract`).

mod child;
pub mod config;
pub mod device;
pub mod error;
pub mod fake;
mod files;
pub mod foreign;
mod hand;
mod handed;
mod hook;
pub mod ledger;
pub mod links;
pub mod linux;
pub mod lock;
mod modprobe;
mod near;
pub mod netlink;
pub mod opening;
pub mod path;
pub mod record;
mod signals;
mod team;
pub mod vfio;
mod wait;
pub mod worker;

use std::time::Duration;

pub use device::{Device, Way};
pub use error::{HostError, Verb};
pub use handed::run_with;
pub use links::Links;
pub use lock::{Claim, LockError, LockHolder};
pub use path::HostPath;

use crate::model::devlink::{DevlinkHandle, EswitchMode, PortIndex, PortNew, PortSetting};
use crate::model::vf::{NetdevName, VfList, VfSetting};
use crate::model::{Bdf, BusName, Errno, GroupId, Hook, HookId, MdevAttributeName, ModuleName, VfIndex};

/// Observes a machine without disturbing it.
///
/// Implementations keep off `config`, `vpd`, `rom` and `resourceN` of a device, which wake or disturb it, and off
/// `sriov_numvfs`, whose read waits for the device lock.
///
/// One exception: `config` of a PCI-to-PCI *bridge* whose `power/runtime_status` is `active`, when it is asked why a group
/// is what it is (`discover/isolation.rs`). Nothing is woken then, and a bridge's registers have no side effect
/// on reading; only root sees more than 64 bytes.
///
/// # Kernel
/// `drivers/pci/pci-sysfs.c` `pci_read_config()` keeps the parent awake while it reads, which that of an active bridge is
/// (7.2).
pub trait Read: Sync {
    /// Reads all of a file, 64 MiB at most.
    ///
    /// # Errors
    /// The kernel's errno; `EFBIG` above the limit.
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError>;

    /// Reads a symbolic link: its text, unresolved.
    ///
    /// # Errors
    /// The kernel's errno: `ENOENT` when it is not there, `EINVAL` when it is no link.
    fn link(&self, path: &HostPath) -> Result<String, HostError>;

    /// Lists a directory, in no particular order and without `.` and `..`.
    ///
    /// # Errors
    /// The kernel's errno.
    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError>;

    /// Reads an attribute as text, without its trailing newline.
    ///
    /// # Errors
    /// As [`read`](Read::read); `EILSEQ` when the bytes are not UTF-8.
    fn text(&self, path: &HostPath) -> Result<String, HostError> {
        let bytes = self.read(path)?;
        let mut text = String::from_utf8(bytes).map_err(|_| HostError::new(Verb::Read, path.clone(), Errno::EILSEQ))?;
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(text)
    }

    /// The last component of a symbolic link's text: what `driver`, `iommu_group`, `physfn` say.
    ///
    /// # Errors
    /// As [`link`](Read::link).
    fn link_name(&self, path: &HostPath) -> Result<String, HostError> {
        let target = self.link(path)?;
        Ok(target.rsplit('/').next().unwrap_or_default().to_owned())
    }
}

/// Turns "it is not there" into `None`, for what a device may or may not have.
///
/// # Errors
/// Any other errno.
pub fn optional<T>(result: Result<T, HostError>) -> Result<Option<T>, HostError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENODEV | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The network interface of a PF that carries the attributes of its VFs: its only one, or that of its uplink.
///
/// # Errors
/// What the kernel refused, but that it is not there.
///
/// # Kernel
/// In mode switchdev the representors of VFs are below the PF too; `net/core/net-sysfs.c` `phys_port_name_show()` tells them
/// apart: `p0` is the uplink, `pf0vf3` a VF's (7.2).
pub fn pf_netdev(host: &dyn Read, pf: Bdf) -> Result<Option<crate::model::vf::NetdevName>, HostError> {
    let directory = HostPath::pci(pf).attr("net");
    let mut names = optional(host.list(&directory))?.unwrap_or_default();
    names.sort();
    let is_uplink = |name: &String| {
        let port = directory.entry(name).map(|netdev| host.text(&netdev.attr("phys_port_name")));
        // A driver without port names has one interface: EOPNOTSUPP.
        port.is_some_and(|port| port.map_or(true, |port| !port.contains("vf") && !port.contains("sf")))
    };
    let found = if names.len() == 1 { names.first() } else { names.iter().find(|name| is_uplink(name)) };
    Ok(found.and_then(|name| name.parse().ok()))
}

/// Asks something through the network interface of a PF, and again when it has got another name meanwhile.
///
/// # Errors
/// What the kernel refused.
///
/// # Kernel
/// An interface is asked by its name, which udevd may change between two looks at it: `net/core/rtnetlink.c` `rtnl_getlink()` and
/// `rtnl_setlink()` answer `ENODEV` to the former one (7.2).
pub fn through_netdev<T>(
    host: &dyn Read,
    pf: Bdf,
    netdev: &NetdevName,
    ask: impl Fn(&NetdevName) -> Result<T, HostError>,
) -> Result<T, HostError> {
    match ask(netdev) {
        Err(error) if error.errno == Errno::ENODEV => match pf_netdev(host, pf)? {
            Some(renamed) if renamed != *netdev => ask(&renamed),
            _ => Err(error),
        },
        answer => answer,
    }
}

/// What the driver of a PF keeps for its VFs; nothing where the PF has no network interface.
///
/// # Errors
/// As [`Links::vf_attributes`].
pub fn vf_list(host: &dyn Links, pf: Bdf) -> Result<Option<VfList>, HostError> {
    let Some(netdev) = pf_netdev(host, pf)? else { return Ok(None) };
    through_netdev(host, pf, &netdev, |netdev| host.vf_attributes(netdev)).map(Some)
}

/// What an attribute of an mdev says; `None` where it cannot be read, and where that is more than one line, and so no value.
///
/// # Kernel
/// `fs/kernfs/file.c` `kernfs_fop_open()`: `EACCES` where the driver has no `_show()`, as `drivers/s390/crypto/vfio_ap_ops.c` has none
/// for `assign_adapter` (7.2).
pub fn mdev_attribute(host: &dyn Read, uuid: uuid::Uuid, name: &MdevAttributeName) -> Option<String> {
    let text = host.text(&HostPath::mdev_attribute(uuid, name)).ok()?;
    let value = text.trim();
    (!value.contains('\n')).then(|| value.to_owned())
}

/// Whether a module is built in or has finished loading.
///
/// # Errors
/// What the kernel refused, but that it is not there.
///
/// # Kernel
/// `kernel/module/sysfs.c`, `kernel/params.c`: a built-in module has a directory only when it has parameters or drivers, and
/// then no `initstate` (7.2).
pub fn module_is_live(host: &dyn Read, module: &ModuleName) -> Result<bool, HostError> {
    match optional(host.text(&HostPath::module(module).attr("initstate")))? {
        Some(state) => Ok(state == "live"),
        None => Ok(optional(host.list(&HostPath::module(module)))?.is_some()),
    }
}

/// Whether somebody has a function open that is bound to a VFIO driver: by whatever node, mapped alone, or from another pid
/// namespace. `None` when the kernel does not say. Of a function on any other driver it says nothing.
///
/// One read or two, none of which waits for the device lock. What it does not see is a cdev that is open and not bound to
/// an iommufd yet, for which the driver would wait as well.
///
/// # Errors
/// What the kernel refused, but that it is not there.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_enable()` and `vfio_pci_core_disable()` count `enable` up at the first
/// open and down at the last close; a mapping keeps the file open. `drivers/pci/pci-sysfs.c` `enable_show()` (7.2). A driver
/// that the device had before may have left it counted: then it still goes to sleep when nobody has it open, for
/// `vfio_pci_core_register_device()` lets it, unless `disable_idle_d3` is set. So does one whose user has asked for that
/// (`VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY`), which only `/proc` and the group node tell.
pub fn vfio_device_is_open(host: &dyn Read, bdf: Bdf) -> Result<Option<bool>, HostError> {
    let path = HostPath::pci(bdf);
    let Some(enable) = optional(host.text(&path.attr("enable")))? else { return Ok(None) };
    if enable == "0" {
        return Ok(Some(false));
    }
    // NVIDIA's driver makes VFIO devices of VFs that it has enabled for itself.
    if optional(host.list(&path.attr("nvidia")))?.is_some() {
        return Ok(None);
    }
    let asleep = optional(host.text(&path.attr("power/runtime_status")))?.is_some_and(|status| status == "suspended");
    Ok(Some(!asleep))
}

/// Whether modprobe's `blacklist` lines hold for a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blacklist {
    /// A blacklisted module is not loaded: for a choice that vfioadm made.
    Respect,
    /// It is loaded all the same: for a driver that the user named.
    Ignore,
}

/// The right to change a machine, held by one process at a time until it is dropped.
pub trait Lock: Sync {
    /// One hand: it makes one write at a time, and several hands write at once.
    fn hand(&self) -> Box<dyn Write + Send + '_>;

    /// So many hands in all, in teams: each is for a thread of its own, and there are as many as are worth one here.
    fn teams(&self, count: usize) -> Vec<Box<dyn Team + '_>>;
}

/// Hands that one thread works with, and waits for together.
pub trait Team: Send {
    /// Each in its place.
    fn hands(&self) -> Vec<&dyn Write>;

    /// Lets so much time pass, or less: until a hand can be asked for its [`answer`](Write::answer), or the user asks to stop.
    /// The places of the hands that can be asked.
    fn wait(&self, length: Duration) -> Vec<usize>;
}

/// What became of a write, or of a hook, that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It was made, or refused.
    Done(Result<(), HostError>),
    /// A [worker] is at it, or the hook runs.
    Waits,
}

/// Changes a machine. Comes only from a held [`Lock`], so that no two commands write at once.
pub trait Write: Links {
    /// The process that will make this hand's next write, when that is to `path` and not made by this one: a
    /// [worker], for a write that may wait for the holder of a device. It is there when this returns, and waits for work.
    ///
    /// # Errors
    /// The errno of starting it.
    fn worker(&self, path: &HostPath) -> Result<Option<u32>, HostError>;

    /// Writes `value` to an existing attribute in one `write(2)`, opened `O_WRONLY` and never created.
    ///
    /// # Errors
    /// The kernel's errno, with path and value: what `bind` says is the probe's own answer.
    fn write(&self, path: &HostPath, value: &str) -> Result<(), HostError>;

    /// Begins such a write: one that may wait for the holder of a device is left to a [worker], and does not keep this hand.
    fn begin(&self, path: &HostPath, value: &str) -> Begun {
        Begun::Done(self.write(path, value))
    }

    /// The answer to what was begun, when it is there; to a write: the kernel's, or `ETIMEDOUT` of [`Verb::Wait`] when the worker
    /// was left behind at its deadline.
    fn answer(&self) -> Option<Result<(), HostError>> {
        None
    }

    /// Writes, or removes, what vfioadm remembers until the next boot: a whole file below `/run/vfioadm`, at once or not at all.
    ///
    /// # Errors
    /// The kernel's errno: `ENOSPC`, `EACCES`.
    fn keep(&self, path: &HostPath, content: Option<&str>) -> Result<(), HostError>;

    /// Loads a module with modprobe, so that options, softdeps and compression hold. No error when it is there already.
    ///
    /// # Errors
    /// `ENOENT` when the module does not exist or stays away because it is blacklisted; `ETIMEDOUT`; what modprobe said is
    /// in the error's `value`.
    fn load_module(&self, module: &ModuleName, blacklist: Blacklist) -> Result<(), HostError>;

    /// Runs a hook for a VF: the program that was checked just now, with its environment and no other, under a deadline at
    /// which it is killed with all that it has started. It does not keep this hand: what it came to is its
    /// [`answer`](Self::answer).
    ///
    /// # Errors
    /// Of the answer, or at once: as [`hook`](Host::hook); `ENOENT` there is none; `ETIMEDOUT`; `EIO` it did not end with 0;
    /// `EFBIG` it said more than a mebibyte; `said` has how it ended and what it said.
    fn begin_hook(&self, hook: &Hook, vf: Bdf) -> Begun;

    /// `RTM_SETLINK` on the PF's interface: one attribute of one VF, in one request.
    ///
    /// Made by this process. The kernel does it before the request is taken, under the RTNL mutex; most drivers then talk to
    /// firmware, which takes milliseconds, and no deadline ends that. Some want it before the VF has a driver (igb says so in
    /// its log: the VF's driver must be loaded again to see a new address).
    ///
    /// # Errors
    /// `ENODEV` no such interface; `EOPNOTSUPP` the driver cannot set this, or not in this mode; `EINVAL` no such VF, or a value
    /// that the driver does not take; `EPROTONOSUPPORT` a VLAN tag that it does not take; `EPERM` without `CAP_NET_ADMIN`; else
    /// the driver's own. The kernel's text (ext-ack) is in the error's `said`, when there is one.
    ///
    /// # Kernel
    /// `net/core/rtnetlink.c` `rtnl_setlink()`, `do_setvfinfo()` (7.2).
    fn set_vf(&self, netdev: &NetdevName, index: VfIndex, setting: VfSetting) -> Result<(), HostError>;

    /// `DEVLINK_CMD_ESWITCH_SET`: the mode of the eswitch. Making a port for each function, and a representor, can take seconds,
    /// which no deadline ends: see [`netlink`].
    ///
    /// # Errors
    /// `EOPNOTSUPP` the driver has no other mode; `EBUSY` rate nodes or offloaded flows are in the way; `EINVAL` a mode that it
    /// does not know; `ENODEV`; `ENOENT` no devlink; `EPERM`.
    ///
    /// # Kernel
    /// `net/devlink/dev.c` `devlink_nl_eswitch_set_doit()` (7.2).
    fn set_eswitch_mode(&self, handle: &DevlinkHandle, mode: EswitchMode) -> Result<(), HostError>;

    /// `DEVLINK_CMD_PORT_SET`: one attribute of the function behind a port.
    ///
    /// # Errors
    /// `EOPNOTSUPP` the driver cannot set it, or not for this flavour; `EINVAL` a value that is refused; `EBUSY` the function is
    /// in use; `ENODEV` no such device or port; `ENOENT` no devlink; `EPERM`. `said` has the kernel's reason.
    ///
    /// # Kernel
    /// `net/devlink/port.c` `devlink_port_function_validate()`, `devlink_port_function_set()` (7.2).
    fn set_port(&self, handle: &DevlinkHandle, port: PortIndex, setting: PortSetting) -> Result<(), HostError>;

    /// `DEVLINK_CMD_PORT_NEW`: makes the port of a subfunction, and says which.
    ///
    /// # Errors
    /// `EOPNOTSUPP` the driver makes none, or not in this mode; `EEXIST` that number is taken; `ENOSPC` there is room for no
    /// more; `ENODEV`; `ENOENT` no devlink; `EPERM`; `EBADMSG` it was made and the answer does not name it.
    ///
    /// # Kernel
    /// `net/devlink/port.c` `devlink_nl_port_new_doit()` (7.2).
    fn add_port(&self, handle: &DevlinkHandle, port: PortNew) -> Result<PortIndex, HostError>;

    /// `DEVLINK_CMD_PORT_DEL`: takes a port away that [`add_port`](Write::add_port) made, with its subfunction.
    ///
    /// # Errors
    /// `EOPNOTSUPP` a port of another kind; `ENODEV` no such device or port; `ENOENT` no devlink; `EPERM`.
    ///
    /// # Kernel
    /// `net/devlink/port.c` `devlink_nl_port_del_doit()` (7.2).
    fn del_port(&self, handle: &DevlinkHandle, port: PortIndex) -> Result<(), HostError>;
}

/// How far to open a VFIO device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    /// The group node alone, `/dev/vfio/12`: exclusive, without side effect.
    Group(GroupId),
    /// The group node, set to a new container: claims the group's DMA, unless the container is an iommufd in disguise
    /// (`CONFIG_IOMMUFD_VFIO_CONTAINER`), which claims it with the first device.
    Container(GroupId),
    /// The device by its group: resets it.
    GroupDevice(GroupId, Bdf),
    /// The cdev alone, `/dev/vfio/devices/vfio3`: no ownership yet, and nobody is kept out.
    Cdev(BusName),
    /// The cdev, bound to a new iommufd: claims DMA and resets the device.
    BoundCdev(BusName),
}

/// Something held open; dropping it closes it.
pub trait Held: Send {
    /// `VFIO_GROUP_FLAGS_VIABLE` of a group; `None` for a cdev.
    ///
    /// # Errors
    /// The ioctl's errno.
    fn viable(&self) -> Result<Option<bool>, HostError>;
}

/// Opens VFIO devices. Not a read: the kernel resets a vfio-pci device on first open and on last close.
pub trait Probe: Sync {
    /// Opens as far as asked.
    ///
    /// # Errors
    /// The errno of the call that refused, with the node's path: `EBUSY` somebody else has the group, by its node or by a
    /// bound cdev; `EINVAL` the cdev is bound by somebody else; `EPERM` the group is not viable; `ENODEV` it is being
    /// unbound, or module vfio_iommu_type1 is not loaded; `EAGAIN` its lock is held.
    fn open(&self, what: &Open) -> Result<Box<dyn Held>, HostError>;

    /// Opens a device by a way, once, with the VF token where there is one. What was opened on the way is closed when a later
    /// act is refused. [`opening::open_device`] chooses the way and asks again.
    ///
    /// # Errors
    /// As [`open`](Probe::open); `EACCES` a VF token is wanted, or this is not it.
    fn open_device(&self, way: &Way, token: Option<uuid::Uuid>) -> Result<Box<dyn Device>, HostError>;
}

/// Time.
pub trait Clock: Sync {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;

    /// Lets time pass.
    fn nap(&self, length: Duration);

    /// The time of day: time since 1970-01-01 00:00 UTC. For people, never for a deadline.
    fn date(&self) -> Duration;
}

/// A machine: what may be read, opened and waited for, and the lock that gives the power to write.
pub trait Host: Links + Probe + Clock {
    /// Takes the lock, or says at once who has it.
    ///
    /// # Errors
    /// [`LockError`]: another vfioadm is at work, or the lock cannot be made.
    fn lock(&self, claim: &Claim) -> Result<Box<dyn Lock + '_>, LockError>;

    /// Whether there is a hook for VFs with these ids, which root alone can change.
    ///
    /// # Errors
    /// [`Verb::Trust`]: `EPERM` others than root can change it or a directory that it is in; `ENOENT` it has one of its two
    /// programs only; `said` has what is wrong. Else the kernel's errno.
    fn hook(&self, id: HookId) -> Result<bool, HostError>;

    /// How often the user has asked this process to stop: by SIGINT, SIGTERM or SIGHUP.
    fn interrupts(&self) -> usize;
}
