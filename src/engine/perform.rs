//! One change made, and waited for.

use std::time::Duration;

use super::act::Act;
use super::{SETTLE, StepError, driver};
use crate::host::{Clock, HostError, HostPath, Read, Write};
use crate::model::{Bdf, DriverName, Errno};

/// Hears of every change to the host.
pub trait Watch {
    /// A change that was made, or that the kernel refused with `refused`.
    fn change(&mut self, act: &Act, refused: Option<Errno>);
}

/// Makes one change. A `bind` that the kernel defers is asked for again until the deadline.
///
/// # Kernel
/// `drivers/base/dd.c` `device_driver_attach()` turns `EPROBE_DEFER` into `EAGAIN`, and answers so for a device that is still
/// being made (7.2).
pub(super) fn perform(act: &Act, host: &dyn Write, clock: &dyn Clock, watch: &mut dyn Watch) -> Result<(), StepError> {
    let by = clock.now() + SETTLE;
    loop {
        let done = once(act, host);
        let refused = done.as_ref().err().map(|error| error.errno);
        watch.change(act, refused);
        match done {
            Err(HostError { errno: Errno::EAGAIN, .. }) if act.is_bind() && clock.now() < by => {
                clock.nap(Duration::from_millis(50));
            }
            other => return other.map_err(StepError::from),
        }
    }
}

fn once(act: &Act, host: &dyn Write) -> Result<(), HostError> {
    match act {
        Act::Write { path, value, .. } => host.write(path, value),
        Act::Load { module, blacklist } => host.load_module(module, *blacklist),
    }
}

/// Waits until `device` shows `wanted` as its driver.
pub(super) fn settle_driver(
    device: Bdf,
    wanted: Option<&DriverName>,
    host: &dyn Read,
    clock: &dyn Clock,
) -> Result<(), StepError> {
    let by = clock.now() + SETTLE;
    let mut pause = Duration::from_millis(1);
    loop {
        let shown = driver(host, device)?;
        if shown.as_ref() == wanted {
            return Ok(());
        }
        if clock.now() >= by {
            let name = |driver: Option<&DriverName>| driver.map_or_else(|| "no driver".to_owned(), ToString::to_string);
            let path = HostPath::pci(device).attr("driver");
            let (wanted, shown) = (name(wanted), name(shown.as_ref()));
            return Err(StepError::NotSettled { path, wanted, shown, waited: SETTLE });
        }
        clock.nap(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
