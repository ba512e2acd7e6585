//! The record of an operation: what was about to be done, and how to take it back, written before it is done.
//!
//! One JSON object a line. The first says whose record it is: boot, process, command, lanes. Each act follows, in the order
//! of the acts, before the write that it announces; the last line says how it ended and what it left. Every line ends with a
//! checksum of itself and of all lines before it, so that a line that was changed, or taken out, is told from one that was
//! torn when the machine stopped.

mod read;
mod rows;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Binding, StepError};
use crate::host::ledger::{Append, Ledger, LedgerError, OperationId};
use crate::model::vf::Switch;
use crate::model::{Errno, Target};
use crate::step::{MdevOf, Plan, Pool, Setting};

pub(super) use read::is_an_end;
pub use read::{JournalError, Operation, Standing};
pub use time::Seconds;

/// What every first line says it is.
const FORMAT: &str = "vfioadm-journal/1";

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// `vfioadm-journal/1`.
    format: String,
    /// `/proc/sys/kernel/random/boot_id`; `None` for a recorded host.
    pub boot: Option<String>,
    /// The process that wrote it.
    pub pid: u32,
    /// Its command line, as it was claimed.
    pub command: String,
    /// When it began: seconds since 1970-01-01 00:00 UTC.
    pub date: u64,
    /// The devices, in the order of the command line.
    pub lanes: Vec<HeaderLane>,
    /// How many bytes the whole may take.
    #[serde(skip)]
    room: u64,
}

/// More than a line takes: an override is a page at most, and is hardly ever more than a name.
const LINE_BYTES: u64 = 512;

/// A device of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderLane {
    /// The function.
    #[serde(with = "as_text")]
    pub device: Target,
    /// The lanes that it waited for, and that are taken back after it.
    pub after: Vec<usize>,
}

impl Header {
    /// The header of an operation that begins now.
    #[must_use]
    pub fn new(boot: Option<String>, command: &str, date: Duration, plan: &Plan) -> Self {
        let lane = |lane: &crate::step::Lane| HeaderLane { device: lane.device, after: lane.after.clone() };
        Self {
            format: FORMAT.to_owned(),
            boot,
            pid: std::process::id(),
            command: command.to_owned(),
            date: date.as_secs(),
            lanes: plan.lanes.iter().map(lane).collect(),
            // Each step, the same for its way back, and a line for each device in the first and the last.
            room: LINE_BYTES * (2 * plan.steps().count() + 2 * plan.lanes.len() + 2) as u64,
        }
    }
}

/// One act, before it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Seconds since the command began, by the monotonic clock.
    pub at: Seconds,
    /// The lane's function.
    #[serde(with = "as_text")]
    pub device: Target,
    /// The act, as a line that root could paste.
    pub act: String,
    /// What was there; missing when there is nothing to take back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<SettingRow>,
    /// What it is to be; missing when the kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub makes: Option<SettingRow>,
    /// The process that makes the write, when that is a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// It takes something back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub back: bool,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Seconds since the command began.
    pub at: Seconds,
    /// When the kernel had shown the last change.
    pub settled: Seconds,
    /// How.
    pub end: Ended,
    /// What it left, of each device that is there.
    pub left: Vec<Left>,
    /// The devices that do not have what the operation wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "as_texts")]
    pub fell: Vec<Target>,
    /// The devices of which something could not be taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "as_texts")]
    pub remains: Vec<Target>,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// What was wanted was done, of some devices at least; the others are as they were.
    Done,
    /// The host is as it was.
    RolledBack,
    /// Something could not be taken back.
    Remains,
    /// It was taken back later.
    Undone,
    /// It was given up: by the user, or because it was of another boot.
    Closed,
}

/// What an operation left of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The function.
    #[serde(with = "as_text")]
    pub device: Target,
    /// Its driver.
    pub driver: Option<String>,
    /// Its override.
    #[serde(rename = "override")]
    pub driver_override: Option<String>,
}

impl Left {
    /// From what was seen.
    pub(super) fn new(device: Target, seen: &Binding) -> Self {
        let driver = seen.driver.as_ref().map(ToString::to_string);
        Self { device, driver, driver_override: seen.driver_override.clone() }
    }
}

