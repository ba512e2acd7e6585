//! `lab`: builds a guest kernel, boots it in QEMU on any machine, and runs vfioadm's suites in it.
//!
//! Exit 0: every case passed or was skipped. 1: a case failed. 2: the command line is wrong. 69: the rig is broken
//! (nothing could be built or booted, or the guest died), which says nothing about vfioadm.

#![forbid(unsafe_code)]

mod accel;
mod binaries;
mod cache;
mod cpio;
mod devices;
mod exec;
mod follow;
mod initramfs;
mod kernel;
mod kernels;
mod kmod;
mod machine;
mod monitor;
mod oracle;
mod peers;
mod reader;
mod report;
mod rig;
mod root;
mod session;
mod system;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use session::{Answer, Counts, Session};

/// `EX_UNAVAILABLE`: the rig, not the tests.
const RIG_BROKEN: u8 = 69;

#[derive(Parser)]
#[command(about = "Boots a real kernel with chosen PCI devices and runs vfioadm's suites in it", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the suites with small counts, on the first kernel of lab/KERNELS
    Test {
        /// Run on this kernel of lab/KERNELS instead
        #[arg(long, value_name = "NAME")]
        kernel: Option<String>,
        /// Only cases whose "suite/case" contains this
        filter: Option<String>,
    },
    /// Run the suites with full counts, on every kernel of lab/KERNELS
    Full {
        /// Run on this kernel of lab/KERNELS alone
        #[arg(long, value_name = "NAME")]
        kernel: Option<String>,
        /// Only cases whose "suite/case" contains this
        filter: Option<String>,
    },
    /// Measure vfioadm among 1,016 VFs against a program that makes the same writes and reads; judges nothing
    Bench {
        /// Run on this kernel of lab/KERNELS instead of the first
        #[arg(long, value_name = "NAME")]
        kernel: Option<String>,
        /// Only cases whose "bench/case" contains this
        filter: Option<String>,
    },
    /// Build kernels into the cache: all of lab/KERNELS, or the one named
    Build {
        /// A name in lab/KERNELS
        kernel: Option<String>,
    },
    /// Record the guest with `vfioadm record`, into a file that `vfioadm --host FILE` takes
    Record {
        /// Boot this kernel of lab/KERNELS instead of the first
        #[arg(long, value_name = "NAME")]
        kernel: Option<String>,
        /// Where to put it
        file: std::path::PathBuf,
    },
    /// Boot the same machine with a shell on this terminal (ctrl-a x ends it)
    Shell {
        /// Boot this kernel of lab/KERNELS instead of the first
        #[arg(long, value_name = "NAME")]
        kernel: Option<String>,
    },
}

fn main() -> ExitCode {
    let verb = Arguments::parse().verb;
    let answer = Session::open().and_then(|session| match verb {
        Verb::Test { kernel, filter } => {
            session.with(kernel.as_deref(), |lines| session.run(lines, filter, Counts::Small))
        }
        Verb::Full { kernel: None, filter } => session.run(session.kernels(), filter, Counts::Full),
        Verb::Full { kernel, filter } => {
            session.with(kernel.as_deref(), |lines| session.run(lines, filter, Counts::Full))
        }
        Verb::Bench { kernel, filter } => session.with(kernel.as_deref(), |lines| session.measure(lines, filter)),
        Verb::Build { kernel: None } => session.build(session.kernels()),
        Verb::Build { kernel } => session.with(kernel.as_deref(), |lines| session.build(lines)),
        Verb::Record { kernel, file } => session.with(kernel.as_deref(), |lines| session.record(lines, &file)),
        Verb::Shell { kernel } => session.with(kernel.as_deref(), |lines| session.shell(lines)),
    });
    match answer {
        Ok(Answer::Green) => ExitCode::SUCCESS,
        Ok(Answer::Red) => ExitCode::FAILURE,
        Ok(Answer::Misused(reason)) => {
            complain(format_args!("{reason}"));
            ExitCode::from(2)
        }
        Err(error) => {
            complain(format_args!("the rig is broken: {error:#}"));
            ExitCode::from(RIG_BROKEN)
        }
    }
}

/// Prints a line for people.
#[expect(clippy::print_stdout, reason = "the one place where the lab prints")]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "the one place where the lab complains")]
fn complain(line: std::fmt::Arguments<'_>) {
    eprintln!("lab: {line}");
}
