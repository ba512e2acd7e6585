//! The kernel's log, as far as it is kept.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

const LOG: &str = "/dev/kmsg";
const O_NONBLOCK: i32 = 0o4000;
/// A driver that has looked at a VF of igb says so with these words.
pub(crate) const IGBVF: &str = "igbvf 0000:";

/// How many of its lines have these words.
pub(crate) fn told(words: &str) -> Result<usize, String> {
    let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(LOG);
    let mut log = opened.map_err(|error| format!("open {LOG}: {error}"))?;
    let (mut told, mut record) = (0, [0; 8192]);
    loop {
        match log.read(&mut record) {
            Ok(length) => told += usize::from(String::from_utf8_lossy(&record[..length]).contains(words)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(told),
            // Overwritten while it was read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(format!("read {LOG}: {error}")),
        }
    }
}
