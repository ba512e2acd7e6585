//! `tests/matching/vectors.json`, run on this implementation. The file's form is in `docs/matching.md`.

use serde_json::Value;

use super::encode::{Pair, encode};
use super::{Collector, Source, Tables, Wanted, candidates, host_candidates, index, text};
use crate::model::ModAlias;

const VECTORS: &str = include_str!("../../tests/matching/vectors.json");

fn vectors() -> Vec<Value> {
    let file: Value = serde_json::from_str(VECTORS).unwrap();
    assert_eq!(file["schema"], "vfioadm.match-vectors/1");
    file["vectors"].as_array().unwrap().clone()
}

const KEYS: [&str; 11] = [
    "name",
    "reason",
    "modalias",
    "aliases",
    "built_in",
    "drivers",
    "registered",
    "modules",
    "release",
    "expect",
    "host",
];

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// The vector's lines as modules.alias has them, or as an index with the order of the lines as priority.
fn as_text(lines: &[String]) -> Vec<u8> {
    lines.iter().map(|line| format!("alias {line}\n")).collect::<String>().into_bytes()
}

fn as_index(lines: &[String]) -> Vec<u8> {
    let pairs: Vec<Pair<'_>> =
        lines.iter().zip(0..).filter_map(|(line, order)| line.split_once(' ').map(|(k, v)| (k, order, v))).collect();
    encode(&pairs)
}

/// How the loadable aliases are handed over.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Text,
    Index,
}

fn tables(vector: &Value, device: ModAlias, form: Form) -> Tables {
    let devices = [device];
    let wanted = Wanted { devices: &devices, modules: &[] };
    let mut collector = Collector::default();
    let loadable = strings(&vector["aliases"]);
    if form == Form::Index {
        index::collect(&as_index(&loadable), Source::Loadable, &wanted, &mut collector).unwrap();
    } else {
        text::collect(&as_text(&loadable), &wanted, &mut collector);
    }
    let built_in = as_index(&strings(&vector["built_in"]));
    index::collect(&built_in, Source::BuiltIn, &wanted, &mut collector).unwrap();
    let drivers = vector["drivers"].as_object().cloned().unwrap_or_default();
    Tables {
        aliases: collector.finish("vector").0,
        drivers: drivers
            .iter()
            .map(|(module, list)| {
                (module.parse().unwrap(), strings(list).iter().map(|name| name.parse().unwrap()).collect())
            })
            .collect(),
        registered: strings(&vector["registered"]).iter().map(|name| name.parse().unwrap()).collect(),
        modules: strings(&vector["modules"]).iter().map(|name| name.parse().unwrap()).collect(),
        release: vector["release"].as_str().map(|text| text.parse().unwrap()),
    }
}

/// Wildcard fields, counted another way: the stars that follow a mark's letter.
fn stars(alias: &str) -> usize {
    let bytes = alias.split_once(':').unwrap().1.as_bytes();
    bytes.windows(2).filter(|pair| pair[0].is_ascii_lowercase() && pair[1] == b'*').count()
}

#[test]
fn there_are_enough_vectors_and_each_has_its_name_and_reason() {
    let vectors = vectors();
    assert!(vectors.len() >= 25);
    let names: std::collections::BTreeSet<&str> = vectors.iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), vectors.len());
    for vector in &vectors {
        assert!(!vector["reason"].as_str().unwrap().is_empty());
        let known = |key: &String| KEYS.contains(&key.as_str());
        assert!(vector.as_object().unwrap().keys().all(known), "a key that nobody reads: {vector}");
    }
}

#[test]
fn every_vector_holds_for_text_and_index() {
    for vector in vectors() {
        let device: ModAlias = vector["modalias"].as_str().unwrap().parse().unwrap();
        for form in [Form::Text, Form::Index] {
            let name = format!("{} as {form:?}", vector["name"]);
            let tables = tables(&vector, device, form);
            let found = candidates(&device, &tables);
            let expected = vector["expect"].as_array().unwrap();
            let drivers: Vec<&str> = found.iter().map(|candidate| candidate.driver.as_str()).collect();
            let wanted: Vec<&str> = expected.iter().map(|e| e["driver"].as_str().unwrap()).collect();
            assert_eq!(drivers, wanted, "{name}");
            for ((candidate, expected), rank) in found.iter().zip(expected).zip(1..) {
                let alias = candidate.alias.to_string();
                assert_eq!(candidate.rank, rank, "{name}");
                assert_eq!(alias, expected["alias"], "{name}");
                assert_eq!(candidate.module.as_ref().map(|m| m.as_str()), expected["module"].as_str(), "{name}");
                assert_eq!(Value::from(candidate.wildcards), expected["wildcards"], "{name}");
                assert_eq!(usize::from(candidate.wildcards), stars(&alias), "{name}");
            }
            assert!(found.is_sorted_by_key(|candidate| stars(&candidate.alias.to_string())), "{name}");
            if !vector["host"].is_null() {
                let hosts = host_candidates(&device, &tables);
                let modules: Vec<String> = hosts.iter().map(|host| host.module.to_string()).collect();
                assert_eq!(modules, strings(&vector["host"]), "{name}");
            }
        }
    }
}

#[test]
fn no_order_of_lines_changes_a_choice() {
    for vector in vectors() {
        let device: ModAlias = vector["modalias"].as_str().unwrap().parse().unwrap();
        let mut turned = vector.clone();
        turned["aliases"].as_array_mut().unwrap().reverse();
        assert_eq!(
            candidates(&device, &tables(&vector, device, Form::Index)),
            candidates(&device, &tables(&turned, device, Form::Index)),
            "{}",
            vector["name"]
        );
    }
}
