//! Recorded hosts: a machine as a text that people can review and the [fake kernel](super::fake) can run.
//!
//! ```text
//! vfioadm-host 1
//! /sys/bus/pci/devices/0000:3b:00.0 -> ../../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0
//! /sys/bus/pci/devices/0000:3b:00.0/numa_node = 0
//! /sys/bus/pci/drivers/pci-stub/
//! /proc/swaps | Filename Type Size Used Priority
//! /proc/swaps | /dev/nvme0n1p3 partition 8388604 0 -2
//! /dev/iommu ~
//! end 6
//! ```
//!
//! One node a line, in stable order: `->` a link, `=` a file of one line (its newline is implied), `|` one line of a
//! file of several, `~` a file's exact bytes, a trailing `/` an empty directory; other directories are implied. A path
//! with both a link and nodes below it is a directory that is a link on the real host. Blank lines and lines that begin
//! with `#` mean nothing. Bytes other than printable ASCII are `\xNN`, `\t`, `\n` or `\\`. The last line counts the
//! lines between, so that a file that was cut is not taken for a smaller host.
//!
//! Paths below `/kernel` are what the fake kernel knows and no file of a host shows: templates of VFs, tables of drivers
//! without aliases, the interfaces of a driver that is away. `/kernel/links/pci/0000:3b:00.0` is what netlink tells of a device:
//! `vfs/1/mac` of rtnetlink, `eswitch` and `ports/2/function/migratable` of devlink.

mod files;
mod live;
mod privacy;

use std::fmt::Write as _;

pub use live::record;
pub use privacy::Privacy;

use super::HostPath;
use super::fake::tree::{Dir, HIDDEN, Node, Shown, Tree};
use crate::host::path::Root;

/// What a recorded host begins with.
const MAGIC: &str = "vfioadm-host 1";

/// The longest line.
const LONGEST: usize = 1 << 20;

/// The deepest path.
const DEEPEST: usize = 64;

/// What is wrong with a recorded host, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RecordError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The first line is another one.
    #[error("not a recorded host: it does not begin with \"vfioadm-host 1\"")]
    Magic,
    /// It has more than a mebibyte.
    #[error("longer than 1 MiB")]
    TooLong,
    /// It has bytes that are no text.
    #[error("not text: other than ASCII is written \\xNN")]
    NotText,
    /// It is no node: no path, no sign, or an escape that is none.
    #[error("not a node: {0:?}")]
    NotANode(String),
    /// Its path is under no root, or has an empty or dotted component.
    #[error("not a path of a host: {0:?}")]
    NotAPath(String),
    /// Its path goes through a file.
    #[error("{0} lies below a file")]
    BelowFile(String),
    /// Its path was there before.
    #[error("{0} is there already")]
    Twice(String),
    /// There is no end line: the file was cut.
    #[error("the host was cut here: there is no end line")]
    Cut,
    /// The end line counts another number of lines.
    #[error("the end line counts {said} nodes, there are {found}")]
    Count {
        /// What it says.
        said: usize,
        /// What there is.
        found: usize,
    },
    /// Something follows the end line.
    #[error("something follows the end line")]
    AfterEnd,
}

/// Reads a recorded host.
///
/// # Errors
/// [`RecordError`]: the first line that is wrong.
pub fn parse(bytes: &[u8]) -> Result<Tree, RecordError> {
    let mut tree = Tree::default();
    let mut found = 0;
    let mut last: Option<String> = None;
    let mut ended = false;
    let mut at = 0;
    let at_line = |line: usize| move |problem| RecordError { line, problem };
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        at = number + 1;
        let wrong = at_line(at);
        if line.len() > LONGEST {
            return Err(wrong(Problem::TooLong));
        }
        let text = std::str::from_utf8(line).ok().filter(|text| text.is_ascii());
        let Some(text) = text else {
            return Err(wrong(if number == 0 { Problem::Magic } else { Problem::NotText }));
        };
        let text = text.strip_suffix('\r').unwrap_or(text);
        if number == 0 {
            if text != MAGIC {
                return Err(wrong(Problem::Magic));
            }
            continue;
        }
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if ended {
            return Err(wrong(Problem::AfterEnd));
        }
        if let Some(count) = text.strip_prefix("end ") {
            let said = count.parse().map_err(|_| wrong(Problem::NotANode(cut(text))))?;
            if said != found {
                return Err(wrong(Problem::Count { said, found }));
            }
            ended = true;
            continue;
        }
        add_line(&mut tree, text, &mut last).map_err(wrong)?;
        found += 1;
    }
    if ended { Ok(tree) } else { Err(at_line(at)(Problem::Cut)) }
}

