//! The guest's only program: PID 1 that prepares the machine, and the runner of the suites in it.
//!
//! As PID 1 it mounts, loads the host drivers, starts itself again to run what the kernel command line orders, and
//! powers off. In a system with systemd it does the latter as a service. Started by hand in the lab's shell, `/init SUITE [FILTER]` runs a suite and prints to the terminal. On any
//! other machine it refuses: the suites unbind devices without asking.

#![forbid(unsafe_code)]

mod bench;
mod boot;
mod channel;
mod cut;
mod hold;
mod init;
mod kmod;
mod kmsg;
mod leaks;
mod machine;
mod migrate;
mod orders;
mod raw;
mod runner;
mod scale;
mod scenarios;
mod sysfs;
mod watcher;

use std::process::ExitCode;

use channel::Channel;
use orders::Orders;

fn main() -> ExitCode {
    // The contract's writes that may wait are made by workers, as vfioadm's are.
    if let Some(done) = vfioadm::host::worker::asked() {
        return done;
    }
    if rustix::process::getpid().is_init() {
        init::run();
    }
    if let Err(reason) = init::is_lab() {
        say(format_args!("vfioadm-guest: {reason}"));
        return ExitCode::from(2);
    }
    let mut words = std::env::args().skip(1);
    let (channel, orders) = match words.next() {
        Some(word) if word == bench::ENUMERATE => return ended(raw::enumerate()),
        Some(word) if word == hold::HOLD => return ended(hold::run(words)),
        Some(word) if word == init::SERVICE => init::serve(),
        None => (Channel::open(), Orders::read()),
        Some(suites) => (Ok(Channel::none()), Ok(Orders::by_hand(&suites, words.next().as_deref()))),
    };
    match (channel, orders) {
        (Ok(mut channel), Ok(orders)) => runner::run(&orders, &mut channel),
        (Err(reason), _) | (_, Err(reason)) => {
            say(format_args!("vfioadm-guest: {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// The end of a program that a case has started.
fn ended<E: std::fmt::Display>(answer: Result<String, E>) -> ExitCode {
    match answer {
        Ok(told) => {
            say(format_args!("{told}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(format_args!("vfioadm-guest: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line on the console.
#[expect(clippy::print_stdout, reason = "the console of a guest is where its only program speaks")]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}
