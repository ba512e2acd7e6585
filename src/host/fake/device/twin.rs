//! How a device of the lab's variants migrates: `lab/kmod/migration.c`, function by function.
//!
//! The state is the content of a device specific region. It travels as a row of records of one size, each the whole of it at
//! a time, with the device's ids and a CRC; the last says so. Other devices of the fake have [data](super::stream) that is
//! made when it is read, and faults of their own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::host::device::{MigrationFlags, Precopy, PrecopyFlags, State};
use crate::host::fake::kernel::Kernel;
use crate::host::fake::vfio::OwnState;
use crate::host::fake::vfio::lab::LabFault;
use crate::model::{Address, Bdf, Errno};

/// `LAB_MAGIC`, `lbmv`.
const MAGIC: u32 = 0x766d_626c;
/// `sizeof(struct lab_record)`: magic, last, four ids, length, CRC.
const HEAD: usize = 24;
/// Where the CRC is in it.
const CRC: std::ops::Range<usize> = 20..24;

/// What the parameters of the module say now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Now {
    fault: Option<LabFault>,
    seed: u32,
}

impl Now {
    fn breaks(self, fault: LabFault) -> bool {
        self.fault == Some(fault)
    }
}

/// Which way data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Way {
    #[default]
    Saves,
    Loads,
}

/// What follows a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    More,
    Nothing,
}

/// `struct lab_stream`: a data transfer session. Its file can outlive it.
#[derive(Debug, Default)]
pub(super) struct Stream {
    way: Way,
    ended: bool,
    paused: bool,
    /// The last record is in `buf`, or was loaded.
    complete: bool,
    /// What was written is no good.
    bad: bool,
    /// It was opened for both ways, or to be read by place.
    opened: Option<LabFault>,
    /// How far `buf` was read, and how much of it is of the beginning.
    pos: usize,
    initial: usize,
    buf: Vec<u8>,
    /// The content of the record that was written last.
    taken: Option<Vec<u8>>,
    /// How often it was asked about pre-copy.
    asked: u64,
}

/// A session, shared by the device and its file.
pub(super) type Session = Arc<Mutex<Stream>>;

pub(super) fn locked(session: &Session) -> MutexGuard<'_, Stream> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// Whether it goes on.
    const fn goes_on(&self) -> Result<(), Errno> {
        if self.ended { Err(Errno::ENODEV) } else { Ok(()) }
    }

    pub(super) fn saves(&self) -> bool {
        self.way == Way::Saves
    }

    pub(super) fn opened_for(&self, fault: LabFault) -> bool {
        self.opened == Some(fault)
    }
}

/// `struct lab_device`, of one that migrates.
#[derive(Debug)]
pub(super) struct Twin {
    bdf: Bdf,
    ids: [u16; 4],
    pf_left: bool,
    open: bool,
    dirty: bool,
    state: State,
    stream: Option<Session>,
    content: Vec<u8>,
}

impl Twin {
    fn record_size(&self) -> usize {
        HEAD + self.content.len()
    }

    /// `lab_end()`.
    fn end(&mut self) {
        if let Some(stream) = self.stream.take() {
            locked(&stream).ended = true;
        }
    }

