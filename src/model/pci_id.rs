//! Which product a PCI function is.

use std::fmt;
use std::str::FromStr;

use super::{ModAlias, ParseError};

/// Vendor and device id, or those of a subsystem: `15b3:101e`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciId {
    /// `vendor`.
    pub vendor: u16,
    /// `device`.
    pub device: u16,
}

impl PciId {
    /// Vendor and device of a function.
    #[must_use]
    pub const fn of(alias: &ModAlias) -> Self {
        Self { vendor: alias.vendor(), device: alias.device() }
    }

    /// The subsystem of a function.
    #[must_use]
    pub const fn of_subsystem(alias: &ModAlias) -> Self {
        let (vendor, device) = alias.subsystem();
        Self { vendor, device }
    }
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl FromStr for PciId {
    type Err = ParseError;

    /// Four hexadecimal digits each, in either case.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let half = |digits: &str| {
            let good = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            good.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
        };
        let read = || {
            let (vendor, device) = text.split_once(':')?;
            Some(Self { vendor: half(vendor)?, device: half(device)? })
        };
        read().ok_or_else(|| ParseError::new("a PCI ID such as 15b3:101e", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_in_either_case_and_printed_in_lower() {
        assert_eq!("15B3:101e".parse::<PciId>().unwrap().to_string(), "15b3:101e");
        for wrong in ["", "15b3", "15b3:", "5b3:101e", "15b3:101e:", "+5b3:101e", "0x15b3:101e"] {
            assert!(wrong.parse::<PciId>().is_err(), "{wrong}");
        }
    }
}
