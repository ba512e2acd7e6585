//! accel-config: `/etc/accel-config/accel-config.conf`, a JSON array of idxd devices with their groups, WQs and engines.
//!
//! `dsa0` is the first device that the driver has found: a host file says which function that is.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Asked, Found, Piece, QueueAsk, Remark, Rival};
use crate::model::dsa::DsaName;
use crate::plan::parameters::Assignment;
use crate::plan::queues;
use crate::want::file;

/// Keys of a WQ here and of `set`.
const KEYS: [(&str, &str); 10] = [
    ("type", "type"),
    ("mode", "mode"),
    ("size", "size"),
    ("threshold", "threshold"),
    ("group_id", "group"),
    ("priority", "priority"),
    ("block_on_fault", "block-on-fault"),
    ("name", "name"),
    ("driver_name", "driver-name"),
    ("max_transfer_size", "max-transfer-size"),
];

pub(super) fn read(pieces: &[Piece<'_>], found: &mut Found) {
    for piece in pieces {
        let devices: Vec<Map<String, Value>> = match serde_json::from_str(piece.text) {
            Ok(devices) => devices,
            Err(error) => {
                found.leave_out(Remark::new(piece.path, format_args!("is no JSON array of devices: {error}")));
                continue;
            }
        };
        devices.iter().for_each(|of| device(piece.path, of, found));
    }
}

fn named<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str().filter(|text| !text.is_empty())
}

fn objects<'a>(object: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Map<String, Value>> {
    let all = object.get(key).and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_object)
}

fn device(path: &str, object: &Map<String, Value>, found: &mut Found) {
    let Some(device) = named(object, "dev") else {
        found.leave_out(Remark::new(path, "a device of it has no dev"));
        return;
    };
    let is_set = |object: &Map<String, Value>, key: &str| object[key].as_i64().is_none_or(|value| value > 0);
    let known = |key: &str| matches!(key, "dev" | "groups" | "ungrouped_workqueues");
    for key in object.keys().filter(|key| !known(key) && is_set(object, key)) {
        found.leave_out(Remark::new(format_args!("{path}: {device}"), format_args!("a host file cannot say {key}")));
    }
    for group in objects(object, "groups") {
        let name = named(group, "dev").unwrap_or("a group");
        let known = |key: &str| matches!(key, "dev" | "grouped_workqueues" | "grouped_engines");
        for key in group.keys().filter(|key| !known(key) && is_set(group, key)) {
            let place = format!("{path}: {name}");
            found.leave_out(Remark::new(place, format_args!("a host file cannot say {key}")));
        }
        let engine = objects(group, "grouped_engines").find_map(|engine| {
            let (_, number) = named(engine, "dev")?.rsplit_once('.')?;
            number.parse::<u16>().ok()
        });
        for queue in objects(group, "grouped_workqueues") {
            let place = format!("{path}: {}", named(queue, "dev").unwrap_or("a WQ"));
            match ask(device, queue, engine) {
                Ok(ask) => found.ask(place, Asked::Queue(ask), None),
                Err(words) => found.leave_out(Remark::new(place, words)),
            }
        }
    }
}

fn ask(device: &str, queue: &Map<String, Value>, engine: Option<u16>) -> Result<QueueAsk, String> {
    let name = named(queue, "dev").and_then(|name| name.parse().ok());
    let Some(DsaName::Queue(_, wq)) = name else { return Err(String::from("its dev is no name of a WQ")) };
    if matches!(named(queue, "type"), None | Some("none")) {
        return Err(String::from("has no type: it is not enabled"));
    }
    let set = set(queue, engine);
    let all = set.iter().map(|(key, value)| Assignment { key: key.clone(), value: value.to_string() });
    let all: Vec<Assignment> = all.collect();
    queues::parse(&all).map_err(|error| error.to_string())?;
    Ok(QueueAsk { device: device.to_owned(), wq, set })
}

/// What the WQ is to have.
fn set(queue: &Map<String, Value>, engine: Option<u16>) -> BTreeMap<String, file::Value> {
    let mut set = BTreeMap::new();
    let is_dedicated = named(queue, "mode") == Some("dedicated");
    for (theirs, ours) in KEYS {
        let value = match queue.get(theirs) {
            Some(Value::String(text)) if !text.is_empty() => text.clone(),
            // A dedicated WQ has no threshold, and what is 0 is as it comes.
            Some(Value::Number(number)) if number.as_i64().is_some_and(|number| number > 0) => number.to_string(),
            Some(Value::Number(number)) if theirs == "group_id" => number.to_string(),
            _ => continue,
        };
        if is_dedicated && theirs == "threshold" {
            continue;
        }
        let value = if theirs == "block_on_fault" { file::Value::Switch(true) } else { file::Value::of(&value) };
        set.insert(ours.to_owned(), value);
    }
    set.extend(engine.map(|engine| (String::from("engine"), file::Value::Number(engine.into()))));
    set
}

/// Nothing of accel-config itself is run at boot.
pub(super) fn rival() -> Rival {
    Rival {
        what: String::from("accel-config load-config"),
        does: String::from("sets the WQs up again where a unit or a script of yours runs it"),
        command: String::from("grep -rl accel-config /etc/systemd/system /etc/udev/rules.d /etc/rc.local"),
    }
}
