//! An open VFIO device: what [`group::device_fd`](crate::group::device_fd) gave, or a cdev that is bound.

use std::os::fd::BorrowedFd;

use crate::capability::{self, Header, Plain, read};
use crate::layout::layout;
use crate::{Errno, Result, call, opcode, zpci};

bitflags::bitflags! {
    /// What a device is and can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct DeviceFlags: u32 {
        /// [`reset`] works.
        #[doc(alias = "VFIO_DEVICE_FLAGS_RESET")]
        const RESET = 1 << 0;
        /// A device of vfio-pci or one of its variants, or an mdev that looks like one.
        #[doc(alias = "VFIO_DEVICE_FLAGS_PCI")]
        const PCI = 1 << 1;
        /// A device of vfio-platform.
        #[doc(alias = "VFIO_DEVICE_FLAGS_PLATFORM")]
        const PLATFORM = 1 << 2;
        /// A device of vfio-amba.
        #[doc(alias = "VFIO_DEVICE_FLAGS_AMBA")]
        const AMBA = 1 << 3;
        /// A device of vfio-ccw.
        #[doc(alias = "VFIO_DEVICE_FLAGS_CCW")]
        const CCW = 1 << 4;
        /// A device of vfio-ap.
        #[doc(alias = "VFIO_DEVICE_FLAGS_AP")]
        const AP = 1 << 5;
        /// A device of vfio-fsl-mc.
        #[doc(alias = "VFIO_DEVICE_FLAGS_FSL_MC")]
        const FSL_MC = 1 << 6;
        /// There are capabilities.
        #[doc(alias = "VFIO_DEVICE_FLAGS_CAPS")]
        const CAPS = 1 << 7;
        /// A device of vfio-cdx.
        #[doc(alias = "VFIO_DEVICE_FLAGS_CDX")]
        const CDX = 1 << 8;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// What it is and can do.
    pub flags: DeviceFlags,
    /// The highest region index plus one; regions in between may be empty.
    pub num_regions: u32,
    /// The highest IRQ index plus one; an index in between may have no interrupt.
    pub num_irqs: u32,
    /// What else it says, in the kernel's order.
    pub capabilities: Vec<Capability>,
}

/// More than fits into the fixed part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// The function of an s390 machine.
    #[doc(alias = "VFIO_DEVICE_INFO_CAP_ZPCI_BASE")]
    ZpciBase(zpci::Base),
    /// Its group.
    #[doc(alias = "VFIO_DEVICE_INFO_CAP_ZPCI_GROUP")]
    ZpciGroup(zpci::Group),
    /// Its utility string, in EBCDIC.
    #[doc(alias = "VFIO_DEVICE_INFO_CAP_ZPCI_UTIL")]
    ZpciUtil(Vec<u8>),
    /// The path that its hardware is found by.
    #[doc(alias = "VFIO_DEVICE_INFO_CAP_ZPCI_PFIP")]
    ZpciPfip(Vec<u8>),
    /// The `AtomicOps` that the root port completes for it.
    #[doc(alias = "VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP")]
    PciAtomicComp(AtomicComp),
    /// One that is not known here: id and version.
    Other(u16, u16),
}

bitflags::bitflags! {
    /// Widths of `AtomicOps`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct AtomicComp: u32 {
        /// 32 bits.
        #[doc(alias = "VFIO_PCI_ATOMIC_COMP32")]
        const BITS_32 = 1 << 0;
        /// 64 bits.
        #[doc(alias = "VFIO_PCI_ATOMIC_COMP64")]
        const BITS_64 = 1 << 1;
        /// 128 bits, compare and swap.
        #[doc(alias = "VFIO_PCI_ATOMIC_COMP128")]
        const BITS_128 = 1 << 2;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

pub(crate) const CAP_ZPCI_BASE: u16 = 1;
pub(crate) const CAP_ZPCI_GROUP: u16 = 2;
pub(crate) const CAP_ZPCI_UTIL: u16 = 3;
pub(crate) const CAP_ZPCI_PFIP: u16 = 4;
pub(crate) const CAP_PCI_ATOMIC_COMP: u16 = 5;

/// `struct vfio_device_info_cap_pci_atomic_comp`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapAtomicComp {
    header: Header,
    flags: u32,
    reserved: u32,
}
layout!(CapAtomicComp reads "vfio_device_info_cap_pci_atomic_comp", 16 bytes {
    header at 0, flags at 8, reserved at 12,
});
// SAFETY: numbers, and a structure of numbers.
unsafe impl Plain for CapAtomicComp {}

