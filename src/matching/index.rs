//! The binary index that depmod writes and kmod reads: modules.alias.bin and its siblings.
//!
//! A radix tree of keys in one file, read here in place: a walk is steered byte by byte by what is looked for, so that a
//! lookup touches a few hundred bytes of a file of megabytes. Total on any bytes: a file that is not an index, or not a
//! whole one, is an [`IndexError`].

use std::ops::RangeInclusive;

use super::tables::{Collector, Source, Wanted};
use crate::model::ModAlias;
use crate::model::driver::Table;

/// The first four bytes.
pub(super) const MAGIC: u32 = 0xB007_F457;
/// The upper half of the version: another one is another format.
const VERSION_MAJOR: u32 = 2;
/// A node has a prefix before its children.
pub(super) const HAS_PREFIX: u32 = 0x8000_0000;
/// A node has values.
pub(super) const HAS_VALUES: u32 = 0x4000_0000;
/// A node has children.
pub(super) const HAS_CHILDREN: u32 = 0x2000_0000;
/// The bits of a node's address that are its place in the file.
pub(super) const PLACE: u32 = 0x0fff_ffff;
/// The longest key that a walk follows: `file2alias` builds a PCI alias in 256 bytes, a module's name has at most 64.
pub(super) const MAX_KEY: usize = 256;

/// Why bytes are not an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It does not begin as an index does.
    #[error("not a kmod index: magic {0:#010x}")]
    Magic(u32),
    /// An index of another format.
    #[error("unknown kmod index version {0:#010x}")]
    Version(u32),
    /// It ends inside a node, or a node lies beyond its end.
    #[error("kmod index is cut off at byte {0}")]
    Truncated(usize),
    /// A node's range of children is upside down.
    #[error("kmod index has a malformed node at byte {0}")]
    Malformed(usize),
    /// Nodes overlap or form a cycle: more bytes were walked than there are.
    #[error("kmod index is no tree: a node is reached twice near byte {0}")]
    NoTree(usize),
    /// A key that no depmod writes.
    #[error("kmod index has a key longer than {MAX_KEY} bytes near byte {0}")]
    LongKey(usize),
}

/// One value of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The key: an alias pattern, or a module's name.
    pub key: &'a [u8],
    /// The order of the module in modules.order, lower first.
    pub priority: u32,
    /// The value: a module's name, or a line of modules.dep.
    pub value: &'a [u8],
}

/// An index in memory.
///
/// # Kernel
/// Not the kernel's but kmod's: `libkmod/libkmod-index.c` (kmod 34.2). All numbers are big-endian; a node is, as the flags
/// in its address say, `prefix NUL`, `first last child[last-first+1]`, `count (priority value NUL)[count]`.
#[derive(Debug, Clone, Copy)]
pub struct Index<'a> {
    data: &'a [u8],
    root: u32,
}

/// A node that a walk has yet to read.
struct Ahead<S> {
    address: u32,
    /// How much of the key stands when the node is reached, and the byte that leads to it.
    depth: usize,
    arc: Option<u8>,
    state: S,
}

