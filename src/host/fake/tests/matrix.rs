//! Attributes of mdevs.

use super::*;

const PARENT: &str = "/sys/devices/vfio_ap/matrix";
const ONE: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const OTHER: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";

#[test]
fn a_matrix_is_given_adapters_and_domains_that_no_other_has() {
    let host = FakeHost::from_text(include_bytes!("../../../../tests/hosts/demo.host")).unwrap();
    let kind = format!("{PARENT}/mdev_supported_types/vfio_ap-passthrough");
    host.edit(|tree| {
        tree.put(&format!("{kind}/available_instances"), "65536\n");
        tree.put(&format!("{kind}/create"), "");
        tree.put_link("/sys/class/mdev_bus/matrix", String::from("../../devices/vfio_ap/matrix"));
    });
    for uuid in [ONE, OTHER] {
        assert_eq!(write(&host, &format!("{kind}/create"), uuid), Ok(()));
    }
    let set = |uuid: &str, attribute: &str, value: &str| write(&host, &format!("{PARENT}/{uuid}/{attribute}"), value);
    let shown = |uuid: &str, attribute: &str| text(&host, &format!("{PARENT}/{uuid}/{attribute}")).unwrap();
    assert_eq!(set(ONE, "assign_adapter", "5"), Ok(()));
    assert_eq!(shown(ONE, "matrix"), "05.");
    assert_eq!(set(ONE, "assign_domain", "0x4"), Ok(()));
    assert_eq!(set(ONE, "assign_domain", "0253"), Ok(()));
    assert_eq!(shown(ONE, "matrix"), "05.0004\n05.00ab");
    assert_eq!(set(ONE, "assign_domain", "256"), Err(Errno::ENODEV));
    assert_eq!(set(ONE, "assign_domain", "four"), Err(Errno::EINVAL));
    assert_eq!(set(ONE, "matrix", "05.0004"), Err(Errno::EACCES));
    assert_eq!(host.read(&path(&format!("{PARENT}/{ONE}/assign_domain"))).unwrap_err().errno, Errno::EACCES);
    assert_eq!(set(OTHER, "assign_domain", "4"), Ok(()));
    assert_eq!(shown(OTHER, "matrix"), ".0004");
    assert_eq!(set(OTHER, "assign_adapter", "5"), Err(Errno::EADDRINUSE));
    assert_eq!(set(ONE, "unassign_domain", "4"), Ok(()));
    assert_eq!(set(OTHER, "assign_adapter", "5"), Ok(()));
    assert_eq!((shown(ONE, "matrix"), shown(OTHER, "matrix")), ("05.00ab".into(), "05.0004".into()));
    assert_eq!(set(ONE, "assign_control_domain", "4"), Ok(()));
    assert_eq!(shown(ONE, "control_domains"), "0004");
}
