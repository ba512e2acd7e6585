//! driverctl: `/etc/driverctl.d/<bus>-<device>`, in it a driver and a newline.

use super::{Asked, Found, Piece, Remark, Rival, quoted};
use crate::model::{Bdf, DriverName};
use crate::plan::Wanted;

/// Buses with a dash in their name that a host may not have at the moment.
const DASHED: [&str; 2] = ["fsl-mc", "pci-epf"];

pub(super) fn read(pieces: &[Piece<'_>], buses: &[String], found: &mut Found) {
    for piece in pieces {
        if let Err(remark) = one(*piece, buses, found) {
            found.leave_out(remark);
        }
    }
}

fn one(piece: Piece<'_>, buses: &[String], found: &mut Found) -> Result<(), Remark> {
    let path = piece.path;
    let Some((bus, device)) = split(piece.name(), buses) else {
        return Err(Remark::new(path, "its name is no bus, a dash and a device"));
    };
    // `$(< file)`: a driver, and line feeds after it.
    let driver = piece.text.trim_end_matches('\n');
    if driver.is_empty() {
        found.note(Remark::new(path, "is empty: driverctl does nothing about it"));
        return Ok(());
    }
    if bus != "pci" {
        return Err(Remark::new(path, format_args!("{device} is on the bus {bus}, and vfioadm binds PCI functions")));
    }
    let bdf: Bdf = device.parse().map_err(|_| Remark::new(path, format_args!("{device} is no PCI address")))?;
    let driver: DriverName = driver.parse().map_err(|_| Remark::new(path, "what is in it is no name of a driver"))?;
    let does = if driver.as_str() == "none" {
        format!("driverctl keeps {bdf} without a driver, whenever udev adds it")
    } else {
        format!("driverctl binds {bdf} to {driver} whenever udev adds it")
    };
    if bdf.to_string() != device {
        found.note(Remark::new(path, format_args!("driverctl never loads it: udev asks for pci-{bdf}")));
    }
    let wanted = if driver.as_str() == "none" { Wanted::None } else { Wanted::Named(driver) };
    let file = format!("/etc/driverctl.d/{}", piece.name());
    let command = format!("rm {}", quoted(&file));
    let rival = Rival { what: file, does, command };
    found.ask(path, Asked::Device { bdf, id: None, driver: wanted }, Some(rival));
    Ok(())
}

/// Bus and device of `fsl-mc-dprc.1`: a bus may have a dash in its name, and the longest that fits is meant.
fn split<'a>(name: &'a str, buses: &[String]) -> Option<(&'a str, &'a str)> {
    let known = buses.iter().map(String::as_str).chain(DASHED);
    let fits = known.filter(|bus| name.strip_prefix(bus).is_some_and(|rest| rest.starts_with('-')));
    let at = fits.map(str::len).max().or_else(|| name.find('-'))?;
    let (bus, device) = (&name[..at], &name[at + 1..]);
    (!bus.is_empty() && !device.is_empty()).then_some((bus, device))
}

/// What is left of driverctl when every override of its files is in the host file.
pub(super) fn rule() -> Rival {
    Rival {
        what: String::from("/usr/lib/udev/rules.d/05-driverctl.rules"),
        does: String::from("starts driverctl@.service for each device that has a file, and after these none has"),
        command: String::from("ln -s /dev/null /etc/udev/rules.d/05-driverctl.rules"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bus_that_fits_is_taken() {
        let buses = ["pci".to_owned(), "fsl".to_owned(), "fsl-mc".to_owned()];
        assert_eq!(split("fsl-mc-dprc.1", &buses), Some(("fsl-mc", "dprc.1")));
        assert_eq!(split("pci-0000:01:00.0", &buses), Some(("pci", "0000:01:00.0")));
        assert_eq!(split("vdpa-dev-1", &buses), Some(("vdpa", "dev-1")));
        assert_eq!(split("fsl-mc-dprc.1", &[]), Some(("fsl-mc", "dprc.1")));
        for wrong in ["pci", "", "-x", "pci-"] {
            assert_eq!(split(wrong, &buses), None, "{wrong}");
        }
    }
}
