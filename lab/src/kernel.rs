//! Builds a guest kernel from a Debian source package in the lab root, and keeps it.
//!
//! Distribution kernels have no variant driver, so the lab builds its own. What is kept is the image, the modules with
//! depmod's indexes, and the configuration. The object tree stays in the root: a second configuration of the same
//! source, or an edited fragment, then builds what changed and no more.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key, remove};
use crate::kernels::{KernelLine, compare, symbols};
use crate::root::Root;
use crate::{exec, kmod, reader, say};

/// Raised when the steps below change.
const RECIPE: &str = "1";
const STEP_DEADLINE: Duration = Duration::from_secs(300);
const BUILD_DEADLINE: Duration = Duration::from_secs(90 * 60);

/// A kernel to boot: an image, and the modules that belong to it.
pub(crate) struct Kernel {
    /// What it is called.
    pub(crate) name: String,
    /// The bzImage.
    pub(crate) image: PathBuf,
    /// The directory that holds `lib/modules/<release>`; `None` when there are no modules.
    pub(crate) modules: Option<PathBuf>,
    /// The directory with the modules of `lab/kmod`; `None` when the kernel is the user's own.
    pub(crate) variants: Option<PathBuf>,
    /// The program of `lab/reader`, built against its headers; `None` when the kernel is the user's own.
    pub(crate) reader: Option<PathBuf>,
}

impl Kernel {
    /// The user's own kernel: a bzImage, or a directory with `bzImage` and `lib/modules/`.
    pub(crate) fn from_path(path: &Path) -> Result<Kernel> {
        let name = path.file_name().map_or_else(|| "own".to_owned(), |name| name.to_string_lossy().into_owned());
        let (image, modules) = if path.is_dir() { (path.join("bzImage"), Some(path)) } else { (path.to_owned(), None) };
        if !image.is_file() {
            bail!(
                "LAB_KERNEL={}: no bzImage there; give a bzImage, or a directory with bzImage and lib/modules",
                path.display()
            );
        }
        let modules = modules.filter(|dir| dir.join("lib/modules").is_dir()).map(Path::to_owned);
        Ok(Kernel { name, image, modules, variants: None, reader: None })
    }

    /// The kernel of that line of `lab/KERNELS`, built when the cache has not got it.
    pub(crate) fn open(cache: &Cache, root: &Root, lab: &Path, line: &KernelLine) -> Result<Kernel> {
        let fragments = line
            .fragments
            .iter()
            .map(|name| {
                let path = lab.join("kernel").join(name);
                fs::read_to_string(&path).with_context(|| format!("kernel {}: read {}", line.name, path.display()))
            })
            .collect::<Result<Vec<_>>>()?;
        let version = source_version(cache, root, line)?;
        let compiler = root.version("gcc").context("no gcc in the lab root")?;
        let key = fragments.iter().fold(
            Key::default()
                .with("recipe", RECIPE.as_bytes())
                .with("package", line.package.as_bytes())
                .with("version", version.as_bytes())
                .with("gcc", compiler.as_bytes()),
            |key, text| key.with("fragment", text.as_bytes()),
        );
        let log = cache.path(&format!("kernel-{}.log", line.name));
        let build = Build { root, line, version: &version, tree: format!("/build/{}", line.package), log: &log };
        let dir = cache.entry(&format!("kernel-{}", line.name), key, |dir| {
            let started = Instant::now();
            drop(fs::remove_file(&log));
            say(format_args!(
                "building kernel {} from {} {version} (about ten minutes on two cores; log: {})",
                line.name,
                line.package,
                log.display()
            ));
            build.run(&fragments, dir)?;
            say(format_args!("built kernel {} in {:.0} s", line.name, started.elapsed().as_secs_f64()));
            Ok(())
        })?;
        let variants = kmod::open(cache, &build, lab, &dir)?;
        let reader = reader::open(cache, &build, lab, &dir)?;
        Ok(Kernel {
            name: line.name.clone(),
            image: dir.join("bzImage"),
            modules: Some(dir),
            variants: Some(variants),
            reader: Some(reader),
        })
    }
}

/// The version of the source package, installing it when it is not there.
fn source_version(cache: &Cache, root: &Root, line: &KernelLine) -> Result<String> {
    if let Some(version) = root.version(&line.package) {
        return Ok(version);
    }
    let _lock = cache.lock()?;
    say(format_args!("fetching {}", line.package));
    root.update()?;
    root.install(&[line.package.as_str()])?;
    root.version(&line.package).with_context(|| format!("{} is not installed after installing it", line.package))
}

/// The source and the object tree of a kernel, in the lab root.
pub(crate) struct Build<'a> {
    root: &'a Root,
    line: &'a KernelLine,
    version: &'a str,
    /// Inside the root: `src`, `obj`, `install` and `fragments` are below.
    tree: String,
    log: &'a Path,
}

