//! The real driverctl and mdevctl write their files, and `vfioadm import` reads them.
//!
//! They run in the lab root, on a `/sys` of plain files that is bound over its own: driverctl is content with a device's
//! driver link, mdevctl with nothing. So what they write is theirs, and no device of the machine is touched.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vfioadm::cli::{Env, Terminal};

use crate::exec;
use crate::root::Root;

const PACKAGES: [&str; 2] = ["driverctl", "mdevctl"];
const DEADLINE: Duration = Duration::from_secs(60);

/// Functions of the demo host that get an override.
const FUNCTIONS: [&str; 3] = ["0000:3b:00.2", "0000:87:00.0", "0000:87:00.1"];

/// What is done with the tools. The last override is not saved, and is in no file.
const SCRIPT: &str = "set -e
cd $1
mount --bind sys /sys
mkdir -p /etc/driverctl.d /etc/mdevctl.d
mount --bind driverctl.d /etc/driverctl.d
mount --bind mdevctl.d /etc/mdevctl.d
driverctl set-override 0000:3b:00.2 vfio-pci
driverctl set-override 0000:87:00.1 none
driverctl --nosave set-override 0000:87:00.0 vfio-pci
one=83b8f4f2-509f-382f-3c1e-e6bfe0fa100
mdevctl define --parent mtty --type mtty-2 --uuid ${one}1 --auto
mdevctl define --parent mtty --type mtty-1 --uuid ${one}2
mdevctl define --parent mtty --type mtty-1 --uuid ${one}3 --auto
mdevctl modify --uuid ${one}3 --addattr b --value 2
mdevctl modify --uuid ${one}3 --addattr a --value 1
mdevctl define --parent matrix --type vfio_ap-passthrough --uuid ${one}4 --auto
mdevctl list -d --dumpjson > list.json
";

/// What is imported of driverctl's files.
const OVERRIDES: &str = "[[device]]
match = { id = \"15b3:101e\", subsystem = \"15b3:0058\", address = \"0000:3b:00.2\" }
driver = \"vfio-pci\"

[[device]]
match = { id = \"10de:228b\", subsystem = \"10de:14ad\", address = \"0000:87:00.1\" }
driver = \"none\"
";

/// What is imported of mdevctl's.
const MDEVS: &str = "[[mdev]]
uuid = \"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\"
parent = \"mtty\"
type = \"mtty-2\"

[[mdev]]
uuid = \"83b8f4f2-509f-382f-3c1e-e6bfe0fa1003\"
parent = \"mtty\"
type = \"mtty-1\"
attributes = [{ b = \"2\" }, { a = \"1\" }]
";

/// What is said of the two mdevs that are left out.
const LEFT_OUT: [&str; 2] = [
    "83b8f4f2-509f-382f-3c1e-e6bfe0fa1004: this host has no mdev parent matrix",
    "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002: it is started by hand",
];

/// Says what was imported otherwise than it was written.
pub(crate) fn import(root: &Root) -> Result<Option<String>> {
    if PACKAGES.iter().any(|package| root.version(package).is_none()) {
        root.install(&PACKAGES)?;
    }
    let inside = tempfile::Builder::new().prefix("peers-").tempdir_in(root.path("/tmp"))?;
    let dir = inside.path();
    make_sys(&dir.join("sys")).context("make a /sys of files")?;
    fs::create_dir(dir.join("driverctl.d"))?;
    fs::create_dir_all(dir.join("mdevctl.d/scripts.d/callouts"))?;
    fs::create_dir_all(dir.join("mdevctl.d/scripts.d/notifiers"))?;
    let place = Path::new("/tmp").join(dir.file_name().context("a directory without a name")?);
    let mut command = root.command("sh");
    command.arg("-c").arg(SCRIPT).arg("sh").arg(place);
    exec::run("have driverctl and mdevctl write their files", &mut command, &root.path("/tmp/peers.log"), DEADLINE)?;
    let mut wrong = Vec::new();
    let mut expect = |words: [&str; 2], out: &str, said: &[&str]| -> Result<()> {
        let (printed, err) = vfioadm(words[0], &dir.join(words[1]))?;
        let is_said = |words: &&str| err.contains(words);
        if printed != out || !said.iter().all(is_said) {
            wrong.push(format!("import {} of {}: {printed}{err}", words[0], words[1]));
        }
        Ok(())
    };
    expect(["driverctl", "driverctl.d"], OVERRIDES, &["rm /etc/driverctl.d/pci-0000:3b:00.2"])?;
    expect(["mdevctl", "mdevctl.d"], MDEVS, &LEFT_OUT)?;
    expect(["mdevctl", "list.json"], MDEVS, &LEFT_OUT.map(|words| words.split_once(": ").map_or("", |(_, of)| of)))?;
    Ok((!wrong.is_empty()).then(|| wrong.join("\n")))
}

/// As much of sysfs as driverctl looks at: it unbinds, writes the override, probes, and finds a driver.
fn make_sys(sys: &Path) -> Result<()> {
    for directory in ["bus/pci/devices", "bus/pci/drivers/old", "bus/pci/drivers/vfio-pci", "module/vfio-pci"] {
        fs::create_dir_all(sys.join(directory))?;
    }
    fs::create_dir_all(sys.join("class/mdev_bus/mtty/mdev_supported_types/mtty-2"))?;
    fs::create_dir_all(sys.join("bus/mdev/devices"))?;
    for bdf in FUNCTIONS {
        let device = sys.join("devices").join(bdf);
        fs::create_dir_all(&device)?;
        fs::write(device.join("driver_override"), "(null)\n")?;
        fs::write(device.join("vendor"), "0x15b3\n")?;
        fs::write(device.join("device"), "0x101e\n")?;
        symlink("../../bus/pci/drivers/old", device.join("driver"))?;
        symlink(format!("../../../devices/{bdf}"), sys.join("bus/pci/devices").join(bdf))?;
    }
    Ok(())
}

/// What `vfioadm import` prints of files, on the demo host.
fn vfioadm(tool: &str, path: &Path) -> Result<(String, String)> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let words = ["vfioadm", "--host", "demo", "import", tool].map(OsString::from);
    let mut env = Env { out: &mut out, err: &mut err, terminal: Terminal::default() };
    let exit = vfioadm::cli::run(words.into_iter().chain([path.as_os_str().to_owned()]), &mut env);
    let (out, err) = (String::from_utf8(out)?, String::from_utf8(err)?);
    ensure!(exit == 0, "vfioadm import {tool} exits with {exit}: {err}");
    Ok((out, err))
}
