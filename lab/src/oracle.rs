//! Compares what vfioadm finds in depmod's indexes with what modprobe finds in them: the same modules, for thousands of
//! modaliases, real ones and made-up ones.
//!
//! `modprobe --resolve-alias` stops at the first kind of index that answers, modules of modules.alias before built-in
//! ones, and gives them in no useful order. So sets are compared, kind by kind, and the order of vfioadm's candidates is
//! checked against a count of wildcards made in another way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use vfioadm::discover::tables::{Kernel, Query, read_tables};
use vfioadm::host::path::Root;
use vfioadm::host::{HostError, HostPath, Read, Verb};
use vfioadm::matching::index::Index;
use vfioadm::matching::{Availability, Source, candidates, host_candidates};
use vfioadm::model::driver::{FIELDS, Field, Table};
use vfioadm::model::{AliasPattern, Errno, ModAlias};

/// Aliases per modprobe: their text must fit in one argument list.
const BATCH: usize = 250;
/// What is asked between two aliases, and what modprobe then prints, so that their answers can be told apart.
const MARK: (&str, &str) = ("vfioadm_mark", "vfioadm_mark_here");
/// How many differences are told.
const TOLD: usize = 20;

/// What was compared and what differed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// How many modaliases.
    pub(crate) devices: usize,
    /// How many of them had a variant's candidate, and how many a host driver.
    pub(crate) variants: usize,
    pub(crate) hosts: usize,
    /// Where modprobe gave other modules, or the order was wrong: the first few, and how many in all.
    pub(crate) told: Vec<String>,
    pub(crate) differences: usize,
}

