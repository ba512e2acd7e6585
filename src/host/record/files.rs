//! Files that are recorded in part: what concerns the host's own devices.

use crate::matching::encode::encode;
use crate::matching::{Collector, IndexError, Source, Wanted, index};
use crate::model::driver::Table;
use crate::model::{AliasPattern, ModAlias};

/// Where distributions have pci.ids, below `/usr/share`.
pub(super) const PCI_IDS: [&str; 3] = ["misc/pci.ids", "hwdata/pci.ids", "pci.ids"];

/// Lines of mountinfo whose file system is on a block device: its number has a major other than 0, or its source is a
/// node.
pub(super) fn mounts(text: &str) -> String {
    let kept = text.lines().filter(|line| {
        let number = line.split(' ').nth(2).unwrap_or_default();
        let source = line.split_once(" - ").and_then(|(_, after)| after.split(' ').nth(1)).unwrap_or_default();
        !number.starts_with("0:") || source.starts_with("/dev/")
    });
    lines(kept)
}

/// The heading and the default routes, without their gateways.
pub(super) fn default_routes(text: &str) -> String {
    let mut all = text.lines();
    let mut kept: Vec<String> = all.next().into_iter().map(str::to_owned).collect();
    for line in all {
        let mut words: Vec<&str> = line.split('\t').collect();
        if words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000") {
            words[2] = "00000000";
            kept.push(words.join("\t"));
        }
    }
    lines(kept.iter().map(String::as_str))
}

/// Default routes, without their gateways: a router's address has its hardware address in it.
pub(super) fn default_ipv6_routes(text: &str) -> String {
    const NOWHERE: &str = "00000000000000000000000000000000";
    let mut kept = Vec::new();
    for line in text.lines() {
        let mut words: Vec<&str> = line.split(' ').collect();
        if words.len() > 5 && words[0] == NOWHERE && words[1] == "00" {
            words[4] = NOWHERE;
            kept.push(words.join(" "));
        }
    }
    lines(kept.iter().map(String::as_str))
}

/// The prefix of a device-mapper device's UUID, which tells what made it; the rest tells which it is.
pub(super) fn dm_uuid(uuid: &str) -> String {
    let kept = uuid.split('-').take(if uuid.starts_with("part") { 2 } else { 1 });
    kept.flat_map(|part| [part, "-"]).collect()
}

/// What udev found that says who uses a block device: members of ZFS pools, and the types of partitions.
pub(super) fn udev(text: &str) -> String {
    let zfs = text.lines().any(|line| line == "E:ID_FS_TYPE=zfs_member");
    let keeps = |line: &&str| {
        line.starts_with("E:ID_PART_ENTRY_TYPE=")
            || (zfs && ["E:ID_FS_TYPE=", "E:ID_FS_LABEL="].iter().any(|key| line.starts_with(key)))
    };
    lines(text.lines().filter(keeps))
}

/// Of the kernel command line, what gives vfio-pci ids: other words may be secrets.
pub(super) fn ids_on_command_line(text: &str) -> String {
    let ours = |word: &&str| word.trim_start_matches('"').replace('_', "-").starts_with("vfio-pci.ids=");
    text.split_whitespace().filter(ours).collect::<Vec<_>>().join(" ")
}

/// Of a file of modprobe.d, the options of vfio-pci.
pub(super) fn vfio_options(text: &str) -> String {
    let text = text.replace("\\\n", " ");
    let ours = |line: &&str| {
        let mut words = line.split_whitespace();
        words.next() == Some("options") && words.next().is_some_and(|name| name.replace('_', "-") == "vfio-pci")
    };
    lines(text.lines().filter(ours))
}

/// Lines of modules.alias: all of VFIO drivers, and those of native drivers that match a device.
pub(super) fn aliases(text: &[u8], devices: &[ModAlias]) -> String {
    let text = String::from_utf8_lossy(text);
    let kept = text.lines().filter(|line| {
        let mut words = line.split_whitespace();
        let alias = words.next().filter(|word| *word == "alias").and(words.next());
        alias
            .and_then(|alias| alias.parse::<AliasPattern>().ok())
            .is_some_and(|pattern| pattern.table == Table::Vfio || devices.iter().any(|device| pattern.matches(device)))
    });
    lines(kept)
}

