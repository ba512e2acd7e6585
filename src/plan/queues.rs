//! WQs of idxd devices: configured, their device enabled when it is not, and given to a driver.
//!
//! The order is that of `accel-config`: all attributes first, then the device, then the WQs.

mod numbered;
mod parse;

pub use numbered::{Difference, Numbered, Told, others};
pub use parse::{KEYS, QueueParameters, parse};

use super::parameters::ParameterError;
use crate::model::dsa::{DsaBound, DsaKey, DsaName, DsaValue};
use crate::model::idxd::{IdxdIndex, WqMode, WqType};
use crate::model::{BusName, DriverName, IdxdDevice, Inventory, Target, WorkQueue, counted};
use crate::step::{Lane, Otherwise, Plan, Setting, Step};

/// `WQ_DEFAULT_QUEUE_DEPTH`.
const DEFAULT_SIZE: u32 = 16;

/// Why no WQ can be made or unmade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A key is wrong.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// What a dedicated WQ has not got.
    #[error("{0} goes with mode=shared")]
    SharedAlone(&'static str),
    /// A threshold above the size.
    #[error("threshold={threshold} is more than size={size}")]
    Threshold {
        /// The threshold.
        threshold: u32,
        /// The size.
        size: u32,
    },
    /// Nothing of it can be set.
    #[error("{0} is not configurable: its WQs are as the firmware has set them")]
    NotConfigurable(BusName),
    /// It has stopped.
    #[error("{0} is halted")]
    Halted(BusName),
    /// No PASID.
    #[error("{device} has no PASID, and a {what} WQ needs it")]
    NoPasid {
        /// The device.
        device: BusName,
        /// `user`, `shared`.
        what: &'static str,
    },
    /// Too few that nobody has.
    #[error("{device} has {} that nobody has configured, not {wanted}", counted(*left, "WQ"))]
    NoneLeft {
        /// The device.
        device: BusName,
        /// How many it has.
        left: usize,
        /// How many were asked for.
        wanted: u16,
    },
    /// The size of a WQ is fixed.
    #[error(
        "{device} is enabled, and a WQ gets its size only while it is not: {left} of its free WQs have one that does, not {wanted}"
    )]
    SizeIsFixed {
        /// The device.
        device: BusName,
        /// How many have it.
        left: usize,
        /// How many were asked for.
        wanted: u16,
    },
    /// More entries than there are.
    #[error("{device} has {} left, and {wanted} are asked for", counted(*left, "entry"))]
    NoRoom {
        /// The device.
        device: BusName,
        /// How many are left.
        left: u32,
        /// How many were asked for.
        wanted: u32,
    },
    /// No such group.
    #[error("{device} has no group {group}")]
    NoGroup {
        /// The device.
        device: BusName,
        /// The group.
        group: IdxdIndex,
    },
    /// No engine for the group.
    #[error("{device} has no engine {what}group {group}")]
    NoEngine {
        /// The device.
        device: BusName,
        /// The group.
        group: IdxdIndex,
        /// `free for `, `1 that is free for `.
        what: String,
    },
    /// Somebody else has begun to configure it.
    #[error(
        "{device} is disabled, and somebody has configured {what} of it: that would be enabled too, and lost when it is undone"
    )]
    Others {
        /// The device.
        device: BusName,
        /// Whose configuration.
        what: String,
    },
    /// It is not enabled.
    #[error("{0} is not enabled: there is nothing to destroy")]
    NotEnabled(BusName),
    /// Somebody uses it.
    #[error("{queue} is open: it has {}", counted(*clients, "client"))]
    InUse {
        /// The WQ.
        queue: BusName,
        /// How many have it open.
        clients: u32,
    },
    /// No WQ of that number.
    #[error("{device} has no WQ {index}: it has {}", counted(*count, "WQ"))]
    NoQueue {
        /// The device.
        device: BusName,
        /// The number.
        index: IdxdIndex,
        /// How many it has.
        count: usize,
    },
    /// The size of this WQ is fixed.
    #[error("{device} is enabled, and a WQ gets its size only while it is not: that of {queue} is {size}")]
    HasSize {
        /// The device.
        device: BusName,
        /// The WQ.
        queue: BusName,
        /// Its size.
        size: u32,
    },
    /// Somebody has begun with it.
    #[error("somebody has configured {0}, and not enabled it: what it has would be lost when it is undone")]
    Configured(BusName),
    /// It is enabled, and is something else.
    #[error("{queue} is enabled, and has {what}")]
    Differs {
        /// The WQ.
        queue: BusName,
        /// What it has, and what it is to have.
        what: String,
    },
    /// Nobody to give it to.
    #[error("no driver {0} is registered on the bus dsa")]
    NoDriver(DriverName),
    /// An attribute that is not there.
    #[error("the WQs of {device} have no {key} on this machine")]
    Unsupported {
        /// The device.
        device: BusName,
        /// The attribute.
        key: DsaKey,
    },
    /// Not one that this program knows how to name.
    #[error("{0} is no idxd device or WQ that vfioadm knows")]
    Unknown(BusName),
}

