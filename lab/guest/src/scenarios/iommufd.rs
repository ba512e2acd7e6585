//! The calls of an iommufd that `vfioadm_uapi` offers, on a real one: what they do, and with which errno they refuse.
//!
//! The fake kernel has no address spaces, so these are no cases of the contract.

use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vfioadm_uapi::dma_logging::IovaRange;
use vfioadm_uapi::iommufd::hwpt::{self, HwCapabilities, HwptFlags, Then, Tracking};
use vfioadm_uapi::iommufd::ioas::{self, EVERYTHING, MapFlags};
use vfioadm_uapi::iommufd::{self, ObjectId};
use vfioadm_uapi::memory::Memory;
use vfioadm_uapi::{Errno, cdev};

use super::prove::ports;
use super::tool::json;
use crate::hold::{Opened, node};
use crate::machine::Role;
use crate::orders::Counts;
use crate::runner::{Case, Verdict};
use crate::sysfs::{Device, names};

pub(crate) const CASES: [Case; 5] = [
    Case::new("iommufd: an address space without a device takes any address, once", alone),
    Case::new("iommufd: with a device, an address space has pages, and holes where interrupts go", with_device),
    Case::new("iommufd: a device is attached, moved and let go, and what it uses cannot be destroyed", attached),
    Case::new("iommufd: a page table of one's own, and dirty tracking where the IOMMU has none", page_table),
    Case::new("iommufd: an emulated device is attached to an address space, and has no page table", emulated),
];

const PAGE: u64 = 4096;
/// Where x86 has its interrupts: no memory can be mapped there (`drivers/iommu/intel/iommu.c` `intel_iommu_get_resv_regions()`).
const INTERRUPTS: u64 = 0xfee0_0000;
/// No object has that number.
const NOBODY: ObjectId = ObjectId(4711);
const BOTH: MapFlags = MapFlags::READABLE.union(MapFlags::WRITEABLE);
const THERE: MapFlags = BOTH.union(MapFlags::FIXED_IOVA);

/// A device that is bound to an iommufd of its own.
struct Bound {
    device: OwnedFd,
    iommufd: OwnedFd,
    id: ObjectId,
}

impl Bound {
    /// Opens the cdev of that name.
    fn open(cdev: &str) -> Result<Bound, String> {
        let (device, iommufd) = (node(&format!("/dev/vfio/devices/{cdev}"))?, node("/dev/iommu")?);
        expect("detach, not bound", cdev::detach(device.as_fd()), Err(Errno::INVAL))?;
        expect("attach, not bound", cdev::attach(device.as_fd(), NOBODY), Err(Errno::INVAL))?;
        let id = must("bind", cdev::bind_iommufd(device.as_fd(), iommufd.as_fd()))?;
        Ok(Bound { device, iommufd, id })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.iommufd.as_fd()
    }

    fn space(&self) -> Result<ObjectId, String> {
        must("IOMMU_IOAS_ALLOC", iommufd::ioas_alloc(self.fd()))
    }

    fn attach(&self, to: ObjectId) -> Result<ObjectId, Errno> {
        cdev::attach(self.device.as_fd(), to)
    }
}

fn edu() -> Result<(Device, Bound), String> {
    let edu = Role::Edu.device()?;
    json(0, &["bind", edu.address()])?;
    let cdev = names(&edu.path("vfio-dev")).into_iter().next().ok_or_else(|| format!("{edu} has no cdev"))?;
    let bound = Bound::open(&cdev)?;
    Ok((edu, bound))
}

/// Expects an answer.
fn expect<T: PartialEq + Debug>(what: &str, got: Result<T, Errno>, wanted: Result<T, Errno>) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?}, expected {wanted:?}")) }
}

fn must<T>(what: &str, got: Result<T, Errno>) -> Result<T, String> {
    got.map_err(|errno| format!("{what}: {errno:?}"))
}

fn memory(pages: u64) -> Result<Memory, String> {
    must("mmap", Memory::new(usize::try_from(pages * PAGE).map_err(|error| error.to_string())?))
}

