//! `vfioadm show DEVICE`

use serde::Serialize;

use super::args::ShowArgs;
use super::report::{Exit, Trouble};
use super::types::QueueView;
use super::view::{self, Device, or_dash};
use super::{Session, in_use, open};
use crate::discover::{self, Holders, Names, Ports, Usage, close_up};
use crate::model::idxd::NO_VFIO_PROVIDER;
use crate::model::pci::{CloseUp, Link};
use crate::model::{Address, IdxdDevice, Inventory, PciFunction, Role, Subfunction, Vgpu, WorkQueue, sf};

#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    device: Device,
    subsystem: Option<String>,
    group_members: Vec<String>,
    group_node: Option<String>,
    isolation: Option<String>,
    vfs: Option<Vfs>,
    reset_methods: Option<Vec<String>>,
    power_state: Option<String>,
    link: Option<LinkView>,
    max_link: Option<LinkView>,
    boot_vga: bool,
    mdev_parent: bool,
    netdevs: Vec<NetDevView>,
    blocks: Vec<BlockView>,
    /// Of a WQ.
    wq: Option<QueueView>,
    /// Of a VF that NVIDIA's driver makes vGPUs of.
    vgpu: Option<VgpuView>,
    /// Of a subfunction.
    sf: Option<SfView>,
    /// What a WQ or a subfunction is for.
    #[serde(skip)]
    purpose: Option<String>,
    error: Option<Trouble>,
}

#[derive(Serialize)]
struct Vfs {
    total: u16,
    enabled: u16,
    autoprobe: bool,
}

#[derive(Serialize)]
struct SfView {
    sfnum: u32,
    auxiliary: String,
}

#[derive(Serialize)]
pub(super) struct VgpuView {
    current: Option<u32>,
    creatable: Vec<VgpuTypeView>,
}

#[derive(Serialize)]
struct VgpuTypeView {
    id: u32,
    name: String,
}

#[derive(Serialize)]
struct LinkView {
    speed: String,
    width: u8,
}

#[derive(Serialize)]
struct NetDevView {
    name: String,
    up: bool,
    default_route: bool,
    uppers: Vec<String>,
    /// What these are, in words.
    #[serde(skip)]
    stacked: Vec<String>,
}

#[derive(Serialize)]
struct BlockView {
    name: String,
    mounts: Vec<String>,
    swap: bool,
    holders: Vec<String>,
    zfs_pool: Option<String>,
    /// All of it in words.
    #[serde(skip)]
    uses: Vec<String>,
}

pub(super) fn run(args: &ShowArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let (inventory, addresses) = session.resolve(host, std::slice::from_ref(&args.device))?;
    let [address] = addresses.as_slice() else {
        let message = format!("{} names {} devices; show takes one", args.device, addresses.len());
        return Err(Trouble::new(Exit::Usage, "not-one-device", message).remedy("list them: vfioadm list"));
    };
    if let Address::Mdev(uuid) = address
        && let Some(mdev) = inventory.mdevs.iter().find(|mdev| mdev.uuid == *uuid)
    {
        let holders = Holders::read(host, &inventory, &[address.clone()].into());
        print(session, &Shown::of_mdev(mdev).held(address, &holders));
        session.warn(&in_use::unseen(&holders));
        return Ok(Exit::Done);
    }
    if let Address::Wq(name) = address
        && let Some((device, queue)) = inventory.work_queue(name.as_str())
    {
        print(session, &Shown::of_queue(device, queue));
        return Ok(Exit::Done);
    }
    open::is_active(address, &inventory)?;
    if let Some(subfunction) = inventory.subfunction(address) {
        print(session, &Shown::of_subfunction(subfunction, &inventory));
        return Ok(Exit::Done);
    }
    let bdf = open::pci_only(&addresses, "show")?[0];
    let Some(function) = inventory.functions.get(&bdf) else {
        return Err(Trouble::new(Exit::Failed, "no-such-device", format_args!("{bdf} went away while it was read")));
    };
    let mut warnings = Vec::new();
    let usage = Usage::read(host, &mut warnings);
    let near = close_up(host, bdf, &usage, &mut warnings);
    let names = Names::read(host, &view::ids(std::iter::once(function)));
    let holders = Holders::read(host, &inventory, &[address.clone()].into());
    warnings.extend(in_use::unseen(&holders));
    let mut shown = Shown::of_function(function, &inventory, near, &names).held(address, &holders);
    shown.vgpu = discover::vgpus(host, &inventory, |other| other == bdf).remove(&bdf).map(VgpuView::from);
    shown.isolation = Ports::of(host).explain(&inventory, bdf).map(|isolation| isolation.to_string());
    print(session, &shown);
    session.warn(&warnings);
    Ok(Exit::Done)
}

