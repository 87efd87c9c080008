//! Tests of the whole way from a file to guest memory, and of hostile files.

use proptest::prelude::*;
use vm_memory::GuestAddress;

use super::tiny::{TEXT_ADDRESS, TEXT_PHYSICAL, TinyKernel, USER_RETURN_IRETQ, bzimage_around};
use super::*;
use crate::base::guest_memory::GuestMemory;

const RAM: u64 = 64 << 20;

fn text_of(kernel: &EditedKernel) -> &[u8] {
    kernel.bytes_of(&kernel.segments[0])
}

fn refusal(kernel: &TinyKernel) -> String {
    prepare(&kernel.elf()).unwrap_err().to_string()
}

const SEED: [u8; RANDOM_SEED_BYTES] = [0xA5; RANDOM_SEED_BYTES];

#[test]
fn a_kernel_is_edited_and_reported() {
    let tiny = TinyKernel::editable();
    let kernel = prepare(&tiny.bzimage()).unwrap();
    assert_eq!(kernel.report.release, "6.1.0-tiny");
    assert_eq!((kernel.report.rdtsc(), kernel.report.cr4_writes()), (2, 1));
    assert_eq!(kernel.report.sections[1].rdtsc, 1, "the alternative's");
    assert_eq!(kernel.report.cr4_sites, [TEXT_ADDRESS + 2]);
    assert_eq!(text_of(&kernel)[..6], [0xE5, 0xF7, 0xE6, 0xE0, 0x90, 0xC3]);
    let alternative = &text_of(&kernel)[tiny.text.len()..][..5];
    assert_eq!(alternative, [0x0F, 0xAE, 0xE8, 0xE5, 0xF7]);
    assert_eq!(
        kernel.user_return_iretq,
        TEXT_ADDRESS + 6 + USER_RETURN_IRETQ as u64
    );
}

#[test]
fn a_bare_vmlinux_gives_the_same_kernel() {
    let tiny = TinyKernel::editable();
    let (bare, packed) = (prepare(&tiny.elf()).unwrap(), prepare(&tiny.bzimage()).unwrap());
    assert_eq!(bare.report, packed.report);
    assert_eq!(text_of(&bare), text_of(&packed));
}

#[test]
fn every_register_has_its_port() {
    let mut code = vec![0x0F, 0x31];
    for register in 0..16_u8 {
        if register >= 8 {
            code.push(0x41);
        }
        code.extend([0x0F, 0x22, 0xE0 | register & 7]);
    }
    let kernel = prepare(&TinyKernel::with_code(&code).elf()).unwrap();
    let mut rest = &text_of(&kernel)[2..];
    for register in 0..16_u8 {
        let byte_count = if register < 8 { 3 } else { 4 };
        let mut expected = vec![0x90; byte_count];
        expected[..2].copy_from_slice(&[0xE6, 0xE0 + register]);
        assert_eq!(rest[..byte_count], expected, "register {register}");
        rest = &rest[byte_count..];
    }
}

#[test]
fn a_mask_read_is_left_out_only_where_nobody_looks_at_its_result() {
    const READ: [u8; 2] = [0xE4, 0x21];
    for (next, left_out) in [
        // movzbl 0x100(%rip), %eax; mov $7, %al; mov %ebx, %eax
        (&[0x0F, 0xB6, 0x05, 0, 1, 0, 0][..], true),
        (&[0xB0, 7], true),
        (&[0x89, 0xD8], true),
        // movzbl %al, %eax; movzbl (%rax), %eax; movzbl %al, %ebx; mov $7, %ah; nop
        (&[0x0F, 0xB6, 0xC0], false),
        (&[0x0F, 0xB6, 0x00], false),
        (&[0x0F, 0xB6, 0xD8], false),
        (&[0xB4, 7], false),
        (&[0x90], false),
    ] {
        let code = [&[0x0F, 0x31, 0x0F, 0x22, 0xE0], &READ[..], next].concat();
        let kernel = prepare(&TinyKernel::with_code(&code).elf()).unwrap();
        let expected: [u8; 2] = if left_out { [0x66, 0x90] } else { READ };
        assert_eq!(text_of(&kernel)[5..7], expected, "{next:x?}");
        assert_eq!(kernel.report.dead_mask_reads(), usize::from(left_out));
    }
    // Another port's read may do something.
    let code = [0x0F, 0x31, 0x0F, 0x22, 0xE0, 0xE4, 0x20, 0xB0, 7];
    let kernel = prepare(&TinyKernel::with_code(&code).elf()).unwrap();
    assert_eq!(kernel.report.dead_mask_reads(), 0);
}