/// A [`Setting`] as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SettingRow {
    /// `driver_override`.
    Override(Option<String>),
    /// The driver.
    Driver(Option<String>),
    /// `sriov_drivers_autoprobe`.
    Autoprobe(bool),
    /// How many VFs.
    Vfs(u16),
    /// `PF/vfN`, and an attribute as `ip link set` has it.
    Vf(String, String),
    /// `sriov_vf_msix_count`.
    MsixCount(u32),
    /// `PF/vfN`, the ids of a hook, which of its programs, and the parameters that it is given.
    Hook(String, String, String, String),
    /// The VFs that vfioadm enabled and gives.
    Pool(Option<Pool>),
    /// The parent and the type of an mdev.
    Mdev(Option<(String, String)>),
    /// An attribute of an mdev, its value.
    MdevAttribute(String, String),
    /// `nvidia/current_vgpu_type`.
    Vgpu(u32),
    /// A device of the bus `dsa`, an attribute, its value.
    Dsa(String, String, String),
    /// A driver of the bus `dsa`, and what goes with it.
    DsaDriver(Option<rows::Bound>),
    /// The mode of an eswitch.
    Eswitch(String),
    /// `PF/vfN` or `PF/sfN`, and an attribute as `devlink port function set` has it.
    Port(String, String),
    /// The number of the PF, the address and the state of a subfunction.
    Sf(Option<rows::Subfunction>),
}

impl From<&Setting> for SettingRow {
    fn from(setting: &Setting) -> Self {
        match setting {
            Setting::Override(text) => Self::Override(text.clone()),
            Setting::Driver(driver) => Self::Driver(driver.as_ref().map(ToString::to_string)),
            Setting::Autoprobe(switch) => Self::Autoprobe(switch.is_on()),
            Setting::Vfs(count) => Self::Vfs(*count),
            Setting::Vf { pf, index, to } => {
                Self::Vf(Target::Vf { pf: *pf, index: *index }.to_string(), to.to_string())
            }
            Setting::MsixCount(count) => Self::MsixCount(*count),
            Setting::Hook(hook) => rows::hook(hook),
            Setting::Pool(pool) => Self::Pool(pool.clone()),
            Setting::Mdev(of) => Self::Mdev(of.as_ref().map(|of| (of.parent.to_string(), of.kind.to_string()))),
            Setting::MdevAttribute(of) => Self::MdevAttribute(of.name.to_string(), of.value.clone()),
            Setting::Vgpu(id) => Self::Vgpu(*id),
            Setting::Dsa(of) => Self::Dsa(of.of.to_string(), of.key.to_string(), of.value.clone()),
            Setting::DsaDriver(bound) => Self::DsaDriver(bound.as_ref().map(rows::bound)),
            Setting::Eswitch(mode) => Self::Eswitch(mode.to_string()),
            Setting::Port { pf, behind, to } => Self::Port(format!("{pf}/{behind}"), to.to_string()),
            Setting::Sf(of) => Self::Sf(of.as_ref().map(rows::subfunction)),
        }
    }
}

impl SettingRow {
    fn setting(&self) -> Option<Setting> {
        Some(match self {
            Self::Override(text) => Setting::Override(text.clone()),
            Self::Driver(None) => Setting::Driver(None),
            Self::Driver(Some(name)) => Setting::Driver(Some(name.parse().ok()?)),
            Self::Autoprobe(on) => Setting::Autoprobe(if *on { Switch::On } else { Switch::Off }),
            Self::Vfs(count) => Setting::Vfs(*count),
            Self::Vf(vf, to) => match vf.parse().ok()? {
                Target::Vf { pf, index } => Setting::Vf { pf, index, to: to.parse().ok()? },
                _ => return None,
            },
            Self::MsixCount(count) => Setting::MsixCount(*count),
            Self::Pool(pool) => Setting::Pool(pool.clone()),
            Self::Mdev(None) => Setting::Mdev(None),
            Self::Mdev(Some((parent, kind))) => {
                Setting::Mdev(Some(MdevOf { parent: parent.parse().ok()?, kind: kind.parse().ok()? }))
            }
            other => return rows::setting(other),
        })
    }
}

/// The record being written.
pub struct Journal {
    id: Option<OperationId>,
    file: Mutex<Option<Writing>>,
    acts: AtomicUsize,
    /// When the last lane ended, in milliseconds.
    settled: AtomicU64,
}

struct Writing {
    file: Box<dyn Append>,
    sum: u32,
}

impl Journal {
    /// Begins the record of an operation of `verb`.
    ///
    /// # Errors
    /// [`LedgerError`]: the operation cannot be written down, and so must not begin.
    pub fn begin(ledger: &Ledger, verb: &str, header: &Header) -> Result<Self, LedgerError> {
        let (id, file) = ledger.begin(verb, header.room)?;
        let path = ledger.file(&id);
        let journal = Self::onto(Some(id.clone()), file, 0);
        journal.line(header).map_err(|errno| {
            // A file without a header is no operation; if it stays, it is read as a torn one.
            drop(ledger.remove(&id));
            LedgerError { verb: "write", path, errno }
        })?;
        Ok(journal)
    }