/// Adds the node of one line; `last` is the path of a file that further `|` lines may go on with.
fn add_line(tree: &mut Tree, text: &str, last: &mut Option<String>) -> Result<(), Problem> {
    let not_a_node = || Problem::NotANode(cut(text));
    // The module directory is spelled with a blank.
    let root = format!("{} ", Root::Modules.spelled().split(' ').next().unwrap_or_default());
    let skip = if text.starts_with(&root) { root.len() } else { 0 };
    let (path, sign, value) = match text[skip..].split_once(' ') {
        None => (text, "/", ""),
        Some((path, rest)) => {
            let (sign, value) = rest.split_once(' ').unwrap_or((rest, ""));
            (&text[..skip + path.len()], sign, value)
        }
    };
    let path = if sign == "/" { path.strip_suffix('/').ok_or_else(not_a_node)? } else { path };
    let path = unescape(path).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(not_a_node)?;
    if !is_place(&path) {
        return Err(Problem::NotAPath(cut(&path)));
    }
    let value = unescape(value).ok_or_else(not_a_node)?;
    if sign == "|" && last.as_ref() == Some(&path) {
        tree.append(&path, &value);
        tree.append(&path, b"\n");
        return Ok(());
    }
    *last = (sign == "|").then(|| path.clone());
    let node = match sign {
        "->" => Node::Link(String::from_utf8(value).map_err(|_| not_a_node())?),
        "=" | "|" => Node::File([&value[..], b"\n"].concat()),
        "~" => Node::File(value),
        "/" => Node::Dir(Dir::default()),
        _ => return Err(not_a_node()),
    };
    use super::fake::tree::Conflict;
    tree.insert(&path, node).map_err(|conflict| match conflict {
        Conflict::BelowFile => Problem::BelowFile(cut(&path)),
        Conflict::Twice => Problem::Twice(cut(&path)),
    })
}

/// Whether a path is one of a host, or of what the fake kernel hides.
fn is_place(path: &str) -> bool {
    let hidden = path.strip_prefix(HIDDEN).and_then(|rest| rest.strip_prefix('/'));
    let good = match hidden {
        Some(rest) => rest.split('/').all(|part| !part.is_empty() && part != "." && part != ".."),
        None => HostPath::parse(path).is_some(),
    };
    good && path.split('/').count() <= DEEPEST && !path.contains('\0')
}

/// Prints a host, so that [`parse`] gives it back.
#[must_use]
pub fn print(tree: &Tree) -> String {
    let mut text = format!("{MAGIC}\n");
    let mut count = 0usize;
    let mut line = |path: &str, sign: &str, value: &[u8]| {
        count += 1;
        escape_path(&mut text, path);
        if sign == "/" {
            text.push_str("/\n");
            return;
        }
        text.push(' ');
        text.push_str(sign);
        if !value.is_empty() {
            text.push(' ');
            escape(&mut text, value, Blank::Inside);
        }
        text.push('\n');
    };
    tree.walk(|path, node| match node {
        Shown::Link(to) => line(path, "->", to.as_bytes()),
        Shown::EmptyDir => line(path, "/", b""),
        Shown::File(bytes) => match bytes.split_last() {
            Some((b'\n', rest)) if !rest.contains(&b'\n') => line(path, "=", rest),
            Some((b'\n', rest)) => rest.split(|b| *b == b'\n').for_each(|part| line(path, "|", part)),
            _ => line(path, "~", bytes),
        },
    });
    let _written = writeln!(text, "end {count}");
    text
}

/// Whether a blank may stand for itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blank {
    /// In a value, but not at its end.
    Inside,
    /// In a path: never.
    Never,
}

fn escape_path(text: &mut String, path: &str) {
    let root = Root::Modules.spelled();
    let rest = match path.strip_prefix(root) {
        Some(rest) => {
            text.push_str(root);
            rest
        }
        None => path,
    };
    escape(text, rest.as_bytes(), Blank::Never);
}

fn escape(text: &mut String, bytes: &[u8], blank: Blank) {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b' ' if blank == Blank::Never || at + 1 == bytes.len() => text.push_str("\\x20"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let hex = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
                text.push_str("\\x");
                text.push(hex(byte >> 4));
                text.push(hex(byte & 15));
            }
        }
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'\\' => b'\\',
            b'n' => b'\n',
            b't' => b'\t',
            b'x' => {
                let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|value| u8::try_from(value).ok());
                let (high, low) = (digit()?, digit()?);
                high << 4 | low
            }
            _ => return None,
        });
    }
    Some(bytes)
}

/// A text short enough for a message.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
