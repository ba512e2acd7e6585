//! What is asked of a PF's eswitch and of the devlink ports of its VFs, refused where it can be known before anything is made.

use super::parameters::Parameters;
use crate::model::devlink::{Behind, Devlink, EswitchMode};
use crate::model::{Bdf, VfIndex, counted};

/// Why it cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EswitchError {
    /// devlink does not know the PF.
    #[error("devlink does not know {pf}, and {key} is set through it")]
    NoDevlink {
        /// The PF.
        pf: Bdf,
        /// What was asked.
        key: &'static str,
    },
    /// It manages no eswitch.
    #[error("{0} manages no eswitch")]
    NoEswitch(Bdf),
    /// VFs have ports in another mode.
    #[error("the eswitch of {pf} is in mode {mode}, where its VFs have no port, and {key} is set there")]
    NoPorts {
        /// The PF.
        pf: Bdf,
        /// What was asked.
        key: &'static str,
        /// The mode.
        mode: EswitchMode,
    },
    /// The driver has not got it.
    #[error("{pf}/vf{index} has no {key}: the driver does not report it at its devlink port")]
    NotReported {
        /// The PF.
        pf: Bdf,
        /// The VF.
        index: VfIndex,
        /// What was asked.
        key: &'static str,
    },
    /// VFs would change under their users.
    #[error(
        "{pf} has {}, and its eswitch is in mode {now}: the mode is changed only while there are none",
        counted(*vfs, "VF")
    )]
    HasVfs {
        /// The PF.
        pf: Bdf,
        /// How many.
        vfs: u16,
        /// The mode.
        now: EswitchMode,
    },
}

/// VFs of a PF to be given, and what devlink tells of it.
pub(super) struct Asked<'a> {
    pub(super) pf: Bdf,
    pub(super) parameters: &'a Parameters,
    pub(super) devlink: Option<&'a Devlink>,
    /// How many VFs are there and stay.
    pub(super) stay: u16,
    /// Those that are given.
    pub(super) given: &'a [VfIndex],
}

impl Asked<'_> {
    /// The mode that the eswitch has to be brought to, and the one that it is in; `None`: it stays.
    pub(super) fn change(&self) -> Result<Option<(EswitchMode, EswitchMode)>, EswitchError> {
        let pf = self.pf;
        let change = match self.parameters.eswitch() {
            None => None,
            Some(wanted) => {
                let now = self.known("eswitch")?.eswitch.ok_or(EswitchError::NoEswitch(pf))?;
                Some((wanted, now)).filter(|_| wanted != now)
            }
        };
        if let (Some((_, now)), 1..) = (change, self.stay) {
            return Err(EswitchError::HasVfs { pf, vfs: self.stay, now });
        }
        if !self.parameters.port().is_none() {
            self.refuse_ports(change.map(|(wanted, _)| wanted))?;
        }
        Ok(change)
    }

    fn known(&self, key: &'static str) -> Result<&Devlink, EswitchError> {
        self.devlink.ok_or(EswitchError::NoDevlink { pf: self.pf, key })
    }

    /// # Kernel
    /// mlx5 `esw/devlink_port.c` `mlx5_esw_offloads_devlink_port_register()`: VFs have ports in switchdev mode (7.2).
    fn refuse_ports(&self, change: Option<EswitchMode>) -> Result<(), EswitchError> {
        let (pf, port) = (self.pf, self.parameters.port());
        let key = port.first_key();
        let devlink = self.known(key)?;
        let mode = change.or(devlink.eswitch).ok_or(EswitchError::NoEswitch(pf))?;
        if mode == EswitchMode::Legacy {
            return Err(EswitchError::NoPorts { pf, key, mode });
        }
        // What a VF that is not there yet is going to report is not known.
        let there = if self.stay > 0 { self.given } else { &[] };
        for index in there.iter().copied() {
            let function = Behind::Vf(index).port_in(&devlink.ports).and_then(|port| port.function.as_ref());
            if let Some(key) = function.map_or(Some(key), |function| port.unknown_to(function)) {
                return Err(EswitchError::NotReported { pf, index, key });
            }
        }
        Ok(())
    }
}
