//! The command: parse, run, exit.

#![forbid(unsafe_code)]

use std::io::{BufWriter, IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use vfioadm::cli::{Env, Terminal, run};

fn main() -> ExitCode {
    let columns = rustix::termios::tcgetwinsize(stdout()).ok().map(|size| size.ws_col);
    let terminal = Terminal { columns, err: stderr().is_terminal() };
    let mut out = BufWriter::new(stdout().lock());
    let exit = run(std::env::args_os(), &mut Env { out: &mut out, err: &mut stderr().lock(), terminal });
    // A reader that went away before the end wanted no more.
    drop(out.flush());
    ExitCode::from(exit)
}
