//! `vfioadm create` and `vfioadm destroy`: functions made, set, bound and verified in one act, and unmade.

mod queues;
mod subfunctions;
mod vgpus;
mod wish;

use std::collections::{BTreeMap, BTreeSet};

use super::args::{CreateArgs, DestroyArgs};
use super::carry::{Carried, Order};
use super::made::{Does, Made, Outcome};
use super::open::Opened;
use super::past::Seen;
use super::report::{Exit, Trouble};
use super::taken::{self, Before};
use super::{Session, dry_run, hooks};
use crate::check::{Finding, FindingId, Unfinished, left_halfway, refusals};
use crate::discover;
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::engine::{self, Pace};
use crate::host::path::Root;
use crate::host::{Host, HostPath, optional, pf_netdev};
use crate::model::{Address, Bdf, DriverName, Inventory, Parent, Role, Target, Warning, counted};
use crate::plan::create::{self, CreateError, Known, MdevWish, Replace, VfEach, VfWish};
use crate::plan::eswitch::EswitchError;
use crate::plan::parameters::{KEYS, ParameterError, Parameters};
use crate::plan::{self, Fallback, Wanted};
use crate::step::{Plan, Unsupported};
use uuid::Uuid;
use wish::Wish;

pub(super) fn run_create(args: &CreateArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let wish = Wish::read(args)?;
    let opened = session.open(None)?;
    let prepare = |session: &mut Session<'_, '_>, seen| {
        let mut prepared = Prepared::read((&args.parents, args.uuid), &opened, seen, session)?;
        let plan = match &wish {
            Wish::Vfs(parameters) => vfs(args, parameters.clone(), &mut prepared, &opened, session)?,
            Wish::Mdevs(kind, parameters) => {
                if let Some(key) = parameters.first_key() {
                    return Err(unsupported(key, &format!("an mdev of type {kind}")));
                }
                create::mdevs(&mdev_wishes(args, kind, &prepared)?, &prepared.inventory)?
            }
            Wish::Queues(parameters) => queues::plan(args, parameters, &prepared, opened.host())?,
            Wish::Subfunctions(wish) => subfunctions::plan(wish, &prepared, opened.host())?,
            Wish::Vgpus(id) => vgpus::plan(args, *id, &prepared, opened.host())?,
        };
        Ok((prepared, plan))
    };
    let way = Way { does: Does::Create, allow: &args.allow, dry_run: args.dry_run, jobs: args.jobs };
    act(&way, &opened, prepare, session)
}

pub(super) fn run_destroy(args: &DestroyArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let prepare = |session: &mut Session<'_, '_>, seen| {
        let (inventory, addresses) = session.resolve(opened.host(), &args.devices)?;
        let (mut vfs, mut mdevs, mut queues) = (Vec::new(), Vec::new(), Vec::new());
        let (mut sfs, mut vgpus) = (Vec::new(), Vec::new());
        let makes_vgpus = |bdf: &Bdf| inventory.functions.get(bdf).is_some_and(|function| function.vendor_vgpu);
        for address in &addresses {
            match address {
                Address::Pci(bdf) if makes_vgpus(bdf) => vgpus.push(*bdf),
                Address::Pci(bdf) => vfs.push(*bdf),
                Address::Sf { pf, sfnum } => sfs.push((*pf, *sfnum)),
                Address::Mdev(uuid) => mdevs.push(*uuid),
                Address::Wq(name) => queues.push(name.clone()),
                other => {
                    let message = format!("{other} is on the {} bus, where vfioadm cannot destroy yet", other.bus());
                    return Err(Trouble::new(Exit::Failed, "bus-not-supported", message).state("as it was"));
                }
            }
        }
        let of_pf = vfs.iter().chain(&vgpus).filter_map(|vf| inventory.functions.get(vf)).filter_map(|vf| vf.pf());
        let pfs = of_pf.chain(sfs.iter().map(|(pf, _)| *pf)).map(Target::Pci);
        let subjects = pfs.chain(mdevs.iter().copied().map(Target::Mdev)).collect();
        let parents = queues::parents(&queues, &inventory);
        let mut prepared = Prepared::of((inventory, parents), subjects, &opened, seen, session)?;
        let functions = vfs.iter().filter_map(|vf| prepared.inventory.functions.get(vf));
        prepared.known.hooks = hooks::run(opened.host(), functions)?;
        let mut plan = create::destroy(&vfs, &mdevs, &prepared.inventory, &prepared.known)?;
        plan::queues::unmake(&queues, &prepared.inventory, &mut plan)?;
        subfunctions::tell_kept(&plan, &prepared.known, session);
        subfunctions::unmake(&sfs, opened.host(), &mut plan)?;
        vgpus::unmake(&vgpus, &prepared.inventory, opened.host(), &mut plan)?;
        plan.bond_all();
        Ok((prepared, plan))
    };
    let way = Way { does: Does::Destroy, allow: &args.allow, dry_run: args.dry_run, jobs: args.jobs };
    act(&way, &opened, prepare, session)
}

