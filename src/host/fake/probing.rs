//! Probes of VFIO drivers: what they look at, how long they take, and what a device keeps of it.

use std::time::Duration;

use super::kernel::{Driver, Kernel};
use super::tree::HIDDEN;
use super::vfio::{Function, OwnState, Parameters, PfChannel, Variant};
use crate::host::HostPath;
use crate::host::worker;
use crate::model::{Bdf, Errno};

/// A probe that takes longer than a writer waits, with the lock of the device held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probing {
    variant: &'static dyn Variant,
    until: Duration,
}

impl std::fmt::Debug for dyn Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.driver())
    }
}

/// Where it is kept that a probe is going on.
fn going_on(bdf: Bdf) -> String {
    format!("{HIDDEN}/pci/{bdf}/probing")
}

/// Where it is kept what a device was bound with.
fn bound_with(bdf: Bdf) -> String {
    format!("{HIDDEN}/pci/{bdf}/bound_with")
}

/// Where it is kept that the driver of a VF's PF has gone since it was bound.
fn pf_left(bdf: Bdf) -> String {
    format!("{HIDDEN}/pci/{bdf}/pf_left")
}

/// How long a write to `bind` or `unbind` of a driver is waited for.
fn patience(driver: &str, attribute: &'static str) -> Duration {
    let path = driver.parse().map(|driver| HostPath::pci_driver(&driver).attr(attribute));
    path.ok().and_then(|path| worker::deadline(&path)).unwrap_or_default()
}

impl Kernel {
    /// The parameters of a module.
    fn parameters(&self, module: &str) -> Parameters {
        let dir = format!("/sys/module/{module}/parameters");
        let text = |name: &str| self.tree.text(&format!("{dir}/{name}")).unwrap_or_default().to_owned();
        self.tree.names(&dir).map(|name| (name, text(name))).collect()
    }

    /// What a probe sees of a device.
    fn seen_by(&self, variant: &dyn Variant, bdf: Bdf) -> Result<(Function, PfChannel), Errno> {
        let mut function = self.function(bdf).ok_or(Errno::ENODEV)?;
        function.parameters = self.parameters(variant.module());
        Ok((function, self.pf_channel(bdf)))
    }

    /// A VFIO driver probes a device that it may have, in no time that anybody waits for.
    pub(super) fn probe_vfio(&mut self, variant: &'static dyn Variant, bdf: Bdf) -> Result<(), Errno> {
        let (function, pf) = self.seen_by(variant, bdf)?;
        self.now += variant.delay(&function.parameters);
        let vdev = variant.probe(&function, &pf)?;
        self.link_driver(bdf, variant.driver());
        self.remember(variant, bdf, (&function.parameters, &pf));
        if let Some(own) = vdev.own {
            self.keep_own_state(bdf, own);
        }
        self.add_vfio_device(bdf, vdev);
        Ok(())
    }

    /// Begins a probe that takes longer than a writer waits: the driver shows at once, the device when the probe has ended.
    ///
    /// # Kernel
    /// `drivers/base/dd.c` `really_probe()`: `driver_sysfs_add()` comes before the probe, and goes when that refuses (7.2).
    /// Contract: `variant: a probe that takes longer …`.
    pub(super) fn probe_slowly(&mut self, variant: &'static dyn Variant, bdf: Bdf) -> Result<(), Errno> {
        let delay = variant.delay(&self.parameters(variant.module()));
        if delay <= patience(variant.driver(), "bind") {
            return Ok(());
        }
        self.link_driver(bdf, variant.driver());
        self.tree.put_text(&going_on(bdf), variant.driver());
        self.probing.insert(bdf, Probing { variant, until: self.now + delay });
        Err(Errno::ETIMEDOUT)
    }

