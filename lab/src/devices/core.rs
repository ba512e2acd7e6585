//! The one PCI function behind every device the lab serves: config space, capabilities and BARs.
//!
//! A register is a byte and a mask of the bits a guest may write. Sizing a BAR, which writes ones and reads back what
//! stuck, then needs no code of its own. A model (see `models.rs`) says what its function *is*; nothing here knows any
//! vendor.

use std::io;

use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion};

/// A PCI Express function has 4 KiB of config space; QEMU takes a smaller one for conventional PCI.
const CONFIG_SIZE: usize = 4096;
const STATUS: usize = 0x06;
const STATUS_CAP_LIST: u8 = 0x10;
const FIRST_BAR: usize = 0x10;
const CAPABILITY_POINTER: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

const CAP_PM: u8 = 0x01;
const CAP_PCIE: u8 = 0x10;
const CAP_MSIX: u8 = 0x11;
/// `PCI_EXP_DEVCTL_BCR_FLR` in the high byte of Device Control.
const DEVCTL_FLR: u8 = 0x80;

/// Who a function says it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) subsystem: (u16, u16),
    /// Class, subclass and programming interface, as `class` in sysfs: `0x020000`.
    pub(crate) class: u32,
}

/// A PCI function: registers, what may be written in them, and memory behind its BARs.
pub(crate) struct Function {
    config: Vec<u8>,
    writable: Vec<u8>,
    at_reset: Vec<u8>,
    bars: [Vec<u8>; 6],
    msix_vectors: u16,
    last_capability: usize,
    free: usize,
    pcie: Option<usize>,
}

impl Function {
    /// A function without BARs or capabilities.
    pub(crate) fn new(identity: Identity) -> Function {
        let mut function = Function {
            config: vec![0; CONFIG_SIZE],
            writable: vec![0; CONFIG_SIZE],
            at_reset: Vec::new(),
            bars: Default::default(),
            msix_vectors: 0,
            last_capability: CAPABILITY_POINTER,
            free: FIRST_CAPABILITY,
            pcie: None,
        };
        function.put(0x00, &identity.vendor.to_le_bytes());
        function.put(0x02, &identity.device.to_le_bytes());
        function.put(0x09, &identity.class.to_le_bytes()[..3]);
        function.put(0x2c, &identity.subsystem.0.to_le_bytes());
        function.put(0x2e, &identity.subsystem.1.to_le_bytes());
        function.writable[0x04] = 0x07; // I/O, memory, bus master
        function.writable[0x05] = 0x04; // INTx disable
        function.writable[0x0c] = 0xff; // cache line size
        function.writable[0x3c] = 0xff; // interrupt line
        function
    }

    /// A 64-bit memory BAR of `size` bytes, a power of two of at least 4 KiB, in registers `index` and `index + 1`.
    #[must_use]
    pub(crate) fn memory_bar(mut self, index: usize, size: u32) -> Function {
        debug_assert!(size.is_power_of_two() && size >= 4096 && index < 5, "no such BAR");
        let at = FIRST_BAR + 4 * index;
        self.config[at] = 0x0c; // 64-bit, prefetchable
        let mask = !(u64::from(size) - 1);
        self.writable[at..at + 8].copy_from_slice(&mask.to_le_bytes());
        self.bars[index] = vec![0; size as usize];
        self
    }

    /// Power management: D0 and D3hot, and no soft reset lost in between.
    #[must_use]
    pub(crate) fn power_management(mut self) -> Function {
        let at = self.capability(CAP_PM, &[0x03, 0x00, 0x08, 0x00, 0x00, 0x00]);
        self.writable[at + 4] = 0x03;
        self
    }

    /// PCI Express endpoint, version 2, x1 at 2.5 GT/s, with function level reset.
    #[must_use]
    pub(crate) fn pcie_endpoint(mut self) -> Function {
        let mut body = [0_u8; 58];
        body[0] = 0x02; // capability version 2, endpoint
        body[2..6].copy_from_slice(&0x1000_8000_u32.to_le_bytes()); // role-based errors, FLR
        body[10..14].copy_from_slice(&0x0000_0011_u32.to_le_bytes()); // link capabilities
        body[16..18].copy_from_slice(&0x0011_u16.to_le_bytes()); // link status
        let at = self.capability(CAP_PCIE, &body);
        self.writable[at + 8] = 0xff;
        self.writable[at + 9] = !DEVCTL_FLR;
        self.writable[at + 16] = 0xc3;
        self.pcie = Some(at);
        self
    }

    /// MSI-X with its table at the start of BAR `bar` and the pending bits in that BAR's second half.
    #[must_use]
    pub(crate) fn msix(mut self, bar: u8, vectors: u16) -> Function {
        let half = u32::try_from(self.bars[usize::from(bar)].len() / 2).unwrap_or_default();
        let mut body = [0_u8; 10];
        body[0..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&u32::from(bar).to_le_bytes());
        body[6..10].copy_from_slice(&(half | u32::from(bar)).to_le_bytes());
        let at = self.capability(CAP_MSIX, &body);
        self.writable[at + 3] = 0xc0; // enable, function mask
        self.msix_vectors = vectors;
        self
    }

