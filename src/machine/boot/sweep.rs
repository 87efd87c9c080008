//! Walks code with a real decoder, and gathers evidence that the walk saw the instructions the processor will see.
//!
//! x86 code is not self-delimiting: a linear sweep that starts an instruction at the wrong byte, after data or
//! 32-bit code in the text, reads nonsense until it happens to fall into step again. Three independent things tell
//! whether it was in step:
//!
//! - **Direct branches.** Debian 6.1's code has some 300,000 places to which direct calls and jumps lead, and each is
//!   an instruction's first byte. One that the sweep has inside an instruction is *stray*. There are three: a jump
//!   past a `LOCK` prefix, and the overlapping instructions by which the kernel untrains return prediction.
//! - **Raw scan.** Every byte pair that could be an `RDTSC` or a write to CR4 is looked up. One at which no decoded
//!   instruction starts must lie inside a validly decoded instruction, as part of its displacement or immediate,
//!   and no branch may lead to it. Then it is a *look-alike*; anything else is *unexplained*.
//! - **Undecodable bytes**, stepped over one at a time.
//!
//! The frame-unwinding table (`.orc_unwind_ip`) would give more boundaries, but 868 of its 368,456 entries point into
//! the middle of instructions, those that alternatives may replace, so it proves nothing where it disagrees.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::error::KernelError;
use crate::devices::platform::{PIC_MASTER_PORTS, PIC_SLAVE_PORTS};

/// Most sites of interest in one kernel; Debian's have about 200. More means that data was decoded as code.
const SITES_MAX: usize = 4096;

/// Opcode of `INT3`.
const INT3: u8 = 0xCC;

/// An instruction that concerns determinism, or helps to find one that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rdtsc,
    /// `mov %register, %cr4`, with the register's number.
    Cr4Write(u8),
    Rdtscp,
    Rdrand,
    Rdseed,
    Rdpid,
    Rdpmc,
    Swapgs,
    /// `in imm8, %al` from a PIC's mask register, whose result the next instruction overwrites unread.
    DeadMaskRead,
}

/// One such instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) kind: Kind,
    /// First byte within its section.
    pub(super) offset: usize,
    /// Length in bytes.
    pub(super) byte_count: usize,
}

/// One bit per byte of a section.
#[derive(Debug, Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn for_bytes(byte_count: usize) -> Self {
        Self(vec![0; byte_count.div_ceil(64)])
    }

    fn set(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    fn has(&self, index: usize) -> bool {
        self.0
            .get(index / 64)
            .is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn count_without(&self, other: &Self) -> usize {
        self.0
            .iter()
            .zip(&other.0)
            .map(|(a, b)| (a & !b).count_ones() as usize)
            .sum()
    }
}

/// One executable section, swept.
#[derive(Debug, Clone)]
pub(super) struct Swept<'a> {
    pub(super) name: &'a str,
    pub(super) address: u64,
    pub(super) bytes: &'a [u8],
    pub(super) sites: Vec<Site>,
    pub(super) undecodable_byte_count: usize,
    starts: Bits,
    targets: Bits,
}

/// Sweeps `sections`, given as (name, virtual address, bytes), and enters every direct branch in the section it leads
/// to.
///
/// # Errors
/// More sites than any kernel has.
pub(super) fn sweep<'a>(
    sections: impl IntoIterator<Item = (&'a str, u64, &'a [u8])>,
) -> Result<Vec<Swept<'a>>, KernelError> {
    let mut swept: Vec<Swept<'a>> = sections
        .into_iter()
        .map(|(name, at, bytes)| Swept::new(name, at, bytes))
        .collect();
    let mut branches = Vec::new();
    let mut site_count = 0;
    for index in 0..swept.len() {
        swept[index].walk(&mut branches, &mut site_count)?;
        for target in branches.drain(..) {
            if let Some((section, offset)) = locate(&swept, target) {
                swept[section].targets.set(offset);
            }
        }
    }
    Ok(swept)
}

