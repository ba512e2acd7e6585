//! The ssh connection that a command was typed through.

use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};
use crate::model::route::SshPeer;

/// How far up it is looked for: sudo, shells and terminal multiplexers are a handful.
const MOST_PARENTS: usize = 32;

/// The peer, by the nearest `SSH_CONNECTION` in the environments of this process and those above it: sudo takes it out of
/// its child's, and has it in its own.
///
/// # Kernel
/// `fs/proc/base.c` `environ_read()`: the environment that a process was started with, for who may trace it (7.2).
pub(super) fn peer(host: &dyn Read) -> Option<SshPeer> {
    let proc = HostPath::fixed(Root::Proc, "self");
    let mut process = Some(proc);
    for _ in 0..MOST_PARENTS {
        let here = process?;
        let environment = host.read(&here.attr("environ")).unwrap_or_default();
        let words = environment.split(|b| *b == 0).filter_map(|word| word.strip_prefix(b"SSH_CONNECTION="));
        if let Some(connection) = words.filter_map(|text| std::str::from_utf8(text).ok()).next() {
            return SshPeer::parse(connection);
        }
        let status = optional(host.text(&here.attr("status"))).unwrap_or(None)?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse::<u32>().ok()?;
        process = (parent > 1).then(|| HostPath::process(parent));
    }
    None
}
