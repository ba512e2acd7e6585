//! `vfioadm state save|load|info`

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::args::prove::{InfoArgs, LoadArgs, SaveArgs, StateArgs, StateVerb};
use super::file::{self, Output};
use super::inspect::{Migration, size};
use super::probe::{self, Subject, way_name};
use super::report::{Exit, Trouble};
use super::{Session, ignore_closed};
use crate::host::{Clock, Host};
use crate::model::{DeviceRef, Warning};
use crate::prove::inspect::migration;
use crate::prove::{self, After, Failure, Precopying, Watch, Why};
use crate::stream::{Header, Reader, StreamError};

/// What was done with a state, as printed. Every key is always there.
#[derive(Debug, Serialize)]
struct Told {
    schema: &'static str,
    verb: &'static str,
    device: Option<String>,
    file: Option<String>,
    opened_by: Option<&'static str>,
    bytes: Option<u64>,
    precopy_bytes: Option<u64>,
    /// How long the device stood still.
    stopped_seconds: Option<f64>,
    header: Option<Header>,
    migration: Option<Migration>,
    error: Option<Trouble>,
}

impl Told {
    fn new(verb: &'static str) -> Self {
        Self {
            schema: "vfioadm.state/1",
            verb,
            device: None,
            file: None,
            opened_by: None,
            bytes: None,
            precopy_bytes: None,
            stopped_seconds: None,
            header: None,
            migration: None,
            error: None,
        }
    }
}

pub(super) fn run(args: &StateArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    match &args.verb {
        StateVerb::Save(args) => save(args, session),
        StateVerb::Load(args) => load(args, session),
        StateVerb::Info(args) => info(args, session),
    }
}

fn save(args: &SaveArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let to_stdout = args.file == Path::new("-");
    if to_stdout && session.json() {
        let message = "the state goes to standard output, and so would the JSON object";
        return Err(Trouble::new(Exit::Usage, "two-outputs", message).remedy("name a file, or leave -o json out"));
    }
    let opened = session.open(None)?;
    let host = opened.host();
    let subject = Subject::of(&args.device, "state save", host, session)?;
    if subject.is_reset_by_opening() {
        let what = format!(
            "{}: opening a vfio-pci device resets it: what is saved is the state of a device after a reset",
            subject.address
        );
        session.warn(&[Warning::new("reset-on-open", what)]);
    }
    let out = output(&args.file).map_err(|error| not_written(&args.file, &error))?;
    let device = match args.fd {
        Some(number) => subject.inherited(host, number)?,
        None => subject.open(host, &args.open)?,
    };
    let mut header = Header::new(subject.kind.clone(), subject.address.to_string(), probe::release(host));
    header.precopy = args.precopy;
    header.date = host.date().as_secs();
    let precopying = if args.precopy { Precopying::Yes } else { Precopying::No };
    let meter = Meter::new(session, host);
    let saved = prove::save(device.as_ref(), host, (&header, precopying), out, &meter);
    meter.end();
    let (out, saved) = saved.map_err(|failure| trouble("saved", &subject, &failure))?;
    let opened_by = way_name(device.way());
    drop(device);
    out.keep().map_err(|error| not_written(&args.file, &error))?;
    let told = Told {
        device: Some(subject.address.to_string()),
        file: Some(args.file.display().to_string()),
        opened_by: Some(opened_by),
        bytes: Some(saved.bytes),
        precopy_bytes: Some(saved.precopy_bytes),
        stopped_seconds: Some(saved.stopped.as_secs_f64()),
        header: Some(header),
        ..Told::new("save")
    };
    let words = format!(
        "{}: {} of state saved to {}, {} of it while it worked; it stood still for {:.3} s\n",
        subject.address,
        size(saved.bytes),
        args.file.display(),
        size(saved.precopy_bytes),
        saved.stopped.as_secs_f64(),
    );
    if to_stdout {
        // The state has the standard output to itself.
        if !session.global.quiet {
            ignore_closed(write!(session.env.err, "{words}"));
        }
    } else {
        print(session, &told, &words);
    }
    Ok(Exit::Done)
}

