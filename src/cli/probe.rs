//! A device opened for a verb that asks it something, and what is said when it cannot be.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::time::Duration;

use super::args::prove::OpenArgs;
use super::report::{Exit, Trouble};
use super::view::Probed;
use super::{Session, open};
use crate::discover::Holders;
use crate::host::device::{MigrationFlags, Way};
use crate::host::opening::{self, Manner, OpenError, WithoutIommu};
use crate::host::path::Root;
use crate::host::run_with;
use crate::host::{Device, Host, HostError, HostPath, Read, Verb};
use crate::model::{Address, Bdf, DeviceRef, Errno, Inventory, PciFunction, Warning};
use crate::stream::Kind;

/// A VFIO device that was named.
pub(super) struct Subject {
    pub(super) address: Address,
    pub(super) inventory: Inventory,
    pub(super) driver: String,
    /// What its state can be loaded into.
    pub(super) kind: Kind,
    directory: HostPath,
}

impl Subject {
    /// Whether the kernel resets it whenever it is opened first and closed last.
    pub(super) const fn is_reset_by_opening(&self) -> bool {
        matches!(self.address, Address::Pci(_))
    }

    /// The PF of a VF.
    pub(super) fn pf(&self) -> Option<Bdf> {
        let Address::Pci(bdf) = self.address else { return None };
        self.inventory.functions.get(&bdf)?.pf()
    }

    /// Says what is done to it by looking.
    pub(super) fn warn_of_reset(&self, session: &mut Session<'_, '_>) {
        if self.is_reset_by_opening() {
            let what = format!("{}: opening a vfio-pci device resets it, and so does closing it", self.address);
            session.warn(&[Warning::new("reset-on-open", what)]);
        }
    }

    /// The one device that was named, which must be on a VFIO driver.
    pub(super) fn of(
        device: &DeviceRef,
        verb: &str,
        host: &dyn Host,
        session: &mut Session<'_, '_>,
    ) -> Result<Self, Trouble> {
        let (inventory, addresses) = session.resolve(host, std::slice::from_ref(device))?;
        let [address] = addresses.as_slice() else {
            let message = format!("{device} names {} devices; {verb} takes one", addresses.len());
            return Err(Trouble::new(Exit::Usage, "not-one-device", message).remedy("list them: vfioadm list"));
        };
        let address = address.clone();
        if let Address::Mdev(uuid) = address
            && let Some(mdev) = inventory.mdevs.iter().find(|mdev| mdev.uuid == uuid)
        {
            let text = |name: Option<&str>| name.unwrap_or_default().to_owned();
            let driver = text(mdev.driver.as_ref().map(|driver| driver.as_str()));
            let model = text(mdev.type_id.as_ref().map(|kind| kind.as_str()));
            let kind = Kind { driver: driver.clone(), model };
            return Ok(Self { directory: HostPath::mdev(uuid), address, inventory, driver, kind });
        }
        let bdf = open::pci_only(std::slice::from_ref(&address), verb)?[0];
        let Some(function) = inventory.functions.get(&bdf) else {
            let message = format!("{bdf} went away while it was read");
            return Err(Trouble::new(Exit::Failed, "no-such-device", message));
        };
        if !function.is_vfio() {
            let message = format!(
                "{bdf} is on {}, and {verb} opens VFIO devices",
                function.driver.as_ref().map_or("no driver", |driver| driver.as_str())
            );
            let remedy = format!("give it to a VFIO driver: vfioadm bind {bdf}");
            return Err(Trouble::new(Exit::Failed, "not-vfio", message).state("as it was").remedy(remedy));
        }
        let driver = function.driver.as_ref().map(ToString::to_string).unwrap_or_default();
        let (alias, (vendor, device)) = (&function.alias, function.alias.subsystem());
        let model = format!("{:04x}:{:04x} {vendor:04x}:{device:04x}", alias.vendor(), alias.device());
        let kind = Kind { driver: driver.clone(), model };
        Ok(Self { directory: HostPath::pci(bdf), address, inventory, driver, kind })
    }

    /// Opens it.
    pub(super) fn open(&self, host: &dyn Host, args: &OpenArgs) -> Result<Box<dyn Device>, Trouble> {
        self.open_by(host, args).map_err(|error| self.trouble(host, &error))
    }

