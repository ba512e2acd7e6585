//! The flags of what opens a device.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};

use super::uuid;
use crate::host::opening::Kind;
use crate::model::DeviceRef;

/// How a device is opened.
#[derive(Debug, Clone, Args)]
pub struct OpenArgs {
    /// Open it by its cdev or by its group, whatever else there is
    #[arg(long, value_name = "WAY", value_parser = way())]
    pub by: Option<Kind>,
    /// The VF token that the user of its PF has set
    #[arg(long, value_name = "UUID", value_parser = uuid)]
    pub token: Option<uuid::Uuid>,
    /// Open it even without an IOMMU: its DMA can then reach any memory of the host
    #[arg(long)]
    pub allow_no_iommu: bool,
}

/// A way to a device: `/dev/vfio/devices/vfioN` and `/dev/iommu`, or `/dev/vfio/GROUP` and a container.
fn way() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(["cdev", "group"]).map(|text| if text == "cdev" { Kind::Cdev } else { Kind::Group })
}

/// `inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The device, on a VFIO driver
    #[arg(value_name = "DEVICE")]
    pub device: DeviceRef,
    /// How.
    #[command(flatten)]
    pub open: OpenArgs,
}

/// `state`
#[derive(Debug, Args)]
pub struct StateArgs {
    /// Which way.
    #[command(subcommand)]
    pub verb: StateVerb,
}

/// What is done with a state.
#[derive(Debug, Subcommand)]
pub enum StateVerb {
    /// Save the migration state of a device into a file
    Save(SaveArgs),
    /// Load a state from a file into a device
    Load(LoadArgs),
    /// Say what is in a state file, or in what state a device is
    Info(InfoArgs),
}

/// `state save`
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// The device
    #[arg(value_name = "DEVICE")]
    pub device: DeviceRef,
    /// The file; - is standard output
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Read what can be read while the device works, then the rest
    #[arg(long)]
    pub precopy: bool,
    /// Take the device as it is open already, from whoever started this command, by this descriptor: it is not reset then
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["by", "token", "allow_no_iommu"])]
    pub fd: Option<RawFd>,
    /// How.
    #[command(flatten)]
    pub open: OpenArgs,
}

/// `state load`
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The device
    #[arg(value_name = "DEVICE")]
    pub device: DeviceRef,
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How.
    #[command(flatten)]
    pub open: OpenArgs,
    /// Run this with the device kept open, and its descriptors in VFIOADM_FDS
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
}

/// `state info`
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// A file, or a device
    #[arg(value_name = "FILE|DEVICE")]
    pub what: OsString,
    /// How a device is opened.
    #[command(flatten)]
    pub open: OpenArgs,
}

/// `qualify`
#[derive(Debug, Args)]
pub struct QualifyArgs {
    /// The device
    #[arg(value_name = "DEVICE")]
    pub device: DeviceRef,
    /// Another device, whose state is loaded too: of the same kind, or of another whose state must be refused
    #[arg(long, value_name = "DEVICE")]
    pub peer: Option<DeviceRef>,
    /// How it is told; without this, as -o says
    #[arg(long, value_name = "FORMAT", default_value = "as-output")]
    pub report: Told,
    /// How often it is opened and closed, and its state saved and loaded, to see that nothing is left behind
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub loops: u32,
    /// Accept that what is in the devices is lost, for they are reset and loaded again and again, and that they and their PF are
    /// taken from their drivers and given back; without it they are only asked
    #[arg(long)]
    pub yes: bool,
    /// How.
    #[command(flatten)]
    pub open: OpenArgs,
}

/// How the outcome of cases is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Told {
    /// As `-o` says: a table, or JSON.
    AsOutput,
    /// A table in Markdown.
    Markdown,
    /// JUnit's XML.
    Junit,
}
