//! The ids that vfio-pci takes by itself: `vfio-pci.ids=` on the kernel command line, `options vfio-pci ids=` of modprobe.

use super::{Asked, Found, Piece, Remark, Rival, quoted};
use crate::model::DriverName;
use crate::model::rules::DynamicId;

/// What takes the ids.
pub(super) fn driver() -> Option<DriverName> {
    "vfio-pci".parse().ok()
}

pub(super) fn read(pieces: &[Piece<'_>], found: &mut Found) {
    for piece in pieces {
        if piece.name().ends_with(".conf") {
            of_modprobe(*piece, found);
        } else {
            of_kernel(*piece, found);
        }
    }
}

/// A name as modules have it: `-` and `_` are the same.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn of_kernel(piece: Piece<'_>, found: &mut Found) {
    let words: Vec<&str> = piece.text.split_whitespace().map(|word| word.trim_matches('"')).collect();
    let parameter = |word: &&str| Some(plain(word.split_once('=')?.0));
    let is_ids = |word: &&str| parameter(word).as_deref() == Some("vfio_pci.ids");
    let last = words.iter().rposition(is_ids);
    for (at, word) in words.iter().enumerate() {
        let place = format!("{}: {word}", piece.path);
        let Some(name) = parameter(word) else { continue };
        match name.as_str() {
            "vfio_pci.ids" if Some(at) != last => {
                found.leave_out(Remark::new(place, "a later one on the same line takes its place"));
            }
            "vfio_pci.ids" => {
                let command = format!("sed -i 's/{}//' /etc/default/grub && update-grub", in_sed(word));
                let does = format!(
                    "vfio-pci takes these ids when it is loaded; elsewhere: grubby --update-kernel=ALL --remove-args={}",
                    quoted(word)
                );
                let rival = Rival { what: format!("{word} on the kernel command line"), does, command };
                ids(&place, word.split_once('=').map_or("", |(_, ids)| ids), &rival, found);
            }
            "pci_stub.ids" => {
                let words = "pci-stub keeps what has these ids from its drivers, and gives it to nobody";
                found.leave_out(Remark::new(place, words).remedy("write a [[device]] with driver = \"none\""));
            }
            "rd.driver.pre" | "modules_load" if plain(word).contains("vfio") => {
                found.leave_out(of_loading(place));
            }
            other if other.starts_with("vfio") && other.contains('.') => found.leave_out(of_a_module(place)),
            _ => {}
        }
    }
}

/// When modules are loaded.
fn of_loading(place: String) -> Remark {
    let remark = Remark::new(place, "a host file does not say when a module is loaded");
    remark.remedy("vfioadm boot install writes softdeps of its own")
}

fn of_a_module(place: String) -> Remark {
    Remark::new(place, "is a parameter of a module, and stays where it is")
}

/// Lines of modprobe.d; a backslash at its end continues one.
fn of_modprobe(piece: Piece<'_>, found: &mut Found) {
    let text = piece.text.replace("\\\n", " ");
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (command, module) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (command, plain(module).as_str()) {
            ("options", "vfio_pci") => {
                for word in words {
                    let place = format!("{}: {word}", piece.path);
                    match word.strip_prefix("ids=") {
                        Some(list) => {
                            let (what, file) = (format!("{word} in {}", piece.path), quoted(piece.path));
                            let command = format!("sed -i 's/{}//' {file} && update-initramfs -u", in_sed(word));
                            let does = "vfio-pci takes these ids when it is loaded; elsewhere: dracut --force";
                            ids(&place, list, &Rival { what, does: does.to_owned(), command }, found);
                        }
                        None => found.leave_out(of_a_module(place)),
                    }
                }
            }
            ("options", module) if module.starts_with("vfio") => {
                found.leave_out(of_a_module(format!("{}: {}", piece.path, line.trim())));
            }
            ("softdep", _) if words.any(|word| plain(word).contains("vfio")) => {
                let place = format!("{}: {}", piece.path, line.trim());
                found.leave_out(of_loading(place));
            }
            _ => {}
        }
    }
}

/// Each id of a list.
fn ids(place: &str, list: &str, rival: &Rival, found: &mut Found) {
    for given in list.trim_matches('"').split(',').filter(|given| !given.is_empty()) {
        match DynamicId::parse(given) {
            Some(id) => found.ask(place, Asked::Ids { id, given: given.to_owned() }, Some(rival.clone())),
            None => {
                found.leave_out(Remark::new(place, format_args!("{given} is no id: the kernel passes it over too")))
            }
        }
    }
}

/// A word in the pattern of a sed command within single quotes.
fn in_sed(word: &str) -> String {
    let mut text = String::new();
    for c in word.chars() {
        match c {
            '.' | '*' | '[' | ']' | '\\' | '/' | '^' | '$' => text.extend(['\\', c]),
            '\'' => text.push_str("'\\''"),
            c => text.push(c),
        }
    }
    text
}
