//! Words in, words out: one file per verb, and one place each for flags, hosts and errors.

pub mod args;
mod bind;
mod boot;
mod carry;
mod check;
mod create;
mod dry_run;
mod file;
mod hooks;
mod import;
mod in_use;
mod inspect;
mod lender;
mod list;
mod log;
mod made;
mod matching;
mod narrator;
mod not_made;
mod open;
mod outcome;
mod past;
mod probe;
mod qualify;
mod record;
mod report;
mod show;
mod state;
mod taken;
mod types;
mod undo;
mod view;
mod want;
mod watch;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use serde::Serialize;
use serde_json::json;

pub use report::{Exit, Trouble};

use crate::model::Warning;
use args::{Cli, Format, Global, Verb, When};

/// Where words go.
pub struct Env<'a> {
    /// Results.
    pub out: &'a mut (dyn Write + Send),
    /// Errors, warnings and, with `-v`, changes.
    pub err: &'a mut (dyn Write + Send),
    /// Whether `out` and `err` are terminals, and how wide.
    pub terminal: Terminal,
}

/// What is known of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terminal {
    /// Columns; `None` when standard output is no terminal.
    pub columns: Option<u16>,
    /// Standard error is a terminal.
    pub err: bool,
}

/// Runs one command line, the program's name first, and returns its exit status.
pub fn run(args: impl IntoIterator<Item = OsString>, env: &mut Env<'_>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let words = args.iter().skip(1).map(|word| word.to_string_lossy());
    let command = std::iter::once("vfioadm".into()).chain(words).collect::<Vec<_>>().join(" ");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no errors.
            let text = error.render();
            let (to, exit): (&mut dyn Write, Exit) =
                if error.use_stderr() { (&mut *env.err, Exit::Usage) } else { (&mut *env.out, Exit::Done) };
            ignore_closed(write!(to, "{text}"));
            return exit as u8;
        }
    };
    let wait_lock = Duration::from_secs(wait_lock(&cli.verb).into());
    let mut session =
        Session { global: &cli.global, command, wait_lock, env, warned: BTreeSet::new(), unwritten: None };
    let ended = match &cli.verb {
        Verb::List(args) => list::run(args, &mut session),
        Verb::Show(args) => show::run(args, &mut session),
        Verb::Match(args) => matching::run(args, &mut session),
        Verb::Check(args) => check::run(args, &mut session),
        Verb::Bind(args) => bind::run_bind(args, &mut session),
        Verb::Unbind(args) => bind::run_unbind(args, &mut session),
        Verb::Create(args) => create::run_create(args, &mut session),
        Verb::Destroy(args) => create::run_destroy(args, &mut session),
        Verb::Undo(args) => undo::run(args, &mut session),
        Verb::Log(args) => log::run(args, &mut session),
        Verb::Types(args) => types::run(args, &mut session),
        Verb::Inspect(args) => inspect::run(args, &mut session),
        Verb::State(args) => state::run(args, &mut session),
        Verb::Qualify(args) => qualify::run(args, &mut session),
        Verb::Plan(args) => want::run_plan(args, &mut session),
        Verb::Apply(args) => want::run_apply(args, &mut session),
        Verb::Verify(args) => want::run_verify(args, &mut session),
        Verb::Describe => want::run_describe(&mut session),
        Verb::Boot(args) => boot::run(args, &mut session),
        Verb::Status(args) => want::run_status(args, &mut session),
        Verb::Watch(args) => watch::run(args, &mut session),
        Verb::Import(args) => import::run(args, &mut session),
        Verb::Record(args) => record::run(args, &mut session),
        Verb::Completions(args) => {
            clap_complete::generate(args.shell, &mut Cli::command(), "vfioadm", &mut session.env.out);
            Ok(Exit::Done)
        }
    };
    let exit = ended.unwrap_or_else(|trouble| session.fail(verb_name(&cli.verb), &trouble));
    session.finish(exit) as u8
}

