//! Writes the index that [`index`](super::index) reads: for a host that is made from text, and for tests.

use super::index::{HAS_CHILDREN, HAS_PREFIX, HAS_VALUES, MAGIC, MAX_KEY, PLACE};

/// The version that depmod writes.
const VERSION: u32 = 0x0002_0001;

/// One value of one key, with its priority: alias, order of the module, module.
pub type Pair<'a> = (&'a str, u32, &'a str);

/// An index of these values, as depmod would write it.
///
/// A key or value with a NUL, or a key longer than any reader follows, is left out. Values of one key come in the order of
/// their priorities. An index beyond 256 MiB cannot be addressed; what would be is left out.
#[must_use]
pub fn encode(values: &[Pair<'_>]) -> Vec<u8> {
    let plain = |text: &str| !text.bytes().any(|byte| byte == 0);
    let mut sorted: Vec<Pair<'_>> =
        values.iter().copied().filter(|(key, _, value)| key.len() <= MAX_KEY && plain(key) && plain(value)).collect();
    sorted.sort_unstable();
    let mut out = [MAGIC, VERSION, 0].map(u32::to_be_bytes).concat();
    let root = if sorted.is_empty() { 0 } else { node(&sorted, 0, &mut out) };
    out[8..12].copy_from_slice(&root.to_be_bytes());
    out
}

/// Writes the node of all `pairs`, whose keys agree in their first `depth` bytes, after its children; gives its address.
fn node(pairs: &[Pair<'_>], depth: usize, out: &mut Vec<u8>) -> u32 {
    let rest = |pair: &Pair<'_>| pair.0.as_bytes()[depth..].to_vec();
    let (first, last) = (rest(&pairs[0]), rest(&pairs[pairs.len() - 1]));
    // Of a sorted list, what the first and the last have in common all have.
    let prefix: Vec<u8> = first.iter().zip(&last).take_while(|(a, b)| a == b).map(|(a, _)| *a).collect();
    let depth = depth + prefix.len();
    let here = pairs.iter().take_while(|pair| pair.0.len() == depth).count();
    let (values, longer) = pairs.split_at(here);
    let children: Vec<(u8, u32)> = longer
        .chunk_by(|a, b| a.0.as_bytes()[depth] == b.0.as_bytes()[depth])
        .map(|chunk| (chunk[0].0.as_bytes()[depth], node(chunk, depth + 1, out)))
        .collect();
    let Some(place) = u32::try_from(out.len()).ok().filter(|place| *place <= PLACE) else { return 0 };
    let mut flags = 0;
    if !prefix.is_empty() {
        flags |= HAS_PREFIX;
        out.extend(prefix);
        out.push(0);
    }
    if let (Some((first, _)), Some((last, _))) = (children.first(), children.last()) {
        flags |= HAS_CHILDREN;
        out.extend([*first, *last]);
        for arc in *first..=*last {
            let child = children.iter().find(|(of, _)| *of == arc).map_or(0, |(_, address)| *address);
            out.extend(child.to_be_bytes());
        }
    }
    if let Ok(count @ 1..) = u32::try_from(values.len()) {
        flags |= HAS_VALUES;
        out.extend(count.to_be_bytes());
        for (_, priority, value) in values {
            out.extend(priority.to_be_bytes());
            out.extend(value.bytes());
            out.push(0);
        }
    }
    flags | place
}
