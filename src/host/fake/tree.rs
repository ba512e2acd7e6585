//! The nodes of a fake host: files, links and directories by path, with unknown attributes kept as they are.

use std::collections::BTreeMap;

use crate::host::path::Root;
use crate::model::{Bdf, Errno};

/// Below here lies what the fake kernel knows and no path of a host can reach: tables, templates, what a driver left.
pub(crate) const HIDDEN: &str = "/kernel";

/// How many links one path may go through.
///
/// # Kernel
/// `include/linux/namei.h` `MAXSYMLINKS` (7.2).
const MOST_LINKS: usize = 40;

/// A file, a link or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A file and what reading it gives.
    File(Vec<u8>),
    /// A symbolic link and its text.
    Link(String),
    /// A directory.
    Dir(Dir),
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dir {
    /// What `readlink` says of it. On a real host `/sys/bus/pci/devices/0000:3b:00.0` is a link into `/sys/devices`;
    /// here the device's attributes lie where the link is, and the link's text is kept beside them.
    pub link: Option<String>,
    /// What is in it.
    pub nodes: BTreeMap<String, Node>,
}

/// Two nodes that cannot both be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A path goes through a file.
    #[error("lies below a file")]
    BelowFile,
    /// A path is there already.
    #[error("is there already")]
    Twice,
}

/// All nodes of a host, in stable order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    top: Dir,
}

impl Tree {
    /// The node at `path`, links not followed.
    #[must_use]
    pub fn node(&self, path: &str) -> Option<&Node> {
        let mut parts = parts(path);
        let mut node = self.top.nodes.get(parts.next()?)?;
        for part in parts {
            let Node::Dir(dir) = node else { return None };
            node = dir.nodes.get(part)?;
        }
        Some(node)
    }

    /// The bytes of a file.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        match self.node(path)? {
            Node::File(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A file as text, without its last newline; `None` also when it is not UTF-8.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        let text = std::str::from_utf8(self.file(path)?).ok()?;
        Some(text.strip_suffix('\n').unwrap_or(text))
    }

    /// The text of a link.
    #[must_use]
    pub fn link(&self, path: &str) -> Option<&str> {
        match self.node(path)? {
            Node::Link(text) => Some(text),
            Node::Dir(dir) => dir.link.as_deref(),
            Node::File(_) => None,
        }
    }

    /// The last component of a link's text.
    #[must_use]
    pub fn link_name(&self, path: &str) -> Option<&str> {
        self.link(path)?.rsplit('/').next()
    }

