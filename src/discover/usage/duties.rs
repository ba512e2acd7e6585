//! What a function does for the host beside storage and network: display, console, TPM, random numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::functions_in;
use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};
use crate::model::Bdf;
use crate::model::pci::Duty;

/// Reads them, by the functions that they hang below.
pub(super) fn read(host: &dyn Read) -> BTreeMap<Bdf, Vec<Duty>> {
    let mut duties: BTreeMap<Bdf, Vec<Duty>> = BTreeMap::new();
    let mut add = |bdf: Bdf, duty: Duty| duties.entry(bdf).or_default().push(duty);
    let active = optional(host.text(&HostPath::fixed(Root::Sys, "class/tty/console/active"))).unwrap_or(None);
    let consoles: Vec<&str> = active.as_deref().unwrap_or_default().split_whitespace().collect();
    if consoles.iter().any(|name| is_virtual_terminal(name))
        && let Some((bdf, framebuffers)) = only_display(host)
    {
        add(bdf, Duty::OnlyDisplay(framebuffers));
    }
    let terminals = HostPath::fixed(Root::Sys, "class/tty");
    for name in consoles {
        for bdf in below(host, &terminals, name) {
            add(bdf, Duty::ConsoleTty(name.to_owned()));
        }
    }
    let tpms = HostPath::fixed(Root::Sys, "class/tpm");
    for name in names(host, &tpms) {
        for bdf in below(host, &tpms, &name) {
            add(bdf, Duty::Tpm(name.clone()));
        }
    }
    for (bdf, name) in generator(host) {
        add(bdf, Duty::Rng(name));
    }
    duties
}

fn names(host: &dyn Read, directory: &HostPath) -> Vec<String> {
    let mut names = optional(host.list(directory)).unwrap_or(None).unwrap_or_default();
    names.sort();
    names
}

/// The functions that an entry of a class hangs below.
fn below(host: &dyn Read, class: &HostPath, name: &str) -> Vec<Bdf> {
    let target = class.entry(name).and_then(|path| optional(host.link(&path)).unwrap_or(None));
    target.map(|target| functions_in(&target).collect()).unwrap_or_default()
}

/// `tty0`, `tty1`, but not `ttyS0`.
fn is_virtual_terminal(name: &str) -> bool {
    name.strip_prefix("tty").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// The function that has every framebuffer, when no other has any. Which one the console is on the kernel does not say:
/// with two of them it may be either.
///
/// # Kernel
/// `drivers/video/fbdev/core/fbsysfs.c`: `/sys/class/graphics/fbN` (7.2).
fn only_display(host: &dyn Read) -> Option<(Bdf, Vec<String>)> {
    let class = HostPath::fixed(Root::Sys, "class/graphics");
    let is_framebuffer = |name: &String| {
        name.strip_prefix("fb").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let framebuffers: Vec<String> = names(host, &class).into_iter().filter(is_framebuffer).collect();
    // Innermost: the display itself, not the port that it is behind. One of the firmware's is nobody's, `None`.
    let owners: BTreeSet<Option<Bdf>> = framebuffers.iter().map(|name| below(host, &class, name).pop()).collect();
    match owners.into_iter().collect::<Vec<_>>().as_slice() {
        [Some(bdf)] => Some((*bdf, framebuffers)),
        _ => None,
    }
}

/// Who provides the random numbers that the kernel draws from now.
///
/// # Kernel
/// `drivers/char/hw_random/core.c` `rng_current_show()`; the names are those that `virtio-rng.c`, `ccp-dev.c`,
/// `cn10k-rng.c` and `cavium-rng-vf.c` give (7.2).
fn generator(host: &dyn Read) -> Vec<(Bdf, String)> {
    let current = HostPath::fixed(Root::Sys, "class/misc/hw_random/rng_current");
    let Some(name) = optional(host.text(&current)).unwrap_or(None) else { return Vec::new() };
    // `cn10k-rng-0002:00:00.0`.
    let in_name = name.match_indices('-').filter_map(|(at, _)| name[at + 1..].parse::<Bdf>().ok()).next();
    let of_driver = |directory: HostPath| {
        let devices = names(host, &directory);
        devices.iter().filter_map(|device| below(host, &directory, device).pop()).collect::<Vec<_>>()
    };
    let found = if let Some(bdf) = in_name {
        vec![bdf]
    } else if name.starts_with("virtio_rng") {
        // `virtio_rng.0` does not say which device it is: each may be it.
        of_driver(HostPath::fixed(Root::Sys, "bus/virtio/drivers/virtio_rng"))
    } else if name.starts_with("ccp-") {
        of_driver(HostPath::fixed(Root::Sys, "bus/pci/drivers/ccp"))
    } else {
        Vec::new()
    };
    found.into_iter().map(|bdf| (bdf, name.clone())).collect()
}
