//! What the kernel command line orders: `lab.suites=a,b lab.filter=text lab.counts=full lab.modules=x,y`, and
//! instead of suites `lab.shell` or `lab.record`.

use std::fs;

const CMDLINE: &str = "/proc/cmdline";

/// How often a case repeats what it repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    Small,
    Full,
}

impl Counts {
    /// Picks.
    pub(crate) fn pick<T>(self, small: T, full: T) -> T {
        match self {
            Counts::Small => small,
            Counts::Full => full,
        }
    }
}

/// The orders.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) suites: Vec<String>,
    /// Part of `suite/case`; on the command line a `+` stands for a space.
    pub(crate) filter: String,
    pub(crate) counts: Counts,
    /// To load before anything else.
    pub(crate) modules: Vec<String>,
    /// A shell on the console instead of suites.
    pub(crate) shell: bool,
    /// A recording of this machine instead of suites.
    pub(crate) record: bool,
}

impl Orders {
    /// Reads them from the kernel command line.
    pub(crate) fn read() -> Result<Orders, String> {
        let line = fs::read_to_string(CMDLINE).map_err(|error| format!("read {CMDLINE}: {error}"))?;
        Ok(Orders::parse(&line))
    }

    /// Orders given on the guest's own command line.
    pub(crate) fn by_hand(suites: &str, filter: Option<&str>) -> Orders {
        Orders { suites: list(suites), filter: filter.unwrap_or_default().to_owned(), ..Orders::parse("") }
    }

    fn parse(line: &str) -> Orders {
        let value = |name: &str| {
            line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        Orders {
            suites: list(value("lab.suites")),
            filter: value("lab.filter").replace('+', " "),
            counts: if value("lab.counts") == "full" { Counts::Full } else { Counts::Small },
            modules: list(value("lab.modules")),
            shell: line.split_whitespace().any(|word| word == "lab.shell"),
            record: line.split_whitespace().any(|word| word == "lab.record"),
        }
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{Counts, Orders};

    #[test]
    fn orders_stand_among_the_kernel_s_own_words() {
        let orders =
            Orders::parse("console=ttyS0 quiet lab.suites=contract,scenarios lab.counts=full lab.filter=a+b\n");
        assert_eq!(orders.suites, ["contract", "scenarios"]);
        assert_eq!((orders.filter.as_str(), orders.counts, orders.shell), ("a b", Counts::Full, false));
        assert!(Orders::parse("lab.shell").shell);
    }
}
