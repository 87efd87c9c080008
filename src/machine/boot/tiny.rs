//! Kernels built in code for the tests: a few instructions in an ELF file, in a bzImage if wanted.

use super::bzimage::SetupHeader;

/// Virtual address of the tiny kernel's `.text`.
pub(super) const TEXT_ADDRESS: u64 = 0xFFFF_FFFF_8100_0000;
/// Guest physical address of the same byte, and its entry.
pub(super) const TEXT_PHYSICAL: u64 = 0x10_0000;

/// Offsets of header fields in a tiny kernel's ELF file.
pub(super) mod field {
    pub(in super::super) const ENTRY: usize = 24;
    pub(in super::super) const SHOFF: usize = 40;
    pub(in super::super) const PHDR: usize = 64;
}

/// `swapgs; jmp over a verw; jmp; testb $4, 0x20(%rsp); jnz; iretq`, as Debian's kernels have it, with padding
/// between.
pub(super) const USER_RETURN: &[u8] = &[
    0x0F, 0x01, 0xF8, // swapgs
    0xEB, 0x07, // jmp +7
    0x0F, 0x00, 0x2D, 0, 0, 0, 0, // verw
    0xEB, 0x02, // jmp +2
    0x90, 0x90, //
    0xF6, 0x44, 0x24, 0x20, 0x04, // testb $4, 0x20(%rsp)
    0x75, 0x02, // jnz +2
    0x48, 0xCF, // iretq
    0x90, 0x90, 0xC3,
];
/// Where the `IRETQ` stands in it.
pub(super) const USER_RETURN_IRETQ: usize = 23;

/// What a tiny kernel consists of.
#[derive(Debug, Clone)]
pub(super) struct TinyKernel {
    pub(super) text: Vec<u8>,
    pub(super) alternatives: Vec<u8>,
    pub(super) banner: &'static [u8],
}

impl TinyKernel {
    /// One with an RDTSC, a CR4 write and the way back to user mode.
    pub(super) fn editable() -> Self {
        let mut text = vec![0x0F, 0x31, 0x0F, 0x22, 0xE0, 0xC3];
        text.extend_from_slice(USER_RETURN);
        Self {
            text,
            alternatives: vec![0x0F, 0xAE, 0xE8, 0x0F, 0x31],
            banner: b"Linux version 6.1.0-tiny (x)\n\0",
        }
    }

    /// With other code before the way back to user mode.
    pub(super) fn with_code(code: &[u8]) -> Self {
        let mut text = code.to_vec();
        text.extend_from_slice(USER_RETURN);
        Self {
            text,
            ..Self::editable()
        }
    }

    /// As an ELF file: headers, `.text`, `.altinstr_replacement`, the banner, section names.
    pub(super) fn elf(&self) -> Vec<u8> {
        const TEXT_OFFSET: usize = 0x100;
        let names = b"\0.text\0.altinstr_replacement\0.shstrtab\0";
        let alternatives_offset = TEXT_OFFSET + self.text.len();
        let banner_offset = alternatives_offset + self.alternatives.len();
        let names_offset = banner_offset + self.banner.len();
        let sections_offset = (names_offset + names.len()).next_multiple_of(8);
        let file_byte_count = names_offset - TEXT_OFFSET;

        let mut file = b"\x7FELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2_u16, 62].iter().flat_map(|field| field.to_le_bytes()));
        file.extend(1_u32.to_le_bytes());
        file.extend(
            [TEXT_PHYSICAL, 64, sections_offset as u64]
                .iter()
                .flat_map(|field| field.to_le_bytes()),
        );
        file.extend(0_u32.to_le_bytes());
        file.extend(
            [64_u16, 56, 1, 64, 4, 3]
                .iter()
                .flat_map(|field| field.to_le_bytes()),
        );
        file.extend([1_u32, 7].iter().flat_map(|field| field.to_le_bytes()));
        let segment = [
            TEXT_OFFSET as u64,
            TEXT_ADDRESS,
            TEXT_PHYSICAL,
            file_byte_count as u64,
            0x1_0000,
            4096,
        ];
        file.extend(segment.iter().flat_map(|field| field.to_le_bytes()));
        file.resize(TEXT_OFFSET, 0);
        file.extend_from_slice(&self.text);
        file.extend_from_slice(&self.alternatives);
        file.extend_from_slice(self.banner);
        file.extend_from_slice(names);
        file.resize(sections_offset, 0);
        let alternatives_address = TEXT_ADDRESS + self.text.len() as u64;
        file.extend(section(0, 0, 0, 0, 0, 0));
        file.extend(section(1, 1, 6, TEXT_ADDRESS, TEXT_OFFSET, self.text.len()));
        file.extend(section(
            7,
            1,
            6,
            alternatives_address,
            alternatives_offset,
            self.alternatives.len(),
        ));
        file.extend(section(29, 3, 0, 0, names_offset, names.len()));
        file
    }

    /// As a bzImage with an lz4-legacy payload.
    pub(super) fn bzimage(&self) -> Vec<u8> {
        bzimage_around(&lz4_legacy_of(&self.elf()))
    }
}

fn section(name: u32, kind: u32, flags: u64, address: u64, offset: usize, byte_count: usize) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend([name, kind].iter().flat_map(|field| field.to_le_bytes()));
    header.extend(
        [flags, address, offset as u64, byte_count as u64]
            .iter()
            .flat_map(|field| field.to_le_bytes()),
    );
    header.extend(0_u64.to_le_bytes());
    header.extend([1_u64, 0].iter().flat_map(|field| field.to_le_bytes()));
    header
}

/// A bzImage of one setup sector around `payload`.
pub(super) fn bzimage_around(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    let header = SetupHeader::for_bare_elf().bytes;
    file[0x1F1..0x1F1 + header.len()].copy_from_slice(&header);
    file[0x1F1] = 1;
    file[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    file[0x24C..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    file.extend_from_slice(payload);
    file
}

/// `image` as the kernel's build packs it with `lz4 -l`, its length appended.
pub(super) fn lz4_legacy_of(image: &[u8]) -> Vec<u8> {
    let mut packed = 0x184C_2102_u32.to_le_bytes().to_vec();
    for chunk in image.chunks(8 << 20) {
        let block = lz4_flex::block::compress(chunk);
        packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        packed.extend(block);
    }
    packed.extend(u32::try_from(image.len()).unwrap().to_le_bytes());
    packed
}
