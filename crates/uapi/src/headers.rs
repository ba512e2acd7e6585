//! Ours against the C headers: request numbers, layouts and constants, read from the text of `linux/vfio.h`,
//! `linux/vfio_zdev.h` and `linux/iommufd.h`.
//!
//! `/usr/include` is read where it is installed; it may be older than our structures, or younger. So are the trees of the
//! kernels that the lab has built, below its cache: one of [`KNOWN`] or younger has to have all that we know. A kernel's own
//! headers are compared, and must be there and complete, when the crate is tested with `VFIOADM_UAPI_INCLUDE` naming the
//! directory that holds `linux/vfio.h`, such as `include/uapi` of a kernel tree.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::container::{API_VERSION, Extension};
use crate::device::{AtomicComp, DeviceFlags};
use crate::feature::Access;
use crate::group::GroupFlags;
use crate::iommufd::{hwpt, ioas};
use crate::irq::IrqFlags;
use crate::layout::Layout;
use crate::migration::{MigrationFlags, PrecopyFlags, State};
use crate::region::{RegionFlags, Type};
use crate::{
    capability, cdev, device, dma_logging, feature, group, hot_reset, iommufd, irq, migration, opcode, region,
};
use crate::{type1, zpci};

/// The kernel whose headers we know.
const KNOWN: (u32, u32) = (7, 2);

/// The headers.
const FILES: [&str; 3] = ["vfio", "vfio_zdev", "iommufd"];

/// Whether a header has to know everything that we know.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    All,
    Prefix,
}

#[test]
fn installed_headers_agree() {
    let headers: String = FILES.into_iter().filter_map(|name| header(Path::new("/usr/include"), name)).collect();
    compare(&headers, Wanted::Prefix);
}

#[test]
fn the_kernels_headers_agree() {
    let Some(directory) = option_env!("VFIOADM_UAPI_INCLUDE") else { return };
    let headers = FILES.map(|name| {
        header(Path::new(directory), name)
            .unwrap_or_else(|| panic!("no linux/{name}.h in VFIOADM_UAPI_INCLUDE, {directory}"))
    });
    compare(&headers.concat(), Wanted::All);
}

#[test]
fn the_labs_kernels_agree() {
    for (version, directory) in lab_kernels() {
        let headers: String = FILES.into_iter().filter_map(|name| header(&directory, name)).collect();
        compare(&headers, if version >= KNOWN { Wanted::All } else { Wanted::Prefix });
    }
}

/// The kernel trees that the lab has unpacked, with their versions: `linux-source-7.2` in each of its roots.
#[expect(clippy::disallowed_methods, reason = "a cache of the tests is read, not the machine")]
fn lab_kernels() -> Vec<((u32, u32), PathBuf)> {
    let set = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).unwrap_or_default();
    let below = |directory: PathBuf| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let trees = below(cache.join("vfioadm-lab")).into_iter().flat_map(|root| below(root.join("build")));
    let found = trees.filter_map(|tree| {
        let version = tree.file_name()?.to_str()?.strip_prefix("linux-source-")?.split_once('.')?;
        let directory = tree.join("src/include/uapi");
        header(&directory, "vfio").is_some().then_some(((version.0.parse().ok()?, version.1.parse().ok()?), directory))
    });
    found.collect()
}

#[test]
fn a_difference_is_found() {
    let longer = "struct iommu_destroy {\n\t__u32 size;\n\t__u32 flags;\n\t__u32 id;\n};\n";
    assert!(std::panic::catch_unwind(|| compare(longer, Wanted::Prefix)).is_err());
    let moved =
        "#define VFIO_TYPE (';')\n#define VFIO_BASE 100\n#define VFIO_DEVICE_RESET _IO(VFIO_TYPE, VFIO_BASE + 12)\n";
    assert!(std::panic::catch_unwind(|| compare(moved, Wanted::Prefix)).is_err());
    let wrong = "#define VFIO_GROUP_FLAGS_VIABLE (1 << 2)\n";
    assert!(std::panic::catch_unwind(|| compare(wrong, Wanted::Prefix)).is_err());
}

