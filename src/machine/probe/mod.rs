//! What this host can do for Antipode: measured, not believed (E7).
//!
//! KVM is judged by running real guests of a few instructions: a list of capabilities would call a software KVM fit,
//! on which no Debian kernel boots. Each probe answers with a [`Finding`]; what follows from them is one [`Verdict`].

mod host;
mod kvm_probes;
mod likeness;
mod tiny_guest;
mod verdict;

pub use host::{DiskProbe, probe_disk, probe_pmu};
pub use kvm_probes::{KvmFindings, probe_cmpxchg16b, probe_exit_cost, probe_kvm};
pub use likeness::{Difference, HostKind, TRAITS};
pub use tiny_guest::{CODE, DATA, TinyGuest, TinyGuestError, tiny_program};
pub use verdict::{Verdict, judge};

/// The answer of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It works.
    Works,
    /// It does not, and how that showed.
    Fails(String),
}

impl Finding {
    /// Whether it works.
    #[must_use]
    pub const fn works(&self) -> bool {
        matches!(self, Self::Works)
    }

    fn from_result<E: std::fmt::Display>(result: Result<Self, E>) -> Self {
        result.unwrap_or_else(|error| Self::Fails(error.to_string()))
    }
}
