//! Text → host file: every mistake with its file, its line and its column.

mod beside;

use std::fmt;
use std::ops::Range;

use super::file::{DeviceEntry, HostFile, Match, MdevEntry, PfEntry, Policy, RangeEntry, SfEntry, VgpuEntry, WqEntry};
use crate::model::VfIndex;
use crate::plan::parameters::{self, Assignment, KEYS, ParameterError, Parameters};
use crate::plan::queues::QueueParameters;
use crate::plan::subfunctions::SfWish;

/// A text and the file that it is from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The file, as messages name it.
    pub name: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line.
    text: String,
    /// How many characters of it.
    length: usize,
}

impl fmt::Display for Place {
    /// `/etc/vfioadm/host.toml:12:1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Place {
    /// The line, and what of it is meant.
    #[must_use]
    pub fn shown(&self) -> String {
        let number = self.line.to_string();
        let (margin, before) = (" ".repeat(number.len()), " ".repeat(self.column - 1));
        let marks = "^".repeat(self.length.max(1));
        format!("{number} | {}\n{margin} | {before}{marks}", self.text)
    }

    fn of(source: Source<'_>, span: Range<usize>) -> Self {
        let text = source.text;
        let boundary = |mut at: usize| {
            at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (boundary(span.start), boundary(span.end));
        let from = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = text[start..].find('\n').map_or(text.len(), |at| start + at);
        // A tab is shown as one blank, so that the marks are below what they mean.
        let blank = |text: &str| text.trim_end_matches('\r').replace('\t', " ");
        Self {
            file: source.name.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: text[from..start].chars().count() + 1,
            text: blank(&text[from..to]),
            length: blank(&text[start..end.clamp(start, to)]).chars().count(),
        }
    }
}

/// A mistake in a host file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n{}", self.place, self.message, self.place.shown())
    }
}

/// What is wanted of a host, by all of its files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wish {
    /// How it is gone about.
    pub policy: Policy,
    /// What is wanted, in the order that it is written.
    pub entries: Vec<Entry>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq)]
pub enum EntryKind {
    /// `[[device]]`.
    Device(DeviceEntry),
    /// `[[pf]]`, with its ranges.
    Pf(PfEntry, Vec<VfRangeWish>),
    /// `[[mdev]]`.
    Mdev(MdevEntry),
    /// `[[wq]]`, with what it is to be.
    Wq(WqEntry, QueueParameters),
    /// `[[sf]]`, with what it is to be.
    Sf(SfEntry, SfWish),
    /// `[[vgpu]]`.
    Vgpu(VgpuEntry),
}

/// A `[[pf.range]]` that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct VfRangeWish {
    /// Where it stands.
    pub place: Place,
    /// As it is written.
    pub range: RangeEntry,
    /// What its VFs are to have.
    pub parameters: Parameters,
}

impl EntryKind {
    /// The table that it is.
    #[must_use]
    pub const fn table(&self) -> &'static str {
        match self {
            Self::Device(_) => "device",
            Self::Pf(..) => "pf",
            Self::Mdev(_) => "mdev",
            Self::Wq(..) => "wq",
            Self::Sf(..) => "sf",
            Self::Vgpu(_) => "vgpu",
        }
    }

    /// The function that it selects, when it selects one.
    #[must_use]
    pub const fn which(&self) -> Option<&Match> {
        match self {
            Self::Device(entry) => Some(&entry.which),
            Self::Pf(entry, _) => Some(&entry.which),
            Self::Mdev(entry) => entry.which.as_ref(),
            Self::Wq(entry, _) => Some(&entry.which),
            Self::Sf(entry, _) => Some(&entry.which),
            Self::Vgpu(entry) => Some(&entry.which),
        }
    }
}

impl fmt::Display for Entry {
    /// `[[pf]] 8086:10c9 address 0000:3b:00.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[[{}]]", self.kind.table())?;
        match &self.kind {
            EntryKind::Mdev(entry) => write!(f, " {}", entry.uuid.as_hyphenated()),
            EntryKind::Wq(entry, _) => write!(f, " {} of {}", entry.wq, entry.which),
            EntryKind::Sf(entry, _) => write!(f, " {} of {}", entry.sfnum, entry.which),
            EntryKind::Vgpu(entry) => write!(f, " vf {} of {}", entry.vf, entry.which),
            other => other.which().map_or(Ok(()), |which| write!(f, " {which}")),
        }
    }
}