#[test]
fn look_alikes_inside_other_instructions_are_counted_and_kept() {
    // mov $0x310f, %eax; mov $0xe0220f, %ecx
    let alike = [0xB8, 0x0F, 0x31, 0, 0, 0xB9, 0x0F, 0x22, 0xE0, 0];
    let code = [&[0x0F, 0x31, 0x0F, 0x22, 0xE7][..], &alike].concat();
    let kernel = prepare(&TinyKernel::with_code(&code).elf()).unwrap();
    assert_eq!(kernel.report.look_alikes(), 2);
    assert_eq!(text_of(&kernel)[5..15], alike);
}

#[test]
fn a_branch_to_a_look_alike_refuses_the_kernel() {
    // jmp into the immediate of the mov that follows.
    let code = [0x0F, 0x31, 0x0F, 0x22, 0xE0, 0xEB, 0x01, 0xB8, 0x0F, 0x31, 0, 0];
    let text = refusal(&TinyKernel::with_code(&code));
    assert!(
        text.contains("cannot be edited") && text.contains("0xffffffff81000008"),
        "{text}"
    );
}

#[test]
fn bytes_that_no_instruction_covers_refuse_the_kernel() {
    // Undecodable in 64-bit code, then a prefix that makes the RDTSC three bytes long.
    let code = [0x0F, 0x31, 0x0F, 0x22, 0xE0, 0x66, 0x0F, 0x31];
    assert!(refusal(&TinyKernel::with_code(&code)).contains("has 3 bytes"));
}

#[test]
fn a_branch_into_the_middle_of_a_site_refuses_the_kernel() {
    let code = [0xEB, 0x01, 0x0F, 0x31, 0x0F, 0x22, 0xE0];
    assert!(refusal(&TinyKernel::with_code(&code)).contains("into the middle of the RDTSC"));
}

#[test]
fn instructions_hidden_by_cpuid_are_counted_and_named_outside_alternatives() {
    let code = [0x0F, 0x31, 0x0F, 0x22, 0xE0, 0x0F, 0xC7, 0xF0, 0x0F, 0xC7, 0xF8];
    let mut tiny = TinyKernel::with_code(&code);
    tiny.alternatives = vec![0x0F, 0x01, 0xF9];
    let report = prepare(&tiny.elf()).unwrap().report;
    assert_eq!(
        (
            report.sections[0].rdrand,
            report.sections[0].rdseed,
            report.sections[1].rdtscp
        ),
        (1, 1, 1)
    );
    let named: Vec<_> = report
        .untouched
        .iter()
        .map(|site| (site.mnemonic, site.address - TEXT_ADDRESS))
        .collect();
    assert_eq!(named, [("rdrand", 5), ("rdseed", 8)]);
}

#[test]
fn kernels_that_cannot_be_edited_say_why() {
    let cr4 = [0x0F, 0x22, 0xE0];
    let mut without_rdtsc = TinyKernel::with_code(&cr4);
    without_rdtsc.alternatives = vec![0x90];
    assert!(refusal(&without_rdtsc).contains("no RDTSC at all"));
    assert!(refusal(&TinyKernel::with_code(&[0x0F, 0x31])).contains("no write to CR4"));
    let mut no_return = TinyKernel::editable();
    no_return.text.truncate(6);
    assert!(refusal(&no_return).contains("IRETQ"));
    let mut two_returns = TinyKernel::editable();
    two_returns.text.extend_from_slice(tiny::USER_RETURN);
    assert!(refusal(&two_returns).contains("two IRETQs"));
    let foreign = TinyKernel {
        banner: b"FreeBSD\0",
        ..TinyKernel::editable()
    };
    assert!(refusal(&foreign).contains("no Linux kernel"));
    let flood = TinyKernel::with_code(&[0x0F, 0x31].repeat(5000));
    assert!(refusal(&flood).contains("data must have been taken for code"));
}

