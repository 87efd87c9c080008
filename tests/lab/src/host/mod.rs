//! Emulated hosts: QEMU emulating an x86 machine with AMD-V, running Debian's unmodified cloud kernel.
//!
//! ```text
//!            HostSpec ── Host::boot ──▶ up ── power_cut ──▶ (gone; boot a fresh one on the same disks)
//!                                       │ ▲
//!                               freeze  ▼ │ thaw
//!                                      frozen
//! ```
//!
//! A host is one QEMU process. Its system is an initramfs made for it: busybox, the kernel modules it needs, the
//! lab's agent, a small init, and whatever files the caller gives (the `antipode` binary, guests). Nothing in it
//! survives the process except its disks, which are files of the caller. The agent greets the lab when init has
//! finished, so a host that has booted has its modules loaded, its addresses set and `/dev/kvm` (if asked for).
//!
//! - [`spec`]: what a host is made of.
//! - [`materials`]: kernel, busybox and the static binaries, fetched or built once.
//! - [`initramfs`]: the host's system.
//! - [`qemu`]: the command line. Pure.
//! - [`launcher`]: processes that die with the lab.
//! - [`run_directory`]: logs and sockets of one run.
//! - [`machine`]: the running host.
//! - [`check`], [`cli`]: commands that need one host only.
//!
//! A host that has run a VM under KVM may stall for minutes when it starts the next (the emulation's fault, cause
//! unknown): boot a fresh host for each VM where time matters.

mod build;
pub mod check;
pub mod cli;
mod clock;
pub mod error;
pub mod initramfs;
pub mod launcher;
pub mod machine;
pub mod materials;
pub mod qemu;
pub mod run_directory;
pub mod spec;

pub use error::{Error, Result};
pub use machine::Host;
pub use materials::{Materials, antipode_alone};
pub use run_directory::RunDirectory;
pub use spec::{Disk, DiskMode, HostFile, HostSpec, Nic, OUTSIDE_ADDRESS};
