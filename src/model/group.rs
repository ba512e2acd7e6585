//! IOMMU groups: the unit of isolation, and so of ownership.

use std::fmt;
use std::str::FromStr;

use super::{Bdf, ParseError};

/// The number of an IOMMU group, as in `/sys/kernel/iommu_groups/12` and `/dev/vfio/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for GroupId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits
            .then(|| text.parse().ok())
            .flatten()
            .map(Self)
            .ok_or_else(|| ParseError::new("an IOMMU group number", text))
    }
}

/// An IOMMU group and the PCI functions in it.
///
/// A user owns all of a group or nothing of it: it is *viable* while no member has a driver that does DMA on the
/// kernel's behalf.
///
/// # Kernel
/// `drivers/iommu/iommu.c` `iommu_group_claim_dma_owner()`, `iommu_device_use_default_domain()` (7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// The PCI functions in it, in address order, bridges included.
    pub members: Vec<Bdf>,
}
