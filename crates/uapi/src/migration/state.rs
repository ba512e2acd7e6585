//! The states of a device that migrates, and the ways between them.

use super::MigrationFlags;

/// The state of a device that migrates.
#[doc(alias = "vfio_device_mig_state")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It failed, and only a reset helps.
    #[doc(alias = "VFIO_DEVICE_STATE_ERROR")]
    Error = 0,
    /// It does not run, and its state does not change.
    #[doc(alias = "VFIO_DEVICE_STATE_STOP")]
    Stop = 1,
    /// It runs: what every device does when it is opened.
    #[doc(alias = "VFIO_DEVICE_STATE_RUNNING")]
    Running = 2,
    /// As [`Stop`](State::Stop), and its state is read.
    #[doc(alias = "VFIO_DEVICE_STATE_STOP_COPY")]
    StopCopy = 3,
    /// As [`Stop`](State::Stop), and a state is written.
    #[doc(alias = "VFIO_DEVICE_STATE_RESUMING")]
    Resuming = 4,
    /// It runs, and begins no DMA to other devices.
    #[doc(alias = "VFIO_DEVICE_STATE_RUNNING_P2P")]
    RunningP2p = 5,
    /// It runs, and its state is read meanwhile.
    #[doc(alias = "VFIO_DEVICE_STATE_PRE_COPY")]
    PreCopy = 6,
    /// As [`PreCopy`](State::PreCopy), and it begins no DMA to other devices.
    #[doc(alias = "VFIO_DEVICE_STATE_PRE_COPY_P2P")]
    PreCopyP2p = 7,
}

/// Why there is no way from a state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWay {
    /// From [`StopCopy`](State::StopCopy) to a pre-copy state: kernels up to 6.12.95 look for the next state for ever, in the
    /// kernel and with the lock of the device's migration.
    Blocked,
    /// Out of [`Error`](State::Error) leads a reset alone. The kernel warns of the attempt, which stops a machine that has
    /// `panic_on_warn`.
    Failed,
    /// Nobody is sent into [`Error`](State::Error).
    IntoError,
    /// The device has no such state.
    Unsupported,
}

impl NoWay {
    /// In words, for the end of a message.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Blocked => {
                "not asked: there is no way from STOP_COPY to pre-copy, and kernels up to 6.12.95 would look for it for ever"
            }
            Self::Failed => "not asked: out of ERROR leads a reset alone",
            Self::IntoError => "no device is sent into ERROR",
            Self::Unsupported => "the device has no such state",
        }
    }
}

use State::{Error, PreCopy, PreCopyP2p, Resuming, Running, RunningP2p, Stop, StopCopy};

impl State {
    /// All of them, by number.
    pub const ALL: [Self; 8] = [Error, Stop, Running, StopCopy, Resuming, RunningP2p, PreCopy, PreCopyP2p];

