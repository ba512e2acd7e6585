//! The host's own drivers, as far as binding and unbinding them can be seen: VFs, network interfaces, disks.

use super::kernel::{Driver, Kernel, dev};
use super::sriov::Sriov;
use super::tree::{Dir, HIDDEN, Node};
use crate::model::Bdf;

/// What a native driver makes below its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Children {
    /// Nothing that is modelled.
    None,
    /// A network interface.
    Net,
    /// An NVMe controller with a namespace.
    Nvme,
    /// A DRM card.
    Drm,
}

/// A native driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Native {
    /// What it does with VFs.
    pub(super) sriov: Sriov,
    /// `driver_managed_dma`.
    pub(super) manages_dma: bool,
    /// It probes any device that it is made to match.
    pub(super) takes_any: bool,
    /// It enables its device.
    pub(super) enables: bool,
    children: Children,
}

/// Modules whose PCI driver has another name.
const APART: [(&str, &str); 9] = [
    ("xhci_pci", "xhci_hcd"),
    ("i2c_i801", "i801_smbus"),
    ("virtio_pci", "virtio-pci"),
    ("qat_4xxx", "4xxx"),
    ("qat_420xx", "420xx"),
    ("qat_6xxx", "6xxx"),
    ("qat_c62x", "c6xx"),
    ("qat_c3xxx", "c3xxx"),
    ("qat_dh895xcc", "dh895xcc"),
];

/// The module of a native driver.
pub(super) fn module_of(driver: &str) -> &str {
    APART.into_iter().find(|(_, name)| *name == driver).map_or(driver, |(module, _)| module)
}

/// The driver in a module, where the names differ.
pub(super) fn driver_of(module: &str) -> Option<&'static str> {
    APART.into_iter().find(|(name, _)| *name == module).map(|(_, driver)| driver)
}

impl Native {
    /// The driver of this name; one that is not known is plain.
    ///
    /// # Kernel
    /// `.sriov_configure` of `drivers/net/ethernet/intel/igb/igb_main.c`, `mellanox/mlx5/core/main.c`,
    /// `amd/pds_core/main.c`, `drivers/nvme/host/pci.c`, `drivers/crypto/intel/qat/qat_common/adf_sriov.c`,
    /// `drivers/virtio/virtio_pci_common.c`, `drivers/gpu/drm/xe/xe_pci.c`, `drivers/crypto/hisilicon/*`; who takes VFs
    /// along: `igb_remove()`, mlx5 `remove_one()`, `pdsc_remove()`; nvme leaves them (7.2).
    pub(super) fn named(name: &str) -> Self {
        let sriov = match name {
            "igb" | "ixgbe" | "i40e" | "ice" | "mlx5_core" | "pds_core" | "xe" | "virtio-pci" | "hisi_sec2"
            | "hisi_hpre" | "hisi_zip" => Sriov::Owned,
            "nvme" | "pci-pf-stub" => Sriov::Left,
            "4xxx" | "420xx" | "6xxx" | "c6xx" | "c3xxx" | "dh895xcc" => Sriov::All,
            _ => Sriov::None,
        };
        let children = match name {
            "igb" | "igbvf" | "e1000" | "e1000e" | "ixgbe" | "ixgbevf" | "i40e" | "iavf" | "ice" | "mlx5_core"
            | "tg3" | "r8169" | "bnxt_en" => Children::Net,
            "nvme" => Children::Nvme,
            "ast" | "i915" | "xe" | "nouveau" | "amdgpu" => Children::Drm,
            _ => Children::None,
        };
        Self {
            sriov,
            children,
            manages_dma: matches!(name, "pcieport" | "pci-stub"),
            enables: !matches!(name, "pci-stub" | "pci-pf-stub"),
            takes_any: matches!(name, "pci-stub" | "pci-pf-stub" | "uio_pci_generic"),
        }
    }

