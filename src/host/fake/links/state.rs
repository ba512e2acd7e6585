//! What is compared of netlink when a host is said to be as it was.

use std::collections::BTreeMap;

use super::{Device, stored};
use crate::host::fake::kernel::Kernel;
use crate::host::fake::tree::{Shown, Tree};
use crate::model::Bdf;
use crate::model::devlink::{DevlinkHandle, DevlinkPort};

impl Kernel {
    /// What netlink tells of a function, as it is asked: an attribute that was never set is one that was set back. Interfaces of
    /// ports are left out: their names and numbers do not come back.
    pub(in crate::host::fake) fn links_state(&self, bdf: Bdf) -> BTreeMap<&'static str, String> {
        self.told(&Device::Pci(bdf))
    }

    /// The same of every device of netdevsim.
    pub(in crate::host::fake) fn netdevsim_state(&self) -> BTreeMap<String, BTreeMap<&'static str, String>> {
        let names = self.tree.names("/sys/bus/netdevsim/devices").map(|name| Device::Netdevsim(name.to_owned()));
        names.map(|device| (device.handle(), self.told(&device))).collect()
    }

    fn told(&self, device: &Device) -> BTreeMap<&'static str, String> {
        let mut told = BTreeMap::new();
        let mut tree = Tree::default();
        for (index, vf) in self.vf_list_of(device).vfs {
            stored::put_vf(&mut tree, "", index, &vf);
        }
        told.insert("vfs", words(&tree));
        if let Ok(handle) = device.handle().parse::<DevlinkHandle>() {
            let mut tree = Tree::default();
            let bare = |port| DevlinkPort { netdev: None, ifindex: None, ..port };
            let ports: Vec<_> = self.ports(&handle).unwrap_or_default().into_iter().map(bare).collect();
            stored::put_ports(&mut tree, "", &ports);
            told.insert("ports", words(&tree));
            if let Ok(Some(mode)) = self.eswitch(&handle) {
                told.insert("eswitch", mode.to_string());
            }
        }
        told.retain(|_, text| !text.is_empty());
        told
    }
}

/// The files of a tree in one line: `0/mac=52:54:00:00:00:01 0/trust=on`.
fn words(tree: &Tree) -> String {
    let mut words = Vec::new();
    tree.walk(|path, shown| {
        if let Shown::File(bytes) = shown {
            let name = path.trim_start_matches("/vfs/").trim_start_matches("/ports/");
            words.push(format!("{name}={}", String::from_utf8_lossy(bytes).trim_end()));
        }
    });
    words.join(" ")
}