impl<'a> Index<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`IndexError`] when it is not the header of an index of version 2.
    pub fn parse(data: &'a [u8]) -> Result<Self, IndexError> {
        let mut header = Cursor { data, at: 0 };
        let magic = header.u32()?;
        if magic != MAGIC {
            return Err(IndexError::Magic(magic));
        }
        let version = header.u32()?;
        if version >> 16 != VERSION_MAJOR {
            return Err(IndexError::Version(version));
        }
        Ok(Self { data, root: header.u32()? })
    }

    /// Visits every entry whose key `step` accepts byte by byte: it gets the state that the last byte led to and gives
    /// the next, or `None` to leave out everything that begins so.
    ///
    /// Nodes of a tree do not overlap, so no honest walk reads more bytes than the file has; one that does is stopped.
    ///
    /// # Errors
    /// [`IndexError`] at the first byte that is not as depmod writes it. What was visited until then may not be all.
    pub fn walk<S: Copy>(
        &self,
        start: S,
        step: impl Fn(S, u8) -> Option<S>,
        mut found: impl FnMut(Entry<'_>, S),
    ) -> Result<(), IndexError> {
        let mut key: Vec<u8> = Vec::new();
        let mut spent = 0_usize;
        let mut ahead = vec![Ahead { address: self.root, depth: 0, arc: None, state: start }];
        'nodes: while let Some(Ahead { address, depth, arc, mut state }) = ahead.pop() {
            let place = (address & PLACE) as usize;
            if place == 0 {
                continue;
            }
            key.truncate(depth);
            key.extend(arc);
            let mut node = Cursor { data: self.data, at: place };
            if address & HAS_PREFIX != 0 {
                let prefix = node.prefix(MAX_KEY - key.len())?;
                for byte in prefix {
                    match step(state, *byte) {
                        Some(next) => state = next,
                        None => continue 'nodes,
                    }
                }
                key.extend_from_slice(prefix);
            }
            let mut children: Option<(&[[u8; 4]], RangeInclusive<u8>)> = None;
            if address & HAS_CHILDREN != 0 {
                let (first, last) = (node.u8()?, node.u8()?);
                let more = last.checked_sub(first).ok_or(IndexError::Malformed(place))?;
                children = Some((node.take((usize::from(more) + 1) * 4)?.as_chunks().0, first..=last));
            }
            if address & HAS_VALUES != 0 {
                for _ in 0..node.u32()? {
                    let priority = node.u32()?;
                    found(Entry { key: &key, priority, value: node.text()? }, state);
                }
            }
            spent += node.at - place;
            if spent > self.data.len() {
                return Err(IndexError::NoTree(place));
            }
            let Some((addresses, arcs)) = children else { continue };
            if key.len() >= MAX_KEY {
                return Err(IndexError::LongKey(place));
            }
            // The last child first: the stack gives them back in the order of their keys.
            for (child, arc) in addresses.iter().zip(arcs).rev() {
                let address = u32::from_be_bytes(*child);
                if address & PLACE != 0
                    && let Some(state) = step(state, arc)
                {
                    ahead.push(Ahead { address, depth: key.len(), arc: Some(arc), state });
                }
            }
        }
        Ok(())
    }

    /// Whether there is a key, compared literally: of modules.dep.bin, whether there is such a module.
    ///
    /// # Errors
    /// [`IndexError`], as [`walk`](Self::walk).
    pub fn contains(&self, wanted: &str) -> Result<bool, IndexError> {
        let wanted = wanted.as_bytes();
        let mut there = false;
        self.walk(
            0_usize,
            |at, byte| (wanted.get(at) == Some(&byte)).then_some(at + 1),
            |_, at| there |= at == wanted.len(),
        )?;
        Ok(there)
    }
}

/// What a lookup reads of an index: every `vfio_pci:` alias, and the `pci:` aliases that are [`Wanted`].
///
/// # Errors
/// [`IndexError`]. What the collector got until then is to be thrown away: it may not be all.
pub fn collect(data: &[u8], source: Source, wanted: &Wanted<'_>, into: &mut Collector) -> Result<(), IndexError> {
    let index = Index::parse(data)?;
    let below = |prefix: &'static [u8]| move |at: usize, byte: u8| within(prefix, at, byte);
    index.walk(0, below(Table::Vfio.prefix().as_bytes()), |entry, at| {
        if at == Table::Vfio.prefix().len() {
            into.add(entry, source, wanted);
        }
    })?;
    if wanted.modules.is_empty() {
        for device in wanted.devices {
            let steer = Steer::new(device);
            index.walk(
                Some(0),
                |at, byte| steer.step(at, byte),
                |entry, _| {
                    into.add(entry, source, wanted);
                },
            )?;
        }
        Ok(())
    } else {
        // A named module's aliases may be anywhere: its table is compared with a device that it may not match.
        index.walk(0, below(Table::Native.prefix().as_bytes()), |entry, at| {
            if at == Table::Native.prefix().len() {
                into.add(entry, source, wanted);
            }
        })
    }
}

/// Accepts every key that begins with `prefix`.
fn within(prefix: &[u8], at: usize, byte: u8) -> Option<usize> {
    match prefix.get(at) {
        Some(wanted) if *wanted == byte => Some(at + 1),
        Some(_) => None,
        None => Some(at),
    }
}

/// Steers a walk to the aliases that can match one device.
///
/// The state is how much of the device's modalias the key has matched so far; `None` once a byte came that no PCI alias
/// of a known form has, after which nothing is left out, so that the odd alias is seen and can be warned of.
struct Steer {
    modalias: String,
}

impl Steer {
    fn new(device: &ModAlias) -> Self {
        Self { modalias: device.for_table(Table::Native) }
    }

    #[expect(clippy::option_option, reason = "the outer is the walk's, the inner is ours")]
    fn step(&self, at: Option<usize>, byte: u8) -> Option<Option<usize>> {
        let Some(at) = at else { return Some(None) };
        let rest = &self.modalias.as_bytes()[at.min(self.modalias.len())..];
        match byte {
            // Fields are upper-case digits between lower-case marks: a star takes the digits, and nothing at the end.
            b'*' => {
                let digits = rest.iter().take_while(|b| b.is_ascii_digit() || b.is_ascii_uppercase()).count();
                Some(Some(at + digits))
            }
            b'?' | b'[' | b'\\' => Some(None),
            _ if rest.first() == Some(&byte) => Some(Some(at + 1)),
            _ => None,
        }
    }
}

