//! The bus `dsa`: idxd devices and WQs, configured through sysfs and bound to the drivers of that bus.
//!
//! There is no emulation of the hardware to hold it to the kernel: it is written from the source named on each item.

use std::collections::BTreeMap;

use super::driver_core::up;
use super::kernel::Kernel;
use super::tree::Last;
use crate::model::Errno;
use crate::model::dsa::Operations;
use crate::model::idxd::CmdStatus;

/// Where the devices are.
pub(super) const DEVICES: &str = "/sys/bus/dsa/devices";

/// Where their drivers are.
const DRIVERS: &str = "/sys/bus/dsa/drivers";

/// `WQ_DEFAULT_QUEUE_DEPTH`.
const DEFAULT_SIZE: u32 = 16;

/// `WQ_DEFAULT_MAX_XFER`, `WQ_DEFAULT_MAX_BATCH`, `IDXD_ENQCMDS_RETRIES`.
const DEFAULT_TRANSFER: &str = "2097152";
const DEFAULT_BATCH: &str = "32";
const DEFAULT_RETRIES: &str = "32";

/// `WQ_NAME_SIZE` and `DRIVER_NAME_SIZE`.
const LONGEST: (usize, usize) = (1024, 128);

/// Whether a name is one of the bus: `dsa0`, `wq0.1`, `engine0.2`, `group0.3`.
pub(super) fn is_device(name: &str) -> bool {
    let digits = name.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let kind = &name[..name.len() - digits.len()];
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match digits.split_once('.') {
        None => matches!(kind, "dsa" | "iax") && number(digits),
        Some((device, own)) => matches!(kind, "wq" | "engine" | "group") && number(device) && number(own),
    }
}

impl Kernel {
    /// A write to an attribute of a device of the bus, in `dir`.
    ///
    /// # Kernel
    /// `drivers/dma/idxd/sysfs.c`, the `_store()` of each; `EACCES` for those that have none (7.2).
    pub(super) fn idxd_store(&mut self, dir: &str, attribute: &str, value: &str) -> Result<(), Errno> {
        let name = dir.rsplit('/').next().unwrap_or_default();
        let Some((device, _)) = dir.rsplit_once('/') else { return Err(Errno::EACCES) };
        if !name.contains('.') {
            return if attribute == "cmd_status" { self.status(dir, CmdStatus(0)) } else { Err(Errno::EACCES) };
        }
        if name.starts_with("engine") && attribute == "group_id" {
            let group = kstrtol(value)?;
            self.configurable(device)?;
            self.set_group(dir, device, group)
        } else if name.starts_with("wq") {
            self.wq_store(dir, device, (attribute, value))
        } else {
            Err(Errno::EACCES)
        }
    }