    /// Whether unbinding it from a PF removes the VFs.
    pub(super) const fn takes_vfs_along(self) -> bool {
        matches!(self.sriov, Sriov::Owned | Sriov::All)
    }
}

/// Names (or their beginnings) of what a native driver makes below its device.
const MADE: [&str; 20] = [
    "net",
    "nvme",
    "block",
    "infiniband",
    "drm",
    "graphics",
    "ata",
    "host",
    "usb",
    "sound",
    "virtio",
    "i2c-",
    "ptp",
    "hwmon",
    "mdev_supported_types",
    "ieee80211",
    "dma",
    "dsa",
    "iax",
    "uio",
];

/// Where a device's children are kept while their driver is away.
fn kept(bdf: Bdf, driver: &str) -> String {
    format!("{HIDDEN}/children/{bdf}/{driver}")
}

impl Kernel {
    /// Takes a native driver's interfaces, disks and their entries in `/sys/class` away, and keeps them for its return.
    /// Routes through the interfaces are gone for good.
    pub(super) fn remove_children(&mut self, bdf: Bdf, driver: &str) {
        let place = kept(bdf, driver);
        let dir = dev(bdf);
        self.forget_links(bdf);
        let made: Vec<String> = self
            .tree
            .names(&dir)
            .filter(|name| MADE.iter().any(|start| name.starts_with(start)))
            .filter(|name| matches!(self.tree.node(&format!("{dir}/{name}")), Some(Node::Dir(_))))
            .map(str::to_owned)
            .collect();
        self.reset_idxd(&dir);
        for name in made {
            for interface in self.interfaces(&format!("{dir}/{name}")) {
                self.drop_routes(&interface);
            }
            if let Some(node) = self.tree.remove(&format!("{dir}/{name}")) {
                self.tree.graft(&format!("{place}/device/{name}"), node);
            }
        }
        let part = format!("/{bdf}/");
        let classes: Vec<String> = self.tree.names("/sys/class").map(|class| format!("/sys/class/{class}")).collect();
        for at in classes.into_iter().chain([String::from(super::idxd::DEVICES)]) {
            let class = at.rsplit('/').next().unwrap_or_default();
            let class = if at == super::idxd::DEVICES { "dsa" } else { class };
            let links = self
                .tree
                .names(&at)
                .filter(|name| self.tree.link(&format!("{at}/{name}")).is_some_and(|text| text.contains(&part)));
            let links: Vec<String> = links.map(str::to_owned).collect();
            for name in links {
                if let Some(node) = self.tree.remove(&format!("{at}/{name}")) {
                    self.tree.graft(&format!("{place}/class/{class}/{name}"), node);
                }
            }
        }
    }

    /// Brings them back, interfaces down; a device that this driver never had gets new ones.
    pub(super) fn add_children(&mut self, bdf: Bdf, driver: &str) {
        let place = kept(bdf, driver);
        let Some(Node::Dir(kept)) = self.tree.remove(&place) else {
            if let Driver::Native(native) = Driver::named(driver) {
                self.make_children(bdf, native.children);
            }
            return;
        };
        for (part, node) in kept.nodes {
            let Node::Dir(Dir { nodes, .. }) = node else { continue };
            for (name, node) in nodes {
                if part == "device" {
                    let at = format!("{}/{name}", dev(bdf));
                    self.tree.graft(&at, node);
                    for interface in self.interfaces(&at) {
                        self.put_down(&at, &interface);
                    }
                } else if let Node::Dir(Dir { nodes, .. }) = node {
                    let class =
                        if name == "dsa" { String::from(super::idxd::DEVICES) } else { format!("/sys/class/{name}") };
                    for (link, node) in nodes {
                        self.tree.graft(&format!("{class}/{link}"), node);
                    }
                }
            }
        }
    }

    /// The network interfaces in a child directory: of `net` itself, or of `virtioN/net`.
    fn interfaces(&self, child: &str) -> Vec<String> {
        let net = if child.ends_with("/net") { child.to_owned() } else { format!("{child}/net") };
        self.tree.names(&net).map(str::to_owned).collect()
    }

