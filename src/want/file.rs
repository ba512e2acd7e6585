//! What stands in a host file: `docs/host.md` is its text, `docs/host.schema.json` is made of these types.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::scalar::{Text, VfRange};
use crate::check::FindingId;
use crate::model::devlink::EswitchMode;
use crate::model::idxd::IdxdIndex;
use crate::model::vf::{Guid, Mac, NetdevName};
use crate::model::vgpu::VgpuTypeId;
use crate::model::{Bdf, BusName, DriverName, MdevAttribute, PciId, VfIndex};
use crate::plan::Wanted;

/// Everything that is wanted of a host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HostFile {
    /// How it is gone about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// PFs and their VFs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<PfEntry>"))]
    pub pf: Vec<toml::Spanned<PfEntry>>,
    /// Functions and the driver that each is to have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<DeviceEntry>"))]
    pub device: Vec<toml::Spanned<DeviceEntry>>,
    /// mdevs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<MdevEntry>"))]
    pub mdev: Vec<toml::Spanned<MdevEntry>>,
    /// WQs of idxd devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<WqEntry>"))]
    pub wq: Vec<toml::Spanned<WqEntry>>,
    /// Subfunctions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<SfEntry>"))]
    pub sf: Vec<toml::Spanned<SfEntry>>,
    /// NVIDIA's vGPUs on VFs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<VgpuEntry>"))]
    pub vgpu: Vec<toml::Spanned<VgpuEntry>>,
}

/// `[policy]`: what holds for every entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Policy {
    /// Findings in spite of which it is done, by their ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Text<FindingId>>,
    /// What follows when the best driver refuses.
    pub fallback: FallbackWord,
    /// Drivers that come before better ones where the driver is "best" and they match, first choice first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefer: Vec<Text<DriverName>>,
    /// What is done about devices that no entry is about.
    pub unlisted: Unlisted,
}

/// `fallback`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FallbackWord {
    /// The next best driver is tried.
    #[default]
    NextBest,
    /// The entry fails.
    Never,
}

/// `unlisted`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Unlisted {
    /// Nothing.
    #[default]
    Leave,
}

/// Which function: all parts that are given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Vendor and device id: "15b3:101e".
    pub id: Text<PciId>,
    /// Subsystem vendor and device id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subsystem: Option<Text<PciId>>,
    /// Its PCI address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Text<Bdf>>,
    /// The serial number of an NVMe controller, or a device serial number of PCIe as lspci prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The MAC address of a network interface of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Text<Mac>>,
    /// The node GUID of an InfiniBand device of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guid: Option<Text<Guid>>,
    /// The name of a network interface of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netdev: Option<Text<NetdevName>>,
    /// The label of its slot, as /sys/bus/pci/slots has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<Text<BusName>>,
    /// The address of its PF, of a VF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pf: Option<Text<Bdf>>,
    /// Its index, of a VF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vf: Option<VfIndex>,
}

impl fmt::Display for Match {
    /// As it is written, the id first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id.0)?;
        let text = |value: &dyn fmt::Display| value.to_string();
        let parts = [
            ("subsystem", self.subsystem.as_ref().map(|of| text(&of.0))),
            ("address", self.address.as_ref().map(|of| text(&of.0))),
            ("serial", self.serial.clone()),
            ("mac", self.mac.as_ref().map(|of| text(&of.0))),
            ("guid", self.guid.as_ref().map(|of| text(&of.0))),
            ("netdev", self.netdev.as_ref().map(|of| text(&of.0))),
            ("slot", self.slot.as_ref().map(|of| text(&of.0))),
            ("pf", self.pf.as_ref().map(|of| text(&of.0))),
            ("vf", self.vf.map(|of| of.to_string())),
        ];
        parts
            .iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)))
            .try_for_each(|(key, value)| write!(f, " {key} {value}"))
    }
}

/// The driver of what is not said otherwise.
const fn best() -> Text<Wanted> {
    Text(Wanted::Best)
}

