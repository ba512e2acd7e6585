//! Who has devices open: `/proc/<pid>/fd`, and `fdinfo` and `maps` where these do not tell.
//!
//! The descriptors of every process are looked at once. `maps` are read only when a device that is asked about is held and
//! no descriptor tells by whom, or when it is on a host driver: then a BAR that is mapped through sysfs is all there can
//! be. Threads share the descriptors of their process.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::path::Root;
use crate::host::{HostPath, Read, optional, vfio_device_is_open};
use crate::model::{Address, Bdf, BusName, Errno, GroupId, Holder, How, Inventory};

/// How much of a command is shown.
const LONGEST: usize = 64;

/// Where `/proc/<pid>/comm` is cut: `TASK_COMM_LEN` without its NUL (`include/linux/sched.h`, 7.2).
const COMM: usize = 15;

/// What a descriptor or a mapping says that is a VFIO device, and not which.
const ANONYMOUS: &str = "anon_inode:[vfio-device]";

/// The holders of the devices that were asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    all: BTreeMap<Address, Vec<Holder>>,
    open: BTreeMap<Bdf, Option<bool>>,
    /// How many processes could not be looked into: those of other users, for one who is not root.
    pub unreadable: usize,
}

impl Holders {
    /// Looks for those of `devices`. A process that ends meanwhile is passed over.
    ///
    /// # Kernel
    /// `fs/proc/fd.c` `proc_fd_link()`; `drivers/vfio/vfio_main.c` `vfio_device_show_fdinfo()` (7.2; 6.12 has no such
    /// line); `fs/proc/task_mmu.c` `show_map_vma()`: a mapping shows the file that it keeps open.
    pub fn read(host: &dyn Read, inventory: &Inventory, devices: &BTreeSet<Address>) -> Self {
        let mut scan = Scan::new(host, inventory);
        let mut holders = Self::default();
        if devices.is_empty() {
            return holders;
        }
        let mut processes = Vec::new();
        for pid in pids(host) {
            match scan.descriptors(pid) {
                Ok(process) => processes.push(process),
                Err(Errno::EACCES | Errno::EPERM) => holders.unreadable += 1,
                Err(_) => {}
            }
        }
        if scan.maps_tell_more(devices, &processes) {
            for process in &mut processes {
                scan.mappings(process);
            }
        }
        for (address, pid, how) in scan.place(&processes) {
            if devices.contains(&address)
                && let Some(holder) = name(host, pid, how)
            {
                holders.all.entry(address).or_default().push(holder);
            }
        }
        for device in devices {
            if let Address::Pci(bdf) = device
                && scan.is_vfio(*bdf)
            {
                holders.open.insert(*bdf, scan.is_open(*bdf));
            }
        }
        holders
    }

    /// The processes that hold a device, by their ids.
    #[must_use]
    pub fn of(&self, device: &Address) -> &[Holder] {
        self.all.get(device).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the kernel says that somebody has a device open, named or not; `None` when it does not say, and of what is
    /// no VFIO device.
    #[must_use]
    pub fn is_open(&self, bdf: Bdf) -> Option<bool> {
        self.open.get(&bdf).copied().flatten()
    }
}

/// The processes of `/proc`.
fn pids(host: &dyn Read) -> Vec<u32> {
    let names = host.list(&HostPath::processes()).unwrap_or_default();
    let mut pids: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// What one process has open.
#[derive(Default)]
struct Process {
    pid: u32,
    devices: BTreeMap<Address, How>,
    groups: BTreeSet<GroupId>,
    /// A VFIO device that nothing tells from others.
    unnamed: Option<How>,
}

impl Process {
    /// What is held in two ways is held by the first.
    fn has(&mut self, device: Address, how: How) {
        let known = self.devices.entry(device).or_insert(how);
        *known = how.min(*known);
    }

    fn has_vfio_device(&self) -> bool {
        self.unnamed.is_some() || self.devices.values().any(|how| matches!(how, How::Cdev | How::Device))
    }
}

/// What a text of `/proc` is about.
enum Thing {
    Group(GroupId),
    Cdev(String),
    Device,
    Resource(Bdf),
    Uio(String),
}

impl Thing {
    /// Reads the text of a link in `fd`, or the last field of a line of `maps`. A node that has gone ends in ` (deleted)`,
    /// and one that is seen from outside of a `chroot` has another beginning.
    fn of(text: &str) -> Option<Self> {
        let text = text.strip_suffix(" (deleted)").unwrap_or(text);
        if text == ANONYMOUS {
            return Some(Self::Device);
        }
        if let Some((_, node)) = text.rsplit_once("/dev/vfio/") {
            if let Some(cdev) = node.strip_prefix("devices/") {
                return Some(Self::Cdev(cdev.to_owned()));
            }
            return node.strip_prefix("noiommu-").unwrap_or(node).parse().ok().map(Self::Group);
        }
        if let Some((_, number)) = text.rsplit_once("/dev/uio") {
            return number.bytes().all(|b| b.is_ascii_digit()).then(|| Self::Uio(format!("uio{number}")));
        }
        let (above, number) = text.rsplit_once("/resource")?;
        let is_bar = number.starts_with(|c: char| c.is_ascii_digit());
        above.rsplit('/').next()?.parse().ok().filter(|_| is_bar).map(Self::Resource)
    }
}

/// One look at all processes.
struct Scan<'a> {
    host: &'a dyn Read,
    inventory: &'a Inventory,
    cdevs: BTreeMap<&'a BusName, Address>,
    /// The VFIO devices of each group.
    groups: BTreeMap<GroupId, Vec<Address>>,
    open: BTreeMap<Bdf, Option<bool>>,
}

impl<'a> Scan<'a> {
    fn new(host: &'a dyn Read, inventory: &'a Inventory) -> Self {
        let mut scan = Self { host, inventory, cdevs: BTreeMap::new(), groups: BTreeMap::new(), open: BTreeMap::new() };
        for function in inventory.functions.values() {
            let Some(vfio) = &function.vfio_dev else { continue };
            scan.cdevs.insert(&vfio.name, function.bdf.into());
            if let Some(group) = function.group {
                scan.groups.entry(group).or_default().push(function.bdf.into());
            }
        }
        for mdev in &inventory.mdevs {
            if let Some(cdev) = &mdev.cdev {
                scan.cdevs.insert(cdev, Address::Mdev(mdev.uuid));
            }
            if let Some(group) = mdev.group {
                scan.groups.entry(group).or_default().push(Address::Mdev(mdev.uuid));
            }
        }
        scan
    }

