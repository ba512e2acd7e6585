//! The machine that a case stands on: a host with the power to write, and its devices by the part they play.

use std::fmt::Debug;
use std::time::Duration;

use vfioadm::host::path::Root;
use vfioadm::host::{Blacklist, Claim, Held, Host, HostError, HostPath, Lock, Open, Write, optional};
use vfioadm::model::vf::{NetdevName, VfSetting};
use vfioadm::model::{Bdf, BusName, DriverName, Errno, GroupId, ModAlias, ModuleName, VfIndex};

/// A device by what it is; the lab's `machine.rs` has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// 1234:11e8: no host driver, no variant.
    Edu,
    /// 8086:100e: the first of two behind one bridge, on e1000.
    E1000,
    /// 8086:100e: the second.
    OtherE1000,
    /// The bridge above both.
    Bridge,
    /// 8086:10c9: an SR-IOV PF on igb, which takes its VFs with it when it goes.
    Igb,
    /// 1b36:0010 with SR-IOV: a PF on nvme, which leaves its VFs behind when it goes.
    NvmePf,
    /// 1af4:1041 on virtio-pci.
    Virtio,
    /// 15b3:101e: mlx5_vfio_pci takes it.
    Mlx5Vf,
    /// 15b3:1018: none of the kernel's variants has it, and the lab's own have.
    Cx5,
    /// 8086:4941: qat_vfio_pci refuses it.
    QatVf,
    /// 1dd8:1003: pds_vfio_pci refuses it.
    PdsVf,
}

impl Role {
    const fn ids(self) -> (u16, u16) {
        match self {
            Self::Edu => (0x1234, 0x11e8),
            Self::E1000 | Self::OtherE1000 => (0x8086, 0x100e),
            Self::Bridge => (0x1b36, 0x000e),
            Self::Igb => (0x8086, 0x10c9),
            Self::NvmePf => (0x1b36, 0x0010),
            Self::Virtio => (0x1af4, 0x1041),
            Self::Mlx5Vf => (0x15b3, 0x101e),
            Self::Cx5 => (0x15b3, 0x1018),
            Self::QatVf => (0x8086, 0x4941),
            Self::PdsVf => (0x1dd8, 0x1003),
        }
    }
}

/// The answer to a write: done, or the errno.
pub(crate) type Answer = Result<(), Errno>;

/// A machine, locked for one case.
pub struct Ground<'a> {
    host: &'a dyn Host,
    lock: Box<dyn Lock + 'a>,
}

impl<'a> Ground<'a> {
    /// Takes the host's lock for a case.
    ///
    /// # Errors
    /// In words: the lock is held, or cannot be made.
    pub fn new(host: &'a dyn Host) -> Result<Self, String> {
        Ok(Self { host, lock: host.lock(&Claim::new("a case of the contract", host)).map_err(said)? })
    }

    /// The device in a part.
    pub(crate) fn device(&self, role: Role) -> Result<Bdf, String> {
        let mut found = Vec::new();
        for name in self.host.list(&HostPath::pci_devices()).map_err(said)? {
            let Ok(bdf) = name.parse::<Bdf>() else { continue };
            let alias: ModAlias =
                self.host.text(&HostPath::pci(bdf).attr("modalias")).map_err(said)?.parse().map_err(said)?;
            let plays = (alias.vendor(), alias.device()) == role.ids();
            if plays && (role != Role::NvmePf || self.has(bdf, "sriov_totalvfs")?) {
                found.push(bdf);
            }
        }
        found.sort();
        found
            .into_iter()
            .nth(usize::from(role == Role::OtherE1000))
            .ok_or_else(|| format!("the machine has no {role:?}"))
    }

    fn has(&self, bdf: Bdf, attr: &'static str) -> Result<bool, String> {
        Ok(optional(self.host.read(&HostPath::pci(bdf).attr(attr))).map_err(said)?.is_some())
    }

    /// The driver that the kernel shows.
    pub(crate) fn driver(&self, bdf: Bdf) -> Result<Option<String>, String> {
        optional(self.host.link_name(&HostPath::pci(bdf).attr("driver"))).map_err(said)
    }

    /// An attribute, as it reads.
    pub(crate) fn read(&self, bdf: Bdf, attr: &'static str) -> Result<String, String> {
        self.host.text(&HostPath::pci(bdf).attr(attr)).map_err(said)
    }

