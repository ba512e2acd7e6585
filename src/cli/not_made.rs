//! Why a `create` or `destroy` did not come to what was asked.

use super::hooks;
use super::made::{self, Does, Made};
use super::report::{Exit, Trouble};
use crate::engine::{LaneResult, Pending, StepError};
use crate::host::{HostError, HostPath, Verb};
use crate::model::{Errno, Target, counted};
use crate::step::{Setting, Step};

/// Why it did not come to what was asked, first the cause: the lanes that failed by themselves.
pub(super) fn troubles(made: &Made<'_>, exit: Exit) -> Vec<Trouble> {
    let lanes = &made.report.lanes;
    let undone = format!("{} undone", counted(lanes.iter().map(|lane| lane.undone).sum::<usize>(), "step"));
    let remains: Vec<&str> = lanes.iter().flat_map(|lane| &lane.remains).map(String::as_str).collect();
    let state = match exit {
        Exit::Changed if remains.is_empty() => format!("not as it was; {undone}"),
        Exit::Changed => format!("not as it was; could not be undone: {}", remains.join("; ")),
        _ => format!("as it was; {undone}"),
    };
    let mut found = Vec::new();
    if made.report.interrupts > 0 {
        let trouble = Trouble::new(exit, "interrupted", "stopped because it was asked to").state(&state);
        found.push(trouble.remedy(match exit {
            Exit::Changed => "vfioadm undo takes back what remains",
            _ => "ask for it again when it suits",
        }));
    }
    for lane in lanes {
        match &lane.error {
            None | Some(StepError::TakenBack(_) | StepError::NotTried(_) | StepError::Interrupted) => {}
            Some(error) => found.push(trouble(made, lane, error, exit).state(&state)),
        }
    }
    if found.is_empty() {
        let (id, was_not) = made.does.not();
        found.push(Trouble::new(exit, id, format!("it {was_not}")).state(&state));
    }
    found
}

/// Of a write that was left behind at its deadline: its id, what it says of the device, and the remedy.
pub(super) fn left_behind(device: Target, pending: Pending) -> (&'static str, String, String) {
    match pending {
        Pending::Bind => (
            "half-bound",
            format!("{device} was not bound in time"),
            format!(
                "the driver is still at it: dmesg | grep {device}; when it has answered, vfioadm undo puts the device back"
            ),
        ),
        _ => (
            "half-unbound",
            format!("{device} was not done with in time"),
            String::from(
                "end the VM or program that has it open; the driver then lets go by itself, and vfioadm undo puts it back",
            ),
        ),
    }
}

