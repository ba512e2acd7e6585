//! The migration state of a device in a file: a header that says whose it is, the device's own stream in pieces, and an end.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `VFIOADM\n` |
//! | 4, 4 | length of the header, and its sum |
//! | … | the header, JSON: [`Header`] |
//! | 4, 4, … | a piece: its length, the sum, and what the device gave; again and again |
//! | 4, 4, 8 | the end: a piece of length 0, the sum, and how many bytes of the device there were |
//!
//! Numbers are little-endian. A sum is the CRC-32 (IEEE) of everything before it but other sums, and of what follows it up to
//! the next; so a piece that is damaged, lost, doubled or out of order is known before it is given to a device, also from a pipe
//! that cannot be read twice. It guards against damage, not against forgery: a device's state is as trustworthy as its file.
//!
//! What the device gave is opaque, and its pieces say nothing: the kernel takes them in any segmentation
//! (`include/uapi/linux/vfio.h`, `VFIO_DEVICE_STATE_RESUMING`, 7.2).

mod read;
mod write;

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use read::Reader;
pub use write::Writer;

/// What every file begins with.
const MAGIC: [u8; 8] = *b"VFIOADM\n";

/// What the header says it is.
const FORMAT: &str = "vfioadm-state/1";

/// Of a header. Ours has a few hundred bytes.
const HEADER_LIMIT_BYTES: usize = 64 << 10;

/// Of a piece, as it is read; what is written comes in pieces of [`PIECE_BYTES`] at most.
const PIECE_LIMIT_BYTES: usize = 16 << 20;

/// How much is asked of a device at once: large enough that a call costs nothing, small enough to lie in a cache.
pub const PIECE_BYTES: usize = 1 << 20;

/// A length and a sum.
const HEAD_BYTES: usize = 8;

/// Whose state it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// `vfioadm-state/1`.
    format: String,
    /// What it can be loaded into.
    pub kind: Kind,
    /// The device that it was saved from, as it was named.
    pub device: String,
    /// `uname -r` of the host.
    pub kernel: String,
    /// Whether part of it was saved while the device ran.
    pub precopy: bool,
    /// When: seconds since 1970-01-01 00:00 UTC.
    pub date: u64,
}

/// What two devices have in common when the state of one can be loaded into the other, as far as that can be told from outside.
/// The driver checks the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// The VFIO driver, whose format it is.
    pub driver: String,
    /// Which hardware: `8086:10ca 1af4:1100`, vendor, device, and those of the subsystem; or an mdev type.
    pub model: String,
}

impl Header {
    /// The header of a state that is saved now.
    #[must_use]
    pub fn new(kind: Kind, device: String, kernel: String) -> Self {
        Self { format: FORMAT.to_owned(), kind, device, kernel, precopy: false, date: 0 }
    }

    /// Whether it can be loaded into a device of this kind.
    ///
    /// # Errors
    /// What does not agree.
    pub fn fits(&self, kind: &Kind) -> Result<(), Mismatch> {
        if self.kind == *kind {
            return Ok(());
        }
        Err(Mismatch { file: self.kind.clone(), device: kind.clone() })
    }
}

/// The state is of another kind of device.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it is of {} on {}, and the device is {} on {}", file.model, file.driver, device.model, device.driver)]
pub struct Mismatch {
    /// What the file is of.
    pub file: Kind,
    /// What the device is.
    pub device: Kind,
}

/// Why a file is not, or not all of, a device's state.
#[derive(Debug, Error)]
pub enum StreamError {
    /// Not a byte.
    #[error("it is empty")]
    Empty,
    /// It begins otherwise.
    #[error("it is no state file of vfioadm")]
    Foreign,
    /// A header that is not understood.
    #[error("its header is of another version, or damaged: {0}")]
    Header(String),
    /// A sum or a length is wrong.
    #[error("it is damaged after {0} bytes of the device's state")]
    Damaged(u64),
    /// It ends before its end.
    #[error("it is cut off after {0} bytes of the device's state")]
    Cut(u64),
    /// There is more after its end.
    #[error("something follows its end, after {0} bytes of the device's state")]
    Trailing(u64),
    /// It cannot be read, or written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The sum of everything so far.
#[derive(Debug, Clone, Copy, Default)]
struct Sum(u32);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        self.0 = hasher.finalize();
    }
}

#[cfg(test)]
mod tests;
