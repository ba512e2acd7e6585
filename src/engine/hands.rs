//! One change made: recorded, performed, waited for; and the way back.

use std::time::Duration;

use super::act::{Act, At, Change, bind, directory, refuse_open, set_override, unbind};
use super::journal::{Journal, Record, SettingRow};
use super::setting::{self, TakenBack};
use super::task::{self, Waits};
use super::{Progress, SETTLE, StepError, driver, driver_override, place};
use crate::host::{Clock, HostError, HostPath, Write, through_netdev};
use crate::model::{Bdf, DriverName, Errno, Hook, HookWay, Target};
use crate::step::{Setting, Undo};

/// Hears of what happens to the host, from every lane.
pub trait Watch: Sync {
    /// A change that was made, as a line that root could paste, or that the kernel refused with `refused`.
    fn change(&self, act: &str, refused: Option<Errno>);

    /// Some lanes have ended.
    fn progress(&self, _progress: Progress) {}
}

/// Which way a lane goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To what is wanted.
    Ahead,
    /// To what was.
    Back,
}

/// What one lane's work is done with.
pub(super) struct Hands<'a> {
    pub(super) host: &'a dyn Write,
    pub(super) clock: &'a dyn Clock,
    pub(super) watch: &'a dyn Watch,
    pub(super) journal: &'a Journal,
    pub(super) waits: &'a Waits,
}

