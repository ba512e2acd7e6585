//! Where operations are written down: one file each, below a directory that lives as long as what they changed.
//!
//! For the running machine that is `/run/vfioadm`: bindings die with the kernel, and so does their undo log. For a recorded
//! host that is saved it lies beside the file.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Dir, FallocateFlags, Mode, OFlags};

use crate::model::{Errno, ParseError};

/// No operation writes more.
const LIMIT_BYTES: usize = 256 << 20;
/// How many finished operations are kept.
pub const KEPT: usize = 64;

/// The name of an operation: its verb and a number that grows, `bind-17`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationId {
    verb: String,
    number: u64,
}

impl OperationId {
    /// Its place in the order of operations.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.verb, self.number)
    }
}

impl FromStr for OperationId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = text.rsplit_once('-').filter(|(verb, number)| {
            let plain = |text: &str, good: fn(&u8) -> bool| {
                !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| good(&b))
            };
            plain(verb, u8::is_ascii_lowercase) && plain(number, u8::is_ascii_digit)
        });
        let parsed =
            parts.and_then(|(verb, number)| Some(Self { verb: verb.to_owned(), number: number.parse().ok()? }));
        parsed.ok_or_else(|| ParseError::new("the name of an operation, such as bind-17", text))
    }
}

/// What could not be done with the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{verb} {path}: {errno}")]
pub struct LedgerError {
    /// What was asked.
    pub verb: &'static str,
    /// Of which file.
    pub path: String,
    /// The answer.
    pub errno: Errno,
}

/// The operations of a host.
#[derive(Debug, Clone)]
pub struct Ledger(Place);

#[derive(Debug, Clone)]
enum Place {
    Directory(PathBuf),
    Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>),
}

/// One operation, being written.
pub trait Append: Send {
    /// Adds `line` and its line feed, whole or not at all, and makes it durable.
    ///
    /// # Errors
    /// The kernel's errno: `ENOSPC`, `EROFS`.
    fn append(&mut self, line: &str) -> Result<(), Errno>;

    /// Sets room aside for what is going to be added; none gives back what was not needed.
    ///
    /// # Errors
    /// `ENOSPC`; `EDQUOT`.
    fn set_aside(&mut self, _bytes: u64) -> Result<(), Errno> {
        Ok(())
    }
}

impl Ledger {
    /// That of the running machine.
    #[must_use]
    pub fn of_the_machine() -> Self {
        Self::in_directory(Path::new("/run/vfioadm"))
    }

