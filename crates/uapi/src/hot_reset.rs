//! A hot reset of a PCI device: of its slot or of its bus, with all that is on it.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::capability::{Plain, read, read_all};
use crate::layout::layout;
use crate::{Errno, Result, call, opcode};

/// What a hot reset would hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Of a device opened by its cdev: whether all of them are the caller's, so that [`reset`] without groups does it. `None`
    /// of a device opened by its group: there the groups' descriptors are the proof.
    pub owned: Option<bool>,
    /// Each device on the slot or bus, the one that was asked included.
    pub devices: Vec<Dependent>,
}

/// A device that would be reset too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependent {
    /// PCI domain; its lower 16 bits, where it has more.
    pub segment: u16,
    /// PCI bus.
    pub bus: u8,
    /// Device and function, `device << 3 | function`.
    pub devfn: u8,
    /// Whose it is.
    pub owner: Owner,
}

/// Whose a dependent device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It is in this IOMMU group, whoever has that.
    Group(u32),
    /// It is bound to the caller's iommufd, by this id.
    Bound(crate::iommufd::ObjectId),
    /// It is not open, and of a group that is the caller's.
    InOwnGroup,
    /// It is not the caller's, or has no VFIO driver.
    Other,
}

/// `struct vfio_pci_hot_reset_info`, without the devices behind it.
#[repr(C)]
#[derive(Clone, Copy)]
struct HotResetInfo {
    argsz: u32,
    flags: u32,
    count: u32,
}
layout!(HotResetInfo reads "vfio_pci_hot_reset_info", 12 bytes { argsz at 0, flags at 4, count at 8 });
// SAFETY: three numbers.
unsafe impl Plain for HotResetInfo {}

/// `struct vfio_pci_dependent_device`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DependentDevice {
    group_id: u32,
    segment: u16,
    bus: u8,
    devfn: u8,
}
layout!(DependentDevice reads "vfio_pci_dependent_device", 8 bytes {
    group_id at 0, segment at 4, bus at 6, devfn at 7,
});
// SAFETY: four numbers.
unsafe impl Plain for DependentDevice {}

/// `struct vfio_pci_hot_reset`, without the descriptors behind it.
#[repr(C)]
struct HotReset {
    argsz: u32,
    flags: u32,
    count: u32,
}
layout!(HotReset reads "vfio_pci_hot_reset", 12 bytes { argsz at 0, flags at 4, count at 8 });

#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 3] =
    [HotResetInfo::LAYOUT, DependentDevice::LAYOUT, HotReset::LAYOUT];

pub(crate) const FLAG_DEV_ID: u32 = 1 << 0;
pub(crate) const FLAG_DEV_ID_OWNED: u32 = 1 << 1;
pub(crate) const DEVID_OWNED: u32 = 0;
/// −1.
const DEVID_NOT_OWNED: u32 = u32::MAX;

/// Functions on a bus, ARI or not.
const MOST: u32 = 256;

/// `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`: reads what a hot reset of the device would reset. Resets nothing.
///
/// # Errors
/// `ENODEV` it has neither a slot nor a bus that can be reset · `EPERM` a device there is in no IOMMU group · `ENOSPC` more
/// than 256 devices · `EPROTO` the answer makes no sense · `EINVAL` a cdev that is not bound · `ENOTTY` not a device of
/// vfio-pci.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_get_pci_hot_reset_info()`, `vfio_pci_fill_devs()` (7.2).
#[doc(alias = "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO")]
pub fn info(device: BorrowedFd<'_>) -> Result<Info> {
    let argsz = 12 + MOST * 8;
    let mut words = vec![0u64; argsz.div_ceil(8) as usize];
    words[0] = first_word(argsz);
    // SAFETY: the kernel reads and writes at most `argsz` bytes before it returns, and there are as many, rounded up.
    unsafe { call::words::<{ opcode::DEVICE_GET_PCI_HOT_RESET_INFO }>(device, &mut words) }?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    parse(&bytes)
}

