//! Builds `lab/kmod`, the variant drivers of the lab's own, against a guest kernel, and keeps the modules.
//!
//! The kernel's entry of the cache has no tree to build modules in. The object tree in the root does: it is brought to
//! the kernel's configuration (seconds when the kernel was built in it, about a minute when only the source is there),
//! and the entry holds the modules alone. So a kernel that is in the cache is not built again for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key, remove};
use crate::kernel::Build;
use crate::say;

/// Raised when the steps below change.
const RECIPE: &str = "1";
const PREPARE_DEADLINE: Duration = Duration::from_secs(900);
const BUILD_DEADLINE: Duration = Duration::from_secs(300);

/// The directory with the modules for the kernel that `build` makes and whose entry of the cache is `kernel`.
pub(crate) fn open(cache: &Cache, build: &Build<'_>, lab: &Path, kernel: &Path) -> Result<PathBuf> {
    let sources = sources(&lab.join("kmod"))?;
    let made_from = kernel.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default();
    let key = sources
        .iter()
        .fold(Key::default().with("recipe", RECIPE.as_bytes()).with("kernel", made_from), |key, (name, text)| {
            key.with("source", name.as_bytes()).with("text", text)
        });
    cache.entry(&format!("kmod-{}", build.name()), key, |dir| {
        let started = Instant::now();
        compile(build, &sources, kernel, dir)?;
        say(format_args!("built lab/kmod for kernel {} in {:.0} s", build.name(), started.elapsed().as_secs_f64()));
        Ok(())
    })
}

/// What a compiler reads of a directory, and kbuild, by name.
pub(crate) fn sources(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "Kbuild" || matches!(path.extension().and_then(|word| word.to_str()), Some("c" | "h")) {
            let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            sources.insert(name, text);
        }
    }
    Ok(sources)
}

fn compile(build: &Build<'_>, sources: &BTreeMap<String, Vec<u8>>, kernel: &Path, into: &Path) -> Result<()> {
    build.unpack()?;
    let (asked, config) = (kernel.join("config"), build.path("obj/.config"));
    let wanted = fs::read(&asked).with_context(|| format!("read {}", asked.display()))?;
    if fs::read(&config).ok().is_none_or(|found| found != wanted) {
        fs::write(&config, &wanted).with_context(|| format!("write {}", config.display()))?;
        build.make_from_source("configure for modules", "olddefconfig")?;
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    build.make("prepare for modules", &[&format!("-j{jobs}"), "modules_prepare"], PREPARE_DEADLINE)?;
    let dir = build.path("kmod");
    remove(&dir)?;
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    for (name, text) in sources {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    // Symbols are checked when the modules are loaded: the tree may have been built in another configuration, or not at
    // all, and then Module.symvers is not this kernel's. Without MODVERSIONS there is nothing else in it.
    let inside = format!("M={}", build.inside("kmod"));
    build.make("build lab/kmod", &[&inside, "KBUILD_MODPOST_WARN=1", "modules"], BUILD_DEADLINE)?;
    let mut built = 0;
    for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
        if let (Some("ko"), Some(name)) = (path.extension().and_then(|word| word.to_str()), path.file_name()) {
            let to = into.join(name);
            fs::copy(&path, &to).with_context(|| format!("copy {} to {}", path.display(), to.display()))?;
            built += 1;
        }
    }
    if built == 0 {
        bail!("kernel {}: make built no module in {}", build.name(), dir.display());
    }
    Ok(())
}
