//! The floor: what the kernel itself takes. The same writes as vfioadm makes, and the same reads, by a program that thinks
//! of nothing else.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::sysfs::{Device, write};

/// Devices handed to `threads` threads one by one, each with a worker of its own; how many seconds that took.
pub(crate) fn each<W: FnMut(&Device) -> Result<(), String>>(
    devices: &[Device],
    threads: usize,
    worker: impl Fn() -> W + Sync,
) -> Result<f64, String> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), String> {
        let mut act = worker();
        while let Some(device) = devices.get(next.fetch_add(1, Ordering::Relaxed)) {
            act(device)?;
        }
        Ok(())
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| "a writer panicked".to_owned())?)
    })?;
    Ok(started.elapsed().as_secs_f64())
}

/// Writes `driver_override` and `drivers/vfio-pci/bind`.
pub(crate) fn bind(devices: &[Device], threads: usize) -> Result<f64, String> {
    each(devices, threads, || {
        |device: &Device| {
            device.write("driver_override", "vfio-pci")?;
            device.bind("vfio-pci")
        }
    })
}

/// Writes `driver_override` and `drivers/vfio-pci/unbind`.
pub(crate) fn take(devices: &[Device], threads: usize) -> Result<f64, String> {
    each(devices, threads, || {
        |device: &Device| {
            device.write("driver_override", "none")?;
            write(Path::new("/sys/bus/pci/drivers/vfio-pci/unbind"), device.address())
        }
    })
}

/// Writes each device's `driver/unbind`.
pub(crate) fn unbind(devices: &[Device], threads: usize) -> Result<f64, String> {
    each(devices, threads, || Device::unbind)
}

/// Reads of every function what `vfioadm list` reads of it (`src/discover/functions.rs`), and nothing else. Tells how many
/// functions there are, and how many bytes were read.
pub(crate) fn enumerate() -> io::Result<String> {
    let (mut functions, mut bytes) = (0, 0);
    for entry in std::fs::read_dir("/sys/bus/pci/devices")? {
        functions += 1;
        bytes += function(&entry?.path())?;
    }
    Ok(format!("{functions} functions, {bytes} bytes"))
}

fn function(path: &Path) -> io::Result<usize> {
    let mut bytes = attribute(&path.join("modalias"))?;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let (name, at) = (entry.file_name(), entry.path());
        bytes += match name.to_str().unwrap_or_default() {
            "driver_override" | "numa_node" | "sriov_totalvfs" | "sriov_drivers_autoprobe" | "boot_vga" => {
                attribute(&at)?
            }
            "driver" | "iommu_group" | "physfn" => link(&at)?,
            virtfn if virtfn.starts_with("virtfn") => link(&at)?,
            "vfio-dev" => vfio_dev(&at)?,
            _ => 0,
        };
    }
    Ok(bytes)
}

fn vfio_dev(path: &Path) -> io::Result<usize> {
    let mut names = 0;
    for entry in std::fs::read_dir(path)? {
        names += std::fs::read_dir(entry?.path())?.count();
    }
    Ok(names)
}

fn attribute(path: &Path) -> io::Result<usize> {
    File::open(path)?.read(&mut [0; 4096])
}

fn link(path: &Path) -> io::Result<usize> {
    Ok(std::fs::read_link(path)?.as_os_str().len())
}
