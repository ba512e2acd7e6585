//! Vendor and device names from the distribution's pci.ids, read at run time so that they are as new as the distribution.

use std::collections::BTreeMap;

use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};

/// Names of the ids that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    vendors: BTreeMap<u16, String>,
    devices: BTreeMap<(u16, u16), String>,
    /// By base class and subclass.
    classes: BTreeMap<(u8, u8), String>,
}

impl Names {
    /// Looks the given (vendor, device) pairs up, and all classes. Without a pci.ids there are no names.
    #[must_use]
    pub fn read(host: &dyn Read, wanted: &[(u16, u16)]) -> Self {
        const PLACES: [&str; 3] = ["misc/pci.ids", "hwdata/pci.ids", "pci.ids"];
        let found = PLACES.into_iter().find_map(|place| {
            let bytes = optional(host.read(&HostPath::fixed(Root::Share, place))).unwrap_or(None)?;
            (!bytes.is_empty()).then_some(bytes)
        });
        found.map_or_else(Self::default, |bytes| Self::parse(&bytes, wanted))
    }

    /// Reads the format of pci.ids: `vvvv  name`, a tab before a device, `C bb  name` for classes.
    #[must_use]
    pub fn parse(bytes: &[u8], wanted: &[(u16, u16)]) -> Self {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        let mut names = Self::default();
        let mut section = Section::None;
        for line in bytes.split(|byte| *byte == b'\n') {
            match line {
                [b'#', ..] | [] | [b'\t', b'\t', ..] => {}
                [b'\t', rest @ ..] => match section {
                    Section::Vendor(vendor) => {
                        if let Some((device, name)) = entry(rest, 4)
                            && wanted.binary_search(&(vendor, device)).is_ok()
                        {
                            names.devices.insert((vendor, device), name);
                        }
                    }
                    Section::Class(base) => {
                        if let Some((sub, name)) = entry(rest, 2) {
                            names.classes.insert((base, u8::try_from(sub).unwrap_or(0)), name);
                        }
                    }
                    Section::None => {}
                },
                [b'C', b' ', rest @ ..] => {
                    section = entry(rest, 2)
                        .and_then(|(base, _)| u8::try_from(base).ok())
                        .map_or(Section::None, Section::Class);
                }
                other => {
                    section = Section::None;
                    if let Some(vendor) = number(other, 4) {
                        let from = wanted.partition_point(|(first, _)| *first < vendor);
                        if wanted.get(from).is_some_and(|(first, _)| *first == vendor) {
                            section = Section::Vendor(vendor);
                            names.vendors.extend(entry(other, 4));
                        }
                    }
                }
            }
        }
        names
    }

    /// `Mellanox Technologies ConnectX Family mlx5Gen Virtual Function`, as far as it is known.
    #[must_use]
    pub fn device(&self, vendor: u16, device: u16) -> Option<String> {
        let vendor_name = self.vendors.get(&vendor)?;
        Some(match self.devices.get(&(vendor, device)) {
            Some(device) => format!("{vendor_name} {device}"),
            None => format!("{vendor_name} device {device:04x}"),
        })
    }

    /// `Ethernet controller`.
    #[must_use]
    pub fn class(&self, base: u8, sub: u8) -> Option<&str> {
        self.classes.get(&(base, sub)).map(String::as_str)
    }
}

#[derive(Clone, Copy)]
enum Section {
    None,
    Vendor(u16),
    Class(u8),
}

fn number(line: &[u8], digits: usize) -> Option<u16> {
    let text = std::str::from_utf8(line.get(..digits)?).ok()?;
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(text, 16).ok()).flatten()
}

fn entry(line: &[u8], digits: usize) -> Option<(u16, String)> {
    let number = number(line, digits)?;
    let name = String::from_utf8_lossy(line.get(digits..)?).trim().to_owned();
    (!name.is_empty()).then_some((number, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: &[u8] = b"# comment\n8086  Intel Corporation\n\t10ca  82576 Virtual Function\n\t\t8086 0001  sub\n\
        15b3  Mellanox Technologies\n\t101e  mlx5Gen VF\nC 02  Network controller\n\t00  Ethernet controller\nffff  Illegal\n\xff\xfe\n";

    #[test]
    fn only_what_was_asked_for_is_kept() {
        let names = Names::parse(IDS, &[(0x8086, 0x10ca), (0x8086, 0x1234)]);
        assert_eq!(names.device(0x8086, 0x10ca).as_deref(), Some("Intel Corporation 82576 Virtual Function"));
        assert_eq!(names.device(0x8086, 0x1234).as_deref(), Some("Intel Corporation device 1234"));
        assert_eq!(names.device(0x15b3, 0x101e), None);
        assert_eq!(names.class(2, 0), Some("Ethernet controller"));
    }
}
