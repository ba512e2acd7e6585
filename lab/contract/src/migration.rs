//! Migration, as the one device of the kernel's own shows it that migrates without hardware: `samples/vfio-mdev/mtty.c`.

use std::io::Write as _;

use vfioadm::host::device::{Data, Device, DeviceFlags, IovaRange, MigrationFlags, Saving, State};
use vfioadm::host::opening::{Manner, open_device};
use vfioadm::host::{HostError, HostPath};
use vfioadm::model::{Address, Errno};

use crate::Case;
use crate::device::opened_each_way;
use crate::ground::{Ground, expect, said};
use crate::mdev::{FIRST, uuid};

/// `UART_SCR`: a register that keeps what is written to it.
const SCRATCH: u64 = 7;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "migration: every way between two states is walked, and no other",
        rule: "drivers/vfio/vfio_main.c vfio_mig_get_next_state(); samples/vfio-mdev/mtty.c mtty_set_state()",
        run: |ground| {
            made(ground, FIRST)?;
            each_way(ground, FIRST, every_pair)
        },
    },
    Case {
        name: "migration: what is saved from one device is loaded into another",
        rule: "samples/vfio-mdev/mtty.c mtty_save_read(), mtty_resume_write(), mtty_load_state()",
        run: |ground| {
            let other = uuid(1);
            made(ground, FIRST)?;
            made(ground, &other)?;
            let (from, to) = (opened(ground, FIRST)?, opened(ground, &other)?);
            put(&*from, 0x5a)?;
            let data = saved(&*from)?;
            expect("size", from.data_size().map_err(said)? >= data.len() as u64, true)?;
            load(&*to, &data)?;
            expect("loaded", kept(&*to)?, 0x5a)?;
            expect("again", saved(&*to)?, data)
        },
    },
    Case {
        name: "migration: data that is cut is EINVAL, what is no such data EFAULT, and a reset leads out of RESUMING",
        rule: "samples/vfio-mdev/mtty.c mtty_resume_write(), mtty_load_state(), mtty_reset()",
        run: bad_data,
    },
    Case {
        name: "migration: in pre-copy there is something to read, then nothing for now, and STOP_COPY goes on with the file",
        rule: "samples/vfio-mdev/mtty.c mtty_precopy_ioctl(), mtty_save_read(); include/uapi/linux/vfio.h",
        run: |ground| {
            made(ground, FIRST)?;
            each_way(ground, FIRST, precopy)
        },
    },
    Case {
        name: "migration: mtty keeps its state when it is closed; what was open of its data is ENODEV",
        rule: "samples/vfio-mdev/mtty.c mtty_close(): mtty_disable_files() and no more",
        run: |ground| {
            made(ground, FIRST)?;
            let device = opened(ground, FIRST)?;
            let Some(Data::Saving(mut file)) = device.set_state(State::StopCopy).map_err(said)? else {
                return Err("STOP_COPY gave no file".to_owned());
            };
            drop(device);
            expect("read", read(&mut *file), Err(Errno::ENODEV))?;
            let device = opened(ground, FIRST)?;
            expect("state", device.state().map_err(said)?, State::StopCopy)?;
            expect("RESET", device.info().map_err(said)?.flags.contains(DeviceFlags::RESET), false)?;
            expect("reset", errno(device.reset()), Ok(()))?;
            expect("state", device.state().map_err(said)?, State::Running)
        },
    },
    Case {
        name: "DMA logging: no range, an odd one and 257 of them are refused",
        rule: "drivers/vfio/vfio_main.c vfio_ioctl_device_feature_logging_start()",
        run: |ground| {
            made(ground, FIRST)?;
            each_way(ground, FIRST, logging)
        },
    },
];

fn made(ground: &Ground<'_>, uuid: &str) -> Result<(), String> {
    ground.create("mtty", "mtty-1", uuid).map_err(said)
}

pub(crate) fn errno<T>(answer: Result<T, HostError>) -> Result<T, Errno> {
    answer.map_err(|error| error.errno)
}

fn place(uuid: &str) -> Result<(HostPath, Address), String> {
    let address: Address = uuid.parse().map_err(said)?;
    let directory = HostPath::parse(&format!("/sys/bus/mdev/devices/{uuid}")).ok_or("no such mdev")?;
    Ok((directory, address))
}

