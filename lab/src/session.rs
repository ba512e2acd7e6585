//! A run of the lab from its command line: which kernels, which suites, and what came of it.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vfioadm_wire::Outcome;

use crate::binaries::Binaries;
use crate::cache::Cache;
use crate::kernel::Kernel;
use crate::kernels::{self, KernelLine};
use crate::machine::{Accel, Boots, OnReset, Shape};
use crate::report::{self, Phase, Tally};
use crate::rig::{Job, Rig};
use crate::root::Root;
use crate::system::Initramfs;
use crate::{accel, oracle, peers, say};

/// The suites that the guest knows, each in a machine of its own: what one leaves behind the other never meets.
const SUITES: [&str; 6] = ["contract", "scenarios", CUT, BOOT, BOOT_DRACUT, SCALE];
/// The one in a machine of another shape. It takes minutes: it runs in a full run, or when it is named.
const SCALE: &str = "scale";
/// The one that cuts the machine's power and boots it again.
const CUT: &str = "cut";
/// The one in a system with systemd, which has a host file. It asks for the lab's own variants.
const BOOT: &str = "boot";
/// What of it depends on the initramfs, with that of another program.
const BOOT_DRACUT: &str = "boot-dracut";
/// The suite that runs beside the guest: vfioadm's matching against modprobe's, on the guest kernel's own modules.
const ORACLE: &str = "oracle";
/// Not a test: `lab bench` alone runs it.
const BENCH: &str = "bench";
const BENCH_DEADLINE: Duration = Duration::from_secs(60 * 60);
/// Fifteen minutes on two processors that emulate; a slower machine is not a broken one, and a case that hangs is told by its own.
const SUITE_DEADLINE: Duration = Duration::from_secs(40 * 60);
/// Some cases do a hundred times what they do a few times otherwise.
const FULL_SUITE_DEADLINE: Duration = Duration::from_secs(90 * 60);

/// How the run went, when the rig did its part.
pub(crate) enum Answer {
    Green,
    Red,
    /// The command line asked for something that does not exist.
    Misused(String),
}

/// How often a case repeats what it repeats.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counts {
    Small,
    Full,
}

impl Counts {
    fn word(self) -> &'static str {
        match self {
            Counts::Small => "small",
            Counts::Full => "full",
        }
    }
}

/// Everything that does not depend on the kernel.
pub(crate) struct Session {
    workspace: PathBuf,
    /// For guest binaries and console logs.
    target: PathBuf,
    cache: Cache,
    lines: Vec<KernelLine>,
}

