//! lab_vfio_pci and lab_sub_vfio_pci: the twins of the lab's own variants, `lab/kmod`, whose README has their parameters and
//! faults. No host has them unless they are [installed](crate::host::fake::FakeHost::install).
//!
//! What they make of a device is here; how it migrates, in the fake's open device.

use std::time::Duration;

use crate::host::fake::vfio::{Function, Migration, OwnState, Parameters, PfChannel, Variant, Vdev};
use crate::model::driver::{Field, Table};
use crate::model::{AliasPattern, Errno};

/// One of the two.
#[derive(Debug)]
pub struct Lab {
    name: &'static str,
    by: By,
}

/// What a table names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Device,
    Subsystem,
}

/// Module and driver of [`BY_DEVICE`].
pub const BY_DEVICE_NAME: &str = "lab_vfio_pci";

/// Module and driver of [`BY_SUBSYSTEM`].
pub const BY_SUBSYSTEM_NAME: &str = "lab_sub_vfio_pci";

/// The one whose table names vendor and device.
pub const BY_DEVICE: Lab = Lab { name: BY_DEVICE_NAME, by: By::Device };

/// The one whose table names the subsystem too.
pub const BY_SUBSYSTEM: Lab = Lab { name: BY_SUBSYSTEM_NAME, by: By::Subsystem };

/// Both.
pub const BOTH: [&dyn Variant; 2] = [&BY_DEVICE, &BY_SUBSYSTEM];

/// What both tables have: QEMU's igb VF and NVMe, and a function of the lab's.
const IDS: [(u16, u16); 3] = [(0x8086, 0x10ca), (0x1b36, 0x0010), (0x15b3, 0x1018)];

/// The subsystem of each.
const SUBSYSTEMS: [(u16, u16); 3] = [(0x1af4, 0x1100), (0x1af4, 0x1100), (0x15b3, 0x0016)];

/// `MAX_ERRNO`.
const MAX_ERRNO: u32 = 4095;

/// The largest state, 512 MiB.
const LARGEST: usize = 512 << 20;

/// The region with the state: its name among those of a [`Vdev`].
pub(in crate::host::fake) const REGION: &str = "lab-state";

impl Variant for Lab {
    fn driver(&self) -> &'static str {
        self.name
    }

    fn module(&self) -> &'static str {
        self.name
    }

    fn ids(&self) -> &'static [(u16, u16)] {
        &IDS
    }

    fn aliases(&self) -> Vec<AliasPattern> {
        let pattern = |((vendor, device), (subvendor, subdevice)): ((u16, u16), (u16, u16))| {
            let mut pattern = AliasPattern::of_ids(Table::Vfio, vendor, device);
            if self.by == By::Subsystem {
                pattern.fields[2] = Field::Exact(subvendor.into());
                pattern.fields[3] = Field::Exact(subdevice.into());
            }
            pattern
        };
        IDS.into_iter().zip(SUBSYSTEMS).map(pattern).collect()
    }

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("fault", "none"),
            ("need_pf", "0"),
            ("p2p", "Y"),
            ("precopy", "Y"),
            ("probe_delay_ms", "0"),
            ("probe_errno", "0"),
            ("seed", "0"),
            ("state_bytes", "65536"),
        ]
    }

    fn kept(&self) -> &'static [&'static str] {
        &["need_pf", "p2p", "precopy", "state_bytes"]
    }

    fn delay(&self, parameters: &Parameters) -> Duration {
        Duration::from_millis(parameters.number("probe_delay_ms").into())
    }

    /// `lab_probe()`: the parameter's errno.
    fn ready(&self, function: &Function) -> Result<(), Errno> {
        match function.parameters.number("probe_errno").min(MAX_ERRNO) {
            0 => Ok(()),
            errno => Err(i32::try_from(errno).map_or(Errno::EINVAL, Errno)),
        }
    }

    /// `lab_init()`: without a PF on a driver a function is plain, or refused with `ENODEV`, when it is to need one.
    fn init(&self, function: &Function, pf: &PfChannel) -> Result<Vdev, Errno> {
        let parameters = &function.parameters;
        let (need_pf, has_pf) = (parameters.number("need_pf"), function.vf.is_some() && pf.driver.is_some());
        if need_pf > 1 && !has_pf {
            return Err(Errno::ENODEV);
        }
        let length = usize::try_from(parameters.number("state_bytes")).unwrap_or(usize::MAX);
        if !(1..=LARGEST).contains(&length) {
            return Err(Errno::EINVAL);
        }
        let plain = Vdev { features: true, ..Vdev::default() };
        if need_pf > 0 && !has_pf {
            return Ok(plain);
        }
        let migration = match (parameters.holds("precopy"), parameters.holds("p2p")) {
            (true, true) => Migration::P2pPreCopy,
            (true, false) => Migration::PreCopy,
            (false, true) => Migration::P2p,
            (false, false) => Migration::StopCopy,
        };
        let own = OwnState { length, needs_pf: need_pf > 0 };
        Ok(Vdev { migration: Some(migration), own: Some(own), ..plain })
    }

    /// `lab_open()`: `vfio_pci_core_register_dev_region()`.
    fn extend(&self, _function: &Function, vdev: &mut Vdev) {
        vdev.regions.extend(vdev.own.map(|_| REGION));
    }
}

