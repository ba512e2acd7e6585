//! What a device asks of whoever opens it: patience while somebody resets it, and the token of its PF.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;
use vfioadm::host::linux::Linux;
use vfioadm::host::opening::{Manner, open_device};
use vfioadm::host::{Device as Open, HostPath};
use vfioadm::model::{Address, Bdf};

use super::own_variants::vfs_of;
use super::tool::{json, on, refused, vfioadm};
use crate::hold::Opened;
use crate::machine::Role;
use crate::orders::Counts;
use crate::runner::{Case, Stop, Verdict};
use crate::sysfs::{Device, write};

pub(crate) const CASES: [Case; 2] = [
    Case::told("open: a device that somebody resets again and again is opened all the same", patient).within(300),
    Case::new(
        "open: a VF whose PF is on vfio-pci is opened with the PF's token, by each way, and with no other",
        tokens,
    )
    .within(120),
];

/// From one reset to the next. A reset of a VF takes a tenth of a second, and has the device's lock for as long.
const PAUSE: Duration = Duration::from_millis(50);
/// Until an opening without patience has been refused.
const DEADLINE: Duration = Duration::from_secs(60);
const ENABLE: &str = "/sys/module/vfio_pci/parameters/enable_sriov";

fn patient(counts: Counts) -> Result<String, Stop> {
    let [vf, _] = vfs_of(Role::Igb)?;
    json(0, &["bind", vf.address(), "--driver", "vfio-pci"])?;
    let done = AtomicBool::new(false);
    let told = thread::scope(|scope| {
        let resets = scope.spawn(|| {
            let mut count = 0u32;
            while !done.load(Ordering::Relaxed) {
                vf.write("reset", "1")?;
                count += 1;
                thread::sleep(PAUSE);
            }
            Ok::<u32, String>(count)
        });
        let opened = opened_amid(&vf, counts);
        done.store(true, Ordering::Relaxed);
        let resets = resets.join().map_err(|_| "the resetter panicked".to_owned())??;
        opened.map(|told| format!("{told}; {resets} resets"))
    })?;
    Ok(told)
}

/// Opens it without patience until that is refused, by each way, and then as vfioadm does.
fn opened_amid(vf: &Device, counts: Counts) -> Result<String, String> {
    let mut tries = 0;
    for open in [Opened::by_cdev, Opened::by_group] {
        let by = Instant::now() + DEADLINE;
        loop {
            tries += 1;
            match open(vf).map(drop) {
                // `Errno` spells EAGAIN as the C library does.
                Err(told) if told.contains("Resource temporarily unavailable") => break,
                Err(told) => return Err(told),
                Ok(()) if Instant::now() > by => return Err("no opening was refused while it was reset".to_owned()),
                Ok(()) => {}
            }
        }
    }
    let times = counts.pick(5, 30);
    for _ in 0..times {
        for by in ["cdev", "group"] {
            json(0, &["inspect", vf.address(), "--by", by])?;
        }
    }
    Ok(format!("{tries} openings without patience until both ways were refused, {} with", times * 2))
}

fn tokens(_: Counts) -> Verdict {
    let pf = Role::Igb.device()?;
    json(0, &["bind", pf.address(), "--driver", "vfio-pci"])?;
    write(ENABLE.as_ref(), "Y")?;
    let shown = tokens_of(&pf);
    // The PF may not go to another driver with a VF.
    let gone = pf.write("sriov_numvfs", "0");
    write(ENABLE.as_ref(), "N")?;
    shown?;
    Ok(gone?)
}

fn tokens_of(pf: &Device) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("{pf}: {error}");
    let bdf: Bdf = pf.address().parse().map_err(|error| said(&error))?;
    let (linux, token) = (Linux::new(), Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff));
    let held: Box<dyn Open> = open_device(&linux, &HostPath::pci(bdf), &Address::from(bdf), &Manner::default())
        .map_err(|error| said(&error))?;
    held.set_vf_token(token).map_err(|error| said(&error))?;
    pf.write("sriov_numvfs", "1")?;
    let vf = pf.vfs().into_iter().next().ok_or("no VF")?;
    if vf.driver().is_none() {
        vf.write("driver_override", "vfio-pci")?;
        vf.bind("vfio-pci")?;
    }
    on(&vf, Some("vfio-pci"))?;
    let token = token.to_string();
    let other = Uuid::from_u128(1).to_string();
    for by in ["cdev", "group"] {
        let words = ["inspect", vf.address(), "--by", by];
        refused(&words, "wrong-token")?;
        refused(&[&words[..], &["--token", &other]].concat(), "wrong-token")?;
        json(0, &[&words[..], &["--token", &token]].concat())?;
    }
    // A token that is none is the command line's.
    vfioadm(&["inspect", vf.address(), "--token", "secret"])?.exits(2)?;
    vf.unbind()?;
    drop(held);
    Ok(())
}