fn opened(ground: &Ground<'_>, uuid: &str) -> Result<Box<dyn Device>, String> {
    opened_at(ground, &place(uuid)?)
}

/// Opens the device that is at that directory and has that address.
pub(crate) fn opened_at(
    ground: &Ground<'_>,
    (directory, address): &(HostPath, Address),
) -> Result<Box<dyn Device>, String> {
    open_device(ground.host(), directory, address, &Manner::default()).map_err(said)
}

/// The same by each of its ways, and reset.
fn each_way(ground: &Ground<'_>, uuid: &str, show: impl Fn(&dyn Device) -> Result<(), String>) -> Result<(), String> {
    opened_each_way(ground, &place(uuid)?, |device| {
        show(device)?;
        device.reset().map_err(said)
    })
    .map(drop)
}

/// The states that a device can be sent to.
fn reachable() -> impl Iterator<Item = State> {
    State::ALL.into_iter().filter(|state| *state != State::Error)
}

/// Whether a step opens a file.
fn opens(from: State, to: State) -> bool {
    use State::{PreCopy, PreCopyP2p, Resuming, Running, RunningP2p, Stop, StopCopy};
    matches!((from, to), (Stop, StopCopy | Resuming) | (Running, PreCopy) | (RunningP2p, PreCopyP2p))
}

pub(crate) fn every_pair(device: &dyn Device) -> Result<(), String> {
    let flags = device.migration().map_err(said)?;
    expect("flags", flags, MigrationFlags::STOP_COPY | MigrationFlags::P2P | MigrationFlags::PRE_COPY)?;
    for from in reachable() {
        for to in State::ALL {
            pair(device, from, to).map_err(|reason| format!("{from} to {to}: {reason}"))?;
        }
    }
    Ok(())
}

fn pair(device: &dyn Device, from: State, to: State) -> Result<(), String> {
    device.reset().map_err(said)?;
    let _first = device.set_state(from).map_err(said)?;
    expect("there", device.state().map_err(said)?, from)?;
    let flags = device.migration().map_err(said)?;
    let answer = device.set_state(to);
    let now = device.state().map_err(said)?;
    match from.way(to, flags) {
        // Nothing was written, and that is no state.
        Ok(way) if from == State::Resuming && !way.is_empty() => {
            expect("left", errno(answer.map(drop)), Err(Errno::EINVAL))?;
            expect("state", now, State::Resuming)
        }
        Ok(way) => {
            let before = way.len().checked_sub(2).map_or(from, |place| way[place]);
            let wanted = way.last().is_some_and(|last| opens(before, *last));
            let kind = match answer.map_err(said)? {
                None => (false, false),
                Some(Data::Saving(_)) => (true, false),
                Some(Data::Resuming(_)) => (true, true),
            };
            expect("a file, to be written", kind, (wanted, wanted && to == State::Resuming))?;
            expect("state", now, to)
        }
        Err(_) => {
            expect("no way", errno(answer.map(drop)), Err(Errno::EINVAL))?;
            expect("state", now, from)
        }
    }
}

pub(crate) fn read(file: &mut dyn Saving) -> Result<usize, Errno> {
    let mut buffer = [0; 4096];
    file.read(&mut buffer).map_err(|error| Errno(error.raw_os_error().unwrap_or(0)))
}

/// Everything there is until it ends.
pub(crate) fn rest(file: &mut dyn Saving) -> Result<Vec<u8>, String> {
    let mut data = Vec::new();
    file.read_to_end(&mut data).map_err(said)?;
    Ok(data)
}

pub(crate) fn saved(device: &dyn Device) -> Result<Vec<u8>, String> {
    match device.set_state(State::StopCopy).map_err(said)? {
        Some(Data::Saving(mut file)) => {
            let data = rest(&mut *file)?;
            device.set_state(State::Running).map_err(said)?;
            Ok(data)
        }
        other => Err(format!("STOP_COPY gave {other:?}")),
    }
}

