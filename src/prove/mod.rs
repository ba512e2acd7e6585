//! An open VFIO device, asked what it is and held to what it says: inspected, saved, loaded, qualified.
//!
//! Opening is not a read: the kernel resets a vfio-pci device when it is opened first and when it is closed last. What is done
//! here is done with a [`Device`] that somebody has opened, and nothing else of the host is touched.
//!
//! [`Device`]: crate::host::Device

pub mod inspect;
mod load;
mod migrate;
pub mod qualify;
mod save;

pub use inspect::{Inspection, inspect};
pub use load::{Loaded, load};
pub use migrate::{After, Failure, Watch, Why, to_running};
pub use save::{Precopying, Saved, save};