/// A rule that every device of a module breaks while its parameter `fault` says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LabFault {
    /// GET says STOP, always.
    WrongState,
    /// SET to what is no state of the device succeeds, and does nothing.
    ForbiddenArc,
    /// SET to the present state gives the session's descriptor again.
    SecondFd,
    /// The arc to STOP_COPY fails with `EIO` and leaves ERROR, which a reset ends.
    StopCopyFails,
    /// The same, and no reset ends it.
    StuckError,
    /// A reset does not lead to RUNNING.
    ResetKeeps,
    /// Nor do close and open.
    CloseKeeps,
    /// At the end in STOP_COPY: `ENOMSG`, for ever.
    EofMissing,
    /// In STOP_COPY one read of 0 in the middle.
    EofEarly,
    /// The temporary end of pre-copy is 0.
    PrecopyEof,
    /// `initial_bytes` grows from call to call.
    PrecopyInfoGrows,
    /// PRECOPY_INFO answers in STOP_COPY.
    PrecopyInfoAlways,
    /// DATA_SIZE says half.
    DataSizeSmall,
    /// The last bytes of the stream are missing.
    LosesTail,
    /// The descriptor can be read after its session.
    FdSurvives,
    /// `pread` and `lseek` work on the descriptor.
    Seekable,
    /// The descriptor is open for reading and writing.
    BothWays,
    /// RESUMING to STOP without the last record succeeds.
    AcceptsTruncated,
    /// A record with a wrong checksum is taken.
    AcceptsCorrupt,
    /// A record with another device's ids is taken.
    AcceptsForeign,
    /// A load succeeds and changes nothing.
    LoadLoses,
}

use LabFault as F;

impl LabFault {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 21] = [
        (F::WrongState, "wrong_state"),
        (F::ForbiddenArc, "forbidden_arc"),
        (F::SecondFd, "second_fd"),
        (F::StopCopyFails, "stop_copy_fails"),
        (F::StuckError, "stuck_error"),
        (F::ResetKeeps, "reset_keeps"),
        (F::CloseKeeps, "close_keeps"),
        (F::EofMissing, "eof_missing"),
        (F::EofEarly, "eof_early"),
        (F::PrecopyEof, "precopy_eof"),
        (F::PrecopyInfoGrows, "precopy_info_grows"),
        (F::PrecopyInfoAlways, "precopy_info_always"),
        (F::DataSizeSmall, "data_size_small"),
        (F::LosesTail, "loses_tail"),
        (F::FdSurvives, "fd_survives"),
        (F::Seekable, "seekable"),
        (F::BothWays, "both_ways"),
        (F::AcceptsTruncated, "accepts_truncated"),
        (F::AcceptsCorrupt, "accepts_corrupt"),
        (F::AcceptsForeign, "accepts_foreign"),
        (F::LoadLoses, "load_loses"),
    ];

    /// The fault of a name; a name that is none of these breaks no rule.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, other)| *other == name).map(|(fault, _)| *fault)
    }
}