fn print(session: &mut Session<'_, '_>, shown: &Shown) {
    if session.json() {
        session.print_json(shown);
    } else {
        let lines: String = shown.lines().into_iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect();
        session.print(format_args!("{lines}"));
    }
}

impl VgpuView {
    pub(super) const fn is_one(&self) -> bool {
        self.current.is_some()
    }

    /// `type 1158`, or what it can be made.
    pub(super) fn words(&self) -> String {
        let types: Vec<String> = self.creatable.iter().map(|kind| format!("{} ({})", kind.id, kind.name)).collect();
        match self.current {
            Some(id) => format!("type {id}; it stays on the nvidia driver"),
            None if types.is_empty() => String::from("none, and none can be made now"),
            None => format!("none; can be made {}", types.join(", ")),
        }
    }
}

impl From<Vgpu> for VgpuView {
    fn from(vgpu: Vgpu) -> Self {
        let creatable = vgpu.creatable.into_iter().map(|kind| VgpuTypeView { id: kind.id, name: kind.name });
        Self { current: vgpu.current, creatable: creatable.collect() }
    }
}

impl Shown {
    fn of_queue(device: &IdxdDevice, queue: &WorkQueue) -> Self {
        Self {
            wq: Some(QueueView::of(device, queue)),
            purpose: Some(format!("{}; {NO_VFIO_PROVIDER}", queue.purpose(device))),
            ..Self::bare(Device::of_queue(device, queue))
        }
    }

    fn of_subfunction(subfunction: &Subfunction, inventory: &Inventory) -> Self {
        let pf = inventory.functions.get(&subfunction.function);
        Self {
            group_members: pf.map(|pf| view::siblings(inventory, pf)).unwrap_or_default(),
            sf: Some(SfView { sfnum: subfunction.sfnum, auxiliary: subfunction.name.to_string() }),
            purpose: Some(sf::NO_VFIO_PROVIDER.to_owned()),
            ..Self::bare(Device::of_subfunction(subfunction, inventory))
        }
    }

    fn of_mdev(mdev: &crate::model::Mdev) -> Self {
        let group_node = mdev.group.map(|group| format!("/dev/vfio/{group}"));
        Self { group_node, ..Self::bare(Device::of_mdev(mdev)) }
    }

    /// Of a device that is no PCI function.
    fn bare(device: Device) -> Self {
        Self {
            schema: "vfioadm.show/1",
            device,
            subsystem: None,
            group_members: Vec::new(),
            isolation: None,
            group_node: None,
            vfs: None,
            reset_methods: None,
            power_state: None,
            link: None,
            max_link: None,
            boot_vga: false,
            mdev_parent: false,
            netdevs: Vec::new(),
            blocks: Vec::new(),
            wq: None,
            vgpu: None,
            sf: None,
            purpose: None,
            error: None,
        }
    }

    fn of_function(function: &PciFunction, inventory: &Inventory, near: CloseUp, names: &Names) -> Self {
        let (subvendor, subdevice) = function.alias.subsystem();
        let link = |link: Option<Link>| link.map(|Link { speed, width }| LinkView { speed, width });
        // What is behind a bridge is not its own.
        let own = !function.class().is_bridge();
        let netdevs = near.netdevs.into_iter().filter(|_| own);
        let blocks = near.blocks.into_iter().filter(|_| own);
        Self {
            schema: "vfioadm.show/1",
            device: Device::of_function(function, names),
            subsystem: Some(format!("{subvendor:04x}:{subdevice:04x}")),
            group_members: view::siblings(inventory, function),
            isolation: None,
            group_node: function.group.filter(|_| function.is_vfio()).map(|group| format!("/dev/vfio/{group}")),
            vfs: match function.role {
                Role::Pf { total, enabled, autoprobe } => Some(Vfs { total, enabled, autoprobe }),
                _ => None,
            },
            reset_methods: near.reset_methods,
            power_state: near.power_state,
            link: link(near.link),
            max_link: link(near.max_link),
            boot_vga: function.boot_vga,
            mdev_parent: function.mdev_parent,
            netdevs: netdevs
                .map(|netdev| NetDevView {
                    stacked: netdev.uppers.iter().map(ToString::to_string).collect(),
                    uppers: netdev.uppers.into_iter().map(|upper| upper.name).collect(),
                    name: netdev.name,
                    up: netdev.up,
                    default_route: netdev.default_route,
                })
                .collect(),
            blocks: blocks
                .map(|block| BlockView {
                    uses: block.uses(),
                    name: block.name,
                    mounts: block.mounts,
                    swap: block.swap,
                    holders: block.holders.into_iter().map(|holder| holder.name).collect(),
                    zfs_pool: block.pool,
                })
                .collect(),
            wq: None,
            vgpu: None,
            sf: None,
            purpose: None,
            error: None,
        }
    }

