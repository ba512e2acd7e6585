//! Files of the real host, whole: attributes, directories, and what vfioadm keeps.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use super::path::Root;
use crate::model::Errno;

/// No attribute, index or table that is read here is larger.
const LIMIT_BYTES: usize = 64 << 20;

/// Reads all of a file below `root`.
pub(super) fn read_all(file: &OwnedFd, root: Root) -> Result<Vec<u8>, Errno> {
    let mut page = [0u8; 4097];
    let mut bytes = Vec::new();
    loop {
        let count = retry(|| rustix::io::read(file, &mut page))?;
        bytes.extend_from_slice(&page[..count]);
        // A sysfs attribute is a page at most and comes in one read: a short one is the end.
        if count == 0 || (root == Root::Sys && count < page.len()) {
            return Ok(bytes);
        }
        if bytes.len() > LIMIT_BYTES {
            return Err(Errno::EFBIG);
        }
        if bytes.len() > page.len() * 4 {
            return read_rest(file, bytes);
        }
    }
}

/// The names in a directory.
pub(super) fn names_in(directory: OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::new(directory).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

/// One `write(2)`. Not repeated on EINTR: the kernel may have acted, and a second `bind` would answer EBUSY.
pub(super) fn write_once(file: &OwnedFd, value: &str) -> Result<(), Errno> {
    rustix::io::write(file, value.as_bytes()).map_err(errno).map(|_| ())
}

/// Makes a file have `content`, by a rename, or not be there. Its directory is made, for root alone.
pub(super) fn keep_below(root: BorrowedFd<'_>, rest: &str, content: Option<&str>) -> Result<(), Errno> {
    let Some(content) = content else {
        return match rustix::fs::unlinkat(root, rest, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(errno(error)),
        };
    };
    let (directory, _) = rest.rsplit_once('/').ok_or(Errno::EINVAL)?;
    match rustix::fs::mkdirat(root, directory, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(errno(error)),
    }
    let fresh = format!("{rest}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, &fresh, flags, Mode::RUSR | Mode::WUSR).map_err(errno)?;
    let written = write_whole(&file, content.as_bytes()).and_then(|()| rustix::fs::fsync(&file).map_err(errno));
    let kept = written.and_then(|()| rustix::fs::renameat(root, &fresh, root, rest).map_err(errno));
    if kept.is_err() {
        // What is left of it is nobody's: it is written over the next time.
        rustix::fs::unlinkat(root, &fresh, AtFlags::empty()).ok();
    }
    kept
}

fn write_whole(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = retry(|| rustix::io::write(file, bytes))?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Reads what is left of a large file in large pieces.
fn read_rest(file: &OwnedFd, mut bytes: Vec<u8>) -> Result<Vec<u8>, Errno> {
    let mut piece = vec![0u8; 256 << 10];
    loop {
        let count = retry(|| rustix::io::read(file, &mut piece))?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&piece[..count]);
        if bytes.len() > LIMIT_BYTES {
            return Err(Errno::EFBIG);
        }
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> Result<T, Errno> {
    rustix::io::retry_on_intr(call).map_err(errno)
}