    /// One whose files lie in `directory`, which is made when the first is.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self(Place::Directory(directory.to_owned()))
    }

    /// One that is forgotten with the process. Its copies are the same ledger.
    #[must_use]
    pub fn in_memory() -> Self {
        Self(Place::Memory(Arc::default()))
    }

    /// A copy that is forgotten with the process.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn copied(&self) -> Result<Self, LedgerError> {
        let mut files = BTreeMap::new();
        for id in self.operations()? {
            files.insert(file_name(&id), self.read(&id)?);
        }
        Ok(Self(Place::Memory(Arc::new(Mutex::new(files)))))
    }

    /// The operations, oldest first. Files of other names are passed over.
    ///
    /// # Errors
    /// [`LedgerError`]; a directory that is not there has none.
    pub fn operations(&self) -> Result<Vec<OperationId>, LedgerError> {
        let names = match &self.0 {
            Place::Memory(files) => guard(files).keys().cloned().collect(),
            Place::Directory(directory) => names_in(directory).map_err(|errno| error("read", directory, errno))?,
        };
        let mut found: Vec<OperationId> =
            names.iter().filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok()).collect();
        found.sort_by_key(|id| id.number);
        Ok(found)
    }

    /// All that an operation wrote.
    ///
    /// # Errors
    /// [`LedgerError`]; `ENOENT` when there is no such operation.
    pub fn read(&self, id: &OperationId) -> Result<Vec<u8>, LedgerError> {
        match &self.0 {
            Place::Memory(files) => {
                let missing = || LedgerError { verb: "read", path: self.file(id), errno: Errno::ENOENT };
                guard(files).get(&file_name(id)).cloned().ok_or_else(missing)
            }
            Place::Directory(directory) => read_file(&directory.join(file_name(id)))
                .map_err(|errno| error("read", &directory.join(file_name(id)), errno)),
        }
    }

    /// The last line that an operation wrote, without its line feed; nothing when that line was cut off.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn last_line(&self, id: &OperationId) -> Result<Vec<u8>, LedgerError> {
        match &self.0 {
            Place::Memory(_) => Ok(last_line(&self.read(id)?).unwrap_or_default().to_vec()),
            Place::Directory(directory) => {
                let path = directory.join(file_name(id));
                last_line_of_file(&path).map_err(|errno| error("read", &path, errno))
            }
        }
    }

    /// Begins the next operation, and sets `room` bytes aside for it, so that a disk that is full shows before anything is
    /// done. Only whoever holds the host's lock may.
    ///
    /// # Errors
    /// [`LedgerError`]: it cannot be written down, so it must not be done.
    pub fn begin(&self, verb: &str, room: u64) -> Result<(OperationId, Box<dyn Append>), LedgerError> {
        let last = self.operations()?.last().map_or(0, OperationId::number);
        let id = OperationId { verb: verb.to_owned(), number: last.saturating_add(1) };
        let mut file = self.open(&id, OFlags::CREATE | OFlags::EXCL)?;
        if let Err(errno) = file.set_aside(room) {
            // If it stays, it is empty, and read as one that did nothing.
            self.remove(&id)?;
            return Err(LedgerError { verb: "set room aside for", path: self.file(&id), errno });
        }
        Ok((id, file))
    }

    /// Goes on with an operation after its first `length` bytes: what a writer that stopped has left of a line is cut off.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn resume(&self, id: &OperationId, length: usize) -> Result<Box<dyn Append>, LedgerError> {
        match &self.0 {
            Place::Memory(files) => guard(files).entry(file_name(id)).or_default().truncate(length),
            Place::Directory(directory) => {
                let path = directory.join(file_name(id));
                let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let cut = rustix::fs::open(&path, flags, Mode::empty())
                    .and_then(|file| rustix::fs::ftruncate(file, length as u64));
                cut.map_err(|errno| error("write", &path, errno))?;
            }
        }
        self.open(id, OFlags::empty())
    }

    /// Forgets an operation.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn remove(&self, id: &OperationId) -> Result<(), LedgerError> {
        match &self.0 {
            Place::Memory(files) => {
                guard(files).remove(&file_name(id));
                Ok(())
            }
            Place::Directory(directory) => {
                let path = directory.join(file_name(id));
                rustix::fs::unlink(&path).map_err(|errno| error("remove", &path, errno))
            }
        }
    }

    /// Where an operation is written down, for people.
    #[must_use]
    pub fn file(&self, id: &OperationId) -> String {
        match &self.0 {
            Place::Memory(_) => format!("{} (in memory)", file_name(id)),
            Place::Directory(directory) => directory.join(file_name(id)).display().to_string(),
        }
    }

    fn open(&self, id: &OperationId, how: OFlags) -> Result<Box<dyn Append>, LedgerError> {
        let directory = match &self.0 {
            Place::Memory(files) => {
                let (files, name) = (Arc::clone(files), file_name(id));
                guard(&files).entry(name.clone()).or_default();
                return Ok(Box::new(InMemory { files, name }));
            }
            Place::Directory(directory) => directory,
        };
        match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(error("make", directory, errno)),
        }
        let path = directory.join(file_name(id));
        let flags = how | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file =
            rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|errno| error("open", &path, errno))?;
        if how.contains(OFlags::CREATE) {
            // The name is as durable as what is written under it.
            let parent =
                rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            parent.and_then(rustix::fs::fsync).map_err(|errno| error("sync", directory, errno))?;
        }
        let length = rustix::fs::fstat(&file).map_err(|errno| error("read", &path, errno))?.st_size;
        Ok(Box::new(OnDisk { file, length: u64::try_from(length).unwrap_or(0) }))
    }
}

const SUFFIX: &str = ".jsonl";

fn file_name(id: &OperationId) -> String {
    format!("{id}{SUFFIX}")
}

fn guard<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error(verb: &'static str, path: &Path, errno: rustix::io::Errno) -> LedgerError {
    LedgerError { verb, path: path.display().to_string(), errno: Errno(errno.raw_os_error()) }
}

fn names_in(directory: &Path) -> rustix::io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(directory, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        other => other?,
    };
    Dir::new(opened)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// What is between the last two line feeds, when the text ends with one, or between the start and the only one.
fn last_line(text: &[u8]) -> Option<&[u8]> {
    text.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()
}