/// Why one lane did not come to what was asked of it.
fn trouble(made: &Made<'_>, lane: &LaneResult, error: &StepError, exit: Exit) -> Trouble {
    let device = lane.device;
    if let Some((id, message, remedy)) = made::trouble_beside(made, lane, error) {
        return Trouble::new(exit, id, message).step(error).remedy(remedy);
    }
    if let Some((id, message, remedy)) = hooks::failed(device, error) {
        return Trouble::new(exit, id, message).step(error).remedy(remedy);
    }
    let refused = lane.tried.iter().rfind(|tried| tried.error.is_some());
    let (not_done, was_not) = made.does.not();
    let (id, message, remedy) = match (error, set_at(made, device, error)) {
        (StepError::Open(bdf), _) => (
            "device-open",
            format!("{bdf} is open, and taking it away would wait for whoever has it open"),
            format!("see who: vfioadm show {bdf}; end the VM or program, and ask again"),
        ),
        (StepError::Stuck(_, pending), _) => left_behind(device, *pending),
        (StepError::NotRecorded(_), _) => (
            "no-journal",
            format!("{device} {was_not}, for nothing is done that cannot be written down first"),
            String::from("make room for the journal"),
        ),
        (StepError::NotSettled { shown, .. }, Some(Setting::Vfs(0))) => (
            "vfs-left",
            format!("{device} still has {shown}"),
            format!("the driver's own reason is in the kernel log: dmesg | grep {device}"),
        ),
        (StepError::NotSettled { shown, wanted, .. }, Some(Setting::Vfs(_))) => (
            "fewer-vfs",
            format!("{device} made {shown} where {wanted} were asked for"),
            format!("ask for fewer; the driver's own reason is in the kernel log: dmesg | grep {device}"),
        ),
        (StepError::Host(HostError { verb: Verb::Request(_), errno, .. }), _) => (
            "parameter-refused",
            parameter_refused(device, error),
            match made.does {
                Does::Create if *errno == Errno::EOPNOTSUPP => {
                    String::from("leave it out of --set, or have what cannot be set skipped: --best-effort")
                }
                Does::Create => String::from("leave it out of --set, or correct its value"),
                Does::Apply => String::from("leave it out of set in the host file, or correct its value"),
                Does::Destroy => format!("see what it has: vfioadm show {device}"),
            },
        ),
        (StepError::Host(HostError { errno, .. }), Some(Setting::Vfs(count))) => {
            let (id, did) = if *count > 0 { ("not-made", "made no VFs") } else { ("vfs-left", "keeps its VFs") };
            (id, format!("{device} {did}: {}", numvfs_words(*errno)), format!("see vfioadm show {device}"))
        }
        (StepError::Host(HostError { errno, .. }), Some(Setting::Mdev(Some(_)))) => (
            if matches!(*errno, Errno::EUSERS | Errno::ENOSPC) { "none-left" } else { "not-made" },
            format!("mdev {device} was not made: {}", mdev_words(*errno)),
            String::from("see what can be made: vfioadm types"),
        ),
        (StepError::Host(HostError { errno, .. }), Some(Setting::Mdev(None))) => (
            "not-destroyed",
            format!("mdev {device} was not destroyed: {}", removal_words(*errno)),
            format!("see vfioadm show {device}, and ask again"),
        ),
        (StepError::Host(HostError { errno, .. }), Some(Setting::MdevAttribute(of))) => (
            "parameter-refused",
            format!("mdev {device} does not take {of}: {}", attribute_words(*errno)),
            String::from("leave it out of attributes, or correct its value"),
        ),
        (StepError::NotSettled { shown, .. }, Some(Setting::MdevAttribute(of))) => (
            "parameter-refused",
            format!("mdev {device} has {shown} where {of} was accepted"),
            String::from("give it in attributes as it reads"),
        ),
        (StepError::Host(HostError { errno, .. }), Some(Setting::Pool(_))) => (
            "no-pool",
            format!("which VFs of {device} are given could not be written down: {errno}"),
            String::from("make sure that /run/vfioadm/pool can be written"),
        ),
        (StepError::Host(HostError { errno, .. }), Some(setting @ Setting::MsixCount(_))) => (
            "parameter-refused",
            format!("{device} does not take {setting}: {}", msix_words(*errno)),
            String::from("leave msix out"),
        ),
        (StepError::Host(HostError { errno, .. }), Some(setting)) => {
            (not_done, format!("{device} was not set to {setting}: {errno}"), format!("see vfioadm show {device}"))
        }
        _ if refused.is_some() => (
            "driver-refused",
            format!("{device} did not bind to {}", refused.map_or("", |tried| tried.driver.as_str())),
            format!("the driver's own reason is in the kernel log: dmesg | grep {}", place_words(made, device)),
        ),
        _ => (not_done, format!("{device} {was_not}"), String::from("see vfioadm log")),
    };
    Trouble::new(exit, id, message).step(error).remedy(remedy)
}

/// The setting that a lane met its error at, which its report does not have: told by the file, or by what was waited for.
fn set_at<'a>(made: &Made<'a>, device: Target, error: &StepError) -> Option<&'a Setting> {
    let is_at = |to: &Setting| match error {
        StepError::NotSettled { wanted, .. } => to.to_string() == *wanted,
        StepError::Host(HostError { path, value, .. }) => match (path.rest().rsplit('/').next(), to) {
            (Some("sriov_numvfs"), Setting::Vfs(count)) => value.as_ref().is_none_or(|of| *of == count.to_string()),
            (Some("sriov_drivers_autoprobe"), Setting::Autoprobe(_))
            | (Some("sriov_vf_msix_count"), Setting::MsixCount(_))
            | (Some("create"), Setting::Mdev(Some(_)))
            | (Some("remove"), Setting::Mdev(None)) => true,
            (_, Setting::MdevAttribute(of)) => {
                let mine = |uuid| *path == HostPath::mdev_attribute(uuid, &of.name);
                matches!(device, Target::Mdev(uuid) if mine(uuid)) && value.as_ref() == Some(&of.value)
            }
            (_, Setting::Pool(_)) => matches!(device, Target::Pci(pf) if *path == HostPath::pool(pf)),
            _ => false,
        },
        _ => false,
    };
    let mut settings = made.wanted.steps().filter_map(|step| match step {
        Step::Set { device: of, to } if *of == device => Some(to),
        _ => None,
    });
    settings.find(|to| is_at(to))
}

