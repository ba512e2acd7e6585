//! Devices that are opened: inspected, saved, loaded.

use std::fs;
use std::path::PathBuf;

use vfioadm::host::fake::{FakeHost, Process};
use vfioadm::host::{Blacklist, Claim, Host as _, HostPath, Open, Probe};

use crate::saved::Saved;

pub(crate) const VF: &str = "0000:3b:00.2";
pub(crate) const SIBLING: &str = "0000:3b:00.3";
pub(crate) const PLAIN: &str = "0000:81:10.4";

/// The demo host with two mlx5 VFs and one igb VF on the best VFIO driver of each.
pub(crate) fn bound() -> Saved {
    let saved = Saved::new(|_| {});
    assert_eq!(saved.vfioadm(&format!("bind {VF} {SIBLING} {PLAIN}")).exit, 0);
    saved
}

#[test]
fn a_device_says_what_it_is_in_words_and_in_full() {
    let saved = bound();
    let lines = [
        format!("inspect {VF}"),
        format!("inspect {VF} --by group"),
        format!("inspect {PLAIN}"),
        format!("inspect {VF} -o json"),
    ];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
}

#[test]
fn what_cannot_be_opened_is_told_why() {
    let saved = bound();
    let lines = [
        "inspect 0000:3b:00.0",
        "inspect 0000:3b:00.4",
        "inspect 0000:3b:00.*",
        "inspect 0000:ff:00.0",
        "state save 0000:81:10.4 s",
    ];
    insta::assert_snapshot!(saved.say(&lines));
}

#[test]
fn a_state_goes_from_one_device_into_another() {
    let saved = bound();
    let file = saved.beside("state").display().to_string();
    let lines = [
        format!("state info {VF}"),
        format!("state save {VF} {file}"),
        format!("state info {file}"),
        format!("state load {SIBLING} {file}"),
        format!("state save --precopy {VF} {file} -o json"),
        format!("state load {SIBLING} {file} -o json"),
        format!("state save {PLAIN} {file}"),
        format!("state load {PLAIN} {file}"),
        format!("state save {VF} - -o json"),
    ];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
}

