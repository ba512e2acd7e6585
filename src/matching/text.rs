//! The text files that depmod writes beside its indexes, for when an index is missing or damaged.

use super::index::Entry;
use super::tables::{Collector, Source, Wanted};
use crate::model::ModuleName;
use crate::model::driver::Table;

/// Reads modules.alias: lines of `alias PATTERN MODULE`.
///
/// Comments, empty lines and other buses' aliases are passed over; a PCI alias that cannot be read is counted, and the
/// rest is read all the same.
pub fn collect(data: &[u8], wanted: &Wanted<'_>, into: &mut Collector) {
    let mut order = 0_u32;
    let mut last: &[u8] = &[];
    for line in data.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        let Some(rest) = line.strip_prefix(b"alias").filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))
        else {
            continue;
        };
        let rest = rest.trim_ascii_start();
        if ![Table::Vfio, Table::Native].iter().any(|table| rest.starts_with(table.prefix().as_bytes())) {
            continue;
        }
        let mut words = rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        match (words.next(), words.next(), words.next()) {
            (Some(pattern), Some(module), None) => {
                // depmod writes module by module, in the order that the index calls priority.
                if module != last {
                    order = order.saturating_add(1);
                    last = module;
                }
                into.add(Entry { key: pattern, priority: order, value: module }, Source::Loadable, wanted);
            }
            _ => into.odd(line),
        }
    }
}

/// Whether modules.dep (`kernel/drivers/vfio/pci/vfio-pci.ko.xz: …`) or modules.builtin (one path per line) has a module.
#[must_use]
pub fn lists(data: &[u8], module: &ModuleName) -> bool {
    data.split(|byte| *byte == b'\n').any(|line| {
        let path = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let stem = file.split(|byte| *byte == b'.').next().unwrap_or_default();
        std::str::from_utf8(stem)
            .ok()
            .and_then(|stem| ModuleName::normalised(stem).ok())
            .is_some_and(|name| name == *module)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ModAlias;

    const FILE: &str = "# Aliases extracted from modules themselves.\n\
        alias usb:v1D6Bp0002d* usbcore\n\
        \n\
        alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio-pci\n\
        alias\tpci:v000015B3d0000101Esv*sd*bc*sc*i*  mlx5_core \r\n\
        alias pci:v00008086d*sv*sd*bc*sc*i* e1000e\n\
        alias vfio_pci:v000015B3 mlx5_vfio_pci\n\
        alias pci:v000015B3d0000101Esv*sd*bc*sc*i*\n\
        aliaspci:v*d*sv*sd*bc*sc*i* none\n";

    #[test]
    fn a_file_with_odd_lines_is_read_and_the_first_odd_one_named() {
        let device = [ModAlias::new(0x15b3, 0x101e, (0, 0), 0x020000)];
        let mut collector = Collector::default();
        collect(FILE.as_bytes(), &Wanted { devices: &device, modules: &[] }, &mut collector);
        let (aliases, warning) = collector.finish("modules.alias");
        let modules: Vec<(&str, u32)> = aliases.iter().map(|alias| (alias.module.as_str(), alias.order)).collect();
        assert_eq!(modules, [("vfio_pci", 1), ("mlx5_core", 2)]);
        let text = warning.unwrap().to_string();
        assert!(text.ends_with("unknown form: vfio_pci:v000015B3 mlx5_vfio_pci and 1 more"), "{text}");
    }

    #[test]
    fn modules_dep_and_modules_builtin_tell_whether_a_module_exists() {
        let module: ModuleName = "vfio_pci".parse().unwrap();
        assert!(lists(b"kernel/a.ko:\nkernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/x.ko\n", &module));
        assert!(lists(b"kernel/drivers/vfio/pci/vfio-pci.ko\n", &module));
        assert!(!lists(b"kernel/drivers/vfio/pci/vfio-pci-core.ko.xz: kernel/vfio-pci.ko.xz\n", &module));
        assert!(!lists(b"\xff\n\n", &module));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut collector = Collector::default();
            collect(&data, &Wanted::default(), &mut collector);
            prop_assert!(collector.finish("x").0.len() <= data.len());
        }
    }
}
