//! A program that goes on with what this one has open.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::{Command, ExitStatus};

use rustix::io::FdFlags;

/// Where the program finds the numbers of the descriptors, with a comma between each two.
const VARIABLE: &str = "VFIOADM_FDS";

/// Runs a program that has these descriptors too, and waits for it. It has the terminal, so that signals from there reach it.
///
/// # Errors
/// No program is named, or it cannot be run.
#[expect(clippy::disallowed_methods, reason = "the user asks for a program of theirs to be run")]
pub fn run_with(descriptors: &[BorrowedFd<'_>], command: &[OsString]) -> io::Result<ExitStatus> {
    let (program, words) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let numbers: Vec<String> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd().to_string()).collect();
    for descriptor in descriptors {
        rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
    }
    Command::new(program).args(words).env(VARIABLE, numbers.join(",")).status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_program_has_what_was_open_and_knows_its_number() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let words = ["/bin/sh", "-c", "eval \"echo handed >&$VFIOADM_FDS\""].map(OsString::from);
        assert!(run_with(&[writer.as_fd()], &words).unwrap().success());
        let mut said = [0; 16];
        assert_eq!(rustix::io::read(&reader, &mut said).unwrap(), 7);
        assert_eq!(&said[..7], b"handed\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        assert_eq!(run_with(&[], &[OsString::from("/nowhere/at/all")]).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(run_with(&[], &[]).is_err());
    }
}