    /// Goes on with the record of `operation`.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn resume(ledger: &Ledger, operation: &Operation) -> Result<Self, LedgerError> {
        let mut file = ledger.resume(&operation.id, operation.length)?;
        // Four acts for each device, and how it ended.
        let room = LINE_BYTES * (5 * operation.header.lanes.len() + 1) as u64;
        file.set_aside(room).map_err(|errno| LedgerError {
            verb: "set room aside for",
            path: ledger.file(&operation.id),
            errno,
        })?;
        Ok(Self::resume_onto(operation, file))
    }

    /// Goes on with the record of `operation` in a file of one's own.
    #[must_use]
    pub fn resume_onto(operation: &Operation, file: Box<dyn Append>) -> Self {
        Self::onto(Some(operation.id.clone()), file, operation.sum)
    }

    /// A record on `file`, which continues one whose last line has the checksum `sum`.
    #[must_use]
    pub fn onto(id: Option<OperationId>, file: Box<dyn Append>, sum: u32) -> Self {
        let file = Mutex::new(Some(Writing { file, sum }));
        Self { id, file, acts: AtomicUsize::new(0), settled: AtomicU64::new(0) }
    }

    /// A record of an operation that has nothing to do: none.
    #[must_use]
    pub const fn none() -> Self {
        Self { id: None, file: Mutex::new(None), acts: AtomicUsize::new(0), settled: AtomicU64::new(0) }
    }

    /// The operation's name.
    #[must_use]
    pub const fn id(&self) -> Option<&OperationId> {
        self.id.as_ref()
    }

    /// How many acts were written down here.
    #[must_use]
    pub fn acts(&self) -> usize {
        self.acts.load(Ordering::Relaxed)
    }

    /// Notes that a lane has ended, and so that the kernel has shown its last change.
    pub(super) fn settle(&self, at: Seconds) {
        self.settled.fetch_max(at.0, Ordering::Relaxed);
    }

    /// When the last lane ended.
    pub(super) fn settled(&self) -> Seconds {
        Seconds(self.settled.load(Ordering::Relaxed))
    }

    /// Writes an act down, before it is done.
    pub(super) fn record(&self, record: &Record) -> Result<(), StepError> {
        self.line(record).map_err(StepError::NotRecorded)?;
        self.acts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes down how it ended.
    ///
    /// # Errors
    /// The errno of the write; what was done stays done, and can be undone as an unfinished operation.
    pub fn end(&self, end: &End) -> Result<(), Errno> {
        self.line(end)?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.as_mut().map_or(Ok(()), |writing| writing.file.set_aside(0))
    }

    fn line(&self, line: &impl Serialize) -> Result<(), Errno> {
        let body = serde_json::to_string(line).map_err(|_| Errno::EINVAL)?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writing) = file.as_mut() else { return Ok(()) };
        let sum = checksum(writing.sum, &body);
        let open = body.strip_suffix('}').ok_or(Errno::EINVAL)?;
        writing.file.append(&format!("{open}{SUM}{sum:08x}\"}}"))?;
        writing.sum = sum;
        Ok(())
    }
}

const SUM: &str = ",\"sum\":\"";

fn checksum(before: u32, body: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&before.to_le_bytes());
    hasher.update(body.as_bytes());
    hasher.finalize()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// An address by its text.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::model::Target;

    pub(super) fn serialize<S: Serializer>(bdf: &Target, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(bdf)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Target, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Addresses by their text.
mod as_texts {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::model::Target;

    pub(super) fn serialize<S: Serializer>(all: &[Target], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(all.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Target>, D::Error> {
        let texts: Vec<String> = Vec::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
    }
}

/// Time in a record.
pub mod time {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    /// Seconds, as a number with three places.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(from = "f64", into = "f64")]
    pub struct Seconds(pub(super) u64);

    impl From<Duration> for Seconds {
        fn from(length: Duration) -> Self {
            Self(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
        }
    }

    impl From<f64> for Seconds {
        fn from(seconds: f64) -> Self {
            Self::from(Duration::try_from_secs_f64(seconds).unwrap_or_default())
        }
    }

    impl From<Seconds> for f64 {
        fn from(Seconds(millis): Seconds) -> Self {
            Duration::from_millis(millis).as_secs_f64()
        }
    }
}