#[test]
fn files_that_are_no_kernel_are_named() {
    for (file, expected) in [
        (&b""[..], "empty"),
        (b"070701....", "cpio"),
        (&[0x1F, 0x8B, 8, 0], "gzip"),
        (b"MZ......", "EFI program"),
        (b"hello", "neither a bzImage nor an ELF"),
    ] {
        let text = prepare(file).unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains("Debian"), "{text}");
    }
}

fn read(memory: &GuestMemory, address: u64, byte_count: usize) -> Vec<u8> {
    let mut bytes = vec![0; byte_count];
    memory.read(GuestAddress(address), &mut bytes).unwrap();
    bytes
}

fn word(memory: &GuestMemory, address: u64) -> u64 {
    u64::from_le_bytes(read(memory, address, 8).try_into().unwrap())
}

#[test]
fn everything_lies_where_the_entry_protocol_wants_it() {
    let kernel = prepare(&TinyKernel::editable().bzimage()).unwrap();
    let memory = GuestMemory::allocate(RAM).unwrap();
    // What the kernel expects to be zero is written as zero, even over RAM that a former boot has used.
    memory
        .write(GuestAddress(TEXT_PHYSICAL + 0xFFFF), &[7, 7])
        .unwrap();
    let cmdline = CommandLine::build("quiet").unwrap();
    let initrd = vec![0xAB; 5000];
    let entry = place(&kernel, &initrd, &cmdline, &SEED, &memory).unwrap();

    assert_eq!(entry.rip, TEXT_PHYSICAL);
    assert_eq!(read(&memory, entry.rip, 2), [0xE5, 0xF7]);
    assert_eq!(read(&memory, TEXT_PHYSICAL + 0xFFFF, 2), [0, 7]);
    let params = read(&memory, entry.boot_params, 4096);
    let field = |at: usize| u64::from(u32::from_le_bytes(params[at..at + 4].try_into().unwrap()));
    let line = read(&memory, field(0x228), cmdline.as_str().len() + 1);
    assert_eq!(line, [cmdline.as_str().as_bytes(), &[0]].concat());
    assert_eq!((field(0x218), field(0x21C)), (RAM - 8192, 5000));
    assert_eq!(read(&memory, field(0x218), 5000), initrd);
    assert_eq!(read(&memory, field(0x070), 8), b"RSD PTR ");
    assert_eq!(
        word(&memory, entry.gdt_base + u64::from(entry.code_selector)),
        0x00AF_9B00_0000_FFFF
    );
    assert_eq!(
        word(&memory, entry.gdt_base + u64::from(entry.data_selector)),
        0x00CF_9300_0000_FFFF
    );
    assert_eq!(entry.gdt_limit, 31);
    for virtual_address in [0, TEXT_PHYSICAL, 0xFFFF_F123] {
        assert_eq!(
            translated(&memory, entry.page_tables, virtual_address),
            virtual_address
        );
    }
    assert_eq!(read(&memory, 0, 4096), vec![0; 4096], "page 0 is the guest's");
}

/// Walks page tables as the processor does, 2 MiB pages only.
fn translated(memory: &GuestMemory, tables: u64, address: u64) -> u64 {
    let next = |table: u64, shift: u32| word(memory, table + 8 * (address >> shift & 511));
    let directory_pointers = next(tables, 39);
    let directory = next(directory_pointers & !0xFFF, 30);
    let page = next(directory & !0xFFF, 21);
    assert!(directory_pointers & directory & page & 3 == 3 && page & 0x80 != 0);
    (page & !0x1F_FFFF) + (address & 0x1F_FFFF)
}

