//! Antipode against `qemu-system-x86_64 -accel kvm`, side by side: same host, kernel, initrd, command-line words, RAM,
//! disk, TAP, one vCPU each, alternating rounds in one run, medians.
//!
//! ```text
//!  each round, for either machine:
//!
//!  fresh host ─▶ start ─▶ ready line ─ 3 s ─▶ 10 s idle ─▶ loads, one after another ─▶ stop
//!                  └── boot ──┘                 CPU,           disk ×6, TCP ×2
//!                                             memory
//! ```
//!
//! What is measured, and why so:
//! - **A fresh host per machine**: an emulated host that has run a VM may stall for minutes when it starts the next.
//! - **Boot** is from starting the process to the guest's ready line, by this machine's clock. Both programs have been
//!   read once before, so neither pays for the host's cold disk.
//! - **Idle CPU** is what the kernel says all threads of the process ran, guest included.
//! - **The disk** is a file in the host's memory, and the requests pass the guest's page cache: what differs is the
//!   device. They go to a part of the disk behind the guest's file system.
//! - **TCP** runs between the guest and its own host over the TAP alone: no switch, no bridge, no cable is measured.
//! - KVM's own counters are taken around each load, so that a slow one can be explained in exits per request.
//!
//! The figure for a bound with several loads behind it is the worst of their ratios.
//!
//! - [`cli`]: the rounds. - `trial`: one machine in one host. - `contestant`: both command lines.
//! - `guest`: what they boot. - `emulator`: QEMU for a host. - `probe`: the kernel's counters. - `summary`: ratios.
//! - `disk`, `ft`, `rebuild`, `replay`, `tiebreaker`: other benches. - `figures`: what they tell.

pub mod cli;
mod contestant;
mod disk;
mod emulator;
mod figures;
pub(crate) mod ft;
mod guest;
mod probe;
mod rebuild;
mod replay;
mod summary;
mod tiebreaker;
mod trial;
