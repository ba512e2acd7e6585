//! What the host would miss, or what would fight over the device: stacked interfaces, the way in, boot, console, TPM,
//! standing orders of other tools.

use super::{Finding, FindingId, Picture};
use crate::model::pci::{CloseUp, Duty};
use crate::model::rules::DynamicId;
use crate::model::stacked::UpperKind;
use crate::model::{DriverName, PciFunction, Role};

/// How many VFs are named one by one.
const MOST_NAMED: usize = 16;

/// What goes with the device, whatever it is to be given to.
pub(super) fn check_duties(device: &PciFunction, close_up: &CloseUp, found: &mut Vec<Finding>) {
    check_netdevs(device, close_up, found);
    check_boot(device, close_up, found);
    let bdf = device.bdf;
    for duty in &close_up.duties {
        let (id, message, remedy) = match duty {
            Duty::OnlyDisplay(framebuffers) => (
                FindingId::Console,
                format!("{bdf} is the only display, and the console is on it ({})", framebuffers.join(", ")),
                "log in over the network or a serial line first, and boot with console=ttyS0",
            ),
            Duty::ConsoleTty(tty) => (
                FindingId::Console,
                format!("{bdf} has {tty}, which the console is on (/sys/class/tty/console/active)"),
                "boot with another console= first",
            ),
            Duty::Tpm(name) => (
                FindingId::TpmInUse,
                format!("{bdf} has the TPM {name}: keys that are sealed to it would be out of reach"),
                "leave it to the host",
            ),
            Duty::Rng(name) => (
                FindingId::RngInUse,
                format!("{bdf} may be the random number generator that the kernel draws from ({name})"),
                "choose another: cat /sys/class/misc/hw_random/rng_available, echo NAME > /sys/class/misc/hw_random/rng_current",
            ),
        };
        found.push(Finding::new(id, bdf, message, remedy));
    }
}

fn check_netdevs(device: &PciFunction, close_up: &CloseUp, found: &mut Vec<Finding>) {
    let bdf = device.bdf;
    for netdev in &close_up.netdevs {
        let name = &netdev.name;
        for upper in &netdev.uppers {
            let message = format!("{bdf} has network interface {name}, which is {upper}");
            let over = &upper.name;
            let remedy = match upper.kind {
                UpperKind::OpenVswitch => format!("take it out of its bridge first: ovs-vsctl del-port {name}"),
                _ if upper.kind.is_master() => format!("take it out first: ip link set {name} nomaster"),
                _ => format!("remove what is stacked on it first: ip link delete {over}"),
            };
            found.push(Finding::new(FindingId::NetdevEnslaved, bdf, message, remedy));
        }
        if let Some(peer) = &netdev.ssh_peer {
            let message =
                format!("{bdf} has network interface {name}, which carries this ssh connection (from {peer})");
            let remedy = "log in over another interface, or at the console: this session would end in the middle";
            found.push(Finding::new(FindingId::SshRoute, bdf, message, remedy));
        }
    }
}

fn check_boot(device: &PciFunction, close_up: &CloseUp, found: &mut Vec<Finding>) {
    let uses = close_up.blocks.iter().filter_map(|block| Some((&block.name, block.boot.as_ref()?)));
    // A disk has the mounts of what is stacked on it, and so may say the same twice.
    let uses: Vec<String> = uses.map(|(name, boot)| format!("{name} ({boot})")).collect();
    if !uses.is_empty() {
        let bdf = device.bdf;
        let message =
            format!("{bdf} holds what machines start from, {}: this machine might not start again", uses.join(" and "));
        let remedy = "make sure that the firmware starts from another disk: efibootmgr, findmnt /boot";
        found.push(Finding::new(FindingId::HoldsBoot, bdf, message, remedy));
    }
}

/// A PF goes, or is moved, under VFs that somebody was given.
pub(super) fn check_vfs_in_vms(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    if !matches!(device.role, Role::Pf { enabled: 1.., .. }) {
        return;
    }
    let bdf = device.bdf;
    let given = |vf: &&PciFunction| vf.is_vfio() || vf.driver.as_ref().is_some_and(DriverName::is_vfio);
    let vfs: Vec<&PciFunction> = picture.inventory.vfs_of(bdf).filter(given).collect();
    if vfs.is_empty() {
        return;
    }
    let on = |vf: &&PciFunction| {
        format!("{} on {}", vf.bdf, vf.driver.as_ref().map_or("a VFIO driver", |driver| driver.as_str()))
    };
    let mut named: Vec<String> = vfs.iter().take(MOST_NAMED).map(on).collect();
    if vfs.len() > MOST_NAMED {
        named.push(format!("{} more", vfs.len() - MOST_NAMED));
    }
    let message = format!("{bdf} is the PF of VFs that are given to VFIO, and works for them: {}", named.join(", "));
    let some: Vec<String> = vfs.iter().take(MOST_NAMED).map(|vf| vf.bdf.to_string()).collect();
    let remedy = format!("end the VMs that have them and give them back first: vfioadm unbind {}", some.join(" "));
    found.push(Finding::new(FindingId::VfsInVms, bdf, message, remedy));
}