    /// Takes it from whoever started this process, by the number of its descriptor.
    pub(super) fn inherited(&self, host: &dyn Host, number: RawFd) -> Result<Box<dyn Device>, Trouble> {
        host.open_device(&Way::Inherited(number), None).map_err(|error| {
            let message = format!("descriptor {number} is not {}, open", self.address);
            Trouble::new(Exit::Failed, "not-opened", message)
                .kernel(&error)
                .state("as it was")
                .remedy("start vfioadm with the open device as that descriptor, on a live host")
        })
    }

    /// The same, with the error as it comes.
    pub(super) fn open_by(&self, host: &dyn Host, args: &OpenArgs) -> Result<Box<dyn Device>, OpenError> {
        let manner = Manner {
            token: args.token,
            without_iommu: if args.allow_no_iommu { WithoutIommu::Allow } else { WithoutIommu::Refuse },
            by: args.by,
            ..Manner::default()
        };
        opening::open_device(host, &self.directory, &self.address, &manner)
    }

    /// Why it was not opened.
    fn trouble(&self, host: &dyn Host, error: &OpenError) -> Trouble {
        let device = &self.address;
        let of = |id, text: &str| {
            Trouble::new(Exit::Failed, id, format_args!("{device} was not opened: {text}")).state("as it was")
        };
        match error {
            OpenError::NoVfioDevice => {
                of("not-vfio", "it has no VFIO node of that kind").remedy(format!("look at it: vfioadm show {device}"))
            }
            OpenError::WithoutIommu(group) => {
                let node = HostPath::noiommu_node(*group);
                of("no-iommu", &format!("there is no IOMMU in front of it, only {node}")).remedy(
                    "with --allow-no-iommu it is opened all the same; its DMA can then reach any memory of the host",
                )
            }
            OpenError::Host(error) => self.refused(host, error, of),
        }
    }

    /// Why the kernel refused to open it.
    fn refused(&self, host: &dyn Host, error: &HostError, of: impl Fn(&'static str, &str) -> Trouble) -> Trouble {
        let at_open = error.verb == Verb::Open || error.verb == Verb::Ioctl("VFIO_DEVICE_BIND_IOMMUFD");
        let trouble = match error.errno {
            Errno::EBUSY | Errno::EINVAL if at_open => {
                of("device-open", &self.held(host)).remedy("let its holder close it first")
            }
            Errno::EPERM if error.verb == Verb::Open => {
                of("not-root", "its node may not be opened").remedy("run it as root")
            }
            Errno::EACCES if error.verb == Verb::Open => {
                of("not-root", "its node may not be opened").remedy("run it as root")
            }
            Errno::EACCES => of("wrong-token", "it opens with the VF token of its PF alone")
                .remedy("give the one that the user of the PF has set: --token UUID"),
            Errno::EPERM => of("group-not-viable", "its group is not viable, or its interrupts are not isolated")
                .remedy(format!("see what is in its group: vfioadm check {} --with-group", self.address)),
            Errno::EAGAIN => of("device-busy", "somebody resets it, or holds its lock").remedy("try again"),
            Errno::ENOENT => of("no-vfio-node", "there is no node for it")
                .remedy("see that vfio is loaded and /dev is made by devtmpfs or udev"),
            Errno::ENODEV => of("no-vfio-node", "it is on its way out, or vfio_iommu_type1 is not loaded")
                .remedy("modprobe vfio_iommu_type1, and see that it is bound: vfioadm show"),
            _ => of("not-opened", "the kernel refused").remedy("the driver's own reason is in the kernel log"),
        };
        trouble.kernel(error)
    }

    /// Who has it open.
    fn held(&self, host: &dyn Host) -> String {
        let holders = Holders::read(host, &self.inventory, &[self.address.clone()].into());
        let names: Vec<String> = holders.of(&self.address).iter().map(ToString::to_string).collect();
        match names.as_slice() {
            [] => "somebody has it open, or another device of its group".to_owned(),
            names => format!("{} has it open", names.join(", ")),
        }
    }
}

/// What each device says of its migration; `None` of what is no VFIO device.
pub(super) fn migrations(host: &dyn Host, inventory: &Inventory, devices: &[Address]) -> Vec<Option<Probed>> {
    let is_vfio = |address: &Address| match address {
        Address::Pci(bdf) => {
            inventory.functions.get(bdf).is_some_and(PciFunction::is_vfio).then(|| HostPath::pci(*bdf))
        }
        Address::Mdev(uuid) => Some(HostPath::mdev(*uuid)),
        _ => None,
    };
    // Nobody waits long for one of many.
    let manner = Manner { patience: Duration::from_secs(1), ..Manner::default() };
    let ask = |address: &Address, directory: HostPath| {
        let unknown = |reason: String| Probed { migrates: None, flags: Vec::new(), reason: Some(reason) };
        let device = match opening::open_device(host, &directory, address, &manner) {
            Ok(device) => device,
            Err(OpenError::Host(error)) if matches!(error.errno, Errno::EBUSY | Errno::EINVAL) => {
                return unknown("in use".to_owned());
            }
            Err(error) => return unknown(error.to_string()),
        };
        match device.migration() {
            Ok(flags) => Probed { migrates: Some(true), flags: flag_names(flags), reason: None },
            Err(error) if error.errno == Errno::ENOTTY => {
                Probed { migrates: Some(false), flags: Vec::new(), reason: None }
            }
            Err(error) => unknown(error.to_string()),
        }
    };
    devices.iter().map(|address| is_vfio(address).map(|directory| ask(address, directory))).collect()
}

/// Says that devices were opened, which is more than a look.
pub(super) fn warn_of_opening(session: &mut Session<'_, '_>) {
    let what = "VFIO devices that nobody has open are opened: a vfio-pci device is reset by that";
    session.warn(&[Warning::new("reset-on-open", what)]);
}

/// `stop_copy`, `p2p`, `pre_copy`.
pub(super) fn flag_names(flags: MigrationFlags) -> Vec<&'static str> {
    let names = [
        (MigrationFlags::STOP_COPY, "stop_copy"),
        (MigrationFlags::P2P, "p2p"),
        (MigrationFlags::PRE_COPY, "pre_copy"),
    ];
    named(&names, |flag| flags.contains(flag))
}

