//! The CPUID leaves of the table `deterministic`.
//!
//! It describes an AMD processor of family 19h: Linux then takes `SYSCALL` for 32-bit programs, which every x86-64
//! KVM host runs or emulates, and asks for no host-specific MSR that the MSR table does not list. Feature level is
//! x86-64-v2 plus AES and PCLMULQDQ; AVX needs XSAVE and is therefore absent. Sources: AMD APM volume 3, appendix E;
//! Intel SDM volume 2, CPUID.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// The table's name and version, part of what two sites compare before they pair.
pub const TABLE_NAME: &str = "deterministic-1";

const VENDOR: &[u8; 12] = b"AuthenticAMD";
const BRAND: &[u8; 48] = b"Antipode deterministic-1 virtual processor\0\0\0\0\0\0";

const HIGHEST_BASIC_LEAF: u32 = 0x7;
const HIGHEST_EXTENDED_LEAF: u32 = 0x8000_0008;
/// Family 19h, model 1, stepping 1.
const SIGNATURE: u32 = 0x00A0_0F11;
/// CLFLUSH line size 8 × 8 bytes, one logical processor, initial APIC id 0.
const CLFLUSH_AND_COUNT: u32 = 0x0001_0800;
/// 40 physical and 48 linear address bits.
const ADDRESS_BITS: u32 = 0x3028;

/// A CPUID register within a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}

/// One feature bit.
struct Feature {
    leaf: u32,
    register: Register,
    bit: u32,
    name: &'static str,
}

const fn feature(leaf: u32, register: Register, bit: u32, name: &'static str) -> Feature {
    Feature {
        leaf,
        register,
        bit,
        name,
    }
}

/// Every feature the guest sees. A host must offer them all.
const FEATURES: &[Feature] = &[
    feature(1, Register::Edx, 0, "FPU"),
    feature(1, Register::Edx, 2, "DE"),
    feature(1, Register::Edx, 3, "PSE"),
    feature(1, Register::Edx, 5, "MSR"),
    feature(1, Register::Edx, 6, "PAE"),
    feature(1, Register::Edx, 8, "CMPXCHG8B"),
    feature(1, Register::Edx, 11, "SYSENTER"),
    feature(1, Register::Edx, 13, "PGE"),
    feature(1, Register::Edx, 15, "CMOV"),
    feature(1, Register::Edx, 16, "PAT"),
    feature(1, Register::Edx, 17, "PSE36"),
    feature(1, Register::Edx, 19, "CLFLUSH"),
    feature(1, Register::Edx, 23, "MMX"),
    feature(1, Register::Edx, 24, "FXSR"),
    feature(1, Register::Edx, 25, "SSE"),
    feature(1, Register::Edx, 26, "SSE2"),
    feature(1, Register::Ecx, 0, "SSE3"),
    feature(1, Register::Ecx, 1, "PCLMULQDQ"),
    feature(1, Register::Ecx, 9, "SSSE3"),
    feature(1, Register::Ecx, 13, "CMPXCHG16B"),
    feature(1, Register::Ecx, 19, "SSE4.1"),
    feature(1, Register::Ecx, 20, "SSE4.2"),
    feature(1, Register::Ecx, 22, "MOVBE"),
    feature(1, Register::Ecx, 23, "POPCNT"),
    feature(1, Register::Ecx, 25, "AES"),
    feature(1, Register::Ecx, 31, "HYPERVISOR"),
    feature(7, Register::Ebx, 7, "SMEP"),
    feature(0x8000_0001, Register::Ecx, 0, "LAHF"),
    feature(0x8000_0001, Register::Edx, 11, "SYSCALL"),
    feature(0x8000_0001, Register::Edx, 20, "NX"),
    feature(0x8000_0001, Register::Edx, 29, "LM"),
];

/// Bits of leaf 1 EDX that AMD processors repeat in leaf 8000_0001 EDX.
const REPEATED_EDX_BITS: u32 = 0x0183_F3FF;

fn feature_bits(leaf: u32, register: Register) -> u32 {
    FEATURES
        .iter()
        .filter(|feature| feature.leaf == leaf && feature.register == register)
        .fold(0, |bits, feature| bits | 1 << feature.bit)
}

fn word(text: &[u8], index: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&text[index * 4..index * 4 + 4]);
    u32::from_le_bytes(bytes)
}

fn leaf(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..kvm_cpuid_entry2::default()
    }
}

fn features_leaf(function: u32, eax: u32, ebx: u32) -> kvm_cpuid_entry2 {
    let ebx = ebx | feature_bits(function, Register::Ebx);
    leaf(
        function,
        eax,
        ebx,
        feature_bits(function, Register::Ecx),
        feature_bits(function, Register::Edx),
    )
}

fn vendor_leaf(function: u32, highest: u32) -> kvm_cpuid_entry2 {
    leaf(
        function,
        highest,
        word(VENDOR, 0),
        word(VENDOR, 2),
        word(VENDOR, 1),
    )
}