#[test]
fn without_an_initrd_its_pointer_is_zero() {
    let kernel = prepare(&TinyKernel::editable().elf()).unwrap();
    let memory = GuestMemory::allocate(RAM).unwrap();
    let entry = place(&kernel, &[], &CommandLine::build("").unwrap(), &SEED, &memory).unwrap();
    assert_eq!(read(&memory, entry.boot_params + 0x218, 8), [0; 8]);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let cmdline = CommandLine::build("").unwrap();
    let memory = GuestMemory::allocate(RAM).unwrap();
    let mut kernel = prepare(&TinyKernel::editable().elf()).unwrap();
    let initrd = vec![1; 70 << 20];
    let text = place(&kernel, &initrd, &cmdline, &SEED, &memory)
        .unwrap_err()
        .to_string();
    assert!(text.contains("at least 72 MiB"), "{text}");
    let earlier = |initrd: &[u8], bytes| check_room(&kernel, initrd, &cmdline, bytes);
    assert_eq!(earlier(&initrd, RAM).unwrap_err().to_string(), text);
    assert_eq!(earlier(&initrd, 2 * RAM), Ok(()));
    kernel.header.cmdline_byte_count_max = 100;
    assert!(matches!(
        place(&kernel, &[], &cmdline, &SEED, &memory),
        Err(BootError::CmdlineTooLong { limit: 100, .. })
    ));
    kernel.segments[0].memory_byte_count = RAM;
    let text = place(&kernel, &[], &cmdline, &SEED, &memory)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("RAM ends at 0x4000000") && text.contains("at least 65 MiB"),
        "{text}"
    );
    assert_eq!(read(&memory, 0x7000, 4096), vec![0; 4096]);
    assert_eq!(read(&memory, TEXT_PHYSICAL, 16), [0; 16]);
}

/// A file made of `base` by cutting it and flipping bits.
fn damaged(base: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let bits = base.len() * 8;
    (
        0..=base.len(),
        prop::collection::vec(0..bits, 0..12),
        any::<bool>(),
    )
        .prop_map(move |(end, flips, cut)| {
            let mut file = base.clone();
            for flip in flips {
                file[flip / 8] ^= 1 << (flip % 8);
            }
            if cut {
                file.truncate(end);
            }
            file
        })
}

/// Whatever `prepare` accepts must also be placed or refused without a panic.
fn prepare_and_place(file: &[u8]) {
    if let Ok(kernel) = prepare(file) {
        let memory = GuestMemory::allocate(RAM).unwrap();
        let _ = place(
            &kernel,
            b"initrd",
            &CommandLine::build("").unwrap(),
            &SEED,
            &memory,
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_bzimages_never_panic(file in damaged(TinyKernel::editable().bzimage())) {
        prepare_and_place(&file);
    }

    #[test]
    fn damaged_elf_files_never_panic(file in damaged(TinyKernel::editable().elf())) {
        prepare_and_place(&file);
        prepare_and_place(&bzimage_around(&tiny::lz4_legacy_of(&file)));
    }

    #[test]
    fn damaged_setup_headers_never_panic(
        header in prop::collection::vec(any::<u8>(), 0x80),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut file = bzimage_around(&payload);
        file[0x206..0x286].copy_from_slice(&header);
        prepare_and_place(&file);
    }

    #[test]
    fn random_code_never_panics(code in prop::collection::vec(any::<u8>(), 0..300)) {
        prepare_and_place(&TinyKernel::with_code(&code).elf());
    }

    #[test]
    fn random_payloads_never_panic(
        magic in prop::sample::select(vec![
            vec![0x02, 0x21, 0x4C, 0x18],
            vec![0xFD, b'7', b'z', b'X', b'Z', 0],
            vec![0x28, 0xB5, 0x2F, 0xFD],
            vec![0x1F, 0x8B],
        ]),
        body in prop::collection::vec(any::<u8>(), 0..200),
        claimed in 0_u32..100_000,
    ) {
        let packed = [&magic[..], &body[..], &claimed.to_le_bytes()].concat();
        let _ = payload::decompress(&packed);
    }

    #[test]
    fn any_operator_words_give_a_line_or_an_error(operator in ".{0,100}") {
        if let Ok(line) = CommandLine::build(&operator) {
            prop_assert!(line.as_str().contains("nokaslr"));
        }
    }
}
