//! What keeps a host as its file says across boots: the texts of units, rules and hooks. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::read::{EntryKind, Wish};
use crate::model::{ModuleName, PciId};
use crate::plan::Wanted;

/// A file to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Below the root of the machine.
    pub path: &'static str,
    /// Whether it is run.
    pub kind: Kind,
    /// What is in it; of a link, where it leads.
    pub text: String,
}

/// What an installed file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A script.
    Script,
    /// A symbolic link.
    Link,
}

/// What makes an initramfs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Initramfs {
    /// Debian's, Ubuntu's.
    InitramfsTools,
    /// Fedora's, RHEL's, SUSE's.
    Dracut,
}

/// What every installed file says, so that nobody else's is taken for it.
pub const MARK: &str = "made by vfioadm boot install";

/// A program that is wanted by the host file and the machine.
#[derive(Debug, Clone)]
pub struct Boot<'a> {
    /// Where vfioadm is.
    pub program: &'a str,
    /// The ids of devices that entries are about, VFs left out: they come with their PFs.
    pub ids: BTreeSet<PciId>,
    /// Host modules that would take a device that is VFIO's, each with a module to be there first.
    pub softdeps: BTreeSet<(ModuleName, ModuleName)>,
    /// What makes an initramfs here.
    pub initramfs: BTreeSet<Initramfs>,
}

/// The ids of the functions that a file selects by themselves, and of those among them that go to VFIO.
#[must_use]
pub fn ids(wish: &Wish) -> (BTreeSet<PciId>, BTreeSet<PciId>) {
    let (mut all, mut vfio) = (BTreeSet::new(), BTreeSet::new());
    for entry in &wish.entries {
        let Some(which) = entry.kind.which().filter(|which| which.vf.is_none()) else { continue };
        all.insert(which.id.0);
        if let EntryKind::Device(device) = &entry.kind
            && !matches!(device.driver.0, Wanted::Host)
        {
            vfio.insert(which.id.0);
        }
    }
    (all, vfio)
}

const SERVICE: &str = "etc/systemd/system/vfioadm.service";
const OF_A_DEVICE: &str = "etc/systemd/system/vfioadm-device@.service";

