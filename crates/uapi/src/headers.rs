//! Ours against the C headers: request numbers, layouts and constants, read from the text of `linux/vfio.h` and
//! `linux/iommufd.h`.
//!
//! `/usr/include` is read where it is installed; it may be older than our structures, or younger. A kernel's own headers
//! are compared, and must be there and complete, when the crate is tested with `VFIOADM_UAPI_INCLUDE` naming the
//! directory that holds `linux/vfio.h`, such as `include/uapi` of a kernel tree.

use std::collections::HashMap;

use crate::container::{API_VERSION, Extension};
use crate::device::DeviceFlags;
use crate::group::GroupFlags;
use crate::layout::Layout;
use crate::region::RegionFlags;
use crate::{cdev, device, group, iommufd, irq, opcode, region};

/// Whether a header has to know everything that we know.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    All,
    Prefix,
}

#[test]
fn installed_headers_agree() {
    let headers: String = ["vfio", "iommufd"].into_iter().filter_map(|name| header("/usr/include", name)).collect();
    compare(&headers, Wanted::Prefix);
}

#[test]
fn the_kernels_headers_agree() {
    let Some(directory) = option_env!("VFIOADM_UAPI_INCLUDE") else { return };
    let headers = ["vfio", "iommufd"].map(|name| {
        header(directory, name).unwrap_or_else(|| panic!("no linux/{name}.h in VFIOADM_UAPI_INCLUDE, {directory}"))
    });
    compare(&headers.concat(), Wanted::All);
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
    vec![
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
    ]
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
    let mut layouts = vec![group::LAYOUT, device::LAYOUT, irq::LAYOUT, region::LAYOUT];
    layouts.extend(cdev::LAYOUTS);
    layouts.extend(iommufd::LAYOUTS);
    for ours in layouts {
        match layout(&text, ours.name) {
            Some((fields, size)) => same_layout(&ours, &fields, size, wanted),
            None => all(ours.name),
        }
    }
}

/// The fields that both know have the same name and place, and one of the two knows them all.
fn same_layout(ours: &Layout, theirs: &[(String, usize)], size: usize, wanted: Wanted) {
    let name = ours.name;
    for (our, their) in ours.fields.iter().zip(theirs) {
        assert_eq!((our.0, our.1), (their.0.as_str(), their.1), "struct {name}");
    }
    match (ours.fields.len(), theirs.len()) {
        (our, their) if our == their => assert_eq!(ours.size, size, "struct {name}"),
        (our, their) if our > their => assert!(wanted == Wanted::Prefix, "struct {name} has only {theirs:?}"),
        _ => assert!(ours.size < size, "struct {name}"),
    }
}

/// The text of a header, if it is there.
#[expect(clippy::disallowed_methods, reason = "a header is read, not the machine")]
fn header(directory: &str, name: &str) -> Option<String> {
    std::fs::read_to_string(format!("{directory}/linux/{name}.h")).ok()
}

/// The text without what stands between `/*` and `*/`.
fn without_comments(text: &str) -> String {
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

/// The fields of a structure with their offsets, and its size, by the rules that all our architectures share.
fn layout(text: &str, name: &str) -> Option<(Vec<(String, usize)>, usize)> {
    let (_, body) = text.split_once(&format!("struct {name} {{"))?;
    let (body, _) = body.split_once("};")?;
    let (mut fields, mut end, mut widest) = (Vec::new(), 0usize, 1usize);
    let code: String = body.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    for field in code.split(';').map(str::trim).filter(|field| !field.is_empty()) {
        let (kind, field) = field.split_once(char::is_whitespace)?;
        let bytes = match kind {
            "__u8" => 1,
            "__u16" => 2,
            "__u32" | "__s32" => 4,
            "__u64" | "__aligned_u64" => 8,
            other => panic!("struct {name} has a field of type {other}, which this test does not know"),
        };
        let offset = end.next_multiple_of(bytes);
        fields.push((field.trim().to_owned(), offset));
        (end, widest) = (offset + bytes, widest.max(bytes));
    }
    Some((fields, end.next_multiple_of(widest)))
}
