//! A process that has a VFIO device open, with a pid of its own: this program again, as `/init hold WAY ADDRESS MANNER`.
//!
//! It says `held` when it has the device, and ends when its standard input does: no holder outlives the suites.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vfioadm_uapi::container::Extension;
use vfioadm_uapi::region::{Mapping, RegionFlags};
use vfioadm_uapi::{cdev, container, group, irq, region};

use crate::say;
use crate::sysfs::Device;

/// The word that makes this program a holder.
pub(crate) const HOLD: &str = "hold";
const BARS: std::ops::Range<u32> = 0..6;
const DEADLINE: Duration = Duration::from_secs(20);

/// What it has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The group, its container and the device.
    Group,
    /// The cdev and the iommufd that it is bound to.
    Cdev,
    /// A mapped BAR and no descriptor at all; the device was opened by its group.
    GroupBar,
    /// A mapped BAR and no descriptor at all; the device was opened by its cdev.
    CdevBar,
}

/// What it does when the kernel asks for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It cannot be asked: it has set no eventfd.
    Stays,
    /// It cannot be asked, and closes the device after a second.
    ASecond,
    /// It closes the device.
    Obeys,
    /// It is asked, and does not listen.
    Ignores,
}

const WAYS: [Way; 4] = [Way::Group, Way::Cdev, Way::GroupBar, Way::CdevBar];
const MANNERS: [Manner; 4] = [Manner::Stays, Manner::ASecond, Manner::Obeys, Manner::Ignores];

/// A holder, killed and reaped when it is dropped.
pub(crate) struct Holder {
    child: Child,
    /// Open until it has ended, for it says something at its end too.
    output: Option<BufReader<ChildStdout>>,
}

