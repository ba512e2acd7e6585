//! What an operation acts on. It may not be there yet when the operation is planned.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::dsa::DsaName;
use super::{Address, Bdf, ParseError, VfIndex};

/// The object of one lane of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A PCI function by its address.
    Pci(Bdf),
    /// A VF by its PF: it has an address when `virtfnN` appears, and perhaps another one the next time.
    Vf {
        /// The PF.
        pf: Bdf,
        /// N of `virtfnN`.
        index: VfIndex,
    },
    /// An mdev.
    Mdev(Uuid),
    /// An idxd device or a WQ of it. Both are there as long as driver `idxd` has the function.
    Dsa(DsaName),
    /// A subfunction by its PF.
    Sf {
        /// The PF.
        pf: Bdf,
        /// `DEVLINK_ATTR_PORT_PCI_SF_NUMBER`.
        sfnum: u32,
    },
}

impl From<Bdf> for Target {
    fn from(bdf: Bdf) -> Self {
        Self::Pci(bdf)
    }
}

impl Target {
    /// Its address, when that is known before it is there.
    #[must_use]
    pub const fn address(self) -> Option<Address> {
        match self {
            Self::Pci(bdf) => Some(Address::Pci(bdf)),
            Self::Mdev(uuid) => Some(Address::Mdev(uuid)),
            Self::Vf { .. } | Self::Dsa(_) | Self::Sf { .. } => None,
        }
    }

    /// The PCI address, of one that is named by it.
    #[must_use]
    pub const fn pci(self) -> Option<Bdf> {
        match self {
            Self::Pci(bdf) => Some(bdf),
            Self::Vf { .. } | Self::Mdev(_) | Self::Dsa(_) | Self::Sf { .. } => None,
        }
    }

    /// Whether it is a PCI function.
    #[must_use]
    pub const fn is_function(self) -> bool {
        matches!(self, Self::Pci(_) | Self::Vf { .. })
    }

    /// The function that it is, or is of, as far as its name tells.
    #[must_use]
    pub const fn of_function(self) -> Option<Bdf> {
        match self {
            Self::Pci(bdf) | Self::Vf { pf: bdf, .. } | Self::Sf { pf: bdf, .. } => Some(bdf),
            Self::Mdev(_) | Self::Dsa(_) => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(bdf) => bdf.fmt(f),
            Self::Vf { pf, index } => write!(f, "{pf}/vf{index}"),
            Self::Mdev(uuid) => uuid.as_hyphenated().fmt(f),
            Self::Dsa(name) => name.fmt(f),
            Self::Sf { pf, sfnum } => write!(f, "{pf}/sf{sfnum}"),
        }
    }
}

impl FromStr for Target {
    type Err = ParseError;

    /// Reads what [`Display`](fmt::Display) prints.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refused = || ParseError::new("a PCI address, PF/vfN, PF/sfN, an mdev UUID, an idxd device or a WQ", text);
        if let Some((pf, index)) = text.split_once("/vf") {
            let digits = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
            let index = digits.then(|| index.parse().ok()).flatten().ok_or_else(refused)?;
            return Ok(Self::Vf { pf: pf.parse().map_err(|_| refused())?, index });
        }
        if let Some((pf, sfnum)) = text.split_once("/sf") {
            let digits = !sfnum.is_empty() && sfnum.bytes().all(|b| b.is_ascii_digit());
            let sfnum = digits.then(|| sfnum.parse().ok()).flatten().ok_or_else(refused)?;
            return Ok(Self::Sf { pf: pf.parse().map_err(|_| refused())?, sfnum });
        }
        if let Ok(name @ (DsaName::Device(..) | DsaName::Queue(..))) = text.parse() {
            return Ok(Self::Dsa(name));
        }
        match text.parse() {
            Ok(Address::Pci(bdf)) => Ok(Self::Pci(bdf)),
            Ok(Address::Mdev(uuid)) => Ok(Self::Mdev(uuid)),
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        for text in [
            "0000:3b:00.2",
            "10000:e1:00.0/vf126",
            "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
            "wq0.1",
            "iax1",
            "0000:3b:00.0/sf88",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "3b",
            "/vf0",
            "0000:3b:00.2/vf",
            "0000:3b:00.2/vf-1",
            "0000:3b:00.2/vf65536",
            "wq0",
            "0000:3b:00.0/sf",
            "engine0.1",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