/// The constants that have no layout and no request number.
fn constants() -> Vec<(&'static str, u32)> {
    let mut all = vec![
        ("VFIO_API_VERSION", API_VERSION),
        ("VFIO_TYPE1_IOMMU", Extension::TYPE1.0),
        ("VFIO_SPAPR_TCE_IOMMU", Extension::SPAPR_TCE.0),
        ("VFIO_TYPE1v2_IOMMU", Extension::TYPE1V2.0),
        ("VFIO_DMA_CC_IOMMU", Extension::DMA_CC.0),
        ("VFIO_SPAPR_TCE_v2_IOMMU", Extension::SPAPR_TCE_V2.0),
        ("VFIO_NOIOMMU_IOMMU", Extension::NOIOMMU.0),
        ("VFIO_UNMAP_ALL", Extension::UNMAP_ALL.0),
        ("VFIO_UPDATE_VADDR", Extension::UPDATE_VADDR.0),
        ("VFIO_GROUP_FLAGS_VIABLE", GroupFlags::VIABLE.bits()),
        ("VFIO_GROUP_FLAGS_CONTAINER_SET", GroupFlags::CONTAINER_SET.bits()),
        ("VFIO_DEVICE_FLAGS_RESET", DeviceFlags::RESET.bits()),
        ("VFIO_DEVICE_FLAGS_PCI", DeviceFlags::PCI.bits()),
        ("VFIO_DEVICE_FLAGS_PLATFORM", DeviceFlags::PLATFORM.bits()),
        ("VFIO_DEVICE_FLAGS_AMBA", DeviceFlags::AMBA.bits()),
        ("VFIO_DEVICE_FLAGS_CCW", DeviceFlags::CCW.bits()),
        ("VFIO_DEVICE_FLAGS_AP", DeviceFlags::AP.bits()),
        ("VFIO_DEVICE_FLAGS_FSL_MC", DeviceFlags::FSL_MC.bits()),
        ("VFIO_DEVICE_FLAGS_CAPS", DeviceFlags::CAPS.bits()),
        ("VFIO_DEVICE_FLAGS_CDX", DeviceFlags::CDX.bits()),
        ("VFIO_REGION_INFO_FLAG_READ", RegionFlags::READ.bits()),
        ("VFIO_REGION_INFO_FLAG_WRITE", RegionFlags::WRITE.bits()),
        ("VFIO_REGION_INFO_FLAG_MMAP", RegionFlags::MMAP.bits()),
        ("VFIO_REGION_INFO_FLAG_CAPS", RegionFlags::CAPS.bits()),
        ("VFIO_IRQ_SET_DATA_EVENTFD", irq::DATA_EVENTFD),
        ("VFIO_IRQ_SET_ACTION_TRIGGER", irq::ACTION_TRIGGER),
        ("VFIO_IRQ_INFO_EVENTFD", IrqFlags::EVENTFD.bits()),
        ("VFIO_IRQ_INFO_MASKABLE", IrqFlags::MASKABLE.bits()),
        ("VFIO_IRQ_INFO_AUTOMASKED", IrqFlags::AUTOMASKED.bits()),
        ("VFIO_IRQ_INFO_NORESIZE", IrqFlags::NORESIZE.bits()),
        ("VFIO_DEVICE_INFO_CAP_ZPCI_BASE", device::CAP_ZPCI_BASE.into()),
        ("VFIO_DEVICE_INFO_CAP_ZPCI_GROUP", device::CAP_ZPCI_GROUP.into()),
        ("VFIO_DEVICE_INFO_CAP_ZPCI_UTIL", device::CAP_ZPCI_UTIL.into()),
        ("VFIO_DEVICE_INFO_CAP_ZPCI_PFIP", device::CAP_ZPCI_PFIP.into()),
        ("VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP", device::CAP_PCI_ATOMIC_COMP.into()),
        ("VFIO_PCI_ATOMIC_COMP32", AtomicComp::BITS_32.bits()),
        ("VFIO_PCI_ATOMIC_COMP64", AtomicComp::BITS_64.bits()),
        ("VFIO_PCI_ATOMIC_COMP128", AtomicComp::BITS_128.bits()),
        ("VFIO_REGION_INFO_CAP_SPARSE_MMAP", region::CAP_SPARSE_MMAP.into()),
        ("VFIO_REGION_INFO_CAP_TYPE", region::CAP_TYPE.into()),
        ("VFIO_REGION_INFO_CAP_MSIX_MAPPABLE", region::CAP_MSIX_MAPPABLE.into()),
        ("VFIO_PCI_NUM_REGIONS", region::PCI_NUM_REGIONS),
        ("VFIO_REGION_TYPE_PCI_VENDOR_TYPE", Type::VENDOR),
        ("VFIO_REGION_TYPE_PCI_VENDOR_MASK", u32::from(u16::MAX)),
        ("VFIO_REGION_TYPE_GFX", Type::GFX_EDID.kind),
        ("VFIO_REGION_SUBTYPE_GFX_EDID", Type::GFX_EDID.subtype),
        ("VFIO_REGION_TYPE_CCW", Type::CCW_CRW.kind),
        ("VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD", Type::CCW_ASYNC_CMD.subtype),
        ("VFIO_REGION_SUBTYPE_CCW_SCHIB", Type::CCW_SCHIB.subtype),
        ("VFIO_REGION_SUBTYPE_CCW_CRW", Type::CCW_CRW.subtype),
        ("VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION", Type::INTEL_OPREGION.subtype),
        ("VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG", Type::INTEL_HOST_CFG.subtype),
        ("VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG", Type::INTEL_LPC_CFG.subtype),
        ("VFIO_PCI_HOT_RESET_FLAG_DEV_ID", hot_reset::FLAG_DEV_ID),
        ("VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED", hot_reset::FLAG_DEV_ID_OWNED),
        ("VFIO_PCI_DEVID_OWNED", hot_reset::DEVID_OWNED),
        ("VFIO_DEVICE_FEATURE_MASK", u32::from(u16::MAX)),
        ("VFIO_DEVICE_FEATURE_GET", Access::GET.bits()),
        ("VFIO_DEVICE_FEATURE_SET", Access::SET.bits()),
        ("VFIO_DEVICE_FEATURE_PROBE", Access::PROBE.bits()),
        ("VFIO_DEVICE_FEATURE_CLEAR_MASTER", feature::BusMaster::Clear as u32),
        ("VFIO_DEVICE_FEATURE_SET_MASTER", feature::BusMaster::Set as u32),
        ("VFIO_DEVICE_BIND_FLAG_TOKEN", cdev::BIND_FLAG_TOKEN),
        ("VFIO_PRECOPY_INFO_REINIT", PrecopyFlags::REINIT.bits()),
        ("VFIO_IOMMU_INFO_CAPS", type1::INFO_CAPS),
        ("VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE", type1::CAP_IOVA_RANGE.into()),
        ("VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION", type1::CAP_MIGRATION.into()),
        ("VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL", type1::CAP_DMA_AVAIL.into()),
        ("VFIO_DMA_MAP_FLAG_READ", type1::MapFlags::READ.bits()),
        ("VFIO_DMA_MAP_FLAG_WRITE", type1::MapFlags::WRITE.bits()),
        ("VFIO_IOMMU_DIRTY_PAGES_FLAG_START", type1::DIRTY_START),
        ("VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP", type1::DIRTY_STOP),
        ("VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP", type1::DIRTY_GET_BITMAP),
        ("IOMMU_IOAS_MAP_FIXED_IOVA", ioas::MapFlags::FIXED_IOVA.bits()),
        ("IOMMU_IOAS_MAP_WRITEABLE", ioas::MapFlags::WRITEABLE.bits()),
        ("IOMMU_IOAS_MAP_READABLE", ioas::MapFlags::READABLE.bits()),
        ("IOMMU_VFIO_IOAS_GET", ioas::VFIO_IOAS_GET.into()),
        ("IOMMU_VFIO_IOAS_SET", ioas::VFIO_IOAS_SET.into()),
        ("IOMMU_VFIO_IOAS_CLEAR", ioas::VFIO_IOAS_CLEAR.into()),
        ("IOMMU_HWPT_ALLOC_NEST_PARENT", hwpt::HwptFlags::NEST_PARENT.bits()),
        ("IOMMU_HWPT_ALLOC_DIRTY_TRACKING", hwpt::HwptFlags::DIRTY_TRACKING.bits()),
        ("IOMMU_HWPT_ALLOC_PASID", hwpt::HwptFlags::PASID.bits()),
        ("IOMMU_HWPT_DIRTY_TRACKING_ENABLE", hwpt::DIRTY_TRACKING_ENABLE),
        ("IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR", hwpt::DIRTY_BITMAP_NO_CLEAR),
    ];
    all.extend(feature::NAMED.iter().map(|(name, number)| (*name, u32::from(*number))));
    let wide = [
        ("VFIO_MIGRATION_STOP_COPY", MigrationFlags::STOP_COPY.bits()),
        ("VFIO_MIGRATION_P2P", MigrationFlags::P2P.bits()),
        ("VFIO_MIGRATION_PRE_COPY", MigrationFlags::PRE_COPY.bits()),
        ("IOMMU_HW_CAP_DIRTY_TRACKING", hwpt::HwCapabilities::DIRTY_TRACKING.bits()),
        ("IOMMU_HW_CAP_PCI_PASID_EXEC", hwpt::HwCapabilities::PCI_PASID_EXEC.bits()),
        ("IOMMU_HW_CAP_PCI_PASID_PRIV", hwpt::HwCapabilities::PCI_PASID_PRIV.bits()),
        ("IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED", hwpt::HwCapabilities::PCI_ATS_NOT_SUPPORTED.bits()),
    ];
    all.extend(wide.map(|(name, bits)| (name, u32::try_from(bits).expect("a low bit"))));
    all
}