    /// `lab_reset()`; the kernel's random numbers are others.
    fn reset(&mut self, now: Now) {
        self.end();
        self.state = State::Running;
        let own = u64::from(self.bdf.bus()) << 8 | u64::from(self.bdf.device()) << 3 | u64::from(self.bdf.function());
        let mut at = own << 32 | u64::from(now.seed);
        for piece in self.content.chunks_mut(8) {
            // splitmix64
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = at;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            piece.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..piece.len()]);
        }
    }

    /// `lab_reset_done()`.
    fn reset_done(&mut self, now: Now) {
        let keeps = if self.open {
            now.breaks(LabFault::ResetKeeps) || now.breaks(LabFault::StuckError)
        } else {
            now.breaks(LabFault::CloseKeeps)
        };
        if !keeps {
            self.reset(now);
        }
    }

    /// `lab_head()`, without its CRC.
    fn head(&self, last: u32) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&MAGIC.to_le_bytes());
        head[4..8].copy_from_slice(&last.to_le_bytes());
        for (index, id) in self.ids.into_iter().enumerate() {
            head[8 + 2 * index..10 + 2 * index].copy_from_slice(&id.to_le_bytes());
        }
        head[16..20].copy_from_slice(&u32::try_from(self.content.len()).unwrap_or(u32::MAX).to_le_bytes());
        head
    }

    /// `lab_append()`.
    fn append(&mut self, stream: &mut Stream, follows: Follows, now: Now) -> usize {
        if stream.pos == stream.buf.len() {
            stream.buf.clear();
            (stream.pos, stream.initial) = (0, 0);
        }
        let last = follows == Follows::Nothing;
        let mut record = self.head(last.into()).to_vec();
        record.extend(&self.content);
        let sum = crc32fast::hash(&record);
        record[CRC].copy_from_slice(&sum.to_le_bytes());
        if last && now.breaks(LabFault::LosesTail) {
            record.truncate(record.len() - HEAD);
        }
        stream.buf.extend(record);
        stream.complete = last;
        self.dirty = false;
        stream.buf.len()
    }

    /// `lab_read()`.
    fn read(&mut self, stream: &mut Stream, into: &mut [u8], now: Now) -> Result<usize, Errno> {
        if !now.breaks(LabFault::FdSurvives) {
            stream.goes_on()?;
        }
        let is_dry = |stream: &Stream| stream.pos == stream.buf.len();
        if is_dry(stream) && !stream.complete && !stream.ended && stream.saves() && self.dirty {
            self.append(stream, Follows::More, now);
        }
        let dry = if stream.complete { now.breaks(LabFault::EofMissing) } else { !now.breaks(LabFault::PrecopyEof) };
        if is_dry(stream) && dry {
            return Err(Errno::ENOMSG);
        }
        let mut count = into.len().min(stream.buf.len() - stream.pos);
        if now.breaks(LabFault::EofEarly) && stream.complete && !stream.paused {
            // Behind the middle there is no middle to come: the difference wraps there too.
            count = count.min((self.record_size() / 2).wrapping_sub(stream.pos));
            stream.paused = count == 0;
        }
        into[..count].copy_from_slice(&stream.buf[stream.pos..stream.pos + count]);
        stream.pos += count;
        Ok(count)
    }

    /// `lab_take()`: a record is there.
    fn take(&self, stream: &mut Stream, now: Now) -> bool {
        let mut record = std::mem::take(&mut stream.buf);
        let sum = record[CRC].to_vec();
        record[CRC].fill(0);
        if crc32fast::hash(&record).to_le_bytes() != sum[..] && !now.breaks(LabFault::AcceptsCorrupt) {
            return false;
        }
        let last = u32::from_le_bytes([record[4], record[5], record[6], record[7]]);
        let mut wanted = self.head(last);
        if now.breaks(LabFault::AcceptsForeign) {
            wanted[8..16].copy_from_slice(&record[8..16]);
        }
        if record[..HEAD] != wanted {
            return false;
        }
        stream.taken = Some(record.split_off(HEAD));
        stream.complete = last != 0;
        true
    }

    /// `lab_write()`.
    fn write(&self, stream: &mut Stream, data: &[u8], now: Now) -> Result<usize, Errno> {
        stream.goes_on()?;
        let mut rest = data;
        while !rest.is_empty() && !stream.saves() && !stream.bad {
            let count = rest.len().min(self.record_size() - stream.buf.len());
            stream.buf.extend(&rest[..count]);
            rest = &rest[count..];
            // Nothing comes after the last.
            stream.bad = stream.complete || (stream.buf.len() == self.record_size() && !self.take(stream, now));
        }
        if stream.bad { Err(Errno::EINVAL) } else { Ok(data.len()) }
    }

    /// `lab_precopy_info()`.
    fn precopy(&self, stream: &mut Stream, now: Now) -> Result<Precopy, Errno> {
        stream.goes_on()?;
        if !stream.saves() || (stream.complete && !now.breaks(LabFault::PrecopyInfoAlways)) {
            return Err(Errno::EINVAL);
        }
        stream.asked += 1;
        let more = if now.breaks(LabFault::PrecopyInfoGrows) { stream.asked } else { 0 };
        let dirty = if self.dirty { self.record_size() } else { 0 };
        Ok(Precopy {
            flags: PrecopyFlags::empty(),
            initial_bytes: stream.initial.saturating_sub(stream.pos) as u64 + more,
            dirty_bytes: (stream.buf.len() - stream.initial.max(stream.pos) + dirty) as u64,
        })
    }

    /// `lab_begin()`.
    fn begin(&mut self, way: Way, now: Now) -> Session {
        let opened = now.fault.filter(|fault| matches!(fault, LabFault::BothWays | LabFault::Seekable));
        let session = Arc::new(Mutex::new(Stream { way, opened, ..Stream::default() }));
        self.stream = Some(Arc::clone(&session));
        session
    }

    /// `lab_step()`: gives the session that begins.
    fn step(&mut self, next: State, now: Now) -> Result<Option<Session>, Errno> {
        match next {
            State::PreCopy | State::PreCopyP2p if self.stream.is_some() => Ok(None),
            State::PreCopy | State::PreCopyP2p => {
                let session = self.begin(Way::Saves, now);
                let mut stream = locked(&session);
                stream.initial = self.append(&mut stream, Follows::More, now);
                drop(stream);
                Ok(Some(session))
            }
            State::Resuming => Ok(Some(self.begin(Way::Loads, now))),
            State::StopCopy => {
                if now.breaks(LabFault::StopCopyFails) || now.breaks(LabFault::StuckError) {
                    self.end();
                    self.state = State::Error;
                    return Err(Errno::EIO);
                }
                let goes_on = self.stream.clone();
                let begun = goes_on.is_none().then(|| self.begin(Way::Saves, now));
                if let Some(session) = goes_on.as_ref().or(begun.as_ref()) {
                    self.append(&mut locked(session), Follows::Nothing, now);
                }
                Ok(begun)
            }
            _ => {
                self.leave(now)?;
                self.end();
                Ok(None)
            }
        }
    }

    /// What was written becomes the device's, when it leaves RESUMING.
    fn leave(&mut self, now: Now) -> Result<(), Errno> {
        let Some(session) = self.stream.clone().filter(|_| self.state == State::Resuming) else { return Ok(()) };
        let stream = locked(&session);
        if stream.bad || !(stream.complete || now.breaks(LabFault::AcceptsTruncated)) {
            return Err(Errno::EINVAL);
        }
        if !now.breaks(LabFault::LoadLoses) {
            self.content = stream.taken.clone().unwrap_or_else(|| vec![0; self.content.len()]);
        }
        Ok(())
    }

    /// `lab_set_state()`: gives the session that the last step began.
    fn set_state(&mut self, to: State, flags: MigrationFlags, now: Now) -> Result<Option<Session>, Errno> {
        if self.pf_left {
            return Err(Errno::ENOTCONN);
        }
        if to == self.state && now.breaks(LabFault::SecondFd) {
            return Ok(self.stream.clone());
        }
        let mut begun = None;
        while to != self.state {
            let Ok(next) = self.state.next(to, flags) else {
                let forbidden = self.state != State::Error && now.breaks(LabFault::ForbiddenArc);
                return if forbidden { Ok(None) } else { Err(Errno::EINVAL) };
            };
            begun = self.step(next, now)?;
            self.state = next;
        }
        Ok(begun)
    }

    /// `lab_data_size()`: what is unread, and the last record; before a session that alone.
    fn data_size(&self, now: Now) -> u64 {
        let (unread, complete) = self
            .stream
            .as_ref()
            .map(locked)
            .filter(|stream| stream.saves())
            .map_or((0, false), |stream| (stream.buf.len() - stream.pos, stream.complete));
        let length = (unread + if complete { 0 } else { self.record_size() }) as u64;
        if now.breaks(LabFault::DataSizeSmall) { length / 2 } else { length }
    }
}

