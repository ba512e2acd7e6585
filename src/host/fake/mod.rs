//! A kernel in memory: attributes, and reactions to what is written to them.
//!
//! Reads answer from a [tree](Tree) of nodes, so that an attribute that nobody thought of survives being recorded,
//! loaded, changed and saved. Writes go to reactions that do what the kernel's store functions do: each names the
//! function that it imitates and the case of the contract suite that holds it. It is what `--host demo` and `--host
//! FILE` run on.
//!
//! What it is not: it has no time of its own, no processes but those that hold a device, no hardware. A write that would wait for the holder
//! of a device is left behind with `ETIMEDOUT`, as the worker process of a real host is at its deadline, and takes
//! effect when the holder closes.

pub mod build;
pub mod device;
mod driver_core;
pub mod fault;
mod hooks;
mod idxd;
mod iommu;
mod kernel;
pub(crate) mod links;
mod mdev;
mod mdev_attributes;
mod modules;
mod native;
mod probing;
mod processes;
mod snapshot;
mod sriov;
pub mod tree;
pub mod vfio;
mod vgpu;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

pub use device::{Content, DeviceFault};
pub use fault::{Effect, Fault, When, Written};
pub use processes::Process;
pub use snapshot::Snapshot;
pub use tree::{Node, Tree};

use super::record::{self, RecordError};
use super::{
    Begun, Blacklist, Claim, Clock, Device, Held, Host, HostError, HostPath, Lock, LockError, LockHolder, Open, Probe,
    Read, Team, Verb, Way, Write,
};
use crate::model::devlink::{DevlinkHandle, EswitchMode, PortIndex, PortNew, PortSetting};
use crate::model::vf::{NetdevName, VfSetting};
use crate::model::{Bdf, Errno, GroupId, Hook, HookId, ModuleName, VfIndex};
use kernel::Kernel;
use tree::Last;

/// The server that `--host demo` is.
const DEMO: &str = include_str!("../../../tests/hosts/demo.host");

/// Attributes that can be written and not read: opening them for reading is refused.
const WRITE_ONLY: [&str; 17] = [
    "bind",
    "unbind",
    "new_id",
    "remove_id",
    "drivers_probe",
    "remove",
    "reset",
    "sriov_vf_msix_count",
    "create",
    "new_device",
    "del_device",
    "assign_adapter",
    "unassign_adapter",
    "assign_domain",
    "unassign_domain",
    "assign_control_domain",
    "unassign_control_domain",
];

/// A host in memory.
///
/// Its copies are the same host.
#[derive(Clone)]
pub struct FakeHost {
    kernel: Arc<Mutex<Kernel>>,
    locked: Arc<Mutex<Option<LockHolder>>>,
    interrupts: Arc<AtomicUsize>,
}

impl FakeHost {
    /// A host in the state that the tree shows.
    #[must_use]
    pub fn new(tree: Tree) -> Self {
        Self { kernel: Arc::new(Mutex::new(Kernel::new(tree))), locked: Arc::default(), interrupts: Arc::default() }
    }

    /// The built-in server of `--host demo`.
    ///
    /// # Errors
    /// None for the text that this program carries; a test holds it to that.
    pub fn demo() -> Result<Self, RecordError> {
        Self::from_text(DEMO.as_bytes())
    }

    /// A recorded host.
    ///
    /// # Errors
    /// [`RecordError`] with the line that is wrong.
    pub fn from_text(bytes: &[u8]) -> Result<Self, RecordError> {
        record::parse(bytes).map(Self::new)
    }

    /// The host as text, with what the fake kernel knows and does not show, so that it goes on from there when loaded.
    #[must_use]
    pub fn to_text(&self) -> String {
        record::print(&self.kernel().tree)
    }

    /// Adds a fault.
    pub fn fail(&self, fault: Fault) {
        self.kernel().faults.add(fault);
    }

    /// Lets no more writes fail.
    pub fn heal(&self) {
        self.kernel().faults.clear();
    }

