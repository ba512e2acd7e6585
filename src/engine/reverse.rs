//! Taking back what was done: newest first, to what was seen, looking before each write.

use super::act::{bind, set_override, unbind};
use super::run::settle_driver;
use super::{Act, StepError, Watch, binding, driver};
use crate::host::{Clock, Write};
use crate::model::{Bdf, DriverName};
use crate::step::Undo;

/// Takes `undo` back and says whether there was anything to take back: done twice it does nothing the second time, and of a
/// function that is gone, or of a step that never had its effect, there is nothing.
pub(super) fn reverse(
    undo: &Undo,
    host: &dyn Write,
    clock: &dyn Clock,
    watch: &mut dyn Watch,
) -> Result<bool, StepError> {
    let device = match undo {
        Undo::Nothing => return Ok(false),
        Undo::Override { device, .. } | Undo::Driver { device, .. } => *device,
    };
    if binding(host, device)?.is_none() {
        return Ok(false);
    }
    match undo {
        Undo::Nothing => Ok(false),
        Undo::Override { was, .. } => write_override(device, was.as_deref(), host, watch),
        Undo::Driver { was, .. } => rebind(device, was.as_ref(), host, clock, watch),
    }
}

/// Makes `wanted` the driver of `device`, whatever it is on now.
///
/// The override is set to `wanted` while it binds, and put back: a VFIO driver binds through nothing else, a VF under
/// `sriov_drivers_autoprobe` 0 neither, and an override left from a later step would stand in the way.
fn rebind(
    device: Bdf,
    wanted: Option<&DriverName>,
    host: &dyn Write,
    clock: &dyn Clock,
    watch: &mut dyn Watch,
) -> Result<bool, StepError> {
    let now = driver(host, device)?;
    if now.as_ref() == wanted {
        return Ok(false);
    }
    if let Some(now) = now {
        perform(&unbind(device, &now), host, watch)?;
        settle_driver(device, None, host, clock)?;
    }
    let Some(wanted) = wanted else { return Ok(true) };
    let before = binding(host, device)?.and_then(|binding| binding.driver_override);
    write_override(device, Some(wanted.as_str()), host, watch)?;
    let bound =
        perform(&bind(device, wanted), host, watch).and_then(|()| settle_driver(device, Some(wanted), host, clock));
    // Both are tried; what is said is why the driver did not come back.
    let restored = write_override(device, before.as_deref(), host, watch);
    bound.and(restored).map(|_| true)
}

/// Sets the override, and says whether it was another.
fn write_override(
    device: Bdf,
    wanted: Option<&str>,
    host: &dyn Write,
    watch: &mut dyn Watch,
) -> Result<bool, StepError> {
    match set_override(device, wanted, host)? {
        None => Ok(false),
        Some((act, _)) => perform(&act, host, watch).map(|()| true),
    }
}

/// Makes one change.
pub(super) fn perform(act: &Act, host: &dyn Write, watch: &mut dyn Watch) -> Result<(), StepError> {
    match act {
        Act::Write { path, value, .. } => host.write(path, value)?,
        Act::Load { module, blacklist } => host.load_module(module, *blacklist)?,
    }
    watch.change(act);
    Ok(())
}
