//! What follows from the findings: a pure table, so that it can be read and tested.

use super::KvmFindings;

/// Below this, ring-0 code is emulated instruction by instruction and Linux would take minutes to boot.
const KERNEL_INSTRUCTIONS_PER_SECOND_MIN: u64 = 20_000_000;

/// Whether this host's KVM can run a protected Linux guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What stands against it, each with what to do; empty if nothing does.
    pub obstacles: Vec<String>,
    /// The clock that names positions between two exits: `step` if stepping is exact, else `exits`.
    pub instruction_clock: &'static str,
}

impl Verdict {
    /// Whether Linux guests can run here.
    #[must_use]
    pub fn can_run_linux(&self) -> bool {
        self.obstacles.is_empty()
    }
}

/// Judges the findings.
#[must_use]
pub fn judge(kvm: &KvmFindings) -> Verdict {
    let mut obstacles = Vec::new();
    if !kvm.missing_features.is_empty() {
        obstacles.push(format!(
            "the processor or KVM lacks {}: use a host that offers x86-64-v2 with AES to guests",
            kvm.missing_features.join(", ")
        ));
    }
    if kvm.kernel_instructions_per_second < KERNEL_INSTRUCTIONS_PER_SECOND_MIN {
        obstacles.push(format!(
            "kernel code runs at {} instructions/s, at least {KERNEL_INSTRUCTIONS_PER_SECOND_MIN} are needed: this is a \
             software KVM; use a host with VT-x or AMD-V",
            kvm.kernel_instructions_per_second
        ));
    }
    let needed = [
        ("LOCK CMPXCHG16B in kernel mode", &kvm.cmpxchg16b),
        ("MSR filtering", &kvm.msr_filter),
        ("interrupt windows", &kvm.interrupt_window),
    ];
    for (what, finding) in needed {
        if let super::Finding::Fails(how) = finding {
            obstacles.push(format!(
                "{what} does not work ({how}): use another host or a newer kernel"
            ));
        }
    }
    let instruction_clock = if kvm.single_step.works() { "step" } else { "exits" };
    Verdict {
        obstacles,
        instruction_clock,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Finding;
    use super::*;

    fn good() -> KvmFindings {
        KvmFindings {
            missing_features: vec![],
            kernel_instructions_per_second: 700_000_000,
            port_exits_per_second: 500_000,
            cmpxchg16b: Finding::Works,
            msr_filter: Finding::Works,
            interrupt_window: Finding::Works,
            single_step: Finding::Works,
            hardware_breakpoint: Finding::Fails("it did not fire".into()),
            software_breakpoint: Finding::Works,
            dirty_log: Finding::Works,
        }
    }

    #[test]
    fn a_host_without_hardware_breakpoints_is_fit() {
        let verdict = judge(&good());
        assert!(verdict.can_run_linux());
        assert_eq!(verdict.instruction_clock, "step");
    }

    #[test]
    fn every_obstacle_is_named() {
        let findings = KvmFindings {
            missing_features: vec!["SYSCALL", "NX"],
            kernel_instructions_per_second: 2_000_000,
            cmpxchg16b: Finding::Fails("emulation failed".into()),
            single_step: Finding::Fails("early".into()),
            ..good()
        };
        let verdict = judge(&findings);
        assert_eq!(verdict.obstacles.len(), 3, "{:?}", verdict.obstacles);
        assert!(verdict.obstacles[0].contains("SYSCALL, NX"));
        assert_eq!(verdict.instruction_clock, "exits");
    }
}
