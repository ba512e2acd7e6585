//! mdevctl: `/etc/mdevctl.d/<parent>/<uuid>` in JSON, in `key=value` lines of its shell releases, and what `list --dumpjson` prints.

use serde_json::Value;
use uuid::Uuid;

use super::{Asked, Found, MdevAsk, ParentRef, Piece, Remark, Rival, quoted};
use crate::model::Bdf;

/// A definition of an mdev.
#[derive(Debug, PartialEq, Eq)]
struct Definition {
    kind: String,
    is_auto: bool,
    /// In the order that they are written to the mdev.
    attributes: Vec<(String, String)>,
}

pub(super) fn read(pieces: &[Piece<'_>], found: &mut Found) {
    for piece in pieces {
        // Its own programs.
        if piece.path.split('/').any(|part| part == "scripts.d") {
            continue;
        }
        let outcome = match (Uuid::parse_str(piece.name()), piece.directory()) {
            (Ok(uuid), Some(parent)) => definition(piece.text)
                .and_then(|definition| put(piece.path, parent, uuid, definition, found))
                .map_err(|words| Remark::new(piece.path, words)),
            (Ok(_), None) => Err(Remark::new(piece.path, "the name of its directory would say what its parent is")
                .remedy("name it with its directory")),
            (Err(_), _) => dump(*piece, found),
        };
        if let Err(remark) = outcome {
            found.leave_out(remark);
        }
    }
}

/// `[ { "<parent>": [ { "<uuid>": { … } } ] } ]`, as `mdevctl list --dumpjson` prints it.
fn dump(piece: Piece<'_>, found: &mut Found) -> Result<(), Remark> {
    let not_ours = || Remark::new(piece.path, "its name is no UUID: mdevctl passes it over too");
    let Ok(Value::Array(parents)) = serde_json::from_str(piece.text) else { return Err(not_ours()) };
    for parent in &parents {
        let Value::Object(parent) = parent else { return Err(not_ours()) };
        for (name, mdevs) in parent {
            let mdevs = mdevs.as_array().ok_or_else(not_ours)?;
            for (uuid, value) in mdevs.iter().filter_map(Value::as_object).flatten() {
                let place = format!("{}: {name}/{uuid}", piece.path);
                let of = Uuid::parse_str(uuid).map_err(|_| String::from("its name is no UUID"));
                let put = of.and_then(|uuid| put(&place, name, uuid, of_json(value)?, found));
                if let Err(words) = put {
                    found.leave_out(Remark::new(&place, words));
                }
            }
        }
    }
    Ok(())
}

fn put(place: &str, parent: &str, uuid: Uuid, definition: Definition, found: &mut Found) -> Result<(), String> {
    if let Ok(bdf) = parent.parse::<Bdf>()
        && bdf.to_string() != parent
    {
        return Err(format!("mdevctl never starts it: the kernel calls its parent {bdf}, not {parent}"));
    }
    if !definition.is_auto {
        let words = "it is started by hand, and a host file would have it there always";
        let command = format!("mdevctl modify --parent {} --uuid {uuid} --auto", quoted(parent));
        found.leave_out(Remark::new(place, words).remedy(format!("if it is to be, {command}; and import again")));
        return Ok(());
    }
    let rival = Rival {
        what: format!("/etc/mdevctl.d/{parent}/{uuid}"),
        does: format!("mdevctl makes {uuid} whenever udev adds {parent} (60-mdevctl.rules)"),
        command: format!("mdevctl modify --parent {} --uuid {uuid} --manual", quoted(parent)),
    };
    let parent = ParentRef::Kernel(parent.to_owned());
    let Definition { kind, attributes, .. } = definition;
    found.ask(place, Asked::Mdev(MdevAsk { uuid, parent, kind, attributes }), Some(rival));
    Ok(())
}

fn definition(text: &str) -> Result<Definition, String> {
    if let Some(of_shell) = of_shell(text) {
        return of_shell;
    }
    let value: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    of_json(&value)
}

fn of_json(value: &Value) -> Result<Definition, String> {
    let object = value.as_object().ok_or("is no JSON object")?;
    let text = |key: &str| match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        None | Some(Value::Null) => Err(format!("has no {key}")),
        Some(other) => Err(format!("its {key} is no string: {other}")),
    };
    let (kind, start) = (text("mdev_type")?, text("start")?);
    let wrong = || String::from("its attrs are not a list of one name and one value each");
    let attributes: Result<Vec<_>, String> = match object.get("attrs") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(all)) => all
            .iter()
            .map(|item| {
                let mut pairs = item.as_object().ok_or_else(wrong)?.iter();
                match (pairs.next(), pairs.next()) {
                    (Some((name, Value::String(value))), None) => Ok((name.clone(), value.clone())),
                    _ => Err(wrong()),
                }
            })
            .collect(),
        Some(_) => Err(wrong()),
    };
    Ok(Definition { kind, is_auto: start == "auto", attributes: attributes? })
}

/// `mdev_type=nvidia-35`, a line each; `None` when it is something else.
fn of_shell(text: &str) -> Option<Result<Definition, String>> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let pairs: Option<Vec<(&str, &str)>> = lines.iter().map(|line| line.split_once('=')).collect();
    let pairs = pairs.filter(|pairs| !pairs.is_empty() && !text.trim_start().starts_with(['{', '[', '"']))?;
    let value = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| value.trim_matches('"'));
    let other = pairs.iter().filter(|(name, _)| !matches!(*name, "mdev_type" | "start"));
    let attributes = other.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Some(value("mdev_type").map_or_else(
        || Err(String::from("has no mdev_type")),
        |kind| Ok(Definition { kind: kind.to_owned(), is_auto: value("start") == Some("auto"), attributes }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_every_release_are_read_and_wrong_ones_say_why() {
        let auto = |kind: &str| Definition { kind: kind.into(), is_auto: true, attributes: Vec::new() };
        assert_eq!(definition("{\"mdev_type\": \"mtty-2\", \"start\": \"auto\", \"attrs\": null}"), Ok(auto("mtty-2")));
        assert_eq!(definition("mdev_type=mtty-2\nstart=auto\n\n"), Ok(auto("mtty-2")));
        assert!(!definition("{\"mdev_type\": \"a\", \"start\": \"Auto\"}").unwrap().is_auto);
        let said = |text: &str| definition(text).unwrap_err();
        assert_eq!(said("{\"mdev_type\": 5, \"start\": \"auto\"}"), "its mdev_type is no string: 5");
        assert_eq!(said("{\"mdev_type\": \"a\", \"start\": null}"), "has no start");
        let attrs = "{\"mdev_type\": \"a\", \"start\": \"auto\", \"attrs\": [{\"a\": \"1\", \"b\": \"2\"}]}";
        assert_eq!(said(attrs), "its attrs are not a list of one name and one value each");
        assert!(said("").starts_with("is no JSON: "));
    }
}
