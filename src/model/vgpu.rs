//! NVIDIA's vGPUs without mdev: a VF of a GPU becomes one when a type is written to it.
//!
//! The interface is that of a driver outside the kernel; what is said of it here is what NVIDIA's own tools rely on.

use std::collections::BTreeMap;

/// The number that NVIDIA gives a type of vGPU; 0 is none.
pub type VgpuTypeId = u32;

/// A type that can be made: a line of `nvidia/creatable_vgpu_types`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VgpuType {
    /// Its number: what is written.
    pub id: VgpuTypeId,
    /// `NVIDIA L40S-8Q`.
    pub name: String,
}

/// `nvidia/` of a VF.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vgpu {
    /// `nvidia/current_vgpu_type`: what the VF is; `None` for 0.
    pub current: Option<VgpuTypeId>,
    /// `nvidia/creatable_vgpu_types`: what it could be made now; nothing while it is one.
    pub creatable: Vec<VgpuType>,
}

impl Vgpu {
    /// Reads the two attributes.
    #[must_use]
    pub fn read_as(current: &str, creatable: &str) -> Self {
        Self { current: current.trim().parse().ok().filter(|id| *id != 0), creatable: types(creatable) }
    }
}

/// The lines of `creatable_vgpu_types`: `ID : NAME` below a line of headings, which not every release prints.
fn types(text: &str) -> Vec<VgpuType> {
    let line = |line: &str| {
        let (id, name) = line.split_once(':')?;
        let name = name.trim();
        Some(VgpuType { id: id.trim().parse().ok()?, name: name.to_owned() }).filter(|_| !name.is_empty())
    };
    text.lines().filter_map(line).collect()
}

/// The types that any of `vfs` can be made, with on how many, by number.
#[must_use]
pub fn creatable_on<'a>(vfs: impl Iterator<Item = &'a Vgpu>) -> BTreeMap<VgpuTypeId, (&'a str, u32)> {
    let mut all: BTreeMap<VgpuTypeId, (&str, u32)> = BTreeMap::new();
    for vf in vfs.filter(|vf| vf.current.is_none()) {
        for kind in &vf.creatable {
            all.entry(kind.id).or_insert((kind.name.as_str(), 0)).1 += 1;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_with_and_without_headings() {
        let kind = |id, name: &str| VgpuType { id, name: name.to_owned() };
        let wanted = vec![kind(1155, "NVIDIA L40S-1B"), kind(1158, "NVIDIA L40S-8Q")];
        for text in [
            "ID    : vGPU Name\n1155  : NVIDIA L40S-1B\n1158  : NVIDIA L40S-8Q\n",
            "1155 : NVIDIA L40S-1B\n1158 : NVIDIA L40S-8Q",
        ] {
            assert_eq!(Vgpu::read_as("0\n", text), Vgpu { current: None, creatable: wanted.clone() });
        }
        assert_eq!(Vgpu::read_as("1158", ""), Vgpu { current: Some(1158), creatable: Vec::new() });
        assert_eq!(Vgpu::read_as("", "ID : \n: x\n12\n").creatable, []);
    }
}
