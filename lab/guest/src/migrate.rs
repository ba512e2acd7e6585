//! The rules of the migration uAPI (`include/uapi/linux/vfio.h`, 7.2), each looked at once on a device that has them all to
//! keep: what the lab's variant is judged by. `vfioadm qualify` has rules of its own, and is not asked here.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::io::Errno;
use vfioadm_uapi::device;
use vfioadm_uapi::migration::{self, Data, MigrationFlags, NotSet, Resuming, Saving, State};
use vfioadm_uapi::region::{self, Capability, Info};

use crate::hold::Opened;
use crate::sysfs::Device;

/// The region with the state, as `lab/kmod/variant.c` has it.
const REGION: region::Type = region::Type { kind: region::Type::VENDOR | 0x1b36, subtype: 0x6c62 };
/// No power of two, and no part of a record.
const SEGMENT: usize = 1021;
/// How often the end is read again.
const PERMANENT_ENDS: usize = 3;

/// A rule that was seen broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// GET tells another state than the one that SET reached.
    State,
    /// A target that the device has not got is accepted.
    Arc,
    /// SET to the present state gives a descriptor.
    SecondFd,
    /// The arc to STOP_COPY fails.
    StopCopy,
    /// RESET does not lead to RUNNING.
    Reset,
    /// A device that was closed and opened is not in RUNNING.
    Close,
    /// In STOP_COPY the end is not there, or not for good.
    Eof,
    /// In pre-copy the temporary end is not ENOMSG.
    PrecopyEnd,
    /// PRECOPY_INFO has more initial bytes than before.
    InfoGrows,
    /// PRECOPY_INFO answers outside of pre-copy.
    InfoAlways,
    /// More came than DATA_SIZE had said.
    DataSize,
    /// Its own stream is refused.
    Load,
    /// The descriptor can be read after its session.
    FdSurvives,
    /// `pread` works.
    Seekable,
    /// What is to be read can be written.
    BothWays,
    /// Half a stream is accepted.
    Truncated,
    /// A stream with a bit flipped is accepted.
    Corrupt,
    /// The stream of a device of another kind is accepted.
    Foreign,
    /// A stream is accepted, and the state is not what was saved.
    Content,
}

/// An open device that may migrate. Its answers are the kernel's, errnos by name.
pub(crate) struct Bound(Opened);

impl Bound {
    /// Opens it by its cdev.
    pub(crate) fn open(device: &Device) -> Result<Bound, String> {
        Opened::by_cdev(device).map(Bound)
    }

    /// Its state.
    pub(crate) fn state(&self) -> Result<State, String> {
        migration::state(self.0.device.as_fd()).map_err(named)
    }

    fn ask(&self, to: State) -> Result<Option<Data>, String> {
        migration::set_state(self.0.device.as_fd(), to).map_err(|refused| match refused {
            NotSet::Kernel(errno) => named(errno),
            NotSet::NoWay(way) => format!("{way:?}"),
        })
    }

    /// Sends it to a state, and lets go of the descriptor that may come.
    pub(crate) fn set(&self, to: State) -> Result<(), String> {
        self.ask(to).map(drop)
    }

    /// Sends it to a state of saving.
    pub(crate) fn begin(&self, to: State) -> Result<Source, String> {
        match self.ask(to)? {
            Some(Data::Saving(saving)) => Ok(Source(saving)),
            other => Err(format!("on the way to {}: {other:?}", to.name())),
        }
    }

    fn resume(&self) -> Result<Resuming, String> {
        match self.ask(State::Resuming)? {
            Some(Data::Resuming(resuming)) => Ok(resuming),
            other => Err(format!("on the way to RESUMING: {other:?}")),
        }
    }

    fn reset(&self) -> Result<(), String> {
        device::reset(self.0.device.as_fd()).map_err(named)
    }

    fn region(&self) -> Result<Info, String> {
        let regions = device::info(self.0.device.as_fd()).map_err(named)?.num_regions;
        let mut all = (0..regions).filter_map(|index| region::info(self.0.device.as_fd(), index).ok());
        let ours = |info: &Info| info.capabilities.contains(&Capability::Type(REGION));
        all.find(ours).ok_or_else(|| "the device has no region with its state".to_owned())
    }

