//! The power to rebind that `qualify` lends to its cases: what they ask for is planned, judged, written down and done as by `bind`,
//! and taken back when they have looked.

use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use super::check::{Judged, purposes};
use super::narrator::boot_id;
use super::probe::Subject;
use crate::check::{Finding, FindingId, refusals};
use crate::discover;
use crate::discover::tables::{Kernel, Query, read_tables};
use crate::engine::history::{Halfway, prune};
use crate::engine::journal::{Header, Journal};
use crate::engine::{self, LaneResult, Pace, Report, Watch, Work};
use crate::host::ledger::Ledger;
use crate::host::{Claim, Host, Lock};
use crate::model::{Address, Bdf, Errno, Inventory, Target};
use crate::plan::{BindWish, Fallback, Wanted, bind};
use crate::prove::qualify::{Hindrance, Rig, Situation, Who};
use crate::step::WhenOpen;

/// What is found of a PF whose VFs are the cases' own.
const OF_ITS_VFS: [FindingId; 4] =
    [FindingId::VfsEnabled, FindingId::VfsInVms, FindingId::DeviceOpen, FindingId::GroupOpen];

/// The hands of `qualify`.
pub(super) struct Lender<'a> {
    host: &'a dyn Host,
    ledger: &'a Ledger,
    subject: &'a Subject,
    peer: Option<&'a Subject>,
    command: &'a str,
    at_once: NonZeroUsize,
    /// Held from the first situation on until it is over, and all within it.
    lock: RefCell<Option<Rc<dyn Lock + 'a>>>,
    heard: Heard,
    /// Whether something was not taken back.
    left: Cell<bool>,
}

/// Every change, as a line that root could paste.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn add(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

impl Watch for Heard {
    fn change(&self, act: &str, refused: Option<Errno>) {
        self.add(match refused {
            None => act.to_owned(),
            Some(errno) => format!("{act}   # refused: {errno}"),
        });
    }
}

fn unfit(reason: impl ToString) -> Hindrance {
    Hindrance::Unfit(reason.to_string())
}

