//! Hostile guests of a few instructions on the whole machine, run by this host's KVM. Where there is none, each test
//! says so and is skipped.
//!
//! ```text
//!   0x1000 page tables: the first GiB, once as it is and once at the addresses of Linux's final IDT
//!   0x4000 GDT      0x5000 IDT      0x8000 stack of level 0      0x9000 stack of level 3
//!   0x10000 code    0x18000 entry of every interrupt and exception    0x1C000 where the machine believes IRETQ
//! ```

use std::time::Duration;

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, al, ax, dword_ptr, dx, eax, ptr, qword_ptr, rax, rcx, rdi, rsp};

use super::boot::EntryPoint;
use super::kvm::KvmHost;
use super::outcome::Outcome;
use super::vm::{Live, Outside, Totals, Vm};
use super::workers::{Console, HostEntropy, Inbox};
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::GUEST_RAM_BYTES_MIN;
use crate::base::units::{GuestPhys, VirtualTime};
use crate::devices::board::Board;
use crate::devices::pci::PciDevices;
use crate::devices::virtio_rng::VirtioRng;

const PAGE_TABLES: u64 = 0x1000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const STACK_TOP: u64 = 0x8000;
const USER_STACK_TOP: u64 = 0x9000;
const CODE: u64 = 0x1_0000;
const INTERRUPT_ENTRY: u64 = 0x1_8000;
const KERNEL_IRETQ: u64 = 0x1_C000;

/// Where Linux keeps its final IDT, by which the machine knows it.
const FINAL_IDT: u64 = 0xFFFF_FE00_0000_0000;
const VECTORS: u64 = 64;

const NO_RAM: u64 = 0x3000_0000;

const PRESENT_WRITABLE_USER: u64 = 0b111;
const LARGE: u64 = 1 << 7;

const KERNEL_CODE: u16 = 0x10;
const KERNEL_DATA: u16 = 0x18;
const USER_DATA: i32 = 0x23;
const USER_CODE: i32 = 0x2B;
/// In a forged frame.
const USER_CODE_OF_LINUX: i32 = 0x33;
/// Null, unused, then code and data of level 0, data and code of level 3 (AMD APM volume 2, § 4.8).
const DESCRIPTORS: [u64; 6] = [
    0,
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
];

type Assembled = Result<(), IcedError>;

fn assemble(at: u64, write: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    write(&mut assembler).unwrap();
    assembler.assemble(at).unwrap()
}

fn memory() -> GuestMemory {
    let memory = GuestMemory::allocate(GUEST_RAM_BYTES_MIN).unwrap();
    let put = |address: u64, value: u64| memory.write(GuestPhys(address), &value.to_le_bytes()).unwrap();
    let (level_3, level_2) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    for entry in [0, FINAL_IDT >> 39 & 0x1FF] {
        put(PAGE_TABLES + entry * 8, level_3 | PRESENT_WRITABLE_USER);
    }
    put(level_3, level_2 | PRESENT_WRITABLE_USER);
    for index in 0..512 {
        put(level_2 + index * 8, index << 21 | LARGE | PRESENT_WRITABLE_USER);
    }
    for (index, descriptor) in (0..).zip(DESCRIPTORS) {
        put(GDT + index * 8, descriptor);
    }
    for vector in 0..VECTORS {
        let gate = 0x8E00 << 32 | u64::from(KERNEL_CODE) << 16 | INTERRUPT_ENTRY & 0xFFFF;
        put(IDT + vector * 16, gate | (INTERRUPT_ENTRY >> 16 & 0xFFFF) << 48);
    }
    memory
}

