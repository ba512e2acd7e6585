//! SR-IOV: VFs come and go with `sriov_numvfs`.

use std::time::Duration;

use super::kernel::{Driver, Kernel, dev, kstrtobool, kstrtouint, put_ids};
use super::tree::{HIDDEN, Node};
use crate::model::{Bdf, Errno, ModAlias};

/// What a PF's driver does with VFs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sriov {
    /// No `.sriov_configure`.
    None,
    /// Makes as many as asked; takes them along when it is unbound.
    Owned,
    /// Makes as many as asked; leaves them behind when it is unbound.
    Left,
    /// Makes all that there can be, whatever was asked; takes them along.
    All,
}

/// `msleep(100)` after enabling.
const ENABLING: Duration = Duration::from_millis(100);

/// `ssleep(1)` after disabling.
const DISABLING: Duration = Duration::from_secs(1);

/// What a VF does not have from its template: it is its own, or its driver's.
const OWN: [&str; 13] = [
    "driver",
    "driver_override",
    "iommu_group",
    "physfn",
    "modalias",
    "net",
    "block",
    "nvme",
    "infiniband",
    "drm",
    "vfio-dev",
    "mdev_supported_types",
    "power_state",
];

impl Kernel {
    /// `sriov_drivers_autoprobe`: whether drivers may probe this PF's VFs.
    ///
    /// # Kernel
    /// `drivers/pci/iov.c` `sriov_drivers_autoprobe_store()` (7.2). Contract: `sriov: autoprobe 0 …`.
    pub(super) fn sriov_drivers_autoprobe_store(&mut self, pf: Bdf, value: &str) -> Result<(), Errno> {
        let yes = kstrtobool(value).ok_or(Errno::EINVAL)?;
        self.tree.put_text(&format!("{}/sriov_drivers_autoprobe", dev(pf)), u8::from(yes));
        Ok(())
    }

    /// `sriov_numvfs`: enables or disables VFs.
    ///
    /// In this order: `EINVAL` not a 16-bit number, `ERANGE` above `sriov_totalvfs`, nothing when it is so already,
    /// `ENOENT` without a PF driver that can, `EBUSY` from some to other than none.
    ///
    /// # Kernel
    /// `drivers/pci/iov.c` `sriov_numvfs_store()` (7.2). Contract: the `sriov:` cases.
    pub(super) fn sriov_numvfs_store(&mut self, pf: Bdf, value: &str) -> Result<(), Errno> {
        let wanted = kstrtouint(value).and_then(|number| u16::try_from(number).ok()).ok_or(Errno::EINVAL)?;
        let total: u16 = self.number(pf, "sriov_totalvfs").unwrap_or(0);
        if wanted > total {
            return Err(Errno::ERANGE);
        }
        if self.is_locked(pf) {
            return Err(Errno::ETIMEDOUT);
        }
        let enabled = self.vfs(pf).len();
        if usize::from(wanted) == enabled {
            return Ok(());
        }
        let sriov = match self.driver(pf) {
            None => return Err(Errno::ENOENT),
            Some(Driver::Vfio(variant)) if variant.makes_vfs() && self.parameter("vfio_pci", "enable_sriov") => {
                Sriov::Owned
            }
            Some(Driver::Vfio(_)) => Sriov::None,
            Some(Driver::Native(native)) => native.sriov,
        };
        if sriov == Sriov::None {
            return Err(Errno::ENOENT);
        }
        if wanted == 0 {
            return self.disable_vfs(pf);
        }
        if enabled > 0 {
            return Err(Errno::EBUSY);
        }
        self.enable_vfs(pf, if sriov == Sriov::All { total } else { wanted })
    }

