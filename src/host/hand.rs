//! A hand on the real host: it reads where it works, writes, and has a worker write what may wait for a holder.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;

use super::files::{keep_below, names_in, read_all, write_once};
use super::linux::Linux;
use super::near::Near;
use super::path::Root;
use super::signals::Signals;
use super::wait::{Answers, HASTE, Patience};
use super::worker::{self, Crew, Refusal, Worker};
use super::{Begun, Blacklist, Clock, HostError, HostPath, Links, Read, Verb, Write, hook, modprobe, netlink};
use crate::model::devlink::{DevlinkHandle, DevlinkPort, EswitchMode, PortIndex, PortNew, PortSetting};
use crate::model::vf::{NetdevName, VfList, VfSetting};
use crate::model::{Bdf, Errno, Hook, ModuleName, VfIndex};

/// Where the answers come of a hand that does not wait for each, and its place there.
pub(super) struct Listens {
    pub(super) answers: Arc<Answers>,
    pub(super) place: usize,
}

/// One hand.
pub(super) struct Hand<'a> {
    host: &'a Linux,
    crew: &'a Crew,
    listens: Option<Listens>,
    /// Where it works.
    near: Near,
    /// Kept from one write to the next.
    worker: Mutex<Option<Worker>>,
    /// The write that a worker is at.
    pending: Mutex<Option<Pending>>,
    /// The hook that runs.
    hook: Mutex<Option<(hook::Running, Due)>>,
}

impl<'a> Hand<'a> {
    /// A hand whose workers are of `crew`; one that does not listen waits for each.
    pub(super) fn new(host: &'a Linux, crew: &'a Crew, listens: Option<Listens>) -> Self {
        let (near, worker, pending, hook) = (Near::default(), Mutex::new(None), Mutex::new(None), Mutex::new(None));
        Self { host, crew, listens, near, worker, pending, hook }
    }
}

impl Hand<'_> {
    fn write_directly(&self, path: &HostPath, value: &str) -> Result<(), Refusal> {
        let refused = |verb| move |errno| Refusal { verb, errno };
        let Some(opened) = self.near.open(self.host, path, OFlags::WRONLY) else {
            return self.host.write_directly(path, value);
        };
        let file = opened.map_err(refused(Verb::Open))?;
        write_once(&file, value).map_err(refused(Verb::Write))
    }

    /// This hand's worker, if it is there, or another.
    fn take_worker(&self, kept: &mut Option<Worker>) -> Result<Worker, HostError> {
        kept.take().and_then(Worker::if_there).map_or_else(|| self.employ(), Ok)
    }

    fn employ(&self) -> Result<Worker, HostError> {
        let refused = |errno| HostError::new(Verb::Start, HostPath::fixed(Root::Proc, "self/exe"), errno);
        let worker = self.crew.worker().map_err(refused)?;
        if let Some(Listens { answers, place }) = &self.listens {
            answers.hear(&worker, *place).map_err(refused)?;
        }
        Ok(worker)
    }

    /// Asks a worker to write. When even that fails nothing was written.
    fn ask_worker(&self, path: &HostPath, value: &str, deadline: Duration) -> Result<Pending, HostError> {
        let mut kept = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it is there was asked when its name was written down.
        let worker = kept.take().map_or_else(|| self.employ(), Ok)?;
        let gone = |errno| refused(path, value, Refusal { verb: Verb::Write, errno });
        worker.ask(path, value).map_err(gone)?;
        Ok(Pending { worker, path: path.clone(), value: value.to_owned(), due: Due::after(deadline, self.host) })
    }

    /// What came of it; a worker that has answered is kept, and one that has not is left behind.
    fn settle(
        &self,
        Pending { worker, path, value, .. }: Pending,
        answer: Result<Result<(), Refusal>, Errno>,
    ) -> Result<(), HostError> {
        let unanswered =
            |errno| Refusal { verb: if errno == Errno::ETIMEDOUT { Verb::Wait } else { Verb::Write }, errno };
        match &answer {
            Ok(_) => *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker),
            Err(_) => self.crew.leave_behind(worker),
        }
        answer.map_err(unanswered).and_then(|answer| answer).map_err(|refusal| refused(&path, &value, refusal))
    }
}

/// A write that a worker is at.
#[derive(Debug)]
struct Pending {
    worker: Worker,
    path: HostPath,
    value: String,
    /// When it is left behind.
    due: Due,
}

/// When something that was begun has to have ended.
#[derive(Debug)]
struct Due {
    at: Duration,
    /// How many signals were known when it began.
    known: usize,
}

impl Due {
    fn after(length: Duration, host: &Linux) -> Self {
        Self { at: host.now() + length, known: host.signals.get().map_or(0, Signals::told) }
    }

    /// Whether it is. A first signal that came meanwhile leaves five seconds, one that was known before does not, for what is
    /// done now takes back; a second one ends the wait.
    fn is_over(&mut self, host: &Linux) -> bool {
        let now = host.now();
        let count = host.signals.get().map_or(0, Signals::count);
        if count > self.known {
            self.known = count;
            self.at = self.at.min(now + HASTE);
        }
        count > 1 || now >= self.at
    }
}

/// A write that the kernel refused.
fn refused(path: &HostPath, value: &str, refusal: Refusal) -> HostError {
    HostError::new(refusal.verb, path.clone(), refusal.errno).with_value(value)
}

