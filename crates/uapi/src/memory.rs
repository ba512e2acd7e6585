//! Memory of this process that devices may be given.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags};

use crate::{Errno, Result};

/// Zeroed pages of nobody else's, unmapped when it is dropped.
///
/// Nothing reads or writes them here: a device may. The kernel keeps the pages that a device was given until they are unmapped
/// from its address space, so the device never reaches memory that something else has since.
#[derive(Debug)]
pub struct Memory {
    at: NonNull<c_void>,
    length: NonZeroUsize,
}

impl Memory {
    /// So many bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// `EINVAL` none · `ENOMEM`.
    pub fn new(length: usize) -> Result<Self> {
        let page = rustix::param::page_size();
        let length = length.checked_next_multiple_of(page).and_then(NonZeroUsize::new).ok_or(Errno::INVAL)?;
        // SAFETY: the kernel chooses a place where nothing is mapped, and no reference is made of it.
        let at = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                length.get(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        Ok(Self { at: NonNull::new(at).ok_or(Errno::FAULT)?, length })
    }

    /// In bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length.get() as u64
    }

    /// Where it is, as the uAPI takes it.
    pub(crate) fn address(&self) -> u64 {
        crate::dma_logging::address(self.at.as_ptr().cast_const())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this, nothing else has the address but the kernel, and it is dropped once.
        let unmapped = unsafe { rustix::mm::munmap(self.at.as_ptr(), self.length.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of what mmap gave");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_or_none() {
        let page = rustix::param::page_size();
        assert_eq!(Memory::new(1).unwrap().length(), page as u64);
        assert_eq!(Memory::new(0).unwrap_err(), Errno::INVAL);
        assert_eq!(Memory::new(usize::MAX).unwrap_err(), Errno::INVAL);
    }
}