    /// Another host in the same state, with nothing open and no faults.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self::new(self.kernel().tree.clone())
    }

    /// Lets a device vanish before the `n`th read from now, from 1.
    pub fn vanish_at_read(&self, n: usize, bdf: Bdf) {
        self.kernel().faults.add_vanish(n, bdf);
    }

    /// Asks whoever works on the host to stop, as a signal does.
    pub fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes the module of a VFIO driver one that can be loaded.
    pub fn install(&self, variant: &dyn vfio::Variant) {
        self.kernel().install(variant);
    }

    /// Lets a device vanish now.
    pub fn vanish(&self, bdf: Bdf) {
        self.kernel().vanish(bdf);
    }

    /// Every write so far, with its answer.
    #[must_use]
    pub fn writes(&self) -> Vec<Written> {
        self.kernel().faults.writes.clone()
    }

    /// What a VFIO driver made of a device; `None` when none has it.
    #[must_use]
    pub fn vdev(&self, bdf: Bdf) -> Option<vfio::Vdev> {
        self.kernel().vdevs.get(&bdf).cloned()
    }

    /// What must be the same when a host is said to be as it was.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.kernel())
    }

    /// Changes the tree from outside the kernel's rules: a test's hand.
    pub fn edit(&self, change: impl FnOnce(&mut Tree)) {
        let mut kernel = self.kernel();
        let mut tree = std::mem::take(&mut kernel.tree);
        change(&mut tree);
        let fresh = Kernel::new(tree);
        kernel.tree = fresh.tree;
        kernel.tables = fresh.tables;
        kernel.vdevs = fresh.vdevs;
        kernel.devices.adopt(fresh.devices);
        kernel.numbers = fresh.numbers;
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        // A test that panicked in `edit` leaves a tree that is still a tree.
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        kernel.end_probes();
        kernel
    }

    fn reading(&self) -> MutexGuard<'_, Kernel> {
        let mut kernel = self.kernel();
        for bdf in kernel.faults.next_read() {
            kernel.vanish(bdf);
        }
        kernel
    }
}

impl std::fmt::Debug for FakeHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeHost").field("functions", &self.kernel().functions().count()).finish_non_exhaustive()
    }
}

/// Looks one node up as a reader does.
fn look<T>(
    host: &FakeHost,
    path: &HostPath,
    last: Last,
    found: impl FnOnce(&Tree, &str) -> Result<T, Errno>,
) -> Result<T, HostError> {
    let kernel = host.reading();
    let answer = kernel.tree.resolve(&path.to_string(), last).and_then(|place| found(&kernel.tree, &place));
    answer.map_err(|errno| HostError::new(Verb::Read, path.clone(), errno))
}

impl Read for FakeHost {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        look(self, path, Last::Follow, |tree, place| match tree.node(place) {
            Some(Node::File(_)) if place.starts_with("/sys/") && is_write_only(place) => Err(Errno::EACCES),
            Some(Node::File(bytes)) => Ok(bytes.clone()),
            Some(Node::Dir(_)) => Err(Errno::EISDIR),
            Some(Node::Link(_)) | None => Err(Errno::ENOENT),
        })
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        look(self, path, Last::Keep, |tree, place| tree.link(place).map(str::to_owned).ok_or(Errno::EINVAL))
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        look(self, path, Last::Follow, |tree, place| match tree.node(place) {
            Some(Node::Dir(dir)) => Ok(dir.nodes.keys().cloned().collect()),
            Some(_) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        })
    }
}

fn is_write_only(place: &str) -> bool {
    place.rsplit('/').next().is_some_and(|name| WRITE_ONLY.contains(&name))
}

/// The right to write, while it is held.
struct FakeLock<'a> {
    host: &'a FakeHost,
}