/// What becomes of what somebody else has configured on a device that is to be enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// The wish is refused.
    Keep,
    /// It is enabled with the device, and lost when that is undone.
    Accepted,
}

/// What is wanted of each device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueWish {
    /// The devices.
    pub devices: Vec<BusName>,
    /// How many WQs of each.
    pub count: u16,
    /// What they are to be.
    pub parameters: QueueParameters,
    /// What of those that are configured and not enabled.
    pub others: Others,
}

/// Plans WQs.
///
/// # Errors
/// [`QueueError`].
pub fn queues(wish: &QueueWish, inventory: &Inventory) -> Result<Plan, QueueError> {
    let mut plan = Plan::default();
    for name in &wish.devices {
        let device = inventory.idxd.iter().find(|device| device.name == *name);
        let device = device.ok_or_else(|| QueueError::Unknown(name.clone()))?;
        Making { of: &wish.parameters, device }.lanes(wish, &mut plan)?;
    }
    plan.bond_all();
    Ok(plan)
}

/// WQs of one device in the making.
struct Making<'a> {
    of: &'a QueueParameters,
    device: &'a IdxdDevice,
}

impl Making<'_> {
    fn lanes(&self, wish: &QueueWish, plan: &mut Plan) -> Result<(), QueueError> {
        let of = self.of;
        self.refuse()?;
        let enabled = self.device.state == "enabled";
        let chosen = self.chosen(wish)?;
        let mut settings = Vec::new();
        if let Some(engine) = self.engine()? {
            settings.push(self.joining(&engine)?);
        }
        let first = plan.lanes.len();
        if !enabled {
            for (queue, size) in &chosen {
                settings.extend(self.attributes(parsed(&queue.address)?, *size)?);
            }
            plan.lanes.push(giving(parsed(&self.device.name)?, settings.split_off(0), Some(driver("idxd")?)));
        }
        for (queue, size) in chosen {
            let name = parsed(&queue.address)?;
            let mut own = settings.split_off(0);
            if enabled {
                own.extend(self.attributes(name, size)?);
            }
            let mut lane = giving(name, own, Some(of.driver.clone()));
            if !enabled {
                lane.after.push(first);
            }
            plan.lanes.push(lane);
        }
        Ok(())
    }

    /// What can be known of the device alone.
    fn refuse(&self) -> Result<(), QueueError> {
        let IdxdDevice { name, pasid, groups, .. } = self.device;
        let of = self.of;
        if !self.device.configurable {
            return Err(QueueError::NotConfigurable(name.clone()));
        }
        if self.device.state == "halted" {
            return Err(QueueError::Halted(name.clone()));
        }
        let needs = match (of.kind, of.mode) {
            (_, WqMode::Shared) => Some("shared"),
            (WqType::User, _) => Some("user"),
            _ => None,
        };
        if let Some(what) = needs.filter(|_| !pasid) {
            return Err(QueueError::NoPasid { device: name.clone(), what });
        }
        if !groups.iter().any(|group| group.index == of.group) {
            return Err(QueueError::NoGroup { device: name.clone(), group: of.group });
        }
        Ok(())
    }

    /// The WQs that are taken, with their sizes.
    fn chosen(&self, wish: &QueueWish) -> Result<Vec<(&WorkQueue, u32)>, QueueError> {
        let (device, wanted, of) = (&self.device.name, wish.count, self.of);
        let all = &self.device.work_queues;
        let mut free: Vec<&WorkQueue> = all.iter().filter(|queue| queue.is_free()).collect();
        if free.len() < wanted.into() {
            return Err(QueueError::NoneLeft { device: device.clone(), left: free.len(), wanted });
        }
        if self.device.state == "enabled" {
            let fits = |queue: &&WorkQueue| of.size.map_or(queue.size > 0, |size| queue.size == size);
            let fit: Vec<_> = free.into_iter().filter(fits).map(|queue| (queue, queue.size)).collect();
            if fit.len() < wanted.into() {
                return Err(QueueError::SizeIsFixed { device: device.clone(), left: fit.len(), wanted });
            }
            return Ok(fit.into_iter().take(wanted.into()).collect());
        }
        free.sort_by_key(|queue| is_begun(queue));
        let chosen: Vec<&WorkQueue> = free.into_iter().take(wanted.into()).collect();
        let is_chosen = |queue: &WorkQueue| chosen.iter().any(|one| one.address == queue.address);
        let others = all.iter().filter(|queue| !is_chosen(queue));
        let configured = configured(self.device, |_| true);
        if !configured.is_empty() && wish.others == Others::Keep {
            return Err(QueueError::Others { device: device.clone(), what: configured.join(", ") });
        }
        let taken: u32 = others.map(|queue| queue.size).sum();
        let left = self.device.max_work_queues_size.saturating_sub(taken);
        let size = of.size.unwrap_or(DEFAULT_SIZE);
        let entries = size.saturating_mul(wanted.into());
        if entries > left {
            return Err(QueueError::NoRoom { device: device.clone(), left, wanted: entries });
        }
        Ok(chosen.into_iter().map(|queue| (queue, size)).collect())
    }

    /// The engine that joins the group, unless one is in it already.
    fn engine(&self) -> Result<Option<BusName>, QueueError> {
        let of = self.of;
        let engines = &self.device.engines;
        if of.engine.is_none() && engines.iter().any(|engine| engine.group == Some(of.group)) {
            return Ok(None);
        }
        let numbered = |name: &BusName, wanted: IdxdIndex| matches!(name.as_str().parse(), Ok(DsaName::Engine(_, own)) if own == wanted);
        let named = of.engine.map(|wanted| engines.iter().find(move |engine| numbered(&engine.name, wanted)));
        let found = match named {
            Some(engine) => engine.filter(|engine| engine.group.is_none_or(|group| group == of.group)),
            None => engines.iter().find(|engine| engine.group.is_none()),
        };
        let what = of.engine.map_or_else(|| String::from("free for "), |engine| format!("{engine} that is free for "));
        let (device, group) = (self.device.name.clone(), of.group);
        found.map(|engine| Some(engine.name.clone())).ok_or(QueueError::NoEngine { device, group, what })
    }

    /// What has an engine join the group.
    fn joining(&self, engine: &BusName) -> Result<DsaValue, QueueError> {
        Ok(DsaValue { of: parsed(engine)?, key: DsaKey::GroupId, value: self.of.group.to_string() })
    }

    fn attributes(&self, of: DsaName, size: u32) -> Result<Vec<DsaValue>, QueueError> {
        let wish = self.of;
        let kind = (DsaKey::Type, wish.kind.as_str().to_owned());
        let mut all = vec![
            (DsaKey::Size, size.to_string()),
            (DsaKey::GroupId, wish.group.to_string()),
            kind,
            (DsaKey::Mode, wish.mode.as_str().to_owned()),
            (DsaKey::Priority, wish.priority.to_string()),
            (DsaKey::Name, wish.name.clone()),
            (DsaKey::DriverName, wish.driver.to_string()),
        ];
        if wish.mode == WqMode::Shared {
            let threshold = wish.threshold.unwrap_or(size);
            if threshold > size {
                return Err(QueueError::Threshold { threshold, size });
            }
            all.insert(4, (DsaKey::Threshold, threshold.to_string()));
        }
        all.extend(wish.others.iter().cloned());
        Ok(all.into_iter().map(|(key, value)| DsaValue { of, key, value }).collect())
    }
}

