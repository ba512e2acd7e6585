//! A close look at one function: what `show` prints and `check` judges.
//!
//! Reading the link wakes a suspended function (`drivers/pci/pci-sysfs.c` `current_link_speed_show()`, 7.2), so of one that
//! sleeps it stays unknown.

use super::Usage;
use crate::host::{HostPath, Read, optional};
use crate::model::pci::{CloseUp, Link};
use crate::model::{Bdf, Warning};

/// Reads it. What is not there, or not understood, is absent; an answer of the kernel's that is neither is a warning.
pub fn close_up(host: &dyn Read, bdf: Bdf, usage: &Usage, warnings: &mut Vec<Warning>) -> CloseUp {
    let path = HostPath::pci(bdf);
    let mut text = |name: &'static str| {
        // A conventional PCI function has no link: EINVAL (drivers/pci/pci-sysfs.c current_link_speed_show(), 7.2).
        let answer = optional(host.text(&path.attr(name)));
        answer.unwrap_or_else(|error| {
            if error.errno != crate::model::Errno::EINVAL {
                warnings.push(Warning::new(bdf, format!("{name} is unknown ({error})")));
            }
            None
        })
    };
    let asleep = text("power/runtime_status").is_some_and(|status| status == "suspended");
    let mut link = |speed: &'static str, width: &'static str| {
        if asleep {
            return None;
        }
        let speed = text(speed).filter(|speed| !speed.starts_with("Unknown"))?;
        Some(Link { speed, width: text(width)?.parse().ok().filter(|width| *width > 0)? })
    };
    CloseUp {
        link: link("current_link_speed", "current_link_width"),
        max_link: link("max_link_speed", "max_link_width"),
        reset_methods: text("reset_method")
            .map(|methods| methods.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>())
            .filter(|methods| !methods.is_empty()),
        power_state: text("power_state"),
        netdevs: usage.netdevs(bdf),
        blocks: usage.blocks(bdf),
        duties: usage.duties(bdf),
        direct_regions: text("iommu_group/reserved_regions").map(|text| direct_regions(&text)).unwrap_or_default(),
    }
}

/// The lines that say `direct`, without that word; `direct-relaxable` is none of them.
fn direct_regions(text: &str) -> Vec<String> {
    let region = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [start, end, "direct"] => Some(format!("{start} to {end}")),
        _ => None,
    };
    text.lines().filter_map(region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::{inventory, rules, told::Told};

    #[test]
    fn a_close_up_reads_nothing_that_is_the_hosts() {
        let (host, mut warnings) = (Told::demo(), Vec::new());
        let usage = Usage::read(&host, &mut warnings);
        drop(rules(&host, &mut warnings));
        let once = host.asked();
        for path in ["/proc/net/route", "/proc/cmdline", "/proc/self/mountinfo", "/proc/self/environ"] {
            assert_eq!(once.iter().filter(|asked| *asked == path).count(), 1, "{path}");
        }
        let bdf: Bdf = "0000:65:00.0".parse().unwrap();
        drop(close_up(&host, bdf, &usage, &mut warnings));
        let own = HostPath::pci(bdf).to_string();
        let asked = host.asked();
        assert!(!asked.is_empty() && asked.iter().all(|path| path.starts_with(&own)), "{asked:#?}");
    }

    #[test]
    fn a_listing_reads_no_configuration_space_and_nothing_of_other_tools() {
        let host = Told::demo();
        inventory(&host).unwrap();
        let asked = host.asked();
        for word in ["/config", "/etc/", "/run/", "/proc/net", "/proc/self", "/class/net", "/class/block", "/class/tty"]
        {
            assert!(asked.iter().all(|path| !path.contains(word)), "{word}");
        }
    }
}
