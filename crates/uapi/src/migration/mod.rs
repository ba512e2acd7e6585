//! Migration of a device (version 2 of the protocol): its state, and the files that its data is read from and written to.
//!
//! A device that migrates runs when it is opened; most do, but not all: mtty keeps the state of its last user, so a caller
//! reads the state first. Closing the device ends it all.

mod data;
mod state;

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

pub use data::{Data, Precopy, PrecopyFlags, Resuming, Saving};
pub use state::{NoWay, State};

use crate::feature::{Access, Feature, bare, with};
use crate::layout::layout;
use crate::{Errno, Result};

bitflags::bitflags! {
    /// How a device migrates. `STOP_COPY` is in every combination that the kernel accepts of a driver.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct MigrationFlags: u64 {
        /// Its state is read while it stands still.
        #[doc(alias = "VFIO_MIGRATION_STOP_COPY")]
        const STOP_COPY = 1 << 0;
        /// It can be kept from beginning DMA to other devices.
        #[doc(alias = "VFIO_MIGRATION_P2P")]
        const P2P = 1 << 1;
        /// Its state is read while it runs.
        #[doc(alias = "VFIO_MIGRATION_PRE_COPY")]
        const PRE_COPY = 1 << 2;
        /// Bits of a later kernel.
        const _ = !0;
    }
}

/// `struct vfio_device_feature_migration`.
#[repr(C)]
struct Migration {
    flags: u64,
}
layout!(Migration reads "vfio_device_feature_migration", 8 bytes { flags at 0 });

/// `struct vfio_device_feature_mig_state`.
#[repr(C)]
struct MigState {
    device_state: u32,
    data_fd: i32,
}
layout!(MigState reads "vfio_device_feature_mig_state", 8 bytes { device_state at 0, data_fd at 4 });

/// `struct vfio_device_feature_mig_data_size`.
#[repr(C)]
struct MigDataSize {
    stop_copy_length: u64,
}
layout!(MigDataSize reads "vfio_device_feature_mig_data_size", 8 bytes { stop_copy_length at 0 });

#[cfg(test)]
pub(crate) const LAYOUTS: [crate::layout::Layout; 4] =
    [Migration::LAYOUT, MigState::LAYOUT, MigDataSize::LAYOUT, data::LAYOUT];

/// `VFIO_DEVICE_FEATURE_MIGRATION`: reads how the device migrates.
///
/// # Errors
/// `ENOTTY` it does not: the driver has no part in it, or found at its probe that it cannot · `EINVAL` a cdev that is not
/// bound.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_migration()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_MIGRATION")]
pub fn flags(device: BorrowedFd<'_>) -> Result<MigrationFlags> {
    // SAFETY: a number, which the kernel writes.
    let (migration, _) = unsafe { with(device, Feature::MIGRATION, Access::GET, Migration { flags: 0 }) }?;
    Ok(MigrationFlags::from_bits_retain(migration.flags))
}

/// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`, GET: reads the state.
///
/// # Errors
/// `ENOTTY` the device does not migrate · `EPROTO` the driver says a state that there is not · `EINVAL` a cdev that is not
/// bound · the driver's own.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_mig_device_state()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE")]
pub fn state(device: BorrowedFd<'_>) -> Result<State> {
    let state = MigState { device_state: 0, data_fd: -1 };
    // SAFETY: two numbers, which the kernel writes; of a GET it gives no descriptor.
    let (state, _) = unsafe { with(device, Feature::MIG_DEVICE_STATE, Access::GET, state) }?;
    State::from_number(state.device_state).ok_or(Errno::PROTO)
}

/// Why a state was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSet {
    /// The kernel was not asked.
    NoWay(NoWay),
    /// The kernel refused. The device may be in any state on the way: read it.
    Kernel(Errno),
}

/// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`, SET: sends the device to a state, by whatever states lie between, and gives the file
/// of its data when the last step opened one.
///
/// The state is read first, and what [`State::may_ask`] forbids is not asked for. Nobody else may send the device elsewhere
/// meanwhile, which takes a copy of its descriptor.
///
/// A file comes with the arcs that begin to save (`RUNNING` → `PRE_COPY`, `RUNNING_P2P` → `PRE_COPY_P2P`, `STOP` →
/// `STOP_COPY`) or to load (`STOP` → `RESUMING`); from pre-copy to `STOP_COPY` it goes on with the one that is open. Setting
/// the state that the device is in does nothing.
///
/// # Errors
/// [`NotSet::NoWay`] not asked · `EINVAL` there is no such way, or the data that was loaded is not good ([`State::Resuming`]
/// stays; a reset leads out) · `ENOTTY` the device does not migrate · `EPROTO` the driver says a state that there is not · the
/// driver's own.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_mig_device_state()`, `vfio_ioct_mig_return_fd()`,
/// `vfio_mig_get_next_state()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE")]
pub fn set_state(device: BorrowedFd<'_>, to: State) -> std::result::Result<Option<Data>, NotSet> {
    state(device).map_err(NotSet::Kernel)?.may_ask(to).map_err(NotSet::NoWay)?;
    let state = MigState { device_state: to.number(), data_fd: -1 };
    // SAFETY: two numbers, which the kernel reads and writes.
    let (state, _) = unsafe { with(device, Feature::MIG_DEVICE_STATE, Access::SET, state) }.map_err(NotSet::Kernel)?;
    if state.data_fd < 0 {
        return Ok(None);
    }
    // SAFETY: what a SET gives is a descriptor that the kernel made for this call, and nobody else knows it.
    let file = unsafe { OwnedFd::from_raw_fd(state.data_fd) };
    Ok(Some(if to == State::Resuming { Data::Resuming(Resuming::new(file)) } else { Data::Saving(Saving::new(file)) }))
}

/// The same with a number that is no state a device can be sent to, to see what the kernel says.
///
/// # Errors
/// `EINVAL`, of a number that is such a state without asking · `ENOTTY` the device does not migrate.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_mig_get_next_state()` (7.2).
pub fn set_no_state(device: BorrowedFd<'_>, number: u32) -> Result<()> {
    if State::from_number(number).is_some_and(|state| state != State::Error) {
        return Err(Errno::INVAL);
    }
    let state = MigState { device_state: number, data_fd: -1 };
    // SAFETY: two numbers, which the kernel reads and writes; a state that there is not has no descriptor.
    unsafe { with(device, Feature::MIG_DEVICE_STATE, Access::SET, state) }.map(drop)
}

/// `VFIO_DEVICE_FEATURE_MIG_DATA_SIZE`: reads how many bytes of data `STOP_COPY` would give, about. In every state.
///
/// # Errors
/// `ENOTTY` the device does not migrate, or a kernel before this · `EINVAL` a cdev that is not bound · the driver's own.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_migration_data_size()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE")]
pub fn data_size(device: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: a number, which the kernel writes.
    let (size, _) = unsafe { with(device, Feature::MIG_DATA_SIZE, Access::GET, MigDataSize { stop_copy_length: 0 }) }?;
    Ok(size.stop_copy_length)
}

/// `VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2`: from now on, until the device is closed, the flags of [`Saving::precopy`] mean
/// something.
///
/// # Errors
/// `EINVAL` the device has no pre-copy; a cdev that is not bound · `ENOTTY` a kernel before this.
///
/// # Kernel
/// `drivers/vfio/vfio_main.c` `vfio_ioctl_device_feature_migration_precopy_info_v2()` (7.2).
#[doc(alias = "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2")]
pub fn precopy_info_v2(device: BorrowedFd<'_>) -> Result<()> {
    bare(device, Feature::MIG_PRECOPY_INFO_V2, Access::SET)
}