    /// The state with a number of the uAPI.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its number in the uAPI.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Its name, as the header spells it after `VFIO_DEVICE_STATE_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Error => "ERROR",
            Stop => "STOP",
            Running => "RUNNING",
            StopCopy => "STOP_COPY",
            Resuming => "RESUMING",
            RunningP2p => "RUNNING_P2P",
            PreCopy => "PRE_COPY",
            PreCopyP2p => "PRE_COPY_P2P",
        }
    }

    /// What a device must offer to have this state; `None` of [`Error`](State::Error), into which none is sent.
    ///
    /// # Kernel
    /// `drivers/vfio/vfio_main.c` `vfio_mig_get_next_state()`: `state_flags_table` (7.2).
    #[must_use]
    pub const fn needs(self) -> Option<MigrationFlags> {
        let stop_copy = MigrationFlags::STOP_COPY;
        match self {
            Error => None,
            Stop | Running | StopCopy | Resuming => Some(stop_copy),
            RunningP2p => Some(stop_copy.union(MigrationFlags::P2P)),
            PreCopy => Some(stop_copy.union(MigrationFlags::PRE_COPY)),
            PreCopyP2p => Some(stop_copy.union(MigrationFlags::P2P).union(MigrationFlags::PRE_COPY)),
        }
    }

    /// Whether a device with these flags can be sent to this state.
    #[must_use]
    pub fn is_of(self, flags: MigrationFlags) -> bool {
        self.needs().is_some_and(|needs| flags.contains(needs))
    }

    /// Whether the way to another state must never be asked for, whatever the kernel and the device.
    ///
    /// # Errors
    /// [`NoWay::Blocked`] or [`NoWay::Failed`].
    ///
    /// # Kernel
    /// `drivers/vfio/vfio_main.c` `vfio_mig_get_next_state()` (7.2; without its `!= VFIO_DEVICE_STATE_ERROR` in the loop up to
    /// 6.1.176 and 6.12.95).
    pub const fn may_ask(self, to: Self) -> Result<(), NoWay> {
        match (self, to) {
            (Error, _) => Err(NoWay::Failed),
            (StopCopy, PreCopy | PreCopyP2p) => Err(NoWay::Blocked),
            _ => Ok(()),
        }
    }

    /// The next state on the way to another one, of a device with these flags: each step is one that its driver makes. Of a
    /// device that is there already, the same.
    ///
    /// # Errors
    /// [`NoWay`]: why there is none.
    ///
    /// # Kernel
    /// `drivers/vfio/vfio_main.c` `vfio_mig_get_next_state()`: `vfio_from_fsm_table` (7.2).
    pub fn next(self, to: Self, flags: MigrationFlags) -> Result<Self, NoWay> {
        self.may_ask(to)?;
        if to == Error {
            return Err(NoWay::IntoError);
        }
        if !self.is_of(flags) || !to.is_of(flags) {
            return Err(NoWay::Unsupported);
        }
        let mut next = self.step(to);
        // A state that the device does not have is passed over. The way is never longer than there are states.
        for _ in Self::ALL {
            if next.is_of(flags) {
                return Ok(next);
            }
            next = next.step(to);
        }
        Err(NoWay::Unsupported)
    }

    /// All states on the way to another one, that one last; none when the device is there already.
    ///
    /// # Errors
    /// As of [`next`](State::next).
    ///
    /// # Kernel
    /// As of [`next`](State::next); every driver's `migration_set_state` walks it within one call.
    pub fn way(self, to: Self, flags: MigrationFlags) -> Result<Vec<Self>, NoWay> {
        let (mut at, mut way) = (self, Vec::new());
        self.next(to, flags)?;
        while at != to && way.len() < Self::ALL.len() {
            at = at.next(to, flags)?;
            way.push(at);
        }
        Ok(way)
    }

    /// A row and a column of the kernel's table; [`Error`] where it has none.
    const fn step(self, to: Self) -> Self {
        match (self, to) {
            (Error, _) | (_, Error) | (StopCopy, PreCopy | PreCopyP2p) => Error,
            (Stop, Running | PreCopy | PreCopyP2p | RunningP2p)
            | (Running, Stop | PreCopyP2p | StopCopy | Resuming | RunningP2p)
            | (PreCopyP2p, Stop | Running | Resuming | RunningP2p)
            | (RunningP2p, RunningP2p) => RunningP2p,
            (Stop | StopCopy | Resuming | RunningP2p, Stop)
            | (StopCopy, Running | Resuming | RunningP2p)
            | (Resuming, Running | PreCopy | PreCopyP2p | StopCopy | RunningP2p)
            | (RunningP2p, StopCopy | Resuming) => Stop,
            (Stop | PreCopyP2p | StopCopy, StopCopy) => StopCopy,
            (Stop | Resuming, Resuming) => Resuming,
            (PreCopy, Stop | Running | Resuming | RunningP2p)
            | (RunningP2p, Running | PreCopy)
            | (Running, Running) => Running,
            (Running | PreCopy | PreCopyP2p, PreCopy) => PreCopy,
            (PreCopy, PreCopyP2p | StopCopy) | (PreCopyP2p | RunningP2p, PreCopyP2p) => PreCopyP2p,
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: MigrationFlags = MigrationFlags::all();

    /// The kernel's table, as its source has it: rows from, columns to, in the order of numbers. `E` is ERROR, `S` STOP, `R`
    /// RUNNING, `C` STOP_COPY, `M` RESUMING, `P` RUNNING_P2P, `Y` PRE_COPY, `Z` PRE_COPY_P2P.
    const TABLE: [&str; 8] =
        ["EEEEEEEE", "ESPCMPPP", "EPRPPPYP", "ESSCSSEE", "ESSSMSSS", "ESRSSPRZ", "ERRZRRYZ", "EPPCPPYZ"];

    fn letter(state: State) -> char {
        char::from(b"ESRCMPYZ"[state as usize])
    }

    #[test]
    fn every_step_is_the_kernels() {
        for from in State::ALL {
            let row: String = State::ALL.iter().map(|to| letter(from.step(*to))).collect();
            assert_eq!(row, TABLE[from as usize], "from {from}");
        }
    }

    /// Every set of flags that the kernel accepts: STOP_COPY is in all.
    fn offers() -> impl Iterator<Item = MigrationFlags> {
        [0b001, 0b011, 0b101, 0b111].into_iter().map(MigrationFlags::from_bits_retain)
    }

    #[test]
    fn every_pair_has_a_way_or_a_reason() {
        let mut counted = [0; 5];
        for (flags, from) in offers().flat_map(|flags| State::ALL.map(|from| (flags, from))) {
            for to in State::ALL {
                let place = match from.way(to, flags) {
                    Ok(way) => {
                        assert_eq!(*way.last().unwrap_or(&from), to);
                        assert!(way.len() <= 4, "{from} {to} {way:?}");
                        assert!(way.iter().all(|state| state.is_of(flags)), "{from} {to} {way:?}");
                        0
                    }
                    Err(NoWay::Failed) => 1,
                    Err(NoWay::IntoError) => 2,
                    Err(NoWay::Blocked) => 3,
                    Err(NoWay::Unsupported) => 4,
                };
                counted[place] += 1;
            }
        }
        // Of 4 × 64 pairs: 8 from ERROR each, 7 into it, 2 blocked; the rest as the states that there are, 4, 5, 5 and 7,
        // let it be.
        assert_eq!(counted.iter().sum::<usize>(), 256);
        assert_eq!(counted[1..4], [32, 28, 8]);
        assert_eq!(counted[0], 16 + 25 + (25 - 1) + (49 - 2));
    }

    #[test]
    fn the_longest_ways_are_those_of_the_kernels_comment() {
        let way = |from: State, to| from.way(to, ALL).unwrap();
        assert_eq!(way(PreCopy, Resuming), [Running, RunningP2p, Stop, Resuming]);
        assert_eq!(way(Resuming, PreCopy), [Stop, RunningP2p, Running, PreCopy]);
        assert_eq!(way(Resuming, PreCopyP2p), [Stop, RunningP2p, PreCopyP2p]);
        assert_eq!(way(PreCopy, StopCopy), [PreCopyP2p, StopCopy]);
        assert_eq!(way(StopCopy, Running), [Stop, RunningP2p, Running]);
        assert_eq!(way(Running, Running), []);
    }

    #[test]
    fn what_a_device_has_not_got_is_passed_over() {
        let plain = MigrationFlags::STOP_COPY;
        let way = |from: State, to, flags| from.way(to, flags);
        assert_eq!(way(Running, StopCopy, plain), Ok(vec![Stop, StopCopy]));
        assert_eq!(way(PreCopy, StopCopy, plain | MigrationFlags::PRE_COPY), Ok(vec![StopCopy]));
        assert_eq!(way(Running, PreCopy, plain), Err(NoWay::Unsupported));
        assert_eq!(way(Running, RunningP2p, plain), Err(NoWay::Unsupported));
        assert_eq!(way(Running, Stop, MigrationFlags::empty()), Err(NoWay::Unsupported));
    }

    #[test]
    fn the_arcs_that_hang_are_never_asked_for() {
        for from in State::ALL {
            for to in State::ALL {
                let wanted = match (from, to) {
                    (Error, _) => Err(NoWay::Failed),
                    (StopCopy, PreCopy | PreCopyP2p) => Err(NoWay::Blocked),
                    _ => Ok(()),
                };
                assert_eq!(from.may_ask(to), wanted, "{from} {to}");
            }
        }
    }

    #[test]
    fn a_number_is_a_state_or_none() {
        for state in State::ALL {
            assert_eq!(State::from_number(state.number()), Some(state));
        }
        assert_eq!(State::from_number(8), None);
        assert_eq!(State::from_number(u32::MAX), None);
    }
}