    fn content(&self) -> Result<Vec<u8>, String> {
        let region = self.region()?;
        let mut content = vec![0; usize::try_from(region.size).map_err(|error| error.to_string())?];
        let read = region::read_at(self.0.device.as_fd(), &region, 0, &mut content).map_err(named)?;
        if read == content.len() { Ok(content) } else { Err(format!("{read} bytes of {} were read", content.len())) }
    }

    fn write(&self, at: u64, byte: u8) -> Result<(), String> {
        region::write_at(self.0.device.as_fd(), &self.region()?, at, &[byte]).map_err(named).map(drop)
    }
}

/// A descriptor of saving.
pub(crate) struct Source(Saving);

impl Source {
    /// Reads once.
    pub(crate) fn read(&mut self) -> Result<Vec<u8>, String> {
        let mut segment = vec![0; SEGMENT];
        let read = self.0.read(&mut segment).map_err(told)?;
        segment.truncate(read);
        Ok(segment)
    }

    /// Reads until nothing comes, and tells what came instead.
    fn drain(&mut self, into: &mut Vec<u8>) -> Result<(), String> {
        loop {
            match self.read()? {
                segment if segment.is_empty() => return Ok(()),
                segment => into.extend(segment),
            }
        }
    }
}

/// Writes a stream to a device and sends it to STOP.
fn load(device: &Bound, stream: &[u8]) -> Result<(), String> {
    let mut resuming = device.resume()?;
    let written = stream.chunks(SEGMENT).try_for_each(|segment| resuming.write_all(segment)).map_err(told);
    written.and_then(|()| device.set(State::Stop))
}

/// The rules that are broken when the first of three devices is saved and the second, its sibling, is loaded; the third is
/// of another kind.
pub(crate) fn rounds([from, to, foreign]: &[Device; 3]) -> Result<BTreeSet<Broken>, String> {
    let mut broken = BTreeSet::new();
    let source = Bound::open(from)?;
    let flags = migration::flags(source.0.device.as_fd()).map_err(named)?;
    for state in [State::Error, State::RunningP2p].into_iter().filter(|state| !state.is_of(flags)) {
        broken.extend(source.set(state).is_ok().then_some(Broken::Arc));
    }
    source.write(0, 0x5a)?;
    let mut stream = Vec::new();
    let saving =
        if flags.contains(MigrationFlags::PRE_COPY) { Some(precopy(&source, &mut stream, &mut broken)?) } else { None };
    let Some(saving) = stop_copy(&source, saving, &mut broken)? else { return Ok(broken) };
    stopped(&source, saving, &mut stream, &mut broken)?;
    loaded(&source, &Bound::open(to)?, &stream, &mut broken)?;
    refused(&Bound::open(to)?, &stream, &Bound::open(foreign)?, &mut broken)?;
    // Last, for a device that keeps its state is of no more use.
    source.set(State::Stop)?;
    source.reset()?;
    let mut keeps = |state: Result<State, String>, rule| broken.extend((state != Ok(State::Running)).then_some(rule));
    keeps(source.state(), Broken::Reset);
    source.set(State::Stop)?;
    drop(source);
    keeps(Bound::open(from)?.state(), Broken::Close);
    Ok(broken)
}

fn precopy(source: &Bound, stream: &mut Vec<u8>, broken: &mut BTreeSet<Broken>) -> Result<Source, String> {
    let mut saving = source.begin(State::PreCopy)?;
    let info = |saving: &Source| saving.0.precopy().map_err(named);
    let (first, next) = (info(&saving)?, info(&saving)?);
    broken.extend((next.initial_bytes > first.initial_bytes).then_some(Broken::InfoGrows));
    let mut byte = [0];
    broken.extend(rustix::io::pread(&saving.0, &mut byte, 0).is_ok().then_some(Broken::Seekable));
    if broken.contains(&Broken::Seekable) {
        stream.extend(byte);
    }
    broken.extend(rustix::io::write(&saving.0, &byte).is_ok().then_some(Broken::BothWays));
    let temporary = saving.drain(stream);
    broken.extend((temporary != Err("ENOMSG".to_owned())).then_some(Broken::PrecopyEnd));
    let before = info(&saving)?;
    source.write(0, 0xa5)?;
    let dirty = info(&saving)?;
    if before.dirty_bytes != 0 || dirty.dirty_bytes == 0 {
        return Err(format!("what was written is not dirty: {before:?}, then {dirty:?}"));
    }
    let length = stream.len();
    drop(saving.drain(stream));
    if u64::try_from(stream.len() - length) != Ok(dirty.dirty_bytes) {
        return Err(format!("{dirty:?}, and {} bytes came", stream.len() - length));
    }
    source.write(0, 0x3c)?;
    Ok(saving)
}

