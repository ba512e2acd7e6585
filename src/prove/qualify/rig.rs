//! What a case cannot bring about by an open device: drivers that go and come.

use super::{Bench, Off};
use crate::model::Errno;

/// Whom a situation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The device.
    Device,
    /// Its PF.
    Pf,
    /// The other one.
    Peer,
}

/// What is so while a case looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Situation {
    /// No driver has it.
    Unbound(Who),
    /// The driver of the device has it by its override, whatever is in its table.
    OnDriver(Who),
}

/// Why a case has not seen what it wanted to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// It is not to be brought about on this host, and nothing was done.
    Unfit(String),
    /// The probe of the driver has refused; all is as it was.
    Refused(Errno),
    /// The kernel would not have it, or not have it taken back.
    Stuck(String),
}

/// Brings situations about, and takes them back: the power to rebind, which whoever runs the cases has.
pub trait Rig {
    /// Brings it about, lets somebody look, and takes it back.
    ///
    /// # Errors
    /// [`Hindrance`]; nobody has looked, unless it could not be taken back.
    fn lend(&self, situation: Situation, look: &mut dyn FnMut()) -> Result<(), Hindrance>;
}

/// What came of a situation.
pub(super) enum Seen<T> {
    /// Somebody has looked.
    Looked(T),
    /// The probe has refused.
    Refused(Errno),
}

/// Looks while it is so.
pub(super) fn during<T>(
    bench: &Bench<'_>,
    situation: Situation,
    look: impl FnOnce() -> Result<T, Off>,
) -> Result<Seen<T>, Off> {
    let Some(rig) = bench.rig else { return Err(Off::NotApplicable("nothing is rebound".to_owned())) };
    let (mut look, mut seen) = (Some(look), None);
    let ended = rig.lend(situation, &mut || seen = look.take().map(|look| look()));
    match (ended, seen) {
        (Err(Hindrance::Unfit(reason)), _) => Err(Off::NotApplicable(reason)),
        (Err(Hindrance::Refused(errno)), _) => Ok(Seen::Refused(errno)),
        (Err(Hindrance::Stuck(reason)), _) => Err(Off::Fail(reason)),
        (Ok(()), Some(seen)) => seen.map(Seen::Looked),
        (Ok(()), None) => Err(Off::NotApplicable("it did not come about".to_owned())),
    }
}

/// The same of an unbind, which no probe refuses.
pub(super) fn without<T>(bench: &Bench<'_>, who: Who, look: impl FnOnce() -> Result<T, Off>) -> Result<T, Off> {
    match during(bench, Situation::Unbound(who), look)? {
        Seen::Looked(seen) => Ok(seen),
        Seen::Refused(errno) => Err(Off::Fail(format!("it was not unbound: {errno}"))),
    }
}
