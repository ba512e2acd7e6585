//! Why an IOMMU group holds more than one function: what the ports above them say in their configuration space.

use std::collections::BTreeSet;
use std::fmt;

use super::Bdf;

/// What a group must not be able to do without the IOMMU: source validation, request and completion redirection, upstream
/// forwarding.
///
/// # Kernel
/// `REQ_ACS_FLAGS` of `drivers/iommu/iommu.c` (7.2).
const REQUIRED: u16 = 0x0001 | 0x0004 | 0x0008 | 0x0010;
/// The names of those bits, as `lspci -vv` has them.
const NAMES: [(u16, &str); 4] =
    [(0x0001, "SrcValid"), (0x0004, "ReqRedir"), (0x0008, "CmpltRedir"), (0x0010, "UpstreamFwd")];

/// `PCI_CAP_ID_EXP` and `PCI_EXT_CAP_ID_ACS` (`include/uapi/linux/pci_regs.h`).
const PCIE: u8 = 0x10;
const ACS: u16 = 0x000d;
/// Capabilities do not overlap, so no honest list is longer.
const MOST_CAPABILITIES: usize = (256 - 64) / 4;
const MOST_EXTENDED: usize = (4096 - 256) / 4;

/// What a bridge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// A root port.
    Root,
    /// A switch's port towards the root.
    Upstream,
    /// A switch's port away from it.
    Downstream,
    /// A bridge to conventional PCI.
    ToConventional,
    /// A bridge of conventional PCI itself, or from it to PCIe.
    Conventional,
    /// Another type of the PCIe capability.
    Other(u8),
}

impl PortKind {
    const fn of_type(kind: u8) -> Self {
        match kind {
            0x4 => Self::Root,
            0x5 => Self::Upstream,
            0x6 => Self::Downstream,
            0x7 => Self::ToConventional,
            0x8 => Self::Conventional,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root port",
            Self::Upstream => "upstream port",
            Self::Downstream => "downstream port",
            Self::ToConventional => "PCIe-to-PCI bridge",
            Self::Conventional => "PCI bridge",
            Self::Other(_) => "bridge",
        })
    }
}

/// The ACS capability: what a port can control and what is turned on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acs {
    /// `PCI_ACS_CAP`.
    pub capability: u16,
    /// `PCI_ACS_CTRL`.
    pub control: u16,
}

/// What the configuration space of a bridge says about isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// What it is.
    pub kind: PortKind,
    /// It is one function of several.
    pub multifunction: bool,
    /// Its ACS capability.
    pub acs: Option<Acs>,
}

impl Port {
    /// Reads a configuration space as `config` gives it. `None` when it is cut short: the kernel shows 64 bytes to who is
    /// not root.
    ///
    /// # Kernel
    /// `drivers/pci/pci-sysfs.c` `pci_read_config()`; `drivers/pci/pci.c` `pci_find_next_ext_capability()` (7.2).
    #[must_use]
    pub fn parse(config: &[u8]) -> Option<Self> {
        let multifunction = byte(config, 0x0e)? & 0x80 != 0;
        let has_list = word(config, 0x06)? & 0x10 != 0;
        if has_list && config.len() <= 64 {
            return None;
        }
        let express = if has_list { find(config, PCIE) } else { None };
        let Some(express) = express else {
            return Some(Self { kind: PortKind::Conventional, multifunction, acs: None });
        };
        let kind = PortKind::of_type((word(config, express + 2)? >> 4 & 0xf) as u8);
        let acs = find_extended(config, ACS)
            .and_then(|at| Some(Acs { capability: word(config, at + 4)?, control: word(config, at + 6)? }));
        Some(Self { kind, multifunction, acs })
    }

