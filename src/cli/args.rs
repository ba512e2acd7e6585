//! Every flag, and nothing else: parsing never touches the machine.

pub mod prove;
pub mod want;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::check::{FindingId, Severity};
use crate::host::ledger::OperationId;
use crate::model::ParseError;
use crate::model::offer::OfferKind;
use crate::model::{Bdf, DeviceRef, DriverName, GroupId, ModAlias};
use crate::plan::Wanted;
use crate::plan::parameters::Assignment;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "vfioadm",
    version,
    about = "Turns host devices into VFIO devices and back: picks the right driver, explains the choice, proves what it did",
    after_help = "Exit status: 0 done or nothing to do; 1 failed or refused, the host is as it was; 2 wrong command line; \
                  3 the host is not as it was; 4 check found something.",
    max_term_width = 100,
    propagate_version = true
)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb, accepted before or after it.
#[derive(Debug, Args)]
pub struct Global {
    /// The host to work on: live, demo (built in), or a file made by `vfioadm record`
    #[arg(long, global = true, help_heading = "Global options", value_name = "live|demo|FILE", default_value = "live")]
    pub host: HostArg,
    /// Write a recorded host back to its file after changing it
    #[arg(long, global = true, help_heading = "Global options")]
    pub save: bool,
    /// Output format
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        help_heading = "Global options",
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub output: Format,
    /// Print each change as a line that root could paste
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub verbose: bool,
    /// Print no warnings
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// When to colour
    #[arg(long, global = true, help_heading = "Global options", value_name = "WHEN", default_value = "auto")]
    pub color: When,
}

/// Which machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostArg {
    /// The running one.
    Live,
    /// The built-in one.
    Demo,
    /// A recorded one.
    File(PathBuf),
}

impl std::str::FromStr for HostArg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "live" => Self::Live,
            "demo" => Self::Demo,
            file => Self::File(PathBuf::from(file)),
        })
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: docs/json.md.
    Json,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the PCI functions, mdevs and work queues of the host
    List(ListArgs),
    /// Show all that is known of one device
    Show(ShowArgs),
    /// Rank the VFIO drivers whose id table matches a device, and say why
    Match(MatchArgs),
    /// Say what stands in the way of giving a device away
    Check(CheckArgs),
    /// Give devices to a VFIO driver, best match first
    Bind(BindArgs),
    /// Make VFs, mdevs, work queues, vGPUs or subfunctions, set them up and give them their driver
    Create(CreateArgs),
    /// Unmake what create has made
    Destroy(DestroyArgs),
    /// Give devices back to their host driver
    Unbind(UnbindArgs),
    /// Take back an operation that was cut off, or one that has ended
    Undo(UndoArgs),
    /// List the operations since the machine was booted, or all that one did
    Log(LogArgs),
    /// Say what can be made on the host: VFs, mdevs, work queues, vGPUs, subfunctions
    Types(TypesArgs),
    /// Say what has to be done so that the host is as its host file says
    Plan(want::PlanArgs),
    /// Make the host as its host file says
    Apply(want::ApplyArgs),
    /// Say whether the host is as its host file says
    Verify(want::VerifyArgs),
    /// Print the host file that says what the host is now
    Describe,
    /// Have the host file applied at every boot, and when a device appears
    Boot(want::BootArgs),
    /// Say what became of the host file since the machine was booted, and whether the host is as it says
    Status(want::StatusArgs),
    /// Tell what happens to devices as it happens, and when the host is no longer as its host file says
    Watch(want::WatchArgs),
    /// Print the host file that says what another tool is told to do with devices, and what stands in its way
    Import(want::ImportArgs),
    /// Open a VFIO device and say what it is and can do, migration above all
    Inspect(prove::InspectArgs),
    /// Save or load the migration state of a device
    State(prove::StateArgs),
    /// Hold a VFIO driver to the rules of the kernel's interface, case by case
    Qualify(prove::QualifyArgs),
    /// Record the host into a file that `--host FILE` takes
    Record(RecordArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// `list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only these: addresses, PF/vfN, netdevs, patterns such as '0000:3b:*'
    #[arg(value_name = "SELECTOR")]
    pub selectors: Vec<DeviceRef>,
    /// Only this vendor
    #[arg(long, value_name = "HEX", value_parser = hex16)]
    pub vendor: Option<u16>,
    /// Only this device id
    #[arg(long, value_name = "HEX", value_parser = hex16)]
    pub device: Option<u16>,
    /// Only classes that begin so: 02, 0200, 020000
    #[arg(long, value_name = "HEX", value_parser = class_prefix)]
    pub class: Option<String>,
    /// Only this IOMMU group
    #[arg(long, value_name = "GROUP")]
    pub group: Option<GroupId>,
    /// Only VFs of this PF
    #[arg(long, value_name = "BDF")]
    pub pf: Option<Bdf>,
    /// Only devices on this driver; none: on no driver
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<DriverName>,
    /// Say which processes have each device open
    #[arg(long)]
    pub holders: bool,
    /// Open each VFIO device that nobody has open, and say whether it migrates; resets a vfio-pci device
    #[arg(long)]
    pub probe: bool,
}

