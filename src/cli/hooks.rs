//! Hooks, vendors' own tools: which there are, which were run, and what is said of one that was not.

use std::collections::BTreeSet;

use super::report::{Exit, Trouble};
use crate::engine::{self, StepError};
use crate::host::{Host, HostError, HostPath, Verb};
use crate::model::{Errno, HookId, ModAlias, PciFunction, Role, Target};
use crate::plan::hooks::Hooks;

/// The hooks that there are for VFs with these ids, each of them root's alone.
pub(super) fn there<'a>(host: &dyn Host, vfs: impl IntoIterator<Item = &'a ModAlias>) -> Result<Hooks, Trouble> {
    let ids: BTreeSet<HookId> = vfs.into_iter().map(HookId::of).collect();
    let mut hooks = Hooks::default();
    for id in ids {
        if host.hook(id)? {
            hooks.there.insert(id);
        }
    }
    Ok(hooks)
}

/// The hooks that were run for these VFs, each of which has to be there to take that back.
pub(super) fn run<'a>(host: &dyn Host, vfs: impl IntoIterator<Item = &'a PciFunction>) -> Result<Hooks, Trouble> {
    let mut hooks = Hooks::default();
    for function in vfs {
        let Role::Vf { pf, index: Some(index) } = function.role else { continue };
        let vf = (pf, index);
        let Some(set) = engine::hooked(host, vf)? else { continue };
        if !hooks.there.contains(&set.id) && !host.hook(set.id)? {
            let (hook, note, vf) = (HostPath::hook(set.id), HostPath::hooked(pf, index), Target::Vf { pf, index });
            let message = format!("{vf} was made ready by the hook {hook}, which is not there to take that back");
            return Err(Trouble::new(Exit::Failed, "hook-missing", message)
                .state("as it was; nothing was tried")
                .remedy(format!(
                    "put it back; or, where there is nothing to take back, forget that it was run: rm {note}"
                )));
        }
        hooks.there.insert(set.id);
        hooks.run.insert(vf, set);
    }
    Ok(hooks)
}

/// What to do about a hook that is not trusted.
const REMEDY: &str = "see who made it; have a file of root's there that nobody else can write, and no link: chown root:root, chmod 0755; or remove the hook";

/// A hook that is not trusted, before anything was done.
pub(super) fn untrusted(error: &HostError) -> Trouble {
    let (message, remedy) = match error.errno {
        Errno::ENOENT => {
            ("a hook is not run that cannot be undone, or not set", "add what is missing, or remove the hook")
        }
        _ => ("a hook is not run unless root alone can change it", REMEDY),
    };
    Trouble::new(Exit::Failed, "hook-untrusted", message)
        .kernel(error)
        .state("as it was; nothing was tried")
        .remedy(remedy)
}

/// A hook that failed or is not trusted any more: its id, what happened, and what to do.
pub(super) fn failed(device: Target, error: &StepError) -> Option<(&'static str, String, String)> {
    let StepError::Host(error) = error else { return None };
    let program = &error.path;
    Some(match (error.verb, error.errno) {
        (Verb::Trust, _) => (
            "hook-untrusted",
            format!("{device}: its hook was changed meanwhile, and is not trusted"),
            String::from(REMEDY),
        ),
        (Verb::Run, Errno::ETIMEDOUT) => (
            "hook-failed",
            format!("{device}: its hook did not end in time, and was killed"),
            format!("run {program} by hand, with what -v shows of its environment, and see what it waits for"),
        ),
        (Verb::Run, _) => (
            "hook-failed",
            format!("{device}: its hook failed"),
            format!("run {program} by hand, with what -v shows of its environment, and see why"),
        ),
        (Verb::Write, errno) if is_note(program) => (
            "no-pool",
            format!("{device}: that its hook is run could not be written down: {errno}"),
            String::from("make sure that /run/vfioadm/hooked can be written"),
        ),
        _ => return None,
    })
}

fn is_note(path: &HostPath) -> bool {
    path.to_string().starts_with("/run/vfioadm/hooked/")
}
