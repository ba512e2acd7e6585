//! Attributes of mdevs: those of an AP matrix, and the parameters of NVIDIA's vGPUs.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::kernel::Kernel;
use crate::model::Errno;

/// What an AP matrix is given through, and what has it in its stead; nobody can read them.
const ASSIGNING: [&str; 6] = [
    "assign_adapter",
    "unassign_adapter",
    "assign_domain",
    "unassign_domain",
    "assign_control_domain",
    "unassign_control_domain",
];

/// The highest adapter, and the highest domain, where there is APXA.
const HIGHEST: u16 = 255;

/// The adapters and the domains of a matrix.
type Matrix = (BTreeSet<u16>, BTreeSet<u16>);

impl Kernel {
    /// The attributes that a driver makes with an mdev of this type.
    ///
    /// # Kernel
    /// `drivers/s390/crypto/vfio_ap_ops.c` `vfio_ap_mdev_attrs` (7.2). NVIDIA's driver is not in the kernel: `nvidia/vgpu_params` is what
    /// its documentation says.
    pub(super) fn add_mdev_attributes(&mut self, dir: &str, kind: &str) {
        if kind.starts_with("nvidia-") {
            self.tree.put_text(&format!("{dir}/nvidia/vgpu_params"), "");
        }
        if kind == "vfio_ap-passthrough" {
            for name in ASSIGNING {
                self.tree.put(&format!("{dir}/{name}"), "");
            }
            for name in ["matrix", "control_domains"] {
                self.tree.put(&format!("{dir}/{name}"), "");
            }
        }
    }

    /// `nvidia/vgpu_params`: takes what it is given.
    pub(super) fn vgpu_params_store(&mut self, place: &str, value: &str) -> Result<(), Errno> {
        self.tree.put_text(place, value.trim());
        Ok(())
    }

    /// `assign_adapter`, `assign_domain` and what takes them back.
    ///
    /// In this order: `EINVAL` no number; `ENODEV` above the highest; `EADDRINUSE` another matrix has one of the queues.
    ///
    /// # Kernel
    /// `drivers/s390/crypto/vfio_ap_ops.c` `assign_adapter_store()`, `vfio_ap_mdev_verify_no_sharing()`,
    /// `vfio_ap_mdev_matrix_show()`, `control_domains_show()` (7.2).
    pub(super) fn ap_matrix_store(&mut self, dir: &str, attribute: &str, value: &str) -> Result<(), Errno> {
        if !ASSIGNING.contains(&attribute) {
            return Err(Errno::EACCES);
        }
        let number = number(value.strip_suffix('\n').unwrap_or(value)).ok_or(Errno::EINVAL)?;
        if number > HIGHEST {
            return Err(Errno::ENODEV);
        }
        let is_assigned = attribute.starts_with("assign");
        let set = |all: &mut BTreeSet<u16>| if is_assigned { all.insert(number) } else { all.remove(&number) };
        if attribute.ends_with("control_domain") {
            let place = format!("{dir}/control_domains");
            let text = self.tree.text(&place).unwrap_or_default();
            let mut all: BTreeSet<u16> = text.lines().filter_map(|line| u16::from_str_radix(line, 16).ok()).collect();
            set(&mut all);
            self.tree.put(&place, all.iter().map(|domain| format!("{domain:04x}\n")).collect::<String>());
            return Ok(());
        }
        let (mut adapters, mut domains) = self.matrix(dir);
        set(if attribute.ends_with("adapter") { &mut adapters } else { &mut domains });
        let (parent, own) = dir.rsplit_once('/').unwrap_or_default();
        let others: Vec<String> = self.tree.names(parent).map(str::to_owned).collect();
        for other in others.iter().filter(|name| name.len() == 36 && *name != own) {
            let (of_adapters, of_domains) = self.matrix(&format!("{parent}/{other}"));
            if is_assigned && !of_adapters.is_disjoint(&adapters) && !of_domains.is_disjoint(&domains) {
                return Err(Errno::EADDRINUSE);
            }
        }
        self.tree.put(&format!("{dir}/matrix"), shown(&(adapters, domains)));
        Ok(())
    }

    /// What `matrix` shows, as what it is of.
    fn matrix(&self, dir: &str) -> Matrix {
        let text = self.tree.text(&format!("{dir}/matrix")).unwrap_or_default();
        let hex = |text: &str| u16::from_str_radix(text, 16).ok();
        let parts = || text.lines().filter_map(|line| line.split_once('.'));
        (
            parts().filter_map(|(adapter, _)| hex(adapter)).collect(),
            parts().filter_map(|(_, domain)| hex(domain)).collect(),
        )
    }
}

/// Each queue; the adapters, or the domains, as long as there is none of the other.
fn shown((adapters, domains): &Matrix) -> String {
    let mut text = String::new();
    let mut line = |adapter: Option<&u16>, domain: Option<&u16>| {
        let adapter = adapter.map(|adapter| format!("{adapter:02x}")).unwrap_or_default();
        let domain = domain.map(|domain| format!("{domain:04x}")).unwrap_or_default();
        let written = writeln!(text, "{adapter}.{domain}");
        debug_assert!(written.is_ok(), "a String takes all that it is given");
    };
    match (adapters.is_empty(), domains.is_empty()) {
        (_, true) => adapters.iter().for_each(|adapter| line(Some(adapter), None)),
        (true, _) => domains.iter().for_each(|domain| line(None, Some(domain))),
        _ => adapters.iter().for_each(|adapter| domains.iter().for_each(|domain| line(Some(adapter), Some(domain)))),
    }
    text
}

/// # Kernel
/// `lib/kstrtox.c` `kstrtoul()` with base 0 (7.2).
fn number(text: &str) -> Option<u16> {
    match (text.strip_prefix("0x"), text.strip_prefix('0')) {
        (Some(hex), _) => u16::from_str_radix(hex, 16).ok(),
        (None, Some(octal)) if !octal.is_empty() => u16::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}
