//! A recorded host that commands change one after the other, and what they say.

use std::fs;
use std::path::{Path, PathBuf};

use vfioadm::host::fake::{FakeHost, Snapshot, Tree};

use crate::{Said, vfioadm};

/// A recorded host that every command saves, with its journals beside it.
pub(crate) struct Saved {
    _directory: tempfile::TempDir,
    file: PathBuf,
}

impl Saved {
    pub(crate) fn new(change: impl FnOnce(&mut Tree)) -> Self {
        Self::of(&FakeHost::demo().unwrap(), change)
    }

    pub(crate) fn of(host: &FakeHost, change: impl FnOnce(&mut Tree)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("my.host");
        let saved = Self { _directory: directory, file };
        saved.write(host, change);
        saved
    }

    pub(crate) fn directory(&self) -> &Path {
        self.file.parent().unwrap()
    }

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }

    pub(crate) fn host(&self) -> FakeHost {
        FakeHost::from_text(self.text().as_bytes()).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "a test writes its fixture")]
    pub(crate) fn write(&self, host: &FakeHost, change: impl FnOnce(&mut Tree)) {
        host.edit(change);
        fs::write(&self.file, host.to_text()).unwrap();
    }

    /// Changes the host behind vfioadm's back.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Tree)) {
        self.write(&self.host(), change);
    }

    #[expect(clippy::disallowed_methods, reason = "a test reads what was saved")]
    pub(crate) fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    pub(crate) fn journal(&self, id: &str) -> PathBuf {
        self.file.with_file_name("my.host.journal").join(format!("{id}.jsonl"))
    }

    #[expect(clippy::disallowed_methods, reason = "a test changes a journal")]
    pub(crate) fn edit(&self, id: &str, edit: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(self.journal(id)).unwrap();
        fs::write(self.journal(id), edit(text)).unwrap();
    }

    /// Takes the last line away: as if the command had been killed after its last write.
    pub(crate) fn kill(&self, id: &str) {
        self.edit(id, |text| {
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            lines[..lines.len() - 1].concat()
        });
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.host().snapshot()
    }

    pub(crate) fn vfioadm(&self, line: &str) -> Said {
        vfioadm(&format!("--host {} --save {line}", self.file.display()))
    }

    /// What these commands say, one after the other, without what differs each time.
    pub(crate) fn say(&self, lines: &[&str]) -> String {
        let directory = self.directory().display().to_string();
        let asked = |line: &str| line.replace(&directory, "DIR");
        lines.iter().map(|line| format!("$ vfioadm {}\n{}", asked(line), self.steady(&self.vfioadm(line)))).collect()
    }

    pub(crate) fn steady(&self, said: &Said) -> String {
        let directory = self.directory().display().to_string();
        let pid = std::process::id().to_string();
        let mut text = said.to_string().replace(&directory, "DIR");
        for (before, after) in [("pid ", ""), ("\"pid\": ", ""), (" ", " ")] {
            text = text.replace(&format!("{before}{pid}{after}"), &format!("{before}PID{after}"));
        }
        let lines = text.split_inclusive('\n').map(|line| {
            // How wide a column is depends on the pid.
            let table =
                ["OPERATION", "bind-", "unbind-", "create-", "destroy-"].iter().any(|word| line.starts_with(word));
            let line = undated(line);
            if table {
                line.split("  ").filter(|cell| !cell.trim().is_empty()).map(str::trim).collect::<Vec<_>>().join("  ")
                    + "\n"
            } else {
                line
            }
        });
        lines.collect()
    }
}

/// What is said when the host that `host` names is recorded, and of each of `verbs` on the recording that the one before left.
pub(crate) fn sequence(host: &str, verbs: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("my.host");
    let file = file.display();
    let mut all = vfioadm(&format!("{host} record {file}")).to_string();
    for verb in verbs {
        all += &format!("$ vfioadm {verb}\n{}", vfioadm(&format!("--host {file} --save {verb}")));
    }
    all
}

/// Without `2026-11-21T04:30:18Z`.
fn undated(line: &str) -> String {
    let date = |at: usize| {
        line.get(at..at + 20)
            .is_some_and(|text| text.starts_with("20") && text.as_bytes()[10] == b'T' && text.ends_with('Z'))
    };
    match (0..line.len()).find(|at| date(*at)) {
        Some(at) => format!("{}DATE{}", &line[..at], &line[at + 20..]),
        None => line.to_owned(),
    }
}