/// Standing orders of other tools.
pub(super) fn check_rules(picture: Picture<'_>, device: &PciFunction, found: &mut Vec<Finding>) {
    let (bdf, rules) = (device.bdf, picture.rules);
    let has = |id: &DynamicId| id.matches(&device.alias);
    for at_load in rules.ids.iter().filter(|at_load| at_load.ids.iter().any(has)) {
        let (ids, place) = (format!("{:04x}:{:04x}", device.alias.vendor(), device.alias.device()), &at_load.place);
        let same = |other: &&PciFunction| other.bdf != bdf && at_load.ids.iter().any(|id| id.matches(&other.alias));
        let others = match picture.inventory.functions.values().filter(same).count() {
            0 => String::new(),
            1 => String::from(", and one other function"),
            count => format!(", and {count} other functions"),
        };
        let message =
            format!("{place} has vfio-pci take {bdf} by its ids ({ids}) whenever that module is loaded{others}");
        let remedy = format!("take the ids out of {place}, and let vfioadm name the devices");
        found.push(Finding::new(FindingId::VfioPciIds, bdf, message, remedy));
    }
    let vfio = device.driver.as_ref().filter(|driver| device.is_vfio() || driver.is_vfio());
    if let Some(driver) = vfio.filter(|_| device.driver_override.is_none()) {
        let message =
            format!("{bdf} is on {driver} without an override: it came by a dynamic id, or the override was cleared");
        let remedy = "another driver may take it once it is unbound; bind it by its address: vfioadm bind";
        found.push(Finding::new(FindingId::DynamicId, bdf, message, format!("{remedy} {bdf}")));
    }
    if let Some(domains) = rules.libvirt.get(&bdf) {
        let message = format!(
            "libvirt takes {bdf} from its driver and gives it back by itself (managed='yes') for {}",
            domains.join(", ")
        );
        let domain = domains.first().map_or("DOMAIN", String::as_str);
        let remedy = format!("leave that to one of the two: set managed='no' with virsh edit {domain}");
        found.push(Finding::new(FindingId::LibvirtManaged, bdf, message, remedy));
    }
    if let Some(driver) = rules.driverctl.get(&bdf) {
        let message = format!("driverctl sets {driver} for {bdf} at boot and on hotplug (/etc/driverctl.d/pci-{bdf})");
        let remedy = format!("leave that to one of the two: driverctl unset-override {bdf}");
        found.push(Finding::new(FindingId::DriverctlRule, bdf, message, remedy));
    }
    if let Some(uuids) = rules.mdevctl.get(&bdf) {
        let message = format!("mdevctl has mdevs defined on {bdf}: {}", uuids.join(", "));
        let remedy = format!("they cannot start without its host driver: mdevctl list --defined --parent {bdf}");
        found.push(Finding::new(FindingId::MdevctlRule, bdf, message, remedy));
    }
}

/// A region that firmware wants mapped one to one.
///
/// # Kernel
/// `drivers/iommu/iommu.c` `__iommu_device_set_domain()` with `require_direct`: `EINVAL` when a user claims the group (7.2).
pub(super) fn check_direct_regions(device: &PciFunction, close_up: &CloseUp, found: &mut Vec<Finding>) {
    let Some(group) = device.group.filter(|_| !close_up.direct_regions.is_empty()) else { return };
    let bdf = device.bdf;
    let message = format!(
        "firmware has IOMMU group {group} of {bdf} mapped directly ({}): the kernel refuses it to VFIO users with EINVAL",
        close_up.direct_regions.join(", ")
    );
    let remedy = format!(
        "turn off in the firmware what shares memory with the device, or use another slot; see /sys/kernel/iommu_groups/{group}/reserved_regions"
    );
    found.push(Finding::new(FindingId::DirectRegion, bdf, message, remedy));
}
