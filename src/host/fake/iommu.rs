//! IOMMU groups, who owns their DMA, and what can be opened.

use std::collections::{BTreeMap, BTreeSet};

use super::driver_core::up;
use super::kernel::{GROUPS, Kernel, dev};
use super::processes::Process;
use super::tree::HIDDEN;
use super::vfio::Vdev;
use crate::host::Open;
use crate::model::{Bdf, Errno};

/// Something open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    group: u32,
    how: How,
    pub(super) device: Option<Bdf>,
    /// Its holder closes it when the kernel asks for it.
    yields: bool,
}

impl Opened {
    pub(super) const fn new(group: u32, how: How, device: Option<Bdf>) -> Self {
        Self { group, how, device, yields: false }
    }
}

/// How far something is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Group,
    Container,
    Cdev,
    BoundCdev,
}

/// What is open, by a number that its holder has.
#[derive(Debug, Default)]
pub(super) struct Opens {
    next: u64,
    all: BTreeMap<u64, Opened>,
}

impl Opens {
    /// Whether a user owns the group's DMA.
    pub(super) fn owns(&self, group: u32) -> bool {
        self.all.values().any(|open| open.group == group && matches!(open.how, How::Container | How::BoundCdev))
    }

    /// Whether somebody has the device open, so that its driver cannot leave.
    pub(super) fn has(&self, bdf: Bdf) -> bool {
        self.all.values().any(|open| open.device == Some(bdf))
    }

    fn any(&self, group: u32, how: &[How]) -> bool {
        self.all.values().any(|open| open.group == group && how.contains(&open.how))
    }

    /// Whether somebody has the device so far open that its driver has enabled it.
    pub(super) fn enables(&self, bdf: Bdf) -> bool {
        self.all.values().any(|open| open.device == Some(bdf) && open.how != How::Cdev)
    }

    /// The device that something open is, or is of.
    pub(super) fn device(&self, number: u64) -> Option<Bdf> {
        self.all.get(&number)?.device
    }

    /// The group that something open is of.
    pub(super) fn group(&self, number: u64) -> Option<u32> {
        Some(self.all.get(&number)?.group)
    }

    /// What is open of a device by holders that close it when they are asked.
    pub(super) fn yielding(&self, bdf: Bdf) -> Vec<u64> {
        let asked = self.all.iter().filter(|(_, open)| open.device == Some(bdf) && open.yields);
        asked.map(|(number, _)| *number).collect()
    }

    /// Closes; gives the device that was open.
    pub(super) fn close(&mut self, number: u64) -> Option<Bdf> {
        self.all.remove(&number)?.device
    }

    /// Whether somebody has the one device of an emulated IOMMU's group open.
    pub(super) fn has_emulated(&self, group: u32) -> bool {
        self.any(group, &[How::Cdev, How::BoundCdev])
    }

    /// Takes a group from whoever has it open.
    pub(super) fn revoke(&mut self, group: u32) {
        self.all.retain(|_, open| open.group != group || matches!(open.how, How::Cdev | How::BoundCdev));
    }

    /// Closes a device that is gone.
    pub(super) fn close_device(&mut self, bdf: Bdf) {
        self.all.retain(|_, open| open.device != Some(bdf));
    }

    pub(super) fn add(&mut self, opened: Opened) -> u64 {
        self.next += 1;
        self.all.insert(self.next, opened);
        self.next
    }
}

