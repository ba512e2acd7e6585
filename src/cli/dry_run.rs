//! What would be done, as lines that root could paste.
//!
//! Each step is judged against the host as the steps before it would leave it: a shadow holds driver and override of the
//! functions that they would have changed. An attempt after the first is printed for the case that the one before was
//! refused.

use std::collections::BTreeMap;

use crate::engine::{Change, act};
use crate::host::{HostError, HostPath, Links, Read, Verb};
use crate::model::devlink::{DevlinkHandle, DevlinkPort, EswitchMode};
use crate::model::pci::OVERRIDE_UNSET;
use crate::model::vf::{NetdevName, VfList};
use crate::model::{Bdf, Errno, Target};
use crate::step::{Lane, Plan, Reversible, Setting, Step};

/// The lines of a plan; those that begin with `#` are for people.
pub(super) fn lines(plan: &Plan, host: &dyn Links) -> Vec<String> {
    let mut lines = Vec::new();
    for lane in &plan.lanes {
        let device = lane.device;
        let mut shadow = Shadow { host, written: BTreeMap::new() };
        let before = lines.len();
        let mut attempts = lane.attempts.iter();
        if lane.is_made && matches!(device, Target::Vf { .. }) {
            made(lane, &mut lines);
            continue;
        }
        shadow.take(&lane.prepare, &mut lines);
        if let Some(first) = attempts.next() {
            shadow.take(&first.steps, &mut lines);
        }
        shadow.take(&lane.finish, &mut lines);
        if lines.len() == before {
            lines.push(format!("# {device}: nothing to do"));
        }
        for attempt in attempts {
            let driver =
                attempt.driver.as_ref().map_or_else(|| "what the kernel chooses".to_owned(), ToString::to_string);
            lines.push(format!("# {device}: if that is refused, {driver}:"));
            // What was tried before left the device unbound.
            if let Some(bdf) = device.pci() {
                shadow.set(bdf, "driver", None);
            }
            // Comments, for whoever pastes all of it.
            let mut otherwise = Vec::new();
            shadow.take(&attempt.steps, &mut otherwise);
            lines.extend(otherwise.into_iter().map(|line| format!("#   {}", line.trim_start_matches("# "))));
        }
    }
    let mut kept: Vec<&'static str> = Vec::new();
    for step in plan.steps() {
        match step.reversible() {
            Reversible::Roughly(what) | Reversible::No(what) if !kept.contains(&what) => kept.push(what),
            _ => {}
        }
    }
    if !kept.is_empty() {
        lines.push(format!("# what does not come back when it is undone: {}", kept.join("; ")));
    }
    lines
}

/// A VF that is not there yet has no path, and nothing to be compared with.
fn made(lane: &Lane, lines: &mut Vec<String>) {
    // A driver that the kernel gives it by itself is taken from it: nobody is to be given one here.
    let is_said = |step: &&Step| !matches!(step, Step::Unbind { .. });
    let first = lane.attempts.first().map(|attempt| &attempt.steps);
    let steps = lane.prepare.iter().chain(first.into_iter().flatten()).chain(&lane.finish);
    lines.extend(steps.filter(is_said).map(|step| format!("# {}", step.summary())));
    for attempt in lane.attempts.iter().skip(1).filter_map(|attempt| attempt.driver.as_ref()) {
        lines.push(format!("# {}: if that is refused, {attempt}", lane.device));
    }
}

/// The host as some steps would leave it.
struct Shadow<'a> {
    host: &'a dyn Links,
    /// Link name of `driver`, text of `driver_override`; `None`: not there.
    written: BTreeMap<HostPath, Option<String>>,
}

impl Shadow<'_> {
    fn take(&mut self, steps: &[Step], lines: &mut Vec<String>) {
        for step in steps {
            match act(step, self) {
                Ok(None) => {}
                Ok(Some(change)) => {
                    self.apply(&change);
                    lines.push(change.act.to_string());
                }
                // The name of a driver whose module is not loaded is not known.
                Err(_) => lines.push(format!("# {}", step.summary())),
            }
        }
    }

    fn apply(&mut self, change: &Change) {
        let Some(bdf) = change.undo.as_ref().and_then(|undo| undo.device.pci()) else { return };
        match &change.makes {
            Some(Setting::Override(text)) => {
                let shown = text.clone().unwrap_or_else(|| OVERRIDE_UNSET.to_owned());
                self.written.insert(HostPath::pci(bdf).attr("driver_override"), Some(shown));
            }
            Some(Setting::Driver(driver)) => self.set(bdf, "driver", driver.as_ref().map(ToString::to_string)),
            None => self.set(bdf, "driver", None),
            Some(_) => {}
        }
    }

    fn set(&mut self, device: Bdf, attribute: &'static str, value: Option<String>) {
        self.written.insert(HostPath::pci(device).attr(attribute), value);
    }

    fn shadowed(&self, path: &HostPath) -> Option<Result<String, HostError>> {
        let value = self.written.get(path)?.clone();
        Some(value.ok_or_else(|| HostError::new(Verb::Read, path.clone(), Errno::ENOENT)))
    }
}

impl Links for Shadow<'_> {
    fn vf_attributes(&self, netdev: &NetdevName) -> Result<VfList, HostError> {
        self.host.vf_attributes(netdev)
    }

    fn devlink_handles(&self) -> Result<Vec<DevlinkHandle>, HostError> {
        self.host.devlink_handles()
    }

    fn devlink_ports(&self, handle: &DevlinkHandle) -> Result<Vec<DevlinkPort>, HostError> {
        self.host.devlink_ports(handle)
    }

    fn eswitch_mode(&self, handle: &DevlinkHandle) -> Result<Option<EswitchMode>, HostError> {
        self.host.eswitch_mode(handle)
    }
}

impl Read for Shadow<'_> {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        self.shadowed(path).map_or_else(|| self.host.read(path), |text| text.map(String::into_bytes))
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        self.shadowed(path).unwrap_or_else(|| self.host.link(path))
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        self.host.list(path)
    }
}
