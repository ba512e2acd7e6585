//! Modaliases, aliases and modules.alias: any text is read or refused, and what is read prints as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vfioadm::matching::{Collector, Source, Tables, Wanted, candidates, host_candidates, text};
use vfioadm::model::{AliasPattern, ModAlias};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    for word in &words {
        if let Ok(pattern) = word.parse::<AliasPattern>() {
            assert!(pattern.wildcards() <= 7);
            assert_eq!(pattern.to_string().parse::<AliasPattern>(), Ok(pattern));
        }
    }
    let mut devices: Vec<ModAlias> = words.iter().filter_map(|word| word.parse().ok()).collect();
    for device in &devices {
        assert_eq!(device.to_string().parse::<ModAlias>(), Ok(*device));
    }
    devices.push(ModAlias::new(0x15b3, 0x101e, (0x15b3, 0x58), 0x020000));
    let mut collector = Collector::default();
    text::collect(data, &Wanted { devices: &devices, modules: &[] }, &mut collector);
    let (aliases, _) = collector.finish("modules.alias");
    assert!(aliases.iter().all(|alias| alias.source == Source::Loadable));
    let tables = Tables { aliases, ..Tables::default() };
    for device in &devices {
        let found = candidates(device, &tables);
        assert!(found.is_sorted_by_key(|candidate| candidate.wildcards));
        assert!(found.iter().all(|candidate| candidate.alias.matches(device)));
        assert!(host_candidates(device, &tables).iter().all(|host| host.alias.matches(device)));
    }
});
