//! The contract on the fake kernel, made from a recording of the lab's guest: `cargo run -p vfioadm-lab -- record
//! lab/contract/tests/guest.host` makes it anew.

use vfioadm::host::fake::FakeHost;
use vfioadm_contract::{Ground, cases};

#[test]
fn the_fake_kernel_keeps_the_contract() {
    let mut broken = Vec::new();
    let mut kept = 0;
    for case in cases() {
        // A machine of its own for every case.
        let host = FakeHost::from_text(include_bytes!("guest.host")).expect("the recording of the lab's guest");
        match Ground::new(&host).and_then(|ground| (case.run)(&ground)) {
            Ok(()) => kept += 1,
            Err(reason) => broken.push(format!("{}: {reason}\n  rule: {}", case.name, case.rule)),
        }
    }
    assert!(broken.is_empty(), "{kept} kept, {} broken:\n{}", broken.len(), broken.join("\n"));
}
