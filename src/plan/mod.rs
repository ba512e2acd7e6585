//! Wishes → steps. Pure: a plan is made from what was read and can be printed, compared and thrown away.

mod bind;
pub mod create;
pub mod parameters;
pub mod set;

pub use bind::{BindWish, Fallback, PlanError, Wanted, bind};
