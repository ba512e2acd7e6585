//! What is around the devices: interfaces stacked on theirs, what storage is part of, console, TPM and random numbers, and
//! what other tools are told to do.

use std::collections::BTreeSet;

use super::Recorder;
use crate::host::HostPath;
use crate::host::path::Root;
use crate::host::record::files;
use crate::model::libvirt::Domain;

impl Recorder<'_> {
    /// All of it.
    pub(super) fn around(&mut self) {
        self.stacked_interfaces();
        self.storage();
        self.duties();
        self.rules();
    }

    /// Bonds, bridges, VLANs and the ports of Open vSwitch: their links, their kind, and no address.
    fn stacked_interfaces(&mut self) {
        let class = HostPath::fixed(Root::Sys, "class/net");
        for name in self.names(&class) {
            let Some(path) = class.entry(&name) else { continue };
            let entries: BTreeSet<String> = self.host.list(&path).unwrap_or_default().into_iter().collect();
            let is_link =
                |entry: &&String| *entry == "master" || entry.starts_with("upper_") || entry.starts_with("lower_");
            let links: Vec<&String> = entries.iter().filter(is_link).collect();
            let Some(text) = self.host.link(&path).ok().filter(|_| !links.is_empty()) else { continue };
            let (shown, text) = (self.disguise.names_in(&name), self.disguise.names_in(&text));
            let place = self.tree.target(&class.to_string(), &text);
            let there = format!("{class}/{shown}");
            if !self.tree.has(&there) {
                self.tree.put_link(&there, text);
            }
            // A port of Open vSwitch has a master, and nothing below it.
            self.tree.put_dir(&place);
            for entry in links {
                if let Some(text) = path.entry(entry).and_then(|link| self.host.link(&link).ok()) {
                    let (entry, text) = (self.disguise.names_in(entry), self.disguise.names_in(&text));
                    self.tree.put_link(&format!("{place}/{entry}"), text);
                }
            }
            for kind in ["bonding", "bridge"].into_iter().filter(|kind| entries.contains(*kind)) {
                self.tree.put_dir(&format!("{place}/{kind}"));
            }
            let uevent = self.host.text(&path.attr("uevent")).unwrap_or_default();
            if let Some(kind) = uevent.lines().find(|line| line.starts_with("DEVTYPE=")) {
                self.tree.put_text(&format!("{place}/uevent"), kind);
            }
        }
    }

    /// NVMe subsystems: which controllers a multipath namespace hangs on. Their names only: a subsystem's NQN has a
    /// serial.
    pub(super) fn subsystems(&mut self) {
        let class = HostPath::fixed(Root::Sys, "class/nvme-subsystem");
        for name in self.names(&class) {
            let Some(path) = class.entry(&name) else { continue };
            let Ok(text) = self.host.link(&path) else { continue };
            let place = self.tree.target(&class.to_string(), &text);
            self.tree.put_link(&path.to_string(), text);
            for entry in self.names(&path).iter().filter(|entry| entry.starts_with("nvme")) {
                if let Some(text) = path.entry(entry).and_then(|link| self.host.link(&link).ok()) {
                    self.tree.put_link(&format!("{place}/{entry}"), text);
                }
            }
        }
    }

    /// What made the block devices that are stacked, what udev found on all, and the ZFS pools.
    fn storage(&mut self) {
        let class = HostPath::fixed(Root::Sys, "class/block");
        for name in self.names(&class) {
            let Some(path) = class.entry(&name) else { continue };
            let Ok(text) = self.host.link(&path) else { continue };
            let place = self.tree.target(&class.to_string(), &text);
            if let Ok(uuid) = self.host.text(&path.attr("dm/uuid")) {
                self.tree.put_text(&format!("{place}/dm/uuid"), files::dm_uuid(&uuid));
            }
            for attribute in ["dm/name", "md/level"] {
                if let Ok(text) = self.host.text(&path.attr(attribute)) {
                    self.tree.put_text(&format!("{place}/{attribute}"), self.disguise.uuids(&text));
                }
            }
            let Ok(number) = self.host.text(&path.attr("dev")) else { continue };
            let Some(known) = HostPath::fixed(Root::Run, "udev/data").entry(&format!("b{number}")) else { continue };
            let kept = self.host.text(&known).map(|text| files::udev(&text)).unwrap_or_default();
            if !kept.is_empty() {
                self.tree.put(&known.to_string(), kept);
            }
        }
        let pools = HostPath::fixed(Root::Proc, "spl/kstat/zfs");
        for name in self.names(&pools) {
            if let Some(pool) = pools.entry(&name).filter(|pool| self.host.list(pool).is_ok()) {
                self.tree.put_dir(&pool.to_string());
            }
        }
    }

    /// Which terminal has the console, framebuffers, TPMs, and who gives random numbers.
    fn duties(&mut self) {
        let active = HostPath::fixed(Root::Sys, "class/tty/console/active");
        self.copy(&active);
        let consoles = self.host.text(&active).unwrap_or_default();
        for name in consoles.split_whitespace() {
            if let Some(path) = HostPath::fixed(Root::Sys, "class/tty").entry(name) {
                self.copy_link(&path);
            }
        }
        for directory in ["class/graphics", "class/tpm", "bus/virtio/drivers/virtio_rng"] {
            let directory = HostPath::fixed(Root::Sys, directory);
            for name in self.names(&directory) {
                let ours = ["fb", "tpm", "virtio"]
                    .iter()
                    .any(|kind| name.strip_prefix(kind).is_some_and(|number| number.parse::<u32>().is_ok()));
                if let Some(path) = directory.entry(&name).filter(|_| ours) {
                    self.copy_link(&path);
                }
            }
        }
        self.copy(&HostPath::fixed(Root::Sys, "class/misc/hw_random/rng_current"));
    }

    /// What other tools are told to do, and nothing else that they are told.
    fn rules(&mut self) {
        let line = HostPath::fixed(Root::Proc, "cmdline");
        let kept = self.host.text(&line).map(|text| files::ids_on_command_line(&text)).unwrap_or_default();
        if !kept.is_empty() {
            self.tree.put_text(&line.to_string(), kept);
        }
        for directory in [HostPath::fixed(Root::Etc, "modprobe.d"), HostPath::fixed(Root::Run, "modprobe.d")] {
            for name in self.names(&directory).iter().filter(|name| name.ends_with(".conf")) {
                let Some(path) = directory.entry(name) else { continue };
                let text = self.host.read(&path).unwrap_or_default();
                let kept = files::vfio_options(&String::from_utf8_lossy(&text));
                if !kept.is_empty() {
                    self.tree.put(&path.to_string(), kept);
                }
            }
        }
        let directory = HostPath::fixed(Root::Etc, "libvirt/qemu");
        let mut count = 0;
        for name in self.names(&directory).iter().filter(|name| name.ends_with(".xml")) {
            let Some(path) = directory.entry(name) else { continue };
            let mut domain = Domain::managed(&String::from_utf8_lossy(&self.host.read(&path).unwrap_or_default()));
            if domain.functions.is_empty() {
                continue;
            }
            count += 1;
            if !self.disguise.keeps() {
                domain.name = format!("domain-{count}");
            }
            self.tree.put(&format!("{directory}/domain-{count}.xml"), domain.to_xml());
        }
        let directory = HostPath::fixed(Root::Etc, "driverctl.d");
        for name in self.names(&directory).iter().filter(|name| name.starts_with("pci-")) {
            if let Some(path) = directory.entry(name) {
                self.copy(&path);
            }
        }
        let directory = HostPath::fixed(Root::Etc, "mdevctl.d");
        for name in self.names(&directory).iter().filter(|name| name.parse::<crate::model::Bdf>().is_ok()) {
            let Some(parent) = directory.entry(name) else { continue };
            for uuid in self.names(&parent) {
                self.tree.put(&format!("{parent}/{uuid}"), "");
            }
        }
    }
}