    /// Writes an attribute of a device.
    pub(crate) fn write(&self, bdf: Bdf, attr: &'static str, value: &str) -> Answer {
        self.lock.hand().write(&HostPath::pci(bdf).attr(attr), value).map_err(|error| error.errno)
    }

    /// Writes an attribute of a device, which must succeed.
    pub(crate) fn put(&self, bdf: Bdf, attr: &'static str, value: &str) -> Result<(), String> {
        self.lock.hand().write(&HostPath::pci(bdf).attr(attr), value).map_err(said)
    }

    /// Writes `drivers/<driver>/bind`.
    pub(crate) fn bind(&self, driver: &str, device: &str) -> Answer {
        self.driver_attr(driver, "bind", device)
    }

    /// Writes `drivers/<driver>/unbind`.
    pub(crate) fn unbind(&self, driver: &str, device: &str) -> Answer {
        self.driver_attr(driver, "unbind", device)
    }

    fn driver_attr(&self, driver: &str, attr: &'static str, value: &str) -> Answer {
        let driver: DriverName = driver.parse().map_err(|_| Errno::EINVAL)?;
        self.lock.hand().write(&HostPath::pci_driver(&driver).attr(attr), value).map_err(|error| error.errno)
    }

    /// Writes any attribute.
    pub(crate) fn write_to(&self, path: &HostPath, value: &str) -> Answer {
        self.lock.hand().write(path, value).map_err(|error| error.errno)
    }

    /// Writes `drivers_probe` of the bus.
    pub(crate) fn drivers_probe(&self, device: &str) -> Answer {
        self.lock
            .hand()
            .write(&HostPath::fixed(Root::Sys, "bus/pci/drivers_probe"), device)
            .map_err(|error| error.errno)
    }

    /// Unbinds a device from whatever it is on.
    pub(crate) fn release(&self, bdf: Bdf) -> Result<(), String> {
        match self.driver(bdf)? {
            Some(driver) => expect("unbind", self.unbind(&driver, &bdf.to_string()), Ok(())),
            None => Ok(()),
        }
    }

    /// Binds a device to a driver by its override, from whatever it is on.
    pub(crate) fn give(&self, bdf: Bdf, driver: &str) -> Answer {
        self.release(bdf).map_err(|_| Errno::EIO)?;
        self.write(bdf, "driver_override", driver)?;
        self.bind(driver, &bdf.to_string())
    }

    /// Gives a device to vfio-pci, which must succeed.
    pub(crate) fn give_to_vfio(&self, bdf: Bdf) -> Result<(), String> {
        self.load("vfio_pci")?;
        expect("bind to vfio-pci", self.give(bdf, "vfio-pci"), Ok(()))?;
        self.on(bdf, Some("vfio-pci"))
    }

    /// Loads a module, which must exist.
    pub(crate) fn load(&self, module: &str) -> Result<(), String> {
        if self.try_load(module)? { Ok(()) } else { Err(format!("this kernel has no module {module}")) }
    }

    /// Loads a module; false when this kernel has not got it.
    pub(crate) fn try_load(&self, module: &str) -> Result<bool, String> {
        let name: ModuleName = module.parse().map_err(said)?;
        match self.lock.hand().load_module(&name, Blacklist::Ignore) {
            Ok(()) => Ok(true),
            Err(HostError { errno: Errno::ENOENT, .. }) => Ok(false),
            Err(error) => Err(said(error)),
        }
    }

    /// The PCI drivers that a module has registered: N of `/sys/module/<module>/drivers/pci:N`.
    pub(crate) fn drivers_of(&self, module: &str) -> Result<Vec<String>, String> {
        let name: ModuleName = module.parse().map_err(said)?;
        let names =
            optional(self.host.list(&HostPath::module(&name).attr("drivers"))).map_err(said)?.unwrap_or_default();
        Ok(names.iter().filter_map(|name| name.strip_prefix("pci:")).map(str::to_owned).collect())
    }

