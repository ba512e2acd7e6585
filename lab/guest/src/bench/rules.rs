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

/// As [`raw::take`](crate::raw::take): writes `driver_override` and `drivers/vfio-pci/unbind`.
pub(super) fn take(devices: &[Device], threads: usize, rules: Rules) -> Result<f64, String> {
    let host = Linux::new().with_workers();
    let lock = host.lock(&Claim::new("bench", &host)).map_err(said)?;
    let journal = Mutex::new(File::create("/run/bench.jsonl").map_err(said)?);
    let driver: DriverName = "vfio-pci".parse().map_err(said)?;
    each(devices, threads, || {
        let (hand, journal, driver) = (lock.hand(), &journal, &driver);
        move |device: &Device| {
            let bdf: Bdf = device.address().parse().map_err(said)?;
            let override_of = HostPath::pci(bdf).attr("driver_override");
            let steps =
                [(override_of.clone(), "none"), (HostPath::pci_driver(driver).attr("unbind"), device.address())];
            for (path, value) in &steps {
                if rules == Rules::All {
                    written_down(journal, path, value)?;
                }
                hand.write(path, value).map_err(said)?;
            }
            if rules == Rules::All {
                let read = hand.read(&override_of).map_err(said)?;
                if read != b"none\n" || hand.link(&HostPath::pci(bdf).attr("driver")).is_ok() {
                    return Err(format!("{device} was not taken"));
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
