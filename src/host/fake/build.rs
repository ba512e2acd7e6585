//! Small hosts made by code, for tests.

use super::kernel::{ALIASES, DEVICES, DRIVERS, GROUPS};
use super::tree::Tree;
use super::vfio::variants;
use super::{FakeHost, kernel};
use crate::model::{AliasPattern, Bdf, ModAlias};

/// A PCI function to be.
#[derive(Debug, Clone)]
pub struct Device {
    bdf: Bdf,
    alias: ModAlias,
    driver: Option<String>,
    group: Option<u32>,
    pf: Option<(Bdf, u16)>,
    sriov: Option<Sriov>,
    attributes: Vec<(&'static str, String)>,
}

/// The SR-IOV capability of a PF.
#[derive(Debug, Clone, Copy)]
pub struct Sriov {
    /// `sriov_totalvfs`.
    pub total: u16,
    /// `sriov_offset`.
    pub offset: u16,
    /// `sriov_stride`.
    pub stride: u16,
    /// `sriov_vf_device`.
    pub vf_device: u16,
}

impl Device {
    /// A function with these ids, of class `020000`, without driver, group or capability.
    #[must_use]
    pub const fn new(bdf: Bdf, vendor: u16, device: u16) -> Self {
        let alias = ModAlias::new(vendor, device, (0, 0), 0x020000);
        Self { bdf, alias, driver: None, group: None, pf: None, sriov: None, attributes: Vec::new() }
    }

    /// The same with another class.
    #[must_use]
    pub const fn class(mut self, class: u32) -> Self {
        self.alias = ModAlias::new(self.alias.vendor(), self.alias.device(), self.alias.subsystem(), class);
        self
    }

    /// The same on a driver, which has the ids in its table.
    #[must_use]
    pub fn driver(mut self, driver: &str) -> Self {
        self.driver = Some(driver.to_owned());
        self
    }

    /// The same in an IOMMU group.
    #[must_use]
    pub const fn group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }

    /// The same as a VF.
    #[must_use]
    pub const fn vf_of(mut self, pf: Bdf, index: u16) -> Self {
        self.pf = Some((pf, index));
        self
    }

    /// The same as a PF without VFs.
    #[must_use]
    pub const fn sriov(mut self, sriov: Sriov) -> Self {
        self.sriov = Some(sriov);
        self
    }

    /// The same with an attribute.
    #[must_use]
    pub fn with(mut self, attribute: &'static str, text: &str) -> Self {
        self.attributes.push((attribute, text.to_owned()));
        self
    }
}

/// A host to be: the PCI bus, the VFIO modules ready to be loaded, and nothing else yet.
#[derive(Debug, Clone)]
pub struct Build {
    tree: Tree,
}

impl Default for Build {
    fn default() -> Self {
        Self::new()
    }
}

impl Build {
    /// An empty host.
    #[must_use]
    pub fn new() -> Self {
        let mut tree = Tree::default();
        tree.put_dir(DEVICES);
        tree.put_text("/sys/bus/pci/drivers_autoprobe", 1);
        tree.put("/sys/bus/pci/drivers_probe", "");
        tree.put_text("/proc/sys/kernel/osrelease", "7.2.12");
        let mut aliases = String::new();
        for variant in variants::ALL {
            for pattern in variant.aliases() {
                aliases.push_str(&format!("alias {pattern} {}\n", variant.module()));
            }
        }
        tree.put(ALIASES, aliases);
        Self { tree }
    }

