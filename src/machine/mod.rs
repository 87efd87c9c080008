//! The deterministic machine: a VM's configuration, the guest kernel, KVM, the CPU's tables, and the run loop.
//!
//! ```text
//!   config ─▶ launch ─▶ vm ─▶ kvm            boot    kernel editing and placement
//!                       │                    cpu     CPUID and MSR tables
//!                       ├─▶ user_tsc         entry   the vCPU at the kernel's first instruction
//!                       ├─▶ devices::board   paging  walking the guest's page tables
//!                       └─▶ workers          probe   what this host can do
//! ```

pub mod boot;
pub mod config;
pub mod cpu;
mod entry;
#[cfg(test)]
mod hostile_tests;
pub mod kvm;
pub mod launch;
mod outcome;
mod paging;
pub mod probe;
pub mod started;
mod user_tsc;
mod vm;
pub mod workers;

pub use outcome::Outcome;
pub use user_tsc::UserTscError;
pub use vm::{
    Arrival, Capture, CodeAround, CopiedPage, Differing, EpochDigests, ExitTrace, Filling, HeldOutput, Kick,
    Live, NoCapture, Output, OutputKeeper, RamCopy, RamDigest, RamSums, Release, Rest, RestoreError,
    Resumption, RunError, Standing, Timeline, TimelineError, Totals, Touched, Turn, WHOLE_VCPU,
};
