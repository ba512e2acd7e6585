//! The verbs of the host file.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::{LockArgs, jobs};

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
