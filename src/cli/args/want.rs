//! The verbs of the host file.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use super::{LockArgs, jobs};
use crate::model::Bdf;
use crate::want::import::Tool;

/// `plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The host file; without it /etc/vfioadm/host.toml and /etc/vfioadm/host.d
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Exit with 4 when the host is not as the file says
    #[arg(long)]
    pub exit_code: bool,
}

/// `apply`
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The host file; without it /etc/vfioadm/host.toml and /etc/vfioadm/host.d
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Accept what cannot be undone: VFs that go because their PF is to have another number of them
    #[arg(long)]
    pub yes: bool,
    /// Take every entry by itself: one that fails or is refused does not keep the others
    #[arg(long)]
    pub boot: bool,
    /// As --boot, of the entries `[[device]]` alone: before host drivers are loaded, in an initramfs
    #[arg(long)]
    pub early: bool,
    /// As --boot, of the entries that are about this function or its VFs alone
    #[arg(long, value_name = "BDF", conflicts_with = "early")]
    pub only: Option<Bdf>,
    /// Wait so long for a host driver: of a PF that has none yet, or that is to tell whether an entry is about a device
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait_driver: u32,
    /// How many devices are acted on at once
    #[arg(long, value_name = "COUNT", value_parser = jobs)]
    pub jobs: Option<NonZeroUsize>,
    /// The lock.
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The host file; without it /etc/vfioadm/host.toml and /etc/vfioadm/host.d
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `boot`
#[derive(Debug, Args)]
pub struct BootArgs {
    /// Which act.
    #[command(subcommand)]
    pub act: BootAct,
}

/// What is done about boots.
#[derive(Debug, Subcommand)]
pub enum BootAct {
    /// Install the units, rules and hooks that apply the host file at every boot
    Install(BootFiles),
    /// Remove them
    Remove(BootFiles),
    /// Say which of them are there, and whether they go by the host file of today
    Status(BootFiles),
}

/// Where they are.
#[derive(Debug, Args)]
pub struct BootFiles {
    /// The root of the system that they are for
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

/// `status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The host file; without it /etc/vfioadm/host.toml and /etc/vfioadm/host.d
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `watch`
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The host file; without it /etc/vfioadm/host.toml and /etc/vfioadm/host.d, where they are
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// End after so many events of devices
    #[arg(long, value_name = "COUNT")]
    pub count: Option<u64>,
}

/// `import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Whose files are read
    #[arg(value_name = "TOOL", value_parser = tool())]
    pub tool: Tool,
    /// The files, or directories of them; without any those of the host, where the tool has them
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

fn tool() -> impl TypedValueParser<Value = Tool> {
    PossibleValuesParser::new(Tool::ALL.map(Tool::as_str)).try_map(|text| text.parse::<Tool>())
}
