//! For tests: a host that tells what was asked of it.

use std::sync::Mutex;

use crate::host::fake::FakeHost;
use crate::host::{HostError, HostPath, Read};

/// The demo host, and every path that was asked for.
pub(super) struct Told {
    host: FakeHost,
    asked: Mutex<Vec<String>>,
}

impl Told {
    pub(super) fn demo() -> Self {
        Self { host: FakeHost::demo().unwrap(), asked: Mutex::default() }
    }

    pub(super) fn of(text: &[u8]) -> Self {
        Self { host: FakeHost::from_text(text).unwrap(), asked: Mutex::default() }
    }

    /// What was asked for since the last time.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn note(&self, path: &HostPath) {
        self.asked.lock().unwrap().push(path.to_string());
    }
}

impl Read for Told {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        self.note(path);
        self.host.read(path)
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        self.note(path);
        self.host.link(path)
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        self.note(path);
        self.host.list(path)
    }
}