    /// The shortest configuration space that says the same: what is recorded of it, for the whole has serial numbers.
    #[must_use]
    pub fn to_config(&self) -> Vec<u8> {
        let kind = match self.kind {
            PortKind::Root => Some(0x4),
            PortKind::Upstream => Some(0x5),
            PortKind::Downstream => Some(0x6),
            PortKind::ToConventional => Some(0x7),
            PortKind::Other(kind) => Some(kind),
            PortKind::Conventional => None,
        };
        let mut config = vec![0; 64];
        config[0x0e] = 0x01 | u8::from(self.multifunction) << 7;
        let Some(kind) = kind else { return config };
        (config[0x06], config[0x34]) = (0x10, 0x40);
        config.extend([PCIE, 0, kind << 4 | 2, 0, 0, 0, 0, 0]);
        if let Some(acs) = self.acs {
            config.resize(0x100, 0);
            for word in [ACS, 1, acs.capability, acs.control] {
                config.extend(word.to_le_bytes());
            }
        }
        config
    }

    /// Whether it keeps what is behind it from reaching its neighbours past the IOMMU.
    ///
    /// # Kernel
    /// `drivers/pci/pci.c` `pci_acs_enabled()`, without its table of quirks (7.2).
    #[must_use]
    pub fn isolates(&self) -> bool {
        match self.kind {
            PortKind::ToConventional | PortKind::Conventional | PortKind::Other(0xa) => false,
            PortKind::Root | PortKind::Downstream => self.missing() == Some(0),
            PortKind::Upstream | PortKind::Other(_) => !self.multifunction || self.missing() == Some(0),
        }
    }

    /// What is required and turned off, though it could be turned on; `None` without ACS. What the capability does not have
    /// counts as wired on.
    fn missing(&self) -> Option<u16> {
        self.acs.map(|acs| REQUIRED & acs.capability & !acs.control)
    }
}

fn byte(config: &[u8], at: usize) -> Option<u8> {
    config.get(at).copied()
}

fn word(config: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes([byte(config, at)?, byte(config, at + 1)?]))
}

/// Where a capability is.
fn find(config: &[u8], wanted: u8) -> Option<usize> {
    let mut at = usize::from(byte(config, 0x34)? & 0xfc);
    for _ in 0..MOST_CAPABILITIES {
        if at < 0x40 {
            return None;
        }
        match byte(config, at)? {
            0xff => return None,
            id if id == wanted => return Some(at),
            _ => at = usize::from(byte(config, at + 1)? & 0xfc),
        }
    }
    None
}

/// Where an extended capability is.
fn find_extended(config: &[u8], wanted: u16) -> Option<usize> {
    let mut at = 0x100;
    for _ in 0..MOST_EXTENDED {
        let (id, next) = (word(config, at)?, word(config, at + 2)? >> 4);
        if (id, next) == (0, 0) || id == 0xffff {
            return None;
        }
        if id == wanted {
            return Some(at);
        }
        at = usize::from(next & 0xffc);
        if at < 0x100 {
            return None;
        }
    }
    None
}

/// A bridge above a function, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Its configuration space was read.
    Port(Port),
    /// It was not, with the reason: "it sleeps".
    Unseen(String),
}

/// Why a group holds more than one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Isolation {
    /// This bridge leads to conventional PCI.
    Conventional(Bdf, PortKind),
    /// This port has no ACS.
    NoAcs(Bdf, PortKind),
    /// This port has ACS, and these bits of it are off.
    AcsOff(Bdf, PortKind, u16),
    /// They are functions of one device.
    OneDevice(Bdf),
    /// Nothing that can be seen makes it so.
    Unexplained,
    /// A port could not be looked at.
    Unknown(Bdf, String),
}