    fn is_vfio(&self, bdf: Bdf) -> bool {
        self.inventory.functions.get(&bdf).is_some_and(crate::model::PciFunction::is_vfio)
    }

    /// What the kernel says of a VFIO device, asked once.
    fn is_open(&mut self, bdf: Bdf) -> Option<bool> {
        let host = self.host;
        *self.open.entry(bdf).or_insert_with(|| vfio_device_is_open(host, bdf).unwrap_or(None))
    }

    /// Whether a VFIO device may be open: an mdev always may.
    fn may_be_open(&mut self, device: &Address) -> bool {
        match device {
            Address::Pci(bdf) => self.is_open(*bdf) != Some(false),
            _ => true,
        }
    }

    fn descriptors(&self, pid: u32) -> Result<Process, Errno> {
        let directory = HostPath::process(pid).attr("fd");
        let mut process = Process { pid, ..Process::default() };
        for fd in self.host.list(&directory).map_err(|error| error.errno)? {
            let Some(Ok(text)) = directory.entry(&fd).map(|path| self.host.link(&path)) else { continue };
            match Thing::of(&text) {
                Some(Thing::Cdev(name)) => {
                    if let Some(device) = self.cdev(&name).or_else(|| self.fdinfo(pid, &fd)) {
                        process.has(device, How::Cdev);
                    }
                }
                Some(Thing::Device) => match self.fdinfo(pid, &fd) {
                    Some(device) => process.has(device, How::Device),
                    None => process.unnamed = Some(How::Device),
                },
                Some(Thing::Group(group)) => drop(process.groups.insert(group)),
                Some(Thing::Resource(bdf)) => process.has(bdf.into(), How::Resource),
                Some(Thing::Uio(name)) => self.uio(&name, &mut process),
                None => {}
            }
        }
        Ok(process)
    }

    fn mappings(&self, process: &mut Process) {
        let Ok(bytes) = self.host.read(&HostPath::process(process.pid).attr("maps")) else { return };
        let by_descriptor = process.has_vfio_device();
        for line in String::from_utf8_lossy(&bytes).lines() {
            // Address, permissions, offset, device, inode; then blanks and the name.
            let Some(name) = line.splitn(6, ' ').nth(5) else { continue };
            match Thing::of(name.trim_start()) {
                Some(Thing::Cdev(name)) => {
                    if let Some(device) = self.cdev(&name) {
                        process.has(device, How::Mapping);
                    }
                }
                // Who has devices by descriptors has mapped these.
                Some(Thing::Device) if !by_descriptor => process.unnamed = Some(How::Mapping),
                Some(Thing::Resource(bdf)) => process.has(bdf.into(), How::Resource),
                Some(Thing::Uio(name)) => self.uio(&name, process),
                Some(Thing::Device | Thing::Group(_)) | None => {}
            }
        }
    }

    fn cdev(&self, name: &str) -> Option<Address> {
        self.cdevs.get(&name.parse::<BusName>().ok()?).cloned()
    }

