//! XML as libvirt writes it: elements, attributes and text, without namespaces.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

/// More levels than libvirt has.
const DEPTH: usize = 64;

/// An element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    pub(super) children: Vec<Self>,
    text: String,
}

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first child of this name.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of this name.
    pub(super) fn child_text(&self, name: &str) -> Option<&str> {
        Some(self.child(name)?.text.trim()).filter(|text| !text.is_empty())
    }

    fn of(tag: &BytesStart<'_>) -> Result<Self, String> {
        let mut element = Self { name: tag.name().as_ref().to_owned(), ..Self::default() };
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
            element.attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
        }
        Ok(element)
    }
}

/// The root element of a text.
pub(super) fn parse(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text);
    // The first is no element: what is closed last is its child.
    let mut open = vec![Element::default()];
    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        let depth = open.len();
        let Some(last) = open.last_mut() else { return Err(String::from("an element is closed twice")) };
        match event {
            Event::Start(tag) if depth < DEPTH => open.push(Element::of(&tag)?),
            Event::Start(_) => return Err(String::from("its elements are nested too deep")),
            Event::Empty(tag) => last.children.push(Element::of(&tag)?),
            Event::End(_) => {
                let closed = open.pop().unwrap_or_default();
                open.last_mut().ok_or("an element is closed twice")?.children.push(closed);
            }
            Event::Text(text) => last.text.push_str(&text.into_inner()),
            Event::CData(text) => last.text.push_str(&text.into_inner()),
            Event::GeneralRef(name) => {
                let whole = format!("&{};", &*name.into_inner());
                last.text.push_str(&quick_xml::escape::unescape(&whole).map_err(|error| error.to_string())?);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match open.as_mut_slice() {
        [top] => top.children.pop().ok_or_else(|| String::from("there is no element in it")),
        [.., last] => Err(format!("<{}> is not closed", last.name)),
        [] => Err(String::from("an element is closed twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn elements_attributes_and_entities_are_read() {
        let text = "<?xml version='1.0'?><!-- <a/> --><domain type=\"kvm\"><name>R&amp;D &#x31;</name><x:y z='a>b'/></domain>\n";
        let root = parse(text).unwrap();
        assert_eq!((root.name.as_str(), root.attribute("type")), ("domain", Some("kvm")));
        assert_eq!((root.child_text("name"), root.children[1].attribute("z")), (Some("R&D 1"), Some("a>b")));
        for wrong in ["", "text", "<a>", "<a></b>", "<a b=>", "<a>&nothing;</a>", &"<a>".repeat(100_000)] {
            assert!(parse(wrong).is_err(), "{}", &wrong[..wrong.len().min(20)]);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(<|>|/|'|\"|=| |é|!--|-->|&|;|a|b|<a>|</a>|<!\\[CDATA\\[){0,40}") {
            drop(parse(&text));
        }
    }
}