impl Kernel {
    /// A device gets a state of its own, when it is bound.
    pub(in crate::host::fake) fn keep_own_state(&mut self, bdf: Bdf, own: OwnState) {
        let ids = self.alias(bdf).map_or([0; 4], |alias| {
            let (subvendor, subdevice) = alias.subsystem();
            [alias.vendor(), alias.device(), subvendor, subdevice]
        });
        let state = State::Running;
        let content = vec![0; own.length];
        let twin = Twin { bdf, ids, pf_left: false, open: false, dirty: false, state, stream: None, content };
        self.devices.twins.insert(bdf, twin);
    }

    /// It loses it with its driver.
    pub(in crate::host::fake) fn forget_own_state(&mut self, bdf: Bdf) {
        if let Some(mut twin) = self.devices.twins.remove(&bdf) {
            twin.end();
        }
    }

    /// `lab_pf_leaves()`.
    pub(in crate::host::fake) fn lose_pf(&mut self, bdf: Bdf) {
        if let Some(twin) = self.devices.twins.get_mut(&bdf) {
            twin.pf_left = true;
            twin.end();
        }
    }

    /// A device with a state of its own, and what the parameters of its driver's module say.
    fn twin(&mut self, at: &Address) -> Option<(&mut Twin, Now)> {
        let Address::Pci(bdf) = at else { return None };
        if !self.devices.twins.contains_key(bdf) {
            return None;
        }
        let dir = format!("/sys/module/{}/parameters", self.module_of(self.driver_name(*bdf)?));
        let text = |name: &str| self.tree.text(&format!("{dir}/{name}"));
        let now = Now {
            fault: text("fault").and_then(LabFault::named),
            seed: text("seed").and_then(|text| text.parse().ok()).unwrap_or_default(),
        };
        Some((self.devices.twins.get_mut(bdf)?, now))
    }

