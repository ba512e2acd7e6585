//! What is asked for, on a host: identities are filled in, and what is not there is left out.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    Ask, Asked, Found, MdevAsk, ParentRef, PfAsk, PfRef, QueueAsk, Remark, Rival, Tool, accel_config, cmdline,
    driverctl, operator,
};
use crate::model::{Bdf, DriverName, Inventory, MdevAttribute, MdevParent, PciFunction, PciId, Role};
use crate::plan::Wanted;
use crate::want::describe::{spanned, which};
use crate::want::file::{AttributeEntry, DeviceEntry, HostFile, MdevEntry, PfEntry, Several, WqEntry};
use crate::want::scalar::Text;

/// What a host is, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// Its devices, and the names of their network interfaces.
    pub inventory: &'a Inventory,
    /// What is called so in a file → the driver; those that are not there are no driver's name now.
    pub drivers: &'a BTreeMap<DriverName, DriverName>,
    /// Whether all of a tool's files were read.
    pub scope: Scope,
}

/// Which files were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All that the tool has.
    All,
    /// Those that somebody has named.
    Named,
}

/// What was carried over, and what was not.
#[derive(Debug, Default)]
pub struct Imported {
    /// The entries.
    pub file: HostFile,
    /// What could not be carried over, and why.
    pub left_out: Vec<Remark>,
    /// What is worth knowing of what was.
    pub notes: Vec<Remark>,
    /// What is in the way of the entries.
    pub rivals: Vec<Rival>,
}

/// Makes entries of what a tool's files ask for.
#[must_use]
pub fn settle(tool: Tool, mut found: Found, ground: &Ground<'_>) -> Imported {
    let policies = std::mem::take(&mut found.policies);
    operator::asks(policies, ground.inventory, &mut found);
    let mut settling = Settling {
        ground,
        made: Imported { left_out: found.left_out, notes: found.notes, ..Imported::default() },
        devices: BTreeMap::new(),
        pfs: BTreeMap::new(),
        mdevs: BTreeMap::new(),
    };
    for ask in found.asks {
        settling.one(ask);
    }
    if !settling.made.file.pf.is_empty() || !settling.made.file.device.is_empty() {
        found.rivals.into_iter().for_each(|rival| settling.rival(Some(rival)));
    }
    if tool == Tool::Driverctl && ground.scope == Scope::All {
        settling.of_driverctl();
    }
    settling.made
}

struct Settling<'a> {
    ground: &'a Ground<'a>,
    made: Imported,
    /// What has an entry, and by which place.
    devices: BTreeMap<Bdf, (Wanted, String)>,
    pfs: BTreeMap<Bdf, (PfEntry, String)>,
    mdevs: BTreeMap<Uuid, String>,
}