    /// The device of a descriptor, by the line `vfio-device-syspath:` that 7.2 has.
    fn fdinfo(&self, pid: u32, fd: &str) -> Option<Address> {
        let path = HostPath::process(pid).attr("fdinfo").entry(fd)?;
        let text = self.host.text(&path).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("vfio-device-syspath:"))?;
        let address = path.trim().rsplit('/').next()?.parse().ok()?;
        matches!(address, Address::Pci(_) | Address::Mdev(_)).then_some(address)
    }

    fn uio(&self, name: &str, process: &mut Process) {
        let link = HostPath::fixed(Root::Sys, "class/uio").entry(name).map(|path| path.attr("device"));
        let target = link.and_then(|path| optional(self.host.link_name(&path)).unwrap_or(None));
        if let Some(Ok(bdf)) = target.map(|name| name.parse::<Bdf>()) {
            process.has(bdf.into(), How::Uio);
        }
    }

    /// Whether somebody holds one of `devices` of whom descriptors do not tell.
    fn maps_tell_more(&mut self, devices: &BTreeSet<Address>, processes: &[Process]) -> bool {
        let named: BTreeSet<Address> = self.place(processes).into_iter().map(|(device, ..)| device).collect();
        let untold = |device: &&Address| matches!(device, Address::Pci(_)) && !named.contains(device);
        devices.iter().filter(untold).any(|device| match device {
            Address::Pci(bdf) if self.is_vfio(*bdf) => self.is_open(*bdf) != Some(false),
            _ => true,
        })
    }

    /// Which process holds which device, each pair once, the devices' holders by pid.
    fn place(&mut self, processes: &[Process]) -> Vec<(Address, u32, How)> {
        let mut placed: BTreeMap<(Address, u32), How> = BTreeMap::new();
        let mut put = |device: &Address, pid: u32, how: How| {
            placed.entry((device.clone(), pid)).or_insert(how);
        };
        for process in processes {
            for (device, how) in &process.devices {
                put(device, process.pid, *how);
            }
        }
        // A group has one user: what that one has open of it is all that is open of it.
        for process in processes.iter().filter(|process| !process.groups.is_empty()) {
            let members: Vec<Address> =
                process.groups.iter().filter_map(|group| self.groups.get(group)).flatten().cloned().collect();
            for device in members {
                let open = process.unnamed.filter(|_| self.may_be_open(&device));
                put(&device, process.pid, open.unwrap_or(How::Group));
            }
        }
        let mut open: Vec<Address> = Vec::new();
        if processes.iter().any(|process| process.unnamed.is_some() && process.groups.is_empty()) {
            let named: BTreeSet<&Address> =
                placed.iter().filter(|(_, how)| **how < How::OneOf).map(|((device, _), _)| device).collect();
            let all = self.inventory.functions.values().filter(|function| function.is_vfio());
            let unnamed: Vec<Bdf> =
                all.map(|function| function.bdf).filter(|bdf| !named.contains(&Address::from(*bdf))).collect();
            open = unnamed.into_iter().filter(|bdf| self.is_open(*bdf) == Some(true)).map(Address::from).collect();
        }
        for process in processes.iter().filter(|process| process.groups.is_empty()) {
            let Some(how) = process.unnamed else { continue };
            let how = if open.len() > 1 { How::OneOf } else { how };
            for device in &open {
                placed.entry((device.clone(), process.pid)).or_insert(how);
            }
        }
        placed.into_iter().map(|((device, pid), how)| (device, pid, how)).collect()
    }
}

/// The process by name; `None` when it has ended.
fn name(host: &dyn Read, pid: u32, how: How) -> Option<Holder> {
    let path = HostPath::process(pid);
    let text = |name: &'static str| {
        let bytes = host.read(&path.attr(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let comm = text("comm")?.trim_end_matches('\n').to_owned();
    let line = text("cmdline").unwrap_or_default();
    let words: Vec<&str> = line.split('\0').collect();
    let program = words.first().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
    let cut = comm.len() >= COMM && program.starts_with(&comm);
    let command = if cut { program } else { &comm };
    let vm = if [command, program].iter().any(|name| name.contains("qemu") || name.contains("kvm")) {
        guest(&words)
    } else {
        None
    };
    Some(Holder { pid, command: printable(command), vm: vm.map(printable), how })
}

/// The name of QEMU's guest: `-name web1,…` or `-name guest=web1,…`.
fn guest<'a>(words: &[&'a str]) -> Option<&'a str> {
    let at = words.iter().position(|word| matches!(*word, "-name" | "--name"))?;
    let mut options = words.get(at + 1)?.split(',');
    let first = options.next()?;
    if !first.contains('=') {
        return Some(first).filter(|name| !name.is_empty());
    }
    std::iter::once(first).chain(options).find_map(|option| option.strip_prefix("guest="))
}

/// What a process calls itself is not to be trusted on a terminal.
fn printable(text: &str) -> String {
    text.chars().take(LONGEST).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
