//! What NVIDIA's driver makes of VFs, and could make: read when it is asked for, for each read asks the GPU.

use std::collections::BTreeMap;

use crate::host::{HostPath, Read, optional};
use crate::model::{Bdf, Inventory, Vgpu};

/// Reads `nvidia/` of the functions of `inventory` that have it and that `wanted` says.
pub fn vgpus(host: &dyn Read, inventory: &Inventory, wanted: impl Fn(Bdf) -> bool) -> BTreeMap<Bdf, Vgpu> {
    let all = inventory.functions.values().filter(|function| function.vendor_vgpu && wanted(function.bdf));
    let read = |bdf: Bdf| {
        let path = HostPath::pci(bdf).attr("nvidia");
        let text = |name| optional(host.text(&path.attr(name))).unwrap_or(None);
        Some((bdf, Vgpu::read_as(&text("current_vgpu_type")?, &text("creatable_vgpu_types").unwrap_or_default())))
    };
    all.filter_map(|function| read(function.bdf)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::inventory;
    use crate::discover::told::Told;

    #[test]
    fn a_listing_asks_no_gpu_and_nothing_that_waits() {
        let host = Told::of(include_bytes!("../../tests/hosts/types.host"));
        let inventory = inventory(&host).unwrap();
        let asked = host.asked();
        for word in ["/nvidia", "/cdev_minor", "/sriov_numvfs", "/occupancy"] {
            assert!(asked.iter().all(|path| !path.contains(word)), "{word}");
        }
        let vgpus = vgpus(&host, &inventory, |_| true);
        assert_eq!(vgpus.len(), 4);
        assert_eq!(host.asked().len(), 8, "two reads a VF that has it");
    }
}
