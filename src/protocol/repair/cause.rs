//! Why a copy became another machine, as far as that can be told (H2).
//!
//! What is known is where it showed: in what the guest did at an exit, or in what the two machines were where they were
//! compared. The instructions before the exit are looked at; one that leaks shows soon after it was executed, but what made
//! the exit may be far from it, in the kernel. Then the cause is unknown, and that is said.

use serde::{Deserialize, Serialize};

use crate::base::units::PAGE_SIZE;
use crate::machine::Differing;

/// The accessed bit of an entry of a page table.
const ACCESSED: u64 = 1 << 5;

/// Why: a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// RDTSC in user mode was not trapped.
    UserRdtsc,
    /// RDTSCP in user mode was not trapped.
    UserRdtscp,
    /// RDRAND, which nothing can trap here.
    Rdrand,
    /// RDSEED, which nothing can trap here.
    Rdseed,
    /// Page tables differ in nothing but accessed bits.
    AccessedBitOnly,
    /// RAM differs, and nothing else does.
    RamOnly,
    /// The vCPU's registers differ, and nothing else does.
    RegistersOnly,
    /// What was written to the disk differs, and nothing else does.
    DiskOnly,
    /// Devices differ, and nothing else does.
    DevicesOnly,
    /// Nothing tells.
    Unknown,
}

impl Cause {
    /// As it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserRdtsc => "user-rdtsc",
            Self::UserRdtscp => "user-rdtscp",
            Self::Rdrand => "rdrand",
            Self::Rdseed => "rdseed",
            Self::AccessedBitOnly => "accessed-bit-only",
            Self::RamOnly => "ram-only",
            Self::RegistersOnly => "registers-only",
            Self::DiskOnly => "disk-only",
            Self::DevicesOnly => "devices-only",
            Self::Unknown => "unknown",
        }
    }

    /// What `evidence` tells. An instruction that leaks explains what differs in state too; less than that is told by which
    /// state it is.
    #[must_use]
    pub fn found(evidence: &Evidence<'_>) -> Self {
        if evidence.only_accessed_bits {
            return Self::AccessedBitOnly;
        }
        let leak = leaking(evidence.code, evidence.is_user);
        leak.unwrap_or_else(|| evidence.state.map_or(Self::Unknown, by_state))
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of a difference.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The guest's instructions that end where it shows.
    pub code: &'a [u8],
    /// It shows in user mode.
    pub is_user: bool,
    /// In what the two machines differ; none where it shows in what the guest does.
    pub state: Option<&'a Differing>,
    /// The pages that differ do so in accessed bits alone.
    pub only_accessed_bits: bool,
}

impl Evidence<'_> {
    /// Whether two contents of a page differ in what may be accessed bits of a page table, and in nothing else.
    #[must_use]
    pub fn is_only_accessed_bits(one: &[u8; PAGE_SIZE], other: &[u8; PAGE_SIZE]) -> bool {
        let (one, _) = one.as_chunks();
        let (other, _) = other.as_chunks();
        let words = one.iter().zip(other);
        let differences: Vec<u64> = words
            .map(|(one, other)| u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other))
            .filter(|difference| *difference != 0)
            .collect();
        !differences.is_empty() && differences.iter().all(|difference| *difference == ACCESSED)
    }
}

/// The last instruction in `code` that leaks. Bytes in the middle of another one may look like it: then the cause is told
/// wrongly, and nothing else is.
fn leaking(code: &[u8], is_user: bool) -> Option<Cause> {
    code.windows(3).rev().find_map(|bytes| match *bytes {
        // 0F C7 /6 and /7 with a register: RDRAND, RDSEED.
        [0x0F, 0xC7, modrm] if modrm >= 0xF8 => Some(Cause::Rdseed),
        [0x0F, 0xC7, modrm] if modrm >= 0xF0 => Some(Cause::Rdrand),
        [0x0F, 0x01, 0xF9] if is_user => Some(Cause::UserRdtscp),
        [0x0F, 0x31, _] | [_, 0x0F, 0x31] if is_user => Some(Cause::UserRdtsc),
        _ => None,
    })
}

