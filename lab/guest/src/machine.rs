//! The guest's devices by the part they play, and the machine as a case found it.

use std::process::Command;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

use crate::sysfs::{Device, Mdev, mdevs, settle};

/// Where a case may mount a file system.
pub(crate) const MOUNT_POINT: &str = "/mnt";
const DISK_DEADLINE: Duration = Duration::from_secs(20);

/// Devices that a case asks for by what they are; the table is in the lab's `machine.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// No host driver, no variant.
    Edu,
    /// A legacy function behind a bridge that it shares.
    E1000,
    /// An SR-IOV PF, network.
    Igb,
    /// An SR-IOV PF, NVMe.
    NvmePf,
    /// An NVMe with a disk that has a file system.
    NvmeDisk,
    /// virtio-net, modern.
    Virtio,
    /// Goes to mlx5_vfio_pci.
    Mlx5Vf,
    /// Goes to mlx5_core alone.
    Cx5,
    /// qat_vfio_pci refuses it.
    QatVf,
    /// pds_vfio_pci refuses it.
    PdsVf,
    /// The chipset's multifunction device.
    Lpc,
}

impl Role {
    fn is(self, device: &Device) -> bool {
        let has_vfs = || device.path("sriov_totalvfs").exists();
        match (self, device.id().as_str()) {
            (Role::Edu, "1234:11e8")
            | (Role::E1000, "8086:100e")
            | (Role::Igb, "8086:10c9")
            | (Role::Virtio, "1af4:1041")
            | (Role::Mlx5Vf, "15b3:101e")
            | (Role::Cx5, "15b3:1018")
            | (Role::QatVf, "8086:4941")
            | (Role::PdsVf, "1dd8:1003")
            | (Role::Lpc, "8086:2918") => true,
            (Role::NvmePf, "1b36:0010") => has_vfs(),
            (Role::NvmeDisk, "1b36:0010") => !has_vfs() && !device.path("physfn").exists(),
            _ => false,
        }
    }

    /// The device in that part.
    pub(crate) fn device(self) -> Result<Device, String> {
        self.devices().into_iter().next().ok_or_else(|| format!("the machine has no {self:?}"))
    }

    /// All devices in that part, by address.
    pub(crate) fn devices(self) -> Vec<Device> {
        Device::all().into_iter().filter(|device| self.is(device)).collect()
    }
}

/// The block device of the NVMe with a disk; the namespace appears a moment after the driver has bound.
pub(crate) fn disk() -> Result<String, String> {
    let device = Role::NvmeDisk.device()?;
    let block = || {
        let controllers = device.names("nvme");
        controllers.iter().flat_map(|name| device.names(&format!("nvme/{name}"))).find(|name| is_namespace(name))
    };
    settle("the NVMe has a namespace", DISK_DEADLINE, || block().is_some())?;
    block().map(|name| format!("/dev/{}", visible(&name))).ok_or_else(|| "the NVMe's namespace is gone".to_owned())
}

/// `nvme1n1`, or `nvme1c1n1` of a multipath controller.
fn is_namespace(name: &str) -> bool {
    name.strip_prefix("nvme").is_some_and(|rest| rest.contains('n'))
}

/// The node that can be opened: a path of a multipath head is hidden.
fn visible(name: &str) -> String {
    match (name.find('c'), name.rfind('n')) {
        (Some(controller), Some(namespace)) => format!("{}{}", &name[..controller], &name[namespace..]),
        _ => name.to_owned(),
    }
}

/// What may change about a function.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    device: Device,
    driver: Option<String>,
    driver_override: Option<String>,
    autoprobe: String,
    vfs: usize,
}

impl State {
    fn of(device: Device) -> State {
        State {
            driver: device.driver(),
            driver_override: device.driver_override(),
            autoprobe: device.read("sriov_drivers_autoprobe"),
            vfs: device.vfs().len(),
            device,
        }
    }
}

/// The machine at a moment. Taken before a case, restored after it: a case need not clean up, and order does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    functions: Vec<State>,
    mdevs: Vec<Mdev>,
}

impl Snapshot {
    /// As it is now.
    pub(crate) fn take() -> Snapshot {
        Snapshot { functions: Device::all().into_iter().map(State::of).collect(), mdevs: mdevs() }
    }

    /// What is different now, in words; empty when nothing is.
    pub(crate) fn differences(&self) -> String {
        let now = Snapshot::take();
        let (gone, new): (Vec<_>, Vec<_>) = (
            self.functions.iter().filter(|state| !now.functions.contains(state)).collect(),
            now.functions.iter().filter(|state| !self.functions.contains(state)).collect(),
        );
        let mdevs = |of: &Snapshot, other: &Snapshot| {
            of.mdevs.iter().filter(|mdev| !other.mdevs.contains(mdev)).cloned().collect::<Vec<_>>()
        };
        let lines = gone
            .iter()
            .map(|state| format!("was {state:?}"))
            .chain(new.iter().map(|state| format!("now {state:?}")))
            .chain(mdevs(self, &now).into_iter().map(|mdev| format!("was {mdev:?}")))
            .chain(mdevs(&now, self).into_iter().map(|mdev| format!("now {mdev:?}")));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Puts the machine back.
    pub(crate) fn restore(&self) -> Result<(), String> {
        unmount(MOUNT_POINT, UnmountFlags::DETACH).ok();
        for mdev in mdevs().into_iter().filter(|mdev| !self.mdevs.contains(mdev)) {
            mdev.remove()?;
        }
        for state in self.functions.iter().filter(|state| !state.autoprobe.is_empty()) {
            let device = &state.device;
            // A PF's VFs go by its own driver, so that comes back first.
            if device.vfs().len() != state.vfs {
                rebind(device, state)?;
                device.write("sriov_numvfs", "0")?;
                if state.vfs > 0 {
                    device.write("sriov_numvfs", &state.vfs.to_string())?;
                }
            }
            if device.read("sriov_drivers_autoprobe") != state.autoprobe {
                device.write("sriov_drivers_autoprobe", &state.autoprobe)?;
            }
        }
        // All of a group is let go before any of it is bound: a driver does not bind next to a VFIO user.
        for state in self.functions.iter().filter(|state| state.device.driver() != state.driver) {
            state.device.unbind()?;
        }
        for state in &self.functions {
            rebind(&state.device, state)?;
        }
        for name in crate::sysfs::names("/sys/class/net".as_ref()).iter().filter(|name| *name != "lo") {
            drop(Command::new("ip").args(["link", "set", name, "down"]).output());
        }
        crate::kmod::remove()?;
        match self.differences() {
            none if none.is_empty() => Ok(()),
            some => Err(format!("the machine is not as the case found it:\n{some}")),
        }
    }
}

fn rebind(device: &Device, state: &State) -> Result<(), String> {
    if device.driver() != state.driver {
        device.unbind()?;
        if let Some(driver) = &state.driver {
            device.write("driver_override", driver)?;
            device.bind(driver)?;
        }
    }
    if device.driver_override() != state.driver_override {
        device.write("driver_override", state.driver_override.as_deref().unwrap_or("\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn a_multipath_namespace_is_opened_by_its_head() {
        assert_eq!(visible("nvme1n1"), "nvme1n1");
        assert_eq!(visible("nvme0c0n1"), "nvme0n1");
    }
}
