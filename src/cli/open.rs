//! The host that a command works on: the running machine, the built-in one, or a recorded one.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::args::HostArg;
use super::file::{Output, SHARED};
use super::report::{Exit, Trouble};
use super::{Session, ignore_closed};
use crate::engine::AT_ONCE;
use crate::host::fake::FakeHost;
use crate::host::ledger::Ledger;
use crate::host::linux::Linux;
use crate::host::{Claim, Clock, Host, HostError, Lock, LockError};
use crate::model::selector::DeviceRef;
use crate::model::{Address, Bdf, Errno, Inventory};
use crate::{discover, host};

/// An opened host.
pub(super) enum Opened {
    Live(Linux),
    Fake(Box<FakeHost>, Option<Recorded>),
}

/// Polls for what somebody else has to end.
const POLL: Duration = Duration::from_millis(50);

/// Where a recorded host is from.
pub(super) struct Recorded {
    file: PathBuf,
    /// Held while a command with `--save` is at work.
    _lock: Option<OwnedFd>,
}

impl Opened {
    pub(super) fn host(&self) -> &dyn Host {
        match self {
            Self::Live(host) => host,
            Self::Fake(host, _) => host.as_ref(),
        }
    }

    /// How many lanes go at once: a kernel in memory has nothing to wait for, and does things in the order of the plan.
    pub(super) const fn at_once(&self) -> NonZeroUsize {
        match self {
            Self::Live(_) => AT_ONCE,
            Self::Fake(..) => NonZeroUsize::MIN,
        }
    }
}

impl Session<'_, '_> {
    /// Opens the host of `--host`, with the modules of another kernel where these are asked for.
    pub(super) fn open(&mut self, modules: Option<&Path>) -> Result<Opened, Trouble> {
        let usage = |message: String| Trouble::new(Exit::Usage, "bad-host", message);
        Ok(match (&self.global.host, modules) {
            (HostArg::Live, None) => Opened::Live(Linux::new().with_workers()),
            (HostArg::Live, Some(modules)) => {
                let host = Linux::with_modules(modules);
                Opened::Live(host.map_err(|errno| {
                    usage(format!("{} is no module directory: {errno}", modules.display()))
                        .remedy("name the directory of one kernel, such as /lib/modules/6.12.0")
                })?)
            }
            (_, Some(_)) => {
                return Err(usage(String::from("--modules goes with --host live only"))
                    .remedy("a recorded host carries the aliases of its own kernel"));
            }
            (HostArg::Demo, None) => {
                let host =
                    FakeHost::demo().map_err(|error| usage(format!("the built-in host cannot be read: {error}")))?;
                Opened::Fake(Box::new(host), None)
            }
            (HostArg::File(file), None) => {
                let lock = if self.global.save { Some(lock_directory(file, self.wait_lock)?) } else { None };
                let bytes = read_file(file).map_err(|error| {
                    usage(format!("the recorded host {} cannot be read: {error}", file.display()))
                        .remedy("make one with: vfioadm record FILE, or vfioadm --host demo record FILE")
                })?;
                let host = FakeHost::from_text(&bytes).map_err(|error| {
                    usage(format!("{} is no recorded host: {error}", file.display()))
                        .remedy("make one with: vfioadm record FILE")
                })?;
                Opened::Fake(Box::new(host), Some(Recorded { file: file.clone(), _lock: lock }))
            }
        })
    }

    /// Whether it is about the running machine.
    pub(super) fn is_live(&self) -> bool {
        self.global.host == HostArg::Live
    }

