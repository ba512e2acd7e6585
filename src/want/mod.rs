//! The host file: what a host should look like, which of its functions that is about, and what has to be done. Pure.
//!
//! [`read`](read::read) makes a [`Wish`] of the texts; [`reconcile`](reconcile::reconcile) compares it with a host and plans; what a host is now
//! is put into the same words by [`describe`](describe::describe).

pub mod boot;
pub mod describe;
pub mod file;
pub mod import;
pub mod read;
pub mod reconcile;
pub mod scalar;
pub mod select;

pub use read::{Entry, EntryKind, Mistake, Place, Source, Wish, read};
pub use reconcile::{Ground, Reconciled, Standing, reconcile};
pub use select::Selection;