const fn range(iova: u64, length: u64) -> IovaRange {
    IovaRange { iova, length }
}

fn alone(_: Counts) -> Verdict {
    let iommufd = node("/dev/iommu")?;
    let fd = iommufd.as_fd();
    let space = must("IOMMU_IOAS_ALLOC", iommufd::ioas_alloc(fd))?;
    let found = must("IOMMU_IOAS_IOVA_RANGES", ioas::iova_ranges(fd, space))?;
    if (found.ranges.as_slice(), found.alignment) != (&[(0, u64::MAX)], 1) {
        return Err(format!("an address space of nobody has {found:?}").into());
    }
    expect("ranges of none", ioas::iova_ranges(fd, NOBODY).map(drop), Err(Errno::NOENT))?;
    let two = memory(2)?;
    let map = |space, flags, iova| ioas::map(fd, space, &two, flags, iova);
    expect("neither read nor written", map(space, MapFlags::FIXED_IOVA, PAGE), Err(Errno::INVAL))?;
    expect("in no space", map(NOBODY, BOTH, 0), Err(Errno::NOENT))?;
    expect("there", map(space, THERE, 16 * PAGE), Ok(16 * PAGE))?;
    expect("there again", map(space, THERE, 16 * PAGE), Err(Errno::EXIST))?;
    expect("over its end", map(space, THERE, 17 * PAGE), Err(Errno::EXIST))?;
    expect("beyond the last address", map(space, THERE, u64::MAX - PAGE + 1), Err(Errno::OVERFLOW))?;
    expect("at the last address", map(space, THERE, u64::MAX), Err(Errno::OVERFLOW))?;
    let chosen = must("where there is room", map(space, BOTH, 0))?;
    if chosen == 0 || (16 * PAGE..18 * PAGE).contains(&chosen) {
        return Err(format!("{chosen:#x} was chosen").into());
    }
    let unmap = |space, range| ioas::unmap(fd, space, range);
    expect("of none", unmap(NOBODY, EVERYTHING), Err(Errno::NOENT))?;
    // Older kernels want something to be there.
    match unmap(space, range(64 * PAGE, PAGE)) {
        Ok(0) | Err(Errno::NOENT) => {}
        other => return Err(format!("where nothing is: {other:?}").into()),
    }
    expect("half", unmap(space, range(16 * PAGE, PAGE)), Err(Errno::NOENT))?;
    expect("no bytes", unmap(space, range(16 * PAGE, 0)), Err(Errno::INVAL))?;
    expect("beyond", unmap(space, range(16 * PAGE, u64::MAX - PAGE)), Err(Errno::OVERFLOW))?;
    expect("with room around it", unmap(space, range(15 * PAGE, 4 * PAGE)), Ok(2 * PAGE))?;
    expect("all", unmap(space, EVERYTHING), Ok(2 * PAGE))?;
    expect("all of nothing", unmap(space, EVERYTHING), Ok(0))?;
    expect("destroy", iommufd::destroy(fd, space), Ok(()))?;
    expect("destroy again", iommufd::destroy(fd, space), Err(Errno::NOENT))?;
    compatible(fd)
}

/// The address space that a container's calls mean.
fn compatible(fd: BorrowedFd<'_>) -> Verdict {
    expect("none yet", ioas::compat(fd), Err(Errno::NODEV))?;
    expect("what is not there", ioas::set_compat(fd, NOBODY), Err(Errno::NOENT))?;
    let space = must("IOMMU_IOAS_ALLOC", iommufd::ioas_alloc(fd))?;
    expect("set", ioas::set_compat(fd, space), Ok(()))?;
    expect("get", ioas::compat(fd), Ok(space))?;
    expect("clear", ioas::clear_compat(fd), Ok(()))?;
    expect("none again", ioas::compat(fd), Err(Errno::NODEV))?;
    Ok(expect("destroy", iommufd::destroy(fd, space), Ok(()))?)
}