    /// The VFs of a PF, by index.
    pub(crate) fn vfs(&self, pf: Bdf) -> Result<Vec<Bdf>, String> {
        let mut vfs = Vec::new();
        for index in 0..=u16::MAX {
            let Some(path) = HostPath::pci(pf).entry(&format!("virtfn{index}")) else { break };
            match optional(self.host.link_name(&path)).map_err(said)? {
                Some(name) => vfs.push(name.parse().map_err(said)?),
                None => break,
            }
        }
        Ok(vfs)
    }

    /// The IOMMU group of a device.
    pub(crate) fn group(&self, bdf: Bdf) -> Result<GroupId, String> {
        let name = self.host.link_name(&HostPath::pci(bdf).attr("iommu_group")).map_err(said)?;
        name.parse().map(GroupId).map_err(|error| format!("{name} is no IOMMU group: {error}"))
    }

    /// The cdev of a device on a VFIO driver.
    pub(crate) fn cdev(&self, bdf: Bdf) -> Result<BusName, String> {
        let names = self.host.list(&HostPath::pci(bdf).attr("vfio-dev")).map_err(said)?;
        let [name] = &names[..] else { return Err(format!("{bdf} has the VFIO devices {names:?}, not one")) };
        name.parse().map_err(said)
    }

    /// A hand that writes.
    pub(crate) fn hand(&self) -> Box<dyn Write + Send + '_> {
        self.lock.hand()
    }

    /// The interface of a function.
    pub(crate) fn netdev(&self, bdf: Bdf) -> Result<NetdevName, String> {
        let names = self.host.list(&HostPath::pci(bdf).attr("net")).map_err(said)?;
        names.first().ok_or_else(|| format!("{bdf} has no interface"))?.parse().map_err(said)
    }

    /// Brings an interface up, and waits for its link.
    pub(crate) fn up(&self, netdev: &NetdevName) -> Result<(), String> {
        let path = HostPath::netdev(netdev);
        let flags = self.host.text(&path.attr("flags")).map_err(said)?;
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).map_err(said)?;
        self.lock.hand().write(&path.attr("flags"), &format!("{:#x}", flags | 1)).map_err(said)?;
        self.until("the link is up", || Ok(self.host.text(&path.attr("operstate")).map_err(said)? == "up"))
    }

    /// Sets one attribute of a VF.
    pub(crate) fn set_vf(&self, netdev: &NetdevName, index: VfIndex, setting: VfSetting) -> Answer {
        self.lock.hand().set_vf(netdev, index, setting).map_err(|error| error.errno)
    }

    /// The machine, to be looked at.
    pub(crate) fn host(&self) -> &dyn Host {
        self.host
    }

    /// Waits for what the kernel does a moment later.
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> Result<bool, String>) -> Result<(), String> {
        self.within(10, what, holds)
    }

    /// The same of what takes so many seconds.
    pub(crate) fn within(
        &self,
        seconds: u64,
        what: &str,
        holds: impl Fn() -> Result<bool, String>,
    ) -> Result<(), String> {
        let deadline = self.host.now() + Duration::from_secs(seconds);
        while !holds()? {
            if self.host.now() > deadline {
                return Err(format!("not within {seconds} s: {what}"));
            }
            self.host.nap(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Opens a VFIO node.
    pub(crate) fn open(&self, what: &Open) -> Result<Box<dyn Held>, Errno> {
        self.host.open(what).map_err(|error| error.errno)
    }

    /// Opens a VFIO node, which must succeed.
    pub(crate) fn hold(&self, what: &Open) -> Result<Box<dyn Held>, String> {
        self.host.open(what).map_err(said)
    }

    /// Expects the kernel to show a driver, or none.
    pub(crate) fn on(&self, bdf: Bdf, driver: Option<&str>) -> Result<(), String> {
        expect(&format!("driver of {bdf}"), self.driver(bdf)?.as_deref(), driver)
    }

    /// Expects the override to read so.
    pub(crate) fn overridden(&self, bdf: Bdf, text: &str) -> Result<(), String> {
        expect(&format!("override of {bdf}"), self.read(bdf, "driver_override")?.as_str(), text)
    }
}

/// Expects two things to be the same.
pub(crate) fn expect<T: PartialEq + Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?}, expected {wanted:?}")) }
}

/// Expects an open to be refused.
pub(crate) fn refused(what: &str, got: Result<Box<dyn Held>, Errno>, errno: Errno) -> Result<(), String> {
    expect(what, got.map(drop), Err(errno))
}

pub(crate) fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
