//! VFIO's PCI drivers in the fake kernel, in the shape that the field gave them: a core, and small drivers derived from
//! it.
//!
//! This is a model. It holds what a tool sees (which probe answers what, what a device gains or loses under which
//! driver, which nodes come and go), not how a device works. The contract suite holds it to the real kernel where the
//! lab has the driver; the rest was read in the source named on each item.

pub mod core;
pub mod igd;
pub mod variants;
pub mod zdev;

pub use core::{Function, Migration, OwnState, Parameters, PfChannel, Variant, Vdev};
pub use variants::lab;
pub use variants::{by_driver, by_module};
