//! Drivers, modules, and the two halves of the kernel's matching text: a device's modalias and a driver's alias.

use std::fmt;
use std::str::FromStr;

use super::ParseError;
use super::address::is_component;

macro_rules! component_name {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as sysfs spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                if is_component(text) && !text.starts_with('-') && !text.contains(char::is_whitespace) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(ParseError::new($expected, text))
                }
            }
        }
    };
}

component_name!(
    /// A driver as its bus names it, `mlx5_vfio_pci`, `xe-vfio-pci`: a directory of `/sys/bus/pci/drivers` and what
    /// `driver_override` is compared with. Not always the module's name: see [`ModuleName`].
    DriverName,
    "a driver name"
);

component_name!(
    /// A kernel module as `/sys/module` names it: with underscores.
    ///
    /// # Kernel
    /// `scripts/Makefile.lib` `name-fix` turns the dashes of a file name into underscores for `KBUILD_MODNAME` (7.2).
    ModuleName,
    "a module name"
);

impl DriverName {
    /// Whether a driver so called makes VFIO devices. Every VFIO driver of the kernel's tree is named so, and what is
    /// bound shows it by its `vfio-dev`; this is for drivers that nothing is bound to.
    #[must_use]
    pub fn is_vfio(&self) -> bool {
        let name = self.0.as_str();
        name == "vfio-pci" || name.ends_with("_vfio_pci") || name.ends_with("-vfio-pci") || name.starts_with("vfio-")
    }
}

impl ModuleName {
    /// The module of a name that may be spelled with dashes, as modules.dep and users do.
    ///
    /// # Errors
    /// [`ParseError`] when it cannot be one path component.
    pub fn normalised(text: &str) -> Result<Self, ParseError> {
        text.replace('-', "_").parse()
    }
}

/// How many fields a PCI alias has: vendor, device, subvendor, subdevice, base class, subclass, interface.
pub const FIELDS: usize = 7;

/// What stands before each field, and how many hexadecimal digits an exact value has.
const LAYOUT: [(&str, usize); FIELDS] = [("v", 8), ("d", 8), ("sv", 8), ("sd", 8), ("bc", 2), ("sc", 2), ("i", 2)];

/// `modalias` of a PCI function: `pci:v000015B3d0000101Esv000015B3sd00000058bc02sc00i00`.
///
/// # Kernel
/// `drivers/pci/pci-sysfs.c` `modalias_show()` (7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModAlias {
    fields: [u32; FIELDS],
}

impl ModAlias {
    /// The modalias of the given ids; `class` is 24 bits, base class first.
    #[must_use]
    pub const fn new(vendor: u16, device: u16, subsystem: (u16, u16), class: u32) -> Self {
        let class = class & 0xff_ffff;
        Self {
            fields: [
                vendor as u32,
                device as u32,
                subsystem.0 as u32,
                subsystem.1 as u32,
                class >> 16,
                class >> 8 & 0xff,
                class & 0xff,
            ],
        }
    }

    /// The fields in the order of the text.
    #[must_use]
    pub const fn fields(&self) -> &[u32; FIELDS] {
        &self.fields
    }

    /// `vendor`: 16 bits on every real device.
    #[must_use]
    pub const fn vendor(&self) -> u16 {
        (self.fields[0] & 0xffff) as u16
    }

    /// `device`.
    #[must_use]
    pub const fn device(&self) -> u16 {
        (self.fields[1] & 0xffff) as u16
    }

    /// `subsystem_vendor` and `subsystem_device`.
    #[must_use]
    pub const fn subsystem(&self) -> (u16, u16) {
        ((self.fields[2] & 0xffff) as u16, (self.fields[3] & 0xffff) as u16)
    }

    /// The 24-bit class, base class first.
    #[must_use]
    pub const fn class(&self) -> u32 {
        self.fields[4] << 16 | self.fields[5] << 8 | self.fields[6]
    }

    /// The same text for another kind of driver table: `pci:…` for native drivers, `vfio_pci:…` for VFIO drivers.
    #[must_use]
    pub fn for_table(&self, table: Table) -> String {
        let mut text = String::from(table.prefix());
        for ((mark, digits), value) in LAYOUT.iter().zip(self.fields) {
            text.push_str(mark);
            text.push_str(&format!("{value:0digits$X}"));
        }
        text
    }
}

impl fmt::Display for ModAlias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.for_table(Table::Native))
    }
}

impl FromStr for ModAlias {
    type Err = ParseError;

