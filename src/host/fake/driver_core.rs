//! The driver core's sysfs: override, bind, unbind, drivers_probe.

use super::kernel::{DRIVERS, Driver, Kernel, dev};
use crate::model::{Bdf, Errno};

/// `PAGE_SIZE`: what one write can carry, and what an attribute can show.
const PAGE: usize = 4096;

impl Kernel {
    /// `driver_override`: sets or clears it; binds nothing, checks no name.
    ///
    /// # Kernel
    /// `drivers/base/dd.c` `__device_set_driver_override()`: `EINVAL` from 4,095 bytes, cut at the first NUL and the
    /// first newline, empty clears (7.2). Contract: the `override:` cases.
    pub(super) fn driver_override_store(&mut self, bdf: Bdf, value: &str) -> Result<(), Errno> {
        let page = value.as_bytes().get(..PAGE).unwrap_or(value.as_bytes());
        if page.len() >= PAGE - 1 {
            return Err(Errno::EINVAL);
        }
        let name = value.split(['\0', '\n']).next().unwrap_or_default();
        self.tree.put_text(&format!("{}/driver_override", dev(bdf)), if name.is_empty() { "(null)" } else { name });
        Ok(())
    }

    /// Whether the driver wants the device: by its override, else by a table entry that is not override-only.
    ///
    /// # Kernel
    /// `drivers/pci/pci-driver.c` `pci_match_device()`: an override matches its driver always, by a dummy id when the
    /// table has none, and no other driver (7.2). Contract: `bind: overridden for another driver …` and its neighbours.
    pub(super) fn matches(&self, driver: &str, bdf: Bdf) -> bool {
        if let Some(wanted) = self.driver_override(bdf) {
            return wanted == driver;
        }
        let Some(alias) = self.alias(bdf) else { return false };
        match Driver::named(driver) {
            Driver::Vfio(_) => false,
            Driver::Native(_) => self.table_has(driver, &alias),
        }
    }

    /// `bind`: probes one driver on one device and answers what the probe said.
    ///
    /// # Kernel
    /// `drivers/base/bus.c` `bind_store()`: `ENODEV` for an unknown device or no match; then `dd.c`
    /// `device_driver_attach()`: the probe's errno (7.2). Contract: the `bind:` cases.
    pub(super) fn bind_store(&mut self, driver: &str, value: &str) -> Result<(), Errno> {
        let bdf = self.find(value).ok_or(Errno::ENODEV)?;
        if !self.matches(driver, bdf) {
            return Err(Errno::ENODEV);
        }
        self.wait_for_probe(bdf, (driver, "bind"));
        if let Driver::Vfio(variant) = Driver::named(driver) {
            self.may_have(driver, bdf)?;
            self.probe_slowly(variant, bdf)?;
        }
        self.probe(driver, bdf)
    }

    /// `unbind`: takes the device from this driver; waits for whoever has it open.
    ///
    /// # Kernel
    /// `drivers/base/bus.c` `unbind_store()`: `ENODEV` for an unknown device or one that this driver has not; one that
    /// it is leaving is still its own, and its lock is held (7.2). Contract: the `unbind:` cases.
    pub(super) fn unbind_store(&mut self, driver: &str, value: &str) -> Result<(), Errno> {
        let bdf = self.find(value).ok_or(Errno::ENODEV)?;
        self.wait_for_probe(bdf, (driver, "unbind"));
        if self.leaving.get(&bdf).is_some_and(|leaving| leaving == driver) || self.probing.contains_key(&bdf) {
            return Err(Errno::ETIMEDOUT);
        }
        if self.driver_name(bdf) != Some(driver) {
            return Err(Errno::ENODEV);
        }
        self.release(bdf)
    }

    /// `drivers_probe`: offers a device to every driver. Succeeds whether or not one took it.
    ///
    /// # Kernel
    /// `drivers/base/bus.c` `drivers_probe_store()`: `ENODEV` for an unknown device; `bus_rescan_devices_helper()`:
    /// nothing when it has a driver; `dd.c` `__device_attach_driver()`: probe errors are ignored (7.2). Contract: the
    /// `drivers_probe:` cases.
    pub(super) fn drivers_probe_store(&mut self, value: &str) -> Result<(), Errno> {
        let bdf = self.find(value).ok_or(Errno::ENODEV)?;
        self.attach(bdf);
        Ok(())
    }

