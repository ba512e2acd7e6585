//! The drivers derived from the core, one file each.

pub mod hisi;
pub mod lab;
pub mod mlx5;
pub mod nvgrace;
pub mod pds;
pub mod plain;
pub mod qat;
pub mod virtio;
pub mod xe;

use super::Variant;

/// Those of the kernel, vfio-pci first.
pub const ALL: [&dyn Variant; 8] =
    [&plain::VfioPci, &mlx5::Mlx5, &virtio::Virtio, &hisi::HisiAcc, &pds::Pds, &qat::Qat, &nvgrace::NvGrace, &xe::Xe];

/// The variant that registers a driver of this name.
#[must_use]
pub fn by_driver(driver: &str) -> Option<&'static dyn Variant> {
    ALL.into_iter().chain(lab::BOTH).find(|variant| variant.driver() == driver)
}

/// The variant in a module of this name.
#[must_use]
pub fn by_module(module: &str) -> Option<&'static dyn Variant> {
    ALL.into_iter().chain(lab::BOTH).find(|variant| variant.module() == module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::vfio::{Function, Migration, Parameters, PfChannel};
    use crate::model::{Errno, ModAlias};

    fn function(vendor: u16, device: u16, class: u32) -> Function {
        let alias = ModAlias::new(vendor, device, (0, 0), class);
        Function {
            alias,
            vf: None,
            enabled_vfs: 0,
            grouped: true,
            properties: Vec::new(),
            parameters: Parameters::default(),
        }
    }

    fn vf(vendor: u16, device: u16) -> Function {
        Function { vf: Some(3), ..function(vendor, device, 0x020000) }
    }

    fn on(driver: &str) -> PfChannel {
        PfChannel { driver: Some(driver.to_owned()), migratable: true }
    }

    fn migration(driver: &str, function: &Function, pf: &PfChannel) -> Result<Option<Migration>, Errno> {
        by_driver(driver).unwrap().probe(function, pf).map(|vdev| vdev.migration)
    }

    #[test]
    fn what_a_vf_can_do_hangs_on_its_pf() {
        let none = PfChannel::default();
        let stuck = PfChannel { migratable: false, ..on("mlx5_core") };
        use Migration::{P2p, P2pPreCopy, PreCopy};
        for (driver, ids, pf, answer) in [
            ("mlx5_vfio_pci", (0x15b3, 0x101e), on("mlx5_core"), Ok(Some(P2pPreCopy))),
            ("mlx5_vfio_pci", (0x15b3, 0x101e), stuck, Ok(None)),
            ("mlx5_vfio_pci", (0x15b3, 0x101e), none.clone(), Ok(None)),
            ("virtio_vfio_pci", (0x1af4, 0x1042), on("virtio-pci"), Ok(Some(P2pPreCopy))),
            ("virtio_vfio_pci", (0x1af4, 0x1042), on("vfio-pci"), Ok(None)),
            ("hisi_acc_vfio_pci", (0x19e5, 0xa256), on("hisi_sec2"), Ok(Some(PreCopy))),
            ("hisi_acc_vfio_pci", (0x19e5, 0xa256), on("hisi_zip"), Ok(None)),
            ("pds_vfio_pci", (0x1dd8, 0x1003), on("pds_core"), Ok(Some(P2p))),
            ("pds_vfio_pci", (0x1dd8, 0x1003), none.clone(), Err(Errno::EINVAL)),
            ("qat_vfio_pci", (0x8086, 0x4941), on("4xxx"), Ok(Some(P2pPreCopy))),
            ("qat_vfio_pci", (0x8086, 0x4941), on("c6xx"), Err(Errno::EINVAL)),
            ("qat_vfio_pci", (0x8086, 0x4941), none.clone(), Err(Errno::ENODEV)),
            ("xe-vfio-pci", (0x8086, 0xe20b), on("xe"), Ok(Some(P2p))),
            ("xe-vfio-pci", (0x8086, 0xe20b), on("i915"), Err(Errno::ENODEV)),
            ("vfio-pci", (0x8086, 0x10ca), on("igb"), Ok(None)),
        ] {
            assert_eq!(migration(driver, &vf(ids.0, ids.1), &pf), answer, "{driver} with its PF on {:?}", pf.driver);
        }
    }

    #[test]
    fn the_core_refuses_for_every_driver() {
        let none = PfChannel::default();
        for variant in ALL {
            let ids = variant.ids().first().copied().unwrap_or((0x8086, 0x1234));
            let plain = function(ids.0, ids.1, 0x020000);
            if matches!(variant.driver(), "qat_vfio_pci" | "pds_vfio_pci") {
                assert!(variant.probe(&plain, &none).is_err(), "{} takes VFs only", variant.driver());
                continue;
            }
            assert!(variant.probe(&plain, &none).is_ok(), "{}", variant.driver());
            for class in [0x060400, 0x060700, 0x060900] {
                let bridge = function(ids.0, ids.1, class);
                assert_eq!(variant.probe(&bridge, &none), Err(Errno::EINVAL), "{}", variant.driver());
            }
            let pf = Function { enabled_vfs: 2, ..plain.clone() };
            assert_eq!(variant.probe(&pf, &none), Err(Errno::EBUSY), "{}", variant.driver());
            let alone = Function { grouped: false, ..plain };
            assert_eq!(variant.probe(&alone, &none), Err(Errno::EINVAL), "{}", variant.driver());
        }
    }

    #[test]
    fn vfio_pci_alone_has_the_denylist_and_the_graphics_regions() {
        let none = PfChannel::default();
        let plain = by_driver("vfio-pci").unwrap();
        let dsa = function(0x8086, 0x0b25, 0x088000);
        assert_eq!(plain.probe(&dsa, &none), Err(Errno::EINVAL));
        let allowed = Function { properties: vec!["denylist-disabled".to_owned()], ..dsa.clone() };
        assert!(plain.probe(&allowed, &none).is_ok());
        assert!(by_driver("xe-vfio-pci").unwrap().probe(&dsa, &none).is_ok());
        let igd = Function { properties: vec!["opregion".to_owned()], ..function(0x8086, 0xb080, 0x038000) };
        assert_eq!(plain.probe(&igd, &none).unwrap().regions.len(), 3);
        assert!(by_driver("xe-vfio-pci").unwrap().probe(&igd, &none).unwrap().regions.is_empty());
    }

    #[test]
    fn the_platform_shows_in_what_is_offered() {
        let none = PfChannel::default();
        let gpu = |properties: &[&str]| Function {
            properties: properties.iter().map(|name| (*name).to_owned()).collect(),
            ..function(0x10de, 0x2342, 0x030200)
        };
        let grace = by_driver("nvgrace_gpu_vfio_pci").unwrap();
        assert!(grace.probe(&gpu(&[]), &none).unwrap().regions.is_empty(), "no firmware properties: plain");
        let memory = gpu(&["nvidia,gpu-mem-base-pa", "nvidia,gpu-mem-size"]);
        assert_eq!(grace.probe(&memory, &none).unwrap().regions.len(), 2);
        assert_eq!(grace.probe(&gpu(&["not-ready"]), &none), Err(Errno::ETIME));
        for variant in
            ALL.into_iter().filter(|variant| variant.driver() != "qat_vfio_pci" && variant.driver() != "pds_vfio_pci")
        {
            let zpci = gpu(&["zpci"]);
            let caps = variant.probe(&zpci, &none).unwrap().caps;
            assert!(caps.contains(&"zpci-base"), "{}", variant.driver());
        }
    }

    #[test]
    fn the_demo_host_has_the_alias_of_every_table() {
        let demo = include_str!("../../../../../tests/hosts/demo.host");
        for variant in ALL {
            for pattern in variant.aliases() {
                let line = format!("modules.alias | alias {pattern} {}", variant.module());
                assert!(demo.lines().any(|text| text.ends_with(&line)), "{line}");
            }
            assert!(by_module(variant.module()).is_some());
        }
    }
}