    /// Reads `pci:v…d…sv…sd…bc…sc…i…`, every field exact, upper-case hexadecimal as the kernel prints it.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refused = || ParseError::new("a PCI modalias", text);
        let pattern: AliasPattern = text.parse().map_err(|_| refused())?;
        if pattern.table != Table::Native {
            return Err(refused());
        }
        let mut fields = [0; FIELDS];
        for (value, field) in fields.iter_mut().zip(pattern.fields) {
            match field {
                Field::Exact(exact) => *value = exact,
                Field::Any => return Err(refused()),
            }
        }
        Ok(Self { fields })
    }
}

/// Which drivers an alias is for.
///
/// # Kernel
/// `scripts/mod/file2alias.c` `do_pci_entry()`: `vfio_pci:` for `override_only == PCI_ID_F_VFIO_DRIVER_OVERRIDE`, `pci:`
/// for 0 (7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// `pci:`: a driver that the kernel binds by itself.
    Native,
    /// `vfio_pci:`: a VFIO driver, bound only through `driver_override`.
    Vfio,
}

impl Table {
    /// The prefix with its colon.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Native => "pci:",
            Self::Vfio => "vfio_pci:",
        }
    }
}

/// One field of an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// `*`.
    Any,
    /// A value.
    Exact(u32),
}

impl Field {
    /// Whether a device whose field is `value` matches.
    #[must_use]
    pub const fn matches(self, value: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == value,
        }
    }
}

/// One line of a driver's id table as modules.alias spells it: `vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AliasPattern {
    /// Native or VFIO.
    pub table: Table,
    /// The seven fields in the order of the text.
    pub fields: [Field; FIELDS],
}

impl AliasPattern {
    /// The pattern that matches every device: vfio-pci's own.
    #[must_use]
    pub const fn catch_all(table: Table) -> Self {
        Self { table, fields: [Field::Any; FIELDS] }
    }

    /// A pattern of vendor and device alone: what `PCI_DRIVER_OVERRIDE_DEVICE_VFIO` makes.
    #[must_use]
    pub const fn of_ids(table: Table, vendor: u16, device: u16) -> Self {
        let mut pattern = Self::catch_all(table);
        pattern.fields[0] = Field::Exact(vendor as u32);
        pattern.fields[1] = Field::Exact(device as u32);
        pattern
    }

    /// Whether every field matches. The table is not compared: a device has a `pci:` modalias whichever driver it gets.
    #[must_use]
    pub fn matches(&self, device: &ModAlias) -> bool {
        self.fields.iter().zip(device.fields()).all(|(field, value)| field.matches(*value))
    }

    /// How many fields are `*`, 0..=7: the rank of a match, fewest first.
    #[must_use]
    pub fn wildcards(&self) -> u8 {
        self.fields.iter().map(|field| u8::from(*field == Field::Any)).sum()
    }
}

impl fmt::Display for AliasPattern {
    /// As `file2alias` prints it: a `*` is added at the end when the interface field is exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table.prefix())?;
        for ((mark, digits), field) in LAYOUT.iter().zip(self.fields) {
            match field {
                Field::Any => write!(f, "{mark}*")?,
                Field::Exact(value) => write!(f, "{mark}{value:0digits$X}")?,
            }
        }
        if self.fields[FIELDS - 1] == Field::Any { Ok(()) } else { f.write_str("*") }
    }
}

impl FromStr for AliasPattern {
    type Err = ParseError;

    /// Reads one alias. The `*` that `file2alias` adds after an exact interface is not a field and is dropped.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_pattern(text).ok_or_else(|| ParseError::new("a PCI alias", text))
    }
}

