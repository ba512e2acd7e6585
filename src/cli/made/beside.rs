//! What is made and is no plain PCI function and no mdev: as it is when all was done, and why it was not made.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Made;
use crate::cli::show::VgpuView;
use crate::cli::types::QueueView;
use crate::discover;
use crate::engine::{LaneResult, StepError};
use crate::host::{Host, HostError, Verb};
use crate::model::devlink::{Behind, Devlink, DevlinkPort, PortFunction};
use crate::model::dsa::DsaName;
use crate::model::idxd::NO_VFIO_PROVIDER;
use crate::model::{Bdf, Errno, IdxdDevice, Inventory, Target, VfIndex, Vgpu, counted, sf};
use crate::step::{Plan, Setting, Step};

/// What has an object of its own in a row; `null` for what is none of it.
#[derive(Default, Serialize)]
pub(super) struct Beside {
    pub(super) wq: Option<QueueView>,
    sf: Option<Subfunction>,
    vgpu: Option<VgpuView>,
    function: Option<Function>,
}

/// What devlink reports of a VF at its port; `null` where the driver is silent.
#[derive(Serialize)]
pub(in crate::cli) struct Function {
    hw_addr: Option<String>,
    roce: Option<bool>,
    migratable: Option<bool>,
    max_io_eqs: Option<u32>,
}

/// A subfunction, as devlink reports it; `null` where the driver is silent.
#[derive(Serialize)]
struct Subfunction {
    sfnum: u32,
    port: String,
    representor: Option<String>,
    hw_addr: Option<String>,
    roce: Option<bool>,
    max_io_eqs: Option<u32>,
    state: Option<String>,
    opstate: Option<String>,
}

/// What was read when all was done, once and only where such were made or unmade. What cannot be read is not shown.
pub(super) struct After {
    inventory: Inventory,
    devlink: BTreeMap<Bdf, Devlink>,
    vgpus: BTreeMap<Bdf, Vgpu>,
}

impl After {
    pub(super) fn read(made: &Made<'_>, host: &dyn Host) -> Self {
        let lanes = &made.report.lanes;
        let of_idxd = lanes.iter().any(|lane| matches!(lane.device, Target::Dsa(_)));
        let inventory = if of_idxd { discover::inventory(host).unwrap_or_default() } else { Inventory::default() };
        let of_devlink = lanes.iter().filter_map(|lane| match lane.device {
            Target::Sf { pf, .. } | Target::Vf { pf, .. } => Some(pf),
            _ => None,
        });
        let pfs: BTreeSet<Bdf> = of_devlink.collect();
        let devlink = pfs.into_iter().filter_map(|pf| Some((pf, discover::devlink(host, pf).ok()??))).collect();
        // The VFs that NVIDIA's driver makes vGPUs of were there before, and stay.
        let is_lane = |vf: Bdf| lanes.iter().any(|lane| made.inventory.place(lane.device) == Some(vf));
        let vgpus = discover::vgpus(host, made.inventory, is_lane);
        Self { inventory, devlink, vgpus }
    }

    /// What a WQ is now, and its lines for people.
    pub(super) fn queue(&self, name: DsaName) -> (Beside, Vec<String>) {
        let Some((device, queue)) = self.inventory.work_queue(&name.to_string()) else {
            return (Beside::default(), vec![String::from("WQ, gone with its device")]);
        };
        let words = match &queue.driver {
            None => vec![String::from("WQ, destroyed: it is disabled, and no driver has it")],
            Some(driver) => {
                let group = queue.group.map_or_else(String::new, |group| format!(", group {group}"));
                let threshold =
                    if queue.threshold > 0 { format!(", threshold {}", queue.threshold) } else { String::new() };
                let (mode, size) = (queue.mode.as_str(), counted(queue.size, "entry"));
                vec![
                    format!("WQ of {}, on {driver}: {mode}, {size}{threshold}{group}", device.name),
                    format!("{}; {NO_VFIO_PROVIDER}", queue.purpose(device)),
                ]
            }
        };
        (Beside { wq: Some(QueueView::of(device, queue)), ..Beside::default() }, words)
    }

