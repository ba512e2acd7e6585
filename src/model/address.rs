//! Addresses: which device, on which bus.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::ParseError;

/// A PCI address as the kernel spells it, `0000:3b:00.2`: domain, bus, device, function.
///
/// The domain is 32 bits: VMD and Hyper-V make domains above `ffff`, printed with as many digits as they need.
///
/// # Kernel
/// `drivers/pci/probe.c` `pci_setup_device()` names a device `"%04x:%02x:%02x.%d"` (7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    domain: u32,
    bus: u8,
    /// `device << 3 | function`, as the kernel's `devfn`.
    devfn: u8,
}

impl Bdf {
    /// The address of `function` (0..=7) of `device` (0..=31) on `bus` of `domain`; `None` outside those ranges.
    #[must_use]
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self { domain, bus, devfn: device << 3 | function })
    }

    /// The PCI domain (segment).
    #[must_use]
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// The bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device number, 0..=31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// The function number, 0..=7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device(), self.function())
    }
}

impl FromStr for Bdf {
    type Err = ParseError;

    /// Reads `[domain:]bus:device.function` in hexadecimal, any case; the domain has 1 to 8 digits and is 0 when absent.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_bdf(text).ok_or_else(|| ParseError::new("a PCI address", text))
    }
}

fn parse_bdf(text: &str) -> Option<Bdf> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
    let hex = |digits: &str, most: usize| {
        let good = (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        good.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    let byte = |digits: &str| hex(digits, 2).and_then(|value| u8::try_from(value).ok());
    Bdf::new(hex(domain, 8)?, byte(bus)?, byte(device)?, u8::try_from(hex(function, 1)?).ok()?)
}

/// A device name on a bus whose inner form this tool does not need: platform, cdx, ap, ccw, dsa, auxiliary.
///
/// One path component: not empty, not `.` or `..`, no slash, no NUL, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusName(String);

impl BusName {
    /// The name as sysfs spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BusName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BusName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_component(text) { Ok(Self(text.to_owned())) } else { Err(ParseError::new("a device name", text)) }
    }
}

/// Whether `text` is safe as one component of a path: the rule for every name that came from outside.
pub(crate) fn is_component(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text != "."
        && text != ".."
        && !text.bytes().any(|b| b == b'/' || b == 0 || b.is_ascii_control())
}

/// A device on one of the buses that can give a VFIO device.
///
/// Only PCI functions are bound today; the others have an address so that they can be named, listed and refused in words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A PCI function.
    Pci(Bdf),
    /// A mediated device, named by its UUID.
    Mdev(Uuid),
    /// A device of the platform bus (`vfio-platform`), or of amba.
    Platform(BusName),
    /// A device of the cdx bus, `cdx-00:01`.
    Cdx(BusName),
    /// An s390 AP queue, `0a.001f`.
    Ap(BusName),
    /// An s390 channel device or subchannel, `0.0.1234`.
    Ccw(BusName),
    /// An idxd work queue, `wq0.1`.
    Wq(BusName),
    /// A device of the auxiliary bus, `mlx5_core.sf.4`.
    Aux(BusName),
    /// A subfunction, `PF/sfN`: an auxiliary device of its own when it is active.
    Sf {
        /// The PF.
        pf: Bdf,
        /// `DEVLINK_ATTR_PORT_PCI_SF_NUMBER`.
        sfnum: u32,
    },
}

impl Address {
    /// The bus as `/sys/bus` names it.
    #[must_use]
    pub const fn bus(&self) -> &'static str {
        match self {
            Self::Pci(_) => "pci",
            Self::Mdev(_) => "mdev",
            Self::Platform(_) => "platform",
            Self::Cdx(_) => "cdx",
            Self::Ap(_) => "ap",
            Self::Ccw(_) => "ccw",
            Self::Wq(_) => "dsa",
            Self::Aux(_) | Self::Sf { .. } => "auxiliary",
        }
    }
}

impl From<Bdf> for Address {
    fn from(bdf: Bdf) -> Self {
        Self::Pci(bdf)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(bdf) => bdf.fmt(f),
            Self::Mdev(uuid) => uuid.as_hyphenated().fmt(f),
            Self::Platform(name)
            | Self::Cdx(name)
            | Self::Ap(name)
            | Self::Ccw(name)
            | Self::Wq(name)
            | Self::Aux(name) => name.fmt(f),
            Self::Sf { pf, sfnum } => write!(f, "{pf}/sf{sfnum}"),
        }
    }
}

