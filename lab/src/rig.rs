//! Boots the machine, follows what the guest says, and brings the results home.
//!
//! Nothing waits without a deadline, QEMU dies with this process, and a machine that falls silent is told apart from a
//! test that fails: the first is an `Err` here, the second a count in a [`Tally`].

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::binaries::Binaries;
use crate::cache::remove;
use crate::devices::{Served, serve};
use crate::follow::{Deadlines, Follow, follow_console, follow_records};
use crate::kernel::Kernel;
use crate::machine::{Accel, Boots, OnReset, Parts, Shape, arguments};
use crate::monitor::Monitor;
use crate::report::{Phase, Tally};
use crate::root::Root;
use crate::{exec, initramfs, say, system};

/// The plain NVMe's disk.
const DISK_BYTES: u64 = 16 << 20;
/// The same with a system on it.
const SYSTEM_BYTES: u64 = 2 << 30;

/// What to boot and what to run in it.
pub(crate) struct Job<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) binaries: &'a Binaries,
    pub(crate) accel: Accel,
    pub(crate) shape: Shape,
    pub(crate) boots: Boots<'a>,
    pub(crate) on_reset: OnReset,
    /// The guest's part of the kernel command line.
    pub(crate) orders: String,
    /// Where the console goes.
    pub(crate) log: PathBuf,
    /// Where a file goes that the guest sends home.
    pub(crate) keep: Option<PathBuf>,
    /// For all of it, the boot included.
    pub(crate) deadline: Duration,
}

/// The tree that QEMU runs in, and which QEMU.
pub(crate) struct Rig<'a> {
    pub(crate) root: &'a Root,
    /// `LAB_QEMU`: run this one, outside the root.
    pub(crate) qemu: Option<PathBuf>,
}

/// A machine's files, gone with it.
struct Stage {
    dir: tempfile::TempDir,
    parts: Parts,
    records: UnixListener,
    monitor: UnixListener,
    _devices: Vec<Served>,
}

