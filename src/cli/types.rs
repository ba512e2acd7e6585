//! `vfioadm types [PARENT]`

use serde::Serialize;

use super::Session;
use super::args::TypesArgs;
use super::report::{Exit, Trouble};
use super::view::{self, or_dash};
use crate::discover::{self, Names};
use crate::model::idxd::{CmdStatus, Engine, NO_VFIO_PROVIDER};
use crate::model::offer::offers;
use crate::model::{IdxdDevice, Inventory, Offer, OfferKind, Parent, counted};

#[derive(Serialize)]
struct Types {
    schema: &'static str,
    types: Vec<Row>,
    idxd: Vec<IdxdView>,
    error: Option<Trouble>,
}

/// A type of a parent, as printed.
#[derive(Serialize)]
struct Row {
    parent: String,
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    description: Option<String>,
    device_api: Option<String>,
    total: Option<u32>,
    made: u32,
    free: Option<u32>,
    in_use: Option<u32>,
    shared: Option<bool>,
    why_not: Option<String>,
}

/// An idxd device, as printed.
#[derive(Serialize)]
struct IdxdView {
    name: String,
    address: Option<String>,
    state: String,
    configurable: bool,
    pasid_enabled: bool,
    max_work_queues: u16,
    max_work_queues_size: u32,
    cmd_status: Option<String>,
    work_queues: Vec<QueueView>,
    engines: Vec<EngineView>,
    groups: Vec<GroupView>,
}

/// A WQ, as printed here and by `show`.
#[derive(Serialize)]
pub(super) struct QueueView {
    pub(super) name: String,
    pub(super) device: String,
    pub(super) state: &'static str,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) mode: &'static str,
    pub(super) size: u32,
    pub(super) group: Option<u16>,
    pub(super) priority: u8,
    pub(super) threshold: u32,
    pub(super) label: Option<String>,
    pub(super) driver_name: Option<String>,
    pub(super) driver: Option<String>,
    pub(super) clients: u32,
    pub(super) node: Option<String>,
}

#[derive(Serialize)]
struct EngineView {
    name: String,
    group: Option<u16>,
}

#[derive(Serialize)]
struct GroupView {
    name: String,
    engines: Vec<String>,
    work_queues: Vec<String>,
}

pub(super) fn run(args: &TypesArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let named: Vec<_> = args.parent.iter().cloned().collect();
    let mut inventory = session.read_inventory(host, &named)?;
    let parent = args.parent.as_ref().map(|parent| parent.resolve_parent(&inventory)).transpose()?;
    let wanted = |one: &Parent| parent.as_ref().is_none_or(|parent| parent == one);
    let vgpus = discover::vgpus(host, &inventory, |vf| {
        let pf = inventory.functions.get(&vf).and_then(|vf| vf.pf()).unwrap_or(vf);
        wanted(&Parent::Pci(pf))
    });
    let (sf_parents, warnings) = discover::sf_parents(host, &inventory, |bdf| wanted(&Parent::Pci(bdf)));
    inventory.sf_parents = Some(sf_parents);
    session.warn(&warnings);
    let offers: Vec<Offer> = offers(&inventory, &vgpus).into_iter().filter(|offer| wanted(&offer.parent)).collect();
    if session.json() {
        let of_idxd = inventory.idxd.iter().filter(|device| wanted(&Parent::Idxd(device.name.clone())));
        let (types, idxd) = (offers.into_iter().map(Row::from).collect(), of_idxd.map(IdxdView::of).collect());
        session.print_json(&Types { schema: "vfioadm.types/1", types, idxd, error: None });
        return Ok(Exit::Done);
    }
    if offers.is_empty() {
        let on = parent.map_or_else(|| String::from("this host"), |parent| parent.to_string());
        session.print(format_args!("nothing can be made on {on}: it has no VFs, mdev types or work queues to give\n"));
        return Ok(Exit::Done);
    }
    let functions = inventory.functions.values().filter(|function| wanted(&Parent::Pci(function.bdf)));
    let names = Names::read(host, &view::ids(functions));
    let rows = offers.iter().map(|offer| row(offer, &inventory, &names)).collect();
    let header = ["PARENT", "TYPE", "TOTAL", "MADE", "FREE", "IN USE", "API", "WHAT"];
    let table = view::table(session.env.terminal, &header, rows);
    session.print(format_args!("{table}"));
    let notes = notes(&offers);
    if !notes.is_empty() {
        session.print(format_args!("\n{}", notes.concat()));
    }
    Ok(Exit::Done)
}

