//! The `step` clock (E5): from a counted exit to any instruction behind it, and through all that touches the trap flag.
//!
//! ```text
//!   0x10000 kernel code   0x12000 user code   0x13000 handlers, 0x100 bytes each   0x14000 the system call's
//!   0x20000 data   0x30000 GDT   0x31000 IDT   0x32000 TSS   0x38000 user stack   0x3A000 stack of handlers
//! ```
//!
//! Where a KVM cannot run a part of this (a software KVM delivers no exceptions to such a guest), the test says so and is
//! skipped; in an emulated host of the lab none is.

use antipode::base::guest_memory::GuestMemory;
use antipode::base::units::{ExitOrdinal, GuestPhys};
use antipode::machine::kvm::{Exit, KvmHost};
use antipode::machine::launch::{Beginning, LaunchError, StartedVm};
use antipode::machine::probe::{CODE, DATA, TinyGuest, tiny_program};
use antipode::machine::{Outcome, RunError, TimelineError};
use antipode::replay::{LogReader, Position, Replayer};
use iced_x86::code_asm::{CodeAssembler, al, ax, eax, ecx, edi, esi, qword_ptr, r11, rax, rbx, rsp};
use iced_x86::{Code, Decoder, DecoderOptions, IcedError, Instruction, Mnemonic};

use super::{Record, finish, machine_of, power_off, record, record_of};

const USER_CODE: u64 = 0x1_2000;
const HANDLERS: u64 = 0x1_3000;
const HANDLER_BYTES: u64 = 0x100;
const SYSTEM_CALL: u64 = 0x1_4000;
const GDT: u64 = 0x3_0000;
const IDT: u64 = 0x3_1000;
const TSS: u64 = 0x3_2000;
const USER_STACK: u64 = 0x3_8000;
const HANDLER_STACK: u64 = 0x3_A000;

const KERNEL_CODE: u16 = 0x10;
const TASK: u16 = 0x20;
const USER_DATA: i32 = 0x38 | 3;
const USER_PROGRAM: i32 = 0x40 | 3;
/// Null, nothing, kernel code and data, the TSS (two places, written apart), nothing, user data and code.
const DESCRIPTORS: [u64; 9] = [
    0,
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0,
    0,
    0,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
];

const UNDEFINED: u8 = 6;
const PAGE_FAULT: u8 = 14;
const TICK: u8 = 0x20;
const CALL_GATE: u8 = 0x80;

/// Behind what the page tables map.
const UNMAPPED: u64 = 1 << 30;
/// What Linux lets SYSCALL clear.
const SYSCALL_MASK: u64 = 0x4_7700;
const TRAP_FLAG: u64 = 1 << 8;
const RESUME_FLAG_BIT: u32 = 16;

/// Where each place that sees flags keeps what it saw.
const SEEN: u64 = DATA + 0x100;
const TICKS_SEEN: u64 = DATA + 0x200;
const TICKS: i32 = 5;

fn handler(vector: u8) -> u64 {
    let place = [UNDEFINED, PAGE_FAULT, TICK, CALL_GATE]
        .iter()
        .position(|other| *other == vector);
    HANDLERS + place.unwrap() as u64 * HANDLER_BYTES
}

/// Adds the flags as they are into one place, so that one that was wrong once shows at the end.
fn see_flags(a: &mut CodeAssembler, place: u64) -> Result<(), IcedError> {
    a.pushfq()?;
    a.pop(rbx)?;
    a.add(qword_ptr(SEEN + place * 8), rbx)
}

/// Sees the flags in RAX, which were pushed, but for the resume flag. Hardware clears that behind every instruction (AMD
/// APM volume 2, § 3.1.6), QEMU's emulation behind every block of code (`do_gen_eob_worker` of its `translate.c`): an INT
/// in the block that returns from a fault pushes it there, and one that is stepped, a block of its own, does not.
fn add_pushed_flags(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.btr(rax, RESUME_FLAG_BIT)?;
    a.add(qword_ptr(SEEN + 8), rax)
}

/// Sees the flags that were pushed, and returns so many bytes behind what has faulted.
fn returning(a: &mut CodeAssembler, error_code_bytes: i32, skipped: i32) -> Result<(), IcedError> {
    if error_code_bytes > 0 {
        a.add(rsp, error_code_bytes)?;
    }
    a.push(rax)?;
    a.mov(rax, qword_ptr(rsp + 24))?;
    add_pushed_flags(a)?;
    a.add(qword_ptr(rsp + 8), skipped)?;
    a.pop(rax)?;
    see_flags(a, 2)?;
    a.iretq()
}