/// `[[device]]`: a function and its driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DeviceEntry {
    /// Which function.
    #[serde(rename = "match")]
    pub which: Match,
    /// Its driver: "best", "host", "none", or one by its name.
    #[serde(default = "best")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub driver: Text<Wanted>,
    /// Whether it stands for every function that matches, or for one.
    #[serde(default, skip_serializing_if = "Several::is_refused")]
    pub several: Several,
}

/// `several`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Several {
    /// An entry that matches more than one function is not applied.
    #[default]
    Refuse,
    /// It is applied to each of them.
    Each,
}

impl Several {
    /// Whether more than one function is too many.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self, Self::Refuse)
    }
}

/// `[[pf]]`: how many VFs a PF has, and what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PfEntry {
    /// Which PF.
    #[serde(rename = "match")]
    pub which: Match,
    /// How many VFs.
    pub vfs: u16,
    /// The mode of its eswitch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eswitch: Option<Text<EswitchMode>>,
    /// What its VFs are to be. One in no range is enabled, has no driver, and is there for `vfioadm create` to give.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<RangeEntry>"))]
    pub range: Vec<toml::Spanned<RangeEntry>>,
}

/// `[[pf.range]]`: some VFs of a PF.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RangeEntry {
    /// Their indices: "0-3", "0-3,8".
    pub vfs: Text<VfRange>,
    /// Their driver: "best", "host", "none", or one by its name.
    #[serde(default = "best")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub driver: Text<Wanted>,
    /// What they have before their driver looks: the keys of `vfioadm create --set`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Value>,
}

/// A value of `set`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a number, true, false or a string")]
pub enum Value {
    /// A number.
    Number(i64),
    /// on or off.
    Switch(bool),
    /// Anything else.
    Text(String),
}

impl fmt::Display for Value {
    /// As `--set` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Switch(true) => f.write_str("on"),
            Self::Switch(false) => f.write_str("off"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// `[[mdev]]`: an mdev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MdevEntry {
    /// Its name.
    pub uuid: Text<Uuid>,
    /// Its parent, by its name in /sys/class/mdev_bus: one that is no PCI function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Text<BusName>>,
    /// Its parent, a PCI function.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub which: Option<Match>,
    /// Its type, the name of a directory of `mdev_supported_types`.
    #[serde(rename = "type")]
    pub kind: Text<BusName>,
    /// What is written to its attributes once it is made, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<AttributeEntry>,
}

/// An attribute of an mdev: `{ assign_adapter = "5" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeEntry(pub MdevAttribute);

impl<'de> Deserialize<'de> for AttributeEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let all: BTreeMap<String, String> = BTreeMap::deserialize(from)?;
        match (all.len(), all.first_key_value()) {
            (1, Some((name, value))) => MdevAttribute::new(name, value).map(Self).map_err(D::Error::custom),
            (count, _) => {
                Err(D::Error::custom(format!("an attribute is one key and its value, and these are {count} keys")))
            }
        }
    }
}

impl Serialize for AttributeEntry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map([(self.0.name.to_string(), &self.0.value)])
    }
}

#[cfg(test)]
impl schemars::JsonSchema for AttributeEntry {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AttributeEntry".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "An attribute of an mdev and what is written to it.",
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": { "type": "string" }
        })
    }
}

/// `[[wq]]`: a WQ of an idxd device, which is enabled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WqEntry {
    /// The PCI function of the device.
    #[serde(rename = "match")]
    pub which: Match,
    /// Its number.
    pub wq: IdxdIndex,
    /// What it is: the keys of `vfioadm create DEVICE wq --set`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Value>,
}

/// `[[sf]]`: a subfunction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SfEntry {
    /// Its PF.
    #[serde(rename = "match")]
    pub which: Match,
    /// Its number.
    pub sfnum: u32,
    /// What it is: the keys of `vfioadm create PF sf --set`, but for sfnum.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Value>,
}

/// `[[vgpu]]`: a VF that is a vGPU of NVIDIA's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VgpuEntry {
    /// Its PF.
    #[serde(rename = "match")]
    pub which: Match,
    /// Its index.
    pub vf: VfIndex,
    /// The number of its type, as `nvidia/creatable_vgpu_types` has it.
    #[serde(rename = "type")]
    pub kind: VgpuTypeId,
}