fn load(args: &LoadArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let subject = Subject::of(&args.device, "state load", host, session)?;
    let (header, mut reader) = read(&args.file)?;
    header.fits(&subject.kind).map_err(|mismatch| {
        let message = format!("{} is not for {}: {mismatch}", args.file.display(), subject.address);
        Trouble::new(Exit::Failed, "foreign-state", message)
            .state("as it was; the device was not opened")
            .remedy("load it into a device of its own kind")
    })?;
    let release = probe::release(host);
    if header.kernel != release {
        let what = format!(
            "it was saved on kernel {}, and this is {release}: the driver decides whether it takes it",
            header.kernel
        );
        session.warn(&[Warning::new("other-kernel", what)]);
    }
    if subject.is_reset_by_opening() && args.command.is_empty() {
        let what = format!(
            "{}: closing a vfio-pci device resets it: what is loaded is gone when this command ends; name a COMMAND that goes on \
             with it",
            subject.address
        );
        session.warn(&[Warning::new("reset-on-close", what)]);
    }
    let device = subject.open(host, &args.open)?;
    let meter = Meter::new(session, host);
    let loaded = prove::load(device.as_ref(), &mut reader, &meter);
    meter.end();
    let loaded = loaded.map_err(|failure| trouble("loaded", &subject, &failure))?;
    let told = Told {
        device: Some(subject.address.to_string()),
        file: Some(args.file.display().to_string()),
        opened_by: Some(way_name(device.way())),
        bytes: Some(loaded.bytes),
        header: Some(header),
        ..Told::new("load")
    };
    let words = format!("{}: {} of state loaded from {}\n", subject.address, size(loaded.bytes), args.file.display());
    print(session, &told, &words);
    if args.command.is_empty() {
        return Ok(Exit::Done);
    }
    session.env.out.flush().ok();
    probe::hand_over(device.as_ref(), &args.command)
}

fn info(args: &InfoArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let text = args.what.to_string_lossy();
    let path = Path::new(&args.what);
    let is_file = text == "-" || text.starts_with(['/', '.']) || is_there(path);
    if is_file {
        let (header, mut reader) = read(path)?;
        while let Some(_piece) = reader.piece().map_err(|error| unreadable(path, &error))? {}
        let bytes = reader.read();
        let words = format!(
            "{}: {} of state of {}, {} on {}, saved on kernel {}{}; it is whole\n",
            path.display(),
            size(bytes),
            header.device,
            header.kind.model,
            header.kind.driver,
            header.kernel,
            if header.precopy { " with pre-copy" } else { "" },
        );
        let told = Told {
            file: Some(path.display().to_string()),
            bytes: Some(bytes),
            header: Some(header),
            ..Told::new("info")
        };
        print(session, &told, &words);
        return Ok(Exit::Done);
    }
    let device: DeviceRef = text.parse().map_err(|error| {
        Trouble::new(Exit::Usage, "no-such-device", format_args!("{text} is neither a file nor a device: {error}"))
            .remedy("name a state file by its path, or a device: vfioadm list")
    })?;
    let opened = session.open(None)?;
    let host = opened.host();
    let subject = Subject::of(&device, "state info", host, session)?;
    subject.warn_of_reset(session);
    let device = subject.open(host, &args.open)?;
    let migration = migration(device.as_ref()).map_err(|error| probe::refused(&subject.address, &error))?;
    let words = match &migration {
        None => format!("{}: it cannot migrate\n", subject.address),
        Some(migrates) => {
            let about = migrates.data_size.map(|bytes| format!("; about {} of state", size(bytes))).unwrap_or_default();
            format!("{}: it can migrate, and is in {}{about}\n", subject.address, migrates.state)
        }
    };
    let told = Told {
        device: Some(subject.address.to_string()),
        opened_by: Some(way_name(device.way())),
        migration: migration.as_ref().map(Migration::from),
        ..Told::new("info")
    };
    print(session, &told, &words);
    Ok(Exit::Done)
}

fn is_there(path: &Path) -> bool {
    std::fs::metadata(path).is_ok()
}

/// A state file, opened as far as its header.
fn read(path: &Path) -> Result<(Header, Reader<Box<dyn io::Read>>), Trouble> {
    let input = input(path).map_err(|error| unreadable(path, &StreamError::Io(error)))?;
    Reader::new(input).map_err(|error| unreadable(path, &error))
}

/// What a state is written to.
fn output(path: &Path) -> io::Result<Output> {
    if path == Path::new("-") {
        return Ok(Output::Direct(Box::new(io::stdout())));
    }
    Output::open(path, file::PRIVATE)
}

/// What a state is read from.
#[expect(clippy::disallowed_methods, reason = "a file of the user's, not the machine")]
fn input(path: &Path) -> io::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path)?;
    if rustix::fs::fstat(file.as_fd()).is_ok_and(|status| rustix::fs::FileType::from_raw_mode(status.st_mode).is_dir())
    {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(Box::new(file))
}

