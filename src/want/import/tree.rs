//! YAML without a schema: keys are found whatever their case, and a scalar is its text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tree {
    Nothing,
    Scalar(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// All documents of a text. JSON is YAML too.
pub(super) fn documents(text: &str) -> Result<Vec<Tree>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| {
        let said = error.to_string();
        said.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

impl Tree {
    /// The value of a key: an operator in Go writes the same field as `pciAddress` and as `pciaddress`.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        let value = entries.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        value.filter(|value| **value != Self::Nothing)
    }

    /// The keys of a map.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries = if let Self::Map(entries) = self { entries.as_slice() } else { &[] };
        entries.iter().filter(|(_, value)| *value != Self::Nothing).map(|(name, _)| name.as_str())
    }

    /// What is below a key, when it is a list.
    pub(super) fn list(&self, key: &str) -> &[Self] {
        match self.get(key) {
            Some(Self::List(items)) => items,
            _ => &[],
        }
    }

    /// The text below a key; one that is empty is none.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Self::as_text).filter(|text| !text.is_empty())
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        if let Self::Scalar(text) = self { Some(text) } else { None }
    }

    /// The number below a key.
    pub(super) fn number<N: std::str::FromStr>(&self, key: &str) -> Option<N> {
        self.text(key)?.parse().ok()
    }

    /// Whether the value of a key is true.
    pub(super) fn is_true(&self, key: &str) -> bool {
        self.text(key) == Some("true")
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a map")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Tree, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut of: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = of.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut of: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = of.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_any_case_and_scalars_are_texts() {
        let all = documents("pciaddress: 0000:86:00.0\nnumVfs: 4\nmtu: null\non: true\n---\n[1, '2']\n").unwrap();
        let (first, second) = (&all[0], &all[1]);
        assert_eq!((first.text("pciAddress"), first.number("numvfs")), (Some("0000:86:00.0"), Some(4_u16)));
        assert_eq!((first.get("mtu"), first.is_true("on")), (None, true));
        assert_eq!(*second, Tree::List(vec![Tree::Scalar("1".into()), Tree::Scalar("2".into())]));
        assert_eq!(documents("{\"a\": [{\"B\": \"c\"}]}").unwrap()[0].list("A")[0].text("b"), Some("c"));
        assert!(documents("a: [\n").is_err());
    }
}