impl Session {
    pub(crate) fn open() -> Result<Session> {
        let workspace = find_workspace()?;
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from).join("lab");
        std::fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
        let target = target.canonicalize().with_context(|| format!("find {}", target.display()))?;
        let lines = kernels::read(&workspace.join("lab"))?;
        Ok(Session { workspace, target, cache: Cache::open()?, lines })
    }

    /// All of `lab/KERNELS`.
    pub(crate) fn kernels(&self) -> &[KernelLine] {
        &self.lines
    }

    /// Does something with the line of that name, or with the first.
    pub(crate) fn with(&self, name: Option<&str>, act: impl FnOnce(&[KernelLine]) -> Result<Answer>) -> Result<Answer> {
        let wanted = name.unwrap_or(&self.lines[0].name);
        match self.lines.iter().find(|line| line.name == wanted) {
            Some(line) => act(std::slice::from_ref(line)),
            None => {
                let known: Vec<_> = self.lines.iter().map(|line| line.name.as_str()).collect();
                Ok(Answer::Misused(format!("no kernel {wanted} in lab/KERNELS: there are {}", known.join(", "))))
            }
        }
    }

    /// Builds what is not in the cache.
    pub(crate) fn build(&self, lines: &[KernelLine]) -> Result<Answer> {
        let root = Root::open(&self.cache)?;
        for line in lines {
            let kernel = Kernel::open(&self.cache, &root, &self.workspace.join("lab"), line)?;
            say(format_args!("kernel {}: {}", kernel.name, kernel.image.display()));
        }
        Ok(Answer::Green)
    }

    /// Runs the suites on each kernel.
    pub(crate) fn run(&self, lines: &[KernelLine], filter: Option<String>, counts: Counts) -> Result<Answer> {
        let filter = filter.unwrap_or_default();
        if !is_filter(&filter) {
            return Ok(Answer::Misused(format!("{filter:?} is no part of a case's name")));
        }
        let seed = match env::var("LAB_SEED") {
            Ok(seed) if seed.parse::<u64>().is_ok() => format!(" lab.seed={seed}"),
            Ok(seed) => return Ok(Answer::Misused(format!("LAB_SEED={seed}: it is a number"))),
            Err(_) => String::new(),
        };
        let started = Instant::now();
        let bench = self.bench()?;
        let rig = bench.rig();
        let mut all = Tally::default();
        for kernel in &self.open_kernels(&bench.root, lines)? {
            let mut tally = Tally::default();
            let accel = accel::choose(&self.cache, &rig, self.job(kernel, &bench, Accel::Kvm, "probe"))?;
            for suite in SUITES.into_iter().filter(|suite| is_due(suite, &filter, counts)) {
                say(format_args!("kernel {}, {}: {suite}", kernel.name, accel.name()));
                let initramfs = initramfs_of(suite);
                if initramfs.is_some() && kernel.variants.is_none() {
                    say(format_args!("{suite}: left out: the kernel is not of the lab's making"));
                    continue;
                }
                let system = initramfs.map(|by| Root::system(&self.cache).map(|tree| (tree, by))).transpose()?;
                let mut job = self.job(kernel, &bench, accel, suite);
                job.boots = system.as_ref().map_or(Boots::Guest, |(tree, by)| Boots::System(tree, *by));
                job.shape = if suite == SCALE { Shape::Scale } else { Shape::Field };
                job.on_reset = if suite == CUT { OnReset::Boot } else { OnReset::End };
                job.deadline = match counts {
                    Counts::Small => SUITE_DEADLINE,
                    Counts::Full => FULL_SUITE_DEADLINE,
                };
                job.orders = format!(
                    "lab.suites={suite} lab.filter={} lab.counts={}{seed}",
                    on_one_word(&filter),
                    counts.word()
                );
                let ran = rig
                    .run(&job, &mut |phase| report::show(phase))
                    .with_context(|| format!("{suite} on kernel {}", kernel.name))?;
                tally.add(ran);
            }
            if kernel.modules.is_some() && may_hold(ORACLE, &filter) {
                tally.count(self.compare(kernel, &bench.root, counts)?);
            }
            say(format_args!("kernel {}: {tally}", kernel.name));
            all.add(tally);
        }
        if may_hold(ORACLE, &filter) {
            all.count(self.import(&bench.root)?);
        }
        if all.total() == 0 {
            return Ok(Answer::Misused(format!("no case has {filter:?} in its name")));
        }
        say(format_args!("lab: done in {:.0} s", started.elapsed().as_secs_f64()));
        say(format_args!("{all}"));
        Ok(if all.failed == 0 { Answer::Green } else { Answer::Red })
    }

    /// Runs the oracle.
    fn compare(&self, kernel: &Kernel, root: &Root, counts: Counts) -> Result<Outcome> {
        let count = match counts {
            Counts::Small => 10_000,
            Counts::Full => 50_000,
        };
        let started = Instant::now();
        let compared = oracle::compare(kernel, root, count)?;
        let (outcome, detail) = match compared.differences {
            0 => (Outcome::Pass, ""),
            _ => (Outcome::Fail, "the differences are above"),
        };
        say(format_args!("{ORACLE}: {compared}"));
        report::show(&Phase::Case {
            suite: ORACLE.to_owned(),
            case: format!("match agrees with modprobe --resolve-alias on {}", kernel.name),
            outcome,
            seconds: started.elapsed().as_secs_f64(),
            detail: detail.to_owned(),
        });
        Ok(outcome)
    }

    /// Has the real driverctl and mdevctl write their files, and vfioadm import them.
    fn import(&self, root: &Root) -> Result<Outcome> {
        let started = Instant::now();
        let differs = peers::import(root)?;
        let outcome = if differs.is_none() { Outcome::Pass } else { Outcome::Fail };
        report::show(&Phase::Case {
            suite: ORACLE.to_owned(),
            case: String::from("import reads what driverctl and mdevctl write"),
            outcome,
            seconds: started.elapsed().as_secs_f64(),
            detail: differs.unwrap_or_default(),
        });
        Ok(outcome)
    }

    /// Runs the benchmark, or what the filter leaves of it, on the large machine.
    pub(crate) fn measure(&self, lines: &[KernelLine], filter: Option<String>) -> Result<Answer> {
        let filter = filter.unwrap_or_default();
        if !is_filter(&filter) {
            return Ok(Answer::Misused(format!("{filter:?} is no part of a case's name")));
        }
        let bench = self.bench()?;
        let rig = bench.rig();
        let mut all = Tally::default();
        for kernel in &self.open_kernels(&bench.root, lines)? {
            let accel = accel::choose(&self.cache, &rig, self.job(kernel, &bench, Accel::Kvm, "probe"))?;
            say(format_args!("kernel {}, {}: {BENCH}", kernel.name, accel.name()));
            let mut job = self.job(kernel, &bench, accel, BENCH);
            job.shape = Shape::Scale;
            job.orders = format!("lab.suites={BENCH} lab.filter={}", on_one_word(&filter));
            job.deadline = BENCH_DEADLINE;
            let ran = rig.run(&job, &mut |phase| report::show(phase));
            all.add(ran.with_context(|| format!("{BENCH} on kernel {}", kernel.name))?);
        }
        Ok(if all.failed == 0 { Answer::Green } else { Answer::Red })
    }

    /// The guest as `vfioadm record` sees it.
    pub(crate) fn record(&self, lines: &[KernelLine], file: &Path) -> Result<Answer> {
        let bench = self.bench()?;
        let rig = bench.rig();
        for kernel in &self.open_kernels(&bench.root, lines)? {
            let accel = accel::choose(&self.cache, &rig, self.job(kernel, &bench, Accel::Kvm, "probe"))?;
            let mut job = self.job(kernel, &bench, accel, "record");
            job.orders = "lab.record".to_owned();
            job.keep = Some(file.to_owned());
            rig.run(&job, &mut |phase| report::show(phase))
                .with_context(|| format!("record kernel {}", kernel.name))?;
            say(format_args!("recorded in {}", file.display()));
        }
        Ok(Answer::Green)
    }

    /// A shell in the guest.
    pub(crate) fn shell(&self, lines: &[KernelLine]) -> Result<Answer> {
        let bench = self.bench()?;
        let rig = bench.rig();
        for kernel in &self.open_kernels(&bench.root, lines)? {
            let accel = accel::choose(&self.cache, &rig, self.job(kernel, &bench, Accel::Kvm, "probe"))?;
            say(format_args!("kernel {}, {}; ctrl-a x ends the machine", kernel.name, accel.name()));
            let mut job = self.job(kernel, &bench, accel, "shell");
            job.orders = "lab.shell".to_owned();
            rig.shell(&job)?;
        }
        Ok(Answer::Green)
    }

    fn bench(&self) -> Result<Bench> {
        let root = Root::open(&self.cache)?;
        let binaries = Binaries::build(&self.workspace, &self.target)?;
        let qemu = env::var_os("LAB_QEMU").map(PathBuf::from);
        if let Some(path) = qemu.as_ref().filter(|path| !path.is_file()) {
            bail!("LAB_QEMU={}: no such file", path.display());
        }
        Ok(Bench { root, binaries, qemu })
    }

    fn open_kernels(&self, root: &Root, lines: &[KernelLine]) -> Result<Vec<Kernel>> {
        match env::var_os("LAB_KERNEL") {
            Some(path) => Ok(vec![Kernel::from_path(Path::new(&path))?]),
            None => {
                let lab = self.workspace.join("lab");
                lines.iter().map(|line| Kernel::open(&self.cache, root, &lab, line)).collect()
            }
        }
    }

    /// A job that boots and does nothing else.
    fn job<'a>(&self, kernel: &'a Kernel, bench: &'a Bench, accel: Accel, name: &str) -> Job<'a> {
        Job {
            kernel,
            binaries: &bench.binaries,
            accel,
            shape: Shape::Field,
            boots: Boots::Guest,
            on_reset: OnReset::End,
            orders: String::new(),
            log: self.target.join(format!("{}-{name}.console.log", kernel.name)),
            keep: None,
            deadline: SUITE_DEADLINE,
        }
    }
}

