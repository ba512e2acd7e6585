//! `vfioadm qualify DEVICE`

use serde::Serialize;

use super::args::prove::{OpenArgs, QualifyArgs, Told};
use super::probe::{self, Subject};
use super::report::{Exit, Trouble};
use super::{Session, ignore_closed};
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::host::opening::Kind;
use crate::host::path::Root;
use crate::host::{Host, HostPath};
use crate::matching;
use crate::model::Address;
use crate::model::driver::Table as AliasTable;
use crate::prove::qualify::{Bench, Outcome, Table, Verdict, qualify};

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
    if !args.yes {
        let message = format!("{} would be reset and loaded again and again: what is in it is lost", args.device);
        return Err(Trouble::new(Exit::Failed, "needs-yes", message)
            .state("as it was; no device was opened")
            .remedy("with --yes it is done"));
    }
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
    let bench = Bench {
        open: &open,
        peer: open_peer.as_ref().map(|open| open as _),
        peer_is_same: peer.as_ref().is_some_and(|peer| peer.kind == subject.kind),
        driver: &subject.driver,
        table: table(host, &subject),
        clock: host,
        loops: args.loops,
        descriptors: &|| host.list(&HostPath::fixed(Root::Proc, "self/fd")).ok().map(|names| names.len()),
    };
    let outcomes = qualify(&bench, |outcome| tell(session, outcome));
    let counts = Counts::of(&outcomes);
    let failed = counts.fail > 0;
    print(args.report, &subject, &probe::release(host), (outcomes, counts), session);
    Ok(if failed { Exit::Found } else { Exit::Done })
}

/// The flags, with a way of the case's choice.
fn by(args: &OpenArgs, kind: Option<Kind>) -> OpenArgs {
    OpenArgs { by: kind.or(args.by), ..args.clone() }
}

/// What the alias table of the module has of the device; `None` of an mdev.
fn table(host: &dyn Host, subject: &Subject) -> Option<Table> {
    let Address::Pci(bdf) = subject.address else { return None };
    let function = subject.inventory.functions.get(&bdf)?;
    let driver = function.driver.as_ref()?;
    let devices = [function.alias];
    let query = Query { devices: &devices, drivers: std::slice::from_ref(driver), kernel: Kernel::Running };
    let (tables, _) = read_tables(host, &query);
    let modules = matching::names::modules_of(driver, &tables);
    let has = |table: AliasTable| tables.has_alias(&modules, &function.alias, table);
    Some(Table { vfio: has(AliasTable::Vfio), native: has(AliasTable::Native) })
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
