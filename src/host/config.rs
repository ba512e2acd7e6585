//! The host file of the machine: read only where nobody but root can have written it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno as Raw;

use crate::model::Errno;

/// A file of the host, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFileText {
    /// Its path, as messages name it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {what}", path.display())]
pub struct ConfigError {
    /// Which.
    pub path: PathBuf,
    /// What is the matter with it.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// Who may have written a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Root alone: it says by itself what is done to a machine.
    Root,
    /// Whoever it belongs to, and nobody else: somebody has named it just now.
    Owner,
}

/// The directory that the files of a machine are below.
pub const DIRECTORY: &str = "/etc/vfioadm";

/// More than any host needs.
const LIMIT: u64 = 16 << 20;

/// Reads `/etc/vfioadm/host.toml` and what is in `/etc/vfioadm/host.d`, in the order of their names.
///
/// # Errors
/// [`ConfigError`]: there is neither; one is no regular file, a symbolic link out of `/etc`, or others than root can write it.
pub fn of_the_machine() -> Result<Vec<HostFileText>, ConfigError> {
    below(Path::new("/etc"))
}

/// Whether the machine has a host file, or a directory for parts of one.
#[must_use]
pub fn is_there() -> bool {
    ["host.toml", "host.d"].iter().any(|name| rustix::fs::stat(format!("{DIRECTORY}/{name}")).is_ok())
}

