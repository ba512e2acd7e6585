//! `vfioadm inspect DEVICE`

use serde::Serialize;

use super::Session;
use super::args::prove::InspectArgs;
use super::probe::{self, Subject, way_name};
use super::report::{Exit, Trouble};
use crate::host::device::{
    DeviceCapability, Feature, HotResetInfo, HwCapabilities, Iommu, IrqInfo, MigrationFlags, Owner, RegionCapability,
    RegionFlags, RegionInfo, Way,
};
use crate::host::device::{DeviceFlags, IrqFlags};
use crate::prove::inspect as asked;
use crate::prove::inspect::{Inspection, Migrates, irq_name, region_name};

/// A device as it is printed. Every key is always there.
#[derive(Debug, Serialize)]
pub(super) struct Inspected {
    schema: &'static str,
    device: Option<String>,
    driver: Option<String>,
    opened_by: Option<Opened>,
    flags: Vec<&'static str>,
    capabilities: Vec<String>,
    regions: Vec<RegionRow>,
    irqs: Vec<IrqRow>,
    reset: Option<Reset>,
    features: Vec<FeatureRow>,
    migration: Option<Migration>,
    dirty_tracking: Option<Tracking>,
    low_power: Option<bool>,
    dma_buf: Option<bool>,
    error: Option<Trouble>,
}

#[derive(Debug, Serialize)]
struct Opened {
    way: &'static str,
    node: String,
}

#[derive(Debug, Serialize)]
struct RegionRow {
    index: u32,
    name: String,
    size: u64,
    offset: u64,
    flags: Vec<&'static str>,
    capabilities: Vec<String>,
}

#[derive(Debug, Serialize)]
struct IrqRow {
    index: u32,
    name: &'static str,
    count: u32,
    flags: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Reset {
    alone: bool,
    /// `None` where neither its slot nor its bus can be reset.
    hot: Option<Hot>,
}

#[derive(Debug, Serialize)]
struct Hot {
    /// Whether all of it is the opener's; `None` by a group.
    owned: Option<bool>,
    devices: Vec<HotDevice>,
}

#[derive(Debug, Serialize)]
struct HotDevice {
    address: String,
    owner: String,
}

#[derive(Debug, Serialize)]
struct FeatureRow {
    index: u16,
    name: &'static str,
    get: bool,
    set: bool,
}

/// How it migrates, as printed here and by `state info`.
#[derive(Debug, Serialize)]
pub(super) struct Migration {
    flags: Vec<&'static str>,
    state: &'static str,
    data_size: Option<u64>,
}

impl From<&Migrates> for Migration {
    fn from(migrates: &Migrates) -> Self {
        Self { flags: probe::flag_names(migrates.flags), state: migrates.state.name(), data_size: migrates.data_size }
    }
}

#[derive(Debug, Serialize)]
struct Tracking {
    device: bool,
    /// `None` where that cannot be told: by a group, without IOMMU.
    iommu: Option<bool>,
}

pub(super) fn run(args: &InspectArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let host = opened.host();
    let subject = Subject::of(&args.device, "inspect", host, session)?;
    subject.warn_of_reset(session);
    let device = subject.open(host, &args.open)?;
    let found = asked::inspect(device.as_ref()).map_err(|error| probe::refused(&subject.address, &error))?;
    let shown = Inspected::of(&subject, device.way(), &found);
    drop(device);
    if session.json() {
        session.print_json(&shown);
    } else {
        let text = words(&subject, &found, &shown);
        session.print(format_args!("{text}"));
    }
    Ok(Exit::Done)
}

impl Inspected {
    fn of(subject: &Subject, way: &Way, found: &Inspection) -> Self {
        let feature = |offered: &asked::Offered| FeatureRow {
            index: offered.feature.0,
            name: offered.feature.name().unwrap_or_default(),
            get: offered.get,
            set: offered.set,
        };
        Self {
            schema: "vfioadm.inspect/1",
            device: Some(subject.address.to_string()),
            driver: Some(subject.driver.clone()),
            opened_by: Some(Opened { way: way_name(way), node: way.node().to_string() }),
            flags: device_flags(found.info.flags),
            capabilities: found.info.capabilities.iter().map(device_capability).collect(),
            regions: found.regions.iter().map(|(index, region)| region_row(*index, region, &subject.driver)).collect(),
            irqs: found.irqs.iter().map(|(index, irq)| irq_row(*index, irq)).collect(),
            reset: Some(Reset {
                alone: found.info.flags.contains(DeviceFlags::RESET),
                hot: found.hot_reset.as_ref().map(hot),
            }),
            features: found.features.iter().map(feature).collect(),
            migration: found.migration.as_ref().map(Migration::from),
            dirty_tracking: Some(Tracking { device: found.logs_dma(), iommu: iommu_tracks(&found.iommu) }),
            low_power: Some(found.has(Feature::LOW_POWER_ENTRY)),
            dma_buf: Some(found.has(Feature::DMA_BUF)),
            error: None,
        }
    }
}

fn device_flags(flags: DeviceFlags) -> Vec<&'static str> {
    let names = [
        (DeviceFlags::RESET, "reset"),
        (DeviceFlags::PCI, "pci"),
        (DeviceFlags::PLATFORM, "platform"),
        (DeviceFlags::AMBA, "amba"),
        (DeviceFlags::CCW, "ccw"),
        (DeviceFlags::AP, "ap"),
        (DeviceFlags::FSL_MC, "fsl_mc"),
        (DeviceFlags::CAPS, "caps"),
        (DeviceFlags::CDX, "cdx"),
    ];
    probe::named(&names, |flag| flags.contains(flag))
}

