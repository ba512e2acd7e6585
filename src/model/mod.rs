//! The nouns: what a host is made of, as plain values. Pure: parse, print, compare, nothing else.
//!
//! Words are the kernel's (ARCHITECTURE.md has the list). A value of one of these types is valid by construction;
//! what a user or a kernel wrote becomes one through `FromStr`, or is refused with a [`ParseError`] that quotes it.

pub mod address;
pub mod devlink;
pub mod driver;
pub mod dsa;
pub mod errno;
pub mod group;
pub mod holder;
pub mod hook;
pub mod identity;
pub mod idxd;
pub mod inventory;
pub mod isolation;
pub mod libvirt;
pub mod mdev;
pub mod offer;
pub mod pci;
pub mod pci_id;
pub mod route;
pub mod rules;
pub mod selector;
pub mod sf;
pub mod stacked;
pub mod target;
pub mod uevent;
pub mod vf;
pub mod vgpu;

pub use address::{Address, Bdf, BusName};
pub use driver::{AliasPattern, DriverName, Field, ModAlias, ModuleName};
pub use errno::Errno;
pub use group::{Group, GroupId};
pub use holder::{Hold, Holder, How, InUse};
pub use hook::{Hook, HookId, HookWay};
pub use idxd::{IdxdDevice, WorkQueue};
pub use inventory::{Inventory, Warning};
pub use mdev::{Mdev, MdevAttribute, MdevAttributeName, MdevParent, MdevType};
pub use offer::{Offer, OfferKind, Parent};
pub use pci::{Class, PciFunction, Role, VfIndex};
pub use pci_id::PciId;
pub use selector::DeviceRef;
pub use sf::{SfParent, Subfunction};
pub use target::Target;
pub use vgpu::{Vgpu, VgpuType};

use std::fmt;

/// So many of something, in the right number: `1 VF`, `4 VFs`, `2 entries`.
pub fn counted<N: fmt::Display + PartialEq + From<u8>>(number: N, what: &str) -> String {
    match what.strip_suffix('y') {
        _ if number == N::from(1) => format!("{number} {what}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {what}s"),
    }
}

/// A text that is not what it was read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {expected}: {text:?}")]
pub struct ParseError {
    /// What was expected, with its article: "a PCI address".
    pub expected: &'static str,
    /// The text, cut to 80 characters.
    pub text: String,
}

impl ParseError {
    /// An error that quotes `text`, cut to 80 characters so that a hostile attribute cannot flood a message.
    #[must_use]
    pub fn new(expected: &'static str, text: &str) -> Self {
        let mut shown: String = text.chars().take(80).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Self { expected, text: shown }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_is_one_and_none_are_many() {
        let said =
            [(0u16, "VF"), (1, "VF"), (2, "VF"), (1, "entry"), (3, "entry")].map(|(n, what)| super::counted(n, what));
        assert_eq!(said, ["0 VFs", "1 VF", "2 VFs", "1 entry", "3 entries"]);
    }
}