/// How a verb goes about it.
struct Way<'a> {
    does: Does,
    /// The findings that it is done in spite of.
    allow: &'a [FindingId],
    dry_run: bool,
    jobs: Option<std::num::NonZeroUsize>,
}

/// Looks, plans and acts, under one lock.
fn act(
    way: &Way<'_>,
    opened: &Opened,
    prepare: impl Fn(&mut Session<'_, '_>, Seen) -> Result<(Prepared, Plan), Trouble>,
    session: &mut Session<'_, '_>,
) -> Result<Exit, Trouble> {
    let host = opened.host();
    if way.dry_run {
        let (prepared, plan) = prepare(session, Seen::InPassing)?;
        let findings = prepared.judge(&plan, host, session);
        let outcome = Outcome::of_refusals(way.does, &findings, way.allow);
        let outcome = outcome.unwrap_or_else(|| Outcome::of_plan(way.does, dry_run::lines(&plan, host)));
        return Ok(outcome.with(&findings).print(session));
    }
    let lock = session.lock(host)?;
    let (prepared, plan) = prepare(session, Seen::UnderLock)?;
    let findings = prepared.judge(&plan, host, session);
    if let Some(refused) = Outcome::of_refusals(way.does, &findings, way.allow) {
        return Ok(refused.with(&findings).print(session));
    }
    let pace = Pace::AtOnce(way.jobs.unwrap_or(opened.at_once()));
    let carried = session.carry_out(&Order { verb: way.does.as_str(), plan: &plan, pace }, opened, lock)?;
    let Carried { report, changes, operation } = carried;
    let made = Made { does: way.does, inventory: &prepared.inventory, wanted: &plan, report: &report };
    let mut outcome = Outcome::of_report(&made, host).with(&findings);
    outcome.changes = changes;
    outcome.operation = operation;
    if let Err(trouble) = session.save(opened) {
        outcome.not_saved(trouble);
    }
    Ok(outcome.print(session))
}

/// Everything that was read.
struct Prepared {
    inventory: Inventory,
    parents: Vec<Parent>,
    known: Known,
    /// The devices that an operation left halfway.
    unfinished: BTreeMap<Target, Unfinished>,
}

impl Prepared {
    fn read(
        (parents, uuid): (&[crate::model::DeviceRef], Option<Uuid>),
        opened: &Opened,
        seen: Seen,
        session: &mut Session<'_, '_>,
    ) -> Result<Self, Trouble> {
        let inventory = session.read_inventory(opened.host(), parents)?;
        let mut found: Vec<Parent> = Vec::new();
        for parent in parents {
            let parent = parent.resolve_parent(&inventory)?;
            if !found.contains(&parent) {
                found.push(parent);
            }
        }
        // A VF is told of by its PF.
        let of = |bdf: Bdf| inventory.functions.get(&bdf).and_then(|function| function.pf()).into_iter().chain([bdf]);
        let mut subjects: Vec<Target> = uuid.map(Target::Mdev).into_iter().collect();
        subjects.extend(found.iter().flat_map(|parent| match parent {
            Parent::Pci(bdf) => of(*bdf).map(Target::Pci).collect(),
            Parent::Mdev(_) | Parent::Idxd(_) => Vec::new(),
        }));
        Self::of((inventory, found), subjects, opened, seen, session)
    }

