//! WQs that are wanted by their numbers, one after the other: each knows what those before it are going to take.

use std::collections::{BTreeMap, BTreeSet};

use super::{DEFAULT_SIZE, Making, QueueError, QueueParameters, configured, driver, giving, parsed};
use crate::model::dsa::{DsaKey, DsaName, DsaValue};
use crate::model::idxd::{IdxdIndex, WqMode};
use crate::model::{DriverName, IdxdDevice, Target, WorkQueue};
use crate::step::{Lane, Otherwise, Plan, Setting, Step};

/// What is read of idxd devices beside what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The drivers of the bus `dsa`.
    pub drivers: BTreeSet<DriverName>,
    /// What attributes of WQs say that a kernel or a device may not have.
    pub values: BTreeMap<(DsaName, DsaKey), String>,
}

/// Something that a WQ that is enabled has, and is not to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key of `--set`.
    pub key: &'static str,
    /// What it has.
    pub now: String,
    /// What it is to have.
    pub wanted: String,
}

/// A device as it is going to be.
#[derive(Debug, Clone)]
pub struct Numbered {
    device: IdxdDevice,
    /// The lane that enables it.
    lane: Option<usize>,
}

impl Numbered {
    /// A device that nothing was planned for.
    #[must_use]
    pub fn of(device: &IdxdDevice) -> Self {
        Self { device: device.clone(), lane: None }
    }

    /// The WQ of this number.
    ///
    /// # Errors
    /// [`QueueError::NoQueue`].
    pub fn queue(&self, index: IdxdIndex) -> Result<&WorkQueue, QueueError> {
        let mine =
            |queue: &&WorkQueue| matches!(queue.address.as_str().parse(), Ok(DsaName::Queue(_, own)) if own == index);
        let all = &self.device.work_queues;
        let (device, count) = (self.device.name.clone(), all.len());
        all.iter().find(mine).ok_or(QueueError::NoQueue { device, index, count })
    }

    /// The device by its name on the bus.
    ///
    /// # Errors
    /// [`QueueError::Unknown`].
    pub fn device(&self) -> Result<DsaName, QueueError> {
        parsed(&self.device.name)
    }

    /// Whether it is enabled, or a lane that was planned enables it.
    #[must_use]
    pub fn is_going_to_be_enabled(&self) -> bool {
        self.device.state == "enabled" || self.lane.is_some()
    }

    /// Plans the WQ of a number, which is not enabled, and says what it is given. Its device is enabled when it has all that is set while it is not: by the lane of
    /// the first WQ of it, to which those of the next are added.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn make(
        &mut self,
        index: IdxdIndex,
        of: &QueueParameters,
        told: &Told,
        plan: &mut Plan,
    ) -> Result<(DsaName, Vec<DsaValue>), QueueError> {
        let queue = self.queue(index)?;
        let name = parsed(&queue.address)?;
        supported(&self.device, name, of, told)?;
        if !told.drivers.contains(&of.driver) {
            return Err(QueueError::NoDriver(of.driver.clone()));
        }
        // The driver of a WQ takes all along when it goes, and what was not changed is in no undo.
        if !queue.is_free() {
            return Err(QueueError::Configured(queue.address.clone()));
        }
        let making = Making { of, device: &self.device };
        making.refuse()?;
        let is_enabled = self.device.state == "enabled";
        let size = if is_enabled { self.fixed_size(queue, of)? } else { self.size_with_room(queue, of)? };
        let engine = making.engine()?;
        let mut settings = Vec::new();
        if let Some(engine) = &engine {
            settings.push(making.joining(engine)?);
        }
        settings.extend(making.attributes(name, size)?);
        let given = settings.clone();
        let mut after = None;
        if !is_enabled {
            let device = parsed(&self.device.name)?;
            let at = match self.lane {
                Some(at) => at,
                None => {
                    plan.lanes.push(giving(device, Vec::new(), Some(driver("idxd")?)));
                    *self.lane.insert(plan.lanes.len() - 1)
                }
            };
            let steps = settings
                .split_off(0)
                .into_iter()
                .map(|to| Step::Set { device: Target::Dsa(device), to: Setting::Dsa(to) });
            if let Some(lane) = plan.lanes.get_mut(at) {
                let last = lane.finish.len().saturating_sub(1);
                lane.finish.splice(last..last, steps);
            }
            after = Some(at);
        }
        let mut lane = giving(name, settings, Some(of.driver.clone()));
        lane.after.extend(after);
        plan.lanes.push(lane);
        self.take(name, size, of, engine.as_ref());
        Ok((name, given))
    }

    /// What those after it find.
    fn take(&mut self, name: DsaName, size: u32, of: &QueueParameters, engine: Option<&crate::model::BusName>) {
        for joined in self.device.engines.iter_mut().filter(|own| Some(&own.name) == engine) {
            joined.group = Some(of.group);
        }
        for queue in self.device.work_queues.iter_mut().filter(|queue| queue.address.as_str() == name.to_string()) {
            (queue.size, queue.group) = (size, Some(of.group));
        }
    }

    fn fixed_size(&self, queue: &WorkQueue, of: &QueueParameters) -> Result<u32, QueueError> {
        let size = queue.size;
        if size > 0 && of.size.is_none_or(|wanted| wanted == size) {
            return Ok(size);
        }
        Err(QueueError::HasSize { device: self.device.name.clone(), queue: queue.address.clone(), size })
    }

    fn size_with_room(&self, queue: &WorkQueue, of: &QueueParameters) -> Result<u32, QueueError> {
        let others = self.device.work_queues.iter().filter(|other| other.address != queue.address);
        let taken: u32 = others.map(|other| other.size).sum();
        let left = self.device.max_work_queues_size.saturating_sub(taken);
        let wanted = of.size.unwrap_or(DEFAULT_SIZE);
        if wanted > left {
            return Err(QueueError::NoRoom { device: self.device.name.clone(), left, wanted });
        }
        Ok(wanted)
    }

    /// What is different about a WQ that is enabled, of all that was asked.
    ///
    /// # Errors
    /// [`QueueError::Unsupported`].
    pub fn differences(
        &self,
        queue: &WorkQueue,
        of: &QueueParameters,
        told: &Told,
    ) -> Result<Vec<Difference>, QueueError> {
        let name = parsed(&queue.address)?;
        supported(&self.device, name, of, told)?;
        Ok(difference(&self.device, queue, of, told))
    }

    /// The lane of a WQ that is enabled and is set meanwhile; `None` when not all of `differences` can be.
    ///
    /// # Kernel
    /// `drivers/dma/idxd/sysfs.c` `wq_enqcmds_retries_store()` alone does not ask whether the WQ is enabled (7.2).
    ///
    /// # Errors
    /// [`QueueError::Unknown`].
    pub fn set_live(
        &self,
        queue: &WorkQueue,
        of: &QueueParameters,
        differences: &[Difference],
    ) -> Result<Option<Lane>, QueueError> {
        let name = parsed(&queue.address)?;
        if differences.iter().any(|difference| difference.key != "enqcmds-retries") || queue.mode == WqMode::Dedicated {
            return Ok(None);
        }
        let device = Target::Dsa(name);
        let mut lane = Lane::new(device, Otherwise::LeaveWithout);
        let retries = of.others.iter().filter(|(key, _)| *key == DsaKey::EnqcmdsRetries);
        let all = retries.map(|(key, value)| Setting::Dsa(DsaValue { of: name, key: *key, value: value.clone() }));
        lane.finish = all.map(|to| Step::Set { device, to }).collect();
        Ok(Some(lane))
    }
}

