//! What cannot be made, and what no parameter can be, as programs read it: exit 1 or 2, an id, the host as it was. What people
//! read of it is in `made.rs`.

use vfioadm::host::fake::FakeHost;

use crate::saved::Saved;

/// Says `line` to `saved`, which is to be as it was then.
fn refused(saved: &Saved, line: &str) -> crate::Said {
    let before = saved.text();
    let said = saved.vfioadm(&format!("-o json {line}"));
    assert_eq!(saved.text(), before, "{line} changed something: {said}");
    said
}

/// Known before a host is looked at.
#[test]
fn what_nothing_can_be_is_exit_2() {
    let saved = Saved::new(|_| ());
    for (line, named) in [
        ("create 81:00.0 vf --pool 0", "0 is not in 1..=65535"),
        ("create 81:00.0 vf --count 2 --set mac=52:54:00:00:00:01", "is one address, and several VFs are asked for"),
        ("create 81:00.0 vf --set vlan=-1", "vlan takes 0 to 4094"),
        ("create 81:00.0 vf --set vlan=7 --set qos=8", "qos takes 0 to 7"),
        ("create 81:00.0 vf --set proto=802.1ad", "proto goes with vlan"),
        ("create 81:00.0 vf --set min-rate=10 --set max-rate=5", "min-rate=10 is more than max-rate=5"),
        ("create 81:00.0 vf --set =on", "=on"),
        ("bind 81:10.0 --set vlan=4095", "vlan takes 0 to 4094"),
        ("bind 81:10.0 --set mac=01:00:5e:00:00:01", "a VF's address is neither zero nor multicast"),
        ("create nosuchparent mtty-2", "nosuchparent"),
        ("destroy 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"),
    ] {
        let said = refused(&saved, line);
        assert_eq!((said.exit, said.out.as_str()), (2, ""), "{line}: {said}");
        assert!(said.err.contains(named), "{line}: {said}");
    }
}

/// Known with the host.
#[test]
fn what_this_host_cannot_make_is_exit_1_with_an_id() {
    let demo = Saved::new(|_| ());
    let types = Saved::of(&FakeHost::from_text(include_bytes!("../hosts/types.host")).unwrap(), |_| ());
    for (saved, line, id, named) in [
        (&demo, "create 81:00.0 vf --count 8 --yes", "too-many", "0000:81:00.0 has 7 VFs at most, not 8"),
        (&demo, "create 81:00.0 vf --count 3", "needs-yes", "0000:81:00.0 has 4 VFs, 2 of them free, not 3"),
        (&demo, "create 81:00.0 vf --count 2 --pool 1", "too-many", "a pool of 1 VF does not hold the 2"),
        (&demo, "create 81:10.0 vf", "not-a-parent", "0000:81:10.0 is a VF itself, of 0000:81:00.0"),
        (&demo, "create c1:00.0 vf", "not-a-parent", "0000:c1:00.0 is no PF"),
        (&demo, "create mtty mtty-9", "no-such-type", "mtty-9"),
        (&demo, "create mtty mtty-2 --count 200", "none-left", "not 200"),
        (&demo, "create mtty mtty-2 --set mac=auto", "parameter-unsupported", "mac"),
        (&demo, "bind 81:00.0 --set mac=auto", "parameter-unsupported", "0000:81:00.0 is no VF"),
        (&types, "create 43:00.0 vf", "no-pf-driver", "0000:43:00.0 has no driver"),
        (&types, "create 44:00.0 vf", "not-made", "its driver makes none"),
    ] {
        let said = refused(saved, line);
        assert_eq!((said.exit, &said.json()["error"]["id"]), (1, &id.into()), "{line}: {said}");
        assert_eq!(said.json()["host"], "as_it_was", "{line}: {said}");
        assert!(said.err.contains(named), "{line}: {said}");
    }
}
