//! Chains of capabilities: what an info structure has behind its fixed part, one after the other.
//!
//! Each begins with a header that has the place of the next one, counted from the start of the structure; the kernel puts
//! them in the order of their places (`drivers/vfio/vfio_main.c` `vfio_info_cap_add()`, `vfio_info_cap_shift()`, 7.2).

use std::os::fd::BorrowedFd;

use rustix::ioctl::Opcode;

use crate::layout::layout;
use crate::{Errno, Result, call};

/// `struct vfio_info_cap_header`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Header {
    /// Which capability.
    pub(crate) id: u16,
    /// Which version of it: fields are added at the end.
    pub(crate) version: u16,
    next: u32,
}
layout!(Header is "vfio_info_cap_header", 8 bytes { id at 0, version at 2, next at 4 });
// SAFETY: three numbers.
unsafe impl Plain for Header {}

/// More than any answer: a region of 1,000 mappable areas has 16 KiB of them.
const LIMIT: u32 = 1 << 20;

/// A structure of which any bytes are a value.
///
/// # Safety
/// It is `repr(C)`, and each field is a number or an array of numbers.
pub(crate) unsafe trait Plain: Copy {}

/// Reads a structure at a place; `None` when the bytes end before it does.
pub(crate) fn read<T: Plain>(bytes: &[u8], at: usize) -> Option<T> {
    let bytes = bytes.get(at..)?.get(..size_of::<T>())?;
    // SAFETY: there are as many bytes as a `T` has, any bytes are one, and it need not be aligned.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Reads `count` structures, one after the other.
pub(crate) fn read_all<T: Plain>(bytes: &[u8], at: usize, count: u32) -> Option<Vec<T>> {
    let bytes = bytes.get(at..)?;
    let whole = bytes.get(..usize::try_from(count).ok()?.checked_mul(size_of::<T>())?)?;
    whole.chunks_exact(size_of::<T>()).map(|one| read(one, 0)).collect()
}

/// One capability: its header, and the bytes from its header to the end of the answer.
#[derive(Clone, Copy)]
pub(crate) struct Capability<'a> {
    pub(crate) header: Header,
    pub(crate) bytes: &'a [u8],
}

/// Follows a chain whose first capability is at `first`; 0 is none.
///
/// # Errors
/// `EPROTO`: it leaves the answer, or does not go on.
pub(crate) fn chain(answer: &[u8], first: u32) -> Result<Vec<Capability<'_>>> {
    let mut found = Vec::new();
    let (mut at, mut beyond) = (first, 0);
    while at != 0 {
        if at < beyond {
            return Err(Errno::PROTO);
        }
        let place = usize::try_from(at).map_err(|_| Errno::PROTO)?;
        let header: Header = read(answer, place).ok_or(Errno::PROTO)?;
        found.push(Capability { header, bytes: &answer[place..] });
        (at, beyond) = (header.next, at + Header::SIZE);
    }
    Ok(found)
}

/// Makes the ioctl `OPCODE` with an info structure, again with more room when there are capabilities that do not fit. Gives
/// the structure and all that is behind it.
///
/// `fixed` is the structure as 32-bit words; its first one, `argsz`, is filled in here.
///
/// # Safety
/// The handlers of `OPCODE` read and write at most `argsz` bytes at their argument, and only until they return.
///
/// # Errors
/// The ioctl's; `EMSGSIZE` the answer wants more than 1 MiB.
pub(crate) unsafe fn ask<const OPCODE: Opcode>(fd: BorrowedFd<'_>, fixed: &[u32]) -> Result<Vec<u8>> {
    let mut room = u32::try_from(size_of_val(fixed)).map_err(|_| Errno::MSGSIZE)?;
    loop {
        let mut words = vec![0u64; usize::try_from(room.div_ceil(8)).map_err(|_| Errno::MSGSIZE)?];
        for (word, pair) in words.iter_mut().zip(fixed.chunks(2)) {
            *word = pack(pair);
        }
        words[0] = pack(&[room, fixed.get(1).copied().unwrap_or(0)]);
        // SAFETY: the caller's word; the first field is `room`, and there are as many bytes, rounded up.
        unsafe { call::words::<OPCODE>(fd, &mut words) }?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let wanted = read::<Word>(&bytes, 0).map_or(0, |word| word.0);
        if wanted <= room {
            return Ok(bytes);
        }
        if wanted > LIMIT {
            return Err(Errno::MSGSIZE);
        }
        room = wanted;
    }
}