    /// Appends a capability, dword aligned, and returns where it begins.
    fn capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.free;
        let pointer = u8::try_from(at).unwrap_or_default();
        let link =
            if self.last_capability == CAPABILITY_POINTER { CAPABILITY_POINTER } else { self.last_capability + 1 };
        self.put(link, &[pointer]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.config[STATUS] |= STATUS_CAP_LIST;
        self.last_capability = at;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.config[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The function as it comes out of a reset: call it when the model is complete.
    #[must_use]
    pub(crate) fn finish(mut self) -> Function {
        self.at_reset = self.config.clone();
        self
    }

    /// The regions as `VFIO_DEVICE_GET_REGION_INFO` answers them.
    pub(crate) fn regions(&self) -> Vec<ServerRegion> {
        (0..VFIO_PCI_NUM_REGIONS)
            .map(|index| {
                let size = self.region(index).map_or(0, <[u8]>::len);
                let flags = if size == 0 { 0 } else { VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE };
                let argsz = u32::try_from(size_of::<vfio_region_info>()).unwrap_or_default();
                let region_info = vfio_region_info { argsz, index, flags, size: size as u64, ..Default::default() };
                ServerRegion { region_info, sparse_areas: Vec::new(), mmap_fd: None }
            })
            .collect()
    }

    /// The interrupts as `VFIO_DEVICE_GET_IRQ_INFO` answers them: MSI-X alone.
    pub(crate) fn irqs(&self) -> Vec<IrqInfo> {
        (0..VFIO_PCI_NUM_IRQS)
            .map(|index| match index {
                VFIO_PCI_MSIX_IRQ_INDEX => {
                    IrqInfo { index, flags: VFIO_IRQ_INFO_EVENTFD, count: u32::from(self.msix_vectors) }
                }
                _ => IrqInfo { index, flags: 0, count: 0 },
            })
            .collect()
    }

    fn region(&self, index: u32) -> Option<&[u8]> {
        match index {
            VFIO_PCI_CONFIG_REGION_INDEX => Some(&self.config),
            0..=VFIO_PCI_BAR5_REGION_INDEX => self.bars.get(index as usize).map(Vec::as_slice),
            _ => None,
        }
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if self.pcie.is_some_and(|at| {
            (offset..offset + data.len()).contains(&(at + 9)) && data[at + 9 - offset] & DEVCTL_FLR != 0
        }) {
            self.config.clone_from(&self.at_reset);
            return;
        }
        for (byte, at) in data.iter().zip(offset..) {
            let mask = self.writable[at];
            self.config[at] = (self.config[at] & !mask) | (byte & mask);
        }
    }
}

fn outside(region: u32, offset: u64, len: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{len} bytes at {offset:#x} are outside region {region}"))
}

/// The range of an access, when the region holds all of it.
fn range(size: usize, offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(len)?;
    (end <= size).then_some(start..end)
}

impl ServerBackend for Function {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let memory = self.region(region).unwrap_or_default();
        let range = range(memory.len(), offset, data.len()).ok_or_else(|| outside(region, offset, data.len()))?;
        data.copy_from_slice(&memory[range]);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let size = self.region(region).map_or(0, <[u8]>::len);
        let range = range(size, offset, data.len()).ok_or_else(|| outside(region, offset, data.len()))?;
        if region == VFIO_PCI_CONFIG_REGION_INDEX {
            self.write_config(range.start, data);
        } else {
            self.bars[region as usize][range].copy_from_slice(data);
        }
        Ok(())
    }

    fn dma_map(&mut self, _: DmaMapFlags, _: u64, _: u64, _: u64, _: Option<std::fs::File>) -> io::Result<()> {
        Ok(()) // these functions never master the bus
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.config.clone_from(&self.at_reset);
        Ok(())
    }

    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<std::fs::File>) -> io::Result<()> {
        Ok(()) // these functions never interrupt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: u32 = VFIO_PCI_CONFIG_REGION_INDEX;

    fn function() -> Function {
        Function::new(Identity { vendor: 0x15b3, device: 0x101e, subsystem: (0x15b3, 1), class: 0x02_00_00 })
            .memory_bar(0, 1 << 16)
            .power_management()
            .pcie_endpoint()
            .msix(0, 4)
            .finish()
    }

    fn dword(function: &mut Function, at: u64) -> u32 {
        let mut bytes = [0; 4];
        function.region_read(CONFIG, at, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn a_bar_sizes_as_the_kernel_does_it() {
        let mut function = function();
        function.region_write(CONFIG, 0x10, &u32::MAX.to_le_bytes()).unwrap();
        function.region_write(CONFIG, 0x14, &u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(dword(&mut function, 0x10), 0xffff_000c);
        assert_eq!(dword(&mut function, 0x14), u32::MAX);
    }

    #[test]
    fn the_capability_list_ends_and_holds_each_capability_once() {
        let mut function = function();
        let (mut ids, mut at) = (Vec::new(), dword(&mut function, 0x34) & 0xff);
        while at != 0 {
            let header = dword(&mut function, u64::from(at));
            ids.push((header & 0xff) as u8);
            at = header >> 8 & 0xff;
            assert!(ids.len() < 8, "the list is a cycle");
        }
        assert_eq!(ids, [CAP_PM, CAP_PCIE, CAP_MSIX]);
    }

    #[test]
    fn ids_are_read_only_and_a_function_level_reset_clears_the_command_register() {
        let mut function = function();
        function.region_write(CONFIG, 0, &[0xff; 8]).unwrap();
        assert_eq!(dword(&mut function, 0), 0x101e_15b3);
        assert_eq!(dword(&mut function, 4) & 0xffff, 0x0407);
        let devctl = function.pcie.unwrap() as u64 + 8;
        function.region_write(CONFIG, devctl, &0x8000_u16.to_le_bytes()).unwrap();
        assert_eq!(dword(&mut function, 4) & 0xffff, 0);
    }

    #[test]
    fn an_access_beyond_a_region_is_refused() {
        let mut function = function();
        assert!(function.region_read(CONFIG, 4094, &mut [0; 4]).is_err());
        assert!(function.region_read(0, u64::MAX, &mut [0; 4]).is_err());
        assert!(function.region_write(3, 0, &[0; 4]).is_err());
    }
}