/// How long a verb that writes waits for another vfioadm.
const fn wait_lock(verb: &Verb) -> u32 {
    match verb {
        Verb::Bind(args) => args.act.lock.wait_lock,
        Verb::Unbind(args) => args.act.lock.wait_lock,
        Verb::Create(args) => args.lock.wait_lock,
        Verb::Destroy(args) => args.lock.wait_lock,
        Verb::Undo(args) => args.lock.wait_lock,
        Verb::Apply(args) => args.lock.wait_lock,
        _ => 0,
    }
}

const fn verb_name(verb: &Verb) -> &'static str {
    match verb {
        Verb::List(_) => "list",
        Verb::Show(_) => "show",
        Verb::Match(_) => "match",
        Verb::Check(_) => "check",
        Verb::Bind(_) => "bind",
        Verb::Unbind(_) => "unbind",
        Verb::Create(_) => "create",
        Verb::Destroy(_) => "destroy",
        Verb::Undo(_) => "undo",
        Verb::Log(_) => "log",
        Verb::Types(_) => "types",
        Verb::Inspect(_) => "inspect",
        Verb::State(_) => "state",
        Verb::Qualify(_) => "qualify",
        Verb::Plan(_) => "plan",
        Verb::Apply(_) => "apply",
        Verb::Verify(_) => "verify",
        Verb::Describe => "describe",
        Verb::Boot(_) => "boot",
        Verb::Status(_) => "status",
        Verb::Watch(_) => "watch",
        Verb::Import(_) => "import",
        Verb::Record(_) => "record",
        Verb::Completions(_) => "completions",
    }
}

/// What a verb prints as JSON when it failed before it had anything to say: every key, and nothing in it.
fn empty(verb: &str) -> serde_json::Value {
    let schema = format!("vfioadm.{verb}/1");
    match verb {
        "list" => json!({ "schema": schema, "devices": [], "mdev_parents": [] }),
        "match" => json!({ "schema": schema, "device": null, "modalias": null, "candidates": [], "chosen": null }),
        "check" => json!({ "schema": schema, "findings": [] }),
        "bind" | "unbind" => json!({
            "schema": schema, "operation": null, "results": [], "findings": [], "changes": [], "host": "as_it_was",
        }),
        "create" | "destroy" => json!({
            "schema": schema, "operation": null, "devices": [], "findings": [], "lost": [], "changes": [],
            "host": "as_it_was",
        }),
        "undo" => json!({ "schema": schema, "operation": null, "results": [], "changes": [], "host": "as_it_was" }),
        "log" => json!({ "schema": schema, "operations": [], "acts": [] }),
        "show" => json!({
            "schema": schema, "device": null, "subsystem": null, "group_members": [], "group_node": null, "vfs": null,
            "reset_methods": null, "power_state": null, "link": null, "max_link": null, "boot_vga": null,
            "mdev_parent": null, "netdevs": [], "blocks": [], "wq": null, "vgpu": null,
        }),
        "inspect" => json!({
            "schema": schema, "device": null, "driver": null, "opened_by": null, "flags": [], "capabilities": [],
            "regions": [], "irqs": [], "reset": null, "features": [], "migration": null, "dirty_tracking": null,
            "low_power": null, "dma_buf": null,
        }),
        "qualify" => {
            json!({ "schema": schema, "device": null, "driver": null, "kernel": null, "cases": [], "counts": null })
        }
        "state" => json!({
            "schema": schema, "verb": null, "device": null, "file": null, "opened_by": null, "bytes": null,
            "precopy_bytes": null, "stopped_seconds": null, "header": null, "migration": null,
        }),
        "plan" | "verify" => json!({ "schema": schema, "clean": null, "entries": [], "findings": [] }),
        "status" => json!({ "schema": schema, "clean": null, "entries": [], "findings": [], "applied": [] }),
        "apply" => json!({
            "schema": schema, "operation": null, "clean": null, "entries": [], "findings": [], "lost": [], "changes": [],
            "host": "as_it_was",
        }),
        "watch" => json!({
            "schema": schema, "time": null, "event": null, "device": null, "driver": null, "entry": null, "words": null,
        }),
        "boot" => json!({ "schema": schema, "files": [], "next": [] }),
        "describe" => json!({ "schema": schema, "host": null }),
        "import" => json!({
            "schema": schema, "tool": null, "files": [], "host": null, "left_out": [], "notes": [], "rivals": [],
        }),
        "types" => json!({ "schema": schema, "types": [], "idxd": [] }),
        _ => json!({ "schema": schema, "file": null }),
    }
}