    /// What is known of PFs beside the inventory. A subject that an operation left halfway is that operation's.
    fn of(
        (inventory, parents): (Inventory, Vec<Parent>),
        subjects: Vec<Target>,
        opened: &Opened,
        seen: Seen,
        session: &mut Session<'_, '_>,
    ) -> Result<Self, Trouble> {
        let host = opened.host();
        let unfinished = session.left_halfway(opened, seen);
        if let Some((target, unfinished)) = taken::halfway(&subjects, &unfinished) {
            return Err(Trouble::from(&left_halfway(target, unfinished)));
        }
        let mut known = Known::default();
        for parent in &parents {
            if let Some(target) = unfinished.keys().find(|target| queues::is_of(**target, parent)) {
                return Err(Trouble::from(&left_halfway(*target, &unfinished[target])));
            }
        }
        for pf in subjects.iter().filter_map(|target| target.pci()) {
            read_pf(host, pf, &inventory, &mut known, session)?;
        }
        known.machine = machine(host)?;
        Ok(Self { inventory, parents, known, unfinished })
    }

    /// The parents, of which `kind` can be made only where they are PCI functions.
    fn pfs(&self, kind: &str) -> Result<Vec<Bdf>, Trouble> {
        let pf = |parent: &Parent| match parent {
            Parent::Pci(bdf) => Ok(*bdf),
            other => Err(not_a_parent(&other.to_string(), kind)),
        };
        self.parents.iter().map(pf).collect()
    }

    fn before(&self) -> Before<'_> {
        Before { inventory: &self.inventory, unfinished: &self.unfinished }
    }

    /// What is found of everything that `plan` takes away, said where it stops nothing.
    fn judge(&self, plan: &Plan, host: &dyn Host, session: &mut Session<'_, '_>) -> Vec<Finding> {
        let findings = self.before().judge(plan, host, session);
        session.warn_of(&findings);
        findings
    }
}

/// Refuses a PF without a network interface when parameter `key` is set through it.
pub(super) fn needs_netdev(host: &dyn Host, pf: Bdf, key: Option<&str>) -> Result<(), Trouble> {
    let Some(key) = key else { return Ok(()) };
    if pf_netdev(host, pf)?.is_some() {
        return Ok(());
    }
    let message = format!("{pf} has no network interface, and {key} is set through it");
    Err(Trouble::new(Exit::Failed, "parameter-unsupported", message)
        .state("as it was; nothing was tried")
        .remedy(format!("leave {key} out, or have what cannot be set skipped: --best-effort")))
}

/// `/etc/machine-id`; empty without one.
pub(super) fn machine(host: &dyn Host) -> Result<String, Trouble> {
    Ok(optional(host.text(&HostPath::fixed(Root::Etc, "machine-id")))?.unwrap_or_default())
}

/// What a PF tells of its VFs, and vfioadm remembers.
pub(super) fn read_pf(
    host: &dyn Host,
    pf: Bdf,
    inventory: &Inventory,
    known: &mut Known,
    session: &mut Session<'_, '_>,
) -> Result<(), Trouble> {
    let Some(function) = inventory.functions.get(&pf) else { return Ok(()) };
    let Role::Pf { enabled, .. } = function.role else { return Ok(()) };
    if let Some(pool) = engine::pool(host, pf)? {
        if pool.vfs == enabled {
            known.pools.insert(pf, pool);
        } else if enabled > 0 {
            let words = format!(
                "it has {}, and vfioadm had left {}: somebody else has made these",
                counted(enabled, "VF"),
                pool.vfs
            );
            session.warn(&[Warning::new(pf, words)]);
        }
    }
    let device = optional(host.text(&HostPath::pci(pf).attr("sriov_vf_device")))?;
    known.vf_devices.extend(device.and_then(|id| u16::from_str_radix(&id, 16).ok()).map(|id| (pf, id)));
    match discover::devlink(host, pf) {
        Ok(devlink) => known.devlink.extend(devlink.map(|devlink| (pf, devlink))),
        Err(error) => {
            session.warn(&[Warning::new(pf, format_args!("what devlink keeps for its VFs is not known ({error})"))]);
        }
    }
    if enabled == 0 {
        return Ok(());
    }
    known.attributes.extend(discover::vf_attributes(host, pf)?);
    Ok(())
}

