//! `vfioadm qualify DEVICE`

use serde::Serialize;

use super::args::prove::{OpenArgs, QualifyArgs, Told};
use super::lender::Lender;
use super::probe::{self, Subject};
use super::report::{Exit, Trouble};
use super::{Session, ignore_closed};
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::host::opening::Kind;
use crate::host::path::Root;
use crate::host::{Host, HostPath};
use crate::matching;
use crate::model::driver::Table as AliasTable;
use crate::model::{Address, DriverName, ModAlias, ModuleName, Warning};
use crate::prove::qualify::{Bench, Linked, Outcome, Table, Verdict, qualify};

#[derive(Debug, Serialize)]
struct Qualified {
    schema: &'static str,
    device: Option<String>,
    driver: Option<String>,
    kernel: Option<String>,
    cases: Vec<Row>,
    counts: Option<Counts>,
    error: Option<Trouble>,
}

#[derive(Debug, Serialize)]
struct Row {
    id: &'static str,
    verdict: &'static str,
    evidence: String,
    rule: String,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    pass: usize,
    fail: usize,
    quirk: usize,
    not_applicable: usize,
}

impl Counts {
    fn of(outcomes: &[Outcome]) -> Self {
        let count = |verdict| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count();
        Self {
            pass: count(Verdict::Pass),
            fail: count(Verdict::Fail),
            quirk: count(Verdict::Quirk),
            not_applicable: count(Verdict::NotApplicable),
        }
    }

    fn words(&self) -> String {
        format!(
            "{} passed, {} failed, {} known quirks, {} not applicable",
            self.pass, self.fail, self.quirk, self.not_applicable
        )
    }
}

pub(super) fn run(args: &QualifyArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let subject = Subject::of(&args.device, "qualify", host, session)?;
    let peer = args.peer.as_ref().map(|peer| Subject::of(peer, "qualify", host, session)).transpose()?;
    if peer.as_ref().is_some_and(|peer| peer.address == subject.address) {
        let message = format!("{} is its own peer", subject.address);
        return Err(Trouble::new(Exit::Usage, "own-peer", message).remedy("name another device, or leave --peer out"));
    }
    // What cannot be opened at all is told as by every verb, and is no failing case.
    drop(subject.open(host, &args.open)?);
    if let Some(peer) = &peer {
        drop(peer.open(host, &args.open)?);
    }
    let open = |kind: Option<Kind>| subject.open_by(host, &by(&args.open, kind));
    let open_peer = peer.as_ref().map(|peer| move |kind: Option<Kind>| peer.open_by(host, &by(&args.open, kind)));
    if !args.yes {
        subject.warn_of_reset(session);
    }
    let ledger = session.ledger(&opened)?;
    let command = session.command.clone();
    let lender = Lender::new(host, &ledger, (&subject, peer.as_ref()), (&command, opened.at_once()));
    let table = table(host, &subject, peer.as_ref());
    let bench = Bench {
        open: &open,
        peer: open_peer.as_ref().map(|open| open as _),
        peer_is_same: peer.as_ref().is_some_and(|peer| peer.kind == subject.kind),
        driver: &subject.driver,
        peer_is_sibling: peer.as_ref().is_some_and(|peer| peer.pf().is_some() && peer.pf() == subject.pf()),
        table: table.map(|(table, _)| table),
        table_has_peer: table.is_some_and(|(_, has_peer)| has_peer),
        rig: args.yes.then_some(&lender as _),
        clock: host,
        loops: args.loops,
        descriptors: &|| host.list(&HostPath::fixed(Root::Proc, "self/fd")).ok().map(|names| names.len()),
    };
    let outcomes = qualify(&bench, |outcome| {
        for line in lender.changes().iter().filter(|_| session.global.verbose) {
            ignore_closed(writeln!(session.env.err, "{line}"));
        }
        tell(session, outcome);
    });
    session.save(&opened)?;
    let counts = Counts::of(&outcomes);
    let failed = counts.fail > 0;
    print(args.report, &subject, &probe::release(host), (outcomes, counts), session);
    if lender.has_left_something() {
        let what =
            "devices are not as they were before the cases that rebind: vfioadm undo, until there is nothing to undo";
        session.warn(&[Warning::new("not-undone", what)]);
        return Ok(Exit::Changed);
    }
    Ok(if failed { Exit::Found } else { Exit::Done })
}

/// The flags, with a way of the case's choice.
fn by(args: &OpenArgs, kind: Option<Kind>) -> OpenArgs {
    OpenArgs { by: kind.or(args.by), ..args.clone() }
}

/// The alias of a function; an mdev has none.
fn alias(subject: &Subject) -> Option<ModAlias> {
    let Address::Pci(bdf) = subject.address else { return None };
    Some(subject.inventory.functions.get(&bdf)?.alias)
}