    /// An interface that has just been registered is down.
    fn put_down(&mut self, child: &str, interface: &str) {
        let net = if child.ends_with("/net") { child.to_owned() } else { format!("{child}/net") };
        self.tree.put_text(&format!("{net}/{interface}/flags"), "0x1002");
        self.tree.put_text(&format!("{net}/{interface}/operstate"), "down");
    }

    /// Lines of the routing tables that name an interface: its name is their first or last word.
    fn drop_routes(&mut self, interface: &str) {
        for table in ["/proc/net/route", "/proc/net/ipv6_route"] {
            let Some(text) = self.tree.file(table).and_then(|bytes| std::str::from_utf8(bytes).ok()) else { continue };
            let left = text.lines().filter(|line| {
                let mut words = line.split_whitespace();
                words.next() != Some(interface) && words.next_back() != Some(interface)
            });
            let left: String = left.flat_map(|line| [line, "\n"]).collect();
            self.tree.put(table, left);
        }
    }

    fn make_children(&mut self, bdf: Bdf, children: Children) {
        let dir = dev(bdf);
        let real = self.device_link(bdf);
        match children {
            Children::None => {}
            Children::Net => {
                let name = self.interface_name(bdf);
                self.put_down(&format!("{dir}/net"), &name);
                self.tree.put_text(&format!("{dir}/net/{name}/address"), "00:00:00:00:00:00");
                self.tree.put_link(&format!("/sys/class/net/{name}"), format!("../../{real}/net/{name}"));
            }
            Children::Nvme => {
                let taken = |n: &u32| self.tree.has(&format!("/sys/class/nvme/nvme{n}"));
                let number = (0u32..).find(|n| !taken(n)).unwrap_or_default();
                let name = format!("nvme{number}");
                let at = format!("{dir}/nvme/{name}");
                self.tree.put_text(&format!("{at}/state"), "live");
                self.tree.put_link(&format!("/sys/class/nvme/{name}"), format!("../../{real}/nvme/{name}"));
                if self.pf(bdf).is_none() {
                    let disk = format!("{name}n1");
                    self.tree.put_text(&format!("{at}/{disk}/dev"), format_args!("259:{}", 64 + number));
                    let link = format!("../../{real}/nvme/{name}/{disk}");
                    self.tree.put_link(&format!("/sys/class/block/{disk}"), link);
                }
            }
            Children::Drm => {
                let taken = |n: &u32| self.tree.has(&format!("/sys/class/drm/card{n}"));
                let number = (0u32..).find(|n| !taken(n)).unwrap_or_default();
                self.tree.put_text(&format!("{dir}/drm/card{number}/dev"), format_args!("226:{number}"));
                let link = format!("../../{real}/drm/card{number}");
                self.tree.put_link(&format!("/sys/class/drm/card{number}"), link);
            }
        }
    }

    /// The name that udev gives: by path, a VF's by its PF's.
    fn interface_name(&self, bdf: Bdf) -> String {
        let (domain, bus, device, function) = (bdf.domain(), bdf.bus(), bdf.device(), bdf.function());
        if let Some(pf) = self.pf(bdf)
            && let Some((index, _)) = self.vfs(pf).into_iter().find(|(_, vf)| *vf == bdf)
        {
            let first = self.tree.names(&format!("{}/net", dev(pf))).next().map(str::to_owned);
            return format!("{}v{index}", first.unwrap_or_else(|| self.interface_name(pf)));
        }
        let many = (1..8).any(|other| Bdf::new(domain, bus, device, other).is_some_and(|bdf| self.tree.has(&dev(bdf))));
        let domain = if domain == 0 { String::new() } else { format!("P{domain}") };
        let function = if many || function > 0 { format!("f{function}") } else { String::new() };
        format!("en{domain}p{bus}s{device}{function}")
    }
}
