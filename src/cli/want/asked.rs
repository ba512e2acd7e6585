//! What entries have to be compared with beside what an inventory has: read of what they name, and of nothing else.

use crate::cli::report::Trouble;
use crate::discover;
use crate::host::{Host, HostPath, mdev_attribute, optional};
use crate::model::Inventory;
use crate::model::dsa::DsaName;
use crate::model::identity::Identities;
use crate::plan::create::Known;
use crate::plan::queues::QueueParameters;
use crate::want::file::{MdevEntry, WqEntry};
use crate::want::{EntryKind, Selection, Wish};

/// Reads it.
pub(super) fn ask(
    host: &dyn Host,
    wish: &Wish,
    (inventory, identities): (&Inventory, &Identities),
    known: &mut Known,
) -> Result<(), Trouble> {
    for entry in &wish.entries {
        let pf = || match entry.kind.which()?.select(inventory, identities) {
            Selection::These(bdfs) => bdfs.first().copied(),
            _ => None,
        };
        match &entry.kind {
            EntryKind::Mdev(entry) => attributes(host, entry, inventory, known),
            EntryKind::Wq(entry, of) => idxd(host, (entry, of), inventory, known)?,
            EntryKind::Sf(..) => {
                if let Some(pf) = pf().filter(|pf| !known.devlink.contains_key(pf)) {
                    known.devlink.extend(discover::devlink(host, pf)?.map(|devlink| (pf, devlink)));
                }
            }
            EntryKind::Vgpu(entry) => {
                let vf = pf().and_then(|pf| inventory.vf(pf, entry.vf)).map(|vf| vf.bdf);
                known.vgpus.extend(discover::vgpus(host, inventory, |of| Some(of) == vf));
            }
            EntryKind::Device(_) | EntryKind::Pf(..) => {}
        }
    }
    Ok(())
}

/// The attributes of an mdev that is there.
fn attributes(host: &dyn Host, entry: &MdevEntry, inventory: &Inventory, known: &mut Known) {
    let uuid = entry.uuid.0;
    if inventory.mdevs.iter().any(|mdev| mdev.uuid == uuid) {
        let names = entry.attributes.iter().map(|of| &of.0.name);
        let told = names.filter_map(|name| Some(((uuid, name.clone()), mdev_attribute(host, uuid, name)?)));
        known.mdev_attributes.extend(told);
    }
}

/// The drivers of the bus, and of WQs of the number what a kernel or a device may not have.
fn idxd(
    host: &dyn Host,
    (entry, of): (&WqEntry, &QueueParameters),
    inventory: &Inventory,
    known: &mut Known,
) -> Result<(), Trouble> {
    if known.idxd.drivers.is_empty() {
        let names = optional(host.list(&HostPath::dsa_drivers()))?.unwrap_or_default();
        known.idxd.drivers.extend(names.iter().filter_map(|name| name.parse().ok()));
    }
    let queues = inventory.idxd.iter().flat_map(|device| &device.work_queues);
    let names = queues.filter_map(|queue| queue.address.as_str().parse().ok());
    for name in names.filter(|name| matches!(name, DsaName::Queue(_, index) if *index == entry.wq)) {
        for key in of.optional() {
            let value = optional(host.text(&HostPath::dsa(name).attr(key.attribute())))?;
            known.idxd.values.extend(value.map(|value| ((name, key), value)));
        }
    }
    Ok(())
}