impl FromStr for Address {
    type Err = ParseError;

    /// Tells the bus by the form of the name. A name of no known form is not an address: it may be a netdev.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(bdf) = parse_bdf(text) {
            return Ok(Self::Pci(bdf));
        }
        if text.len() == 36
            && let Ok(uuid) = Uuid::try_parse(text)
        {
            return Ok(Self::Mdev(uuid));
        }
        let name = || BusName::from_str(text);
        if text.starts_with("cdx-") {
            return name().map(Self::Cdx);
        }
        if dotted(text.strip_prefix("wq").unwrap_or(""), &[(1, 4, 10), (1, 4, 10)]) {
            return name().map(Self::Wq);
        }
        if dotted(text, &[(2, 2, 16), (4, 4, 16)]) {
            return name().map(Self::Ap);
        }
        if dotted(text, &[(1, 2, 16), (1, 1, 16), (4, 4, 16)]) {
            return name().map(Self::Ccw);
        }
        if let [module, kind, id] = text.split('.').collect::<Vec<_>>()[..]
            && !module.is_empty()
            && !kind.is_empty()
            && !id.is_empty()
            && id.bytes().all(|b| b.is_ascii_digit())
        {
            return name().map(Self::Aux);
        }
        if let Some((_, last)) = text.split_once('.')
            && text.split('.').count() == 2
            && last.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && text.split('.').next().is_some_and(|unit| unit.len() >= 4 && unit.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return name().map(Self::Platform);
        }
        Err(ParseError::new("a device address", text))
    }
}

/// Whether `text` is dot-separated numbers of the given (least digits, most digits, radix).
fn dotted(text: &str, parts: &[(usize, usize, u32)]) -> bool {
    let found: Vec<&str> = text.split('.').collect();
    found.len() == parts.len()
        && found.iter().zip(parts).all(|(digits, (least, most, radix))| {
            (*least..=*most).contains(&digits.len()) && digits.chars().all(|c| c.is_digit(*radix))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bdf_is_read_with_and_without_its_domain() {
        for (given, wanted) in [
            ("0000:3b:00.2", "0000:3b:00.2"),
            ("3b:00.2", "0000:3b:00.2"),
            ("10000:01:1F.7", "10000:01:1f.7"),
            ("0:0:0.0", "0000:00:00.0"),
        ] {
            assert_eq!(given.parse::<Bdf>().unwrap().to_string(), wanted);
        }
    }

    #[test]
    fn what_is_not_a_bdf_is_refused() {
        for given in [
            "",
            "0000:3b:20.0",
            "0000:3b:00.8",
            "0000:3b:00",
            "3b.0",
            "+0:00:00.0",
            "0000:3b:00.2 ",
            "0000:100:0.0",
            "é:0:0.0",
        ] {
            assert!(given.parse::<Bdf>().is_err(), "{given}");
        }
    }

    #[test]
    fn the_form_of_a_name_tells_its_bus() {
        for (given, bus) in [
            ("0000:3b:00.2", "pci"),
            ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "mdev"),
            ("83B8F4F2-509F-382F-3C1E-E6BFE0FA1001", "mdev"),
            ("wq0.1", "dsa"),
            ("cdx-00:01", "cdx"),
            ("0a.001f", "ap"),
            ("0.0.1234", "ccw"),
            ("mlx5_core.sf.4", "auxiliary"),
            ("fff51000.ethernet", "platform"),
        ] {
            assert_eq!(given.parse::<Address>().unwrap().bus(), bus, "{given}");
        }
        assert!("enp1s0".parse::<Address>().is_err());
    }

    proptest! {
        #[test]
        fn a_bdf_survives_printing(domain: u32, bus: u8, device in 0u8..32, function in 0u8..8) {
            let bdf = Bdf::new(domain, bus, device, function).unwrap();
            prop_assert_eq!(bdf.to_string().parse::<Bdf>().unwrap(), bdf);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }
    }
}
