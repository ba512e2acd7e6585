//! `vfioadm boot`: what is installed for the next boot, in a root of the test's own.

#![expect(clippy::disallowed_methods, reason = "the tests read what was installed")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::{Said, vfioadm};

/// A system with a host file that is about one product and the VFs of another, which this machine has not got.
fn system(initramfs: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc/vfioadm")).unwrap();
    fs::create_dir_all(root.path().join(initramfs)).unwrap();
    let text = "[[device]]\nmatch = { id = \"dead:beef\" }\n\n[[device]]\nmatch = { id = \"dead:0001\", pf = \"0000:01:00.0\", vf = 1 }\n\n[[pf]]\nmatch = { id = \"dead:0002\" }\nvfs = 4\n";
    fs::write(root.path().join("etc/vfioadm/host.toml"), text).unwrap();
    root
}

fn boot(act: &str, root: &Path) -> Said {
    vfioadm(&format!("boot {act} --root {}", root.display()))
}

/// What is said and installed, without what is this machine's own.
fn shown(said: &Said, root: &Path) -> String {
    let program = std::env::current_exe().unwrap().display().to_string();
    said.to_string().replace(&root.display().to_string(), "").replace(&program, "/usr/sbin/vfioadm")
}

fn installed(root: &Path) -> String {
    let mut all = String::new();
    let mut pending = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() { pending.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    let program = std::env::current_exe().unwrap().display().to_string();
    for path in found {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        match fs::read_link(&path) {
            Ok(to) => all.push_str(&format!("== {name} -> {}\n", to.display())),
            Err(_) => {
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                let text = fs::read_to_string(&path).unwrap().replace(&program, "/usr/sbin/vfioadm");
                all.push_str(&format!("== {name} {mode:o}\n{text}"));
            }
        }
    }
    all
}

#[test]
fn what_is_installed_is_there_once_and_goes_again() {
    for (initramfs, name) in [("etc/initramfs-tools", "initramfs_tools"), ("usr/lib/dracut/modules.d", "dracut")] {
        let root = system(initramfs);
        let before = installed(root.path());
        let said = boot("status", root.path());
        assert_eq!(said.exit, 4, "{said}");
        let said = boot("install", root.path());
        insta::assert_snapshot!(name, format!("{}{}", shown(&said, root.path()), installed(root.path())));
        let there = installed(root.path());
        let again = boot("install", root.path());
        assert!(again.exit == 0 && !again.out.contains("installed"), "{again}");
        assert_eq!(installed(root.path()), there);
        assert_eq!(boot("status", root.path()).exit, 0);
        assert_eq!(boot("remove", root.path()).exit, 0);
        assert_eq!(installed(root.path()), before);
        assert_eq!(boot("remove", root.path()).out, "nothing is installed\n");
    }
}

#[test]
fn what_goes_by_another_host_file_is_said_and_replaced() {
    let root = system("etc/initramfs-tools");
    assert_eq!(boot("install", root.path()).exit, 0);
    fs::write(root.path().join("etc/vfioadm/host.toml"), "[[device]]\nmatch = { id = \"dead:0003\" }\n").unwrap();
    let said = boot("status", root.path());
    assert_eq!(said.exit, 4);
    let differs: Vec<&str> = said.out.lines().filter(|line| line.starts_with("differs")).collect();
    assert_eq!(differs.len(), 1, "{said}");
    assert!(differs[0].ends_with("etc/udev/rules.d/60-vfioadm.rules"));
    assert_eq!(boot("install", root.path()).exit, 0);
    assert_eq!(boot("status", root.path()).exit, 0);
}

#[test]
fn what_somebody_else_has_made_is_left_alone() {
    let root = system("etc/initramfs-tools");
    let theirs = root.path().join("etc/udev/rules.d/60-vfioadm.rules");
    fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, "# somebody's\n").unwrap();
    let before = installed(root.path());
    let said = boot("install", root.path());
    insta::assert_snapshot!("not_ours", shown(&said, root.path()));
    assert_eq!(installed(root.path()), before);
    assert_eq!(boot("remove", root.path()).exit, 0);
    assert_eq!(installed(root.path()), before);
}

#[test]
fn a_host_file_that_is_wrong_installs_nothing() {
    let root = system("etc/initramfs-tools");
    fs::write(root.path().join("etc/vfioadm/host.toml"), "[[devcie]]\n").unwrap();
    let said = boot("install", root.path());
    assert_eq!(said.exit, 2, "{said}");
    assert!(said.err.contains("did you mean device"), "{said}");
    assert!(!root.path().join("etc/systemd").exists());
    let said = vfioadm("--host demo boot status");
    assert_eq!(said.exit, 2, "{said}");
}
