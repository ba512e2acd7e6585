//! What other tools are told to do with devices, put into the words of a host file. Pure.
//!
//! A reader for each tool takes the texts of its files and says what is asked for, [`Found`]; [`settle`] looks on the host for what
//! that is about, fills in the identities, and says what could not be carried over.

mod accel_config;
mod cmdline;
mod driverctl;
mod libvirt;
mod mdevctl;
mod nmstate;
mod operator;
mod settle;
mod tree;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

pub use settle::{Ground, Imported, Scope, settle};
use uuid::Uuid;

use super::file::{RangeEntry, Value};
use super::scalar::{Text, VfRange};
use crate::model::devlink::EswitchMode;
use crate::model::idxd::IdxdIndex;
use crate::model::rules::DynamicId;
use crate::model::{Bdf, DriverName, ParseError, PciId, VfIndex};
use crate::plan::Wanted;
use crate::plan::parameters::{self, Assignment};

/// Whose files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// driverctl.
    Driverctl,
    /// mdevctl.
    Mdevctl,
    /// libvirt: domains, networks and node devices.
    Libvirt,
    /// sriov-network-operator: what its daemon leaves on a node, and its policies.
    SriovOperator,
    /// nmstate.
    Nmstate,
    /// accel-config.
    AccelConfig,
    /// The ids that vfio-pci takes: of the kernel command line, and of modprobe.
    Cmdline,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Driverctl,
        Self::Mdevctl,
        Self::Libvirt,
        Self::SriovOperator,
        Self::Nmstate,
        Self::AccelConfig,
        Self::Cmdline,
    ];

    /// As the command line spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Driverctl => "driverctl",
            Self::Mdevctl => "mdevctl",
            Self::Libvirt => "libvirt",
            Self::SriovOperator => "sriov-operator",
            Self::Nmstate => "nmstate",
            Self::AccelConfig => "accel-config",
            Self::Cmdline => "cmdline",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tool {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let named = Self::ALL.into_iter().find(|tool| tool.as_str() == text);
        named.ok_or_else(|| ParseError::new("a tool whose files can be read", text))
    }
}

/// A file of another tool.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// Where it is. Its name, and that of its directory, say something to some tools.
    pub path: &'a str,
    /// What is in it.
    pub text: &'a str,
}

impl<'a> Piece<'a> {
    fn name(self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    /// The name of the directory that it is in.
    fn directory(self) -> Option<&'a str> {
        self.path.rsplit('/').nth(1).filter(|name| !matches!(*name, "" | "." | ".."))
    }
}

/// Something about what was read: what is left out and why, or what is worth knowing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The file, and the part of it.
    pub place: String,
    /// What.
    pub words: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Remark {
    fn new(place: impl fmt::Display, words: impl fmt::Display) -> Self {
        Self { place: place.to_string(), words: words.to_string(), remedy: None }
    }

    fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = Some(remedy.to_string());
        self
    }
}

/// What would do the same as an entry of the host file, or undo it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// A file, a rule of udev, a unit.
    pub what: String,
    /// What it does.
    pub does: String,
    /// What ends that. It is never run.
    pub command: String,
}

/// What files ask for, before the host is looked at.
#[derive(Debug, Default)]
pub struct Found {
    asks: Vec<Ask>,
    policies: Vec<operator::Policy>,
    left_out: Vec<Remark>,
    notes: Vec<Remark>,
    /// What is in the way of all that is asked for.
    rivals: Vec<Rival>,
}

/// One thing that is asked for.
#[derive(Debug)]
struct Ask {
    place: String,
    what: Asked,
    /// What is in the way once a host file has it.
    rival: Option<Rival>,
}

#[derive(Debug)]
enum Asked {
    /// The driver of a function, and which product the file takes it for.
    Device { bdf: Bdf, id: Option<PciId>, driver: Wanted },
    /// vfio-pci for all that have an id.
    Ids { id: DynamicId, given: String },
    /// VFs.
    Pf(PfAsk),
    /// An mdev.
    Mdev(MdevAsk),
    /// An mdev that is made elsewhere.
    MdevByName(Uuid),
    /// A WQ.
    Queue(QueueAsk),
}

#[derive(Debug)]
struct PfAsk {
    pf: PfRef,
    vfs: u16,
    eswitch: Option<EswitchMode>,
    ranges: Vec<RangeEntry>,
}

#[derive(Debug)]
struct MdevAsk {
    uuid: Uuid,
    parent: ParentRef,
    kind: String,
    /// In the order that they are written to the mdev.
    attributes: Vec<(String, String)>,
}

#[derive(Debug)]
struct QueueAsk {
    /// `dsa0`.
    device: String,
    wq: IdxdIndex,
    set: BTreeMap<String, Value>,
}

#[derive(Debug)]
enum PfRef {
    At(Bdf),
    Netdev(String),
}

/// The parent of an mdev.
#[derive(Debug)]
enum ParentRef {
    /// By its name in `/sys/class/mdev_bus`.
    Kernel(String),
    /// By libvirt's name of its node device.
    Node(String),
}

