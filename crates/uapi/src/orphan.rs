//! Programs that are not to outlive the process that has started them.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Has the kernel kill the program when the thread that starts it ends (`prctl`, `PR_SET_PDEATHSIG`, `SIGKILL`). What the program
/// starts itself does not inherit that.
///
/// # Kernel
/// `kernel/exit.c` `reparent_leader()`, `forget_original_parent()`: sent when the *thread* ends that has forked; `fs/exec.c`
/// `begin_new_exec()`: a program with set-user-id or capabilities of its own loses it (7.2).
#[doc(alias = "PR_SET_PDEATHSIG")]
pub fn never_orphaned(command: &mut Command) -> &mut Command {
    let parent = getpid();
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Who ended before that has sent nothing.
        if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec it makes two system calls and allocates nothing: an error of `io::Error` from an errno is
    // a number, and so is what is captured.
    unsafe { command.pre_exec(before_exec) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    /// The thread that starts it ends at once.
    #[test]
    fn a_program_ends_with_the_thread_that_started_it() {
        let start = || {
            #[expect(clippy::disallowed_methods, reason = "what is tested is a program")]
            let mut command = Command::new("/bin/sleep");
            never_orphaned(command.arg("1000").stdout(Stdio::piped())).spawn().unwrap()
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let ended = child.wait().unwrap();
        assert_eq!((std::os::unix::process::ExitStatusExt::signal(&ended), text.as_str()), (Some(9), ""));
    }
}
