//! `vfioadm plan`, `apply`, `verify` and `describe`: the host file, compared and carried out.

mod asked;
mod compare;
mod tell;

use std::path::Path;
use std::time::Duration;

use compare::About;
pub(super) use compare::Compared;
pub(super) use tell::mistaken;
use tell::{Remembered, Told};

use super::args::want::{ApplyArgs, PlanArgs, StatusArgs, VerifyArgs};
use super::carry::{Carried, Order};
use super::made::{Does, Made};
use super::past::Seen;
use super::report::{Exit, Trouble};
use super::{Session, not_made};
use crate::discover;
use crate::engine::Pace;
use crate::host::config::{self, ConfigError};
use crate::host::{Host, HostPath, optional};
use crate::model::{Role, Warning};
use crate::plan::create::{Known, Replace};
use crate::want::describe::describe;
use crate::want::{Source, Wish, read};

/// What is to be done so that the host is as the file says.
pub(super) fn run_plan(args: &PlanArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let wish = wish(args.file.as_deref(), session)?;
    let opened = session.open(None)?;
    let compared = Compared::make(&wish, &opened, Seen::InPassing, session)?;
    let found = args.exit_code && !compared.is_clean();
    let told = Told::of_plan(&compared);
    told.print(session);
    Ok(if found { Exit::Found } else { Exit::Done })
}

/// Whether the host is as the file says.
pub(super) fn run_verify(args: &VerifyArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let wish = wish(args.file.as_deref(), session)?;
    let opened = session.open(None)?;
    let compared = Compared::read(&wish, &opened, session)?;
    let told = Told::of_verify(&compared);
    told.print(session);
    Ok(if compared.is_clean() { Exit::Done } else { Exit::Found })
}

/// Makes the host as the file says.
pub(super) fn run_apply(args: &ApplyArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let wish = wish(args.file.as_deref(), session)?;
    let opened = session.open(None)?;
    let host = opened.host();
    let about = match (args.only, args.early) {
        (Some(bdf), _) => About::Only(bdf),
        (None, true) => About::Early,
        (None, false) => About::All,
    };
    let by = host.now() + Duration::from_secs(args.wait_driver.into());
    // What was planned before somebody else's change is planned again.
    let (lock, mut compared) = loop {
        let lock = session.lock(host)?;
        let compared = Compared::make(&wish, &opened, Seen::UnderLock, session)?;
        if !compared.waits_for_a_driver(about) || host.now() >= by || host.interrupts() > 0 {
            break (lock, compared);
        }
        // Nobody else is kept waiting meanwhile.
        drop(lock);
        host.nap(DRIVER_POLL);
    };
    let lost = if args.yes { Replace::Accepted } else { Replace::Never };
    let mut skipped = Vec::new();
    let one_by_one = args.boot || about != About::All;
    if one_by_one {
        skipped = compared.one_by_one(lost, about);
    } else if let Some(troubles) = compared.refusal(lost) {
        let mut told = Told::of_apply(&compared);
        told.troubles(troubles);
        return Ok(told.print(session));
    } else {
        compared.reconciled.plan.bond_all();
    }
    session.warn_of(&compared.findings);
    session.warn(&compared.not_applied());
    let plan = &compared.reconciled.plan;
    let pace = Pace::AtOnce(args.jobs.unwrap_or(opened.at_once()));
    let Carried { report, changes, operation } =
        session.carry_out(&Order { verb: Does::Apply.as_str(), plan, pace }, &opened, lock)?;
    let mut told = Told::of_apply(&compared);
    let exit = told.carried(&report, changes, operation);
    if exit != Exit::Done {
        let made = Made { does: Does::Apply, inventory: &compared.inventory, wanted: plan, report: &report };
        told.troubles(not_made::troubles(&made, exit));
    } else if plan.steps().next().is_some() {
        // A successful write is a claim.
        let after = Compared::read(&wish, &opened, session)?;
        if !one_by_one {
            told.troubles(compared.not_there(&after));
        }
    }
    told.troubles(skipped);
    let remembered = told.remembered(host.date(), &session.command);
    if let Err(trouble) = remember(&remembered, about, host, session) {
        session.warn(&[Warning::new(
            HostPath::applied(),
            format!("what became of it is not remembered: {}", trouble.message),
        )]);
    }
    if let Err(trouble) = session.save(&opened) {
        told.not_saved(trouble);
    }
    Ok(told.print(session))
}