fn device_capability(capability: &DeviceCapability) -> String {
    match capability {
        DeviceCapability::ZpciBase(base) => {
            format!("zpci_base: pchid {:#x}, vfn {:#x}, gid {}", base.pchid, base.vfn, base.gid)
        }
        DeviceCapability::ZpciGroup(group) => {
            format!("zpci_group: version {}, noi {}, maxstbl {}", group.version, group.noi, group.maxstbl)
        }
        DeviceCapability::ZpciUtil(bytes) => format!("zpci_util: {} bytes", bytes.len()),
        DeviceCapability::ZpciPfip(bytes) => format!("zpci_pfip: {} bytes", bytes.len()),
        DeviceCapability::PciAtomicComp(bits) => format!("pci_atomic_comp: {:#x}", bits.bits()),
        DeviceCapability::Other(id, version) => format!("capability {id}, version {version}"),
    }
}

fn region_row(index: u32, region: &RegionInfo, driver: &str) -> RegionRow {
    let names = [
        (RegionFlags::READ, "read"),
        (RegionFlags::WRITE, "write"),
        (RegionFlags::MMAP, "mmap"),
        (RegionFlags::CAPS, "caps"),
    ];
    let flags = probe::named(&names, |flag| region.flags.contains(flag));
    let capability = |capability: &RegionCapability| match capability {
        RegionCapability::SparseMmap(areas) => {
            let areas: Vec<String> = areas.iter().map(|area| format!("{:#x}+{:#x}", area.offset, area.size)).collect();
            format!("sparse_mmap: {}", areas.join(" "))
        }
        RegionCapability::Type(kind) => format!("type: {:#x}, {}", kind.kind, kind.subtype),
        RegionCapability::MsixMappable => "msix_mappable".to_owned(),
        RegionCapability::Other(id, version) => format!("capability {id}, version {version}"),
    };
    // A VF has no I/O BAR: where virtio_vfio_pci shows one that is not mapped, the PF stands behind it.
    let is_legacy =
        driver == "virtio_vfio_pci" && index == 0 && region.size > 0 && !region.flags.contains(RegionFlags::MMAP);
    let name = if is_legacy { "BAR 0, virtio legacy I/O".to_owned() } else { region_name(index, region) };
    let capabilities = region.capabilities.iter().map(capability).collect();
    RegionRow { index, name, size: region.size, offset: region.offset, flags, capabilities }
}

fn irq_row(index: u32, irq: &IrqInfo) -> IrqRow {
    let names = [
        (IrqFlags::EVENTFD, "eventfd"),
        (IrqFlags::MASKABLE, "maskable"),
        (IrqFlags::AUTOMASKED, "automasked"),
        (IrqFlags::NORESIZE, "noresize"),
    ];
    let flags = probe::named(&names, |flag| irq.flags.contains(flag));
    IrqRow { index, name: irq_name(index), count: irq.count, flags }
}

fn hot(info: &HotResetInfo) -> Hot {
    let devices = info.devices.iter().map(|device| HotDevice {
        address: format!("{:04x}:{:02x}:{:02x}.{}", device.segment, device.bus, device.devfn >> 3, device.devfn & 7),
        owner: match device.owner {
            Owner::Group(group) => format!("group {group}"),
            Owner::Bound(_) => "opened here".to_owned(),
            Owner::InOwnGroup => "in a group opened here".to_owned(),
            Owner::Other => "not opened here".to_owned(),
        },
    });
    Hot { owned: info.owned, devices: devices.collect() }
}

