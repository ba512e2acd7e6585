//! An open device: the ways to open it, its migration, and what it can do wrong.

use std::io::{Read as _, Write as _};

use uuid::Uuid;

use super::*;
use crate::host::device::{Access, Data, Device, Feature, IovaRange, Saving, State, Way};
use crate::host::fake::{Content, DeviceFault};
use crate::host::opening::{Manner, OpenError, WithoutIommu, open_device};
use crate::model::Address;

/// A VF of the demo host on mlx5_vfio_pci.
fn on_mlx5() -> (FakeHost, Bdf) {
    let host = demo();
    load(&host, "mlx5_vfio_pci").unwrap();
    give(&host, "mlx5_vfio_pci", "0000:3b:00.2").unwrap();
    (host, "0000:3b:00.2".parse().unwrap())
}

fn open(host: &FakeHost, bdf: Bdf, manner: &Manner) -> Result<Box<dyn Device>, OpenError> {
    open_device(host, &HostPath::pci(bdf), &Address::from(bdf), manner)
}

/// That nothing is open: the group can be had, which is exclusive.
fn nothing_is_open(host: &FakeHost, bdf: Bdf) {
    drop(Probe::open(host, &Open::Group(group_of(host, bdf))).unwrap());
}

fn group_of(host: &FakeHost, bdf: Bdf) -> GroupId {
    host.link_name(&HostPath::pci(bdf).attr("iommu_group")).unwrap().parse().map(GroupId).unwrap()
}

#[test]
fn the_cdev_is_the_first_way() {
    let (host, bdf) = on_mlx5();
    let device = open(&host, bdf, &Manner::default()).unwrap();
    assert!(matches!(device.way(), Way::Cdev(_)), "{}", device.way());
    drop(device);
    nothing_is_open(&host, bdf);
}

#[test]
fn without_an_iommufd_the_group_is_the_way() {
    let (host, bdf) = on_mlx5();
    host.edit(|tree| drop(tree.remove("/dev/iommu")));
    let device = open(&host, bdf, &Manner::default()).unwrap();
    assert!(matches!(device.way(), Way::Group(..)), "{}", device.way());
    drop(device);
    nothing_is_open(&host, bdf);
}

#[test]
fn a_busy_device_is_asked_again_until_it_is_free() {
    let (host, bdf) = on_mlx5();
    host.keep_busy(bdf, 12);
    let begun = host.now();
    drop(open(&host, bdf, &Manner::default()).unwrap());
    assert!(host.now() > begun, "no time has passed");
    nothing_is_open(&host, bdf);
}

#[test]
fn a_device_that_stays_busy_is_given_up_and_nothing_is_open() {
    let (host, bdf) = on_mlx5();
    host.keep_busy(bdf, u32::MAX);
    let manner = Manner { patience: Duration::from_secs(2), ..Manner::default() };
    let begun = host.now();
    let Err(OpenError::Host(error)) = open(&host, bdf, &manner) else { panic!("it was opened") };
    assert_eq!(error.errno, Errno::EAGAIN);
    assert!(error.said.as_deref().is_some_and(|said| said.starts_with("asked ")), "{error}");
    let waited = host.now() - begun;
    assert!((manner.patience..manner.patience * 2).contains(&waited), "{waited:?}");
    nothing_is_open(&host, bdf);
}

#[test]
fn a_signal_ends_the_patience() {
    let (host, bdf) = on_mlx5();
    host.keep_busy(bdf, u32::MAX);
    host.interrupt();
    assert!(open(&host, bdf, &Manner::default()).is_err());
    assert_eq!(host.now(), Duration::ZERO);
}

#[test]
fn what_a_vm_has_is_busy_by_whatever_way() {
    let (host, bdf) = on_mlx5();
    let group = group_of(&host, bdf);
    let held = host.hold_as(&Process::new(4711, "qemu"), &Open::GroupDevice(group, bdf)).unwrap();
    let Err(OpenError::Host(error)) = open(&host, bdf, &Manner::default()) else { panic!("it was opened") };
    assert_eq!(error.errno, Errno::EBUSY);
    drop(held);
    nothing_is_open(&host, bdf);
}

#[test]
fn a_token_that_nobody_wants_is_refused() {
    let (host, bdf) = on_mlx5();
    let manner = Manner { token: Some(Uuid::from_u128(1)), ..Manner::default() };
    let Err(OpenError::Host(error)) = open(&host, bdf, &manner) else { panic!("it was opened") };
    assert_eq!(error.errno, Errno::EINVAL);
    nothing_is_open(&host, bdf);
}

