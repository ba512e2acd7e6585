//! The arrows of ARCHITECTURE.md, checked: which room may use which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A room and the rooms that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("step", &["model"]),
    ("stream", &[]),
    ("matching", &["model"]),
    ("check", &["model", "matching"]),
    ("plan", &["model", "step", "matching"]),
    ("want", &["model", "step", "matching", "check", "plan"]),
    ("host", &["model", "matching"]),
    ("prove", &["model", "host", "stream"]),
    ("discover", &["model", "host", "matching"]),
    ("engine", &["model", "step", "host"]),
    ("cli", &["model", "step", "matching", "check", "plan", "host", "discover", "engine", "stream", "prove", "want"]),
];

/// Rooms without a file, a clock or an environment.
const PURE: &[&str] = &["model", "step", "stream", "matching", "check", "plan", "want"];

/// What a pure room cannot be seen with.
const IMPURE: &[&str] =
    &["std::fs", "std::env", "std::process", "std::thread", "std::net", "std::time::Instant", "rustix", "vfioadm_uapi"];

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (room, file, text) in sources() {
        if room == "lib" || room == "main" {
            continue;
        }
        seen.insert(room.clone());
        let Some(may) = allowed.get(room.as_str()) else {
            wrong.push(format!("{file}: {room} is a room without arrows: add it to ARROWS and ARCHITECTURE.md"));
            continue;
        };
        // Upwards out of a room there is one way, and its name is `crate::`.
        if text.contains("super::super::") && file.matches('/').count() < 2 {
            wrong.push(format!("{file}: super::super leads out of {room}; say crate::"));
        }
        for used in rooms_used(&text) {
            if used != room && allowed.contains_key(used.as_str()) && !may.contains(&used.as_str()) {
                wrong.push(format!("{file}: {room} must not use {used}"));
            }
        }
        if PURE.contains(&room.as_str()) {
            // `use std::{fs, env}` says the same in one line.
            let listed = text.split("use std::{").skip(1).filter_map(|rest| rest.split_once('}')).map(|(list, _)| list);
            for word in listed.flat_map(|list| list.split(',')).map(str::trim) {
                if IMPURE.contains(&format!("std::{word}").as_str()) {
                    wrong.push(format!("{file}: {room} is pure and says std::{word}"));
                }
            }
            wrong.extend(
                IMPURE
                    .iter()
                    .filter(|word| text.contains(**word))
                    .map(|word| format!("{file}: {room} is pure and says {word}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let named: BTreeSet<String> = allowed.keys().map(|room| (*room).to_owned()).collect();
    assert_eq!(seen, named, "a room of ARROWS is not there, or was not seen");
}

#[test]
fn the_check_sees_a_forbidden_use() {
    let used: Vec<String> =
        rooms_used("use crate::engine::run;\nlet x = crate::host::fake::build();\nuse super::x;").collect();
    assert_eq!(used, ["engine", "host"]);
    let nested: Vec<String> = rooms_used("use crate::{discover, host};").collect();
    assert_eq!(nested, ["discover", "host"]);
}

#[test]
fn no_lint_is_silenced_without_a_reason_and_no_work_is_left_marked() {
    let mut wrong = Vec::new();
    for (_, file, text) in sources() {
        for (number, line) in (1..).zip(text.lines()) {
            for mark in ["#[allow(", "#![allow(", "todo!(", "unimplemented!(", "#[ignore"] {
                if line.contains(mark) {
                    wrong.push(format!("{file}:{number}: {mark}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The rooms named after `crate::` in a source text, test code included.
fn rooms_used(text: &str) -> impl Iterator<Item = String> {
    let mut rooms = Vec::new();
    for piece in text.split("crate::").skip(1) {
        let word = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
        if let Some(list) = piece.strip_prefix('{') {
            let list = list.split_once("};").map_or(list, |(list, _)| list);
            let mut depth = 0usize;
            let mut start = true;
            for (at, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    ',' if depth == 0 => start = true,
                    c if start && c.is_ascii_alphabetic() => {
                        rooms.push(word(&list[at..]));
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            rooms.push(word(piece));
        }
    }
    rooms.into_iter()
}

/// (room, file, text) of every source file of the package.
fn sources() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<PathBuf> = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(read_dir(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(&root).expect("below src");
            let room = relative.iter().next().expect("a component").to_string_lossy();
            let room = room.trim_end_matches(".rs").to_owned();
            found.push((room, relative.display().to_string(), read(&path)));
        }
    }
    assert!(found.len() > 20, "only {} source files were found", found.len());
    found
}

#[expect(clippy::disallowed_methods, reason = "a test reads the sources")]
fn read_dir(path: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test reads the sources")]
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a source file")
}