/// Which of `sections` holds the virtual address, and where in it.
pub(super) fn locate(sections: &[Swept<'_>], address: u64) -> Option<(usize, usize)> {
    sections.iter().enumerate().find_map(|(index, section)| {
        let offset = usize::try_from(address.checked_sub(section.address)?).ok()?;
        (offset < section.bytes.len()).then_some((index, offset))
    })
}

impl<'a> Swept<'a> {
    fn new(name: &'a str, address: u64, bytes: &'a [u8]) -> Self {
        Self {
            name,
            address,
            bytes,
            sites: Vec::new(),
            undecodable_byte_count: 0,
            starts: Bits::for_bytes(bytes.len()),
            targets: Bits::for_bytes(bytes.len()),
        }
    }

    fn walk(&mut self, branches: &mut Vec<u64>, site_count: &mut usize) -> Result<(), KernelError> {
        let mut decoder = Decoder::with_ip(64, self.bytes, self.address, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            let offset = decoder.position();
            let padding = self.padding_at(offset);
            if padding > 0 {
                (offset..offset + padding).for_each(|offset| self.starts.set(offset));
                self.seek(&mut decoder, offset + padding);
                continue;
            }
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                self.undecodable_byte_count += 1;
                self.seek(&mut decoder, offset + 1);
                continue;
            }
            self.starts.set(offset);
            if let Some(target) = branch_target(&instruction) {
                branches.push(target);
            }
            let kind = kind_of(&instruction).or_else(|| {
                self.is_dead_mask_read(offset, &instruction)
                    .then_some(Kind::DeadMaskRead)
            });
            if let Some(kind) = kind {
                *site_count += 1;
                if *site_count > SITES_MAX {
                    let what = format!(
                        "over {SITES_MAX} time-stamp, random-number, CR4 and SWAPGS instructions were decoded up to \
                         {} + {offset:#x}, so data must have been taken for code",
                        self.name
                    );
                    return Err(KernelError::CannotEdit { what });
                }
                self.sites.push(Site {
                    kind,
                    offset,
                    byte_count: instruction.len(),
                });
            }
        }
        Ok(())
    }

    /// Whether `instruction`, at `offset`, reads a PIC's mask for nothing.
    fn is_dead_mask_read(&self, offset: usize, instruction: &Instruction) -> bool {
        instruction.code() == Code::In_AL_imm8
            && [*PIC_MASTER_PORTS.end(), *PIC_SLAVE_PORTS.end()]
                .contains(&u16::from(instruction.immediate8()))
            && self
                .instruction_at(offset + instruction.len())
                .is_some_and(|next| overwrites_al(&next))
    }

    /// How many `INT3` stand at `offset`: padding between functions, more than half of a Debian kernel's
    /// instructions, for which the decoder is not needed.
    fn padding_at(&self, offset: usize) -> usize {
        self.bytes[offset..]
            .iter()
            .take_while(|byte| **byte == INT3)
            .count()
    }

    fn seek(&self, decoder: &mut Decoder<'_>, offset: usize) {
        decoder.set_ip(self.address.wrapping_add(offset as u64));
        // Callers stay within the bytes, the one reason to fail; the end is as good as anything beyond it.
        if decoder.set_position(offset).is_err() {
            let _ = decoder.set_position(self.bytes.len());
        }
    }

    /// Instructions decoded.
    pub(super) fn instruction_count(&self) -> usize {
        self.starts.count()
    }

    /// Bytes that a direct branch leads to.
    pub(super) fn target_count(&self) -> usize {
        self.targets.count()
    }

    /// Those of them at which no decoded instruction starts.
    pub(super) fn stray_target_count(&self) -> usize {
        self.targets.count_without(&self.starts)
    }

    /// Whether a direct branch leads to `offset`.
    pub(super) fn is_target(&self, offset: usize) -> bool {
        self.targets.has(offset)
    }

    /// Decodes the instruction at `offset`.
    pub(super) fn instruction_at(&self, offset: usize) -> Option<Instruction> {
        let bytes = self.bytes.get(offset..)?;
        let address = self.address.wrapping_add(offset as u64);
        let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// Offsets of byte pairs that would be an `RDTSC` or a write to CR4 if an instruction started there.
    pub(super) fn raw_hits(&self) -> impl Iterator<Item = usize> {
        memchr::memchr_iter(0x0F, self.bytes).filter(|&offset| match self.bytes.get(offset + 1..) {
            Some([0x31, ..]) => true,
            Some([0x22, modrm, ..]) => modrm & 0x38 == 0x20,
            _ => false,
        })
    }

    /// Whether the bytes at `hit` are part of another instruction and nothing branches to them.
    pub(super) fn is_look_alike(&self, hit: usize) -> bool {
        let Some(start) = (hit.saturating_sub(14)..hit)
            .rev()
            .find(|&offset| self.starts.has(offset))
        else {
            return false;
        };
        self.instruction_at(start)
            .is_some_and(|instruction| start + instruction.len() > hit)
            && (start + 1..=hit).all(|offset| !self.targets.has(offset))
    }
}

/// The target of a direct branch or call.
pub(super) fn branch_target(instruction: &Instruction) -> Option<u64> {
    let direct = matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::Call
            | FlowControl::XbeginXabortXend
    ) && instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::NearBranch64;
    direct.then(|| instruction.near_branch_target())
}

/// Whether `instruction` loads AL from elsewhere: not from a part of RAX, nor from where RAX points.
fn overwrites_al(instruction: &Instruction) -> bool {
    let is_load = matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Movzx)
        && instruction.op0_kind() == OpKind::Register
        && matches!(
            instruction.op0_register(),
            Register::AL | Register::EAX | Register::RAX
        );
    let is_rax = |register: Register| register.full_register() == Register::RAX;
    is_load
        && match instruction.op1_kind() {
            OpKind::Register => !is_rax(instruction.op1_register()),
            OpKind::Memory => !is_rax(instruction.memory_base()) && !is_rax(instruction.memory_index()),
            _ => true,
        }
}

fn kind_of(instruction: &Instruction) -> Option<Kind> {
    match instruction.mnemonic() {
        Mnemonic::Rdtsc => Some(Kind::Rdtsc),
        Mnemonic::Rdtscp => Some(Kind::Rdtscp),
        Mnemonic::Rdrand => Some(Kind::Rdrand),
        Mnemonic::Rdseed => Some(Kind::Rdseed),
        Mnemonic::Rdpid => Some(Kind::Rdpid),
        Mnemonic::Rdpmc => Some(Kind::Rdpmc),
        Mnemonic::Swapgs => Some(Kind::Swapgs),
        Mnemonic::Mov
            if instruction.code() == Code::Mov_cr_r64 && instruction.op0_register() == Register::CR4 =>
        {
            u8::try_from(instruction.op1_register().number())
                .ok()
                .map(Kind::Cr4Write)
        }
        _ => None,
    }
}
