//! `tests/plans/<case>/{host,want.toml,plan.txt}`: what is planned of a host file, and that it is carried out so.
//!
//! The first line of `host` names a recorded host of `tests/hosts`; a line that begins with `/` is a line of it, put in the place
//! of the one with its path; one that begins with `-` takes all lines with a path away; any other is a command that is given before, in which `./` is the case.
//! A plan that is not as `plan.txt` is put beside it, as `plan.txt.new`.

#![expect(clippy::disallowed_methods, reason = "the cases are files of the project")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Said, vfioadm_with};

fn cases() -> Vec<PathBuf> {
    let all = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans")).unwrap();
    let mut all: Vec<PathBuf> = all.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// A host of a case, in a directory of its own.
pub(crate) struct Prepared {
    directory: tempfile::TempDir,
}

impl Prepared {
    fn of(case: &Path) -> Self {
        Self::of_text(case, &fs::read_to_string(case.join("host")).unwrap())
    }

    fn of_text(case: &Path, words: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut lines = words.lines();
        let base = format!("{}/tests/hosts/{}.host", env!("CARGO_MANIFEST_DIR"), lines.next().unwrap());
        let mut host: Vec<String> = fs::read_to_string(base).unwrap().lines().map(str::to_owned).collect();
        let mut commands = Vec::new();
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let path = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
            if let Some(gone) = line.strip_prefix('-') {
                let before = host.len();
                host.retain(|of| path(of) != gone && !of.starts_with(&format!("{gone}/")));
                assert!(host.len() < before, "{}: nothing is at {gone}", case.display());
            } else if line.starts_with('/') {
                match host.iter_mut().find(|of| path(of) == path(line)) {
                    Some(of) => *of = line.to_owned(),
                    // The last line is the end.
                    None => host.insert(host.len() - 1, line.to_owned()),
                }
            } else {
                commands.push(line.replace(" ./", &format!(" {}/", case.display())));
            }
        }
        // The end line counts the lines.
        let count = host.iter().filter(|line| line.starts_with('/')).count();
        *host.last_mut().unwrap() = format!("end {count}");
        fs::write(directory.path().join("it.host"), host.join("\n") + "\n").unwrap();
        let prepared = Self { directory };
        for command in commands {
            let said = prepared.run(&command);
            assert_eq!(said.exit, 0, "{}: {command}: {said}", case.display());
        }
        prepared
    }

    /// Runs a command on it, and keeps what it does.
    pub(crate) fn run(&self, line: &str) -> Said {
        let host = self.directory.path().join("it.host");
        let mut words: Vec<OsString> = vec!["--host".into(), host.into(), "--save".into()];
        words.extend(line.split_whitespace().map(OsString::from));
        vfioadm_with(&words)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.directory.path().join("it.host")).unwrap()
    }
}

fn with_file(verb: &str, case: &Path) -> String {
    format!("{verb} {}/want.toml", case.display())
}

/// What a plan says, whose file is called as in the case.
fn planned(case: &Path, host: &Prepared) -> (Said, String) {
    let said = host.run(&with_file("plan --exit-code", case));
    let text = said.to_string().replace(&format!("{}/", case.display()), "");
    (said, text)
}