fn on_tick(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push(rax)?;
    a.mov(rax, qword_ptr(rsp + 24))?;
    add_pushed_flags(a)?;
    a.mov(al, 0x20_i32)?;
    a.out(0x20_i32, al)?;
    a.inc(qword_ptr(TICKS_SEEN))?;
    a.pop(rax)?;
    a.iretq()
}

/// The first call returns, the second ends the program.
fn system_call(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut second = a.create_label();
    a.add(qword_ptr(SEEN + 24), r11)?;
    see_flags(a, 4)?;
    a.test(eax, eax)?;
    a.jne(second)?;
    a.sysretq()?;
    a.set_label(&mut second)?;
    power_off(a)
}

fn user(a: &mut CodeAssembler) -> Result<(), IcedError> {
    see_flags(a, 5)?;
    a.ud2()?;
    a.int(0x80_i32)?;
    a.xor(eax, eax)?;
    a.syscall()?;
    see_flags(a, 6)?;
    a.mov(rbx, UNMAPPED)?;
    a.mov(rax, qword_ptr(rbx))?;
    a.mov(eax, 1_i32)?;
    a.syscall()
}

/// Flags pushed and popped, interrupts let in, a stack segment loaded, strings repeated. No exception.
fn flags(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.in_(eax, 0xF7_i32)?;
    see_flags(a, 0)?;
    a.sti()?;
    a.nop()?;
    see_flags(a, 0)?;
    a.cli()?;
    a.pushfq()?;
    a.popfq()?;
    a.mov(esi, i32::try_from(CODE).unwrap())?;
    a.mov(edi, i32::try_from(DATA).unwrap())?;
    a.mov(ecx, 5_i32)?;
    a.rep().movsb()?;
    a.mov(ecx, 3_i32)?;
    a.rep().stosq()?;
    a.std()?;
    see_flags(a, 0)?;
    a.cld()
}

/// The same, then exceptions, INT, user mode, system calls.
fn events(a: &mut CodeAssembler) -> Result<(), IcedError> {
    flags(a)?;
    a.mov(ax, iced_x86::code_asm::ss)?;
    a.mov(iced_x86::code_asm::ss, ax)?;
    a.nop()?;
    a.ud2()?;
    a.mov(rbx, UNMAPPED)?;
    a.mov(rax, qword_ptr(rbx))?;
    a.int(0x80_i32)?;
    a.push(USER_DATA)?;
    a.push(i32::try_from(USER_STACK).unwrap())?;
    a.pushfq()?;
    a.push(USER_PROGRAM)?;
    a.push(i32::try_from(USER_CODE).unwrap())?;
    a.iretq()
}

/// A few ticks of the timer are waited for, by a loop of exits with few instructions between.
fn ticks(a: &mut CodeAssembler) -> Result<(), IcedError> {
    const COUNT: u32 = 1_193;
    let mut again = a.create_label();
    // The first controller's vectors begin at the tick's; all lines but the timer's are masked.
    for (port, value) in [
        (0x20, 0x11),
        (0x21, u32::from(TICK)),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xFE),
        (0x43, 0x34),
        (0x40, COUNT & 0xFF),
        (0x40, COUNT >> 8),
    ] {
        a.mov(al, value)?;
        a.out(port, al)?;
    }
    a.sti()?;
    a.set_label(&mut again)?;
    a.in_(eax, 0xF7_i32)?;
    a.mov(ecx, 50_i32)?;
    let mut wait = a.create_label();
    a.set_label(&mut wait)?;
    see_flags(a, 0)?;
    a.dec(ecx)?;
    a.jne(wait)?;
    a.cmp(qword_ptr(TICKS_SEEN), TICKS)?;
    a.jb(again)?;
    a.cli()?;
    power_off(a)
}

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn put(memory: &GuestMemory, address: u64, bytes: &[u8]) {
    memory.write(GuestPhys(address), bytes).unwrap();
}

fn put_code(
    memory: &GuestMemory,
    address: u64,
    write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    let mut assembler = CodeAssembler::new(64).unwrap();
    write(&mut assembler).unwrap();
    put(memory, address, &assembler.assemble(address).unwrap());
}

