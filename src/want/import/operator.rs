//! sriov-network-operator: what its daemon leaves in `/etc/sriov-operator`, and its policies and node states in YAML.
//!
//! A node state is a better source than policies: which PFs these select is settled there.

mod policy;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use policy::{Policy, asks};

use super::tree::{self, Tree};
use super::{Asked, Found, PfAsk, PfRef, Piece, Remark, Rival, VfWish, quoted, ranges};
use crate::model::devlink::EswitchMode;
use crate::model::{Bdf, VfIndex};
use crate::plan::Wanted;

/// A PF as the operator's daemon is told of it: `Interface`.
#[derive(Debug, Clone)]
struct Interface {
    pf: Bdf,
    vfs: u16,
    eswitch: Option<EswitchMode>,
    groups: Vec<VfGroup>,
}

/// Some VFs of a PF.
#[derive(Debug, Clone)]
struct VfGroup {
    resource: String,
    driver: Wanted,
    first: VfIndex,
    last: VfIndex,
    policy: String,
}

/// Fields that say nothing about the devices, or are said by others that are read.
const SILENT: [&str; 13] = [
    "pciaddress",
    "name",
    "numvfs",
    "eswitchmode",
    "externallymanaged",
    "vfgroups",
    "resourcename",
    "devicetype",
    "vfrange",
    "policyname",
    "vdpatype",
    "priority",
    "nicselector",
];