impl Isolation {
    /// Says why `device` shares its group with `others`, by the bridges above it, outermost first.
    ///
    /// The outermost port that does not isolate makes the group: all that is behind it is in it.
    ///
    /// # Kernel
    /// `drivers/iommu/iommu.c` `pci_device_group()` (7.2). Quirks of devices, which it knows, are not known here.
    #[must_use]
    pub fn explain(device: Bdf, others: &BTreeSet<Bdf>, above: &[(Bdf, Seen)]) -> Self {
        let open = above.iter().find_map(|(bdf, seen)| match seen {
            Seen::Port(port) if !port.isolates() => Some((*bdf, port)),
            _ => None,
        });
        if let Some((bdf, port)) = open {
            return match (port.kind, port.missing()) {
                (PortKind::ToConventional | PortKind::Conventional, _) => Self::Conventional(bdf, port.kind),
                (kind, Some(missing)) => Self::AcsOff(bdf, kind, missing),
                (kind, None) => Self::NoAcs(bdf, kind),
            };
        }
        if others.iter().any(|other| same_device(*other, device)) {
            return Self::OneDevice(device);
        }
        let unseen = above.iter().find_map(|(bdf, seen)| match seen {
            Seen::Unseen(why) => Some((*bdf, why.clone())),
            Seen::Port(_) => None,
        });
        unseen.map_or(Self::Unexplained, |(bdf, why)| Self::Unknown(bdf, why))
    }
}

impl Isolation {
    /// Whether it was found out.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown(..))
    }
}

