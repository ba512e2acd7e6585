//! What a probe will probably say, and what the user wins and loses by each candidate.
//!
//! A prediction informs. It never reorders a candidate and never leaves one out: only the kernel's answer does.

use super::variants::{self, Release, Variant, When, Without};
use crate::model::{Bdf, Class, DriverName, Errno, Inventory, ModAlias, PciFunction, Role};

/// What a probe is expected to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It binds, and does all that the driver can do.
    Binds,
    /// It binds, and does no more than vfio-pci-core does.
    Degrades,
    /// It refuses with this errno.
    Refuses(Errno),
    /// It depends on something that is not known.
    Unknown,
}

/// What is expected of one candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// In one word.
    pub expect: Expect,
    /// In a sentence without its full stop: "will bind but cannot migrate: the PF is not on mlx5_core".
    pub text: String,
    /// What the driver gives beyond vfio-pci, here. Of a driver that is expected to refuse: what it would give.
    pub gains: Vec<String>,
    /// What vfio-pci would give and this driver does not, here.
    pub loses: Vec<String>,
}

/// What the function is in its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Not known: there is a modalias and no device.
    Unknown,
    /// A VF; the driver of its PF, if it has one.
    Vf(PfState),
    /// A PF with this many VFs enabled.
    Pf(u16),
    /// Neither.
    Function,
}

/// What is known of a VF's PF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PfState {
    /// Nothing: it cannot be seen, as in a guest.
    Unknown,
    /// It has no driver.
    Driverless,
    /// It has this one.
    On(DriverName),
}

/// Whether the function is in an IOMMU group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// Not known.
    Unknown,
    /// It is, or vfio may make one (`enable_unsafe_noiommu_mode`).
    Grouped,
    /// It is not.
    Missing,
}

/// What a prediction is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The ids.
    pub alias: ModAlias,
    /// VF, PF or plain.
    pub place: Place,
    /// Its IOMMU group.
    pub group: GroupState,
    /// The kernel.
    pub release: Option<Release>,
    /// `disable_denylist` of module vfio_pci.
    pub denylist_disabled: bool,
}

impl DeviceFacts {
    /// The facts of a function of a host.
    #[must_use]
    pub fn of(inventory: &Inventory, bdf: Bdf) -> Option<Self> {
        let function = inventory.functions.get(&bdf)?;
        let pf_state = |pf: &PciFunction| pf.driver.clone().map_or(PfState::Driverless, PfState::On);
        let place = match function.role {
            Role::Vf { pf, .. } => Place::Vf(inventory.functions.get(&pf).map_or(PfState::Unknown, pf_state)),
            Role::Pf { enabled, .. } => Place::Pf(enabled),
            Role::Bridge | Role::Function => Place::Function,
        };
        let grouped = function.group.is_some() || inventory.kernel.unsafe_noiommu;
        Some(Self {
            alias: function.alias,
            place,
            group: if grouped { GroupState::Grouped } else { GroupState::Missing },
            release: inventory.kernel.release.parse().ok(),
            denylist_disabled: inventory.kernel.denylist_disabled,
        })
    }

    /// The facts of a device of which only the modalias is known.
    #[must_use]
    pub const fn of_alias(alias: ModAlias) -> Self {
        Self { alias, place: Place::Unknown, group: GroupState::Unknown, release: None, denylist_disabled: false }
    }

    /// Whether something seen in `release` is in this kernel. One that is not known is taken to be new.
    fn reached(&self, release: Release) -> bool {
        self.release.is_none_or(|here| here >= release)
    }
}

/// Predicts what `driver` does with a device.
///
/// # Kernel
/// The order is the kernel's: the driver's own probe and `vfio_device_ops.init`, then
/// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_register_device()`, then `drivers/vfio/vfio_main.c`
/// `__vfio_register_dev()` (7.2).
#[must_use]
pub fn predict(driver: &DriverName, facts: &DeviceFacts) -> Prediction {
    let variant = variants::of_driver(driver.as_str());
    let (expect, text) = own_probe(driver, variant, facts);
    let (expect, text) = match (expect, core_probe(facts)) {
        (Expect::Refuses(_), _) | (_, None) => (expect, text),
        (_, Some((errno, why))) => refuses(errno, why),
    };
    let (gains, loses) = variant.map(|variant| balance(variant, expect, facts)).unwrap_or_default();
    Prediction { expect, text, gains, loses }
}