    /// The names in a directory, in order; none when it is not one.
    pub fn names<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let dir = match self.node(path) {
            Some(Node::Dir(dir)) => Some(dir),
            _ => None,
        };
        dir.into_iter().flat_map(|dir| dir.nodes.keys().map(String::as_str))
    }

    /// Whether there is a node.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.node(path).is_some()
    }

    /// Adds a node that a recorded host names; the directories above it are implied.
    ///
    /// # Errors
    /// [`Conflict`] when it is there already or lies below a file. Nothing is changed then.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<(), Conflict> {
        match (self.node(path), &node) {
            (None, _) => {}
            (Some(Node::Dir(dir)), Node::Link(_)) if dir.link.is_none() && !dir.nodes.is_empty() => {}
            _ => return Err(Conflict::Twice),
        }
        let mut seen = &self.top;
        for part in parts(path) {
            match seen.nodes.get(part) {
                Some(Node::File(_)) => return Err(Conflict::BelowFile),
                Some(Node::Dir(dir)) => seen = dir,
                _ => break,
            }
        }
        self.graft(path, node);
        Ok(())
    }

    /// Writes a file, made when it is not there.
    pub fn put(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.graft(path, Node::File(bytes.into()));
    }

    /// Adds to the end of a file. Nothing happens when there is none.
    pub(crate) fn append(&mut self, path: &str, bytes: &[u8]) {
        let mut dir = &mut self.top;
        let mut parts = parts(path).peekable();
        while let Some(part) = parts.next() {
            match dir.nodes.get_mut(part) {
                Some(Node::Dir(below)) => dir = below,
                Some(Node::File(file)) if parts.peek().is_none() => return file.extend_from_slice(bytes),
                _ => return,
            }
        }
    }

    /// Writes an attribute: a text and the newline that sysfs adds.
    pub fn put_text(&mut self, path: &str, text: impl std::fmt::Display) {
        self.put(path, format!("{text}\n"));
    }

    /// Makes a link; on a directory that is there, gives it the text that `readlink` says.
    pub fn put_link(&mut self, path: &str, text: impl Into<String>) {
        self.graft(path, Node::Link(text.into()));
    }

    /// Makes a directory, if there is none.
    pub fn put_dir(&mut self, path: &str) {
        if !matches!(self.node(path), Some(Node::Dir(_))) {
            self.graft(path, Node::Dir(Dir::default()));
        }
    }

    /// Puts a node with all below it in its place, instead of what was there.
    pub fn graft(&mut self, path: &str, node: Node) {
        let mut dir = &mut self.top;
        let mut parts = parts(path).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                match (dir.nodes.get_mut(part), node) {
                    (Some(Node::Dir(there)), Node::Link(text)) if !there.nodes.is_empty() => there.link = Some(text),
                    (_, node) => {
                        dir.nodes.insert(part.to_owned(), node);
                    }
                }
                return;
            }
            let next = dir.nodes.entry(part.to_owned()).or_insert_with(|| Node::Dir(Dir::default()));
            if let Node::Link(text) = next {
                *next = Node::Dir(Dir { link: Some(std::mem::take(text)), nodes: BTreeMap::new() });
            } else if let Node::File(_) = next {
                *next = Node::Dir(Dir::default());
            }
            let Node::Dir(below) = next else { return };
            dir = below;
        }
    }

    /// Takes a node and all below it away.
    pub fn remove(&mut self, path: &str) -> Option<Node> {
        let (above, name) = path.rsplit_once('/')?;
        let mut dir = &mut self.top;
        for part in parts(above) {
            match dir.nodes.get_mut(part)? {
                Node::Dir(below) => dir = below,
                _ => return None,
            }
        }
        let gone = dir.nodes.remove(name)?;
        if dir.nodes.is_empty()
            && let Some(text) = dir.link.take()
        {
            self.graft(above, Node::Link(text));
        }
        Some(gone)
    }

    /// The path with every link on the way followed, and the last one too when `through` says so.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`, as a path lookup gives.
    pub fn resolve(&self, path: &str, through: Last) -> Result<String, Errno> {
        let mut ahead: Vec<String> = parts(path).rev().map(str::to_owned).collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            let next = format!("{at}/{part}");
            match self.node(&next) {
                Some(Node::Link(text)) if through == Last::Follow || !ahead.is_empty() => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    ahead.extend(parts(&self.target(&at, text)).rev().map(str::to_owned));
                    at.clear();
                }
                Some(Node::File(_)) if !ahead.is_empty() => return Err(Errno::ENOTDIR),
                Some(_) => at = next,
                None => return Err(Errno::ENOENT),
            }
        }
        Ok(at)
    }

    /// Where a link in `dir` leads.
    ///
    /// The text is that of a real host, where a device's directory lies deeper than here: whatever goes through a PCI
    /// function is looked for below `/sys/bus/pci/devices`, what leads nowhere from `dir` is looked for below `/sys`.
    pub(crate) fn target(&self, dir: &str, text: &str) -> String {
        let names: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let is_bdf = |part: &&str| part.split(':').count() == 3 && part.parse::<Bdf>().is_ok();
        if let Some(last) = names.iter().rposition(is_bdf) {
            return format!("/sys/bus/pci/devices/{}", names[last..].join("/"));
        }
        if text.starts_with('/') {
            return format!("/{}", names.join("/"));
        }
        let ups = names.iter().take_while(|part| **part == "..").count();
        let down = names[ups..].join("/");
        let mut from = dir;
        for _ in 0..ups {
            from = from.rsplit_once('/').map_or("", |(above, _)| above);
        }
        let near = format!("{from}/{down}");
        if self.has(&near) { near } else { format!("/sys/{down}") }
    }

    /// Every node that a text form must name: files, links, and directories that are empty, in stable order.
    pub fn walk(&self, mut visit: impl FnMut(&str, Shown<'_>)) {
        let mut path = String::new();
        for (name, node) in roots(&self.top) {
            path.clear();
            path.push('/');
            path.push_str(name);
            walk(node, &mut path, &mut visit);
        }
    }
}

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// As `open` does.
    Follow,
    /// As `readlink` does.
    Keep,
}

