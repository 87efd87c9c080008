//! The hypervisor seam: everything that touches `/dev/kvm`, and nothing else does (style: the seam is small).
//!
//! The VM has no in-kernel interrupt controller, timer or clock (E1). KVM runs the vCPU and comes back with an
//! [`Exit`]; interrupts are injected by us; MSRs that the table does not pass are denied and come back as exits.
//!
//! ```text
//!          ┌────────────── Vcpu::run ──────────────┐
//!   host ──┤ queue interrupt? ─▶ KVM_RUN ─▶ Exit   ├─▶ counted: position advances, devices act
//!          └──────────▲────────────────────────────┘   not counted: EINTR (a kick), host noise
//!                     └─ answers to reads, registers
//! ```

mod disturbance;
mod exit;
mod kick;
mod state;
mod vcpu;
mod visible;
mod vm;

pub use disturbance::Disturbance;
pub use exit::{Exit, ExitKind, PortAccess, PostedWrite, WritePlace};
pub use kick::{KickTimer, Kicker, VcpuWaker};
pub use state::{NoVcpuState, VcpuState};
pub use vcpu::Vcpu;
pub use vm::{KvmHost, KvmVm, MsrPassRange};

/// Why the host's KVM refused something.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` could not be opened.
    #[error("cannot open /dev/kvm: {0}")]
    Open(#[source] std::io::Error),
    /// An ioctl failed.
    #[error("KVM refused {call}: {source}")]
    Ioctl {
        /// The call by its name in the KVM API documentation.
        call: &'static str,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
    /// The host's KVM lacks a capability.
    #[error("this host's KVM lacks {capability}, which Antipode needs {purpose}")]
    Lacking {
        /// The capability by its name in the KVM API documentation.
        capability: &'static str,
        /// What for, starting with "to" or "for".
        purpose: &'static str,
    },
}

impl KvmError {
    fn ioctl(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Ioctl {
            call,
            source: std::io::Error::from_raw_os_error(error.errno()),
        }
    }
}