fn with_device(_: Counts) -> Verdict {
    let (_, bound) = edu()?;
    let (space, other) = (bound.space()?, bound.space()?);
    let (fd, page) = (bound.fd(), memory(1)?);
    let map = |space, iova| ioas::map(fd, space, &page, THERE, iova);
    expect("in the device", map(bound.id, PAGE), Err(Errno::NOENT))?;
    expect("where interrupts go, without a device", map(other, INTERRUPTS), Ok(INTERRUPTS))?;
    expect("attach to it", bound.attach(other).map(drop), Err(Errno::ADDRINUSE))?;
    must("attach", bound.attach(space))?;
    let found = must("IOMMU_IOAS_IOVA_RANGES", ioas::iova_ranges(fd, space))?;
    let has = |iova| found.ranges.iter().any(|(first, last)| (*first..=*last).contains(&iova));
    if found.alignment != PAGE || !has(PAGE) || has(INTERRUPTS) || has(u64::MAX) {
        return Err(format!("with a device there is {found:x?}").into());
    }
    expect("where interrupts go", map(space, INTERRUPTS), Err(Errno::INVAL))?;
    expect("at part of a page", map(space, PAGE + 1), Err(Errno::INVAL))?;
    expect("beyond what the IOMMU reaches", map(space, 1 << 62), Err(Errno::INVAL))?;
    expect("in reach", map(space, 1 << 30), Ok(1 << 30))?;
    expect("unmap", ioas::unmap(fd, space, range(1 << 30, PAGE)), Ok(PAGE))?;
    expect("read alone", ioas::map(fd, space, &page, MapFlags::READABLE, 0).map(drop), Ok(()))?;
    Ok(expect("unmap all", ioas::unmap(fd, space, EVERYTHING), Ok(PAGE))?)
}

fn attached(_: Counts) -> Verdict {
    let (edu, bound) = edu()?;
    let fd = bound.fd();
    let (first, second) = (bound.space()?, bound.space()?);
    expect("bind again", cdev::bind_iommufd(bound.device.as_fd(), fd), Err(Errno::INVAL))?;
    expect("attach to none", bound.attach(NOBODY), Err(Errno::NOENT))?;
    expect("attach to itself", bound.attach(bound.id), Err(Errno::INVAL))?;
    let table = must("attach", bound.attach(first))?;
    if [first, second, bound.id].contains(&table) {
        return Err(format!("attached to the page table {table:?} of {first:?}").into());
    }
    expect("attach again", bound.attach(first), Ok(table))?;
    expect("destroy what it is attached to", iommufd::destroy(fd, first), Err(Errno::BUSY))?;
    expect("destroy its page table", iommufd::destroy(fd, table), Err(Errno::BUSY))?;
    expect("destroy the device", iommufd::destroy(fd, bound.id), Err(Errno::BUSY))?;
    let moved = must("move", bound.attach(second))?;
    if moved == table {
        return Err("another address space has the same page table".to_owned().into());
    }
    expect("the page table that was made for it is gone", iommufd::destroy(fd, table), Err(Errno::NOENT))?;
    expect("destroy what it left", iommufd::destroy(fd, first), Ok(()))?;
    expect("move to what is gone", bound.attach(first), Err(Errno::NOENT))?;
    expect("it stays", iommufd::destroy(fd, second), Err(Errno::BUSY))?;
    for _ in 0..2 {
        expect("detach", cdev::detach(bound.device.as_fd()), Ok(()))?;
    }
    expect("destroy the last", iommufd::destroy(fd, second), Ok(()))?;
    drop(bound);
    let opened = Opened::by_group(&edu)?;
    expect("attach, by group", cdev::attach(opened.device.as_fd(), NOBODY), Err(Errno::NOTTY))?;
    Ok(expect("detach, by group", cdev::detach(opened.device.as_fd()), Err(Errno::NOTTY))?)
}

