//! NVIDIA's vGPUs without mdev, as far as sysfs shows them. The driver is not in the kernel: what is imitated here is what
//! its documentation and its users say.

use std::collections::BTreeMap;

use super::kernel::{Kernel, dev};
use super::tree::HIDDEN;
use crate::model::{Bdf, Errno, Vgpu, VgpuType};

/// The line above the types.
const HEADINGS: &str = "ID    : vGPU Name\n";

impl Kernel {
    /// `nvidia/current_vgpu_type`: makes a VF a vGPU of a type; 0 takes that back.
    ///
    /// `EINVAL` no number, or a type that cannot be made now; `EPERM` somebody has it open.
    pub(super) fn current_vgpu_type_store(&mut self, vf: Bdf, value: &str) -> Result<(), Errno> {
        let wanted: u32 = value.trim().parse().map_err(|_| Errno::EINVAL)?;
        let is = self.vgpu(vf);
        if self.opens.has(vf) {
            return Err(Errno::EPERM);
        }
        if wanted != 0 && (is.current.is_some() || is.creatable.iter().all(|kind| kind.id != wanted)) {
            return Err(Errno::EINVAL);
        }
        let gpu = self.pf(vf).unwrap_or(vf);
        self.keep_types(gpu);
        self.tree.put_text(&format!("{}/nvidia/current_vgpu_type", dev(vf)), wanted);
        self.tell_creatable(gpu);
        Ok(())
    }

    fn vgpu(&self, vf: Bdf) -> Vgpu {
        let text = |name: &str| self.tree.text(&format!("{}/nvidia/{name}", dev(vf))).unwrap_or_default();
        Vgpu::read_as(text("current_vgpu_type"), text("creatable_vgpu_types"))
    }

    /// The functions of a GPU that can be vGPUs.
    fn vgpu_functions(&self, gpu: Bdf) -> Vec<Bdf> {
        let vfs = self.vfs(gpu).into_values().chain([gpu]);
        vfs.filter(|vf| self.tree.has(&format!("{}/nvidia/current_vgpu_type", dev(*vf)))).collect()
    }

    /// Every type of the GPU, kept before the first change: those that any VF can be made.
    fn keep_types(&mut self, gpu: Bdf) {
        let place = format!("{HIDDEN}/vgpu/{gpu}");
        if self.tree.has(&place) {
            return;
        }
        let all: BTreeMap<u32, String> = self
            .vgpu_functions(gpu)
            .into_iter()
            .flat_map(|vf| self.vgpu(vf).creatable)
            .map(|kind| (kind.id, kind.name))
            .collect();
        let lines: String = all.iter().map(|(id, name)| format!("{id:<5} : {name}\n")).collect();
        self.tree.put(&place, lines);
    }

    /// What each VF can be made: types of the size that the GPU is divided into already, while there is room; the largest
    /// type is all of it.
    fn tell_creatable(&mut self, gpu: Bdf) {
        let all = Vgpu::read_as("0", self.tree.text(&format!("{HIDDEN}/vgpu/{gpu}")).unwrap_or_default()).creatable;
        let vfs = self.vgpu_functions(gpu);
        let room = all.iter().map(size).max().unwrap_or(0);
        let named = |id: u32| all.iter().find(|kind| kind.id == id).map_or(0, size);
        let used: Vec<u32> = vfs.iter().filter_map(|vf| self.vgpu(*vf).current).map(named).collect();
        let fits = |kind: &&VgpuType| {
            used.iter().all(|other| *other == size(kind)) && used.iter().sum::<u32>() + size(kind) <= room
        };
        let lines: String = all.iter().filter(fits).map(|kind| format!("{:<5} : {}\n", kind.id, kind.name)).collect();
        for vf in vfs {
            let lines = if self.vgpu(vf).current.is_some() { "" } else { lines.as_str() };
            self.tree.put(&format!("{}/nvidia/creatable_vgpu_types", dev(vf)), format!("{HEADINGS}{lines}"));
        }
    }
}

/// The frame buffer of a type in GB, as its name has it: 8 of `NVIDIA L40S-8Q`.
fn size(kind: &VgpuType) -> u32 {
    let last = kind.name.rsplit('-').next().unwrap_or_default();
    last.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(1)
}