#[test]
fn on_its_host_driver_it_is_no_vfio_device() {
    let host = FakeHost::demo().unwrap();
    let bdf = "0000:00:14.0".parse().unwrap();
    assert_eq!(open(&host, bdf, &Manner::default()).map(drop), Err(OpenError::NoVfioDevice));
}

#[test]
fn without_iommu_it_is_opened_when_that_is_allowed() {
    let host = FakeHost::from_text(include_bytes!("../../../../tests/hosts/no_iommu.host")).unwrap();
    load(&host, "vfio_pci").unwrap();
    write(&host, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y").unwrap();
    give(&host, "vfio-pci", "0000:01:00.0").unwrap();
    let bdf = "0000:01:00.0".parse().unwrap();
    let refused = open(&host, bdf, &Manner::default()).map(drop);
    assert!(matches!(refused, Err(OpenError::WithoutIommu(_))), "{refused:?}");
    let allowed = Manner { without_iommu: WithoutIommu::Allow, ..Manner::default() };
    let device = open(&host, bdf, &allowed).unwrap();
    assert!(matches!(device.way(), Way::NoIommu(..)), "{}", device.way());
}

/// Reads to the end, or to an error.
fn all(file: &mut dyn Saving) -> Result<Vec<u8>, i32> {
    let mut data = Vec::new();
    file.read_to_end(&mut data).map(|_| data).map_err(|error| error.raw_os_error().unwrap_or(0))
}

fn save(device: &dyn Device) -> Vec<u8> {
    let Some(Data::Saving(mut file)) = device.set_state(State::StopCopy).unwrap() else { panic!("no file") };
    let data = all(&mut *file).unwrap();
    device.set_state(State::Running).unwrap();
    data
}

/// Loads, and says what the device said: at the write, or when it left `RESUMING`.
fn load_state(device: &dyn Device, data: &[u8]) -> Result<(), Errno> {
    let Some(Data::Resuming(mut file)) = device.set_state(State::Resuming).unwrap() else { panic!("no file") };
    file.write_all(data).map_err(|error| Errno(error.raw_os_error().unwrap_or(0)))?;
    device.set_state(State::Running).map(drop).map_err(|error| error.errno)
}

fn running(host: &FakeHost, bdf: Bdf) -> Box<dyn Device> {
    let device = open(host, bdf, &Manner::default()).unwrap();
    assert_eq!(device.state(), Ok(State::Running));
    device
}

#[test]
fn what_is_saved_is_loaded_and_gone_with_the_last_close() {
    let (host, bdf) = on_mlx5();
    let address = Address::from(bdf);
    let device = running(&host, bdf);
    let content = Content { seed: 7, length: 100_001 };
    host.fill(&address, content);
    let data = save(&*device);
    assert_eq!(data.len() as u64, device.data_size().unwrap());
    device.reset().unwrap();
    assert_eq!(host.content(&address), Content::default());
    assert_eq!(load_state(&*device, &data), Ok(()));
    assert_eq!(host.content(&address), content);
    assert_eq!(save(&*device), data);
    drop(device);
    assert_eq!(host.content(&address), Content::default());
}

#[test]
fn gigabytes_are_made_when_they_are_read() {
    let (host, bdf) = on_mlx5();
    let device = running(&host, bdf);
    host.fill(&Address::from(bdf), Content { seed: 1, length: 4 << 30 });
    assert!(device.data_size().unwrap() > 4 << 30);
    let Some(Data::Saving(mut file)) = device.set_state(State::StopCopy).unwrap() else { panic!("no file") };
    let mut buffer = vec![0; 1 << 20];
    assert_eq!(file.read(&mut buffer).unwrap(), buffer.len());
}

#[test]
fn pre_copy_ends_for_now_with_enomsg_and_goes_on_in_stop_copy() {
    let (host, bdf) = on_mlx5();
    let device = running(&host, bdf);
    let Some(Data::Saving(mut file)) = device.set_state(State::PreCopy).unwrap() else { panic!("no file") };
    assert!(file.precopy().unwrap().initial_bytes > 0);
    let mut data = Vec::new();
    let mut buffer = [0; 1000];
    let ended = loop {
        match file.read(&mut buffer) {
            Ok(count) => data.extend(&buffer[..count]),
            Err(error) => break error.raw_os_error(),
        }
    };
    assert_eq!(ended, Some(Errno::ENOMSG.0));
    assert_eq!(file.precopy().unwrap().initial_bytes, 0);
    assert!(device.set_state(State::StopCopy).unwrap().is_none(), "another file");
    data.extend(all(&mut *file).unwrap());
    assert_eq!(file.precopy().unwrap_err().errno, Errno::EINVAL);
    device.set_state(State::Running).unwrap();
    assert_eq!(all(&mut *file), Err(Errno::ENODEV.0));
    assert_eq!(save(&*device), data);
}

#[test]
fn the_arcs_that_hang_a_kernel_are_refused_with_the_reason() {
    let (host, bdf) = on_mlx5();
    let device = running(&host, bdf);
    let _file = device.set_state(State::StopCopy).unwrap();
    for to in [State::PreCopy, State::PreCopyP2p] {
        let error = device.set_state(to).unwrap_err();
        assert_eq!(error.errno, Errno::EINVAL);
        assert!(error.to_string().contains("not asked: there is no way from STOP_COPY to pre-copy"), "{error}");
        assert_eq!(device.state(), Ok(State::StopCopy));
    }
}

#[test]
fn data_that_is_not_the_devices_is_refused_and_a_reset_leads_out() {
    let (host, bdf) = on_mlx5();
    let device = running(&host, bdf);
    let data = save(&*device);
    let mut foreign = data.clone();
    foreign[8] ^= 1;
    let mut flipped = data.clone();
    flipped[1000] ^= 1;
    for bad in [&data[..data.len() - 1], &foreign, &flipped, &[&data[..], b"x"].concat()] {
        assert_eq!(load_state(&*device, bad), Err(Errno::EINVAL));
        assert_eq!(device.state(), Ok(State::Resuming));
        device.reset().unwrap();
        assert_eq!(device.state(), Ok(State::Running));
    }
}

/// What a device does, in a line: each fault has to change it.
fn conduct(fault: Option<DeviceFault>) -> String {
    let (host, bdf) = on_mlx5();
    let address = Address::from(bdf);
    let mut seen = String::new();
    let mut see = |what: String| seen += &format!("{what}; ");
    host.edit(|tree| {
        let bars = "0x00000000e0000000 0x00000000e00fffff 0x0000000000140204\n";
        tree.put(&format!("/sys/bus/pci/devices/{bdf}/resource"), bars);
    });
    if let Some(fault) = fault {
        host.fault(&address, fault);
    }
    let device = open(&host, bdf, &Manner::default()).unwrap();
    let errno = |error: HostError| error.errno.0;
    see(format!("{:?} {:?}", device.migration().map_err(errno), device.region(0).map_err(errno)));
    see(format!("{:?}", device.ask(Feature::BUS_MASTER, Access::PROBE).map_err(errno)));
    let page = IovaRange { iova: 0, length: 4096 };
    see(format!("{:?}", device.logged(page, 4096).map_err(errno)));
    see(format!("{:?}", device.start_logging(4096, &[page]).map_err(errno)));
    see(format!("{:?}", device.start_logging(4096, &[page]).map_err(errno)));
    host.fill(&address, Content { seed: 3, length: 1 << 17 });
    see(format!("{:?}", device.data_size()));
    let mut data = Vec::new();
    if let Ok(Some(Data::Saving(mut file))) = device.set_state(State::PreCopy) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = file.read(&mut buffer) {
            data.extend(&buffer[..count]);
        }
        see(format!("{:?}", file.precopy()));
        see(format!("{:?}", device.set_state(State::PreCopy).map(|file| file.is_some())));
        see(format!("{:?} {:?}", device.set_state(State::StopCopy).map_err(errno), device.state()));
        // A device that never ends is read no further than this.
        let mut rest = vec![0; 1 << 20];
        let mut end = 0;
        let told = loop {
            match file.read(&mut rest[end..]) {
                Ok(0) => break 0,
                Ok(count) => end += count,
                Err(error) => break error.raw_os_error().unwrap_or(0),
            }
        };
        data.extend(&rest[..end]);
        see(format!("{told} {} {:x}", data.len(), crc32fast::hash(&data)));
        see(format!("{:?}", device.set_state(State::Running).map_err(errno)));
        see(format!("{:?}", file.read(&mut buffer).map_err(|error| error.raw_os_error())));
    }
    see(format!("{:?}", device.set_no_state(8).map_err(errno)));
    if let Ok(Some(Data::Saving(mut file))) = device.set_state(State::StopCopy) {
        let raw = |answer: std::io::Result<usize>| answer.map_err(|error| error.raw_os_error());
        see(format!("{:?} {:?}", raw(file.wrong_way()), raw(file.read_at())));
        see(format!("{:?}", file.precopy().map_err(errno)));
        let mut again = vec![0; 1 << 16];
        see(format!("{:?} {:x}", file.read(&mut again).ok(), crc32fast::hash(&again)));
        // A byte alone, and what comes then.
        see(format!("{:?} {:?}", file.read(&mut again[..1]).ok(), file.read(&mut again).ok()));
        see(format!("{:x} {:?}", crc32fast::hash(&again), file.is_readable(Duration::ZERO).ok()));
    }
    device.reset().unwrap();
    see(format!("{:?}", device.state()));
    let good = save(&*running(&on_mlx5().0, bdf));
    let mut foreign = good.clone();
    foreign[8] ^= 1;
    let sum = crc32fast::hash(&foreign[..32]).to_le_bytes();
    foreign[32..36].copy_from_slice(&sum);
    let mut flipped = good.clone();
    flipped[1000] ^= 1;
    let more = [&good[..], &[0]].concat();
    // Half of it, and a reset before the whole.
    if let Ok(Some(Data::Resuming(mut file))) = device.set_state(State::Resuming) {
        see(format!("{:?}", file.write_all(&good[..good.len() / 2]).map_err(|error| error.raw_os_error())));
        device.reset().unwrap();
    }
    for data in [&good, &good[..good.len() - 1], &foreign, &flipped, &more] {
        host.fill(&address, Content { seed: 9, length: 9 });
        let loaded = match device.set_state(State::Resuming) {
            Ok(Some(Data::Resuming(mut file))) => {
                let written = data.chunks(4093).try_for_each(|piece| file.write_all(piece));
                format!("{written:?} {:?}", device.set_state(State::Stop).map_err(errno))
            }
            other => format!("{other:?}"),
        };
        see(format!("{loaded} {:?}", host.content(&address)));
        device.reset().unwrap();
    }
    drop(device.set_state(State::Stop));
    drop(device);
    see(format!("{:?}", open(&host, bdf, &Manner::default()).unwrap().state()));
    seen + &conduct_without_pf(fault) + &conduct_when_forced(fault)
}