    /// `lab_open()`.
    pub(super) fn open_twin(&mut self, at: &Address) {
        if let Some((twin, now)) = self.twin(at) {
            // Not every device has a reset of its own.
            twin.reset_done(now);
            twin.open = true;
        }
    }

    /// `lab_close()`. Whether it is one.
    pub(super) fn close_twin(&mut self, at: &Address) -> bool {
        self.twin(at)
            .map(|(twin, now)| {
                twin.open = false;
                twin.reset_done(now);
            })
            .is_some()
    }

    /// A reset. Whether it is one.
    pub(super) fn reset_twin(&mut self, at: &Address) -> bool {
        self.twin(at).map(|(twin, now)| twin.reset_done(now)).is_some()
    }

    /// `MIG_DEVICE_STATE`, SET; `None` when it is none.
    pub(super) fn set_twin_state(&mut self, at: &Address, to: State) -> Option<Result<Option<Session>, Errno>> {
        let flags = self.migration_flags(at)?;
        self.twin(at).map(|(twin, now)| twin.set_state(to, flags, now))
    }

    /// `MIG_DEVICE_STATE`, SET to a number that is no state; `None` when it is none.
    pub(super) fn set_no_twin_state(&mut self, at: &Address) -> Option<Result<(), Errno>> {
        self.twin(at).map(|(twin, now)| match (twin.pf_left, now.breaks(LabFault::ForbiddenArc)) {
            (true, _) => Err(Errno::ENOTCONN),
            (false, true) => Ok(()),
            (false, false) => Err(Errno::EINVAL),
        })
    }

    /// `lab_get_state()`.
    pub(super) fn twin_state(&mut self, at: &Address) -> Option<State> {
        self.twin(at).map(|(twin, now)| if now.breaks(LabFault::WrongState) { State::Stop } else { twin.state })
    }

    /// `MIG_DATA_SIZE`.
    pub(super) fn twin_data_size(&mut self, at: &Address) -> Option<u64> {
        self.twin(at).map(|(twin, now)| twin.data_size(now))
    }

    /// The size of the region with the state.
    pub(super) fn twin_length(&self, at: &Address) -> Option<usize> {
        let Address::Pci(bdf) = at else { return None };
        self.devices.twins.get(bdf).map(|twin| twin.content.len())
    }

    /// `lab_region_rw()`: reads.
    pub(super) fn read_twin(&self, at: &Address, (place, into): (usize, &mut [u8])) {
        if let Address::Pci(bdf) = at
            && let Some(bytes) =
                self.devices.twins.get(bdf).and_then(|twin| twin.content.get(place..place + into.len()))
        {
            into.copy_from_slice(bytes);
        }
    }

    /// `lab_region_rw()`: writes.
    pub(super) fn write_twin(&mut self, at: &Address, (place, data): (usize, &[u8])) {
        if let Some((twin, _)) = self.twin(at)
            && let Some(bytes) = twin.content.get_mut(place..place + data.len())
        {
            bytes.copy_from_slice(data);
            twin.dirty = true;
        }
    }
}

impl Kernel {
    /// What a file of a session asks, whose device may have lost its driver.
    pub(super) fn read_session(&mut self, at: &Address, session: &Session, into: &mut [u8]) -> Result<usize, Errno> {
        let (twin, now) = self.twin(at).ok_or(Errno::ENODEV)?;
        twin.read(&mut locked(session), into, now)
    }

    pub(super) fn write_session(&mut self, at: &Address, session: &Session, data: &[u8]) -> Result<usize, Errno> {
        let (twin, now) = self.twin(at).ok_or(Errno::ENODEV)?;
        twin.write(&mut locked(session), data, now)
    }

    pub(super) fn precopy_of_session(&mut self, at: &Address, session: &Session) -> Result<Precopy, Errno> {
        let (twin, now) = self.twin(at).ok_or(Errno::ENODEV)?;
        twin.precopy(&mut locked(session), now)
    }
}