impl Holder {
    /// Starts one, and waits until it has the device.
    pub(crate) fn start(device: &Device, way: Way, manner: Manner) -> Result<Holder, String> {
        let words = [HOLD.to_owned(), format!("{way:?}"), device.address().to_owned(), format!("{manner:?}")];
        let mut child = Command::new("/init")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start a holder: {error}"))?;
        let output = child.stdout.take().map(BufReader::new);
        let mut holder = Holder { child, output };
        let mut line = String::new();
        // At the end of its output it has ended, and will never have the device.
        let read = holder.output.as_mut().map(|output| output.read_line(&mut line));
        if !matches!(read, Some(Ok(_))) || line.trim_end() != "held" {
            let ended = holder.child.wait();
            return Err(format!("no holder of {device} by {way:?}: {ended:?}, {line:?}"));
        }
        Ok(holder)
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its end, which it comes to by itself.
    pub(crate) fn ends(mut self) -> Result<ExitStatus, String> {
        let by = Instant::now() + DEADLINE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < by => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => return Err(format!("the holder {} does not end", self.pid())),
                Err(error) => return Err(format!("wait for the holder {}: {error}", self.pid())),
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Is a holder.
pub(crate) fn run(words: impl Iterator<Item = String>) -> Result<String, String> {
    let words: Vec<_> = words.collect();
    let [way, address, manner] = words.as_slice() else { return Err(format!("{HOLD} WAY ADDRESS MANNER")) };
    let way = WAYS.into_iter().find(|one| format!("{one:?}") == *way).ok_or("no such way")?;
    let manner = MANNERS.into_iter().find(|one| format!("{one:?}") == *manner).ok_or("no such manner")?;
    let open = Opened::by(&Device::at(address), way)?;
    let asked = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| format!("eventfd: {errno}"))?;
    if matches!(manner, Manner::Obeys | Manner::Ignores) {
        irq::set_trigger(open.device.as_fd(), irq::PCI_REQ, asked.as_fd())
            .map_err(|errno| format!("VFIO_DEVICE_SET_IRQS: {errno}"))?;
    }
    let held = if matches!(way, Way::GroupBar | Way::CdevBar) {
        let mapping = open.map()?;
        drop(open);
        Held::Bar(mapping)
    } else {
        Held::Files(open)
    };
    say(format_args!("held"));
    let told = match manner {
        Manner::ASecond => {
            std::thread::sleep(Duration::from_secs(1));
            "a second has gone by"
        }
        Manner::Obeys => until_asked(&asked)?,
        Manner::Stays | Manner::Ignores => {
            std::io::stdin().read_to_end(&mut Vec::new()).map_err(|error| format!("wait for the end: {error}"))?;
            "nobody needs it any more"
        }
    };
    drop(held);
    Ok(told.to_owned())
}

/// Waits until the eventfd rings, or the suites end.
fn until_asked(asked: &OwnedFd) -> Result<&'static str, String> {
    let stdin = std::io::stdin();
    let mut both = [PollFd::new(asked, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut both, None).map_err(|errno| format!("poll: {errno}"))?;
    Ok(if both[0].revents().contains(PollFlags::IN) { "asked, and let go" } else { "nobody needs it any more" })
}

/// What keeps the device.
enum Held {
    #[expect(dead_code, reason = "held, not used")]
    Files(Opened),
    #[expect(dead_code, reason = "held, not used")]
    Bar(Mapping),
}

/// An open device, and what it was opened by.
pub(crate) struct Opened {
    /// Its file.
    pub(crate) device: OwnedFd,
    _by: Vec<OwnedFd>,
}

impl Opened {
    fn by(device: &Device, way: Way) -> Result<Opened, String> {
        match way {
            Way::Group | Way::GroupBar => Opened::by_group(device),
            Way::Cdev | Way::CdevBar => Opened::by_cdev(device),
        }
    }

    /// Opens it by its group, which it has to have for itself.
    pub(crate) fn by_group(device: &Device) -> Result<Opened, String> {
        let number = device.link("iommu_group").ok_or_else(|| format!("{device} has no group"))?;
        let (container, group) = (node("/dev/vfio/vfio")?, node(&format!("/dev/vfio/{number}"))?);
        let told = |what: &'static str| move |errno| format!("{what}: {errno}");
        group::set_container(group.as_fd(), container.as_fd()).map_err(told("VFIO_GROUP_SET_CONTAINER"))?;
        container::set_iommu(container.as_fd(), Extension::TYPE1V2).map_err(told("VFIO_SET_IOMMU"))?;
        let device = group::device_fd(group.as_fd(), device.address()).map_err(told("VFIO_GROUP_GET_DEVICE_FD"))?;
        Ok(Opened { device, _by: vec![group, container] })
    }

    /// Opens it by its cdev, bound to an iommufd and attached to nothing.
    pub(crate) fn by_cdev(device: &Device) -> Result<Opened, String> {
        let name = device.names("vfio-dev").into_iter().next().ok_or_else(|| format!("{device} has no cdev"))?;
        let (cdev, iommufd) = (node(&format!("/dev/vfio/devices/{name}"))?, node("/dev/iommu")?);
        cdev::bind_iommufd(cdev.as_fd(), iommufd.as_fd())
            .map_err(|errno| format!("VFIO_DEVICE_BIND_IOMMUFD: {errno}"))?;
        Ok(Opened { device: cdev, _by: vec![iommufd] })
    }

    /// Maps the first BAR that can be mapped.
    fn map(&self) -> Result<Mapping, String> {
        for index in BARS {
            let bar = region::info(self.device.as_fd(), index)
                .map_err(|errno| format!("VFIO_DEVICE_GET_REGION_INFO: {errno}"))?;
            if bar.flags.contains(RegionFlags::MMAP) && bar.size > 0 {
                return region::map(self.device.as_fd(), &bar).map_err(|errno| format!("mmap of BAR {index}: {errno}"));
            }
        }
        Err("the device has no BAR that can be mapped".to_owned())
    }
}

/// Opens a node for reading and writing.
pub(crate) fn node(path: &str) -> Result<OwnedFd, String> {
    let file = File::options().read(true).write(true).open(path).map_err(|error| format!("open {path}: {error}"))?;
    Ok(file.into())
}
