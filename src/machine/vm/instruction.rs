//! What single-stepping has to know of an instruction: what becomes of the trap flag in it. Pure.

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind, Register};

/// Longest x86 instruction.
pub(super) const INSTRUCTION_BYTES_MAX: usize = 15;

/// An instruction by what it does to the trap flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing.
    Plain,
    /// Nothing, and it halts.
    Halts,
    /// Nothing, and it may be one of several repetitions.
    Repeats,
    /// Pushes it: so many bytes.
    PushesFlags(u8),
    /// Saves it in R11 and masks it (SYSCALL).
    EntersKernel,
    /// Takes it from R11 (SYSRET).
    LeavesKernel,
    /// Takes it from the stack (POPF, IRET): the byte that holds it is so far above the stack pointer.
    PopsFlags(u8),
    /// Pushes it and goes on in the handler of this vector without it (INT n).
    Interrupts(u8),
    /// Holds interrupts off for one more instruction, and on some processors the trap too (STI, a load of SS).
    MakesShadow(Shadow),
    /// No stepping across it is known (SYSENTER, SYSEXIT, ICEBP).
    Unknown,
}

/// What holds interrupts off for one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shadow {
    /// STI.
    Sti,
    /// A load of SS.
    MovSs,
}

/// An instruction's class and length. Bytes that are none are plain: the processor will say so itself.
pub(super) fn classify(code: &[u8], bitness: u32) -> (Class, u64) {
    let mut decoder = Decoder::new(bitness, code, DecoderOptions::NONE);
    if !decoder.can_decode() {
        return (Class::Plain, 0);
    }
    let instruction = decoder.decode();
    let class = match instruction.mnemonic() {
        Mnemonic::Pushf => Class::PushesFlags(2),
        Mnemonic::Pushfd => Class::PushesFlags(4),
        Mnemonic::Pushfq => Class::PushesFlags(8),
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => Class::PopsFlags(1),
        // The third word of the frame.
        Mnemonic::Iret => Class::PopsFlags(2 * 2 + 1),
        Mnemonic::Iretd => Class::PopsFlags(2 * 4 + 1),
        Mnemonic::Iretq => Class::PopsFlags(2 * 8 + 1),
        Mnemonic::Hlt => Class::Halts,
        _ if instruction.is_string_instruction()
            && (instruction.has_rep_prefix() || instruction.has_repne_prefix()) =>
        {
            Class::Repeats
        }
        Mnemonic::Syscall => Class::EntersKernel,
        Mnemonic::Sysret | Mnemonic::Sysretq => Class::LeavesKernel,
        Mnemonic::Int => Class::Interrupts(instruction.immediate8()),
        Mnemonic::Int3 => Class::Interrupts(3),
        Mnemonic::Into => Class::Interrupts(4),
        Mnemonic::Int1 | Mnemonic::Sysenter | Mnemonic::Sysexit | Mnemonic::Sysexitq => Class::Unknown,
        Mnemonic::Sti => Class::MakesShadow(Shadow::Sti),
        Mnemonic::Lss => Class::MakesShadow(Shadow::MovSs),
        Mnemonic::Mov | Mnemonic::Pop
            if instruction.code() != Code::INVALID
                && instruction.op0_kind() == OpKind::Register
                && instruction.op0_register() == Register::SS =>
        {
            Class::MakesShadow(Shadow::MovSs)
        }
        _ => Class::Plain,
    };
    (class, instruction.len() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_instruction_that_touches_the_flag_is_known() {
        let cases: [(&[u8], Class); 17] = [
            (&[0x90], Class::Plain),
            (&[0x9C], Class::PushesFlags(8)),
            (&[0x66, 0x9C], Class::PushesFlags(2)),
            (&[0x9D], Class::PopsFlags(1)),
            (&[0xF4], Class::Halts),
            (&[0x0F, 0x05], Class::EntersKernel),
            (&[0x48, 0x0F, 0x07], Class::LeavesKernel),
            (&[0xCD, 0x80], Class::Interrupts(0x80)),
            (&[0xCC], Class::Interrupts(3)),
            (&[0x48, 0xCF], Class::PopsFlags(17)),
            (&[0xCF], Class::PopsFlags(9)),
            (&[0xFB], Class::MakesShadow(Shadow::Sti)),
            (&[0xA4], Class::Plain),
            (&[0xF3, 0xA4], Class::Repeats),
            (&[0x8E, 0xD0], Class::MakesShadow(Shadow::MovSs)),
            (&[0x8E, 0xD8], Class::Plain),
            (&[0x0F, 0x34], Class::Unknown),
        ];
        for (code, class) in cases {
            assert_eq!(classify(code, 64), (class, code.len() as u64), "{code:02x?}");
        }
        assert_eq!(classify(&[0x9C], 32), (Class::PushesFlags(4), 1));
        assert_eq!(classify(&[], 64), (Class::Plain, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_classified(code in prop::collection::vec(any::<u8>(), 0..16), wide: bool) {
            let (_, length) = classify(&code, if wide { 64 } else { 32 });
            prop_assert!(length <= INSTRUCTION_BYTES_MAX as u64);
        }
    }
}