/// A machine with handlers, a user mode and system calls, that begins with `kernel`.
fn whole_machine(kernel: Program) -> StartedVm {
    let (memory, entry) = tiny_program(kernel).unwrap();
    put_code(&memory, USER_CODE, user);
    put_code(&memory, SYSTEM_CALL, system_call);
    put_code(&memory, handler(UNDEFINED), |a| returning(a, 0, 2));
    // A load through RBX has three bytes.
    put_code(&memory, handler(PAGE_FAULT), |a| returning(a, 8, 3));
    put_code(&memory, handler(CALL_GATE), |a| returning(a, 0, 0));
    put_code(&memory, handler(TICK), on_tick);
    for (vector, kind) in [
        (UNDEFINED, 0x8E),
        (PAGE_FAULT, 0x8E),
        (TICK, 0x8E),
        (CALL_GATE, 0xEE),
    ] {
        let target = u32::try_from(handler(vector)).unwrap().to_le_bytes();
        let selector = KERNEL_CODE.to_le_bytes();
        let gate = [
            target[0],
            target[1],
            selector[0],
            selector[1],
            0,
            kind,
            target[2],
            target[3],
        ];
        put(&memory, IDT + u64::from(vector) * 16, &gate);
    }
    for (place, descriptor) in (0_u64..).zip(DESCRIPTORS) {
        put(&memory, GDT + place * 8, &descriptor.to_le_bytes());
    }
    put(&memory, TSS + 4, &HANDLER_STACK.to_le_bytes());
    // All that is mapped is the user's too.
    for table in [0x1000, 0x2000] {
        put(&memory, table, &[0x07]);
    }
    for page in 0..512 {
        put(&memory, 0x3000 + page * 8, &[0x87]);
    }
    let mut vm = StartedVm::bare(&KvmHost::open().unwrap(), memory, Beginning::Boot(&entry)).unwrap();
    let vcpu = vm.vcpu();
    let mut sregs = vcpu.system_registers().unwrap();
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 9 * 8 - 1);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 256 * 16 - 1);
    (sregs.tr.base, sregs.tr.selector) = (TSS, TASK);
    // SYSCALL is switched on.
    sregs.efer |= 1;
    vcpu.set_system_registers(&sregs).unwrap();
    let selectors = 0x0030_0010 << 32;
    vcpu.set_msrs(&[
        (0xC000_0081, selectors),
        (0xC000_0082, SYSTEM_CALL),
        (0xC000_0084, SYSCALL_MASK),
    ])
    .unwrap();
    vm
}

/// A record of a machine that `make` makes, or `None` with a note where this KVM cannot run it.
fn whole_record(make: fn() -> StartedVm) -> Option<Record> {
    match record_of(make, |_| {})? {
        Ok((record, _)) => Some(record),
        Err(outcome) => {
            eprintln!("skipped: this KVM does not run such a guest: {outcome:?}");
            None
        }
    }
}

/// The same, of a program whose only exits are its first instruction and the power-off: a tick that falls due at the first
/// makes the opening of a window an exit too, and then it is recorded again.
fn record_of_one_stretch(make: fn() -> StartedVm) -> Option<Record> {
    for _ in 0..20 {
        let record = whole_record(make)?;
        let mut log = LogReader::open(&record.log).unwrap();
        let mut through = ExitOrdinal::default();
        while let Some(batch) = log.next_batch().unwrap() {
            through = batch.through;
        }
        if through.get() == 2 {
            return Some(record);
        }
    }
    panic!("a tick fell due each time");
}

/// Replays `record` by single steps alone, and compares.
fn assert_steps_make_no_difference(record: &Record) {
    let mut vm = (record.make)();
    let log = LogReader::open(&record.log).unwrap();
    let replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone());
    let exits = ExitOrdinal::default()..ExitOrdinal::new(u64::MAX);
    let (digests, _) = finish(&mut vm, replayer.stepping_from(exits)).unwrap();
    let seen = seen_by(&vm);
    drop(vm);
    let mut vm = (record.make)();
    let log = LogReader::open(&record.log).unwrap();
    let replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone());
    finish(&mut vm, replayer).unwrap();
    assert_eq!(seen, seen_by(&vm), "sums of flags, place by place");
    assert_eq!(digests, record.digests);
}

/// What the places that see flags have summed up.
fn seen_by(vm: &StartedVm) -> [u64; 8] {
    (0..8_u64)
        .map(|place| {
            let mut word = [0; 8];
            vm.memory().read(GuestPhys(SEEN + place * 8), &mut word).unwrap();
            u64::from_le_bytes(word)
        })
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

#[test]
fn kvm_stepping_from_exit_to_exit_makes_no_difference() {
    let Some(record) = record() else { return };
    assert_steps_make_no_difference(&record);
}

#[test]
fn kvm_stepping_through_what_touches_the_flags_makes_no_difference() {
    let whole = || machine_of(|a| flags(a).and_then(|()| power_off(a)));
    if let Some(record) = whole_record(whole) {
        assert_steps_make_no_difference(&record);
    }
}

#[test]
fn kvm_stepping_through_faults_system_calls_and_user_mode_makes_no_difference() {
    if let Some(record) = whole_record(|| whole_machine(events)) {
        assert_steps_make_no_difference(&record);
    }
}

/// Whether this KVM says of a HLT that is stepped that the guest halts.
fn steps_halts() -> bool {
    let halt = TinyGuest::new(|a| a.hlt());
    halt.is_ok_and(|mut guest| guest.vcpu.step().unwrap() == Exit::Halt)
}

#[test]
fn kvm_stepping_through_interrupts_makes_no_difference() {
    if !steps_halts() {
        return eprintln!("skipped: no KVM here, or one that takes a halt for a step");
    }
    if let Some(record) = whole_record(|| whole_machine(ticks)) {
        assert_steps_make_no_difference(&record);
    }
}

/// The address of the next instruction of `record`'s machine held at `position`, or what kept it from coming there.
fn rip_at(record: &Record, position: Position) -> Result<u64, LaunchError> {
    let mut vm = (record.make)();
    let log = LogReader::open(&record.log).unwrap();
    let mut replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone()).until(Some(position));
    assert_eq!(vm.run(&mut replayer)?.outcome, Outcome::Held);
    let registers = vm.vcpu().registers().unwrap();
    assert_eq!(registers.rflags & TRAP_FLAG, 0, "{position}");
    Ok(registers.rip)
}

