//! The machine: one shape for every suite, so that a case can rely on what it finds.
//!
//! | slot | what is there | ids | for |
//! |---|---|---|---|
//! | 02 | edu | 1234:11e8 | no host driver, no variant: plain vfio-pci |
//! | 03 | PCIe-to-PCI bridge with two e1000 | 8086:100e | a group that is viable only as a whole |
//! | 04 | igb behind a root port | 8086:10c9 | SR-IOV: PF, seven VFs 8086:10ca, autoprobe |
//! | 05 | NVMe with SR-IOV behind a root port | 1b36:0010 | a PF with other habits: four VFs, on one subsystem |
//! | 06 | virtio-net behind a root port | 1af4:1041 | `virtio_vfio_pci`, which degrades |
//! | 07 | vfio-user behind a root port | 15b3:101e | `mlx5_vfio_pci`, which degrades |
//! | 08 | vfio-user behind a root port | 15b3:1018 | no variant's table has it |
//! | 09 | vfio-user behind a root port | 8086:4941 | `qat_vfio_pci` refuses: ENODEV |
//! | 0a | vfio-user behind a root port | 1dd8:1003 | `pds_vfio_pci` refuses: EINVAL |
//! | 0b | NVMe with an ext4 image behind a root port | 1b36:0010 | a disk in use |
//! | 1f | ICH9 LPC, SATA, SMBus: q35's own | 8086:2918 … | a group that nobody may touch |
//!
//! The guest looks devices up by id and by what they can do; bus numbers are the firmware's affair.

use crate::devices::MODELS;

/// Modules that the guest loads before anything else: the host drivers. VFIO's own are for vfioadm to load.
pub(crate) const MODULES: [&str; 6] = ["igb", "igbvf", "e1000", "nvme", "virtio_net", "iommufd"];

/// How the virtual CPU is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    /// By the processor.
    Kvm,
    /// By emulation: everywhere, and slower.
    Tcg,
}

impl Accel {
    /// As people know it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "KVM",
            Accel::Tcg => "TCG",
        }
    }
}

/// Files and sockets of a run, spelled as QEMU reaches them.
pub(crate) struct Parts {
    pub(crate) kernel: String,
    pub(crate) initramfs: String,
    /// An ext4 image for the plain NVMe.
    pub(crate) disk: String,
    /// The socket that carries the guest's records.
    pub(crate) records: String,
    /// The directory with one socket per vfio-user model, named after it.
    pub(crate) sockets: String,
}

/// QEMU's arguments.
pub(crate) fn arguments(parts: &Parts, accel: Accel, command_line: &str) -> Vec<String> {
    let mut line: Vec<String> = Vec::new();
    let mut say = |words: &str| line.extend(words.split(' ').map(str::to_owned));
    match accel {
        Accel::Kvm => say("-accel kvm -cpu host"),
        Accel::Tcg => say("-accel tcg,thread=multi -cpu max"),
    }
    say("-machine q35,kernel-irqchip=split -m 2048 -smp 2 -nodefaults -display none -no-reboot");
    say("-serial mon:stdio");
    say(&format!("-chardev socket,id=records,path={} -serial chardev:records", parts.records));
    // The IOMMU comes first: a device made before it would not be behind it.
    say("-device intel-iommu,intremap=on,caching-mode=on");
    say("-device edu,bus=pcie.0,addr=02");
    say("-device pcie-pci-bridge,id=bridge,bus=pcie.0,addr=03");
    say("-device e1000,bus=bridge,addr=01 -device e1000,bus=bridge,addr=02");
    let mut port = |slot: u8, name: &str| {
        say(&format!("-device pcie-root-port,id=rp_{name},bus=pcie.0,addr={slot:02x},chassis={slot},slot={slot}"));
    };
    port(0x04, "igb");
    port(0x05, "nvme");
    port(0x06, "virtio");
    for (model, slot) in MODELS.iter().zip(0x07..) {
        port(slot, model.name);
    }
    port(0x0b, "disk");
    say("-device igb,bus=rp_igb");
    say("-device nvme-subsys,id=subsystem");
    say("-device nvme,bus=rp_nvme,serial=sriov,subsys=subsystem,sriov_max_vfs=4,max_ioqpairs=16,msix_qsize=17,\
         sriov_vq_flexible=8,sriov_vi_flexible=4");
    say("-device virtio-net-pci,bus=rp_virtio,disable-legacy=on");
    say(&format!("-drive if=none,id=disk,format=raw,file={}", parts.disk));
    say("-device nvme,bus=rp_disk,serial=disk,drive=disk");
    for model in MODELS {
        line.push("-device".to_owned());
        line.push(format!(
            r#"{{"driver":"vfio-user-pci","bus":"rp_{name}","socket":{{"type":"unix","path":"{dir}/{name}"}}}}"#,
            name = model.name,
            dir = parts.sockets,
        ));
    }
    line.extend(["-kernel", &parts.kernel, "-initrd", &parts.initramfs, "-append", command_line].map(str::to_owned));
    line
}
