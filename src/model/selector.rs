//! How a user names devices: by address, by another tool's spelling of it, by PF and VF index, by netdev, by glob.

use std::fmt;
use std::str::FromStr;

use super::{Address, Bdf, Inventory, Parent, ParseError, Subfunction, VfIndex};

/// A device as the user named it, before any host was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceRef {
    /// An address of some bus. libvirt's node name `pci_0000_3b_00_2` is read as one.
    Address(Address),
    /// `PF/vfN`.
    Vf {
        /// The PF, by address or by netdev name.
        pf: Box<DeviceRef>,
        /// The index.
        index: VfIndex,
    },
    /// `PF/sfN`.
    Sf {
        /// The PF, by address or by netdev name.
        pf: Box<DeviceRef>,
        /// The number.
        sfnum: u32,
    },
    /// A shell pattern over addresses, `0000:3b:00.*`.
    Glob(Glob),
    /// Any other word: a network interface.
    Name(String),
}

/// Why a [`DeviceRef`] is no device of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No function has the address.
    #[error("no device has the address {0}")]
    NoSuchAddress(Address),
    /// Nothing matched.
    #[error("no PCI function matches the pattern {0}")]
    NoMatch(Glob),
    /// No netdev has the name.
    #[error("no network interface of a PCI function is named {0}")]
    NoSuchName(String),
    /// The PF has no such VF.
    #[error("{pf} has no VF of index {index}; it has {enabled}")]
    NoSuchVf {
        /// The PF.
        pf: Bdf,
        /// The index asked for.
        index: VfIndex,
        /// How many VFs there are.
        enabled: usize,
    },
    /// Nothing that devices are made of has the name.
    #[error("no parent of any device is named {0}")]
    NoSuchParent(String),
    /// What should be a PF is not one PCI function.
    #[error("{0} does not name one PF")]
    NotAPf(String),
}

impl DeviceRef {
    /// Whether resolving it needs the names of network interfaces, which a listing does not read.
    #[must_use]
    pub fn needs_netdevs(&self) -> bool {
        match self {
            Self::Name(_) => true,
            Self::Vf { pf, .. } | Self::Sf { pf, .. } => pf.needs_netdevs(),
            Self::Address(_) | Self::Glob(_) => false,
        }
    }

    /// The addresses it names on `host`: one, or for a glob one or more.
    ///
    /// # Errors
    /// [`ResolveError`] says what is not there.
    pub fn resolve(&self, host: &Inventory) -> Result<Vec<Address>, ResolveError> {
        match self {
            Self::Address(address) if host.contains(address) => Ok(vec![address.clone()]),
            Self::Address(Address::Aux(name)) if host.subfunctions.iter().any(|of| of.name == *name) => {
                Ok(host.subfunctions.iter().filter(|of| of.name == *name).map(Subfunction::address).collect())
            }
            // A bus that no listing covers yet: the name stands, so that it can be refused in words further on.
            Self::Address(address) if !matches!(address, Address::Pci(_) | Address::Mdev(_) | Address::Wq(_)) => {
                Ok(vec![address.clone()])
            }
            Self::Address(address) => Err(ResolveError::NoSuchAddress(address.clone())),
            Self::Glob(glob) => {
                let found: Vec<Address> = host
                    .functions
                    .keys()
                    .filter(|bdf| glob.matches(&bdf.to_string()))
                    .map(|bdf| Address::Pci(*bdf))
                    .collect();
                if found.is_empty() { Err(ResolveError::NoMatch(glob.clone())) } else { Ok(found) }
            }
            Self::Name(name) => host
                .netdevs
                .get(name)
                .map(|bdf| vec![Address::Pci(*bdf)])
                .ok_or_else(|| ResolveError::NoSuchName(name.clone())),
            Self::Vf { pf, index } => match pf.resolve(host)?.as_slice() {
                [Address::Pci(pf)] => host.vf(*pf, *index).map(|vf| vec![Address::Pci(vf.bdf)]).ok_or_else(|| {
                    ResolveError::NoSuchVf { pf: *pf, index: *index, enabled: host.vfs_of(*pf).count() }
                }),
                _ => Err(ResolveError::NotAPf(pf.to_string())),
            },
            // Only devlink knows which there are.
            Self::Sf { pf, sfnum } => match pf.resolve(host)?.as_slice() {
                [Address::Pci(pf)] => Ok(vec![Address::Sf { pf: *pf, sfnum: *sfnum }]),
                _ => Err(ResolveError::NotAPf(pf.to_string())),
            },
        }
    }
}