impl Report {
    fn differs(&mut self, text: impl FnOnce() -> String) {
        self.differences += 1;
        if self.told.len() < TOLD {
            self.told.push(text());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { devices, variants, hosts, told, differences } = self;
        write!(f, "{devices} modaliases ({variants} with a variant, {hosts} with a host driver): ")?;
        write!(f, "{differences} differ from modprobe --resolve-alias")?;
        told.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// A kernel's module directory inside a tree that has modprobe.
pub(crate) struct Oracle<'a> {
    /// The tree that is changed into.
    pub(crate) root: &'a Path,
    /// The directory in it that holds `lib/modules/RELEASE`.
    pub(crate) modules: &'a Path,
    /// The release.
    pub(crate) release: &'a str,
}

/// Runs the comparison on a kernel of the lab: for every modalias of the demo host, and `count` made-up ones.
pub(crate) fn compare(kernel: &crate::kernel::Kernel, root: &crate::root::Root, count: usize) -> Result<Report> {
    let modules = kernel.modules.as_ref().context("this kernel has no modules to compare")?;
    let releases = fs::read_dir(modules.join("lib/modules")).context("list the kernel's modules")?;
    let release = releases.flatten().next().context("no release in lib/modules")?.file_name();
    // modprobe looks at depmod's files only, and sees them below the tree that it is changed into.
    let inside = tempfile::Builder::new().prefix("oracle-").tempdir_in(root.path("/tmp"))?;
    let to = inside.path().join("lib/modules").join(&release);
    fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(modules.join("lib/modules").join(&release))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("modules.") {
            fs::copy(entry.path(), to.join(entry.file_name())).with_context(|| format!("copy {:?}", entry.path()))?;
        }
    }
    let place = Path::new("/tmp").join(inside.path().file_name().context("a directory without a name")?);
    let release = release.to_string_lossy();
    run(&Oracle { root: root.dir(), modules: &place, release: &release }, &demo_host()?, count)
}

/// The modaliases of the demo host.
fn demo_host() -> Result<Vec<String>> {
    let host = vfioadm::host::fake::FakeHost::demo()?;
    let inventory = vfioadm::discover::inventory(&host)?;
    Ok(inventory.functions.values().map(|function| function.alias.to_string()).collect())
}

/// Compares the given modaliases and `count` made-up ones.
///
/// Half of those are made from aliases in the indexes, so that something matches; the rest are random. The same every time.
fn run(oracle: &Oracle<'_>, given: &[String], count: usize) -> Result<Report> {
    let host = Directory::open(oracle)?;
    let mut devices = Vec::new();
    for text in given {
        devices.push(text.parse::<ModAlias>().with_context(|| format!("a modalias to compare: {text}"))?);
    }
    devices.extend(made_up(&host.patterns()?, count));
    let mut report = Report { devices: devices.len(), ..Report::default() };
    for batch in devices.chunks(BATCH) {
        let vfio = oracle.resolve(batch, Table::Vfio)?;
        let native = oracle.resolve(batch, Table::Native)?;
        let query = Query { devices: batch, drivers: &[], kernel: Kernel::Other };
        let (tables, warnings) = read_tables(&host, &query);
        ensure!(warnings.is_empty(), "warnings about {}: {warnings:?}", oracle.release);
        for (device, (vfio, native)) in batch.iter().zip(vfio.into_iter().zip(native)) {
            let found = candidates(device, &tables);
            let built_in = found.iter().filter(|one| one.availability == Availability::BuiltIn);
            let loadable = found.iter().filter(|one| one.availability != Availability::BuiltIn);
            let names = |one: &vfioadm::matching::Candidate| one.module.as_ref().map(ToString::to_string);
            let ours = first_kind(loadable.filter_map(names).collect(), built_in.filter_map(names).collect());
            if ours != vfio {
                report.differs(|| format!("{device}: VFIO modules {ours:?}, modprobe {vfio:?}"));
            }
            if !found.is_sorted_by_key(|one| stars(&one.alias.to_string())) {
                report.differs(|| format!("{device}: out of order: {found:?}"));
            }
            report.variants += usize::from(found.len() > 1);

            let hosts = host_candidates(device, &tables);
            let of = |kind| hosts.iter().filter(move |one| one.source == kind).map(|one| one.module.to_string());
            let ours = first_kind(of(Source::Loadable).collect(), of(Source::BuiltIn).collect());
            if ours != native {
                report.differs(|| format!("{device}: host modules {ours:?}, modprobe {native:?}"));
            }
            report.hosts += usize::from(!hosts.is_empty());
        }
    }
    Ok(report)
}

/// What modprobe would say: modules that can be loaded, and only when there are none, built-in ones.
fn first_kind(loadable: BTreeSet<String>, built_in: BTreeSet<String>) -> BTreeSet<String> {
    if loadable.is_empty() { built_in } else { loadable }
}

/// Wildcard fields as the text shows them: each star after the letter of a mark. A star after a digit ends the pattern.
fn stars(alias: &str) -> usize {
    let fields = alias.split_once(':').map_or(alias, |(_, fields)| fields);
    fields.as_bytes().windows(2).filter(|pair| pair[0].is_ascii_lowercase() && pair[1] == b'*').count()
}

impl Oracle<'_> {
    /// The modules that modprobe finds for each device.
    fn resolve(&self, devices: &[ModAlias], table: Table) -> Result<Vec<BTreeSet<String>>> {
        // A configuration of our own keeps the tree's modprobe.d out, and defines the mark.
        let mut config =
            tempfile::Builder::new().prefix("oracle").suffix(".conf").tempfile_in(self.root.join("tmp"))?;
        writeln!(config, "alias {} {}", MARK.0, MARK.1)?;
        let inside = Path::new("/tmp").join(config.path().file_name().context("a file without a name")?);
        let mut command = Command::new("chroot");
        command.arg(self.root).args(["modprobe", "-q", "-a", "-R", "-S", self.release, "-d"]);
        command.arg(self.modules).arg("-C").arg(inside);
        for device in devices {
            command.arg(device.for_table(table)).arg(MARK.0);
        }
        // Its exit code only says that some alias had no module.
        let output = command.output().context("start modprobe in the lab root")?;
        let text = String::from_utf8(output.stdout).context("modprobe printed something that is not text")?;
        let mut answers = vec![BTreeSet::new()];
        for line in text.lines() {
            if line == MARK.1 {
                answers.push(BTreeSet::new());
            } else if let Some(last) = answers.last_mut() {
                last.insert(line.to_owned());
            }
        }
        answers.pop();
        if answers.len() != devices.len() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("modprobe answered {} of {} aliases: {}", answers.len(), devices.len(), said.trim_end());
        }
        Ok(answers)
    }
}