/// What every kernel is run with.
struct Bench {
    root: Root,
    binaries: Binaries,
    qemu: Option<PathBuf>,
}

impl Bench {
    fn rig(&self) -> Rig<'_> {
        Rig { root: &self.root, qemu: self.qemu.clone() }
    }
}

/// Whether a text can be part of a case's name: it goes onto the kernel command line.
fn is_filter(filter: &str) -> bool {
    filter.chars().all(|c| c.is_ascii_alphanumeric() || " _-/.:,".contains(c))
}

/// What makes the initramfs of a suite that runs in a system with systemd.
fn initramfs_of(suite: &str) -> Option<Initramfs> {
    match suite {
        BOOT => Some(Initramfs::Tools),
        BOOT_DRACUT => Some(Initramfs::Dracut),
        _ => None,
    }
}

/// Whether a suite is to be run at all.
fn is_due(suite: &str, filter: &str, counts: Counts) -> bool {
    let asked = suite != SCALE || matches!(counts, Counts::Full) || filter.split('/').next() == Some(SCALE);
    asked && may_hold(suite, filter)
}

/// Whether a suite can have a case that the filter leaves: a filter may name a suite, a case, or part of both.
fn may_hold(suite: &str, filter: &str) -> bool {
    match filter.split_once('/') {
        Some((wanted, _)) => suite.ends_with(wanted),
        None => suite == filter || !(SUITES.contains(&filter) || filter == ORACLE),
    }
}