    /// The same with who has it open.
    fn held(self, address: &Address, holders: &Holders) -> Self {
        Self { device: self.device.held(address, holders), ..self }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let device = &self.device;
        let mut lines = vec![("address", device.address.clone())];
        lines.extend(device.name.clone().map(|name| ("name", name)));
        if let (Some(vendor), Some(id), Some(class)) = (&device.vendor, &device.device, &device.class) {
            let subsystem = self.subsystem.as_deref().unwrap_or("-");
            lines.push(("ids", format!("{vendor}:{id}, subsystem {subsystem}, class {class}")));
        }
        lines.push((
            "role",
            match (&self.vfs, &device.pf) {
                (Some(vfs), _) => format!(
                    "PF, {} of {} VFs enabled, native drivers {} them",
                    vfs.enabled,
                    vfs.total,
                    if vfs.autoprobe { "probe" } else { "do not probe" }
                ),
                (None, Some(pf)) if self.sf.is_some() => format!("subfunction of {pf}"),
                (None, Some(pf)) => format!("VF {} of {pf}", or_dash(device.vf_index)),
                (None, None) => device.role.to_owned(),
            },
        ));
        lines.push(("driver", or_dash(device.driver.as_ref())));
        if let Some(queue) = &self.wq {
            lines.extend(queue.lines());
            lines.extend(self.purpose.clone().map(|purpose| ("use", purpose)));
            return lines;
        }
        if let Some(subfunction) = &self.sf {
            lines.push(("auxiliary", subfunction.auxiliary.clone()));
            lines.push((
                "IOMMU group",
                device.iommu_group.map_or_else(|| String::from("-"), |of| format!("{of}, its PF's")),
            ));
            lines.extend(self.purpose.clone().map(|purpose| ("use", purpose)));
            return lines;
        }
        lines.push(("override", or_dash(device.driver_override.as_ref())));
        let with = if self.group_members.is_empty() {
            String::from("alone")
        } else {
            format!("with {}", self.group_members.join(", "))
        };
        lines.push((
            "IOMMU group",
            device.iommu_group.map_or_else(|| String::from("-"), |group| format!("{group}, {with}")),
        ));
        lines.extend(self.isolation.clone().map(|why| ("isolation", why)));
        lines.extend(self.group_node.clone().map(|node| ("group node", node)));
        lines.extend(device.cdev.clone().map(|node| ("cdev", node)));
        lines.extend(device.holder_words().into_iter().map(|words| ("held by", words)));
        lines.push(("NUMA node", or_dash(device.numa_node)));
        if device.role != "mdev" {
            let methods =
                self.reset_methods.as_ref().map_or_else(|| String::from("none"), |methods| methods.join(", "));
            lines.push(("reset by", methods));
        }
        lines.extend(self.power_state.clone().map(|state| ("power state", state)));
        if let Some(link) = &self.link {
            let most = self
                .max_link
                .as_ref()
                .map_or_else(String::new, |most| format!(" (at most {} x{})", most.speed, most.width));
            lines.push(("link", format!("{} x{}{most}", link.speed, link.width)));
        }
        if let Some(vgpu) = &self.vgpu {
            lines.push(("vGPU", vgpu.words()));
        }
        if self.boot_vga {
            lines.push(("boot VGA", String::from("yes")));
        }
        if self.mdev_parent {
            lines.push(("mdev parent", String::from("yes")));
        }
        for netdev in &self.netdevs {
            let state = if netdev.up { "up" } else { "down" };
            let route = if netdev.default_route { ", carries a default route" } else { "" };
            let stacked: String = netdev.stacked.iter().map(|stacked| format!(", {stacked}")).collect();
            lines.push(("netdev", format!("{}, {state}{route}{stacked}", netdev.name)));
        }
        for block in &self.blocks {
            let uses = if block.uses.is_empty() { String::from("not in use") } else { block.uses.join(", ") };
            lines.push(("block device", format!("{}, {uses}", block.name)));
        }
        lines
    }
}