fn vfs(
    args: &CreateArgs,
    parameters: Parameters,
    prepared: &mut Prepared,
    opened: &Opened,
    session: &mut Session<'_, '_>,
) -> Result<Plan, Trouble> {
    let host = opened.host();
    let pfs = prepared.pfs("vf")?;
    if args.uuid.is_some() {
        return Err(usage("--uuid names an mdev; a VF has its PF's name").remedy("leave it out"));
    }
    parameters.fits(usize::from(args.count) * pfs.len())?;
    let unsupported = if args.best_effort { Unsupported::IsSkipped } else { Unsupported::Fails };
    let key = parameters.first_netdev_key().filter(|_| !args.best_effort);
    let is_pf = |pf: &Bdf| prepared.inventory.functions.get(pf).is_some_and(|of| matches!(of.role, Role::Pf { .. }));
    pfs.iter().filter(|pf| is_pf(pf)).try_for_each(|pf| needs_netdev(host, *pf, key))?;
    let fallback = if args.no_fallback { Fallback::Never } else { Fallback::NextBest };
    let replace = if args.yes { Replace::Accepted } else { Replace::Never };
    let wish = VfWish {
        pfs,
        count: args.count,
        pool: args.pool.unwrap_or(args.count),
        each: VfEach { parameters, wanted: args.driver.clone(), fallback, prefer: Vec::new(), unsupported },
        replace,
    };
    let aliases = create::aliases(&wish.pfs, &prepared.inventory, &prepared.known);
    prepared.known.hooks = hooks::there(host, &aliases)?;
    let drivers: Vec<DriverName> = match &wish.each.wanted {
        Wanted::Named(driver) => vec![driver.clone()],
        _ => Vec::new(),
    };
    let query = Query { devices: &aliases, drivers: &drivers, kernel: Kernel::Running };
    let (tables, warnings) = read_tables(host, &query);
    session.warn(&warnings);
    let planned = create::vfs(&wish, &prepared.inventory, &tables, &prepared.known);
    planned.map_err(|error| with_users(error, prepared, host, session))
}

/// A refusal to destroy VFs, with what the host or a VM does with them.
fn with_users(error: CreateError, prepared: &Prepared, host: &dyn Host, session: &mut Session<'_, '_>) -> Trouble {
    let vfs: BTreeSet<Bdf> = match &error {
        CreateError::NotFree { pf, .. } => prepared.inventory.vfs_of(*pf).map(|vf| vf.bdf).collect(),
        _ => BTreeSet::new(),
    };
    let findings = prepared.before().of_functions(&vfs, host, session);
    let users: Vec<&str> = refusals(&findings, &[]).map(|finding| finding.message.as_str()).collect();
    let mut trouble = Trouble::from(error);
    if !users.is_empty() {
        trouble.message = format!("{}; {}", trouble.message, users.join("; "));
    }
    trouble
}

fn mdev_wishes(args: &CreateArgs, kind: &crate::model::BusName, prepared: &Prepared) -> Result<Vec<MdevWish>, Trouble> {
    let count = usize::from(args.count);
    if args.uuid.is_some() && count * prepared.parents.len() > 1 {
        return Err(usage("--uuid is the name of one mdev, and several are asked for").remedy("leave --count out"));
    }
    if args.pool.is_some() {
        return Err(usage("--pool is of VFs: mdevs are made one by one").remedy("leave it out"));
    }
    let mut wishes = Vec::new();
    for parent in &prepared.parents {
        let name = parent.to_string();
        let of = prepared.inventory.mdev_parents.iter().find(|parent| parent.name.as_str() == name);
        let of = of.ok_or_else(|| not_a_parent(&name, &kind.to_string()))?;
        if !of.types.iter().any(|known| known.id == *kind) {
            let all: Vec<&str> = of.types.iter().map(|known| known.id.as_str()).collect();
            let message = format!("{name} has no mdev type {kind}");
            return Err(Trouble::new(Exit::Failed, "no-such-type", message)
                .state("as it was; nothing was tried")
                .remedy(format!("it has {}", all.join(", "))));
        }
        let uuids = (0..count).map(|_| args.uuid.map_or_else(random_uuid, Ok)).collect::<Result<Vec<Uuid>, _>>()?;
        wishes.push(MdevWish { parent: of.name.clone(), kind: kind.clone(), uuids, attributes: Vec::new() });
    }
    Ok(wishes)
}

/// A UUID of version 4.
fn random_uuid() -> Result<Uuid, Trouble> {
    let mut bytes = [0; 16];
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match drawn {
        Ok(16) => Ok(uuid::Builder::from_random_bytes(bytes).into_uuid()),
        _ => Err(Trouble::new(Exit::Failed, "no-random", "the kernel gave no random number for a UUID")
            .state("as it was; nothing was tried")
            .remedy("choose one yourself: --uuid UUID")),
    }
}