/// Writes all of it in odd pieces, and leaves `RESUMING`.
pub(crate) fn write(device: &dyn Device, data: &[u8]) -> Result<Result<(), Errno>, String> {
    let Some(Data::Resuming(mut file)) = device.set_state(State::Resuming).map_err(said)? else {
        return Err("RESUMING gave no file to be written".to_owned());
    };
    for piece in data.chunks(7) {
        if let Err(error) = file.write_all(piece) {
            return Ok(Err(Errno(error.raw_os_error().unwrap_or(0))));
        }
    }
    Ok(errno(device.set_state(State::Running).map(drop)))
}

fn load(device: &dyn Device, data: &[u8]) -> Result<(), String> {
    expect("load", write(device, data)?, Ok(()))?;
    expect("state", device.state().map_err(said)?, State::Running)
}

fn put(device: &dyn Device, byte: u8) -> Result<(), String> {
    let bar = device.region(0).map_err(said)?;
    expect("written", device.write_at(&bar, SCRATCH, &[byte]).map_err(said)?, 1)
}

fn kept(device: &dyn Device) -> Result<u8, String> {
    let bar = device.region(0).map_err(said)?;
    let mut byte = [0];
    expect("read", device.read_at(&bar, SCRATCH, &mut byte).map_err(said)?, 1)?;
    Ok(byte[0])
}

fn bad_data(ground: &Ground<'_>) -> Result<(), String> {
    made(ground, FIRST)?;
    let device = opened(ground, FIRST)?;
    let data = saved(&*device)?;
    let mut foreign = data.clone();
    foreign[0] ^= 0xff;
    let wrong = [("cut", &data[..data.len() - 1], Errno::EINVAL), ("foreign", &foreign[..], Errno::EFAULT)];
    for (what, data, errno) in wrong {
        expect(what, write(&*device, data)?, Err(errno))?;
        expect(what, device.state().map_err(said)?, State::Resuming)?;
        device.reset().map_err(said)?;
        expect(what, device.state().map_err(said)?, State::Running)?;
    }
    load(&*device, &data)
}

fn precopy(device: &dyn Device) -> Result<(), String> {
    let Some(Data::Saving(mut file)) = device.set_state(State::PreCopy).map_err(said)? else {
        return Err("PRE_COPY gave no file to be read".to_owned());
    };
    let initial = file.precopy().map_err(said)?.initial_bytes;
    expect("something", initial > 0, true)?;
    let first = read(&mut *file).map_err(|errno| said(errno.0))? as u64;
    expect("as much as was said", first <= initial, true)?;
    while file.precopy().map_err(said)?.initial_bytes > 0 {
        read(&mut *file).map_err(|errno| said(errno.0))?;
    }
    expect("nothing for now", matches!(read(&mut *file), Ok(0) | Err(Errno::ENOMSG)), true)?;
    expect("another file", device.set_state(State::StopCopy).map_err(said)?.is_some(), false)?;
    expect("pre-copy info", errno(file.precopy().map(drop)), Err(Errno::EINVAL))?;
    rest(&mut *file)?;
    expect("the end", read(&mut *file), Ok(0))?;
    device.set_state(State::Running).map_err(said)?;
    expect("when it is over", read(&mut *file), Err(Errno::ENODEV))
}

fn logging(device: &dyn Device) -> Result<(), String> {
    let range = |page: u64| IovaRange { iova: page * 8192, length: 4096 };
    let start = |ranges: &[IovaRange]| errno(device.start_logging(4096, ranges));
    expect("none", start(&[]), Err(Errno::EINVAL))?;
    expect("empty", start(&[IovaRange { iova: 0, length: 0 }]), Err(Errno::EINVAL))?;
    expect("odd", start(&[IovaRange { iova: 1, length: 4096 }]), Err(Errno::EINVAL))?;
    expect("twice the same", start(&[range(1), range(1)]), Err(Errno::EINVAL))?;
    expect("beyond the end", start(&[IovaRange { iova: u64::MAX - 4095, length: 8192 }]), Err(Errno::EOVERFLOW))?;
    let many: Vec<_> = (0..257).map(range).collect();
    expect("257", start(&many), Err(Errno::E2BIG))?;
    expect("256", start(&many[..256]), Ok(4096))?;
    expect("stop", errno(device.stop_logging()), Ok(()))
}