/// The same of a file, read from its end in growing pieces.
fn last_line_of_file(path: &Path) -> rustix::io::Result<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0).min(LIMIT_BYTES as u64);
    let mut length = 4096;
    loop {
        let from = size.saturating_sub(length);
        let mut piece = vec![0; usize::try_from(size - from).unwrap_or(0)];
        let mut filled = 0;
        while filled < piece.len() {
            let place = from + filled as u64;
            match rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut piece[filled..], place))? {
                0 => return Ok(Vec::new()),
                count => filled += count,
            }
        }
        match last_line(&piece) {
            None => return Ok(Vec::new()),
            Some(line) if from == 0 || line.len() + 1 < piece.len() => return Ok(line.to_vec()),
            Some(_) => length *= 8,
        }
    }
}

fn read_file(path: &Path) -> rustix::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut piece[..]))?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&piece[..count]);
        if bytes.len() > LIMIT_BYTES {
            return Err(rustix::io::Errno::FBIG);
        }
    }
}

struct OnDisk {
    file: OwnedFd,
    /// How much of it is whole lines.
    length: u64,
}

impl Append for OnDisk {
    fn append(&mut self, line: &str) -> Result<(), Errno> {
        let bytes = [line.as_bytes(), b"\n"].concat();
        let mut rest = &bytes[..];
        let written = loop {
            if rest.is_empty() {
                break rustix::fs::fdatasync(&self.file);
            }
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, rest)) {
                Ok(count) => rest = &rest[count..],
                Err(errno) => break Err(errno),
            }
        };
        match written {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(errno) => {
                // Half a line would spoil the next one. If it stays, it is torn, and a reader passes over it.
                let cut = rustix::fs::ftruncate(&self.file, self.length);
                Err(Errno(cut.err().unwrap_or(errno).raw_os_error()))
            }
        }
    }

    /// # Kernel
    /// `mm/shmem.c` `shmem_fallocate()`, and `shmem_setattr()`, which gives back what lies behind the end even when the end
    /// stays where it is (7.2). A file system that cannot do it is written to as it is.
    fn set_aside(&mut self, bytes: u64) -> Result<(), Errno> {
        let done = match bytes {
            0 => rustix::fs::ftruncate(&self.file, self.length),
            _ => rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.length, bytes),
        };
        match done {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) | Ok(()) => Ok(()),
            Err(errno) => Err(Errno(errno.raw_os_error())),
        }
    }
}

struct InMemory {
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    name: String,
}

impl Append for InMemory {
    fn append(&mut self, line: &str) -> Result<(), Errno> {
        let mut files = guard(&self.files);
        let file = files.entry(self.name.clone()).or_default();
        file.extend_from_slice(line.as_bytes());
        file.push(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_numbered_and_listed_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for ledger in [Ledger::in_memory(), Ledger::in_directory(&directory.path().join("host.journal"))] {
            assert!(ledger.operations().unwrap().is_empty());
            for verb in ["unbind", "bind"].iter().cycle().take(11) {
                let (_, mut file) = ledger.begin(verb, 4096).unwrap();
                file.append("x").unwrap();
                file.append("half a li").unwrap();
            }
            let ids: Vec<String> = ledger.operations().unwrap().iter().map(ToString::to_string).collect();
            assert_eq!((ids.len(), ids[1].as_str(), ids[10].as_str()), (11, "bind-2", "unbind-11"));
            let second: OperationId = "bind-2".parse().unwrap();
            ledger.resume(&second, 2).unwrap().append("y").unwrap();
            assert_eq!(ledger.read(&second).unwrap(), b"x\ny\n", "the rest is cut off");
            assert_eq!(ledger.last_line(&second).unwrap(), b"y");
            let long = "z".repeat(100_000);
            for _ in 0..2 {
                ledger.resume(&second, 2).unwrap().append(&long).unwrap();
                assert_eq!(ledger.last_line(&second).unwrap(), long.as_bytes());
            }
            ledger.resume(&second, 3).unwrap();
            assert_eq!(ledger.last_line(&second).unwrap(), b"", "it was cut off");
            ledger.resume(&second, 0).unwrap();
            assert_eq!(ledger.last_line(&second).unwrap(), b"");
            ledger.remove(&second).unwrap();
            assert_eq!(ledger.read(&second).unwrap_err().errno, Errno::ENOENT);
        }
    }

    #[test]
    fn a_name_is_no_path() {
        for wrong in ["../bind-1", "bind", "bind-", "-1", "bind-1/2", "bind-1.jsonl", "Bind-1", "bind--1"] {
            assert!(wrong.parse::<OperationId>().is_err(), "{wrong}");
        }
    }
}