fn usage(message: &str) -> Trouble {
    Trouble::new(Exit::Usage, "usage", message)
}

fn not_a_parent(name: &str, kind: &str) -> Trouble {
    Trouble::new(Exit::Failed, "not-a-parent", format!("nothing of type {kind} can be made of {name}"))
        .state("as it was; nothing was tried")
        .remedy(format!("see what can be: vfioadm types {name}"))
}

fn unsupported(key: &str, what: &str) -> Trouble {
    Trouble::new(Exit::Failed, "parameter-unsupported", format!("{what} has no parameter {key}"))
        .state("as it was; nothing was tried")
        .remedy(format!("leave {key} out"))
}

impl From<ParameterError> for Trouble {
    fn from(error: ParameterError) -> Self {
        bad_parameter(error, &KEYS)
    }
}

/// An assignment that is not taken, of a type that takes those of `keys`.
fn bad_parameter(error: ParameterError, keys: &[(&str, &str)]) -> Trouble {
    let all = || keys.iter().map(|(key, takes)| format!("{key} ({takes})")).collect::<Vec<_>>().join(", ");
    let remedy = match &error {
        ParameterError::UnknownKey(_) => format!("there are {}", all()),
        ParameterError::OneMac { key, .. } => format!("give each one of its own: {key}=auto"),
        ParameterError::TwoAddresses => String::from("give one of both"),
        ParameterError::NeedsVlan(_) => String::from("add --set vlan=ID"),
        _ => String::from("correct the value"),
    };
    Trouble::new(Exit::Usage, "bad-parameter", error).remedy(remedy)
}

impl From<CreateError> for Trouble {
    fn from(error: CreateError) -> Self {
        let message = error.to_string();
        let (id, remedy) = match error {
            CreateError::Plan(error) => return error.into(),
            CreateError::Eswitch(error) => return error.into(),
            CreateError::NotAPf(pf) => ("not-a-parent", format!("see what can be made: vfioadm types {pf}")),
            CreateError::IsAVf { pf, .. } => ("not-a-parent", format!("ask its PF: vfioadm create {pf} vf")),
            CreateError::NoDriver(pf) => ("no-pf-driver", format!("give it its host driver: vfioadm unbind {pf}")),
            CreateError::TooMany { total, .. } => ("too-many", format!("ask for {total} at most")),
            CreateError::SmallPool { .. } => ("too-many", String::from("make --pool as large as --count")),
            CreateError::NotFree { free: 0, .. } => {
                ("needs-yes", String::from("destroy those that nobody needs, or have all of them destroyed: --yes"))
            }
            CreateError::NotFree { free, .. } => {
                ("needs-yes", format!("ask for {free} at most, or have all of them destroyed: --yes"))
            }
            CreateError::NotGiven { vf, .. } => {
                ("not-made-here", format!("give it back to its host driver: vfioadm unbind {vf}"))
            }
            CreateError::NotMade(bdf) => ("not-made-here", format!("give it back: vfioadm unbind {bdf}")),
            CreateError::UuidTaken(_) => ("uuid-taken", String::from("choose another, or let one be drawn")),
            CreateError::NoneLeft { .. } => ("none-left", String::from("see what is left: vfioadm types")),
        };
        Self::new(Exit::Failed, id, message).state("as it was; nothing was tried").remedy(remedy)
    }
}

impl From<EswitchError> for Trouble {
    fn from(error: EswitchError) -> Self {
        let unsupported = "parameter-unsupported";
        let (id, remedy) = match &error {
            EswitchError::NoDevlink { key, .. } | EswitchError::NotReported { key, .. } => {
                (unsupported, format!("leave {key} out"))
            }
            EswitchError::NoEswitch(_) => (unsupported, String::from("leave eswitch and what is set at ports out")),
            EswitchError::NoPorts { .. } => {
                ("not-switchdev", String::from("while it has no VFs: add --set eswitch=switchdev"))
            }
            EswitchError::HasVfs { .. } => (
                "eswitch-with-vfs",
                String::from(
                    "destroy them first, leave eswitch out, or have all of them destroyed: ask for more, with --yes",
                ),
            ),
        };
        Self::new(Exit::Failed, id, error).state("as it was; nothing was tried").remedy(remedy)
    }
}
