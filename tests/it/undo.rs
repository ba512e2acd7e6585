//! `undo` and `log` through the command line, on a recorded host that is saved: what an operator reads when something was
//! cut off.

use std::fs;

use insta::assert_snapshot;

use crate::odd_hosts::pci;
use crate::saved::Saved;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[test]
fn a_bind_is_logged_and_undone() {
    let saved = Saved::new(|_| ());
    let before = saved.snapshot();
    let said = saved.say(&[
        "undo",
        "log",
        "bind 0000:3b:00.2",
        "log",
        "log bind-1",
        "undo",
        "undo -v bind-1",
        "log",
        "log bind-1",
        "undo bind-1",
        "undo bind-7",
        "log bind-7",
    ]);
    assert_snapshot!(said);
    assert_eq!(saved.snapshot(), before);
}

#[test]
fn a_bind_is_logged_and_undone_as_json() {
    let saved = Saved::new(|_| ());
    let said = saved.say(&[
        "-o json undo",
        "-o json log",
        "-o json bind 0000:3b:00.2",
        "-o json log bind-1",
        "-o json undo bind-1",
        "-o json log",
        "-o json undo bind-7",
    ]);
    assert_snapshot!(said);
}

#[test]
fn a_device_that_was_given_back_since_is_refused() {
    let saved = Saved::new(|_| ());
    let mut said = saved.say(&["bind 81:10.*", "unbind 0000:81:10.2"]);
    said += &saved.say(&["undo bind-1", "log", "undo bind-1 --forget", "log", "undo"]);
    assert_snapshot!(said);
}

#[test]
fn a_bind_that_was_cut_off_is_undone_first() {
    let saved = Saved::new(|_| ());
    let before = saved.snapshot();
    let mut said = saved.say(&["bind 0000:81:10.0 0000:81:10.2"]);
    saved.kill("bind-1");
    said += &saved.say(&[
        "log",
        "check 0000:81:10.0",
        "bind --dry-run 0000:81:10.0 --driver none",
        "unbind 0000:81:10.0",
        "-o json unbind 0000:81:10.0",
        "undo",
        "unbind 0000:81:10.0",
        "log",
    ]);
    assert_snapshot!(said);
    assert_eq!(saved.snapshot(), before);
}

#[test]
fn what_a_later_command_was_allowed_to_take_is_left_to_it() {
    let saved = Saved::new(|_| ());
    let mut said = saved.say(&["bind 0000:81:10.0 0000:81:10.2"]);
    saved.kill("bind-1");
    said += &saved.say(&[
        "unbind 0000:81:10.0 --allow unfinished-operation",
        "check 0000:81:10.0",
        "check 0000:81:10.2",
        "undo -v",
        "log",
        "bind 0000:81:10.0 0000:81:10.2",
    ]);
    saved.kill("bind-3");
    said += &saved.say(&[
        "unbind 0000:81:10.0 0000:81:10.2 --allow unfinished-operation",
        "undo",
        "undo bind-3",
        "-o json log",
    ]);
    assert_snapshot!(said);
}

#[test]
fn an_edited_journal_is_refused_and_given_up() {
    let saved = Saved::new(|_| ());
    let mut said = saved.say(&["bind 0000:3b:00.2"]);
    saved.kill("bind-1");
    saved.edit("bind-1", |text| text.replacen("mlx5_vfio_pci", "mlx5_uio_pci", 3));
    let before = saved.text();
    said += &saved.say(&["undo", "undo bind-1", "log", "log bind-1", "check 0000:81:10.0"]);
    assert_eq!(saved.text(), before, "something was done");
    said += &saved.say(&["bind 0000:81:10.0", "undo bind-1 --forget", "undo", "log"]);
    assert_snapshot!(said);
}

#[test]
fn a_journal_that_was_cut_before_its_first_line_is_of_nothing() {
    let saved = Saved::new(|_| ());
    let mut said = saved.say(&["bind 0000:3b:00.2"]);
    saved.edit("bind-1", |_| String::new());
    said += &saved.say(&["log", "log bind-1", "undo", "undo bind-1", "undo bind-1 --forget", "log"]);
    assert_snapshot!(said);
}

