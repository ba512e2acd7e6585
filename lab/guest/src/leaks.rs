//! Whether a case that did the same again and again left something behind.

use std::fs;

use crate::orders::Counts;

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

    /// How much more that is than before, in words.
    ///
    /// # Errors
    /// The same, where it is more than a machine that does nothing moves by: some open files, and in full counts, where a
    /// leak adds up, some pages of slab.
    pub(crate) fn grown_since(self, before: Held, counts: Counts) -> Result<String, String> {
        let (files, slab) = (self.files.saturating_sub(before.files), self.slab.saturating_sub(before.slab));
        let told = format!("{files} more open files, {slab} KiB more of slab");
        if files > 32 || (counts == Counts::Full && slab > 2048) {
            return Err(format!("something leaks: {told}; before {before:?}, after {self:?}"));
        }
        Ok(told)
    }
}
