//! The kernel's own word about PCI devices, read and written without vfioadm: what a case believes is what it reads here.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DEVICES: &str = "/sys/bus/pci/devices";
const DRIVERS: &str = "/sys/bus/pci/drivers";
const MDEVS: &str = "/sys/bus/mdev/devices";
const POLL: Duration = Duration::from_millis(10);

/// A PCI function, by its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Device(String);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Device {
    /// Every function of the machine, by address.
    pub(crate) fn all() -> Vec<Device> {
        let mut all: Vec<_> = names(Path::new(DEVICES)).into_iter().map(Device).collect();
        all.sort();
        all
    }

    /// The one at that address, which may have none.
    pub(crate) fn at(address: &str) -> Device {
        Device(address.to_owned())
    }

    /// Its address: `0000:01:00.0`.
    pub(crate) fn address(&self) -> &str {
        &self.0
    }

    /// A file or link of it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(DEVICES).join(&self.0).join(name)
    }

    /// An attribute, without its newline; empty when it cannot be read.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default().trim_end().to_owned()
    }

    /// `vendor:device`, as `15b3:101e`.
    pub(crate) fn id(&self) -> String {
        let digits = |name| self.read(name).trim_start_matches("0x").to_owned();
        format!("{}:{}", digits("vendor"), digits("device"))
    }

    /// The last component of a link.
    pub(crate) fn link(&self, name: &str) -> Option<String> {
        fs::read_link(self.path(name)).ok()?.file_name().map(|name| name.to_string_lossy().into_owned())
    }

    /// The driver it is bound to.
    pub(crate) fn driver(&self) -> Option<String> {
        self.link("driver")
    }

    /// Its override, when it has one.
    pub(crate) fn driver_override(&self) -> Option<String> {
        Some(self.read("driver_override")).filter(|value| value != "(null)" && !value.is_empty())
    }

    /// The devices of its IOMMU group, itself included.
    pub(crate) fn group(&self) -> Vec<Device> {
        let mut group: Vec<_> = names(&self.path("iommu_group/devices")).into_iter().map(Device).collect();
        group.sort();
        group
    }

    /// How many VFs it has: the links counted, since reading `sriov_numvfs` takes the device's lock.
    pub(crate) fn vfs(&self) -> Vec<Device> {
        (0..).map_while(|index| self.link(&format!("virtfn{index}"))).map(Device).collect()
    }

    /// The names in a directory of it: `net`, `nvme`.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        names(&self.path(dir))
    }

    /// Writes an attribute.
    pub(crate) fn write(&self, name: &str, value: &str) -> Result<(), String> {
        write(&self.path(name), value)
    }

    /// Unbinds it from its driver, if it has one.
    pub(crate) fn unbind(&self) -> Result<(), String> {
        match self.driver() {
            Some(driver) => write(&Path::new(DRIVERS).join(driver).join("unbind"), &self.0),
            None => Ok(()),
        }
    }

    /// Binds it to a driver whose table, or whose override, has it.
    pub(crate) fn bind(&self, driver: &str) -> Result<(), String> {
        write(&Path::new(DRIVERS).join(driver).join("bind"), &self.0)
    }
}

/// An mdev, by its UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mdev {
    uuid: String,
    kind: Option<String>,
    driver: Option<String>,
}

/// Every mdev of the machine, by UUID.
pub(crate) fn mdevs() -> Vec<Mdev> {
    let mut uuids = names(Path::new(MDEVS));
    uuids.sort();
    let link = |uuid: &str, name: &str| {
        let target = fs::read_link(Path::new(MDEVS).join(uuid).join(name)).ok()?;
        target.file_name().map(|name| name.to_string_lossy().into_owned())
    };
    uuids.into_iter().map(|uuid| Mdev { kind: link(&uuid, "mdev_type"), driver: link(&uuid, "driver"), uuid }).collect()
}

impl Mdev {
    /// Removes it; waits for whoever has it open.
    pub(crate) fn remove(&self) -> Result<(), String> {
        write(&Path::new(MDEVS).join(&self.uuid).join("remove"), "1")
    }
}

/// Writes an existing attribute in one write.
pub(crate) fn write(path: &Path, value: &str) -> Result<(), String> {
    let answer = fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    answer.map_err(|error| format!("write {value:?} to {}: {}", path.display(), errno(&error)))
}

/// The names in a directory; none when it is not there.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits until something holds.
pub(crate) fn settle(what: &str, deadline: Duration, holds: impl Fn() -> bool) -> Result<(), String> {
    let started = Instant::now();
    while !holds() {
        if started.elapsed() > deadline {
            return Err(format!("{what}: not so after {} s", deadline.as_secs()));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn errno(error: &io::Error) -> String {
    let name = match error.raw_os_error() {
        Some(1) => "EPERM",
        Some(2) => "ENOENT",
        Some(11) => "EAGAIN",
        Some(16) => "EBUSY",
        Some(19) => "ENODEV",
        Some(22) => "EINVAL",
        Some(34) => "ERANGE",
        _ => return error.to_string(),
    };
    name.to_owned()
}