/// The kernel command line has no spaces inside a word; the guest turns these back.
fn on_one_word(filter: &str) -> String {
    filter.replace(' ', "+")
}

/// `cargo run` says where the lab's sources are; a lab run by itself looks upwards from where it stands.
fn find_workspace() -> Result<PathBuf> {
    let from_cargo = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = env::current_dir().context("find the current directory")?;
    from_cargo
        .iter()
        .chain([&here])
        .flat_map(|dir| dir.ancestors())
        .find(|dir| dir.join("lab/KERNELS").is_file())
        .map(Path::to_owned)
        .with_context(|| format!("no lab/KERNELS in {} or above: run this in vfioadm's source", here.display()))
}

#[cfg(test)]
mod tests {
    use super::{Counts, is_due, may_hold};

    #[test]
    fn a_filter_may_name_a_suite_a_case_or_part_of_both() {
        assert!(may_hold("contract", "") && may_hold("contract", "override"));
        assert!(may_hold("contract", "contract/") && !may_hold("scenarios", "contract/"));
        assert!(may_hold("scenarios", "ios/bind"));
        assert!(may_hold("scenarios", "scenarios") && !may_hold("contract", "scenarios"));
    }

    #[test]
    fn scale_runs_in_a_full_run_or_when_it_is_named() {
        assert!(is_due("scale", "", Counts::Full) && is_due("scale", "list", Counts::Full));
        assert!(!is_due("scale", "", Counts::Small) && !is_due("scale", "list", Counts::Small));
        assert!(is_due("scale", "scale", Counts::Small) && is_due("scale", "scale/list", Counts::Small));
        assert!(!is_due("scale", "contract", Counts::Full) && !is_due("contract", "scale", Counts::Full));
    }
}
