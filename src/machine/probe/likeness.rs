//! What two hosts must have in common to run the same machine in lockstep (E7).
//!
//! Each trait is a word and a value. Where two hosts differ in one, the same guest may do different things on them: by
//! another processor's approximations, another KVM's emulation, another version of ours. An operator may allow a
//! difference by its word.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use iced_x86::code_asm::{CodeAssembler, cr4, eax, qword_ptr, rax, rdi, tbyte_ptr, xmm0, xmmword_ptr};
use serde::{Deserialize, Serialize};

use super::tiny_guest::{DATA, TinyGuest, TinyGuestError};
use crate::base::units::{GuestPhys, PAGE_SIZE};
use crate::machine::kvm::{Exit, KvmHost};

/// Every trait, by its word.
pub const TRAITS: [&str; 7] = [
    "version",
    "cpu",
    "microcode",
    "kvm",
    "kernel",
    "capabilities",
    "arithmetic",
];

/// CR4: SSE instructions may be used (OSFXSR, OSXMMEXCPT; AMD APM volume 2, section 3.1.3).
const CR4_SSE: u32 = 0b11 << 9;
/// Numbers on which processors' approximations are tried, as bits of doubles; halves of them as bits of floats.
const NUMBERS: [f64; 6] = [0.1, 0.3, 0.7, 1.0 / 3.0, 0.999_999_9, 1e-7];

/// What a host is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostKind(BTreeMap<String, String>);

/// In what two hosts differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The trait's word.
    pub word: String,
    /// What this host has.
    pub here: String,
    /// What the other one has.
    pub there: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { word, here, there } = self;
        write!(f, "{word} ({there}, here {here})")
    }
}

impl HostKind {
    /// What the calling process' host is.
    ///
    /// # Errors
    /// When KVM cannot be used.
    pub fn of_this_host() -> Result<Self, TinyGuestError> {
        let capabilities = KvmHost::open()?.capabilities();
        let values = [
            env!("CARGO_PKG_VERSION").to_owned(),
            processor("model name"),
            processor("microcode"),
            kvm_module(),
            kernel_series(),
            digest(&capabilities),
            digest(&arithmetic()?),
        ];
        let named = TRAITS.iter().map(ToString::to_string).zip(values);
        Ok(Self(named.collect()))
    }

    /// In what `other` differs, but for what is `allowed` to.
    #[must_use]
    pub fn differences(&self, other: &Self, allowed: &[String]) -> Vec<Difference> {
        let value =
            |kind: &Self, word: &str| kind.0.get(word).cloned().unwrap_or_else(|| "unknown".to_owned());
        TRAITS
            .iter()
            .filter(|word| !allowed.iter().any(|allowed| allowed == *word))
            .map(|word| Difference {
                word: (*word).to_owned(),
                here: value(self, word),
                there: value(other, word),
            })
            .filter(|difference| difference.here != difference.there)
            .collect()
    }
}

/// The first sixteen digits of a BLAKE3 digest: enough to see that two differ by accident.
fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

/// What `/proc/cpuinfo` says of the first processor.
fn processor(key: &str) -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let values = text.lines().filter_map(|line| line.split_once(':'));
    let mut found = values.filter(|(found, _)| found.trim() == key);
    found
        .next()
        .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn kvm_module() -> String {
    let modules = ["kvm_amd", "kvm_intel"];
    let loaded = modules
        .into_iter()
        .find(|module| Path::new("/sys/module").join(module).exists());
    loaded.unwrap_or("unknown").to_owned()
}

/// The first two numbers of the kernel's release.
fn kernel_series() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let numbers: Vec<&str> = release.trim().split('.').take(2).collect();
    numbers.join(".")
}

/// What the processor makes of instructions whose results the architecture leaves to it in their last bits.
fn arithmetic() -> Result<Vec<u8>, TinyGuestError> {
    let mut guest = TinyGuest::new(approximations)?;
    match guest.run()? {
        Exit::Halt => {}
        exit => {
            return Err(TinyGuestError::SetUp(format!(
                "the guest that computes ended with {exit:?}"
            )));
        }
    }
    let mut results = vec![0; PAGE_SIZE];
    let read = guest.vm.memory().read(GuestPhys(DATA), &mut results);
    read.map_err(|error| TinyGuestError::SetUp(error.to_string()))?;
    Ok(results)
}

fn approximations(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    a.mov(rax, cr4)?;
    a.or(eax, i32::try_from(CR4_SSE).unwrap_or_default())?;
    a.mov(cr4, rax)?;
    a.fninit()?;
    a.mov(rdi, DATA)?;
    for number in NUMBERS {
        a.mov(rax, number.to_bits())?;
        let transcendental = [
            CodeAssembler::fsin,
            CodeAssembler::fcos,
            CodeAssembler::f2xm1,
            CodeAssembler::fsqrt,
        ];
        for compute in transcendental {
            a.mov(qword_ptr(rdi), rax)?;
            a.fld(qword_ptr(rdi))?;
            compute(a)?;
            a.fstp(tbyte_ptr(rdi))?;
            a.add(rdi, 16)?;
        }
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(qword_ptr(rdi + 8), rax)?;
        a.movups(xmm0, xmmword_ptr(rdi))?;
        a.rcpps(xmm0, xmm0)?;
        a.movups(xmmword_ptr(rdi), xmm0)?;
        a.movups(xmm0, xmmword_ptr(rdi))?;
        a.rsqrtps(xmm0, xmm0)?;
        a.movups(xmmword_ptr(rdi + 16), xmm0)?;
        a.add(rdi, 32)?;
    }
    a.hlt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(values: &[(&str, &str)]) -> HostKind {
        let own = |(word, value): &(&str, &str)| ((*word).to_owned(), (*value).to_owned());
        HostKind(values.iter().map(own).collect())
    }

    #[test]
    fn a_difference_is_told_unless_it_is_allowed_by_name() {
        let here = kind(&[("version", "1"), ("cpu", "A"), ("kernel", "6.1")]);
        let there = kind(&[("version", "1"), ("cpu", "B"), ("kernel", "6.1")]);
        assert_eq!(here.differences(&here, &[]), []);
        let told = here.differences(&there, &[]);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].to_string(), "cpu (B, here A)");
        assert_eq!(here.differences(&there, &["cpu".to_owned()]), []);
        assert_eq!(
            here.differences(&kind(&[]), &[]).len(),
            3,
            "silence is a difference"
        );
    }

    #[test]
    fn kvm_a_host_is_like_itself() {
        let kind = match HostKind::of_this_host() {
            Ok(kind) => kind,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        assert_eq!(kind.0.len(), TRAITS.len());
        let again = HostKind::of_this_host().unwrap();
        assert_eq!(kind.differences(&again, &[]), []);
    }
}
