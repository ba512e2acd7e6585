//! Files of the user's, written: a recorded host, a device's state.
//!
//! A regular file is made without a name, and gets its name when it is whole and on disk: whoever is cut off leaves nothing
//! behind, and what was there before; at most, in the instant before it takes that one's place, a whole file beside it. A pipe,
//! a device node and standard output are written to as they are.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// What a state is written to.
pub(super) enum Output {
    /// As it comes.
    Direct(Box<dyn Write>),
    /// Into a file that has no name yet, or that of this process.
    Replaces { file: File, temporary: Option<PathBuf>, target: PathBuf },
}

impl Output {
    /// Opens it, by name or through a link; a regular file is not touched yet. One that is new has `mode`, but for what the umask
    /// takes, any other the mode it had.
    pub(super) fn open(path: &Path, mode: Mode) -> io::Result<Self> {
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let before = std::fs::metadata(&target).ok();
        if let Some(before) = before.as_ref().filter(|before| !before.is_file()) {
            if before.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            return Ok(Self::Direct(Box::new(OpenOptions::new().write(true).open(&target)?)));
        }
        let (file, temporary) = unnamed(&target, mode)?;
        let out = Self::Replaces { file, temporary, target };
        if let (Self::Replaces { file, .. }, Some(before)) = (&out, before) {
            file.set_permissions(before.permissions())?;
        }
        Ok(out)
    }

    /// Makes durable what was written, and gives it its name.
    #[expect(clippy::disallowed_methods, reason = "a file of the user's, not the machine")]
    pub(super) fn keep(mut self) -> io::Result<()> {
        match &mut self {
            Self::Direct(out) => out.flush(),
            Self::Replaces { file, temporary, target } => {
                file.sync_all()?;
                let named = match temporary.take() {
                    Some(named) => named,
                    None => {
                        let named = beside(target)?;
                        let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
                        rustix::fs::linkat(CWD, own, CWD, &named, AtFlags::SYMLINK_FOLLOW)?;
                        named
                    }
                };
                std::fs::rename(&named, &*target).inspect_err(|_| drop(std::fs::remove_file(&named)))?;
                // Who may write to a directory may not be allowed to read it; the file is there all the same.
                File::open(directory(target)).map_or(Ok(()), |directory| directory.sync_all())
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Direct(out) => out.write(data),
            Self::Replaces { file, .. } => file.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Direct(out) => out.flush(),
            Self::Replaces { .. } => Ok(()),
        }
    }
}

impl Drop for Output {
    /// What has no name by now is not to have one.
    fn drop(&mut self) {
        if let Self::Replaces { temporary: Some(temporary), .. } = self {
            drop(std::fs::remove_file(temporary));
        }
    }
}

/// For its owner alone: what is in a device may be a secret of whoever uses it.
pub(super) const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// As any other file.
pub(super) const SHARED: Mode = PRIVATE.union(Mode::RGRP).union(Mode::WGRP).union(Mode::ROTH).union(Mode::WOTH);

/// A file without a name in the directory of `target`; with one where the file system knows no such thing.
fn unnamed(target: &Path, mode: Mode) -> io::Result<(File, Option<PathBuf>)> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(directory(target), flags, mode) {
        Ok(file) => Ok((file.into(), None)),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            let named = beside(target)?;
            let file = OpenOptions::new().write(true).create_new(true).mode(mode.as_raw_mode()).open(&named)?;
            Ok((file, Some(named)))
        }
        Err(errno) => Err(errno.into()),
    }
}

fn directory(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name of this process beside the target.
fn beside(target: &Path) -> io::Result<PathBuf> {
    let mut name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    Ok(target.with_file_name(name))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read and write files")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        std::fs::write(&path, "before").unwrap();
        let mut out = Output::open(&path, PRIVATE).unwrap();
        out.write_all(b"half").unwrap();
        drop(out);
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        let mut out = Output::open(&path, PRIVATE).unwrap();
        out.write_all(b"whole").unwrap();
        out.keep().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_file_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        Output::open(&path, PRIVATE).unwrap().keep().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_is_followed_and_a_device_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("state"), directory.path().join("link"));
        std::fs::write(&path, "before").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut out = Output::open(&link, PRIVATE).unwrap();
        out.write_all(b"after").unwrap();
        out.keep().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"after");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(matches!(Output::open(Path::new("/dev/null"), PRIVATE).unwrap(), Output::Direct(_)));
        assert!(Output::open(directory.path(), PRIVATE).is_err());
    }
}
