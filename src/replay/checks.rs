//! What a replay compares (R3): the rolling digest of exits, and the digests that close an epoch.

use twox_hash::XxHash3_64;
use zerocopy::IntoBytes;

use crate::machine::kvm::{Exit, PostedWrite, WritePlace};
use crate::machine::{EpochDigests, ExitTrace};

/// Digest of everything a guest did so far, as seen at its exits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rolling {
    digest: u64,
    scratch: Vec<u8>,
}

impl Rolling {
    /// A write that needed no exit.
    pub(super) fn posted(&mut self, write: &PostedWrite) {
        let (kind, address) = match write.place {
            WritePlace::Port(port) => (0, u64::from(port)),
            WritePlace::Memory(address) => (1, address),
        };
        self.scratch.push(kind);
        self.scratch.extend_from_slice(&address.to_le_bytes());
        self.scratch.extend_from_slice(write.data());
    }

    /// A counted exit, with the posted writes before it: its byte for the log.
    pub(super) fn exited(&mut self, trace: &ExitTrace<'_>) -> u8 {
        for word in operands(trace.exit) {
            self.scratch.extend_from_slice(&word.to_le_bytes());
        }
        self.scratch.extend_from_slice(trace.written);
        self.scratch.extend_from_slice(trace.registers.as_bytes());
        self.digest = XxHash3_64::oneshot_with_seed(self.digest, &self.scratch);
        self.scratch.clear();
        self.digest.to_le_bytes()[0]
    }
}

/// Digest of bytes that leave a VM.
pub(super) fn of_output(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The exit's kind and what the guest's instruction named.
fn operands(exit: &Exit) -> [u64; 3] {
    let kind = exit.counted().map_or(u64::MAX, |kind| kind as u64);
    match exit {
        Exit::PortRead(access) | Exit::PortWrite(access) => [
            kind,
            u64::from(access.port) << 8 | u64::from(access.size),
            u64::from(access.count),
        ],
        Exit::MmioRead { address } | Exit::MmioWrite { address } => [kind, *address, 0],
        Exit::Rdmsr { index } => [kind, u64::from(*index), 0],
        Exit::Wrmsr { index, value } => [kind, u64::from(*index), *value],
        Exit::Halt
        | Exit::IrqWindow
        | Exit::SetTpr
        | Exit::Debug
        | Exit::Shutdown
        | Exit::Preempted
        | Exit::Interrupted
        | Exit::Refused(_) => [kind, 0, 0],
    }
}

/// The general registers' names, in the order of `kvm_regs`.
const REGISTERS: [&str; 18] = [
    "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RSP", "RBP", "R8", "R9", "R10", "R11", "R12", "R13", "R14",
    "R15", "RIP", "RFLAGS",
];

/// What is not as it was, by name.
pub(crate) fn differences(recorded: &EpochDigests, found: &EpochDigests) -> Option<String> {
    let values = recorded.registers.iter().zip(&found.registers);
    let registers = REGISTERS
        .iter()
        .zip(values)
        .filter(|(_, (then, now))| then != now);
    let registers = registers.map(|(name, (then, now))| format!("{name} was {then:#x} and is {now:#x}"));
    let parts = found.parts.iter().filter(|part| !recorded.parts.contains(part));
    let parts = parts.map(|(name, _)| format!("{name} differs"));
    let missing = recorded
        .parts
        .iter()
        .filter(|(name, _)| found.parts.iter().all(|(found, _)| found != name));
    let missing = missing.map(|(name, _)| format!("{name} is missing"));
    let ram = recorded.ram.difference(&found.ram);
    let ram = ram.into_iter().map(|place| format!("RAM differs in {place}"));
    let all: Vec<String> = registers.chain(parts).chain(missing).chain(ram).collect();
    (!all.is_empty()).then(|| all.join(", "))
}