    /// Offers a device that has no driver to every driver, the first that takes it has it.
    ///
    /// # Kernel
    /// `drivers/base/dd.c` `__device_attach()` (7.2). The kernel goes through drivers in the order of their
    /// registration, the model in the order of their names.
    pub(super) fn attach(&mut self, bdf: Bdf) {
        if self.driver_name(bdf).is_some() || self.is_locked(bdf) {
            return;
        }
        let drivers: Vec<String> = self.tree.names(DRIVERS).map(str::to_owned).collect();
        for driver in drivers {
            if self.matches(&driver, bdf) && self.probe(&driver, bdf).is_ok() {
                return;
            }
        }
    }

    /// Probes a driver that matches.
    ///
    /// In this order: `EBUSY` when the device has a driver; `EBUSY` when a user owns the group's DMA and the driver
    /// does DMA itself; `ENODEV` for a VF under `sriov_drivers_autoprobe=0` without override; then the driver's own
    /// answer. The device lock is held by a driver that is leaving: the write waits, and is left behind with
    /// `ETIMEDOUT`.
    ///
    /// # Kernel
    /// `drivers/base/dd.c` `__driver_probe_device()`, `really_probe()`, `drivers/pci/pci-driver.c`
    /// `pci_dma_configure()`, `pci_device_probe()`, `pci_device_can_probe()`, `drivers/iommu/iommu.c`
    /// `iommu_device_use_default_domain()` (7.2). Contract: the `bind:` cases, `sriov: autoprobe 0 …`, `group: while a
    /// user owns the DMA …`.
    pub(super) fn probe(&mut self, driver: &str, bdf: Bdf) -> Result<(), Errno> {
        self.may_have(driver, bdf)?;
        match Driver::named(driver) {
            Driver::Vfio(variant) => self.probe_vfio(variant, bdf)?,
            Driver::Native(native) => {
                let alias = self.alias(bdf).ok_or(Errno::ENODEV)?;
                if !native.takes_any && !self.table_has(driver, &alias) {
                    return Err(Errno::ENODEV);
                }
                self.link_driver(bdf, driver);
                self.enable(bdf, i32::from(native.enables));
                self.add_children(bdf, driver);
            }
        }
        Ok(())
    }

    /// Whether the probe of this driver is called at all, and why not.
    fn may_have(&self, driver: &str, bdf: Bdf) -> Result<(), Errno> {
        if self.is_locked(bdf) {
            return Err(Errno::ETIMEDOUT);
        }
        if self.driver_name(bdf).is_some() {
            return Err(Errno::EBUSY);
        }
        if !Driver::named(driver).manages_dma() && self.group(bdf).is_some_and(|group| self.opens.owns(group)) {
            return Err(Errno::EBUSY);
        }
        if !self.may_probe(bdf) {
            return Err(Errno::ENODEV);
        }
        Ok(())
    }

    /// Whether any driver may probe the device.
    ///
    /// # Kernel
    /// `drivers/pci/pci-driver.c` `pci_device_can_probe()` (7.2).
    fn may_probe(&self, bdf: Bdf) -> bool {
        let Some(pf) = self.pf(bdf) else { return true };
        self.number(pf, "sriov_drivers_autoprobe") != Some(0u8) || self.driver_override(bdf).is_some()
    }

    /// # Kernel
    /// `drivers/base/dd.c` `driver_sysfs_add()` (7.2).
    pub(super) fn link_driver(&mut self, bdf: Bdf, driver: &str) {
        let device = self.device_link(bdf);
        let up = up(&device);
        self.tree.put_link(&format!("{}/driver", dev(bdf)), format!("{up}bus/pci/drivers/{driver}"));
        self.tree.put_link(&format!("{DRIVERS}/{driver}/{bdf}"), format!("../../../../{device}"));
    }