/// The same of a VF whose PF has no driver, and that migrates by itself.
fn conduct_without_pf(fault: Option<DeviceFault>) -> String {
    let (host, bdf) = on_mlx5();
    host.edit(|tree| {
        tree.put_text(&format!("/kernel/pci/{bdf}/own_state"), 1);
        tree.remove("/sys/bus/pci/devices/0000:3b:00.0/driver");
    });
    let host = FakeHost::from_text(host.to_text().as_bytes()).unwrap();
    if let Some(fault) = fault {
        host.fault(&Address::from(bdf), fault);
    }
    let device = open(&host, bdf, &Manner::default()).unwrap();
    let went = device.set_state(State::StopCopy);
    let mut data = vec![0; 1 << 20];
    let read = match went {
        Ok(Some(Data::Saving(mut file))) => format!("{:?}", file.read(&mut data).ok()),
        other => format!("{other:?}"),
    };
    device.reset().unwrap();
    format!("{:?} {read} {:?}; ", device.migration().ok(), device.state())
}

/// The same of a device that its driver's table has not.
fn conduct_when_forced(fault: Option<DeviceFault>) -> String {
    let host = demo();
    load(&host, "mlx5_vfio_pci").unwrap();
    let bdf: Bdf = "0000:81:10.4".parse().unwrap();
    give(&host, "mlx5_vfio_pci", &bdf.to_string()).unwrap();
    if let Some(fault) = fault {
        host.fault(&Address::from(bdf), fault);
    }
    format!("{:?}", open(&host, bdf, &Manner::default()).map(|_| ()))
}

#[test]
fn every_fault_is_seen_and_each_is_another() {
    let healthy = conduct(None);
    let mut seen = vec![healthy];
    for (fault, name) in DeviceFault::ALL {
        assert_eq!((fault.name(), DeviceFault::named(name)), (name, Some(fault)));
        let conduct = conduct(Some(fault));
        assert!(!seen.contains(&conduct), "{name} is not seen, or is like another:\n{conduct}");
        seen.push(conduct);
    }
}
