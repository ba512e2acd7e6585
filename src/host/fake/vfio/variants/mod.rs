//! The drivers derived from the core, one file each.

pub mod hisi;
pub mod mlx5;
pub mod nvgrace;
pub mod pds;
pub mod plain;
pub mod qat;
pub mod virtio;
pub mod xe;

use super::Variant;

/// All of them, vfio-pci first.
pub const ALL: [&dyn Variant; 8] =
    [&plain::VfioPci, &mlx5::Mlx5, &virtio::Virtio, &hisi::HisiAcc, &pds::Pds, &qat::Qat, &nvgrace::NvGrace, &xe::Xe];

/// The variant that registers a driver of this name.
#[must_use]
pub fn by_driver(driver: &str) -> Option<&'static dyn Variant> {
    ALL.into_iter().find(|variant| variant.driver() == driver)
}

/// The variant in a module of this name.
#[must_use]
pub fn by_module(module: &str) -> Option<&'static dyn Variant> {
    ALL.into_iter().find(|variant| variant.module() == module)
}