/// Runs `code` at level 0 to the VM's end; interrupts and exceptions enter `entry`. The host is one on which an exit
/// costs `exit_cost`. `None` where there is no KVM.
fn run(
    code: impl FnOnce(&mut CodeAssembler) -> Assembled,
    entry: impl FnOnce(&mut CodeAssembler) -> Assembled,
    exit_cost: Duration,
) -> Option<(Outcome, Totals)> {
    let kvm = match KvmHost::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let memory = memory();
    for (address, bytes) in [
        (CODE, assemble(CODE, code)),
        (INTERRUPT_ENTRY, assemble(INTERRUPT_ENTRY, entry)),
        (KERNEL_IRETQ, assemble(KERNEL_IRETQ, read_nothing)),
    ] {
        memory.write(GuestPhys(address), &bytes).unwrap();
    }
    let devices = PciDevices {
        disk: None,
        network: None,
        entropy: VirtioRng::new(),
    };
    let entry = EntryPoint {
        rip: CODE,
        boot_params: 0,
        stack: STACK_TOP,
        page_tables: PAGE_TABLES,
        gdt_base: GDT,
        gdt_limit: 0x2F,
        code_selector: KERNEL_CODE,
        data_selector: KERNEL_DATA,
    };
    let mut vm = Vm::create(&kvm, memory, Board::new(0, devices), KERNEL_IRETQ, false).unwrap();
    vm.enter_at(&entry).unwrap();
    let inbox = Inbox::new(vm.kicker().waker());
    let mut outside = Outside {
        keeper: None,
        console: Console::start(&inbox, None, false, vm.console_room()).unwrap(),
        disk: None,
        network: None,
    };
    let mut live = Live::starting_at(
        VirtualTime::ZERO,
        vm.kicker(),
        inbox,
        HostEntropy::open().unwrap(),
        exit_cost,
    )
    .unwrap();
    let outcome = vm.run(&mut live, &mut outside).unwrap();
    Some((outcome, vm.totals()))
}

/// A guest that runs `code` and takes no interrupt ends its VM as `expected`.
fn assert_ends(code: impl FnOnce(&mut CodeAssembler) -> Assembled, expected: &Outcome) {
    if let Some((found, _)) = run(code, reset, Duration::ZERO) {
        assert_eq!(found, *expected);
    }
}

fn power_off(a: &mut CodeAssembler) -> Assembled {
    a.mov(dx, 0x604)?;
    a.mov(ax, 0x3400)?;
    a.out(dx, ax)
}

fn reset(a: &mut CodeAssembler) -> Assembled {
    a.mov(al, 0xFE)?;
    a.out(0x64, al)
}

fn read_nothing(a: &mut CodeAssembler) -> Assembled {
    a.mov(rdi, NO_RAM)?;
    a.mov(eax, dword_ptr(rdi))
}

/// `lidt` with the table at the address of Linux's final one.
fn load_final_idt(a: &mut CodeAssembler) -> Assembled {
    a.mov(rax, FINAL_IDT + IDT)?;
    a.push(rax)?;
    a.sub(rsp, 2)?;
    a.mov(
        iced_x86::code_asm::word_ptr(rsp),
        i32::try_from(VECTORS * 16 - 1).unwrap(),
    )?;
    a.lidt(ptr(rsp))?;
    a.add(rsp, 10)
}

/// Goes on at level 3, with I/O privilege: by `RFLAGS.IOPL`, and for a software KVM that looks at the task's bitmap alone
/// by the zeros there, which cover the low ports.
fn become_a_program(a: &mut CodeAssembler) -> Assembled {
    let mut program = a.create_label();
    a.push(USER_DATA)?;
    a.push(i32::try_from(USER_STACK_TOP).unwrap())?;
    a.push(0x3002)?;
    a.push(USER_CODE)?;
    a.lea(rax, ptr(program))?;
    a.push(rax)?;
    a.iretq()?;
    a.set_label(&mut program)
}

#[test]
fn kvm_memory_that_is_not_there_ends_the_vm_with_its_address() {
    for is_write in [false, true] {
        let expected = Outcome::WildMmio {
            address: NO_RAM,
            is_write,
        };
        assert_ends(
            |a| {
                if is_write {
                    a.mov(rdi, NO_RAM)?;
                    return a.mov(dword_ptr(rdi), eax);
                }
                read_nothing(a)
            },
            &expected,
        );
    }
}

#[test]
fn kvm_a_guest_ends_its_vm_in_its_own_way() {
    type Code = fn(&mut CodeAssembler) -> Assembled;
    let endings: [(Code, Outcome); 4] = [
        (power_off, Outcome::PowerOff),
        (reset, Outcome::Reboot),
        (CodeAssembler::hlt, Outcome::DeadHalt),
        (CodeAssembler::ud2, Outcome::TripleFault),
    ];
    for (code, expected) in endings {
        assert_ends(code, &expected);
    }
}

