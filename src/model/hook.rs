//! What a vendor's own tool does to a VF after it exists and before its driver looks.

use std::fmt;
use std::str::FromStr;

use super::{Bdf, ModAlias, ParseError, VfIndex};

/// Whose hook: the vendor and the device of a VF, `15b3:101e`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookId {
    vendor: u16,
    device: u16,
}

impl HookId {
    /// Of a VF with these ids.
    #[must_use]
    pub const fn of(alias: &ModAlias) -> Self {
        Self { vendor: alias.vendor(), device: alias.device() }
    }
}

impl fmt::Display for HookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl FromStr for HookId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = |part: &str| {
            let good = part.len() == 4 && part.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
            good.then(|| u16::from_str_radix(part, 16).ok()).flatten()
        };
        let ids = text.split_once(':').and_then(|(vendor, device)| Some((number(vendor)?, number(device)?)));
        let (vendor, device) = ids.ok_or_else(|| ParseError::new("a vendor and a device", text))?;
        Ok(Self { vendor, device })
    }
}

/// Which of the two programs of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookWay {
    /// `set`: makes the VF ready.
    Set,
    /// `undo`: takes that back, whole or half done, and does nothing where nothing was done.
    Undo,
}

impl HookWay {
    /// The name of its program.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Undo => "undo",
        }
    }
}

impl FromStr for HookWay {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = [Self::Set, Self::Undo].into_iter().find(|way| way.as_str() == text);
        found.ok_or_else(|| ParseError::new("set or undo", text))
    }
}

/// A hook of one VF, which was run one way or is to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    /// The VF's PF.
    pub pf: Bdf,
    /// N of `virtfnN`.
    pub index: VfIndex,
    /// Whose.
    pub id: HookId,
    /// Which way.
    pub way: HookWay,
    /// What was asked of the VF, `key=value` with spaces between; `undo` is told what `set` was.
    pub parameters: String,
}

impl Hook {
    /// The `PATH` that a hook is run with.
    pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

    /// The same of the VF, that way.
    #[must_use]
    pub fn that_way(&self, way: HookWay) -> Self {
        Self { way, ..self.clone() }
    }

    /// Its whole environment, for a VF that is there.
    #[must_use]
    pub fn environment(&self, vf: Bdf) -> [(&'static str, String); 8] {
        let HookId { vendor, device } = self.id;
        [
            ("PATH", String::from(Self::PATH)),
            ("VFIOADM_OPERATION", String::from(self.way.as_str())),
            ("VFIOADM_PF", self.pf.to_string()),
            ("VFIOADM_VF_INDEX", self.index.to_string()),
            ("VFIOADM_VF", vf.to_string()),
            ("VFIOADM_VENDOR", format!("{vendor:04x}")),
            ("VFIOADM_DEVICE", format!("{device:04x}")),
            ("VFIOADM_SET", self.parameters.clone()),
        ]
    }

    /// What is written down of a VF for which `set` was run, or is about to be: whose hook, and what it was given.
    #[must_use]
    pub fn note(&self) -> String {
        format!("{} {}", self.id, self.parameters)
    }

    /// The `set` that a note tells of; `None` when it is not as it was written.
    #[must_use]
    pub fn noted((pf, index): (Bdf, VfIndex), note: &str) -> Option<Self> {
        let (id, parameters) = note.split_once(' ').unwrap_or((note, ""));
        Some(Self { pf, index, id: id.parse().ok()?, way: HookWay::Set, parameters: parameters.to_owned() })
    }
}

impl fmt::Display for Hook {
    /// Its program.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/etc/vfioadm/hooks.d/{}/{}", self.id, self.way.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_its_directory_is_called() {
        let id = HookId::of(&ModAlias::new(0x15b3, 0x101e, (0, 0), 0x02_0000));
        assert_eq!((id.to_string().as_str(), "15b3:101e".parse()), ("15b3:101e", Ok(id)));
        for bad in ["15B3:101e", "15b3", "5b3:101e", "15b3:101e:1", "+5b3:101e", ""] {
            assert!(bad.parse::<HookId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_noted_is_what_undo_is_told() {
        let pf: Bdf = "0000:3b:00.0".parse().unwrap();
        for parameters in ["", "vlan=7", "mac=02:00:00:00:00:01 vlan=7"] {
            let id = "15b3:101e".parse().unwrap();
            let set = Hook { pf, index: 2, id, way: HookWay::Set, parameters: parameters.to_owned() };
            assert_eq!(Hook::noted((pf, 2), &set.note()), Some(set.clone()));
            // A file is read without the blanks at its end.
            assert_eq!(Hook::noted((pf, 2), set.note().trim_end()), Some(set.clone()));
            assert_eq!(set.that_way(HookWay::Undo).to_string(), "/etc/vfioadm/hooks.d/15b3:101e/undo");
        }
        assert_eq!(Hook::noted((pf, 2), "15b3 vlan=7"), None);
    }
}
