//! `vfioadm plan`, `apply`, `verify` and `describe`: the host file, compared and carried out.

mod asked;
mod compare;
mod tell;

use std::path::Path;

use compare::Compared;
use tell::Told;

use super::args::want::{ApplyArgs, PlanArgs, VerifyArgs};
use super::carry::{Carried, Order};
use super::made::{Does, Made};
use super::past::Seen;
use super::report::{Exit, Trouble};
use super::{Session, not_made};
use crate::discover;
use crate::engine::Pace;
use crate::host::config::{self, ConfigError};
use crate::model::Role;
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
    let lock = session.lock(host)?;
    // What was planned before somebody else's change is planned again.
    let mut compared = Compared::make(&wish, &opened, Seen::UnderLock, session)?;
    session.warn_of(&compared.findings);
    let lost = if args.yes { Replace::Accepted } else { Replace::Never };
    let mut skipped = Vec::new();
    if args.boot {
        skipped = compared.one_by_one(lost);
    } else if let Some(troubles) = compared.refusal(lost) {
        let mut told = Told::of_apply(&compared);
        told.troubles(troubles);
        return Ok(told.print(session));
    } else {
        compared.reconciled.plan.bond_all();
    }
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
        if !args.boot {
            told.troubles(compared.not_there(&after));
        }
    }
    told.troubles(skipped);
    if let Err(trouble) = session.save(&opened) {
        told.not_saved(trouble);
    }
    Ok(told.print(session))
}

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
    read(&sources).map_err(|mistakes| tell::mistaken(&mistakes, session))
}

impl From<ConfigError> for Trouble {
    fn from(error: ConfigError) -> Self {
        let message = error.to_string();
        Self::new(Exit::Usage, "bad-host-file", message).state("as it was; nothing was tried").remedy(error.remedy)
    }
}