/// A place in the bytes, moved by what is read.
struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], IndexError> {
        let end = self.at.checked_add(length).ok_or(IndexError::Truncated(self.at))?;
        let taken = self.data.get(self.at..end).ok_or(IndexError::Truncated(self.at))?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, IndexError> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, IndexError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// As [`text`](Self::text), of `most` bytes at most: a node that is left out again must not cost more than it is worth.
    fn prefix(&mut self, most: usize) -> Result<&'a [u8], IndexError> {
        let rest = self.data.get(self.at..).ok_or(IndexError::Truncated(self.at))?;
        let near = &rest[..rest.len().min(most + 1)];
        let Some(length) = near.iter().position(|b| *b == 0) else {
            return Err(if near.len() <= most { IndexError::Truncated(self.at) } else { IndexError::LongKey(self.at) });
        };
        self.at += length + 1;
        Ok(&rest[..length])
    }

    /// Up to the next NUL, which is taken too.
    fn text(&mut self) -> Result<&'a [u8], IndexError> {
        let rest = self.data.get(self.at..).ok_or(IndexError::Truncated(self.at))?;
        let length = rest.iter().position(|b| *b == 0).ok_or(IndexError::Truncated(self.at))?;
        self.at += length + 1;
        Ok(&rest[..length])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::matching::encode::{Pair, encode};
    use crate::matching::tables::Alias;
    use crate::model::driver::Field;
    use crate::model::{AliasPattern, ModuleName};

    fn entries(data: &[u8]) -> Result<Vec<(String, u32, String)>, IndexError> {
        let mut all = Vec::new();
        Index::parse(data)?.walk(
            (),
            |(), _| Some(()),
            |entry, ()| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                all.push((text(entry.key), entry.priority, text(entry.value)));
            },
        )?;
        Ok(all)
    }

    fn aliases(data: &[u8], wanted: &Wanted<'_>) -> Vec<Alias> {
        let mut collector = Collector::default();
        collect(data, Source::Loadable, wanted, &mut collector).unwrap();
        collector.finish("test").0
    }

    const SMALL: [Pair<'static>; 5] = [
        ("vfio_pci:v*d*sv*sd*bc*sc*i*", 0, "vfio_pci"),
        ("vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*", 1, "mlx5_vfio_pci"),
        ("pci:v000015B3d0000101Esv*sd*bc*sc*i*", 2, "mlx5_core"),
        ("pci:v*d*sv*sd*bc01sc08i02*", 3, "nvme"),
        ("usb:v1D6Bp0002d*", 4, "usbcore"),
    ];

    #[test]
    fn what_is_not_an_index_is_named() {
        assert_eq!(Index::parse(b"").unwrap_err(), IndexError::Truncated(0));
        assert_eq!(Index::parse(b"\x7fELF\0\0\0\0\0\0\0\0").unwrap_err(), IndexError::Magic(0x7f45_4c46));
        let mut future = encode(&SMALL);
        future[5] = 3;
        assert_eq!(Index::parse(&future).unwrap_err(), IndexError::Version(0x0003_0001));
        assert_eq!(Index::parse(&future).unwrap_err().to_string(), "unknown kmod index version 0x00030001");
    }

    #[test]
    fn an_empty_index_has_no_entries() {
        assert_eq!(entries(&encode(&[])).unwrap(), []);
    }

    #[test]
    fn an_index_cut_anywhere_is_an_error_or_empty_but_never_a_panic() {
        let whole = encode(&SMALL);
        for length in 0..whole.len() {
            assert!(entries(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
    }

    #[test]
    fn a_node_that_is_its_own_child_is_an_error() {
        // A node at 12 with one child `a`: itself.
        let mut data = [MAGIC, 0x0002_0001, HAS_CHILDREN | 12].map(u32::to_be_bytes).concat();
        data.extend(*b"aa");
        data.extend((HAS_CHILDREN | 12_u32).to_be_bytes());
        assert_eq!(entries(&data).unwrap_err(), IndexError::NoTree(12));
    }

    #[test]
    fn a_count_of_values_beyond_the_end_is_an_error() {
        let mut data = [MAGIC, 0x0002_0001, HAS_VALUES | 12, u32::MAX].map(u32::to_be_bytes).concat();
        data.extend([0; 64]);
        assert!(matches!(entries(&data).unwrap_err(), IndexError::Truncated(_)));
    }

    #[test]
    fn a_device_lookup_finds_its_aliases_and_every_vfio_alias() {
        let data = encode(&SMALL);
        let device = [ModAlias::new(0x15b3, 0x101e, (0, 0), 0x020000)];
        let found = aliases(&data, &Wanted { devices: &device, modules: &[] });
        let modules: Vec<&str> = found.iter().map(|alias| alias.module.as_str()).collect();
        assert_eq!(modules, ["vfio_pci", "mlx5_vfio_pci", "mlx5_core"]);
    }

    #[test]
    fn a_named_module_gives_all_its_aliases() {
        let data = encode(&SMALL);
        let device = [ModAlias::new(0x15b3, 0x101e, (0, 0), 0x020000)];
        let nvme: [ModuleName; 1] = ["nvme".parse().unwrap()];
        let found = aliases(&data, &Wanted { devices: &device, modules: &nvme });
        assert_eq!(found.iter().filter(|alias| alias.module.as_str() == "nvme").count(), 1);
    }

    #[test]
    fn an_alias_of_an_unknown_form_is_counted_and_the_rest_is_found() {
        let odd: Vec<Pair<'_>> =
            [&SMALL[..], &[("pci:v0000[12]5B3d*sv*sd*bc*sc*i*", 9, "odd"), ("vfio_pci:x*", 9, "odd")]].concat();
        let device = [ModAlias::new(0x15b3, 0x101e, (0, 0), 0x020000)];
        let mut collector = Collector::default();
        let wanted = Wanted { devices: &device, modules: &[] };
        collect(&encode(&odd), Source::Loadable, &wanted, &mut collector).unwrap();
        let (found, warning) = collector.finish("modules.alias.bin");
        assert_eq!(found.len(), 3);
        assert_eq!(
            warning.unwrap().to_string(),
            "modules.alias.bin: left out a PCI alias of an unknown form: vfio_pci:x* odd and 1 more"
        );
    }

    #[test]
    fn a_module_is_found_by_its_whole_name_only() {
        let data = encode(&[("vfio_pci", 0, "kernel/vfio-pci.ko:"), ("vfio_pci_core", 0, "kernel/vfio-pci-core.ko:")]);
        let index = Index::parse(&data).unwrap();
        for (name, there) in [("vfio_pci", true), ("vfio_pci_core", true), ("vfio", false), ("vfio_pci_cor", false)] {
            assert_eq!(index.contains(name), Ok(there), "{name}");
        }
    }

    fn any_alias() -> impl Strategy<Value = AliasPattern> {
        // Few values, so that devices and aliases meet.
        let field = |top: u32| prop_oneof![2 => Just(Field::Any), 3 => (0..top).prop_map(Field::Exact)];
        (proptest::collection::vec(field(3), 7), any::<bool>()).prop_map(|(fields, vfio)| {
            let mut pattern = AliasPattern::catch_all(if vfio { Table::Vfio } else { Table::Native });
            pattern.fields.copy_from_slice(&fields);
            pattern
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(keys in proptest::collection::btree_set("[a-z:*]{0,12}", 0..40)) {
            let pairs: Vec<Pair<'_>> = keys.iter().map(|key| (key.as_str(), 7, "module")).collect();
            let read: BTreeSet<String> = entries(&encode(&pairs)).unwrap().into_iter().map(|(key, ..)| key).collect();
            prop_assert_eq!(read, keys);
        }

        #[test]
        fn a_steered_walk_finds_what_a_full_one_does(
            patterns in proptest::collection::vec(any_alias(), 0..60),
            v in 0u16..3, d in 0u16..3, sv in 0u16..3, class in 0u32..3,
        ) {
            let texts: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            let pairs: Vec<Pair<'_>> = texts.iter().map(|text| (text.as_str(), 1, "module")).collect();
            let device = [ModAlias::new(v, d, (sv, 0), class)];
            let found: BTreeSet<String> = aliases(&encode(&pairs), &Wanted { devices: &device, modules: &[] })
                .iter().map(|alias| alias.pattern.to_string()).collect();
            let full: BTreeSet<String> = patterns.iter()
                .filter(|pattern| pattern.table == Table::Vfio || pattern.matches(&device[0]))
                .map(ToString::to_string).collect();
            prop_assert_eq!(found, full);
        }

        #[test]
        fn damaged_bytes_end_in_an_error_or_bounded_work(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut data = encode(&SMALL);
            for (place, byte) in damage {
                let place = place.index(data.len());
                data[place] = byte;
            }
            let mut visited = 0;
            let walked = Index::parse(&data).and_then(|index| index.walk((), |(), _| Some(()), |_, ()| visited += 1));
            if let Err(error) = walked {
                prop_assert!(error.to_string().contains("kmod index"));
            }
            prop_assert!(visited <= 2 * data.len());
        }
    }
}
