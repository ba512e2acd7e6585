//! Taking back what was done: newest first, to what was seen, looking before each write.

use super::act::{bind, set_override, unbind};
use super::perform::{Watch, perform, settle_driver};
use super::{StepError, binding, driver};
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
    let mut back = Back { host, clock, watch };
    match undo {
        Undo::Nothing => Ok(false),
        Undo::Override { device, .. } | Undo::Driver { device, .. } if binding(host, *device)?.is_none() => Ok(false),
        Undo::Override { device, was } => back.set_override(*device, was.as_deref()),
        Undo::Driver { device, was } => back.rebind(*device, was.as_ref()),
    }
}

struct Back<'a> {
    host: &'a dyn Write,
    clock: &'a dyn Clock,
    watch: &'a mut dyn Watch,
}

impl Back<'_> {
    /// Makes `wanted` the driver of `device`, whatever it is on now.
    ///
    /// The override is set to `wanted` while it binds, and put back: a VFIO driver binds through nothing else, a VF under
    /// `sriov_drivers_autoprobe` 0 neither, and an override left from a later step would stand in the way.
    fn rebind(&mut self, device: Bdf, wanted: Option<&DriverName>) -> Result<bool, StepError> {
        let now = driver(self.host, device)?;
        if now.as_ref() == wanted {
            return Ok(false);
        }
        if let Some(now) = now {
            perform(&unbind(device, &now), self.host, self.clock, self.watch)?;
            settle_driver(device, None, self.host, self.clock)?;
        }
        let Some(wanted) = wanted else { return Ok(true) };
        let before = binding(self.host, device)?.and_then(|binding| binding.driver_override);
        self.set_override(device, Some(wanted.as_str()))?;
        let bound = perform(&bind(device, wanted), self.host, self.clock, self.watch)
            .and_then(|()| settle_driver(device, Some(wanted), self.host, self.clock));
        // Both are tried; what is said is why the driver did not come back.
        let restored = self.set_override(device, before.as_deref());
        bound.and(restored).map(|_| true)
    }

    /// Sets the override, and says whether it was another.
    fn set_override(&mut self, device: Bdf, wanted: Option<&str>) -> Result<bool, StepError> {
        match set_override(device, wanted, self.host)? {
            None => Ok(false),
            Some((act, _)) => perform(&act, self.host, self.clock, self.watch).map(|()| true),
        }
    }
}