/// Reads all files of a host as one.
///
/// # Errors
/// Every [`Mistake`] of what can be read.
pub fn read(sources: &[Source<'_>]) -> Result<Wish, Vec<Mistake>> {
    let mut wish = Wish::default();
    let mut mistakes = Vec::new();
    let mut policy = None;
    for source in sources {
        let file: HostFile = match toml::from_str(source.text) {
            Ok(file) => file,
            Err(error) => {
                mistakes.push(syntax(*source, &error));
                continue;
            }
        };
        let reading = Reading { source: *source };
        if let Some(of) = file.policy {
            let place = reading.place(policy_span(source.text));
            if let Some(first) = policy.replace(place.clone()) {
                let message = format!("[policy] is given twice: in {first} too");
                mistakes.push(Mistake { place, message, hint: Some(String::from("keep one of them")) });
            }
            wish.policy = of;
        }
        for entry in file.pf {
            match reading.pf(entry) {
                Ok(entry) => wish.entries.push(entry),
                Err(found) => mistakes.extend(found),
            }
        }
        for entry in file.device {
            let place = reading.place(entry.span());
            let entry = entry.into_inner();
            mistakes.extend(of_match(&entry.which, &place));
            wish.entries.push(Entry { place, kind: EntryKind::Device(entry) });
        }
        for entry in file.mdev {
            let place = reading.place(entry.span());
            let entry = entry.into_inner();
            mistakes.extend(of_mdev(&entry, &place));
            wish.entries.push(Entry { place, kind: EntryKind::Mdev(entry) });
        }
        let wqs = file.wq.into_iter().map(|entry| reading.of(entry, beside::wq));
        let sfs = file.sf.into_iter().map(|entry| reading.of(entry, beside::sf));
        let vgpus = file.vgpu.into_iter().map(|entry| reading.of(entry, beside::vgpu));
        for entry in wqs.chain(sfs).chain(vgpus) {
            match entry {
                Ok(entry) => wish.entries.push(entry),
                Err(found) => mistakes.extend(found),
            }
        }
    }
    mistakes.extend(twice(&wish.entries));
    if mistakes.is_empty() { Ok(wish) } else { Err(mistakes) }
}

/// Where `[policy]` stands: the one table of which the parser keeps no place.
fn policy_span(text: &str) -> Range<usize> {
    let start = text.find("[policy]").unwrap_or(0);
    start..start + "[policy]".len()
}

/// What the parser says, with the word that was meant.
fn syntax(source: Source<'_>, error: &toml::de::Error) -> Mistake {
    let place = Place::of(source, error.span().unwrap_or(0..0));
    let said = error.message().trim().replace('\n', ", ");
    let Some(rest) = said.strip_prefix("unknown field `") else {
        return Mistake { place, message: said, hint: None };
    };
    // Its own words for it are not those of this file.
    let mut words = rest.split('`').step_by(2);
    let wrong = words.next().unwrap_or_default();
    let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
    Mistake { place, message: format!("there is no key {wrong} here"), hint: Some(meant(wrong, &known)) }
}

/// "did you mean driver", or all that there is.
fn meant(wrong: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|word| (strsim::damerau_levenshtein(wrong, word), *word)).min();
    match nearest {
        Some((distance, word)) if distance <= wrong.len().max(3) / 3 => format!("did you mean {word}"),
        _ => format!("there are: {}", known.join(", ")),
    }
}

struct Reading<'a> {
    source: Source<'a>,
}

