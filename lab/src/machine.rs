//! The machine: one shape for most suites, so that a case can rely on what it finds, and one that is only large.
//!
//! # The field
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
//! # Scale
//!
//! | slot | what is there | for |
//! |---|---|---|
//! | 02 … 09 | an NVMe behind a root port, 127 VFs, its own subsystem | 1,016 VFs |
//! | 1f | q35's own | |
//!
//! The guest looks devices up by id and by what they can do; bus numbers are the firmware's affair.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::devices::{MODELS, Model};
use crate::root::Root;
use crate::system::Initramfs;

/// Modules that the guest loads before anything else: the host drivers. VFIO's own are for vfioadm to load.
const MODULES: [&str; 6] = ["igb", "igbvf", "e1000", "nvme", "virtio_net", "iommufd"];

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

/// Which machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One device of every kind.
    Field,
    /// As many functions as QEMU makes at an affordable price, all alike.
    Scale,
}

impl Shape {
    /// The vfio-user devices in it.
    pub(crate) fn models(self) -> &'static [Model] {
        match self {
            Shape::Field => &MODELS,
            Shape::Scale => &[],
        }
    }

    /// From starting QEMU to user space: emulation on a busy machine takes its time, and room for a thousand VFs more.
    fn boot_deadline(self) -> Duration {
        Duration::from_secs(match self {
            Shape::Field => 180,
            Shape::Scale => 600,
        })
    }

    /// From the guest's last word to QEMU's end. Nobody waits for QEMU to part with a thousand VFs: it takes more than a
    /// minute after the guest's power went down, and everything has been said.
    pub(crate) fn power_off_deadline(self) -> Option<Duration> {
        match self {
            Shape::Field => Some(Duration::from_secs(20)),
            Shape::Scale => None,
        }
    }

    fn memory_mib(self) -> u32 {
        match self {
            Shape::Field => 2048,
            Shape::Scale => 6144,
        }
    }
}

/// What is booted on it.
#[derive(Clone, Copy)]
pub(crate) enum Boots<'a> {
    /// The guest's init, from an initramfs.
    Guest,
    /// A system with systemd, from the disk: the tree that it is made of, and what makes its initramfs.
    System(&'a Root, Initramfs),
}

impl Boots<'_> {
    /// Its part of the kernel command line.
    pub(crate) fn command_line(self) -> String {
        match self {
            Boots::Guest => format!("rdinit=/init lab.modules={}", MODULES.join(",")),
            Boots::System(..) => "root=LABEL=lab rw".to_owned(),
        }
    }

    /// From starting QEMU to user space, on that machine.
    pub(crate) fn deadline(self, shape: Shape) -> Duration {
        match self {
            Boots::Guest => shape.boot_deadline(),
            Boots::System(..) => Duration::from_secs(600),
        }
    }
}

/// What a reset of the machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnReset {
    /// QEMU ends: nobody has ordered one.
    End,
    /// It boots again, with the same devices and the same disk.
    Boot,
}

/// The address of the igb PF, by which a host file may know it.
const IGB_MAC: &str = "52:54:00:0a:00:01";

/// The slots of the PFs of [`Shape::Scale`].
const SCALE_SLOTS: RangeInclusive<u8> = 0x02..=0x09;

/// Files and sockets of a run, spelled as QEMU reaches them.
pub(crate) struct Parts {
    pub(crate) kernel: String,
    pub(crate) initramfs: String,
    /// An ext4 image for the plain NVMe: the system, when one is booted.
    pub(crate) disk: String,
    /// The socket that carries the guest's records.
    pub(crate) records: String,
    /// The socket of QEMU's monitor.
    pub(crate) monitor: String,
    /// The directory with one socket per vfio-user model, named after it.
    pub(crate) sockets: String,
}