/// `struct vfio_device_info`.
///
/// Kernels fill what they know of it: `cap_offset` is younger than the rest, and `pad` than that.
#[repr(C)]
#[derive(Clone, Copy)]
struct DeviceInfo {
    argsz: u32,
    flags: u32,
    num_regions: u32,
    num_irqs: u32,
    cap_offset: u32,
    pad: u32,
}
layout!(DeviceInfo reads "vfio_device_info", 24 bytes {
    argsz at 0, flags at 4, num_regions at 8, num_irqs at 12, cap_offset at 16, pad at 20,
});
// SAFETY: six numbers.
unsafe impl Plain for DeviceInfo {}

#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 2] = [DeviceInfo::LAYOUT, CapAtomicComp::LAYOUT];

/// `VFIO_DEVICE_GET_INFO`: reads what the device is, how many regions and interrupts it has, and its capabilities: two
/// calls when there are any.
///
/// Wakes the device when it sleeps.
///
/// # Errors
/// `EINVAL` a cdev that is not bound · `EIO` the device does not wake up · `EPROTO` the chain of capabilities makes no sense ·
/// the driver's own · `ENOTTY` not a VFIO device.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_device_fops_unl_ioctl()`; `drivers/vfio/pci/vfio_pci_core.c`
/// `vfio_pci_ioctl_get_info()`, `vfio_pci_info_atomic_cap()` (7.2).
#[doc(alias = "VFIO_DEVICE_GET_INFO")]
pub fn info(device: BorrowedFd<'_>) -> Result<Info> {
    // SAFETY: the kernel reads and writes at most `argsz` bytes before it returns. Capabilities that do not fit are left
    // out, and `argsz` then holds what they would need.
    let answer = unsafe { capability::ask::<{ opcode::DEVICE_GET_INFO }>(device, &[0; 6]) }?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Info> {
    let info: DeviceInfo = read(answer, 0).ok_or(Errno::PROTO)?;
    let flags = DeviceFlags::from_bits_retain(info.flags);
    let first = if flags.contains(DeviceFlags::CAPS) { info.cap_offset } else { 0 };
    let chain = capability::chain(answer, first)?;
    let capabilities = chain.iter().map(capability_of).collect::<Result<_>>()?;
    Ok(Info { flags, num_regions: info.num_regions, num_irqs: info.num_irqs, capabilities })
}

fn capability_of(one: &capability::Capability<'_>) -> Result<Capability> {
    Ok(match one.header.id {
        CAP_ZPCI_BASE => Capability::ZpciBase(zpci::base(one)?),
        CAP_ZPCI_GROUP => Capability::ZpciGroup(zpci::group(one)?),
        CAP_ZPCI_UTIL => Capability::ZpciUtil(zpci::text(one)?),
        CAP_ZPCI_PFIP => Capability::ZpciPfip(zpci::text(one)?),
        CAP_PCI_ATOMIC_COMP => {
            let cap: CapAtomicComp = read(one.bytes, 0).ok_or(Errno::PROTO)?;
            Capability::PciAtomicComp(AtomicComp::from_bits_retain(cap.flags))
        }
        id => Capability::Other(id, one.header.version),
    })
}

/// `VFIO_DEVICE_RESET`: resets the device, and loses all that was in it.
///
/// # Errors
/// `EINVAL` it cannot be reset alone ([`DeviceFlags::RESET`] is missing), or a cdev that is not bound · `EAGAIN` somebody
/// resets it or holds its lock · `EIO` it does not wake up · the driver's own · `ENOTTY` not a VFIO device.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_ioctl_reset()` (7.2).
#[doc(alias = "VFIO_DEVICE_RESET")]
pub fn reset(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the kernel takes no argument.
    unsafe { call::number::<{ opcode::DEVICE_RESET }>(device, 0) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::tests::answer;

    /// An answer with these flags, capabilities from byte 24.
    fn device(flags: u32, capabilities: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = answer(24, capabilities);
        for (at, word) in [(4, flags), (8, 9), (12, 5), (16, 24)] {
            bytes[at..at + 4].copy_from_slice(&u32::to_ne_bytes(word));
        }
        bytes
    }

    fn bytes(numbers: &[&[u8]]) -> Vec<u8> {
        numbers.concat()
    }

    #[test]
    fn capabilities_are_read_as_the_headers_lay_them_out() {
        let base = bytes(&[
            &1u64.to_ne_bytes(),
            &2u64.to_ne_bytes(),
            &3u16.to_ne_bytes(),
            &4u16.to_ne_bytes(),
            &5u16.to_ne_bytes(),
            &[6, 7],
            &8u32.to_ne_bytes(),
            &[0; 4],
        ]);
        let group = bytes(&[
            &1u64.to_ne_bytes(),
            &2u64.to_ne_bytes(),
            &3u64.to_ne_bytes(),
            &4u16.to_ne_bytes(),
            &5u16.to_ne_bytes(),
            &6u16.to_ne_bytes(),
            &[7, 0],
            &8u16.to_ne_bytes(),
            &[0; 6],
        ]);
        let text = bytes(&[&3u32.to_ne_bytes(), &[0xc1, 0xc2, 0xc3], &[0]]);
        let atomic = bytes(&[&3u32.to_ne_bytes(), &[0; 4]]);
        let info = parse(&device(
            0x82,
            &[(1, 2, base), (2, 2, group), (3, 1, text.clone()), (4, 1, text), (5, 1, atomic), (77, 3, vec![])],
        ));
        let info = info.unwrap();
        assert_eq!(info.flags, DeviceFlags::PCI | DeviceFlags::CAPS);
        assert_eq!((info.num_regions, info.num_irqs), (9, 5));
        let function =
            zpci::Base { start_dma: 1, end_dma: 2, pchid: 3, vfn: 4, fmb_length: 5, pft: 6, gid: 7, fh: Some(8) };
        let functions =
            zpci::Group { dasm: 1, msi_addr: 2, flags: 3, mui: 4, noi: 5, maxstbl: 6, version: 7, imaxstbl: Some(8) };
        let text = vec![0xc1, 0xc2, 0xc3];
        let atomic = AtomicComp::BITS_32 | AtomicComp::BITS_64;
        assert_eq!(
            info.capabilities,
            [
                Capability::ZpciBase(function),
                Capability::ZpciGroup(functions),
                Capability::ZpciUtil(text.clone()),
                Capability::ZpciPfip(text),
                Capability::PciAtomicComp(atomic),
                Capability::Other(77, 3),
            ]
        );
    }

    #[test]
    fn the_first_versions_end_before_the_younger_fields() {
        let info = parse(&device(0x80, &[(1, 1, vec![1; 24]), (2, 1, vec![2; 31])])).unwrap();
        let [Capability::ZpciBase(base), Capability::ZpciGroup(group)] = &info.capabilities[..] else {
            panic!("{info:?}")
        };
        assert_eq!((base.gid, base.fh), (1, None));
        assert_eq!((group.version, group.imaxstbl), (2, None));
    }

    #[test]
    fn a_capability_that_is_cut_is_an_error() {
        let cut: [(u16, usize); 5] = [(1, 23), (2, 30), (3, 3), (4, 3), (5, 7)];
        for (id, length) in cut {
            assert_eq!(parse(&device(0x80, &[(id, 1, vec![0; length])])), Err(Errno::PROTO), "id {id}");
        }
        let longer_than_it_is = bytes(&[&5u32.to_ne_bytes(), &[1; 4]]);
        assert_eq!(parse(&device(0x80, &[(3, 1, longer_than_it_is)])), Err(Errno::PROTO));
        assert_eq!(parse(&[0; 23]), Err(Errno::PROTO));
    }

    #[test]
    fn without_the_flag_no_chain_is_followed() {
        assert_eq!(parse(&device(2, &[(5, 1, vec![])])).unwrap().capabilities, []);
    }
}
