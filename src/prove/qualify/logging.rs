//! A device that logs where it writes.

use super::bench::broken;
use super::{Bench, Case, Off, Told};
use crate::host::device::{Access, Feature, IovaRange};
use crate::model::Errno;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "logging-ranges",
        rule: "ranges that are empty, not of whole pages, over one another, none or too many are refused: EINVAL, E2BIG, EOVERFLOW \
               (vfio_main.c vfio_ioctl_device_feature_logging_start())",
        after: &["features"],
        run: ranges,
    },
    Case {
        id: "logging-session",
        rule: "it logs once at a time, reports while it logs, and stops (include/uapi/linux/vfio.h \
               VFIO_DEVICE_FEATURE_DMA_LOGGING_START)",
        after: &["logging-ranges"],
        run: session,
    },
];

const PAGE: u64 = 4096;

/// Opened, when it logs.
fn logging(bench: &Bench<'_>) -> Result<Box<dyn crate::host::Device>, Off> {
    let device = bench.fresh()?;
    if device.ask(Feature::DMA_LOGGING_START, Access::PROBE).is_ok() {
        return Ok(device);
    }
    Err(Off::NotApplicable("it does not log".to_owned()))
}

const fn range(iova: u64, length: u64) -> IovaRange {
    IovaRange { iova, length }
}

fn ranges(bench: &Bench<'_>) -> Told {
    let device = logging(bench)?;
    let many: Vec<IovaRange> = (0..1024).map(|n| range(n * 2 * PAGE, PAGE)).collect();
    let good = [range(0, PAGE)];
    let wrong: [(&str, u64, &[IovaRange]); 6] = [
        ("no range", PAGE, &[]),
        ("pages of 0 bytes", 0, &good),
        ("an empty range", PAGE, &[range(0, 0)]),
        ("half a page", PAGE, &[range(0, PAGE / 2)]),
        ("a range twice", PAGE, &[range(0, 2 * PAGE), range(PAGE, PAGE)]),
        ("a range beyond the end", PAGE, &[range(u64::MAX - PAGE + 1, 2 * PAGE)]),
    ];
    for (what, page_size, ranges) in wrong.into_iter().chain([("1,024 ranges", PAGE, many.as_slice())]) {
        match device.start_logging(page_size, ranges) {
            Err(error) if matches!(error.errno, Errno::EINVAL | Errno::E2BIG | Errno::EOVERFLOW) => {}
            Err(error) => return broken(format!("{what}: {}", error.errno)),
            Ok(_) => return broken(format!("{what} is taken")),
        }
    }
    Ok("each is refused".to_owned())
}

/// Drivers that only look as if they logged.
const MAKES_UP_ITS_LOG: &[&str] = &["mtty"];

fn session(bench: &Bench<'_>) -> Told {
    let device = logging(bench)?;
    let whole = range(0, 16 * PAGE);
    match device.logged(whole, PAGE) {
        Err(error) if error.errno == Errno::EOPNOTSUPP => {
            return Err(Off::NotApplicable(
                "this kernel has no CONFIG_IOMMUFD_DRIVER, and nothing is reported".to_owned(),
            ));
        }
        Err(_) => {}
        Ok(_) => {
            let said = "it reports while it does not log".to_owned();
            return Err(if bench.is(MAKES_UP_ITS_LOG) { Off::Quirk(said) } else { Off::Fail(said) });
        }
    }
    let page = device.start_logging(PAGE, &[whole])?;
    if device.start_logging(PAGE, &[whole]).is_ok() {
        return broken("it begins twice");
    }
    let bitmap = device.logged(whole, page)?;
    if bitmap.is_empty() {
        return broken("its report is empty");
    }
    device.stop_logging()?;
    if device.logged(whole, page).is_ok() {
        return broken("it reports after it was stopped");
    }
    Ok(format!("pages of {page} bytes"))
}
