//! What is wrong is refused by name, with exit 2, and nothing is written.

use std::ffi::OsString;

use crate::{vfioadm, vfioadm_with};

#[test]
fn a_wrong_command_line_is_exit_2_and_names_what_is_wrong() {
    let long = "x".repeat(5000);
    for (line, named) in [
        ("--host demo bind 0000:ff:1f.7", "0000:ff:1f.7"),
        ("--host demo show 0000:ff:1f.7", "0000:ff:1f.7"),
        ("--host demo bind 0000:3b:00.9", "0000:3b:00.9"),
        ("--host demo bind nosuchnetdev", "nosuchnetdev"),
        ("--host demo bind ff:*", "ff:*"),
        ("--host demo match --modalias pci:garbage", "pci:garbage"),
        ("--host demo match --modalias usb:v1d6Bp0002", "usb:v1d6Bp0002"),
        ("--host demo bind --driver ../../evil 0000:3b:00.2", "../../evil"),
        ("--host demo bind --driver a/b 0000:3b:00.2", "a/b"),
        (&format!("--host demo bind --driver {long} 0000:3b:00.2"), "xxxx"),
        ("--host demo bind --allow everything 0000:3b:00.2", "everything"),
        ("--host demo list --vendor 12345", "12345"),
        ("--host demo list --class zz", "zz"),
        ("--host demo frobnicate", "frobnicate"),
        ("--host /nonexistent/host list", "/nonexistent/host"),
        ("--host demo match --modules /lib/modules/x 0000:3b:00.2", "--modules"),
        (
            "match --modalias pci:v00008086d000010CAsv00008086sd00000000bc02sc00i00 --modules /nonexistent/modules",
            "/nonexistent/modules",
        ),
    ] {
        let said = vfioadm(line);
        assert_eq!(said.exit, 2, "{line}: {said}");
        assert!(said.err.contains(named), "{line}: {said}");
        assert_eq!(said.out, "", "{line}");
    }
}

#[test]
fn an_argument_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let said = vfioadm_with(&["--host".into(), "demo".into(), "show".into(), OsString::from_vec(b"\xff\xfe".to_vec())]);
    assert_eq!(said.exit, 2, "{said}");
}

#[test]
fn an_unknown_driver_is_exit_1_and_nothing_is_tried() {
    let said = vfioadm("--host demo -o json bind --driver no_such_driver 0000:3b:00.2");
    assert_eq!(said.exit, 1, "{said}");
    let json = said.json();
    assert_eq!(json["error"]["id"], "no-such-driver");
    assert_eq!(json["host"], "as_it_was");
}

#[test]
fn a_recorded_host_that_is_cut_or_garbled_is_refused_and_never_panics() {
    let demo = include_str!("../hosts/demo.host");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cut.host");
    let mut refused = 0;
    for part in 1..40 {
        let cut = &demo.as_bytes()[..demo.len() * part / 40];
        write(&file, cut);
        let said = vfioadm(&format!("--host {} list", file.display()));
        assert_eq!(said.exit, 2, "{part}/40: {said}");
        assert!(said.err.contains("cut.host"), "{said}");
        refused += 1;
    }
    for garbage in
        [&b""[..], b"\0\0\0", b"vfioadm-host 9\n", b"\xff\xfe\n", b"vfioadm-host 1\n/home/passwd = x\nend 1\n"]
    {
        write(&file, garbage);
        let said = vfioadm(&format!("--host {} list", file.display()));
        assert_eq!(said.exit, 2, "{garbage:?}: {said}");
    }
    assert_eq!(refused, 39);
}

#[expect(clippy::disallowed_methods, reason = "a test writes its fixture")]
fn write(file: &std::path::Path, bytes: &[u8]) {
    std::fs::write(file, bytes).unwrap();
}