/// Honoured, the write to CR4's port would end in a triple fault.
#[test]
fn kvm_a_program_with_io_privilege_does_not_write_cr4() {
    assert_ends(
        |a| {
            become_a_program(a)?;
            a.xor(eax, eax)?;
            a.out(0xE0, eax)?;
            reset(a)
        },
        &Outcome::Reboot,
    );
}

/// The frame of a trapped RDTSC lies on the stack. Honoured, the machine would answer it and send its maker to the
/// kernel's `IRETQ`, where this guest reads what is not there; at level 0 that happens, so the forgery is a good one.
fn forge_a_trapped_rdtsc(a: &mut CodeAssembler) -> Assembled {
    let mut rdtsc = a.create_label();
    let mut after = a.create_label();
    a.lea(rcx, ptr(rdtsc))?;
    a.push(USER_DATA)?;
    a.push(rsp)?;
    a.push(0x202)?;
    a.push(USER_CODE_OF_LINUX)?;
    a.push(rcx)?;
    a.push(0)?;
    a.out(0xF4, al)?;
    a.jmp(after)?;
    a.set_label(&mut rdtsc)?;
    a.rdtsc()?;
    a.set_label(&mut after)?;
    reset(a)
}

#[test]
fn kvm_a_program_with_io_privilege_forges_no_trapped_rdtsc() {
    let answered = Outcome::WildMmio {
        address: NO_RAM,
        is_write: false,
    };
    for (is_program, expected) in [(true, Outcome::Reboot), (false, answered)] {
        let found = run(
            |a| {
                load_final_idt(a)?;
                // The kernel's first read of the counter after that arms the trap.
                a.in_(eax, 0xF7)?;
                if is_program {
                    become_a_program(a)?;
                }
                forge_a_trapped_rdtsc(a)
            },
            |a| {
                // Linux's #GP entry, its CLAC patched away: there the machine puts its port.
                a.db(&[0x90, 0x90, 0x90, 0xFC])?;
                reset(a)
            },
            Duration::ZERO,
        );
        let Some((found, _)) = found else { return };
        assert_eq!(found, expected, "is a program: {is_program}");
    }
}

/// The PIT is programmed to two ticks, 1.7 µs, on a host where the guard is its upper bound.
#[test]
fn kvm_a_timer_that_outruns_the_host_leaves_the_guest_time_between_expiries() {
    const INTERRUPTS: i32 = 12;
    const GUARD: Duration = Duration::from_millis(8);
    let counter = 0x2_0000_u64;
    let found = run(
        |a| {
            load_final_idt(a)?;
            for (port, value) in [
                (0x20, 0x11),
                (0x21, 0x20),
                (0x21, 0x04),
                (0x21, 0x03),
                (0x21, 0xFE),
                (0x43, 0x34),
                (0x40, 2),
                (0x40, 0),
            ] {
                a.mov(al, value)?;
                a.out(port, al)?;
            }
            a.sti()?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.jmp(again)
        },
        |a| {
            let mut enough = a.create_label();
            a.inc(qword_ptr(counter))?;
            a.cmp(qword_ptr(counter), INTERRUPTS)?;
            a.je(enough)?;
            a.iretq()?;
            a.set_label(&mut enough)?;
            power_off(a)
        },
        Duration::from_secs(1),
    );
    let Some((outcome, totals)) = found else { return };
    assert_eq!(outcome, Outcome::PowerOff);
    let passed = totals.virtual_time.saturating_since(VirtualTime::ZERO);
    let between = u32::try_from(INTERRUPTS - 1).unwrap();
    assert!(passed >= GUARD * between, "{INTERRUPTS} interrupts in {passed:?}");
}

#[test]
fn kvm_a_repeated_read_of_the_counter_s_port_harms_nobody() {
    assert_ends(
        |a| {
            a.mov(rdi, 0x2_0000_u64)?;
            a.mov(rcx, 4_u64)?;
            a.mov(dx, 0xF7)?;
            a.rep().insd()?;
            power_off(a)
        },
        &Outcome::PowerOff,
    );
}