/// The names of those flags that are set.
pub(super) fn named<F: Copy>(names: &[(F, &'static str)], is_set: impl Fn(F) -> bool) -> Vec<&'static str> {
    names.iter().filter(|(flag, _)| is_set(*flag)).map(|(_, name)| *name).collect()
}

/// An open device refused something.
pub(super) fn refused(device: &Address, error: &HostError) -> Trouble {
    let message = format!("{device} did not answer");
    Trouble::new(Exit::Failed, "device-refused", message)
        .kernel(error)
        .state("as it was; the device was opened and closed")
        .remedy("the driver's own reason is in the kernel log")
}

/// Runs a program that goes on with a device: it has the descriptors that keep it open, the device's own first, and finds their
/// numbers in `VFIOADM_FDS`. The device is closed when it ends.
pub(super) fn hand_over(device: &dyn Device, command: &[OsString]) -> Result<Exit, Trouble> {
    let not_run = |error: &dyn std::fmt::Display| {
        let message = format!(
            "{} was not run: {error}",
            command.first().map(|word| word.display().to_string()).unwrap_or_default()
        );
        Trouble::new(Exit::Failed, "not-run", message).remedy("name a program with its path")
    };
    let status = run_with(&device.descriptors(), command).map_err(|error| not_run(&error))?;
    if status.success() {
        return Ok(Exit::Done);
    }
    let message = format!("{}: {status}", command.first().map(|word| word.display().to_string()).unwrap_or_default());
    Err(Trouble::new(Exit::Failed, "command-failed", message).state("the state was loaded; the device is closed"))
}

/// How a device was opened: `cdev`, `group` or `no-iommu`.
pub(super) const fn way_name(way: &Way) -> &'static str {
    match way {
        Way::Cdev(_) => "cdev",
        Way::Group(..) => "group",
        Way::NoIommu(..) => "no-iommu",
        Way::Inherited(_) => "fd",
    }
}

/// The kernel's release.
pub(super) fn release(host: &dyn Read) -> String {
    host.text(&HostPath::fixed(Root::Proc, "sys/kernel/osrelease")).unwrap_or_else(|_| "unknown".to_owned())
}