/// The addresses of the next instruction after each that completes, of a machine of ours behind its first exit, as the
/// manuals say, up to the next exit.
fn walk(memory: &GuestMemory) -> Vec<u64> {
    let decode = |rip: u64| -> Instruction {
        let mut code = [0; 15];
        memory.read(GuestPhys(rip), &mut code).unwrap();
        Decoder::with_ip(64, &code, rip, DecoderOptions::NONE).decode()
    };
    let (mut rip, mut rcx, mut calls) = (decode(CODE).next_ip(), 0, 0);
    let (mut returns, mut user, mut rips) = (Vec::new(), USER_CODE, Vec::new());
    loop {
        let instruction = decode(rip);
        let next = instruction.next_ip();
        let fault = match instruction.mnemonic() {
            // Its handler returns behind it.
            Mnemonic::Ud2 => Some(UNDEFINED),
            Mnemonic::Mov if instruction.memory_base() == iced_x86::Register::RBX => Some(PAGE_FAULT),
            _ => None,
        };
        if let Some(vector) = fault {
            returns.push(next);
            rip = handler(vector);
            continue;
        }
        rip = match instruction.mnemonic() {
            Mnemonic::Out => return rips,
            Mnemonic::Mov if instruction.code() == Code::Mov_r32_imm32 => {
                rcx = instruction.immediate32();
                next
            }
            Mnemonic::Movsb | Mnemonic::Stosq => {
                rcx -= 1;
                if rcx == 0 { next } else { rip }
            }
            Mnemonic::Int => {
                returns.push(next);
                handler(instruction.immediate8())
            }
            Mnemonic::Iretq => returns.pop().unwrap_or(USER_CODE),
            Mnemonic::Syscall => {
                user = next;
                calls += 1;
                SYSTEM_CALL
            }
            Mnemonic::Sysretq => user,
            Mnemonic::Jne if calls > 1 => instruction.near_branch_target(),
            _ => next,
        };
        rips.push(rip);
    }
}

/// Goes to each position behind the first exit, and behind the last of them.
fn assert_each_instruction_is_reached(record: &Record) {
    let exit = ExitOrdinal::new(1);
    let rips = walk((record.make)().memory());
    assert!(rips.len() >= 30, "{rips:x?}");
    for (instructions, expected) in (1..).zip(&rips) {
        let position = Position { exit, instructions };
        match rip_at(record, position) {
            Err(LaunchError::Run(RunError::Host { source, .. })) => {
                let is_repeating = *expected == rips[usize::try_from(instructions).unwrap() - 2];
                assert!(is_repeating && !steps_halts(), "{position}: {source}");
                eprintln!("skipped: {position}: {source}");
            }
            rip => assert_eq!(rip.unwrap(), *expected, "{position}"),
        }
    }
    let instructions = rips.len() as u64 + 1;
    match rip_at(record, Position { exit, instructions }) {
        Err(LaunchError::Run(RunError::Timeline(TimelineError::Beyond { exit, instructions }))) => {
            assert_eq!((exit.get(), instructions), (2, rips.len() as u64));
        }
        other => panic!("the next exit is passed: {other:?}"),
    }
}

#[test]
fn kvm_a_position_between_two_exits_is_reached_instruction_by_instruction() {
    let whole = || machine_of(|a| flags(a).and_then(|()| power_off(a)));
    if let Some(record) = record_of_one_stretch(whole) {
        assert_each_instruction_is_reached(&record);
    }
}

#[test]
fn kvm_a_position_behind_faults_and_system_calls_is_reached_instruction_by_instruction() {
    if let Some(record) = record_of_one_stretch(|| whole_machine(events)) {
        assert_each_instruction_is_reached(&record);
    }
}