/// A module directory, read once; no other part of a host.
struct Directory {
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl Directory {
    fn open(oracle: &Oracle<'_>) -> Result<Self> {
        let inside = oracle.modules.strip_prefix("/").unwrap_or(oracle.modules);
        let dir = oracle.root.join(inside).join("lib/modules").join(oracle.release);
        let names = ["modules.alias.bin", "modules.builtin.alias.bin", "modules.dep.bin", "modules.builtin.bin"];
        let files: BTreeMap<&'static str, Vec<u8>> =
            names.into_iter().filter_map(|name| Some((name, fs::read(dir.join(name)).ok()?))).collect();
        ensure!(files.contains_key(names[0]), "no {} in {}", names[0], dir.display());
        Ok(Self { files })
    }

    /// Every PCI alias in the indexes.
    fn patterns(&self) -> Result<Vec<AliasPattern>> {
        let mut patterns = Vec::new();
        for (name, data) in self.files.iter().filter(|(name, data)| name.contains("alias") && !data.is_empty()) {
            Index::parse(data)
                .and_then(|index| {
                    index.walk(
                        (),
                        |(), _| Some(()),
                        |entry, ()| {
                            let text = std::str::from_utf8(entry.key).ok();
                            patterns.extend(text.and_then(|text| text.parse::<AliasPattern>().ok()));
                        },
                    )
                })
                .with_context(|| format!("read {name}"))?;
        }
        Ok(patterns)
    }
}

impl Read for Directory {
    fn read(&self, path: &HostPath) -> Result<Vec<u8>, HostError> {
        let file = (path.root() == Root::Modules).then(|| self.files.get(path.rest())).flatten();
        file.cloned().ok_or_else(|| HostError::new(Verb::Read, path.clone(), Errno::ENOENT))
    }

    fn link(&self, path: &HostPath) -> Result<String, HostError> {
        Err(HostError::new(Verb::Read, path.clone(), Errno::ENOENT))
    }

    fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        Err(HostError::new(Verb::Read, path.clone(), Errno::ENOENT))
    }
}

/// Devices: every second one with the exact fields of some alias, native and VFIO ones in turn, now and then with one field
/// changed; the rest random.
fn made_up(patterns: &[AliasPattern], count: usize) -> Vec<ModAlias> {
    let (vfio, native): (Vec<_>, Vec<_>) = patterns.iter().partition(|pattern| pattern.table == Table::Vfio);
    let mut random = Random(0x5f10_adb1);
    let mut made = Vec::with_capacity(count);
    while made.len() < count {
        let mut fields = [0_u32; FIELDS];
        for (nth, field) in fields.iter_mut().enumerate() {
            *field = random.below(if nth < 4 { 0x1_0000 } else { 0x100 });
        }
        let from = if made.len() % 4 == 0 { &vfio } else { &native };
        if made.len() % 2 == 0
            && let Some(pattern) = random.one_of(from)
        {
            for (field, wanted) in fields.iter_mut().zip(pattern.fields) {
                if let Field::Exact(value) = wanted {
                    *field = value;
                }
            }
            if random.below(8) == 0 {
                fields[random.below(7) as usize] ^= 1;
            }
        }
        let id = |nth: usize| (fields[nth] & 0xffff) as u16;
        made.push(ModAlias::new(id(0), id(1), (id(2), id(3)), fields[4] << 16 | fields[5] << 8 | fields[6]));
    }
    made
}

/// Marsaglia's xorshift: the same devices in every run and on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % limit.max(1)
    }

    fn one_of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        let length = u32::try_from(list.len()).unwrap_or(u32::MAX);
        list.get(self.below(length) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_devices_are_the_same_every_time_and_some_match() {
        let patterns: Vec<AliasPattern> = vec!["vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*".parse().unwrap()];
        let made = made_up(&patterns, 1000);
        assert_eq!(made, made_up(&patterns, 1000));
        let matching = made.iter().filter(|device| patterns[0].matches(device)).count();
        assert!((200..=250).contains(&matching), "{matching}");
    }

    #[test]
    fn only_fields_count_as_wildcards() {
        assert_eq!(stars("vfio_pci:v*d*sv*sd*bc*sc*i*"), 7);
        assert_eq!(stars("pci:v*d*sv*sd*bc01sc08i02*"), 4);
    }
}
