//! What a driver makes of a device that is not as it wants it: without its PF's driver, or none of its table's.

use super::bench::{back, broken, flags, read, saving, state_of};
use super::rig::{Seen, Situation, Who, during, without};
use super::{Bench, Case, Off, Told};
use crate::host::Device;
use crate::host::device::{MigrationFlags, Saving, State};
use crate::model::Errno;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "forced-id",
        rule: "an override matches its driver always, by a dummy id where the table has none: the probe refuses the device or makes \
               a whole VFIO device of it (drivers/pci/pci-driver.c pci_match_device(), pci_device_id_any)",
        after: &["id-table"],
        run: forced_id,
    },
    Case {
        id: "pf-absent",
        rule: "a VF whose PF has no driver is refused by the probe, or is a VFIO device that does what it says \
               (drivers/pci/iov.c pci_iov_get_pf_drvdata())",
        after: &["info", "reload"],
        run: pf_absent,
    },
    Case {
        id: "pf-unbound",
        rule: "when the driver of its PF goes under a bound VF, a stream ends with an error or is whole, and the VF answers; bound \
               anew after that driver is back it is what it was (drivers/base/dd.c device_release_driver(); what a variant keeps \
               of its PF's driver is devres of the PF's, or gone)",
        after: &["info", "reload"],
        run: pf_unbound,
    },
    Case {
        id: "reset-degraded",
        rule: "a VF whose PF has lost its driver can be reset: it answers then, and is in RUNNING where it migrates (the driver's \
               reset_prepare() and reset_done(), which the core calls for a VF without its PF too)",
        after: &["pf-unbound", "reset"],
        run: reset_degraded,
    },
];

/// What a device can of migration; nothing when it does not migrate.
fn migrates(device: &dyn Device) -> Result<Option<MigrationFlags>, Off> {
    match flags(device) {
        Ok(flags) => Ok(Some(flags)),
        Err(Off::NotApplicable(_)) => Ok(None),
        Err(off) => Err(off),
    }
}

/// What the device is, as it is.
fn as_it_is(bench: &Bench<'_>) -> Result<Option<MigrationFlags>, Off> {
    migrates(bench.fresh()?.as_ref())
}

/// That a device of which the driver was taken and given back is what it was.
fn is_what_it_was(bench: &Bench<'_>, before: Option<MigrationFlags>) -> Result<(), Off> {
    let device = bench.fresh()?;
    let now = migrates(device.as_ref())?;
    if now != before {
        return broken(format!(
            "bound anew with its PF's driver back it says {now:?} of migration, and not {before:?}"
        ));
    }
    if now.is_some() {
        state_of(device.as_ref())?;
    }
    Ok(())
}

/// That it answers, and does what it says of migration.
fn is_whole(device: &dyn Device) -> Result<&'static str, Off> {
    device.info()?;
    if migrates(device)?.is_none() {
        return Ok("it does not migrate");
    }
    back(device)?;
    match state_of(device) {
        Ok(_) => Ok("it migrates"),
        Err(Off::Fail(said)) => broken(format!("it says that it migrates, and has no state: {said}")),
        Err(off) => Err(off),
    }
}

fn forced_id(bench: &Bench<'_>) -> Told {
    let Some(open) = bench.peer.filter(|_| bench.table.is_some()) else {
        return Err(Off::NotApplicable("it needs a PCI function as peer that the table has not: --peer".to_owned()));
    };
    if bench.table_has_peer {
        return Err(Off::NotApplicable("the driver's table has the peer".to_owned()));
    }
    let seen = during(bench, Situation::OnDriver(Who::Peer), || {
        let device = open(None)
            .map_err(|error| Off::Fail(format!("it takes the peer, which then cannot be opened: {error}")))?;
        is_whole(device.as_ref())
    })?;
    Ok(match seen {
        Seen::Refused(errno) => format!("the probe refuses the peer: {errno}"),
        Seen::Looked(what) => format!("the probe takes the peer, which its table has not; {what}"),
    })
}