fn page_table(_: Counts) -> Verdict {
    let (_, bound) = edu()?;
    let (fd, space) = (bound.fd(), bound.space()?);
    let alloc = |device, space, flags| hwpt::alloc(fd, device, space, flags);
    expect("for nobody", alloc(NOBODY, space, HwptFlags::empty()), Err(Errno::NOENT))?;
    expect("of no space", alloc(bound.id, NOBODY, HwptFlags::empty()), Err(Errno::INVAL))?;
    expect("of the device", alloc(bound.id, bound.id, HwptFlags::empty()), Err(Errno::INVAL))?;
    let table = must("IOMMU_HWPT_ALLOC", alloc(bound.id, space, HwptFlags::empty()))?;
    expect("its space is in use", iommufd::destroy(fd, space), Err(Errno::BUSY))?;
    expect("attach", bound.attach(table), Ok(table))?;
    expect("destroy it", iommufd::destroy(fd, table), Err(Errno::BUSY))?;
    let page = memory(1)?;
    expect("map", ioas::map(fd, space, &page, THERE, PAGE), Ok(PAGE))?;
    expect("what it knows of nobody", hwpt::hw_info(fd, NOBODY).map(drop), Err(Errno::NOENT))?;
    let info = must("IOMMU_GET_HW_INFO", hwpt::hw_info(fd, bound.id))?;
    if info.capabilities.contains(HwCapabilities::DIRTY_TRACKING) {
        return Err(format!("this IOMMU tracks, and nothing here is about that: {info:?}").into());
    }
    expect("one that tracks", alloc(bound.id, space, HwptFlags::DIRTY_TRACKING), Err(Errno::OPNOTSUPP))?;
    for tracking in [Tracking::On, Tracking::Off] {
        let set = |table| hwpt::set_dirty_tracking(fd, table, tracking);
        expect("track", set(table), Err(Errno::OPNOTSUPP))?;
        expect("track what is none", set(space), Err(Errno::NOENT))?;
        expect("track what is not there", set(NOBODY), Err(Errno::NOENT))?;
    }
    for then in [Then::Forget, Then::Keep] {
        let read = |table, range| hwpt::dirty_bitmap(fd, table, range, PAGE, then).map(drop);
        expect("read", read(table, range(PAGE, PAGE)), Err(Errno::OPNOTSUPP))?;
        expect("read of what is none", read(space, range(PAGE, PAGE)), Err(Errno::NOENT))?;
        expect("read a part of a page", read(table, range(PAGE, PAGE / 2)), Err(Errno::INVAL))?;
    }
    expect("detach", cdev::detach(bound.device.as_fd()), Ok(()))?;
    expect("one's own stays", iommufd::destroy(fd, space), Err(Errno::BUSY))?;
    expect("destroy it", iommufd::destroy(fd, table), Ok(()))?;
    Ok(expect("and its space, with what is mapped", iommufd::destroy(fd, space), Ok(()))?)
}

fn emulated(_: Counts) -> Verdict {
    let [port, _] = ports()?;
    let directory = std::path::Path::new("/sys/bus/mdev/devices").join(&port).join("vfio-dev");
    let cdev = names(&directory).into_iter().next().ok_or_else(|| format!("{port} has no cdev"))?;
    let bound = Bound::open(&cdev)?;
    let (fd, space) = (bound.fd(), bound.space()?);
    expect("what its IOMMU can", hwpt::hw_info(fd, bound.id).map(drop), Err(Errno::NOENT))?;
    expect("a page table", hwpt::alloc(fd, bound.id, space, HwptFlags::empty()), Err(Errno::NOENT))?;
    expect("attach to none", bound.attach(NOBODY), Err(Errno::NOENT))?;
    expect("attach", bound.attach(space), Ok(space))?;
    expect("destroy what it is attached to", iommufd::destroy(fd, space), Err(Errno::BUSY))?;
    // Nobody's hardware: any address will do.
    let page = memory(1)?;
    expect("map", ioas::map(fd, space, &page, THERE, INTERRUPTS), Ok(INTERRUPTS))?;
    expect("unmap", ioas::unmap(fd, space, EVERYTHING), Ok(PAGE))?;
    expect("detach", cdev::detach(bound.device.as_fd()), Ok(()))?;
    Ok(expect("destroy", iommufd::destroy(fd, space), Ok(()))?)
}
