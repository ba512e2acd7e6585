//! The command: parse, run, exit.

#![forbid(unsafe_code)]

use std::io::{BufWriter, IsTerminal, stderr, stdout};
use std::process::ExitCode;

use vfioadm::cli::{Env, Terminal, run};

fn main() -> ExitCode {
    if let Some(done) = vfioadm::host::worker::asked() {
        return done;
    }
    let columns = rustix::termios::tcgetwinsize(stdout()).ok().map(|size| size.ws_col);
    let terminal = Terminal { columns, err: stderr().is_terminal() };
    // Line by line where somebody watches, so that results and errors come in order; else in large pieces.
    let room = if columns.is_some() { 0 } else { 64 << 10 };
    let mut out = BufWriter::with_capacity(room, stdout());
    let exit = run(std::env::args_os(), &mut Env { out: &mut out, err: &mut stderr(), terminal });
    ExitCode::from(exit)
}