impl Build<'_> {
    fn run(&self, fragments: &[String], into: &Path) -> Result<()> {
        self.unpack()?;
        self.configure(fragments)?;
        let missing = self.check(fragments)?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        self.make("build", &[&format!("-j{jobs}"), "bzImage", "modules"], BUILD_DEADLINE)?;
        remove(&self.path("install"))?;
        let install = format!("INSTALL_MOD_PATH={}/install", self.tree);
        self.make("install modules", &["modules_install", &install, "INSTALL_MOD_STRIP=1"], STEP_DEADLINE)?;
        self.collect(&missing, into)
    }

    /// What the kernel is called.
    pub(crate) fn name(&self) -> &str {
        &self.line.name
    }

    /// A path below the tree, as the programs in the root reach it.
    pub(crate) fn inside(&self, path: &str) -> String {
        format!("{}/{path}", self.tree)
    }

    /// The same path, as it is reached from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.root.path(&self.tree).join(inside)
    }

    fn what(&self, step: &str) -> String {
        format!("kernel {}: {step}", self.line.name)
    }

    /// Runs make in the object tree.
    pub(crate) fn make(&self, step: &str, words: &[&str], deadline: Duration) -> Result<()> {
        let mut command = self.root.command("make");
        command.args(["-C", &format!("{}/obj", self.tree)]).args(words);
        exec::run(&self.what(step), &mut command, self.log, deadline)
    }

    /// Unpacks the source, unless it is there in this version.
    pub(crate) fn unpack(&self) -> Result<()> {
        let stamp = self.path("version");
        if fs::read_to_string(&stamp).is_ok_and(|version| version == self.version) {
            return Ok(());
        }
        remove(&self.path(""))?;
        for dir in ["src", "obj", "fragments"] {
            fs::create_dir_all(self.path(dir)).with_context(|| format!("make {}", self.path(dir).display()))?;
        }
        let mut tar = self.root.command("tar");
        tar.args(["--extract", "--strip-components=1", "--file", &format!("/usr/src/{}.tar.xz", self.line.package)]);
        tar.args(["--directory", &format!("{}/src", self.tree)]);
        exec::run(&self.what("unpack"), &mut tar, self.log, STEP_DEADLINE)?;
        fs::write(&stamp, self.version).with_context(|| format!("write {}", stamp.display()))
    }

    /// Runs make in the source tree, which gives an object tree the makefile that [`make`](Build::make) needs.
    pub(crate) fn make_from_source(&self, step: &str, target: &str) -> Result<()> {
        let tree = &self.tree;
        let mut command = self.root.command("make");
        command.args(["-C", &format!("{tree}/src"), &format!("O={tree}/obj"), target]);
        exec::run(&self.what(step), &mut command, self.log, STEP_DEADLINE)
    }

    /// Compiles a program, all of it in one file, from sources of ours.
    pub(crate) fn compile(&self, words: &[&str]) -> Result<()> {
        let mut command = self.root.command("gcc");
        command.args(words);
        exec::run(&self.what("compile"), &mut command, self.log, STEP_DEADLINE)
    }

    fn configure(&self, fragments: &[String]) -> Result<()> {
        let tree = &self.tree;
        self.make_from_source("defconfig", "x86_64_defconfig")?;
        let mut merge = self.root.command(format!("{tree}/src/scripts/kconfig/merge_config.sh"));
        merge.args(["-m", "-O", &format!("{tree}/obj"), &format!("{tree}/obj/.config")]);
        for (index, text) in fragments.iter().enumerate() {
            let path = self.path(&format!("fragments/{index}"));
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            merge.arg(format!("{tree}/fragments/{index}"));
        }
        exec::run(&self.what("merge fragments"), &mut merge, self.log, STEP_DEADLINE)?;
        self.make("olddefconfig", &["olddefconfig"], STEP_DEADLINE)
    }

    /// Fails when a symbol that the source knows did not take the value asked for; returns those it does not know.
    fn check(&self, fragments: &[String]) -> Result<Vec<String>> {
        let path = self.path("obj/.config");
        let config = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let compared = compare(fragments, &config, &symbols(&self.path("src"))?);
        if !compared.differ.is_empty() {
            let lines: Vec<_> = compared.differ.iter().map(|(asked, got)| format!("  {asked}, got {got}")).collect();
            bail!(
                "{}: the configuration does not hold what the fragments ask for\n{}\n  hint: a dependency is off; \
                 lab/kernel/ is where to turn it on",
                self.what("configure"),
                lines.join("\n")
            );
        }
        if !compared.unknown.is_empty() {
            say(format_args!("kernel {} does not know {}", self.line.name, compared.unknown.join(", ")));
        }
        Ok(compared.unknown)
    }

    fn collect(&self, missing: &[String], into: &Path) -> Result<()> {
        let copy = |from: &str, to: &str| {
            let (from, to) = (self.path(from), into.join(to));
            fs::copy(&from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display())).map(drop)
        };
        copy("obj/arch/x86/boot/bzImage", "bzImage")?;
        copy("obj/.config", "config")?;
        let path = into.join("missing");
        fs::write(&path, missing.join("\n")).with_context(|| format!("write {}", path.display()))?;
        let (from, to) = (self.path("install/lib"), into.join("lib"));
        fs::rename(&from, &to).with_context(|| format!("rename {} to {}", from.display(), to.display()))?;
        let modules = to.join("modules");
        for release in fs::read_dir(&modules).with_context(|| format!("list {}", modules.display()))? {
            // A link into the lab root, which nobody can follow from here.
            drop(fs::remove_file(release.with_context(|| format!("list {}", modules.display()))?.path().join("build")));
        }
        Ok(())
    }
}
