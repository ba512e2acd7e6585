//! Writes cpio archives of the "newc" kind, which is what the kernel unpacks for an initramfs
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Component, Path};

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive being written. Directories appear by themselves, parents first, each once.
pub(crate) struct Archive<W> {
    to: W,
    inode: u32,
    made: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(to: W) -> Archive<W> {
        Archive { to, inode: 0, made: BTreeSet::new() }
    }

    /// A directory and those above it.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        let mut above = String::new();
        for part in Path::new(path).components() {
            let Component::Normal(part) = part else { continue };
            if !above.is_empty() {
                above.push('/');
            }
            above.push_str(&part.to_string_lossy());
            if self.made.insert(above.clone()) {
                let name = above.clone();
                self.entry(&name, DIRECTORY, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// A regular file that may be executed. A path that was written before is left alone.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.leaf(path, EXECUTABLE, (0, 0), content)
    }

    /// A symbolic link. A path that was written before is left alone.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.leaf(path, SYMLINK, (0, 0), target.as_bytes())
    }

    /// A character device: major and minor.
    pub(crate) fn device(&mut self, path: &str, number: (u32, u32)) -> io::Result<()> {
        self.leaf(path, CHARACTER_DEVICE, number, &[])
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn leaf(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        if self.made.insert(path.to_owned()) { self.entry(path, mode, device, content) } else { Ok(()) }
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) -> io::Result<()> {
        let too_big = |_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} does not fit a newc header"));
        let size = u32::try_from(content.len()).map_err(too_big)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_big)?;
        self.inode += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device, special device, name size, checksum
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(name);
        header.push('\0');
        self.to.write_all(header.as_bytes())?;
        self.pad(header.len())?;
        self.to.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn the_kernel_s_own_layout() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b", b"hello").unwrap();
        archive.file("a/c", b"").unwrap();
        archive.file("/a/b", b"again").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let headers: Vec<_> = text.match_indices("070701").map(|(at, _)| &text[at..]).collect();
        let names: Vec<_> = headers.iter().filter_map(|entry| entry[110..].split('\0').next()).collect();
        assert_eq!(names, ["a", "a/b", "a/c", "TRAILER!!!"]);
        assert_eq!(&headers[1][54..62], "00000005", "the size of a/b");
    }
}