    /// Ends the probes whose time is over.
    pub(super) fn end_probes(&mut self) {
        let over = self.probing.iter().filter(|(_, probing)| probing.until <= self.now);
        let over: Vec<(Bdf, &'static dyn Variant)> = over.map(|(bdf, probing)| (*bdf, probing.variant)).collect();
        for (bdf, variant) in &over {
            self.end_probe(*variant, *bdf);
        }
        if !over.is_empty() {
            self.finish();
        }
    }

    /// Ends those that were going on when the host was recorded: nobody has waited for so long.
    pub(super) fn end_recorded_probes(&mut self) {
        let all: Vec<Bdf> = self.functions().filter(|bdf| self.tree.has(&going_on(*bdf))).collect();
        for bdf in all {
            match self.driver(bdf) {
                Some(Driver::Vfio(variant)) => self.end_probe(variant, bdf),
                _ => drop(self.tree.remove(&going_on(bdf))),
            }
        }
    }

    fn end_probe(&mut self, variant: &'static dyn Variant, bdf: Bdf) {
        self.probing.remove(&bdf);
        self.tree.remove(&going_on(bdf));
        self.unlink_driver(bdf, variant.driver());
        let before = self.now;
        // Who asked for it is gone, and its answer with him.
        let _refused = self.probe_vfio(variant, bdf);
        self.now = before;
    }

    /// Waits for a probe that has the lock of a device, as long as a writer to this attribute of a driver does.
    pub(super) fn wait_for_probe(&mut self, bdf: Bdf, (driver, attribute): (&str, &'static str)) {
        if let Some(probing) = self.probing.get(&bdf).copied()
            && probing.until <= self.now + patience(driver, attribute)
        {
            self.now = probing.until;
            self.end_probes();
        }
    }

    /// Keeps what a device was bound with, where that counts later.
    fn remember(&mut self, variant: &dyn Variant, bdf: Bdf, (parameters, pf): (&Parameters, &PfChannel)) {
        self.forget_bound(bdf);
        if variant.kept().is_empty() {
            return;
        }
        let kept = variant.kept().iter().map(|name| format!("{name}={}\n", parameters.text(name)));
        let pf = pf.driver.iter().map(|driver| format!("pf={driver}\n"));
        self.tree.put(&bound_with(bdf), kept.chain(pf).collect::<String>());
    }

    /// A device has lost its driver.
    pub(super) fn forget_bound(&mut self, bdf: Bdf) {
        self.tree.remove(&bound_with(bdf));
        self.tree.remove(&pf_left(bdf));
        self.forget_own_state(bdf);
    }

    /// Makes the VFIO devices of a host that was recorded: a device that is bound has passed its probe, whatever the model
    /// thinks of it now.
    pub(super) fn adopt_vfio_devices(&mut self) {
        let bound: Vec<Bdf> = self.functions().collect();
        for bdf in bound {
            let Some(Driver::Vfio(variant)) = self.driver(bdf) else { continue };
            let Ok((mut function, mut pf)) = self.seen_by(variant, bdf) else { continue };
            if let Some(text) = self.tree.text(&bound_with(bdf)) {
                function.parameters = text.lines().filter_map(|line| line.split_once('=')).collect();
                pf.driver = Some(function.parameters.text("pf").to_owned()).filter(|driver| !driver.is_empty());
            }
            let vdev = variant.probe(&function, &pf).unwrap_or_default();
            if let Some(own) = vdev.own {
                self.keep_own_state(bdf, own);
                if self.tree.has(&pf_left(bdf)) {
                    self.lose_pf(bdf);
                }
            }
            self.vdevs.insert(bdf, vdev);
        }
    }

    /// The driver of a PF has gone: VFs whose driver keeps something there have lost it, until they are bound again.
    ///
    /// # Kernel
    /// `drivers/base/devres.c` `devres_release_all()`, called by `drivers/base/dd.c` `device_unbind_cleanup()` (7.2);
    /// `lab/kmod/variant.c` `lab_pf_leaves()`. Contract: `variant: the driver of the PF goes …`.
    pub(super) fn leave_vfs(&mut self, pf: Bdf) {
        let needs =
            |vf: &Bdf| self.vdevs.get(vf).and_then(|vdev| vdev.own).is_some_and(|OwnState { needs_pf, .. }| needs_pf);
        let vfs: Vec<Bdf> = self.vfs(pf).into_values().filter(needs).collect();
        for vf in vfs {
            self.tree.put_text(&pf_left(vf), 1);
            self.lose_pf(vf);
        }
    }
}
