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
    /// Run a hook.
    Run,
    /// Trust a hook, or a directory that it is in.
    Trust,
    /// An ioctl, by its C name.
    Ioctl(&'static str),
    /// A netlink request, by its C name: `RTM_SETLINK`, `DEVLINK_CMD_PORT_SET`.
    Request(&'static str),
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
            Self::Run => "run",
            Self::Trust => "trust",
            Self::Ioctl(name) | Self::Request(name) => name,
        })
    }
}

/// A call that the kernel refused. Born here, wrapped by every room above, never flattened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError {
    /// What was asked.
    pub verb: Verb,
    /// Of which object; for a netlink request, the directory of the interface or of the devlink device.
    pub path: HostPath,
    /// With which value; for an ioctl, the name it was given; for a module load, what modprobe said; for a netlink request,
    /// which VF or port, and the attribute; for a hook, the VF.
    pub value: Option<String>,
    /// The answer.
    pub errno: Errno,
    /// The text that came with it: `NLMSGERR_ATTR_MSG` of a netlink request; what a hook said, or why it is not trusted.
    pub said: Option<Box<str>>,
}

impl HostError {
    /// An error without a value.
    #[must_use]
    pub fn new(verb: Verb, path: HostPath, errno: Errno) -> Self {
        Self { verb, path, value: None, errno, said: None }
    }

    /// The same with the value that was written, or the text that came with the refusal.
    #[must_use]
    pub fn with_value(mut self, value: &str) -> Self {
        self.value = Some(value.chars().take(200).collect());
        self
    }

    /// The same with the kernel's own text, as far as there is one, or a hook's.
    #[must_use]
    pub fn with_said(mut self, said: &str) -> Self {
        let text: String = said.chars().filter(|c| !c.is_control()).take(1000).collect();
        self.said = (!text.is_empty()).then(|| text.into());
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
            (verb @ Verb::Request(_), Some(value)) => format!("request {verb} of {} {value}", self.path),
            (verb @ Verb::Request(_), None) => format!("request {verb} of {}", self.path),
            (Verb::Run, Some(value)) => format!("run {} {value}", self.path),
            (verb, _) => format!("{verb} {}", self.path),
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.asked(), self.errno)?;
        match (self.verb, &self.value, &self.said) {
            (Verb::Load, Some(said), _) => write!(f, ": {said}"),
            (_, _, Some(said)) => write!(f, ": {said}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for HostError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_says_of_what_and_in_the_kernels_words() {
        let netdev = HostPath::netdev(&"enp4s0f0".parse().unwrap());
        let error = HostError::new(Verb::Request("RTM_SETLINK"), netdev, Errno::EOPNOTSUPP);
        let error = error.with_value("vf 2 mac 52:54:00:12:34:56").with_said("not here\n");
        assert_eq!(
            error.to_string(),
            "request RTM_SETLINK of /sys/class/net/enp4s0f0 vf 2 mac 52:54:00:12:34:56: \
             EOPNOTSUPP (Operation not supported): not here"
        );
        let device = HostPath::devlink(&"pci/0000:3b:00.0".parse().unwrap());
        let error = HostError::new(Verb::Request("DEVLINK_CMD_ESWITCH_GET"), device, Errno::EPERM).with_said("");
        assert_eq!(
            error.to_string(),
            "request DEVLINK_CMD_ESWITCH_GET of /sys/bus/pci/devices/0000:3b:00.0: EPERM (Operation not permitted)"
        );
    }
}