/// `show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The device
    #[arg(value_name = "DEVICE")]
    pub device: DeviceRef,
}

/// `match`
#[derive(Debug, Args)]
pub struct MatchArgs {
    /// The device
    #[arg(value_name = "DEVICE", required_unless_present = "modalias", conflicts_with = "modalias")]
    pub device: Option<DeviceRef>,
    /// A device that need not be here, by its modalias: pci:v…d…sv…sd…bc…sc…i…
    #[arg(long, value_name = "MODALIAS")]
    pub modalias: Option<ModAlias>,
    /// The module directory of another kernel, /lib/modules/RELEASE
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
}

/// `check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The devices; without any, every device that could be given away
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<DeviceRef>,
    /// Check for this driver instead of the best VFIO driver
    #[arg(long, value_name = "DRIVER", value_parser = wanted, default_value = "best")]
    pub driver: Wanted,
    /// Judge as if every endpoint of the group were bound too
    #[arg(long)]
    pub with_group: bool,
    /// Open each VFIO device that nobody has open, and tell of those on a variant that do not migrate; resets a vfio-pci device
    #[arg(long)]
    pub probe: bool,
}

/// What `bind` and `unbind` share.
#[derive(Debug, Args)]
pub struct ActArgs {
    /// Every endpoint of the IOMMU group too
    #[arg(long)]
    pub with_group: bool,
    /// Do it in spite of these findings
    #[arg(long, value_name = "FINDING", value_delimiter = ',', value_parser = finding())]
    pub allow: Vec<FindingId>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Accept what cannot be undone: VFs that go with their PF's driver
    #[arg(long)]
    pub yes: bool,
    /// When one device fails, take all of them back
    #[arg(long)]
    pub all_or_nothing: bool,
    /// How many devices are acted on at once
    #[arg(long, value_name = "COUNT", value_parser = jobs)]
    pub jobs: Option<NonZeroUsize>,
    /// The lock.
    #[command(flatten)]
    pub lock: LockArgs,
    /// Wait so long for whoever has a device open to close it
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait_holder: u32,
    /// Let the kernel ask whoever has a device open to let go; one that does not leaves it half unbound
    #[arg(long)]
    pub request: bool,
}

/// `create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What they are made of: a PF, an mdev parent such as mtty, an idxd device such as dsa0
    #[arg(required = true, value_name = "PARENT")]
    pub parents: Vec<DeviceRef>,
    /// What is made: vf, wq, sf, vgpu:ID, or an mdev type (vfioadm types)
    #[arg(value_name = "TYPE", value_parser = kind)]
    pub kind: OfferKind,
    /// How many, of each parent
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub count: u16,
    /// How many VFs to enable on a PF that has none, for later calls to take from
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub pool: Option<u16>,
    /// The name of the mdev; without it one is drawn
    #[arg(long, value_name = "UUID", value_parser = uuid)]
    pub uuid: Option<uuid::Uuid>,
    /// What it is to have before its driver looks. VF: mac, vlan, qos, proto, min-rate, max-rate, spoofchk, trust, link-state,
    /// node-guid, port-guid, msix; by devlink hw-addr, roce, migratable, max-io-eqs; eswitch of a PF without VFs. WQ: type, size, mode, threshold, group, priority, name, driver-name, engine, block-on-fault, max-transfer-size, max-batch-size, ats-disable, prs-disable,
    /// enqcmds-retries, op-config. SF: sfnum, hw-addr,
    /// roce, max-io-eqs, state
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<Assignment>,
    /// What a driver cannot set is skipped and told, not refused
    #[arg(long)]
    pub best_effort: bool,
    /// Which driver a VF gets: best, host, none, or one by its name
    #[arg(long, default_value = "best", value_name = "DRIVER", value_parser = wanted)]
    pub driver: Wanted,
    /// When the best driver refuses, do not try the next
    #[arg(long)]
    pub no_fallback: bool,
    /// Accept that VFs which are there are destroyed to make room, or that WQs which are configured are enabled too
    #[arg(long)]
    pub yes: bool,
    /// Do it in spite of these findings about what is taken away
    #[arg(long, value_name = "FINDING", value_delimiter = ',', value_parser = finding())]
    pub allow: Vec<FindingId>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How many devices are acted on at once
    #[arg(long, value_name = "COUNT", value_parser = jobs)]
    pub jobs: Option<NonZeroUsize>,
    /// The lock.
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `destroy`
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// VFs, mdevs, work queues, VFs that are vGPUs, and subfunctions as PF/sfN
    #[arg(required = true, value_name = "DEVICE")]
    pub devices: Vec<DeviceRef>,
    /// Do it in spite of these findings about what is taken away
    #[arg(long, value_name = "FINDING", value_delimiter = ',', value_parser = finding())]
    pub allow: Vec<FindingId>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How many devices are acted on at once
    #[arg(long, value_name = "COUNT", value_parser = jobs)]
    pub jobs: Option<NonZeroUsize>,
    /// The lock.
    #[command(flatten)]
    pub lock: LockArgs,
}