/// STOP_COPY; there is no more to see when that fails.
fn stop_copy(source: &Bound, saving: Option<Source>, broken: &mut BTreeSet<Broken>) -> Result<Option<Source>, String> {
    match (source.ask(State::StopCopy), saving) {
        (Ok(None), Some(saving)) => Ok(Some(saving)),
        (Ok(Some(Data::Saving(saving))), None) => Ok(Some(Source(saving))),
        (Ok(_), _) => Err("STOP_COPY gave a descriptor where there was one, or none where there was none".to_owned()),
        (Err(_), _) => {
            broken.insert(Broken::StopCopy);
            source.reset()?;
            broken.extend((source.state() != Ok(State::Running)).then_some(Broken::Reset));
            Ok(None)
        }
    }
}

fn stopped(
    source: &Bound,
    mut saving: Source,
    stream: &mut Vec<u8>,
    broken: &mut BTreeSet<Broken>,
) -> Result<(), String> {
    broken.extend((source.state()? != State::StopCopy).then_some(Broken::State));
    broken.extend(source.ask(State::StopCopy)?.is_some().then_some(Broken::SecondFd));
    broken.extend(saving.0.precopy().is_ok().then_some(Broken::InfoAlways));
    let said = migration::data_size(source.0.device.as_fd()).map_err(named)?;
    let before = stream.len();
    let mut ended = saving.drain(stream).is_ok();
    for _ in 0..PERMANENT_ENDS {
        let length = stream.len();
        ended &= saving.drain(stream).is_ok() && stream.len() == length;
    }
    broken.extend((!ended).then_some(Broken::Eof));
    let more = u64::try_from(stream.len() - before).map_err(|error| error.to_string())? > said;
    broken.extend(more.then_some(Broken::DataSize));
    source.set(State::Running)?;
    broken.extend((saving.read() != Err("ENODEV".to_owned())).then_some(Broken::FdSurvives));
    Ok(())
}

fn loaded(source: &Bound, to: &Bound, stream: &[u8], broken: &mut BTreeSet<Broken>) -> Result<(), String> {
    let before = to.content()?;
    if load(to, stream).is_err() {
        broken.insert(Broken::Load);
        return Ok(());
    }
    to.set(State::Running)?;
    let (saved, loaded) = (source.content()?, to.content()?);
    if before == saved {
        return Err("the sibling had the same state before it was loaded".to_owned());
    }
    broken.extend((saved != loaded).then_some(Broken::Content));
    Ok(())
}

/// What is no stream of such a device is refused, and the device waits for a reset.
fn refused(to: &Bound, stream: &[u8], foreign: &Bound, broken: &mut BTreeSet<Broken>) -> Result<(), String> {
    let mut flipped = stream.to_vec();
    if let Some(byte) = flipped.last_mut() {
        *byte ^= 0x10;
    }
    let mut others = Vec::new();
    let mut saving = foreign.begin(State::StopCopy)?;
    drop(saving.drain(&mut others));
    let bad: [(&[u8], Broken); 3] =
        [(&stream[..stream.len() / 2], Broken::Truncated), (&flipped, Broken::Corrupt), (&others, Broken::Foreign)];
    for (bad, rule) in bad {
        match load(to, bad) {
            Ok(()) => drop(broken.insert(rule)),
            Err(errno) if errno == "EINVAL" => {}
            Err(other) => return Err(format!("{rule:?}: {other}")),
        }
        to.reset()?;
        if to.state()? != State::Running {
            broken.insert(Broken::Reset);
            break;
        }
    }
    Ok(())
}

fn told(error: io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| named(Errno::from_raw_os_error(number)))
}

fn named(errno: Errno) -> String {
    let name = match errno {
        Errno::INVAL => "EINVAL",
        Errno::NODEV => "ENODEV",
        Errno::NOMSG => "ENOMSG",
        Errno::NOTCONN => "ENOTCONN",
        Errno::NOTTY => "ENOTTY",
        Errno::IO => "EIO",
        Errno::BADF => "EBADF",
        Errno::SPIPE => "ESPIPE",
        other => return other.to_string(),
    };
    name.to_owned()
}