impl Kernel {
    /// Opens a group node, a container, a device or a cdev.
    ///
    /// # Kernel
    /// `drivers/vfio/group.c` `vfio_group_fops_open()` (`EBUSY` when it is open, or a device of it by cdev),
    /// `vfio_group_ioctl_set_container()`, `vfio_group_ioctl_get_device_fd()`; `container.c` `vfio_ioctl_set_iommu()`
    /// (`ENODEV` without vfio_iommu_type1); `drivers/vfio/device_cdev.c`
    /// `vfio_device_fops_cdev_open()`, `vfio_df_ioctl_bind_iommufd()`; `drivers/iommu/iommu.c`
    /// `iommu_group_claim_dma_owner()`, `iommu_device_claim_dma_owner()` (`EPERM` while anybody has the group) (7.2).
    /// Contract: the `group:` and `cdev:` cases.
    pub(super) fn open(&mut self, what: &Open, process: &Process) -> Result<u64, Errno> {
        let opened = match what {
            Open::Group(group) => self.open_group(group.0, How::Group, None),
            Open::Container(group) => self.open_group(group.0, How::Container, None),
            Open::GroupDevice(group, bdf) => self.open_group(group.0, How::Container, Some(*bdf)),
            Open::Cdev(name) => self.open_cdev(name.as_str(), How::Cdev),
            Open::BoundCdev(name) => self.open_cdev(name.as_str(), How::BoundCdev),
        }?;
        let device = opened.device;
        let number = self.opens.add(Opened { yields: process.yields(), ..opened });
        if let Some(bdf) = device {
            self.count_opens(bdf);
        }
        self.show_process(number, process, what);
        Ok(number)
    }

    fn open_group(&self, group: u32, how: How, device: Option<Bdf>) -> Result<Opened, Errno> {
        let node = format!("/dev/vfio/{group}");
        if !self.tree.has(&node) && !self.tree.has(&format!("/dev/vfio/noiommu-{group}")) {
            return Err(Errno::ENOENT);
        }
        if self.opens.any(group, &[How::Group, How::Container, How::BoundCdev]) {
            return Err(Errno::EBUSY);
        }
        if how == How::Container {
            if !self.tree.has("/dev/vfio/vfio") {
                return Err(Errno::ENOENT);
            }
            if self.host_owns(group) {
                return Err(Errno::EPERM);
            }
        }
        if let Some(bdf) = device
            && (self.group(bdf) != Some(group) || !self.vdevs.contains_key(&bdf) || self.leaving.contains_key(&bdf))
        {
            return Err(Errno::ENODEV);
        }
        if device.is_some() && !self.tree.has("/sys/module/vfio_iommu_type1") {
            return Err(Errno::ENODEV);
        }
        Ok(Opened::new(group, how, device))
    }

    fn open_cdev(&self, name: &str, how: How) -> Result<Opened, Errno> {
        if !self.tree.has(&format!("/dev/vfio/devices/{name}")) {
            return Err(Errno::ENOENT);
        }
        let (group, device) = self.cdev(name).ok_or(Errno::ENODEV)?;
        if how == How::BoundCdev {
            if !self.tree.has("/dev/iommu") {
                return Err(Errno::ENOENT);
            }
            if self.opens.any(group, &[How::Group, How::Container]) {
                return Err(Errno::EBUSY);
            }
            let bound = |open: &Opened| open.group == group && open.device == device && open.how == How::BoundCdev;
            if self.opens.all.values().any(bound) {
                return Err(Errno::EINVAL);
            }
            if self.host_owns(group) || self.opens.owns(group) {
                return Err(Errno::EPERM);
            }
        }
        Ok(Opened::new(group, how, device))
    }

    /// The group of a cdev, and its PCI function when it is not an mdev's.
    pub(super) fn cdev(&self, name: &str) -> Option<(u32, Option<Bdf>)> {
        if let Some(bdf) = self.functions().find(|bdf| self.tree.has(&format!("{}/vfio-dev/{name}", dev(*bdf)))) {
            return Some((self.group(bdf)?, Some(bdf)));
        }
        let mdev = self.mdevs().into_iter().find(|mdev| self.tree.has(&format!("{mdev}/vfio-dev/{name}")))?;
        Some((self.tree.link_name(&format!("{mdev}/iommu_group"))?.parse().ok()?, None))
    }

    /// Whether the group's DMA is owned by a driver of the host. NVIDIA's, which makes VFIO devices of its VFs, is none.
    ///
    /// # Kernel
    /// `drivers/iommu/iommu.c` `iommu_device_use_default_domain()` counts drivers without `driver_managed_dma` (7.2).
    pub(super) fn host_owns(&self, group: u32) -> bool {
        let vgpu = |bdf: Bdf| self.tree.has(&format!("{}/nvidia", dev(bdf)));
        self.members(group).any(|bdf| self.driver(bdf).is_some_and(|driver| !driver.manages_dma()) && !vgpu(bdf))
    }

