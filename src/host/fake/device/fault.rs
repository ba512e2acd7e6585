//! What a device can do wrong, by name.

/// A fault of a device or of its driver: each breaks one rule of the uAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceFault {
    /// Its migration flags lack `STOP_COPY`.
    FlagsWithoutStopCopy,
    /// It says `RUNNING`, whatever its state.
    SaysRunning,
    /// Setting a state fails with `EIO` at the first step of more than one, which was made.
    StopsHalfway,
    /// It goes into `ERROR` when it is to copy.
    FailsToStopCopy,
    /// Setting the state that it is in gives another file.
    SecondFile,
    /// A file of a session that is over can be read on.
    FileOutlivesSession,
    /// A read in the middle fails with `EIO`.
    ReadFails,
    /// It ends before all was read.
    EndsEarly,
    /// It says `ENOMSG` in `STOP_COPY`.
    NoMessageInStopCopy,
    /// It never ends: reads go on after the end.
    NeverEnds,
    /// One bit of what is read is wrong.
    FlipsBit,
    /// Two saves of the same state differ.
    SavesDiffer,
    /// A write in the middle fails with `EIO`.
    WriteFails,
    /// It takes any data for good.
    TakesAnything,
    /// It takes data that was cut.
    TakesCut,
    /// It takes the data of another kind of device.
    TakesForeign,
    /// What was loaded is not there.
    LosesLoad,
    /// Initial bytes of pre-copy grow while they are read.
    PrecopyGrows,
    /// `DATA_SIZE` is less than there is.
    SizeTooSmall,
    /// A reset leaves the state of migration as it is.
    ResetKeepsState,
    /// Closing leaves the state of migration as it is: mtty does.
    CloseKeepsState,
    /// It logs DMA twice at once.
    LogsTwice,
    /// It reports a log while it does not log.
    ReportsUnlogged,
    /// A feature that it has not got is `EINVAL` and not `ENOTTY`.
    WrongErrno,
    /// What is saved can be written too.
    BothWays,
    /// What is saved can be read by place.
    Seekable,
    /// It takes a state that there is not.
    TakesAnyState,
    /// Pre-copy can be asked about in `STOP_COPY`.
    PrecopyAnywhere,
    /// What is written must come in whole words.
    WholeWords,
    /// `STOP_COPY` comes without a file.
    NoFile,
    /// BAR 0 is said to lie beyond the end of the file's addresses.
    WildRegion,
    /// `poll` never finds its data ready.
    DeafToPoll,
    /// A read that is not of whole words of 8 bytes loses what is left of the last one.
    LosesShortReads,
    /// It takes data that goes on after its end.
    TakesMore,
    /// A reset amid a load leaves what was written so far to the next.
    KeepsHalfLoad,
    /// It cannot be opened under a driver whose table has it not.
    DeadWhenForced,
    /// While its PF has no driver it says that it migrates, and goes to no state.
    ClaimsWithoutPf,
    /// While its PF has no driver its data ends in the middle.
    HalfWithoutPf,
    /// While its PF has no driver a reset leaves the state of migration as it is.
    ResetKeepsWithoutPf,
}

use DeviceFault as F;

impl DeviceFault {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 39] = [
        (F::FlagsWithoutStopCopy, "flags-without-stop-copy"),
        (F::SaysRunning, "says-running"),
        (F::StopsHalfway, "stops-halfway"),
        (F::FailsToStopCopy, "fails-to-stop-copy"),
        (F::SecondFile, "second-file"),
        (F::FileOutlivesSession, "file-outlives-session"),
        (F::ReadFails, "read-fails"),
        (F::EndsEarly, "ends-early"),
        (F::NoMessageInStopCopy, "no-message-in-stop-copy"),
        (F::NeverEnds, "never-ends"),
        (F::FlipsBit, "flips-bit"),
        (F::SavesDiffer, "saves-differ"),
        (F::WriteFails, "write-fails"),
        (F::TakesAnything, "takes-anything"),
        (F::TakesCut, "takes-cut"),
        (F::TakesForeign, "takes-foreign"),
        (F::LosesLoad, "loses-load"),
        (F::PrecopyGrows, "precopy-grows"),
        (F::SizeTooSmall, "size-too-small"),
        (F::ResetKeepsState, "reset-keeps-state"),
        (F::CloseKeepsState, "close-keeps-state"),
        (F::LogsTwice, "logs-twice"),
        (F::ReportsUnlogged, "reports-unlogged"),
        (F::WrongErrno, "wrong-errno"),
        (F::BothWays, "both-ways"),
        (F::Seekable, "seekable"),
        (F::TakesAnyState, "takes-any-state"),
        (F::PrecopyAnywhere, "precopy-anywhere"),
        (F::WholeWords, "whole-words"),
        (F::NoFile, "no-file"),
        (F::WildRegion, "wild-region"),
        (F::DeafToPoll, "deaf-to-poll"),
        (F::LosesShortReads, "loses-short-reads"),
        (F::TakesMore, "takes-more"),
        (F::KeepsHalfLoad, "keeps-half-load"),
        (F::DeadWhenForced, "dead-when-forced"),
        (F::ClaimsWithoutPf, "claims-without-pf"),
        (F::HalfWithoutPf, "half-without-pf"),
        (F::ResetKeepsWithoutPf, "reset-keeps-without-pf"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(fault, _)| *fault == self).map_or("", |(_, name)| name)
    }

    /// The fault of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, other)| *other == name).map(|(fault, _)| *fault)
    }
}