/// Panics at the first difference.
fn compare(headers: &str, wanted: Wanted) {
    let text = without_comments(headers);
    let names = names(&text);
    let all = |what: &str| assert!(wanted != Wanted::All, "the headers have no {what}");

    for (name, ours) in constants() {
        match names.get(name).and_then(|given| value(given, &names)) {
            Some(theirs) => assert_eq!(ours, theirs, "{name}"),
            None => all(name),
        }
    }
    for &(name, ours) in opcode::NAMED {
        match names.get(name).and_then(|given| request(given, &names)) {
            Some(theirs) => assert_eq!(ours & 0xffff, theirs, "{name}"),
            None => all(name),
        }
    }
    for state in State::ALL {
        match names.get(format!("VFIO_DEVICE_STATE_{state}").as_str()).and_then(|given| value(given, &names)) {
            Some(theirs) => assert_eq!(state.number(), theirs, "{state}"),
            None => all(state.name()),
        }
    }
    for ours in layouts() {
        match layout(&text, ours.name) {
            Some(theirs) => same_layout(&ours, &theirs, wanted),
            None => all(ours.name),
        }
    }
}

/// Every structure.
fn layouts() -> Vec<Layout> {
    let mut all = vec![capability::Header::LAYOUT, group::LAYOUT];
    all.extend(device::LAYOUTS);
    all.extend(zpci::LAYOUTS);
    all.extend(region::LAYOUTS);
    all.extend(irq::LAYOUTS);
    all.extend(hot_reset::LAYOUTS);
    all.extend(feature::LAYOUTS);
    all.extend(migration::LAYOUTS);
    all.extend(dma_logging::LAYOUTS);
    all.extend(type1::LAYOUTS);
    all.extend(cdev::LAYOUTS);
    all.extend(iommufd::layouts());
    all
}

