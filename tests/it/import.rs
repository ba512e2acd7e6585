//! Other tools' files, as host files: `tests/import` has those of each, every trap of its format among them.

#![expect(clippy::disallowed_methods, reason = "the fixtures are files of the project")]

use std::fs;

use insta::assert_snapshot;

use crate::{Said, vfioadm};

/// Imports, and reads what is printed back: a host file without a mistake, whose entries are all about devices that are there.
fn imported(host: &str, words: &str) -> Said {
    let said = vfioadm(&format!("--host {host} import {words}"));
    assert_eq!(said.exit, 0, "{said}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("host.toml");
    fs::write(&file, &said.out).unwrap();
    let plan = vfioadm(&format!("--host {host} -o json plan {}", file.display()));
    assert_eq!(plan.exit, 0, "{said}{plan}");
    let entries = plan.json()["entries"].as_array().unwrap().clone();
    assert_eq!(
        entries.len(),
        said.out.lines().filter(|line| line.starts_with("[[") && *line != "[[pf.range]]").count()
    );
    said
}

/// A host with more files than the recorded one, and in place of some.
fn with_files(base: &str, lines: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(format!("{}/tests/hosts/{base}.host", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let place = |line: &str| line.split(' ').next().unwrap().to_owned();
    let mut host: Vec<&str> = text.lines().filter(|line| !line.starts_with("end ")).collect();
    host.retain(|line| !lines.iter().any(|new| place(new) == place(line)));
    host.extend(lines);
    let count = format!("end {}", host.iter().filter(|line| line.starts_with('/')).count());
    host.push(&count);
    fs::write(directory.path().join("it.host"), host.join("\n") + "\n").unwrap();
    directory
}

#[test]
fn overrides_of_driverctl() {
    assert_snapshot!(imported("demo", "driverctl tests/import/driverctl"));
}

#[test]
fn definitions_of_mdevctl() {
    assert_snapshot!(imported("demo", "mdevctl tests/import/mdevctl tests/import/mdevctl-list.json"));
}

#[test]
fn domains_networks_and_node_devices_of_libvirt() {
    assert_snapshot!(imported("demo", "libvirt tests/import/libvirt"));
}

#[test]
fn what_the_daemon_of_the_sriov_operator_leaves_on_a_node() {
    assert_snapshot!(imported("demo", "sriov-operator tests/import/sriov-operator"));
}

#[test]
fn policies_and_node_states_of_the_sriov_operator() {
    assert_snapshot!(imported("demo", "sriov-operator tests/import/policies"));
}

#[test]
fn interfaces_of_nmstate() {
    assert_snapshot!(imported("demo", "nmstate tests/import/nmstate"));
}

#[test]
fn work_queues_of_accel_config() {
    assert_snapshot!(imported("tests/hosts/types.host", "accel-config tests/import/accel-config"));
}

#[test]
fn ids_of_vfio_pci() {
    assert_snapshot!(imported("demo", "cmdline tests/import/cmdline"));
}

#[test]
fn the_places_of_the_host_are_read_when_none_is_named() {
    let host = with_files(
        "demo",
        &[
            "/etc/driverctl.d/pci-0000:3b:00.2 = vfio-pci",
            "/sys/bus/pci/devices/0000:3b:00.4/driver_override = vfio-pci",
            "/etc/mdevctl.d/mtty/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 = {\"mdev_type\": \"mtty-1\", \"start\": \"auto\"}",
            "/etc/libvirt/qemu/a.xml = <domain><name>a</name><devices><hostdev type='pci' managed='yes'><source><address bus='0x81' slot='0x10' function='0x0'/></source></hostdev></devices></domain>",
            "/proc/cmdline = root=/dev/vda vfio-pci.ids=144d:a80a",
        ],
    );
    let host = host.path().join("it.host").display().to_string();
    let all: Vec<String> = ["driverctl", "mdevctl", "libvirt", "cmdline", "nmstate", "sriov-operator", "accel-config"]
        .iter()
        .map(|tool| format!("=== {tool}\n{}", imported(&host, tool)))
        .collect();
    assert_snapshot!(all.concat());
}

#[test]
fn import_as_json() {
    assert_snapshot!(vfioadm("--host demo -o json import driverctl tests/import/driverctl"));
}

#[test]
fn a_path_that_is_not_there_is_refused_and_silence_is_kept() {
    assert_snapshot!(vfioadm("--host demo import driverctl tests/import/nothing"));
    let quiet = vfioadm("--host demo -q import driverctl tests/import/driverctl");
    assert_eq!((quiet.err.as_str(), quiet.exit), ("", 0));
}
