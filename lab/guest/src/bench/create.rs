//! From nothing to a thousand VFs on vfio-pci: one call of vfioadm, the raw writer, and the way by the native driver.

use crate::orders::Counts;
use crate::runner::Stop;
use crate::scale::{self, VFS, enable_of, every_on};
use crate::sysfs::Device;
use crate::{raw, say};

use super::{Run, load, middle, timed};

const ROUNDS: usize = 3;
/// Of the raw writer that binds; one thread enables, for the kernel has one lock for that.
const THREADS: [usize; 2] = [4, 64];

pub(super) fn compare(_: Counts) -> Result<String, Stop> {
    load("vfio-pci")?;
    let pfs = scale::pfs();
    disable(&pfs)?;
    let (mut floors, mut runs, mut ends): (Vec<f64>, Vec<Run>, Vec<Run>) = Default::default();
    for number in 0..ROUNDS {
        let mut floor = f64::INFINITY;
        for threads in THREADS {
            floor = floor.min(floor_of(&pfs, threads)?);
        }
        floors.push(floor);
        runs.push(made(&pfs)?);
        let vfs = vfs(&pfs);
        let addresses: Vec<_> = vfs.iter().map(Device::address).collect();
        ends.push(timed(&[&["destroy"], &addresses[..]].concat())?);
        if pfs.iter().any(|pf| !pf.vfs().is_empty()) {
            return Err(Stop::from("destroy of all VFs left some".to_owned()));
        }
        say(format_args!(
            "bench: round {}: raw {floor:.2} s, create {:?}, destroy {:?}",
            number + 1,
            runs[number],
            ends[number]
        ));
    }
    let native = native(&pfs)?;
    let floor = middle(floors.iter().copied());
    let acting = middle(runs.iter().map(|run| run.acting.unwrap_or(f64::NAN)));
    let whole = middle(runs.iter().map(|run| run.whole));
    let end = middle(ends.iter().map(|run| run.whole));
    Ok(format!(
        "{} VFs of {} PFs from nothing to vfio-pci; medians of {ROUNDS} rounds\n\
         raw writer, sriov_numvfs PF after PF and then driver_override and bind: {floor:.2} s\n\
         vfioadm create, first write to last settle: {acting:.2} s, {:.2} times the raw writer\n\
         vfioadm create, whole process: {whole:.2} s, {:.2} times the raw writer\n\
         by the native driver (probed, unbound, bound; raw, once): {native:.2} s, {:.1} times as long as vfioadm create\n\
         vfioadm destroy of all, whole process: {end:.2} s",
        pfs.len() * VFS,
        pfs.len(),
        acting / floor,
        whole / floor,
        native / acting,
    ))
}

pub(super) fn vfs(pfs: &[Device]) -> Vec<Device> {
    pfs.iter().flat_map(Device::vfs).collect()
}

/// Enables all VFs, PF after PF.
fn enable(pfs: &[Device], autoprobe: &str) -> Result<f64, String> {
    let started = std::time::Instant::now();
    pfs.iter().try_for_each(|pf| enable_of(pf, autoprobe))?;
    Ok(started.elapsed().as_secs_f64())
}

pub(super) fn disable(pfs: &[Device]) -> Result<(), String> {
    pfs.iter().try_for_each(|pf| {
        pf.write("sriov_numvfs", "0")?;
        pf.write("sriov_drivers_autoprobe", "1")
    })
}

/// The floor: the writes alone.
fn floor_of(pfs: &[Device], threads: usize) -> Result<f64, String> {
    let enabled = enable(pfs, "0")?;
    let vfs = vfs(pfs);
    let bound = raw::bind(&vfs, threads)?;
    // One after the other, as the kernel does it, they take 40 ms each to go.
    raw::take(&vfs, 64)?;
    disable(pfs)?;
    Ok(enabled + bound)
}

/// One call.
pub(super) fn made(pfs: &[Device]) -> Result<Run, String> {
    let names: Vec<_> = pfs.iter().map(Device::address).collect();
    let count = VFS.to_string();
    let ran = timed(&[&["create"], &names[..], &["vf", "--count", &count]].concat())?;
    let vfs = vfs(pfs);
    if vfs.len() != pfs.len() * VFS {
        return Err(format!("create made {} VFs", vfs.len()));
    }
    every_on(&vfs, Some("vfio-pci"), "vfio-pci")?;
    Ok(ran)
}

/// What peers do: the native driver probes each VF first.
fn native(pfs: &[Device]) -> Result<f64, String> {
    let started = std::time::Instant::now();
    enable(pfs, "1")?;
    let vfs = vfs(pfs);
    raw::unbind(&vfs, 16)?;
    raw::bind(&vfs, 16)?;
    let seconds = started.elapsed().as_secs_f64();
    every_on(&vfs, Some("vfio-pci"), "vfio-pci")?;
    raw::take(&vfs, 64)?;
    disable(pfs)?;
    Ok(seconds)
}
