//! `vfioadm watch`: what happens to devices, and when the host is no longer as its host file says.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::Session;
use super::args::want::WatchArgs;
use super::open::Opened;
use super::report::{Exit, Trouble};
use super::want::{Compared, optional_wish};
use crate::host::Host;
use crate::host::netlink::{Came, Uevents};
use crate::model::Warning;
use crate::want::{Standing, Wish};

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    /// Seconds since 1970.
    time: u64,
    /// `appeared`, `vanished`, `bound`, `unbound`, `drifted`, `in_place`.
    event: &'static str,
    /// The device, of what happened to one.
    device: Option<String>,
    driver: Option<String>,
    /// The entry, of what is about one.
    entry: Option<&'a str>,
    words: Option<&'a str>,
}

/// How long nothing has to happen before the host is compared with its file: a thousand VFs are one happening.
const QUIET: Duration = Duration::from_millis(500);

/// How often it is looked whether it has been quiet for long enough.
const POLL: Duration = Duration::from_millis(200);

pub(super) fn run(args: &WatchArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    if !session.is_live() {
        return Err(Trouble::new(Exit::Usage, "bad-host", "nothing happens on a host in memory")
            .remedy("watch the machine that vfioadm runs on: leave --host out"));
    }
    let wish = optional_wish(args.file.as_deref(), session)?;
    let opened = session.open(None)?;
    let host = opened.host();
    // Before it is looked how the host stands, so that nothing happens in between.
    let events = Uevents::listen().map_err(|errno| {
        Trouble::new(Exit::Failed, "host-unreadable", format!("the kernel's uevents cannot be heard: {errno}"))
    })?;
    let mut watched = Watched { wish: wish.as_ref(), standing: BTreeMap::new() };
    watched.look(&opened, session)?;
    let mut unread = None;
    let mut left = args.count;
    // A signal ends it where it is: there is nothing to take back.
    while session.unwritten.is_none() && left != Some(0) {
        match events.next(POLL) {
            Ok(Came::Event(event)) => {
                let driver = event.driver.as_ref().map(ToString::to_string);
                let (word, device) = (event.happening.as_str(), event.device.to_string());
                say(host, session, word, &Said { device: Some(device), driver, ..Said::default() });
                left = left.map(|left| left - 1);
                unread = Some(host.now());
            }
            Ok(Came::Lost) => {
                session.warn(&[Warning::new("uevents", "more happened at once than could be kept: some is not told")]);
                unread = Some(host.now());
            }
            Ok(Came::Nothing) => {}
            Err(errno) => {
                let message = format!("the kernel's uevents cannot be heard any more: {errno}");
                return Err(Trouble::new(Exit::Failed, "host-unreadable", message));
            }
        }
        if unread.is_some_and(|since| host.now() >= since + QUIET) {
            unread = None;
            for (event, said) in watched.look(&opened, session)? {
                say(host, session, event, &said);
            }
        }
    }
    Ok(Exit::Done)
}

/// What there is to say beside what happened.
#[derive(Default)]
struct Said {
    device: Option<String>,
    driver: Option<String>,
    entry: Option<String>,
    words: Option<String>,
}

fn say(host: &dyn Host, session: &mut Session<'_, '_>, event: &'static str, said: &Said) {
    let time = host.date();
    if session.json() {
        let line = Line {
            schema: "vfioadm.watch/1",
            time: time.as_secs(),
            event,
            device: said.device.clone(),
            driver: said.driver.clone(),
            entry: said.entry.as_deref(),
            words: said.words.as_deref(),
        };
        let text = serde_json::to_string(&line).unwrap_or_default();
        session.print(format_args!("{text}\n"));
    } else {
        let when = humantime::format_rfc3339_seconds(UNIX_EPOCH + time);
        let what = said.device.as_ref().or(said.entry.as_ref()).map_or("", String::as_str);
        let to = said.driver.as_ref().map(|driver| format!(" to {driver}")).unwrap_or_default();
        let words = said.words.as_ref().map(|words| format!(": {words}")).unwrap_or_default();
        session.print(format_args!("{when}  {:<8}  {what}{to}{words}\n", event.replace('_', " ")));
    }
    // Whoever reads it waits for it.
    if let Err(error) = session.env.out.flush() {
        session.unwritten.get_or_insert(error);
    }
}

/// How the entries of a host file stood when they were last looked at.
struct Watched<'a> {
    wish: Option<&'a Wish>,
    standing: BTreeMap<String, Standing>,
}

impl Watched<'_> {
    /// Looks, and gives what stands otherwise than before; nothing of the first time.
    fn look(&mut self, opened: &Opened, session: &mut Session<'_, '_>) -> Result<Vec<(&'static str, Said)>, Trouble> {
        let Some(wish) = self.wish else { return Ok(Vec::new()) };
        let compared = Compared::read(wish, opened, session)?;
        let is_first = self.standing.is_empty();
        let mut news = Vec::new();
        for outcome in &compared.reconciled.outcomes {
            let entry = format!("{} ({})", outcome.entry, outcome.entry.place);
            let before = self.standing.insert(entry.clone(), outcome.standing.clone());
            if is_first || before.as_ref() == Some(&outcome.standing) {
                continue;
            }
            let (event, words) = match &outcome.standing {
                Standing::InPlace => ("in_place", None),
                Standing::Differs(changes) => {
                    let all: Vec<String> =
                        changes.iter().map(|change| format!("{} {}", change.target, change.words)).collect();
                    ("drifted", Some(all.join("; ")))
                }
                Standing::NotApplied(why) => ("drifted", Some(why.clone())),
                Standing::Refused(refused) => ("drifted", Some(refused.to_string())),
            };
            news.push((event, Said { entry: Some(entry), words, ..Said::default() }));
        }
        Ok(news)
    }
}