    fn wq_store(&mut self, dir: &str, device: &str, (attribute, value): (&str, &str)) -> Result<(), Errno> {
        let enabled = self.said(dir, "state") == "enabled";
        let disabled = |errno| if enabled { Err(errno) } else { Ok(()) };
        let text = value.strip_suffix('\n').unwrap_or(value);
        let place = format!("{dir}/{attribute}");
        match attribute {
            "type" => {
                disabled(Errno::EPERM)?;
                if !matches!(text, "none" | "kernel" | "user") {
                    return Err(Errno::EINVAL);
                }
                if self.said(dir, "type") != text {
                    self.tree.put_text(&format!("{dir}/name"), "");
                }
                self.tree.put_text(&place, text);
            }
            "name" | "driver_name" => {
                disabled(Errno::EPERM)?;
                if value.len() > if attribute == "name" { LONGEST.0 } else { LONGEST.1 } {
                    return Err(Errno::EINVAL);
                }
                self.tree.put_text(&place, value.trim());
            }
            "mode" => {
                self.configurable(device)?;
                disabled(Errno::EPERM)?;
                match text {
                    "dedicated" => self.tree.put_text(&format!("{dir}/threshold"), 0),
                    "shared" => {}
                    _ => return Err(Errno::EINVAL),
                }
                self.tree.put_text(&place, text);
            }
            "size" => {
                let size = kstrtoul(value)?;
                self.configurable(device)?;
                if self.said(device, "state") == "enabled" {
                    return Err(Errno::EPERM);
                }
                let others: u64 =
                    self.queues(device).iter().filter(|wq| *wq != dir).map(|wq| self.value(wq, "size")).sum();
                if others + size > self.value(device, "max_work_queues_size") {
                    return Err(Errno::EINVAL);
                }
                self.tree.put_text(&place, size);
            }
            "group_id" => {
                let group = kstrtol(value)?;
                self.configurable(device)?;
                disabled(Errno::EPERM)?;
                self.set_group(dir, device, group)?;
            }
            "priority" => {
                let priority = kstrtoul(value)?;
                self.configurable(device)?;
                disabled(Errno::EPERM)?;
                if priority > 15 {
                    return Err(Errno::EINVAL);
                }
                self.tree.put_text(&place, priority);
            }
            "block_on_fault" | "ats_disable" | "prs_disable" => {
                let on = kstrtobool(text)?;
                self.configurable(device)?;
                disabled(if attribute == "block_on_fault" { Errno::ENXIO } else { Errno::EPERM })?;
                if attribute == "block_on_fault" && !self.blocks_on_fault(device) {
                    return Err(Errno::EOPNOTSUPP);
                }
                self.tree.put_text(&place, u8::from(on));
            }
            "max_transfer_size" | "max_batch_size" => {
                let size = kstrtoul(value)?;
                self.configurable(device)?;
                disabled(Errno::EPERM)?;
                let size = size.checked_next_power_of_two().filter(|_| size > 0).ok_or(Errno::EINVAL)?;
                if size > self.value(device, attribute) {
                    return Err(Errno::EINVAL);
                }
                self.tree.put_text(&place, size);
            }
            "op_config" => {
                disabled(Errno::EPERM)?;
                let wanted: Operations = text.parse().map_err(|_| Errno::EINVAL)?;
                if !wanted.are_among(self.said(device, "op_cap").parse().unwrap_or_default()) {
                    return Err(Errno::EINVAL);
                }
                self.tree.put_text(&place, wanted);
            }
            "enqcmds_retries" => {
                let retries = kstrtoul(value)?;
                if self.said(dir, "mode") == "dedicated" {
                    return Err(Errno::EPERM);
                }
                if retries > 64 {
                    return Err(Errno::EINVAL);
                }
                self.tree.put_text(&place, retries);
            }
            "threshold" => {
                let threshold = kstrtoul(value)?;
                if threshold == 0 || threshold > self.value(dir, "size") {
                    return Err(Errno::EINVAL);
                }
                self.configurable(device)?;
                disabled(Errno::ENXIO)?;
                if self.said(dir, "mode") == "dedicated" {
                    return Err(Errno::EINVAL);
                }
                self.tree.put_text(&place, threshold);
            }
            _ => return Err(Errno::EACCES),
        }
        Ok(())
    }

    /// `bind` of a driver of the bus: `idxd` enables a device, the others a WQ.
    ///
    /// # Kernel
    /// `drivers/base/bus.c` `bind_store()`; `drivers/dma/idxd/bus.c` `idxd_config_bus_match()` (7.2).
    pub(super) fn idxd_bind_store(&mut self, driver: &str, value: &str) -> Result<(), Errno> {
        let (name, dir) = self.of_bus(value)?;
        let matches = if driver == "idxd" { !name.contains('.') } else { name.starts_with("wq") };
        if !matches {
            return Err(Errno::ENODEV);
        }
        if self.tree.link(&format!("{dir}/driver")).is_some() {
            return Err(Errno::EBUSY);
        }
        if driver == "idxd" {
            self.enable_device(&dir)?;
        } else {
            self.probe_queue(driver, &dir)?;
        }
        let real =
            self.tree.link(&format!("{DEVICES}/{name}")).unwrap_or_default().trim_start_matches("../").to_owned();
        let above = up(&real);
        self.tree.put_link(&format!("{dir}/driver"), format!("{above}bus/dsa/drivers/{driver}"));
        self.tree.put_link(&format!("{DRIVERS}/{driver}/{name}"), format!("../../../../{real}"));
        Ok(())
    }

