//! Processes that have something open, as `/proc` shows them; and what an open device shows in sysfs.

use super::iommu::{How, Opened};
use super::kernel::{Kernel, dev};
use super::tree::Node;
use crate::host::Open;
use crate::model::{Bdf, BusName, Errno};

/// A process of a fake host that opens things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    words: Vec<String>,
    mapped_alone: bool,
    yields: bool,
}

impl Process {
    /// A process with a command line, cut at blanks, that keeps what it opens until it is closed.
    #[must_use]
    pub fn new(pid: u32, line: &str) -> Self {
        let words = line.split_whitespace().map(str::to_owned).collect();
        Self { pid, words, mapped_alone: false, yields: false }
    }

    /// The same, which maps a BAR of the device and closes every descriptor.
    #[must_use]
    pub const fn with_a_mapping_alone(mut self) -> Self {
        self.mapped_alone = true;
        self
    }

    /// The same, which closes a device when the kernel asks it to (`VFIO_PCI_REQ_IRQ_INDEX`).
    #[must_use]
    pub const fn that_yields(mut self) -> Self {
        self.yields = true;
        self
    }

    /// This one.
    pub(super) fn own() -> Self {
        Self::new(std::process::id(), "vfioadm")
    }

    pub(super) const fn yields(&self) -> bool {
        self.yields
    }
}

impl Kernel {
    /// Shows what a process has opened.
    ///
    /// # Kernel
    /// `fs/proc/fd.c` `proc_fd_link()`, `seq_show()`; `drivers/vfio/vfio_main.c` `vfio_device_show_fdinfo()`, from 6.18 on;
    /// `fs/proc/task_mmu.c` `show_map_vma()` (7.2). Contract: the `holders:` cases.
    pub(super) fn show_process(&mut self, number: u64, process: &Process, what: &Open) {
        let dir = format!("/proc/{}", process.pid);
        let program = process.words.first().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
        self.tree.put_text(&format!("{dir}/comm"), program.chars().take(15).collect::<String>());
        self.tree.put(&format!("{dir}/cmdline"), process.words.join("\0") + "\0");
        self.tree.put_dir(&format!("{dir}/fd"));
        let cdev = |name: &BusName| format!("/dev/vfio/devices/{name}");
        let files: Vec<String> = match what {
            Open::Group(id) => vec![self.group_file(id.0)],
            Open::Container(id) => vec!["/dev/vfio/vfio".into(), self.group_file(id.0)],
            Open::GroupDevice(id, _) => {
                vec!["/dev/vfio/vfio".into(), self.group_file(id.0), "anon_inode:[vfio-device]".into()]
            }
            Open::Cdev(name) => vec![cdev(name)],
            Open::BoundCdev(name) => vec!["/dev/iommu".into(), cdev(name)],
        };
        if process.mapped_alone {
            let file = files.last().map_or("", String::as_str);
            let maps = format!("7f0000000000-7f0000001000 rw-s 00000000 00:0f 12                         {file}\n");
            self.tree.put(&format!("{dir}/maps"), maps);
            self.shown.insert(number, vec![format!("{dir}/maps")]);
            return;
        }
        if !self.tree.has(&format!("{dir}/maps")) {
            self.tree.put(&format!("{dir}/maps"), "");
        }
        let device = self.opens.device(number);
        let mut places = Vec::new();
        for (index, file) in (number * 4..).zip(files) {
            let mut info = String::from("pos:\t0\nflags:\t02100002\n");
            if let Some(bdf) = device
                && (file.contains("[vfio-device]") || file.contains("/devices/"))
                && self.tells_syspath()
            {
                info += &format!("vfio-device-syspath: /sys/{}\n", self.device_link(bdf));
            }
            self.tree.put_link(&format!("{dir}/fd/{index}"), file);
            self.tree.put(&format!("{dir}/fdinfo/{index}"), info);
            places.extend([format!("{dir}/fd/{index}"), format!("{dir}/fdinfo/{index}")]);
        }
        self.shown.insert(number, places);
    }

    /// Closes what was opened, and takes it out of `/proc`; a process that has nothing open any more with it.
    pub(super) fn close(&mut self, number: u64) {
        for place in self.shown.remove(&number).unwrap_or_default() {
            self.tree.remove(&place);
            let dir = place.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
            let idle = |name: &str| self.tree.names(&format!("{dir}/{name}")).next().is_none();
            if idle("fd") && self.tree.file(&format!("{dir}/maps")).is_none_or(<[u8]>::is_empty) {
                self.tree.remove(&dir);
            }
        }
        if let Some(bdf) = self.opens.close(number) {
            self.count_opens(bdf);
        }
    }

    /// Asks who has a device open to close it: some do.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_request()` (7.2).
    pub(super) fn request(&mut self, bdf: Bdf) {
        for number in self.opens.yielding(bdf) {
            self.close(number);
        }
    }