/// A node as [`Tree::walk`] shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    /// A file.
    File(&'a [u8]),
    /// A link, or a directory that is one on a real host.
    Link(&'a str),
    /// A directory with nothing in it.
    EmptyDir,
}

/// The roots in the order of [`Root::ALL`], what is hidden last.
fn roots(top: &Dir) -> impl Iterator<Item = (&String, &Node)> {
    let rank = |name: &str| Root::ALL.iter().position(|root| parts(root.spelled()).next() == Some(name));
    let mut all: Vec<_> = top.nodes.iter().collect();
    all.sort_by_key(|(name, _)| rank(name).unwrap_or(Root::ALL.len()));
    all.into_iter()
}

fn walk(node: &Node, path: &mut String, visit: &mut impl FnMut(&str, Shown<'_>)) {
    match node {
        Node::File(bytes) => visit(path, Shown::File(bytes)),
        Node::Link(text) => visit(path, Shown::Link(text)),
        Node::Dir(dir) => {
            if let Some(text) = &dir.link {
                visit(path, Shown::Link(text));
            } else if dir.nodes.is_empty() {
                visit(path, Shown::EmptyDir);
            }
            let length = path.len();
            for (name, below) in &dir.nodes {
                path.push('/');
                path.push_str(name);
                walk(below, path, visit);
                path.truncate(length);
            }
        }
    }
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_where_they_lead_on_a_real_host() {
        let mut tree = Tree::default();
        let dev = "/sys/bus/pci/devices/0000:3b:00.2";
        tree.put_text(&format!("{dev}/vendor"), "0x15b3");
        tree.put_link(dev, "../../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.2");
        tree.put_link(&format!("{dev}/driver"), "../../../../../bus/pci/drivers/mlx5_core");
        tree.put("/sys/bus/pci/drivers/mlx5_core/unbind", "");
        tree.put_link("/sys/bus/pci/drivers/mlx5_core/0000:3b:00.2", "../../../../devices/pci0000:3a/0000:3b:00.2");
        let found = tree.resolve(&format!("{dev}/driver/unbind"), Last::Follow);
        assert_eq!(found.as_deref(), Ok("/sys/bus/pci/drivers/mlx5_core/unbind"));
        let back = tree.resolve("/sys/bus/pci/drivers/mlx5_core/0000:3b:00.2/vendor", Last::Follow).unwrap();
        assert_eq!(tree.text(&back), Some("0x15b3"));
        assert_eq!(tree.link_name(dev), Some("0000:3b:00.2"), "a device is a link and a directory");
    }

    #[test]
    fn a_circle_of_links_is_eloop() {
        let mut tree = Tree::default();
        tree.put_link("/sys/a", "b");
        tree.put_link("/sys/b", "a");
        assert_eq!(tree.resolve("/sys/a/c", Last::Follow), Err(Errno::ELOOP));
        assert_eq!(tree.resolve("/sys/a", Last::Keep).as_deref(), Ok("/sys/a"));
    }

    #[test]
    fn a_link_that_lost_its_children_is_a_link_again() {
        let mut tree = Tree::default();
        tree.put_link("/sys/a", "b");
        tree.put("/sys/a/x", "");
        assert!(tree.remove("/sys/a/x").is_some());
        assert_eq!(tree.node("/sys/a"), Some(&Node::Link("b".to_owned())));
        assert_eq!(tree.insert("/sys/a", Node::Link("c".to_owned())), Err(Conflict::Twice));
        tree.put("/sys/f", "");
        assert_eq!(tree.insert("/sys/f/x", Node::File(vec![])), Err(Conflict::BelowFile));
    }
}