impl Rig<'_> {
    /// Runs a job to its end and tells every phase to `tell`.
    pub(crate) fn run(&self, job: &Job<'_>, tell: &mut dyn FnMut(&Phase)) -> Result<Tally> {
        let stage = self.stage(job)?;
        let (reader, writer) = std::io::pipe().context("make a pipe for the console")?;
        let mut command = self.command(job, &stage.parts);
        let errors = writer.try_clone().context("duplicate the console's pipe")?;
        command.stdin(Stdio::null()).stdout(writer).stderr(errors);
        let mut qemu = Qemu(command.spawn().with_context(|| format!("start {}", command.get_program().display()))?);
        drop(command); // its copies of the pipe would keep the console open
        tell(&Phase::BootStart);
        let (sender, events) = channel();
        let log = fs::File::create(&job.log).with_context(|| format!("make the console log {}", job.log.display()))?;
        let console = sender.clone();
        thread::spawn(move || follow_console(reader, log, &console));
        let listener = stage.records.try_clone().context("duplicate the records' socket")?;
        thread::spawn(move || follow_records(&listener, &sender));
        let deadlines = Deadlines { boot: job.boots.deadline(job.shape), whole: job.deadline };
        let monitor = Monitor::new(stage.monitor.try_clone().context("duplicate the monitor's socket")?);
        let run = Follow::new(&events, deadlines, job.keep.as_deref(), tell).with_monitor(monitor).run();
        // Wakes the records' thread in case QEMU never connected.
        rustix::net::shutdown(&stage.records, rustix::net::Shutdown::Both).ok();
        match run {
            Ok(tally) => {
                if let Some(deadline) = job.shape.power_off_deadline()
                    && exec::wait(&mut qemu.0, deadline).context("wait for QEMU")?.is_none()
                {
                    say(format_args!("the guest did not power off within {} s", deadline.as_secs()));
                }
                Ok(tally)
            }
            Err(error) => {
                drop(qemu);
                let tail = exec::tail(&job.log);
                Err(anyhow!("{error:#}\n  the console ends with\n{tail}\n  all of it: {}", job.log.display()))
            }
        }
    }

    /// Boots with this terminal as the guest's console, until the guest powers off.
    pub(crate) fn shell(&self, job: &Job<'_>) -> Result<()> {
        let stage = self.stage(job)?;
        let mut command = self.command(job, &stage.parts);
        let mut qemu = Qemu(command.spawn().with_context(|| format!("start {}", command.get_program().display()))?);
        qemu.0.wait().context("wait for QEMU")?;
        Ok(())
    }

    fn stage(&self, job: &Job<'_>) -> Result<Stage> {
        let runs = self.root.path("run/lab");
        fs::create_dir_all(&runs).with_context(|| format!("make {}", runs.display()))?;
        sweep(&runs);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(&runs)
            .with_context(|| format!("make a directory in {}", runs.display()))?;
        let at = |name: &str| dir.path().join(name);
        fs::copy(&job.kernel.image, at("kernel"))
            .with_context(|| format!("copy {} to {}", job.kernel.image.display(), at("kernel").display()))?;
        match job.boots {
            Boots::Guest => {
                initramfs::write(&at("initramfs"), self.root, job.kernel, job.binaries)?;
                self.make_disk(&at("disk"), DISK_BYTES, None)?;
            }
            Boots::System(tree, by) => {
                let made = system::make(&at("system"), (tree, by), job.kernel, job.binaries)?;
                fs::rename(made.initramfs(), at("initramfs")).context("take the system's initramfs")?;
                self.make_disk(&at("disk"), SYSTEM_BYTES, Some(made.dir()))?;
                remove(made.dir())?;
            }
        }
        let short = ShortDir::open(dir.path())?;
        let (records, monitor) = (short.listen("records")?, short.listen("monitor")?);
        let models = job.shape.models().iter();
        let devices = models.map(|model| serve(*model, short.listen(model.name)?)).collect::<Result<Vec<_>>>()?;
        let inside = |path: PathBuf| self.inside(&path);
        let parts = Parts {
            kernel: inside(at("kernel")),
            initramfs: inside(at("initramfs")),
            disk: inside(at("disk")),
            records: inside(at("records")),
            monitor: inside(at("monitor")),
            sockets: inside(dir.path().to_owned()),
        };
        Ok(Stage { dir, parts, records, monitor, _devices: devices })
    }

    /// A path as QEMU reaches it.
    fn inside(&self, path: &Path) -> String {
        let path = match (&self.qemu, path.strip_prefix(self.root.dir())) {
            (None, Ok(rest)) => Path::new("/").join(rest),
            _ => path.to_owned(),
        };
        path.to_string_lossy().into_owned()
    }

    /// Makes an ext4 image of what is in a directory.
    fn make_disk(&self, path: &Path, size: u64, of: Option<&Path>) -> Result<()> {
        let file = fs::File::create(path).with_context(|| format!("make {}", path.display()))?;
        file.set_len(size).with_context(|| format!("size {}", path.display()))?;
        let inside = |path: &Path| Path::new("/").join(path.strip_prefix(self.root.dir()).unwrap_or(path));
        let mut command = self.root.command("mkfs.ext4");
        command.args(["-q", "-F", "-L", "lab"]);
        if let Some(of) = of {
            command.arg("-d").arg(inside(of));
        }
        command.arg(inside(path));
        exec::output("make a file system for the guest's disk", &mut command).map(drop)
    }

    fn command(&self, job: &Job<'_>, parts: &Parts) -> Command {
        // The kernel kills QEMU when the thread that started it is gone, whatever took it away.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        match &self.qemu {
            Some(own) => command.arg(own),
            None => command.arg("chroot").arg(self.root.dir()).arg("qemu-system-x86_64"),
        };
        // `no_timer_check`: on a busy machine an emulated timer may miss the moment in which the kernel listens for it, and
        // the kernel then panics ("timer doesn't work through Interrupt-remapped IO-APIC").
        let line = format!(
            "console=ttyS0 panic=-1 quiet no_timer_check intel_iommu=on {} {}",
            job.boots.command_line(),
            job.orders
        );
        command.args(arguments(job.shape, parts, job.accel, job.on_reset, &line));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The devices' threads end when QEMU has closed their sockets; the directory goes by itself.
        drop(fs::remove_file(self.dir.path().join("records")));
    }
}

/// Removes what labs left behind that were killed: directories whose process, the first part of the name, is gone.
fn sweep(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let alive = name.split_once('-').is_some_and(|(pid, _)| Path::new("/proc").join(pid).is_dir());
        if !alive {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// QEMU, killed and reaped on every path that leaves it running.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A directory by descriptor: a socket's address holds 107 bytes, and the path of a cache may be longer.
struct ShortDir(fs::File);

impl ShortDir {
    fn open(dir: &Path) -> Result<ShortDir> {
        fs::File::open(dir).map(ShortDir).with_context(|| format!("open {}", dir.display()))
    }

    fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd());
        UnixListener::bind(&path).with_context(|| format!("make the socket {name}"))
    }
}
