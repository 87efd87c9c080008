//! Makes a kernel's own use of the time-stamp counter and of CR4 visible to the machine (E2).
//!
//! | found | becomes | because |
//! |---|---|---|
//! | `RDTSC` (`0F 31`) | `in eax, imm8` (`E5 F7`) | No hypervisor lets user space trap it in ring 0; an I/O exit of the same length can be counted and answered from virtual time. |
//! | `mov %reg, %cr4` (`[41] 0F 22 E0+r`) | `out %al, imm8` (`E6`, port 0xE0 + register), `NOP`s | The machine must keep CR4.TSD set, or user programs read the counter. |
//! | `in imm8, %al` from a PIC's mask register, result overwritten unread | a two-byte `NOP` | Linux reads the mask at every interrupt and throws it away (`mask_and_ack_8259A`: "DUMMY - (do we need this?)"). The read changes nothing in an 8259, and each is an exit. |
//! | `RDTSCP`, `RDRAND`, `RDSEED`, `RDPID`, `RDPMC` | untouched, counted | The kernel runs them only if CPUID shows the feature, and the machine's table hides all of them. |
//!
//! **All** CR4 writes are edited, those of `relocate_kernel` too, though the kernel copies that one away before it
//! runs: the register stands in the port number and not in a table of addresses, so a copy works wherever it lies.
//! Leaving it alone would let `kexec` clear TSD behind the machine's back; edited, the machine sees the attempt.
//! The early writes in `startup_64` and the 32-bit one of the PVH entry are edited for the same reason; `out imm8`
//! is the same instruction in 32-bit code.
//!
//! The walk covers every executable section, `.init.text` and `.altinstr_replacement` among them: the latter holds
//! the `LFENCE; RDTSC` that the kernel copies over its plain `RDTSC` while it boots.
//!
//! An edit is made only where the evidence (`sweep`) says that an instruction starts there, has the length the edit
//! needs and is never entered in its middle. Wherever the bytes of either instruction occur and the decoder saw
//! another one, that must be explained. One doubt refuses the kernel: an instruction missed would make two sites
//! diverge, and one edited wrongly would corrupt a guest.

use serde::Serialize;

use super::elf::ExecutableSection;
use super::error::KernelError;
use super::iretq;
use super::sweep::{Kind, Site, Swept, sweep};
use crate::devices::platform::{TRAP_CR4_PORTS, TRAP_RDTSC_PORT};

/// Opcode of `in eax, imm8`.
const IN_EAX_IMM8: u8 = 0xE5;
/// Opcode of `out imm8, al`.
const OUT_IMM8_AL: u8 = 0xE6;
/// Opcode of a one-byte `nop`.
const NOP: u8 = 0x90;
/// A `nop` of two bytes.
const NOP_OF_TWO: [u8; 2] = [0x66, NOP];
/// Most stray branch targets in 10,000; Debian 6.1 has fewer than one. A sweep out of step has thousands.
const STRAY_PER_10_000_MAX: usize = 5;
/// Where the kernel keeps the code that it may copy over other code.
const ALTERNATIVES: &str = ".altinstr_replacement";

const _: () = assert!(TRAP_RDTSC_PORT <= 0xFF && *TRAP_CR4_PORTS.end() <= 0xFF);
const _: () = assert!(*TRAP_CR4_PORTS.end() - *TRAP_CR4_PORTS.start() == 15);

/// What was found and edited in one executable section.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SectionReport {
    /// Its name.
    pub name: String,
    /// Its length.
    pub byte_count: usize,
    /// Instructions decoded.
    pub instructions: usize,
    /// Bytes at which no instruction decodes, stepped over (32-bit code of the PVH entry, in Debian's).
    pub undecodable_byte_count: usize,
    /// Bytes that a direct branch leads to.
    pub branch_targets: usize,
    /// Those of them inside a decoded instruction.
    pub stray_branch_targets: usize,
    /// `RDTSC` rewritten.
    pub rdtsc: usize,
    /// Writes to CR4 rewritten.
    pub cr4_writes: usize,
    /// Reads of a PIC's mask whose result nobody looks at, left out.
    pub dead_mask_reads: usize,
    /// `RDTSCP` left alone.
    pub rdtscp: usize,
    /// `RDRAND` left alone.
    pub rdrand: usize,
    /// `RDSEED` left alone.
    pub rdseed: usize,
    /// `RDPID` left alone.
    pub rdpid: usize,
    /// `RDPMC` left alone.
    pub rdpmc: usize,
    /// Bytes that look like an `RDTSC` or a CR4 write but are part of another instruction.
    pub look_alikes: usize,
}

