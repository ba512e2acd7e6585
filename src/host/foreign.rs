//! Files of other tools that a user has named: a file, or all that is in a directory.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno as Raw;

use crate::model::Errno;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFile {
    /// Its path, as messages name it.
    pub path: String,
    /// What is in it; what is no UTF-8 is replaced.
    pub text: String,
}

/// Why one is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {what}", path.display())]
pub struct ForeignError {
    /// Which.
    pub path: PathBuf,
    /// What is the matter with it.
    pub what: String,
}

/// More than any of them has.
const LIMIT: u64 = 16 << 20;

/// Directories below the one that is named: `mdevctl.d/<parent>/<uuid>` has one.
const DEPTH: usize = 3;

/// Reads a file, or all regular files in a directory and below it, in the order of their names; hidden ones are passed over.
///
/// # Errors
/// [`ForeignError`]: what is named is not there, or something of it cannot be read.
pub fn named(path: &Path) -> Result<Vec<ForeignFile>, ForeignError> {
    let mut found = Vec::new();
    walk(path, DEPTH, &mut found)?;
    Ok(found)
}

fn walk(path: &Path, depth: usize, found: &mut Vec<ForeignFile>) -> Result<(), ForeignError> {
    // A pipe that nobody writes to would be waited for for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| refused(path, errno))?;
    let stat = rustix::fs::fstat(&opened).map_err(|errno| refused(path, errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => found.push(read(path, opened)?),
        FileType::Directory => {
            for name in names(path, &opened)? {
                match kind(&opened, &name) {
                    Some(FileType::Directory) if depth == 0 => {}
                    Some(FileType::RegularFile | FileType::Directory) => {
                        walk(&path.join(&name), depth.saturating_sub(1), found)?;
                    }
                    _ => {}
                }
            }
        }
        _ => {
            return Err(ForeignError {
                path: path.to_owned(),
                what: String::from("is neither a file nor a directory"),
            });
        }
    }
    Ok(())
}

/// What a name is, or the file that a link of this name leads to; a link to a directory may lead in a circle.
fn kind(directory: &OwnedFd, name: &str) -> Option<FileType> {
    let stat =
        |flags| rustix::fs::statat(directory, name, flags).ok().map(|stat| FileType::from_raw_mode(stat.st_mode));
    match stat(AtFlags::SYMLINK_NOFOLLOW)? {
        FileType::Symlink => stat(AtFlags::empty()).filter(|kind| *kind == FileType::RegularFile),
        kind => Some(kind),
    }
}

fn names(path: &Path, directory: &OwnedFd) -> Result<Vec<String>, ForeignError> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory).map_err(|errno| refused(path, errno))? {
        let entry = entry.map_err(|errno| refused(path, errno))?;
        found.extend(entry.file_name().to_str().ok().filter(|name| !name.starts_with('.')).map(str::to_owned));
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path, opened: OwnedFd) -> Result<ForeignFile, ForeignError> {
    let error = |what: String| ForeignError { path: path.to_owned(), what };
    let mut bytes = Vec::new();
    let mut limited = std::io::Read::take(std::fs::File::from(opened), LIMIT + 1);
    std::io::Read::read_to_end(&mut limited, &mut bytes)
        .map_err(|failed| error(format!("cannot be read: {failed}")))?;
    if bytes.len() as u64 > LIMIT {
        return Err(error(format!("has more than {} MiB", LIMIT >> 20)));
    }
    Ok(ForeignFile { path: path.display().to_string(), text: String::from_utf8_lossy(&bytes).into_owned() })
}

fn refused(path: &Path, errno: Raw) -> ForeignError {
    let what = match errno {
        Raw::NOENT => String::from("is not there"),
        other => format!("cannot be read: {}", Errno(other.raw_os_error())),
    };
    ForeignError { path: path.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_in_the_order_of_its_names_and_not_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str| rustix::fs::mkdir(directory.path().join(name), Mode::from_raw_mode(0o755)).unwrap();
        let file = |name: &str| {
            let flags = OFlags::CREATE | OFlags::WRONLY;
            drop(rustix::fs::open(directory.path().join(name), flags, Mode::from_raw_mode(0o644)).unwrap());
        };
        ["b", "a"].into_iter().for_each(put);
        ["b/2", "b/.hidden", "a/3", "1"].into_iter().for_each(file);
        // A link that leads back up, and one that leads nowhere.
        std::os::unix::fs::symlink("..", directory.path().join("a/up")).unwrap();
        std::os::unix::fs::symlink("nothing", directory.path().join("b/gone")).unwrap();
        let found = named(directory.path()).unwrap();
        let top = format!("{}/", directory.path().display());
        let short: Vec<&str> = found.iter().map(|file| file.path.strip_prefix(&top).unwrap()).collect();
        assert_eq!(short, ["1", "a/3", "b/2"]);
        assert_eq!(named(&directory.path().join("c")).unwrap_err().what, "is not there");
    }
}
