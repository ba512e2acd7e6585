//! `/dev/vfio` and `/dev/iommu` of the real machine: opens a group or a device as far as asked, and holds it.
//!
//! Each act is tried once. A device whose lock somebody holds answers `EAGAIN`, and nothing is retried here:
//! [`opening`](super::opening) does that, and knows the order of ways.

mod device;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use uuid::Uuid;
use vfioadm_uapi::container::API_VERSION;
use vfioadm_uapi::group::GroupFlags;
use vfioadm_uapi::{container, group};

use super::device::{Device, Way};
use super::path::Root;
use super::{Held, HostError, HostPath, Open, Verb};
use crate::model::{Address, Errno};

pub(crate) use device::{not_set, spelled};

/// Opens as far as `what` says, below `dev`, the directory `/dev`. What was opened on the way is closed when a later act is
/// refused.
///
/// # Errors
/// The errno of the act that was refused, with the node that it was asked of; `EOPNOTSUPP` when the container speaks
/// another version of the API than ours.
///
/// # Kernel
/// The order of `Documentation/driver-api/vfio.rst` (7.2).
pub(crate) fn open(dev: BorrowedFd<'_>, what: &Open) -> Result<Box<dyn Held>, HostError> {
    Ok(match what {
        Open::Group(id) => Box::new(HeldGroup::open(dev, HostPath::group_node(*id))?),
        Open::Container(id) => Box::new(HeldContainer::open(dev, &HostPath::group_node(*id))?),
        Open::GroupDevice(id, bdf) => Box::new(device::open(dev, &Way::Group(*id, Address::from(*bdf)), None)?),
        Open::Cdev(name) => Box::new(HeldCdev { _cdev: node(dev, &HostPath::cdev(name))? }),
        Open::BoundCdev(name) => Box::new(device::open(dev, &Way::Cdev(name.clone()), None)?),
    })
}

/// Opens a device below `dev`, once. What was opened on the way is closed when a later act is refused.
///
/// # Errors
/// As of [`open`].
///
/// # Kernel
/// As of [`open`].
pub(crate) fn open_device(dev: BorrowedFd<'_>, way: &Way, token: Option<Uuid>) -> Result<Box<dyn Device>, HostError> {
    Ok(Box::new(device::open(dev, way, token)?))
}

/// The container's node, `/dev/vfio/vfio`.
fn container_node() -> HostPath {
    HostPath::fixed(Root::Dev, "vfio/vfio")
}

