//! The floor of a program that keeps vfioadm's rules and thinks of nothing else.
//!
//! What separates it from the raw writer is what the rules cost on this machine, whoever keeps them; what separates vfioadm
//! from it is vfioadm's to answer for.

use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;

use vfioadm::host::linux::Linux;
use vfioadm::host::{Claim, Host, HostPath};
use vfioadm::model::{Bdf, DriverName};

use crate::raw::each;
use crate::sysfs::Device;

/// Which rules are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// Another process writes what may wait for a holder, so that this one can always end.
    Worker,
    /// That; and each write is in a file on `/run`, synced, before it is made, and is read back.
    All,
}

impl Rules {
    /// In the order in which their figures are told.
    pub(super) const EACH: [Self; 2] = [Self::Worker, Self::All];

    /// In words.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "a worker writes",
            Self::All => "a worker writes; journal, sync, and read back",
        }
    }
}

/// What is done to each device.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    /// As [`raw::bind`](crate::raw::bind).
    Bind,
    /// As [`raw::take`](crate::raw::take).
    Take,
}

impl Act {
    /// The override that it writes, and the attribute of vfio-pci that the address goes to.
    const fn writes(self) -> (&'static str, &'static str) {
        match self {
            Self::Bind => ("vfio-pci", "bind"),
            Self::Take => ("none", "unbind"),
        }
    }
}

/// The writes of the raw writer, by the rules; how many seconds that took.
pub(super) fn run(act: Act, devices: &[Device], threads: usize, rules: Rules) -> Result<f64, String> {
    let host = Linux::new().with_workers();
    let lock = host.lock(&Claim::new("bench", &host)).map_err(said)?;
    let journal = Mutex::new(File::create("/run/bench.jsonl").map_err(said)?);
    let driver: DriverName = "vfio-pci".parse().map_err(said)?;
    let (value, attribute) = act.writes();
    each(devices, threads, || {
        let (hand, journal, driver) = (lock.hand(), &journal, &driver);
        move |device: &Device| {
            let bdf: Bdf = device.address().parse().map_err(said)?;
            let override_of = HostPath::pci(bdf).attr("driver_override");
            let steps =
                [(override_of.clone(), value), (HostPath::pci_driver(driver).attr(attribute), device.address())];
            for (path, value) in &steps {
                if rules == Rules::All {
                    written_down(journal, path, value)?;
                }
                hand.write(path, value).map_err(said)?;
            }
            if rules == Rules::All {
                let overridden = hand.read(&override_of).map_err(said)?.trim_ascii_end() == value.as_bytes();
                let bound = hand.link(&HostPath::pci(bdf).attr("driver")).is_ok();
                if !overridden || bound != matches!(act, Act::Bind) {
                    return Err(format!("{device}: {act:?} is not what came of it"));
                }
            }
            Ok(())
        }
    })
}

fn written_down(journal: &Mutex<File>, path: &HostPath, value: &str) -> Result<(), String> {
    let mut journal = journal.lock().map_err(|_| "a writer panicked".to_owned())?;
    let line = format!("{{\"write\":\"{path}\",\"value\":\"{value}\"}}\n");
    journal.write_all(line.as_bytes()).and_then(|()| journal.sync_data()).map_err(said)
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
