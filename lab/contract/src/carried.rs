//! The state of the lab's variant, as it is carried from a device into its sibling, and what is refused.

use vfioadm::host::Device;
use vfioadm::host::device::{Data, RegionCapability, RegionInfo, RegionType, State};
use vfioadm::model::Errno;

use crate::Case;
use crate::ground::{Ground, Role, expect, said};
use crate::migration::{errno, read, rest, saved, write};
use crate::variant::{BY_SUBSYSTEM, opened, siblings, taken, tell};

/// The region with the state, as `lab/kmod/variant.c` has it.
const REGION: RegionType = RegionType { kind: RegionType::VENDOR | 0x1b36, subtype: 0x6c62 };

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "variant: what is saved on a VF is loaded on its sibling, and is what user space sees there",
        rule: "lab/kmod/migration.c lab_read(), lab_write(), lab_take(); variant.c lab_region_rw()",
        run: carried,
    },
    Case {
        name: "variant: what is cut, damaged or another kind of device's is EINVAL, and waits for a reset",
        rule: "lab/kmod/migration.c lab_take(), lab_step()",
        run: refused,
    },
    Case {
        name: "variant: what is written in pre-copy is dirty, and comes after; STOP_COPY goes on with the file",
        rule: "include/uapi/linux/vfio.h VFIO_MIG_GET_PRECOPY_INFO; lab/kmod/migration.c lab_precopy_info()",
        run: precopied,
    },
    Case {
        name: "variant: a reset and a close leave the state that the seed makes, each device its own",
        rule: "lab/kmod/migration.c lab_reset(), lab_reset_done(); variant.c lab_open(), lab_close()",
        run: resets,
    },
];

/// The region with the state.
pub(crate) fn region(device: &dyn Device) -> Result<RegionInfo, String> {
    let regions = device.info().map_err(said)?.num_regions;
    let mut all = (0..regions).filter_map(|index| device.region(index).ok());
    let ours = |info: &RegionInfo| info.capabilities.contains(&RegionCapability::Type(REGION));
    all.find(ours).ok_or_else(|| "the device has no region with its state".to_owned())
}

/// The state, as user space sees it.
fn content(device: &dyn Device) -> Result<Vec<u8>, String> {
    let region = region(device)?;
    let mut content = vec![0; usize::try_from(region.size).map_err(said)?];
    expect("bytes", device.read_at(&region, 0, &mut content).map_err(said)?, content.len())?;
    Ok(content)
}

fn put(device: &dyn Device, byte: u8) -> Result<(), String> {
    expect("written", device.write_at(&region(device)?, 0, &[byte]).map_err(said)?, 1)
}

fn carried(ground: &Ground<'_>) -> Result<(), String> {
    let [vf, sibling] = siblings(ground, Role::NvmePf)?;
    tell(ground, BY_SUBSYSTEM, &[("state_bytes", "5000")])?;
    taken(ground, vf)?;
    taken(ground, sibling)?;
    let (from, to) = (opened(ground, vf)?, opened(ground, sibling)?);
    put(&*from, 0x5a)?;
    let said_before = from.data_size().map_err(said)?;
    let data = saved(&*from)?;
    expect("as much as was said", data.len() as u64, said_before)?;
    let before = content(&*to)?;
    expect("the sibling has another", before == content(&*from)?, false)?;
    expect("load", write(&*to, &data)?, Ok(()))?;
    expect("the same", content(&*to)? == content(&*from)?, true)?;
    expect("saved again", saved(&*to)? == data, true)
}

fn refused(ground: &Ground<'_>) -> Result<(), String> {
    let ([vf, _], [stranger, _]) = (siblings(ground, Role::NvmePf)?, siblings(ground, Role::Igb)?);
    tell(ground, BY_SUBSYSTEM, &[("state_bytes", "300")])?;
    taken(ground, vf)?;
    taken(ground, stranger)?;
    let device = opened(ground, vf)?;
    let data = saved(&*device)?;
    let mut damaged = data.clone();
    damaged[data.len() - 1] ^= 0x10;
    let foreign = saved(&*opened(ground, stranger)?)?;
    let more = [&data[..], &[0]].concat();
    for (what, data) in [
        ("nothing", &[][..]),
        ("cut", &data[..data.len() - 1]),
        ("damaged", &damaged),
        ("foreign", &foreign),
        ("more", &more),
    ] {
        expect(what, write(&*device, data)?, Err(Errno::EINVAL))?;
        expect(what, device.state().map_err(said)?, State::Resuming)?;
        expect(what, errno(device.set_state(State::Stop).map(drop)), Err(Errno::EINVAL))?;
        device.reset().map_err(said)?;
        expect(what, device.state().map_err(said)?, State::Running)?;
    }
    expect("its own", write(&*device, &data)?, Ok(()))
}

