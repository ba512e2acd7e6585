//! modules.alias.bin and modules.dep.bin: any bytes end in entries or an error, in bounded work, and a lookup that is
//! steered by a device finds what a full walk does.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vfioadm::matching::index::{self, Index};
use vfioadm::matching::{Collector, Source, Wanted};
use vfioadm::model::driver::Table;
use vfioadm::model::{AliasPattern, ModAlias};

const DEVICE: ModAlias = ModAlias::new(0x15b3, 0x101e, (0x15b3, 0x58), 0x020000);

fuzz_target!(|data: &[u8]| {
    let Ok(index) = Index::parse(data) else { return };
    let mut visited = 0;
    let mut full = Vec::new();
    let whole = index.walk(
        (),
        |(), _| Some(()),
        |entry, ()| {
            visited += 1;
            let key = std::str::from_utf8(entry.key).ok();
            full.extend(key.and_then(|key| key.parse::<AliasPattern>().ok()));
        },
    );
    assert!(visited <= 2 * data.len());
    let _there = index.contains("vfio_pci");
    let mut collector = Collector::default();
    let wanted = Wanted { devices: &[DEVICE], modules: &[] };
    let steered = index::collect(data, Source::Loadable, &wanted, &mut collector);
    if whole.is_ok() {
        assert_eq!(steered, Ok(()));
        let (found, _) = collector.finish("modules.alias.bin");
        full.retain(|pattern| pattern.table == Table::Vfio || pattern.matches(&DEVICE));
        assert!(found.iter().all(|alias| full.contains(&alias.pattern)));
        assert!(found.len() <= full.len());
    }
});
