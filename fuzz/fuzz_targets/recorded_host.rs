//! Recorded hosts: any bytes are read or refused, and a host that was read prints as one that reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vfioadm::host::record;

fuzz_target!(|data: &[u8]| {
    if let Ok(tree) = record::parse(data) {
        let printed = record::print(&tree);
        assert_eq!(record::parse(printed.as_bytes()), Ok(tree));
    }
});
