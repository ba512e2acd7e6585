//! What a machine has more of when something is not given back.

use std::fs;

/// What grows when something is not given back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    /// Files that are open on the whole machine.
    files: u64,
    /// Kernel memory that nothing can reclaim, in KiB.
    slab: u64,
}

impl Held {
    /// Of the whole machine, now.
    pub(crate) fn now() -> Result<Held, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let first = |text: &str| text.split_whitespace().find_map(|word| word.parse().ok());
        let files = first(&read("/proc/sys/fs/file-nr")?).ok_or("no number in file-nr")?;
        let meminfo = read("/proc/meminfo")?;
        let slab = meminfo.lines().find_map(|line| line.strip_prefix("SUnreclaim:")).and_then(first);
        Ok(Held { files, slab: slab.ok_or("no SUnreclaim in meminfo")? })
    }

    /// Open files, and KiB of slab, that are more than before.
    pub(crate) fn more_than(self, before: Held) -> (u64, u64) {
        (self.files.saturating_sub(before.files), self.slab.saturating_sub(before.slab))
    }
}