/// The index of the aliases of built-in drivers, with what [`aliases`] keeps of the other.
pub(super) fn builtin_aliases(index: &[u8], devices: &[ModAlias]) -> Result<Vec<u8>, IndexError> {
    let mut collector = Collector::default();
    index::collect(index, Source::BuiltIn, &Wanted { devices, modules: &[] }, &mut collector)?;
    let (kept, _) = collector.finish("");
    let text: Vec<(String, u32, String)> =
        kept.iter().map(|alias| (alias.pattern.to_string(), alias.order, alias.module.to_string())).collect();
    let pairs: Vec<_> = text.iter().map(|(alias, order, module)| (alias.as_str(), *order, module.as_str())).collect();
    Ok(encode(&pairs))
}

/// Lines of pci.ids: the vendors and devices that there are, and the classes that they have.
pub(super) fn names(text: &[u8], devices: &[ModAlias]) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut vendor: Option<u16> = None;
    let mut class: Option<u8> = None;
    let hex = |digits: Option<&[u8]>| u16::from_str_radix(std::str::from_utf8(digits?).ok()?, 16).ok();
    for line in text.split(|b| *b == b'\n') {
        let keep = match line {
            [] | [b'#', ..] | [b'\t', b'\t', ..] => false,
            [b'\t', rest @ ..] => match (vendor, class) {
                (Some(vendor), _) => {
                    let device = hex(rest.get(..4));
                    devices.iter().any(|alias| alias.vendor() == vendor && Some(alias.device()) == device)
                }
                (None, Some(base)) => {
                    let sub = hex(rest.get(..2));
                    devices.iter().any(|alias| {
                        alias.class() >> 16 == u32::from(base) && sub.map(u32::from) == Some(alias.class() >> 8 & 0xff)
                    })
                }
                (None, None) => false,
            },
            [b'C', b' ', rest @ ..] => {
                vendor = None;
                let base = hex(rest.get(..2)).and_then(|base| u8::try_from(base).ok());
                class = base.filter(|base| devices.iter().any(|alias| alias.class() >> 16 == u32::from(*base)));
                class.is_some()
            }
            other => {
                class = None;
                vendor = hex(other.get(..4)).filter(|id| devices.iter().any(|alias| alias.vendor() == *id));
                vendor.is_some()
            }
        };
        if keep {
            kept.extend_from_slice(line);
            kept.push(b'\n');
        }
    }
    kept
}

fn lines<'a>(kept: impl Iterator<Item = &'a str>) -> String {
    kept.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_keep_what_leads_out_and_not_through_whom() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                    eno1\t00000000\t0102A8C0\t3\t0\t0\t0\t00000000\n\
                    eno1\t0002A8C0\t00000000\t1\t0\t0\t0\t00FFFFFF\n";
        let kept = default_routes(text);
        assert_eq!(kept.lines().count(), 2);
        assert!(kept.contains("eno1\t00000000\t00000000\t3"), "{kept}");
        let zero = "0".repeat(32);
        let text = format!(
            "{zero} 00 {zero} 00 fe8000000000000002155dfffe010203 1 2 3 4 eno1\nfe80 40 {zero} 00 x 1 2 3 4 eno1\n"
        );
        assert_eq!(default_ipv6_routes(&text), format!("{zero} 00 {zero} 00 {zero} 1 2 3 4 eno1\n"));
    }

    #[test]
    fn mounts_keep_block_devices() {
        let text = "25 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n22 25 0:21 / /proc rw - proc proc rw\n\
                    30 25 0:30 / /home rw - btrfs /dev/sda1 rw\n";
        assert_eq!(mounts(text).lines().count(), 2);
    }

    #[test]
    fn names_of_other_devices_are_left_out() {
        let device = [ModAlias::new(0x15b3, 0x101e, (0, 0), 0x020000)];
        let text = b"# x\n15b3  Mellanox\n\t101d  MT\n\t101e  VF\n\t\t15b3 0001  sub\n8086  Intel\n\t101e  no\n\
                     C 02  Network\n\t00  Ethernet\n\t80  Other\nC 03  Display\n\t00  VGA\n";
        assert_eq!(names(text, &device), b"15b3  Mellanox\n\t101e  VF\nC 02  Network\n\t00  Ethernet\n");
    }
}