/// A TYPE of `create`.
fn kind(text: &str) -> Result<OfferKind, ParseError> {
    match text {
        "vf" => Ok(OfferKind::Vf),
        "wq" => Ok(OfferKind::Wq),
        "sf" => Ok(OfferKind::Sf),
        other => match other.strip_prefix("vgpu:") {
            Some(id) => id.parse().map(OfferKind::Vgpu).map_err(|_| ParseError::new("vgpu:ID", text)),
            None => other.parse().map(OfferKind::Mdev).map_err(|_| ParseError::new("a type", text)),
        },
    }
}

/// A UUID of 36 characters, in any case.
fn uuid(text: &str) -> Result<uuid::Uuid, ParseError> {
    let whole = (text.len() == 36).then(|| uuid::Uuid::try_parse(text).ok()).flatten();
    whole.ok_or_else(|| ParseError::new("a UUID of 36 characters", text))
}

/// What every verb that writes takes.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// Wait so long for another vfioadm to end
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait_lock: u32,
}

/// `undo`
#[derive(Debug, Args)]
pub struct UndoArgs {
    /// The operation; without it the newest that did not end
    #[arg(value_name = "OPERATION")]
    pub operation: Option<OperationId>,
    /// Do it in spite of these findings
    #[arg(long, value_name = "FINDING", value_delimiter = ',', value_parser = finding())]
    pub allow: Vec<FindingId>,
    /// Take nothing back, and close the operation as it is
    #[arg(long, requires = "operation")]
    pub forget: bool,
    /// The lock.
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `log`
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The operation; without it all of them
    #[arg(value_name = "OPERATION")]
    pub operation: Option<OperationId>,
}

/// `bind`
#[derive(Debug, Args)]
pub struct BindArgs {
    /// The devices
    #[arg(value_name = "DEVICE", required = true)]
    pub devices: Vec<DeviceRef>,
    /// best, host, none, or the name of a driver, literally
    #[arg(long, value_name = "DRIVER", value_parser = wanted, default_value = "best")]
    pub driver: Wanted,
    /// When the best driver refuses, do not try the next
    #[arg(long)]
    pub no_fallback: bool,
    /// What a VF is to have before its driver looks, as of create; it is taken from a driver that it has
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<Assignment>,
    /// What a PF's driver cannot set is skipped and told, not refused
    #[arg(long)]
    pub best_effort: bool,
    /// The rest.
    #[command(flatten)]
    pub act: ActArgs,
}

/// `unbind`
#[derive(Debug, Args)]
pub struct UnbindArgs {
    /// The devices
    #[arg(value_name = "DEVICE", required = true)]
    pub devices: Vec<DeviceRef>,
    /// The rest.
    #[command(flatten)]
    pub act: ActArgs,
}

/// `types`
#[derive(Debug, Args)]
pub struct TypesArgs {
    /// Only what this makes: a PF, a network interface of one, an mdev parent, an idxd device such as dsa0
    #[arg(value_name = "PARENT")]
    pub parent: Option<DeviceRef>,
}

/// `record`
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// The file; - for standard output
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Keep serial numbers and MAC addresses
    #[arg(long)]
    pub keep_identity: bool,
}

/// `completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// The ids of findings that can be lifted, so that help and completions list them.
fn finding() -> impl TypedValueParser<Value = FindingId> {
    let refusals = FindingId::ALL.iter().filter(|id| id.severity() == Severity::Refuse);
    PossibleValuesParser::new(refusals.map(|id| id.as_str())).try_map(|text| text.parse::<FindingId>())
}

fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= 256);
    count.ok_or_else(|| String::from("not a number from 1 to 256"))
}

fn hex16(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let good = (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    good.then(|| u16::from_str_radix(digits, 16).ok())
        .flatten()
        .ok_or_else(|| String::from("not 1 to 4 hexadecimal digits"))
}

fn class_prefix(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
    let good = (2..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if good { Ok(digits) } else { Err(String::from("not 2 to 6 hexadecimal digits")) }
}

fn wanted(text: &str) -> Result<Wanted, ParseError> {
    text.parse()
}