#[test]
fn a_journal_of_another_boot_is_closed() {
    let saved = Saved::new(|tree| tree.put_text(BOOT_ID, "11111111-1111-4111-8111-111111111111"));
    let mut said = saved.say(&["bind 0000:3b:00.2", "bind 0000:81:10.0", "bind -q 0000:81:10.2"]);
    saved.kill("bind-1");
    saved.kill("bind-2");
    saved.change(|tree| tree.put_text(BOOT_ID, "22222222-2222-4222-8222-222222222222"));
    let before = saved.text();
    said += &saved.say(&["log", "check 0000:3b:00.2", "undo bind-2", "undo bind-3", "undo", "undo", "log"]);
    assert_eq!(saved.text(), before, "something was done");
    assert_snapshot!(said);
}

#[test]
fn what_the_host_has_come_to_use_is_not_taken_from_it() {
    let saved = Saved::new(|_| ());
    let mut said = saved.say(&["bind -q 0000:3b:00.2 0000:c1:00.0", "unbind -q 0000:3b:00.2 0000:c1:00.0"]);
    saved.change(|tree| {
        tree.put_text(&pci("0000:3b:00.2/net/enp59s0f0v0/flags"), "0x1003");
        tree.put_dir(&pci("0000:c1:00.0/nvme/nvme1/nvme1n1/holders/dm-7"));
    });
    let before = saved.snapshot();
    said += &saved.say(&["undo unbind-2", "-o json undo unbind-2", "undo unbind-2 --allow netdev-up"]);
    assert_eq!(saved.snapshot(), before);
    said += &saved.say(&["undo unbind-2 --allow netdev-up,block-in-use"]);
    assert_snapshot!(said);
}

#[test]
fn all_or_nothing_is_all_taken_back() {
    let saved = Saved::new(|_| ());
    let before = saved.snapshot();
    let said = saved.say(&[
        "bind --no-fallback 0000:3b:00.2 0000:6b:00.1 0000:81:10.0",
        "undo bind-1",
        "bind --no-fallback --all-or-nothing 0000:3b:00.2 0000:6b:00.1 0000:81:10.0",
        "-o json bind --no-fallback --all-or-nothing 0000:3b:00.2 0000:6b:00.1 0000:81:10.0",
        "log",
        "undo bind-2",
        "undo",
    ]);
    assert_snapshot!(said);
    assert_eq!(saved.snapshot(), before);
}

/// A directory that may not be written to cannot be shown here, because root may write to all; that there is no directory can.
#[test]
fn without_a_place_for_journals_nothing_is_done() {
    let saved = Saved::new(|_| ());
    let before = saved.text();
    #[expect(clippy::disallowed_methods, reason = "a test makes the obstacle")]
    fs::write(saved.beside("my.host.journal"), "in the way").unwrap();
    let said = saved.say(&[
        "check 0000:81:10.0",
        "bind --dry-run 0000:81:10.0",
        "bind 0000:81:10.0",
        "-o json bind 0000:81:10.0",
        "undo",
        "log",
    ]);
    assert_snapshot!(said);
    assert_eq!(saved.text(), before);
}

#[test]
fn the_lock_of_another_is_waited_for_as_long_as_was_said() {
    let saved = Saved::new(|_| ());
    #[expect(clippy::disallowed_methods, reason = "a test is the other who has the lock")]
    let opened = fs::File::open(saved.directory()).unwrap();
    opened.lock().unwrap();
    let said = saved.say(&["bind 0000:81:10.0", "bind --wait-lock 1 0000:81:10.0", "undo --wait-lock 1"]);
    assert_snapshot!(said);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| saved.vfioadm("bind --wait-lock 600 0000:81:10.0"));
        drop(opened);
        assert_eq!(waits.join().unwrap().exit, 0);
    });
}
