//! The bus `dsa` as it is written to: names of its devices, attributes, and what a driver of the bus holds.

use std::fmt;
use std::str::FromStr;

use super::idxd::{IdxdIndex, IdxdKind};
use super::vf::words;
use super::{DriverName, ParseError};

/// A device of the bus `dsa` that is set or bound.
///
/// # Kernel
/// `drivers/dma/idxd/init.c` names them; the first number is the same device's on the whole bus, of either kind (7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DsaName {
    /// `dsa0`, `iax1`.
    Device(IdxdKind, u16),
    /// `wq0.1`.
    Queue(u16, IdxdIndex),
    /// `engine0.2`.
    Engine(u16, IdxdIndex),
}

impl DsaName {
    /// The number of the device that it is, or is of.
    #[must_use]
    pub const fn device(self) -> u16 {
        match self {
            Self::Device(_, number) | Self::Queue(number, _) | Self::Engine(number, _) => number,
        }
    }
}

impl fmt::Display for DsaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(kind, number) => write!(f, "{}{number}", kind.as_str()),
            Self::Queue(device, queue) => write!(f, "wq{device}.{queue}"),
            Self::Engine(device, engine) => write!(f, "engine{device}.{engine}"),
        }
    }
}

impl FromStr for DsaName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text).ok_or_else(|| ParseError::new("an idxd device, WQ or engine", text))
    }
}

fn parse(text: &str) -> Option<DsaName> {
    let number = |text: &str| {
        let plain =
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        plain.then(|| text.parse::<u16>().ok()).flatten()
    };
    let pair = |text: &str| {
        let (device, own) = text.split_once('.')?;
        Some((number(device)?, number(own)?))
    };
    for kind in [IdxdKind::Dsa, IdxdKind::Iax] {
        if let Some(rest) = text.strip_prefix(kind.as_str()) {
            return number(rest).map(|number| DsaName::Device(kind, number));
        }
    }
    match (text.strip_prefix("wq"), text.strip_prefix("engine")) {
        (Some(rest), _) => pair(rest).map(|(device, queue)| DsaName::Queue(device, queue)),
        (_, Some(rest)) => pair(rest).map(|(device, engine)| DsaName::Engine(device, engine)),
        _ => None,
    }
}

words! {
    /// An attribute that is set.
    DsaKey, "an attribute of a WQ",
    /// Who may submit; a change clears `name`.
    Type = "type",
    /// `dedicated` zeroes `threshold`.
    Mode = "mode",
    /// In entries; only while the device is disabled.
    Size = "size",
    /// `-1` is none.
    GroupId = "group_id",
    /// 0 to 15.
    Priority = "priority",
    /// In entries, of a shared WQ.
    Threshold = "threshold",
    /// Whether it waits for a page that is not there.
    BlockOnFault = "block_on_fault",
    /// In bytes; rounded up to a power of two.
    MaxTransferSize = "max_transfer_size",
    /// In descriptors, of DSA alone; rounded up to a power of two.
    MaxBatchSize = "max_batch_size",
    /// Address translation services are off.
    AtsDisable = "ats_disable",
    /// Page request services are off.
    PrsDisable = "prs_disable",
    /// How often the kernel submits to a shared WQ that is full.
    EnqcmdsRetries = "enqcmds_retries",
    /// Which operations it takes, of those that the device has; not every device has it.
    OpConfig = "op_config",
    /// What the administrator calls it.
    Name = "name",
    /// The driver that alone may have it; since 6.7.
    DriverName = "driver_name",
}

impl DsaKey {
    /// What goes when the driver of a WQ goes, in the order in which it is set again.
    ///
    /// # Kernel
    /// `drivers/dma/idxd/device.c` `idxd_wq_disable_cleanup()`; `sysfs.c` `wq_enqcmds_retries_store()` wants a shared WQ (7.2).
    pub const OF_DRIVER: [Self; 12] = [
        Self::Type,
        Self::Mode,
        Self::Threshold,
        Self::Priority,
        Self::BlockOnFault,
        Self::MaxTransferSize,
        Self::MaxBatchSize,
        Self::AtsDisable,
        Self::PrsDisable,
        Self::EnqcmdsRetries,
        Self::OpConfig,
        Self::Name,
    ];