/// What of a device that is going to be enabled somebody has configured, but for the WQs that are wanted.
#[must_use]
pub fn others<'a>(device: &'a IdxdDevice, wanted: &BTreeSet<IdxdIndex>) -> Vec<&'a str> {
    if device.state == "enabled" {
        return Vec::new();
    }
    let is_wanted = |queue: &WorkQueue| matches!(queue.address.as_str().parse(), Ok(DsaName::Queue(_, index)) if wanted.contains(&index));
    configured(device, |queue| !is_wanted(queue))
}

/// Refuses what the kernel or the device has not got.
fn supported(device: &IdxdDevice, of: DsaName, wish: &QueueParameters, told: &Told) -> Result<(), QueueError> {
    match wish.optional().find(|key| !told.values.contains_key(&(of, *key))) {
        Some(key) => Err(QueueError::Unsupported { device: device.name.clone(), key }),
        None => Ok(()),
    }
}

/// What is different about a WQ that is enabled, of all that was asked: a key that was not given is as it is.
fn difference(device: &IdxdDevice, queue: &WorkQueue, of: &QueueParameters, told: &Told) -> Vec<Difference> {
    let text = |value: &dyn std::fmt::Display| value.to_string();
    let none = || String::from("none");
    let group = |group: Option<IdxdIndex>| group.map_or_else(none, |group| group.to_string());
    let mut all = vec![
        ("type", String::from(queue.kind.as_str()), String::from(of.kind.as_str())),
        ("size", text(&queue.size), text(&of.size.unwrap_or(queue.size))),
        ("mode", String::from(queue.mode.as_str()), String::from(of.mode.as_str())),
        ("threshold", text(&queue.threshold), text(&of.threshold.unwrap_or(queue.threshold))),
        ("group", group(queue.group), group(Some(of.group))),
        ("priority", text(&queue.priority), text(&of.priority)),
        ("name", queue.name.clone(), of.name.clone()),
        ("driver-name", queue.driver.as_ref().map_or_else(none, |driver| text(driver)), text(&of.driver)),
    ];
    if let Some(wanted) = of.engine {
        let is_it = |name: &str| matches!(name.parse(), Ok(DsaName::Engine(_, own)) if own == wanted);
        let serving: Vec<&str> = device
            .engines
            .iter()
            .filter(|engine| engine.group.is_some() && engine.group == queue.group)
            .map(|engine| engine.name.as_str())
            .collect();
        if !serving.iter().any(|name| is_it(name)) {
            all.push(("engine", serving.join(" and "), text(&wanted)));
        }
    }
    let values = |name: DsaName| {
        of.others
            .iter()
            .filter_map(move |(key, value)| Some((*key, told.values.get(&(name, *key))?.clone(), value.clone())))
    };
    let name = queue.address.as_str().parse::<DsaName>();
    let others =
        name.into_iter().flat_map(values).filter_map(|(key, now, value)| Some((super::parse::key(key)?, now, value)));
    let all = all.into_iter().chain(others).filter(|(key, now, wanted)| of.given.contains(key) && now != wanted);
    all.map(|(key, now, wanted)| Difference { key, now, wanted }).collect()
}