/// Whether the IOMMU can tell where a device writes; `None` where that cannot be asked.
fn iommu_tracks(iommu: &Iommu) -> Option<bool> {
    match iommu {
        Iommu::Iommufd(info) => Some(info.capabilities.contains(HwCapabilities::DIRTY_TRACKING)),
        // A container has an ioctl for pages that are pinned, which says nothing of the IOMMU.
        Iommu::Type1(_) | Iommu::None => None,
    }
}

/// What it comes to, in words first.
fn words(subject: &Subject, found: &Inspection, shown: &Inspected) -> String {
    let mut lines = vec![format!("{} on {}", subject.address, subject.driver)];
    lines.push(format!("  {}", migration_words(found)));
    lines.push(format!("  {}", tracking_words(found)));
    lines.push(format!("  {}", reset_words(shown)));
    let names: Vec<&str> = shown.features.iter().map(|feature| feature.name).collect();
    lines.push(format!("  features: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") }));
    if !shown.capabilities.is_empty() {
        lines.push(format!("  capabilities: {}", shown.capabilities.join("; ")));
    }
    lines.push("  regions:".to_owned());
    for row in shown.regions.iter().filter(|row| row.size > 0) {
        let more =
            if row.capabilities.is_empty() { String::new() } else { format!("; {}", row.capabilities.join("; ")) };
        lines.push(format!(
            "    {:>2}  {:<24} {:>10}  {}{more}",
            row.index,
            row.name,
            size(row.size),
            row.flags.join(" ")
        ));
    }
    lines.push("  interrupts:".to_owned());
    for row in shown.irqs.iter().filter(|row| row.count > 0) {
        lines.push(format!("    {:>2}  {:<24} {:>10}  {}", row.index, row.name, row.count, row.flags.join(" ")));
    }
    if let Some(opened) = &shown.opened_by {
        lines.push(format!("  opened by {}", opened.node));
    }
    lines.join("\n") + "\n"
}

fn migration_words(found: &Inspection) -> String {
    let Some(migrates) = &found.migration else {
        return "it cannot live-migrate: its driver offers no migration".to_owned();
    };
    let has = |flag| migrates.flags.contains(flag);
    let precopy = if has(MigrationFlags::PRE_COPY) { " with pre-copy" } else { ", all while it stands still" };
    let p2p = if has(MigrationFlags::P2P) { ", together with other devices of its VM" } else { "" };
    let size = migrates.data_size.map(|bytes| format!("; about {} of state", size(bytes))).unwrap_or_default();
    format!("it can live-migrate{precopy}{p2p}{size}; it is in {}", migrates.state)
}

fn tracking_words(found: &Inspection) -> &'static str {
    match (found.logs_dma(), iommu_tracks(&found.iommu)) {
        (true, _) => "dirty tracking: the device logs where it writes",
        (false, Some(true)) => "dirty tracking: by the IOMMU",
        (false, Some(false)) => "dirty tracking: none, neither by the device nor by the IOMMU",
        (false, None) => "dirty tracking: not by the device; of the IOMMU a group does not tell",
    }
}

fn reset_words(shown: &Inspected) -> String {
    let Some(reset) = &shown.reset else { return String::new() };
    let hit = reset.hot.as_ref().map(|hot| {
        let others: Vec<&str> = hot.devices.iter().map(|device| device.address.as_str()).collect();
        format!("with its slot or bus, which hits {}", others.join(", "))
    });
    match (reset.alone, hit) {
        (true, None) => "reset: alone; not with its slot or bus".to_owned(),
        (true, Some(hit)) => format!("reset: alone; {hit}"),
        (false, None) => "reset: it cannot be reset, neither alone nor with its slot or bus".to_owned(),
        (false, Some(hit)) => format!("reset: not alone; {hit}"),
    }
}

/// Bytes, in the largest unit of which there is one, to a tenth.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    match (bytes / unit, bytes % unit * 10 / unit) {
        (whole, 0) => format!("{whole} {name}"),
        (whole, tenths) => format!("{whole}.{tenths} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_a_unit_and_a_tenth() {
        let said = [0, 1023, 1024, 262_188, 1 << 20, (1 << 32) - 1, 3 << 40].map(size);
        assert_eq!(said, ["0 B", "1023 B", "1 KiB", "256 KiB", "1 MiB", "3.9 GiB", "3 TiB"]);
    }
}