/// Keeps what became of it, for `status`. What is about one function does not cover what was about all.
fn remember(
    remembered: &Remembered,
    about: About,
    host: &dyn Host,
    session: &mut Session<'_, '_>,
) -> Result<(), Trouble> {
    let directory = HostPath::applied();
    let path = match about {
        About::All => directory.attr("all"),
        About::Early => directory.attr("early"),
        About::Only(bdf) => directory.child(&bdf),
    };
    let text = serde_json::to_string(remembered).unwrap_or_default();
    let lock = session.lock(host)?;
    Ok(lock.hand().keep(&path, Some(&text))?)
}

/// How the host stands, and what became of it at boot.
pub(super) fn run_status(args: &StatusArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let wish = wish(args.file.as_deref(), session)?;
    let opened = session.open(None)?;
    let host = opened.host();
    let mut applied: Vec<Remembered> = Vec::new();
    for name in optional(host.list(&HostPath::applied()))?.unwrap_or_default() {
        let Some(path) = HostPath::applied().entry(&name) else { continue };
        // One of another version is not understood, and is no news.
        applied.extend(optional(host.text(&path))?.and_then(|text| serde_json::from_str(&text).ok()));
    }
    applied.sort_by_key(|applied| applied.date);
    let failed = applied.iter().any(|applied| applied.exit != 0);
    let compared = Compared::read(&wish, &opened, session)?;
    let clean = compared.is_clean();
    Told::of_status(&compared, applied).print(session);
    Ok(if clean && !failed { Exit::Done } else { Exit::Found })
}

/// How often it is looked whether a PF has got its driver.
const DRIVER_POLL: Duration = Duration::from_millis(200);

/// What the host is now, as a host file.
pub(super) fn run_describe(session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let inventory = discover::inventory(host)?;
    session.warn(&inventory.warnings);
    let mut known = Known::default();
    for function in inventory.functions.values() {
        if matches!(function.role, Role::Pf { enabled: 1.., .. }) {
            super::create::read_pf(host, function.bdf, &inventory, &mut known, session)?;
        }
    }
    let (parents, warnings) = discover::sf_parents(host, &inventory, |pf| !known.devlink.contains_key(&pf));
    session.warn(&warnings);
    for parent in parents.iter().filter(|parent| parent.made > 0) {
        known.devlink.extend(discover::devlink(host, parent.function)?.map(|devlink| (parent.function, devlink)));
    }
    known.vgpus = discover::vgpus(host, &inventory, |_| true);
    let file = describe(&inventory, &known);
    if session.json() {
        session.print_json(&serde_json::json!({ "schema": "vfioadm.describe/1", "host": file, "error": null }));
    } else {
        session.print(format_args!("{}", file.to_toml()));
    }
    Ok(Exit::Done)
}

/// The host file that is named, or that of the machine. Every mistake of it is said.
fn wish(file: Option<&Path>, session: &mut Session<'_, '_>) -> Result<Wish, Trouble> {
    let texts = match file {
        Some(file) => vec![config::named(file)?],
        None if session.is_live() => config::of_the_machine()?,
        None => {
            return Err(Trouble::new(Exit::Usage, "bad-host-file", "no host file is named")
                .remedy("name one: the file of this machine is not that of another host"));
        }
    };
    let sources: Vec<Source<'_>> = texts.iter().map(|text| Source { name: &text.name, text: &text.text }).collect();
    read(&sources).map_err(|mistakes| mistaken(&mistakes, session))
}

/// The host file that is named, or that of the machine where there is one.
pub(super) fn optional_wish(file: Option<&Path>, session: &mut Session<'_, '_>) -> Result<Option<Wish>, Trouble> {
    if file.is_none() && !config::is_there() {
        return Ok(None);
    }
    wish(file, session).map(Some)
}

impl From<ConfigError> for Trouble {
    fn from(error: ConfigError) -> Self {
        let message = error.to_string();
        Self::new(Exit::Usage, "bad-host-file", message).state("as it was; nothing was tried").remedy(error.remedy)
    }
}
