//! The shipped binary on a real kernel: what the README promises, one case for each promise.
//!
//! A case asks vfioadm and then asks the kernel; that vfioadm says so is never enough. The runner puts the machine back
//! after every case.

mod create;
mod fixture;
mod give_back;
mod holders;
mod hooks;
mod host;
mod in_use;
mod iommufd;
mod journal;
pub(crate) mod killed;
mod killed_state;
mod list;
mod openings;
pub(crate) mod own_loops;
mod own_migration;
mod own_qualify;
mod own_rebinding;
mod own_variants;
mod protect;
mod prove;
mod refusals;
pub(crate) mod running;
pub(crate) mod signals;
mod stuck;
pub(crate) mod tool;
mod two_writers;
mod variants;
mod witness;

use crate::runner::Case;

/// Every scenario.
pub(crate) fn cases() -> Vec<Case> {
    [
        &fixture::CASES[..],
        &list::CASES,
        &variants::CASES,
        &own_variants::CASES,
        &own_migration::CASES,
        &own_qualify::CASES,
        &own_rebinding::CASES,
        &own_loops::CASES,
        &refusals::CASES,
        &give_back::CASES,
        &in_use::CASES,
        &holders::CASES,
        &killed::CASES,
        &signals::CASES,
        &two_writers::CASES,
        &journal::CASES,
        &stuck::CASES,
        &protect::CASES,
        &create::CASES,
        &prove::CASES,
        &witness::CASES,
        &killed_state::CASES,
        &iommufd::CASES,
        &openings::CASES,
        &hooks::CASES,
        &host::CASES,
    ]
    .concat()
}