impl Drop for FakeLock<'_> {
    fn drop(&mut self) {
        *self.host.locked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Lock for FakeLock<'_> {
    fn hand(&self) -> Box<dyn Write + Send + '_> {
        Box::new(FakeHand { host: self.host })
    }

    /// One: nothing is done sooner by two, and each run is like the last.
    fn teams(&self, count: usize) -> Vec<Box<dyn Team + '_>> {
        vec![Box::new(FakeTeam((0..count).map(|_| FakeHand { host: self.host }).collect(), self.host))]
    }
}

/// All hands.
struct FakeTeam<'a>(Vec<FakeHand<'a>>, &'a FakeHost);

impl Team for FakeTeam<'_> {
    fn hands(&self) -> Vec<&dyn Write> {
        self.0.iter().map(|hand| hand as &dyn Write).collect()
    }

    /// No write waits here.
    fn wait(&self, length: Duration) -> Vec<usize> {
        self.1.nap(length);
        Vec::new()
    }
}

/// One hand.
struct FakeHand<'a> {
    host: &'a FakeHost,
}

impl FakeHand<'_> {
    /// Does what was asked, under the faults that were ordered.
    fn act<T>(
        &self,
        path: &HostPath,
        value: &str,
        what: impl FnOnce(&mut Kernel) -> Result<T, (Errno, String)>,
    ) -> Result<T, (Errno, String)> {
        let mut kernel = self.host.kernel();
        let answer = match kernel.faults.next_write(path) {
            None => what(&mut kernel),
            Some(fault) => {
                if fault.effect == Effect::Done {
                    // Its own answer is lost, as the fault says.
                    drop(what(&mut kernel));
                }
                Err((fault.errno, String::new()))
            }
        };
        let errno = answer.as_ref().err().map(|(errno, _)| *errno);
        kernel.faults.writes.push(Written { path: path.clone(), value: value.to_owned(), answer: errno });
        answer
    }
}

impl Read for FakeHand<'_> {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        self.host.read(path)
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        self.host.link(path)
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        self.host.list(path)
    }
}

impl Write for FakeHand<'_> {
    fn worker(&self, _path: &HostPath) -> Result<Option<u32>, HostError> {
        Ok(None)
    }

    fn write(&self, path: &HostPath, value: &str) -> Result<(), HostError> {
        let place = path.to_string();
        let mut verb = Verb::Write;
        let answer = self.act(path, value, |kernel| {
            let stored = kernel.store(&place, value);
            if stored == Err(Errno::ETIMEDOUT) {
                verb = Verb::Wait;
            }
            stored.map_err(|errno| (errno, String::new()))
        });
        answer.map_err(|(errno, _)| HostError::new(verb, path.clone(), errno).with_value(value))
    }

    fn keep(&self, path: &HostPath, content: Option<&str>) -> Result<(), HostError> {
        let (place, value) = (path.to_string(), content.unwrap_or_default());
        let kept = self.act(path, value, |kernel| {
            match content {
                Some(content) => kernel.tree.put_text(&place, content),
                None => drop(kernel.tree.remove(&place)),
            }
            Ok(())
        });
        kept.map_err(|(errno, _)| HostError::new(Verb::Write, path.clone(), errno).with_value(value))
    }

    fn load_module(&self, module: &ModuleName, blacklist: Blacklist) -> Result<(), HostError> {
        let path = HostPath::module(module);
        self.act(&path, "load", |kernel| kernel.load_module(module.as_str(), blacklist))
            .map_err(|(errno, said)| HostError::new(Verb::Load, path.clone(), errno).with_value(&said))
    }

    fn begin_hook(&self, hook: &Hook, vf: Bdf) -> Begun {
        if let Err(error) = self.host.hook(hook.id) {
            return Begun::Done(Err(error));
        }
        let path = HostPath::hook(hook.id).attr(hook.way.as_str());
        let ran = self.act(&path, &vf.to_string(), |kernel| kernel.run_hook(hook, vf));
        let refused = |(errno, said): (Errno, String)| {
            HostError::new(Verb::Run, path.clone(), errno).with_value(&vf.to_string()).with_said(&said)
        };
        Begun::Done(ran.map_err(refused))
    }

    fn set_vf(&self, netdev: &NetdevName, index: VfIndex, setting: VfSetting) -> Result<(), HostError> {
        self.ask_vf(netdev, index, setting)
    }

    fn set_eswitch_mode(&self, handle: &DevlinkHandle, mode: EswitchMode) -> Result<(), HostError> {
        self.ask_eswitch(handle, mode)
    }

    fn set_port(&self, handle: &DevlinkHandle, port: PortIndex, setting: PortSetting) -> Result<(), HostError> {
        self.ask_port(handle, port, setting)
    }

    fn add_port(&self, handle: &DevlinkHandle, port: PortNew) -> Result<PortIndex, HostError> {
        self.ask_new_port(handle, port)
    }

    fn del_port(&self, handle: &DevlinkHandle, port: PortIndex) -> Result<(), HostError> {
        self.ask_del_port(handle, port)
    }
}

