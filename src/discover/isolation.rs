//! Why a group holds more than one function: looks at the ports above one of them.

use std::collections::{BTreeMap, BTreeSet};

use super::usage::functions_in;
use crate::host::{HostPath, Read, optional};
use crate::model::isolation::{Isolation, Port, Seen};
use crate::model::{Bdf, Inventory};

/// The ports that were looked at, each once.
pub struct Ports<'a> {
    host: &'a dyn Read,
    seen: BTreeMap<Bdf, Seen>,
}

impl<'a> Ports<'a> {
    /// None yet.
    #[must_use]
    pub fn of(host: &'a dyn Read) -> Self {
        Self { host, seen: BTreeMap::new() }
    }

    /// Why the group of `bdf` holds more than it; `None` when it does not.
    pub fn explain(&mut self, inventory: &Inventory, bdf: Bdf) -> Option<Isolation> {
        let others: BTreeSet<Bdf> = inventory.group_siblings(bdf).map(|member| member.bdf).collect();
        if others.is_empty() {
            return None;
        }
        let target = optional(self.host.link(&HostPath::pci(bdf))).unwrap_or(None)?;
        let above = functions_in(&target).filter(|above| *above != bdf);
        let above: Vec<(Bdf, Seen)> = above.map(|bridge| (bridge, self.look(bridge))).collect();
        Some(Isolation::explain(bdf, &others, &above))
    }

    fn look(&mut self, bridge: Bdf) -> Seen {
        let host = self.host;
        self.seen.entry(bridge).or_insert_with(|| look(host, bridge)).clone()
    }
}

/// Reads the configuration space of a bridge that is awake: [`Read`] names the exception.
fn look(host: &dyn Read, bridge: Bdf) -> Seen {
    let path = HostPath::pci(bridge);
    match optional(host.text(&path.attr("power/runtime_status"))) {
        Ok(Some(status)) if status == "active" => {}
        Ok(Some(status)) => return Seen::Unseen(format!("its runtime_status is {status}")),
        _ => return Seen::Unseen(String::from("whether it sleeps is unknown")),
    }
    match host.read(&path.attr("config")).map(|config| Port::parse(&config)) {
        Ok(Some(port)) => Seen::Port(port),
        Ok(None) => Seen::Unseen(String::from("only root may read its capabilities")),
        Err(error) => Seen::Unseen(error.errno.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::{inventory, told::Told};

    #[test]
    fn bridges_alone_are_read_and_each_once() {
        let host = Told::demo();
        let inventory = inventory(&host).unwrap();
        drop(host.asked());
        let mut ports = Ports::of(&host);
        for device in ["0000:85:01.0", "0000:85:02.0"] {
            assert!(ports.explain(&inventory, device.parse().unwrap()).is_some());
        }
        // Alone in its group: there is nothing to explain, and nothing is read.
        assert_eq!(ports.explain(&inventory, "0000:3b:00.2".parse().unwrap()), None);
        let mut read: Vec<String> = host.asked().into_iter().filter(|path| path.ends_with("/config")).collect();
        read.sort();
        let bridges = ["0000:80:02.0", "0000:84:00.0"].map(|bdf| format!("/sys/bus/pci/devices/{bdf}/config"));
        assert_eq!(read, bridges);
    }
}
