//! What vfioadm believes about the kernel, as cases that run on the fake kernel and on a real one.
//!
//! The fake is a model. Each reaction of it names the kernel function that it imitates, and a case here that holds it to
//! that function: `cargo test` runs the cases on the fake, the lab runs the same cases in its guest. A case that passes on
//! one and not on the other is a bug in the fake, or news about a kernel.
//!
//! A case gets a [`Ground`]: a machine of the lab's shape (or a fake made from a recording of one), with its devices by
//! role. It need not clean up. The guest puts the machine back after every case; a fake is thrown away.

#![forbid(unsafe_code)]

mod bind;
mod carried;
mod caught;
mod device;
mod ground;
mod held;
mod mdev;
mod migration;
mod names;
mod netlink;
mod overrides;
mod ownership;
mod sriov;
mod variant;

pub use caught::{CAUGHT, Caught, Peer};
pub use ground::{Ground, Role};

/// One belief.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What holds, in a few words; unique.
    pub name: &'static str,
    /// Where the kernel says so: file and function.
    pub rule: &'static str,
    /// Shows it.
    pub run: fn(&Ground<'_>) -> Result<(), String>,
}

/// Every belief.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [
        overrides::CASES,
        bind::CASES,
        sriov::CASES,
        netlink::CASES,
        names::CASES,
        ownership::CASES,
        held::CASES,
        device::CASES,
        mdev::CASES,
        migration::CASES,
    ]
    .into_iter()
    .flatten()
}

/// Every belief about the lab's own variant drivers: `lab/kmod`, which must be installed, or their twins on the fake.
pub fn variant_cases() -> impl Iterator<Item = &'static Case> {
    [variant::CASES, carried::CASES].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_said_once() {
        let names: Vec<_> = super::cases().chain(super::variant_cases()).map(|case| case.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }
}
