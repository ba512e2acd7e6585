//! vfioadm turns host devices into VFIO devices and back, the same way for every vendor, explains every choice, proves
//! what it did, and never leaves a host in a state that it cannot name.
//!
//! The rooms, and who may use whom, are in ARCHITECTURE.md; `tests/rooms.rs` holds them to it.

#![forbid(unsafe_code)]

pub mod check;
pub mod cli;
pub mod discover;
pub mod engine;
pub mod host;
pub mod matching;
pub mod model;
pub mod plan;
pub mod prove;
pub mod step;
pub mod stream;
pub mod want;