/// What the driver itself looks at before it registers the device.
fn own_probe(driver: &DriverName, variant: Option<&Variant>, facts: &DeviceFacts) -> (Expect, String) {
    let Some(variant) = variant else {
        return (Expect::Unknown, format!("depends on {driver} itself, which is not a driver of the kernel's tree"));
    };
    if variant.ids.is_empty() && variants::denylisted(&facts.alias) {
        return if facts.denylist_disabled {
            (Expect::Binds, "will bind: the denylist, which has this device, is disabled".to_owned())
        } else {
            refuses(Errno::EINVAL, "the device is in vfio-pci's denylist")
        };
    }
    let wanted = variant.pf_driver(facts.alias.device());
    let missing = |without: Without, why: String| match without {
        Without::Same => whole(variant, facts),
        Without::Degrades => (Expect::Degrades, format!("will bind but cannot migrate: {why}")),
        Without::Refuses(errno) => refuses(errno, &why),
    };
    match (&facts.place, wanted) {
        (Place::Pf(_) | Place::Function, _) => missing(variant.not_a_vf, "not a VF".to_owned()),
        (_, None) => whole(variant, facts),
        (Place::Vf(PfState::On(driver)), Some(wanted)) if driver.as_str() == wanted => whole(variant, facts),
        (Place::Vf(PfState::On(_) | PfState::Driverless), Some(wanted)) => {
            missing(variant.no_pf, format!("the PF is not on {wanted}"))
        }
        (Place::Unknown | Place::Vf(PfState::Unknown), Some(wanted)) => {
            (Expect::Unknown, format!("depends on the PF driver: {wanted}"))
        }
    }
}

fn refuses(errno: Errno, why: &str) -> (Expect, String) {
    (Expect::Refuses(errno), format!("will refuse ({}): {why}", errno.name().unwrap_or("errno")))
}

/// Nothing that can be seen is missing.
fn whole(variant: &Variant, facts: &DeviceFacts) -> (Expect, String) {
    let migrates = match variant.migration {
        Some(migration) if facts.reached(migration.since) => " and can migrate",
        Some(_) => ", but is not known to migrate on this kernel",
        None => "",
    };
    let provided = match variant.provided {
        "" => String::new(),
        condition => format!(", provided that {condition}"),
    };
    (Expect::Binds, format!("will bind{migrates}{provided}"))
}

/// What every driver built on vfio-pci-core looks at.
fn core_probe(facts: &DeviceFacts) -> Option<(Errno, &'static str)> {
    // The header type is in the configuration space, which is not read; every bridge with header type 1 has this class.
    let class = Class(facts.alias.class());
    if class.is_pci_bridge() || class.0 >> 8 == 0x0607 {
        return Some((Errno::EINVAL, "a bridge cannot be a VFIO device"));
    }
    if matches!(facts.place, Place::Pf(enabled) if enabled > 0) {
        return Some((Errno::EBUSY, "the PF has VFs enabled"));
    }
    (facts.group == GroupState::Missing).then_some((Errno::EINVAL, "the device is in no IOMMU group"))
}

