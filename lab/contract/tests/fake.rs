//! The contract on the fake kernel, made from a recording of the lab's guest: `cargo run -p vfioadm-lab -- record
//! lab/contract/tests/guest.host` makes it anew.

use vfioadm::host::fake::FakeHost;
use vfioadm::host::fake::vfio::lab;
use vfioadm_contract::{Case, Ground, cases, variant_cases};

/// The lab's guest, as it was recorded.
fn guest() -> FakeHost {
    FakeHost::from_text(include_bytes!("guest.host")).expect("the recording of the lab's guest")
}

/// The same with the twins of the lab's own variants among its modules.
fn with_variants() -> FakeHost {
    let host = guest();
    lab::BOTH.into_iter().for_each(|variant| host.install(variant));
    host
}

#[test]
fn the_fake_kernel_keeps_the_contract() {
    kept(cases(), guest);
}

#[test]
fn the_twins_of_the_variants_keep_it_too() {
    kept(variant_cases(), with_variants);
}

fn kept(cases: impl Iterator<Item = &'static Case>, machine: fn() -> FakeHost) {
    let mut broken = Vec::new();
    let mut kept = 0;
    for case in cases {
        // A machine of its own for every case.
        let host = machine();
        match Ground::new(&host).and_then(|ground| (case.run)(&ground)) {
            Ok(()) => kept += 1,
            Err(reason) => broken.push(format!("{}: {reason}\n  rule: {}", case.name, case.rule)),
        }
    }
    assert!(broken.is_empty(), "{kept} kept, {} broken:\n{}", broken.len(), broken.join("\n"));
}
