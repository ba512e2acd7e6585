//! A device that is in the middle of another operation.

use super::{Finding, FindingId, Picture};
use crate::model::{PciFunction, Role, Target};

/// An operation that left a device halfway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Its name, which `undo` takes.
    pub operation: String,
    /// The process that began it.
    pub pid: u32,
    /// The command line.
    pub command: String,
    /// How.
    pub halfway: Halfway,
}

/// How an operation left a device halfway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halfway {
    /// It has not ended, and whether its process is still at it was not asked.
    NotEnded,
    /// It was cut off: nobody is at it.
    CutOff,
    /// It has ended, and could not take the device back.
    Remains,
}

pub(super) fn check(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    let by_pf = || match device.role {
        Role::Vf { pf, index: Some(index) } => picture.unfinished.get(&Target::Vf { pf, index }),
        _ => None,
    };
    let unfinished = picture.unfinished.get(&bdf.into()).or_else(by_pf);
    found.extend(unfinished.map(|unfinished| left_halfway(bdf.into(), unfinished)));
}

/// `device` is in the middle of an operation.
#[must_use]
pub fn left_halfway(device: Target, unfinished: &Unfinished) -> Finding {
    let Unfinished { operation, pid, command, halfway } = unfinished;
    let how = match halfway {
        Halfway::NotEnded => "which has not ended: it is under way, or was cut off",
        Halfway::CutOff => "which was cut off",
        Halfway::Remains => "which could not be taken back in full",
    };
    let message = format!("{device} is part of {operation} (pid {pid}: {}), {how}", clipped(command));
    let remedy = format!("take it back: vfioadm undo {operation}; or leave it so: vfioadm undo {operation} --forget");
    Finding { id: FindingId::UnfinishedOperation, device: device.address(), message, remedy }
}

/// A command line that names a thousand devices is told by its beginning.
fn clipped(command: &str) -> String {
    const MOST: usize = 80;
    let mut chars = command.chars();
    let begin: String = chars.by_ref().take(MOST).collect();
    if chars.next().is_some() { format!("{begin}…") } else { begin }
}
