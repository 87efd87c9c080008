//! How a VM's life ended.

use crate::devices::GuestFault;

/// Why a VM stopped running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched itself off.
    PowerOff,
    /// The guest rebooted.
    Reboot,
    /// The guest's kernel panicked.
    Panic,
    /// Three faults nested in the guest: on a PC the processor would reset.
    TripleFault,
    /// The guest halted with interrupts off: nothing can ever wake it.
    DeadHalt,
    /// The guest broke a device's rules.
    DeviceFault(GuestFault),
    /// The guest touched memory where there is none.
    WildMmio {
        /// Guest physical address.
        address: u64,
        /// True for a write.
        is_write: bool,
    },
    /// KVM could not go on, here or at the other site.
    Refused(String),
    /// The operator stopped it.
    Stopped,
    /// It stands still at a counted exit, all that belongs there handled, and can go on.
    Held,
}

impl Outcome {
    /// A short name for reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PowerOff => "power_off",
            Self::Reboot => "reboot",
            Self::Panic => "panic",
            Self::TripleFault => "triple_fault",
            Self::DeadHalt => "dead_halt",
            Self::DeviceFault(_) => "device_fault",
            Self::WildMmio { .. } => "wild_mmio",
            Self::Refused(_) => "refused",
            Self::Stopped => "stopped",
            Self::Held => "held",
        }
    }

    /// Of the other copy of the machine, which has ended so: its name.
    #[must_use]
    pub fn of_the_other(name: &str) -> Self {
        if name == Self::PowerOff.name() {
            Self::PowerOff
        } else {
            Self::Refused(format!("at the other site: {name}"))
        }
    }

    /// What happened, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::PowerOff => "the guest powered off".into(),
            Self::Reboot => "the guest rebooted; `run` does not start it again".into(),
            Self::Panic => "the guest's kernel panicked; the console shows why".into(),
            Self::TripleFault => "the guest took a triple fault".into(),
            Self::DeadHalt => "the guest halted with interrupts off, nothing can wake it".into(),
            Self::DeviceFault(fault) => fault.to_string(),
            Self::WildMmio { address, is_write } => {
                let verb = if *is_write { "wrote" } else { "read" };
                format!(
                    "the guest {verb} guest physical address {address:#x}, where there is neither RAM nor a device"
                )
            }
            Self::Refused(reason) => reason.clone(),
            Self::Stopped => "stopped by the operator; the guest was not asked".into(),
            Self::Held => "held at the position that was asked for".into(),
        }
    }
}