fn parse_pattern(text: &str) -> Option<AliasPattern> {
    let (table, mut rest) = [Table::Vfio, Table::Native]
        .into_iter()
        .find_map(|table| text.strip_prefix(table.prefix()).map(|rest| (table, rest)))?;
    let mut pattern = AliasPattern::catch_all(table);
    for ((mark, digits), field) in LAYOUT.iter().zip(&mut pattern.fields) {
        rest = rest.strip_prefix(mark)?;
        if let Some(after) = rest.strip_prefix('*') {
            rest = after;
            continue;
        }
        let value = rest.get(..*digits)?;
        if !value.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
            return None;
        }
        *field = Field::Exact(u32::from_str_radix(value, 16).ok()?);
        rest = &rest[*digits..];
    }
    let trailing_star = pattern.fields[FIELDS - 1] != Field::Any && rest == "*";
    (rest.is_empty() || trailing_star).then_some(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MLX5: &str = "vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*";

    #[test]
    fn the_catch_all_matches_with_seven_wildcards() {
        let pattern: AliasPattern = "vfio_pci:v*d*sv*sd*bc*sc*i*".parse().unwrap();
        assert_eq!(pattern.wildcards(), 7);
        assert!(pattern.matches(&ModAlias::new(0x15b3, 0x101e, (0, 0), 0x020000)));
    }

    #[test]
    fn an_id_table_entry_has_five_wildcards_and_matches_its_device_only() {
        let pattern: AliasPattern = MLX5.parse().unwrap();
        assert_eq!(pattern.wildcards(), 5);
        assert!(pattern.matches(&ModAlias::new(0x15b3, 0x101e, (0x15b3, 0x58), 0x020000)));
        assert!(!pattern.matches(&ModAlias::new(0x15b3, 0x1018, (0x15b3, 0x58), 0x020000)));
        assert_eq!(pattern.to_string(), MLX5);
    }

    #[test]
    fn the_star_after_an_exact_interface_is_not_a_field() {
        let text = "pci:v*d*sv*sd*bc01sc08i02*";
        let pattern: AliasPattern = text.parse().unwrap();
        assert_eq!(pattern.wildcards(), 4);
        assert_eq!(pattern.to_string(), text);
        assert_eq!("pci:v*d*sv*sd*bc01sc08i02".parse::<AliasPattern>().unwrap(), pattern);
    }

    #[test]
    fn what_is_not_an_alias_is_refused() {
        for text in [
            "",
            "pci:",
            "usb:v1234",
            "pci:v15B3d*sv*sd*bc*sc*i*",
            "pci:v000015b3d*sv*sd*bc*sc*i*",
            "pci:v0000[1-2]5B3d*sv*sd*bc*sc*i*",
            "pci:v*d*sv*sd*bc*sc*i**",
            "pci:v*d*sv*sd*bc*sc*",
            "pci:v000015B3d0000101Eé",
        ] {
            assert!(text.parse::<AliasPattern>().is_err(), "{text}");
        }
        assert!("vfio_pci:v000015B3d0000101Esv00000000sd00000000bc02sc00i00".parse::<ModAlias>().is_err());
        assert!(MLX5.replace("vfio_", "").parse::<ModAlias>().is_err());
    }

    #[test]
    fn names_cannot_leave_their_directory_or_look_like_options() {
        for text in ["", ".", "..", "a/b", "../vfio-pci", "--help", "a b", "a\n", "a\0"] {
            assert!(text.parse::<DriverName>().is_err(), "{text:?}");
        }
        assert!("x".repeat(5000).parse::<DriverName>().is_err());
        assert_eq!(ModuleName::normalised("vfio-pci").unwrap().as_str(), "vfio_pci");
    }

    pub(crate) fn any_pattern() -> impl Strategy<Value = AliasPattern> {
        let field = |most: u32| prop_oneof![Just(Field::Any), (0..=most).prop_map(Field::Exact)];
        let wide = proptest::collection::vec(field(u32::MAX), 4);
        let narrow = proptest::collection::vec(field(0xff), 3);
        (wide, narrow, any::<bool>()).prop_map(|(wide, narrow, vfio)| {
            let mut pattern = AliasPattern::catch_all(if vfio { Table::Vfio } else { Table::Native });
            for (slot, field) in pattern.fields.iter_mut().zip(wide.into_iter().chain(narrow)) {
                *slot = field;
            }
            pattern
        })
    }

    proptest! {
        #[test]
        fn an_alias_survives_printing(pattern in any_pattern()) {
            prop_assert_eq!(pattern.to_string().parse::<AliasPattern>().unwrap(), pattern);
        }

        #[test]
        fn a_modalias_survives_printing(v: u16, d: u16, sv: u16, sd: u16, class in 0u32..0x100_0000) {
            let alias = ModAlias::new(v, d, (sv, sd), class);
            prop_assert_eq!(alias.to_string().parse::<ModAlias>().unwrap(), alias);
            prop_assert_eq!((alias.vendor(), alias.device(), alias.subsystem(), alias.class()), (v, d, (sv, sd), class));
        }

        #[test]
        fn no_text_makes_the_alias_parser_panic(text in "(vfio_)?pci:[vdsbci*0-9A-Fé]{0,60}") {
            drop(text.parse::<AliasPattern>());
            drop(text.parse::<ModAlias>());
        }
    }
}