/// Whether somebody has begun to configure a WQ of a device that is disabled, which keeps neither sizes nor groups.
fn is_begun(queue: &WorkQueue) -> bool {
    queue.size > 0 || queue.group.is_some() || !queue.is_free()
}

/// What of a device that is disabled somebody has configured, of its WQs those that `counts` says.
fn configured(device: &IdxdDevice, counts: impl Fn(&WorkQueue) -> bool) -> Vec<&str> {
    let queues = device.work_queues.iter().filter(|queue| is_begun(queue) && counts(queue));
    let engines = device.engines.iter().filter(|engine| engine.group.is_some());
    queues.map(|queue| queue.address.as_str()).chain(engines.map(|engine| engine.name.as_str())).collect()
}

fn parsed(name: &BusName) -> Result<DsaName, QueueError> {
    name.as_str().parse().map_err(|_| QueueError::Unknown(name.clone()))
}

fn driver(name: &str) -> Result<DriverName, QueueError> {
    name.parse().map_err(|_| ParameterError::UnknownKey(name.to_owned()).into())
}

/// Attributes, then a driver; without one it is taken from the one that it has.
fn giving(of: DsaName, settings: Vec<DsaValue>, driver: Option<DriverName>) -> Lane {
    let device = Target::Dsa(of);
    let mut lane = Lane::new(device, Otherwise::LeaveWithout);
    let settings = settings.into_iter().map(Setting::Dsa);
    let bound = driver.map(|driver| DsaBound { driver, config: Vec::new() });
    lane.finish = settings.chain([Setting::DsaDriver(bound)]).map(|to| Step::Set { device, to }).collect();
    lane
}