    /// The same with a function.
    #[must_use]
    pub fn device(mut self, device: &Device) -> Self {
        let bdf = device.bdf;
        let dir = kernel::dev(bdf);
        let real = format!("devices/pci{:04x}:{:02x}/{bdf}", bdf.domain(), bdf.bus());
        let tree = &mut self.tree;
        kernel::put_ids(tree, bdf, device.alias);
        tree.put_link(&dir, format!("../../../{real}"));
        tree.put_text(&format!("{dir}/driver_override"), "(null)");
        tree.put_text(&format!("{dir}/numa_node"), -1);
        let enabled = device.driver.as_deref().is_some_and(|driver| super::vfio::by_driver(driver).is_none());
        tree.put_text(&format!("{dir}/enable"), u8::from(enabled));
        if let Some(driver) = &device.driver {
            for file in ["bind", "unbind"] {
                tree.put(&format!("{DRIVERS}/{driver}/{file}"), "");
            }
            tree.put_link(&format!("{dir}/driver"), format!("../../../bus/pci/drivers/{driver}"));
            tree.put_link(&format!("{DRIVERS}/{driver}/{bdf}"), format!("../../../../{real}"));
        }
        if let Some(group) = device.group {
            tree.put_link(&format!("{dir}/iommu_group"), format!("../../../kernel/iommu_groups/{group}"));
            tree.put_link(&format!("{GROUPS}/{group}/devices/{bdf}"), format!("../../../../{real}"));
            tree.put_text(&format!("{GROUPS}/{group}/type"), "DMA-FQ");
        }
        if let Some((pf, index)) = device.pf {
            tree.put_link(&format!("{dir}/physfn"), format!("../{pf}"));
            tree.put_link(&format!("{}/virtfn{index}", kernel::dev(pf)), format!("../{bdf}"));
        }
        if let Some(sriov) = device.sriov {
            let numbers =
                [("totalvfs", sriov.total), ("numvfs", 0), ("offset", sriov.offset), ("stride", sriov.stride)];
            for (name, number) in numbers {
                tree.put_text(&format!("{dir}/sriov_{name}"), number);
            }
            tree.put_text(&format!("{dir}/sriov_vf_device"), format_args!("{:x}", sriov.vf_device));
            tree.put_text(&format!("{dir}/sriov_drivers_autoprobe"), 1);
        }
        for (attribute, text) in &device.attributes {
            tree.put_text(&format!("{dir}/{attribute}"), text);
        }
        self
    }

    /// The same with a line in modules.alias.
    #[must_use]
    pub fn alias(mut self, pattern: &AliasPattern, module: &str) -> Self {
        let before = self.tree.file(ALIASES).unwrap_or_default();
        let all = [before, format!("alias {pattern} {module}\n").as_bytes()].concat();
        self.tree.put(ALIASES, all);
        self
    }

    /// The host.
    #[must_use]
    pub fn host(self) -> FakeHost {
        FakeHost::new(self.tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Blacklist, Claim, Host as _, HostPath, Read as _};

    /// 8 NVMe PFs with 127 VFs each, as in the lab.
    fn large() -> FakeHost {
        let mut build = Build::new();
        for number in 0..8u8 {
            let bdf = Bdf::new(0, 0x10 + number, 0, 0).unwrap();
            let sriov = Sriov { total: 127, offset: 1, stride: 1, vf_device: 0x10 };
            let device = Device::new(bdf, 0x1b36, 0x10).class(0x010802).driver("nvme");
            build = build.device(&device.group(u32::from(number)).sriov(sriov));
        }
        build.host()
    }

    #[test]
    fn a_thousand_vfs_are_made_bound_saved_and_loaded() {
        let host = large();
        let lock = host.lock(&Claim::new("test", &host)).unwrap();
        let writer = lock.hand();
        let pfs: Vec<String> = host.list(&HostPath::pci_devices()).unwrap();
        let write = |path: &str, value: &str| writer.write(&HostPath::parse(path).unwrap(), value).unwrap();
        for pf in &pfs {
            write(&format!("{DEVICES}/{pf}/sriov_drivers_autoprobe"), "0");
            write(&format!("{DEVICES}/{pf}/sriov_numvfs"), "127");
        }
        writer.load_module(&"vfio_pci".parse().unwrap(), Blacklist::Respect).unwrap();
        let vfs: Vec<String> = host.list(&HostPath::pci_devices()).unwrap();
        let vfs = vfs.iter().filter(|vf| !pfs.contains(vf)).collect::<Vec<_>>();
        assert_eq!(vfs.len(), 1016);
        for vf in &vfs {
            write(&format!("{DEVICES}/{vf}/driver_override"), "vfio-pci");
            write(&format!("{DRIVERS}/vfio-pci/bind"), vf);
        }
        assert_eq!(host.list(&HostPath::parse("/dev/vfio/devices").unwrap()).unwrap().len(), 1016);
        let again = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
        assert_eq!(again.snapshot(), host.snapshot());
        for vf in &vfs {
            write(&format!("{DRIVERS}/vfio-pci/unbind"), vf);
        }
        assert_eq!(host.list(&HostPath::parse("/dev/vfio/devices").unwrap()).unwrap(), [""; 0]);
    }
}