    /// `VFIO_GROUP_FLAGS_VIABLE` of what is open; `None` for a cdev; `ENODEV` when the group is gone.
    ///
    /// # Kernel
    /// `drivers/vfio/group.c` `vfio_group_ioctl_get_status()` (7.2).
    pub(super) fn viable(&self, number: u64) -> Result<Option<bool>, Errno> {
        let open = self.opens.all.get(&number).ok_or(Errno::ENODEV)?;
        Ok(match open.how {
            How::Container => Some(true),
            How::Group => Some(!self.host_owns(open.group) && !self.opens.owns(open.group)),
            How::Cdev | How::BoundCdev => None,
        })
    }

    /// The nodes of a device that a VFIO driver has registered: `vfio-dev/vfioN`, its cdev and its group's node.
    ///
    /// # Kernel
    /// `drivers/vfio/vfio_main.c` `vfio_init_device()` (the lowest free number), `__vfio_register_dev()`; `vfio.h`
    /// `vfio_device_add()`; `vfio_pci_core.c` `vfio_pci_core_register_device()` lets an idle device go to D3hot (7.2).
    /// Contract: the `group:` and `cdev:` cases.
    pub(super) fn add_vfio_device(&mut self, bdf: Bdf, vdev: Vdev) {
        let dir = dev(bdf);
        if self.group(bdf).is_none() {
            let group = self.free_group();
            self.tree.put_text(&format!("{GROUPS}/{group}/name"), "vfio-noiommu");
            self.join_group(bdf, group);
        }
        let number = self.add_vfio_number(&dir);
        let node = self.group_node(bdf);
        // A device without IOMMU has no cdev (`vfio_device_add()`).
        if !node.as_ref().is_some_and(|node| node.contains("noiommu-")) {
            self.add_cdev(&dir, number);
        }
        if let Some(node) = node {
            self.tree.put(&node, "");
        }
        self.put_power(bdf, ("auto", "suspended", "D3hot"));
        self.vdevs.insert(bdf, vdev);
    }

    /// `vfio-dev/vfioN` of the device in `dir`; gives N.
    pub(super) fn add_vfio_number(&mut self, dir: &str) -> u32 {
        let number = lowest_free(&self.numbers);
        self.numbers.insert(number);
        self.tree.put_dir(&format!("{dir}/vfio-dev/vfio{number}"));
        self.tree.put("/dev/vfio/vfio", "");
        number
    }

    /// The cdev of the device in `dir`, where the kernel makes them.
    pub(super) fn add_cdev(&mut self, dir: &str, number: u32) {
        if self.has_cdevs() {
            self.tree.put_text(&format!("{dir}/vfio-dev/vfio{number}/dev"), format_args!("511:{number}"));
            self.tree.put(&format!("/dev/vfio/devices/vfio{number}"), "");
        }
    }

    /// The first half of unregistering: nothing can open the device any more.
    ///
    /// # Kernel
    /// `drivers/vfio/vfio_main.c` `vfio_unregister_group_dev()` up to its wait (7.2).
    pub(super) fn remove_vfio_dev(&mut self, bdf: Bdf) {
        self.remove_vfio_number(&dev(bdf));
    }

    /// The same of the device in `dir`.
    pub(super) fn remove_vfio_number(&mut self, dir: &str) {
        let place = format!("{dir}/vfio-dev");
        let names: Vec<String> = self.tree.names(&place).map(str::to_owned).collect();
        for name in names {
            self.tree.remove(&format!("/dev/vfio/devices/{name}"));
            if let Some(number) = name.strip_prefix("vfio").and_then(|digits| digits.parse().ok()) {
                self.numbers.remove(&number);
            }
        }
        self.tree.remove(&place);
    }