/// One command at work.
pub(crate) struct Session<'a, 'e> {
    global: &'a Global,
    /// The command line, as whoever finds the lock held is told it.
    command: String,
    /// How long to wait for another vfioadm to end.
    wait_lock: Duration,
    env: &'a mut Env<'e>,
    /// The warnings that were printed.
    warned: BTreeSet<String>,
    /// The first result that could not be written.
    unwritten: Option<io::Error>,
}

impl Session<'_, '_> {
    fn json(&self) -> bool {
        self.global.output == Format::Json
    }

    /// Prints a JSON object, one line feed at its end.
    fn print_json(&mut self, value: &impl Serialize) {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        self.print(format_args!("{text}\n"));
    }

    /// Prints a result.
    fn print(&mut self, text: std::fmt::Arguments<'_>) {
        let written = self.env.out.write_fmt(text);
        self.unwritten = self.unwritten.take().or(written.err());
    }

    /// Makes sure that the results are out. A reader that went away wanted no more; a full disk is an error.
    fn finish(&mut self, exit: Exit) -> Exit {
        let flushed = self.env.out.flush();
        match self.unwritten.take().or(flushed.err()) {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let trouble =
                    Trouble::new(Exit::Failed, "not-written", format_args!("the results were not written: {error}"));
                self.print_trouble(&trouble.remedy("write them to where there is room"));
                exit.max(Exit::Failed)
            }
            _ => exit,
        }
    }

    /// Prints warnings, unless they are not wanted.
    fn warn(&mut self, warnings: &[Warning]) {
        if self.global.quiet {
            return;
        }
        for warning in warnings {
            let line = report::warning_line(warning);
            // Who waits for a holder looks again and again.
            if !self.warned.insert(line.clone()) {
                continue;
            }
            let line = self.painted(Paint::Yellow, &line);
            ignore_closed(writeln!(self.env.err, "{line}"));
        }
    }

    /// Prints an error the way people read it.
    fn print_trouble(&mut self, trouble: &Trouble) {
        let label = self.painted(Paint::Red, "error:");
        ignore_closed(write!(self.env.err, "{label} {trouble}"));
    }

    fn fail(&mut self, verb: &str, trouble: &Trouble) -> Exit {
        if self.json() && trouble.exit != Exit::Usage {
            let mut object = empty(verb);
            object["error"] = serde_json::to_value(trouble).unwrap_or_default();
            self.print_json(&object);
        }
        self.print_trouble(trouble);
        trouble.exit
    }

    /// `text` in colour where that is wanted on standard error.
    fn painted(&self, paint: Paint, text: &str) -> String {
        let wanted = match self.global.color {
            When::Always => true,
            When::Never => false,
            When::Auto => self.env.terminal.err,
        };
        if wanted { format!("\x1b[{}m{text}\x1b[0m", paint as u8) } else { text.to_owned() }
    }
}

#[derive(Clone, Copy)]
enum Paint {
    Red = 31,
    Yellow = 33,
}

/// What cannot be said on standard error cannot be said anywhere.
fn ignore_closed(written: io::Result<()>) {
    drop(written);
}
