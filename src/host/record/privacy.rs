//! What a recording leaves out of a machine that it was made on.

use std::collections::BTreeMap;

use crate::host::path::Root;
use crate::host::{HostPath, Read};
use crate::model::vf::{Guid, Mac};

/// Whether a recording tells one machine of a kind from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Privacy {
    /// Serial numbers and hardware addresses are left out or zero, so that a recording can be published.
    #[default]
    Strip,
    /// They are kept.
    Keep,
}

/// Names and addresses as they are recorded.
#[derive(Debug)]
pub(super) struct Disguise {
    privacy: Privacy,
    /// Interfaces that are named by their hardware address, and the names they get.
    names: BTreeMap<String, String>,
}

impl Disguise {
    pub(super) const fn new(privacy: Privacy) -> Self {
        Self { privacy, names: BTreeMap::new() }
    }

    /// Whether nothing is disguised.
    pub(super) fn keeps(&self) -> bool {
        self.privacy == Privacy::Keep
    }

    /// Finds the interfaces whose name is their hardware address, as udev's `enx0123456789ab`.
    pub(super) fn learn(&mut self, host: &dyn Read) {
        if self.keeps() {
            return;
        }
        let mut names = host.list(&HostPath::fixed(Root::Sys, "class/net")).unwrap_or_default();
        names.sort();
        for name in names {
            if let Some((kind, digits)) = name.split_at_checked(3)
                && kind.ends_with('x')
                && digits.len() == 12
                && digits.bytes().all(|b| b.is_ascii_hexdigit())
            {
                let new = format!("{kind}{:012}", self.names.len());
                self.names.insert(name, new);
            }
        }
    }

    /// The name that an interface is recorded by.
    pub(super) fn name(&self, name: &str) -> String {
        self.names.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }

    /// A text with the names in it replaced.
    pub(super) fn names_in(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
    }

    /// A text with the digits of UUIDs in it replaced by zeros: `luks-…` of an encrypted volume.
    pub(super) fn uuids(&self, text: &str) -> String {
        if self.keeps() {
            return text.to_owned();
        }
        let mut bytes = text.as_bytes().to_vec();
        for at in 0..bytes.len().saturating_sub(35) {
            if is_uuid(&bytes[at..at + 36]) {
                bytes[at..at + 36].iter_mut().filter(|b| **b != b'-').for_each(|b| *b = b'0');
            }
        }
        // Only ASCII digits were replaced by ASCII digits.
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// The address of a VF or of the function behind a port: zeros for one of a maker's; what somebody chose stays.
    pub(super) fn mac(&self, mac: Mac) -> Mac {
        if self.keeps() || mac.is_local() { mac } else { Mac([0; 6]) }
    }

    /// A GUID, which names a piece of hardware or the machine that made it up: zeros.
    pub(super) fn guid(&self, guid: Guid) -> Guid {
        if self.keeps() { guid } else { Guid([0; 8]) }
    }

    /// A hardware address: its form, and zeros for its digits.
    pub(super) fn address(&self, bytes: Vec<u8>) -> Vec<u8> {
        let zero = |b: u8| if b.is_ascii_hexdigit() { b'0' } else { b };
        if self.keeps() { bytes } else { bytes.into_iter().map(zero).collect() }
    }
}

fn is_uuid(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .enumerate()
        .all(|(at, b)| if [8, 13, 18, 23].contains(&at) { *b == b'-' } else { b.is_ascii_hexdigit() })
}