/// Two 32-bit words as they lie in memory.
fn pack(pair: &[u32]) -> u64 {
    let mut bytes = [0; 8];
    for (place, word) in bytes.chunks_exact_mut(4).zip(pair) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    u64::from_ne_bytes(bytes)
}

/// A number alone.
#[repr(C)]
#[derive(Clone, Copy)]
struct Word(u32);
// SAFETY: a number.
unsafe impl Plain for Word {}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A fixed part of so many bytes, and capabilities behind it: id, version, and what follows the header.
    pub(crate) fn answer(fixed: usize, capabilities: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![0; fixed];
        for (number, (id, version, body)) in (1..).zip(capabilities) {
            let end = bytes.len() + 8 + body.len();
            let next = if number == capabilities.len() { 0 } else { u32::try_from(end).unwrap() };
            bytes.extend(id.to_ne_bytes());
            bytes.extend(version.to_ne_bytes());
            bytes.extend(next.to_ne_bytes());
            bytes.extend(body);
        }
        bytes
    }

    fn ids(answer: &[u8], first: u32) -> Result<Vec<u16>> {
        Ok(chain(answer, first)?.iter().map(|one| one.header.id).collect())
    }

    #[test]
    fn a_chain_is_followed_to_its_end() {
        let bytes = answer(24, &[(1, 2, vec![7; 8]), (5, 1, vec![]), (9, 1, vec![1])]);
        assert_eq!(ids(&bytes, 24), Ok(vec![1, 5, 9]));
        assert_eq!(ids(&bytes, 0), Ok(vec![]));
        assert_eq!(chain(&bytes, 24).unwrap()[0].bytes[8], 7);
    }

    #[test]
    fn a_chain_cut_anywhere_is_an_error() {
        let bytes = answer(24, &[(1, 1, vec![]), (2, 1, vec![])]);
        for end in 0..bytes.len() {
            assert_eq!(ids(&bytes[..end], 24), Err(Errno::PROTO), "{end} bytes");
        }
        assert_eq!(ids(&bytes, u32::MAX), Err(Errno::PROTO));
    }

    #[test]
    fn a_chain_that_goes_back_or_stays_is_an_error() {
        for next in [24u32, 8, 25, 31] {
            let mut bytes = answer(24, &[(1, 1, vec![0; 16]), (2, 1, vec![])]);
            bytes[28..32].copy_from_slice(&next.to_ne_bytes());
            assert_eq!(ids(&bytes, 24), Err(Errno::PROTO), "next {next}");
        }
    }

    #[test]
    fn structures_are_read_where_they_are_whole() {
        let bytes: Vec<u8> = [1u32, 2, 3].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let words = |at, count| read_all::<Word>(&bytes, at, count).map(|all| all.iter().map(|word| word.0).collect());
        assert_eq!(words(4, 2), Some(vec![2, 3]));
        assert_eq!(words(4, 3), None);
        assert_eq!(words(4, u32::MAX), None);
        assert_eq!(words(13, 0), None);
        assert!(read::<Word>(&bytes, 9).is_none());
        assert!(read::<Word>(&bytes, usize::MAX).is_none());
    }

    #[test]
    fn words_lie_in_memory_as_they_are_written() {
        assert_eq!(pack(&[0x0102_0304, 5]).to_ne_bytes()[..4], 0x0102_0304u32.to_ne_bytes());
        assert_eq!(pack(&[6]).to_ne_bytes()[4..], [0; 4]);
    }
}