impl Found {
    /// Every driver that is named, in the spelling of the file.
    #[must_use]
    pub fn drivers(&self) -> BTreeSet<DriverName> {
        let named = |wanted: &Wanted| match wanted {
            Wanted::Named(driver) => Some(driver.clone()),
            _ => None,
        };
        let of = self.asks.iter().filter_map(|ask| match &ask.what {
            Asked::Device { driver, .. } => named(driver),
            Asked::Ids { .. } => cmdline::driver(),
            _ => None,
        });
        of.collect()
    }

    fn ask(&mut self, place: impl fmt::Display, what: Asked, rival: Option<Rival>) {
        self.asks.push(Ask { place: place.to_string(), what, rival });
    }

    fn leave_out(&mut self, remark: Remark) {
        self.left_out.push(remark);
    }

    fn note(&mut self, remark: Remark) {
        self.notes.push(remark);
    }
}

/// Reads the files of a tool. `buses` are the names in `/sys/bus`.
#[must_use]
pub fn read(tool: Tool, pieces: &[Piece<'_>], buses: &[String]) -> Found {
    let mut found = Found::default();
    match tool {
        Tool::Driverctl => driverctl::read(pieces, buses, &mut found),
        Tool::Mdevctl => mdevctl::read(pieces, &mut found),
        Tool::Libvirt => libvirt::read(pieces, &mut found),
        Tool::SriovOperator => operator::read(pieces, &mut found),
        Tool::Nmstate => nmstate::read(pieces, &mut found),
        Tool::AccelConfig => accel_config::read(pieces, &mut found),
        Tool::Cmdline => cmdline::read(pieces, &mut found),
    }
    found
}

/// What a VF is to be.
#[derive(Debug, Clone, PartialEq)]
struct VfWish {
    driver: Wanted,
    set: BTreeMap<String, Value>,
}

/// VFs that are to be the same, as one range.
fn ranges(vfs: BTreeMap<VfIndex, VfWish>) -> Vec<RangeEntry> {
    let mut all: Vec<(VfWish, BTreeSet<VfIndex>)> = Vec::new();
    for (index, wish) in vfs {
        // One address is for one VF, even where a file says it twice.
        match all.iter_mut().find(|(same, _)| *same == wish && !wish.set.contains_key("mac")) {
            Some((_, indices)) => drop(indices.insert(index)),
            None => all.push((wish, BTreeSet::from([index]))),
        }
    }
    let range = |(wish, indices): (VfWish, BTreeSet<VfIndex>)| {
        Some(RangeEntry { vfs: Text(VfRange::of(&indices)?), driver: Text(wish.driver), set: wish.set })
    };
    all.into_iter().filter_map(range).collect()
}

/// Whether `vfioadm create --set` would take all of it.
fn checked(set: &BTreeMap<String, Value>) -> Result<(), String> {
    let all = set.iter().map(|(key, value)| Assignment { key: key.clone(), value: value.to_string() });
    let all: Vec<Assignment> = all.collect();
    parameters::parse(&all).map(drop).map_err(|error| error.to_string())
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/.-_:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Inventory;
    use crate::want::read::{self, Source};
    use proptest::prelude::*;

    #[test]
    fn a_word_is_quoted_so_that_a_shell_takes_it_for_one() {
        assert_eq!(quoted("/etc/driverctl.d/pci-0000:3b:00.2"), "/etc/driverctl.d/pci-0000:3b:00.2");
        assert_eq!((quoted("R&D build").as_str(), quoted("it's").as_str()), ("'R&D build'", "'it'\\''s'"));
        assert_eq!((quoted("").as_str(), quoted("$(reboot)").as_str()), ("''", "'$(reboot)'"));
    }

    proptest! {
        /// Whatever is in the files, nothing panics, and what is made of them is a host file without a mistake.
        #[test]
        fn any_text_is_read(
            name in "(pci-0000:3b:00.2|x.conf|cmdline|83b8f4f2-509f-382f-3c1e-e6bfe0fa1001|[a-z/.-]{0,9})",
            text in "(\\{|\\}|\\[|\\]|\"|:|,| |\n|\n  |- |#|'|<|>|/|=|&|interfaces|name|ethernet|sr-iov|total-vfs|vfs|id|pciAddress|numVfs|vfGroups|vfRange|0-3|3-1|4|65535|0000:3b:00.0|kind|SriovNetworkNodePolicy|spec|nicSelector|pfNames|a#1-2|mdev_type|start|auto|attrs|dev|groups|vfio-pci.ids=|options vfio-pci ids=|<domain>|<hostdev|<source>|<address){0,60}",
        ) {
            let path = format!("/etc/mtty/{name}");
            for tool in Tool::ALL {
                let found = read(tool, &[Piece { path: &path, text: &text }], &[]);
                let (inventory, drivers) = (Inventory::default(), BTreeMap::new());
                let made = settle(tool, found, &Ground { inventory: &inventory, drivers: &drivers, scope: Scope::All });
                let source = [Source { name: "made", text: &made.file.to_toml() }];
                prop_assert!(read::read(&source).is_ok());
            }
        }
    }
}