/// An instruction that was left alone although it is no alternative: the kernel must guard it by CPUID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UntouchedSite {
    /// Its mnemonic.
    pub mnemonic: &'static str,
    /// Its virtual address.
    pub address: u64,
}

/// What editing a kernel found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RewriteReport {
    /// The kernel's release, as in `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// Its executable sections.
    pub sections: Vec<SectionReport>,
    /// Virtual addresses of the rewritten CR4 writes.
    pub cr4_sites: Vec<u64>,
    /// `RDTSCP`, `RDRAND`, `RDSEED`, `RDPID` and `RDPMC` outside alternatives.
    pub untouched: Vec<UntouchedSite>,
}

impl RewriteReport {
    /// All `RDTSC` rewritten.
    #[must_use]
    pub fn rdtsc(&self) -> usize {
        self.sections.iter().map(|section| section.rdtsc).sum()
    }

    /// All writes to CR4 rewritten.
    #[must_use]
    pub fn cr4_writes(&self) -> usize {
        self.sections.iter().map(|section| section.cr4_writes).sum()
    }

    /// All reads of a PIC's mask left out.
    #[must_use]
    pub fn dead_mask_reads(&self) -> usize {
        self.sections.iter().map(|section| section.dead_mask_reads).sum()
    }

    /// All `RDTSC` and CR4 look-alikes explained.
    #[must_use]
    pub fn look_alikes(&self) -> usize {
        self.sections.iter().map(|section| section.look_alikes).sum()
    }
}

/// Edits the code of `image` in place. Returns the report, its release still empty, and the virtual address of the
/// user-return `IRETQ`.
///
/// # Errors
/// Any doubt about where instructions start, no `RDTSC` or CR4 write at all, or no user-return `IRETQ`; `image` is
/// then unchanged.
pub fn edit(image: &mut [u8], sections: &[ExecutableSection]) -> Result<(RewriteReport, u64), KernelError> {
    let swept = sweep(sections.iter().map(|section| {
        let bytes = image.get(section.file_range.clone()).unwrap_or_default();
        (section.name.as_str(), section.address, bytes)
    }))?;
    let mut report = RewriteReport::default();
    let mut patches = Vec::new();
    for (section, placed) in swept.iter().zip(sections) {
        report.sections.push(examine(section, &mut report.untouched)?);
        for site in &section.sites {
            if let Some(patch) = patch_for(section, site)? {
                patches.push((placed.file_range.start + site.offset, patch));
            }
            if matches!(site.kind, Kind::Cr4Write(_)) {
                report.cr4_sites.push(address_of(section, site.offset));
            }
        }
    }
    check_totals(&report)?;
    let user_return_iretq = iretq::find(&swept)?;
    for (offset, patch) in patches {
        image[offset..offset + patch.len()].copy_from_slice(&patch);
    }
    Ok((report, user_return_iretq))
}

fn refusal(what: String) -> KernelError {
    KernelError::CannotEdit { what }
}

fn address_of(section: &Swept<'_>, offset: usize) -> u64 {
    section.address.wrapping_add(offset as u64)
}