fn entries() -> Vec<kvm_cpuid_entry2> {
    let mut entries = vec![
        vendor_leaf(0, HIGHEST_BASIC_LEAF),
        features_leaf(1, SIGNATURE, CLFLUSH_AND_COUNT),
    ];
    entries.extend((2..=6).map(|function| leaf(function, 0, 0, 0, 0)));
    let mut structured = features_leaf(7, 0, 0);
    structured.flags = kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entries.push(structured);
    entries.push(vendor_leaf(0x8000_0000, HIGHEST_EXTENDED_LEAF));
    let mut extended = features_leaf(0x8000_0001, SIGNATURE, 0);
    extended.edx |= feature_bits(1, Register::Edx) & REPEATED_EDX_BITS;
    entries.push(extended);
    for part in 0..3_u32 {
        let at = part as usize * 4;
        let [eax, ebx, ecx, edx] = [0, 1, 2, 3].map(|index| word(BRAND, at + index));
        entries.push(leaf(0x8000_0002 + part, eax, ebx, ecx, edx));
    }
    // L1: 32 KiB, 8-way, 64-byte lines; L2: 512 KiB, 8-way; L3: 16 MiB, 16-way (APM 3, E.4.4 and E.4.5).
    entries.push(leaf(
        0x8000_0005,
        0xFF48_FF40,
        0xFF48_FF40,
        0x2008_0140,
        0x2008_0140,
    ));
    entries.push(leaf(
        0x8000_0006,
        0x4C00_4200,
        0x6C00_4200,
        0x0200_6140,
        0x0080_9140,
    ));
    entries.push(leaf(0x8000_0007, 0, 0, 0, 0));
    entries.push(leaf(0x8000_0008, ADDRESS_BITS, 0, 0, 0));
    entries
}

/// The table, as KVM takes it.
///
/// # Panics
/// Never: the table is far below KVM's limit, which a test checks.
#[must_use]
pub fn deterministic_table() -> CpuId {
    CpuId::from_entries(&entries()).expect("the table is shorter than KVM_MAX_CPUID_ENTRIES")
}

/// Names of the table's features that a host's KVM does not offer, given its supported leaves.
#[must_use]
pub fn missing_on_host(supported: &CpuId) -> Vec<&'static str> {
    // The hypervisor bit is ours to set, KVM passes it through whether or not it lists it.
    FEATURES
        .iter()
        .filter(|feature| feature.name != "HYPERVISOR")
        .filter(|feature| {
            let offered = supported
                .as_slice()
                .iter()
                .find(|entry| entry.function == feature.leaf && entry.index == 0)
                .map_or(0, |entry| match feature.register {
                    Register::Ebx => entry.ebx,
                    Register::Ecx => entry.ecx,
                    Register::Edx => entry.edx,
                });
            offered & 1 << feature.bit == 0
        })
        .map(|feature| feature.name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32) -> kvm_cpuid_entry2 {
        *deterministic_table()
            .as_slice()
            .iter()
            .find(|entry| entry.function == function)
            .unwrap()
    }

    #[test]
    fn nothing_that_observes_the_host_is_shown() {
        let standard = entry(1);
        let hidden_edx = [
            (4, "TSC"),
            (7, "MCE"),
            (9, "APIC"),
            (12, "MTRR"),
            (14, "MCA"),
            (28, "HTT"),
        ];
        for (bit, name) in hidden_edx {
            assert_eq!(standard.edx & 1 << bit, 0, "{name}");
        }
        let hidden_ecx = [
            (3, "MONITOR"),
            (12, "FMA"),
            (15, "PDCM"),
            (17, "PCID"),
            (21, "X2APIC"),
            (24, "TSC-deadline"),
            (26, "XSAVE"),
            (27, "OSXSAVE"),
            (28, "AVX"),
            (30, "RDRAND"),
        ];
        for (bit, name) in hidden_ecx {
            assert_eq!(standard.ecx & 1 << bit, 0, "{name}");
        }
        let structured = entry(7);
        assert_eq!(structured.ebx, 1 << 7, "SMEP alone: no RDSEED, SMAP, TSX, AVX2");
        assert_eq!((structured.ecx, structured.edx), (0, 0), "no RDPID, WAITPKG");
        assert_eq!(entry(0x8000_0001).edx & 1 << 27, 0, "RDTSCP");
        assert_eq!(entry(0x8000_0007).edx, 0, "invariant TSC");
    }

    #[test]
    fn a_host_that_lacks_a_feature_is_named() {
        let mut host = deterministic_table();
        assert!(missing_on_host(&host).is_empty());
        for entry in host.as_mut_slice() {
            if entry.function == 1 {
                entry.ecx &= !(1 << 13);
            }
        }
        assert_eq!(missing_on_host(&host), vec!["CMPXCHG16B"]);
    }

    #[test]
    fn the_brand_reads_as_text() {
        let brand: Vec<u8> = (0x8000_0002..=0x8000_0004)
            .flat_map(|function| {
                let part = entry(function);
                [part.eax, part.ebx, part.ecx, part.edx]
                    .map(u32::to_le_bytes)
                    .concat()
            })
            .collect();
        assert_eq!(&brand, BRAND);
    }
}
