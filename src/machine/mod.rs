//! The deterministic KVM machine: kvm, memory, cpuid, boot, run loop.

pub mod boot;
pub mod config;
