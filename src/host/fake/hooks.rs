//! Hooks of the fake: files below `/etc/vfioadm/hooks.d`, root's and nobody else's until a test says otherwise.
//!
//! Running one leaves a mark, or takes it away: what a vendor's tool keeps of a VF is nowhere in the kernel, and does not go
//! with the VF.

use std::collections::BTreeMap;

use super::kernel::Kernel;
use super::tree::{HIDDEN, Node, Tree};
use crate::host::{HostError, HostPath, hook};
use crate::model::{Bdf, Errno, Hook, HookId, HookWay};

impl Tree {
    /// A hook for VFs with these ids: a test's hand.
    pub fn put_hook(&mut self, id: HookId) {
        for way in [HookWay::Set, HookWay::Undo] {
            self.put_text(&HostPath::hook(id).attr(way.as_str()).to_string(), "#!/bin/sh");
        }
    }

    /// Lets one of its programs fail when it is half done, and say so; `None`: it hangs. A test's hand.
    pub fn fail_hook(&mut self, id: HookId, way: HookWay, said: Option<&str>) {
        self.put_text(&format!("{HIDDEN}/fails/{id}/{}", way.as_str()), said.unwrap_or("hangs"));
    }

    /// Lets it fail no more: a test's hand.
    pub fn mend_hook(&mut self, id: HookId, way: HookWay) {
        drop(self.remove(&format!("{HIDDEN}/fails/{id}/{}", way.as_str())));
    }

    /// Lets others than root write one of its programs: a test's hand.
    pub fn open_hook(&mut self, id: HookId, way: HookWay) {
        self.put_text(&format!("{HIDDEN}/open/{id}/{}", way.as_str()), "yes");
    }
}

impl Kernel {
    /// Whether there is a hook for VFs with these ids.
    pub(super) fn hook(&self, id: HookId) -> Result<bool, HostError> {
        let directory = HostPath::hook(id);
        if !self.tree.has(&directory.to_string()) {
            return Ok(false);
        }
        for way in [HookWay::Set, HookWay::Undo] {
            let path = directory.attr(way.as_str());
            if !matches!(self.tree.node(&path.to_string()), Some(Node::File(_))) {
                let why = "it is not there, and a hook has both set and undo";
                return Err(hook::untrusted(&path, Errno::ENOENT, why));
            }
            if self.tree.has(&format!("{HIDDEN}/open/{id}/{}", way.as_str())) {
                let why = "it can be written by others than root (mode 0777)";
                return Err(hook::untrusted(&path, Errno::EPERM, why));
            }
        }
        Ok(true)
    }

    /// What its program does.
    pub(super) fn run_hook(&mut self, hook: &Hook, vf: Bdf) -> Result<(), (Errno, String)> {
        let mark = format!("{HIDDEN}/hooked/{vf}");
        match (self.tree.text(&format!("{HIDDEN}/fails/{}/{}", hook.id, hook.way.as_str())), hook.way) {
            (None, HookWay::Set) => self.tree.put_text(&mark, &hook.parameters),
            (None, HookWay::Undo) => drop(self.tree.remove(&mark)),
            (Some(said), _) => {
                let answer = match said {
                    "hangs" => (Errno::ETIMEDOUT, String::from("it still ran and was killed")),
                    said => (Errno::EIO, format!("exit status: 1: {said}")),
                };
                self.tree.put_text(&mark, "half done");
                return Err(answer);
            }
        }
        Ok(())
    }

    /// What a hook keeps of VFs that it has made ready, and what vfioadm remembers of them.
    pub(super) fn hooked(&self) -> BTreeMap<String, String> {
        let below = |place: &str, said: &str| {
            let names: Vec<String> = match self.tree.node(place) {
                Some(Node::Dir(dir)) => dir.nodes.keys().cloned().collect(),
                _ => Vec::new(),
            };
            let text = |name: String| {
                let text = self.tree.text(&format!("{place}/{name}")).unwrap_or_default().to_owned();
                (format!("{said} {name}"), text)
            };
            names.into_iter().map(text).collect::<Vec<_>>()
        };
        let marks = below(&format!("{HIDDEN}/hooked"), "hooked");
        marks.into_iter().chain(below("/run/vfioadm/hooked", "noted")).collect()
    }
}
