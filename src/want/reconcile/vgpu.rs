//! `[[vgpu]]` and its host.

use super::{Reconciler, Standing, Stands, tell};
use crate::model::{Bdf, Target};
use crate::plan::{Wanted, vgpus};
use crate::want::file::VgpuEntry;

impl Reconciler<'_> {
    pub(super) fn vgpu(&mut self, entry: &VgpuEntry, pf: Bdf) -> Stands {
        let vf = (pf, entry.vf);
        let known = &self.ground.known.vgpus;
        let standing = match vgpus::one(vf, entry.kind, self.ground.inventory, known) {
            Err(error) => Err(error.into()),
            Ok(None) => Ok(Standing::InPlace),
            Ok(Some((lane, now))) => {
                let of = self.ground.inventory.vf(pf, entry.vf).and_then(|vf| known.get(&vf.bdf));
                let change = tell::of_vgpu(lane.device, entry.kind, now, of);
                self.push(lane);
                Ok(Standing::Differs(vec![change]))
            }
        };
        (standing, vec![(Target::Vf { pf, index: entry.vf }, Wanted::Host)], Vec::new())
    }
}