/// How a kernel log names it.
fn place_words(made: &Made<'_>, device: Target) -> String {
    let is_made = made.wanted.steps().any(|step| matches!(step, Step::Set { to: Setting::Vfs(1..), .. }));
    match device {
        Target::Vf { pf, .. } if is_made => pf.to_string(),
        _ => made.inventory.place(device).map_or_else(|| device.to_string(), |bdf| bdf.to_string()),
    }
}

/// Whether a parameter of a VF was refused.
pub(super) const fn is_of_a_parameter(error: &StepError) -> bool {
    matches!(error, StepError::Host(HostError { verb: Verb::Request(_), .. }))
}

/// Which, and why.
pub(super) fn parameter_refused(device: Target, error: &StepError) -> String {
    let value = match error {
        StepError::Host(HostError { value: Some(value), .. }) => value,
        _ => "what was set",
    };
    format!("{device} does not take {value}: {}", parameter_words(error.errno()))
}

/// # Kernel
/// `net/core/rtnetlink.c` `do_setvfinfo()`: `EOPNOTSUPP` without the driver's operation (7.2).
fn parameter_words(errno: Errno) -> String {
    match errno {
        Errno::EOPNOTSUPP => String::from("the PF's driver cannot set it"),
        Errno::EINVAL => String::from("the PF's driver takes no such value, or not now"),
        other => other.to_string(),
    }
}

/// # Kernel
/// `drivers/pci/iov.c` `sriov_vf_msix_count_store()` (7.2); 5.13 has it first.
fn msix_words(errno: Errno) -> String {
    match errno {
        Errno::EOPNOTSUPP => String::from("the PF's driver cannot set it"),
        Errno::ENOENT => String::from("this kernel has no sriov_vf_msix_count"),
        Errno::EBUSY => String::from("it has a driver"),
        other => other.to_string(),
    }
}

/// # Kernel
/// `drivers/pci/iov.c` `sriov_numvfs_store()`, `sriov_enable()` (7.2).
fn numvfs_words(errno: Errno) -> String {
    match errno {
        Errno::ENOENT => String::from("its driver makes none"),
        Errno::ERANGE => String::from("more than its sriov_totalvfs"),
        Errno::EBUSY => String::from("it has another number of them already"),
        Errno::ENOMEM => String::from("no memory window or bus number is left for them"),
        other => other.to_string(),
    }
}

/// # Kernel
/// `drivers/vfio/mdev/mdev_core.c` `mdev_device_remove()` (7.2).
fn removal_words(errno: Errno) -> String {
    match errno {
        Errno::EAGAIN => String::from("somebody else is removing it, or its parent is going away"),
        Errno::ENODEV => String::from("it has gone by itself"),
        other => other.to_string(),
    }
}

/// # Kernel
/// `fs/kernfs/file.c` `kernfs_fop_open()`; `drivers/s390/crypto/vfio_ap_ops.c` `assign_adapter_store()` (7.2).
fn attribute_words(errno: Errno) -> String {
    match errno {
        Errno::ENOENT => String::from("it has no such attribute"),
        Errno::EACCES => String::from("its driver lets nobody write it"),
        Errno::EINVAL => String::from("its driver takes no such value"),
        Errno::ENODEV => String::from("the host has no such thing to give it"),
        Errno::EADDRINUSE => String::from("another mdev has it"),
        Errno::EADDRNOTAVAIL => String::from("it is reserved for the host's drivers"),
        other => other.to_string(),
    }
}

