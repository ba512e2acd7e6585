//! What devices are made of besides PCI functions and mdevs: idxd devices, vGPUs of NVIDIA's driver, modules of mdev parents.

use super::Recorder;
use crate::host::HostPath;
use crate::host::fake::tree::HIDDEN;
use crate::host::path::Root;

/// What is recorded of a device, WQ, engine or group of idxd; `cdev_minor` waits for `wq_lock`, and the device's `errors` and
/// registers are of its past.
const IDXD: [&str; 39] = [
    "ats_disable",
    "batch_progress_limit",
    "block_on_fault",
    "cdev_major",
    "clients",
    "cmd_status",
    "configurable",
    "desc_progress_limit",
    "driver_name",
    "engines",
    "enqcmds_retries",
    "gen_cap",
    "group_id",
    "max_batch_size",
    "max_engines",
    "max_groups",
    "max_read_buffers",
    "max_transfer_size",
    "max_work_queues",
    "max_work_queues_size",
    "mode",
    "name",
    "numa_node",
    "op_cap",
    "op_config",
    "pasid_enabled",
    "priority",
    "prs_disable",
    "read_buffer_limit",
    "read_buffers_allowed",
    "read_buffers_reserved",
    "size",
    "state",
    "threshold",
    "traffic_class_a",
    "traffic_class_b",
    "type",
    "version",
    "work_queues",
];

/// Modules that register an mdev parent of their own when they are loaded: no device has an alias for them.
const PARENTS: [&str; 3] = ["mtty", "mdpy", "mbochs"];

impl Recorder<'_> {
    /// `/sys/bus/dsa`: the devices, where they hang below their PCI function, and the drivers.
    pub(super) fn idxd(&mut self) {
        let bus = HostPath::fixed(Root::Sys, "bus/dsa/devices");
        for name in self.names(&bus) {
            let Some(path) = bus.entry(&name) else { continue };
            let Ok(text) = self.host.link(&path) else { continue };
            let place = self.tree.target(&bus.to_string(), &text);
            self.tree.put_link(&path.to_string(), text);
            self.tree.put_dir(&place);
            for attribute in IDXD {
                if let Ok(bytes) = self.host.read(&path.attr(attribute)) {
                    self.tree.put(&format!("{place}/{attribute}"), bytes);
                }
            }
            if let Ok(text) = self.host.link(&path.attr("driver")) {
                self.tree.put_link(&format!("{place}/driver"), text);
            }
        }
        let drivers = HostPath::fixed(Root::Sys, "bus/dsa/drivers");
        for name in self.names(&drivers) {
            let Some(driver) = drivers.entry(&name) else { continue };
            for entry in self.names(&driver) {
                match (entry.as_str(), driver.entry(&entry)) {
                    ("bind" | "unbind", Some(path)) => self.tree.put(&path.to_string(), ""),
                    ("module" | "uevent", _) | (_, None) => {}
                    (_, Some(path)) => drop(self.copy_link(&path)),
                }
            }
        }
        for nodes in ["dsa", "iax"].map(|kind| HostPath::fixed(Root::Dev, kind)) {
            for name in self.names(&nodes) {
                self.tree.put(&format!("{nodes}/{name}"), "");
            }
        }
        self.parents();
    }

    /// `/sys/bus/auxiliary`: the subfunctions, where they hang below their PCI function.
    pub(super) fn subfunctions(&mut self) {
        let bus = HostPath::fixed(Root::Sys, "bus/auxiliary/devices");
        for name in self.names(&bus).into_iter().filter(|name| name.contains(".sf.")) {
            let Some(path) = bus.entry(&name) else { continue };
            let (Ok(text), Ok(sfnum)) = (self.host.link(&path), self.host.read(&path.attr("sfnum"))) else { continue };
            let place = self.tree.target(&bus.to_string(), &text);
            self.tree.put_link(&path.to_string(), text);
            self.tree.put(&format!("{place}/sfnum"), sfnum);
            if let Ok(text) = self.host.link(&path.attr("driver")) {
                self.tree.put_link(&format!("{place}/driver"), text);
            }
        }
    }

    /// `nvidia/` of a VF: what it is, and what it could be made.
    pub(super) fn vgpu(&mut self, path: &HostPath) {
        for attribute in ["current_vgpu_type", "creatable_vgpu_types"] {
            self.copy(&path.attr(attribute));
        }
    }

    /// Which of the modules that make mdev parents the kernel has, by their lines in `modules.dep`.
    fn parents(&mut self) {
        let path = HostPath::fixed(Root::Modules, "modules.dep");
        let text = self.host.read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let there = |module: &str| {
            let file = format!("/{module}.ko");
            text.lines().filter_map(|line| line.split(':').next()).any(|path| path.contains(&file))
        };
        let lines: String =
            PARENTS.into_iter().filter(|module| there(module)).map(|module| format!("{module}\n")).collect();
        if !lines.is_empty() {
            self.tree.put(&format!("{HIDDEN}/modprobe/modules"), lines);
        }
    }
}
