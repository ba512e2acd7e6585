//! The definition of a libvirt domain, scanned for the functions that libvirt takes by itself.
//!
//! Not a reader of XML: tags, attributes and comments are told apart, entities and namespaces are not. What libvirt
//! writes it reads; what it cannot read it passes over.

use super::Bdf;

/// A domain and the PCI functions that it has with `managed='yes'`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Their addresses.
    pub functions: Vec<Bdf>,
}

impl Domain {
    /// Scans a definition: `<hostdev … managed='yes'><source><address …/></source></hostdev>`, and the same of
    /// `<interface type='hostdev'>`. An address outside `<source>` is the guest's.
    #[must_use]
    pub fn managed(xml: &str) -> Self {
        let mut domain = Self::default();
        let (mut managed, mut in_source) = (false, false);
        let mut rest = xml;
        while let Some((_, after)) = rest.split_once('<') {
            if let Some(comment) = after.strip_prefix("!--") {
                rest = comment.split_once("-->").map_or("", |(_, rest)| rest);
                continue;
            }
            // An attribute may hold `>`.
            let end = tag_end(after);
            let (tag, text) = (&after[..end], after.get(end + 1..).unwrap_or_default());
            let name = tag.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
            match name {
                "name" if domain.name.is_empty() => {
                    domain.name = text
                        .split('<')
                        .next()
                        .unwrap_or_default()
                        .trim()
                        .chars()
                        .filter(|c| !c.is_control())
                        .take(64)
                        .collect();
                }
                "hostdev" | "interface" => managed = attribute(tag, "managed") == Some("yes") && !tag.ends_with('/'),
                "source" => in_source = !tag.ends_with('/'),
                "address" if managed && in_source => domain.functions.extend(address(tag)),
                _ => match tag.strip_prefix('/').map(str::trim) {
                    Some("hostdev" | "interface") => managed = false,
                    Some("source") => in_source = false,
                    _ => {}
                },
            }
            rest = text;
        }
        domain
    }

    /// A definition that says as much and no more.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let device = |bdf: &Bdf| {
            let (domain, bus, slot, function) = (bdf.domain(), bdf.bus(), bdf.device(), bdf.function());
            format!(
                "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='{domain:#06x}' \
                 bus='{bus:#04x}' slot='{slot:#04x}' function='{function:#03x}'/></source></hostdev>\n"
            )
        };
        let devices: String = self.functions.iter().map(device).collect();
        format!("<domain>\n<name>{}</name>\n{devices}</domain>\n", self.name)
    }
}

/// Where the tag ends: at the first `>` outside quotes.
fn tag_end(text: &str) -> usize {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return at,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    text.len()
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    tag.match_indices(name).find_map(|(at, _)| {
        let separated = tag[..at].ends_with(char::is_whitespace);
        let value = tag[at + name.len()..].trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|c| separated && matches!(c, '\'' | '"'))?;
        value[1..].split_once(quote).map(|(value, _)| value)
    })
}

/// `<address domain='0x0000' bus='0x3b' slot='0x00' function='0x2'/>`: hexadecimal after `0x`, else decimal.
fn address(tag: &str) -> Option<Bdf> {
    let number = |name: &str| {
        let text = attribute(tag, name)?;
        match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    };
    let byte = |name: &str| u8::try_from(number(name)?).ok();
    Bdf::new(number("domain").unwrap_or(0), byte("bus")?, byte("slot")?, byte("function").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DOMAIN: &str = r#"<!--
WARNING: THIS IS AN AUTO-GENERATED FILE. <hostdev managed='yes'><source><address bus='1' slot='1'/></source>
-->
<domain type='kvm'>
  <name>build-1</name>
  <metadata><x:name xmlns:x="a>b">other</x:name></metadata>
  <devices>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <driver name='vfio'/>
      <source>
        <address domain='0x0000' bus='0x3b' slot='0x00' function='0x2'/>
      </source>
      <address type='pci' domain='0x0000' bus='0x06' slot='0x00' function='0x0'/>
    </hostdev>
    <hostdev mode='subsystem' type='pci' managed='no'>
      <source><address domain='0x0000' bus='0x3b' slot='0x00' function='0x3'/></source>
    </hostdev>
    <interface type='hostdev' managed="yes">
      <mac address='52:54:00:6d:90:02'/>
      <source><address type='pci' domain='65536' bus='129' slot='16' function='0'/></source>
    </interface>
    <interface type='network'><source network='default'/><address type='pci' bus='0x01' slot='0x00'/></interface>
  </devices>
</domain>"#;

    #[test]
    fn managed_functions_of_a_domain_are_found_and_the_guests_addresses_are_not() {
        let domain = Domain::managed(DOMAIN);
        let functions: Vec<String> = domain.functions.iter().map(ToString::to_string).collect();
        assert_eq!((domain.name.as_str(), functions), ("build-1", vec!["0000:3b:00.2".into(), "10000:81:10.0".into()]));
        assert_eq!(Domain::managed("<domain/>"), Domain::default());
        assert_eq!(Domain::managed(&domain.to_xml()), domain);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_scanner_panic(text in "(<|>|/|'|\"|=| |é|!--|-->|hostdev|managed|yes|source|address|bus|0x1){0,40}") {
            drop(Domain::managed(&text));
        }
    }
}