    /// `sriov_vf_msix_count`: how many MSI-X vectors a VF has; 0 is the driver's own.
    ///
    /// In this order: `EINVAL` not a number or a negative one, `EOPNOTSUPP` without a PF driver that can, `EBUSY` when the VF has a
    /// driver.
    ///
    /// # Kernel
    /// `drivers/pci/iov.c` `sriov_vf_msix_count_store()`; of the drivers mlx5 `sriov.c` `mlx5_core_sriov_set_msix_vec_count()`, whose
    /// own number is `mlx5_get_default_msix_vec_count()` (7.2).
    pub(super) fn sriov_vf_msix_count_store(&mut self, vf: Bdf, value: &str) -> Result<(), Errno> {
        let count: u32 = value.trim_end().parse().map_err(|_| Errno::EINVAL)?;
        if self.pf(vf).and_then(|pf| self.driver_name(pf)) != Some("mlx5_core") {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.driver(vf).is_some() {
            return Err(Errno::EBUSY);
        }
        let place = format!("{HIDDEN}/pci/{vf}/msix");
        if count == 0 {
            self.tree.remove(&place);
        } else {
            self.tree.put_text(&place, count);
        }
        Ok(())
    }

    /// Adds VFs. `ENOMEM` when their bus numbers run out.
    ///
    /// # Kernel
    /// `drivers/pci/iov.c` `sriov_enable()`, `sriov_add_vfs()` (7.2).
    fn enable_vfs(&mut self, pf: Bdf, count: u16) -> Result<(), Errno> {
        let places: Option<Vec<Bdf>> = (0..count).map(|index| self.vf_place(pf, index)).collect();
        let places = places.ok_or(Errno::ENOMEM)?;
        self.now += ENABLING;
        self.tree.put_text(&format!("{}/sriov_numvfs", dev(pf)), count);
        for (index, vf) in (0u16..).zip(places) {
            self.add_vf(pf, index, vf);
        }
        self.forget_vfs(pf);
        Ok(())
    }

    /// The address of a VF.
    ///
    /// # Kernel
    /// `drivers/pci/iov.c` `pci_iov_virtfn_bus()`, `pci_iov_virtfn_devfn()` (7.2).
    fn vf_place(&self, pf: Bdf, index: u16) -> Option<Bdf> {
        let offset: u32 = self.number(pf, "sriov_offset")?;
        let stride: u32 = self.number(pf, "sriov_stride")?;
        let own = u32::from(pf.bus()) << 8 | u32::from(pf.device()) << 3 | u32::from(pf.function());
        let id = own.checked_add(offset)?.checked_add(stride.checked_mul(u32::from(index))?)?;
        let byte = |value: u32| u8::try_from(value & 0xff).ok();
        let bus = u8::try_from(id >> 8).ok()?;
        Bdf::new(pf.domain(), bus, byte(id >> 3 & 0x1f)?, byte(id & 7)?)
    }

    /// One VF: its attributes from the PF's template, its ids from the capability, a group, and whichever driver wants
    /// it.
    ///
    /// # Kernel
    /// `drivers/pci/iov.c` `pci_iov_add_virtfn()`, `pci_iov_scan_device()`, `pci_iov_sysfs_link()`; a VF of a PF on
    /// vfio-pci gets the override of `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_bus_notifier()` (7.2).
    fn add_vf(&mut self, pf: Bdf, index: u16, vf: Bdf) {
        let (pf_dir, dir) = (dev(pf), dev(vf));
        let real = self.device_link(pf);
        let beside = real.rsplit_once('/').map_or("devices", |(above, _)| above).to_owned();
        let template = self.tree.node(&format!("{HIDDEN}/vf/{pf}")).cloned();
        self.tree.graft(&dir, template.clone().unwrap_or(Node::Dir(super::tree::Dir::default())));
        self.tree.put_link(&dir, format!("../../../{beside}/{vf}"));
        let own = self.alias(pf).unwrap_or(ModAlias::new(0, 0, (0, 0), 0));
        let device = self.tree.text(&format!("{pf_dir}/sriov_vf_device")).unwrap_or_default();
        let device = u16::from_str_radix(device, 16).unwrap_or_default();
        let hex = |text: Option<&str>| u32::from_str_radix(text?.trim_start_matches("0x"), 16).ok();
        let class = hex(self.tree.text(&format!("{dir}/class"))).unwrap_or(own.class());
        let sub = |name: &str, other: u16| {
            hex(self.tree.text(&format!("{dir}/{name}"))).and_then(|id| u16::try_from(id).ok()).unwrap_or(other)
        };
        let subsystem = (sub("subsystem_vendor", own.subsystem().0), sub("subsystem_device", own.subsystem().1));
        put_ids(&mut self.tree, vf, ModAlias::new(own.vendor(), device, subsystem, class));
        self.tree.put_text(&format!("{dir}/driver_override"), "(null)");
        if self.tree.has(&format!("{dir}/enable")) {
            self.tree.put_text(&format!("{dir}/enable"), 0);
        }
        for attribute in ["numa_node", "local_cpulist"] {
            if !self.tree.has(&format!("{dir}/{attribute}"))
                && let Some(text) = self.tree.text(&format!("{pf_dir}/{attribute}")).map(str::to_owned)
            {
                self.tree.put_text(&format!("{dir}/{attribute}"), text);
            }
        }
        self.tree.put_text(&format!("{dir}/power_state"), "D0");
        // FLR is mandatory for a VF (PCIe 6.2, 9.2.2.2); the attribute came with 5.15.
        if self.tree.has(&format!("{pf_dir}/reset_method")) && !self.tree.has(&format!("{dir}/reset_method")) {
            self.tree.put_text(&format!("{dir}/reset_method"), "flr");
        }
        // pci-sysfs.c sriov_vf_dev_attr_group; both came with 5.13.
        if self.tree.has(&format!("{pf_dir}/sriov_vf_total_msix")) {
            self.tree.put_text(&format!("{dir}/sriov_vf_msix_count"), "");
        }
        let shares = self.tree.text(&format!("{HIDDEN}/pci/{pf}/vf_group")) == Some("pf");
        if let Some(group) = self.group(pf) {
            let group = if shares { group } else { self.free_group() };
            self.join_group(vf, group);
        }
        self.tree.put_link(&format!("{pf_dir}/virtfn{index}"), format!("../{vf}"));
        self.tree.put_link(&format!("{dir}/physfn"), format!("../{pf}"));
        if let Some(Driver::Vfio(_)) = self.driver(pf) {
            let name = self.driver_name(pf).unwrap_or_default().to_owned();
            self.tree.put_text(&format!("{dir}/driver_override"), name);
        }
        if self.tree.text("/sys/bus/pci/drivers_autoprobe") != Some("0") {
            self.attach(vf);
        }
    }

    /// Takes all VFs of a PF away, in the order of their index; keeps the first one's attributes as template. A VF that
    /// is held stops it there, `ETIMEDOUT`: the kernel waits with the PF's lock held.
    ///
    /// # Kernel
    /// `drivers/pci/iov.c` `sriov_disable()`, `sriov_del_vfs()`, `pci_iov_remove_virtfn()` (7.2). Contract: `sriov: as
    /// many VFs as asked …`; nothing there yet holds what a held VF does.
    pub(super) fn disable_vfs(&mut self, pf: Bdf) -> Result<(), Errno> {
        let mut vfs = self.going.remove(&pf).unwrap_or_else(|| self.vfs(pf));
        if let Some(first) = vfs.values().next() {
            self.keep_template(pf, *first);
        } else {
            return Ok(());
        }
        while let Some((index, vf)) = vfs.pop_first() {
            self.tree.remove(&format!("{}/virtfn{index}", dev(pf)));
            self.tree.remove(&format!("{}/physfn", dev(vf)));
            if let Err(errno) = self.release(vf) {
                vfs.insert(index, vf);
                self.going.insert(pf, vfs);
                return Err(errno);
            }
            self.leave_group(vf);
            self.forget_vf(vf);
            self.tree.remove(&dev(vf));
        }
        self.tree.put_text(&format!("{}/sriov_numvfs", dev(pf)), 0);
        self.forget_vfs(pf);
        self.now += DISABLING;
        Ok(())
    }

    /// What the next VFs of this PF will look like: what the kernel would read from their configuration space.
    fn keep_template(&mut self, pf: Bdf, vf: Bdf) {
        let place = format!("{HIDDEN}/vf/{pf}");
        if self.tree.has(&place) {
            return;
        }
        if self.group(vf).is_some() && self.group(vf) == self.group(pf) {
            self.tree.put_text(&format!("{HIDDEN}/pci/{pf}/vf_group"), "pf");
        }
        if let Some(Node::Dir(dir)) = self.tree.node(&dev(vf)) {
            let mut dir = dir.clone();
            dir.link = None;
            dir.nodes.retain(|name, _| !OWN.contains(&name.as_str()) && !name.starts_with("virtfn"));
            self.tree.graft(&place, Node::Dir(dir));
        }
    }
}
