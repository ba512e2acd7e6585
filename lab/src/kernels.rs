//! `lab/KERNELS`: which kernels the lab runs on, and what a fragment asked for against what a kernel has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelLine {
    /// What it is called on the command line and in reports.
    pub(crate) name: String,
    /// The Debian package that holds its source.
    pub(crate) package: String,
    /// Files below `lab/kernel/`, merged in this order; a later line wins.
    pub(crate) fragments: Vec<String>,
}

/// Reads the table.
pub(crate) fn read(lab: &Path) -> Result<Vec<KernelLine>> {
    let path = lab.join("KERNELS");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Vec<KernelLine>> {
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        let Some(name) = words.next() else { continue };
        let package = words.next().with_context(|| format!("line {}: no source package", number + 1))?;
        let fragments: Vec<_> = words.collect();
        if fragments.is_empty() {
            bail!("line {}: no fragment", number + 1);
        }
        lines.push(KernelLine { name, package, fragments });
    }
    if lines.is_empty() {
        bail!("no kernel in the table");
    }
    Ok(lines)
}

/// What became of a fragment's lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// The source has no such symbol: another series called it otherwise, or has not got it.
    pub(crate) unknown: Vec<String>,
    /// The source has the symbol and the configuration does not hold the value: `asked, got`.
    pub(crate) differ: Vec<(String, String)>,
}

/// Compares what the fragments ask for, `=n` apart, with the configuration that came out.
pub(crate) fn compare(fragments: &[String], config: &str, known: &BTreeSet<String>) -> Compared {
    let mut asked = BTreeMap::new();
    for line in fragments.iter().flat_map(|text| text.lines()) {
        if let Some((symbol, value)) = line.strip_prefix("CONFIG_").and_then(|line| line.split_once('=')) {
            asked.insert(symbol, value.trim());
        }
    }
    let got: BTreeMap<_, _> =
        config.lines().filter_map(|line| line.strip_prefix("CONFIG_").and_then(|line| line.split_once('='))).collect();
    let mut compared = Compared::default();
    for (symbol, value) in asked {
        let has = got.get(symbol).copied().unwrap_or("n");
        if value == "n" || has == value {
            continue;
        }
        if known.contains(symbol) {
            compared.differ.push((format!("CONFIG_{symbol}={value}"), has.to_owned()));
        } else {
            compared.unknown.push(format!("CONFIG_{symbol}"));
        }
    }
    compared
}

/// Every symbol that a kernel source defines.
pub(crate) fn symbols(source: &Path) -> Result<BTreeSet<String>> {
    let mut symbols = BTreeSet::new();
    let mut pending = vec![source.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with("Kconfig") {
                let text = fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
                symbols.extend(defined(&String::from_utf8_lossy(&text)).map(str::to_owned));
            }
        }
    }
    Ok(symbols)
}

fn defined(kconfig: &str) -> impl Iterator<Item = &str> {
    kconfig.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("config" | "menuconfig")).then(|| words.next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_kernel_its_package_and_its_fragments() {
        let lines = parse("# head\n\n7.2 linux-source-7.2 a.config b.config # why\n").unwrap();
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((line.name.as_str(), line.package.as_str()), ("7.2", "linux-source-7.2"));
        assert_eq!(line.fragments, ["a.config", "b.config"]);
    }

    #[test]
    fn a_table_that_cannot_be_used_says_where() {
        assert_eq!(parse("7.2 linux-source-7.2\n").unwrap_err().to_string(), "line 1: no fragment");
        assert_eq!(parse("\n7.2\n").unwrap_err().to_string(), "line 2: no source package");
        assert!(parse("# nothing\n").is_err());
    }

    #[test]
    fn a_value_that_did_not_hold_is_told_from_a_symbol_that_does_not_exist() {
        let fragments = ["CONFIG_A=m\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_D=n\n".to_owned(), "CONFIG_A=y\n".to_owned()];
        let known = ["A", "B"].map(str::to_owned).into();
        let compared = compare(&fragments, "CONFIG_A=y\n# CONFIG_B is not set\n", &known);
        assert_eq!(compared.differ, [("CONFIG_B=y".to_owned(), "n".to_owned())]);
        assert_eq!(compared.unknown, ["CONFIG_C"]);
    }

    #[test]
    fn kconfig_symbols_are_found() {
        let text = "menuconfig VFIO\n\ttristate\nconfig VFIO_PCI\n\thelp\n\t  config is a word\n";
        assert_eq!(defined(text).take(2).collect::<Vec<_>>(), ["VFIO", "VFIO_PCI"]);
    }
}
