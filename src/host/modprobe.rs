//! Loading a module, by the program that the kernel itself would run: options, softdeps, blacklists and compression are
//! modprobe's, and a syscall of ours would lose them.

use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::MemfdFlags;

use super::path::Root;
use super::signals::Signals;
use super::wait::Patience;
use super::{Blacklist, HostError, HostPath, Read, Verb, child, module_is_live};
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

/// Runs modprobe with an empty environment and returns what it said.
#[expect(clippy::disallowed_methods, reason = "options, softdeps and blacklists are modprobe's to know (deps: kmod)")]
fn run(
    program: &str,
    module: &ModuleName,
    blacklist: Blacklist,
    patience: &Patience<'_>,
) -> Result<String, (Errno, String)> {
    let broken = |error: std::io::Error| (Errno(error.raw_os_error().unwrap_or(Errno::EIO.0)), String::from(program));
    let kernel = |error: rustix::io::Errno| (Errno(error.raw_os_error()), String::from(program));
    let mut said = std::fs::File::from(rustix::fs::memfd_create("modprobe", MemfdFlags::CLOEXEC).map_err(kernel)?);
    let mut command = Command::new(program);
    if blacklist == Blacklist::Respect {
        command.arg("--use-blacklist");
    }
    let mut child = command
        .args(["--", module.as_str()])
        .env_clear()
        .current_dir("/")
        // A signal that the terminal sends to the tool does not reach it: half a module helps nobody.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(broken)?)
        .spawn()
        .map_err(broken)?;
    let ended = child::ended_within(&mut child, patience).map_err(|errno| (errno, String::from(program)))?;
    let Some(status) = ended else {
        return Err((Errno::ETIMEDOUT, format!("{program} still runs, pid {}", child.id())));
    };
    let mut text = String::new();
    said.rewind().map_err(broken)?;
    said.take(4096).read_to_string(&mut text).map_err(broken)?;
    let text = text.trim().replace('\n', "; ");
    if status.success() { Ok(text) } else { Err((errno_of(&text), text)) }
}

/// modprobe ends with 1 for everything; the errno is in its words. `ENOENT` stands for a module that does not exist.
fn errno_of(said: &str) -> Errno {
    if said.contains("not found in directory") {
        return Errno::ENOENT;
    }
    let known = [Errno::EPERM, Errno::EINVAL, Errno::ENODEV, Errno::EBUSY, Errno::ENOMEM, Errno::EEXIST, Errno::EACCES];
    known.into_iter().find(|errno| errno.text().is_some_and(|text| said.contains(text))).unwrap_or(Errno::EIO)
}