    /// `unbind` of a driver of the bus.
    ///
    /// # Kernel
    /// `drivers/base/bus.c` `unbind_store()` (7.2).
    pub(super) fn idxd_unbind_store(&mut self, driver: &str, value: &str) -> Result<(), Errno> {
        let (name, dir) = self.of_bus(value)?;
        if self.tree.link_name(&format!("{dir}/driver")) != Some(driver) {
            return Err(Errno::ENODEV);
        }
        if name.contains('.') {
            self.disable_queue(&dir)
        } else {
            self.disable_device(&dir)
        }
        Ok(())
    }

    /// # Kernel
    /// `drivers/dma/idxd/device.c` `idxd_device_drv_probe()`, `idxd_device_config()`, `idxd_wqs_setup()`,
    /// `idxd_engines_setup()`, `idxd_wq_config_write()`: every refusal is `ENXIO`, and `cmd_status` tells more (7.2).
    fn enable_device(&mut self, dir: &str) -> Result<(), Errno> {
        if self.said(dir, "state") != "disabled" {
            return self.refuse(dir, CmdStatus::DEV_ENABLED, Errno::ENXIO);
        }
        if self.said(dir, "configurable") == "1" {
            let grouped: Vec<String> =
                self.queues(dir).into_iter().filter(|wq| self.said(wq, "group_id") != "-1").collect();
            if grouped.is_empty() {
                return self.refuse(dir, CmdStatus::WQ_NONE_CONFIGURED, Errno::ENXIO);
            }
            let pasid = self.said(dir, "pasid_enabled") == "1";
            if !pasid && grouped.iter().any(|wq| self.said(wq, "mode") == "shared") {
                return self.refuse(dir, CmdStatus::WQ_NO_SWQ_SUPPORT, Errno::ENXIO);
            }
            if self.below(dir, "engine").iter().all(|engine| self.said(engine, "group_id") == "-1") {
                return Err(Errno::ENXIO);
            }
            for wq in grouped {
                if self.value(&wq, "size") == 0 && self.said(&wq, "type") != "none" {
                    self.tree.put_text(&format!("{wq}/size"), DEFAULT_SIZE);
                }
            }
        }
        self.tree.put_text(&format!("{dir}/state"), "enabled");
        self.status(dir, CmdStatus(0))
    }

    /// # Kernel
    /// `drivers/dma/idxd/cdev.c` `idxd_user_drv_probe()`, `dma.c` `idxd_dmaengine_drv_probe()`, `device.c`
    /// `idxd_drv_enable_wq()`: a refusal leaves the type at none (7.2).
    fn probe_queue(&mut self, driver: &str, dir: &str) -> Result<(), Errno> {
        let device = dir.rsplit_once('/').map(|(device, _)| device.to_owned()).unwrap_or_default();
        if self.said(&device, "state") != "enabled" {
            return Err(Errno::ENXIO);
        }
        let names = self.tree.text(&format!("{dir}/driver_name"));
        if names.is_some_and(|name| !name.starts_with(driver)) {
            return self.refuse(&device, CmdStatus::WQ_NO_DRV_NAME, Errno::ENODEV);
        }
        let user = driver == "user";
        let pasid = self.said(&device, "pasid_enabled") == "1";
        if user && !pasid {
            return self.refuse(&device, CmdStatus::WQ_USER_NO_IOMMU, Errno::EOPNOTSUPP);
        }
        let shared = self.said(dir, "mode") == "shared";
        let wrong = if self.said(dir, "group_id") == "-1" {
            Some(CmdStatus::WQ_NO_GRP)
        } else if self.said(dir, "name").is_empty() {
            Some(CmdStatus::WQ_NO_NAME)
        } else if shared && !pasid {
            Some(CmdStatus::WQ_NO_SVM)
        } else if shared && self.value(dir, "threshold") == 0 {
            Some(CmdStatus::WQ_NO_THRESH)
        } else {
            None
        };
        if let Some(status) = wrong {
            self.tree.put_text(&format!("{dir}/type"), "none");
            return self.refuse(&device, status, Errno::ENXIO);
        }
        self.tree.put_text(&format!("{dir}/type"), if user { "user" } else { "kernel" });
        self.tree.put_text(&format!("{dir}/state"), "enabled");
        if let (true, Some(node)) = (user, node(dir)) {
            self.tree.put(&node, "");
        }
        self.status(&device, CmdStatus(0))
    }