impl DeviceRef {
    /// The parent that it names on `host`: an mdev parent or an idxd device by its name, else a PCI function; that of an
    /// idxd device stands for the device.
    ///
    /// # Errors
    /// [`ResolveError`] says what is not there, or that it is not one parent.
    pub fn resolve_parent(&self, host: &Inventory) -> Result<Parent, ResolveError> {
        let name = self.to_string();
        if let Some(device) = host.idxd.iter().find(|device| device.name.as_str() == name) {
            return Ok(Parent::Idxd(device.name.clone()));
        }
        let virtual_parent = |name: &str| name.parse::<Bdf>().is_err();
        if let Some(parent) =
            host.mdev_parents.iter().find(|parent| parent.name.as_str() == name && virtual_parent(&name))
        {
            return Ok(Parent::Mdev(parent.name.clone()));
        }
        match self.resolve(host) {
            Ok(found) => match found.as_slice() {
                [Address::Pci(bdf)] => {
                    let device = host.idxd.iter().find(|device| device.function == Some(*bdf));
                    Ok(device.map_or(Parent::Pci(*bdf), |device| Parent::Idxd(device.name.clone())))
                }
                _ => Err(ResolveError::NoSuchParent(name)),
            },
            Err(ResolveError::NoSuchName(name)) => Err(ResolveError::NoSuchParent(name)),
            Err(other) => Err(other),
        }
    }
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Vf { pf, index } => write!(f, "{pf}/vf{index}"),
            Self::Sf { pf, sfnum } => write!(f, "{pf}/sf{sfnum}"),
            Self::Glob(glob) => glob.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for DeviceRef {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const EXPECTED: &str = "a device: a PCI address, PF/vfN, PF/sfN, an mdev UUID, a network interface, a libvirt node name or a pattern";
        let refused = || ParseError::new(EXPECTED, text);
        if let Some((pf, number, is_vf)) = of_a_pf(text) {
            let pf: Box<Self> = Box::new(pf.parse().map_err(|_| refused())?);
            if !matches!(*pf, Self::Address(Address::Pci(_)) | Self::Name(_)) {
                return Err(refused());
            }
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            let number: u32 = digits.then(|| number.parse().ok()).flatten().ok_or_else(refused)?;
            return match VfIndex::try_from(number) {
                Ok(index) if is_vf => Ok(Self::Vf { pf, index }),
                Err(_) if is_vf => Err(refused()),
                _ => Ok(Self::Sf { pf, sfnum: number }),
            };
        }
        if text.contains(['*', '?', '[']) {
            return Glob::from_str(text).map(Self::Glob);
        }
        if let Some(bdf) = libvirt_node_name(text) {
            return Ok(Self::Address(Address::Pci(bdf)));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        // An interface name is at most 15 bytes, without slash, colon or space (net/core/dev.c dev_valid_name(), 7.2).
        let netdev = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control());
        if netdev { Ok(Self::Name(text.to_owned())) } else { Err(refused()) }
    }
}

/// `PF/vfN` or `PF/sfN`: what is before and after, and whether it is a VF.
fn of_a_pf(text: &str) -> Option<(&str, &str, bool)> {
    let of = |mark, is_vf| text.rsplit_once(mark).map(|(pf, number)| (pf, number, is_vf));
    of("/vf", true).or_else(|| of("/sf", false))
}

/// `pci_0000_3b_00_2`, as `virsh nodedev-list` prints it.
fn libvirt_node_name(text: &str) -> Option<Bdf> {
    let parts: Vec<&str> = text.strip_prefix("pci_")?.split('_').collect();
    match parts[..] {
        [domain, bus, device, function] => format!("{domain}:{bus}:{device}.{function}").parse().ok(),
        _ => None,
    }
}