impl Reading<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place::of(self.source, span)
    }

    fn pf(&self, entry: toml::Spanned<PfEntry>) -> Result<Entry, Vec<Mistake>> {
        let place = self.place(entry.span());
        let mut entry = entry.into_inner();
        let mut mistakes = of_match(&entry.which, &place);
        let mut ranges: Vec<VfRangeWish> = Vec::new();
        let mut taken: Vec<(VfIndex, usize)> = Vec::new();
        for range in std::mem::take(&mut entry.range) {
            let at = self.place(range.span());
            let range = range.into_inner();
            let mistake =
                |message: String, hint: &str| Mistake { place: at.clone(), message, hint: Some(hint.to_owned()) };
            if range.vfs.last() >= entry.vfs {
                let message = format!(
                    "VF {} is not among {}: indices begin with 0",
                    range.vfs.last(),
                    crate::model::counted(entry.vfs, "VF")
                );
                mistakes.push(mistake(message, "raise vfs of the PF, or lower the range"));
            }
            if let Some((index, line)) =
                range.vfs.indices().find_map(|index| taken.iter().find(|(other, _)| *other == index))
            {
                let message = format!("VF {index} is in two ranges: in that of line {line} too");
                mistakes.push(mistake(message, "take it out of one of them"));
            }
            taken.extend(range.vfs.indices().map(|index| (index, at.line)));
            match parameters_of(&entry, &range) {
                Ok(parameters) => ranges.push(VfRangeWish { place: at, range, parameters }),
                Err(error) => {
                    mistakes.push(mistake(error.to_string(), &hint_of(&error, &KEYS)));
                }
            }
        }
        if entry.eswitch.is_some() && ranges.is_empty() && mistakes.is_empty() {
            let message = String::from("eswitch is set for VFs, and no range says what they are");
            let hint = Some(String::from("add a [[pf.range]]"));
            mistakes.push(Mistake { place: place.clone(), message, hint });
        }
        if mistakes.is_empty() { Ok(Entry { place, kind: EntryKind::Pf(entry, ranges) }) } else { Err(mistakes) }
    }

    /// An entry of a kind that is read by itself; what it says of it is a message and a hint.
    fn of<T>(
        &self,
        entry: toml::Spanned<T>,
        read: impl FnOnce(T) -> Result<EntryKind, (String, String)>,
    ) -> Result<Entry, Vec<Mistake>> {
        let place = self.place(entry.span());
        match read(entry.into_inner()) {
            Ok(kind) => match kind.which().map(|which| of_match(which, &place)) {
                Some(mistakes) if !mistakes.is_empty() => Err(mistakes),
                _ => Ok(Entry { place, kind }),
            },
            Err((message, hint)) => Err(vec![Mistake { place, message, hint: Some(hint) }]),
        }
    }
}

/// What to do about a `set` that is not understood.
fn hint_of(error: &ParameterError, keys: &[(&str, &str)]) -> String {
    match error {
        ParameterError::UnknownKey(key) => {
            let keys: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
            meant(key, &keys)
        }
        ParameterError::OneMac { .. } => String::from("give each VF a range of its own, or mac = \"auto\""),
        _ => String::from("see vfioadm create --help"),
    }
}

/// `set` of a range, with the mode of the PF's eswitch.
fn parameters_of(pf: &PfEntry, range: &RangeEntry) -> Result<Parameters, ParameterError> {
    if range.set.contains_key("eswitch") {
        return Err(ParameterError::UnknownKey(String::from("eswitch")));
    }
    let mut all = beside::assignments(&range.set);
    all.extend(pf.eswitch.map(|mode| Assignment { key: String::from("eswitch"), value: mode.to_string() }));
    let parameters = parameters::parse(&all)?;
    parameters.fits(range.vfs.indices().count())?;
    Ok(parameters)
}

fn of_match(which: &Match, place: &Place) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    if which.pf.is_some() != which.vf.is_some() {
        let message = String::from("pf and vf name a VF together, and one of them is missing");
        mistakes.push(Mistake { place: place.clone(), message, hint: Some(String::from("give both or none")) });
    }
    mistakes
}

fn of_mdev(entry: &MdevEntry, place: &Place) -> Vec<Mistake> {
    let mistake = |message: &str, hint: &str| Mistake {
        place: place.clone(),
        message: message.to_owned(),
        hint: Some(hint.to_owned()),
    };
    let mut mistakes: Vec<Mistake> = entry.which.iter().flat_map(|which| of_match(which, place)).collect();
    match (&entry.parent, &entry.which) {
        (Some(_), Some(_)) => mistakes.push(mistake("an mdev has one parent, and two are named", "leave parent out")),
        (None, None) => mistakes.push(mistake("no parent is named", "add parent, or match for a PCI function")),
        (Some(parent), None) if parent.as_str().parse::<crate::model::Bdf>().is_ok() => {
            mistakes.push(mistake(
                "parent is a PCI function by its address alone",
                "say which by match = { id = \"vendor:device\", address = … }, so that another device there is left alone",
            ));
        }
        _ => {}
    }
    mistakes
}