/// The same below another directory than `/etc`, whose links may not lead out of it.
///
/// # Errors
/// As [`of_the_machine`].
pub fn below(etc: &Path) -> Result<Vec<HostFileText>, ConfigError> {
    let top = rustix::fs::open(etc, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let top = top.map_err(|errno| refused(etc, errno))?;
    let mut found = Vec::new();
    let directory = etc.join("vfioadm");
    if let Some(opened) = open(&top, etc, "vfioadm")? {
        trust(&opened, &directory, FileType::Directory)?;
    }
    if let Some(opened) = open(&top, etc, "vfioadm/host.toml")? {
        found.push(read(opened, &directory.join("host.toml"), Trust::Root)?);
    }
    if let Some(parts) = open(&top, etc, "vfioadm/host.d")? {
        let path = directory.join("host.d");
        trust(&parts, &path, FileType::Directory)?;
        for name in names(&parts, &path)? {
            let place = format!("vfioadm/host.d/{name}");
            let file = path.join(&name);
            let opened = open(&top, etc, &place)?;
            let opened = opened.ok_or_else(|| refused(&file, Raw::NOENT))?;
            found.push(read(opened, &file, Trust::Root)?);
        }
    }
    if found.is_empty() {
        return Err(ConfigError {
            path: directory.join("host.toml"),
            what: String::from("is not there, and host.d beside it has no file"),
            remedy: String::from("write one; vfioadm describe prints what this host is now"),
        });
    }
    Ok(found)
}

/// Reads a file that the user has named.
///
/// # Errors
/// [`ConfigError`] as [`of_the_machine`], but that a link may lead anywhere.
pub fn named(path: &Path) -> Result<HostFileText, ConfigError> {
    // A pipe that nobody writes to would be waited for for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| refused(path, errno))?;
    read(opened, path, Trust::Owner)
}

/// Opens below `/etc`, whatever links there are, and never out of it.
fn open(top: &OwnedFd, etc: &Path, place: &str) -> Result<Option<OwnedFd>, ConfigError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::openat2(top, place, flags, Mode::empty(), ResolveFlags::BENEATH) {
        Ok(opened) => Ok(Some(opened)),
        Err(Raw::NOENT) => {
            // A link to nothing is a mistake, not an absence.
            let link = rustix::fs::statat(top, place, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
            match link {
                Ok(_) => Err(refused(&etc.join(place), Raw::NOENT)),
                Err(_) => Ok(None),
            }
        }
        Err(errno) => Err(refused(&etc.join(place), errno)),
    }
}

/// The files of `host.d`: those that end in `.toml` and are not hidden, in the order of their names.
fn names(directory: &OwnedFd, path: &Path) -> Result<Vec<String>, ConfigError> {
    let mut found = Vec::new();
    let entries = Dir::read_from(directory).map_err(|errno| refused(path, errno))?;
    for entry in entries {
        let entry = entry.map_err(|errno| refused(path, errno))?;
        match entry.file_name().to_str() {
            Ok(name) if name.ends_with(".toml") && !name.starts_with('.') => found.push(name.to_owned()),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

fn read(opened: OwnedFd, path: &Path, trusted: Trust) -> Result<HostFileText, ConfigError> {
    let error = |what: String, remedy: &str| ConfigError { path: path.to_owned(), what, remedy: remedy.to_owned() };
    match trusted {
        Trust::Root => trust(&opened, path, FileType::RegularFile)?,
        Trust::Owner => {
            let stat = kind(&opened, path, FileType::RegularFile)?;
            if stat.st_mode & 0o002 != 0 {
                let remedy = format!("chmod o-w {}", path.display());
                return Err(error(String::from("can be written by anybody, and says what is done to a host"), &remedy));
            }
        }
    }
    let mut bytes = Vec::new();
    let mut limited = std::io::Read::take(std::fs::File::from(opened), LIMIT + 1);
    std::io::Read::read_to_end(&mut limited, &mut bytes)
        .map_err(|failed| error(format!("cannot be read: {failed}"), "see that its file system is well"))?;
    if bytes.len() as u64 > LIMIT {
        return Err(error(format!("has more than {} MiB", LIMIT >> 20), "a host file is text, and short"));
    }
    let text = String::from_utf8(bytes).map_err(|_| error(String::from("is no UTF-8 text"), "write it anew"))?;
    Ok(HostFileText { name: path.display().to_string(), text })
}

fn kind(opened: impl AsFd, path: &Path, wanted: FileType) -> Result<rustix::fs::Stat, ConfigError> {
    let stat = rustix::fs::fstat(opened).map_err(|errno| refused(path, errno))?;
    let is = FileType::from_raw_mode(stat.st_mode);
    if is == wanted {
        return Ok(stat);
    }
    let (what, remedy) = match (wanted, is) {
        (FileType::RegularFile, FileType::Directory) => {
            ("is a directory, and a host file is a file", "name a file in it; its parts go into /etc/vfioadm/host.d")
        }
        (FileType::RegularFile, _) => ("is no regular file", "write it to a file first"),
        _ => ("is no directory", "make it one"),
    };
    Err(ConfigError { path: path.to_owned(), what: what.to_owned(), remedy: remedy.to_owned() })
}

/// What root alone can change.
fn trust(opened: impl AsFd, path: &Path, wanted: FileType) -> Result<(), ConfigError> {
    let stat = kind(opened, path, wanted)?;
    let (what, remedy) = match (stat.st_uid, stat.st_mode & 0o022) {
        (0, 0) => return Ok(()),
        (0, mode) => {
            let who = if mode & 0o002 != 0 { "anybody" } else { "its group" };
            (format!("can be written by {who}, and says what root does"), format!("chmod go-w {}", path.display()))
        }
        (uid, _) => (
            format!("belongs to user {uid}, and says what root does"),
            format!("see who made it; chown root:root {}", path.display()),
        ),
    };
    Err(ConfigError { path: path.to_owned(), what, remedy })
}

fn refused(path: &Path, errno: Raw) -> ConfigError {
    let (what, remedy) = match errno {
        Raw::XDEV => (
            String::from("is a symbolic link out of /etc, or one by an absolute path"),
            String::from("put the file itself there, or link to one in /etc by a relative path"),
        ),
        Raw::NOENT => (String::from("is not there"), String::from("see its name")),
        Raw::LOOP => (String::from("is a symbolic link that leads to itself"), String::from("put the file there")),
        other => {
            (format!("cannot be opened: {}", Errno(other.raw_os_error())), String::from("see who can read it: ls -l"))
        }
    };
    ConfigError { path: path.to_owned(), what, remedy }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make files to be read")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A directory like /etc, of whoever runs the test.
    fn etc() -> tempfile::TempDir {
        let etc = tempfile::tempdir().unwrap();
        fs::create_dir_all(etc.path().join("vfioadm/host.d")).unwrap();
        etc
    }

    fn put(etc: &tempfile::TempDir, name: &str, text: &str) {
        fs::write(etc.path().join("vfioadm").join(name), text).unwrap();
    }

    fn said(etc: &tempfile::TempDir) -> String {
        let error = below(etc.path()).unwrap_err().to_string();
        error.replace(&etc.path().display().to_string(), "/etc")
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn the_file_and_its_parts_are_read_in_order() {
        if !is_root() {
            return;
        }
        let etc = etc();
        put(&etc, "host.d/20-b.toml", "b");
        put(&etc, "host.d/10-a.toml", "a");
        put(&etc, "host.d/notes.txt", "no");
        put(&etc, "host.d/.hidden.toml", "no");
        put(&etc, "host.toml", "first");
        let texts: Vec<String> = below(etc.path()).unwrap().into_iter().map(|file| file.text).collect();
        assert_eq!(texts, ["first", "a", "b"]);
        // A link may stay within.
        fs::remove_file(etc.path().join("vfioadm/host.toml")).unwrap();
        symlink("host.d/10-a.toml", etc.path().join("vfioadm/host.toml")).unwrap();
        assert_eq!(below(etc.path()).unwrap()[0].text, "a");
    }

    #[test]
    fn what_others_can_write_is_not_read() {
        if !is_root() {
            return;
        }
        let etc = etc();
        assert_eq!(said(&etc), "/etc/vfioadm/host.toml is not there, and host.d beside it has no file");
        put(&etc, "host.toml", "");
        let file = etc.path().join("vfioadm/host.toml");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o646)).unwrap();
        assert_eq!(said(&etc), "/etc/vfioadm/host.toml can be written by anybody, and says what root does");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
        assert_eq!(said(&etc), "/etc/vfioadm/host.toml can be written by its group, and says what root does");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
        assert_eq!(said(&etc), "/etc/vfioadm/host.toml belongs to user 12345, and says what root does");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(said(&etc), "/etc/vfioadm/host.toml is a directory, and a host file is a file");
        fs::remove_dir(&file).unwrap();
        symlink("/etc/hostname", &file).unwrap();
        assert_eq!(said(&etc), "/etc/vfioadm/host.toml is a symbolic link out of /etc, or one by an absolute path");
        fs::remove_file(&file).unwrap();
        symlink("../../outside", &file).unwrap();
        assert!(said(&etc).contains("out of /etc"));
        fs::remove_file(&file).unwrap();
        symlink("nothing", &file).unwrap();
        assert_eq!(said(&etc), "/etc/vfioadm/host.toml is not there");
        fs::remove_file(&file).unwrap();
        put(&etc, "host.toml", "");
        fs::set_permissions(etc.path().join("vfioadm/host.d"), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(said(&etc), "/etc/vfioadm/host.d can be written by anybody, and says what root does");
    }

    #[test]
    fn a_named_file_is_a_regular_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = named(directory.path()).unwrap_err();
        assert!(error.to_string().ends_with("is a directory, and a host file is a file"), "{error}");
        let file = directory.path().join("want.toml");
        fs::write(&file, [0xff]).unwrap();
        assert!(named(&file).unwrap_err().to_string().ends_with("is no UTF-8 text"));
    }
}
