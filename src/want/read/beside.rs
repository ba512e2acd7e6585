//! Entries of what is no plain function and no mdev: WQs, subfunctions, vGPUs.

use std::collections::BTreeMap;

use super::{EntryKind, hint_of};
use crate::plan::parameters::{Assignment, ParameterError};
use crate::plan::queues::{self, QueueError};
use crate::plan::subfunctions::{self, SfError};
use crate::want::file::{SfEntry, Value, VgpuEntry, WqEntry};

/// A mistake, and what to do about it.
type Wrong = (String, String);

/// `set` as `--set` is given.
pub(super) fn assignments(set: &BTreeMap<String, Value>) -> Vec<Assignment> {
    set.iter().map(|(key, value)| Assignment { key: key.clone(), value: value.to_string() }).collect()
}

pub(super) fn wq(entry: WqEntry) -> Result<EntryKind, Wrong> {
    match queues::parse(&assignments(&entry.set)) {
        Ok(parameters) => Ok(EntryKind::Wq(entry, parameters)),
        Err(error) => {
            let hint = match &error {
                QueueError::Parameter(error) => hint_of(error, &queues::KEYS),
                QueueError::SharedAlone(_) => String::from("add mode = \"shared\""),
                _ => String::from("see vfioadm create --help"),
            };
            Err((error.to_string(), hint))
        }
    }
}

pub(super) fn sf(entry: SfEntry) -> Result<EntryKind, Wrong> {
    // The number is a key of the entry itself.
    let keys: Vec<_> = subfunctions::KEYS.iter().copied().filter(|(key, _)| *key != "sfnum").collect();
    let unknown = |key: &&String| keys.iter().all(|(known, _)| known != key);
    let error = match entry.set.keys().find(unknown) {
        Some(key) => ParameterError::UnknownKey(key.clone()),
        None => match subfunctions::parse(&assignments(&entry.set), 1) {
            Ok(mut wish) => {
                wish.sfnum = Some(entry.sfnum);
                return Ok(EntryKind::Sf(entry, wish));
            }
            Err(SfError::Parameter(error)) => error,
            Err(error) => return Err((error.to_string(), String::from("see vfioadm create --help"))),
        },
    };
    let hint = hint_of(&error, &keys);
    Err((error.to_string(), hint))
}

pub(super) fn vgpu(entry: VgpuEntry) -> Result<EntryKind, Wrong> {
    if entry.kind == 0 {
        return Err((
            String::from("type 0 is no vGPU: it is what takes one away"),
            String::from("leave the entry out"),
        ));
    }
    Ok(EntryKind::Vgpu(entry))
}