fn parse(answer: &[u8]) -> Result<Info> {
    let info: HotResetInfo = read(answer, 0).ok_or(Errno::PROTO)?;
    let by_id = info.flags & FLAG_DEV_ID != 0;
    let devices: Vec<DependentDevice> = read_all(answer, size_of::<HotResetInfo>(), info.count).ok_or(Errno::PROTO)?;
    let owner = |id: u32| match id {
        group if !by_id => Owner::Group(group),
        DEVID_OWNED => Owner::InOwnGroup,
        DEVID_NOT_OWNED => Owner::Other,
        bound => Owner::Bound(crate::iommufd::ObjectId(bound)),
    };
    Ok(Info {
        owned: by_id.then_some(info.flags & FLAG_DEV_ID_OWNED != 0),
        devices: devices
            .iter()
            .map(|one| Dependent { segment: one.segment, bus: one.bus, devfn: one.devfn, owner: owner(one.group_id) })
            .collect(),
    })
}

/// `VFIO_DEVICE_PCI_HOT_RESET`: resets the device's slot or bus, with all devices that [`info`] names; what was in them is
/// lost.
///
/// A device opened by its group wants the open groups of all of them, and one opened by its cdev wants none.
///
/// # Errors
/// `EINVAL` groups for a cdev, or none for a device opened by its group; a device there is not the caller's, or on no VFIO
/// driver; something in the list is no group · `ENODEV` it has neither a slot nor a bus that can be reset · `EBUSY` a device
/// there is at work · `EAGAIN` somebody holds the lock of one · the reset's own · `ENOTTY` not a device of vfio-pci.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_pci_hot_reset()`, `vfio_pci_dev_set_hot_reset()` (7.2).
#[doc(alias = "VFIO_DEVICE_PCI_HOT_RESET")]
pub fn reset(device: BorrowedFd<'_>, groups: &[BorrowedFd<'_>]) -> Result<()> {
    let count = u32::try_from(groups.len()).ok().filter(|count| *count <= MOST).ok_or(Errno::INVAL)?;
    let argsz = 12 + count * 4;
    let mut bytes: Vec<u8> = [argsz, 0, count].iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(groups.iter().flat_map(|group| group.as_raw_fd().to_ne_bytes()));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let mut words: Vec<u64> =
        bytes.chunks_exact(8).filter_map(|word| read::<Eight>(word, 0)).map(|word| word.0).collect();
    // SAFETY: the kernel reads at most `argsz` bytes before it returns, and there are as many, rounded up; it writes
    // nothing. The groups are open for as long.
    unsafe { call::words::<{ opcode::DEVICE_PCI_HOT_RESET }>(device, &mut words) }.map(drop)
}

/// A number alone.
#[repr(C)]
#[derive(Clone, Copy)]
struct Eight(u64);
// SAFETY: a number.
unsafe impl Plain for Eight {}

/// `argsz`, and zero behind it, as they lie in memory.
fn first_word(argsz: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&argsz.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(flags: u32, count: u32, devices: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [2060, flags, count].iter().flat_map(|word| word.to_ne_bytes()).collect();
        for id in devices {
            bytes.extend(id.to_ne_bytes());
            bytes.extend(1u16.to_ne_bytes());
            bytes.extend([0x3b, 0x12]);
        }
        bytes
    }

    fn owners(info: &Info) -> Vec<Owner> {
        info.devices.iter().map(|one| one.owner).collect()
    }

    #[test]
    fn by_group_each_has_its_group() {
        let info = parse(&answer(0, 2, &[12, 0])).unwrap();
        assert_eq!(info.owned, None);
        assert_eq!(owners(&info), [Owner::Group(12), Owner::Group(0)]);
        assert_eq!((info.devices[0].segment, info.devices[0].bus, info.devices[0].devfn), (1, 0x3b, 0x12));
    }

    #[test]
    fn by_cdev_each_is_the_callers_or_not() {
        let info = parse(&answer(FLAG_DEV_ID, 3, &[5, 0, u32::MAX])).unwrap();
        assert_eq!(info.owned, Some(false));
        assert_eq!(owners(&info), [Owner::Bound(crate::iommufd::ObjectId(5)), Owner::InOwnGroup, Owner::Other]);
        assert_eq!(parse(&answer(FLAG_DEV_ID | FLAG_DEV_ID_OWNED, 0, &[])).unwrap().owned, Some(true));
    }

    #[test]
    fn a_list_that_is_cut_is_an_error() {
        assert_eq!(parse(&answer(0, 3, &[1, 2])), Err(Errno::PROTO));
        assert_eq!(parse(&answer(0, u32::MAX, &[1, 2])), Err(Errno::PROTO));
        assert_eq!(parse(&[0; 11]), Err(Errno::PROTO));
    }
}