    /// What a subfunction is now, and its lines for people.
    pub(super) fn subfunction(&self, pf: Bdf, sfnum: u32) -> (Beside, Vec<String>) {
        let port = self.devlink.get(&pf).and_then(|devlink| Behind::Sf(sfnum).port_in(&devlink.ports));
        let Some(port) = port else {
            return (Beside::default(), vec![format!("subfunction {sfnum} of {pf}, destroyed")]);
        };
        let view = Subfunction::of(pf, sfnum, port);
        let mac = view.hw_addr.as_ref().map_or_else(String::new, |mac| format!(", mac {mac}"));
        let state = view.state.as_ref().map_or_else(String::new, |state| format!(", {state}"));
        let words = vec![
            format!("subfunction {sfnum} of {pf}, devlink port {}{mac}{state}", view.port),
            String::from(sf::NO_VFIO_PROVIDER),
        ];
        (Beside { sf: Some(view), ..Beside::default() }, words)
    }

    /// Adds what is kept for a VF at its port.
    pub(super) fn tell_port(&self, beside: &mut Beside, words: &mut Vec<String>, (pf, index): (Bdf, VfIndex)) {
        let port = self.devlink.get(&pf).and_then(|devlink| Behind::Vf(index).port_in(&devlink.ports));
        let Some(function) = port.and_then(|port| port.function.as_ref()) else { return };
        let said = function.clearing(&[]);
        if !said.is_empty() {
            let told = said.iter().filter_map(|to| to.told_by(function)).map(|to| to.to_string());
            words.push(told.collect::<Vec<_>>().join(", "));
        }
        beside.function = Some(function.into());
    }

    /// Adds what a VF of NVIDIA's is.
    pub(super) fn tell_vgpu(&self, beside: &mut Beside, words: &mut Vec<String>, address: &str) {
        let vgpu = address.parse().ok().and_then(|vf: Bdf| self.vgpus.get(&vf));
        let Some(vgpu) = vgpu.cloned().map(VgpuView::from) else { return };
        words.push(match vgpu.words() {
            words if vgpu.is_one() => format!("vGPU {words}"),
            _ => String::from("no vGPU now; it stays on the nvidia driver"),
        });
        beside.vgpu = Some(vgpu);
    }
}

impl From<&PortFunction> for Function {
    fn from(function: &PortFunction) -> Self {
        Self {
            hw_addr: told_mac(function),
            roce: function.roce.map(|on| on.is_on()),
            migratable: function.migratable.map(|on| on.is_on()),
            max_io_eqs: function.max_io_eqs,
        }
    }
}

impl Subfunction {
    fn of(pf: Bdf, sfnum: u32, port: &DevlinkPort) -> Self {
        let function = port.function.clone().unwrap_or_default();
        Self {
            sfnum,
            port: format!("pci/{pf}/{}", port.index),
            representor: port.netdev.as_ref().map(ToString::to_string),
            hw_addr: told_mac(&function),
            roce: function.roce.map(|on| on.is_on()),
            max_io_eqs: function.max_io_eqs,
            state: function.state.map(|state| state.to_string()),
            opstate: function.opstate.map(|state| state.to_string()),
        }
    }
}

/// An address that somebody, or the driver, has given.
fn told_mac(function: &PortFunction) -> Option<String> {
    function.hw_addr.filter(|mac| !mac.is_zero()).map(|mac| mac.to_string())
}

/// Whether a plan, when all of it was done, has changed what no binding shows.
pub(super) fn changes_more(plan: &Plan) -> bool {
    plan.steps().any(|step| matches!(step, Step::Set { to: Setting::Vgpu(_), .. }))
}

