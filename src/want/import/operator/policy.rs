//! Policies: which PFs of a host they select, and what comes of several for one PF.

use std::collections::BTreeMap;

use super::{Interface, Tree, VfGroup, unsaid};
use crate::model::devlink::EswitchMode;
use crate::model::{Bdf, Inventory, PciId, Role, VfIndex};
use crate::plan::Wanted;
use crate::want::import::{Found, Remark};

/// `SriovNetworkNodePolicy`.
#[derive(Debug)]
pub(in crate::want::import) struct Policy {
    place: String,
    name: String,
    namespace: Option<String>,
    priority: u16,
    vfs: u16,
    eswitch: Option<EswitchMode>,
    resource: String,
    driver: Wanted,
    vendor: Option<String>,
    device: Option<String>,
    roots: Vec<Selector>,
    names: Vec<Selector>,
}

/// `ens803f0#2-7`: a PF, and some of its VFs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Selector {
    pf: String,
    range: Option<(VfIndex, VfIndex)>,
}

/// `0-3`, both ends included.
pub(super) fn range(text: &str) -> Option<(VfIndex, VfIndex)> {
    let (first, last) = text.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?)).filter(|(first, last)| first <= last)
}

/// `deviceType`: netdevice or vfio-pci.
pub(super) fn driver(text: Option<&str>) -> Result<Wanted, String> {
    match text {
        None | Some("netdevice") => Ok(Wanted::Host),
        Some(name @ "vfio-pci") => name.parse().map(Wanted::Named).map_err(|error| error.to_string()),
        Some(other) => Err(format!("its deviceType is neither netdevice nor vfio-pci: {other}")),
    }
}

/// What a PF and a policy have in common.
pub(super) fn common(place: &str, tree: &Tree) -> Result<Option<EswitchMode>, Remark> {
    if tree.is_true("externallymanaged") {
        let words = "externallyManaged: others make its VFs, and the host file would be another of them";
        return Err(Remark::new(place, words).remedy("see what there is: vfioadm describe"));
    }
    match tree.text("eswitchmode") {
        None | Some("legacy") => Ok(None),
        Some("switchdev") => Ok(Some(EswitchMode::Switchdev)),
        Some(other) => {
            Err(Remark::new(place, format_args!("its eSwitchMode is neither legacy nor switchdev: {other}")))
        }
    }
}

/// Reads one.
pub(super) fn read(path: &str, document: &Tree, found: &mut Found) {
    let metadata = |key: &str| document.get("metadata")?.text(key);
    let name = metadata("name").unwrap_or("without a name").to_owned();
    let place = format!("{path}: SriovNetworkNodePolicy {name}");
    match policy(&place, name, document, found) {
        Ok(mut policy) => {
            policy.namespace = metadata("namespace").map(str::to_owned);
            found.policies.push(policy);
        }
        Err(remark) => found.leave_out(remark),
    }
}

fn policy(place: &str, name: String, document: &Tree, found: &mut Found) -> Result<Policy, Remark> {
    let nothing = Tree::Nothing;
    let spec = document.get("spec").unwrap_or(&nothing);
    let nic = spec.get("nicselector").unwrap_or(&nothing);
    if spec.text("vdpatype").is_some() {
        return Err(Remark::new(place, "a host file cannot say vDPA devices").remedy("leave it with the operator"));
    }
    if let Some(key) = nic.keys().find(|key| !is_selector(key)) {
        let remark = |words: &str| Remark::new(place, words);
        return Err(match key.to_ascii_lowercase().as_str() {
            "netfilter" => remark("netFilter selects by a network of OpenStack, which the host does not know"),
            "pfname" => remark("nicSelector has no pfName").remedy("write pfNames, a list"),
            _ => remark(&format!("nicSelector has no {key}")),
        });
    }
    let selectors = |key: &str| -> Result<Vec<Selector>, Remark> {
        nic.list(key).iter().filter_map(Tree::as_text).map(|text| selector(place, text)).collect()
    };
    let (roots, names) = (selectors("rootdevices")?, selectors("pfnames")?);
    let text = |key: &str| nic.text(key).map(str::to_ascii_lowercase);
    let (vendor, device) = (text("vendor"), text("deviceid"));
    if roots.is_empty() && names.is_empty() && vendor.is_none() && device.is_none() {
        return Err(Remark::new(place, "an empty nicSelector selects nothing"));
    }
    let vfs = spec.number("numvfs").unwrap_or(0);
    if vfs == 0 {
        return Err(Remark::new(place, "numVfs is 0: the operator does nothing for it"));
    }
    let eswitch = common(place, spec)?;
    let driver = driver(spec.text("devicetype")).map_err(|words| Remark::new(place, words))?;
    if spec.get("nodeselector").is_some() {
        found.note(Remark::new(place, "whether its nodeSelector means this node, the host does not tell"));
    }
    let spec_without = match spec {
        Tree::Map(entries) => {
            let kept = entries.iter().filter(|(key, _)| !key.eq_ignore_ascii_case("nodeselector"));
            Tree::Map(kept.cloned().collect())
        }
        other => other.clone(),
    };
    unsaid(place, &spec_without, found);
    Ok(Policy {
        place: place.to_owned(),
        name,
        namespace: None,
        // As Go has a field that is not given: the highest.
        priority: spec.number("priority").unwrap_or(0),
        vfs,
        eswitch,
        resource: spec.text("resourcename").unwrap_or_default().to_owned(),
        driver,
        vendor,
        device,
        roots,
        names,
    })
}