impl<'a> Lender<'a> {
    pub(super) fn new(
        host: &'a dyn Host,
        ledger: &'a Ledger,
        (subject, peer): (&'a Subject, Option<&'a Subject>),
        (command, at_once): (&'a str, NonZeroUsize),
    ) -> Self {
        let (lock, heard, left) = (RefCell::default(), Heard::default(), Cell::new(false));
        Self { host, ledger, subject, peer, command, at_once, lock, heard, left }
    }

    /// What was changed since it was last asked.
    pub(super) fn changes(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the host is not as it was.
    pub(super) fn has_left_something(&self) -> bool {
        self.left.get()
    }

    /// The function that is meant.
    fn bdf_of(&self, who: Who) -> Result<Bdf, Hindrance> {
        let function = |subject: &Subject| match subject.address {
            Address::Pci(bdf) => Ok(bdf),
            _ => Err(unfit(format!("{} is no PCI function", subject.address))),
        };
        match who {
            Who::Device => function(self.subject),
            Who::Peer => self.peer.map_or_else(|| Err(unfit("it needs a peer: --peer")), function),
            Who::Pf => {
                let bdf = function(self.subject)?;
                self.subject.pf().ok_or_else(|| unfit(format!("{bdf} is no VF")))
            }
        }
    }

    /// That no operation before has left one of the devices halfway.
    fn left_alone(&self) -> Result<(), Hindrance> {
        let boot = boot_id(self.host).map_err(unfit)?;
        let halfway = Halfway::read(self.ledger, boot.as_deref()).map_err(unfit)?;
        let whom = [Who::Device, Who::Pf, Who::Peer].into_iter().filter_map(|who| self.bdf_of(who).ok());
        let mine: Vec<Target> = whom.map(Target::Pci).collect();
        match halfway.operations.iter().find(|(_, devices)| mine.iter().any(|device| devices.contains(device))) {
            Some((operation, _)) => Err(unfit(format!("{} is unfinished: vfioadm undo", operation.id))),
            None => Ok(()),
        }
    }

    /// That the driver of a PF can go without harm to anybody but the devices of the cases.
    fn pf_can_go(&self, pf: Bdf, inventory: &Inventory, findings: &[Finding]) -> Result<(), Hindrance> {
        let driver = inventory.functions.get(&pf).and_then(|function| function.driver.as_ref());
        let Some(driver) = driver else { return Err(unfit(format!("{pf}, its PF, has no driver"))) };
        if !findings.iter().any(|finding| finding.id == FindingId::VfsStay) {
            return Err(unfit(format!("{pf} is on {driver}, which may take its VFs along when it goes")));
        }
        let mine = [Who::Device, Who::Peer].map(|who| self.bdf_of(who).ok());
        let others = inventory.vfs_of(pf).find(|vf| vf.driver.is_some() && !mine.contains(&Some(vf.bdf)));
        others.map_or(Ok(()), |vf| Err(unfit(format!("{} is a VF of {pf} too, which stays as it is", vf.on_driver()))))
    }

    fn lend_locked(&self, situation: Situation, lock: &dyn Lock, look: &mut dyn FnMut()) -> Result<(), Hindrance> {
        let (who, wanted) = match situation {
            Situation::Unbound(who) => (who, Wanted::None),
            Situation::OnDriver(who) => (who, Wanted::Named(self.subject.driver.parse().map_err(unfit)?)),
        };
        let bdf = self.bdf_of(who)?;
        let inventory = discover::inventory(self.host).map_err(unfit)?;
        let Some(function) = inventory.functions.get(&bdf) else { return Err(unfit(format!("{bdf} went away"))) };
        let drivers = match &wanted {
            Wanted::Named(driver) => std::slice::from_ref(driver),
            _ => &[],
        };
        let aliases = [function.alias];
        let (tables, mut warnings) =
            read_tables(self.host, &Query { devices: &aliases, drivers, kernel: Kernel::Running });
        let purposes = purposes(&inventory, &[bdf], &wanted, &tables);
        let (together, unfinished) = ([bdf].into(), std::collections::BTreeMap::new());
        let judged = Judged {
            inventory: &inventory,
            purposes: &purposes,
            together: &together,
            unfinished: &unfinished,
            probe: true,
        };
        let findings = judged.findings(self.host, &mut warnings);
        let allowed = match who {
            Who::Pf => OF_ITS_VFS.to_vec(),
            Who::Device | Who::Peer => vec![FindingId::DriverMismatch],
        };
        if who == Who::Pf {
            self.pf_can_go(bdf, &inventory, &findings)?;
        }
        if let Some(finding) = refusals(&findings, &allowed).next() {
            return Err(unfit(&finding.message));
        }
        let wish = BindWish {
            devices: vec![bdf],
            wanted,
            fallback: Fallback::Never,
            prefer: Vec::new(),
            open: WhenOpen::Refuse,
        };
        let plan = bind(&wish, &inventory, &tables).map_err(unfit)?;
        let header = Header::new(boot_id(self.host).map_err(unfit)?, self.command, self.host.date(), &plan);
        let journal = Journal::begin(self.ledger, "qualify", &header).map_err(unfit)?;
        let pace = Pace::AtOnce(self.at_once);
        let work = Work { host: self.host, lock, journal: &journal, watch: &self.heard, pace };
        let report = engine::lend(&plan, work, look);
        let remains = report.stopped || report.lanes.iter().any(|lane| !lane.remains.is_empty());
        self.left.set(self.left.get() || remains);
        came_to(&report)
    }
}

/// What a situation came to.
fn came_to(report: &Report) -> Result<(), Hindrance> {
    let remains: Vec<&str> = report.lanes.iter().flat_map(|lane| &lane.remains).map(String::as_str).collect();
    if !remains.is_empty() {
        return Err(Hindrance::Stuck(format!("it was not taken back: {}", remains.join("; "))));
    }
    if report.stopped {
        return Err(Hindrance::Stuck("it was not taken back: vfioadm was asked twice to stop".to_owned()));
    }
    if report.interrupts > 0 {
        return Err(unfit("vfioadm was asked to stop"));
    }
    let probed = |lane: &LaneResult| lane.tried.iter().any(|tried| tried.error.is_some());
    match report.lanes.iter().find_map(|lane| Some((lane, lane.error.as_ref()?))) {
        None => Ok(()),
        Some((_, error)) if error.is_load() || error.is_left_behind() => Err(Hindrance::Stuck(error.to_string())),
        Some((lane, error)) if probed(lane) => Err(Hindrance::Refused(error.errno())),
        Some((_, error)) => Err(Hindrance::Stuck(error.to_string())),
    }
}

impl Rig for Lender<'_> {
    fn lend(&self, situation: Situation, look: &mut dyn FnMut()) -> Result<(), Hindrance> {
        let held = self.lock.borrow().clone();
        if let Some(lock) = held {
            return self.lend_locked(situation, lock.as_ref(), look);
        }
        let lock: Rc<dyn Lock> = self.host.lock(&Claim::new(self.command, self.host)).map_err(unfit)?.into();
        self.left_alone()?;
        *self.lock.borrow_mut() = Some(Rc::clone(&lock));
        let ended = self.lend_locked(situation, lock.as_ref(), look);
        self.lock.borrow_mut().take();
        let pruned = boot_id(self.host).map(|boot| prune(self.ledger, boot.as_deref()));
        if let Ok(Err(error)) = pruned {
            self.heard.add(format!("# the oldest operations are not forgotten: {error}"));
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{StepError, Tried};
    use crate::host::{HostError, HostPath, Verb};

    fn report(change: impl FnOnce(&mut LaneResult)) -> Report {
        let mut lane = LaneResult::new(Target::Pci(Bdf::new(0, 0x10, 0, 1).unwrap()), 0);
        change(&mut lane);
        Report { lanes: vec![lane], interrupts: 0, stopped: false, unrecorded: None }
    }

    fn no(verb: Verb) -> StepError {
        StepError::Host(HostError::new(verb, HostPath::pci_drivers(), Errno::ENODEV))
    }

    #[test]
    fn what_a_situation_came_to_is_told() {
        assert_eq!(came_to(&report(|_| {})), Ok(()));
        let refused = report(|lane| {
            lane.tried.push(Tried { driver: "qat_vfio_pci".to_owned(), error: Some(no(Verb::Write)) });
            lane.error = Some(no(Verb::Write));
        });
        assert_eq!(came_to(&refused), Err(Hindrance::Refused(Errno::ENODEV)));
        let not_loaded = report(|lane| lane.error = Some(no(Verb::Load)));
        assert!(matches!(came_to(&not_loaded), Err(Hindrance::Stuck(_))));
        // That it has looked is no comfort to who is left without a driver.
        let left = report(|lane| lane.remains.push("0000:10:00.1 has no driver".to_owned()));
        let words = "it was not taken back: 0000:10:00.1 has no driver".to_owned();
        assert_eq!(came_to(&left), Err(Hindrance::Stuck(words)));
        let asked = Report { interrupts: 1, ..report(|_| {}) };
        assert!(matches!(came_to(&asked), Err(Hindrance::Unfit(_))));
        let stopped = Report { interrupts: 2, stopped: true, ..report(|_| {}) };
        assert!(matches!(came_to(&stopped), Err(Hindrance::Stuck(_))));
    }
}