fn by_state(state: &Differing) -> Cause {
    match (state.registers, state.ram, state.disk, state.devices) {
        (true, false, false, false) => Cause::RegistersOnly,
        (false, true, false, false) => Cause::RamOnly,
        (false, false, true, false) => Cause::DiskOnly,
        (false, false, false, true) => Cause::DevicesOnly,
        _ => Cause::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::code_asm::{CodeAssembler, eax, ecx, rax, rbx};

    use super::*;

    fn assembled(write: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
        let mut assembler = CodeAssembler::new(64).unwrap();
        assembler.add(rbx, rax).unwrap();
        write(&mut assembler);
        assembler.xor(ecx, eax).unwrap();
        assembler.assemble(0x1000).unwrap()
    }

    fn cause(code: &[u8], is_user: bool, state: Option<&Differing>, only_accessed_bits: bool) -> Cause {
        Cause::found(&Evidence {
            code,
            is_user,
            state,
            only_accessed_bits,
        })
    }

    #[test]
    fn each_instruction_that_leaks_is_named_where_it_lies_before_what_shows() {
        let rdtsc = assembled(|a| a.rdtsc().unwrap());
        let rdtscp = assembled(|a| a.rdtscp().unwrap());
        let rdrand = assembled(|a| a.rdrand(rax).unwrap());
        let rdseed = assembled(|a| a.rdseed(ecx).unwrap());
        for (code, expected) in [
            (&rdtsc, Cause::UserRdtsc),
            (&rdtscp, Cause::UserRdtscp),
            (&rdrand, Cause::Rdrand),
            (&rdseed, Cause::Rdseed),
        ] {
            assert_eq!(cause(code, true, None, false), expected);
        }
        let both: Vec<u8> = rdrand.iter().chain(&rdtsc).copied().collect();
        assert_eq!(cause(&both, true, None, false), Cause::UserRdtsc, "the last one");
        assert_eq!(
            cause(&both, false, None, false),
            Cause::Rdrand,
            "the kernel's own RDTSC is not trapped but rewritten"
        );
        let none = assembled(|a| a.add(rbx, 9).unwrap());
        assert_eq!(cause(&none, true, None, false), Cause::Unknown);
        assert_eq!(cause(&[], true, None, false), Cause::Unknown);
    }

    #[test]
    fn what_differs_in_state_alone_is_named_by_that() {
        let of = |state: Differing| cause(&[0x90; 64], false, Some(&state), false);
        let differing = Differing::default;
        let registers = Differing {
            registers: true,
            ..differing()
        };
        let ram = Differing {
            ram: true,
            ..differing()
        };
        let disk = Differing {
            disk: true,
            ..differing()
        };
        let devices = Differing {
            devices: true,
            ..differing()
        };
        let both = Differing {
            ram: true,
            ..registers.clone()
        };
        assert_eq!(of(registers), Cause::RegistersOnly);
        assert_eq!(of(ram.clone()), Cause::RamOnly);
        assert_eq!(of(disk), Cause::DiskOnly);
        assert_eq!(of(devices), Cause::DevicesOnly);
        assert_eq!(of(both), Cause::Unknown);
        assert_eq!(cause(&[], false, Some(&ram), true), Cause::AccessedBitOnly);
    }

    #[test]
    fn accessed_bits_are_told_from_others() {
        let one = [0; PAGE_SIZE];
        let mut other = one;
        assert!(!Evidence::is_only_accessed_bits(&one, &other), "nothing differs");
        (other[8], other[4088]) = (0x20, 0x20);
        assert!(Evidence::is_only_accessed_bits(&one, &other));
        other[16] = 0x40;
        assert!(
            !Evidence::is_only_accessed_bits(&one, &other),
            "that is a dirty bit"
        );
    }
}
