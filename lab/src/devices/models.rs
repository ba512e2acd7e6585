//! The devices the lab serves: each is the common function with a vendor's ids.
//!
//! None of them does any work, and none needs to. What matters is what the kernel does with the ids: which driver's
//! table matches, and what its probe answers when the hardware behind it, or its PF, is not there.

use super::core::{Function, Identity};

/// A device by name, and how to make one.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    /// The name of its socket and of its root port.
    pub(crate) name: &'static str,
    /// Makes one.
    pub(crate) make: fn() -> Function,
}

/// In the order in which they stand in the machine.
pub(crate) const MODELS: [Model; 4] = [
    Model { name: "mlx5_vf", make: mlx5_vf },
    Model { name: "cx5", make: cx5 },
    Model { name: "qat_vf", make: qat_vf },
    Model { name: "pds_vf", make: pds_vf },
];

fn endpoint(identity: Identity) -> Function {
    Function::new(identity).memory_bar(0, 64 << 10).power_management().pcie_endpoint().msix(0, 4).finish()
}

/// ConnectX family VF: in the table of `mlx5_vfio_pci`, whose probe degrades to plain vfio-pci without a PF on mlx5_core.
fn mlx5_vf() -> Function {
    endpoint(Identity { vendor: 0x15b3, device: 0x101e, subsystem: (0x15b3, 0x0023), class: 0x02_00_00 })
}

/// ConnectX-5 Ex VF: mlx5_core drives it, `mlx5_vfio_pci` does not know it.
fn cx5() -> Function {
    endpoint(Identity { vendor: 0x15b3, device: 0x1018, subsystem: (0x15b3, 0x0016), class: 0x02_00_00 })
}

/// QAT generation 4 VF: `qat_vfio_pci` wants a VF of a PF on its own driver and answers ENODEV to this one.
fn qat_vf() -> Function {
    endpoint(Identity { vendor: 0x8086, device: 0x4941, subsystem: (0x8086, 0x0000), class: 0x0b_40_00 })
}

/// DSC VF: `pds_vfio_pci` wants a VF index and answers EINVAL to a function that is no VF.
fn pds_vf() -> Function {
    endpoint(Identity { vendor: 0x1dd8, device: 0x1003, subsystem: (0x1dd8, 0x4000), class: 0x02_00_00 })
}