/// Something open on a fake host.
struct FakeHeld {
    kernel: Arc<Mutex<Kernel>>,
    number: u64,
    node: HostPath,
}

impl Held for FakeHeld {
    fn viable(&self) -> Result<Option<bool>, HostError> {
        let answer = self.kernel.lock().unwrap_or_else(PoisonError::into_inner).viable(self.number);
        answer.map_err(|errno| HostError::new(Verb::Ioctl("VFIO_GROUP_GET_STATUS"), self.node.clone(), errno))
    }
}

impl Drop for FakeHeld {
    fn drop(&mut self) {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        kernel.close(self.number);
        kernel.finish();
    }
}

impl Probe for FakeHost {
    fn open(&self, what: &Open) -> Result<Box<dyn Held>, HostError> {
        self.hold_as(&Process::own(), what)
    }

    fn open_device(&self, way: &Way, token: Option<Uuid>) -> Result<Box<dyn Device>, HostError> {
        self.open_fake_device(way, token)
    }
}

impl FakeHost {
    /// Opens as another process does: a test's hand.
    ///
    /// # Errors
    /// As [`Probe::open`].
    pub fn hold_as(&self, process: &Process, what: &Open) -> Result<Box<dyn Held>, HostError> {
        let number = self.kernel().open(what, process);
        match number {
            Ok(number) => Ok(Box::new(FakeHeld { kernel: Arc::clone(&self.kernel), number, node: node_of(what) })),
            Err(errno) => Err(HostError::new(Verb::Open, node_of(what), errno)),
        }
    }
}

fn node_of(what: &Open) -> HostPath {
    let group = |id: &GroupId| HostPath::group_node(*id);
    match what {
        Open::Group(id) | Open::Container(id) | Open::GroupDevice(id, _) => group(id),
        Open::Cdev(name) | Open::BoundCdev(name) => HostPath::cdev(name),
    }
}

impl Clock for FakeHost {
    fn now(&self) -> Duration {
        self.kernel().now
    }

    fn nap(&self, length: Duration) {
        self.kernel().now += length;
    }

    /// 2026-01-01 00:00 UTC when the host was made.
    fn date(&self) -> Duration {
        Duration::from_secs(1_767_225_600) + self.kernel().now
    }
}

impl Host for FakeHost {
    fn lock(&self, claim: &Claim) -> Result<Box<dyn Lock + '_>, LockError> {
        let mut locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = locked.as_ref() {
            let held = claim.since.saturating_sub(holder.claim.since);
            return Err(LockError::Held(Some(LockHolder { held, ..holder.clone() })));
        }
        *locked = Some(LockHolder { pid: std::process::id(), claim: claim.clone(), held: Duration::ZERO });
        Ok(Box::new(FakeLock { host: self }))
    }

    fn hook(&self, id: HookId) -> Result<bool, HostError> {
        self.kernel().hook(id)
    }

    fn interrupts(&self) -> usize {
        self.interrupts.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests;