fn is_selector(key: &str) -> bool {
    ["vendor", "deviceid", "rootdevices", "pfnames"].iter().any(|known| known.eq_ignore_ascii_case(key))
}

fn selector(place: &str, text: &str) -> Result<Selector, Remark> {
    let Some((pf, vfs)) = text.split_once('#') else { return Ok(Selector { pf: text.to_owned(), range: None }) };
    let range = range(vfs).ok_or_else(|| Remark::new(place, format_args!("{text}: no VF range such as 0-3")))?;
    Ok(Selector { pf: pf.to_owned(), range: Some(range) })
}

impl Policy {
    /// Whether it selects a PF, and which of its VFs. Its parts hold together, and one of each list.
    fn selects(&self, pf: Bdf, id: PciId, inventory: &Inventory) -> Option<(VfIndex, VfIndex)> {
        let is = |wanted: &Option<String>, has: u16| wanted.as_ref().is_none_or(|text| *text == format!("{has:04x}"));
        let root = self.roots.iter().find(|of| of.pf.parse() == Ok(pf));
        let name = self.names.iter().find(|of| inventory.netdevs.get(&of.pf) == Some(&pf));
        let holds = is(&self.vendor, id.vendor)
            && is(&self.device, id.device)
            && (self.roots.is_empty() || root.is_some())
            && (self.names.is_empty() || name.is_some());
        let range = name.and_then(|of| of.range).or_else(|| root.and_then(|of| of.range));
        holds.then(|| range.unwrap_or((0, self.vfs - 1)))
    }
}

/// What policies ask of the PFs of a host.
///
/// The operator applies them by falling number, so that the lowest has the last word; of one number, by name. Groups that an earlier one
/// has made stay where they have another resource and other VFs.
pub(in crate::want::import) fn asks(mut policies: Vec<Policy>, inventory: &Inventory, found: &mut Found) {
    policies.sort_by(|one, other| other.priority.cmp(&one.priority).then_with(|| one.name.cmp(&other.name)));
    let namespaces: BTreeMap<String, String> =
        policies.iter().filter_map(|policy| Some((policy.name.clone(), policy.namespace.clone()?))).collect();
    let mut all: BTreeMap<Bdf, (Interface, Vec<String>)> = BTreeMap::new();
    let mut last = None;
    for policy in &policies {
        let priority = if last == Some(policy.priority) { Priority::Same } else { Priority::Lower };
        last = Some(policy.priority);
        let mut selected = false;
        for function in inventory.functions.values() {
            let Role::Pf { .. } = function.role else { continue };
            let id = PciId::of(&function.alias);
            let Some((first, last)) = policy.selects(function.bdf, id, inventory) else { continue };
            selected = true;
            let group = VfGroup {
                resource: policy.resource.clone(),
                driver: policy.driver.clone(),
                first,
                last,
                policy: policy.name.clone(),
            };
            let mut interface =
                Interface { pf: function.bdf, vfs: policy.vfs, eswitch: policy.eswitch, groups: vec![group] };
            let mut places = vec![policy.place.clone()];
            if let Some((before, of)) = all.remove(&function.bdf) {
                merge(&mut interface, before, priority, found);
                places.extend(of);
            }
            all.insert(function.bdf, (interface, places));
        }
        if !selected {
            found.leave_out(Remark::new(&policy.place, "selects no PF of this host"));
        }
    }
    for (interface, places) in all.into_values() {
        let place = format!("{} for {}", places.first().map_or("", String::as_str), interface.pf);
        super::ask(&place, interface, &namespaces, found);
    }
}

/// What the policy before had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priority {
    Same,
    Lower,
}

/// `mergeConfigs`: the later has the last word.
fn merge(interface: &mut Interface, before: Interface, earlier: Priority, found: &mut Found) {
    let mut kept = false;
    for group in before.groups {
        let Some(ours) = interface.groups.first() else { continue };
        if group.resource == ours.resource || (group.first <= ours.last && ours.first <= group.last) {
            let place = format!("SriovNetworkNodePolicy {} for {}", group.policy, interface.pf);
            let words = format!("policy {} has the same resource or the same VFs, and takes its place", ours.policy);
            found.leave_out(Remark::new(place, words));
            continue;
        }
        kept = true;
        interface.groups.push(group);
    }
    if kept || earlier == Priority::Same {
        interface.vfs = interface.vfs.max(before.vfs);
    }
}