/// # Kernel
/// `drivers/vfio/mdev/mdev_core.c` `mdev_device_create()` (7.2).
fn mdev_words(errno: Errno) -> String {
    match errno {
        Errno::EUSERS | Errno::ENOSPC => String::from("none of its type is left"),
        Errno::EEXIST => String::from("there is one of this UUID already"),
        Errno::EINVAL => String::from("its parent's driver does not take it"),
        Errno::ENODEV => String::from("its parent is going away"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Report;
    use crate::model::vf::Switch;
    use crate::model::{Inventory, Target};
    use crate::step::{Lane, MdevOf, Otherwise, Plan, Pool};

    const PF: &str = "0000:81:00.0";
    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    /// What is said of a lane of `target` that has `settings` and met `error`.
    fn said(does: Does, target: &str, settings: &[Setting], error: StepError) -> String {
        let device: Target = target.parse().unwrap();
        let mut lane = Lane::new(device, Otherwise::LeaveWithout);
        lane.finish = settings.iter().cloned().map(|to| Step::Set { device, to }).collect();
        let wanted = Plan { lanes: vec![lane] };
        let report = Report { lanes: Vec::new(), interrupts: 0, stopped: false, unrecorded: None };
        let inventory = Inventory::default();
        let made = Made { does, inventory: &inventory, wanted: &wanted, report: &report };
        let lane = LaneResult::new(device, 0);
        let trouble = trouble(&made, &lane, &error, Exit::Failed);
        format!("{}: {}", trouble.id, trouble.message)
    }

    fn refused(path: HostPath, value: Option<&str>, errno: Errno) -> StepError {
        let mut error = HostError::new(Verb::Write, path, errno);
        error.value = value.map(str::to_owned);
        error.into()
    }

    #[test]
    fn a_pf_that_refuses_is_told_by_what_it_refused() {
        let pf = HostPath::pci(PF.parse().unwrap());
        let pool = Pool { vfs: 3, ours: true, autoprobe: true, given: [0].into(), ..Pool::default() };
        let make = [Setting::Vfs(0), Setting::Autoprobe(Switch::Off), Setting::Vfs(3), Setting::Pool(Some(pool))];
        let unmake = [Setting::Vfs(0), Setting::Autoprobe(Switch::On), Setting::Pool(None)];
        let numvfs = || pf.attr("sriov_numvfs");
        let keep = || HostPath::pool(PF.parse().unwrap());
        let not_settled = |wanted: &str, shown: &str| StepError::NotSettled {
            path: pf.clone(),
            wanted: wanted.into(),
            shown: shown.into(),
            waited: std::time::Duration::ZERO,
        };
        for (does, settings, error, words) in [
            (
                Does::Create,
                &make[..],
                refused(numvfs(), Some("3"), Errno::ENOMEM),
                "not-made: 0000:81:00.0 made no VFs: no memory window or bus number is left for them",
            ),
            (
                Does::Create,
                &make,
                refused(numvfs(), Some("0"), Errno::EPERM),
                "vfs-left: 0000:81:00.0 keeps its VFs: EPERM (Operation not permitted)",
            ),
            (
                Does::Destroy,
                &unmake,
                refused(numvfs(), Some("0"), Errno::EPERM),
                "vfs-left: 0000:81:00.0 keeps its VFs: EPERM (Operation not permitted)",
            ),
            (
                Does::Create,
                &make,
                not_settled("3 VFs", "2 VFs"),
                "fewer-vfs: 0000:81:00.0 made 2 VFs where 3 VFs were asked for",
            ),
            (Does::Destroy, &unmake, not_settled("0 VFs", "3 VFs"), "vfs-left: 0000:81:00.0 still has 3 VFs"),
            (
                Does::Destroy,
                &unmake,
                refused(pf.attr("sriov_drivers_autoprobe"), Some("1"), Errno::EIO),
                "not-destroyed: 0000:81:00.0 was not set to autoprobe on: EIO (Input/output error)",
            ),
            (
                Does::Destroy,
                &unmake,
                refused(keep(), None, Errno::EROFS),
                "no-pool: which VFs of 0000:81:00.0 are given could not be written down: EROFS (Read-only file system)",
            ),
        ] {
            assert_eq!(said(does, PF, settings, error), words);
        }
    }

    #[test]
    fn an_mdev_that_was_not_destroyed_is_not_one_that_was_not_made() {
        let path = HostPath::mdev(UUID.parse().unwrap()).attr("remove");
        let of = MdevOf { parent: "mtty".parse().unwrap(), kind: "mtty-2".parse().unwrap() };
        let create = HostPath::mdev_create(&of.parent, &of.kind);
        for (does, to, error, words) in [
            (
                Does::Destroy,
                Setting::Mdev(None),
                refused(path.clone(), Some("1"), Errno::EAGAIN),
                "not-destroyed: mdev 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 was not destroyed: somebody else is removing it, or its parent is going away",
            ),
            (
                Does::Create,
                Setting::Mdev(Some(of)),
                refused(create, Some(UUID), Errno::EUSERS),
                "none-left: mdev 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 was not made: none of its type is left",
            ),
            (
                Does::Destroy,
                Setting::Mdev(None),
                StepError::NotRecorded(Errno::ENOSPC),
                "no-journal: 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 was not destroyed, for nothing is done that cannot be written down first",
            ),
        ] {
            assert_eq!(said(does, UUID, &[to], error), words);
        }
    }

    #[test]
    fn what_a_write_was_left_at_has_its_own_id() {
        let device = Target::from("0000:3b:00.2".parse::<crate::model::Bdf>().unwrap());
        let ids = [Pending::Bind, Pending::Unbind].map(|pending| left_behind(device, pending).0);
        assert_eq!(ids, ["half-bound", "half-unbound"]);
    }
}