fn unreadable(path: &Path, error: &StreamError) -> Trouble {
    let id = match error {
        StreamError::Io(_) => "not-read",
        StreamError::Foreign | StreamError::Header(_) => "no-state-file",
        StreamError::Empty | StreamError::Cut(_) => "state-cut-off",
        StreamError::Damaged(_) | StreamError::Trailing(_) => "state-damaged",
    };
    Trouble::new(Exit::Failed, id, format_args!("{}: {error}", path.display()))
        .state("as it was; no device was opened")
        .remedy("save the state again: vfioadm state save DEVICE FILE")
}

fn not_written(path: &Path, error: &io::Error) -> Trouble {
    Trouble::new(Exit::Failed, "not-written", format_args!("{} was not written: {error}", path.display()))
        .state("as it was; no device is open")
        .remedy("name a file in a directory that you can write to")
}

/// Why a state was not saved, or not loaded, and what became of the device.
fn trouble(done: &str, subject: &Subject, failure: &Failure) -> Trouble {
    let device = &subject.address;
    let (id, remedy) = match &failure.why {
        Why::NotMigratable => {
            ("not-migratable", "see what its driver offers: vfioadm inspect, and vfioadm match for a better one")
        }
        Why::NoPrecopy => ("no-precopy", "leave --precopy out"),
        Why::File(StreamError::Io(_)) => ("not-written", "see that there is room, and that the reader is there"),
        Why::File(StreamError::Cut(_) | StreamError::Empty) => {
            ("state-cut-off", "get the whole file, or save the state again")
        }
        Why::File(_) => ("state-damaged", "get the file again, or save the state again"),
        Why::Refused(_) => ("state-refused", "its driver found the state wrong: its own reason is in the kernel log"),
        Why::Host(_) | Why::NoStream(_) | Why::Stream(..) | Why::Silent(_) => {
            ("device-refused", "the driver's own reason is in the kernel log")
        }
    };
    let after = match &failure.after {
        After::Runs if matches!(failure.why, Why::NotMigratable) => {
            "as it was; the device was opened and closed".to_owned()
        }
        After::Runs => "as it was; the device is in RUNNING".to_owned(),
        After::RunsAfterReset => "as it was; the device was reset, and is in RUNNING".to_owned(),
        After::Lost(error) => {
            format!("the device could not be brought to RUNNING: {error}; closing it ends its migration")
        }
    };
    let message = format!("the state of {device} was not {done}: {}", failure.why);
    let trouble = Trouble::new(Exit::Failed, id, message).state(after).remedy(remedy);
    match &failure.why {
        Why::Host(error) | Why::Refused(error) => trouble.kernel(error),
        _ => trouble,
    }
}

fn print(session: &mut Session<'_, '_>, told: &Told, words: &str) {
    if session.json() {
        session.print_json(told);
    } else {
        session.print(format_args!("{words}"));
    }
}

/// Says on a terminal how far it has come, and how fast.
struct Meter<'s, 'a, 'e> {
    session: RefCell<&'s mut Session<'a, 'e>>,
    clock: &'s dyn Clock,
    started: Duration,
    shown: RefCell<Option<Duration>>,
}

/// Work that takes less is not worth a line.
const BETWEEN_LINES: Duration = Duration::from_millis(250);

impl<'s, 'a, 'e> Meter<'s, 'a, 'e> {
    fn new(session: &'s mut Session<'a, 'e>, host: &'s dyn Host) -> Self {
        Self { session: RefCell::new(session), clock: host, started: host.now(), shown: RefCell::new(None) }
    }

    fn end(self) {
        if self.shown.into_inner().is_some() {
            ignore_closed(write!(self.session.into_inner().env.err, "\r\x1b[K"));
        }
    }
}

impl Watch for Meter<'_, '_, '_> {
    fn moved(&self, bytes: u64, about: Option<u64>) {
        let mut session = self.session.borrow_mut();
        if !session.env.terminal.err || session.global.quiet {
            return;
        }
        let now = self.clock.now();
        if now < self.shown.borrow().unwrap_or(self.started) + BETWEEN_LINES {
            return;
        }
        *self.shown.borrow_mut() = Some(now);
        let mib = |bytes: u64| bytes >> 20;
        let milliseconds = u64::try_from((now - self.started).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = mib(bytes.saturating_mul(1000) / milliseconds);
        let of = about.map(|about| format!(" of about {}", mib(about))).unwrap_or_default();
        ignore_closed(write!(session.env.err, "\r\x1b[K{}{of} MiB, {rate} MiB/s", mib(bytes)));
    }
}