fn precopied(ground: &Ground<'_>) -> Result<(), String> {
    let [vf, sibling] = siblings(ground, Role::NvmePf)?;
    tell(ground, BY_SUBSYSTEM, &[("state_bytes", "3000")])?;
    taken(ground, vf)?;
    taken(ground, sibling)?;
    let (device, to) = (opened(ground, vf)?, opened(ground, sibling)?);
    let Some(Data::Saving(mut file)) = device.set_state(State::PreCopy).map_err(said)? else {
        return Err("PRE_COPY gave no file to be read".to_owned());
    };
    let first = file.precopy().map_err(said)?;
    expect("all of it is initial", (first.initial_bytes > 3000, first.dirty_bytes), (true, 0))?;
    let mut all = until_dry(&mut *file)?;
    expect("as much as was said", all.len() as u64, first.initial_bytes)?;
    put(&*device, 0xa5)?;
    let dirty = file.precopy().map_err(said)?;
    expect("initial, dirty", (dirty.initial_bytes, dirty.dirty_bytes), (0, first.initial_bytes))?;
    let more = until_dry(&mut *file)?;
    expect("as much as was said", more.len() as u64, dirty.dirty_bytes)?;
    all.extend(more);
    put(&*device, 0x3c)?;
    expect("another file", device.set_state(State::StopCopy).map_err(said)?.is_some(), false)?;
    expect("pre-copy info", errno(file.precopy().map(drop)), Err(Errno::EINVAL))?;
    expect("the size", device.data_size().map_err(said)?, first.initial_bytes)?;
    all.extend(rest(&mut *file)?);
    expect("the end", read(&mut *file), Ok(0))?;
    expect("load", write(&*to, &all)?, Ok(()))?;
    expect("the same", content(&*to)? == content(&*device)?, true)?;
    device.set_state(State::Running).map_err(said)?;
    expect("when it is over", read(&mut *file), Err(Errno::ENODEV))
}

/// What there is until nothing more comes for now, which is `ENOMSG`.
fn until_dry(file: &mut dyn vfioadm::host::device::Saving) -> Result<Vec<u8>, String> {
    let (mut all, mut piece) = (Vec::new(), [0; 1021]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Err("0 where ENOMSG is meant".to_owned()),
            Ok(length) => all.extend(&piece[..length]),
            Err(error) if error.raw_os_error() == Some(Errno::ENOMSG.0) => return Ok(all),
            Err(error) => return Err(said(error)),
        }
    }
}

fn resets(ground: &Ground<'_>) -> Result<(), String> {
    let [vf, sibling] = siblings(ground, Role::NvmePf)?;
    tell(ground, BY_SUBSYSTEM, &[("state_bytes", "500"), ("seed", "7")])?;
    taken(ground, vf)?;
    taken(ground, sibling)?;
    let device = opened(ground, vf)?;
    let fresh = content(&*device)?;
    expect("the sibling has another", content(&*opened(ground, sibling)?)? == fresh, false)?;
    let spoil = |device: &dyn Device| put(device, fresh[0] ^ 1);
    spoil(&*device)?;
    let held = device.set_state(State::StopCopy).map_err(said)?;
    device.reset().map_err(said)?;
    expect("state", device.state().map_err(said)?, State::Running)?;
    expect("reset", content(&*device)? == fresh, true)?;
    spoil(&*device)?;
    drop((held, device));
    let device = opened(ground, vf)?;
    expect("closed", content(&*device)? == fresh, true)?;
    tell(ground, BY_SUBSYSTEM, &[("seed", "8")])?;
    device.reset().map_err(said)?;
    expect("with another seed", content(&*device)? == fresh, false)
}
