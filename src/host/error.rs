//! What the kernel refused, whole: what was asked, of which object, and the answer.

use std::fmt;

use super::HostPath;
use crate::model::Errno;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Read a file, a link or a directory.
    Read,
    /// Write an attribute.
    Write,
    /// Wait for a write that has not come back: it goes on without us.
    Wait,
    /// Open a node.
    Open,
    /// Load a module.
    Load,
    /// Start a [worker](super::worker) process from this program's own file.
    Start,
    /// An ioctl, by its C name.
    Ioctl(&'static str),
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Wait => "wait for the write of",
            Self::Open => "open",
            Self::Load => "load",
            Self::Start => "start a worker process from",
            Self::Ioctl(name) => name,
        })
    }
}

/// A call that the kernel refused. Born here, wrapped by every room above, never flattened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError {
    /// What was asked.
    pub verb: Verb,
    /// Of which object.
    pub path: HostPath,
    /// With which value; for an ioctl, the name it was given; for a module load, what modprobe said.
    pub value: Option<String>,
    /// The answer.
    pub errno: Errno,
}

impl HostError {
    /// An error without a value.
    #[must_use]
    pub fn new(verb: Verb, path: HostPath, errno: Errno) -> Self {
        Self { verb, path, value: None, errno }
    }

    /// The same with the value that was written, or the text that came with the refusal.
    #[must_use]
    pub fn with_value(mut self, value: &str) -> Self {
        self.value = Some(value.chars().take(200).collect());
        self
    }

    /// What was asked, in words: `write "0000:3b:00.2" to /sys/bus/pci/drivers/mlx5_vfio_pci/bind`.
    #[must_use]
    pub fn asked(&self) -> String {
        match (self.verb, &self.value) {
            (Verb::Write, Some(value)) => format!("write {value:?} to {}", self.path),
            (Verb::Wait, Some(value)) => format!("wait for the write of {value:?} to {}", self.path),
            (verb @ Verb::Ioctl(_), Some(value)) => format!("{verb} {value:?} on {}", self.path),
            (verb @ Verb::Ioctl(_), None) => format!("{verb} on {}", self.path),
            (verb, _) => format!("{verb} {}", self.path),
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.asked(), self.errno)?;
        match (self.verb, &self.value) {
            (Verb::Load, Some(said)) => write!(f, ": {said}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for HostError {}
