//! The VFIO drivers of the kernel's tree: names, ids, what each needs, gives and takes away. The one place for these facts.
//!
//! Ids are used only for a driver that is there and publishes no alias; everything else only to predict, never to choose.
//! Read in the sources of 6.12 and 7.2; `since` is the release in which a thing was *seen*, not the one that brought it.
//! `tests` hold each driver's ids to what modpost makes of 7.2.

use std::str::FromStr;

use crate::model::driver::Table;
use crate::model::{AliasPattern, Class, Errno, ModAlias, ParseError};

/// A kernel release as far as drivers depend on it: `6.12` of `6.12.107+deb13-amd64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    /// `6`.
    pub major: u16,
    /// `12`.
    pub minor: u16,
}

impl FromStr for Release {
    type Err = ParseError;

    /// Reads `MAJOR.MINOR` and passes over whatever follows that is no digit.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refused = || ParseError::new("a kernel release", text);
        let (major, rest) = text.split_once('.').ok_or_else(refused)?;
        let minor = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let number = |digits: &str| digits.parse::<u16>().map_err(|_| refused());
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

const fn v(major: u16, minor: u16) -> Release {
    Release { major, minor }
}

/// Device ids of one vendor in a driver's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The release they were seen in.
    pub since: Release,
    /// Vendor.
    pub vendor: u16,
    /// Devices.
    pub devices: &'static [u16],
}

/// What a probe does when something that the driver wants is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// It does not want it.
    Same,
    /// It binds and behaves as vfio-pci-core alone.
    Degrades,
    /// It answers with this errno.
    Refuses(Errno),
}

/// A driver of the PF, through which a variant reaches its VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PfDriver {
    /// Its name.
    pub driver: &'static str,
    /// For VFs of these device ids; empty: of all.
    pub devices: &'static [u16],
}

/// When a gain or loss is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Whenever the driver is bound.
    Always,
    /// When nothing that the driver wants is missing.
    Whole,
    /// The same, for this device id.
    WholeOn(u16),
    /// When it binds although something is missing.
    Degraded,
    /// On a function of class 03xx of vendor 8086.
    IntelDisplay,
    /// On a PF.
    Pf,
}

/// Something that a driver gives or takes away, compared with vfio-pci.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trait {
    /// The release it was seen in.
    pub since: Release,
    /// When it holds.
    pub when: When,
    /// In words.
    pub text: &'static str,
}

const fn from(since: Release, when: When, text: &'static str) -> Trait {
    Trait { since, when, text }
}

/// How a driver migrates a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// The release it was seen in.
    pub since: Release,
    /// `migration_flags` of its `vfio_device`, without their prefix.
    pub flags: &'static str,
}

/// One VFIO driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// As the bus names it.
    pub driver: &'static str,
    /// As `/sys/module` names it.
    pub module: &'static str,
    /// Its table; empty: every device.
    pub ids: &'static [Ids],
    /// What its probe does with a function that is no VF.
    pub not_a_vf: Without,
    /// The drivers of the PF that serve it.
    pub pf: &'static [PfDriver],
    /// What its probe does when the PF has another driver or none.
    pub no_pf: Without,
    /// How it migrates a device, if it does.
    pub migration: Option<Migration>,
    /// What else must hold for that which cannot be seen from here.
    pub provided: &'static str,
    /// What it gives that vfio-pci does not, migration aside.
    pub gains: &'static [Trait],
    /// What vfio-pci gives that it does not.
    pub loses: &'static [Trait],
}

impl Variant {
    /// Its table as patterns, at `release`; when that is not known, as far back as was looked.
    pub fn patterns(&self, release: Option<Release>) -> impl Iterator<Item = AliasPattern> + use<> {
        let ids = self.ids;
        let there = move |since: Release| since <= release.unwrap_or(OLDEST);
        let catch_all = ids.is_empty().then(|| AliasPattern::catch_all(Table::Vfio));
        let listed = ids
            .iter()
            .filter(move |ids| there(ids.since))
            .flat_map(|ids| ids.devices.iter().map(|device| AliasPattern::of_ids(Table::Vfio, ids.vendor, *device)));
        catch_all.into_iter().chain(listed)
    }

