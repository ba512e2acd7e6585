//! Files of a system, written for its next boot: whole or not at all, and only vfioadm's own are replaced or removed.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::cli::file::Output;
use crate::cli::report::{Exit, Trouble};
use crate::want::boot::{Initramfs, Installed, Kind, MARK};

/// What is at the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// Nothing.
    Missing,
    /// The file as it is to be.
    Same,
    /// One that vfioadm has made, of another text.
    Differs,
    /// Somebody else's.
    Others,
}

/// Where a file is.
pub(super) fn place(root: &Path, file: &Installed) -> PathBuf {
    root.join(file.path)
}

/// Looks at the place of a file.
#[expect(clippy::disallowed_methods, reason = "a file of the system's next boot, not the machine")]
pub(super) fn placed(root: &Path, file: &Installed) -> Result<Placed, Trouble> {
    let path = place(root, file);
    let there = match file.kind {
        // A link that leads to vfioadm's own unit is vfioadm's.
        Kind::Link => std::fs::read_link(&path).map(|to| match to.to_str() {
            Some(to) if to == file.text => Placed::Same,
            _ => Placed::Others,
        }),
        Kind::Text | Kind::Script => std::fs::read_to_string(&path).map(|text| match text {
            text if text == file.text => Placed::Same,
            text if text.contains(MARK) => Placed::Differs,
            _ => Placed::Others,
        }),
    };
    match there {
        Ok(placed) => Ok(placed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Placed::Missing),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(Placed::Others),
        Err(error) => Err(failed(&path, "could not be read", &error)),
    }
}

/// Writes a file, in a directory that is made where it is missing.
pub(super) fn put(root: &Path, file: &Installed) -> Result<(), Trouble> {
    let path = place(root, file);
    let written = || -> io::Result<()> {
        std::fs::create_dir_all(path.parent().unwrap_or(root))?;
        let mode = match file.kind {
            Kind::Link => return std::os::unix::fs::symlink(&file.text, &path),
            Kind::Text => Mode::from_raw_mode(0o644),
            Kind::Script => Mode::from_raw_mode(0o755),
        };
        let mut out = Output::open(&path, mode)?;
        out.write_all(file.text.as_bytes())?;
        out.keep()
    };
    written().map_err(|error| failed(&path, "was not written", &error))
}

/// Removes a file, and the directory that it was alone in when that was made for it.
pub(super) fn take_away(root: &Path, file: &Installed) -> Result<(), Trouble> {
    let path = place(root, file);
    std::fs::remove_file(&path).map_err(|error| failed(&path, "was not removed", &error))?;
    if let Some(directory) = path.parent().filter(|directory| directory.ends_with("90vfioadm")) {
        // One with something else in it stays.
        drop(std::fs::remove_dir(directory));
    }
    Ok(())
}

/// Whether a system makes its initramfs so.
pub(super) fn has(root: &Path, initramfs: Initramfs) -> bool {
    root.join(match initramfs {
        Initramfs::InitramfsTools => "etc/initramfs-tools",
        Initramfs::Dracut => "usr/lib/dracut/modules.d",
    })
    .is_dir()
}

/// The program that is to be run at boot: this one.
pub(super) fn this_program() -> Result<String, Trouble> {
    let unknown = |why: String| {
        Trouble::new(Exit::Failed, "no-program", format!("where vfioadm itself is could not be told: {why}"))
            .state("as it was; nothing was written")
            .remedy("install it to /usr/sbin or /usr/local/sbin")
    };
    let path = std::env::current_exe().map_err(|error| unknown(error.to_string()))?;
    let plain = |text: &&str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b));
    let text = path.to_str().filter(plain).map(str::to_owned);
    text.ok_or_else(|| unknown(format!("{} has characters that units and scripts would have to quote", path.display())))
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Trouble {
    let trouble = Trouble::new(Exit::Failed, "not-written", format!("{} {what}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => trouble.remedy("run it as root"),
        _ => trouble.remedy("see vfioadm boot status, and ask again"),
    }
}
