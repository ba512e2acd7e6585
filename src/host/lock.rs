//! One writer at a time: the lock file in `/run/vfioadm`, from which alone the power to [write](super::Lock) comes.
//!
//! The lock is `flock(2)`, which the kernel takes back however its holder ends. What stands in the file is for people: one
//! line that says who has it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::Pid;

use super::Clock;
use crate::model::Errno;

/// Where the lock file is, and what else is true until the next boot.
pub(super) const DIRECTORY: &str = "/run/vfioadm";
const FILE: &str = "lock";
/// What of a command line is kept for others to read.
const LIMIT_BYTES: usize = 4 << 10;
/// What of it is shown in a message.
const LIMIT_CHARS: usize = 120;

/// What the lock is taken for, told to whoever finds it held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The command line, one word after the other.
    pub command: String,
    /// When: time since 1970-01-01 00:00 UTC.
    pub since: Duration,
}

impl Claim {
    /// A claim made now.
    #[must_use]
    pub fn new(command: impl Into<String>, clock: &dyn Clock) -> Self {
        Self { command: command.into(), since: clock.date() }
    }
}

/// Who has the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// Its process.
    pub pid: u32,
    /// What for.
    pub claim: Claim,
    /// For how long already, when it was asked.
    pub held: Duration,
}

impl LockHolder {
    /// Its line in the lock file: the pid, the seconds since 1970, the command.
    fn line(pid: u32, claim: &Claim) -> String {
        let mut line = format!("{pid} {} {}", claim.since.as_secs(), harmless(&claim.command));
        let end = (0..LIMIT_BYTES).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push('\n');
        line
    }

    /// Reads the line, at the time `now`. `None` when it is torn.
    fn parse(bytes: &[u8], now: Duration) -> Option<Self> {
        let mut words = str::from_utf8(bytes).ok()?.strip_suffix('\n')?.splitn(3, ' ');
        let pid = words.next()?.parse().ok()?;
        let since = Duration::from_secs(words.next()?.parse().ok()?);
        let claim = Claim { command: harmless(words.next()?), since };
        Some(Self { pid, claim, held: now.saturating_sub(since) })
    }
}

/// On one line of a terminal.
fn harmless(command: &str) -> String {
    command.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Why no writer was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Another vfioadm holds it; who, when that could be read.
    #[error("another vfioadm is changing this host{}", holder(.0.as_ref()))]
    Held(Option<LockHolder>),
    /// The directory of the lock file is not ours alone.
    #[error("{directory} {why}")]
    Untrusted {
        /// The directory.
        directory: String,
        /// What is wrong with it.
        why: String,
    },
    /// The lock file cannot be made or locked.
    #[error("{path}: {errno}")]
    Unavailable {
        /// The lock file or its directory.
        path: String,
        /// The kernel's answer.
        errno: Errno,
    },
}

fn holder(holder: Option<&LockHolder>) -> String {
    let Some(LockHolder { pid, claim, held }) = holder else { return String::new() };
    let mut command: String = claim.command.chars().take(LIMIT_CHARS).collect();
    if command.len() < claim.command.len() {
        command.push('…');
    }
    format!(": pid {pid} ({command}), for {} s", held.as_secs())
}

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct LockFile {
    file: OwnedFd,
}

impl LockFile {
    /// Takes it in `directory`, or says at once that it is held.
    pub(super) fn take(directory: &str, claim: &Claim) -> Result<Self, LockError> {
        let unavailable = |path: &str, errno: rustix::io::Errno| LockError::Unavailable {
            path: path.to_owned(),
            errno: Errno(errno.raw_os_error()),
        };
        let opened = open_directory(directory)?;
        let path = format!("{directory}/{FILE}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // Somebody may have removed the file between our opening it and our locking it: then it is nobody's lock.
        loop {
            let file = rustix::fs::openat(&opened, FILE, flags, Mode::from_raw_mode(0o600))
                .map_err(|errno| unavailable(&path, errno))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held(told(&file, claim.since))),
                Err(errno) => return Err(unavailable(&path, errno)),
            }
            if rustix::fs::fstat(&file).map_err(|errno| unavailable(&path, errno))?.st_nlink > 0 {
                let lock = Self { file };
                lock.tell(claim);
                return Ok(lock);
            }
        }
    }

    /// Says who has it. A full `/run` is no reason not to have it.
    fn tell(&self, claim: &Claim) {
        let line = LockHolder::line(std::process::id(), claim);
        // What an earlier holder left, who was killed, goes first.
        rustix::fs::ftruncate(&self.file, 0).and_then(|()| rustix::io::pwrite(&self.file, line.as_bytes(), 0)).ok();
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        rustix::fs::ftruncate(&self.file, 0).ok();
    }
}

