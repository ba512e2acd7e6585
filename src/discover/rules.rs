//! What other tools are told to do with devices: libvirt, driverctl, mdevctl, and the ids that vfio-pci takes by itself.

use super::warned;
use crate::host::path::Root;
use crate::host::{HostPath, Read, optional};
use crate::model::libvirt::Domain;
use crate::model::rules::{DynamicId, IdsAtLoad, Rules};
use crate::model::{Bdf, DriverName, Warning};

/// Reads them. What cannot be read is a warning: libvirt's definitions are for root alone.
pub fn rules(host: &dyn Read, warnings: &mut Vec<Warning>) -> Rules {
    let mut rules = Rules::default();
    read_libvirt(host, &mut rules, warnings);
    read_driverctl(host, &mut rules, warnings);
    read_mdevctl(host, &mut rules, warnings);
    read_ids(host, &mut rules, warnings);
    rules
}

fn names(host: &dyn Read, directory: &HostPath, warnings: &mut Vec<Warning>) -> Vec<String> {
    let subject = directory.to_string();
    let mut names = warned(optional(host.list(directory)), &subject, warnings).unwrap_or_default();
    names.sort();
    names
}

/// A file of somebody's: what is no UTF-8 in it is replaced.
fn lossy(host: &dyn Read, path: &HostPath, warnings: &mut Vec<Warning>) -> String {
    let bytes = warned(optional(host.read(path)), &path.to_string(), warnings).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `/etc/libvirt/qemu/*.xml`, where the definitions of domains lie.
fn read_libvirt(host: &dyn Read, rules: &mut Rules, warnings: &mut Vec<Warning>) {
    let directory = HostPath::fixed(Root::Etc, "libvirt/qemu");
    for name in names(host, &directory, warnings).iter().filter(|name| name.ends_with(".xml")) {
        let Some(path) = directory.entry(name) else { continue };
        let domain = Domain::managed(&lossy(host, &path, warnings));
        for bdf in domain.functions {
            let domains = rules.libvirt.entry(bdf).or_default();
            if !domains.contains(&domain.name) {
                domains.push(domain.name.clone());
            }
        }
    }
}

/// `/etc/driverctl.d/pci-0000:01:00.0`: the driver and a newline; an empty file is none.
fn read_driverctl(host: &dyn Read, rules: &mut Rules, warnings: &mut Vec<Warning>) {
    let directory = HostPath::fixed(Root::Etc, "driverctl.d");
    for name in names(host, &directory, warnings) {
        let Some(Ok(bdf)) = name.strip_prefix("pci-").map(str::parse::<Bdf>) else { continue };
        let Some(path) = directory.entry(&name) else { continue };
        let text = lossy(host, &path, warnings);
        if let Some(Ok(driver)) = text.split_whitespace().next().map(str::parse::<DriverName>) {
            rules.driverctl.insert(bdf, driver);
        }
    }
}

/// `/etc/mdevctl.d/<parent>/<uuid>`.
fn read_mdevctl(host: &dyn Read, rules: &mut Rules, warnings: &mut Vec<Warning>) {
    let directory = HostPath::fixed(Root::Etc, "mdevctl.d");
    for name in names(host, &directory, warnings) {
        let (Ok(bdf), Some(path)) = (name.parse::<Bdf>(), directory.entry(&name)) else { continue };
        let defined = names(host, &path, warnings);
        let uuids: Vec<String> = defined.into_iter().filter(|name| uuid::Uuid::try_parse(name).is_ok()).collect();
        if !uuids.is_empty() {
            rules.mdevctl.insert(bdf, uuids);
        }
    }
}

/// `vfio-pci.ids=` on the kernel command line, which holds for a module too, and `options vfio-pci ids=` of modprobe.
fn read_ids(host: &dyn Read, rules: &mut Rules, warnings: &mut Vec<Warning>) {
    let line = lossy(host, &HostPath::fixed(Root::Proc, "cmdline"), warnings);
    let given = line.split_whitespace().filter_map(|word| {
        let (name, ids) = word.trim_matches('"').split_once('=')?;
        (name.replace('_', "-") == "vfio-pci.ids").then(|| ids.trim_matches('"').to_owned())
    });
    let mut add = |place: String, lists: Vec<String>| {
        let ids: Vec<DynamicId> = lists.iter().flat_map(|list| DynamicId::parse_list(list)).collect();
        if !ids.is_empty() {
            rules.ids.push(IdsAtLoad { place, ids });
        }
    };
    add("the kernel command line".to_owned(), given.collect());
    for directory in [HostPath::fixed(Root::Etc, "modprobe.d"), HostPath::fixed(Root::Run, "modprobe.d")] {
        for name in names(host, &directory, warnings).iter().filter(|name| name.ends_with(".conf")) {
            let Some(path) = directory.entry(name) else { continue };
            add(path.to_string(), option_ids(&lossy(host, &path, warnings)));
        }
    }
}

/// The values of `ids=` in lines `options vfio-pci …`; a backslash at its end continues a line.
fn option_ids(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let is_ours = words.next() == Some("options")
            && words.next().is_some_and(|module| module.replace('_', "-") == "vfio-pci");
        if is_ours {
            found
                .extend(words.filter_map(|word| word.strip_prefix("ids=")).map(|ids| ids.trim_matches('"').to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_vfio_pci_are_read_as_modprobe_reads_them() {
        let text = "# options vfio-pci ids=1:2\noptions vfio_pci disable_vga=1 \\\n  ids=8086:10c9,10de:1db6\n\
                    options vfio-pci ids=\"1234:11e8\"\noptions vfio ids=3:4\nsoftdep vfio-pci pre: x\n";
        assert_eq!(option_ids(text), ["8086:10c9,10de:1db6", "1234:11e8"]);
    }
}