/// A file with a whole state, beside the host.
#[expect(clippy::disallowed_methods, reason = "a test reads and spoils files")]
fn whole(saved: &Saved) -> (PathBuf, Vec<u8>) {
    let file = saved.beside("state");
    assert_eq!(saved.vfioadm(&format!("state save {VF} {}", file.display())).exit, 0);
    let bytes = fs::read(&file).unwrap();
    (file, bytes)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test spoils a file")]
fn a_spoiled_file_is_refused_by_its_id() {
    let saved = bound();
    let (file, bytes) = whole(&saved);
    let at = bytes.len() / 2;
    let flipped: Vec<u8> = bytes.iter().enumerate().map(|(n, byte)| if n == at { byte ^ 1 } else { *byte }).collect();
    let cases: [(&[u8], &str); 5] = [
        (b"", "state-cut-off"),
        (&bytes[..bytes.len() - 1], "state-cut-off"),
        (&flipped, "state-damaged"),
        (&[&bytes[..], b"x"].concat(), "state-damaged"),
        (b"\x7fELF and so on", "no-state-file"),
    ];
    for (content, id) in cases {
        fs::write(&file, content).unwrap();
        for line in [
            format!("state load {SIBLING} {} -o json", file.display()),
            format!("state info {} -o json", file.display()),
        ] {
            let said = saved.vfioadm(&line);
            assert_eq!((said.exit, said.json()["error"]["id"].as_str()), (1, Some(id)), "{line}: {said}");
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads and spoils files")]
fn a_file_that_is_there_stays_when_saving_fails() {
    let saved = bound();
    let (file, bytes) = whole(&saved);
    let said = saved.vfioadm(&format!("state save {PLAIN} {}", file.display()));
    assert_eq!((said.exit, fs::read(&file).unwrap()), (1, bytes));
    let beside: Vec<_> = fs::read_dir(saved.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{beside:?}");
}

#[test]
fn a_device_that_somebody_has_is_named_with_its_holder() {
    let host = FakeHost::from_text(bound().text().as_bytes()).unwrap();
    let qemu = Process::new(4242, "/usr/bin/qemu-system-x86_64 -name guest=web1,debug-threads=on");
    let _held = host.hold_as(&qemu, &Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    let saved = Saved::of(&host, |_| {});
    insta::assert_snapshot!(saved.say(&[&format!("inspect {VF}"), &format!("inspect {VF} --by group")]));
}

#[test]
fn every_way_that_is_missing_is_told() {
    let saved = bound();
    saved.change(|tree| drop(tree.remove("/dev/iommu")));
    assert_eq!(saved.vfioadm(&format!("inspect {VF}")).exit, 0, "the group is left");
    saved.change(|tree| drop(tree.remove("/dev/vfio/vfio")));
    insta::assert_snapshot!(saved.say(&[&format!("inspect {VF}"), &format!("inspect {VF} --by cdev")]));
}

/// Writes attributes of a host as root does.
fn write(host: &FakeHost, writes: &[(&str, &str)]) {
    let lock = host.lock(&Claim::new("test", host)).unwrap();
    for (path, value) in writes {
        lock.hand().write(&HostPath::parse(path).unwrap(), value).unwrap();
    }
}

/// A host with vfio-pci loaded.
fn with_vfio_pci(recording: &[u8]) -> FakeHost {
    let host = FakeHost::from_text(recording).unwrap();
    let lock = host.lock(&Claim::new("test", &host)).unwrap();
    lock.hand().load_module(&"vfio_pci".parse().unwrap(), Blacklist::Respect).unwrap();
    drop(lock);
    host
}

#[test]
fn without_an_iommu_it_is_opened_when_that_is_allowed_and_not_otherwise() {
    let host = with_vfio_pci(include_bytes!("../hosts/no_iommu.host"));
    let device = "0000:01:00.0";
    write(
        &host,
        &[
            ("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y"),
            (&format!("/sys/bus/pci/devices/{device}/driver_override"), "vfio-pci"),
            ("/sys/bus/pci/drivers/igb/unbind", device),
            ("/sys/bus/pci/drivers/vfio-pci/bind", device),
        ],
    );
    let saved = Saved::of(&host, |_| {});
    let refused = ["inspect", "state info", "list --probe"].map(|words| format!("{words} {device}"));
    let allowed = format!("inspect --allow-no-iommu {device}");
    insta::assert_snapshot!(saved.say(&[&refused[0], &refused[1], &refused[2], &allowed]));
}

#[test]
fn a_vf_whose_pf_is_on_vfio_pci_is_opened_neither_without_a_token_nor_with_another() {
    let host = with_vfio_pci(include_bytes!("../../lab/contract/tests/guest.host"));
    let pf = "0000:02:00.0";
    write(
        &host,
        &[
            ("/sys/module/vfio_pci/parameters/enable_sriov", "Y"),
            (&format!("/sys/bus/pci/devices/{pf}/driver_override"), "vfio-pci"),
            ("/sys/bus/pci/drivers/igb/unbind", pf),
            ("/sys/bus/pci/drivers/vfio-pci/bind", pf),
            (&format!("/sys/bus/pci/devices/{pf}/sriov_numvfs"), "1"),
        ],
    );
    let saved = Saved::of(&host, |_| {});
    let token = "--token 00112233-4455-6677-8899-aabbccddeeff";
    let lines = [
        format!("inspect {pf}/vf0"),
        format!("inspect {pf}/vf0 {token}"),
        format!("inspect {pf}/vf0 --by group {token}"),
    ];
    insta::assert_snapshot!(saved.say(&lines.each_ref().map(String::as_str)));
}

#[test]
fn the_device_is_closed_on_every_path() {
    let host = FakeHost::from_text(bound().text().as_bytes()).unwrap();
    let group = host.open(&Open::BoundCdev("vfio1".parse().unwrap())).unwrap();
    drop(group);
    let saved = bound();
    let file = saved.beside("none/state").display().to_string();
    for line in [format!("inspect {VF}"), format!("state save {VF} {file}"), format!("state load {VF} {file}")] {
        drop(saved.vfioadm(&line));
        assert_eq!(saved.vfioadm(&format!("inspect {VF}")).exit, 0, "after {line}");
    }
}

#[test]
fn a_listing_and_a_check_say_who_migrates() {
    let saved = bound();
    let lines = [
        format!("list --probe {VF} {PLAIN} 0000:3b:00.0"),
        format!("list --probe {VF} -o json"),
        format!("check --probe {VF}"),
    ];
    let before = saved.say(&lines.each_ref().map(String::as_str));
    // One that the variant has bound without its PF's consent is plain.
    saved.change(|tree| tree.put_text(&format!("/kernel/pci/{VF}/migratable"), "0"));
    let after = saved.say(&[lines[0].as_str(), lines[2].as_str()]);
    insta::assert_snapshot!(format!("{before}--- not migratable\n{after}"));
}