/// Entries that are the same thing twice.
fn twice(entries: &[Entry]) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let same = |other: &&Entry| match (&entry.kind, &other.kind) {
            (EntryKind::Mdev(one), EntryKind::Mdev(other)) => one.uuid == other.uuid,
            (EntryKind::Device(one), EntryKind::Device(other)) => one.which == other.which,
            (EntryKind::Pf(one, _), EntryKind::Pf(other, _)) => one.which == other.which,
            (EntryKind::Wq(one, _), EntryKind::Wq(other, _)) => (&one.which, one.wq) == (&other.which, other.wq),
            (EntryKind::Sf(one, _), EntryKind::Sf(other, _)) => (&one.which, one.sfnum) == (&other.which, other.sfnum),
            (EntryKind::Vgpu(one), EntryKind::Vgpu(other)) => (&one.which, one.vf) == (&other.which, other.vf),
            _ => false,
        };
        if let Some(first) = entries[..at].iter().find(same) {
            let what = match &entry.kind {
                EntryKind::Mdev(entry) => format!("mdev {} is", entry.uuid.as_hyphenated()),
                other => format!("this {} is", other.table()),
            };
            let message = format!("{what} given twice: in {} too", first.place);
            let hint = Some(String::from("keep one of them"));
            mistakes.push(Mistake { place: entry.place.clone(), message, hint });
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let mistakes = read(&[Source { name: "host.toml", text }]).unwrap_err();
        mistakes.iter().map(|mistake| format!("{mistake}\n")).collect()
    }

    #[test]
    fn a_mistake_is_shown_in_its_line() {
        let text = "[[device]]\nmatch = { id = \"8086:zz\" }\n";
        let shown = "host.toml:2:16: not a PCI ID such as 15b3:101e: \"8086:zz\"\n2 | match = { id = \"8086:zz\" }\n  |                ^^^^^^^^^\n";
        assert_eq!(said(text), shown);
        // Columns are characters, and a tab is one.
        let text = "# größer\n\t[[devise]]\n";
        assert!(
            said(text).starts_with("host.toml:2:4: there is no key devise here\n2 |  [[devise]]\n  |    ^^^^^^\n"),
            "{}",
            said(text)
        );
    }

    #[test]
    fn the_word_that_was_meant_is_named_or_all_that_there_are() {
        let hint = |text: &str| read(&[Source { name: "f", text }]).unwrap_err().remove(0).hint.unwrap();
        assert_eq!(hint("[polcy]\n"), "did you mean policy");
        assert_eq!(hint("[bridges]\n"), "there are: policy, pf, device, mdev, wq, sf, vgpu");
        assert_eq!(hint("[[device]]\nmatch = { id = \"8086:1520\", srial = \"1\" }\n"), "did you mean serial");
    }

    #[test]
    fn every_mistake_of_every_file_is_found() {
        let twice = "[policy]\n[[mdev]]\nuuid = \"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\"\ntype = \"mtty-1\"\n";
        let both = [Source { name: "a", text: twice }, Source { name: "b", text: twice }];
        let all: Vec<String> =
            read(&both).unwrap_err().iter().map(|of| format!("{} {}", of.place, of.message)).collect();
        assert_eq!(
            all,
            [
                "a:2:1 no parent is named",
                "b:1:1 [policy] is given twice: in a:1:1 too",
                "b:2:1 no parent is named",
                "b:2:1 mdev 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 is given twice: in a:2:1 too",
            ]
        );
    }

    #[test]
    fn a_bad_word_of_a_closed_list_is_refused_with_the_list() {
        let text = "[policy]\nfallback = \"maybe\"\n";
        assert!(said(text).contains("unknown variant `maybe`, expected `next-best` or `never`"), "{}", said(text));
        assert!(said("[[pf]]\nmatch = { id = \"8086:10c9\" }\nvfs = 70000\n").contains("70000"));
        assert!(said("[[device]]\ndriver = \"best\"\n").contains("missing field `match`"));
    }

    #[test]
    fn the_schema_is_that_of_the_types() {
        let schema = schemars::schema_for!(HostFile);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let published = include_str!("../../docs/host.schema.json");
        assert!(text == published, "docs/host.schema.json is to be:\n{text}");
    }
}