/// Who holds it, by what stands in the file.
fn told(file: &OwnedFd, now: Duration) -> Option<LockHolder> {
    let mut line = [0; LIMIT_BYTES];
    let length = rustix::io::pread(file, &mut line, 0).ok()?;
    let holder = LockHolder::parse(&line[..length], now)?;
    // The line of a holder that was killed stands until the next one has written its own.
    let pid = Pid::from_raw(i32::try_from(holder.pid).ok()?)?;
    let gone = rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
    (!gone).then_some(holder)
}

/// Makes the directory, and opens it when nobody but root can change what is in it.
fn open_directory(directory: &str) -> Result<OwnedFd, LockError> {
    let unavailable = |errno: rustix::io::Errno| LockError::Unavailable {
        path: directory.to_owned(),
        errno: Errno(errno.raw_os_error()),
    };
    let untrusted = |why: String| LockError::Untrusted { directory: directory.to_owned(), why };
    match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(unavailable(errno)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(directory, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return Err(untrusted(String::from("is a link or a file, and must be a directory")));
        }
        other => other.map_err(unavailable)?,
    };
    let status = rustix::fs::fstat(&opened).map_err(unavailable)?;
    if status.st_uid != 0 && status.st_uid != rustix::process::geteuid().as_raw() {
        return Err(untrusted(format!("belongs to user {}, and must belong to root", status.st_uid)));
    }
    if status.st_mode & 0o022 != 0 {
        let mode = status.st_mode & 0o7777;
        return Err(untrusted(format!("can be written by others than root (mode {mode:04o})")));
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn claim(command: &str, since: u64) -> Claim {
        Claim { command: command.to_owned(), since: Duration::from_secs(since) }
    }

    /// A directory for the lock, not made yet, in one that goes with the test.
    fn directory() -> (tempfile::TempDir, String) {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("vfioadm").to_str().unwrap().to_owned();
        (above, directory)
    }

    fn untrusted(directory: &str) -> String {
        match LockFile::take(directory, &claim("bind", 0)) {
            Err(error @ LockError::Untrusted { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_second_writer_is_told_who_was_first() {
        let (_above, directory) = directory();
        let held = LockFile::take(&directory, &claim("vfioadm bind 0000:3b:00.2", 100)).unwrap();
        let second = LockFile::take(&directory, &claim("vfioadm undo", 112)).unwrap_err();
        let pid = std::process::id();
        let first = claim("vfioadm bind 0000:3b:00.2", 100);
        assert_eq!(second, LockError::Held(Some(LockHolder { pid, claim: first, held: Duration::from_secs(12) })));
        let words = format!("another vfioadm is changing this host: pid {pid} (vfioadm bind 0000:3b:00.2), for 12 s");
        assert_eq!(second.to_string(), words);
        drop(held);
        let file = rustix::fs::stat(format!("{directory}/lock")).unwrap();
        assert_eq!((file.st_size, file.st_mode & 0o7777), (0, 0o600), "nobody is named when nobody has it");
        assert!(LockFile::take(&directory, &claim("vfioadm undo", 112)).is_ok());
    }

    #[test]
    fn a_line_that_is_torn_or_of_a_dead_process_names_nobody() {
        let (_above, directory) = directory();
        let held = LockFile::take(&directory, &claim("bind", 100)).unwrap();
        let pid = std::process::id();
        let whole = LockHolder::line(pid, &claim("bind x", 100));
        // No process has a number above PID_MAX_LIMIT (include/linux/threads.h, 7.2).
        let dead = LockHolder::line((4 << 20) + 1, &claim("bind x", 100));
        let torn = (0..whole.len()).map(|length| whole[..length].to_owned());
        let bad = ["\n", "0 1 x\n", "-1 1 x\n", "x 1 x\n", "1 x x\n", "99999999999 1 x\n", "\u{0}"].map(str::to_owned);
        for line in torn.chain(bad).chain([dead]) {
            rustix::fs::ftruncate(&held.file, 0).unwrap();
            rustix::io::pwrite(&held.file, line.as_bytes(), 0).unwrap();
            let second = LockFile::take(&directory, &claim("undo", 0)).unwrap_err();
            assert_eq!(second, LockError::Held(None), "{line:?}");
            assert_eq!(second.to_string(), "another vfioadm is changing this host");
        }
    }

    #[test]
    fn what_a_killed_holder_left_is_overwritten() {
        let (_above, directory) = directory();
        drop(LockFile::take(&directory, &claim("bind", 1)).unwrap());
        let file = format!("{directory}/lock");
        let opened = rustix::fs::open(&file, OFlags::WRONLY, Mode::empty()).unwrap();
        rustix::io::write(&opened, format!("1 1 {}\n", "x".repeat(2000)).as_bytes()).unwrap();
        let held = LockFile::take(&directory, &claim("short", 5)).unwrap();
        let mut line = [0; LIMIT_BYTES];
        let length = rustix::io::pread(&held.file, &mut line, 0).unwrap();
        assert_eq!(str::from_utf8(&line[..length]), Ok(format!("{} 5 short\n", std::process::id()).as_str()));
    }

    #[test]
    fn a_command_is_one_line_of_limited_length() {
        let line = LockHolder::line(7, &claim("bind\n\u{1b}[2J ü\0x", 3));
        assert_eq!(line, "7 3 bind  [2J ü x\n");
        let long = claim(&"ü".repeat(LIMIT_BYTES), 3);
        let line = LockHolder::line(7, &long);
        assert!((LIMIT_BYTES - 2..=LIMIT_BYTES).contains(&line.len()));
        let holder = LockHolder::parse(line.as_bytes(), Duration::ZERO).unwrap();
        assert_eq!((holder.pid, holder.held), (7, Duration::ZERO));
        assert!(LockError::Held(Some(holder)).to_string().ends_with("ü…), for 0 s"));
    }

    #[test]
    fn a_directory_that_others_can_change_is_not_trusted() {
        let (above, directory) = directory();
        symlink(above.path(), &directory).unwrap();
        assert_eq!(untrusted(&directory), format!("{directory} is a link or a file, and must be a directory"));
        rustix::fs::unlink(&directory).unwrap();
        rustix::fs::mkdir(&directory, Mode::from_raw_mode(0o700)).unwrap();
        for mode in [0o777, 0o775, 0o757, 0o1777] {
            std::fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).unwrap();
            let words = format!("{directory} can be written by others than root (mode {mode:04o})");
            assert_eq!(untrusted(&directory), words);
        }
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(LockFile::take(&directory, &claim("bind", 0)).is_ok());
    }

    #[test]
    fn a_link_in_place_of_the_lock_file_is_not_followed() {
        let (above, directory) = directory();
        drop(LockFile::take(&directory, &claim("bind", 0)).unwrap());
        let file = format!("{directory}/lock");
        rustix::fs::unlink(&file).unwrap();
        symlink(above.path().join("elsewhere"), &file).unwrap();
        let refused = LockFile::take(&directory, &claim("bind", 0)).unwrap_err();
        assert!(matches!(&refused, LockError::Unavailable { path, .. } if *path == file), "{refused:?}");
        assert!(!above.path().join("elsewhere").exists());
    }

    #[test]
    fn a_lock_file_that_was_removed_is_made_again() {
        let (_above, directory) = directory();
        let held = LockFile::take(&directory, &claim("bind", 0)).unwrap();
        assert!(LockFile::take(&directory, &claim("bind", 0)).is_err());
        drop(held);
        rustix::fs::unlink(format!("{directory}/lock")).unwrap();
        assert!(LockFile::take(&directory, &claim("bind", 0)).is_ok());
    }
}
