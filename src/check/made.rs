//! VFs that `create` makes, and that `destroy` takes away.

use super::{Finding, FindingId};
use crate::model::{Bdf, PciFunction, counted};

/// A pool that nothing is given of any more, and that stays for `users`: VFs that somebody has all the same.
#[must_use]
pub fn kept_pool(pf: Bdf, vfs: u16, users: &[&PciFunction]) -> Finding {
    let named: Vec<String> = users.iter().map(|vf| vf.on_driver()).collect();
    let some: Vec<String> = users.iter().map(|vf| vf.bdf.to_string()).collect();
    let message = format!(
        "{pf} keeps its {} and sriov_drivers_autoprobe 0, for somebody has VFs that no create has given: {}",
        counted(vfs, "VF"),
        named.join(", ")
    );
    let remedy = format!("when they are not needed any more, end them and all: vfioadm destroy {}", some.join(" "));
    Finding::new(FindingId::PoolKept, pf, message, remedy)
}
