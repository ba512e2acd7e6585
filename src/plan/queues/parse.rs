//! `--set` of a WQ.

use std::collections::BTreeSet;

use super::QueueError;
use crate::model::DriverName;
use crate::model::dsa::{DsaKey, Operations};
use crate::model::idxd::{IdxdIndex, WqMode, WqType};
use crate::model::vf::Switch;
use crate::plan::parameters::{Assignment, Given, ParameterError, known, number};

/// Every key that is accepted, with what it takes.
pub const KEYS: [(&str, &str); 16] = [
    ("type", "user or kernel"),
    ("size", "1 to 65535 entries"),
    ("mode", "dedicated or shared"),
    ("threshold", "entries, up to size, with mode=shared"),
    ("group", "the number of a group"),
    ("priority", "1 to 15"),
    ("name", "up to 100 printable characters"),
    ("driver-name", "a driver of the bus dsa"),
    ("engine", "the number of an engine that is in no group"),
    ("block-on-fault", "on or off"),
    ("max-transfer-size", "bytes, a power of two"),
    ("max-batch-size", "descriptors, a power of two; of DSA"),
    ("ats-disable", "on or off"),
    ("prs-disable", "on or off"),
    ("enqcmds-retries", "0 to 64, with mode=shared"),
    ("op-config", "a bitmap of operations in hexadecimal, within op_cap of the device"),
];

/// What a WQ is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueParameters {
    pub(super) kind: WqType,
    pub(super) size: Option<u32>,
    pub(super) mode: WqMode,
    pub(super) threshold: Option<u32>,
    pub(super) group: IdxdIndex,
    pub(super) priority: u8,
    pub(super) name: String,
    pub(super) driver: DriverName,
    pub(super) engine: Option<IdxdIndex>,
    /// Those that a kernel or a device may not have, as sysfs takes them.
    pub(super) others: Vec<(DsaKey, String)>,
    /// The keys that were given.
    pub(super) given: BTreeSet<&'static str>,
}

impl QueueParameters {
    /// The attributes that a kernel or a device may not have.
    pub fn optional(&self) -> impl Iterator<Item = DsaKey> {
        self.others.iter().map(|(key, _)| *key)
    }

    /// The driver of the bus that the WQ is given to.
    #[must_use]
    pub const fn driver(&self) -> &DriverName {
        &self.driver
    }
}

/// Reads `--set`: a dedicated WQ of programs in group 0, unless it says otherwise.
///
/// # Errors
/// [`QueueError`].
pub fn parse(all: &[Assignment]) -> Result<QueueParameters, QueueError> {
    let (mut kind, mut mode, mut size, mut threshold) = (WqType::User, WqMode::Dedicated, None, None);
    let (mut group, mut priority, mut name, mut driver, mut engine) = (0, 10, None, None, None);
    let (mut others, mut keys) = (Vec::new(), BTreeSet::new());
    for given in known(all, &KEYS) {
        let given = given?;
        let Given { key, value, .. } = given;
        let bad = || given.bad();
        keys.insert(key);
        match key {
            "type" => {
                kind = match value {
                    "user" => WqType::User,
                    "kernel" => WqType::Kernel,
                    _ => return Err(bad().into()),
                }
            }
            "mode" => {
                mode = match value {
                    "dedicated" => WqMode::Dedicated,
                    "shared" => WqMode::Shared,
                    _ => return Err(bad().into()),
                }
            }
            "size" => size = Some(u32::from(number::<u16>(value).filter(|size| *size > 0).ok_or_else(bad)?)),
            "threshold" => {
                threshold = Some(u32::from(number::<u16>(value).filter(|entries| *entries > 0).ok_or_else(bad)?))
            }
            "group" => group = number(value).ok_or_else(bad)?,
            "engine" => engine = Some(number(value).ok_or_else(bad)?),
            "priority" => {
                priority = number(value).filter(|priority| (1..=15).contains(priority)).ok_or_else(bad)?;
            }
            "name" => {
                let plain =
                    (1..=100).contains(&value.len()) && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
                let trimmed = value.trim() == value;
                name = Some(Some(value.to_owned()).filter(|_| plain && trimmed).ok_or_else(bad)?);
            }
            "driver-name" => driver = Some(value.parse::<DriverName>().map_err(|_| bad())?),
            _ => others.push(other(key, value).ok_or_else(bad)?),
        }
    }
    let usual = if kind == WqType::User { "user" } else { "dmaengine" };
    let driver = match driver {
        Some(driver) => driver,
        None => usual.parse().map_err(|_| ParameterError::UnknownKey(usual.to_owned()))?,
    };
    if mode == WqMode::Dedicated {
        let retries = others.iter().any(|(key, _)| *key == DsaKey::EnqcmdsRetries);
        if threshold.is_some() || retries {
            return Err(QueueError::SharedAlone(if retries { "enqcmds-retries" } else { "threshold" }));
        }
    }
    let name = name.unwrap_or_else(|| String::from("vfioadm"));
    Ok(QueueParameters { kind, size, mode, threshold, group, priority, name, driver, engine, others, given: keys })
}

/// An attribute as sysfs takes it.
fn other(key: &str, value: &str) -> Option<(DsaKey, String)> {
    let switch = || value.parse::<Switch>().ok().map(|on| u8::from(on.is_on()).to_string());
    let power = || number(value).filter(|size: &u64| size.is_power_of_two()).map(|size| size.to_string());
    Some(match key {
        "block-on-fault" => (DsaKey::BlockOnFault, switch()?),
        "max-transfer-size" => (DsaKey::MaxTransferSize, power()?),
        "max-batch-size" => (DsaKey::MaxBatchSize, power()?),
        "ats-disable" => (DsaKey::AtsDisable, switch()?),
        "prs-disable" => (DsaKey::PrsDisable, switch()?),
        "op-config" => (DsaKey::OpConfig, value.parse::<Operations>().ok()?.to_string()),
        _ => (DsaKey::EnqcmdsRetries, number::<u8>(value).filter(|retries| *retries <= 64)?.to_string()),
    })
}

/// The key of `--set` of an attribute that a kernel or a device may not have.
pub(super) fn key(of: DsaKey) -> Option<&'static str> {
    KEYS.iter().map(|(key, _)| *key).find(|key| key.replace('-', "_") == of.attribute())
}