    /// Takes the host's lock, waiting as long as the user has said.
    pub(super) fn lock<'h>(&self, host: &'h dyn Host) -> Result<Box<dyn Lock + 'h>, Trouble> {
        let by = host.now() + self.wait_lock;
        loop {
            match host.lock(&Claim::new(self.command.clone(), host)) {
                Err(LockError::Held(_)) if host.now() < by && host.interrupts() == 0 => host.nap(POLL),
                other => return other.map_err(Trouble::from),
            }
        }
    }

    /// Where the host's operations are written down. What is not saved is not written down for good either.
    pub(super) fn ledger(&self, opened: &Opened) -> Result<Ledger, Trouble> {
        Ok(match opened {
            Opened::Live(_) => Ledger::of_the_machine(),
            Opened::Fake(_, None) => Ledger::in_memory(),
            Opened::Fake(_, Some(Recorded { file, .. })) => {
                let mut name = file.clone().into_os_string();
                name.push(".journal");
                let beside = Ledger::in_directory(Path::new(&name));
                if self.global.save { beside } else { beside.copied()? }
            }
        })
    }

    /// Writes a recorded host back when `--save` asks for it.
    pub(super) fn save(&mut self, opened: &Opened) -> Result<(), Trouble> {
        if !self.global.save {
            return Ok(());
        }
        match opened {
            Opened::Fake(host, Some(Recorded { file, .. })) => {
                write_file(file, host.to_text().as_bytes()).map_err(|error| {
                    let message = format!("{} was not written: {error}", file.display());
                    Trouble::new(Exit::Failed, "not-saved", message)
                        .state("the recorded host is as it was")
                        .remedy("copy it to a directory that you can write to")
                })
            }
            Opened::Fake(_, None) if !self.global.quiet => {
                let line = "warning: --save has nowhere to write the demo host; start one with: vfioadm --host demo record FILE";
                ignore_closed(writeln!(self.env.err, "{line}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Reads the inventory, with the names of network interfaces when one of `devices` needs them.
    pub(super) fn read_inventory(&mut self, host: &dyn Host, devices: &[DeviceRef]) -> Result<Inventory, Trouble> {
        let mut inventory = discover::inventory(host)?;
        if devices.iter().any(DeviceRef::needs_netdevs) {
            inventory.netdevs = discover::read_netdev_names(host, &mut inventory.warnings);
        }
        // Said first: they may be why a device is not found.
        self.warn(&inventory.warnings);
        Ok(inventory)
    }

    /// The same, and the devices resolved.
    pub(super) fn resolve(
        &mut self,
        host: &dyn Host,
        devices: &[DeviceRef],
    ) -> Result<(Inventory, Vec<Address>), Trouble> {
        let inventory = self.read_inventory(host, devices)?;
        let mut addresses = Vec::new();
        for device in devices {
            for address in device.resolve(&inventory)? {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Ok((inventory, addresses))
    }
}

/// That a subfunction is one that sysfs shows: of one that is inactive devlink alone knows.
pub(super) fn is_active(address: &Address, inventory: &Inventory) -> Result<(), Trouble> {
    if !matches!(address, Address::Sf { .. }) || inventory.subfunction(address).is_some() {
        return Ok(());
    }
    let message = format!("{address} is not among the auxiliary devices: it is inactive, or there is none");
    Err(Trouble::new(Exit::Failed, "no-such-device", message)
        .state("as it was")
        .remedy("see what devlink knows: devlink port show"))
}

/// The PCI functions among `addresses`; a bus that cannot be bound yet is refused in words.
pub(super) fn pci_only(addresses: &[Address], what: &str) -> Result<Vec<Bdf>, Trouble> {
    addresses
        .iter()
        .map(|address| match address {
            Address::Pci(bdf) => Ok(*bdf),
            other => {
                let message = format!("{other} is on the {} bus, where vfioadm cannot {what} yet", other.bus());
                let remedy = match other {
                    Address::Mdev(_) => "an mdev is bound to its driver when it is made, and cannot be bound again",
                    Address::Wq(_) => {
                        "a WQ is used by its own node, and no driver of the kernel makes a VFIO device of it"
                    }
                    Address::Sf { .. } | Address::Aux(_) => {
                        "a subfunction shares the IOMMU group of its PF and is for vDPA, RDMA and Ethernet: VFIO cannot assign it"
                    }
                    _ => "only PCI functions can be",
                };
                Err(Trouble::new(Exit::Failed, "bus-not-supported", message).state("as it was").remedy(remedy))
            }
        })
        .collect()
}

#[expect(clippy::disallowed_methods, reason = "a recorded host is a file of the user's, not the machine")]
fn read_file(file: &Path) -> std::io::Result<Vec<u8>> {
    std::fs::read(file)
}

/// Writes a file of the user's, which appears when it is whole.
pub(super) fn write_file(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut out = Output::open(file, SHARED)?;
    out.write_all(bytes)?;
    out.keep()
}

/// Keeps other commands with `--save` away from the directory of a recorded host, from reading it to writing it back.
fn lock_directory(file: &Path, wait: Duration) -> Result<OwnedFd, Trouble> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let directory = file.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Those who wait are in this machine, whatever the recorded one is.
    let clock = Linux::new();
    let by = clock.now() + wait;
    let locked = rustix::fs::open(directory, flags, Mode::empty()).and_then(|opened| {
        loop {
            match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) if clock.now() < by && clock.interrupts() == 0 => clock.nap(POLL),
                other => return other.map(|()| opened),
            }
        }
    });
    locked.map_err(|errno| match errno {
        rustix::io::Errno::WOULDBLOCK => Trouble::from(LockError::Held(None)),
        other => {
            let message = format!("{} cannot be locked: {}", directory.display(), Errno(other.raw_os_error()));
            Trouble::new(Exit::Usage, "bad-host", message).remedy("name a recorded host in a directory that is there")
        }
    })
}

/// Whether somebody has the group of a device open, asked without side effect: the group node opens for one at a time. On a
/// kernel without group nodes nobody has.
pub(super) fn group_is_open(host: &dyn host::Probe, group: crate::model::GroupId) -> Result<bool, HostError> {
    match host.open(&host::Open::Group(group)) {
        Ok(_) | Err(HostError { errno: Errno::ENOENT, .. }) => Ok(false),
        Err(HostError { errno: Errno::EBUSY, .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