impl Hands<'_> {
    /// Writes a change down, then makes it. A `bind` that the kernel defers is asked for again until the deadline.
    ///
    /// On the way ahead a change that cannot be written down is not made. On the way back it is made all the same: how to
    /// take the operation back has been written down already, and a host that is as it was is worth more than its record.
    ///
    /// # Kernel
    /// `drivers/base/dd.c` `device_driver_attach()` turns `EPROBE_DEFER` into `EAGAIN`, and answers so for a device that is
    /// still being made (7.2).
    pub(super) async fn make(&self, device: Target, change: &Change, way: Way) -> Result<(), StepError> {
        let act = &change.act;
        let worker = match act {
            Act::Write { path, .. } => self.host.worker(path)?,
            Act::SetVf { .. } | Act::Keep { .. } | Act::Hook { .. } | Act::Devlink(_) | Act::Load { .. } => None,
        };
        let record = Record {
            at: self.clock.now().into(),
            device,
            act: act.to_string(),
            was: change.undo.as_ref().map(|undo| SettingRow::from(&undo.was)),
            makes: change.makes.as_ref().map(SettingRow::from),
            worker,
            back: way == Way::Back,
        };
        match (self.journal.record(&record), way) {
            (Err(error), Way::Ahead) => return Err(error),
            (Err(_), Way::Back) | (Ok(()), _) => {}
        }
        let mut by = None;
        loop {
            let done = match act {
                Act::Write { path, value, .. } => task::write(self.host, path, value).await,
                Act::SetVf { pf, netdev, index, to, .. } => {
                    through_netdev(self.host, *pf, netdev, |netdev| self.host.set_vf(netdev, *index, *to))
                }
                Act::Keep { path, content, .. } => self.host.keep(path, content.as_deref()),
                Act::Hook { hook, vf } => self.run_hook(hook, *vf).await,
                Act::Devlink(request) => request.make(self.host),
                Act::Load { module, blacklist } => self.host.load_module(module, *blacklist),
            };
            self.watch.change(&record.act, done.as_ref().err().map(|error| error.errno));
            match done {
                Err(HostError { errno: Errno::EAGAIN, .. }) if act.is_bind() && self.is_before(&mut by) => {
                    self.nap(Duration::from_millis(50)).await;
                }
                other => return other.map_err(|error| setting::explained(self.host, error).into()),
            }
        }
    }

    /// Runs a hook. That it was is remembered from before `set` until after `undo`, so that `undo` is run where there may be
    /// something to take back, and nowhere else.
    async fn run_hook(&self, hook: &Hook, vf: Bdf) -> Result<(), HostError> {
        let note = HostPath::hooked(hook.pf, hook.index);
        if hook.way == HookWay::Set {
            self.host.keep(&note, Some(&hook.note()))?;
        }
        task::hook(self.host, hook, vf).await?;
        if hook.way == HookWay::Undo {
            self.host.keep(&note, None)?;
        }
        Ok(())
    }

    /// Lets time pass, for this lane alone.
    async fn nap(&self, length: Duration) {
        task::nap(self.clock, self.waits, length).await;
    }

    /// Whether there is time left until the deadline, which begins to run when it is first asked for: what comes at once
    /// costs no look at the clock.
    fn is_before(&self, by: &mut Option<Duration>) -> bool {
        let now = self.clock.now();
        now < *by.get_or_insert(now + SETTLE)
    }

    /// Waits until `device` shows `wanted` as its driver.
    pub(super) async fn settle_driver(&self, device: Bdf, wanted: Option<&DriverName>) -> Result<(), StepError> {
        let mut by = None;
        let mut pause = Duration::from_millis(1);
        loop {
            let shown = driver(self.host, device)?;
            if shown.as_ref() == wanted {
                return Ok(());
            }
            if !self.is_before(&mut by) {
                let name =
                    |driver: Option<&DriverName>| driver.map_or_else(|| "no driver".to_owned(), ToString::to_string);
                let path = HostPath::pci(device).attr("driver");
                let (wanted, shown) = (name(wanted), name(shown.as_ref()));
                return Err(StepError::NotSettled { path, wanted, shown, waited: SETTLE });
            }
            self.nap(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Takes `undo` back and says whether there was anything to take back: done twice it does nothing the second time, and
    /// of a function that is gone, or of a step that never had its effect, there is nothing.
    pub(super) async fn reverse(&self, undo: &Undo) -> Result<bool, StepError> {
        if !matches!(undo.was, Setting::Override(_) | Setting::Driver(_)) {
            return self.set_back(undo).await;
        }
        let Some(bdf) = place(self.host, undo.device)? else { return Ok(false) };
        if driver_override(self.host, bdf)?.is_none() {
            return Ok(false);
        }
        let at = At { target: undo.device, bdf };
        match &undo.was {
            Setting::Override(was) => self.put_override(at, was.as_deref(), Lasting::Always).await,
            Setting::Driver(was) => self.rebind(at, was.as_ref()).await,
            _ => Ok(false),
        }
    }

    /// Takes a VF from its driver, when what is kept for it is to be another: a driver looks once.
    pub(super) async fn let_go(&self, undo: &Undo) -> Result<(), StepError> {
        let now = setting::now(self.host, undo.device, &undo.was)?;
        if setting::is_so(now.as_ref(), &undo.was) {
            return Ok(());
        }
        match place(self.host, undo.device)? {
            Some(bdf) => self.rebind(At { target: undo.device, bdf }, None).await.map(drop),
            None => Ok(()),
        }
    }

    /// Brings a setting back to what it was.
    ///
    /// # Kernel
    /// `drivers/pci/iov.c` `sriov_numvfs_store()` goes from some VFs to others by way of none alone (7.2).
    async fn set_back(&self, undo: &Undo) -> Result<bool, StepError> {
        let now = setting::now(self.host, undo.device, &undo.was)?;
        if setting::is_so(now.as_ref(), &undo.was) || (now.is_none() && !matches!(undo.was, Setting::Vf { .. })) {
            return Ok(false);
        }
        if matches!((&now, &undo.was), (Some(Setting::Vfs(1..)), Setting::Vfs(1..))) {
            self.bring_back(undo.device, &Setting::Vfs(0)).await?;
        }
        let mut changed = false;
        for to in setting::way_back(self.host, undo)? {
            changed |= self.bring_back(undo.device, &to).await?;
        }
        Ok(changed)
    }

    async fn bring_back(&self, device: Target, was: &Setting) -> Result<bool, StepError> {
        let Some(change) = setting::change(self.host, device, was, TakenBack::BySetting)? else { return Ok(false) };
        match self.make_back(device, change).await {
            // What a driver cannot set it has not set.
            Err(error) if setting::is_unsupported(&error) => return Ok(false),
            done => done?,
        }
        self.settle_setting(device, was).await?;
        Ok(true)
    }

    /// Waits until `device` shows `to`.
    pub(super) async fn settle_setting(&self, device: Target, to: &Setting) -> Result<(), StepError> {
        let mut by = None;
        let mut pause = Duration::from_millis(1);
        loop {
            let Err(shown) = setting::shows(self.host, device, to)? else { return Ok(()) };
            // How many VFs there are shows at once.
            if matches!(to, Setting::Vfs(_)) || !self.is_before(&mut by) {
                let path = match device {
                    // What is kept for a VF is its PF's.
                    Target::Vf { pf, .. } => HostPath::pci(pf),
                    other => directory(other),
                };
                let waited = if matches!(to, Setting::Vfs(_)) { Duration::ZERO } else { SETTLE };
                return Err(StepError::NotSettled { path, wanted: to.to_string(), shown, waited });
            }
            self.nap(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Makes `wanted` the driver of a function, whatever it is on now.
    ///
    /// The override is set to `wanted` while it binds, and put back: a VFIO driver binds through nothing else, a VF under
    /// `sriov_drivers_autoprobe` 0 neither, and an override left from a later step would stand in the way.
    async fn rebind(&self, at: At, wanted: Option<&DriverName>) -> Result<bool, StepError> {
        let At { target, bdf } = at;
        let now = driver(self.host, bdf)?;
        if now.as_ref() == wanted {
            return Ok(false);
        }
        if let Some(now) = now {
            refuse_open(bdf, self.host)?;
            self.make_back(target, unbind(at, &now)).await?;
            self.settle_driver(bdf, None).await?;
        }
        let Some(wanted) = wanted else { return Ok(true) };
        let before = driver_override(self.host, bdf)?.flatten();
        self.put_override(at, Some(wanted.as_str()), Lasting::Meanwhile).await?;
        let bound = match self.make_back(target, bind(at, wanted, None)).await {
            Ok(()) => self.settle_driver(bdf, Some(wanted)).await,
            refused => refused,
        };
        // Both are tried; what is said is why the driver did not come back.
        let restored = self.put_override(at, before.as_deref(), Lasting::Always).await;
        bound.and(restored).map(|_| true)
    }

    /// Sets the override, and says whether it was another.
    async fn put_override(&self, at: At, wanted: Option<&str>, lasting: Lasting) -> Result<bool, StepError> {
        let Some(change) = set_override(at, wanted, self.host)? else { return Ok(false) };
        match lasting {
            Lasting::Always => self.make_back(at.target, change).await.map(|()| true),
            // This one has to be taken back itself, should everything end here.
            Lasting::Meanwhile => self.make(at.target, &change, Way::Back).await.map(|()| true),
        }
    }

    /// Makes a change that takes back one that is written down already.
    async fn make_back(&self, device: Target, change: Change) -> Result<(), StepError> {
        self.make(device, &Change { undo: None, ..change }, Way::Back).await
    }
}

/// Whether an override that is set on the way back is the one to stay.
#[derive(Clone, Copy)]
enum Lasting {
    Always,
    Meanwhile,
}