/// Its id, what happened, and what to do next.
pub(in crate::cli) type Words = (&'static str, String, String);

/// Why it did not come to what was asked; `None` when that is said elsewhere.
pub(in crate::cli) fn trouble(made: &Made<'_>, lane: &LaneResult, error: &StepError) -> Option<Words> {
    let error = match error {
        StepError::Host(error) => error,
        StepError::Used(device, why) => {
            let message = format!("{device} was not taken from its driver: {why}");
            return Some(("device-open", message, String::from("end the programs that submit to it, and ask again")));
        }
        StepError::NotSettled { wanted, shown, .. } if wanted.starts_with("eswitch ") => {
            let message = format!("{} stayed in {shown} where {wanted} was accepted", lane.device);
            return Some((
                "not-made",
                message,
                format!("the driver's own reason is in the kernel log: dmesg | grep {}", lane.device),
            ));
        }
        _ => return None,
    };
    match (error.verb, lane.device) {
        (Verb::Write, Target::Dsa(name)) => Some(of_idxd(made, name, error)),
        (Verb::Request("DEVLINK_CMD_PORT_NEW" | "DEVLINK_CMD_PORT_DEL"), device) => Some((
            if error.errno == Errno::ENOSPC { "none-left" } else { "not-made" },
            format!("{device} was not made or unmade: {}", port_words(error.errno)),
            String::from("see what there is: devlink port show; how many there can be is set in the firmware"),
        )),
        (Verb::Request("DEVLINK_CMD_PORT_GET"), device) => Some((
            "parameter-unsupported",
            format!("{device} has no devlink port, and {} is set there", error.value.as_deref().unwrap_or_default()),
            String::from("leave out of --set what is set by devlink"),
        )),
        (Verb::Write, device) if error.path.rest().ends_with("/current_vgpu_type") => {
            let id = if error.errno == Errno::EPERM { "device-open" } else { "not-made" };
            let pf = made.inventory.place(device).map_or_else(String::new, |vf| format!(" {vf}"));
            let message = format!("NVIDIA's driver did not set the vGPU type of {device}: {}", vgpu_words(error.errno));
            Some((id, message, format!("see what it can be: vfioadm show{pf}")))
        }
        _ => None,
    }
}

fn of_idxd(made: &Made<'_>, name: DsaName, error: &HostError) -> Words {
    let mut parts = error.path.rest().rsplit('/');
    let (file, of) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let function = function_of(made, name).map_or_else(|| String::from("idxd"), |bdf| bdf.to_string());
    let log = format!("the driver's own reason is in the kernel log: dmesg | grep {function}");
    match file {
        "bind" => {
            let why = error.said.as_deref().map_or_else(String::new, |said| format!(": {said}"));
            ("driver-refused", format!("{name} did not bind to {of}{why}"), log)
        }
        "unbind" => ("not-made", format!("driver {of} did not let {name} go"), log),
        _ => {
            let value = error.value.as_deref().unwrap_or_default().trim_end();
            let message = format!("{of} does not take {file} {value}: {}", attribute_words(error.errno));
            ("parameter-refused", message, String::from("correct its value, or leave it out of --set"))
        }
    }
}

/// The PCI function of an idxd device, which is what the kernel log names.
fn function_of(made: &Made<'_>, name: DsaName) -> Option<Bdf> {
    let same = |device: &&IdxdDevice| {
        device.name.as_str().parse().is_ok_and(|device: DsaName| device.device() == name.device())
    };
    made.inventory.idxd.iter().find(same).and_then(|device| device.function)
}

/// # Kernel
/// `drivers/dma/idxd/sysfs.c` `wq_*_store()`, `engine_group_id_store()` (7.2).
fn attribute_words(errno: Errno) -> String {
    match errno {
        Errno::EPERM | Errno::ENXIO => String::from("its device is not configurable, or somebody has enabled it since"),
        Errno::EINVAL => String::from("it takes no such value, or its device has no room for it"),
        Errno::EOPNOTSUPP => String::from("its device has not got it"),
        other => other.to_string(),
    }
}

/// # Kernel
/// `net/devlink/port.c` `devlink_nl_port_new_doit()`; mlx5 `sf/devlink.c` `mlx5_devlink_sf_port_new()`, `sf/hw_table.c`
/// `mlx5_sf_hw_table_id_alloc()` (7.2).
fn port_words(errno: Errno) -> String {
    match errno {
        Errno::EOPNOTSUPP => String::from("the PF's driver makes no subfunctions, or not in this mode of its eswitch"),
        Errno::EEXIST => String::from("there is one of this number already"),
        Errno::ENOSPC => String::from("none is left"),
        other => other.to_string(),
    }
}

/// What NVIDIA's users report: its driver is not in the kernel.
fn vgpu_words(errno: Errno) -> String {
    match errno {
        Errno::EPERM => String::from("somebody has the vGPU open"),
        Errno::EINVAL => String::from("the VF cannot be of this type now"),
        Errno::ENOSPC => String::from("the GPU has no room for another"),
        other => other.to_string(),
    }
}
