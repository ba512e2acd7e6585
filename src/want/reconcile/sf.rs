//! `[[sf]]` and its host.

use super::{Reconciler, Refused, Standing, Stands, tell};
use crate::model::devlink::EswitchMode;
use crate::model::{Bdf, Target};
use crate::plan::Wanted;
use crate::plan::subfunctions::{self, SfWish};
use crate::step::{Setting, Step};

impl Reconciler<'_> {
    pub(super) fn sf(&mut self, wish: &SfWish, (pf, sfnum): (Bdf, u32)) -> Stands {
        let functions = vec![(Target::Sf { pf, sfnum }, Wanted::Best)];
        (self.subfunction(wish, (pf, sfnum)), functions, Vec::new())
    }

    fn subfunction(&mut self, wish: &SfWish, (pf, sfnum): (Bdf, u32)) -> Result<Standing, Refused> {
        let known = self.ground.known;
        let differences = subfunctions::differences((pf, sfnum), wish, &known.devlink, &known.machine)?;
        let (lane, change) = match differences {
            Some(none) if none.is_empty() => return Ok(Standing::InPlace),
            Some(differences) => {
                let (lane, comes) = subfunctions::set((pf, sfnum), &differences, &known.devlink);
                let change = tell::of_set_subfunction(lane.device, &differences, comes);
                (lane, change)
            }
            None => {
                let becomes = self.becomes_switchdev(pf);
                let mut devlink = known.devlink.clone();
                if let (Some(_), Some(of)) = (becomes, devlink.get_mut(&pf)) {
                    of.eswitch = Some(EswitchMode::Switchdev);
                }
                let mut lane = subfunctions::subfunctions(&[pf], wish, &devlink, &known.machine)?.lanes.remove(0);
                lane.after.extend(becomes);
                let change = tell::of_subfunction(&lane);
                (lane, change)
            }
        };
        self.push(lane);
        Ok(Standing::Differs(vec![change]))
    }

    /// The lane that brings the eswitch of a PF to the mode that has subfunctions.
    fn becomes_switchdev(&self, pf: Bdf) -> Option<usize> {
        let sets = |step: &Step| {
            let device = Target::Pci(pf);
            *step == Step::Set { device, to: Setting::Eswitch(EswitchMode::Switchdev) }
        };
        self.plan.lanes.iter().position(|lane| lane.steps().any(sets))
    }
}