/// Gains and losses against vfio-pci.
fn balance(variant: &Variant, expect: Expect, facts: &DeviceFacts) -> (Vec<String>, Vec<String>) {
    let degraded = expect == Expect::Degrades;
    let holds = |when: When| match when {
        When::Always => true,
        When::Whole => !degraded,
        When::WholeOn(device) => !degraded && facts.alias.device() == device,
        When::Degraded => degraded,
        When::IntelDisplay => variants::is_intel_display(&facts.alias, facts.release),
        When::Pf => matches!(facts.place, Place::Pf(_)),
    };
    let words = |traits: &'static [variants::Trait]| {
        let here = traits.iter().filter(|one| holds(one.when) && facts.reached(one.since));
        here.map(|one| one.text.to_owned()).collect::<Vec<_>>()
    };
    let migration = variant.migration.filter(|migration| !degraded && facts.reached(migration.since));
    let mut gains: Vec<String> =
        migration.iter().map(|migration| format!("live migration ({})", migration.flags)).collect();
    gains.extend(words(variant.gains));
    (gains, words(variant.loses))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::GroupId;
    use crate::model::inventory::Kernel;

    fn facts(vendor: u16, device: u16, class: u32, place: Place) -> DeviceFacts {
        DeviceFacts {
            alias: ModAlias::new(vendor, device, (0, 0), class),
            place,
            group: GroupState::Grouped,
            release: "7.2.12".parse().ok(),
            denylist_disabled: false,
        }
    }

    fn on(driver: &str) -> Place {
        Place::Vf(PfState::On(driver.parse().unwrap()))
    }

    fn told(driver: &str, facts: &DeviceFacts) -> (Expect, String) {
        let prediction = predict(&driver.parse().unwrap(), facts);
        (prediction.expect, prediction.text)
    }

    #[test]
    fn mlx5_migrates_with_its_pf_and_only_binds_without() {
        let whole = predict(&"mlx5_vfio_pci".parse().unwrap(), &facts(0x15b3, 0x101e, 0x020000, on("mlx5_core")));
        assert_eq!(whole.expect, Expect::Binds);
        assert_eq!(whole.gains[0], "live migration (STOP_COPY, P2P, PRE_COPY)");
        for place in [on("vfio-pci"), Place::Vf(PfState::Driverless)] {
            let alone = predict(&"mlx5_vfio_pci".parse().unwrap(), &facts(0x15b3, 0x101e, 0x020000, place));
            assert_eq!(alone.expect, Expect::Degrades);
            assert_eq!(alone.text, "will bind but cannot migrate: the PF is not on mlx5_core");
            assert!(alone.gains.is_empty());
        }
    }

    #[test]
    fn probes_that_do_not_degrade_are_predicted_with_their_errno() {
        let driverless = || Place::Vf(PfState::Driverless);
        for (driver, device, place, expect, text) in [
            ("qat_vfio_pci", (0x8086, 0x4941), driverless(), Errno::ENODEV, "the PF is not on 4xxx"),
            ("qat_vfio_pci", (0x8086, 0x4947), on("4xxx"), Errno::ENODEV, "the PF is not on 420xx"),
            ("qat_vfio_pci", (0x8086, 0x4941), Place::Function, Errno::ENODEV, "not a VF"),
            ("pds_vfio_pci", (0x1dd8, 0x1003), Place::Function, Errno::EINVAL, "not a VF"),
            ("pds_vfio_pci", (0x1dd8, 0x1003), driverless(), Errno::EINVAL, "the PF is not on pds_core"),
            ("xe-vfio-pci", (0x8086, 0xe20b), on("i915"), Errno::ENODEV, "the PF is not on xe"),
        ] {
            let name = expect.name().unwrap();
            assert_eq!(
                told(driver, &facts(device.0, device.1, 0, place)),
                (Expect::Refuses(expect), format!("will refuse ({name}): {text}")),
                "{driver}"
            );
        }
    }

    #[test]
    fn a_virtio_function_that_is_no_vf_binds_without_migration() {
        let (expect, text) = told("virtio_vfio_pci", &facts(0x1af4, 0x1041, 0x020000, Place::Function));
        assert_eq!((expect, text.as_str()), (Expect::Degrades, "will bind but cannot migrate: not a VF"));
    }

    #[test]
    fn virtio_is_not_known_to_migrate_on_6_12() {
        let mut facts = facts(0x1af4, 0x1041, 0x020000, on("virtio-pci"));
        facts.release = "6.12.107".parse().ok();
        let prediction = predict(&"virtio_vfio_pci".parse().unwrap(), &facts);
        assert!(prediction.text.starts_with("will bind, but is not known to migrate on this kernel"));
        assert_eq!(prediction.gains, ["legacy I/O BAR, if the device offers legacy access and has no BAR 0"]);
    }

    #[test]
    fn only_vfio_pci_gives_the_igd_regions() {
        let display = facts(0x8086, 0xb080, 0x030000, Place::Function);
        let igd = "the IGD opregion, host bridge and LPC bridge regions".to_owned();
        assert!(predict(&"vfio-pci".parse().unwrap(), &display).gains.contains(&igd));
        assert!(predict(&"xe-vfio-pci".parse().unwrap(), &display).loses.contains(&igd));
        let network = facts(0x8086, 0xb080, 0x020000, Place::Function);
        assert!(!predict(&"xe-vfio-pci".parse().unwrap(), &network).loses.contains(&igd));
    }

    #[test]
    fn a_degraded_hisi_vf_loses_its_reset() {
        let facts = facts(0x19e5, 0xa251, 0x120000, Place::Vf(PfState::Driverless));
        let prediction = predict(&"hisi_acc_vfio_pci".parse().unwrap(), &facts);
        assert_eq!(prediction.text, "will bind but cannot migrate: the PF is not on hisi_zip");
        assert!(prediction.loses.iter().any(|loss| loss.starts_with("a safe reset")));
    }

    #[test]
    fn vfio_pci_refuses_what_the_kernel_makes_it_refuse() {
        let refuses = |facts: &DeviceFacts| match told("vfio-pci", facts).0 {
            Expect::Refuses(errno) => Some(errno),
            _ => None,
        };
        let plain = facts(0x1234, 0x11e8, 0x00ff00, Place::Function);
        assert_eq!(told("vfio-pci", &plain), (Expect::Binds, "will bind".to_owned()));
        assert_eq!(refuses(&facts(0x8086, 0x1521, 0x020000, Place::Pf(4))), Some(Errno::EBUSY));
        assert_eq!(refuses(&facts(0x8086, 0x1521, 0x020000, Place::Pf(0))), None);
        assert_eq!(refuses(&facts(0x8086, 0x3420, 0x060400, Place::Function)), Some(Errno::EINVAL));
        assert_eq!(refuses(&DeviceFacts { group: GroupState::Missing, ..plain.clone() }), Some(Errno::EINVAL));
        let dsa = facts(0x8086, 0x0b25, 0x088000, Place::Function);
        assert_eq!(refuses(&dsa), Some(Errno::EINVAL));
        assert_eq!(refuses(&DeviceFacts { denylist_disabled: true, ..dsa }), None);
    }

    #[test]
    fn a_modalias_alone_says_what_it_depends_on() {
        let facts = DeviceFacts::of_alias(ModAlias::new(0x15b3, 0x101e, (0, 0), 0x020000));
        let unknown = |text: &str| (Expect::Unknown, text.to_owned());
        assert_eq!(told("mlx5_vfio_pci", &facts), unknown("depends on the PF driver: mlx5_core"));
        assert_eq!(
            told("acme_vfio", &facts),
            unknown("depends on acme_vfio itself, which is not a driver of the kernel's tree")
        );
        assert_eq!(told("vfio-pci", &facts).0, Expect::Binds);
    }

    #[test]
    fn facts_are_taken_from_a_host() {
        let bdf = |text: &str| text.parse::<Bdf>().unwrap();
        let function = |at: &str, role: Role, driver: Option<&str>| PciFunction {
            bdf: bdf(at),
            alias: ModAlias::new(0x15b3, 0x101e, (0, 0), 0x020000),
            driver: driver.map(|name| name.parse().unwrap()),
            driver_override: None,
            group: Some(GroupId(1)),
            numa_node: None,
            role,
            vfio_dev: None,
            mdev_parent: false,
            vendor_vgpu: false,
            boot_vga: false,
        };
        let pf = function("3b:00.0", Role::Pf { total: 8, enabled: 2, autoprobe: true }, Some("mlx5_core"));
        let vf = function("3b:00.2", Role::Vf { pf: pf.bdf, index: Some(0) }, None);
        let lost = function("3b:00.3", Role::Vf { pf: bdf("ff:00.0"), index: None }, None);
        let inventory = Inventory {
            kernel: Kernel { release: "7.2.12-1".to_owned(), ..Kernel::default() },
            functions: [pf, vf, lost].into_iter().map(|function| (function.bdf, function)).collect(),
            ..Inventory::default()
        };
        let place = |at: &str| DeviceFacts::of(&inventory, bdf(at)).map(|facts| facts.place);
        assert_eq!(place("3b:00.0"), Some(Place::Pf(2)));
        assert_eq!(place("3b:00.2"), Some(on("mlx5_core")));
        assert_eq!(place("3b:00.3"), Some(Place::Vf(PfState::Unknown)));
        assert_eq!(place("00:00.0"), None);
        assert_eq!(DeviceFacts::of(&inventory, bdf("3b:00.2")).unwrap().release, "7.2".parse().ok());
    }
}