fn same_device(one: Bdf, other: Bdf) -> bool {
    (one.domain(), one.bus(), one.device()) == (other.domain(), other.bus(), other.device())
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conventional(bdf, kind) => {
                write!(f, "{bdf} ({kind}) leads to conventional PCI, so everything behind it is one group")
            }
            Self::NoAcs(bdf, kind) => write!(f, "{bdf} ({kind}) has no ACS, so everything behind it is one group"),
            Self::AcsOff(bdf, kind, missing) => {
                let bits: Vec<&str> =
                    NAMES.iter().filter(|(bit, _)| missing & bit != 0).map(|(_, name)| *name).collect();
                let bits = bits.join(", ");
                write!(f, "{bdf} ({kind}) has ACS with {bits} turned off, so everything behind it is one group")
            }
            Self::OneDevice(bdf) => write!(
                f,
                "{:04x}:{:02x}:{:02x} is one device of several functions, which does not say (by ACS) that it isolates them",
                bdf.domain(),
                bdf.bus(),
                bdf.device()
            ),
            Self::Unexplained => {
                f.write_str("every port above it isolates it, so the group is so by a quirk or by firmware")
            }
            Self::Unknown(bdf, why) => write!(f, "what makes the group is unknown: {bdf} was not looked at ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bridge's configuration space: type, header's multifunction bit, ACS capability and control.
    fn config(kind: Option<u8>, header: u8, acs: Option<(u16, u16)>) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[0x0e] = header;
        bytes[0x06] = 0x10;
        bytes[0x34] = 0x40;
        // Power management, then PCIe.
        bytes[0x40..0x42].copy_from_slice(&[0x01, if kind.is_some() { 0x50 } else { 0 }]);
        if let Some(kind) = kind {
            bytes[0x50] = PCIE;
            bytes[0x52] = kind << 4 | 2;
        }
        // AER, then ACS.
        bytes[0x100..0x104].copy_from_slice(&[0x01, 0x00, 0x02, 0x15]);
        if let Some((capability, control)) = acs {
            bytes[0x150..0x154].copy_from_slice(&[0x0d, 0x00, 0x01, 0x00]);
            bytes[0x154..0x156].copy_from_slice(&capability.to_le_bytes());
            bytes[0x156..0x158].copy_from_slice(&control.to_le_bytes());
        }
        bytes
    }

    fn port(kind: Option<u8>, header: u8, acs: Option<(u16, u16)>) -> Seen {
        Seen::Port(Port::parse(&config(kind, header, acs)).unwrap())
    }

    fn explain(device: &str, others: &[&str], above: &[(&str, Seen)]) -> String {
        let others = others.iter().map(|other| other.parse().unwrap()).collect();
        let above: Vec<(Bdf, Seen)> = above.iter().map(|(bdf, seen)| (bdf.parse().unwrap(), seen.clone())).collect();
        Isolation::explain(device.parse().unwrap(), &others, &above).to_string()
    }

    #[test]
    fn a_port_isolates_as_the_kernel_says() {
        let isolates = |kind, header, acs| Port::parse(&config(kind, header, acs)).unwrap().isolates();
        assert!(isolates(Some(4), 0x01, Some((0x1f, 0x1d))), "root port, all on");
        assert!(!isolates(Some(4), 0x01, Some((0x1f, 0x01))), "all but one off");
        assert!(isolates(Some(4), 0x01, Some((0x01, 0x01))), "what it cannot control is wired on");
        assert!(!isolates(Some(4), 0x01, None), "root port without");
        assert!(!isolates(Some(6), 0x01, None), "downstream port without");
        assert!(isolates(Some(5), 0x01, None), "upstream port, single");
        assert!(!isolates(Some(5), 0x81, None), "upstream port, one of several");
        assert!(!isolates(Some(7), 0x01, Some((0x1f, 0x1f))), "PCIe to PCI");
        assert!(!isolates(None, 0x01, None), "conventional");
    }

    #[test]
    fn what_is_recorded_says_the_same() {
        for (kind, header, acs) in [
            (Some(4), 0x81, Some((0x5f, 0x1d))),
            (Some(7), 1, None),
            (None, 1, None),
            (Some(6), 1, None),
            (Some(0xa), 1, None),
        ] {
            let port = Port::parse(&config(kind, header, acs)).unwrap();
            assert_eq!(Port::parse(&port.to_config()), Some(port));
        }
    }

    #[test]
    fn who_is_not_root_sees_no_capability() {
        assert_eq!(Port::parse(&config(Some(4), 1, None)[..64]), None);
        assert_eq!(Port::parse(&[]), None);
    }

    #[test]
    fn the_outermost_port_that_does_not_isolate_makes_the_group() {
        let good = || port(Some(4), 1, Some((0x1f, 0x1d)));
        let switch = || port(Some(5), 1, None);
        let said = explain("0000:03:00.0", &["0000:04:00.0"], &[("0000:00:1c.0", port(Some(4), 1, None))]);
        assert_eq!(said, "0000:00:1c.0 (root port) has no ACS, so everything behind it is one group");
        let above = [
            ("0000:00:1c.0", good()),
            ("0000:01:00.0", switch()),
            ("0000:02:01.0", port(Some(6), 1, Some((0x1f, 0x11)))),
            ("0000:03:00.0", port(Some(7), 1, None)),
        ];
        let said = explain("0000:04:01.0", &["0000:04:02.0"], &above);
        assert!(
            said.starts_with("0000:02:01.0 (downstream port) has ACS with ReqRedir, CmpltRedir turned off"),
            "{said}"
        );
        let said = explain("0000:04:01.0", &["0000:04:02.0"], &[("0000:03:00.0", port(Some(7), 1, None))]);
        assert!(said.starts_with("0000:03:00.0 (PCIe-to-PCI bridge) leads to conventional PCI"), "{said}");
    }

    #[test]
    fn what_no_port_explains_is_one_device_or_a_quirk_or_unknown() {
        let good = || port(Some(4), 1, Some((0x1f, 0x1d)));
        let asleep = || Seen::Unseen("it sleeps".to_owned());
        let said = explain("0000:00:1f.0", &["0000:00:1f.2"], &[]);
        assert!(said.starts_with("0000:00:1f is one device of several functions"), "{said}");
        let said = explain("0000:03:00.0", &["0000:04:00.0"], &[("0000:00:1c.0", good())]);
        assert!(said.contains("by a quirk or by firmware"), "{said}");
        let said = explain("0000:03:00.0", &["0000:04:00.0"], &[("0000:00:1c.0", asleep())]);
        assert!(said.contains("0000:00:1c.0 was not looked at (it sleeps)"), "{said}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_or_run_on(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            length in 0usize..4097,
        ) {
            prop_assert!(Port::parse(&bytes).is_none_or(|port| port.kind != PortKind::Other(16)));
            // A capability list that goes in circles.
            let mut circle = config(Some(4), 1, None);
            circle[0x41] = 0x40;
            circle[0x102..0x104].copy_from_slice(&[0x02, 0x10]);
            circle.truncate(length);
            prop_assert!(Port::parse(&circle).is_none_or(|port| port.acs.is_none()));
        }
    }
}