    /// A WQ that was enabled keeps its size and group, and nothing else.
    ///
    /// # Kernel
    /// `drivers/dma/idxd/cdev.c` `idxd_user_drv_remove()`; `device.c` `idxd_drv_disable_wq()`, `idxd_wq_disable_cleanup()`
    /// (7.2).
    fn disable_queue(&mut self, dir: &str) {
        self.unlink_bus_driver(dir);
        if let Some(node) = node(dir) {
            self.tree.remove(&node);
        }
        self.tree.put_text(&format!("{dir}/type"), "none");
        self.clean_queue(dir);
    }

    fn clean_queue(&mut self, dir: &str) {
        let cleared = [
            ("state", "disabled"),
            ("mode", "shared"),
            ("threshold", "0"),
            ("priority", "0"),
            ("name", ""),
            ("clients", "0"),
            ("block_on_fault", "0"),
            ("ats_disable", "0"),
            ("prs_disable", "0"),
            ("max_transfer_size", DEFAULT_TRANSFER),
            ("max_batch_size", DEFAULT_BATCH),
            ("enqcmds_retries", DEFAULT_RETRIES),
        ];
        // Not every kernel has all of them, and an IAX has no batches.
        let has = |kernel: &Self, attribute: &str| kernel.tree.has(&format!("{dir}/{attribute}"));
        let cleared: Vec<_> = cleared.into_iter().filter(|(attribute, _)| has(self, attribute)).collect();
        for (attribute, text) in cleared {
            self.tree.put_text(&format!("{dir}/{attribute}"), text);
        }
        if let (true, Some((device, _))) = (has(self, "op_config"), dir.rsplit_once('/')) {
            self.tree.put_text(&format!("{dir}/op_config"), self.said(device, "op_cap").to_owned());
        }
    }

    /// Disables the WQs that are enabled, then the device, and resets all that can be set when it is configurable.
    ///
    /// # Kernel
    /// `drivers/dma/idxd/device.c` `idxd_device_drv_remove()`, `idxd_device_clear_state()`: the types of WQs that were not
    /// enabled stay, and so does every `driver_name` (7.2).
    fn disable_device(&mut self, dir: &str) {
        let queues = self.queues(dir);
        for wq in &queues {
            if self.said(wq, "state") == "enabled" {
                self.disable_queue(wq);
            }
        }
        if self.said(dir, "configurable") == "1" {
            for wq in &queues {
                self.clean_queue(wq);
                self.tree.put_text(&format!("{wq}/size"), 0);
                self.tree.put_text(&format!("{wq}/group_id"), -1);
            }
            for engine in self.below(dir, "engine") {
                self.tree.put_text(&format!("{engine}/group_id"), -1);
            }
            self.tell_groups(dir);
        }
        self.tree.put_text(&format!("{dir}/state"), "disabled");
        self.unlink_bus_driver(dir);
    }

    /// All idxd devices of a PCI function, when its driver leaves.
    pub(super) fn reset_idxd(&mut self, function: &str) {
        let names: Vec<String> = self.tree.names(function).filter(|name| is_device(name)).map(str::to_owned).collect();
        for name in names {
            self.disable_device(&format!("{function}/{name}"));
        }
    }

