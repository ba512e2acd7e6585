//! What is slow to make, kept: `$XDG_CACHE_HOME/vfioadm-lab/`, each entry named by a hash of what it was made from.
//!
//! An entry appears by a rename when it is complete, so that one which exists can be trusted; a lab that was killed
//! leaves a `.partial` directory, which the next one removes. One lock keeps two labs from building at once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::say;

/// The inputs of an entry.
#[derive(Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// Adds an input; the name and the lengths keep two lists of inputs from looking alike.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &[u8]) -> Key {
        self.0.update(format!("{name} {}\n", value.len()));
        self.0.update(value);
        self
    }

    fn hex(self) -> String {
        self.0.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The cache directory.
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens it, making it where it is not there yet.
    pub(crate) fn open() -> Result<Cache> {
        let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| Path::new(value).is_absolute()) {
            Some(dir) => PathBuf::from(dir),
            None => match std::env::var_os("HOME") {
                Some(home) => Path::new(&home).join(".cache"),
                None => bail!("no place for the lab's cache: neither XDG_CACHE_HOME nor HOME is set"),
            },
        };
        let dir = base.join("vfioadm-lab");
        fs::create_dir_all(&dir).with_context(|| format!("make the cache directory {}", dir.display()))?;
        Ok(Cache { dir })
    }

    /// A path beside the entries, for logs and small notes.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The entry of that kind for that key, built by `build` in a directory of its own when there is none.
    pub(crate) fn entry(&self, kind: &str, key: Key, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let done = self.dir.join(format!("{kind}-{}", key.hex()));
        if done.is_dir() {
            return Ok(done);
        }
        let _lock = self.lock()?;
        if done.is_dir() {
            return Ok(done); // somebody else built it while this one waited
        }
        let partial = self.dir.join(format!("{kind}.partial"));
        remove(&partial)?;
        fs::create_dir(&partial).with_context(|| format!("make {}", partial.display()))?;
        build(&partial)?;
        fs::rename(&partial, &done).with_context(|| format!("rename {} to {}", partial.display(), done.display()))?;
        Ok(done)
    }

    /// The build lock; says so when it has to wait.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                say(format_args!("another lab is building; waiting for {}", path.display()));
                file.lock().with_context(|| format!("lock {}", path.display()))?;
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        Ok(file)
    }
}

/// Removes a directory tree that need not be there.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