    /// As sysfs spells it.
    #[must_use]
    pub const fn attribute(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Size => "size",
            Self::GroupId => "group_id",
            Self::Priority => "priority",
            Self::Threshold => "threshold",
            Self::BlockOnFault => "block_on_fault",
            Self::MaxTransferSize => "max_transfer_size",
            Self::MaxBatchSize => "max_batch_size",
            Self::AtsDisable => "ats_disable",
            Self::PrsDisable => "prs_disable",
            Self::EnqcmdsRetries => "enqcmds_retries",
            Self::OpConfig => "op_config",
            Self::Name => "name",
            Self::DriverName => "driver_name",
        }
    }
}

/// `op_cap` of a device and `op_config` of a WQ: 256 operations, bit N for the one of opcode N.
///
/// # Kernel
/// `Documentation/ABI/stable/sysfs-driver-dma-idxd`; `drivers/dma/idxd/sysfs.c` `wq_op_config_show()` prints `%*pb`,
/// `wq_op_config_store()` reads it by `bitmap_parse()` (7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Operations([u32; 8]);

impl Operations {
    /// Whether `all` has every one.
    #[must_use]
    pub fn are_among(self, all: Self) -> bool {
        self.0.iter().zip(all.0).all(|(word, all)| word & !all == 0)
    }
}

impl FromStr for Operations {
    type Err = ParseError;

    /// Reads hexadecimal digits, in groups of up to eight with a comma between each two, or as one number.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refused = || ParseError::new("operations, as a bitmap in hexadecimal", text);
        let longest = if text.contains(',') { 8 } else { 64 };
        let group = |group: &str| {
            let good = (1..=longest).contains(&group.len()) && group.bytes().all(|b| b.is_ascii_hexdigit());
            good.then(|| format!("{group:0>8}"))
        };
        let groups: Option<Vec<String>> = text.split(',').map(group).collect();
        let digits = groups.map(|groups| groups.concat()).filter(|digits| digits.len() <= 64).ok_or_else(refused)?;
        let digits = format!("{digits:0>64}");
        let mut words = [0; 8];
        for (at, word) in words.iter_mut().enumerate() {
            *word = u32::from_str_radix(&digits[at * 8..at * 8 + 8], 16).map_err(|_| refused())?;
        }
        Ok(Self(words))
    }
}

impl fmt::Display for Operations {
    /// As the kernel prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, word)| write!(f, "{}{word:08x}", if at == 0 { "" } else { "," }))
    }
}

/// An attribute with its value, as sysfs has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsaValue {
    /// Of which device.
    pub of: DsaName,
    /// Which attribute.
    pub key: DsaKey,
    /// Its text, without newline.
    pub value: String,
}

impl fmt::Display for DsaValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.value.is_empty() { "''" } else { &self.value };
        write!(f, "{} {} {value}", self.of, self.key)
    }
}

/// A device of the bus in the hands of a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsaBound {
    /// `idxd` of a device; `user`, `dmaengine`, `crypto` of a WQ.
    pub driver: DriverName,
    /// What goes when the driver goes, in the order in which it is set again.
    pub config: Vec<DsaValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_in_groups_or_as_a_number_and_printed_as_the_kernel_does() {
        let zeros = "00000000,".repeat(6);
        for text in ["1003f03ff", "1,003f03ff", "1,3f03ff", "00000001,003F03FF", &format!("{zeros}00000001,003f03ff")] {
            let printed = text.parse::<Operations>().unwrap().to_string();
            assert_eq!(printed, format!("{zeros}00000001,003f03ff"), "{text}");
        }
        for text in ["", ",", "1,", "0x1", "g", "1,123456789", &"1".repeat(65), &format!("{}1", "1,".repeat(8))] {
            assert!(text.parse::<Operations>().is_err(), "{text}");
        }
        let of = |text: &str| text.parse::<Operations>().unwrap();
        assert!(of("8").are_among(of("d")) && of("0").are_among(of("0")) && !of("2").are_among(of("d")));
    }

    #[test]
    fn names_are_printed_as_they_are_read() {
        for text in ["dsa0", "iax11", "wq0.1", "engine3.0"] {
            assert_eq!(text.parse::<DsaName>().unwrap().to_string(), text);
        }
        for text in ["", "dsa", "dsa0.1", "wq0", "wq.1", "wq01.0", "group0.1", "wq0.1.2", "wq70000.0", "wq+1.0"] {
            assert!(text.parse::<DsaName>().is_err(), "{text}");
        }
        for key in DsaKey::ALL {
            assert_eq!(key.attribute(), key.to_string());
        }
    }
}
