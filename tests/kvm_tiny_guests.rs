//! Tiny guests of our own on this machine's `/dev/kvm`. Where it is missing, each test says so and is skipped.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use antipode::base::clock::SystemClock;
use antipode::base::units::GuestPhys;
use antipode::machine::kvm::{Exit, KickTimer, KvmHost, PortAccess};
use antipode::machine::probe::{DATA, TinyGuest, judge, probe_kvm};
use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, al, dx, eax, ecx, edi, rcx, rdi, rsi};
use std::time::Duration;

/// A guest running `code`, or `None` with a note where there is no KVM.
fn guest(code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Option<TinyGuest> {
    if let Err(error) = KvmHost::open() {
        eprintln!("skipped: {error}");
        return None;
    }
    Some(TinyGuest::new(code).unwrap())
}

#[test]
fn kvm_port_accesses_carry_data_both_ways() {
    let Some(mut guest) = guest(|a| {
        a.mov(dx, 0x510_i32)?;
        a.in_(eax, dx)?;
        a.add(eax, 1)?;
        a.out(dx, eax)?;
        a.out(0x42_i32, al)?;
        a.hlt()
    }) else {
        return;
    };
    let wide = PortAccess {
        port: 0x510,
        size: 4,
        count: 1,
    };
    assert_eq!(guest.run().unwrap(), Exit::PortRead(wide));
    guest
        .vcpu
        .port_data()
        .copy_from_slice(&0x1122_3344_u32.to_le_bytes());
    assert_eq!(guest.run().unwrap(), Exit::PortWrite(wide));
    assert_eq!(guest.vcpu.port_data(), 0x1122_3345_u32.to_le_bytes());
    assert_eq!(
        guest.run().unwrap(),
        Exit::PortWrite(PortAccess {
            port: 0x42,
            size: 1,
            count: 1
        })
    );
    assert_eq!(guest.vcpu.port_data(), [0x45]);
    assert_eq!(guest.run().unwrap(), Exit::Halt);
}

#[test]
fn kvm_string_output_arrives_whole() {
    let Some(mut guest) = guest(|a| {
        a.mov(rdi, DATA)?;
        a.mov(eax, 0x6463_6261_i32)?;
        a.stosd()?;
        a.mov(rsi, DATA)?;
        a.mov(rcx, 4_i64)?;
        a.mov(dx, 0x3F8_i32)?;
        a.rep().outsb()?;
        a.hlt()
    }) else {
        return;
    };
    let mut written = Vec::new();
    loop {
        match guest.run().unwrap() {
            Exit::PortWrite(access) => {
                assert_eq!((access.port, access.size), (0x3F8, 1));
                written.extend_from_slice(guest.vcpu.port_data());
            }
            Exit::Halt => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(written, b"abcd");
}

#[test]
fn kvm_an_msr_access_that_faults_keeps_interrupts_out_until_the_fault_is_delivered() {
    for faults in [false, true] {
        let Some(mut guest) = guest(|a| {
            a.sti()?;
            a.mov(ecx, 0x1234_i32)?;
            a.rdmsr()?;
            a.hlt()
        }) else {
            return;
        };
        assert_eq!(guest.run().unwrap(), Exit::Rdmsr { index: 0x1234 });
        assert!(!guest.vcpu.ready_for_interrupt(), "the instruction is open");
        guest.vcpu.answer_msr((!faults).then_some(7));
        guest.vcpu.complete_instruction().unwrap();
        assert!(guest.vcpu.interrupts_enabled());
        assert_eq!(guest.vcpu.ready_for_interrupt(), !faults);
    }
}

#[test]
fn kvm_completing_one_element_of_a_string_leaves_the_next_exit_to_be_run_into() {
    let Some(mut guest) = guest(|a| {
        a.mov(rsi, DATA)?;
        a.mov(rcx, 3_i64)?;
        a.mov(dx, 0x3F8_i32)?;
        a.rep().outsb()?;
        a.hlt()
    }) else {
        return;
    };
    let mut elements = 0;
    while let Exit::PortWrite(access) = guest.run().unwrap() {
        elements += access.count;
        guest.vcpu.complete_instruction().unwrap();
    }
    assert_eq!(elements, 3);
}

#[test]
fn kvm_registers_set_at_a_port_read_reach_the_guest() {
    let Some(mut guest) = guest(|a| {
        a.in_(eax, 0xF7_i32)?;
        a.mov(rdi, DATA)?;
        a.mov(iced_x86::code_asm::dword_ptr(rdi), eax)?;
        a.mov(iced_x86::code_asm::dword_ptr(rdi + 4), iced_x86::code_asm::edx)?;
        a.hlt()
    }) else {
        return;
    };
    assert!(matches!(guest.run().unwrap(), Exit::PortRead(_)));
    let mut regs = guest.vcpu.registers().unwrap();
    regs.rax = 7;
    regs.rdx = 0xAABB_CCDD;
    guest.vcpu.set_registers(&regs).unwrap();
    guest.vcpu.port_data().copy_from_slice(&7_u32.to_le_bytes());
    assert_eq!(guest.run().unwrap(), Exit::Halt);
    let mut stored = [0; 8];
    guest.vm.memory().read(GuestPhys(DATA), &mut stored).unwrap();
    assert_eq!(
        u64::from_le_bytes(stored),
        0xAABB_CCDD_0000_0007,
        "a rewritten RDTSC gets EDX:EAX"
    );
}

#[test]
fn kvm_a_wild_address_is_an_exit_and_touches_nothing() {
    let Some(mut guest) = guest(|a| {
        a.mov(rdi, 0x3000_0000_i64)?;
        a.mov(iced_x86::code_asm::dword_ptr(rdi), edi)?;
        a.hlt()
    }) else {
        return;
    };
    assert_eq!(guest.run().unwrap(), Exit::MmioWrite { address: 0x3000_0000 });
}

#[test]
fn kvm_a_triple_fault_is_a_shutdown() {
    let Some(mut guest) = guest(|a| {
        a.ud2()?;
        a.hlt()
    }) else {
        return;
    };
    assert_eq!(guest.run().unwrap(), Exit::Shutdown);
}

#[test]
fn kvm_a_waker_gets_a_spinning_guest_s_thread_back() {
    let Some(mut guest) = guest(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.jmp(again)
    }) else {
        return;
    };
    let waker = guest.vcpu.kicker().waker();
    for _ in 0..50 {
        let waker = waker.clone();
        let poster = std::thread::spawn(move || waker.wake());
        while !guest.vcpu.kicker().take_work() {
            if guest.vcpu.kicker().enter_guest() {
                assert_eq!(guest.vcpu.run().unwrap(), Exit::Interrupted);
                guest.vcpu.kicker().leave_guest();
            }
        }
        poster.join().unwrap();
    }
}

#[test]
fn kvm_a_kick_that_lands_while_a_vcpu_is_taken_down_harms_nobody() {
    if let Err(error) = KvmHost::open() {
        eprintln!("skipped: {error}");
        return;
    }
    for step in 0..200 {
        let guest = TinyGuest::new(CodeAssembler::hlt).unwrap();
        // Its kick ends with it: KVM would give up the creation of the next guest for a signal.
        let mut timer = KickTimer::for_this_thread().unwrap();
        timer.arm(Duration::from_micros(10 * step)).unwrap();
        drop(guest);
    }
}

#[test]
fn kvm_the_probe_ends_with_a_verdict() {
    if let Err(error) = KvmHost::open() {
        eprintln!("skipped: {error}");
        return;
    }
    let findings = probe_kvm(&SystemClock).unwrap();
    let verdict = judge(&findings);
    assert!(findings.kernel_instructions_per_second > 0, "{findings:?}");
    assert_eq!(verdict.can_run_linux(), verdict.obstacles.is_empty());
    eprintln!("{findings:#?}\n{verdict:#?}");
}
