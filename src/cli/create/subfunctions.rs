//! Subfunctions.

use std::collections::BTreeMap;

use super::{Prepared, bad_parameter};
use crate::cli::Session;
use crate::cli::report::{Exit, Trouble};
use crate::discover;
use crate::host::Host;
use crate::model::devlink::Devlink;
use crate::model::{Bdf, Target, Warning};
use crate::plan::create::Known;
use crate::plan::subfunctions::{self, KEYS, SfError, SfWish};
use crate::step::{Plan, Setting, Step};

pub(super) fn plan(wish: &SfWish, prepared: &Prepared, host: &dyn Host) -> Result<Plan, Trouble> {
    let pfs = prepared.pfs("sf")?;
    let known = devlink(host, &pfs)?;
    Ok(subfunctions::subfunctions(&pfs, wish, &known, &prepared.known.machine)?)
}

pub(super) fn unmake(all: &[(Bdf, u32)], host: &dyn Host, plan: &mut Plan) -> Result<(), Trouble> {
    let pfs: Vec<Bdf> = all.iter().map(|(pf, _)| *pf).collect();
    Ok(subfunctions::unmake(all, &devlink(host, &pfs)?, plan)?)
}

/// Says of which PFs the eswitch stays in the mode that it was brought to, although their VFs all go.
pub(super) fn tell_kept(plan: &Plan, known: &Known, session: &mut Session<'_, '_>) {
    for (pf, pool) in &known.pools {
        let set = |wanted: &dyn Fn(&Setting) -> bool| {
            let mut steps = plan.steps();
            steps.any(|step| matches!(step, Step::Set { device, to } if *device == Target::Pci(*pf) && wanted(to)))
        };
        let all_go = set(&|to| *to == Setting::Vfs(0));
        if let (true, Some(mode), false) = (all_go, pool.eswitch, set(&|to| matches!(to, Setting::Eswitch(_)))) {
            let words = format!("its eswitch does not go back to mode {mode}: it has subfunctions");
            session.warn(&[Warning::new(pf, words)]);
        }
    }
}

/// What devlink tells of the PFs that it knows.
pub(super) fn devlink(host: &dyn Host, pfs: &[Bdf]) -> Result<BTreeMap<Bdf, Devlink>, Trouble> {
    let mut known = BTreeMap::new();
    for pf in pfs {
        known.extend(discover::devlink(host, *pf)?.map(|devlink| (*pf, devlink)));
    }
    Ok(known)
}

impl From<SfError> for Trouble {
    fn from(error: SfError) -> Self {
        let message = error.to_string();
        let (id, remedy) = match error {
            SfError::Parameter(error) => return bad_parameter(error, &KEYS),
            SfError::OneAddress(_) => {
                let trouble = Self::new(Exit::Usage, "bad-parameter", message);
                return trouble.remedy("give each one of its own: hw-addr=auto");
            }
            SfError::NoDevlink(pf) => ("not-a-parent", format!("see what can be made: vfioadm types {pf}")),
            SfError::NotSwitchdev(pf) => {
                ("not-switchdev", format!("while it has no VFs: devlink dev eswitch set pci/{pf} mode switchdev"))
            }
            SfError::Taken { pf, .. } => {
                ("sfnum-taken", format!("leave sfnum out, and a free one is taken; see: devlink port show | grep {pf}"))
            }
            SfError::Untold { key, .. } => ("parameter-unsupported", format!("leave {key} out")),
            SfError::NoSuch { pf, .. } => {
                ("no-such-device", format!("see which there are: devlink port show | grep {pf}"))
            }
        };
        Self::new(Exit::Failed, id, message).state("as it was; nothing was tried").remedy(remedy)
    }
}