    /// The driver that the PF of a VF with this device id must have.
    #[must_use]
    pub fn pf_driver(&self, device: u16) -> Option<&'static str> {
        self.pf.iter().find(|pf| pf.devices.is_empty() || pf.devices.contains(&device)).map(|pf| pf.driver)
    }
}

/// The variant whose driver has this name.
#[must_use]
pub fn of_driver(driver: &str) -> Option<&'static Variant> {
    VARIANTS.iter().find(|variant| variant.driver == driver)
}

/// The variant of this module.
#[must_use]
pub fn of_module(module: &str) -> Option<&'static Variant> {
    VARIANTS.iter().find(|variant| variant.module == module)
}

/// The variant for this device that migrates it only when it is `migratable` at its devlink port, which it asks once.
///
/// # Kernel
/// `drivers/vfio/pci/mlx5/main.c` `mlx5vf_pci_init_dev()`, in probe, by way of `cmd.c` `mlx5vf_cmd_set_migratable()` and
/// `mlx5vf_is_migratable()` (7.2).
#[must_use]
pub fn wants_migratable(device: &ModAlias) -> Option<&'static Variant> {
    let variant = of_driver("mlx5_vfio_pci");
    variant.filter(|variant| variant.patterns(None).any(|pattern| pattern.matches(device)))
}

/// Whether vfio-pci refuses a device for its known errata, unless module parameter `disable_denylist` is set.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci.c` `vfio_pci_dev_in_denylist()` (7.2).
#[must_use]
pub fn denylisted(device: &ModAlias) -> bool {
    device.vendor() == INTEL && DENYLIST.contains(&device.device())
}

/// Whether vfio-pci adds the IGD regions: a display controller of vendor 8086, on older kernels a VGA controller.
///
/// # Kernel
/// `drivers/vfio/pci/vfio_pci_igd.c` `vfio_pci_is_intel_display()` (7.2); `vfio_pci_open_device()` asked for the VGA class
/// (6.12).
#[must_use]
pub fn is_intel_display(device: &ModAlias, release: Option<Release>) -> bool {
    let class = Class(device.class());
    let vga = class.sub() == 0;
    device.vendor() == INTEL && class.is_display() && (vga || release.is_none_or(|release| release >= v(7, 2)))
}

/// QAT C3XXX, C62X and DH895XCC with their VFs, DSA and IAX of Sapphire Rapids.
const DENYLIST: [u16; 8] = [0x19e2, 0x19e3, 0x37c8, 0x37c9, 0x0435, 0x0443, 0x0b25, 0x0cfe];

const INTEL: u16 = 0x8086;
/// The oldest release looked at: what was seen in it is taken to be in every kernel.
const OLDEST: Release = v(6, 1);

const ALL: &str = "STOP_COPY, P2P, PRE_COPY";
const NO_PRE_COPY: &str = "STOP_COPY, P2P";
const NO_P2P: &str = "STOP_COPY, PRE_COPY";

const PASID: Trait = from(v(7, 2), When::Always, "PASID attach through iommufd");
const DMA_BUF: Trait = from(v(7, 2), When::Always, "export of BARs as DMA-BUF");
const SRIOV: Trait = from(v(6, 1), When::Pf, "VFs made under vfio-pci (enable_sriov)");
const IGD: Trait = from(v(6, 1), When::IntelDisplay, "the IGD opregion, host bridge and LPC bridge regions");

