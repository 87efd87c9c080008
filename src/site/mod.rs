//! One site: its supervisor, and the processes that hold its VMs.
//!
//! ```text
//!   operator ──▶ control.sock ──▶ supervisor ──starts──▶ VM process ◀── control.sock ── operator
//!                                    ▲                        ║
//!                     other site's supervisor                 ╚═══ machine, log, heartbeats ═══ the other copy's process
//! ```

mod boot_files;
pub mod config;
pub mod control;
mod definition;
pub mod guest;
pub mod peer;
pub mod store;
pub mod supervisor;