    /// What can be set of every WQ, and what has it.
    pub(super) fn idxd_state(&self) -> BTreeMap<String, BTreeMap<&'static str, String>> {
        const SET: [&str; 16] = [
            "state",
            "type",
            "mode",
            "size",
            "group_id",
            "priority",
            "threshold",
            "name",
            "driver_name",
            "block_on_fault",
            "max_transfer_size",
            "max_batch_size",
            "ats_disable",
            "prs_disable",
            "enqcmds_retries",
            "op_config",
        ];
        let devices = self.tree.names(DEVICES).filter(|name| is_device(name));
        let said = devices.filter_map(|name| {
            let dir = self.tree.resolve(&format!("{DEVICES}/{name}"), Last::Follow).ok()?;
            let text = |what: &'static str| Some((what, self.tree.text(&format!("{dir}/{what}"))?.to_owned()));
            let mut said: BTreeMap<&'static str, String> = SET.into_iter().filter_map(text).collect();
            said.extend(self.tree.link_name(&format!("{dir}/driver")).map(|driver| ("driver", driver.to_owned())));
            Some((name.to_owned(), said))
        });
        said.collect()
    }

    /// The name and directory of a device of the bus.
    fn of_bus(&self, value: &str) -> Result<(String, String), Errno> {
        let name = value.strip_suffix('\n').unwrap_or(value);
        let known = is_device(name).then(|| self.tree.resolve(&format!("{DEVICES}/{name}"), Last::Follow).ok());
        known.flatten().map(|dir| (name.to_owned(), dir)).ok_or(Errno::ENODEV)
    }

    fn unlink_bus_driver(&mut self, dir: &str) {
        let name = dir.rsplit('/').next().unwrap_or_default();
        if let Some(driver) = self.tree.link_name(&format!("{dir}/driver")).map(str::to_owned) {
            self.tree.remove(&format!("{DRIVERS}/{driver}/{name}"));
            self.tree.remove(&format!("{dir}/driver"));
        }
    }

    /// The devices below another whose names begin so.
    fn below(&self, device: &str, kind: &str) -> Vec<String> {
        let names = self.tree.names(device).filter(|name| name.starts_with(kind) && is_device(name));
        names.map(|name| format!("{device}/{name}")).collect()
    }

    fn queues(&self, device: &str) -> Vec<String> {
        self.below(device, "wq")
    }

    fn said(&self, dir: &str, attribute: &str) -> &str {
        self.tree.text(&format!("{dir}/{attribute}")).unwrap_or_default()
    }

    fn value(&self, dir: &str, attribute: &str) -> u64 {
        self.said(dir, attribute).parse().unwrap_or(0)
    }

    fn configurable(&self, device: &str) -> Result<(), Errno> {
        if self.said(device, "configurable") == "1" { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Bit 0 of `gen_cap`.
    fn blocks_on_fault(&self, device: &str) -> bool {
        let text = self.said(device, "gen_cap").trim_start_matches("0x");
        u64::from_str_radix(text, 16).is_ok_and(|cap| cap & 1 == 1)
    }

    fn set_group(&mut self, dir: &str, device: &str, group: i64) -> Result<(), Errno> {
        let most = i64::try_from(self.value(device, "max_groups")).unwrap_or(0);
        if !(-1..most).contains(&group) {
            return Err(Errno::EINVAL);
        }
        self.tree.put_text(&format!("{dir}/group_id"), group);
        self.tell_groups(device);
        Ok(())
    }

    /// `engines` and `work_queues` of every group; nothing at all when there is none.
    fn tell_groups(&mut self, device: &str) {
        for group in self.below(device, "group") {
            let index = group.rsplit('.').next().unwrap_or_default().to_owned();
            for (attribute, kind) in [("engines", "engine"), ("work_queues", "wq")] {
                let own = self.below(device, kind).into_iter().filter(|dir| self.said(dir, "group_id") == index);
                let names: Vec<String> = own.filter_map(|dir| Some(dir.rsplit('/').next()?.to_owned())).collect();
                let end = if names.is_empty() { "" } else { "\n" };
                self.tree.put(&format!("{group}/{attribute}"), format!("{}{end}", names.join(" ")));
            }
        }
    }

    fn status(&mut self, device: &str, status: CmdStatus) -> Result<(), Errno> {
        self.tree.put_text(&format!("{device}/cmd_status"), format_args!("{:#x}", status.0));
        Ok(())
    }

    fn refuse(&mut self, device: &str, status: CmdStatus, errno: Errno) -> Result<(), Errno> {
        self.status(device, status)?;
        Err(errno)
    }
}

/// The character device of a WQ, `/dev/dsa/wq0.1`.
fn node(dir: &str) -> Option<String> {
    let mut parts = dir.rsplit('/');
    let (name, device) = (parts.next()?, parts.next()?);
    Some(format!("/dev/{}/{name}", device.trim_end_matches(|c: char| c.is_ascii_digit())))
}

fn kstrtol(text: &str) -> Result<i64, Errno> {
    text.strip_suffix('\n').unwrap_or(text).parse().map_err(|_| Errno::EINVAL)
}

fn kstrtobool(text: &str) -> Result<bool, Errno> {
    match text {
        "1" | "y" | "on" => Ok(true),
        "0" | "n" | "off" => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}

fn kstrtoul(text: &str) -> Result<u64, Errno> {
    text.strip_suffix('\n').unwrap_or(text).parse().map_err(|_| Errno::EINVAL)
}