/// A shell pattern: `*`, `?` and `[abc]`, `[a-f]`, `[!a]`; everything else stands for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Whether all of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        glob_match(self.0.as_bytes(), text.as_bytes())
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Glob {
    type Err = ParseError;

    /// At most 64 bytes, with every `[` closed: longer than any address, short enough that matching stays trivial.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let open = text.bytes().filter(|b| *b == b'[').count();
        let close = text.bytes().filter(|b| *b == b']').count();
        if text.len() <= 64 && open == close {
            // As in an address, the domain may be left out.
            let domain = if text.matches(':').count() == 1 { "0000:" } else { "" };
            Ok(Self(format!("{domain}{}", text.to_ascii_lowercase())))
        } else {
            Err(ParseError::new("a pattern of addresses", text))
        }
    }
}

/// Matches with one remembered star: linear in pattern × text.
fn glob_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
            continue;
        }
        if let Some(width) = one_matches(&pattern[p..], text[t]) {
            p += width;
            t += 1;
            continue;
        }
        let Some((after, from)) = star else { return false };
        p = after + 1;
        t = from + 1;
        star = Some((after, t));
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// How many pattern bytes stand for `byte`, when they do.
fn one_matches(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().position(|b| *b == b']')?;
            let (negated, set) = match pattern[1..end].split_first() {
                Some((b'!' | b'^', rest)) => (true, rest),
                _ => (false, &pattern[1..end]),
            };
            let mut inside = false;
            let mut rest = set;
            while let Some((first, after)) = rest.split_first() {
                if let [b'-', last, after @ ..] = after {
                    inside |= (*first..=*last).contains(&byte);
                    rest = after;
                } else {
                    inside |= *first == byte;
                    rest = after;
                }
            }
            (inside != negated).then_some(end + 1)
        }
        exact => (exact == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_of_a_device_is_read() {
        let bdf = || DeviceRef::Address(Address::Pci("0000:3b:00.2".parse().unwrap()));
        assert_eq!("3b:00.2".parse(), Ok(bdf()));
        assert_eq!("pci_0000_3b_00_2".parse(), Ok(bdf()));
        assert_eq!("3b:00.2/vf12".parse(), Ok(DeviceRef::Vf { pf: Box::new(bdf()), index: 12 }));
        assert_eq!(
            "enp59s0f0/vf0".parse(),
            Ok(DeviceRef::Vf { pf: Box::new(DeviceRef::Name("enp59s0f0".into())), index: 0 })
        );
        assert_eq!("3b:00.2/sf88".parse(), Ok(DeviceRef::Sf { pf: Box::new(bdf()), sfnum: 88 }));
        assert!(matches!("0000:3b:*".parse(), Ok(DeviceRef::Glob(_))));
        assert!(matches!("wq0.1".parse(), Ok(DeviceRef::Address(Address::Wq(_)))));
    }

    #[test]
    fn what_names_no_device_is_refused() {
        for text in [
            "",
            "a/b",
            "3b:00.2/vf",
            "3b:00.2/vf99999",
            "3b:00.2/vf+1",
            "3b:00.2/sf",
            "3b:00.2/sf4294967296",
            "wq0.1/sf1",
            "a name",
            "averyveryverylongname",
            "[",
            "*/vf1",
        ] {
            assert!(text.parse::<DeviceRef>().is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_match_as_a_shell_would() {
        let matches = |pattern: &str, text: &str| pattern.parse::<Glob>().unwrap().matches(text);
        assert!(matches("0000:3b:00.*", "0000:3b:00.2"));
        assert!(matches("*:3B:*", "0000:3b:00.2"));
        assert!(matches("0000:3b:00.[1-3]", "0000:3b:00.2"));
        assert!(!matches("0000:3b:00.[!1-3]", "0000:3b:00.2"));
        assert!(matches("3b:0?.2", "0000:3b:00.2"));
        assert!(!matches("0000:3b:00.?", "0000:3b:00.22"));
        assert!(matches("*a*b*c", "xaybzc"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            drop(text.parse::<DeviceRef>());
        }

        #[test]
        fn no_pattern_makes_the_matcher_panic(pattern in "[\\]\\[!*?a-f:.^\\-]{0,20}", text in "[a-f:.\\-]{0,20}") {
            if let Ok(glob) = pattern.parse::<Glob>() {
                std::hint::black_box(glob.matches(&text));
            }
        }
    }
}
