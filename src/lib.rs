//! Antipode keeps one virtual machine alive across two datacenters.
//!
//! Modules build on each other in one direction, from the ground up: `base` → `devices` → `machine` → `replay` →
//! `channel`, `transfer` → `protocol` → `site` → `cli` (`docs/architecture.md`; `tests/tidy.rs` enforces it).

pub mod base;
pub mod channel;
pub mod cli;
pub mod devices;
pub mod machine;
pub mod protocol;
pub mod replay;
pub mod site;
pub mod transfer;
