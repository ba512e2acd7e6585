//! The host that a command works on: the running machine, the built-in one, or a recorded one.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::args::HostArg;
use super::report::{Exit, Trouble};
use super::{Session, ignore_closed};
use crate::host::fake::FakeHost;
use crate::host::linux::Linux;
use crate::host::{Host, HostError};
use crate::model::selector::DeviceRef;
use crate::model::{Address, Bdf, Errno, Inventory};
use crate::{discover, host};

/// An opened host.
pub(super) enum Opened {
    Live(Linux),
    Fake(Box<FakeHost>, Option<PathBuf>),
}

impl Opened {
    pub(super) fn host(&self) -> &dyn Host {
        match self {
            Self::Live(host) => host,
            Self::Fake(host, _) => host.as_ref(),
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
                let bytes = read_file(file).map_err(|error| {
                    usage(format!("the recorded host {} cannot be read: {error}", file.display()))
                        .remedy("make one with: vfioadm record FILE, or vfioadm --host demo record FILE")
                })?;
                let host = FakeHost::from_text(&bytes).map_err(|error| {
                    usage(format!("{} is no recorded host: {error}", file.display()))
                        .remedy("make one with: vfioadm record FILE")
                })?;
                Opened::Fake(Box::new(host), Some(file.clone()))
            }
        })
    }

    /// Writes a recorded host back when `--save` asks for it.
    pub(super) fn save(&mut self, opened: &Opened) -> Result<(), Trouble> {
        if !self.global.save {
            return Ok(());
        }
        match opened {
            Opened::Fake(host, Some(file)) => write_file(file, host.to_text().as_bytes()).map_err(|error| {
                Trouble::new(Exit::Failed, "not-saved", format_args!("{} was not written: {error}", file.display()))
            }),
            Opened::Fake(_, None) if !self.global.quiet => {
                let line = "warning: --save has nowhere to write the demo host; start one with: vfioadm --host demo record FILE";
                ignore_closed(writeln!(self.env.err, "{line}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Reads the inventory, with the names of network interfaces when one of `devices` needs them, and resolves them.
    pub(super) fn resolve(
        &mut self,
        host: &dyn Host,
        devices: &[DeviceRef],
    ) -> Result<(Inventory, Vec<Address>), Trouble> {
        let mut inventory = discover::inventory(host)?;
        if devices.iter().any(DeviceRef::needs_netdevs) {
            inventory.netdevs = discover::read_netdev_names(host, &mut inventory.warnings);
        }
        // Said first: they may be why a device is not found.
        self.warn(&inventory.warnings);
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

/// Writes to a temporary name beside `file`, makes it durable, and renames.
#[expect(clippy::disallowed_methods, reason = "a recorded host is a file of the user's, not the machine")]
pub(super) fn write_file(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = file.file_name().ok_or(std::io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = file.with_file_name(name);
    let written = std::fs::File::create(&temporary)
        .and_then(|mut out| out.write_all(bytes).and_then(|()| out.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, file));
    if written.is_err() {
        // The first error is the one to report; a leftover temporary file is named after this process.
        drop(std::fs::remove_file(&temporary));
    }
    written
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
