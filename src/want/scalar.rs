//! Values of the host file that are written as strings.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{ParseError, VfIndex};

/// A value that is written as its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<T>(pub T);

impl<T> Deref for Text<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

#[cfg(test)]
impl<T> schemars::JsonSchema for Text<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Text".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// Some VFs of a PF by their indices: `3`, `0-3`, `0-3,8`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VfRange(Vec<(VfIndex, VfIndex)>);

impl VfRange {
    /// The indices, in the order that they are written.
    pub fn indices(&self) -> impl Iterator<Item = VfIndex> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The highest.
    #[must_use]
    pub fn last(&self) -> VfIndex {
        self.0.iter().map(|(_, last)| *last).max().unwrap_or(0)
    }

    /// As few spans as there are; `None` of nothing.
    #[must_use]
    pub fn of(indices: &BTreeSet<VfIndex>) -> Option<Self> {
        let mut spans: Vec<(VfIndex, VfIndex)> = Vec::new();
        for index in indices {
            match spans.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(*index) => *last = *index,
                _ => spans.push((*index, *index)),
            }
        }
        (!spans.is_empty()).then_some(Self(spans))
    }
}

impl fmt::Display for VfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}-{last}")? }
        }
        Ok(())
    }
}

impl FromStr for VfRange {
    type Err = ParseError;

    /// Both ends of a span belong to it.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = |digits: &str| {
            let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            good.then(|| digits.parse::<VfIndex>().ok()).flatten()
        };
        let span = |span: &str| {
            let (first, last) = span.split_once('-').unwrap_or((span, span));
            Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last)
        };
        let spans: Option<Vec<_>> = text.split(',').map(span).collect();
        spans.map(Self).ok_or_else(|| ParseError::new("VF indices such as \"0-3\" or \"0-3,8\"", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_printed_as_few_spans() {
        let indices = |text: &str| text.parse::<VfRange>().unwrap().indices().collect::<Vec<_>>();
        assert_eq!(indices("0-2,8"), [0, 1, 2, 8]);
        assert_eq!(indices("65535"), [65535]);
        let of = VfRange::of(&[5, 0, 1, 2].into()).unwrap();
        assert_eq!((of.to_string().as_str(), of.last()), ("0-2,5", 5));
        assert_eq!(VfRange::of(&BTreeSet::new()), None);
        for wrong in ["", "-", "3-1", "0-", "1,", "a", "0-65536", "+1", "0 - 3"] {
            assert!(wrong.parse::<VfRange>().is_err(), "{wrong}");
        }
    }
}