/// QEMU's arguments.
pub(crate) fn arguments(
    shape: Shape,
    parts: &Parts,
    accel: Accel,
    on_reset: OnReset,
    command_line: &str,
) -> Vec<String> {
    let mut line = Line(Vec::new());
    match accel {
        Accel::Kvm => line.say("-accel kvm -cpu host"),
        Accel::Tcg => line.say("-accel tcg,thread=multi -cpu max"),
    }
    line.say(&format!("-machine q35,kernel-irqchip=split -m {} -smp 2", shape.memory_mib()));
    line.say("-nodefaults -display none -serial mon:stdio");
    // Root ports do hotplug themselves, as those of machines do, and have slots by their numbers.
    line.say("-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off");
    if on_reset == OnReset::End {
        line.say("-no-reboot");
    }
    line.say(&format!("-chardev socket,id=records,path={} -serial chardev:records", parts.records));
    line.say(&format!("-chardev socket,id=monitor,path={} -mon chardev=monitor,mode=control", parts.monitor));
    // The IOMMU comes first: a device made before it would not be behind it.
    line.say("-device intel-iommu,intremap=on,caching-mode=on");
    match shape {
        Shape::Field => field(&mut line, parts),
        Shape::Scale => scale(&mut line),
    }
    line.0.extend(["-kernel", &parts.kernel, "-initrd", &parts.initramfs, "-append", command_line].map(str::to_owned));
    line.0
}

fn field(line: &mut Line, parts: &Parts) {
    line.say("-device edu,bus=pcie.0,addr=02");
    line.say("-device pcie-pci-bridge,id=bridge,bus=pcie.0,addr=03");
    line.say("-device e1000,bus=bridge,addr=01 -device e1000,bus=bridge,addr=02");
    line.port(0x04, "igb");
    line.port(0x05, "nvme");
    line.port(0x06, "virtio");
    for (model, slot) in MODELS.iter().zip(0x07..) {
        line.port(slot, model.name);
    }
    line.port(0x0b, "disk");
    line.say(&format!("-device igb,bus=rp_igb,mac={IGB_MAC}"));
    line.say("-device nvme-subsys,id=subsystem");
    line.say(
        "-device nvme,bus=rp_nvme,serial=sriov,subsys=subsystem,sriov_max_vfs=4,max_ioqpairs=16,msix_qsize=17,\
         sriov_vq_flexible=8,sriov_vi_flexible=4",
    );
    line.say("-device virtio-net-pci,id=virtio,bus=rp_virtio,disable-legacy=on");
    line.say(&format!("-drive if=none,id=disk,format=raw,file={}", parts.disk));
    line.say("-device nvme,bus=rp_disk,serial=disk,drive=disk");
    for model in MODELS {
        line.0.push("-device".to_owned());
        line.0.push(format!(
            r#"{{"driver":"vfio-user-pci","bus":"rp_{name}","socket":{{"type":"unix","path":"{dir}/{name}"}}}}"#,
            name = model.name,
            dir = parts.sockets,
        ));
    }
}

fn scale(line: &mut Line) {
    for slot in SCALE_SLOTS {
        line.port(slot, &format!("{slot}"));
        line.say(&format!("-device nvme-subsys,id=subsystem{slot}"));
        // A VF may have two queue pairs and one interrupt; it has them when somebody assigns them, which nobody does.
        line.say(&format!(
            "-device nvme,bus=rp_{slot},serial=scale{slot},subsys=subsystem{slot},sriov_max_vfs=127,max_ioqpairs=256,\
             msix_qsize=256,sriov_vq_flexible=254,sriov_vi_flexible=127"
        ));
    }
}

/// QEMU's command line.
struct Line(Vec<String>);

impl Line {
    fn say(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(str::to_owned));
    }

    fn port(&mut self, slot: u8, name: &str) {
        self.say(&format!("-device pcie-root-port,id=rp_{name},bus=pcie.0,addr={slot:02x},chassis={slot},slot={slot}"));
    }
}