impl Read for Hand<'_> {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        let Some(opened) = self.near.open(self.host, path, OFlags::RDONLY) else { return self.host.read(path) };
        let read = opened.and_then(|file| read_all(&file, path.root()));
        read.map_err(|errno| HostError::new(Verb::Read, path.clone(), errno))
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        match self.near.link(self.host, path) {
            Some(target) => target.map_err(|errno| HostError::new(Verb::Read, path.clone(), errno)),
            None => self.host.link(path),
        }
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Some(opened) = self.near.open(self.host, path, flags) else { return self.host.list(path) };
        opened.and_then(names_in).map_err(|errno| HostError::new(Verb::Read, path.clone(), errno))
    }
}

impl Links for Hand<'_> {
    fn vf_attributes(&self, netdev: &NetdevName) -> Result<VfList, HostError> {
        netlink::vf_attributes(netdev)
    }

    fn devlink_handles(&self) -> Result<Vec<DevlinkHandle>, HostError> {
        netlink::devlink_handles()
    }

    fn devlink_ports(&self, handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, HostError> {
        netlink::devlink_ports(handle)
    }

    fn eswitch_mode(&self, handle: &DevlinkHandle) -> Result<Option<EswitchMode>, HostError> {
        netlink::eswitch_mode(handle)
    }
}

impl Write for Hand<'_> {
    fn worker(&self, path: &HostPath) -> Result<Option<u32>, HostError> {
        if !self.host.workers || worker::deadline(path).is_none() {
            return Ok(None);
        }
        let mut kept = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = self.take_worker(&mut kept)?;
        let thread = worker.thread();
        *kept = Some(worker);
        Ok(Some(thread))
    }

    fn write(&self, path: &HostPath, value: &str) -> Result<(), HostError> {
        match worker::deadline(path).filter(|_| self.host.workers) {
            Some(deadline) => {
                let pending = self.ask_worker(path, value, deadline)?;
                let answer = pending.worker.wait(&Patience::with(deadline, self.host.signals.get()));
                self.settle(pending, answer)
            }
            None => self.write_directly(path, value).map_err(|refusal| refused(path, value, refusal)),
        }
    }

    fn begin(&self, path: &HostPath, value: &str) -> Begun {
        let Some(deadline) = worker::deadline(path).filter(|_| self.host.workers && self.listens.is_some()) else {
            return Begun::Done(self.write(path, value));
        };
        match self.ask_worker(path, value, deadline) {
            Ok(pending) => {
                *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(pending);
                Begun::Waits
            }
            Err(error) => Begun::Done(Err(error)),
        }
    }

    fn answer(&self) -> Option<Result<(), HostError>> {
        let mut hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((running, due)) = hook.as_mut() {
            let answer = running.answer(|| due.is_over(self.host));
            if answer.is_some() {
                *hook = None;
            }
            return answer;
        }
        drop(hook);
        let mut kept = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match kept.as_mut()?.worker.answer() {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) if !kept.as_mut()?.due.is_over(self.host) => return None,
            Ok(None) => Err(Errno::ETIMEDOUT),
            Err(errno) => Err(errno),
        };
        kept.take().map(|pending| self.settle(pending, answer))
    }

    fn keep(&self, path: &HostPath, content: Option<&str>) -> Result<(), HostError> {
        let kept = self.host.root(path.root()).and_then(|root| keep_below(root, path.rest(), content));
        kept.map_err(|errno| HostError::new(Verb::Write, path.clone(), errno).with_value(content.unwrap_or_default()))
    }

    fn load_module(&self, module: &ModuleName, blacklist: Blacklist) -> Result<(), HostError> {
        modprobe::load(self.host, self.host.signals.get(), module, blacklist)
    }

    fn begin_hook(&self, hook: &Hook, vf: Bdf) -> Begun {
        let heard = |running: &hook::Running| match &self.listens {
            Some(Listens { answers, place }) => answers.hear(running, *place),
            // It is asked for now and then.
            None => Ok(()),
        };
        let started = hook::top().and_then(|top| hook::Running::start(top.as_fd(), hook, vf));
        let started = started.and_then(|running| match heard(&running) {
            Ok(()) => Ok(running),
            Err(errno) => Err(HostError::new(Verb::Start, HostPath::hook(hook.id), errno)),
        });
        match started {
            Ok(running) => {
                let due = Due::after(hook::DEADLINE, self.host);
                *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some((running, due));
                Begun::Waits
            }
            Err(error) => Begun::Done(Err(error)),
        }
    }

    fn set_vf(&self, netdev: &NetdevName, index: VfIndex, setting: VfSetting) -> Result<(), HostError> {
        netlink::set_vf(netdev, index, setting)
    }

    fn set_eswitch_mode(&self, handle: &DevlinkHandle, mode: EswitchMode) -> Result<(), HostError> {
        netlink::set_eswitch_mode(handle, mode)
    }

    fn set_port(&self, handle: &DevlinkHandle, port: PortIndex, setting: PortSetting) -> Result<(), HostError> {
        netlink::set_port(handle, port, setting)
    }

    fn add_port(&self, handle: &DevlinkHandle, port: PortNew) -> Result<PortIndex, HostError> {
        netlink::add_port(handle, port)
    }

    fn del_port(&self, handle: &DevlinkHandle, port: PortIndex) -> Result<(), HostError> {
        netlink::del_port(handle, port)
    }
}
