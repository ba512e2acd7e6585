//! Whether KVM really works here, found out by booting a guest with it.
//!
//! That `/dev/kvm` opens proves little: inside another guest the node may be there while every machine on it dies in
//! its first instructions. So the lab boots once with a short deadline, and remembers the answer for as long as this
//! boot of the machine lasts.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::machine::Accel;
use crate::rig::{Job, Rig};
use crate::say;

const DEADLINE: Duration = Duration::from_secs(25);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Chooses for `job`, which must order nothing but a boot. `LAB_ACCEL=kvm|tcg` chooses without asking.
pub(crate) fn choose(cache: &Cache, rig: &Rig<'_>, job: Job<'_>) -> Result<Accel> {
    match std::env::var("LAB_ACCEL").ok().as_deref() {
        Some("kvm") => return Ok(Accel::Kvm),
        Some("tcg") => return Ok(Accel::Tcg),
        Some(other) => bail!("LAB_ACCEL={other}: kvm and tcg are the choices"),
        None => {}
    }
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let boot = fs::read_to_string(BOOT_ID).with_context(|| format!("read {BOOT_ID}"))?;
    let note = cache.path("accel");
    let known = fs::read_to_string(&note).unwrap_or_default();
    for accel in [Accel::Kvm, Accel::Tcg] {
        if known == format!("{boot}{}\n", accel.name()) {
            return Ok(accel);
        }
    }
    let job = Job { accel: Accel::Kvm, deadline: DEADLINE, ..job };
    let accel = match rig.run(&job, &mut |_| {}) {
        Ok(_) => Accel::Kvm,
        Err(_) => {
            say(format_args!("/dev/kvm is there but a guest does not boot on it ({}): emulating", job.log.display()));
            Accel::Tcg
        }
    };
    fs::write(&note, format!("{boot}{}\n", accel.name())).with_context(|| format!("write {}", note.display()))?;
    Ok(accel)
}