impl Boot<'_> {
    /// Every file, in the order in which they are installed.
    #[must_use]
    pub fn files(&self) -> Vec<Installed> {
        let text = |path, text| Installed { path, kind: Kind::Text, text };
        let script = |path, text| Installed { path, kind: Kind::Script, text };
        let mut all = vec![
            text(SERVICE, self.service()),
            text(OF_A_DEVICE, self.of_a_device()),
            Installed {
                path: "etc/systemd/system/multi-user.target.wants/vfioadm.service",
                kind: Kind::Link,
                text: String::from("/etc/systemd/system/vfioadm.service"),
            },
            text("etc/udev/rules.d/60-vfioadm.rules", self.rules()),
            text("etc/modprobe.d/vfioadm.conf", self.modprobe()),
        ];
        if self.initramfs.contains(&Initramfs::InitramfsTools) {
            all.push(script("etc/initramfs-tools/hooks/vfioadm", self.initramfs_hook()));
            all.push(script("etc/initramfs-tools/scripts/init-top/00-vfioadm", self.initramfs_script()));
        }
        if self.initramfs.contains(&Initramfs::Dracut) {
            all.push(script("usr/lib/dracut/modules.d/90vfioadm/module-setup.sh", self.dracut_setup()));
            all.push(script("usr/lib/dracut/modules.d/90vfioadm/vfioadm.sh", self.dracut_hook()));
        }
        all
    }

    /// Before anything looks for network interfaces or starts a VM.
    fn service(&self) -> String {
        format!(
            "# {MARK}; what is changed here is lost
[Unit]
Description=Devices as /etc/vfioadm/host.toml says
DefaultDependencies=no
Conflicts=shutdown.target
After=local-fs.target systemd-modules-load.service systemd-udev-trigger.service
Before=network-pre.target shutdown.target
Before=libvirtd.service virtqemud.service virtnodedevd.service libvirt-guests.service pve-guests.service
Wants=network-pre.target
ConditionPathExists=|/etc/vfioadm/host.toml
ConditionDirectoryNotEmpty=|/etc/vfioadm/host.d

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={} apply --boot --wait-driver 30 --wait-lock 60
TimeoutStartSec=600

[Install]
WantedBy=multi-user.target
",
            self.program
        )
    }

    /// Of one device that appeared. At boot the unit of all comes first, and finds most of it done.
    fn of_a_device(&self) -> String {
        format!(
            "# {MARK}; what is changed here is lost
[Unit]
Description=Device %I as /etc/vfioadm/host.toml says
DefaultDependencies=no
Conflicts=shutdown.target
After=local-fs.target vfioadm.service
Before=shutdown.target

[Service]
Type=oneshot
ExecStart={} apply --boot --only %I --wait-driver 10 --wait-lock 60
TimeoutStartSec=300
",
            self.program
        )
    }

    /// One unit for each device that an entry is about, and none for a VF: a thousand of them come with one PF.
    fn rules(&self) -> String {
        let mut text = format!(
            "# {MARK}; what is changed here is lost, and goes by the host file: install it again when that has changed\n"
        );
        for id in &self.ids {
            writeln!(
                text,
                "ACTION==\"add\", SUBSYSTEM==\"pci\", ATTR{{vendor}}==\"0x{:04x}\", ATTR{{device}}==\"0x{:04x}\", TEST!=\"physfn\", TAG+=\"systemd\", ENV{{SYSTEMD_WANTS}}+=\"vfioadm-device@$kernel.service\"",
                id.vendor, id.device
            )
            .unwrap_or_default();
        }
        text
    }

    /// VFIO's module first, wherever modprobe loads the other.
    fn modprobe(&self) -> String {
        let mut text = format!(
            "# {MARK}; what is changed here is lost, and goes by the host file: install it again when that has changed\n"
        );
        for (host, vfio) in &self.softdeps {
            writeln!(text, "softdep {host} pre: {vfio}").unwrap_or_default();
        }
        text
    }

    fn initramfs_hook(&self) -> String {
        format!(
            "#!/bin/sh
# {MARK}; what is changed here is lost
[ \"$1\" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
copy_exec {0} /usr/sbin/vfioadm
mkdir -p \"$DESTDIR/etc/vfioadm/host.d\"
for file in /etc/vfioadm/host.toml /etc/vfioadm/host.d/*.toml; do
    [ -f \"$file\" ] && cp -p \"$file\" \"$DESTDIR$file\"
done
manual_add_modules vfio_pci vfio_iommu_type1
for module in $(sed -n 's/^alias vfio_pci:[^ ]* //p' \"/lib/modules/$version/modules.alias\" | sort -u); do
    manual_add_modules \"$module\"
done
",
            self.program
        )
    }

    /// Before udev is started, and so before it loads a host driver: scripts that name no other go by their names.
    fn initramfs_script(&self) -> String {
        format!(
            "#!/bin/sh
# {MARK}; what is changed here is lost
[ \"$1\" = prereqs ] && exit 0
/usr/sbin/vfioadm --quiet apply --early
exit 0
"
        )
    }

    fn dracut_setup(&self) -> String {
        format!(
            "#!/bin/bash
# {MARK}; what is changed here is lost
check() {{ return 0; }}
depends() {{ return 0; }}
installkernel() {{
    instmods vfio_pci vfio_iommu_type1
    local module
    for module in $(sed -n 's/^alias vfio_pci:[^ ]* //p' \"/lib/modules/$kernel/modules.alias\" | sort -u); do
        instmods \"$module\"
    done
}}
install() {{
    inst_binary {} /usr/sbin/vfioadm
    inst_multiple -o /etc/vfioadm/host.toml /etc/vfioadm/host.d/*.toml
    inst_hook pre-udev 10 \"$moddir/vfioadm.sh\"
}}
",
            self.program
        )
    }

    fn dracut_hook(&self) -> String {
        format!(
            "#!/bin/sh
# {MARK}; what is changed here is lost
/usr/sbin/vfioadm --quiet apply --early || :
"
        )
    }
}
