//! Builds `lab/reader`, which reads a VFIO device without a line of vfioadm, against the headers of a guest kernel.
//!
//! Static, for the guest has no C library but what its tools load. As `lab/kmod`, it has an entry of the cache for each kernel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, Key, remove};
use crate::kernel::Build;
use crate::kmod::sources;

/// Raised when the steps below change.
const RECIPE: &str = "1";
const SOURCE: &str = "reader.c";
const PROGRAM: &str = "vfio-reader";

/// The program for the kernel that `build` makes and whose entry of the cache is `kernel`.
pub(crate) fn open(cache: &Cache, build: &Build<'_>, lab: &Path, kernel: &Path) -> Result<PathBuf> {
    let sources = sources(&lab.join("reader"))?;
    let text = sources.get(SOURCE).with_context(|| format!("no {SOURCE} in lab/reader"))?;
    let made_from = kernel.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default();
    let key = Key::default().with("recipe", RECIPE.as_bytes()).with("kernel", made_from).with("text", text);
    let dir = cache.entry(&format!("reader-{}", build.name()), key, |into| compile(build, text, into))?;
    Ok(dir.join(PROGRAM))
}

fn compile(build: &Build<'_>, text: &[u8], into: &Path) -> Result<()> {
    build.unpack()?;
    build.make_from_source("headers", "headers")?;
    let dir = build.path("reader");
    remove(&dir)?;
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join(SOURCE);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    let inside = |path: &str| build.inside(path);
    let (headers, program, source) =
        (inside("obj/usr/include"), inside(&format!("reader/{PROGRAM}")), inside(&format!("reader/{SOURCE}")));
    let words =
        ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-I", &headers, "-o", &program, &source];
    build.compile(&words)?;
    let (from, to) = (dir.join(PROGRAM), into.join(PROGRAM));
    fs::copy(&from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display())).map(drop)
}