/// What the alias table of the driver's module has of the device, and whether it has the peer.
fn table(host: &dyn Host, subject: &Subject, peer: Option<&Subject>) -> Option<(Table, bool)> {
    let (device, driver) = (alias(subject)?, subject.driver.parse::<DriverName>().ok()?);
    let peer = peer.and_then(alias);
    let devices: Vec<ModAlias> = [device].into_iter().chain(peer).collect();
    let query = Query { devices: &devices, drivers: std::slice::from_ref(&driver), kernel: Kernel::Running };
    let (tables, _) = read_tables(host, &query);
    let modules = matching::names::modules_of(&driver, &tables);
    let has = |alias: &ModAlias, table: AliasTable| tables.has_alias(&modules, alias, table);
    let is_loaded = |module: &ModuleName| host.text(&HostPath::module(module).attr("initstate")).is_ok();
    let linked = if tables.drivers.values().any(|drivers| drivers.contains(&driver)) {
        Linked::Yes
    } else if matching::names::guessed_module(&driver).is_some_and(|module| is_loaded(&module)) {
        Linked::No
    } else {
        Linked::BuiltIn
    };
    let table = Table { vfio: has(&device, AliasTable::Vfio), native: has(&device, AliasTable::Native), linked };
    let has_peer = peer.is_some_and(|peer| has(&peer, AliasTable::Vfio) || has(&peer, AliasTable::Native));
    Some((table, has_peer))
}

/// What is going on, on a terminal.
fn tell(session: &mut Session<'_, '_>, outcome: &Outcome) {
    if session.global.verbose {
        ignore_closed(writeln!(session.env.err, "{}: {}: {}", outcome.verdict.as_str(), outcome.id, outcome.evidence));
    }
}

fn print(
    report: Told,
    subject: &Subject,
    kernel: &str,
    (outcomes, counts): (Vec<Outcome>, Counts),
    session: &mut Session<'_, '_>,
) {
    let title = format!("{} on {}, kernel {kernel}", subject.address, subject.driver);
    match report {
        Told::Markdown => {
            let mut text = format!("# {title}\n\n| case | verdict | evidence | rule |\n|---|---|---|---|\n");
            for outcome in &outcomes {
                let cell = |text: &str| text.replace('|', "\\|");
                text += &format!(
                    "| `{}` | {} | {} | {} |\n",
                    outcome.id,
                    outcome.verdict.as_str(),
                    cell(&outcome.evidence),
                    cell(outcome.rule)
                );
            }
            session.print(format_args!("{text}\n{}\n", counts.words()));
        }
        Told::Junit => session.print(format_args!("{}", junit(&title, &outcomes, &counts))),
        Told::AsOutput if session.json() => {
            let row = |outcome: &Outcome| Row {
                id: outcome.id,
                verdict: outcome.verdict.as_str(),
                evidence: outcome.evidence.clone(),
                rule: outcome.rule.to_owned(),
            };
            session.print_json(&Qualified {
                schema: "vfioadm.qualify/1",
                device: Some(subject.address.to_string()),
                driver: Some(subject.driver.clone()),
                kernel: Some(kernel.to_owned()),
                cases: outcomes.iter().map(row).collect(),
                counts: Some(counts),
                error: None,
            });
        }
        Told::AsOutput => {
            let mut text = format!("{title}\n");
            for outcome in &outcomes {
                text += &format!("{:<15} {:<18} {}\n", outcome.verdict.as_str(), outcome.id, outcome.evidence);
                if outcome.verdict == Verdict::Fail {
                    text += &format!("{:<15} {:<18} rule: {}\n", "", "", outcome.rule);
                }
            }
            session.print(format_args!("{text}{}\n", counts.words()));
        }
    }
}

/// As JUnit has it: a quirk and what is not applicable are skipped, with why.
fn junit(title: &str, outcomes: &[Outcome], counts: &Counts) -> String {
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">\n",
        escaped(title),
        outcomes.len(),
        counts.fail,
        counts.quirk + counts.not_applicable
    );
    for outcome in outcomes {
        let evidence = escaped(&outcome.evidence);
        let inside = match outcome.verdict {
            Verdict::Pass => format!("<system-out>{evidence}</system-out>"),
            Verdict::Fail => format!("<failure message=\"{evidence}\">{}</failure>", escaped(outcome.rule)),
            Verdict::Quirk => format!("<skipped message=\"quirk: {evidence}\"/>"),
            Verdict::NotApplicable => format!("<skipped message=\"{evidence}\"/>"),
        };
        text += &format!("  <testcase classname=\"qualify\" name=\"{}\">{inside}</testcase>\n", outcome.id);
    }
    text + "</testsuite>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