/// Counts what a section holds and checks every raw hit against the sweep.
fn examine(section: &Swept<'_>, untouched: &mut Vec<UntouchedSite>) -> Result<SectionReport, KernelError> {
    let mut report = SectionReport {
        name: section.name.to_owned(),
        byte_count: section.bytes.len(),
        instructions: section.instruction_count(),
        undecodable_byte_count: section.undecodable_byte_count,
        branch_targets: section.target_count(),
        stray_branch_targets: section.stray_target_count(),
        ..SectionReport::default()
    };
    for site in &section.sites {
        let (counter, left_alone) = match site.kind {
            Kind::Rdtsc => (&mut report.rdtsc, None),
            Kind::Cr4Write(_) => (&mut report.cr4_writes, None),
            Kind::DeadMaskRead => (&mut report.dead_mask_reads, None),
            Kind::Rdtscp => (&mut report.rdtscp, Some("rdtscp")),
            Kind::Rdrand => (&mut report.rdrand, Some("rdrand")),
            Kind::Rdseed => (&mut report.rdseed, Some("rdseed")),
            Kind::Rdpid => (&mut report.rdpid, Some("rdpid")),
            Kind::Rdpmc => (&mut report.rdpmc, Some("rdpmc")),
            Kind::Swapgs => continue,
        };
        *counter += 1;
        if let Some(mnemonic) = left_alone.filter(|_| section.name != ALTERNATIVES) {
            untouched.push(UntouchedSite {
                mnemonic,
                address: address_of(section, site.offset),
            });
        }
    }
    for hit in section.raw_hits() {
        if is_part_of_a_site(section, hit) {
            continue;
        }
        if !section.is_look_alike(hit) {
            return Err(refusal(format!(
                "the bytes of an RDTSC or CR4 write at {:#x} ({} + {hit:#x}) are neither a decoded instruction nor \
                 clearly part of another one",
                address_of(section, hit),
                section.name
            )));
        }
        report.look_alikes += 1;
    }
    Ok(report)
}

/// Whether a decoded site's opcode stands at `hit`: at its start, or after its prefix.
fn is_part_of_a_site(section: &Swept<'_>, hit: usize) -> bool {
    let after = section.sites.partition_point(|site| site.offset <= hit);
    section.sites[..after].last().is_some_and(|site| {
        hit < site.offset + site.byte_count && matches!(site.kind, Kind::Rdtsc | Kind::Cr4Write(_))
    })
}

/// The bytes to put over `site`, if it is one to edit.
fn patch_for(section: &Swept<'_>, site: &Site) -> Result<Option<Vec<u8>>, KernelError> {
    let (edit, lengths) = match site.kind {
        Kind::Rdtsc => ([IN_EAX_IMM8, short(TRAP_RDTSC_PORT)?], 2..=2),
        Kind::Cr4Write(register) => {
            let port = TRAP_CR4_PORTS.start() + u16::from(register);
            ([OUT_IMM8_AL, short(port)?], 3..=4)
        }
        Kind::DeadMaskRead => (NOP_OF_TWO, 2..=2),
        _ => return Ok(None),
    };
    let at = address_of(section, site.offset);
    let place = format!("{at:#x} ({} + {:#x})", section.name, site.offset);
    if !lengths.contains(&site.byte_count) {
        return Err(refusal(format!(
            "the {} at {place} has {} bytes",
            describe(site.kind),
            site.byte_count
        )));
    }
    if (1..site.byte_count).any(|into| section.is_target(site.offset + into)) {
        return Err(refusal(format!(
            "a branch leads into the middle of the {} at {place}",
            describe(site.kind)
        )));
    }
    let mut patch = vec![NOP; site.byte_count];
    patch[..edit.len()].copy_from_slice(&edit);
    Ok(Some(patch))
}

/// `port` as the instruction's immediate byte.
fn short(port: u16) -> Result<u8, KernelError> {
    u8::try_from(port).map_err(|_| refusal(format!("port {port:#x} has no short form")))
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::Rdtsc => "RDTSC",
        Kind::Cr4Write(_) => "CR4 write",
        Kind::DeadMaskRead => "read of a PIC's mask",
        _ => "instruction",
    }
}

fn check_totals(report: &RewriteReport) -> Result<(), KernelError> {
    if report.rdtsc() == 0 {
        return Err(refusal(
            "it holds no RDTSC at all, which no amd64 kernel does".into(),
        ));
    }
    if report.cr4_writes() == 0 {
        return Err(refusal(
            "it holds no write to CR4 at all, which no amd64 kernel does".into(),
        ));
    }
    let targets: usize = report.sections.iter().map(|section| section.branch_targets).sum();
    let stray: usize = report
        .sections
        .iter()
        .map(|section| section.stray_branch_targets)
        .sum();
    if stray * 10_000 > targets * STRAY_PER_10_000_MAX {
        return Err(refusal(format!(
            "{stray} of {targets} direct branches lead into the middle of a decoded instruction, so data must have \
             been taken for code"
        )));
    }
    Ok(())
}
