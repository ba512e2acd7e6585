//! The settings of idxd, vGPUs and devlink as they are written down, and back.

use super::SettingRow;
use crate::model::devlink::{Behind, PortSetting};
use crate::model::dsa::{DsaBound, DsaValue};
use crate::model::{Hook, MdevAttribute, Target};
use crate::step::{Setting, SfOf};

/// The driver, and each value that goes with it: whose, which, what.
pub(super) type Bound = (String, Vec<(String, String, String)>);

/// The number of the PF, what was kept at its port, the state.
pub(super) type Subfunction = (u16, Vec<PortSetting>, String);

pub(super) fn bound(bound: &DsaBound) -> Bound {
    let value = |of: &DsaValue| (of.of.to_string(), of.key.to_string(), of.value.clone());
    (bound.driver.to_string(), bound.config.iter().map(value).collect())
}

pub(super) fn subfunction(of: &SfOf) -> Subfunction {
    (of.pfnum, of.kept.clone(), of.state.to_string())
}

pub(super) fn hook(hook: &Hook) -> SettingRow {
    let vf = Target::Vf { pf: hook.pf, index: hook.index };
    SettingRow::Hook(vf.to_string(), hook.id.to_string(), String::from(hook.way.as_str()), hook.parameters.clone())
}

/// The setting of a row that is none of a VF or an mdev; `None` when it is not as it was written.
pub(super) fn setting(row: &SettingRow) -> Option<Setting> {
    let value = |(of, key, value): (&String, &String, &String)| {
        Some(DsaValue { of: of.parse().ok()?, key: key.parse().ok()?, value: value.clone() })
    };
    Some(match row {
        SettingRow::Hook(vf, id, way, parameters) => {
            let Target::Vf { pf, index } = vf.parse().ok()? else { return None };
            let parameters = parameters.clone();
            Setting::Hook(Hook { pf, index, id: id.parse().ok()?, way: way.parse().ok()?, parameters })
        }
        SettingRow::MdevAttribute(name, value) => {
            Setting::MdevAttribute(MdevAttribute { name: name.parse().ok()?, value: value.clone() })
        }
        SettingRow::Vgpu(id) => Setting::Vgpu(*id),
        SettingRow::Dsa(of, key, text) => Setting::Dsa(value((of, key, text))?),
        SettingRow::DsaDriver(None) => Setting::DsaDriver(None),
        SettingRow::DsaDriver(Some((driver, config))) => {
            let config: Option<Vec<DsaValue>> = config.iter().map(|(of, key, text)| value((of, key, text))).collect();
            Setting::DsaDriver(Some(DsaBound { driver: driver.parse().ok()?, config: config? }))
        }
        SettingRow::Eswitch(mode) => Setting::Eswitch(mode.parse().ok()?),
        SettingRow::Port(function, to) => {
            let (pf, behind) = match function.parse().ok()? {
                Target::Vf { pf, index } => (pf, Behind::Vf(index)),
                Target::Sf { pf, sfnum } => (pf, Behind::Sf(sfnum)),
                _ => return None,
            };
            Setting::Port { pf, behind, to: to.parse().ok()? }
        }
        SettingRow::Sf(None) => Setting::Sf(None),
        SettingRow::Sf(Some((pfnum, kept, state))) => {
            Setting::Sf(Some(SfOf { pfnum: *pfnum, kept: kept.clone(), state: state.parse().ok()? }))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HookWay;
    use crate::model::devlink::{EswitchMode, PortState};
    use crate::model::dsa::DsaKey;
    use crate::model::vf::Switch;

    #[test]
    fn what_is_written_down_is_read_back() {
        let of = |name: &str, key, value: &str| DsaValue { of: name.parse().unwrap(), key, value: value.into() };
        let pf = "0000:3b:00.0".parse().unwrap();
        let bound = DsaBound { driver: "user".parse().unwrap(), config: vec![of("wq0.1", DsaKey::Name, "a b")] };
        let kept =
            ["hw_addr 02:00:00:00:00:01", "roce disable", "max_io_eqs 4"].map(|text| text.parse().unwrap()).into();
        for setting in [
            Setting::Hook(Hook {
                pf,
                index: 2,
                id: "15b3:101e".parse().unwrap(),
                way: HookWay::Undo,
                parameters: String::from("vlan=7 trust=on"),
            }),
            Setting::MdevAttribute(MdevAttribute::new("nvidia/vgpu_params", "a=1, b=2").unwrap()),
            Setting::MdevAttribute(MdevAttribute { name: "nvidia/vgpu_params".parse().unwrap(), value: String::new() }),
            Setting::Vgpu(1153),
            Setting::Dsa(of("engine0.1", DsaKey::GroupId, "-1")),
            Setting::DsaDriver(Some(bound)),
            Setting::DsaDriver(None),
            Setting::Eswitch(EswitchMode::Switchdev),
            Setting::Port { pf, behind: Behind::Vf(2), to: PortSetting::Migratable(Switch::On) },
            Setting::Port { pf, behind: Behind::Sf(88), to: PortSetting::State(PortState::Active) },
            Setting::Sf(None),
            Setting::Sf(Some(SfOf { pfnum: 1, kept: Vec::new(), state: PortState::Inactive })),
            Setting::Sf(Some(SfOf { pfnum: 1, kept, state: PortState::Active })),
        ] {
            let text = serde_json::to_string(&SettingRow::from(&setting)).unwrap();
            let read: SettingRow = serde_json::from_str(&text).unwrap();
            assert_eq!(read.setting(), Some(setting), "{text}");
        }
    }
}