pub(super) fn read(pieces: &[Piece<'_>], found: &mut Found) {
    // What the daemon has been told comes before what it remembers of each PF.
    let is_memory = |piece: &Piece<'_>| piece.path.contains("/pci/");
    let (memories, told): (Vec<Piece<'_>>, Vec<Piece<'_>>) = pieces.iter().copied().partition(is_memory);
    for piece in told.into_iter().chain(memories) {
        match tree::documents(piece.text) {
            Ok(documents) => documents.iter().for_each(|document| of_document(piece, document, found)),
            Err(error) => found.leave_out(Remark::new(piece.path, format_args!("is no YAML: {error}"))),
        }
    }
}

fn of_document(piece: Piece<'_>, document: &Tree, found: &mut Found) {
    let path = piece.path;
    match document.text("kind") {
        Some("SriovNetworkNodePolicy") => policy::read(path, document, found),
        Some("SriovNetworkNodeState") => of_spec(path, document.get("spec"), found),
        Some(kind) if kind.ends_with("List") => {
            document.list("items").iter().for_each(|item| of_document(piece, item, found));
        }
        Some(kind @ ("SriovNetwork" | "SriovIBNetwork" | "OVSNetwork")) => {
            let name = document.get("metadata").and_then(|metadata| metadata.text("name")).unwrap_or("without a name");
            let words = "VLAN, MAC, trust and rates of a VF are set by the CNI when a pod gets it";
            found.leave_out(Remark::new(format_args!("{path}: {kind} {name}"), words));
        }
        Some(kind) => found.leave_out(Remark::new(path, format_args!("{kind} says nothing about devices"))),
        None if document.get("pciaddress").is_some() && document.get("guids").is_none() => {
            of_interface(path, document, found);
        }
        None if document.get("spec").is_some_and(|spec| spec.get("interfaces").is_some()) => {
            of_spec(path, document.get("spec"), found);
            let rival = Rival {
                what: String::from("sriov-config.service and sriov-config-post-network.service"),
                does: format!("the operator sets up all PFs of {path} at boot, those that are left out among them"),
                command: String::from("systemctl disable sriov-config.service sriov-config-post-network.service"),
            };
            found.rivals.push(rival);
        }
        // What the daemon reports, and its empty files.
        None if *document == Tree::Nothing || document.get("syncstatus").is_some() => {}
        None => found.leave_out(Remark::new(path, "is nothing that a host file could say: GUIDs, bridges or another")),
    }
}

fn of_spec(path: &str, spec: Option<&Tree>, found: &mut Found) {
    let Some(spec) = spec else { return };
    for interface in spec.list("interfaces") {
        of_interface(path, interface, found);
    }
    if spec.get("bridges").is_some() {
        found.leave_out(Remark::new(path, "a host file cannot say bridges of Open vSwitch"));
    }
}

fn of_interface(path: &str, tree: &Tree, found: &mut Found) {
    let place = format!("{path}: {}", tree.text("pciaddress").unwrap_or("a PF without an address"));
    match interface(&place, tree, found) {
        Ok(Some(interface)) => ask(&place, interface, &BTreeMap::new(), found),
        Ok(None) => {}
        Err(remark) => found.leave_out(remark),
    }
}

/// `None` of one that is to have no VFs: there is nothing to say of it.
fn interface(place: &str, tree: &Tree, found: &mut Found) -> Result<Option<Interface>, Remark> {
    let pf = tree.text("pciaddress").and_then(|text| text.parse().ok());
    let pf = pf.ok_or_else(|| Remark::new(place, "has no pciAddress"))?;
    let vfs = tree.number("numvfs").unwrap_or(0);
    if vfs == 0 {
        return Ok(None);
    }
    let mut groups = Vec::new();
    for of in tree.list("vfgroups") {
        if of.text("vdpatype").is_some() {
            return Err(Remark::new(place, "a host file cannot say vDPA devices").remedy("leave it with the operator"));
        }
        let range = of.text("vfrange").unwrap_or_default();
        let (first, last) =
            policy::range(range).ok_or_else(|| Remark::new(place, format_args!("its VF range is none: {range:?}")))?;
        let driver = policy::driver(of.text("devicetype")).map_err(|words| Remark::new(place, words))?;
        let text = |key: &str| of.text(key).unwrap_or_default().to_owned();
        groups.push(VfGroup { resource: text("resourcename"), driver, first, last, policy: text("policyname") });
        unsaid(place, of, found);
    }
    unsaid(place, tree, found);
    let eswitch = policy::common(place, tree)?;
    Ok(Some(Interface { pf, vfs, eswitch, groups }))
}

/// Says what of a PF or a group a host file cannot.
fn unsaid(place: &str, tree: &Tree, found: &mut Found) {
    let is_said = |key: &str| SILENT.iter().any(|silent| silent.eq_ignore_ascii_case(key));
    for key in tree.keys().filter(|key| !is_said(key)) {
        let value = tree.text(key);
        // What Go writes of a field that was not given.
        if matches!(value, Some("0" | "false")) || value.is_none() && tree.get(key).and_then(Tree::as_text).is_some() {
            continue;
        }
        let words = match value {
            Some(value) => format!("a host file cannot say {key}: {value}"),
            None => format!("a host file cannot say {key}"),
        };
        let remark = Remark::new(place, words);
        if !found.left_out.contains(&remark) {
            found.leave_out(remark);
        }
    }
}

/// Asks for a PF. VFs of no group are on their host driver, as the operator has them.
fn ask(place: &str, interface: Interface, namespaces: &BTreeMap<String, String>, found: &mut Found) {
    let Interface { pf, vfs, eswitch, groups } = interface;
    let plain = VfWish { driver: Wanted::Host, set: BTreeMap::new() };
    let mut wishes: BTreeMap<VfIndex, VfWish> = (0..vfs).map(|index| (index, plain.clone())).collect();
    let mut taken = BTreeSet::new();
    for group in &groups {
        let range = format!("VFs {}-{} of {:?}", group.first, group.last, group.resource);
        if group.last >= vfs {
            found.leave_out(Remark::new(place, format_args!("{range}: there are to be {vfs}")));
            continue;
        }
        if (group.first..=group.last).any(|index| taken.contains(&index)) {
            found.leave_out(Remark::new(place, format_args!("{range}: some of them are in another group already")));
            continue;
        }
        for index in group.first..=group.last {
            taken.insert(index);
            wishes.insert(index, VfWish { driver: group.driver.clone(), set: BTreeMap::new() });
        }
    }
    let policies: BTreeSet<&str> = groups.iter().map(|of| of.policy.as_str()).filter(|of| !of.is_empty()).collect();
    let delete = |policy: &&str| {
        let namespace = namespaces.get(*policy).map_or("sriov-network-operator", String::as_str);
        format!("kubectl -n {} delete sriovnetworknodepolicy {}", quoted(namespace), quoted(policy))
    };
    let rival = (!policies.is_empty()).then(|| Rival {
        what: format!("SriovNetworkNodePolicy {}", policies.iter().copied().collect::<Vec<_>>().join(", ")),
        does: format!("the operator sets up {pf} and its VFs, on all nodes that it selects"),
        command: policies.iter().map(delete).collect::<Vec<_>>().join("; "),
    });
    let what = Asked::Pf(PfAsk { pf: PfRef::At(pf), vfs, eswitch, ranges: ranges(wishes) });
    found.ask(place, what, rival);
}