#[test]
fn a_plan_is_what_its_case_says() {
    let mut wrong = Vec::new();
    let cases = cases();
    for case in &cases {
        let text = planned(case, &Prepared::of(case)).1;
        if fs::read_to_string(case.join("plan.txt")).ok().as_ref() != Some(&text) {
            fs::write(case.join("plan.txt.new"), &text).unwrap();
            wrong.push(format!("{}:\n{text}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() >= 40, "{} cases", cases.len());
}

#[test]
fn what_is_planned_is_applied_and_then_in_place() {
    let mut wrong = Vec::new();
    let (mut applied, mut refused) = (0, 0);
    for case in cases() {
        let host = Prepared::of(&case);
        let (plan, _) = planned(&case, &host);
        let before = host.text();
        let said = host.run(&with_file("apply --yes", &case));
        if said.exit != 0 {
            refused += 1;
            // Refused is refused: nothing was done.
            if plan.exit == 0 || host.text() != before {
                wrong.push(format!("{}: {said}", case.display()));
            }
            continue;
        }
        applied += 1;
        let (verify, again) = (host.run(&with_file("verify -o json", &case)), host.run(&with_file("apply -v", &case)));
        let entries = verify.json()["entries"].as_array().unwrap().clone();
        let settled = entries.iter().all(|entry| matches!(entry["state"].as_str(), Some("in_place" | "not_applied")));
        let writes = again.err.lines().filter(|line| line.starts_with("echo ")).count();
        let drifts = entries.iter().any(|entry| entry["state"] != "in_place");
        if !settled || (verify.exit == 4) != drifts || again.exit != 0 || writes > 0 {
            wrong.push(format!("{}: {verify}{again}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(applied > 20 && refused > 0, "{applied} applied, {refused} refused");
}

/// VFs that go are taken from their drivers first, side by side, so that it is known what each is to get back.
#[test]
fn vfs_that_go_come_back_on_their_drivers() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans/vfs-none-wanted");
    let host = Prepared::of(&case);
    let bound = host.run("bind 0000:81:10.4 --driver vfio-pci");
    assert_eq!(bound.exit, 0, "{bound}");
    let drivers = || {
        let listed = host.run("list -o json").json();
        let vfs = listed["devices"].as_array().unwrap().iter().filter(|of| of["pf"] == "0000:81:00.0");
        let bound = vfs.filter(|of| !of["driver"].is_null());
        bound.map(|of| (of["address"].to_string(), of["driver"].to_string())).collect::<Vec<_>>()
    };
    let before = drivers();
    let said = host.run(&with_file("apply -v --yes -o json", &case));
    let writes: Vec<&str> = said.err.lines().filter(|line| line.starts_with("echo ")).collect();
    let unbinds = writes.iter().filter(|line| line.contains("/unbind")).count();
    let last = writes.iter().rposition(|line| line.contains("/unbind"));
    let gone = writes.iter().position(|line| line.contains("sriov_numvfs"));
    assert!(said.exit == 0 && unbinds == 3 && last < gone, "{said}");
    assert_eq!(drivers(), []);
    let undone = host.run(&format!("undo {}", said.json()["operation"].as_str().unwrap()));
    let mut after = drivers();
    // Whatever had no driver is probed as it comes: the plan says that VFs lose what they have.
    after.retain(|of| before.contains(of));
    assert_eq!((undone.exit, after), (0, before), "{undone}");
}

#[test]
fn an_attribute_that_the_kernel_refuses_takes_its_mdev_back() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans/mdev-attributes-made");
    let host = Prepared::of(&case);
    let apply = |file: &str| host.run(&format!("apply -v {}/{file}", case.display()));
    let writes = |said: &Said| -> Vec<String> {
        let lines = said.err.lines().filter_map(|line| line.strip_prefix("echo "));
        lines
            .map(|line| line.split(" > ").map(|part| part.rsplit('/').next().unwrap()).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let other = apply("other.toml");
    assert_eq!(other.exit, 0, "{other}");
    let made = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002 create";
    assert_eq!(writes(&other), [made, "4 assign_domain", "5 assign_adapter"], "in the order of the file");
    for (file, why) in [
        ("want.toml", "does not take assign_domain 4: another mdev has it"),
        ("absent.toml", "does not take frame_rate_limiter 0: it has no such attribute"),
    ] {
        let said = apply(file);
        assert!(said.exit == 1 && said.err.contains(why) && said.err.contains("1 step undone"), "{file}: {said}");
        let left = host.run("list -o json").json();
        let mdevs = left["devices"].as_array().unwrap().iter().filter(|device| device["role"] == "mdev").count();
        assert_eq!(mdevs, 2, "{file}: {left}");
    }
}

#[test]
fn what_is_beside_functions_is_described_and_then_in_place() {
    let prepared =
        Prepared::of_text(Path::new("types"), "types\ncreate 0000:41:00.0 vgpu:1153\ncreate iax1 wq --set mode=shared");
    let described = prepared.run("describe");
    assert_eq!(described.exit, 0, "{described}");
    for (table, count) in [("[[wq]]", 4), ("[[sf]]", 1), ("[[vgpu]]", 2)] {
        assert_eq!(described.out.matches(table).count(), count, "{table} in {described}");
    }
    let file = prepared.directory.path().join("want.toml");
    fs::write(&file, &described.out).unwrap();
    let said = prepared.run(&format!("verify {}", file.display()));
    assert_eq!(said.exit, 0, "{said}");
}
