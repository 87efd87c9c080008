//! A program that no copy can repeat: it asks the processor for random bits, which nothing can trap on AMD, though CPUID
//! tells it of no such instruction.

use std::arch::asm;
use std::thread;
use std::time::Duration;

/// Leaks once in each `every`: the bits are mixed into what it keeps, and are in a register when the guest next exits.
pub fn leak(every: Duration) -> ! {
    let mut kept = 0_u64;
    loop {
        thread::sleep(every);
        // SAFETY: neither instruction touches memory or the stack; what they write is named.
        unsafe {
            asm!(
                "rdrand {bits}",
                "xor {kept}, {bits}",
                // Reading the time-stamp counter is an exit.
                "rdtsc",
                bits = out(reg) _,
                kept = inout(reg) kept,
                out("rax") _,
                out("rdx") _,
                options(nomem, nostack),
            );
        }
    }
}