    /// # Kernel
    /// `drivers/base/dd.c` `driver_sysfs_remove()` (7.2).
    pub(super) fn unlink_driver(&mut self, bdf: Bdf, driver: &str) {
        self.tree.remove(&format!("{}/driver", dev(bdf)));
        self.tree.remove(&format!("{DRIVERS}/{driver}/{bdf}"));
    }

    /// A device's place on a real host, `devices/pci0000:3a/0000:3b:00.2`.
    pub(super) fn device_link(&self, bdf: Bdf) -> String {
        let known = self.tree.link(&dev(bdf)).map(|text| text.trim_start_matches("../").to_owned());
        known.unwrap_or_else(|| format!("devices/pci{:04x}:{:02x}/{bdf}", bdf.domain(), bdf.bus()))
    }

    /// Takes the device from its driver. The links go first, then the driver's `.remove` does what it does.
    ///
    /// # Kernel
    /// `drivers/base/dd.c` `__device_release_driver()` (7.2). Contract: `unbind: the device is left without a driver`.
    pub(super) fn release(&mut self, bdf: Bdf) -> Result<(), Errno> {
        if self.probing.contains_key(&bdf) {
            return Err(Errno::ETIMEDOUT);
        }
        let driver = match self.leaving.remove(&bdf) {
            Some(driver) => driver,
            None => {
                let Some(driver) = self.driver_name(bdf).map(str::to_owned) else { return Ok(()) };
                self.unlink_driver(bdf, &driver);
                driver
            }
        };
        let removed = self.remove_device(bdf, &driver);
        if removed.is_err() {
            self.leaving.insert(bdf, driver);
        } else {
            self.leave_vfs(bdf);
        }
        removed
    }

    /// The driver's `.remove`.
    ///
    /// A native driver has its device enabled, a VFIO driver while somebody has it open.
    ///
    /// A VFIO device that somebody has open keeps it waiting until it is closed, and so does a VF that somebody has
    /// open when the driver takes its VFs along: the writer is left behind with `ETIMEDOUT`, the device stays without
    /// driver link and with its lock held, and [`finish`](Self::finish) does the rest at the close.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_unregister_device()`, `drivers/vfio/vfio_main.c`
    /// `vfio_unregister_group_dev()` (7.2). Contract: nothing there yet holds what a held device does.
    fn remove_device(&mut self, bdf: Bdf, driver: &str) -> Result<(), Errno> {
        match Driver::named(driver) {
            Driver::Vfio(_) => {
                self.disable_vfs(bdf)?;
                if self.opens.has(bdf) {
                    self.remove_vfio_dev(bdf);
                    self.request(bdf);
                }
                if self.opens.has(bdf) {
                    return Err(Errno::ETIMEDOUT);
                }
                self.remove_vfio_device(bdf);
                self.forget_bound(bdf);
            }
            Driver::Native(native) => {
                if native.takes_vfs_along() {
                    self.disable_vfs(bdf)?;
                }
                self.remove_children(bdf, driver);
                self.enable(bdf, -i32::from(native.enables));
            }
        }
        Ok(())
    }

    /// Goes on with what a device that was held has kept waiting.
    pub(super) fn finish(&mut self) {
        let waiting: Vec<Bdf> = self.leaving.keys().copied().collect();
        for bdf in waiting {
            let _still_held = self.release(bdf);
        }
        self.finish_mdevs();
        let going: Vec<Bdf> = self.going.keys().copied().collect();
        for pf in going {
            let _still_held = self.disable_vfs(pf);
        }
    }

    /// Whether somebody waits with the device's lock held: its driver for a holder or in its probe, or a writer for one of its VFs.
    pub(super) fn is_locked(&self, bdf: Bdf) -> bool {
        self.leaving.contains_key(&bdf) || self.going.contains_key(&bdf) || self.probing.contains_key(&bdf)
    }
}

/// The way up to `/sys` from a device's place below it.
pub(super) fn up(device: &str) -> String {
    "../".repeat(device.split('/').count())
}