fn row(offer: &Offer, inventory: &Inventory, names: &Names) -> Vec<String> {
    let function = match (&offer.kind, &offer.parent) {
        (OfferKind::Vf, Parent::Pci(bdf)) => inventory.functions.get(bdf),
        _ => None,
    };
    let of =
        function.and_then(|pf| names.device(pf.alias.vendor(), pf.alias.device())).map(|name| format!("of {name}"));
    let mut what: Vec<String> = offer.name.iter().chain(&offer.description).map(|text| one_line(text)).collect();
    if let Some(of) = of {
        what = vec![what.concat(), of];
        what = vec![what.join(" ")];
    }
    let shared = if offer.shared == Some(true) && offer.free != Some(0) { " shared" } else { "" };
    let why = offer.why_not.as_ref().map(|why| format!("; none now: {why}")).unwrap_or_default();
    vec![
        offer.parent.to_string(),
        offer.kind.to_string(),
        or_dash(offer.total),
        offer.made.to_string(),
        offer.free.map_or_else(|| String::from("-"), |free| format!("{free}{shared}")),
        or_dash(offer.in_use),
        or_dash(offer.device_api.as_ref()),
        format!("{}{why}", what.join(", ")),
    ]
}

/// A driver's description may have several lines.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}

/// What is said once below the table.
fn notes(offers: &[Offer]) -> Vec<String> {
    let mut notes = Vec::new();
    if offers.iter().any(|offer| offer.shared == Some(true)) {
        notes.push(String::from("shared: one made of this type leaves fewer of the parent's others\n"));
    }
    if offers.iter().any(|offer| offer.kind == OfferKind::Wq) {
        notes.push(format!("wq: for programs by a character device with SVA, or for the kernel; {NO_VFIO_PROVIDER}\n"));
    }
    notes
}

impl From<Offer> for Row {
    fn from(offer: Offer) -> Self {
        Self {
            parent: offer.parent.to_string(),
            kind: offer.kind.to_string(),
            name: offer.name,
            description: offer.description,
            device_api: offer.device_api,
            total: offer.total,
            made: offer.made,
            free: offer.free,
            in_use: offer.in_use,
            shared: offer.shared,
            why_not: offer.why_not,
        }
    }
}

impl QueueView {
    /// What `show` says of it.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let group = self.group.map_or_else(|| String::from("no group"), |group| format!("group {group}"));
        let set = format!("{}, {}, {group}, priority {}", self.mode, counted(self.size, "entry"), self.priority);
        let threshold = if self.threshold > 0 { format!(", threshold {}", self.threshold) } else { String::new() };
        let mut lines = vec![("state", format!("{}, type {}", self.state, self.kind)), ("set to", set + &threshold)];
        lines.extend(self.label.clone().map(|label| ("called", label)));
        lines.extend(self.driver_name.clone().map(|name| ("only for", format!("driver {name}"))));
        lines.push(("clients", self.clients.to_string()));
        lines.extend(self.node.clone().map(|node| ("node", node)));
        lines
    }

    pub(super) fn of(device: &IdxdDevice, queue: &crate::model::WorkQueue) -> Self {
        Self {
            name: queue.address.to_string(),
            device: device.name.to_string(),
            state: if queue.enabled { "enabled" } else { "disabled" },
            kind: queue.kind.as_str(),
            mode: queue.mode.as_str(),
            size: queue.size,
            group: queue.group,
            priority: queue.priority,
            threshold: queue.threshold,
            label: Some(queue.name.clone()).filter(|name| !name.is_empty()),
            driver_name: queue.driver_name.clone(),
            driver: queue.driver.as_ref().map(ToString::to_string),
            clients: queue.clients,
            node: queue.node(device),
        }
    }
}

impl IdxdView {
    fn of(device: &IdxdDevice) -> Self {
        let in_group = |group: u16| {
            let engines = device.engines.iter().filter(move |engine| engine.group == Some(group));
            let queues = device.work_queues.iter().filter(move |queue| queue.group == Some(group));
            let engines = engines.map(|engine: &Engine| engine.name.to_string()).collect();
            (engines, queues.map(|queue| queue.address.to_string()).collect())
        };
        let group = |group: &crate::model::idxd::WqGroup| {
            let (engines, work_queues) = in_group(group.index);
            GroupView { name: group.name.to_string(), engines, work_queues }
        };
        Self {
            name: device.name.to_string(),
            address: device.function.map(|bdf| bdf.to_string()),
            state: device.state.clone(),
            configurable: device.configurable,
            pasid_enabled: device.pasid,
            max_work_queues: device.max_work_queues,
            max_work_queues_size: device.max_work_queues_size,
            cmd_status: (device.cmd_status != 0).then(|| CmdStatus(device.cmd_status).to_string()),
            work_queues: device.work_queues.iter().map(|queue| QueueView::of(device, queue)).collect(),
            engines: device
                .engines
                .iter()
                .map(|engine| EngineView { name: engine.name.to_string(), group: engine.group })
                .collect(),
            groups: device.groups.iter().map(group).collect(),
        }
    }
}
