//! What the kernel says of its devices as it happens.

use super::{Address, DriverName};

/// What happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// `add`.
    Appeared,
    /// `remove`.
    Vanished,
    /// `bind`.
    Bound,
    /// `unbind`.
    Unbound,
}

impl Happening {
    /// In a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Appeared => "appeared",
            Self::Vanished => "vanished",
            Self::Bound => "bound",
            Self::Unbound => "unbound",
        }
    }
}

/// A uevent about a device that vfioadm knows how to name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// What happened.
    pub happening: Happening,
    /// To which device.
    pub device: Address,
    /// The driver that has it, of one that is bound.
    pub driver: Option<DriverName>,
}

impl Uevent {
    /// Reads a message of the kernel; `None` of one about anything else.
    ///
    /// # Kernel
    /// `lib/kobject_uevent.c` `kobject_uevent_env()`: `ACTION@DEVPATH`, then `KEY=value`, each ended by a NUL; `drivers/base/core.c`
    /// `dev_uevent()` adds `DRIVER`, `drivers/pci/pci-driver.c` `pci_uevent()` `PCI_SLOT_NAME` (7.2).
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let mut words = text.split('\0');
        // What udev sends on begins with its own name.
        let (_, path) = words.next()?.split_once('@')?;
        let (mut action, mut subsystem, mut driver) = (None, None, None);
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "ACTION" => action = Some(value),
                "SUBSYSTEM" => subsystem = Some(value),
                "DRIVER" => driver = value.parse().ok(),
                _ => {}
            }
        }
        let happening = match action? {
            "add" => Happening::Appeared,
            "remove" => Happening::Vanished,
            "bind" => Happening::Bound,
            "unbind" => Happening::Unbound,
            _ => return None,
        };
        let name = path.rsplit('/').next()?;
        let device = match subsystem? {
            "pci" => Address::Pci(name.parse().ok()?),
            "mdev" => Address::Mdev(name.parse().ok()?),
            _ => return None,
        };
        let driver = driver.filter(|_| happening == Happening::Bound);
        Some(Self { happening, device, driver })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_messages_are_read_and_others_are_not() {
        let bound = b"bind@/devices/pci0000:00/0000:00:03.0/0000:01:00.0\0ACTION=bind\0DEVPATH=/devices/pci0000:00/0000:00:03.0/0000:01:00.0\0SUBSYSTEM=pci\0DRIVER=vfio-pci\0PCI_CLASS=20000\0PCI_SLOT_NAME=0000:01:00.0\0SEQNUM=7\0";
        let event = Uevent::parse(bound).unwrap();
        assert_eq!((event.happening, event.device.to_string().as_str()), (Happening::Bound, "0000:01:00.0"));
        assert_eq!(event.driver.unwrap().as_str(), "vfio-pci");
        let gone = b"remove@/devices/virtual/mtty/mtty/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\0ACTION=remove\0SUBSYSTEM=mdev\0DRIVER=vfio_mdev\0";
        let event = Uevent::parse(gone).unwrap();
        assert_eq!((event.happening, event.driver), (Happening::Vanished, None));
        for other in [
            &b"libudev\0\xfe\xed\xca\xfe"[..],
            b"add@/module/vfio\0ACTION=add\0SUBSYSTEM=module\0",
            b"change@/devices/pci0000:00/0000:00:03.0\0ACTION=change\0SUBSYSTEM=pci\0",
            b"add@/devices/pci0000:00/pci_bus/0000:01\0ACTION=add\0SUBSYSTEM=pci_bus\0",
            b"",
            b"\xff@",
        ] {
            assert_eq!(Uevent::parse(other), None, "{other:?}");
        }
    }
}
