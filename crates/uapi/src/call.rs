//! The call itself: `rustix::ioctl` with the three shapes of argument that VFIO and iommufd have.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

use crate::Result;

/// Makes the ioctl `OPCODE` with a number as its argument, and gives what it returned (zero or above).
///
/// # Safety
/// The handlers of `OPCODE` take their argument as a number, or take none; they neither read nor write memory of ours.
pub(crate) unsafe fn number<const OPCODE: Opcode>(fd: BorrowedFd<'_>, argument: u32) -> Result<c_int> {
    let argument = Argument::<OPCODE> { address: ptr::without_provenance_mut(argument as usize), memory: PhantomData };
    // SAFETY: the caller's word that the argument is no address.
    unsafe { rustix::ioctl::ioctl(fd, argument) }
}

/// Makes the ioctl `OPCODE` with a structure as its argument, which the kernel may change, and gives what it returned.
///
/// # Safety
/// The handlers of `OPCODE` read and write at most `size_of::<T>()` bytes at their argument, and only until they return;
/// `T` has no padding, and whatever they write there is a `T`.
pub(crate) unsafe fn structure<const OPCODE: Opcode, T>(fd: BorrowedFd<'_>, argument: &mut T) -> Result<c_int> {
    let argument = Argument::<OPCODE> { address: ptr::from_mut(argument).cast(), memory: PhantomData };
    // SAFETY: the address is that of a `T` which is borrowed alone until the call returns; the caller's word that the
    // kernel stays inside of it.
    unsafe { rustix::ioctl::ioctl(fd, argument) }
}

/// Makes the ioctl `OPCODE` with a structure whose length is known at run time, as bytes that begin at an address that any
/// structure may have, and gives what it returned.
///
/// # Safety
/// The handlers of `OPCODE` read and write at most as many bytes at their argument as its first field says, and only until
/// they return; and the first field of `words`, a `u32`, says no more than `words` has.
pub(crate) unsafe fn words<const OPCODE: Opcode>(fd: BorrowedFd<'_>, words: &mut [u64]) -> Result<c_int> {
    let argument = Argument::<OPCODE> { address: words.as_mut_ptr().cast(), memory: PhantomData };
    // SAFETY: the address is that of memory which is borrowed alone until the call returns, and any bytes are numbers; the
    // caller's word that the kernel stays inside of it.
    unsafe { rustix::ioctl::ioctl(fd, argument) }
}

/// Makes the ioctl `OPCODE` with a text as its argument, and gives what it returned.
///
/// # Safety
/// The handlers of `OPCODE` read their argument up to its NUL, write nothing, and keep no address of it.
pub(crate) unsafe fn text<const OPCODE: Opcode>(fd: BorrowedFd<'_>, argument: &std::ffi::CStr) -> Result<c_int> {
    let argument = Argument::<OPCODE> { address: argument.as_ptr().cast_mut().cast(), memory: PhantomData };
    // SAFETY: the text ends with a NUL and lives until the call returns; the caller's word that the kernel only reads it.
    unsafe { rustix::ioctl::ioctl(fd, argument) }
}

/// An argument of the ioctl `OPCODE`: rustix has this for each shape, but drops what the call returns.
struct Argument<'a, const OPCODE: Opcode> {
    address: *mut c_void,
    memory: PhantomData<&'a mut ()>,
}

// SAFETY: the address goes to the kernel as it is, and the output is the value returned, not read from memory; that
// `OPCODE` and the address belong together is what the four functions above ask of their callers. `IS_MUTATING` is the
// careful answer for all of them.
unsafe impl<const OPCODE: Opcode> Ioctl for Argument<'_, OPCODE> {
    type Output = c_int;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.address
    }

    unsafe fn output_from_ptr(returned: IoctlOutput, _: *mut c_void) -> Result<c_int> {
        Ok(returned)
    }
}