impl Settling<'_> {
    fn one(&mut self, ask: Ask) {
        let Ask { place, what, rival } = ask;
        let made = match what {
            Asked::Device { bdf, id, driver } => self.device(&place, bdf, id, &driver),
            Asked::Ids { id, given } => {
                let all: Vec<Bdf> = self.of_id(&id);
                let is_any = !all.is_empty();
                for bdf in all {
                    self.by_id(&place, bdf);
                }
                if is_any {
                    Ok(())
                } else {
                    Err(Remark::new(&place, format_args!("no function of this host has the id {given}")))
                }
            }
            Asked::Pf(ask) => self.pf(&place, ask),
            Asked::Mdev(ask) => self.mdev(&place, &ask),
            Asked::MdevByName(uuid) => self.mdev_by_name(&place, uuid),
            Asked::Queue(ask) => self.queue(&place, ask),
        };
        match made {
            Ok(()) => self.rival(rival),
            Err(remark) => self.made.left_out.push(remark),
        }
    }

    fn rival(&mut self, rival: Option<Rival>) {
        let new = rival.filter(|rival| !self.made.rivals.contains(rival));
        self.made.rivals.extend(new);
    }

    fn note(&mut self, place: &str, words: String) {
        let note = Remark::new(place, words);
        if !self.made.notes.contains(&note) {
            self.made.notes.push(note);
        }
    }

    fn function(&self, place: &str, bdf: Bdf) -> Result<&PciFunction, Remark> {
        let found = self.ground.inventory.functions.get(&bdf);
        found.ok_or_else(|| Remark::new(place, format_args!("there is nothing at {bdf} on this host")))
    }

    fn device(&mut self, place: &str, bdf: Bdf, id: Option<PciId>, driver: &Wanted) -> Result<(), Remark> {
        let function = self.function(place, bdf)?;
        let has = PciId::of(&function.alias);
        if let Some(id) = id.filter(|id| *id != has) {
            return Err(Remark::new(place, format_args!("{bdf} is {has} on this host, and {id} in the file")));
        }
        if function.role == Role::Bridge {
            return Err(Remark::new(place, format_args!("{bdf} is a bridge, which no VFIO driver takes")));
        }
        let (which, pf) = (which(function), function.pf());
        if let Some(pf) = pf {
            // Said once of each PF.
            let words =
                "its VFs are there only while something makes them: a [[pf]] does, and vfioadm describe prints it";
            self.note(&pf.to_string(), words.to_owned());
        }
        let driver = self.driver(place, driver);
        match self.devices.get(&bdf) {
            Some((same, _)) if *same == driver => return Ok(()),
            Some((other, before)) => {
                let words = format!("{bdf} is to have driver {driver}, and {other} by {before}");
                return Err(Remark::new(place, words));
            }
            None => {}
        }
        self.devices.insert(bdf, (driver.clone(), place.to_owned()));
        let entry = DeviceEntry { which, driver: Text(driver), several: Several::Refuse };
        self.made.file.device.push(spanned(entry));
        Ok(())
    }

    /// A file may have a module's name where a driver's belongs.
    fn driver(&mut self, place: &str, wanted: &Wanted) -> Wanted {
        let Wanted::Named(given) = wanted else { return wanted.clone() };
        match self.ground.drivers.get(given) {
            Some(driver) => {
                if driver != given {
                    self.note(place, format!("{given} is the name of a module: its driver is {driver}"));
                }
                Wanted::Named(driver.clone())
            }
            None => {
                self.note(
                    place,
                    format!("no driver {given} is registered on this host now: it may come with its module"),
                );
                wanted.clone()
            }
        }
    }

    fn of_id(&self, id: &crate::model::rules::DynamicId) -> Vec<Bdf> {
        let all = self.ground.inventory.functions.values();
        all.filter(|function| id.matches(&function.alias)).map(|function| function.bdf).collect()
    }

    /// vfio-pci for a function that has an id.
    fn by_id(&mut self, place: &str, bdf: Bdf) {
        let Some(vfio) = cmdline::driver() else { return };
        let on = self.ground.inventory.functions.get(&bdf).and_then(|function| match &function.driver {
            Some(driver) if !function.is_vfio() => Some(driver.clone()),
            _ => None,
        });
        match self.device(place, bdf, None, &Wanted::Named(vfio)) {
            Ok(()) => {
                if let Some(driver) = on {
                    let words =
                        format!("{bdf} has the id too, and {driver} has it now: vfio-pci takes what has no driver");
                    self.note(place, words);
                }
            }
            Err(remark) => self.made.left_out.push(remark),
        }
    }

    fn pf(&mut self, place: &str, ask: PfAsk) -> Result<(), Remark> {
        let bdf = match &ask.pf {
            PfRef::At(bdf) => *bdf,
            PfRef::Netdev(name) => *self.ground.inventory.netdevs.get(name).ok_or_else(|| {
                Remark::new(place, format_args!("no PCI function of this host has a network interface {name}"))
            })?,
        };
        let function = self.function(place, bdf)?;
        let Role::Pf { total, .. } = function.role else {
            return Err(Remark::new(place, format_args!("{bdf} makes no VFs")));
        };
        let entry = PfEntry {
            which: which(function),
            vfs: ask.vfs,
            eswitch: ask.eswitch.map(Text),
            range: ask.ranges.into_iter().map(spanned).collect(),
        };
        match self.pfs.get(&bdf) {
            Some((same, _)) if *same == entry => return Ok(()),
            Some((_, before)) => {
                return Err(Remark::new(place, format_args!("{bdf} is to be otherwise by {before}")));
            }
            None => {}
        }
        if ask.vfs > total {
            self.note(place, format!("{bdf} has {total} VFs at most, and {} are wanted", ask.vfs));
        }
        self.pfs.insert(bdf, (entry.clone(), place.to_owned()));
        self.made.file.pf.push(spanned(entry));
        Ok(())
    }

    fn mdev(&mut self, place: &str, ask: &MdevAsk) -> Result<(), Remark> {
        let MdevAsk { uuid, parent, kind, attributes } = ask;
        let uuid = Text(*uuid);
        let attribute = |(name, value): &(String, String)| MdevAttribute::new(name, value).map(AttributeEntry);
        let attributes: Result<Vec<_>, _> = attributes.iter().map(attribute).collect();
        let attributes = attributes.map_err(|error| Remark::new(place, error))?;
        let inventory = self.ground.inventory;
        let (function, found) = match parent {
            ParentRef::Kernel(name) => {
                let of_name = |parent: &&MdevParent| parent.name.as_str() == name;
                (name.parse().ok(), inventory.mdev_parents.iter().find(of_name))
            }
            ParentRef::Node(node) => {
                let is = |parent: &&MdevParent| node.ends_with(&format!("_{}", munged(parent.name.as_str())));
                (of_node(node), inventory.mdev_parents.iter().find(is))
            }
        };
        let function = match function {
            Some(bdf) => Some(self.function(place, bdf)?),
            None => None,
        };
        let kind = kind.parse().map_err(|error| Remark::new(place, error))?;
        let entry = match (function, found) {
            (Some(function), _) => {
                MdevEntry { uuid, parent: None, which: Some(which(function)), kind: Text(kind), attributes }
            }
            (None, Some(parent)) => {
                MdevEntry { uuid, parent: Some(Text(parent.name.clone())), which: None, kind: Text(kind), attributes }
            }
            (None, None) => {
                let (ParentRef::Kernel(name) | ParentRef::Node(name)) = parent;
                return Err(Remark::new(place, format_args!("this host has no mdev parent {name}")));
            }
        };
        match found {
            Some(parent) if !parent.types.iter().any(|of| of.id == entry.kind.0) => {
                let words = format!("{} has no mdev type {} on this host", parent.name, entry.kind.0);
                return Err(Remark::new(place, words));
            }
            None => self.note(place, String::from("its parent has no mdev types now: its driver makes them")),
            Some(_) => {}
        }
        self.put_mdev(place, entry)
    }

    fn put_mdev(&mut self, place: &str, entry: MdevEntry) -> Result<(), Remark> {
        if let Some(before) = self.mdevs.get(&entry.uuid.0) {
            let words = format!("a host has one mdev {}, and {before} is it already", entry.uuid.0);
            return Err(Remark::new(place, words));
        }
        self.mdevs.insert(entry.uuid.0, place.to_owned());
        self.made.file.mdev.push(spanned(entry));
        Ok(())
    }

    /// An mdev that a domain has: it is made elsewhere, and may be there.
    fn mdev_by_name(&mut self, place: &str, uuid: Uuid) -> Result<(), Remark> {
        let mdev = self.ground.inventory.mdevs.iter().find(|mdev| mdev.uuid == uuid);
        let of = mdev.and_then(|mdev| Some((mdev.parent.clone()?, mdev.type_id.clone()?)));
        let Some((parent, kind)) = of else {
            return Err(Remark::new(
                place,
                format_args!("mdev {uuid} is not on this host, and what it is the domain does not say"),
            )
            .remedy("see who makes it: vfioadm import mdevctl"));
        };
        if self.mdevs.contains_key(&uuid) {
            return Ok(());
        }
        let (parent, kind) = (ParentRef::Kernel(parent.to_string()), kind.as_str().to_owned());
        self.mdev(place, &MdevAsk { uuid, parent, kind, attributes: Vec::new() })
    }

    fn queue(&mut self, place: &str, ask: QueueAsk) -> Result<(), Remark> {
        let QueueAsk { device, wq, set } = ask;
        let found = self.ground.inventory.idxd.iter().find(|of| of.name.as_str() == device);
        let found = found.ok_or_else(|| Remark::new(place, format_args!("this host has no {device}")))?;
        let bdf =
            found.function.ok_or_else(|| Remark::new(place, format_args!("which function is {device} is not told")))?;
        if wq >= found.max_work_queues {
            let words = format!("{device} has {} WQs, and this is number {wq}", found.max_work_queues);
            return Err(Remark::new(place, words));
        }
        let entry = WqEntry { which: which(self.function(place, bdf)?), wq, set };
        let is_there = |of: &toml::Spanned<WqEntry>| of.as_ref().which == entry.which && of.as_ref().wq == wq;
        if self.made.file.wq.iter().any(is_there) {
            return Err(Remark::new(place, format_args!("WQ {wq} of {device} is said before")));
        }
        self.made.file.wq.push(spanned(entry));
        self.rival(Some(accel_config::rival()));
        Ok(())
    }

    /// Overrides that are in no file, and whether driverctl is left with nothing.
    fn of_driverctl(&mut self) {
        for function in self.ground.inventory.functions.values() {
            if let Some(driver) = &function.driver_override
                && !self.devices.contains_key(&function.bdf)
            {
                let words =
                    format!("its driver_override says {driver}, and no file does: it does not outlast the boot");
                self.made.notes.push(Remark::new(function.bdf, words));
            }
        }
        if self.made.left_out.is_empty() && !self.devices.is_empty() {
            self.rival(Some(driverctl::rule()));
        }
    }
}

/// A kernel name as libvirt has it in that of a node device.
fn munged(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// The function of `pci_0000_02_10_7`.
fn of_node(node: &str) -> Option<Bdf> {
    let mut parts = node.strip_prefix("pci_")?.split('_');
    let mut next = || parts.next();
    let text = format!("{}:{}:{}.{}", next()?, next()?, next()?, next()?);
    if parts.next().is_some() { None } else { text.parse().ok() }
}
