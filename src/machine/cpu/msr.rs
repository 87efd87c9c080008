//! The MSRs of the table `deterministic`: default deny (E3).
//!
//! [`PASSED_RANGES`] go to KVM, which keeps them as plain guest state. Every other access becomes a counted exit and
//! is answered here: a listed constant, virtual time, or `#GP`. Linux reads unlisted MSRs with a fault handler in
//! place, so that `#GP` is the honest answer for hardware that is not there.

use super::TSC_HERTZ;
use crate::base::units::VirtualTime;
use crate::machine::kvm::MsrPassRange;

/// MSRs that are pure guest state inside KVM: SYSENTER_CS/ESP/EIP, PAT, EFER, STAR to SFMASK, FS/GS/KERNEL_GS base.
pub const PASSED_RANGES: &[MsrPassRange] = &[
    MsrPassRange {
        base: 0x174,
        count: 3,
    },
    MsrPassRange {
        base: 0x277,
        count: 1,
    },
    MsrPassRange {
        base: 0xC000_0080,
        count: 5,
    },
    MsrPassRange {
        base: 0xC000_0100,
        count: 3,
    },
];

const TIME_STAMP_COUNTER: u32 = 0x10;
const MICROCODE_PATCH_LEVEL: u32 = 0x8B;
const HARDWARE_CONFIGURATION: u32 = 0xC001_0015;
const DECODE_CONFIGURATION: u32 = 0xC001_1029;

/// LFENCE is dispatch serialising, as AMD recommends and Linux would otherwise try to set.
const LFENCE_SERIALISING: u64 = 1 << 1;

/// What the guest gets for an MSR access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrAnswer {
    /// A read: this value. A write: accepted and without effect.
    Value(u64),
    /// `#GP(0)`.
    Fault,
}

/// The answer to a read of `index` at virtual time `now`.
#[must_use]
pub fn answer_read(index: u32, now: VirtualTime) -> MsrAnswer {
    match index {
        TIME_STAMP_COUNTER => MsrAnswer::Value(now.ticks_at(TSC_HERTZ)),
        MICROCODE_PATCH_LEVEL | HARDWARE_CONFIGURATION => MsrAnswer::Value(0),
        DECODE_CONFIGURATION => MsrAnswer::Value(LFENCE_SERIALISING),
        _ => MsrAnswer::Fault,
    }
}

/// The answer to a write of `value` to `index`: only writing back what a read gives is accepted.
#[must_use]
pub fn answer_write(index: u32, value: u64, now: VirtualTime) -> MsrAnswer {
    match answer_read(index, now) {
        MsrAnswer::Value(constant) if index != TIME_STAMP_COUNTER && constant == value => {
            MsrAnswer::Value(value)
        }
        _ => MsrAnswer::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_table_does_not_list_faults() {
        for index in [
            0x1B,
            0x3A,
            0xE7,
            0xE8,
            0x6E0,
            0xC000_0103,
            0x4B56_4D00,
            0x4000_0000,
        ] {
            assert_eq!(
                answer_read(index, VirtualTime::ZERO),
                MsrAnswer::Fault,
                "{index:#x}"
            );
            assert_eq!(
                answer_write(index, 0, VirtualTime::ZERO),
                MsrAnswer::Fault,
                "{index:#x}"
            );
        }
    }

    #[test]
    fn the_time_stamp_counter_is_virtual_time_and_cannot_be_set() {
        let now = VirtualTime::from_nanos(77);
        assert_eq!(answer_read(TIME_STAMP_COUNTER, now), MsrAnswer::Value(77));
        assert_eq!(answer_write(TIME_STAMP_COUNTER, 77, now), MsrAnswer::Fault);
    }
}
