//! Wishes → steps. Pure: a plan is made from what was read and can be printed, compared and thrown away.

mod bind;
mod clearing;
pub mod create;
pub mod eswitch;
pub mod hooks;
pub(crate) mod making;
pub mod parameters;
pub mod ports;
pub mod queues;
pub mod set;
pub mod subfunctions;
pub mod vgpus;

pub(crate) use bind::tie;
pub use bind::{BindWish, Fallback, PlanError, Wanted, bind, is_in_place};
