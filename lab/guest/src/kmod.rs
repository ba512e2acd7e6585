//! The variant drivers of `lab/kmod`: put where depmod finds them, told what to do, and taken away again.
//!
//! They wait outside of `/lib/modules`, so that a case which does not ask for them meets the kernel's own drivers alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runner::Stop;
use crate::sysfs::{names, write};

/// Where they wait; the lab's `initramfs.rs` puts them there.
const FROM: &str = "/usr/lib/vfioadm-lab";
/// depmod's indexes as they were without them.
const SAVED: &str = "/run/modules-before-kmod";

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Its table names vendor and device.
    ByDevice,
    /// Its table names the subsystem too.
    BySubsystem,
}

const VARIANTS: [Variant; 2] = [Variant::BySubsystem, Variant::ByDevice];

impl Variant {
    /// The module, and the driver.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Variant::ByDevice => "lab_vfio_pci",
            Variant::BySubsystem => "lab_sub_vfio_pci",
        }
    }

    /// Loads it, with these parameters.
    pub(crate) fn load(self, parameters: &[&str]) -> Result<(), String> {
        run("modprobe", &[&[self.name()], parameters].concat())
    }

    /// Sets a parameter of the loaded module.
    pub(crate) fn set(self, parameter: &str, value: &str) -> Result<(), String> {
        write(&Path::new("/sys/module").join(self.name()).join("parameters").join(parameter), value)
    }
}

/// Makes them modules of this kernel: installed, not loaded. The runner takes them away after the case.
pub(crate) fn install() -> Result<(), Stop> {
    if !Path::new(FROM).is_dir() {
        return Err(Stop::Skip(format!("no {FROM} in this guest: the kernel is not of the lab's making")));
    }
    let (modules, to) = places();
    copy(&modules, Path::new(SAVED), |name| name.starts_with("modules."))?;
    copy(Path::new(FROM), &to, |name| name.ends_with(".ko"))?;
    Ok(run("depmod", &["-a"])?)
}

/// Unloads and removes them, where they are.
pub(crate) fn remove() -> Result<(), String> {
    for variant in VARIANTS.iter().filter(|variant| Path::new("/sys/module").join(variant.name()).exists()) {
        run("rmmod", &[variant.name()])?;
    }
    let (modules, to) = places();
    if !to.exists() {
        return Ok(());
    }
    fs::remove_dir_all(&to).map_err(|error| format!("remove {}: {error}", to.display()))?;
    for name in names(&modules).iter().filter(|name| name.starts_with("modules.")) {
        let path = modules.join(name);
        fs::remove_file(&path).map_err(|error| format!("remove {}: {error}", path.display()))?;
    }
    copy(Path::new(SAVED), &modules, |_| true)?;
    fs::remove_dir_all(SAVED).map_err(|error| format!("remove {SAVED}: {error}"))
}

/// This kernel's modules, and where the lab's own are among them.
fn places() -> (PathBuf, PathBuf) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = Path::new("/lib/modules").join(release);
    let to = modules.join("lab");
    (modules, to)
}

fn copy(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    let told = |path: &Path, error: io::Error| format!("copy {} to {}: {error}", path.display(), to.display());
    fs::create_dir_all(to).map_err(|error| told(from, error))?;
    for name in names(from).iter().filter(|name| wanted(name)) {
        fs::copy(from.join(name), to.join(name)).map_err(|error| told(&from.join(name), error))?;
    }
    Ok(())
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(words).output().map_err(|error| format!("start {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}\n{}", words.join(" "), output.status, told.trim_end()))
}