/// Opens a node for reading and writing; a link that leads out of `/dev` is not followed.
fn node(dev: BorrowedFd<'_>, path: &HostPath) -> Result<OwnedFd, HostError> {
    openat2(dev, path.rest(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH)
        .map_err(refused(Verb::Open, path))
}

/// What makes the kernel's no an error that says what was asked, and of which node.
fn refused(verb: Verb, path: &HostPath) -> impl FnOnce(vfioadm_uapi::Errno) -> HostError {
    move |errno| HostError::new(verb, path.clone(), Errno(errno.raw_os_error()))
}

// Fields are dropped in the order in which they are declared, and that is the order of closing: a device before the group
// and the group before the container, a cdev before its iommufd. The kernel would sort it out by itself, since each keeps
// alive what it needs; this way every close gives back what is its own, and the last one is no surprise.

/// A group node.
struct HeldGroup {
    fd: OwnedFd,
    node: HostPath,
}

impl HeldGroup {
    fn open(dev: BorrowedFd<'_>, node_path: HostPath) -> Result<Self, HostError> {
        Ok(Self { fd: node(dev, &node_path)?, node: node_path })
    }
}

impl Held for HeldGroup {
    fn viable(&self) -> Result<Option<bool>, HostError> {
        group::status(self.fd.as_fd())
            .map(|flags| Some(flags.contains(GroupFlags::VIABLE)))
            .map_err(refused(Verb::Ioctl("VFIO_GROUP_GET_STATUS"), &self.node))
    }
}

/// A group that is set to a container of its own.
struct HeldContainer {
    group: HeldGroup,
    container: OwnedFd,
}

impl HeldContainer {
    /// The container first: anybody may open it, while the group shuts others out as soon as it is open.
    fn open(dev: BorrowedFd<'_>, group: &HostPath) -> Result<Self, HostError> {
        let path = container_node();
        let container = node(dev, &path)?;
        let version =
            container::api_version(container.as_fd()).map_err(refused(Verb::Ioctl("VFIO_GET_API_VERSION"), &path))?;
        if version != API_VERSION {
            let error = HostError::new(Verb::Ioctl("VFIO_GET_API_VERSION"), path, Errno::EOPNOTSUPP);
            return Err(error.with_value(&version.to_string()));
        }
        let group = HeldGroup::open(dev, group.clone())?;
        group::set_container(group.fd.as_fd(), container.as_fd())
            .map_err(refused(Verb::Ioctl("VFIO_GROUP_SET_CONTAINER"), &group.node))?;
        Ok(Self { group, container })
    }
}

impl Held for HeldContainer {
    fn viable(&self) -> Result<Option<bool>, HostError> {
        self.group.viable()
    }
}

/// A cdev that is not bound.
struct HeldCdev {
    _cdev: OwnedFd,
}

impl Held for HeldCdev {
    fn viable(&self) -> Result<Option<bool>, HostError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use rustix::fs::{CWD, mkdirat, openat, symlinkat};

    use super::*;
    use crate::model::{Bdf, BusName, GroupId};

    /// A directory that looks like `/dev`, with plain files for nodes: they open, and know no ioctl.
    fn plain_files(names: &[&str]) -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dev = openat(CWD, directory.path(), flags, Mode::empty()).unwrap();
        mkdirat(&dev, "vfio", Mode::RWXU).unwrap();
        mkdirat(&dev, "vfio/devices", Mode::RWXU).unwrap();
        for name in names {
            openat(&dev, *name, OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).unwrap();
        }
        (directory, dev)
    }

    /// Every way to open, for a group 12 and a cdev vfio3.
    fn every_way() -> [Open; 5] {
        let (group, cdev) = (GroupId(12), BusName::from_str("vfio3").unwrap());
        let bdf = Bdf::from_str("0000:3b:00.2").unwrap();
        [
            Open::Group(group),
            Open::Container(group),
            Open::GroupDevice(group, bdf),
            Open::Cdev(cdev.clone()),
            Open::BoundCdev(cdev),
        ]
    }

    /// What came of it, in words.
    fn outcome(dev: &OwnedFd, what: &Open) -> String {
        match open(dev.as_fd(), what).map(|held| held.viable()) {
            Ok(Ok(viable)) => format!("held, viable {viable:?}"),
            Ok(Err(error)) => format!("held, {error}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_machine_without_vfio_is_told_by_the_node_that_is_missing() {
        let (_directory, dev) = plain_files(&[]);
        let outcomes = every_way().map(|what| outcome(&dev, &what));
        assert_eq!(
            outcomes,
            [
                "open /dev/vfio/12: ENOENT (No such file or directory)",
                "open /dev/vfio/vfio: ENOENT (No such file or directory)",
                "open /dev/vfio/vfio: ENOENT (No such file or directory)",
                "open /dev/vfio/devices/vfio3: ENOENT (No such file or directory)",
                "open /dev/vfio/devices/vfio3: ENOENT (No such file or directory)",
            ]
        );
    }

    #[test]
    fn a_refused_ioctl_is_named_with_the_node_it_was_asked_of() {
        let (_directory, dev) = plain_files(&["vfio/vfio", "vfio/12", "vfio/devices/vfio3", "iommu"]);
        let outcomes = every_way().map(|what| outcome(&dev, &what));
        assert_eq!(
            outcomes,
            [
                "held, VFIO_GROUP_GET_STATUS on /dev/vfio/12: ENOTTY (Inappropriate ioctl for device)",
                "VFIO_GET_API_VERSION on /dev/vfio/vfio: ENOTTY (Inappropriate ioctl for device)",
                "VFIO_GET_API_VERSION on /dev/vfio/vfio: ENOTTY (Inappropriate ioctl for device)",
                "held, viable None",
                "VFIO_DEVICE_BIND_IOMMUFD on /dev/vfio/devices/vfio3: ENOTTY (Inappropriate ioctl for device)",
            ]
        );
    }

    #[test]
    fn a_kernel_without_iommufd_is_told_by_dev_iommu() {
        let (_directory, dev) = plain_files(&["vfio/devices/vfio3"]);
        let [.., bound] = every_way();
        assert_eq!(outcome(&dev, &bound), "open /dev/iommu: ENOENT (No such file or directory)");
    }

    #[test]
    fn a_link_that_leads_out_of_dev_is_not_followed() {
        let (_directory, dev) = plain_files(&[]);
        symlinkat("/dev/null", &dev, "vfio/12").unwrap();
        let [group, ..] = every_way();
        assert_eq!(outcome(&dev, &group), "open /dev/vfio/12: EXDEV (Invalid cross-device link)");
    }
}