/// The fields that both know have the same name and place, and one of the two knows them all.
fn same_layout(ours: &Layout, theirs: &Theirs, wanted: Wanted) {
    let name = ours.name;
    for (our, their) in ours.fields.iter().zip(&theirs.fields) {
        // Of a union, any of its names.
        let named = their.0.split('|').find(|one| *one == our.0).unwrap_or(&their.0);
        assert_eq!((our.0, our.1), (named, their.1), "struct {name}");
    }
    match (ours.fields.len(), theirs.fields.len()) {
        (our, their) if our == their => assert_eq!(ours.size, theirs.size, "struct {name}"),
        (our, their) if our > their => assert!(wanted == Wanted::Prefix, "struct {name} has only {:?}", theirs.fields),
        _ => assert!(ours.size < theirs.size, "struct {name}"),
    }
}

/// The text of a header, if it is there.
#[expect(clippy::disallowed_methods, reason = "a header is read, not the machine")]
fn header(directory: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(format!("linux/{name}.h"))).ok()
}

/// The text without what stands between `/*` and `*/`, and each definition in one line.
fn without_comments(text: &str) -> String {
    let text = text.replace("\\\n", " ");
    let mut parts = text.split("/*");
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        rest.push_str(part.split_once("*/").map_or("", |(_, after)| after));
    }
    rest
}