/// The end of WQs, and of what a device has when none is left that anybody has configured: it is disabled, which clears its
/// engines and groups.
///
/// # Errors
/// [`QueueError`].
pub fn unmake(names: &[BusName], inventory: &Inventory, plan: &mut Plan) -> Result<(), QueueError> {
    for device in &inventory.idxd {
        let mine: Vec<&WorkQueue> = device.work_queues.iter().filter(|queue| names.contains(&queue.address)).collect();
        if mine.is_empty() {
            continue;
        }
        let others = device.work_queues.iter().any(|queue| {
            !names.contains(&queue.address) && (queue.enabled || queue.group.is_some() || !queue.is_free())
        });
        let mut after = Vec::new();
        for queue in mine {
            if !queue.enabled {
                return Err(QueueError::NotEnabled(queue.address.clone()));
            }
            if queue.clients > 0 {
                return Err(QueueError::InUse { queue: queue.address.clone(), clients: queue.clients });
            }
            let of = parsed(&queue.address)?;
            let mut lane = giving(of, Vec::new(), None);
            let mut clear = |key, value: &str| {
                let to = Setting::Dsa(DsaValue { of, key, value: value.to_owned() });
                lane.finish.push(Step::Set { device: lane.device, to });
            };
            if queue.driver_name.is_some() {
                clear(DsaKey::DriverName, "");
            }
            // A device that is disabled clears its groups itself, and is enabled again with a WQ in one.
            if others {
                clear(DsaKey::GroupId, "-1");
            }
            after.push(plan.lanes.len());
            plan.lanes.push(lane);
        }
        if !others {
            plan.lanes.push(Lane { after, ..giving(parsed(&device.name)?, Vec::new(), None) });
        }
    }
    Ok(())
}
