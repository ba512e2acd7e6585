//! nmstate: `interfaces[].ethernet.sr-iov` of the files in `/etc/nmstate`.

use std::collections::BTreeMap;

use super::tree::{self, Tree};
use super::{Asked, Found, PfAsk, PfRef, Piece, Remark, Rival, VfWish, checked, quoted, ranges};
use crate::model::VfIndex;
use crate::plan::Wanted;
use crate::want::file::Value;

/// Keys of a VF here and of `vfioadm create --set`.
const KEYS: [(&str, &str); 8] = [
    ("mac-address", "mac"),
    ("spoof-check", "spoofchk"),
    ("trust", "trust"),
    ("min-tx-rate", "min-rate"),
    ("max-tx-rate", "max-rate"),
    ("vlan-id", "vlan"),
    ("qos", "qos"),
    ("vlan-proto", "proto"),
];

pub(super) fn read(pieces: &[Piece<'_>], found: &mut Found) {
    for piece in pieces {
        match tree::documents(piece.text) {
            Ok(documents) => {
                for interface in documents.iter().flat_map(|document| document.list("interfaces")) {
                    of_interface(piece.path, interface, found);
                }
            }
            Err(error) => found.leave_out(Remark::new(piece.path, format_args!("is no YAML: {error}"))),
        }
    }
}

fn of_interface(path: &str, interface: &Tree, found: &mut Found) {
    let ethernet = interface.get("ethernet");
    let Some(sriov) = ethernet.and_then(|ethernet| ethernet.get("sr-iov").or_else(|| ethernet.get("sriov"))) else {
        return;
    };
    let name = interface.text("name").unwrap_or("an interface without a name");
    let place = format!("{path}: {name}");
    if interface.text("identifier").is_some_and(|identifier| identifier != "name") {
        let words = "nmstate finds it by its MAC address or its path, and its name is that of a profile";
        found.leave_out(Remark::new(place, words).remedy("give the interface's own name"));
        return;
    }
    if matches!(interface.text("state"), Some("absent" | "down" | "ignore")) {
        found.leave_out(Remark::new(place, "its state is not up: nmstate makes no VFs on it"));
        return;
    }
    let Some(vfs) = sriov.number::<u16>("total-vfs") else {
        found.leave_out(Remark::new(place, "total-vfs is not given: how many VFs there are is left as it is"));
        return;
    };
    let is_probed = sriov.text("drivers-autoprobe") != Some("false");
    let mut wishes: BTreeMap<VfIndex, VfWish> = BTreeMap::new();
    if is_probed {
        wishes.extend((0..vfs).map(|index| (index, VfWish { driver: Wanted::Host, set: BTreeMap::new() })));
    }
    for vf in sriov.list("vfs") {
        let Some(index) = vf.number::<VfIndex>("id").filter(|index| *index < vfs) else {
            let given = vf.text("id").unwrap_or("no id");
            found.leave_out(Remark::new(&place, format_args!("VF {given} is not among its {vfs}")));
            continue;
        };
        let set = settings(&format!("{place} VF {index}"), vf, found);
        let driver = if is_probed { Wanted::Host } else { Wanted::None };
        if is_probed || !set.is_empty() {
            wishes.insert(index, VfWish { driver, set });
        }
    }
    for key in sriov.keys().filter(|key| !matches!(*key, "total-vfs" | "vfs" | "drivers-autoprobe")) {
        found.leave_out(Remark::new(&place, format_args!("a host file cannot say {key}")));
    }
    let rival = Rival {
        what: path.to_owned(),
        does: format!("nmstate.service has NetworkManager set the number of VFs of {name}, and their parameters"),
        command: format!(
            "nmcli connection modify {} remove sriov; vi {}  # take sr-iov of {name} out",
            quoted(name),
            quoted(path)
        ),
    };
    let ask = PfAsk { pf: PfRef::Netdev(name.to_owned()), vfs, eswitch: None, ranges: ranges(wishes) };
    found.ask(place, Asked::Pf(ask), Some(rival));
}

/// What a VF is to have. What a new one has anyway is not said.
fn settings(place: &str, vf: &Tree, found: &mut Found) -> BTreeMap<String, Value> {
    let nothing = |key: &str| vf.text(key).is_none_or(|value| value == "0");
    let mut set = BTreeMap::new();
    for (theirs, ours) in KEYS {
        let Some(value) = vf.text(theirs) else { continue };
        let is_left = match ours {
            "mac" => value.bytes().all(|b| matches!(b, b'0' | b':')),
            "trust" => value != "true",
            "min-rate" | "max-rate" => nothing("min-tx-rate") && nothing("max-tx-rate"),
            "vlan" | "qos" => nothing("vlan-id") && nothing("qos"),
            "proto" => nothing("vlan-id"),
            _ => false,
        };
        if is_left {
            continue;
        }
        let value = match (ours, value) {
            ("spoofchk" | "trust", value) => Value::Switch(value == "true"),
            ("proto", "802.1q") => Value::Text(String::from("802.1Q")),
            (_, value) => Value::of(value),
        };
        set.insert(ours.to_owned(), value);
        if let Err(error) = checked(&set) {
            found.leave_out(Remark::new(place, error));
            set.remove(ours);
        }
    }
    for key in vf.keys().filter(|key| *key != "id" && !KEYS.iter().any(|(theirs, _)| theirs == key)) {
        found.leave_out(Remark::new(place, format_args!("a host file cannot say {key}")));
    }
    set
}
