//! Loading a module, by the program that the kernel itself would run: options, softdeps, blacklists and compression are
//! modprobe's, and a syscall of ours would lose them.

use std::time::Duration;

use super::child::{self, Running};
use super::path::Root;
use super::signals::Signals;
use super::wait::Patience;
use super::{Blacklist, HostError, HostPath, Read, Verb, module_is_live};
use crate::model::{Errno, ModuleName};

/// Longer than any module takes that is not stuck: mlx5_core brings its firmware up in some 20 seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// Loads `module` unless it is there already, and makes sure that it is there afterwards.
pub(super) fn load(
    host: &dyn Read,
    signals: Option<&Signals>,
    module: &ModuleName,
    blacklist: Blacklist,
) -> Result<(), HostError> {
    if module_is_live(host, module)? {
        return Ok(());
    }
    let refused =
        |errno, said: &str| HostError::new(Verb::Load, HostPath::module(module), errno).with_value(said.trim());
    let patience = Patience::with(DEADLINE, signals);
    let program = program(host)?;
    let said = run(&program, module, blacklist, &patience).map_err(|(errno, said)| refused(errno, &said))?;
    if module_is_live(host, module)? {
        return Ok(());
    }
    let why = if said.is_empty() { "modprobe left it out: it is blacklisted" } else { said.as_str() };
    Err(refused(Errno::ENOENT, why))
}

/// `/proc/sys/kernel/modprobe`: the program that `request_module()` runs.
fn program(host: &dyn Read) -> Result<String, HostError> {
    let path = HostPath::fixed(Root::Proc, "sys/kernel/modprobe");
    let program = host.text(&path)?;
    if program.starts_with('/') { Ok(program) } else { Err(HostError::new(Verb::Read, path, Errno::ENOENT)) }
}

/// Runs modprobe and returns what it said.
fn run(
    program: &str,
    module: &ModuleName,
    blacklist: Blacklist,
    patience: &Patience<'_>,
) -> Result<String, (Errno, String)> {
    let mut command = child::program(program);
    if blacklist == Blacklist::Respect {
        command.arg("--use-blacklist");
    }
    command.args(["--", module.as_str()]);
    let broken = |errno| (errno, String::from(program));
    let mut running = Running::start(&mut command).map_err(broken)?;
    let status = running.end(patience).map_err(broken)?;
    let said = running.said();
    match status {
        Some(status) if status.success() => Ok(said),
        Some(_) => Err((errno_of(&said), said)),
        None => Err((Errno::ETIMEDOUT, format!("{program} still runs, pid {}", running.pid()))),
    }
}

/// modprobe ends with 1 for everything; the errno is in its words. `ENOENT` stands for a module that does not exist.
fn errno_of(said: &str) -> Errno {
    if said.contains("not found in directory") {
        return Errno::ENOENT;
    }
    let known = [Errno::EPERM, Errno::EINVAL, Errno::ENODEV, Errno::EBUSY, Errno::ENOMEM, Errno::EEXIST, Errno::EACCES];
    known.into_iter().find(|errno| errno.text().is_some_and(|text| said.contains(text))).unwrap_or(Errno::EIO)
}