/// Looks while the driver of its PF is gone. A sibling that has seen that driver go is bound anew then, for it does not get well by its
/// return.
fn without_pf<T>(bench: &Bench<'_>, look: impl FnOnce() -> Result<T, Off>) -> Result<T, Off> {
    let mut was = false;
    let told = without(bench, Who::Pf, || {
        was = true;
        look()
    });
    if was && bench.peer_is_sibling {
        let renewed = without(bench, Who::Peer, || Ok(()));
        return told.and_then(|told| renewed.map(|()| told));
    }
    told
}

fn pf_absent(bench: &Bench<'_>) -> Told {
    let before = as_it_is(bench)?;
    let seen = without(bench, Who::Device, || {
        without_pf(bench, || during(bench, Situation::OnDriver(Who::Device), || is_whole(bench.fresh()?.as_ref())))
    })?;
    is_what_it_was(bench, before)?;
    Ok(match seen {
        Seen::Refused(errno) => format!("the probe refuses it: {errno}"),
        Seen::Looked(what) => format!("the probe takes it; {what}"),
    })
}

/// Reads on to the end, or to an error; how many bytes came in all.
fn rest(stream: &mut dyn Saving, mut all: usize) -> Result<usize, Errno> {
    let mut piece = vec![0; 1 << 20];
    loop {
        match read(stream, &mut piece) {
            Ok(0) => return Ok(all),
            Ok(length) => all += length,
            Err(error) => return Err(super::bench::errno(&error)),
        }
    }
}

/// The same under the device while it is bound, which is bound anew then too.
fn degraded<T>(
    bench: &Bench<'_>,
    before: Option<MigrationFlags>,
    look: impl FnOnce() -> Result<T, Off>,
) -> Result<T, Off> {
    let mut was = false;
    let told = without_pf(bench, || {
        was = true;
        look()
    });
    if was {
        let renewed = without(bench, Who::Device, || Ok(())).and_then(|()| is_what_it_was(bench, before));
        return told.and_then(|told| renewed.map(|()| told));
    }
    told
}

fn pf_unbound(bench: &Bench<'_>) -> Told {
    let device = bench.fresh()?;
    let before = migrates(device.as_ref())?;
    let mut under_way = None;
    if before.is_some() {
        let whole = state_of(device.as_ref())?.len();
        let mut stream = saving(device.as_ref(), State::StopCopy)?;
        let first = read(stream.as_mut(), &mut [0; 64]).unwrap_or(0);
        under_way = Some((stream, first, whole));
    }
    degraded(bench, before, move || {
        let stream = match under_way {
            None => "it does not migrate".to_owned(),
            Some((mut stream, first, whole)) => match rest(stream.as_mut(), first) {
                Err(errno) => format!("its stream ends with {errno}"),
                Ok(all) if all >= whole => "its stream is whole".to_owned(),
                Ok(all) => return broken(format!("its stream ends after {all} of {whole} bytes, as if that were all")),
            },
        };
        device.info()?;
        drop(device);
        let opened = match (bench.open)(None) {
            Ok(device) => device.info().map(|_| "and is opened again".to_owned())?,
            Err(error) => format!("and is not opened again: {error}"),
        };
        Ok(format!("{stream}; it answers, {opened}"))
    })
}

fn reset_degraded(bench: &Bench<'_>) -> Told {
    let before = as_it_is(bench)?;
    degraded(bench, before, || {
        let device = (bench.open)(None)?;
        // It may refuse to go anywhere: then it is reset where it is.
        let went = before.is_some() && device.set_state(State::Stop).is_ok();
        match device.reset() {
            Err(error) if matches!(error.errno, Errno::ENOTTY | Errno::EINVAL) => {
                return Err(Off::NotApplicable(format!("it cannot be reset alone: {}", error.errno)));
            }
            Err(error) => return Ok(format!("the reset is refused: {}", error.errno)),
            Ok(()) => {}
        }
        device.info()?;
        let from = if went { "in STOP" } else { "as it was opened" };
        match device.state() {
            Ok(State::Running) => Ok(format!("reset {from} it is in RUNNING")),
            Ok(state) => broken(format!("reset {from} it is in {state}")),
            Err(error) => Ok(format!("reset {from} it answers; of its state it says {}", error.errno)),
        }
    })
}