    /// The second half: the group's node goes with its last device, and whoever holds the group holds nothing.
    ///
    /// # Kernel
    /// `drivers/vfio/group.c` `vfio_device_remove_group()` (7.2).
    pub(super) fn remove_vfio_device(&mut self, bdf: Bdf) {
        self.remove_vfio_dev(bdf);
        self.vdevs.remove(&bdf);
        if let (Some(node), Some(group)) = (self.group_node(bdf), self.group(bdf)) {
            if !self.members(group).any(|member| self.vdevs.contains_key(&member)) {
                self.tree.remove(&node);
                self.opens.revoke(group);
            }
            if node.contains("noiommu-") {
                self.leave_group(bdf);
            }
        }
        self.put_power(bdf, ("on", "active", "D0"));
    }

    /// The node of the group that the device is in.
    fn group_node(&self, bdf: Bdf) -> Option<String> {
        let group = self.group(bdf)?;
        let unsafe_group = self.tree.text(&format!("{GROUPS}/{group}/name")) == Some("vfio-noiommu");
        Some(format!("/dev/vfio/{}{group}", if unsafe_group { "noiommu-" } else { "" }))
    }

    /// `power/control`, `power/runtime_status` and `power_state`, where the host has them.
    pub(super) fn put_power(&mut self, bdf: Bdf, (control, status, state): (&str, &str, &str)) {
        for (attribute, text) in [("power/control", control), ("power/runtime_status", status), ("power_state", state)]
        {
            let place = format!("{}/{attribute}", dev(bdf));
            if self.tree.has(&place) {
                self.tree.put_text(&place, text);
            }
        }
    }

    /// Whether the kernel makes cdevs (`CONFIG_VFIO_DEVICE_CDEV`).
    fn has_cdevs(&self) -> bool {
        self.tree.text(&format!("{HIDDEN}/config/VFIO_DEVICE_CDEV")) != Some("n")
    }

    /// The lowest free group number.
    ///
    /// # Kernel
    /// `drivers/iommu/iommu.c` `iommu_group_alloc()` (7.2).
    pub(super) fn free_group(&self) -> u32 {
        lowest_free(&self.tree.names(GROUPS).filter_map(|name| name.parse().ok()).collect())
    }

    /// Puts a device into a group, made when it is not there.
    ///
    /// # Kernel
    /// `drivers/iommu/iommu.c` `iommu_group_add_device()` (7.2).
    pub(super) fn join_group(&mut self, bdf: Bdf, group: u32) {
        let device = self.device_link(bdf);
        self.tree.put_link(&format!("{GROUPS}/{group}/devices/{bdf}"), format!("../../../../{device}"));
        let up = up(&device);
        self.tree.put_link(&format!("{}/iommu_group", dev(bdf)), format!("{up}kernel/iommu_groups/{group}"));
        if !self.tree.has(&format!("{GROUPS}/{group}/type")) {
            self.tree.put_text(&format!("{GROUPS}/{group}/type"), "DMA-FQ");
        }
    }

    /// Takes a device out of its group; the last one takes the group with it.
    ///
    /// # Kernel
    /// `drivers/iommu/iommu.c` `iommu_group_remove_device()`, `iommu_group_release()` (7.2).
    pub(super) fn leave_group(&mut self, bdf: Bdf) {
        let Some(group) = self.group(bdf) else { return };
        self.tree.remove(&format!("{GROUPS}/{group}/devices/{bdf}"));
        self.tree.remove(&format!("{}/iommu_group", dev(bdf)));
        if self.tree.names(&format!("{GROUPS}/{group}/devices")).next().is_none() {
            self.tree.remove(&format!("{GROUPS}/{group}"));
        }
    }
}

/// The lowest number that is not taken, as `ida_alloc()` gives.
fn lowest_free(taken: &BTreeSet<u32>) -> u32 {
    (0..)
        .zip(taken)
        .find(|(number, taken)| number != *taken)
        .map_or_else(|| u32::try_from(taken.len()).unwrap_or(u32::MAX), |(number, _)| number)
}