    /// What an open VFIO device shows: it is enabled, and awake.
    ///
    /// # Kernel
    /// `drivers/vfio/pci/vfio_pci_core.c` `vfio_pci_core_enable()`, `vfio_pci_core_disable()` (7.2). Contract: the `enable:`
    /// cases.
    pub(super) fn count_opens(&mut self, bdf: Bdf) {
        let open = self.opens.enables(bdf);
        let changed = if open { self.enabled.insert(bdf) } else { self.enabled.remove(&bdf) };
        if !changed {
            return;
        }
        if open {
            self.open_function(bdf);
        } else {
            self.close_function(bdf);
        }
        self.enable(bdf, if open { 1 } else { -1 });
        self.put_power(bdf, if open { ("auto", "active", "D0") } else { ("auto", "suspended", "D3hot") });
    }

    /// Counts `enable` up or down, where the host has it.
    ///
    /// # Kernel
    /// `drivers/pci/pci.c` `pci_enable_device()`, `pci_disable_device()` (7.2).
    pub(super) fn enable(&mut self, bdf: Bdf, by: i32) {
        if let Some(count) = self.number::<i32>(bdf, "enable") {
            self.tree.put_text(&format!("{}/enable", dev(bdf)), (count + by).max(0));
        }
    }

    /// `enable`: counts a device without driver up or down.
    ///
    /// # Kernel
    /// `drivers/pci/pci-sysfs.c` `enable_store()`: `EBUSY` when it has a driver, `EIO` down from 0 (7.2). Contract: `enable:
    /// set by hand …`.
    pub(super) fn enable_store(&mut self, bdf: Bdf, value: &str) -> Result<(), Errno> {
        let up = value.trim().parse::<u64>().map_err(|_| Errno::EINVAL)? > 0;
        if self.driver_name(bdf).is_some() {
            return Err(Errno::EBUSY);
        }
        if !up && self.number(bdf, "enable") == Some(0) {
            return Err(Errno::EIO);
        }
        self.enable(bdf, if up { 1 } else { -1 });
        Ok(())
    }

    /// What the processes of a recorded host have open; and a VFIO device that is enabled and awake is open, by whom it may
    /// be.
    pub(super) fn adopt_processes(&mut self) {
        let pids: Vec<u32> = self.tree.names("/proc").filter_map(|name| name.parse().ok()).collect();
        for pid in pids {
            let dir = format!("/proc/{pid}/fd");
            let files: Vec<(String, String)> = self
                .tree
                .names(&dir)
                .filter_map(|fd| Some((fd.to_owned(), self.tree.link(&format!("{dir}/{fd}"))?.to_owned())))
                .collect();
            let contained = files.iter().any(|(_, file)| file == "/dev/vfio/vfio");
            for (fd, file) in files {
                let info = self.tree.text(&format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
                let device: Option<Bdf> = info
                    .lines()
                    .find_map(|line| line.strip_prefix("vfio-device-syspath:")?.rsplit('/').next()?.parse().ok());
                let opened = if let Some(cdev) = file.strip_prefix("/dev/vfio/devices/") {
                    self.cdev(cdev).map(|(group, device)| Opened::new(group, How::BoundCdev, device))
                } else if let Some(bdf) = device {
                    self.group(bdf).map(|group| Opened::new(group, How::Container, Some(bdf)))
                } else {
                    let number = file.strip_prefix("/dev/vfio/").and_then(|node| node.parse().ok());
                    let how = if contained { How::Container } else { How::Group };
                    number.map(|group| Opened::new(group, how, None))
                };
                if let Some(opened) = opened {
                    self.enabled.extend(opened.device);
                    self.opens.add(opened);
                }
            }
        }
        let enabled = |bdf: &Bdf| {
            let asleep = self.tree.text(&format!("{}/power/runtime_status", dev(*bdf))) == Some("suspended");
            !asleep && self.number::<u32>(*bdf, "enable").is_some_and(|count| count > 0)
        };
        let unseen: Vec<Bdf> =
            self.vdevs.keys().filter(|bdf| enabled(bdf) && !self.opens.has(**bdf)).copied().collect();
        for bdf in unseen {
            if let Some(group) = self.group(bdf) {
                self.enabled.insert(bdf);
                self.opens.add(Opened::new(group, How::BoundCdev, Some(bdf)));
            }
        }
        let open: Vec<Bdf> = self.enabled.iter().copied().collect();
        open.into_iter().for_each(|bdf| self.open_function(bdf));
    }

    /// The path of a group's node.
    fn group_file(&self, group: u32) -> String {
        let unsafe_node = format!("/dev/vfio/noiommu-{group}");
        if matches!(self.tree.node(&unsafe_node), Some(Node::File(_))) {
            unsafe_node
        } else {
            format!("/dev/vfio/{group}")
        }
    }

    /// Whether `fdinfo` names the device.
    fn tells_syspath(&self) -> bool {
        let release = self.tree.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        numbers.next().is_some_and(|major| (major, numbers.next().unwrap_or(0)) >= (6, 18))
    }
}