/// What each `#define` and each named enumerator stands for, as written.
fn names(text: &str) -> HashMap<&str, &str> {
    fn pair(line: &str) -> Option<(&str, &str)> {
        match line.strip_prefix("#define") {
            Some(rest) => rest.trim_start().split_once(char::is_whitespace),
            None => line.split_once(" = "),
        }
    }
    text.lines().filter_map(pair).map(|(name, given)| (name.trim(), given.trim().trim_end_matches(','))).collect()
}

/// A number, `(1 << n)`, a character, or the name of one of these.
fn value(text: &str, names: &HashMap<&str, &str>) -> Option<u32> {
    let text = text.trim().trim_start_matches('(').trim_end_matches(')');
    if let Some((one, shift)) = text.split_once("<<") {
        return Some(value(one, names)? << value(shift, names)?);
    }
    if let Some((base, more)) = text.split_once('+') {
        return Some(value(base, names)? + value(more, names)?);
    }
    if text == "';'" {
        return Some(u32::from(b';'));
    }
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok().or_else(|| value(names.get(text)?, names)),
    }
}

/// `_IO(type, number)`: the low 16 bits of the request.
fn request(text: &str, names: &HashMap<&str, &str>) -> Option<u32> {
    let (kind, number) = text.strip_prefix("_IO(")?.strip_suffix(')')?.split_once(',')?;
    Some(value(kind, names)? << 8 | value(number, names)?)
}

/// A structure as the header has it.
struct Theirs {
    fields: Vec<(String, usize)>,
    size: usize,
    align: usize,
}

/// The fields of a structure with their offsets, and its size, by the rules that all our architectures share. What follows the
/// structure (`data[]`) is none of it; a union is one field, `group_id|devid`.
fn layout(text: &str, name: &str) -> Option<Theirs> {
    let (_, body) = text.split_once(&format!("struct {name} {{"))?;
    // A structure ends where a line begins with the brace; a union ends indented.
    let (body, _) = body.split_once("\n};")?;
    let (mut fields, mut end, mut widest, mut union) = (Vec::<(String, usize)>::new(), 0usize, 1usize, None);
    let code: Vec<&str> = body.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    for field in code.join(" ").split(';').map(str::trim).filter(|field| !field.is_empty()) {
        let field = match field.strip_prefix("union {") {
            Some(first) => {
                union = Some(end);
                first.trim()
            }
            None => field,
        };
        if field == "}" {
            union = None;
            continue;
        }
        let (kind, field) = kind(field)?;
        let (field, count) = match field.split_once('[') {
            Some((field, "]")) => (field, 0),
            Some((field, rest)) => match rest.split_once(']')?.0 {
                "" => (field, 0),
                count => (field, count.parse().ok()?),
            },
            None => (field, 1),
        };
        let (size, align) = size(text, kind, name);
        let offset = union.unwrap_or(end).next_multiple_of(align);
        match fields.last_mut().filter(|(_, other)| union.is_some() && *other == offset) {
            Some((names, _)) => *names = format!("{names}|{}", field.trim()),
            None if count > 0 => fields.push((field.trim().to_owned(), offset)),
            None => {}
        }
        (end, widest) = (end.max(offset + size * count), widest.max(align));
    }
    Some(Theirs { fields, size: end.next_multiple_of(widest), align: widest })
}

/// The type of a declaration, and what it declares.
fn kind(field: &str) -> Option<(&str, &str)> {
    if let Some((_, pointer)) = field.split_once('*') {
        return Some(("__u64", pointer.trim()));
    }
    let rest = field.strip_prefix("struct").map_or(field, str::trim_start);
    let (kind, name) = rest.split_once(char::is_whitespace)?;
    Some((kind, name.trim().split_once(" __counted_by").map_or(name.trim(), |(name, _)| name)))
}

/// Size and alignment of a type.
fn size(text: &str, kind: &str, of: &str) -> (usize, usize) {
    match kind {
        "__u8" => (1, 1),
        "__u16" => (2, 2),
        "__u32" | "__s32" => (4, 4),
        "__u64" | "__aligned_u64" => (8, 8),
        other => match layout(text, other) {
            Some(theirs) => (theirs.size, theirs.align),
            None => panic!("struct {of} has a field of type {other}, which this test does not know"),
        },
    }
}