/// Every VFIO PCI driver of the kernel, vfio-pci first.
///
/// # Kernel
/// The `*_table[]`, `.name` and probe functions of `drivers/vfio/pci/vfio_pci.c`, `mlx5/{main,cmd}.c`, `virtio/main.c`,
/// `hisilicon/hisi_acc_vfio_pci.c`, `pds/{pci_drv,vfio_dev}.c`, `qat/main.c`, `nvgrace-gpu/main.c`, `xe/main.c`,
/// `ism/main.c` (7.2). Only `vfio_pci.c` has `.pasid_attach_ioas`, and only it and nvgrace-gpu `.get_dmabuf_phys`.
pub const VARIANTS: [Variant; 9] = [
    Variant {
        driver: "vfio-pci",
        module: "vfio_pci",
        ids: &[],
        not_a_vf: Without::Same,
        pf: &[],
        no_pf: Without::Same,
        migration: None,
        provided: "",
        gains: &[IGD],
        loses: &[],
    },
    Variant {
        driver: "mlx5_vfio_pci",
        module: "mlx5_vfio_pci",
        ids: &[Ids { since: v(6, 1), vendor: 0x15b3, devices: &[0x101e] }],
        not_a_vf: Without::Degrades,
        pf: &[PfDriver { driver: "mlx5_core", devices: &[] }],
        no_pf: Without::Degrades,
        migration: Some(Migration { since: v(6, 12), flags: ALL }),
        provided: "its devlink port function is set migratable before the bind",
        gains: &[from(
            v(6, 12),
            When::Whole,
            "dirty page tracking by the device, if its firmware has adv_virtualization",
        )],
        loses: &[PASID, DMA_BUF, SRIOV],
    },
    Variant {
        driver: "virtio_vfio_pci",
        module: "virtio_vfio_pci",
        ids: &[
            Ids { since: v(6, 12), vendor: 0x1af4, devices: &[0x1041] },
            Ids { since: v(7, 2), vendor: 0x1af4, devices: &[0x1042] },
        ],
        not_a_vf: Without::Degrades,
        pf: &[PfDriver { driver: "virtio-pci", devices: &[] }],
        no_pf: Without::Degrades,
        migration: Some(Migration { since: v(7, 2), flags: ALL }),
        provided: "the device's admin queue offers device parts",
        gains: &[from(
            v(6, 12),
            When::WholeOn(0x1041),
            "legacy I/O BAR, if the device offers legacy access and has no BAR 0",
        )],
        loses: &[PASID, DMA_BUF, SRIOV],
    },
    Variant {
        driver: "hisi_acc_vfio_pci",
        module: "hisi_acc_vfio_pci",
        ids: &[Ids { since: v(6, 1), vendor: 0x19e5, devices: &[0xa251, 0xa256, 0xa259] }],
        not_a_vf: Without::Degrades,
        pf: &[
            PfDriver { driver: "hisi_zip", devices: &[0xa251] },
            PfDriver { driver: "hisi_sec2", devices: &[0xa256] },
            PfDriver { driver: "hisi_hpre", devices: &[0xa259] },
        ],
        no_pf: Without::Degrades,
        migration: Some(Migration { since: v(6, 12), flags: NO_P2P }),
        provided: "the accelerator is version 3 or later",
        gains: &[],
        loses: &[
            PASID,
            DMA_BUF,
            SRIOV,
            // hisi_acc_vf_pci_reset_prepare() takes the address of pf_qm->pdev, and pf_qm is NULL (7.2).
            from(v(6, 12), When::Degraded, "a safe reset: the driver's own goes through the PF that it does not have"),
        ],
    },
    Variant {
        driver: "pds_vfio_pci",
        module: "pds_vfio_pci",
        ids: &[Ids { since: v(6, 12), vendor: 0x1dd8, devices: &[0x1003] }],
        not_a_vf: Without::Refuses(Errno::EINVAL),
        pf: &[PfDriver { driver: "pds_core", devices: &[] }],
        no_pf: Without::Refuses(Errno::EINVAL),
        migration: Some(Migration { since: v(6, 12), flags: NO_PRE_COPY }),
        provided: "",
        gains: &[from(v(6, 12), When::Whole, "dirty page tracking by the device")],
        loses: &[PASID, DMA_BUF],
    },
    Variant {
        driver: "qat_vfio_pci",
        module: "qat_vfio_pci",
        ids: &[
            Ids { since: v(6, 12), vendor: INTEL, devices: &[0x4941, 0x4943, 0x4945] },
            Ids { since: v(7, 2), vendor: INTEL, devices: &[0x4947, 0x4949] },
        ],
        not_a_vf: Without::Refuses(Errno::ENODEV),
        pf: &[
            PfDriver { driver: "4xxx", devices: &[0x4941, 0x4943, 0x4945] },
            PfDriver { driver: "420xx", devices: &[0x4947] },
            PfDriver { driver: "6xxx", devices: &[0x4949] },
        ],
        no_pf: Without::Refuses(Errno::ENODEV),
        migration: Some(Migration { since: v(6, 12), flags: ALL }),
        provided: "",
        gains: &[],
        loses: &[
            // qat_vf_pci_ops has no .device_feature (7.2).
            from(v(6, 12), When::Always, "low-power entry and the VF token"),
            PASID,
            DMA_BUF,
        ],
    },
    Variant {
        driver: "nvgrace_gpu_vfio_pci",
        module: "nvgrace_gpu_vfio_pci",
        ids: &[
            Ids { since: v(6, 12), vendor: 0x10de, devices: &[0x2342, 0x2345] },
            Ids { since: v(7, 2), vendor: 0x10de, devices: &[0x2348, 0x2941, 0x31c2] },
        ],
        not_a_vf: Without::Same,
        pf: &[],
        no_pf: Without::Same,
        migration: None,
        provided: "the GPU's memory is ready: the bind may wait 30 s for it, 256 s on a CXL device",
        gains: &[from(
            v(6, 12),
            When::Whole,
            "the GPU's coherent memory as BARs 2 and 4, if the firmware describes it",
        )],
        loses: &[PASID, SRIOV],
    },
    Variant {
        driver: "xe-vfio-pci",
        module: "xe_vfio_pci",
        ids: &[
            Ids {
                since: v(7, 2),
                vendor: INTEL,
                devices: &[
                    0xb080, 0xb081, 0xb082, 0xb083, 0xb084, 0xb085, 0xb086, 0xb087, 0xb08f, 0xb090, 0xb0a0, 0xb0b0,
                ],
            },
            Ids { since: v(7, 2), vendor: INTEL, devices: &[0xfd80, 0xfd81] },
            Ids {
                since: v(7, 2),
                vendor: INTEL,
                devices: &[
                    0xe202, 0xe209, 0xe20b, 0xe20c, 0xe20d, 0xe210, 0xe211, 0xe212, 0xe216, 0xe220, 0xe221, 0xe222,
                    0xe223,
                ],
            },
        ],
        not_a_vf: Without::Degrades,
        pf: &[PfDriver { driver: "xe", devices: &[] }],
        no_pf: Without::Refuses(Errno::ENODEV),
        migration: Some(Migration { since: v(7, 2), flags: NO_PRE_COPY }),
        provided: "the device has memory-based interrupts",
        gains: &[],
        loses: &[IGD, PASID, DMA_BUF, SRIOV],
    },
    Variant {
        driver: "ism_vfio_pci",
        module: "ism_vfio_pci",
        ids: &[Ids { since: v(7, 2), vendor: 0x1014, devices: &[0x04ed] }],
        not_a_vf: Without::Same,
        pf: &[],
        no_pf: Without::Same,
        migration: None,
        provided: "",
        gains: &[from(v(7, 2), When::Whole, "store-block writes to the BARs, which an ISM device needs")],
        loses: &[from(v(7, 2), When::Always, "mmap of BARs"), PASID, DMA_BUF, SRIOV],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::ModuleName;

    /// `vfio_pci:` lines of the modules.alias of a 7.2.12 kernel that was built with these seven drivers.
    const MODPOST: [(&str, &str); 18] = [
        ("vfio_pci:v*d*sv*sd*bc*sc*i*", "vfio_pci"),
        ("vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*", "mlx5_vfio_pci"),
        ("vfio_pci:v000019E5d0000A251sv*sd*bc*sc*i*", "hisi_acc_vfio_pci"),
        ("vfio_pci:v000019E5d0000A259sv*sd*bc*sc*i*", "hisi_acc_vfio_pci"),
        ("vfio_pci:v000019E5d0000A256sv*sd*bc*sc*i*", "hisi_acc_vfio_pci"),
        ("vfio_pci:v00001DD8d00001003sv*sd*bc*sc*i*", "pds_vfio_pci"),
        ("vfio_pci:v00001AF4d00001042sv*sd*bc*sc*i*", "virtio_vfio_pci"),
        ("vfio_pci:v00001AF4d00001041sv*sd*bc*sc*i*", "virtio_vfio_pci"),
        ("vfio_pci:v000010DEd000031C2sv*sd*bc*sc*i*", "nvgrace_gpu_vfio_pci"),
        ("vfio_pci:v000010DEd00002941sv*sd*bc*sc*i*", "nvgrace_gpu_vfio_pci"),
        ("vfio_pci:v000010DEd00002348sv*sd*bc*sc*i*", "nvgrace_gpu_vfio_pci"),
        ("vfio_pci:v000010DEd00002345sv*sd*bc*sc*i*", "nvgrace_gpu_vfio_pci"),
        ("vfio_pci:v000010DEd00002342sv*sd*bc*sc*i*", "nvgrace_gpu_vfio_pci"),
        ("vfio_pci:v00008086d00004949sv*sd*bc*sc*i*", "qat_vfio_pci"),
        ("vfio_pci:v00008086d00004947sv*sd*bc*sc*i*", "qat_vfio_pci"),
        ("vfio_pci:v00008086d00004945sv*sd*bc*sc*i*", "qat_vfio_pci"),
        ("vfio_pci:v00008086d00004943sv*sd*bc*sc*i*", "qat_vfio_pci"),
        ("vfio_pci:v00008086d00004941sv*sd*bc*sc*i*", "qat_vfio_pci"),
    ];

    #[test]
    fn the_ids_are_those_that_modpost_writes() {
        let built: BTreeSet<&str> = MODPOST.iter().map(|(_, module)| *module).collect();
        let ours: BTreeSet<(String, &str)> = VARIANTS
            .iter()
            .filter(|variant| built.contains(variant.module))
            .flat_map(|variant| variant.patterns(Some(v(7, 2))).map(|pattern| (pattern.to_string(), variant.module)))
            .collect();
        assert_eq!(ours, MODPOST.map(|(alias, module)| (alias.to_owned(), module)).into_iter().collect());
    }

    #[test]
    fn a_release_is_read_from_what_uname_says() {
        let read = |text: &str| text.parse::<Release>().ok();
        assert_eq!(read("6.12.107+deb13-amd64"), Some(v(6, 12)));
        assert_eq!(read("7.2-rc1"), Some(v(7, 2)));
        for text in ["", "7", "a.b", "7.", "99999999.1"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn an_unknown_release_has_only_the_oldest_ids() {
        let qat = of_driver("qat_vfio_pci").unwrap();
        assert_eq!(qat.patterns(None).count(), 0);
        assert_eq!(qat.patterns(Some(v(6, 12))).count(), 3);
        assert_eq!(qat.patterns(Some(v(6, 18))).count(), 3);
        assert_eq!(qat.patterns(Some(v(7, 3))).count(), 5);
        assert_eq!(of_driver("mlx5_vfio_pci").unwrap().patterns(None).count(), 1);
    }

    #[test]
    fn the_table_is_coherent() {
        assert_eq!(VARIANTS[0].driver, "vfio-pci");
        for variant in &VARIANTS {
            assert_eq!(ModuleName::normalised(variant.driver).unwrap().as_str(), variant.module);
            let degrades = [variant.not_a_vf, variant.no_pf].contains(&Without::Degrades);
            assert!(!degrades || variant.migration.is_some(), "{}: what is lost would have no name", variant.driver);
            let devices = variant.ids.iter().flat_map(|ids| ids.devices);
            for device in devices.filter(|_| !variant.pf.is_empty()) {
                assert!(variant.pf_driver(*device).is_some(), "{} {device:04x}", variant.driver);
            }
        }
    }
}
