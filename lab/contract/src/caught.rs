//! Which case of `vfioadm qualify` catches which fault of the lab's variant: on the real kernel and on the fake.

/// What the device is qualified with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Another VF of its PF.
    Sibling,
    /// A device of another kind, on the same driver.
    Stranger,
}

/// A fault, and what it is caught by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    /// As the parameter `fault` names it; `lab/kmod/README.md` has what it means.
    pub fault: &'static str,
    /// The one case that fails.
    pub case: &'static str,
    /// The peer that it takes.
    pub peer: Peer,
}

const fn by(fault: &'static str, case: &'static str) -> Caught {
    Caught { fault, case, peer: Peer::Sibling }
}

/// Every fault.
pub const CAUGHT: [Caught; 21] = [
    by("wrong_state", "state-at-open"),
    by("forbidden_arc", "no-such-state"),
    by("second_fd", "same-state"),
    by("stop_copy_fails", "state-pairs"),
    by("stuck_error", "reset"),
    by("reset_keeps", "reset"),
    by("close_keeps", "close"),
    by("eof_missing", "stop-copy-ends"),
    by("eof_early", "stop-copy-ends"),
    by("precopy_eof", "precopy-dry"),
    by("precopy_info_grows", "precopy-info"),
    by("precopy_info_always", "precopy-info"),
    by("data_size_small", "data-size"),
    by("loses_tail", "reload"),
    by("fd_survives", "stream-dies"),
    by("seekable", "no-seek"),
    by("both_ways", "one-way"),
    by("accepts_truncated", "cut"),
    by("accepts_corrupt", "damaged"),
    by("load_loses", "resave"),
    Caught { fault: "accepts_foreign", case: "foreign", peer: Peer::Stranger },
];
