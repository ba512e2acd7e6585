//! Builds what runs in the guest: its init and the `vfioadm` that ships, both static.
//!
//! With a target directory of the lab's own: other flags in the same one would rebuild everything on every switch.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::say;

/// Proc macros are built for the machine that compiles; only with an explicit target are they left out of RUSTFLAGS.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where they are.
pub(crate) struct Binaries {
    /// PID 1 of the guest.
    pub(crate) guest: PathBuf,
    /// The tool, as it ships.
    pub(crate) vfioadm: PathBuf,
}

impl Binaries {
    /// Builds both, or what changed; `LAB_BIN=DIR` takes `vfioadm-guest` and `vfioadm` from there instead.
    pub(crate) fn build(workspace: &Path, target: &Path) -> Result<Binaries> {
        if let Some(dir) = env::var_os("LAB_BIN") {
            return Binaries::find(Path::new(&dir)).with_context(|| format!("LAB_BIN={}", dir.display()));
        }
        say(format_args!("building vfioadm and the guest's init"));
        cargo(workspace, target, &["--package", "vfioadm"])?;
        // The guest turns a panic of one case into one failure, so its panics have to unwind.
        cargo(workspace, target, &["--package", "vfioadm-guest", "--config", "profile.release.panic='unwind'"])?;
        Binaries::find(&target.join(TARGET).join("release"))
    }

    fn find(dir: &Path) -> Result<Binaries> {
        let binaries = Binaries { guest: dir.join("vfioadm-guest"), vfioadm: dir.join("vfioadm") };
        for path in [&binaries.guest, &binaries.vfioadm] {
            if !path.is_file() {
                bail!("no {} there", path.display());
            }
        }
        Ok(binaries)
    }
}

fn cargo(workspace: &Path, target: &Path, words: &[&str]) -> Result<()> {
    let cargo = env::var_os("CARGO");
    let mut command = Command::new(cargo.as_deref().unwrap_or(OsStr::new("cargo")));
    command.args(["build", "--release", "--quiet", "--target", TARGET, "--target-dir"]).arg(target).args(words);
    command.current_dir(workspace).stdin(Stdio::null()).env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    // Cargo tells `cargo run` what it was run with; the build inside is another one.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("build for the guest: {status} of {command:?}");
    }
    Ok(())
}
